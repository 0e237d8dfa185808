//! A corpus: a binary cache of `.nar.xz` files, and which generation each path came with.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use firn_base::ObjectKey;
use firn_benches::process::Failure;
use firn_client::Source;
use firn_nix_format::{PathInfo, PublisherKey, StorePath, decoder};

/// Every corpus, as `make-corpora.sh` calls them.
pub(crate) const CORPORA: [&str; 4] = ["generations", "pairs", "different", "large"];

const ZSTD_LEVEL: i32 = 19;

#[derive(Debug)]
pub(crate) struct Corpus {
    dir: PathBuf,
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
        let publisher = fs::read_to_string(dir.join("key.pub"))?.trim().parse()?;
        let mut paths = BTreeMap::new();
        for line in fs::read_to_string(dir.join("paths.txt"))?.lines() {
            let (generation, path) = line.split_once(' ').ok_or("a line of paths.txt has no generation")?;
            let name = path.strip_prefix("/nix/store/").ok_or("a line of paths.txt names no store path")?;
            let path = StorePath::from_base_name(name)?;
            let narinfo = dir.join("cache").join(format!("{}.narinfo", &name[..32]));
            let info = PathInfo::parse(&fs::read(narinfo)?)?;
            let generation = generation.parse()?;
            paths.insert(ObjectKey::store_path(*path.hash()), CorpusPath { generation, info });
        }
        let generations = paths.values().map(|path| path.generation).collect();
        Ok(Self { dir: dir.to_owned(), publisher, paths, generations })
    }

    /// The cache as a source to publish from.
    pub(crate) fn source(&self) -> Result<Source, Failure> {
        let cache = self.dir.join("cache");
        Ok(Source::open(cache.to_str().ok_or("a directory's name is no text")?)?)
    }

    /// The published file of a path.
    pub(crate) fn file(&self, info: &PathInfo) -> PathBuf {
        self.dir.join("cache").join(&info.url)
    }

    pub(crate) fn nar_bytes(&self) -> u64 {
        self.paths.values().map(|path| path.info.nar_size).sum()
    }

    pub(crate) fn xz_bytes(&self) -> u64 {
        self.paths.values().filter_map(|path| path.info.file_size).sum()
    }

    /// Bytes of the files of the last generation.
    pub(crate) fn last_xz(&self) -> u64 {
        let last = self.generations.last().copied();
        let paths = self.paths.values().filter(|path| Some(path.generation) == last);
        paths.filter_map(|path| path.info.file_size).sum()
    }

    /// Hash parts of the paths of a generation.
    pub(crate) fn hash_parts(&self, generation: u32) -> Vec<String> {
        let paths = self.paths.values().filter(|path| path.generation == generation);
        paths.map(|path| path.info.store_path.base_name().to_owned()).collect()
    }

    /// Base names of all paths, generation by generation.
    pub(crate) fn in_order(&self) -> Vec<String> {
        self.generations.iter().flat_map(|generation| self.hash_parts(*generation)).collect()
    }

    /// Bytes of all NARs as `.nar.zst`; remembered beside the corpus, for it takes minutes.
    pub(crate) fn zstd_bytes(&self) -> Result<u64, Failure> {
        let remembered = self.dir.join(format!("zstd-{ZSTD_LEVEL}"));
        if let Ok(text) = fs::read_to_string(&remembered) {
            return Ok(text.trim().parse()?);
        }
        let mut total = 0;
        for path in self.paths.values() {
            let file = BufReader::new(File::open(self.file(&path.info))?);
            let mut nar = Vec::new();
            decoder(path.info.compression, file)?.read_to_end(&mut nar)?;
            total += zstd::bulk::compress(&nar, ZSTD_LEVEL)?.len() as u64;
        }
        fs::write(remembered, total.to_string())?;
        Ok(total)
    }
}
