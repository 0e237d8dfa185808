//! What the archive holds already is not stored again, and comes back all the same.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use firn_base::{BundleId, Scheme};
use firn_bundle::{BundleRole, ContentHeader};
use firn_client_logic::PublishSummary;
use firn_nix_format::Compression;
use firn_retrieval::{ManifestReader, ObjectReader, PayloadReader, ReadError};
use firn_transport::{BoxFuture, Environment};

use super::archive::{Faults, TestArchive};
use super::cache::{Cache, noise};
use super::pipeline::{assert_restores, key, publish_with};
use crate::content::ContentWriter;
use crate::earlier::{EarlierChunks, FRAMES, MANIFESTS};
use crate::events::PublishEvents;
use crate::paper_archive::PaperArchive;
use crate::publish_options::PublishOptions;
use crate::spool::SpoolDir;

/// What nodes send of the test archive.
#[derive(Debug)]
struct Payloads {
    archive: Arc<TestArchive>,
    /// Frames come with a flipped bit, as if their bundle's manifest had never been true.
    lying: bool,
}

impl PayloadReader for Payloads {
    fn content(&self, bundle: BundleId) -> BoxFuture<'_, Result<Arc<ContentHeader>, ReadError>> {
        Box::pin(async move {
            let content = self.archive.content_of(bundle);
            content.map(Arc::new).ok_or(ReadError::UnknownBundle { bundle })
        })
    }

    fn read(&self, bundle: BundleId, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ReadError>> {
        Box::pin(async move {
            if self.archive.is_stalled() {
                std::future::pending::<()>().await;
            }
            let content = self.content(bundle).await?;
            if range.start < content.manifest_extent().start && self.archive.is_lost(bundle) {
                return Err(ReadError::UnknownBundle { bundle });
            }
            let mut payload = self.archive.payload_of(bundle);
            let frames = usize::try_from(content.manifest_extent().start).unwrap();
            if self.lying {
                payload[..frames].iter_mut().for_each(|byte| *byte ^= 1);
            }
            let index = |offset: u64| usize::try_from(offset).unwrap();
            Ok(Bytes::from(payload).slice(index(range.start)..index(range.end)))
        })
    }
}

/// What reads the objects of `archive`.
pub(super) fn reader(archive: &Arc<TestArchive>, lying: bool) -> ObjectReader {
    let payloads = Arc::new(Payloads { archive: Arc::clone(archive), lying });
    ObjectReader::new(ManifestReader::new(payloads, MANIFESTS), Environment::real(), FRAMES)
}

/// Paths of these names, each with the contents of that number: 300 kB, and 4 MB where the number is above 99.
pub(super) fn cache_of(paths: &[(&str, u64)]) -> Cache {
    let mut cache = Cache::new();
    for (name, contents) in paths {
        let bytes = if *contents > 99 { 4_000_000 } else { 300_000 };
        cache.add_path(name, &noise(bytes, *contents), Compression::None, &[]);
    }
    cache
}

async fn publish(archive: &Arc<TestArchive>, cache: &Cache) -> PublishSummary {
    // What lies in them is small, and would else be left alone.
    let options = PublishOptions { reuse_small_bundles: true, ..PublishOptions::new(cache.source()) };
    publish_with(archive, cache, options).await.unwrap()
}

const FIRST: [(&str, u64); 3] = [("hello-1.0", 1), ("libfoo-2.3-dev", 2), ("vim-9.0", 100)];

#[tokio::test]
async fn a_rebuild_under_the_same_names_stores_hardly_anything_and_comes_back() {
    let archive = TestArchive::new(4, 8);
    publish(&archive, &cache_of(&FIRST)).await;
    let [first] = archive.bundles()[..] else { panic!("one bundle") };
    let second = cache_of(&[("hello-1.1", 1), ("libfoo-2.4-dev", 2), ("vim-9.1", 100)]);
    let summary = publish(&archive, &second).await;
    assert_eq!(summary.paths_published, 3);
    assert!(summary.payload.0 < 20_000, "{}", summary.payload);
    assert_eq!(archive.dependencies_of(key("vim-9.1")), [first]);
    assert_eq!(summary.reused.0, second.nars.values().map(|nar| nar.len() as u64).sum::<u64>());
    assert_restores(&archive, &second);
    // The next one depends on the bundle that holds the chunks, not on the one that uses them.
    let third = cache_of(&[("hello-1.2", 1), ("libfoo-2.5-dev", 7), ("vim-9.2", 100)]);
    let summary = publish(&archive, &third).await;
    assert!((300_000..330_000).contains(&summary.payload.0), "{}", summary.payload);
    assert_eq!(archive.dependencies_of(key("vim-9.2")), [first]);
    assert_restores(&archive, &third);
}

