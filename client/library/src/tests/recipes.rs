//! Recipes of published files: found where they make the very file, kept by whatever packs its path anew.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::Arc;

use firn_base::ByteCount;
use firn_bundle::{Encoding, PAYLOAD_BYTES_MAX, PublishedFile};
use firn_client_logic::{PublishSummary, UploadPolicy};
use firn_nix_format::{Compression, Recipe, RecipeEncoder, Sha256};
use firn_transport::Environment;

use super::archive::TestArchive;
use super::cache::{Cache, Entry, nar_of, noise, store_path};
use super::pipeline::{assert_restores, key, publish_until_packed, publish_with};
use crate::compact::{CompactOptions, compact_in};
use crate::events::PublishEvents;
use crate::publish_options::PublishOptions;
use crate::repack::{RepackOptions, repack_in};

fn made(recipe: Recipe, nar: &[u8]) -> Vec<u8> {
    let mut encoder = RecipeEncoder::new(recipe, Vec::new()).unwrap();
    encoder.write_all(nar).unwrap();
    encoder.finish().unwrap()
}

/// Noise, and words that a compressor finds again.
fn contents(bytes: usize, seed: u64) -> Vec<u8> {
    [noise(bytes / 4, seed), b"words that come again and again, ".repeat(bytes / 44)].concat()
}

impl Cache {
    /// Adds a path whose file `recipe` has made.
    fn add_made(&mut self, name: &str, contents: &[u8], recipe: Recipe, change: impl FnOnce(&mut Entry)) {
        let mut entry = self.entry(name, contents, recipe.compression(), &[]);
        entry.file = made(recipe, &nar_of(contents));
        entry.info.file_hash = Some(Sha256::of(&entry.file));
        entry.info.file_size = Some(entry.file.len() as u64);
        change(&mut entry);
        self.nars.insert(entry.info.store_path.base_name().to_owned(), nar_of(contents));
        self.add(entry);
    }
}

async fn publish(archive: &Arc<TestArchive>, cache: &Cache, keep_recipes: bool) -> PublishSummary {
    // Room for one large path after the other, as on a machine with one core.
    let options = PublishOptions {
        keep_recipes,
        memory: ByteCount(1),
        threads: 1,
        ..PublishOptions::new(cache.source())
    };
    publish_with(archive, cache, options).await.unwrap()
}

#[track_caller]
fn assert_files(archive: &TestArchive, expected: &[(&str, PublishedFile)]) {
    for (name, file) in expected {
        assert_eq!(archive.record(key(name)).published_file(), *file, "{name}");
    }
}

const XZ: PublishedFile = PublishedFile::Made(Recipe::Xz6);
const BZIP2: PublishedFile = PublishedFile::Made(Recipe::Bzip2_9);

#[tokio::test]
async fn a_recipe_is_kept_where_it_makes_the_published_file_and_nowhere_else() {
    let (mut cache, archive) = (Cache::new(), TestArchive::new(4, 6));
    cache.add_made("small-xz", &contents(20_000, 1), Recipe::Xz6, |_| {});
    cache.add_made("small-bzip2", &contents(20_000, 2), Recipe::Bzip2_9, |_| {});
    // On three threads.
    cache.add_made("large-xz", &contents(9 << 20, 3), Recipe::Xz6, |_| {});
    cache.add_made("large-bzip2", &contents(9 << 20, 4), Recipe::Bzip2_9, |_| {});
    cache.add_made("unsized-xz", &contents(20_000, 5), Recipe::Xz6, |entry| entry.info.file_size = None);
    // By lower levels.
    cache.add_path("other-xz", &contents(20_000, 6), Compression::Xz, &[]);
    cache.add_path("other-bzip2", &contents(2_000_000, 7), Compression::Bzip2, &[]);
    cache.add_made("unhashed-xz", &contents(20_000, 8), Recipe::Xz6, |entry| entry.info.file_hash = None);
    cache.add_path("zstd", &contents(20_000, 9), Compression::Zstd, &[]);
    cache.add_path("bare", &contents(20_000, 10), Compression::None, &[]);
    let summary = publish(&archive, &cache, true).await;
    assert_eq!((summary.paths_published, summary.exit_code()), (10, 0), "{summary}");
    assert_eq!((summary.recipes_tried, summary.recipes_kept), (7, 5));
    assert!(summary.to_string().contains("5 of 7 published files can be made again"), "{summary}");
    assert_restores(&archive, &cache);
    assert_files(
        &archive,
        &[
            ("small-xz", XZ),
            ("small-bzip2", BZIP2),
            ("large-xz", XZ),
            ("large-bzip2", BZIP2),
            ("unsized-xz", XZ),
            ("other-xz", PublishedFile::Lost),
            ("other-bzip2", PublishedFile::Lost),
            ("unhashed-xz", PublishedFile::Lost),
            ("zstd", PublishedFile::Lost),
            ("bare", PublishedFile::Content),
        ],
    );
}

#[tokio::test]
async fn no_recipe_is_looked_for_unless_that_is_wished_or_where_the_file_itself_is_kept() {
    let mut cache = Cache::new();
    cache.add_made("small-xz", &contents(20_000, 1), Recipe::Xz6, |_| {});
    let archive = TestArchive::new(4, 6);
    let summary = publish(&archive, &cache, false).await;
    assert_eq!((summary.recipes_tried, summary.recipes_kept), (0, 0));
    assert_files(&archive, &[("small-xz", PublishedFile::Lost)]);
    let archive = TestArchive::new(4, 6);
    let encoding = Encoding::Verbatim;
    let options = PublishOptions { keep_recipes: true, encoding, ..PublishOptions::new(cache.source()) };
    let summary = publish_with(&archive, &cache, options).await.unwrap();
    assert_eq!((summary.paths_published, summary.recipes_tried), (1, 0));
    assert!(archive.record(key("small-xz")).recipe.is_none());
}

