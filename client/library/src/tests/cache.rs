//! Binary caches made for tests: genuine narinfos, signatures, NARs and compressions.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use firn_nix_format::nar::{NarNode, encode};
use firn_nix_format::{Compression, PathInfo, PublisherKey, PublisherSecretKey, Sha256, StorePath};

use crate::source::Source;

/// A cache in a directory of its own.
pub(crate) struct Cache {
    place: tempfile::TempDir,
    key: PublisherSecretKey,
    /// NARs by the base name of their path.
    pub(crate) nars: BTreeMap<String, Vec<u8>>,
}

/// A path on its way into a cache.
pub(crate) struct Entry {
    pub(crate) info: PathInfo,
    pub(crate) file: Vec<u8>,
}

/// Bytes that do not compress.
pub(crate) fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut noise);
    noise
}

pub(crate) fn compress(compression: Compression, contents: &[u8]) -> Vec<u8> {
    match compression {
        Compression::None => contents.to_vec(),
        Compression::Xz => {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
            encoder.write_all(contents).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Bzip2 => {
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            encoder.write_all(contents).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Zstd => zstd::encode_all(contents, 1).unwrap(),
    }
}

pub(crate) fn store_path(name: &str) -> StorePath {
    let digest = blake3::hash(name.as_bytes());
    StorePath::from_parts(digest.as_bytes()[..20].try_into().unwrap(), name).unwrap()
}

/// The path info of an uncompressed NAR without references, as nobody has signed it.
pub(crate) fn info_of(store_path: StorePath, nar: &[u8]) -> PathInfo {
    PathInfo {
        store_path,
        url: "nar/1.nar".to_owned(),
        compression: Compression::None,
        file_hash: None,
        file_size: None,
        nar_hash: Sha256::of(nar),
        nar_size: nar.len() as u64,
        references: Vec::new(),
        deriver: None,
        signatures: Vec::new(),
        ca: None,
        extra: Vec::new(),
    }
}

/// The NAR of a directory with one file.
pub(crate) fn nar_of(contents: &[u8]) -> Vec<u8> {
    let file = NarNode::Regular { contents: contents.to_vec(), executable: false };
    encode(&NarNode::Directory([(b"file".to_vec(), file)].into())).unwrap()
}

impl Cache {
    pub(crate) fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("nar")).unwrap();
        fs::create_dir(place.path().join("log")).unwrap();
        let key = PublisherSecretKey::from_seed("test-1", &[7; 32]).unwrap();
        Self { place, key, nars: BTreeMap::new() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.place.path()
    }

    pub(crate) fn source(&self) -> Source {
        Source::open(self.path().to_str().unwrap()).unwrap()
    }

    pub(crate) fn publisher(&self) -> PublisherKey {
        self.key.public_key()
    }

    /// A sound path, not written yet.
    pub(crate) fn entry(
        &self,
        name: &str,
        contents: &[u8],
        compression: Compression,
        references: &[&str],
    ) -> Entry {
        let nar = nar_of(contents);
        let file = compress(compression, &nar);
        let store_path = store_path(name);
        let info = PathInfo {
            url: format!("nar/{}.nar{}", store_path.hash_part(), compression.file_suffix()),
            compression,
            file_hash: Some(Sha256::of(&file)),
            file_size: Some(file.len() as u64),
            references: references.iter().map(|name| super::cache::store_path(name)).collect(),
            ..info_of(store_path, &nar)
        };
        Entry { info, file }
    }

    /// Signs and writes a path.
    pub(crate) fn add(&mut self, mut entry: Entry) {
        entry.info.signatures.push(self.key.sign(&entry.info));
        self.write(&entry);
    }

    /// Signs a path whose file is there already, and writes its narinfo.
    pub(crate) fn add_narinfo(&mut self, mut entry: Entry) {
        entry.info.signatures.push(self.key.sign(&entry.info));
        self.write_narinfo(entry.info.store_path.hash_part(), &entry.info.to_string());
    }

    /// Writes a path as it is.
    pub(crate) fn write(&self, entry: &Entry) {
        fs::write(self.path().join(&entry.info.url), &entry.file).unwrap();
        self.write_narinfo(entry.info.store_path.hash_part(), &entry.info.to_string());
    }

    pub(crate) fn write_narinfo(&self, hash_part: &str, text: &str) {
        fs::write(self.path().join(format!("{hash_part}.narinfo")), text).unwrap();
    }

    /// Signs and writes a sound path, and remembers its NAR.
    pub(crate) fn add_path(
        &mut self,
        name: &str,
        contents: &[u8],
        compression: Compression,
        references: &[&str],
    ) {
        let entry = self.entry(name, contents, compression, references);
        self.nars.insert(entry.info.store_path.base_name().to_owned(), nar_of(contents));
        self.add(entry);
    }

    pub(crate) fn file(&self, url: &str) -> PathBuf {
        self.path().join(url)
    }

    /// Six sound paths in every compression, two of them with a shared library below.
    pub(crate) fn sound() -> Self {
        let mut cache = Self::new();
        cache.add_path("libc-2.40", &noise(300_000, 1), Compression::Xz, &["libc-2.40"]);
        cache.add_path("hello-1.0", &noise(50_000, 2), Compression::Bzip2, &["libc-2.40"]);
        cache.add_path("hello-1.1", &noise(50_001, 3), Compression::Zstd, &["libc-2.40", "hello-1.1"]);
        cache.add_path("data-1", &vec![b'x'; 2_000_000], Compression::None, &[]);
        cache.add_path("doc-1", b"a few words", Compression::Xz, &["hello-1.0", "data-1"]);
        cache.add_path("empty-1", b"", Compression::None, &[]);
        cache
    }
}