#[tokio::test]
async fn nothing_comes_to_depend_on_what_is_archived_if_the_uploader_says_so() {
    let archive = TestArchive::new(4, 8);
    publish(&archive, &cache_of(&FIRST)).await;
    let second = cache_of(&[("hello-1.1", 1), ("vim-9.1", 100)]);
    let options = PublishOptions { reuse_chunks: false, ..PublishOptions::new(second.source()) };
    let summary = publish_with(&archive, &second, options).await.unwrap();
    assert!(summary.payload.0 > 4_300_000, "{}", summary.payload);
    assert!(archive.dependencies_of(key("vim-9.1")).is_empty());
    assert_restores(&archive, &second);
}

#[tokio::test]
async fn a_large_object_is_found_under_another_name_and_a_small_one_is_stored_again() {
    let archive = TestArchive::new(2, 5);
    publish(&archive, &cache_of(&FIRST)).await;
    let renamed = cache_of(&[("gvim-9.0", 100), ("hallo-1.0", 1)]);
    let summary = publish(&archive, &renamed).await;
    assert!((300_000..330_000).contains(&summary.payload.0), "{}", summary.payload);
    assert_eq!(archive.dependencies_of(key("gvim-9.0")).len(), 1);
    assert_restores(&archive, &renamed);
}

#[tokio::test]
async fn chunks_that_are_not_what_a_manifest_says_are_stored_anew() {
    let archive = TestArchive::new(4, 8);
    publish(&archive, &cache_of(&FIRST)).await;
    archive.lie();
    let second = cache_of(&[("hello-1.1", 1), ("vim-9.1", 100)]);
    let summary = publish(&archive, &second).await;
    assert!(summary.payload.0 > 4_300_000, "{}", summary.payload);
    assert!(archive.dependencies_of(key("vim-9.1")).is_empty());
    assert_restores(&archive, &second);
}

#[tokio::test]
async fn an_object_of_several_bundles_is_one_small_bundle_when_it_comes_again() {
    let archive = TestArchive::new(4, 8);
    let options =
        |cache: &Cache| PublishOptions { bundle_bytes: 2 << 20, ..PublishOptions::new(cache.source()) };
    let first = cache_of(&[("vim-9.0", 100)]);
    publish_with(&archive, &first, options(&first)).await.unwrap();
    // A part, and a head with the end of the object.
    let bundles = archive.bundles();
    assert!(bundles.len() >= 2, "{bundles:?}");
    let second = cache_of(&[("vim-9.1", 100)]);
    let summary = publish_with(&archive, &second, options(&second)).await.unwrap();
    assert_eq!(summary.bundles, 1);
    assert!(summary.payload.0 < 20_000, "{}", summary.payload);
    assert_eq!(archive.dependencies_of(key("vim-9.1")), bundles);
    assert_eq!(archive.role_of(key("vim-9.1")), BundleRole::Ordinary);
    assert_restores(&archive, &second);
}

#[tokio::test]
async fn a_bundle_depends_on_eight_others_at_most_and_what_is_beyond_is_stored_again() {
    let archive = TestArchive::new(4, 8);
    let names: Vec<String> = (0..10).map(|number| format!("p{number}-1")).collect();
    for (number, name) in (1..).zip(&names) {
        publish(&archive, &cache_of(&[(name, number)])).await;
    }
    let names: Vec<String> = (0..10).map(|number| format!("p{number}-2")).collect();
    let paths: Vec<(&str, u64)> = names.iter().map(String::as_str).zip(1..).collect();
    let again = cache_of(&paths);
    let summary = publish(&archive, &again).await;
    assert_eq!(summary.bundles, 1);
    assert!((600_000..630_000).contains(&summary.payload.0), "{}", summary.payload);
    assert_eq!(archive.dependencies_of(key("p0-2")).len(), 8);
    assert_restores(&archive, &again);
}

#[tokio::test]
async fn many_unlike_builds_of_a_name_hide_no_object_that_has_the_chunks() {
    let archive = TestArchive::new(4, 8);
    publish(&archive, &cache_of(&[("gvim-9.0", 100)])).await;
    for (name, contents) in ["vim-9.1", "vim-9.2", "vim-9.3", "vim-9.4"].into_iter().zip(101..) {
        publish(&archive, &cache_of(&[(name, contents)])).await;
    }
    let again = cache_of(&[("vim-9.5", 100)]);
    let summary = publish(&archive, &again).await;
    assert!(summary.payload.0 < 20_000, "{}", summary.payload);
    assert_eq!(archive.dependencies_of(key("vim-9.5")), archive.bundles()[..1]);
    assert_restores(&archive, &again);
}

/// A path whose contents are these, one behind the other: so many bytes each.
fn cache_with(name: &str, contents: &[(usize, u64)]) -> Cache {
    let bytes: Vec<u8> = contents.iter().flat_map(|(bytes, seed)| noise(*bytes, *seed)).collect();
    let mut cache = Cache::new();
    cache.add_path(name, &bytes, Compression::None, &[]);
    cache
}

#[tokio::test]
async fn what_none_of_its_name_has_is_found_in_an_object_of_another_name() {
    let archive = TestArchive::new(4, 8);
    publish(&archive, &cache_with("libvim-1.0", &[(4_000_000, 1)])).await;
    publish(&archive, &cache_with("vim-9.0", &[(8_000_000, 2)])).await;
    let both = cache_with("vim-9.1", &[(8_000_000, 2), (4_000_000, 1)]);
    let summary = publish(&archive, &both).await;
    assert!(summary.payload.0 < 600_000, "but for the chunks where they meet: {}", summary.payload);
    assert_eq!(archive.dependencies_of(key("vim-9.1")).len(), 2);
    assert_restores(&archive, &both);
}

