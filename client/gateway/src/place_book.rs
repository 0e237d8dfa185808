//! Where records of keys were found, also by an earlier life of this gateway.
//!
//! Owns: the journal `gateway.places` in the cache directory. Always holds: a record that is not as it was written is not
//! used, nor what follows it; memory and file are bounded; nobody waits for the disk. Leaves to others: whether a place is
//! still true (the position says as of when it was).
//!
//! Layout: magic `firnplce`, u16 version, archive id (32); then records: number of places (u8), key (21), position of the
//! feed (u64), of each place bundle (32), block and entry (u16 each), and the first 8 bytes of the BLAKE3 of the record
//! before. Integers are little-endian. A later record of a key takes the place of an earlier one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use firn_base::{ArchiveId, BundleId, KEY_BYTES, ObjectKey};
use firn_transport::Environment;
use lru::LruCache;
use tokio::sync::{Notify, watch};

use crate::coordinators::RecordPlace;

const MAGIC: &[u8; 8] = b"firnplce";
const VERSION: u16 = 1;
const HEAD_BYTES: usize = 42;
const RECORD_HEAD_BYTES: usize = 1 + KEY_BYTES + 8;
const PLACE_BYTES: usize = 36;
const CHECK_BYTES: usize = 8;

// Some 20 MB in memory; closures of a few hundred systems.
const KEYS_MAX: NonZeroUsize = NonZeroUsize::new(131_072).expect("a constant above zero");

// A key that more bundles hold is looked up each time.
const PLACES_MAX: usize = 16;

// The journal is written anew when it is twice as long as what it says needs at most, with one place for each key.
const JOURNAL_BYTES_MAX: u64 =
    2 * 131_072 * (RECORD_HEAD_BYTES + PLACE_BYTES + CHECK_BYTES) as u64 + HEAD_BYTES as u64;

/// Where the records of a key lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KnownPlaces {
    pub(crate) places: Vec<RecordPlace>,
    /// It is true as of this position of the feed.
    pub(crate) position: u64,
}

#[derive(Debug)]
struct Book {
    known: LruCache<ObjectKey, KnownPlaces>,
    /// Records that are to be appended.
    waiting: Vec<u8>,
}

/// Places by key.
#[derive(Debug)]
pub(crate) struct PlaceBook {
    book: Mutex<Book>,
    changed: Notify,
    waiting_bytes: AtomicU64,
    path: PathBuf,
    archive: ArchiveId,
}

impl PlaceBook {
    /// What the journal at `path` says. One that is not there, of another archive or damaged says nothing, or less.
    pub(crate) fn open(path: PathBuf, archive: ArchiveId) -> Self {
        let mut known = LruCache::new(KEYS_MAX);
        match read_journal(&path, archive) {
            Ok(Some(whole)) => read_records(&whole, |key, places| {
                let forgotten = places.places.is_empty();
                drop(if forgotten { known.pop(&key) } else { known.put(key, places) });
            }),
            Ok(None) => {}
            Err(error) => tracing::warn!("{} is not used: {error}", path.display()),
        }
        let book = Mutex::new(Book { known, waiting: Vec::new() });
        Self { book, changed: Notify::new(), waiting_bytes: AtomicU64::new(0), path, archive }
    }

    /// Where the records of `key` were found last.
    pub(crate) fn get(&self, key: &ObjectKey) -> Option<KnownPlaces> {
        self.book().known.get(key).cloned()
    }

    /// The records of `key` were found here.
    pub(crate) fn put(&self, key: ObjectKey, places: KnownPlaces) {
        if places.places.len() > PLACES_MAX {
            return self.forget(&key);
        }
        let mut book = self.book();
        if book.known.peek(&key) != Some(&places) {
            self.append(&mut book.waiting, &key, &places);
            book.known.put(key, places);
        }
    }

    /// They are not there any more.
    pub(crate) fn forget(&self, key: &ObjectKey) {
        let mut book = self.book();
        if book.known.pop(key).is_some() {
            self.append(&mut book.waiting, key, &KnownPlaces { places: Vec::new(), position: 0 });
        }
    }

    /// Bytes that are not in the journal yet.
    pub(crate) fn waiting_bytes(&self) -> u64 {
        self.waiting_bytes.load(Ordering::Relaxed)
    }