#[tokio::test]
async fn a_path_that_is_refused_leaves_no_recipe_behind() {
    let (mut cache, archive) = (Cache::new(), TestArchive::new(4, 6));
    cache.add_made("good", &contents(20_000, 1), Recipe::Xz6, |_| {});
    cache.add_made("bad", &contents(20_000, 2), Recipe::Xz6, |entry| {
        *entry.file.last_mut().unwrap() ^= 1;
        entry.info.file_hash = Some(Sha256::of(&entry.file));
    });
    let summary = publish(&archive, &cache, true).await;
    assert_eq!((summary.paths_published, summary.refused.len()), (1, 1), "{summary}");
    assert_eq!((summary.recipes_tried, summary.recipes_kept), (1, 1));
}

#[tokio::test]
async fn a_path_that_is_published_again_as_another_file_keeps_the_recipe_of_the_first() {
    let (mut first, mut second) = (Cache::new(), Cache::new());
    let archive = TestArchive::new(4, 6);
    first.add_made("same", &contents(20_000, 1), Recipe::Xz6, |_| {});
    second.add_made("same", &contents(20_000, 1), Recipe::Bzip2_9, |_| {});
    publish(&archive, &first, true).await;
    let again = publish(&archive, &second, true).await;
    assert_eq!((again.paths_skipped, again.recipes_tried), (1, 0));
    assert_files(&archive, &[("same", XZ)]);
    let record = archive.record(key("same"));
    let file = made(Recipe::Xz6, &archive.restore(key("same")));
    assert_eq!(
        record.path_info().unwrap().file_hash,
        Some(Sha256::of(&file)),
        "it is that of its own FileHash"
    );
}

#[tokio::test]
async fn recipes_stay_when_their_paths_are_packed_anew() {
    let archive = TestArchive::new(4, 8);
    let (mut one, mut other) = (Cache::new(), Cache::new());
    one.add_made("one-xz", &contents(20_000, 1), Recipe::Xz6, |_| {});
    one.add_made("gone-xz", &contents(20_000, 2), Recipe::Xz6, |_| {});
    other.add_made("other-bzip2", &contents(20_000, 3), Recipe::Bzip2_9, |_| {});
    other.add_path("other-xz", &contents(20_000, 4), Compression::Xz, &[]);
    let kept = [("one-xz", XZ), ("other-bzip2", BZIP2), ("other-xz", PublishedFile::Lost)];
    publish(&archive, &one, true).await;
    publish(&archive, &other, true).await;
    let (objects, environment) = (archive.objects(), Environment::real());
    let options = RepackOptions {
        bundle_bytes: PAYLOAD_BYTES_MAX,
        ..RepackOptions::new(archive.bundles()[0], [key("gone-xz")].into(), BTreeSet::new())
    };
    repack_in(archive.clone(), &objects, &environment, &options, PublishEvents::none()).await.unwrap();
    assert_files(&archive, &kept);
    let bundles = archive.bundles();
    let options = CompactOptions {
        bundles: vec![bundles[1], bundles[2]],
        frame_compression: None,
        spool_dir: None,
        policy: UploadPolicy::default(),
    };
    let done =
        compact_in(archive.clone(), &objects, &environment, &options, PublishEvents::none()).await.unwrap();
    assert_eq!((done.objects, done.bundles), (3, 1));
    assert_files(&archive, &kept);
}

#[tokio::test]
async fn a_publish_that_is_asked_to_stop_breaks_a_trial_off_and_leaves_its_path_to_the_next_run() {
    let (mut cache, archive) = (Cache::new(), TestArchive::new(4, 6));
    cache.add_made("first", &contents(1_000, 1), Recipe::Xz6, |_| ());
    cache.add_made("second", &contents(6 << 20, 2), Recipe::Xz6, |_| ());
    let options = || PublishOptions { keep_recipes: true, threads: 1, ..PublishOptions::new(cache.source()) };
    let first = publish_until_packed(&archive, &cache, options()).await;
    assert_eq!((first.refused.len(), first.exit_code()), (0, 0), "{first}");
    // Its trial takes seconds longer than it takes to pack the first.
    assert_eq!(archive.keys(), [key("first")]);
    // Nothing gets in without the recipe that was wished.
    publish_with(&archive, &cache, options()).await.unwrap();
    assert_files(&archive, &[("first", XZ), ("second", XZ)]);
}

#[tokio::test]
async fn nothing_that_may_refer_to_a_path_whose_trial_was_broken_off_is_committed_without_it() {
    let (mut cache, archive) = (Cache::new(), TestArchive::new(4, 6));
    cache.add_made("front", &contents(1_000, 1), Recipe::Xz6, |_| ());
    let behind_front = |entry: &mut Entry| entry.info.references = vec![store_path("front")];
    cache.add_made("library", &contents(6 << 20, 2), Recipe::Xz6, behind_front);
    // It is read while the trial of its library still runs, and has none itself.
    cache.add_path("program", &contents(1_000, 3), Compression::None, &["library"]);
    let options =
        || PublishOptions { keep_recipes: true, threads: 2, jobs: 3, ..PublishOptions::new(cache.source()) };
    let first = publish_until_packed(&archive, &cache, options()).await;
    assert_eq!((first.refused.len(), first.exit_code()), (0, 0), "{first}");
    assert_eq!(archive.keys(), [key("front")]);
    publish_with(&archive, &cache, options()).await.unwrap();
    assert_files(&archive, &[("front", XZ), ("library", XZ), ("program", PublishedFile::Content)]);
}
