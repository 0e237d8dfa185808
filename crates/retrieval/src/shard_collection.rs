//! Shard files as they lie in directories, however they came there.
//!
//! Owns: finding shard files, saying which are damaged, and which coding of a bundle is read. Always holds: a
//! file is used only after the BLAKE3 of its shard was the root that most files of its bundle agree on.
//! Leaves to others: rebuilding (`file_reader`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use firn_base::{BundleId, CodingId, ShardIndex};
use firn_bundle::{
    CodingHeader, ContentHeader, ParsedShardFileHeader, SHARD_FILE_HEADER_BYTES_MAX, SHARD_FILE_PAGE_BYTES,
    ShardFileHeader, ShardFileLayout, check_shard_file_trailer,
};

use crate::ReadError;

const MAGIC: &[u8] = b"firnshrd";
const HASH_PIECE_BYTES: usize = 1 << 20;

/// A shard file that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DamagedShardFile {
    /// Where it lies.
    pub path: PathBuf,
    /// What is wrong, as a sentence.
    pub what: String,
    /// Whether its shard is whole nevertheless and was used.
    pub usable: bool,
}

/// One bundle of a collection.
#[derive(Debug)]
pub(crate) struct CollectedBundle {
    pub(crate) content: Arc<ContentHeader>,
    // The codings found, the one with the most distinct shards first.
    pub(crate) codings: Vec<CollectedCoding>,
}

/// One coding of a bundle and its files.
#[derive(Debug)]
pub(crate) struct CollectedCoding {
    pub(crate) header: CodingHeader,
    pub(crate) files: BTreeMap<ShardIndex, Vec<ShardFile>>,
}

#[derive(Debug)]
pub(crate) struct ShardFile {
    path: PathBuf,
    layout: ShardFileLayout,
    // What came of checking it; none before.
    verdict: Mutex<Option<bool>>,
}

/// All shard files found.
#[derive(Debug, Default)]
pub(crate) struct ShardCollection {
    pub(crate) bundles: BTreeMap<BundleId, CollectedBundle>,
    damaged: Mutex<BTreeSet<DamagedShardFile>>,
}

/// What a look through directories gave.
#[derive(Debug, Default)]
struct Findings {
    files: Vec<FoundFile>,
    contents: BTreeMap<BundleId, Arc<ContentHeader>>,
    // A rotten root makes a header name a coding of its own. Shards of one bundle and k differ in nothing else,
    // so the coding that most files name is the true one, and each shard's bytes are checked against it.
    votes: BTreeMap<(BundleId, u8), BTreeMap<CodingId, (u32, CodingHeader)>>,
}

#[derive(Debug)]
struct FoundFile {
    path: PathBuf,
    bundle: BundleId,
    k: u8,
    index: ShardIndex,
    layout: ShardFileLayout,
}

impl Findings {
    fn add(&mut self, path: PathBuf, header: &ShardFileHeader) {
        let coding = header.coding();
        let (bundle, k) = (coding.bundle(), coding.k());
        // Parsing checked that the coding is one of this content.
        self.contents.entry(bundle).or_insert_with(|| Arc::new(header.content().clone()));
        let votes = self.votes.entry((bundle, k)).or_default();
        votes.entry(coding.coding_id()).or_insert_with(|| (0, coding.clone())).0 += 1;
        self.files.push(FoundFile { path, bundle, k, index: header.index(), layout: header.layout() });
    }
}

impl ShardCollection {
    /// Looks through files and directories, all the way down. Files that are no shard files are passed over.
    pub(crate) fn scan(places: &[PathBuf]) -> Result<Self, ReadError> {
        let mut collection = Self::default();
        let mut found = Findings::default();
        let mut waiting: Vec<PathBuf> = places.to_vec();
        while let Some(place) = waiting.pop() {
            let disk = |error: io::Error| ReadError::Disk {
                path: place.display().to_string(),
                cause: error.to_string(),
            };
            let kind = std::fs::metadata(&place).map_err(disk)?;
            if kind.is_dir() {
                for entry in std::fs::read_dir(&place).map_err(disk)? {
                    let entry = entry.map_err(disk)?;
                    // A link may lead in circles; no shard store makes any.
                    if !entry.file_type().map_err(disk)?.is_symlink() {
                        waiting.push(entry.path());
                    }
                }
                continue;
            }
            match read_header(&place) {
                Ok(Some(header)) => found.add(place, &header),
                Ok(None) => {}
                Err(what) => collection.note(&place, what, false),
            }
        }
        collection.group(found);
        Ok(collection)
    }

    /// Files that were found damaged so far; those never read are not checked.
    pub(crate) fn damaged(&self) -> Vec<DamagedShardFile> {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    pub(crate) fn note(&self, path: &Path, what: String, usable: bool) {
        let file = DamagedShardFile { path: path.to_owned(), what, usable };
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner).insert(file);
    }

