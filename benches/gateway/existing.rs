//! A binary cache that Nix made: what real paths are made of, many files each.

use std::fs;
use std::path::{Path, PathBuf};

use firn_benches::process::Failure;
use firn_nix_format::{PathInfo, StorePath};

/// A cache in a directory.
pub(crate) struct ExistingCache {
    /// The directory.
    pub(crate) directory: PathBuf,
    /// The key that all of it is signed with.
    pub(crate) publisher: String,
    /// All paths of it.
    pub(crate) paths: Vec<StorePath>,
    /// Bytes of all NARs.
    pub(crate) nar_bytes: u64,
}

impl ExistingCache {
    /// Reads what narinfos the directory has. The key lies in the file `key`.
    pub(crate) fn read(directory: &Path, key: &Path) -> Result<Self, Failure> {
        let publisher = fs::read_to_string(key)?.trim().to_owned();
        let mut cache = Self { directory: directory.to_owned(), publisher, paths: Vec::new(), nar_bytes: 0 };
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "narinfo") {
                let info = PathInfo::parse(&fs::read(&path)?)?;
                cache.nar_bytes += info.nar_size;
                cache.paths.push(info.store_path);
            }
        }
        Ok(cache)
    }
}
