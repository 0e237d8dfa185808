//! A disk that nobody reads from rests: accesses of a node are counted, in virtual time.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::CodedBundle;
use crate::support::world::LOOPBACK;
use firn_base::{ArchiveId, ByteCount, DiskWindows, Timestamp};
use firn_storage_node::{
    DeletionLimits, Disk, DiskEntry, DiskFile, LineTerms, MemoryDisk, ScrubPlan, ShardStore, StorageNode,
    StorageNodeOptions,
};
use firn_transport::{Blocking, Clock, Entropy, Environment};
use firn_wire::{CoordinatorEntry, Descriptor, Identity, Roster, Signed};
use tokio::time::Instant;

// Midnight, UTC.
const BEGIN: Timestamp = Timestamp::from_millis(20_000 * 86_400_000);
const HOUR: Duration = Duration::from_secs(3600);
const HOURS: u64 = 48;
const SHARDS: u8 = 240;

/// A clock that goes with the runtime's.
#[derive(Debug)]
struct VirtualClock {
    began: Instant,
}

impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        BEGIN.after(self.began.elapsed())
    }
}

#[derive(Debug)]
struct Seeded(Mutex<u64>);

impl Entropy for Seeded {
    fn fill(&self, bytes: &mut [u8]) {
        let mut count = self.0.lock().unwrap();
        *count += 1;
        blake3::Hasher::new().update(&count.to_le_bytes()).finalize_xof().fill(bytes);
    }
}

/// Accesses within an hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Accesses {
    /// Calls that concern shard files or directories of them.
    shards: u64,
    /// Small files replaced.
    replaced: u64,
    /// All calls but looks at the marker, which lies in the kernel's memory.
    all: u64,
    looks: u64,
}

/// Counts what is asked of a disk, by the hour.
#[derive(Debug, Clone)]
struct Counting {
    disk: MemoryDisk,
    began: Instant,
    hours: Arc<Mutex<BTreeMap<u64, Accesses>>>,
}

#[derive(Debug)]
struct CountingFile {
    file: Box<dyn DiskFile>,
    path: String,
    disk: Counting,
}

impl Counting {
    fn count(&self, count: impl FnOnce(&mut Accesses)) {
        let hour = self.began.elapsed().as_secs() / 3600;
        count(self.hours.lock().unwrap().entry(hour).or_default());
    }

    fn touch(&self, path: &str) {
        let is_shards = path.starts_with("shards/") && path != "shards/marker";
        self.count(|accesses| {
            accesses.all += 1;
            accesses.shards += u64::from(is_shards);
        });
    }

    fn file(&self, path: &str, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(CountingFile { file, path: path.to_owned(), disk: self.clone() })
    }

    fn of(&self, hour: u64) -> Accesses {
        self.hours.lock().unwrap().get(&hour).copied().unwrap_or_default()
    }
}

impl Disk for Counting {
    fn create(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        self.touch(path);
        self.disk.create(path).map(|file| self.file(path, file))
    }

    fn open(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        self.touch(path);
        self.disk.open(path).map(|file| self.file(path, file))
    }

    fn open_writable(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        self.touch(path);
        self.disk.open_writable(path).map(|file| self.file(path, file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.touch(to);
        self.count(|accesses| accesses.replaced += 1);
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.touch(path);
        self.disk.remove(path)
    }

    fn make_directory(&self, path: &str) -> io::Result<()> {
        self.touch(path);
        self.disk.make_directory(path)
    }

    fn sync_directory(&self, path: &str) -> io::Result<()> {
        self.touch(path);
        self.disk.sync_directory(path)
    }

    fn list(&self, path: &str) -> io::Result<Vec<DiskEntry>> {
        self.touch(path);
        self.disk.list(path)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.disk.free_bytes()
    }

    fn check_presence(&self) -> io::Result<()> {
        self.count(|accesses| accesses.looks += 1);
        self.disk.check_presence()
    }
}

impl DiskFile for CountingFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.disk.touch(&self.path);
        self.file.write_at(offset, bytes)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.disk.touch(&self.path);
        self.file.read_at(offset, buffer)
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.touch(&self.path);
        self.file.sync()
    }

