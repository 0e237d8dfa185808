//! The shards on one disk.
//!
//! Owns: which shards are here, the account of bytes, and the order in which files and directories are synced. Always
//! holds: a shard is listed only when its file was whole, verified, synced and named durably; the files together never
//! exceed the quota; a file found damaged is set aside and never served.
//! Leaves to others: who may store and read (`admission`), trash (`trash`), and the disk itself ([`Disk`]). All calls
//! block.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::num::NonZeroUsize;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use firn_base::{BundleId, ByteCount, CodingId, Timestamp};
use firn_storage_node_logic::{Account, DeletionLimits, DiskFilled, DiskRoom, QuotaExceeded, YoungTrash};
use firn_wire::DeletionRoom;
use lru::LruCache;
use tokio::sync::Notify;

use super::disk::Disk;
use super::index::Index;
use super::name::{SHARDS, ShardName, TrashName};
use super::scan::{ScanReport, scan};
use super::shard_file::OpenShard;

// Open files kept for the next range: well below the usual limit of 1,024 descriptors.
const OPEN_SHARDS_MAX: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");

/// The shards on one disk. Shared; every method may be called at any time.
#[derive(Debug)]
pub struct ShardStore {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) shelf: Mutex<Shelf>,
    pub(super) open: Mutex<LruCache<ShardName, Arc<OpenShard>>>,
    // Taken before the shelf where both are.
    pub(super) index: Mutex<Index>,
    // Whether whoever has the index waits for the disk.
    pub(super) is_mending: AtomicBool,
    // Codings that are to have a record in it and were not noted.
    pub(super) unnoted: Mutex<BTreeSet<CodingId>>,
    losses: AtomicU64,
    pub(super) doubts: Notify,
}

/// What is where.
#[derive(Debug)]
pub(super) struct Shelf {
    pub(super) account: Account,
    pub(super) shards: BTreeMap<ShardName, HeldShard>,
    // Files in the place of a shard that are none for this program, or cannot be read, with their bytes.
    pub(super) unlisted: BTreeMap<ShardName, u64>,
    // Bundles of which nothing is taken any more.
    pub(super) erased: BTreeSet<BundleId>,
    pub(super) writing: BTreeSet<ShardName>,
    pub(super) trash: BTreeMap<TrashName, u64>,
    pub(super) limits: DeletionLimits,
    // Directories that are known to survive a power cut.
    pub(super) directories: BTreeSet<u8>,
    // Of these, and of others of their kind, those that the account counts.
    pub(super) counted: BTreeSet<u8>,
}

/// What is remembered of a shard that is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HeldShard {
    /// Bytes of its file.
    pub(super) bytes: u64,
    /// The bundle that it is of: its name says the coding only.
    pub(super) bundle: BundleId,
}

/// What a store holds at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreFigures {
    /// Shards.
    pub shards: u64,
    /// The quota.
    pub quota: ByteCount,
    /// Bytes in use: shards, files being written, trash, the index of shards, and what lies beside them in the data directory.
    pub used: ByteCount,
    /// Of these, what is set aside for files that are being written.
    pub pending: ByteCount,
    /// Of these, what lies beside.
    pub beside: ByteCount,
    /// Of these, trash.
    pub trash: ByteCount,
    /// Of that, what is too young to make room.
    pub young: YoungTrash,
    /// What it would still delete now.
    pub deletion_room: DeletionRoom,
}

impl StoreFigures {
    /// Bytes of the quota that no new shard can have now.
    pub const fn unavailable(&self) -> ByteCount {
        ByteCount(self.used.0.saturating_sub(self.old_trash().0))
    }

    /// Trash that is old enough to make room.
    pub const fn old_trash(&self) -> ByteCount {
        ByteCount(self.trash.0.saturating_sub(self.young.bytes))
    }

    /// The room on a disk that has `free` left.
    pub const fn disk_room(&self, free: ByteCount) -> DiskRoom {
        DiskRoom::new(free, self.old_trash(), self.quota).beside(self.pending)
    }
}

impl Shelf {
    /// What it holds, and would still delete at `now`.
    pub(super) fn figures(&self, now: Timestamp) -> StoreFigures {
        let young = self.young_trash(now);
        StoreFigures {
            shards: self.shards.len() as u64,
            quota: self.account.quota(),
            used: self.account.used(),
            pending: self.account.pending(),
            beside: self.account.beside(),
            trash: self.account.trash(),
            young,
            deletion_room: self.limits.room(self.account.stored_file_bytes(), &young),
        }
    }
}

