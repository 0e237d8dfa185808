//! A corpus: a binary cache, and which generation each of its paths came with.
//!
//! Always holds: what a corpus says of its paths is what its narinfos say; a corpus is never changed, and one that is
//! derived from it lies beside its cache. Leaves to others: making one (`make-corpora.sh`, `package_set`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use firn_base::ObjectKey;
use firn_benches::process::Failure;
use firn_client::Source;
use firn_nix_format::{PathInfo, PublisherKey, PublisherSecretKey, StorePath, decoder};

const ZSTD_LEVEL: i32 = 19;

// Beside the cache of a corpus: the same files under other store paths.
const RENAMED: &str = "renamed";

#[derive(Debug)]
pub(crate) struct Corpus {
    // Of the corpus, and of its binary cache.
    dir: PathBuf,
    cache: PathBuf,
    pub(crate) publisher: PublisherKey,
    pub(crate) paths: BTreeMap<ObjectKey, CorpusPath>,
    pub(crate) generations: BTreeSet<u32>,
}

#[derive(Debug)]
pub(crate) struct CorpusPath {
    pub(crate) generation: u32,
    pub(crate) info: PathInfo,
}

impl Corpus {
    /// Reads the narinfos of the corpus in `dir`.
    pub(crate) fn open(dir: &Path) -> Result<Self, Failure> {
        let cache = dir.join("cache");
        let publisher = fs::read_to_string(dir.join("key.pub"))?.trim().parse()?;
        let mut paths = BTreeMap::new();
        for line in fs::read_to_string(dir.join("paths.txt"))?.lines() {
            let (generation, path) = line.split_once(' ').ok_or("a line of paths.txt has no generation")?;
            let name = path.strip_prefix("/nix/store/").ok_or("a line of paths.txt names no store path")?;
            let path = StorePath::from_base_name(name)?;
            let info = PathInfo::parse(&fs::read(narinfo(&cache, &path))?)?;
            let generation = generation.parse()?;
            paths.insert(key_of(&path), CorpusPath { generation, info });
        }
        Ok(Self::of(dir.to_owned(), cache, publisher, paths))
    }

    fn of(
        dir: PathBuf,
        cache: PathBuf,
        publisher: PublisherKey,
        paths: BTreeMap<ObjectKey, CorpusPath>,
    ) -> Self {
        let generations = paths.values().map(|path| path.generation).collect();
        Self { dir, cache, publisher, paths, generations }
    }

    /// The same files under store paths of other hash parts, which therefore stand in none of them: a publish finds nothing
    /// to patch. Names, references and their order are the same.
    pub(crate) fn renamed(&self) -> Result<Self, Failure> {
        let cache = self.dir.join(RENAMED);
        if cache.exists() {
            fs::remove_dir_all(&cache)?;
        }
        fs::create_dir_all(&cache)?;
        fs::copy(self.cache.join("nix-cache-info"), cache.join("nix-cache-info"))?;
        let key = PublisherSecretKey::from_seed("storage-renamed-1", &[7; 32])?;
        let mut paths = BTreeMap::new();
        for CorpusPath { generation, info } in self.paths.values() {
            let store_path = self.rename(&info.store_path)?;
            let references: Result<_, Failure> =
                info.references.iter().map(|path| self.rename(path)).collect();
            let (references, signatures) = (references?, Vec::new());
            let mut info = PathInfo { store_path, references, signatures, ..info.clone() };
            info.signatures.push(key.sign(&info));
            let (from, to) = (self.file(&info), cache.join(&info.url));
            // Two paths may have one file.
            if !to.exists() {
                fs::create_dir_all(to.parent().ok_or("a file of the cache has no folder")?)?;
                fs::hard_link(from, to)?;
            }
            fs::write(narinfo(&cache, &info.store_path), info.to_string())?;
            paths.insert(key_of(&info.store_path), CorpusPath { generation: *generation, info });
        }
        Ok(Self::of(self.dir.clone(), cache, key.public_key(), paths))
    }

    /// A path's other name: the lowest bit of its hash is turned over, so that names sort as before.
    fn rename(&self, path: &StorePath) -> Result<StorePath, Failure> {
        let mut hash = *path.hash();
        hash[19] ^= 1;
        if self.paths.contains_key(&ObjectKey::store_path(hash)) {
            return Err(format!("the other name of {path} is that of another path").into());
        }
        Ok(StorePath::from_parts(hash, path.name())?)
    }

