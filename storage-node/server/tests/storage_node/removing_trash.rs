//! However much goes out of trash, nobody waits for it with what the store knows.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak, mpsc};
use std::time::Duration;

use crate::support::CodedBundle;
use firn_base::{ByteCount, Timestamp};
use firn_storage_node::{Disk, DiskEntry, DiskFile, INDEX_RECORD_BYTES, MemoryDisk, ShardStore};
use firn_wire::DeleteReason;

const NOW: Timestamp = Timestamp::from_millis(1_000_000_000_000);
const DAY: Duration = Duration::from_secs(24 * 3600);
const IN_VAIN: Duration = Duration::from_secs(60);

/// While it removes a file somebody else looks at the store on it.
#[derive(Debug, Default)]
struct LookedAt {
    disk: MemoryDisk,
    store: OnceLock<Weak<ShardStore>>,
    looks: AtomicU64,
}

impl Disk for LookedAt {
    fn create(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        self.disk.create(path)
    }

    fn open(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        self.disk.open(path)
    }

    fn open_writable(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        self.disk.open_writable(path)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let store = self.store.get().and_then(Weak::upgrade).expect("nothing is removed before it is open");
        let (told, seen) = mpsc::channel();
        std::thread::spawn(move || told.send(store.figures(NOW)));
        seen.recv_timeout(IN_VAIN).expect("whoever looks does not wait for the file");
        self.looks.fetch_add(1, Ordering::Relaxed);
        self.disk.remove(path)
    }

    fn make_directory(&self, path: &str) -> io::Result<()> {
        self.disk.make_directory(path)
    }

    fn sync_directory(&self, path: &str) -> io::Result<()> {
        self.disk.sync_directory(path)
    }

    fn list(&self, path: &str) -> io::Result<Vec<DiskEntry>> {
        self.disk.list(path)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.disk.free_bytes()
    }

    fn check_presence(&self) -> io::Result<()> {
        self.disk.check_presence()
    }
}

#[test]
fn nobody_waits_while_trash_is_removed() {
    let disk = Arc::new(LookedAt::default());
    let bundle = CodedBundle::new(1, 100_000, 2);
    let file_bytes = bundle.header(0).layout().file_bytes;
    // Each of them is noted in the index, for none of its coding is there when it comes.
    let quota = ByteCount(4 * file_bytes + 5 * INDEX_RECORD_BYTES);
    let store = ShardStore::open(Arc::clone(&disk) as _, quota, NOW).unwrap().0;
    disk.store.set(Arc::downgrade(&store)).unwrap();
    for index in 0..4 {
        let mut writer = store.begin(&bundle.header(index), NOW).unwrap();
        writer.write(bundle.shard(index)).unwrap();
        writer.finish().unwrap();
        assert!(store.trash(bundle.name(index), DeleteReason::Surplus, NOW).unwrap());
    }
    let writer = store.begin(&bundle.header(4), NOW.after(DAY)).unwrap();
    assert_eq!((disk.looks.load(Ordering::Relaxed), store.trash_bytes()), (1, ByteCount(3 * file_bytes)));
    // The record that is set aside takes room, too: this one needs that of two.
    let other = store.begin(&bundle.header(5), NOW.after(DAY)).unwrap();
    assert_eq!((disk.looks.load(Ordering::Relaxed), store.trash_bytes()), (3, ByteCount(file_bytes)));
    assert_eq!(store.empty_trash(NOW.after(8 * DAY)).unwrap(), 1);
    assert_eq!((disk.looks.load(Ordering::Relaxed), store.trash_bytes()), (4, ByteCount(0)));
    drop((writer, other));
}
