//! Reading a narinfo: strict, bounded, and with a sentence for everything that is wrong with it.

use crate::{
    CacheUrlError, Compression, NamedSignature, ParseSha256Error, ParseStorePathError, PathInfo, Sha256,
    StorePath, UnknownCompression, check_cache_url, preview,
};

/// Most bytes of a narinfo. The largest known one has 484 kB; this also bounds references to about 30,000.
pub const PATH_INFO_BYTES_MAX: usize = 1024 * 1024;

/// Most `Sig` lines. Each costs an ed25519 check (27 µs); real records carry one to three.
const SIGNATURES_MAX: usize = 128;

/// Most fields that mean nothing here.
const EXTRA_FIELDS_MAX: usize = 128;

/// Why a text is no usable narinfo.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParsePathInfoError {
    /// It is longer than [`PATH_INFO_BYTES_MAX`].
    #[error("the narinfo is {bytes} bytes long; at most 1048576 are accepted")]
    TooLong {
        /// Bytes given.
        bytes: usize,
    },
    /// It is not UTF-8, or holds control characters.
    #[error("the narinfo is not plain text")]
    NotText,
    /// A line is not `Name: value`.
    #[error("line {line} of the narinfo is not `Name: value`")]
    NotAField {
        /// Number of the line, from 1.
        line: usize,
    },
    /// A required field is missing or empty.
    #[error("the narinfo has no {field}")]
    MissingField {
        /// The field.
        field: &'static str,
    },
    /// A field that may occur once occurs again.
    #[error("the narinfo has more than one {field}")]
    RepeatedField {
        /// The field.
        field: &'static str,
    },
    /// A store path is malformed.
    #[error("{field} is wrong: {source}")]
    StorePath {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        source: ParseStorePathError,
    },
    /// A hash is malformed.
    #[error("{field} is wrong: {source}")]
    Hash {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        source: ParseSha256Error,
    },
    /// A size is no number of bytes.
    #[error("{field} is wrong: `{value}` is not a number of bytes")]
    Size {
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
    },
    /// NarSize is zero.
    #[error("NarSize is wrong: a NAR is never empty")]
    EmptyNar,
    /// The compression is not read here.
    #[error(transparent)]
    Compression(#[from] UnknownCompression),
    /// The URL leads out of the cache.
    #[error(transparent)]
    Url(#[from] CacheUrlError),
    /// There are too many lines of one kind.
    #[error("the narinfo has more than {limit} {what}")]
    TooMany {
        /// Which lines.
        what: &'static str,
        /// How many are accepted.
        limit: usize,
    },
}

/// The lines of a narinfo by name, not read further yet. An empty value is an absent one.
#[derive(Default)]
struct Fields<'a> {
    store_path: Option<&'a str>,
    url: Option<&'a str>,
    compression: Option<&'a str>,
    file_hash: Option<&'a str>,
    file_size: Option<&'a str>,
    nar_hash: Option<&'a str>,
    nar_size: Option<&'a str>,
    references: Option<&'a str>,
    deriver: Option<&'a str>,
    ca: Option<&'a str>,
    signatures: Vec<NamedSignature>,
    extra: Vec<(String, String)>,
}

/// Reads a narinfo: see [`PathInfo::parse`].
pub(crate) fn parse(text: &[u8]) -> Result<PathInfo, ParsePathInfoError> {
    if text.len() > PATH_INFO_BYTES_MAX {
        return Err(ParsePathInfoError::TooLong { bytes: text.len() });
    }
    let text = std::str::from_utf8(text).map_err(|_| ParsePathInfoError::NotText)?;
    if text.chars().any(|character| character.is_control() && character != '\n') {
        return Err(ParsePathInfoError::NotText);
    }
    let mut fields = Fields::default();
    for (index, line) in text.split('\n').enumerate().filter(|(_, line)| !line.is_empty()) {
        fields.add(index + 1, line)?;
    }
    fields.read()
}

