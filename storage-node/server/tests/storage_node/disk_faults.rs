//! Power cuts, full disks and failing disks, by seed, over the disk in memory.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::support::CodedBundle;
use firn_base::{ByteCount, Timestamp};
use firn_bundle::decode_range_exact;
use firn_storage_node::{Disk, DiskFaults, MemoryDisk, ReadShardError, ShardName, ShardStore};
use firn_wire::DeleteReason;

const NOW: Timestamp = Timestamp::from_millis(1_000_000_000_000);
const ROOMY: ByteCount = ByteCount(1 << 30);

fn open(disk: &MemoryDisk) -> Arc<ShardStore> {
    ShardStore::open(Arc::new(disk.clone()), ROOMY, NOW).expect("the disk works").0
}

fn put(store: &Arc<ShardStore>, bundle: &CodedBundle, index: u8) -> bool {
    let Ok(mut writer) = store.begin(&bundle.header(index), NOW) else { return false };
    bundle.shard(index).chunks(30_000).all(|piece| writer.write(piece).is_ok()) && writer.finish().is_ok()
}

fn held(store: &ShardStore) -> BTreeSet<ShardName> {
    store.inventory(None, 10_000).0.into_iter().collect()
}

#[test]
fn whatever_was_acknowledged_survives_a_power_cut_and_the_rest_is_whole_or_gone() {
    let bundles: Vec<CodedBundle> = (0..4).map(|seed| CodedBundle::new(seed, 60_000, 1)).collect();
    for seed in 0..200 {
        let disk = MemoryDisk::new();
        let store = open(&disk);
        let mut acknowledged = BTreeSet::new();
        for bundle in &bundles[..3] {
            assert!(put(&store, bundle, 0));
            acknowledged.insert(bundle.name(0));
        }
        let mut unfinished = store.begin(&bundles[3].header(0), NOW).unwrap();
        let shard = bundles[3].shard(0);
        // Of some the last byte is written but nothing synced.
        let written = if seed % 2 == 0 { shard.len() } else { 20_000 };
        unfinished.write(&shard[..written]).unwrap();
        std::mem::forget(unfinished);
        disk.crash(seed);
        let (again, report) = ShardStore::open(Arc::new(disk.clone()), ROOMY, NOW).unwrap();
        assert_eq!(held(&again), acknowledged, "seed {seed}");
        assert_eq!(report.damaged, 0, "seed {seed}");
        for name in acknowledged {
            again.verify(name, NOW).unwrap();
        }
    }
}

#[test]
fn a_shard_that_was_trashed_is_after_a_power_cut_in_one_place_or_the_other() {
    let bundle = CodedBundle::new(1, 60_000, 1);
    for seed in 0..50 {
        let disk = MemoryDisk::new();
        let store = open(&disk);
        assert!(put(&store, &bundle, 0));
        store.trash(bundle.name(0), DeleteReason::Surplus, NOW).unwrap();
        disk.crash(seed);
        let again = open(&disk);
        assert_eq!((again.shards(), again.trash_bytes()), (0, store.trash_bytes()), "seed {seed}");
    }
}

#[test]
fn a_full_disk_refuses_and_keeps_what_is_there() {
    let (first, second) = (CodedBundle::new(1, 60_000, 1), CodedBundle::new(2, 60_000, 1));
    let disk = MemoryDisk::new();
    let store = open(&disk);
    assert!(put(&store, &first, 0));
    disk.set_capacity(Some(disk.used_bytes() + 40_000));
    assert!(!put(&store, &second, 0));
    assert_eq!(held(&store), BTreeSet::from([first.name(0)]));
    assert_eq!(store.used(), ByteCount(disk.used_bytes()));
    disk.set_capacity(None);
    assert!(put(&store, &second, 0));
}