    fn append(&self, waiting: &mut Vec<u8>, key: &ObjectKey, places: &KnownPlaces) {
        let before = waiting.len();
        append_record(waiting, key, places);
        self.waiting_bytes.fetch_add((waiting.len() - before) as u64, Ordering::Relaxed);
        self.changed.notify_one();
    }

    /// Writes what is put until `stop` says so, and what waits then.
    pub(crate) async fn run(self: Arc<Self>, environment: Environment, mut stop: watch::Receiver<bool>) {
        // The first record goes into a new journal: what was unreadable in the old one must not hide what follows.
        let mut bytes = u64::MAX;
        let mut said = false;
        loop {
            let stopped = tokio::select! {
                biased;
                () = self.changed.notified() => false,
                () = async { drop(stop.wait_for(|stop| *stop).await) } => true,
            };
            let book = Arc::clone(&self);
            let written = environment.blocking(move || book.write(bytes)).await;
            match written {
                Ok(now) => (bytes, said) = (now, false),
                Err(error) => {
                    bytes = u64::MAX;
                    if !std::mem::replace(&mut said, true) {
                        tracing::warn!("where records lie is not saved: {}: {error}", self.path.display());
                    }
                }
            }
            if stopped {
                return;
            }
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends what waits to a journal of so many bytes, or writes it anew; gives its bytes then.
    fn write(&self, bytes: u64) -> io::Result<u64> {
        let waiting = std::mem::take(&mut self.book().waiting);
        if waiting.is_empty() {
            return Ok(bytes);
        }
        let written = self.write_records(bytes, &waiting);
        self.waiting_bytes.fetch_sub(waiting.len() as u64, Ordering::Relaxed);
        written
    }

    fn write_records(&self, bytes: u64, waiting: &[u8]) -> io::Result<u64> {
        if bytes.saturating_add(waiting.len() as u64) <= JOURNAL_BYTES_MAX {
            OpenOptions::new().append(true).open(&self.path)?.write_all(waiting)?;
            return Ok(bytes + waiting.len() as u64);
        }
        let mut whole = head(self.archive);
        // The one used longest ago first, so that reading it in order ends with the same.
        for (key, places) in self.book().known.iter().rev() {
            append_record(&mut whole, key, places);
        }
        let new = self.path.with_extension("places.new");
        if let Some(directory) = self.path.parent() {
            fs::create_dir_all(directory)?;
        }
        fs::write(&new, &whole)?;
        fs::rename(&new, &self.path)?;
        Ok(whole.len() as u64)
    }
}

fn head(archive: ArchiveId) -> Vec<u8> {
    [MAGIC.as_slice(), &VERSION.to_le_bytes(), archive.as_bytes()].concat()
}

fn read_journal(path: &PathBuf, archive: ArchiveId) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut whole = Vec::new();
    file.take(JOURNAL_BYTES_MAX).read_to_end(&mut whole)?;
    if !whole.starts_with(&head(archive)) {
        return Err(io::Error::other("it is of another archive or version"));
    }
    Ok(Some(whole))
}

fn append_record(bytes: &mut Vec<u8>, key: &ObjectKey, known: &KnownPlaces) {
    let start = bytes.len();
    // At most PLACES_MAX.
    bytes.push(u8::try_from(known.places.len()).unwrap_or(0));
    bytes.extend_from_slice(&key.to_bytes());
    bytes.extend_from_slice(&known.position.to_le_bytes());
    for place in &known.places {
        bytes.extend_from_slice(place.bundle.as_bytes());
        bytes.extend_from_slice(&place.block.to_le_bytes());
        bytes.extend_from_slice(&place.entry.to_le_bytes());
    }
    let check = blake3::hash(&bytes[start..]);
    bytes.extend_from_slice(&check.as_bytes()[..CHECK_BYTES]);
}

/// Hands out the records of a journal in their order, up to the first that is not whole.
fn read_records(whole: &[u8], mut found: impl FnMut(ObjectKey, KnownPlaces)) {
    let mut rest = whole.get(HEAD_BYTES..).unwrap_or_default();
    while let Some((key, known, after)) = read_record(rest) {
        found(key, known);
        rest = after;
    }
}

fn read_record(bytes: &[u8]) -> Option<(ObjectKey, KnownPlaces, &[u8])> {
    let count = usize::from(*bytes.first()?);
    let length = RECORD_HEAD_BYTES + count * PLACE_BYTES;
    let (record, rest) = bytes.split_at_checked(length)?;
    let (check, rest) = rest.split_at_checked(CHECK_BYTES)?;
    if blake3::hash(record).as_bytes()[..CHECK_BYTES] != *check {
        return None;
    }
    let (_, fields) = record.split_at_checked(1)?;
    let (key, fields) = fields.split_first_chunk::<KEY_BYTES>()?;
    let (position, fields) = fields.split_first_chunk::<8>()?;
    let places = fields.chunks_exact(PLACE_BYTES).map(|place| {
        let (bundle, place) = place.split_first_chunk::<32>()?;
        let (block, entry) = place.split_first_chunk::<2>()?;
        Some(RecordPlace {
            bundle: BundleId::from_bytes(*bundle),
            block: u16::from_le_bytes(*block),
            entry: u16::from_le_bytes(*entry.first_chunk::<2>()?),
        })
    });
    let known =
        KnownPlaces { places: places.collect::<Option<_>>()?, position: u64::from_le_bytes(*position) };
    Some((ObjectKey::from_bytes(key).ok()?, known, rest))
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinHandle;

    use super::*;

    const ARCHIVE: ArchiveId = ArchiveId::from_bytes([1; 32]);

    fn key(number: u8) -> ObjectKey {
        ObjectKey::store_path([number; 20])
    }

    fn at(block: u16, position: u64) -> KnownPlaces {
        let place = RecordPlace { bundle: BundleId::from_bytes([9; 32]), block, entry: 7 };
        KnownPlaces { places: vec![place], position }
    }

    struct Running {
        book: Arc<PlaceBook>,
        stop: watch::Sender<bool>,
        task: JoinHandle<()>,
    }

    fn start(path: &std::path::Path) -> Running {
        let book = Arc::new(PlaceBook::open(path.to_owned(), ARCHIVE));
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(Arc::clone(&book).run(Environment::real(), stopped));
        Running { book, stop, task }
    }

    impl Running {
        async fn end(self) {
            self.stop.send_replace(true);
            self.task.await.unwrap();
        }
    }

    #[tokio::test]
    async fn what_was_found_is_known_after_a_start_and_the_last_word_counts() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("cache/gateway.places");
        let first = start(&path);
        first.book.put(key(1), at(1, 10));
        first.book.put(key(2), at(2, 10));
        first.end().await;
        let second = start(&path);
        assert_eq!(second.book.get(&key(1)), Some(at(1, 10)));
        second.book.put(key(1), at(5, 20));
        second.book.forget(&key(2));
        second.book.put(key(3), at(3, 30));
        second.end().await;
        let third = PlaceBook::open(path, ARCHIVE);
        assert_eq!(third.get(&key(1)), Some(at(5, 20)));
        assert_eq!(third.get(&key(3)), Some(at(3, 30)));
        assert_eq!(third.get(&key(2)), None);
    }