impl<'a> Fields<'a> {
    fn add(&mut self, line: usize, text: &'a str) -> Result<(), ParsePathInfoError> {
        let (name, value) = text
            .split_once(':')
            .filter(|(name, _)| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic()))
            .ok_or(ParsePathInfoError::NotAField { line })?;
        let value = value.trim_matches(' ');
        let (slot, field) = match name {
            "StorePath" => (&mut self.store_path, "StorePath"),
            "URL" => (&mut self.url, "URL"),
            "Compression" => (&mut self.compression, "Compression"),
            "FileHash" => (&mut self.file_hash, "FileHash"),
            "FileSize" => (&mut self.file_size, "FileSize"),
            "NarHash" => (&mut self.nar_hash, "NarHash"),
            "NarSize" => (&mut self.nar_size, "NarSize"),
            "References" => (&mut self.references, "References"),
            "Deriver" => (&mut self.deriver, "Deriver"),
            "CA" => (&mut self.ca, "CA"),
            "Sig" => return self.add_signature(value),
            _ => return self.add_extra(name, value),
        };
        match slot.replace(value) {
            Some(_) => Err(ParsePathInfoError::RepeatedField { field }),
            None => Ok(()),
        }
    }

    /// A `Sig` that is no ed25519 signature stays in the record as published and never counts.
    fn add_signature(&mut self, value: &str) -> Result<(), ParsePathInfoError> {
        let Ok(signature) = value.parse() else {
            return self.add_extra("Sig", value);
        };
        if self.signatures.len() == SIGNATURES_MAX {
            return Err(ParsePathInfoError::TooMany { what: "signatures", limit: SIGNATURES_MAX });
        }
        self.signatures.push(signature);
        Ok(())
    }

    fn add_extra(&mut self, name: &str, value: &str) -> Result<(), ParsePathInfoError> {
        if self.extra.len() == EXTRA_FIELDS_MAX {
            return Err(ParsePathInfoError::TooMany { what: "unknown fields", limit: EXTRA_FIELDS_MAX });
        }
        self.extra.push((name.to_owned(), value.to_owned()));
        Ok(())
    }

    fn read(mut self) -> Result<PathInfo, ParsePathInfoError> {
        let store_path = StorePath::parse(required(self.store_path, "StorePath")?)
            .map_err(|source| ParsePathInfoError::StorePath { field: "StorePath", source })?;
        let url = required(self.url, "URL")?;
        check_cache_url(url)?;
        let nar_size = read_size(required(self.nar_size, "NarSize")?, "NarSize")?;
        if nar_size == 0 {
            return Err(ParsePathInfoError::EmptyNar);
        }
        let file_size = present(self.file_size).map(|text| read_size(text, "FileSize")).transpose()?;
        if self.deriver == Some("unknown-deriver") {
            self.deriver = None;
            self.add_extra("Deriver", "unknown-deriver")?;
        }
        let references = self.references.unwrap_or_default().split(' ').filter(|name| !name.is_empty());
        Ok(PathInfo {
            store_path,
            url: url.to_owned(),
            compression: Compression::from_narinfo(self.compression)?,
            file_hash: present(self.file_hash).map(|text| read_hash(text, "FileHash")).transpose()?,
            // Nix takes 0 for "not stated" and leaves the line out when it writes.
            file_size: file_size.filter(|size| *size > 0),
            nar_hash: read_hash(required(self.nar_hash, "NarHash")?, "NarHash")?,
            nar_size,
            references: references
                .map(|name| read_base_name(name, "References"))
                .collect::<Result<_, _>>()?,
            deriver: present(self.deriver).map(|name| read_base_name(name, "Deriver")).transpose()?,
            signatures: self.signatures,
            ca: present(self.ca).map(str::to_owned),
            extra: self.extra,
        })
    }
}

fn present(value: Option<&str>) -> Option<&str> {
    value.filter(|value| !value.is_empty())
}

fn required<'a>(value: Option<&'a str>, field: &'static str) -> Result<&'a str, ParsePathInfoError> {
    present(value).ok_or(ParsePathInfoError::MissingField { field })
}

fn read_base_name(text: &str, field: &'static str) -> Result<StorePath, ParsePathInfoError> {
    StorePath::from_base_name(text).map_err(|source| ParsePathInfoError::StorePath { field, source })
}

fn read_hash(text: &str, field: &'static str) -> Result<Sha256, ParsePathInfoError> {
    text.parse().map_err(|source| ParsePathInfoError::Hash { field, source })
}

fn read_size(text: &str, field: &'static str) -> Result<u64, ParsePathInfoError> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let refuse = || ParsePathInfoError::Size { field, value: preview(text) };
    digits.then(|| text.parse().ok()).flatten().ok_or_else(refuse)
}
