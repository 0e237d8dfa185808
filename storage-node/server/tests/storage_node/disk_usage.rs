//! What a node says that it uses of its quota is what `du` says of its data directory.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use crate::support::{CodedBundle, skip};
use firn_base::{ByteCount, Timestamp};
use firn_storage_node::{DataDirectory, ShardStore};
use firn_transport::Environment;
use firn_wire::DeleteReason;

const NOW: Timestamp = Timestamp::from_millis(1_000_000_000_000);
const ROOMY: ByteCount = ByteCount(1 << 30);
const SECTOR_BYTES: u64 = 512;

/// Bytes that `path` takes with all that lies in it, as `du -B1` counts them.
fn usage(path: &Path) -> u64 {
    let metadata = std::fs::symlink_metadata(path).unwrap();
    let own = metadata.blocks() * SECTOR_BYTES;
    if !metadata.is_dir() {
        return own;
    }
    let below = std::fs::read_dir(path).unwrap();
    own + below.map(|entry| usage(&entry.unwrap().path())).sum::<u64>()
}

/// Whether the file system gives a file of one byte, and a directory, a block: others count otherwise, and are not asked.
fn gives_blocks(path: &Path) -> bool {
    let (file, directory) = (path.join("file"), path.join("directory"));
    std::fs::write(&file, [1]).unwrap();
    std::fs::File::open(&file).unwrap().sync_all().unwrap();
    std::fs::create_dir(&directory).unwrap();
    let block = rustix::fs::statvfs(path).unwrap().f_frsize;
    [file, directory].iter().all(|path| usage(path) == block)
}

fn put(store: &Arc<ShardStore>, bundle: &CodedBundle, index: u8) {
    let mut writer = store.begin(&bundle.header(index), NOW).unwrap();
    writer.write(bundle.shard(index)).unwrap();
    writer.finish().unwrap();
}

#[test]
fn the_bytes_in_use_are_what_du_says_also_after_a_kill() {
    // The one of temporary files is often in memory.
    let directories = [std::env::temp_dir(), env!("CARGO_TARGET_TMPDIR").into()];
    let mut places = directories.iter().map(|directory| tempfile::tempdir_in(directory).unwrap());
    let Some(place) = places.find(|place| gives_blocks(place.path())) else {
        return skip("a file system that gives files and directories whole blocks");
    };
    let path = place.path().join("node");
    let directory = DataDirectory::open(&path, &Environment::real()).unwrap();
    let store = ShardStore::open(directory.disk(), ROOMY, NOW).unwrap().0;
    let bundles: Vec<CodedBundle> = (0..40).map(|seed| CodedBundle::new(seed, 70_000, 2)).collect();
    for bundle in &bundles {
        put(&store, bundle, 0);
    }
    assert_eq!(store.used().0, usage(&path), "directories that are made count as they are made");
    store.trash(bundles[0].name(0), DeleteReason::Surplus, NOW).unwrap();
    // What the node keeps beside its shards, and what it was writing.
    std::fs::write(path.join("ledger"), vec![1; 10_000]).unwrap();
    std::fs::File::open(path.join("ledger")).unwrap().sync_all().unwrap();
    store.measure_beside().unwrap();
    assert_eq!(store.used().0, usage(&path));
    let mut writer = store.begin(&bundles[1].header(1), NOW).unwrap();
    writer.write(&bundles[1].shard(1)[..20_000]).unwrap();
    assert!(store.used().0 >= usage(&path), "what is being written has its room before its first byte");
    // Killed: no destructor runs.
    std::mem::forget(writer);
    let again = ShardStore::open(directory.disk(), ROOMY, NOW).unwrap().0;
    assert_eq!(again.used().0, usage(&path));
}