    /// The cache as a source to publish from.
    pub(crate) fn source(&self) -> Result<Source, Failure> {
        Ok(Source::open(self.cache.to_str().ok_or("a directory's name is no text")?)?)
    }

    /// The published file of a path.
    pub(crate) fn file(&self, info: &PathInfo) -> PathBuf {
        self.cache.join(&info.url)
    }

    /// The NAR of a path.
    pub(crate) fn nar(&self, info: &PathInfo) -> Result<Vec<u8>, Failure> {
        let file = BufReader::new(File::open(self.file(info))?);
        let mut nar = Vec::with_capacity(usize::try_from(info.nar_size)?);
        decoder(info.compression, file)?.read_to_end(&mut nar)?;
        Ok(nar)
    }

    pub(crate) fn nar_bytes(&self) -> u64 {
        self.paths.values().map(|path| path.info.nar_size).sum()
    }

    /// Bytes of the NARs of these paths.
    pub(crate) fn nar_bytes_of(&self, paths: &[ObjectKey]) -> u64 {
        paths.iter().filter_map(|key| self.paths.get(key)).map(|path| path.info.nar_size).sum()
    }

    /// Bytes of the published files.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.paths.values().filter_map(|path| path.info.file_size).sum()
    }

    /// How published files are called, by the first of them: `.nar.xz`.
    pub(crate) fn file_kind(&self) -> String {
        let first = self.paths.values().next();
        format!(".nar{}", first.map_or("", |path| path.info.compression.file_suffix()))
    }

    /// Bytes of the files of the last generation.
    pub(crate) fn last_file_bytes(&self) -> u64 {
        let last = self.generations.last().copied();
        let paths = self.paths.values().filter(|path| Some(path.generation) == last);
        paths.filter_map(|path| path.info.file_size).sum()
    }

    /// Base names of the paths of a generation.
    pub(crate) fn names(&self, generation: u32) -> Vec<String> {
        let paths = self.paths.values().filter(|path| path.generation == generation);
        paths.map(|path| path.info.store_path.base_name().to_owned()).collect()
    }

    /// Names of all paths, generation by generation.
    pub(crate) fn in_order(&self) -> Vec<String> {
        self.generations.iter().flat_map(|generation| self.names(*generation)).collect()
    }

    /// The path and everything that it leads to, the nearest first.
    pub(crate) fn closure(&self, root: ObjectKey) -> Vec<ObjectKey> {
        let mut seen = BTreeSet::from([root]);
        let (mut closure, mut looked_at) = (vec![root], 0);
        while let Some(key) = closure.get(looked_at) {
            looked_at += 1;
            let references = self.paths.get(key).into_iter().flat_map(|path| &path.info.references);
            let new = references.map(key_of).filter(|key| self.paths.contains_key(key) && seen.insert(*key));
            let new: Vec<ObjectKey> = new.collect();
            closure.extend(new);
        }
        closure
    }

    /// The largest closure of a path of this generation.
    pub(crate) fn largest_closure(&self, generation: u32) -> Vec<ObjectKey> {
        let roots = self.paths.iter().filter(|(_, path)| path.generation == generation);
        roots.map(|(key, _)| self.closure(*key)).max_by_key(Vec::len).unwrap_or_default()
    }

    /// Bytes of all NARs as `.nar.zst`; remembered beside the corpus, for it takes minutes.
    pub(crate) fn zstd_bytes(&self) -> Result<u64, Failure> {
        let remembered = self.dir.join(format!("zstd-{ZSTD_LEVEL}"));
        if let Ok(text) = fs::read_to_string(&remembered) {
            return Ok(text.trim().parse()?);
        }
        let mut total = 0;
        for path in self.paths.values() {
            total += zstd::bulk::compress(&self.nar(&path.info)?, ZSTD_LEVEL)?.len() as u64;
        }
        fs::write(remembered, total.to_string())?;
        Ok(total)
    }
}

fn narinfo(cache: &Path, path: &StorePath) -> PathBuf {
    cache.join(format!("{}.narinfo", path.hash_part()))
}

fn key_of(path: &StorePath) -> ObjectKey {
    ObjectKey::store_path(*path.hash())
}
