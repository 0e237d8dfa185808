//! What every store of filters must do, run over both.

use std::sync::Arc;

use firn_base::{Digest, FeedRange, ObjectKey};
use firn_filter::FilterDraft;

use super::*;

const ARCHIVE: ArchiveId = ArchiveId::from_bytes([1; 32]);

fn filter(archive: ArchiveId, first: u64) -> (FilterId, Vec<u8>) {
    let header = FilterHeader {
        archive,
        range: FeedRange { first, end: first + 8 },
        digest_before: Digest::from_bytes([2; 32]),
        digest_behind: Digest::from_bytes([3; 32]),
        parts_log2: 0,
    };
    let draft = FilterDraft::new(header).unwrap();
    let hash = draft.hasher().hash(&ObjectKey::store_path([4; 20]));
    let part = draft.part(&mut vec![hash.value]).unwrap();
    let bytes = [draft.head(), part.bytes, draft.tail(1)].concat();
    (FilterId::from_bytes(*blake3::hash(&bytes).as_bytes()), bytes)
}

fn keep(store: &dyn FilterStore, id: FilterId, bytes: &[u8]) {
    let mut writer = store.begin().unwrap();
    for piece in bytes.chunks(7) {
        writer.write(piece).unwrap();
    }
    writer.keep(id).unwrap();
}

fn loaded(store: &dyn FilterStore) -> Vec<FilterId> {
    let mut ids: Vec<_> = store.load(ARCHIVE).unwrap().iter().map(|filter| filter.entry.id).collect();
    ids.sort_unstable();
    ids
}

fn check(store: &dyn FilterStore) {
    assert_eq!(loaded(store), []);
    let (one, bytes) = filter(ARCHIVE, 0);
    let (two, others) = filter(ARCHIVE, 8);
    keep(store, one, &bytes);
    keep(store, two, &others);
    let held = store.load(ARCHIVE).unwrap();
    let found = held.iter().find(|filter| filter.entry.id == one).unwrap();
    assert_eq!((found.entry.range, found.entry.keys), (FeedRange { first: 0, end: 8 }, 1));
    assert_eq!(
        (found.entry.bytes, found.entry.feed_digest),
        (bytes.len() as u64, Digest::from_bytes([3; 32]))
    );
    assert_eq!(found.digest_before, Digest::from_bytes([2; 32]));
    // In pieces, and nothing behind the end.
    assert_eq!(store.read(one, 3, 10).unwrap().unwrap(), bytes[3..13]);
    assert_eq!(store.read(one, bytes.len() as u64 - 2, 10).unwrap().unwrap(), bytes[bytes.len() - 2..]);
    assert!(store.read(one, u64::MAX / 2, 10).unwrap().unwrap().is_empty());
    assert_eq!(store.read(FilterId::from_bytes([9; 32]), 0, 10).unwrap(), None);
    // What was begun and not kept does not count, nor what is no filter, nor what is of another archive.
    store.begin().unwrap().write(&bytes).unwrap();
    let (foreign, theirs) = filter(ArchiveId::from_bytes([8; 32]), 0);
    keep(store, foreign, &theirs);
    keep(store, FilterId::from_bytes([9; 32]), &bytes);
    keep(store, FilterId::from_bytes(*blake3::hash(b"short").as_bytes()), b"short");
    let mut both = [one, two];
    both.sort_unstable();
    assert_eq!(loaded(store), both);
    assert_eq!(store.read(foreign, 0, 10).unwrap(), None, "it is removed");
    store.remove(one).unwrap();
    store.remove(one).unwrap();
    assert_eq!(loaded(store), [two]);
}

#[test]
fn filters_in_memory_are_kept_as_filters_in_files() {
    check(&*FilterOptions::in_memory().store);
}

#[test]
fn filters_in_files_are_kept_whole_or_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("filters");
    let store: Arc<dyn FilterStore> = FilterOptions::in_directory(path.clone()).store;
    check(&*store);
    // One byte of what is left is another one now.
    let file = std::fs::read_dir(&path).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[140] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    assert_eq!(loaded(&*store), []);
    assert!(!file.exists(), "a damaged filter is made again");
}
