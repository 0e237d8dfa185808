//! What was read of an archive, on disk: payload ranges as nodes proved them, facts of bundles, addresses.
//!
//! Owns: the directory `data` below the cache directory, its size, what is written when. Always holds: what is given out
//! is what was put in, or nothing (each entry is hashed; one that is damaged is dropped); files together are no larger than
//! allowed; whoever reads or puts something never waits for a write; a disk that is full or fails ends no request.
//! Leaves to others: what keys and values mean.
//!
//! Entries are files. They are 0.3 to 1.5 MB for the most part, which file systems are good at, the page cache keeps what
//! is read often, and a lost or damaged file is one entry.

mod admission;
mod entry;
mod files;
mod key;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use firn_base::ArchiveId;
use firn_transport::Environment;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use admission::{Admission, Name};
use files::CacheFiles;
pub(crate) use key::CacheKey;

// What waits to be written is in memory: at most so many bytes, and so many entries.
const WAITING_BYTES_MAX: u64 = 64 << 20;
const WAITING_MAX: usize = 1024;

// A full disk is not tried again for each entry.
const PAUSE: Duration = Duration::from_secs(60);

// ENFILE and EMFILE, of Linux and of macOS: the entry is as good as it was.
const TOO_MANY_FILES: [i32; 2] = [23, 24];

/// What a cache has done since it began, and what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct DiskCacheCounts {
    pub(crate) hits: u64,
    pub(crate) misses: u64,
    pub(crate) hit_bytes: u64,
    pub(crate) written_bytes: u64,
    /// Entries that were not as they had been written, and are gone.
    pub(crate) damaged: u64,
    /// Entries that the disk did not take.
    pub(crate) failed_writes: u64,
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
    /// Bytes that are not written yet.
    pub(crate) waiting_bytes: u64,
}

#[derive(Debug, Default)]
struct Counters {
    hits: AtomicU64,
    misses: AtomicU64,
    hit_bytes: AtomicU64,
    written_bytes: AtomicU64,
    damaged: AtomicU64,
    failed_writes: AtomicU64,
}

#[derive(Debug)]
struct Work {
    name: Name,
    key: Vec<u8>,
    value: Bytes,
    /// What was there before under this key is of the past.
    replaces: bool,
}

#[derive(Debug)]
struct Shared {
    environment: Environment,
    archive: ArchiveId,
    files: CacheFiles,
    admission: Mutex<Admission>,
    /// What an earlier life left is known.
    listed: AtomicBool,
    queue: mpsc::Sender<Work>,
    /// Names that are kept no more, whose files the writer removes: it alone knows what it wrote since.
    dropped: Mutex<HashSet<Name>>,
    was_dropped: Notify,
    waiting_bytes: AtomicU64,
    counters: Counters,
}

/// A cache on disk. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct DiskCache {
    shared: Arc<Shared>,
}

/// Writes what is put into a cache.
#[derive(Debug)]
pub(crate) struct DiskCacheWriter {
    shared: Arc<Shared>,
    queue: mpsc::Receiver<Work>,
    paused_until: Option<Instant>,
}

/// Removes what an earlier life left in `directory`: no cache is wanted any more. What is not a cache's is left alone.
pub(crate) fn remove_left(directory: &Path) {
    let files = CacheFiles::new(directory.to_owned());
    let left = files.list().unwrap_or_else(|error| {
        tracing::warn!("the cache directory cannot be listed: {error}");
        Vec::new()
    });
    for file in left {
        if let Err(error) = files.remove(&file.name) {
            tracing::warn!("a file of the cache cannot be removed: {error}");
        }
    }
}

fn add(counter: &AtomicU64, number: u64) {
    counter.fetch_add(number, Ordering::Relaxed);
}