#[test]
fn on_a_disk_that_is_unmounted_nothing_is_lost() {
    let bundles: Vec<CodedBundle> = (0..2).map(|seed| CodedBundle::new(seed, 60_000, 1)).collect();
    let disk = MemoryDisk::new();
    let store = open(&disk);
    assert!(put(&store, &bundles[0], 0));
    disk.set_mounted(false);
    let error = store.read(bundles[0].name(0), &(0..100), NOW).unwrap_err();
    assert!(matches!(error, ReadShardError::Disk(_)), "{error}");
    assert!(!put(&store, &bundles[1], 0));
    assert_eq!((store.losses(), held(&store)), (0, BTreeSet::from([bundles[0].name(0)])));
    disk.set_mounted(true);
    store.read(bundles[0].name(0), &(0..100), NOW).unwrap();
}

#[test]
fn with_a_failing_disk_nothing_is_acknowledged_that_is_not_there() {
    let bundles: Vec<CodedBundle> = (0..8).map(|seed| CodedBundle::new(seed, 60_000, 1)).collect();
    let (mut stored, mut refused) = (0, 0);
    for seed in 0..60 {
        let disk = MemoryDisk::new();
        let store = open(&disk);
        let faults = DiskFaults { read_errors_per_million: 0, write_errors_per_million: 60_000, seed };
        disk.set_faults(faults);
        let acknowledged: BTreeSet<ShardName> =
            bundles.iter().filter(|bundle| put(&store, bundle, 0)).map(|bundle| bundle.name(0)).collect();
        disk.set_faults(DiskFaults::default());
        assert!(store.used().0 >= disk.used_bytes(), "seed {seed}: every byte is counted");
        assert_eq!(held(&store), acknowledged, "seed {seed}");
        disk.crash(seed);
        let again = open(&disk);
        assert!(held(&again).is_superset(&acknowledged), "seed {seed}");
        for name in held(&again) {
            again.verify(name, NOW).unwrap();
        }
        stored += acknowledged.len();
        refused += bundles.len() - acknowledged.len();
    }
    assert!(stored > 50 && refused > 50, "both happen: {stored} stored, {refused} refused");
}

#[test]
fn a_read_that_fails_is_refused_without_giving_the_shard_up() {
    let bundle = CodedBundle::new(1, 60_000, 1);
    let disk = MemoryDisk::new();
    let store = open(&disk);
    assert!(put(&store, &bundle, 0));
    disk.set_faults(DiskFaults { read_errors_per_million: 1_000_000, ..DiskFaults::default() });
    assert!(store.read(bundle.name(0), &(0..100), NOW).is_err());
    disk.set_faults(DiskFaults::default());
    assert!(store.read(bundle.name(0), &(0..100), NOW).is_ok());
}

#[test]
fn erasing_goes_on_behind_what_the_disk_does_not_give() {
    let disk = MemoryDisk::new();
    let bundle = CodedBundle::new(1, 60_000, 2);
    let store = open(&disk);
    for index in 0..4 {
        assert!(put(&store, &bundle, index));
    }
    // One second apart, so that the one that cannot be read is looked at first.
    for (index, later) in [(2, 0), (3, 1)] {
        let now = NOW.after(std::time::Duration::from_secs(later));
        store.trash(bundle.name(index), DeleteReason::Surplus, now).unwrap();
    }
    let paths = || -> Vec<String> {
        disk.paths().into_iter().filter(|path| path.contains(&bundle.id().to_string())).collect()
    };
    let found = |ending: &str| paths().into_iter().find(|path| path.contains(ending)).unwrap();
    let (shard, trash) = (found(".0.shard"), found(".2."));
    for path in [&shard, &trash] {
        assert!(disk.set_readable(path, false));
    }
    let erased = BTreeSet::from([bundle.content.bundle_id()]);
    store.erase(&erased).unwrap_err();
    assert_eq!(paths().into_iter().collect::<BTreeSet<_>>(), BTreeSet::from([shard.clone(), trash.clone()]));
    assert_eq!((held(&store), store.losses()), (BTreeSet::new(), 1), "nobody is sent to it");
    for path in [&shard, &trash] {
        assert!(disk.set_readable(path, true));
    }
    assert_eq!(store.erase(&erased).unwrap(), 1);
    assert_eq!(open(&disk).erase(&erased).unwrap(), 1, "the next start finds it again");
    assert_eq!(paths(), Vec::<String>::new());
}

