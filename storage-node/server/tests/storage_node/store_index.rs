//! The index of shards: it spares a start the shard files, and is never believed against them.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::support::CodedBundle;
use firn_base::{BundleId, ByteCount, Timestamp};
use firn_storage_node::{
    DataDirectory, Disk, INDEX_RECORD_BYTES, MemoryDisk, ReadShardError, ScanReport, ShardName, ShardStore,
};
use firn_transport::Environment;

const NOW: Timestamp = Timestamp::from_millis(1_000_000_000_000);
const ROOMY: ByteCount = ByteCount(1 << 30);
const INDEX: &str = "shards/index";

fn open(disk: &MemoryDisk) -> (Arc<ShardStore>, ScanReport) {
    ShardStore::open(Arc::new(disk.clone()), ROOMY, NOW).unwrap()
}

fn put(store: &Arc<ShardStore>, bundle: &CodedBundle, index: u8) {
    let mut writer = store.begin(&bundle.header(index), NOW).unwrap();
    writer.write(bundle.shard(index)).unwrap();
    writer.finish().unwrap();
}

fn held(store: &ShardStore) -> BTreeSet<ShardName> {
    store.inventory(None, 1_000).0.into_iter().collect()
}

/// A disk with two shards of each of four bundles.
fn stocked() -> (MemoryDisk, Vec<CodedBundle>) {
    let disk = MemoryDisk::new();
    let bundles: Vec<CodedBundle> = (0..4).map(|seed| CodedBundle::new(seed, 60_000, 1)).collect();
    let (store, _) = open(&disk);
    for bundle in &bundles {
        put(&store, bundle, 0);
        put(&store, bundle, 2);
    }
    (disk, bundles)
}

fn content(disk: &MemoryDisk) -> Vec<u8> {
    let file = disk.open(INDEX).unwrap();
    let mut bytes = vec![0; usize::try_from(file.bytes().unwrap()).unwrap()];
    assert_eq!(file.read_at(0, &mut bytes).unwrap(), bytes.len());
    bytes
}

fn replace(disk: &MemoryDisk, content: &[u8]) {
    disk.create(INDEX).unwrap().write_at(0, content).unwrap();
}

/// A record as docs/formats.md gives it.
fn record(bundle: &CodedBundle, of: BundleId, file_bytes: u64) -> Vec<u8> {
    let mut record = [bundle.id().as_bytes().as_slice(), of.as_bytes()].concat();
    record.extend(file_bytes.to_le_bytes());
    let check = blake3::derive_key("firn shard index 1", &record);
    record.extend(&check[..8]);
    record
}

fn file_bytes(bundle: &CodedBundle) -> u64 {
    bundle.header(0).layout().file_bytes
}

#[test]
fn each_coding_is_noted_once_as_the_format_says() {
    let (disk, bundles) = stocked();
    let expected: Vec<u8> = bundles
        .iter()
        .flat_map(|bundle| record(bundle, bundle.content.bundle_id(), file_bytes(bundle)))
        .collect();
    assert_eq!(content(&disk), expected);
    assert_eq!(expected.len() as u64, 4 * INDEX_RECORD_BYTES);
}

#[test]
fn a_start_reads_no_shard_that_the_index_knows_and_any_other() {
    let (disk, bundles) = stocked();
    assert_eq!(open(&disk).1, ScanReport { shards: 8, ..ScanReport::default() });
    let whole = content(&disk);
    let record_bytes = usize::try_from(INDEX_RECORD_BYTES).unwrap();
    let mut flipped = whole.clone();
    flipped[record_bytes + 40] ^= 1;
    let foreign = record(&CodedBundle::new(50, 60_000, 1), bundles[0].content.bundle_id(), 70_000);
    let too_long = record(&bundles[3], bundles[3].content.bundle_id(), file_bytes(&bundles[3]) + 1);
    for (what, index, headers_read) in [
        ("nothing", Vec::new(), 8),
        ("half", whole[..2 * record_bytes].to_vec(), 4),
        ("a torn record", whole[..4 * record_bytes - 1].to_vec(), 2),
        ("a flipped bit", flipped, 2),
        ("zeros", vec![0; whole.len()], 8),
        ("another length", [&whole[..], &too_long].concat(), 2),
        ("one of a shard that went", [&whole[..], &foreign].concat(), 0),
    ] {
        replace(&disk, &index);
        let (store, report) = open(&disk);
        assert_eq!((report.shards, report.headers_read), (8, headers_read), "{what}");
        store.keep_index().unwrap();
        assert_eq!(store.used().0, 8 * file_bytes(&bundles[0]) + content(&disk).len() as u64, "{what}");
        let (again, report) = open(&disk);
        assert_eq!((report.headers_read, held(&again)), (0, held(&store)), "{what}");
    }
    disk.remove(INDEX).unwrap();
    assert_eq!(open(&disk).1.headers_read, 8);
}

