//! What every implementation of [`KeyValue`] must do, run over all of them.

use std::sync::Arc;

use super::{Batch, Durability, KeyRange, KeyValue, ScanLimit, Stage, StoreKind, Table, copy_image};

/// A store that can be killed and opened again.
trait Fixture {
    fn store(&self) -> Arc<dyn KeyValue>;
    /// An empty store of the same kind.
    fn another(&self) -> Arc<dyn KeyValue>;
    /// Kills the program that uses it, without any shutdown code, and opens it again.
    fn kill_and_reopen(&mut self);
}

fn put(store: &dyn KeyValue, key: &[u8], value: &[u8], durability: Durability) {
    let mut batch = Batch::new();
    batch.put(Table::Meta, key, value);
    store.write(batch, durability).unwrap();
}

fn keys(store: &dyn super::Read, range: &KeyRange) -> Vec<Vec<u8>> {
    let entries = store.scan(Table::Meta, range, ScanLimit::entries(1000)).unwrap();
    entries.into_iter().map(|(key, _)| key).collect()
}

fn values_are_found_by_key(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    assert_eq!(store.get(Table::Meta, b"a").unwrap(), None);
    put(&*store, b"a", b"1", Durability::Buffered);
    put(&*store, b"c", b"", Durability::Synced);
    put(&*store, b"a", b"2", Durability::Buffered);
    assert_eq!(store.get(Table::Meta, b"a").unwrap(), Some(b"2".to_vec()));
    let look_all = |keys: &[&[u8]]| {
        let mut seen = Vec::new();
        store.look_all(Table::Meta, keys, &mut |place, value| seen.push((place, value.to_vec()))).unwrap();
        seen
    };
    let many = look_all(&[b"c", b"b", b"a", b"a"]);
    assert_eq!(many, [(0, vec![]), (2, b"2".to_vec()), (3, b"2".to_vec())]);
    assert!(look_all(&[]).is_empty());
}

fn what_is_written_takes_room(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let before = store.disk_bytes().unwrap();
    put(&*store, b"a", &vec![7; 100_000], Durability::Synced);
    assert!(store.disk_bytes().unwrap() >= before + 100_000);
}

fn operations_of_a_batch_happen_in_order(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    let mut batch = Batch::new();
    for key in [b"a", b"b", b"c", b"d"] {
        batch.put(Table::Meta, *key, *b"1");
    }
    batch.delete(Table::Meta, *b"a");
    batch.delete(Table::Meta, *b"never there");
    batch.delete_range(Table::Meta, *b"b", *b"d");
    batch.delete_range(Table::Meta, *b"z", *b"d");
    batch.put(Table::Meta, *b"c", *b"2");
    assert_eq!(batch.bytes(), 10);
    store.write(batch, Durability::Synced).unwrap();
    assert_eq!(keys(&*store, &KeyRange::all()), [b"c", b"d"]);
    assert_eq!(store.get(Table::Meta, b"c").unwrap(), Some(b"2".to_vec()));
    store.write(Batch::new(), Durability::Synced).unwrap();
}

fn scans_are_ordered_and_bounded(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    for key in [&[0x01, 0xff][..], &[0x02], &[0x01], &[0xff, 0xff], &[0x01, 0x00], &[0xff]] {
        put(&*store, key, b"x", Durability::Buffered);
    }
    let under_one: Vec<&[u8]> = vec![&[1], &[1, 0], &[1, 0xff]];
    assert_eq!(keys(&*store, &KeyRange::prefix([0x01])), under_one);
    assert_eq!(keys(&*store, &KeyRange::prefix([0xff])), [vec![0xff], vec![0xff, 0xff]]);
    assert_eq!(keys(&*store, &KeyRange::starting_at([0x02])).len(), 3);
    assert_eq!(keys(&*store, &KeyRange::from((vec![1, 0], vec![2]))).len(), 2);
    assert!(keys(&*store, &KeyRange::from((vec![2], vec![1]))).is_empty());
    assert!(keys(&*store, &KeyRange::from((vec![3], vec![4]))).is_empty());
    let by_count = store.scan(Table::Meta, &KeyRange::all(), ScanLimit::entries(2)).unwrap();
    assert_eq!(by_count.len(), 2);
    let by_bytes = ScanLimit { entries: 100, bytes: 4 };
    assert_eq!(store.scan(Table::Meta, &KeyRange::all(), by_bytes).unwrap().len(), 2);
    let last = |range: KeyRange| store.last(Table::Meta, &range).unwrap().map(|(key, _)| key);
    assert_eq!(last(KeyRange::all()), Some(vec![0xff, 0xff]));
    assert_eq!(last(KeyRange::prefix([0x01])), Some(vec![1, 0xff]));
    assert_eq!(last(KeyRange::prefix([0x03])), None);
    assert_eq!(last(KeyRange::from((vec![2], vec![2]))), None);
}

