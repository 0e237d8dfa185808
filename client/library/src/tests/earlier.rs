//! What the archive holds already is not stored again, and comes back all the same.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use firn_base::BundleId;
use firn_bundle::{BundleRole, ContentHeader};
use firn_client_logic::PublishSummary;
use firn_nix_format::Compression;
use firn_retrieval::{ManifestReader, ObjectReader, PayloadReader, ReadError};
use firn_transport::{BoxFuture, Environment};

use super::archive::TestArchive;
use super::cache::{Cache, noise};
use super::pipeline::{assert_restores, key, publish_with};
use crate::earlier::{FRAMES, MANIFESTS};
use crate::publish_options::PublishOptions;

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
            let content = self.content(bundle).await?;
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

/// Paths of these names, each with the contents of that number: 100 kB, and 4 MB where the number is above 99.
fn cache_of(paths: &[(&str, u64)]) -> Cache {
    let mut cache = Cache::new();
    for (name, contents) in paths {
        let bytes = if *contents > 99 { 4_000_000 } else { 100_000 };
        cache.add_path(name, &noise(bytes, *contents), Compression::None, &[]);
    }
    cache
}

/// Options of a publish that uses what is archived.
fn reusing(cache: &Cache) -> PublishOptions {
    PublishOptions { reuse_chunks: true, ..PublishOptions::new(cache.source()) }
}

async fn publish(archive: &Arc<TestArchive>, cache: &Cache) -> PublishSummary {
    publish_with(archive, cache, reusing(cache)).await.unwrap()
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
    assert_restores(&archive, &second);
    // The next one depends on the bundle that holds the chunks, not on the one that uses them.
    let third = cache_of(&[("hello-1.2", 1), ("libfoo-2.5-dev", 7), ("vim-9.2", 100)]);
    let summary = publish(&archive, &third).await;
    assert!((100_000..130_000).contains(&summary.payload.0), "{}", summary.payload);
    assert_eq!(archive.dependencies_of(key("vim-9.2")), [first]);
    assert_restores(&archive, &third);
}

#[tokio::test]
async fn nothing_comes_to_depend_on_what_is_archived_unless_the_uploader_says_so() {
    let archive = TestArchive::new(4, 8);
    publish(&archive, &cache_of(&FIRST)).await;
    let second = cache_of(&[("hello-1.1", 1), ("vim-9.1", 100)]);
    let options = PublishOptions::new(second.source());
    let summary = publish_with(&archive, &second, options).await.unwrap();
    assert!(summary.payload.0 > 4_100_000, "{}", summary.payload);
    assert!(archive.dependencies_of(key("vim-9.1")).is_empty());
    assert_restores(&archive, &second);
}

#[tokio::test]
async fn a_large_object_is_found_under_another_name_and_a_small_one_is_stored_again() {
    let archive = TestArchive::new(2, 5);
    publish(&archive, &cache_of(&FIRST)).await;
    let renamed = cache_of(&[("gvim-9.0", 100), ("hallo-1.0", 1)]);
    let summary = publish(&archive, &renamed).await;
    assert!((100_000..130_000).contains(&summary.payload.0), "{}", summary.payload);
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
    assert!(summary.payload.0 > 4_100_000, "{}", summary.payload);
    assert!(archive.dependencies_of(key("vim-9.1")).is_empty());
    assert_restores(&archive, &second);
}

#[tokio::test]
async fn an_object_of_several_bundles_is_one_small_bundle_when_it_comes_again() {
    let archive = TestArchive::new(4, 8);
    let options = |cache: &Cache| PublishOptions { bundle_bytes: 2 << 20, ..reusing(cache) };
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
    assert!((200_000..230_000).contains(&summary.payload.0), "{}", summary.payload);
    assert_eq!(archive.dependencies_of(key("p0-2")).len(), 8);
    assert_restores(&archive, &again);
}
