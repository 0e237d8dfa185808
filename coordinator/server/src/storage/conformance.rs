//! What every implementation of [`KeyValue`] must do, run over all of them.

use std::sync::Arc;

use super::{Batch, Durability, KeyRange, KeyValue, ScanLimit, StoreKind, Table};

/// A store that can be killed and opened again.
trait Fixture {
    fn store(&self) -> Arc<dyn KeyValue>;
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
    let many = store.multi_get(Table::Meta, &[b"c", b"b", b"a", b"a"]).unwrap();
    assert_eq!(many, [Some(vec![]), None, Some(b"2".to_vec()), Some(b"2".to_vec())]);
    assert!(store.multi_get(Table::Meta, &[]).unwrap().is_empty());
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
    let view = store.view().unwrap();
    put(&*store, b"a", b"2", Durability::Buffered);
    put(&*store, b"b", b"2", Durability::Synced);
    assert_eq!(view.get(Table::Meta, b"a").unwrap(), Some(b"1".to_vec()));
    assert_eq!(keys(&*view, &KeyRange::all()), [b"a"]);
    let second = store.view().unwrap();
    drop(view);
    assert_eq!(keys(&*second, &KeyRange::all()), [b"a", b"b"]);
}

fn staged_contents_replace_all_at_one_stroke(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    put(&*store, b"old", b"1", Durability::Synced);
    let view = store.view().unwrap();
    let mut staged = store.stage().unwrap();
    let mut batch = Batch::new();
    batch.put(Table::Meta, *b"new", *b"2");
    staged.write(batch).unwrap();
    assert_eq!(keys(&*store, &KeyRange::all()), [b"old"]);
    staged.install().unwrap();
    assert_eq!(keys(&*store, &KeyRange::all()), [b"new"]);
    assert_eq!(keys(&*view, &KeyRange::all()), [b"old"]);
    put(&*store, b"later", b"3", Durability::Buffered);
    drop((store, view));
    fixture.kill_and_reopen();
    assert_eq!(keys(&*fixture.store(), &KeyRange::all()), [b"later".to_vec(), b"new".to_vec()]);
}

fn staged_contents_that_are_dropped_change_nothing(fixture: &mut dyn Fixture) {
    let store = fixture.store();
    put(&*store, b"old", b"1", Durability::Synced);
    let mut staged = store.stage().unwrap();
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

            struct OnDisk(Option<Arc<crate::storage::RocksDb>>, tempfile::TempDir);

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
                    let mut fixture = OnDisk(None, tempfile::tempdir().unwrap());
                    fixture.open();
                    super::$name(&mut fixture);
                }
            )*
        }
    };
}

conformance! {
    values_are_found_by_key
    operations_of_a_batch_happen_in_order
    scans_are_ordered_and_bounded
    a_killed_program_loses_nothing_that_it_wrote
    a_view_is_unmoved_by_later_writes
    staged_contents_replace_all_at_one_stroke
    staged_contents_that_are_dropped_change_nothing
}