    fn group(&mut self, mut found: Findings) {
        // The order of directories is the file system's; ours is that of the paths.
        found.files.sort_by(|one, other| one.path.cmp(&other.path));
        for (bundle, content) in found.contents {
            self.bundles.insert(bundle, CollectedBundle { content, codings: Vec::new() });
        }
        for ((bundle, _), candidates) in found.votes {
            let header = candidates.into_values().max_by_key(|(count, _)| *count).map(|(_, header)| header);
            if let Some((header, own)) = header.zip(self.bundles.get_mut(&bundle)) {
                own.codings.push(CollectedCoding { header, files: BTreeMap::new() });
            }
        }
        for file in found.files {
            let codings = self.bundles.get_mut(&file.bundle).map(|own| own.codings.iter_mut());
            let coding = codings.and_then(|mut codings| codings.find(|coding| coding.header.k() == file.k));
            let Some(coding) = coding else { continue };
            let shard = ShardFile { path: file.path, layout: file.layout, verdict: Mutex::new(None) };
            coding.files.entry(file.index).or_default().push(shard);
        }
        for bundle in self.bundles.values_mut() {
            bundle.codings.sort_by_key(|coding| {
                std::cmp::Reverse((coding.files.len() >= usize::from(coding.header.k()), coding.files.len()))
            });
        }
    }

    /// A file of this shard that was checked whole; none if there is no good one.
    pub(crate) fn good_file<'a>(
        &self,
        coding: &'a CollectedCoding,
        index: ShardIndex,
    ) -> Option<&'a ShardFile> {
        coding.files.get(&index)?.iter().find(|file| self.is_good(coding, index, file))
    }

    fn is_good(&self, coding: &CollectedCoding, index: ShardIndex, file: &ShardFile) -> bool {
        let mut verdict = file.verdict.lock().unwrap_or_else(PoisonError::into_inner);
        *verdict.get_or_insert_with(|| match file.check(&coding.header, index) {
            Ok(None) => true,
            Ok(Some(what)) => {
                self.note(&file.path, what, true);
                true
            }
            Err(what) => {
                self.note(&file.path, what, false);
                false
            }
        })
    }
}

impl ShardFile {
    /// Bytes of the shard.
    pub(crate) fn read(&self, range: &std::ops::Range<u64>) -> Result<Vec<u8>, ReadError> {
        let start = self.layout.shard_offset;
        let placed = start.saturating_add(range.start)..start.saturating_add(range.end);
        crate::spool_reader::read_file(&self.path, &placed)
    }

    /// Hashes the shard. A sentence without an error: the shard is whole and something else is not.
    fn check(&self, coding: &CodingHeader, index: ShardIndex) -> Result<Option<String>, String> {
        let sentence = |error: io::Error| error.to_string();
        let mut file = File::open(&self.path).map_err(sentence)?;
        let length = file.metadata().map_err(sentence)?.len();
        if length < self.layout.outboard_offset {
            return Err(format!("the file has {length} bytes: its shard is cut off"));
        }
        let mut header = vec![0; usize::try_from(self.layout.header_bytes).map_err(|e| e.to_string())?];
        file.read_exact(&mut header).map_err(sentence)?;
        let mut hasher = blake3::Hasher::new();
        let mut shard = Read::by_ref(&mut file).take(self.layout.shard_bytes);
        let mut piece = vec![0; HASH_PIECE_BYTES];
        loop {
            let count = shard.read(&mut piece).map_err(sentence)?;
            if count == 0 {
                break;
            }
            hasher.update(&piece[..count]);
        }
        if Some(hasher.finalize().as_bytes()) != coding.root(index).as_ref().map(|root| root.as_bytes()) {
            return Err("its shard does not have the root that the coding header gives".to_owned());
        }
        if length != self.layout.file_bytes {
            return Ok(Some(format!("the file has {length} bytes instead of {}", self.layout.file_bytes)));
        }
        let mut rest = Vec::new();
        file.seek(SeekFrom::Start(self.layout.outboard_offset)).map_err(sentence)?;
        file.take(length - self.layout.outboard_offset).read_to_end(&mut rest).map_err(sentence)?;
        let tree = usize::try_from(self.layout.outboard_bytes).unwrap_or(usize::MAX);
        let (outboard, trailer) = rest.split_at_checked(tree).ok_or("the file became shorter")?;
        Ok(check_shard_file_trailer(&header, outboard, trailer).err().map(|error| error.to_string()))
    }
}

/// The header of a shard file; none for a file that is something else; a sentence for a damaged one.
fn read_header(path: &Path) -> Result<Option<Box<ShardFileHeader>>, String> {
    let sentence = |error: io::Error| error.to_string();
    let mut file = File::open(path).map_err(sentence)?;
    let mut bytes = Vec::new();
    let mut wanted = SHARD_FILE_PAGE_BYTES;
    let limit = usize::try_from(SHARD_FILE_HEADER_BYTES_MAX).unwrap_or(usize::MAX);
    loop {
        let more = (wanted - bytes.len()) as u64;
        let read = Read::by_ref(&mut file).take(more).read_to_end(&mut bytes).map_err(sentence)?;
        if !bytes.starts_with(MAGIC) {
            return Ok(None);
        }
        match ShardFileHeader::parse(&bytes).map_err(|error| error.to_string())? {
            ParsedShardFileHeader::Complete(header) => return Ok(Some(header)),
            ParsedShardFileHeader::NeedsBytes(bytes_needed)
                if bytes_needed > bytes.len() && bytes_needed <= limit && read > 0 =>
            {
                wanted = bytes_needed;
            }
            ParsedShardFileHeader::NeedsBytes(_) => return Err("its header is cut off".to_owned()),
        }
    }
}