#[test]
fn what_went_or_came_while_the_node_was_off_is_seen_though_the_index_says_otherwise() {
    let (disk, bundles) = stocked();
    let paths = disk.paths();
    let file = |bundle: &CodedBundle, index: u8| {
        let name = format!("{}.{index}.shard", bundle.id());
        paths.iter().find(|path| path.ends_with(&name)).unwrap().clone()
    };
    disk.remove(&file(&bundles[0], 0)).unwrap();
    disk.remove(&file(&bundles[0], 2)).unwrap();
    let (store, report) = open(&disk);
    assert_eq!((report.shards, report.headers_read), (6, 0));
    assert!(
        !store.holds(bundles[0].name(0))
            && matches!(store.read(bundles[0].name(0), &(0..1), NOW), Err(ReadShardError::NotHere))
    );
    assert_eq!(store.losses(), 0);
    // It comes back.
    put(&store, &bundles[0], 0);
    assert!(open(&disk).0.holds(bundles[0].name(0)));
}

#[test]
fn a_record_that_names_another_bundle_is_mended_by_the_first_reader_and_hides_nothing_from_erasure() {
    let (disk, bundles) = stocked();
    let [lied, other] = [&bundles[0], &bundles[1]];
    let mut index = content(&disk);
    index.extend(record(lied, other.content.bundle_id(), file_bytes(lied)));
    replace(&disk, &index);
    let (store, report) = open(&disk);
    assert_eq!(report.headers_read, 0);
    let erase = |bundle: &CodedBundle| store.erase(&BTreeSet::from([bundle.content.bundle_id()])).unwrap();
    // Nothing goes on the word of the index.
    assert_eq!(erase(other), 2);
    assert!(store.holds(lied.name(0)) && store.holds(lied.name(2)));
    let (store, _) = open(&disk);
    let erase = |bundle: &CodedBundle| store.erase(&BTreeSet::from([bundle.content.bundle_id()])).unwrap();
    // The lie keeps it here, but whoever reads it finds the truth.
    assert_eq!(erase(lied), 0);
    assert!(matches!(store.read(lied.name(0), &(0..1), NOW), Err(ReadShardError::NotHere)));
    assert!(!store.holds(lied.name(0)));
    assert!(!store.holds(lied.name(2)), "one header speaks for its coding");
    store.keep_index().unwrap();
    let (again, report) = open(&disk);
    assert_eq!((report.shards, report.headers_read, again.shards()), (4, 0, 4));
    assert_eq!(content(&disk).len() as u64, 2 * INDEX_RECORD_BYTES);
}

#[test]
fn a_record_that_names_another_bundle_is_mended_by_a_reader_of_any_one_shard() {
    let (whole, bundles) = stocked();
    let [lied, other] = [&bundles[0], &bundles[1]];
    for read in [0, 2] {
        let disk = whole.duplicate();
        let mut index = content(&disk);
        index.extend(record(lied, other.content.bundle_id(), file_bytes(lied)));
        replace(&disk, &index);
        let (store, _) = open(&disk);
        store.verify(lied.name(read), NOW).unwrap();
        store.keep_index().unwrap();
        let (store, report) = open(&disk);
        assert_eq!((report.shards, report.headers_read), (8, 0));
        assert_eq!(store.erase(&BTreeSet::from([lied.content.bundle_id()])).unwrap(), 2, "shard {read}");
    }
}

