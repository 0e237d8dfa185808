//! Who orders deletions reckons in lengths of files, whatever the disk of the node gives for them.

use std::io;
use std::sync::Arc;

use crate::support::CodedBundle;
use firn_base::{ByteCount, Timestamp};
use firn_storage_node::{DeletionLimits, Disk, DiskEntry, DiskFile, MemoryDisk, ShardName, ShardStore};
use firn_wire::{DeleteReason, DeletionRoom};

const NOW: Timestamp = Timestamp::from_millis(1_000_000_000_000);
const ROOMY: ByteCount = ByteCount(1 << 30);
const BLOCK_BYTES: u64 = 4_096;

/// A disk that gives files whole blocks, as nearly all do.
#[derive(Debug, Default)]
struct InBlocks(MemoryDisk);

impl Disk for InBlocks {
    fn create(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        self.0.create(path)
    }

    fn open(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        self.0.open(path)
    }

    fn open_writable(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        self.0.open_writable(path)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.0.remove(path)
    }

    fn make_directory(&self, path: &str) -> io::Result<()> {
        self.0.make_directory(path)
    }

    fn sync_directory(&self, path: &str) -> io::Result<()> {
        self.0.sync_directory(path)
    }

    fn list(&self, path: &str) -> io::Result<Vec<DiskEntry>> {
        self.0.list(path)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.0.free_bytes()
    }

    fn block_bytes(&self) -> u64 {
        BLOCK_BYTES
    }

    fn check_presence(&self) -> io::Result<()> {
        self.0.check_presence()
    }
}

/// A leader, as it orders: it was told the room once, and takes off it what each file has.
struct Leader {
    room: DeletionRoom,
    file_bytes: u64,
}

impl Leader {
    /// Orders deletions of `names` until none fits, and says how many were done.
    fn order(
        &mut self,
        store: &ShardStore,
        names: &mut impl Iterator<Item = ShardName>,
        reason: DeleteReason,
    ) -> u64 {
        let mut ordered = 0;
        while let Some(after) = self.room.after(reason, self.file_bytes) {
            self.room = after;
            let name = names.next().expect("not all of them may go");
            assert!(store.trash(name, reason, NOW).expect("what fits is not refused"));
            ordered += 1;
        }
        ordered
    }
}

#[test]
fn a_leader_that_keeps_to_the_room_it_was_told_is_never_refused() {
    let disk: Arc<dyn Disk> = Arc::new(InBlocks::default());
    // Large parts, so that what is lost between lengths and blocks is more than a file.
    let limits = DeletionLimits { all_percent: 50, unique_percent: 10, floor_bytes: 0 };
    let open = || {
        let store = ShardStore::open(Arc::clone(&disk), ROOMY, NOW).unwrap().0;
        store.set_deletion_limits(limits);
        store
    };
    let store = open();
    let bundles: Vec<CodedBundle> = (0..8).map(|seed| CodedBundle::new(seed, 1_000, 2)).collect();
    for bundle in &bundles {
        for index in 0..6 {
            let mut writer = store.begin(&bundle.header(index), NOW).unwrap();
            writer.write(bundle.shard(index)).unwrap();
            writer.finish().unwrap();
        }
    }
    let file_bytes = bundles[0].header(0).layout().file_bytes;
    let lost = file_bytes.next_multiple_of(BLOCK_BYTES) - file_bytes;
    assert!(24 * lost > file_bytes, "else blocks would be as good as lengths");
    let mut names = bundles.iter().flat_map(|bundle| (0..6).map(|index| bundle.name(index)));
    let told = |store: &ShardStore| Leader { room: store.figures(NOW).deletion_room, file_bytes };

    let mut leader = told(&store);
    assert_eq!(leader.room.all, ByteCount(24 * file_bytes));
    // A tenth of 48 are four, half of them 24.
    assert_eq!(leader.order(&store, &mut names, DeleteReason::AbandonedUpload), 4);
    // A restart counts what lies in trash as it was counted before.
    let store = open();
    assert_eq!(store.figures(NOW).deletion_room, leader.room);
    let mut leader = told(&store);
    assert_eq!(leader.order(&store, &mut names, DeleteReason::ReplacedCoding), 20);
    assert_eq!(store.figures(NOW).deletion_room, leader.room);
    // Its room for others is counted in blocks all the same.
    assert_eq!(store.figures(NOW).young.bytes, 24 * (file_bytes + lost));
}
