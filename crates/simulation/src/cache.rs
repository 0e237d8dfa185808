//! A small genuine binary cache in a directory: what the simulated publisher publishes.

use std::fs;
use std::io;
use std::path::Path;

use firn_base::ObjectKey;
use firn_nix_format::nar::{NarNode, encode};
use firn_nix_format::{Compression, PathInfo, PublisherSecretKey, Sha256, StorePath};
use tempfile::TempDir;

use crate::chance::Chance;

/// Store paths in each wave of publishing.
pub(crate) const PATHS_PER_WAVE: usize = 5;

/// What builds of one package have alike: however it is cut into chunks, more lies in whole ones than a bundle has to
/// have in common with another to use chunks of it.
const ALIKE_BYTES: usize = 700_000;

/// One store path of the cache.
#[derive(Debug, Clone)]
pub(crate) struct CachedPath {
    /// Its name without the store's directory.
    pub(crate) name: String,
    /// Its hash part, by which it is chosen.
    pub(crate) hash_part: String,
    /// Its key in the archive.
    pub(crate) key: ObjectKey,
    /// The SHA-256 of its NAR.
    pub(crate) nar_hash: Sha256,
    /// Bytes of its NAR.
    pub(crate) nar_bytes: usize,
}

/// The cache. Its directory goes with it.
#[derive(Debug)]
pub(crate) struct Cache {
    place: TempDir,
    /// The paths, wave by wave; a path refers to some before it.
    pub(crate) waves: Vec<Vec<CachedPath>>,
}

impl Cache {
    /// Writes a cache of `waves` times [`PATHS_PER_WAVE`] paths.
    pub(crate) fn write(
        key: &PublisherSecretKey,
        chance: &mut Chance,
        waves: usize,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let place = tempfile::tempdir()?;
        fs::create_dir(place.path().join("nar"))?;
        let mut known: Vec<StorePath> = Vec::new();
        let mut all = Vec::new();
        for wave in 0..waves {
            let mut paths = Vec::new();
            for number in 0..PATHS_PER_WAVE {
                let hash = *chance.bytes(20).first_chunk().ok_or("twenty bytes are twenty")?;
                let store_path = StorePath::from_parts(hash, &format!("package-{wave}-{number}"))?;
                let references = references(&known, &store_path, chance);
                let contents = half_noise(chance)?;
                paths.push(write_path(place.path(), key, store_path.clone(), references, contents)?);
                known.push(store_path);
            }
            all.push(paths);
        }
        Ok(Self { place, waves: all })
    }

    /// Adds builds of two packages: of the first to the first two waves, of the second to the second and the third. What a
    /// wave is packed into uses chunks of what the one before it was packed into, and of nothing older.
    pub(crate) fn add_builds(
        &mut self,
        key: &PublisherSecretKey,
        chance: &mut Chance,
    ) -> Result<(), Box<dyn std::error::Error>> {
        for (package, first) in [("early", 0), ("late", 1)] {
            let alike = chance.bytes(ALIKE_BYTES);
            for wave in first..first + 2 {
                let hash = *chance.bytes(20).first_chunk().ok_or("twenty bytes are twenty")?;
                let store_path = StorePath::from_parts(hash, &format!("{package}-1.{wave}"))?;
                let contents = [alike.as_slice(), &chance.bytes(1000)].concat();
                let path = write_path(self.place.path(), key, store_path, Vec::new(), contents)?;
                self.waves[wave].push(path);
            }
        }
        Ok(())
    }

    /// Some bytes of a path that no other path has, from the middle of its noise.
    pub(crate) fn noise_of(&self, path: &CachedPath, bytes: usize) -> Result<Vec<u8>, String> {
        let nar = fs::read(self.path().join(format!("nar/{}.nar", path.hash_part)));
        let nar = nar.map_err(|error| format!("the cache cannot be read: {error}"))?;
        // Its first half is noise.
        let middle = nar.len() / 4;
        nar.get(middle..middle + bytes).map(<[u8]>::to_vec).ok_or_else(|| "a path is too small".to_owned())
    }

    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        self.place.path()
    }
}

fn references(known: &[StorePath], own: &StorePath, chance: &mut Chance) -> Vec<StorePath> {
    let mut references: Vec<_> = known.iter().filter(|_| chance.per_mille(300)).cloned().collect();
    references.push(own.clone());
    references
}

/// Half noise, half text that compresses.
fn half_noise(chance: &mut Chance) -> Result<Vec<u8>, std::num::TryFromIntError> {
    let bytes = usize::try_from(1000 + chance.below(60_000))?;
    let mut contents = chance.bytes(bytes / 2);
    contents.resize(bytes, b'x');
    Ok(contents)
}

fn write_path(
    place: &Path,
    key: &PublisherSecretKey,
    store_path: StorePath,
    references: Vec<StorePath>,
    contents: Vec<u8>,
) -> Result<CachedPath, Box<dyn std::error::Error>> {
    let file = NarNode::Regular { contents, executable: false };
    let nar = encode(&NarNode::Directory([(b"file".to_vec(), file)].into())).map_err(io::Error::other)?;
    let mut info = PathInfo {
        url: format!("nar/{}.nar", store_path.hash_part()),
        store_path,
        compression: Compression::None,
        file_hash: Some(Sha256::of(&nar)),
        file_size: Some(nar.len() as u64),
        nar_hash: Sha256::of(&nar),
        nar_size: nar.len() as u64,
        references,
        deriver: None,
        signatures: Vec::new(),
        ca: None,
        extra: Vec::new(),
    };
    info.signatures.push(key.sign(&info));
    fs::write(place.join(&info.url), &nar)?;
    fs::write(place.join(format!("{}.narinfo", info.store_path.hash_part())), info.to_string())?;
    Ok(CachedPath {
        name: info.store_path.base_name().to_owned(),
        hash_part: info.store_path.hash_part().to_owned(),
        key: ObjectKey::store_path(*info.store_path.hash()),
        nar_hash: info.nar_hash,
        nar_bytes: nar.len(),
    })
}