impl DiskCache {
    /// A cache of one archive in `directory`, of at most `bytes_max`. Nothing is written before the writer runs.
    pub(crate) fn new(
        environment: Environment,
        archive: ArchiveId,
        directory: PathBuf,
        bytes_max: u64,
    ) -> (Self, DiskCacheWriter) {
        let (queue, waiting) = mpsc::channel(WAITING_MAX);
        let shared = Arc::new(Shared {
            environment,
            archive,
            files: CacheFiles::new(directory),
            admission: Mutex::new(Admission::new(bytes_max)),
            listed: AtomicBool::new(false),
            queue,
            dropped: Mutex::default(),
            was_dropped: Notify::new(),
            waiting_bytes: AtomicU64::new(0),
            counters: Counters::default(),
        });
        (Self { shared: Arc::clone(&shared) }, DiskCacheWriter { shared, queue: waiting, paused_until: None })
    }

    /// The value of `key`, if it is there and as it was written.
    pub(crate) async fn get(&self, key: &CacheKey) -> Option<Bytes> {
        let (name, bytes) = key.encode(self.shared.archive);
        let counters = &self.shared.counters;
        let is_here = {
            let mut admission = self.shared.admission();
            admission.used(&name);
            admission.contains(&name)
        };
        let found = if is_here || !self.shared.listed.load(Ordering::Relaxed) {
            let shared = Arc::clone(&self.shared);
            self.shared.environment.blocking(move || shared.read(&name, &bytes)).await
        } else {
            None
        };
        match &found {
            Some(value) => {
                add(&counters.hits, 1);
                add(&counters.hit_bytes, value.len() as u64);
            }
            None => add(&counters.misses, 1),
        }
        found
    }

    /// Keeps a value that never changes, if there is room and time for it.
    pub(crate) fn put(&self, key: &CacheKey, value: Bytes) {
        let (name, key) = key.encode(self.shared.archive);
        if !self.shared.admission().contains(&name) {
            self.shared.enqueue(Work { name, key, value, replaces: false });
        }
    }

    /// Keeps a value in the place of what was there under its key.
    pub(crate) fn replace(&self, key: &CacheKey, value: Bytes) {
        let (name, key) = key.encode(self.shared.archive);
        self.shared.enqueue(Work { name, key, value, replaces: true });
    }

    /// Drops a value that turned out to be of no use.
    pub(crate) fn forget(&self, key: &CacheKey) {
        let (name, _) = key.encode(self.shared.archive);
        self.shared.drop_entry(name);
    }

    /// What it has done and holds.
    pub(crate) fn counts(&self) -> DiskCacheCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.shared.counters;
        let admission = self.shared.admission();
        DiskCacheCounts {
            hits: read(&counters.hits),
            misses: read(&counters.misses),
            hit_bytes: read(&counters.hit_bytes),
            written_bytes: read(&counters.written_bytes),
            damaged: read(&counters.damaged),
            failed_writes: read(&counters.failed_writes),
            entries: admission.len() as u64,
            bytes: admission.bytes(),
            waiting_bytes: read(&self.shared.waiting_bytes),
        }
    }
}

