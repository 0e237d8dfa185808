//! Reading one NAR from its source and checking it: the publisher's word is taken for nothing.
//!
//! Owns: decompressing, hashing, validating, patching and chunking in one pass, of large NARs on three threads. Always
//! holds: a verified path is a well-formed NAR of exactly its NarSize and NarHash, and its file has the FileSize and
//! FileHash that were stated; whatever the source sends, no more is read than it may have and memory is bounded.
//! Leaves to others: signatures (`plan`), files that are no NARs (`blob_file`), recipes (`recipe_trial`), packing (`pack`).

use std::io::{self, BufReader, Read};
use std::sync::mpsc::sync_channel;
use std::thread::{self, Builder, ScopedJoinHandle};

use firn_bundle::{Encoding, NewRecord};
use firn_nix_format::{
    Compression, NarError, NarInspector, NarMismatch, PathInfo, Sha256, VerifyingReader, decoder,
};
use sha2::Digest;

use crate::content::{Content, ContentWriter};
use crate::earlier::EarlierChunk;
use crate::nar_writer::NarWriter;
use crate::pieces::{PIECE_BYTES, pieces};
use crate::recipe_trial::TrialError;
use crate::source::{Source, SourceError};
use crate::spool::{SpoolDir, SpoolError};

const SMALL_PIECE_BYTES: usize = 64 << 10;
const FILE_BUFFER_BYTES: usize = 256 << 10;

// From this NarSize on decompressing, hashing and cutting go side by side: smaller NARs are many, and keep all cores busy by
// being read several at once. Nine tenths of all bytes are in larger ones.
const STAGED_BYTES_MIN: u64 = 8 << 20;

/// An object that is what its record says.
#[derive(Debug)]
pub(crate) struct VerifiedObject {
    pub(crate) record: NewRecord,
    pub(crate) content: Content,
    /// Bytes of its file in the source.
    pub(crate) source_bytes: u64,
    /// Whether a recipe was tried on its file.
    pub(crate) recipe_tried: bool,
    /// Which of its chunks lie in earlier bundles, as far as anybody has looked.
    pub(crate) earlier: Vec<EarlierChunk>,
}

