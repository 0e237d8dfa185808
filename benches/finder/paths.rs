//! Made-up packages, and a signed binary cache of each generation of them.
//!
//! Always holds: what a package holds in a generation is computed from their numbers alone.

use std::fs;
use std::path::Path;

use firn_benches::process::Failure;
use firn_nix_format::nar::{NarNode, encode};
use firn_nix_format::{Compression, PathInfo, PublisherKey, PublisherSecretKey, Sha256, StorePath};

const LARGE_TIMES: usize = 100;

/// Packages of which some change from generation to generation.
pub(crate) struct Packages {
    key: PublisherSecretKey,
    count: u64,
    changed_of: u64,
    large_of: u64,
    file_bytes: usize,
}

impl Packages {
    pub(crate) fn new(
        count: u64,
        changed_of: u64,
        large_of: u64,
        file_bytes: usize,
    ) -> Result<Self, Failure> {
        let key = PublisherSecretKey::from_seed("finder-1", &[7; 32])?;
        Ok(Self { key, count, changed_of, large_of, file_bytes })
    }

    pub(crate) fn publisher(&self) -> PublisherKey {
        self.key.public_key()
    }

    /// Bytes of the files that are in this generation what they were in the one before.
    pub(crate) fn unchanged_bytes(&self, generation: u64) -> u64 {
        let unchanged = |package: &u64| generation > 0 && !self.changes(*package, generation);
        (0..self.count).filter(unchanged).map(|package| self.bytes(package) as u64).sum()
    }

    /// Writes the cache of a generation.
    pub(crate) fn write(&self, dir: &Path, generation: u64) -> Result<(), Failure> {
        fs::create_dir_all(dir.join("nar"))?;
        fs::write(dir.join("nix-cache-info"), "StoreDir: /nix/store\n")?;
        for package in 0..self.count {
            self.write_path(dir, package, generation)?;
        }
        Ok(())
    }

    fn write_path(&self, dir: &Path, package: u64, generation: u64) -> Result<(), Failure> {
        let name = format!("package{package}-1.{generation}");
        let mut hash = [0; 20];
        hash.copy_from_slice(&blake3::hash(name.as_bytes()).as_bytes()[..20]);
        let store_path = StorePath::from_parts(hash, &name)?;
        let mut contents = store_path.hash_part().as_bytes().to_vec();
        contents.resize(self.bytes(package), 0);
        let since = (0..=generation).rev().find(|at| *at == 0 || self.changes(package, *at)).unwrap_or(0);
        let seed = [package.to_le_bytes(), since.to_le_bytes()].concat();
        let written = store_path.hash_part().len();
        blake3::Hasher::new().update(&seed).finalize_xof().fill(&mut contents[written..]);
        let nar = encode(&NarNode::Regular { contents, executable: false })?;
        let hash_part = store_path.hash_part().to_owned();
        let mut info = PathInfo {
            url: format!("nar/{hash_part}.nar"),
            store_path,
            compression: Compression::None,
            file_hash: None,
            file_size: Some(nar.len() as u64),
            nar_hash: Sha256::of(&nar),
            nar_size: nar.len() as u64,
            references: Vec::new(),
            deriver: None,
            signatures: Vec::new(),
            ca: None,
            extra: Vec::new(),
        };
        info.signatures.push(self.key.sign(&info));
        fs::write(dir.join(&info.url), nar)?;
        fs::write(dir.join(format!("{hash_part}.narinfo")), info.to_string())?;
        Ok(())
    }

    const fn changes(&self, package: u64, generation: u64) -> bool {
        (package + generation).is_multiple_of(self.changed_of)
    }

    const fn bytes(&self, package: u64) -> usize {
        if package.is_multiple_of(self.large_of) { self.file_bytes * LARGE_TIMES } else { self.file_bytes }
    }
}
