//! Caches that are started again, damaged and without room.

use std::fs;
use std::path::Path;

use firn_base::BundleId;
use tokio::task::JoinHandle;

use super::*;

const ARCHIVE: ArchiveId = ArchiveId::from_bytes([1; 32]);

struct Running {
    cache: DiskCache,
    stop: watch::Sender<bool>,
    writer: JoinHandle<()>,
}

fn start_for(archive: ArchiveId, directory: &Path, bytes_max: u64) -> Running {
    let (cache, writer) = DiskCache::new(Environment::real(), archive, directory.join("data"), bytes_max);
    let (stop, stopped) = watch::channel(false);
    Running { cache, stop, writer: tokio::spawn(writer.run(stopped)) }
}

fn start(directory: &Path, bytes_max: u64) -> Running {
    start_for(ARCHIVE, directory, bytes_max)
}

impl Running {
    /// Waits until what was put in is written.
    async fn end(self) -> DiskCache {
        self.stop.send_replace(true);
        self.writer.await.unwrap();
        self.cache
    }
}

fn key(number: u64) -> CacheKey {
    CacheKey::Payload { bundle: BundleId::from_bytes([7; 32]), start: number, end: number + 1 }
}

fn value(number: u64, bytes: usize) -> Bytes {
    Bytes::from(vec![u8::try_from(number % 251).unwrap(); bytes])
}

fn files(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for folder in fs::read_dir(directory.join("data")).unwrap() {
        for file in fs::read_dir(folder.unwrap().path()).unwrap() {
            found.push(file.unwrap().path());
        }
    }
    found
}

#[tokio::test]
async fn what_was_written_is_there_after_a_start_even_before_stock_was_taken() {
    let place = tempfile::tempdir().unwrap();
    let first = start(place.path(), 10 << 20);
    first.cache.put(&key(1), value(1, 100_000));
    first.end().await;
    // No writer runs: nothing was listed.
    let (cache, writer) = DiskCache::new(Environment::real(), ARCHIVE, place.path().join("data"), 10 << 20);
    assert_eq!(cache.get(&key(1)).await, Some(value(1, 100_000)));
    assert_eq!(cache.get(&key(2)).await, None);
    drop(writer);
    let again = start(place.path(), 10 << 20);
    let cache = again.end().await;
    assert_eq!(cache.counts().entries, 1);
    assert_eq!(cache.get(&key(1)).await, Some(value(1, 100_000)));
}

#[tokio::test]
async fn another_archive_finds_nothing_of_it() {
    let place = tempfile::tempdir().unwrap();
    let first = start(place.path(), 10 << 20);
    first.cache.put(&key(1), value(1, 1000));
    first.end().await;
    let other = start_for(ArchiveId::from_bytes([2; 32]), place.path(), 10 << 20);
    assert_eq!(other.end().await.get(&key(1)).await, None);
}

#[tokio::test]
async fn a_flipped_bit_is_never_served_and_its_entry_is_dropped() {
    let place = tempfile::tempdir().unwrap();
    let first = start(place.path(), 10 << 20);
    first.cache.put(&key(1), value(1, 1000));
    first.end().await;
    let file = files(place.path()).pop().unwrap();
    let mut bytes = fs::read(&file).unwrap();
    bytes[500] ^= 1;
    fs::write(&file, bytes).unwrap();
    let again = start(place.path(), 10 << 20);
    assert_eq!(again.cache.get(&key(1)).await, None);
    again.cache.put(&key(1), value(1, 1000));
    let cache = again.end().await;
    assert_eq!(cache.get(&key(1)).await, Some(value(1, 1000)), "it can be written anew");
    assert_eq!(cache.counts().damaged, 1);
}

#[tokio::test]
async fn files_together_are_no_larger_than_allowed_also_after_a_start_with_less() {
    let place = tempfile::tempdir().unwrap();
    let size = || files(place.path()).iter().map(|file| fs::metadata(file).unwrap().len()).sum::<u64>();
    let first = start(place.path(), 1 << 20);
    for number in 0..40 {
        first.cache.put(&key(number), value(number, 50_000));
    }
    let cache = first.end().await;
    assert!(size() <= 1 << 20 && size() > 500_000, "{}", size());
    assert_eq!(cache.counts().bytes, size());
    let cache = start(place.path(), 600 << 10).end().await;
    assert!(size() <= 600 << 10, "{}", size());
    assert_eq!(cache.counts().bytes, size());
}

#[tokio::test]
async fn a_value_that_is_replaced_is_the_new_one() {
    let place = tempfile::tempdir().unwrap();
    let first = start(place.path(), 1 << 20);
    first.cache.replace(&CacheKey::Nodes, value(1, 1000));
    first.cache.replace(&CacheKey::Nodes, value(2, 2000));
    let cache = first.end().await;
    assert_eq!(cache.get(&CacheKey::Nodes).await, Some(value(2, 2000)));
    assert_eq!(files(place.path()).len(), 1);
}

#[tokio::test]
async fn a_disk_that_takes_nothing_is_counted_and_ends_nothing() {
    let place = tempfile::tempdir().unwrap();
    // Where the directory should be lies a file.
    fs::write(place.path().join("data"), "in the way").unwrap();
    let first = start(place.path(), 1 << 20);
    for number in 0..5 {
        first.cache.put(&key(number), value(number, 1000));
    }
    let cache = first.end().await;
    let counts = cache.counts();
    assert_eq!((counts.failed_writes, counts.entries), (1, 0), "it is tried once and then left in peace");
    assert_eq!(cache.get(&key(1)).await, None);
}

#[tokio::test]
async fn an_entry_whose_file_is_gone_can_be_put_again() {
    let place = tempfile::tempdir().unwrap();
    let first = start(place.path(), 1 << 20);
    first.cache.put(&key(1), value(1, 1000));
    first.end().await;
    let cache = start(place.path(), 1 << 20).end().await;
    fs::remove_file(files(place.path()).pop().unwrap()).unwrap();
    assert_eq!((cache.get(&key(1)).await, cache.counts().entries), (None, 0));
}

#[tokio::test]
async fn what_is_forgotten_and_put_again_at_once_stays() {
    let place = tempfile::tempdir().unwrap();
    let first = start(place.path(), 1 << 20);
    first.cache.put(&key(1), value(1, 1000));
    first.cache.put(&key(2), value(2, 1000));
    first.end().await;
    let again = start(place.path(), 1 << 20);
    while again.cache.counts().entries < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    again.cache.forget(&key(1));
    again.cache.forget(&key(2));
    again.cache.put(&key(1), value(3, 1000));
    let cache = again.end().await;
    assert_eq!((cache.get(&key(1)).await, cache.get(&key(2)).await), (Some(value(3, 1000)), None));
    assert_eq!((cache.counts().entries, files(place.path()).len()), (1, 1));
}

#[tokio::test]
async fn without_a_cache_what_an_earlier_one_left_is_removed() {
    let place = tempfile::tempdir().unwrap();
    let first = start(place.path(), 1 << 20);
    first.cache.put(&key(1), value(1, 1000));
    first.end().await;
    assert_eq!(files(place.path()).len(), 1);
    remove_left(&place.path().join("data"));
    assert_eq!(files(place.path()).len(), 0);
    remove_left(&place.path().join("data"));
}