/// Why an object is not published.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The source does not have the file.
    #[error("the file `{0}` is missing")]
    Missing(String),
    /// The source refuses to open it.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Reading or decompressing failed.
    #[error("the file `{url}` cannot be read: {cause}")]
    Read {
        /// The file.
        url: String,
        /// What happened.
        cause: String,
    },
    /// The file is longer than stated, or than any file of such a NAR.
    #[error("the file is longer than the {limit} bytes that it may have")]
    FileTooLong {
        /// What it may have.
        limit: u64,
    },
    /// The file is shorter than stated.
    #[error("the file has {found} bytes and not its FileSize of {stated}")]
    FileSize {
        /// What the narinfo says.
        stated: u64,
        /// What came.
        found: u64,
    },
    /// The file's contents are others than stated.
    #[error("the file has the hash {found} and not its FileHash {stated}")]
    FileHash {
        /// What the narinfo says.
        stated: Sha256,
        /// What came.
        found: Sha256,
    },
    /// It is not what its URL says.
    #[error("the file `{url}` is not taken: {reason}")]
    Unfit {
        /// The file.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// It is no NAR.
    #[error(transparent)]
    Nar(#[from] NarError),
    /// It is another NAR.
    #[error(transparent)]
    Mismatch(#[from] NarMismatch),
    /// Its recipe could not be tried to the end.
    #[error(transparent)]
    Trial(#[from] TrialError),
    /// The spool failed: nobody's object is at fault.
    #[error(transparent)]
    Spool(#[from] SpoolError),
}

/// What passes between a source's file and its decoder.
struct FileState {
    hasher: Option<sha2::Sha256>,
    read: u64,
    limit: u64,
    // Takes the beginning of the file, for its recipe.
    head: Vec<u8>,
    head_bytes_max: usize,
    // Takes the file as it is, for `verbatim`.
    keep: Option<ContentWriter>,
    // The reason behind an error that went through the decoder.
    failure: Option<VerifyError>,
}

struct FileReader<'a> {
    inner: Box<dyn Read + Send>,
    state: &'a mut FileState,
}

impl Read for FileReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let bytes = &buffer[..count];
        self.state.take(bytes).map(|()| count).map_err(|failure| {
            self.state.failure = Some(failure);
            io::Error::other("the file was given up")
        })
    }
}

impl FileState {
    fn take(&mut self, bytes: &[u8]) -> Result<(), VerifyError> {
        self.read = self.read.saturating_add(bytes.len() as u64);
        if self.read > self.limit {
            return Err(VerifyError::FileTooLong { limit: self.limit });
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
        let more = self.head_bytes_max.saturating_sub(self.head.len()).min(bytes.len());
        self.head.extend_from_slice(&bytes[..more]);
        if let Some(keep) = &mut self.keep {
            keep.push(bytes)?;
        }
        Ok(())
    }
}

/// Reads and checks the NAR of `info`, and gives so many bytes of the beginning of its file besides. Blocks.
pub(crate) fn verify_path(
    source: &Source,
    info: &PathInfo,
    encoding: Encoding,
    head_bytes_max: usize,
    spool: &SpoolDir,
) -> Result<(VerifiedObject, Vec<u8>), VerifyError> {
    let file = source.open_hashed(&info.url, info.file_size)?;
    let file = file.ok_or_else(|| VerifyError::Missing(info.url.clone()))?;
    let limit = info.file_size.unwrap_or_else(|| file_bytes_max(info.nar_size));
    // An uncompressed file is the NAR: it need not be hashed twice.
    let hash_file = match info.file_hash {
        Some(hash) => info.compression != Compression::None || hash != info.nar_hash,
        None => false,
    };
    let keep = match encoding {
        Encoding::Verbatim => Some(ContentWriter::new(spool, file.bytes.unwrap_or(limit).min(limit))?),
        Encoding::Chunked => None,
    };
    let hasher = hash_file.then(sha2::Sha256::default);
    let mut state =
        FileState { hasher, read: 0, limit, head: Vec::new(), head_bytes_max, keep, failure: None };
    let reader = FileReader { inner: file.reader, state: &mut state };
    let decoded = decode(reader, info, encoding, spool);
    let kept = match (decoded, state.failure.take()) {
        (Ok(kept), _) => kept,
        // Only what went through the decoder has a reason behind it: the file may be read ahead of what is wrong with
        // the NAR.
        (Err(VerifyError::Read { .. }), Some(failure)) | (Err(failure), _) => return Err(failure),
    };
    if let Some(stated) = info.file_size.filter(|stated| *stated != state.read) {
        return Err(VerifyError::FileSize { stated, found: state.read });
    }
    if let (Some(stated), Some(hasher)) = (info.file_hash, state.hasher) {
        let found = Sha256::from_bytes(hasher.finalize().into());
        if found != stated {
            return Err(VerifyError::FileHash { stated, found });
        }
    }
    let mut content = match (kept, state.keep) {
        (Some(kept), _) => kept,
        (None, Some(keep)) => keep.finish()?,
        (None, None) => unreachable!("one of the two encodings keeps the content"),
    };
    let mut record = NewRecord::store_path(info.clone(), encoding);
    record.patches = content.take_patches();
    let source_bytes = state.read;
    let object = VerifiedObject { record, content, source_bytes, recipe_tried: false, earlier: Vec::new() };
    Ok((object, state.head))
}

/// Decompresses and checks; gives the NAR's chunks if they are what is kept.
fn decode(
    file: FileReader<'_>,
    info: &PathInfo,
    encoding: Encoding,
    spool: &SpoolDir,
) -> Result<Option<Content>, VerifyError> {
    let buffered = BufReader::with_capacity(FILE_BUFFER_BYTES, file);
    let mut target = match encoding {
        Encoding::Chunked => Target::Kept(Box::new(NarWriter::new(spool, info)?)),
        Encoding::Verbatim => Target::Inspected(Box::new(NarInspector::new(info.nar_size))),
    };
    let decompressed = decoder(info.compression, buffered).map_err(|error| unreadable(info, &error))?;
    if info.nar_size < STAGED_BYTES_MIN {
        check(decompressed, info, SMALL_PIECE_BYTES, |piece| target.push(piece))?;
    } else {
        target = check_staged(decompressed, info, target, thread_of)?;
    }
    target.finish()
}

/// Reads a NAR to its end, which must be the one of its path info, and gives `take` each piece of it. An error of
/// `take` ends it.
fn check(
    nar: impl Read,
    info: &PathInfo,
    piece_bytes: usize,
    mut take: impl FnMut(&[u8]) -> Result<(), VerifyError>,
) -> Result<(), VerifyError> {
    let mut nar = VerifyingReader::new(nar, info.nar_hash, info.nar_size);
    let mut piece = vec![0; piece_bytes];
    loop {
        match nar.read(&mut piece) {
            Ok(0) => return Ok(nar.finish()?),
            Ok(count) => take(&piece[..count])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unreadable(info, &error)),
        }
    }
}

/// The same on three threads: this one reads and decompresses, the second hashes, the third does whatever `target`
/// does. Where the system gives no more threads, this one does it all. `stage` says how the thread of a name is begun.
fn check_staged(
    nar: impl Read,
    info: &PathInfo,
    mut target: Target,
    stage: impl Fn(&str) -> Builder,
) -> Result<Target, VerifyError> {
    let (decompressed, to_hash) = pieces();
    let (hashed, mut to_keep) = pieces();
    // It is handed over once both threads have begun: one that does not begin would take it along.
    let (hand_over, handed_over) = sync_channel::<Target>(1);
    thread::scope(|scope| {
        let keep = move || -> Result<Target, VerifyError> {
            let mut target =
                handed_over.recv().map_err(|unsent| unreadable(info, &io::Error::other(unsent)))?;
            while let Some(piece) = to_keep.next_piece().map_err(|error| unreadable(info, &error))? {
                target.push(&piece)?;
            }
            Ok(target)
        };
        let hash = move || -> Result<(), VerifyError> {
            check(to_hash, info, PIECE_BYTES, |piece| {
                hashed.send(piece).map_err(|unread| unreadable(info, &io::Error::other(unread)))
            })
        };
        let keeping = stage("nar-keep").spawn_scoped(scope, keep);
        let hashing = stage("nar-hash").spawn_scoped(scope, hash);
        let (keeping, hashing) = match (keeping, hashing) {
            (Ok(keeping), Ok(hashing)) => (keeping, hashing),
            (Err(error), _) | (_, Err(error)) => {
                tracing::debug!(%error, "no thread can be begun: one does it all");
                // Nothing comes to one that has begun, and the scope waits for its end.
                drop((decompressed, hand_over));
                check(nar, info, PIECE_BYTES, |piece| target.push(piece))?;
                return Ok(target);
            }
        };
        if let Err(unsent) = hand_over.send(target) {
            return Err(unreadable(info, &io::Error::other(unsent.to_string())));
        }
        decompressed.send_all(nar);
        let hashed = join(hashing);
        // What is wrong with the bytes before a mismatch is told first, as where one thread does it all. And whoever could
        // not hand on knows less than who did not take.
        let target = join(keeping)?;
        hashed.map(|()| target)
    })
}

/// How a thread of this name is begun.
fn thread_of(name: &str) -> Builder {
    Builder::new().name(name.to_owned())
}

fn join<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn unreadable(info: &PathInfo, error: &io::Error) -> VerifyError {
    match NarMismatch::in_error(error) {
        Some(mismatch) => VerifyError::Mismatch(mismatch),
        None => VerifyError::Read { url: info.url.clone(), cause: error.to_string() },
    }
}

/// What becomes of a NAR's bytes: kept, or only looked at where the published file is what is kept.
enum Target {
    Kept(Box<NarWriter>),
    Inspected(Box<NarInspector>),
}

impl Target {
    fn push(&mut self, bytes: &[u8]) -> Result<(), VerifyError> {
        match self {
            Self::Kept(writer) => writer.push(bytes),
            Self::Inspected(inspector) => Ok(inspector.push(bytes)?),
        }
    }

    /// Refuses a NAR that ended too early.
    fn finish(self) -> Result<Option<Content>, VerifyError> {
        match self {
            Self::Kept(writer) => writer.finish().map(Some),
            Self::Inspected(inspector) => {
                inspector.finish()?;
                Ok(None)
            }
        }
    }
}

/// The most that a file of a NAR may have where its FileSize is not stated: compression adds little at worst.
const fn file_bytes_max(nar_size: u64) -> u64 {
    nar_size.saturating_add(nar_size / 8).saturating_add(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::cache::{info_of, nar_of, noise, store_path};

    const LARGE: usize = 9 << 20;

    fn info(nar: &[u8]) -> PathInfo {
        info_of(store_path("own"), nar)
    }

    fn kept(spool: &SpoolDir, info: &PathInfo) -> Target {
        Target::Kept(Box::new(NarWriter::new(spool, info).unwrap()))
    }

    /// What comes of a NAR on one thread, and on three.
    fn both(mut nar: impl FnMut() -> Box<dyn Read>, info: &PathInfo) -> [Result<Content, VerifyError>; 2] {
        let spool = SpoolDir::open(None).unwrap();
        let whole = |target: Target| target.finish().map(|kept| kept.expect("it is kept"));
        let mut alone = kept(&spool, info);
        let one = check(nar(), info, SMALL_PIECE_BYTES, |piece| alone.push(piece));
        let three = check_staged(nar(), info, kept(&spool, info), thread_of);
        [one.and_then(|()| whole(alone)), three.and_then(whole)]
    }

    #[test]
    fn a_nar_is_cut_and_patched_on_three_threads_as_on_one() {
        let own = store_path("own").hash_part().as_bytes().to_vec();
        for bytes in [0, 100, LARGE] {
            let nar = nar_of(&[noise(bytes, 1), own.clone(), noise(bytes, 2)].concat());
            let [one, three] = both(|| Box::new(io::Cursor::new(nar.clone())), &info(&nar));
            let (mut one, mut three) = (one.unwrap(), three.unwrap());
            assert!(one.chunks().eq(three.chunks()));
            let patches = one.take_patches();
            assert_eq!((patches.len(), patches), (1, three.take_patches()));
        }
    }

    #[test]
    fn where_no_thread_can_be_begun_one_does_it_all() {
        let nar = nar_of(&noise(LARGE, 1));
        let (info, spool) = (info(&nar), SpoolDir::open(None).unwrap());
        let mut alone = kept(&spool, &info);
        check(&nar[..], &info, SMALL_PIECE_BYTES, |piece| alone.push(piece)).unwrap();
        let alone = alone.finish().unwrap().unwrap();
        let chunks: Vec<_> = alone.chunks().collect();
        for lacking in [&["nar-keep", "nar-hash"][..], &["nar-keep"], &["nar-hash"]] {
            // Nobody has room for such a stack.
            let stage = |name: &str| match lacking.contains(&name) {
                true => thread_of(name).stack_size(1 << 60),
                false => thread_of(name),
            };
            let target = check_staged(&nar[..], &info, kept(&spool, &info), stage).unwrap();
            let content = target.finish().unwrap().unwrap();
            assert!(content.chunks().eq(chunks.iter().copied()), "{lacking:?}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_large_nar_is_told_alike() {
        let nar = nar_of(&noise(LARGE, 1));
        let sound = info(&nar);
        let changed = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut nar = nar.clone();
            change(&mut nar);
            nar
        };
        let cases = [
            ("does not end", changed(&|nar| nar.truncate(LARGE / 2))),
            ("goes on", changed(&|nar| nar.extend_from_slice(&[0; 1 << 20]))),
            ("has another byte", changed(&|nar| nar[LARGE / 2] ^= 1)),
            ("is no NAR", changed(&|nar| nar[20] ^= 1)),
            ("is no NAR in its end", changed(&|nar| *nar.last_mut().unwrap() = 7)),
            ("is nothing", Vec::new()),
        ];
        for (what, nar) in cases {
            let told = both(|| Box::new(io::Cursor::new(nar.clone())), &sound);
            let [one, three] = told.map(|outcome| outcome.unwrap_err().to_string());
            assert_eq!(one, three, "a NAR that {what}");
        }
        let broken = || Box::new(io::Cursor::new(nar[..LARGE].to_vec()).chain(Broken)) as Box<dyn Read>;
        let [one, three] = both(broken, &sound).map(|outcome| outcome.unwrap_err().to_string());
        assert_eq!(one, "the file `nar/1.nar` cannot be read: the line broke");
        assert_eq!(one, three);
    }

    struct Broken;

    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the line broke"))
        }
    }
}
