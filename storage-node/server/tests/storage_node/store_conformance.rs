//! What every disk under the shard store must give: one suite, run over a real directory and over memory.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::support::CodedBundle;
use firn_base::{ByteCount, Timestamp};
use firn_bundle::decode_range_exact;
use firn_storage_node::{
    DeletionLimits, Disk, FileDisk, INDEX_RECORD_BYTES, MemoryDisk, ReadShardError, ShardStore,
    StoreShardError, TrashShardError,
};
use firn_wire::DeleteReason;

const NOW: Timestamp = Timestamp::from_millis(1_000_000_000_000);
const ROOMY: ByteCount = ByteCount(1 << 30);
const SURPLUS: DeleteReason = DeleteReason::Surplus;
const DAY: Duration = Duration::from_secs(24 * 3600);

type Flip = dyn Fn(&str, usize);

/// A disk, and a way to flip a byte of one of its files behind its back.
struct Rig {
    disk: Arc<dyn Disk>,
    flip: Box<Flip>,
    _place: Option<tempfile::TempDir>,
}

fn real() -> Rig {
    let place = tempfile::tempdir().expect("a temporary directory");
    let root = place.path().to_owned();
    let flip = move |path: &str, offset: usize| {
        let path = root.join(path);
        let mut bytes = std::fs::read(&path).expect("the file is there");
        bytes[offset] ^= 1;
        std::fs::write(path, bytes).expect("it can be written");
    };
    Rig { disk: Arc::new(FileDisk::new(place.path())), flip: Box::new(flip), _place: Some(place) }
}

fn memory() -> Rig {
    let disk = MemoryDisk::new();
    let other = disk.clone();
    let flip = move |path: &str, offset: usize| assert!(other.flip(path, offset, 1), "the byte is there");
    Rig { disk: Arc::new(disk), flip: Box::new(flip), _place: None }
}

impl Rig {
    fn open(&self, quota: ByteCount) -> Arc<ShardStore> {
        ShardStore::open(Arc::clone(&self.disk), quota, NOW).expect("the disk works").0
    }
}

fn put(store: &Arc<ShardStore>, bundle: &CodedBundle, index: u8) -> Result<(), StoreShardError> {
    let mut writer = store.begin(&bundle.header(index), NOW)?;
    for piece in bundle.shard(index).chunks(50_000) {
        writer.write(piece)?;
    }
    writer.finish().map(|_| ())
}

fn path_of(bundle: &CodedBundle, index: u8) -> String {
    let id = bundle.id().to_string();
    format!("shards/{}/{id}.{index}.shard", &id[..2])
}