impl Shared {
    fn admission(&self) -> MutexGuard<'_, Admission> {
        self.admission.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, name: &Name, key: &[u8]) -> Option<Bytes> {
        let file = match self.files.read(name) {
            Ok(Some(file)) => file,
            Ok(None) => {
                // Somebody removed it; what is taken for kept would never be written again.
                if self.admission().contains(name) {
                    self.drop_entry(*name);
                }
                return None;
            }
            Err(error) => {
                tracing::debug!("an entry of the cache cannot be read: {error}");
                if !error.raw_os_error().is_some_and(|code| TOO_MANY_FILES.contains(&code)) {
                    self.drop_entry(*name);
                }
                return None;
            }
        };
        let value = entry::decode(key, file);
        if value.is_none() {
            add(&self.counters.damaged, 1);
            tracing::warn!(
                "an entry of the cache is not as it was written and is dropped: is its disk well?"
            );
            self.drop_entry(*name);
        }
        value
    }

    fn dropped(&self) -> MutexGuard<'_, HashSet<Name>> {
        self.dropped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The entry is no more: it can be put anew at once, and the writer removes its file.
    fn drop_entry(&self, name: Name) {
        self.admission().remove(&name);
        self.dropped().insert(name);
        self.was_dropped.notify_one();
    }

    /// Removes the files of what was dropped, by the writer: what it wrote since is kept again, and stays.
    fn remove_dropped(&self) {
        let dropped = std::mem::take(&mut *self.dropped());
        for name in dropped {
            if !self.admission().contains(&name) {
                self.remove(&name);
            }
        }
    }

    fn remove(&self, name: &Name) {
        if let Err(error) = self.files.remove(name) {
            tracing::debug!("an entry of the cache cannot be removed: {error}");
        }
    }

    /// Hands work to the writer; drops it when that has too much as it is.
    fn enqueue(&self, work: Work) {
        let bytes = work.value.len() as u64;
        let waiting = self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        if waiting.saturating_add(bytes) > WAITING_BYTES_MAX || self.queue.try_send(work).is_err() {
            self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// Takes what an earlier life left into account.
    fn take_stock(&self) {
        match self.files.list() {
            Ok(left) => {
                for file in left {
                    // It turned out to be of no use meanwhile; the writer removes it.
                    if self.dropped().contains(&file.name) {
                        continue;
                    }
                    let gone = self.admission().restore(file.name, file.bytes);
                    gone.iter().for_each(|name| self.remove(name));
                }
            }
            Err(error) => tracing::warn!("the cache directory cannot be listed: {error}"),
        }
        self.listed.store(true, Ordering::Relaxed);
    }

    /// Writes one entry; whether the disk took it.
    fn write(&self, work: &Work) -> std::io::Result<()> {
        let file = entry::encode(&work.key, &work.value);
        let bytes = file.len() as u64;
        let gone = {
            let mut admission = self.admission();
            if work.replaces {
                admission.replace(work.name, bytes)
            } else {
                let inserted = admission.insert(work.name, bytes);
                if !inserted.kept {
                    return Ok(());
                }
                inserted.gone
            }
        };
        gone.iter().for_each(|name| self.remove(name));
        if gone.contains(&work.name) {
            return Ok(());
        }
        let written = self.files.write(&work.name, &file);
        match written {
            Ok(()) => {
                add(&self.counters.written_bytes, bytes);
                // It was dropped while it was written.
                if !self.admission().contains(&work.name) {
                    self.remove(&work.name);
                }
            }
            Err(_) => {
                self.admission().remove(&work.name);
                // What it should have replaced is of the past.
                self.remove(&work.name);
            }
        }
        written
    }
}

impl DiskCacheWriter {
    /// Takes stock, then writes until `stop` says so, and what waits then.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let (shared, stock) = (Arc::clone(&self.shared), Arc::clone(&self.shared));
        shared.environment.blocking(move || stock.take_stock()).await;
        loop {
            tokio::select! {
                biased;
                () = shared.was_dropped.notified() => {
                    let dropping = Arc::clone(&shared);
                    shared.environment.blocking(move || dropping.remove_dropped()).await;
                }
                work = self.queue.recv() => match work {
                    Some(work) => self.write(work).await,
                    None => return,
                },
                () = async { drop(stop.wait_for(|stop| *stop).await) } => return,
            }
        }
    }

    async fn write(&mut self, work: Work) {
        let bytes = work.value.len() as u64;
        let now = Instant::now();
        if self.paused_until.is_none_or(|until| until <= now) {
            let shared = Arc::clone(&self.shared);
            let written = self.shared.environment.blocking(move || shared.write(&work)).await;
            match written {
                Ok(()) if self.paused_until.take().is_some() => {
                    tracing::info!("the disk takes entries of the cache again");
                }
                Ok(()) => {}
                Err(error) => {
                    add(&self.shared.counters.failed_writes, 1);
                    if self.paused_until.replace(now + PAUSE).is_none() {
                        tracing::warn!("nothing more is cached until the disk takes it: {error}");
                    }
                }
            }
        }
        self.shared.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