fn a_killed_program_loses_nothing_that_it_wrote(fixture: &mut dyn Fixture) {
    put(&*fixture.store(), b"synced", b"1", Durability::Synced);
    put(&*fixture.store(), b"buffered", b"1", Durability::Buffered);
    fixture.kill_and_reopen();
    assert_eq!(keys(&*fixture.store(), &KeyRange::all()), [b"buffered".to_vec(), b"synced".to_vec()]);
    fixture.store().flush().unwrap();
}

fn a_view_is_unmoved_by_later_writes(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    put(&*store, b"a", b"1", Durability::Buffered);
    let view = store.image().unwrap();
    put(&*store, b"a", b"2", Durability::Buffered);
    put(&*store, b"b", b"2", Durability::Synced);
    assert_eq!(view.get(Table::Meta, b"a").unwrap(), Some(b"1".to_vec()));
    assert_eq!(keys(&*view, &KeyRange::all()), [b"a"]);
    let second = store.image().unwrap();
    drop(view);
    assert_eq!(keys(&*second, &KeyRange::all()), [b"a", b"b"]);
}

/// The contents of another store, arrived and opened.
fn stage(store: &dyn KeyValue, fixture: &dyn Fixture) -> Box<dyn Stage> {
    let other = fixture.another();
    put(&*other, b"arrived", b"1", Durability::Buffered);
    let image = other.image().unwrap();
    let mut intake = store.intake(image.files().to_vec()).unwrap();
    copy_image(&*image, &mut *intake).unwrap();
    assert!(intake.verify().unwrap());
    intake.open().unwrap()
}

/// Carries all of `from` to `to`, the last piece of each file in a second attempt.
fn an_intake_goes_on_where_it_broke(fixture: &mut dyn Fixture) {
    let other = fixture.another();
    for number in 0..200_u8 {
        put(&*other, &[number], &[number; 50], Durability::Buffered);
    }
    let image = other.image().unwrap();
    let files = image.files().to_vec();
    let store = fixture.store();
    let mut first = store.intake(files.clone()).unwrap();
    for (index, file) in files.iter().enumerate().filter(|(_, file)| file.bytes > 1) {
        let half = usize::try_from(file.bytes / 2).unwrap();
        first.write(index, 0, &image.read_file(index, 0, half).unwrap()).unwrap();
        assert!(first.write(index, 0, b"again").is_err(), "a piece comes once");
        assert!(
            first.write(index, file.bytes / 2, &vec![0; half + 2]).is_err(),
            "a file is as long as announced"
        );
    }
    assert!(first.write(files.len(), 0, b"x").is_err());
    assert!(!first.verify().unwrap());
    drop((first, store));
    fixture.kill_and_reopen();
    let store = fixture.store();
    let mut second = store.intake(files.clone()).unwrap();
    assert!(files.iter().zip(second.held()).all(|(file, held)| held == file.bytes / 2));
    copy_image(&*image, &mut *second).unwrap();
    assert!(second.verify().unwrap());
    second.open().unwrap().install().unwrap();
    assert_eq!(keys(&*store, &KeyRange::all()).len(), 200);
    // Nothing of it is left for another attempt.
    assert!(store.intake(files).unwrap().held().iter().all(|held| *held == 0));
}

/// Damage on the way is found by the hash, and the file comes again.
fn a_damaged_file_is_not_used(fixture: &mut dyn Fixture) {
    let (other, store) = (fixture.another(), fixture.store());
    put(&*other, b"a", b"1", Durability::Buffered);
    let image = other.image().unwrap();
    let mut intake = store.intake(image.files().to_vec()).unwrap();
    let (index, file) = image.files().iter().enumerate().max_by_key(|(_, file)| file.bytes).unwrap();
    let mut bytes = image.read_file(index, 0, usize::try_from(file.bytes).unwrap()).unwrap();
    bytes[0] ^= 1;
    intake.write(index, 0, &bytes).unwrap();
    copy_image(&*image, &mut *intake).unwrap();
    assert!(!intake.verify().unwrap());
    assert_eq!(intake.held()[index], 0);
    copy_image(&*image, &mut *intake).unwrap();
    assert!(intake.verify().unwrap());
}

