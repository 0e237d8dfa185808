//! Binary caches made for tests: genuine narinfos, signatures and NARs, and spoilt ones.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use firn_nix_format::nar::{NarNode, encode};
use firn_nix_format::{Compression, PathInfo, PublisherSecretKey, Sha256, StorePath};

/// A cache in a directory.
pub struct Cache {
    path: PathBuf,
    key: PublisherSecretKey,
}

/// A path on its way into a cache: what its narinfo will say, and the file that will lie there.
pub struct Entry {
    pub info: PathInfo,
    pub file: Option<Vec<u8>>,
}

/// Bytes that do not compress.
pub fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut noise);
    noise
}

pub fn xz(contents: &[u8]) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
    encoder.write_all(contents).unwrap();
    encoder.finish().unwrap()
}

/// The NAR of a directory with one file.
pub fn nar_of(contents: &[u8]) -> Vec<u8> {
    let file = NarNode::Regular { contents: contents.to_vec(), executable: false };
    encode(&NarNode::Directory([(b"file".to_vec(), file)].into())).unwrap()
}

pub fn store_path(name: &str) -> StorePath {
    let digest = blake3::hash(name.as_bytes());
    StorePath::from_parts(digest.as_bytes()[..20].try_into().unwrap(), name).unwrap()
}

/// The path info of an uncompressed NAR without references, not signed yet.
pub fn info_of(store_path: StorePath, nar_hash: Sha256, nar_size: u64) -> PathInfo {
    PathInfo {
        url: format!("nar/{}.nar", store_path.hash_part()),
        store_path,
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

impl Cache {
    /// An empty cache in `path`, which is made.
    pub fn new(path: PathBuf) -> Self {
        fs::create_dir_all(path.join("nar")).unwrap();
        fs::write(path.join("nix-cache-info"), "StoreDir: /nix/store\n").unwrap();
        Self { path, key: PublisherSecretKey::from_seed("test-1", &[7; 32]).unwrap() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn publisher(&self) -> String {
        self.key.public_key().to_string()
    }

    /// A sound path, compressed with xz, not written yet.
    pub fn entry(&self, name: &str, contents: &[u8]) -> Entry {
        let nar = nar_of(contents);
        let store_path = store_path(name);
        let info = PathInfo {
            url: format!("nar/{}.nar.xz", store_path.hash_part()),
            compression: Compression::Xz,
            ..info_of(store_path, Sha256::of(&nar), u64::try_from(nar.len()).unwrap())
        };
        Entry { info, file: Some(xz(&nar)) }
    }

    /// Signs a path and writes it.
    pub fn add(&self, mut entry: Entry) {
        entry.info.signatures.push(self.key.sign(&entry.info));
        self.write(&entry, |narinfo| narinfo);
    }

    /// Writes a path as it is, but for what `change` makes of its narinfo.
    pub fn write(&self, entry: &Entry, change: impl FnOnce(String) -> String) {
        if let Some(file) = &entry.file {
            fs::write(self.path.join(&entry.info.url), file).unwrap();
        }
        let name = format!("{}.narinfo", entry.info.store_path.hash_part());
        fs::write(self.path.join(name), change(entry.info.to_string())).unwrap();
    }

    /// Signs a path, and writes it with a narinfo that `change` has altered where nothing is signed.
    pub fn add_changed(&self, mut entry: Entry, change: impl FnOnce(String) -> String) {
        entry.info.signatures.push(self.key.sign(&entry.info));
        self.write(&entry, change);
    }
}

/// A NAR, well signed and hashed, of a directory whose only entry is called `..`.
pub fn hostile_nar() -> Vec<u8> {
    let words = "nix-archive-1 ( type directory entry ( name .. node ( type regular contents evil ) ) )";
    let mut nar = Vec::new();
    for word in words.split(' ') {
        nar.extend_from_slice(&u64::try_from(word.len()).unwrap().to_le_bytes());
        nar.extend_from_slice(word.as_bytes());
        nar.resize(nar.len().next_multiple_of(8), 0);
    }
    nar
}