    #[test]
    fn a_journal_that_is_damaged_or_cut_says_less_and_nothing_wrong() {
        let mut whole = head(ARCHIVE);
        (0..5).for_each(|number| append_record(&mut whole, &key(number), &at(u16::from(number), 10)));
        let read = |bytes: &[u8]| {
            let mut found = Vec::new();
            read_records(bytes, |key, known| found.push((key, known)));
            found
        };
        let all = read(&whole);
        assert_eq!(all.len(), 5);
        for position in HEAD_BYTES..whole.len() {
            let mut damaged = whole.clone();
            damaged[position] ^= 1;
            for bytes in [&damaged[..], &whole[..position]] {
                let found = read(bytes);
                assert!(found.len() < 5 && all.starts_with(&found), "byte {position}");
            }
        }
    }

    #[test]
    fn the_layout_is_pinned() {
        let mut bytes = Vec::new();
        append_record(&mut bytes, &key(3), &at(0x0102, 5));
        let fields = [&[1, 1][..], &[3; 20], &5u64.to_le_bytes(), &[9; 32], &[2, 1, 7, 0]].concat();
        assert_eq!(bytes[..fields.len()], fields);
        assert_eq!(bytes[fields.len()..], blake3::hash(&fields).as_bytes()[..8]);
    }

    #[tokio::test]
    async fn the_journal_of_another_archive_is_not_used() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("gateway.places");
        let first = start(&path);
        first.book.put(key(1), at(1, 10));
        first.end().await;
        assert_eq!(PlaceBook::open(path, ArchiveId::from_bytes([2; 32])).get(&key(1)), None);
    }
}
