//! A path info: what a narinfo says about one store path, and the text that its publisher signed.
//!
//! Always holds: writing a parsed record keeps StorePath, NarHash, NarSize, References (in their order),
//! Deriver, every Sig and CA as they were published; only where the NAR lies may be given anew.
//! Leaves to others: whether a signature counts ([`crate::accepted_by`]), whether the NAR matches
//! ([`crate::VerifyingReader`]).

use std::collections::BTreeSet;
use std::fmt::{self, Write};

use crate::{Compression, NamedSignature, ParsePathInfoError, Sha256, StorePath, parse_path_info};

/// What a publisher says about one store path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathInfo {
    /// The path described.
    pub store_path: StorePath,
    /// Where in its cache the NAR lies: relative, and checked to stay there.
    pub url: String,
    /// How the file at `url` is compressed.
    pub compression: Compression,
    /// SHA-256 of the file at `url`, if published. Nix does not check it, and it is not signed.
    pub file_hash: Option<Sha256>,
    /// Bytes of the file at `url`, if published. Not signed.
    pub file_size: Option<u64>,
    /// SHA-256 of the NAR. Signed.
    pub nar_hash: Sha256,
    /// Bytes of the NAR. Signed.
    pub nar_size: u64,
    /// The paths that the NAR's contents mention, in the order published. Signed (sorted, as full paths).
    pub references: Vec<StorePath>,
    /// The derivation that made the path, if known. Not signed.
    pub deriver: Option<StorePath>,
    /// The signatures in the order published; false ones may be among them.
    pub signatures: Vec<NamedSignature>,
    /// The content address as published, if the path has one. Not read here.
    pub ca: Option<String>,
    /// Fields that mean nothing here, in the order published: unknown ones, `Deriver: unknown-deriver`, and
    /// `Sig` lines that hold no ed25519 signature. No name or value holds a line break.
    pub extra: Vec<(String, String)>,
}

impl PathInfo {
    /// Of a NAR that lies uncompressed at `url`, as far as it can be told from the NAR: nobody has signed it, and what
    /// it refers to is not said.
    pub fn of_nar(store_path: StorePath, url: String, nar_hash: Sha256, nar_size: u64) -> Self {
        Self {
            store_path,
            url,
            compression: Compression::None,
            file_hash: None,
            file_size: None,
            nar_hash,
            nar_size,
            references: Vec::new(),
            deriver: None,
            signatures: Vec::new(),
            ca: None,
            extra: Vec::new(),
        }
    }

    /// Reads a narinfo.
    pub fn parse(text: &[u8]) -> Result<Self, ParsePathInfoError> {
        parse_path_info::parse(text)
    }

    /// The text that publishers sign: path, NarHash, NarSize and the sorted full reference paths.
    pub fn fingerprint(&self) -> String {
        let references: BTreeSet<&StorePath> = self.references.iter().collect();
        let references: Vec<String> = references.into_iter().map(StorePath::to_string).collect();
        format!("1;{};{};{};{}", self.store_path, self.nar_hash, self.nar_size, references.join(","))
    }

    /// The narinfo of this path for a NAR that lies elsewhere: at `url`, compressed as `compression` says,
    /// and, where `file` is given, with that hash and size of the compressed file.
    ///
    /// `url` and `compression` must hold no line break.
    pub fn to_narinfo(&self, url: &str, compression: &str, file: Option<(Sha256, u64)>) -> String {
        let (hash, size) = file.unzip();
        let mut text = String::new();
        self.write(&mut text, url, compression, hash, size).expect("a String takes every write");
        text
    }