/// What a node's disk holds, wherever a bit flips: shards, one of them in trash, and what the store keeps beside them.
fn stocked() -> (MemoryDisk, Vec<(CodedBundle, u8)>) {
    let disk = MemoryDisk::new();
    let store = open(&disk);
    let shards = [(CodedBundle::new(1, 50_000, 1), 0), (CodedBundle::new(2, 100_000, 4), 5)];
    for (bundle, index) in &shards {
        assert!(put(&store, bundle, *index));
    }
    let trashed = CodedBundle::new(3, 20_000, 1);
    assert!(put(&store, &trashed, 0));
    store.trash(trashed.name(0), DeleteReason::Surplus, NOW).unwrap();
    (disk, shards.into())
}

/// Flips the bit that `seed` draws of all bits of all files; names the file.
fn flip_a_bit(disk: &MemoryDisk, seed: u64) -> String {
    let paths = disk.paths();
    let files: Vec<(String, u64)> = paths
        .into_iter()
        .map(|path| {
            let bytes = disk.open(&path).unwrap().bytes().unwrap();
            (path, bytes)
        })
        .collect();
    let drawn = blake3::hash(&seed.to_le_bytes());
    let mut bit = u64::from_le_bytes(drawn.as_bytes()[..8].try_into().unwrap()) % (disk.used_bytes() * 8);
    for (path, bytes) in files {
        if bit < bytes * 8 {
            assert!(disk.flip(&path, usize::try_from(bit / 8).unwrap(), 1 << (bit % 8)));
            return path;
        }
        bit -= bytes * 8;
    }
    unreachable!("it is one of these bits");
}

#[test]
fn a_bit_that_flips_anywhere_costs_its_own_shard_and_gives_nobody_a_wrong_byte() {
    let mut refused = 0;
    for seed in 0..1_000 {
        let (disk, shards) = stocked();
        // It flips while the node runs, or while it is off.
        let running = (seed % 2 == 0).then(|| open(&disk));
        let path = flip_a_bit(&disk, seed);
        let store = running.unwrap_or_else(|| open(&disk));
        for (bundle, index) in &shards {
            let (name, bytes) = (bundle.name(*index), bundle.coding.shard_bytes());
            let is_hurt = path.contains(&bundle.id().to_string());
            // In pieces, as readers ask; what each of them gets is what they would believe.
            for start in (0..bytes).step_by(16 << 10) {
                let range = start..bytes.min(start + (16 << 10));
                match store.read(name, &range, NOW) {
                    Ok(proved) => {
                        let root = bundle.header(*index).root();
                        let read = decode_range_exact(root, bytes, &range, &proved).unwrap();
                        let place = |offset: u64| usize::try_from(offset).unwrap();
                        let right = &bundle.shard(*index)[place(range.start)..place(range.end)];
                        assert!(read == right, "seed {seed}: {range:?} of {path}");
                    }
                    Err(ReadShardError::Damaged | ReadShardError::NotHere) => {
                        assert!(is_hurt, "seed {seed}: {name} was refused for {path}");
                        refused += 1;
                    }
                    Err(error) => panic!("seed {seed}: {error}"),
                }
            }
            assert_eq!(store.verify(name, NOW).is_err(), is_hurt, "seed {seed}: {path} is read as a whole");
            assert_eq!(store.holds(name), !is_hurt, "seed {seed}: {path} is declared");
        }
        store.keep_index().unwrap();
        assert_eq!(store.used(), ByteCount(disk.used_bytes()), "seed {seed}");
    }
    assert!(refused > 500, "most bits are those of shards: {refused}");
}