macro_rules! conformance {
    ($($name:ident),* $(,)?) => {
        mod a_real_directory { $(#[test] fn $name() { super::$name(&super::real()); })* }
        mod a_disk_in_memory { $(#[test] fn $name() { super::$name(&super::memory()); })* }
    };
}

conformance!(
    a_stored_shard_is_read_back_with_proofs_also_after_a_restart,
    files_bear_the_names_and_the_layout_of_the_format,
    a_shard_with_wrong_bytes_leaves_nothing,
    a_writer_that_is_dropped_leaves_nothing,
    a_torn_file_is_removed_at_start,
    a_shard_is_taken_once,
    the_quota_is_hard_and_counts_files_being_written_and_trash,
    trash_makes_room_after_a_day_and_goes_after_a_week,
    shards_that_are_taken_at_a_time_have_their_room_on_the_disk_one_beside_the_other,
    what_the_disk_has_free_is_asked_again_once_trash_has_gone,
    the_deletions_of_a_day_are_limited_and_a_restart_forgets_none,
    what_may_be_unique_is_deleted_less_than_surplus,
    trash_of_the_future_counts_from_now_on,
    a_file_that_is_gone_from_trash_keeps_no_other_from_its_date,
    no_file_in_trash_takes_the_place_of_another,
    a_flipped_byte_is_not_served_and_its_shard_is_set_aside,
    a_damaged_header_is_found_at_start_or_by_its_reader_and_set_aside,
    a_cut_off_file_is_found_at_start_and_set_aside,
    the_inventory_comes_in_order_and_in_pages,
    foreign_files_are_left_alone,
    an_erased_bundle_is_gone_from_its_place_and_from_trash_and_others_are_not,
    what_is_on_its_way_when_its_bundle_is_erased_is_not_kept,
    a_file_in_trash_that_no_longer_says_what_it_is_goes_with_an_erasure_if_it_was_found_damaged,
);

fn a_stored_shard_is_read_back_with_proofs_also_after_a_restart(rig: &Rig) {
    let bundle = CodedBundle::new(1, 300_000, 4);
    let store = rig.open(ROOMY);
    put(&store, &bundle, 0).unwrap();
    put(&store, &bundle, 7).unwrap();
    let again = rig.open(ROOMY);
    for store in [&store, &again] {
        for index in [0, 7] {
            let bytes = bundle.coding.shard_bytes();
            for range in [0..bytes, 5..6, 20_000..60_001, bytes - 1..bytes] {
                let proof = store.read(bundle.name(index), &range, NOW).unwrap();
                let root = bundle.header(index).root();
                let found = decode_range_exact(root, bytes, &range, &proof).unwrap();
                let (start, end) = (usize::try_from(range.start), usize::try_from(range.end));
                assert_eq!(found, bundle.shard(index)[start.unwrap()..end.unwrap()]);
            }
            assert!(matches!(
                store.read(bundle.name(index), &(0..bytes + 1), NOW),
                Err(ReadShardError::Range(_))
            ));
            assert_eq!(store.header(bundle.name(index), NOW).unwrap(), bundle.header(index));
            store.verify(bundle.name(index), NOW).unwrap();
        }
        assert!(matches!(store.read(bundle.name(1), &(0..1), NOW), Err(ReadShardError::NotHere)));
    }
    assert_eq!(store.used(), again.used());
    assert_eq!(again.shards(), 2);
}

fn files_bear_the_names_and_the_layout_of_the_format(rig: &Rig) {
    let bundle = CodedBundle::new(2, 100_000, 2);
    put(&rig.open(ROOMY), &bundle, 3).unwrap();
    let file = rig.disk.open(&path_of(&bundle, 3)).unwrap();
    let header = firn_storage_node::verify_file(file.as_ref()).unwrap();
    assert_eq!(header, bundle.header(3));
    assert_eq!(file.bytes().unwrap(), header.layout().file_bytes);
}

fn a_shard_with_wrong_bytes_leaves_nothing(rig: &Rig) {
    let bundle = CodedBundle::new(3, 100_000, 1);
    let store = rig.open(ROOMY);
    let mut writer = store.begin(&bundle.header(0), NOW).unwrap();
    let mut wrong = bundle.shard(0).to_vec();
    wrong[7] ^= 1;
    writer.write(&wrong).unwrap();
    assert!(matches!(writer.finish(), Err(StoreShardError::WrongBytes)));
    let mut short = store.begin(&bundle.header(0), NOW).unwrap();
    short.write(&bundle.shard(0)[1..]).unwrap();
    assert!(matches!(short.finish(), Err(StoreShardError::WrongBytes)));
    let mut long = store.begin(&bundle.header(0), NOW).unwrap();
    long.write(bundle.shard(0)).unwrap();
    assert!(matches!(long.write(&[0]), Err(StoreShardError::WrongBytes)));
    drop(long);
    assert_eq!((store.shards(), store.used()), (0, ByteCount(0)));
    assert!(rig.disk.list("shards/temp").unwrap().is_empty());
    put(&store, &bundle, 0).unwrap();
}

fn a_writer_that_is_dropped_leaves_nothing(rig: &Rig) {
    let bundle = CodedBundle::new(4, 100_000, 1);
    let store = rig.open(ROOMY);
    let mut writer = store.begin(&bundle.header(0), NOW).unwrap();
    writer.write(&bundle.shard(0)[..70_000]).unwrap();
    assert_eq!(store.used(), ByteCount(bundle.header(0).layout().file_bytes + INDEX_RECORD_BYTES));
    drop(writer);
    assert_eq!(store.used(), ByteCount(0));
    assert!(rig.disk.list("shards/temp").unwrap().is_empty());
}

fn a_torn_file_is_removed_at_start(rig: &Rig) {
    let bundle = CodedBundle::new(5, 100_000, 1);
    let store = rig.open(ROOMY);
    let mut writer = store.begin(&bundle.header(0), NOW).unwrap();
    writer.write(&bundle.shard(0)[..70_000]).unwrap();
    // Killed: no destructor runs.
    std::mem::forget(writer);
    let (again, report) = ShardStore::open(Arc::clone(&rig.disk), ROOMY, NOW).unwrap();
    assert_eq!((report.torn, report.shards, report.damaged), (1, 0, 0));
    assert_eq!(again.used(), ByteCount(0));
    assert!(rig.disk.list("shards/temp").unwrap().is_empty());
}

fn a_shard_is_taken_once(rig: &Rig) {
    let bundle = CodedBundle::new(6, 100_000, 1);
    let store = rig.open(ROOMY);
    let writer = store.begin(&bundle.header(0), NOW).unwrap();
    assert!(matches!(store.begin(&bundle.header(0), NOW), Err(StoreShardError::InProgress)));
    drop(writer);
    put(&store, &bundle, 0).unwrap();
    assert!(matches!(store.begin(&bundle.header(0), NOW), Err(StoreShardError::AlreadyHere)));
}

fn the_quota_is_hard_and_counts_files_being_written_and_trash(rig: &Rig) {
    let bundle = CodedBundle::new(7, 100_000, 2);
    let bytes = bundle.header(0).layout().file_bytes;
    let store = rig.open(ByteCount(2 * (bytes + INDEX_RECORD_BYTES) + 10));
    put(&store, &bundle, 0).unwrap();
    let writer = store.begin(&bundle.header(1), NOW).unwrap();
    let refused = store.begin(&bundle.header(2), NOW).unwrap_err();
    assert!(matches!(refused, StoreShardError::QuotaExceeded(refused) if refused.free == 10));
    drop(writer);
    put(&store, &bundle, 1).unwrap();
    let on_disk =
        |directory: &str| -> u64 { rig.disk.list(directory).unwrap().iter().map(|entry| entry.bytes).sum() };
    let fan = path_of(&bundle, 0).rsplit_once('/').unwrap().0.to_owned();
    assert_eq!(store.used(), ByteCount(on_disk(&fan) + on_disk("shards")));
    assert!(store.trash(bundle.name(0), SURPLUS, NOW).unwrap());
    assert!(!store.trash(bundle.name(0), SURPLUS, NOW).unwrap());
    assert_eq!(store.used(), ByteCount(2 * bytes + INDEX_RECORD_BYTES));
    assert_eq!(store.trash_bytes(), ByteCount(bytes));
    assert_eq!(on_disk("shards/trash"), bytes);
    let again = rig.open(ROOMY);
    assert_eq!((again.used(), again.trash_bytes()), (store.used(), store.trash_bytes()));
}

fn in_trash(rig: &Rig) -> Vec<String> {
    rig.disk.list("shards/trash").unwrap().into_iter().map(|entry| entry.name).collect()
}

fn trash_makes_room_after_a_day_and_goes_after_a_week(rig: &Rig) {
    let bundle = CodedBundle::new(8, 100_000, 2);
    let bytes = bundle.header(0).layout().file_bytes;
    let store = rig.open(ByteCount(2 * (bytes + INDEX_RECORD_BYTES)));
    put(&store, &bundle, 0).unwrap();
    put(&store, &bundle, 1).unwrap();
    store.trash(bundle.name(0), SURPLUS, NOW).unwrap();
    let just_before = Timestamp::from_millis(NOW.after(DAY).as_millis() - 1);
    for now in [NOW, just_before] {
        let refused = store.begin(&bundle.header(2), now).unwrap_err();
        assert!(matches!(refused, StoreShardError::QuotaExceeded(_)));
        assert_eq!(store.figures(now).unavailable(), ByteCount(2 * bytes + INDEX_RECORD_BYTES));
    }
    assert_eq!(store.figures(NOW.after(DAY)).unavailable(), ByteCount(bytes + INDEX_RECORD_BYTES));
    drop(store.begin(&bundle.header(2), NOW.after(DAY)).unwrap());
    assert!(in_trash(rig).is_empty());
    store.trash(bundle.name(1), SURPLUS, NOW.after(DAY)).unwrap();
    assert_eq!(store.empty_trash(NOW.after(DAY * 8 - Duration::from_secs(1))).unwrap(), 0);
    assert_eq!(store.empty_trash(NOW.after(DAY * 8)).unwrap(), 1);
    assert!(in_trash(rig).is_empty());
    assert_eq!((store.used(), store.trash_bytes()), (ByteCount(INDEX_RECORD_BYTES), ByteCount(0)));
}

fn shards_that_are_taken_at_a_time_have_their_room_on_the_disk_one_beside_the_other(rig: &Rig) {
    let bundle = CodedBundle::new(9, 100_000, 2);
    let bytes = bundle.header(0).layout().file_bytes;
    let store = rig.open(ROOMY);
    put(&store, &bundle, 0).unwrap();
    store.trash(bundle.name(0), SURPLUS, NOW).unwrap();
    // Of the quota a twentieth is left alone on the disk.
    let free = ByteCount(ROOMY.0 / 20 + bytes);
    let first = store.begin_within(&bundle.header(1), || free, NOW).unwrap();
    let refused = store.begin_within(&bundle.header(2), || free, NOW).unwrap_err();
    assert!(matches!(refused, StoreShardError::DiskFilled(_)), "{refused}");
    assert_eq!(in_trash(rig).len(), 1);
    // Trash of more than a day goes for what the disk lacks, if it is enough.
    let later = NOW.after(DAY);
    let lacking = ByteCount(free.0 - bytes);
    assert!(store.begin_within(&bundle.header(2), || lacking, later).is_err());
    assert_eq!(in_trash(rig).len(), 1);
    drop(first);
    drop(store.begin_within(&bundle.header(2), || lacking, later).unwrap());
    assert!(in_trash(rig).is_empty());
    drop(store.begin_within(&bundle.header(2), || free, later).unwrap());
    assert_eq!(store.used(), ByteCount(INDEX_RECORD_BYTES));
}

fn what_the_disk_has_free_is_asked_again_once_trash_has_gone(rig: &Rig) {
    let bundle = CodedBundle::new(10, 100_000, 2);
    let store = rig.open(ROOMY);
    for index in 0..2 {
        put(&store, &bundle, index).unwrap();
        store.trash(bundle.name(index), SURPLUS, NOW).unwrap();
    }
    let (mut asked, mut other) = (0, None);
    let free = || {
        asked += 1;
        if asked == 1 {
            // One file of trash has to go.
            return ByteCount(ROOMY.0 / 20);
        }
        // Meanwhile another shard has begun to come, and whoever filled the disk has made room.
        other = Some(store.begin(&bundle.header(3), NOW).unwrap());
        ROOMY
    };
    let writer = store.begin_within(&bundle.header(2), free, NOW.after(DAY)).unwrap();
    assert_eq!((asked, in_trash(rig).len()), (2, 1), "no more goes than has to");
    drop((writer, other));
}

/// Limits under which a node of `shards` shards deletes a tenth and a fiftieth of them.
fn limits() -> DeletionLimits {
    DeletionLimits { floor_bytes: 0, ..DeletionLimits::STANDARD }
}

fn the_deletions_of_a_day_are_limited_and_a_restart_forgets_none(rig: &Rig) {
    let bundles: Vec<CodedBundle> = (20..24).map(|seed| CodedBundle::new(seed, 1_000, 2)).collect();
    let names: Vec<_> = bundles.iter().flat_map(|bundle| (0..6).map(|index| bundle.name(index))).collect();
    let open = || {
        let store = rig.open(ROOMY);
        store.set_deletion_limits(limits());
        store
    };
    let store = open();
    for bundle in &bundles {
        (0..6).for_each(|index| put(&store, bundle, index).unwrap());
    }
    // A tenth of 24 are two. One that is not here costs nothing.
    assert!(store.trash(names[0], SURPLUS, NOW).unwrap());
    assert!(!store.trash(names[0], SURPLUS, NOW).unwrap());
    let store = open();
    assert!(store.trash(names[1], DeleteReason::ReplacedCoding, NOW).unwrap());
    let just_before = Timestamp::from_millis(NOW.after(DAY).as_millis() - 1);
    for store in [store, open()] {
        let refused = store.trash(names[2], SURPLUS, just_before).unwrap_err();
        assert!(matches!(refused, TrashShardError::TooMany(_)), "{refused}");
        assert!(store.holds(names[2]));
    }
    let store = open();
    assert!(store.trash(names[2], SURPLUS, NOW.after(DAY)).unwrap());
}

fn what_may_be_unique_is_deleted_less_than_surplus(rig: &Rig) {
    let bundles: Vec<CodedBundle> = (30..40).map(|seed| CodedBundle::new(seed, 1_000, 2)).collect();
    let names: Vec<_> = bundles.iter().flat_map(|bundle| (0..6).map(|index| bundle.name(index))).collect();
    let store = rig.open(ROOMY);
    store.set_deletion_limits(limits());
    for bundle in &bundles {
        (0..6).for_each(|index| put(&store, bundle, index).unwrap());
    }
    // A fiftieth of 60 is one, a tenth six.
    let abandoned = DeleteReason::AbandonedUpload;
    assert!(store.trash(names[0], abandoned, NOW).unwrap());
    assert!(matches!(store.trash(names[1], abandoned, NOW), Err(TrashShardError::TooMany(_))));
    let again = rig.open(ROOMY);
    again.set_deletion_limits(limits());
    assert!(matches!(again.trash(names[1], abandoned, NOW), Err(TrashShardError::TooMany(_))));
    for name in &names[1..6] {
        assert!(again.trash(*name, SURPLUS, NOW).unwrap());
    }
    assert!(matches!(again.trash(names[6], SURPLUS, NOW), Err(TrashShardError::TooMany(_))));
    // What is found damaged is no deletion.
    (rig.flip)(&path_of(&bundles[9], 5), 4096 + 30_000);
    assert!(again.verify(names[59], NOW).is_err());
    assert_eq!(again.figures(NOW).young.deleted_bytes, 6 * bundles[0].header(0).layout().file_bytes);
}

fn trash_of_the_future_counts_from_now_on(rig: &Rig) {
    let bundle = CodedBundle::new(16, 1_000, 1);
    let store = rig.open(ROOMY);
    put(&store, &bundle, 0).unwrap();
    store.trash(bundle.name(0), SURPLUS, NOW.after(DAY * 3650)).unwrap();
    assert_eq!(store.empty_trash(NOW).unwrap(), 0);
    for store in [store, rig.open(ROOMY)] {
        assert_eq!(store.figures(NOW.after(DAY)).young.bytes, 0);
    }
    assert_eq!(rig.open(ROOMY).empty_trash(NOW.after(DAY * 7)).unwrap(), 1);
    assert!(in_trash(rig).is_empty());
}

fn a_file_that_is_gone_from_trash_keeps_no_other_from_its_date(rig: &Rig) {
    let bundle = CodedBundle::new(18, 1_000, 2);
    let store = rig.open(ROOMY);
    for index in 0..3 {
        put(&store, &bundle, index).unwrap();
        store.trash(bundle.name(index), SURPLUS, NOW.after(DAY * 3650)).unwrap();
    }
    // The middle one: there is one on either side, from wherever they are looked at.
    rig.disk.remove(&format!("shards/trash/{}", in_trash(rig)[1])).unwrap();
    assert_eq!(store.empty_trash(NOW).unwrap(), 0);
    assert_eq!(store.trash_bytes(), ByteCount(2 * bundle.header(0).layout().file_bytes));
    assert_eq!(store.empty_trash(NOW.after(DAY * 7)).unwrap(), 2);
    assert!(in_trash(rig).is_empty());
}

fn no_file_in_trash_takes_the_place_of_another(rig: &Rig) {
    let bundle = CodedBundle::new(17, 1_000, 1);
    let store = rig.open(ROOMY);
    for _ in 0..3 {
        put(&store, &bundle, 0).unwrap();
        store.trash(bundle.name(0), SURPLUS, NOW).unwrap();
    }
    assert_eq!(in_trash(rig).len(), 3);
    assert_eq!(store.trash_bytes(), ByteCount(3 * bundle.header(0).layout().file_bytes));
}

fn a_flipped_byte_is_not_served_and_its_shard_is_set_aside(rig: &Rig) {
    let bundle = CodedBundle::new(9, 300_000, 2);
    let bytes = bundle.coding.shard_bytes();
    let store = rig.open(ROOMY);
    for index in 0..3 {
        put(&store, &bundle, index).unwrap();
    }
    // One in the data, one in the outboard tree.
    (rig.flip)(&path_of(&bundle, 0), 4096 + 50_000);
    (rig.flip)(&path_of(&bundle, 1), 4096 + usize::try_from(bytes).unwrap() + 3);
    let before = store.losses();
    for index in [0, 1] {
        let read = store.read(bundle.name(index), &(0..bytes), NOW);
        assert!(matches!(read, Err(ReadShardError::Damaged)));
        assert!(matches!(store.read(bundle.name(index), &(0..1), NOW), Err(ReadShardError::NotHere)));
    }
    assert_eq!(store.losses(), before + 2);
    assert_eq!(store.inventory(None, 10), (vec![bundle.name(2)], false));
    assert_eq!(store.trash_bytes(), ByteCount(2 * bundle.header(0).layout().file_bytes));
    // It can be brought again.
    put(&store, &bundle, 0).unwrap();
    store.read(bundle.name(0), &(0..bytes), NOW).unwrap();
}

fn a_damaged_header_is_found_at_start_or_by_its_reader_and_set_aside(rig: &Rig) {
    let bundle = CodedBundle::new(10, 100_000, 1);
    put(&rig.open(ROOMY), &bundle, 0).unwrap();
    put(&rig.open(ROOMY), &bundle, 1).unwrap();
    (rig.flip)(&path_of(&bundle, 0), 200);
    let (store, report) = ShardStore::open(Arc::clone(&rig.disk), ROOMY, NOW).unwrap();
    assert_eq!((report.shards, report.headers_read), (2, 0), "the index says what it was");
    assert!(matches!(store.read(bundle.name(0), &(0..1), NOW), Err(ReadShardError::Damaged)));
    assert_eq!((store.holds(bundle.name(0)), store.losses()), (false, 1));
    assert_eq!(store.empty_trash(NOW.after(DAY * 7)).unwrap(), 1);
    put(&store, &bundle, 0).unwrap();
    (rig.flip)(&path_of(&bundle, 0), 200);
    rig.disk.remove("shards/index").unwrap();
    let (store, report) = ShardStore::open(Arc::clone(&rig.disk), ROOMY, NOW).unwrap();
    assert_eq!((report.shards, report.damaged, report.torn), (1, 1, 0));
    assert_eq!(report.sentences.len(), 1);
    assert!(!store.holds(bundle.name(0)) && store.holds(bundle.name(1)));
    assert_eq!(store.trash_bytes(), ByteCount(bundle.header(0).layout().file_bytes));
}

fn a_cut_off_file_is_found_at_start_and_set_aside(rig: &Rig) {
    let bundle = CodedBundle::new(11, 100_000, 1);
    put(&rig.open(ROOMY), &bundle, 0).unwrap();
    let whole = rig.disk.open(&path_of(&bundle, 0)).unwrap();
    let mut front = vec![0; 50_000];
    assert_eq!(whole.read_at(0, &mut front).unwrap(), front.len());
    rig.disk.create(&path_of(&bundle, 0)).unwrap().write_at(0, &front).unwrap();
    rig.disk.create(&path_of(&bundle, 1)).unwrap();
    let (store, report) = ShardStore::open(Arc::clone(&rig.disk), ROOMY, NOW).unwrap();
    assert_eq!((report.shards, report.damaged), (0, 2));
    assert_eq!(store.shards(), 0);
}

fn the_inventory_comes_in_order_and_in_pages(rig: &Rig) {
    let store = rig.open(ROOMY);
    let bundles = [CodedBundle::new(12, 1_000, 1), CodedBundle::new(13, 1_000, 1)];
    let mut expected = Vec::new();
    for bundle in &bundles {
        for index in [2, 0, 1] {
            put(&store, bundle, index).unwrap();
            expected.push(bundle.name(index));
        }
    }
    expected.sort();
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let (page, more) = store.inventory(after, 4);
        after = page.last().copied();
        found.extend(page);
        if !more {
            break;
        }
    }
    assert_eq!(found, expected);
}

fn foreign_files_are_left_alone(rig: &Rig) {
    let bundle = CodedBundle::new(14, 1_000, 1);
    put(&rig.open(ROOMY), &bundle, 0).unwrap();
    let fan = path_of(&bundle, 0).rsplit_once('/').unwrap().0.to_owned();
    for path in [format!("{fan}/notes.txt"), "shards/readme".to_owned()] {
        rig.disk.create(&path).unwrap().write_at(0, b"hello").unwrap();
    }
    rig.disk.make_directory("shards/lost+found").unwrap();
    let (store, report) = ShardStore::open(Arc::clone(&rig.disk), ROOMY, NOW).unwrap();
    assert_eq!((report.shards, report.damaged, store.shards()), (1, 0, 1));
    assert_eq!(rig.disk.list(&fan).unwrap().len(), 2);
}

fn erase(store: &ShardStore, bundle: &CodedBundle) -> u64 {
    store.erase(&BTreeSet::from([bundle.content.bundle_id()])).unwrap()
}

fn an_erased_bundle_is_gone_from_its_place_and_from_trash_and_others_are_not(rig: &Rig) {
    // The same bundle coded twice, and another one.
    let (bundle, recoded) = (CodedBundle::new(1, 300_000, 4), CodedBundle::new(1, 300_000, 8));
    assert_eq!(bundle.content.bundle_id(), recoded.content.bundle_id());
    let other = CodedBundle::new(2, 300_000, 4);
    let store = rig.open(ROOMY);
    for (bundle, index) in [(&bundle, 0), (&bundle, 1), (&recoded, 3), (&other, 0), (&other, 1)] {
        put(&store, bundle, index).unwrap();
    }
    assert!(store.trash(bundle.name(1), SURPLUS, NOW).unwrap());
    assert!(store.trash(other.name(1), SURPLUS, NOW).unwrap());
    // Kept open for the next reader.
    store.read(bundle.name(0), &(0..1), NOW).unwrap();
    assert_eq!(erase(&store, &bundle), 3, "at once, and whatever a day allows");
    assert_eq!(erase(&store, &bundle), 0);
    assert!(matches!(store.read(bundle.name(0), &(0..1), NOW), Err(ReadShardError::NotHere)));
    assert!(matches!(put(&store, &bundle, 2), Err(StoreShardError::Erased)));
    let file = other.header(0).layout().file_bytes;
    for store in [store, rig.open(ROOMY)] {
        assert_eq!(store.inventory(None, 10).0, [other.name(0)]);
        assert_eq!((in_trash(rig).len(), store.used()), (1, ByteCount(2 * file + 3 * INDEX_RECORD_BYTES)));
    }
}

fn what_is_on_its_way_when_its_bundle_is_erased_is_not_kept(rig: &Rig) {
    let bundle = CodedBundle::new(1, 300_000, 4);
    let store = rig.open(ROOMY);
    let mut writer = store.begin(&bundle.header(0), NOW).unwrap();
    writer.write(bundle.shard(0)).unwrap();
    assert_eq!(erase(&store, &bundle), 0);
    assert!(matches!(writer.finish(), Err(StoreShardError::Erased)));
    assert_eq!((store.shards(), store.used()), (0, ByteCount(INDEX_RECORD_BYTES)));
    let directory = path_of(&bundle, 0);
    assert_eq!(rig.disk.list(directory.rsplit_once('/').unwrap().0).unwrap(), []);
}

fn a_file_in_trash_that_no_longer_says_what_it_is_goes_with_an_erasure_if_it_was_found_damaged(rig: &Rig) {
    let (bundle, other) = (CodedBundle::new(1, 300_000, 4), CodedBundle::new(2, 300_000, 4));
    let store = rig.open(ROOMY);
    put(&store, &other, 0).unwrap();
    (rig.flip)(&path_of(&other, 0), 30);
    // Its header is that of no shard.
    let store = rig.open(ROOMY);
    assert!(matches!(store.verify(other.name(0), NOW), Err(ReadShardError::Damaged)));
    assert_eq!((store.shards(), in_trash(rig).len()), (0, 1));
    assert_eq!(erase(&store, &bundle), 1);
    assert_eq!(in_trash(rig), Vec::<String>::new());
}