    fn write(
        &self,
        text: &mut impl Write,
        url: &str,
        compression: &str,
        file_hash: Option<Sha256>,
        file_size: Option<u64>,
    ) -> fmt::Result {
        writeln!(text, "StorePath: {}\nURL: {url}\nCompression: {compression}", self.store_path)?;
        if let Some(hash) = file_hash {
            writeln!(text, "FileHash: {hash}")?;
        }
        if let Some(size) = file_size {
            writeln!(text, "FileSize: {size}")?;
        }
        writeln!(text, "NarHash: {}\nNarSize: {}", self.nar_hash, self.nar_size)?;
        let references: Vec<&str> = self.references.iter().map(StorePath::base_name).collect();
        writeln!(text, "References: {}", references.join(" "))?;
        if let Some(deriver) = &self.deriver {
            writeln!(text, "Deriver: {}", deriver.base_name())?;
        }
        for signature in &self.signatures {
            writeln!(text, "Sig: {signature}")?;
        }
        if let Some(ca) = &self.ca {
            writeln!(text, "CA: {ca}")?;
        }
        for (name, value) in &self.extra {
            writeln!(text, "{name}: {value}")?;
        }
        Ok(())
    }
}

/// The narinfo as it was published: original URL, compression, FileHash and FileSize. It parses back to an
/// equal record.
impl fmt::Display for PathInfo {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(formatter, &self.url, self.compression.name(), self.file_hash, self.file_size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: &str = "\
StorePath: /nix/store/4d20g8srpvv02vkiwrmz28g62m15n56b-tree
URL: nar/0a65g9v2vzcn1k0qnvlgkzadgqqq2zlyn89i4h3sdccwqj630li3.nar.xz
Compression: xz
FileHash: sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73
FileSize: 700
NarHash: sha256:0a65g9v2vzcn1k0qnvlgkzadgqqq2zlyn89i4h3sdccwqj630li3
NarSize: 1424
References: 9v5d40jyvmwgnq1nj8f19ji2rcc5dksd-glibc-2.37 4d20g8srpvv02vkiwrmz28g62m15n56b-tree
Deriver: ar3xg083a9gqx3jh5y9d6drvrfz56xw0-tree.drv
CA: fixed:r:sha256:0a65g9v2vzcn1k0qnvlgkzadgqqq2zlyn89i4h3sdccwqj630li3
System: x86_64-linux
";

    #[test]
    fn a_record_prints_as_it_was_published() {
        let info = PathInfo::parse(RECORD.as_bytes()).unwrap();
        assert_eq!(info.to_string(), RECORD);
        assert_eq!(info.extra, [("System".to_owned(), "x86_64-linux".to_owned())]);
    }

    #[test]
    fn a_narinfo_for_another_place_differs_only_in_where_the_nar_lies() {
        let info = PathInfo::parse(RECORD.as_bytes()).unwrap();
        let ours = info.to_narinfo("nar/a.nar", "none", None);
        let expected: String = RECORD
            .lines()
            .filter(|line| !line.starts_with("File"))
            .map(|line| match line.split_once(':').unwrap().0 {
                "URL" => "URL: nar/a.nar\n".to_owned(),
                "Compression" => "Compression: none\n".to_owned(),
                _ => format!("{line}\n"),
            })
            .collect();
        assert_eq!(ours, expected);

        let with_file = info.to_narinfo("nar/a.nar.zst", "zstd", Some((Sha256::of(b""), 7)));
        let again = PathInfo::parse(with_file.as_bytes()).unwrap();
        assert_eq!((again.file_hash, again.file_size), (Some(Sha256::of(b"")), Some(7)));
        assert_eq!(again.fingerprint(), info.fingerprint());
    }

    #[test]
    fn the_fingerprint_lists_sorted_full_references_once() {
        let mut info = PathInfo::parse(RECORD.as_bytes()).unwrap();
        info.references.push(info.store_path.clone());
        assert_eq!(
            info.fingerprint(),
            "1;/nix/store/4d20g8srpvv02vkiwrmz28g62m15n56b-tree;\
             sha256:0a65g9v2vzcn1k0qnvlgkzadgqqq2zlyn89i4h3sdccwqj630li3;1424;\
             /nix/store/4d20g8srpvv02vkiwrmz28g62m15n56b-tree,\
             /nix/store/9v5d40jyvmwgnq1nj8f19ji2rcc5dksd-glibc-2.37"
        );
        info.references.clear();
        assert!(info.fingerprint().ends_with(";1424;"));
    }
}