/// Why a shard was not taken.
#[derive(Debug, thiserror::Error)]
pub enum StoreShardError {
    /// The shard is here.
    #[error("the shard is here already")]
    AlreadyHere,
    /// Another connection is bringing it.
    #[error("the shard is being brought by another connection: try again later")]
    InProgress,
    /// There is no room.
    #[error(transparent)]
    QuotaExceeded(#[from] QuotaExceeded),
    /// There is room within the quota, and none on the disk.
    #[error(transparent)]
    DiskFilled(#[from] DiskFilled),
    /// The bytes are not the ones announced.
    #[error("the bytes brought are not the shard of the ticket: its root or length differs")]
    WrongBytes,
    /// Its bundle was erased.
    #[error("the bundle of this shard was erased: no node takes it any more")]
    Erased,
    /// The disk failed; nothing was kept.
    #[error("the node's disk failed: {0}")]
    Disk(io::Error),
}

impl From<io::Error> for StoreShardError {
    fn from(error: io::Error) -> Self {
        Self::Disk(error)
    }
}

impl ShardStore {
    /// Opens what `disk` holds: removes torn files, sets aside those that are found damaged, and reads the headers that are
    /// not in the index. [`Self::keep_index`] writes down what they said.
    ///
    /// # Errors
    ///
    /// The directories cannot be made or listed. A single bad file is no error: it is in the report.
    pub fn open(
        disk: Arc<dyn Disk>,
        quota: ByteCount,
        now: Timestamp,
    ) -> io::Result<(Arc<Self>, ScanReport)> {
        let mut shelf = Shelf {
            account: Account::new(quota).in_blocks_of(disk.block_bytes()),
            shards: BTreeMap::new(),
            unlisted: BTreeMap::new(),
            erased: BTreeSet::new(),
            writing: BTreeSet::new(),
            trash: BTreeMap::new(),
            limits: DeletionLimits::STANDARD,
            directories: BTreeSet::new(),
            counted: BTreeSet::new(),
        };
        let (report, index) = scan(disk.as_ref(), &mut shelf, now)?;
        let store = Self {
            disk,
            shelf: Mutex::new(shelf),
            open: Mutex::new(LruCache::new(OPEN_SHARDS_MAX)),
            index: Mutex::new(index),
            is_mending: AtomicBool::new(false),
            unnoted: Mutex::default(),
            losses: AtomicU64::new(0),
            doubts: Notify::new(),
        };
        // It counts too little then until it is measured again; that costs nobody a shard.
        if let Err(error) = store.measure_beside() {
            tracing::warn!(%error, "the data directory cannot be measured");
        }
        Ok((Arc::new(store), report))
    }

    /// Whether the shard is here.
    pub fn holds(&self, name: ShardName) -> bool {
        self.shelf().shards.contains_key(&name)
    }

    /// Up to `count` shards behind `after`, in order, and whether there are more.
    pub fn inventory(&self, after: Option<ShardName>, count: usize) -> (Vec<ShardName>, bool) {
        let shelf = self.shelf();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut behind = shelf.shards.range((from, Bound::Unbounded)).map(|(name, _)| *name);
        let page = behind.by_ref().take(count).collect();
        (page, behind.next().is_some())
    }

    /// How many shards are here.
    pub fn shards(&self) -> u64 {
        self.shelf().shards.len() as u64
    }

    /// The quota.
    pub fn quota(&self) -> ByteCount {
        self.shelf().account.quota()
    }

    /// Changes the quota. What is here stays, even if it is more.
    pub fn set_quota(&self, quota: ByteCount) {
        self.shelf().account.set_quota(quota);
    }

    /// Changes how much is deleted within a day: other limits than the standard ones are for tests.
    pub fn set_deletion_limits(&self, limits: DeletionLimits) {
        self.shelf().limits = limits;
    }

    /// Bytes in use: shards, files being written, trash, the index of shards, and what lies beside them.
    pub fn used(&self) -> ByteCount {
        self.shelf().account.used()
    }

    /// Bytes of trash.
    pub fn trash_bytes(&self) -> ByteCount {
        self.shelf().account.trash()
    }

    /// How many shards were found damaged since the store was opened: whoever counts on them must be told.
    pub fn losses(&self) -> u64 {
        self.losses.load(Ordering::Acquire)
    }

    /// What the node holds and would still delete at `now`.
    pub fn figures(&self, now: Timestamp) -> StoreFigures {
        self.shelf().figures(now)
    }

    /// Waits until a shard was not found and its disk neither.
    pub(crate) async fn doubts_its_disk(&self) {
        self.doubts.notified().await;
    }

    pub(super) fn count_loss(&self) {
        self.losses.fetch_add(1, Ordering::AcqRel);
    }

    /// Makes the directory of a shard so that it survives a power cut.
    pub(super) fn ensure_directory(&self, name: ShardName) -> io::Result<()> {
        let fan = name.coding.as_bytes()[0];
        if self.shelf().directories.contains(&fan) {
            return Ok(());
        }
        self.disk.make_directory(&name.directory())?;
        self.disk.sync_directory(SHARDS)?;
        let mut shelf = self.shelf();
        shelf.directories.insert(fan);
        shelf.count_directory(fan);
        Ok(())
    }

    pub(super) fn forget_open(&self, name: ShardName) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).pop(&name);
    }

    pub(super) fn shelf(&self) -> MutexGuard<'_, Shelf> {
        // A thread that panicked with the lock has changed one of these collections or none.
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