    fn bytes(&self) -> io::Result<u64> {
        self.file.bytes()
    }
}

fn fill(disk: &MemoryDisk) {
    let (store, _) = ShardStore::open(Arc::new(disk.clone()), ByteCount(1 << 30), BEGIN).unwrap();
    for seed in 0..SHARDS {
        let bundle = CodedBundle::new(seed, 1_000, 1);
        let mut writer = store.begin(&bundle.header(0), BEGIN).unwrap();
        writer.write(bundle.shard(0)).unwrap();
        writer.finish().unwrap();
    }
}

/// A node whose only coordinator is away: a virtual clock does not wait for answers over real sockets. Heartbeats touch
/// no disk.
fn options(disk: Arc<dyn Disk>) -> StorageNodeOptions {
    let [key, coordinator] = [101, 102].map(|seed| Identity::from_seed(&[seed; 32]));
    let archive = ArchiveId::from(key.public());
    let roster = Roster {
        archive,
        generation: 1,
        issued: BEGIN,
        coordinators: vec![CoordinatorEntry {
            id: coordinator.node_id(),
            raft_id: 1,
            address: "127.0.0.1:9".to_owned(),
        }],
        retired: vec![],
    };
    StorageNodeOptions {
        identity: Identity::from_seed(&[1; 32]),
        disk,
        descriptor: Descriptor { archive, roster: Signed::seal(&key, archive, &roster) },
        token: None,
        quota: Some(ByteCount(1 << 30)),
        terms: LineTerms::default(),
        deletion_limits: DeletionLimits::STANDARD,
        scrub: ScrubPlan::STANDARD,
        failure_domain: "shelf".to_owned(),
        listen: LOOPBACK,
        advertise: None,
        own_address: None,
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_nobody_reads_from_leaves_its_disk_alone_between_windows() {
    let disk = MemoryDisk::new();
    fill(&disk);
    let began = Instant::now();
    let counting = Counting { disk, began, hours: Arc::default() };
    let environment = Environment::new(
        Arc::new(VirtualClock { began }),
        Arc::clone(Environment::real().sockets()),
        Arc::new(Seeded(Mutex::new(0))),
        Blocking::Inline,
    );
    let node = StorageNode::start(environment, options(Arc::new(counting.clone()))).await.unwrap();
    let gone = tokio::time::timeout(HOUR * u32::try_from(HOURS).unwrap(), node.disk_gone()).await;
    assert!(gone.is_err(), "the disk was there all the time");
    let windows = DiskWindows::STANDARD;
    let at = |hour: u64| BEGIN.after(HOUR * u32::try_from(hour).unwrap());
    let (mut read, mut quiet) = (0, 0);
    // In the first hours the count of traffic is young, and kept closely.
    for hour in 24..HOURS {
        let accesses = counting.of(hour);
        assert!(accesses.looks >= 59, "hour {hour}: it looks whether its disk is there, {accesses:?}");
        if windows.is_open(at(hour)) {
            read += accesses.shards;
            continue;
        }
        assert_eq!(accesses.shards, 0, "hour {hour}: {accesses:?}");
        // The count of traffic, now and then.
        assert!(accesses.replaced <= 1 && accesses.all <= 5 * accesses.replaced, "hour {hour}: {accesses:?}");
        quiet += u64::from(accesses.all == 0);
    }
    assert!(read > 0, "shards are read again in the windows");
    assert!(quiet >= 18, "of 20 hours between windows the disk was left alone in {quiet}");
    let whole =
        (24..HOURS).step_by(6).filter(|begin| (1..6).all(|hour| counting.of(begin + hour).all == 0)).count();
    assert!(whole >= 2, "for five hours on end it rested {whole} times of 4");
    println!(
        "of 20 hours between windows the disk was left alone in {quiet}; five on end {whole} times of 4"
    );
    node.shutdown().await;
}
