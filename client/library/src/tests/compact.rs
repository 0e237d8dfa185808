//! Small bundles that come together: everything in them comes back, in its order, and chunks of others are used on.

use std::io::ErrorKind;
use std::sync::Arc;

use firn_base::BundleId;
use firn_bundle::FrameCompression;
use firn_client_logic::UploadPolicy;
use firn_nix_format::Compression;
use firn_transport::Environment;

use super::archive::TestArchive;
use super::cache::{Cache, noise};
use super::earlier::cache_of;
use super::pipeline::{assert_restores, key, publish_with};
use crate::archived_objects::{ArchivedObjects, KeepError, Sought, archived_records};
use crate::compact::{CompactError, CompactOptions, Compacted, compact_in};
use crate::events::PublishEvents;
use crate::pack::PackError;
use crate::publish_options::PublishOptions;
use crate::replacement::ReplaceError;
use crate::restore::check_restores;
use crate::spool::SpoolDir;

async fn publish(archive: &Arc<TestArchive>, cache: &Cache) -> BundleId {
    let options = PublishOptions { reuse_small_bundles: true, ..PublishOptions::new(cache.source()) };
    publish_with(archive, cache, options).await.unwrap();
    archive.bundles().pop().unwrap()
}

async fn compact(archive: &Arc<TestArchive>, bundles: &[BundleId]) -> Result<Compacted, CompactError> {
    let options = CompactOptions {
        bundles: bundles.to_vec(),
        frame_compression: None,
        spool_dir: None,
        policy: UploadPolicy::default(),
    };
    let (objects, environment) = (archive.objects(), Environment::real());
    compact_in(archive.clone(), &objects, &environment, &options, PublishEvents::none()).await
}

#[tokio::test]
async fn small_bundles_come_together_and_go_on_using_chunks_of_those_that_stay() {
    let archive = TestArchive::new(4, 8);
    let staying = publish(&archive, &cache_of(&[("vim-9.0", 100), ("hello-1.0", 1)])).await;
    let caches = [
        cache_of(&[("vim-9.1", 100), ("news-1", 2)]),
        cache_of(&[("libfoo-2.3", 3), ("hello-1.1", 1)]),
        cache_of(&[("gcc-1.0", 4), ("libbar-1", 5)]),
    ];
    let mut small = Vec::new();
    for cache in &caches {
        small.push(publish(&archive, cache).await);
    }
    assert_eq!(archive.dependencies_of(key("vim-9.1")), [staying]);
    let in_order: Vec<_> = small.iter().flat_map(|bundle| archive.keys_of(*bundle)).collect();
    let done = compact(&archive, &small).await.unwrap();
    assert_eq!((done.objects, done.bundles), (6, 1));
    for name in ["vim-9.1", "news-1", "libfoo-2.3", "hello-1.1", "gcc-1.0", "libbar-1"] {
        assert_eq!(archive.dependencies_of(key(name)), [staying], "{name} lies in the new bundle");
    }
    assert_eq!(archive.keys_of(*archive.bundles().last().unwrap()), in_order);
    // What they held is not there any more: all of it is read from the new one, and from the one that stays.
    assert!(small.iter().all(|bundle| archive.content_of(*bundle).is_none()));
    for cache in &caches {
        assert_restores(&archive, cache);
    }
}

#[tokio::test]
async fn what_does_not_become_fewer_bundles_and_what_cannot_be_read_stays_as_it_is() {
    let archive = TestArchive::new(4, 8);
    let (one, other) = (cache_of(&[("hello-1.0", 1)]), cache_of(&[("libfoo-2.3", 2)]));
    let small = [publish(&archive, &one).await, publish(&archive, &other).await];
    let alone = compact(&archive, &small[..1]).await;
    assert!(matches!(alone, Err(CompactError::NoFewer { before: 1, behind: 1 })), "{alone:?}");
    archive.lose(small[1]);
    let unread = compact(&archive, &small).await;
    let unreadable = |error: &CompactError| {
        matches!(error, CompactError::Replace(ReplaceError::Read(_) | ReplaceError::Keep(_)))
    };
    assert!(unread.as_ref().is_err_and(unreadable), "{unread:?}");
    assert!(small.iter().all(|bundle| archive.content_of(*bundle).is_some()));
    assert_restores(&archive, &one);
}

