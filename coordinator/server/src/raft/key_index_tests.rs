//! The index and the feed against ordered maps, with keys whose short names are equal.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use firn_base::{BundleNumber, KeyKind};

use super::*;
use crate::storage::{Durability, KeyValue, Memory, StoreKind};

/// Twenty keys of one short name, and twenty of others.
fn keys() -> Vec<ObjectKey> {
    let crowded = (0..20).map(|number| {
        let mut name = [7; 20];
        name[19 - usize::from(number % 3)] = number;
        ObjectKey::new(KeyKind::BuildLog, name)
    });
    crowded.chain((0..20).map(|number| ObjectKey::store_path([number * 13; 20]))).collect()
}

#[derive(Default)]
struct Reference {
    feed: Vec<FeedRecord>,
    index: BTreeMap<ObjectKey, Location>,
}

impl Reference {
    fn add(&mut self, record: FeedRecord) -> (u64, FeedRecord) {
        self.feed.push(record);
        match record {
            FeedRecord::Visible { key, location } | FeedRecord::Moved { key, location } => {
                self.index.insert(key, location);
            }
            FeedRecord::Withdrawn { key } => drop(self.index.remove(&key)),
        }
        (self.feed.len() as u64 - 1, record)
    }

    /// Makes a key visible or, if it is, withdraws it, or moves it to an entry that is divisible by 3.
    fn turn(&mut self, key: ObjectKey, entry: u16) -> (u64, FeedRecord) {
        let location = Location { bundle: BundleNumber(3), block: 1, entry };
        self.add(match self.index.contains_key(&key) {
            false => FeedRecord::Visible { key, location },
            true if entry.is_multiple_of(3) => FeedRecord::Moved { key, location },
            true => FeedRecord::Withdrawn { key },
        })
    }

    fn check(&self, store: &dyn Read) {
        let keys = keys();
        let expected: Vec<_> = keys.iter().map(|key| self.index.get(key).copied()).collect();
        let first = |keys: &[ObjectKey]| -> Vec<_> {
            locate(store, keys).unwrap().into_iter().map(|place| place.map(|place| place.first)).collect()
        };
        assert_eq!(first(&keys), expected);
        for (key, place) in keys.iter().zip(&expected) {
            assert_eq!(first(&[*key]), [*place]);
        }
        for after in keys.iter().copied().map(Some).chain([None]) {
            let behind = self.index.iter().filter(|(key, _)| after.is_none_or(|after| **key > after));
            let expected: Vec<_> = behind.map(|(key, place)| (*key, *place)).take(5).collect();
            assert_eq!(keys_after(store, after, 5).unwrap(), expected);
        }
        for prefix in
            keys.iter().step_by(7).flat_map(|key| [20, 24].map(|bits| KeyPrefix::of(key, bits).unwrap()))
        {
            let within = keys.iter().copied().filter(|key| prefix.covers(key));
            for after in within.map(Some).chain([None]) {
                let behind = self
                    .index
                    .keys()
                    .filter(|key| prefix.covers(key) && after.is_none_or(|after| **key > after));
                let expected: Vec<_> = behind.copied().take(4).collect();
                assert_eq!(keys_with(store, prefix, after, 4).unwrap(), expected);
            }
        }
        for from in [0, 1, 63, 64, 65, 130] {
            let expected: Vec<_> = self.feed.iter().skip(from).take(70).copied().collect();
            assert_eq!(feed_from(store, from as u64, 70).unwrap(), expected);
        }
    }
}

#[test]
fn keys_of_equal_short_names_are_told_apart_however_they_come_and_go() {
    let mut draws = blake3::Hasher::new().finalize_xof();
    let mut draw = |below: usize| {
        let mut byte = [0];
        draws.fill(&mut byte);
        usize::from(byte[0]) % below
    };
    let store = Arc::new(Memory::new(StoreKind::State));
    let mut reference = Reference::default();
    let mut crowded = BTreeSet::new();
    for _ in 0..60 {
        let records: Vec<_> = (0..draw(12))
            .map(|_| {
                let entry = u16::try_from(draw(200)).unwrap();
                reference.turn(keys()[draw(40)], entry)
            })
            .collect();
        let mut batch = Batch::new();
        write(&*store, &mut batch, &records, &[]).unwrap();
        store.write(batch, Durability::Buffered).unwrap();
        reference.check(&*store);
        crowded.insert(reference.index.keys().filter(|key| key.kind() == KeyKind::BuildLog).count());
    }
    assert!(crowded.iter().any(|count| *count > POSITIONS_MAX), "some stood under their whole names");
}

#[test]
fn the_same_records_give_the_same_bytes_in_any_batches() {
    let mut reference = Reference::default();
    let mut draws = (0_usize..).map(|step| (step * 7 + step / 11) % 40);
    let records: Vec<_> =
        (0..300).map(|entry| reference.turn(keys()[draws.next().unwrap()], entry)).collect();
    let contents = [1, 3, 64, 300].map(|size| {
        let store = Memory::new(StoreKind::State);
        for some in records.chunks(size) {
            let mut batch = Batch::new();
            write(&store, &mut batch, some, &[]).unwrap();
            store.write(batch, Durability::Buffered).unwrap();
        }
        reference.check(&store);
        [Table::Index, Table::Feed]
            .map(|table| store.scan(table, &KeyRange::all(), ScanLimit::entries(usize::MAX)).unwrap())
    });
    assert!(contents.iter().all(|content| *content == contents[0]));
}

#[test]
fn a_feed_with_a_gap_is_not_written() {
    let store = Memory::new(StoreKind::State);
    let record = FeedRecord::Withdrawn { key: keys()[0] };
    assert!(matches!(write(&store, &mut Batch::new(), &[(1, record)], &[]), Err(StorageError::Corrupted(_))));
}

#[test]
fn an_index_that_names_what_the_feed_has_not_is_reported() {
    let store = Memory::new(StoreKind::State);
    let mut batch = Batch::new();
    let row = Row { positions: vec![5], has_variants: false };
    batch.put(Table::Index, short(keys()[0]), row.to_bytes());
    store.write(batch, Durability::Buffered).unwrap();
    assert!(matches!(locate(&store, &keys()[..1]), Err(StorageError::Corrupted(_))));
    for damaged in [&[0; 4][..], &[0; 45], &[0; 6], &[2; 6], &[1; 7]] {
        assert!(Row::from_bytes(damaged).is_err(), "{damaged:?}");
    }
}

#[test]
fn only_keys_with_further_places_are_looked_up_for_them() {
    let store = Memory::new(StoreKind::State);
    let mut reference = Reference::default();
    // The last of the crowded ones stands under its whole name.
    let crowded: Vec<_> = (0..9).map(|number| reference.turn(keys()[number], 1)).collect();
    let other = reference.turn(keys()[25], 2);
    let commit = |records: &[(u64, FeedRecord)], variants: &[ObjectKey]| {
        let mut batch = Batch::new();
        write(&store, &mut batch, records, variants).unwrap();
        store.write(batch, Durability::Buffered).unwrap();
    };
    let may = |key| locate(&store, &[key]).unwrap()[0].unwrap().may_have_variants;
    commit(&[crowded, vec![other]].concat(), &[]);
    assert!(!may(keys()[8]) && !may(keys()[25]));
    commit(&[], &[keys()[8]]);
    assert!(may(keys()[8]) && !may(keys()[25]));
    // Rows keep it when keys come and go.
    commit(&[reference.turn(keys()[0], 3)], &[]);
    assert!(may(keys()[8]));
    reference.check(&store);
}
