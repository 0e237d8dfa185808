//! Rebuilds whose hashes changed and nothing else: they add next to nothing, and come back as they were.

use firn_bundle::{Encoding, PATCH_PLACEHOLDER, PATCHES_MAX};
use firn_nix_format::Compression;

use super::archive::{TestArchive, encoding_of};
use super::cache::{Cache, noise, store_path};
use super::pipeline::{assert_restores, key, publish, publish_with};
use crate::publish_options::PublishOptions;

const CONTENTS_BYTES: usize = 1_500_000;

/// What a program of some generation holds: noise, and every few kilobytes a path of its generation.
fn contents(name: &str, library: &str, seed: u64) -> Vec<u8> {
    let names = [store_path(name), store_path(library)];
    let pieces = noise(CONTENTS_BYTES, seed);
    let named = pieces
        .chunks(5000)
        .zip(names.iter().cycle())
        .flat_map(|(piece, path)| [piece, b"/nix/store/", path.hash_part().as_bytes(), b"-x/bin"].concat());
    named.collect()
}

/// One generation of a library and of two programs that name themselves and it.
fn add_generation(cache: &mut Cache, generation: u32) {
    let [library, first, second] = ["library", "first", "second"].map(|name| format!("{name}-{generation}"));
    cache.add_path(&library, &contents(&library, &library, 1), Compression::None, &[&library]);
    for (seed, name) in [(2, &first), (3, &second)] {
        cache.add_path(name, &contents(name, &library, seed), Compression::Xz, &[&library, name]);
    }
}

#[tokio::test]
async fn a_rebuild_that_changed_hashes_only_adds_next_to_nothing() {
    let mut cache = Cache::new();
    add_generation(&mut cache, 1);
    let alone = publish(&TestArchive::new(4, 6), &cache).await;
    assert_eq!((alone.paths_published, alone.exit_code()), (3, 0), "{alone}");
    let content = 3 * CONTENTS_BYTES as u64;
    assert!(alone.payload.0 > content, "{alone}");

    add_generation(&mut cache, 2);
    let archive = TestArchive::new(4, 6);
    let both = publish(&archive, &cache).await;
    assert_eq!((both.paths_published, both.exit_code()), (6, 0), "{both}");
    let added = both.payload.0 - alone.payload.0;
    assert!(added * 100 < content, "the second generation added {added} bytes to {alone}");
    assert_restores(&archive, &cache);
    for name in ["library-1", "first-1", "second-2"] {
        assert_eq!(archive.patches(key(name)), CONTENTS_BYTES / 5000, "{name}");
    }
}

#[tokio::test]
async fn what_is_kept_verbatim_is_not_patched() {
    let (mut cache, archive) = (Cache::new(), TestArchive::new(4, 6));
    cache.add_path("first-1", &contents("first-1", "first-1", 1), Compression::None, &[]);
    let options = PublishOptions { encoding: Encoding::Verbatim, ..PublishOptions::new(cache.source()) };
    let summary = publish_with(&archive, &cache, options).await.unwrap();
    assert_eq!((summary.paths_published, summary.exit_code()), (1, 0), "{summary}");
    assert_eq!(encoding_of(&archive, key("first-1")), Encoding::Verbatim);
    assert_eq!(archive.patches(key("first-1")), 0);
    assert_restores(&archive, &cache);
}

#[tokio::test]
async fn a_nar_that_holds_the_placeholder_and_one_without_references_come_back() {
    let (mut cache, archive) = (Cache::new(), TestArchive::new(4, 6));
    let own = store_path("named-1");
    let placeholder = PATCH_PLACEHOLDER.as_slice();
    let tangled = [placeholder, b"e", own.hash_part().as_bytes(), placeholder, own.hash_part().as_bytes()];
    cache.add_path("named-1", &tangled.concat(), Compression::None, &[]);
    // Names another path that is no reference of it: stays as it is.
    cache.add_path("other-1", &tangled.concat(), Compression::Zstd, &[]);
    let summary = publish(&archive, &cache).await;
    assert_eq!((summary.paths_published, summary.exit_code()), (2, 0), "{summary}");
    assert_eq!([archive.patches(key("named-1")), archive.patches(key("other-1"))], [2, 0]);
    assert_restores(&archive, &cache);
}

#[tokio::test]
async fn an_object_with_more_hash_parts_than_it_may_have_patches_is_archived_all_the_same() {
    let (mut cache, archive) = (Cache::sound(), TestArchive::new(4, 6));
    let own = store_path("links-1");
    let contents = own.hash_part().repeat(PATCHES_MAX + 1000);
    cache.add_path("links-1", contents.as_bytes(), Compression::Zstd, &["links-1", "libc-2.40"]);
    let summary = publish(&archive, &cache).await;
    assert_eq!((summary.paths_published, summary.exit_code()), (7, 0), "{summary}");
    assert_eq!(archive.patches(key("links-1")), PATCHES_MAX);
    assert_restores(&archive, &cache);
}