/// Ten bundles that stay, and two rounds of small ones that use 2 MB of one of them each and have so many bytes besides.
async fn small_of_ten(archive: &Arc<TestArchive>, own_bytes: usize) -> (Vec<Cache>, Vec<BundleId>) {
    let (mut caches, mut small) = (Vec::new(), Vec::new());
    for version in 0..3_u64 {
        for other in 0..10_u64 {
            let own = if version == 0 { Vec::new() } else { noise(own_bytes, 100 * version + other) };
            let contents = [noise(2_000_000, other), own].concat();
            let mut cache = Cache::new();
            cache.add_path(&format!("package{other}-1.{version}"), &contents, Compression::None, &[]);
            let bundle = publish(archive, &cache).await;
            if version > 0 {
                let content = archive.content_of(bundle).unwrap();
                assert_eq!(content.dependencies().len(), 1, "package{other}-1.{version}");
                small.push(bundle);
            }
            caches.push(cache);
        }
    }
    (caches, small)
}

#[tokio::test]
async fn what_uses_more_than_eight_others_comes_together_in_the_order_of_what_it_uses() {
    let archive = TestArchive::new(4, 8);
    let (caches, small) = small_of_ten(&archive, 1_000_000).await;
    let done = compact(&archive, &small).await.unwrap();
    assert_eq!((done.objects, done.bundles), (20, 1));
    let together = *archive.bundles().last().unwrap();
    assert_eq!(archive.content_of(together).unwrap().dependencies().len(), 8);
    let both = |other: u64| [1, 2].map(|version| key(&format!("package{other}-1.{version}")));
    assert_eq!(archive.keys_of(together), (0..10).flat_map(both).collect::<Vec<_>>());
    assert!(small.iter().all(|bundle| archive.content_of(*bundle).is_none()));
    caches.iter().for_each(|cache| assert_restores(&archive, cache));
}

#[tokio::test]
async fn what_would_take_half_as_much_again_for_want_of_places_stays_as_it_is() {
    let archive = TestArchive::new(4, 8);
    // What is used of the ninth and the tenth would be stored again: 4 MB, and all of these have less than 6 MB.
    let (caches, small) = small_of_ten(&archive, 20_000).await;
    let refused = compact(&archive, &small).await;
    // Nor are there parts that would fill a quarter of a bundle.
    assert!(matches!(refused, Err(CompactError::NoGain { .. })), "{refused:?}");
    assert!(small.iter().all(|bundle| archive.content_of(*bundle).is_some()));
    caches.iter().for_each(|cache| assert_restores(&archive, cache));
}

#[tokio::test]
async fn what_compresses_comes_together_in_a_bundle_that_has_no_room_for_its_raw_bytes() {
    const BUNDLE_BYTES: u64 = 4 << 20;
    let archive = TestArchive::new(4, 8);
    let mut old = Vec::new();
    for seed in 0..4 {
        // Each is different, and little of it is more than a compressor finds again.
        let text = [noise(20_000, seed), noise(2_000, seed).repeat(1_700)].concat();
        let mut cache = Cache::new();
        cache.add_path(&format!("text-{seed}"), &text, Compression::Xz, &[]);
        old.push(publish(&archive, &cache).await);
    }
    let objects = archive.objects();
    let mut records = Vec::new();
    for bundle in &old {
        records.extend(archived_records(&objects, *bundle).await.unwrap());
    }
    let spool = SpoolDir::open(None).unwrap();
    let (going, environment) = (old.into_iter().collect(), Environment::real());
    let archived = ArchivedObjects::new(archive.clone(), objects, environment, spool, going, Sought::All);
    let none = PublishEvents::none();
    let set = archived.pack(&records, FrameCompression::ZSTD, BUNDLE_BYTES, None, &none).await.unwrap();
    let raw: u64 = set.objects.iter().map(|object| object.content_bytes).sum();
    assert!(raw > 3 * BUNDLE_BYTES);
    assert_eq!((set.bundles.len(), set.objects.len()), (1, 4));
    check_restores(&set).unwrap();
}

#[test]
fn a_spool_without_room_says_nothing_of_other_groups_and_one_that_cannot_be_written_does() {
    let spool = SpoolDir::open(None).unwrap();
    let is_general = |kind: ErrorKind| {
        let error = PackError::from(spool.failed(kind.into()));
        CompactError::from(ReplaceError::from(KeepError::from(error))).is_general()
    };
    assert!(!is_general(ErrorKind::StorageFull));
    assert!(is_general(ErrorKind::PermissionDenied));
}