#[tokio::test]
async fn a_build_is_found_behind_later_ones_for_other_systems_that_have_most_of_it() {
    let archive = TestArchive::new(4, 8);
    let build = |version: u64, system: u64| {
        cache_with(&format!("vim-9.{version}"), &[(6_000_000, 1), (4_000_000, 100 + system)])
    };
    // As many others as are looked at by a name.
    for system in 0..3 {
        publish(&archive, &build(system, system)).await;
    }
    let again = build(3, 0);
    let summary = publish(&archive, &again).await;
    assert!(summary.payload.0 < 20_000, "{}", summary.payload);
    assert_restores(&archive, &again);
}

#[tokio::test]
async fn who_has_some_of_the_same_chunks_is_asked_once_if_much_is_left_and_not_for_a_little() {
    let archive = PaperArchive::new(Scheme::new(4, 8).unwrap());
    let mut requests = Vec::new();
    for (version, own_bytes) in [(0, 0), (1, 0), (2, 20_000), (3, 1_000_000)] {
        let contents = [(4_000_000, 1), (own_bytes, 10 + version)];
        let cache = cache_with(&format!("vim-9.{version}"), &contents);
        let options = PublishOptions { reuse_small_bundles: true, ..PublishOptions::new(cache.source()) };
        let before = archive.requests().similar_requests;
        let (publishers, events) = (vec![cache.publisher()], PublishEvents::none());
        archive.publish(publishers, &Environment::real(), options, events).await.unwrap();
        requests.push(archive.requests().similar_requests - before);
    }
    // Each asks by names, too.
    assert_eq!(requests, [2, 1, 1, 2]);
}

#[tokio::test]
async fn a_bundle_that_cannot_be_read_is_soon_asked_no_more_and_hides_no_other_with_the_same_chunks() {
    let archive = TestArchive::new(4, 8);
    let readable = cache_of(&[("vim-9.0", 100)]);
    publish(&archive, &readable).await;
    // The same contents once more, beside others, in a bundle that nobody can read.
    let names = |version: u64| (1..=12).map(move |number| format!("p{number}-{version}"));
    let paths = |vim: &str, version: u64| {
        let names: Vec<String> = names(version).collect();
        let mut paths: Vec<(&str, u64)> = names.iter().map(String::as_str).zip(1..).collect();
        paths.push((vim, 100));
        cache_of(&paths)
    };
    let unreadable = paths("vim-9.1", 1);
    let options = PublishOptions { reuse_chunks: false, ..PublishOptions::new(unreadable.source()) };
    publish_with(&archive, &unreadable, options).await.unwrap();
    let [good, bad] = archive.bundles()[..] else { panic!("two bundles") };
    archive.lose(bad);
    let again = paths("vim-9.2", 2);
    let summary = publish(&archive, &again).await;
    assert!((3_600_000..3_700_000).contains(&summary.payload.0), "{}", summary.payload);
    assert_eq!(archive.dependencies_of(key("vim-9.2")), [good]);
    // Thirteen objects of at least sixteen frames together; four of them are looked for before the first one failed.
    assert!((1..=12).contains(&archive.reads_in_vain()), "{}", archive.reads_in_vain());
}

#[tokio::test]
async fn a_read_that_never_ends_is_not_waited_for_without_end() {
    let archive = TestArchive::new(4, 8);
    publish(&archive, &cache_of(&[("hello-1.0", 1), ("gvim-9.0", 100)])).await;
    archive.stall();
    let spool = SpoolDir::open(None).unwrap();
    let mut writer = ContentWriter::new(&spool, 0).unwrap();
    writer.push(&noise(1_000_000, 100)).unwrap();
    let content = writer.finish().unwrap();
    let earlier = EarlierChunks::with_patience(archive.clone(), archive.objects(), Duration::ZERO)
        .in_small_bundles_too(true);
    let ten_minutes = Duration::from_secs(600);
    let found = tokio::time::timeout(ten_minutes, earlier.find(&content, &archive.all_records())).await;
    assert_eq!(found.expect("it ends, though a read does not"), []);
}

#[tokio::test]
async fn what_was_replaced_between_look_up_and_commit_is_named_as_such_and_publishing_again_helps() {
    let archive = TestArchive::with_faults(4, 8, Faults { refused_commits: 1, ..Faults::default() });
    let cache = cache_of(&FIRST);
    let summary = publish(&archive, &cache).await;
    assert_eq!((summary.paths_published, summary.refused.len()), (0, 3), "{summary}");
    assert!(summary.refused.iter().all(|path| path.reason.contains("publish them again")), "{summary}");
    assert_eq!(publish(&archive, &cache).await.paths_published, 3);
    assert_restores(&archive, &cache);
}