#[test]
fn a_shard_that_a_newer_program_wrote_is_not_erased_on_the_word_of_the_index() {
    let (disk, bundles) = stocked();
    let path = disk.paths().into_iter().find(|path| path.ends_with(&format!("{}.0.shard", bundles[0].id())));
    // Its format version, from 1 to 9.
    assert!(disk.flip(path.as_ref().unwrap(), 8, 8));
    let (store, report) = open(&disk);
    assert_eq!((report.shards, report.headers_read), (8, 0));
    assert_eq!(store.erase(&BTreeSet::from([bundles[0].content.bundle_id()])).unwrap(), 1);
    assert!(!store.holds(bundles[0].name(0)) && disk.paths().contains(&path.unwrap()));
}

#[test]
fn a_file_that_is_no_shard_for_this_program_is_asked_by_each_start_and_a_new_one_takes_its_place() {
    let (disk, bundles) = stocked();
    let (hurt, name) = (&bundles[1], bundles[1].name(0));
    let path = disk.paths().into_iter().find(|path| path.ends_with(&format!("{name}.shard"))).unwrap();
    assert!(disk.flip(&path, 8, 8));
    let (store, _) = open(&disk);
    assert!(store.read(name, &(0..1), NOW).is_err());
    store.keep_index().unwrap();
    for _ in 0..2 {
        let (store, report) = open(&disk);
        assert_eq!((report.shards, report.unreadable, report.headers_read), (7, 1, 2));
        assert!(!store.holds(name) && store.holds(hurt.name(2)), "its coding goes without a record");
        store.keep_index().unwrap();
        assert_eq!(store.used(), ByteCount(disk.used_bytes()));
    }
    let (store, _) = open(&disk);
    put(&store, hurt, 0);
    store.verify(name, NOW).unwrap();
    store.keep_index().unwrap();
    assert_eq!(store.used(), ByteCount(disk.used_bytes()), "the old file counts no more");
    assert_eq!(open(&disk).1, ScanReport { shards: 8, ..ScanReport::default() });
}

#[test]
fn where_the_disk_was_no_index_is_written() {
    let place = tempfile::tempdir().unwrap();
    let directory = DataDirectory::open(place.path(), &Environment::real()).unwrap();
    let open = || ShardStore::open(directory.disk(), ROOMY, NOW).unwrap().0;
    put(&open(), &CodedBundle::new(1, 60_000, 1), 0);
    let shards = place.path().join("shards");
    std::fs::write(shards.join("index"), b"nothing").unwrap();
    let store = open();
    std::fs::rename(&shards, place.path().join("unplugged")).unwrap();
    std::fs::create_dir(&shards).unwrap();
    assert!(store.keep_index().is_err());
    assert_eq!(std::fs::read_dir(&shards).unwrap().count(), 0);
    std::fs::remove_dir(&shards).unwrap();
    std::fs::rename(place.path().join("unplugged"), &shards).unwrap();
    store.keep_index().unwrap();
    assert_eq!(std::fs::metadata(shards.join("index")).unwrap().len(), INDEX_RECORD_BYTES);
}

#[test]
fn of_an_index_as_much_is_written_as_the_quota_has_room_for() {
    let (disk, bundles) = stocked();
    disk.remove(INDEX).unwrap();
    let (store, _) = open(&disk);
    let shard_bytes = 8 * file_bytes(&bundles[0]);
    store.set_quota(ByteCount(shard_bytes + INDEX_RECORD_BYTES - 1));
    store.keep_index().unwrap();
    assert!(disk.open(INDEX).is_err(), "shards come first");
    // A node that is full has a part of it, and each start reads so many headers less.
    for records in [3, 4] {
        store.set_quota(ByteCount(shard_bytes + records * INDEX_RECORD_BYTES));
        store.keep_index().unwrap();
        assert_eq!(
            (store.used(), content(&disk).len() as u64),
            (store.quota(), records * INDEX_RECORD_BYTES)
        );
        let (again, report) = open(&disk);
        assert_eq!((report.headers_read, held(&again)), (2 * (4 - records), held(&store)));
    }
    // Of one that is wrong, too.
    assert!(disk.flip(INDEX, 10, 1));
    let (store, _) = open(&disk);
    store.set_quota(ByteCount(shard_bytes + 2 * INDEX_RECORD_BYTES));
    store.keep_index().unwrap();
    assert_eq!(open(&disk).1.headers_read, 0, "the quota is smaller, but what is there is there");
}