fn staged_contents_replace_all_at_one_stroke(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    put(&*store, b"old", b"1", Durability::Synced);
    let view = store.image().unwrap();
    let mut staged = stage(&*store, fixture);
    assert_eq!(keys(&*staged, &KeyRange::all()), [b"arrived"]);
    let mut batch = Batch::new();
    batch.put(Table::Meta, *b"new", *b"2");
    staged.write(batch).unwrap();
    assert_eq!(keys(&*store, &KeyRange::all()), [b"old"]);
    staged.install().unwrap();
    assert_eq!(keys(&*store, &KeyRange::all()), [b"arrived".to_vec(), b"new".to_vec()]);
    assert_eq!(keys(&*view, &KeyRange::all()), [b"old"]);
    put(&*store, b"later", b"3", Durability::Buffered);
    drop((store, view));
    fixture.kill_and_reopen();
    assert_eq!(
        keys(&*fixture.store(), &KeyRange::all()),
        [b"arrived".to_vec(), b"later".to_vec(), b"new".to_vec()]
    );
}

fn staged_contents_that_are_dropped_change_nothing(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    put(&*store, b"old", b"1", Durability::Synced);
    let mut staged = stage(&*store, fixture);
    let mut batch = Batch::new();
    batch.put(Table::Meta, *b"new", *b"2");
    staged.write(batch).unwrap();
    drop(staged);
    drop(store);
    fixture.kill_and_reopen();
    assert_eq!(keys(&*fixture.store(), &KeyRange::all()), [b"old"]);
}

macro_rules! conformance {
    ($($name:ident)*) => {
        mod memory {
            use super::*;

            struct InMemory(crate::storage::Memory);

            impl Fixture for InMemory {
                fn store(&self) -> Arc<dyn KeyValue> {
                    Arc::new(self.0.clone())
                }

                fn another(&self) -> Arc<dyn KeyValue> {
                    Arc::new(crate::storage::Memory::new(StoreKind::State))
                }

                fn kill_and_reopen(&mut self) {}
            }

            $(
                #[test]
                fn $name() {
                    super::$name(&mut InMemory(crate::storage::Memory::new(StoreKind::State)));
                }
            )*
        }

        #[cfg(feature = "rocksdb")]
        mod rocks {
            use super::*;

            struct OnDisk(Option<Arc<crate::storage::RocksDb>>, tempfile::TempDir, tempfile::TempDir);

            impl OnDisk {
                fn open(&mut self) {
                    let store = crate::storage::RocksDb::open(self.1.path(), StoreKind::State).unwrap();
                    self.0 = Some(Arc::new(store));
                }
            }

            impl Fixture for OnDisk {
                fn store(&self) -> Arc<dyn KeyValue> {
                    Arc::clone(self.0.as_ref().unwrap()) as Arc<dyn KeyValue>
                }

                fn another(&self) -> Arc<dyn KeyValue> {
                    let path = self.2.path().join("another");
                    Arc::new(crate::storage::RocksDb::open(&path, StoreKind::State).unwrap())
                }

                /// What a killed process leaves is what a copy of its files holds while it runs.
                fn kill_and_reopen(&mut self) {
                    let copy = tempfile::tempdir().unwrap();
                    copy_directory(self.1.path(), copy.path());
                    self.0 = None;
                    self.1 = copy;
                    self.open();
                }
            }

            fn copy_directory(from: &std::path::Path, to: &std::path::Path) {
                for entry in std::fs::read_dir(from).unwrap() {
                    let entry = entry.unwrap();
                    let target = to.join(entry.file_name());
                    if entry.file_type().unwrap().is_dir() {
                        std::fs::create_dir(&target).unwrap();
                        copy_directory(&entry.path(), &target);
                    } else {
                        std::fs::copy(entry.path(), &target).unwrap();
                    }
                }
            }

            $(
                #[test]
                fn $name() {
                    let mut fixture = OnDisk(None, tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
                    fixture.open();
                    super::$name(&mut fixture);
                }
            )*
        }
    };
}

conformance! {
    values_are_found_by_key
    what_is_written_takes_room
    operations_of_a_batch_happen_in_order
    scans_are_ordered_and_bounded
    a_killed_program_loses_nothing_that_it_wrote
    a_view_is_unmoved_by_later_writes
    staged_contents_replace_all_at_one_stroke
    staged_contents_that_are_dropped_change_nothing
    an_intake_goes_on_where_it_broke
    a_damaged_file_is_not_used
}
