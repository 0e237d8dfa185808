//! A disk that is full before its time, because others write there too: a small tmpfs. It needs root; with
//! `FIRN_TEST_ROOT=required` that has to be there.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use crate::support::{CodedBundle, skip};
use firn_base::{ByteCount, Timestamp};
use firn_storage_node::{FileDisk, ShardStore, StoreShardError};
use firn_wire::DeleteReason;

const NOW: Timestamp = Timestamp::from_millis(1_000_000_000_000);
// More than the disk has.
const ROOMY: ByteCount = ByteCount(1 << 30);
const PAGE: usize = 4096;

/// A file system in memory, mounted.
struct Mounted {
    place: tempfile::TempDir,
}

impl Mounted {
    /// An empty one; none where this user cannot have it.
    fn new(bytes: usize) -> Option<Self> {
        let place = tempfile::tempdir().unwrap();
        let size = format!("size={bytes}");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(place.path()).output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Self { place })
    }

    fn path(&self) -> &Path {
        self.place.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.path()).output();
    }
}

fn put(store: &Arc<ShardStore>, bundle: &CodedBundle) -> Result<(), StoreShardError> {
    let mut writer = store.begin(&bundle.header(0), NOW)?;
    for piece in bundle.shard(0).chunks(PAGE) {
        writer.write(piece)?;
    }
    writer.finish().map(|_| ())
}

/// Bytes of all files below `directory`.
fn bytes_below(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).unwrap().map(Result::unwrap);
    entries
        .map(|entry| {
            let metadata = entry.metadata().unwrap();
            if metadata.is_dir() { bytes_below(&entry.path()) } else { metadata.len() }
        })
        .sum()
}

#[test]
fn a_disk_that_others_fill_loses_nothing_that_was_acknowledged() {
    let Some(mounted) = Mounted::new(1 << 20) else {
        return skip("root and tmpfs");
    };
    let node = mounted.path().join("node");
    std::fs::create_dir(&node).unwrap();
    let open = || ShardStore::open(Arc::new(FileDisk::new(&node)), ROOMY, NOW).unwrap().0;
    let store = open();
    let bundles: Vec<CodedBundle> = (0..48).map(|seed| CodedBundle::new(seed, 60_000, 1)).collect();
    let mut acknowledged = Vec::new();
    let foreign = mounted.path().join("film.mkv");
    for (turn, bundle) in bundles.iter().enumerate() {
        // Others leave a page more each time: the disk is full at another write of a shard.
        let free =
            usize::try_from(firn_storage_node::Disk::free_bytes(&FileDisk::new(&node)).unwrap()).unwrap();
        std::fs::write(&foreign, vec![7; free.saturating_sub((turn % 24) * PAGE)]).unwrap();
        match put(&store, bundle) {
            Ok(()) => acknowledged.push(bundle),
            Err(StoreShardError::Disk(error)) => {
                assert_eq!(error.kind(), std::io::ErrorKind::StorageFull, "turn {turn}: {error}");
            }
            Err(error) => panic!("turn {turn}: {error}"),
        }
        assert_eq!(store.used(), ByteCount(bytes_below(&node)), "turn {turn}");
        std::fs::remove_file(&foreign).unwrap();
        if acknowledged.len() == 8 {
            let name = acknowledged.remove(0).name(0);
            store.trash(name, DeleteReason::Surplus, NOW).unwrap();
            assert_eq!(store.empty_trash(NOW.after(std::time::Duration::from_secs(8 * 86_400))).unwrap(), 1);
        }
    }
    let refused = bundles.len() - acknowledged.len();
    assert!(acknowledged.len() > 2 && refused > 20, "both happen: {} and {refused}", acknowledged.len());
    for store in [Arc::clone(&store), open()] {
        assert_eq!(store.shards(), acknowledged.len() as u64);
        assert_eq!(store.used(), ByteCount(bytes_below(&node)));
        for bundle in &acknowledged {
            store.verify(bundle.name(0), NOW).unwrap();
        }
    }
    // Where there is room again everything goes on.
    put(&open(), &CodedBundle::new(99, 60_000, 1)).unwrap();
}
