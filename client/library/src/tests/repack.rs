//! Bundles that are packed anew: what they hold comes back, chunks that stay are used on, and those that go are not.

use std::collections::BTreeSet;
use std::sync::Arc;

use firn_base::{BundleId, ObjectKey};
use firn_bundle::{BuilderOptions, BundleRole, Encoding, NewRecord, PAYLOAD_BYTES_MAX};
use firn_client_logic::UploadPolicy;
use firn_nix_format::{Compression, PathInfo, Sha256, StorePath};
use firn_transport::Environment;
use tokio::sync::Semaphore;

use super::archive::TestArchive;
use super::cache::{Cache, noise};
use super::earlier::cache_of;
use super::pipeline::{assert_restores, key, publish_with};
use crate::content::ContentWriter;
use crate::events::PublishEvents;
use crate::pack::Packer;
use crate::publish_options::PublishOptions;
use crate::repack::{RepackError, RepackOptions, Repacked, repack_in};
use crate::ship::{Shipping, TakesPlaceOf};
use crate::spool::SpoolDir;
use crate::verify::VerifiedObject;

async fn publish(archive: &Arc<TestArchive>, cache: &Cache, bundle_bytes: u64) -> Vec<BundleId> {
    let before = archive.bundles().len();
    let options = PublishOptions { bundle_bytes, ..PublishOptions::new(cache.source()) };
    publish_with(archive, cache, options).await.unwrap();
    archive.bundles().split_off(before)
}

/// Packs `bundle` anew without these paths, and without chunks of what is going; gives the bundles that came of it.
async fn pack_anew(
    archive: &Arc<TestArchive>,
    bundle: BundleId,
    left_out: &[&str],
    going: &[BundleId],
    bundle_bytes: u64,
) -> Result<(Repacked, Vec<BundleId>), RepackError> {
    let before = archive.bundles().len();
    let left_out = left_out.iter().map(|name| key(name)).collect();
    let going = going.iter().copied().collect();
    let options = RepackOptions { bundle_bytes, ..RepackOptions::new(bundle, left_out, going) };
    let (objects, environment) = (archive.objects(), Environment::real());
    let done = repack_in(archive.clone(), &objects, &environment, &options, PublishEvents::none()).await?;
    Ok((done, archive.bundles().split_off(before)))
}

fn sorted(bundles: &[BundleId]) -> BTreeSet<BundleId> {
    bundles.iter().copied().collect()
}

#[tokio::test]
async fn what_uses_chunks_of_a_bundle_that_goes_uses_those_of_what_took_its_place_and_of_the_others_as_before()
 {
    let archive = TestArchive::new(4, 8);
    let first = cache_of(&[("hello-1.0", 1), ("libfoo-2.3-dev", 2), ("vim-9.0", 100)]);
    let [going] = publish(&archive, &first, PAYLOAD_BYTES_MAX).await[..] else { panic!("one bundle") };
    let [staying] = publish(&archive, &cache_of(&[("gcc-1.0", 101)]), PAYLOAD_BYTES_MAX).await[..] else {
        panic!("one bundle")
    };
    let second = cache_of(&[("hello-1.1", 1), ("vim-9.1", 100), ("gcc-1.1", 101), ("news-1", 3)]);
    let [dependent] = publish(&archive, &second, PAYLOAD_BYTES_MAX).await[..] else { panic!("one bundle") };
    assert_eq!(sorted(&archive.dependencies_of(key("vim-9.1"))), sorted(&[going, staying]));

    let (done, new) = pack_anew(&archive, going, &["libfoo-2.3-dev"], &[], PAYLOAD_BYTES_MAX).await.unwrap();
    assert_eq!((done.kept, done.left_out, new.len()), (2, 1, 1));
    // The purged path is still served by its old bundle, as far as this archive knows.
    let (done, newer) = pack_anew(&archive, dependent, &[], &[going], PAYLOAD_BYTES_MAX).await.unwrap();
    assert_eq!((done.kept, done.left_out, newer.len()), (4, 0, 1));
    assert!((300_000..330_000).contains(&done.payload.0), "only what was its own: {}", done.payload);
    assert_eq!(sorted(&archive.dependencies_of(key("vim-9.1"))), sorted(&[new[0], staying]));
    assert_restores(&archive, &second);
    assert_restores(&archive, &first);
}

#[tokio::test]
async fn what_fitted_into_one_bundle_by_chunks_of_others_does_so_again_or_becomes_several() {
    const SMALL: u64 = 2 << 20;
    let archive = TestArchive::new(4, 8);
    let parts = publish(&archive, &cache_of(&[("vim-9.0", 100)]), SMALL).await;
    assert!(parts.len() >= 2);
    let second = cache_of(&[("vim-9.1", 100), ("hello-1.1", 1), ("news-1", 3)]);
    let [dependent] = publish(&archive, &second, SMALL).await[..] else { panic!("one bundle") };
    assert_eq!(archive.role_of(key("vim-9.1")), BundleRole::Ordinary);

    let (done, new) = pack_anew(&archive, dependent, &["hello-1.1"], &[], SMALL).await.unwrap();
    assert_eq!((new.len(), done.kept), (1, 2));
    assert!(done.payload.0 < 330_000, "{}", done.payload);
    assert_eq!(archive.dependencies_of(key("vim-9.1")), parts);

    // Everything that holds its chunks goes.
    let (done, new) =
        pack_anew(&archive, new[0], &[], &[&parts[..], &[dependent]].concat(), SMALL).await.unwrap();
    assert_eq!(done.kept, 2);
    assert!(new.len() >= 3, "parts, their head, and a bundle for the other path: {new:?}");
    assert_eq!(archive.role_of(key("vim-9.1")), BundleRole::Head);
    assert!(archive.dependencies_of(key("vim-9.1")).iter().all(|part| new.contains(part)));
    assert_restores(&archive, &second);
}

#[tokio::test]
async fn an_object_of_several_bundles_is_packed_anew_whole() {
    let archive = TestArchive::new(4, 8);
    let cache = cache_of(&[("vim-9.0", 100)]);
    let old = publish(&archive, &cache, 2 << 20).await;
    // Of the same size, it must not be the same bundles.
    let (done, new) = pack_anew(&archive, *old.last().unwrap(), &[], &[], 2 << 20).await.unwrap();
    assert_eq!((done.kept, done.bundles), (1, new.len() as u64));
    assert_eq!(archive.role_of(key("vim-9.0")), BundleRole::Head);
    assert!(sorted(&archive.dependencies_of(key("vim-9.0"))).is_disjoint(&sorted(&old)));
    assert_restores(&archive, &cache);
}

#[tokio::test]
async fn what_is_archived_as_a_nar_and_is_none_to_us_is_packed_anew_all_the_same() {
    let archive = TestArchive::new(4, 8);
    let path = StorePath::from_parts([7; 20], "odd-1").unwrap();
    let bytes = [&noise(300_000, 1)[..], path.hash_part().as_bytes(), &noise(300_000, 2)].concat();
    let info = PathInfo {
        store_path: path.clone(),
        url: "nar/1.nar".to_owned(),
        compression: Compression::None,
        file_hash: None,
        file_size: None,
        nar_hash: Sha256::of(&bytes),
        nar_size: bytes.len() as u64,
        references: Vec::new(),
        deriver: None,
        signatures: Vec::new(),
        ca: None,
        extra: Vec::new(),
    };
    let spool = SpoolDir::open(None).unwrap();
    let mut content = ContentWriter::patched(&spool, &info).unwrap();
    content.push(&bytes).unwrap();
    let mut content = content.finish().unwrap();
    let mut record = NewRecord::store_path(info, Encoding::Chunked);
    record.patches = content.take_patches();
    let mut packer = Packer::new(Environment::real(), spool.clone(), BuilderOptions::default(), 1);
    packer.push(VerifiedObject { record, content, source_bytes: 0, earlier: Vec::new() }).await.unwrap();
    let policy = UploadPolicy::default();
    let shipping = Shipping {
        environment: Environment::real(),
        destination: archive.clone(),
        spool,
        policy,
        events: PublishEvents::none(),
        sends: Arc::new(Semaphore::new(1)),
    };
    let set = packer.finish().await.unwrap().unwrap();
    shipping.ship(Arc::new(set), TakesPlaceOf::Nothing(Vec::new())).await.unwrap();
    let key = ObjectKey::store_path(*path.hash());
    assert_eq!(archive.patches(key), 1);

    // What fits into one frame has another bundle in smaller ones.
    let (done, new) = pack_anew(&archive, archive.bundles()[0], &[], &[], PAYLOAD_BYTES_MAX).await.unwrap();
    assert_eq!((done.kept, new.len(), archive.patches(key)), (1, 1, 1));
    let content = archive.restore(key);
    assert!(content == bytes, "{} bytes", content.len());
}

#[tokio::test]
async fn what_uses_chunks_of_a_bundle_that_was_replaced_and_stays_is_packed_without_them() {
    let archive = TestArchive::new(4, 8);
    let [first] = publish(&archive, &cache_of(&[("vim-9.0", 100)]), PAYLOAD_BYTES_MAX).await[..] else {
        panic!("one bundle")
    };
    let [other] = publish(&archive, &cache_of(&[("gcc-1.0", 101)]), PAYLOAD_BYTES_MAX).await[..] else {
        panic!("one bundle")
    };
    let second = cache_of(&[("vim-9.1", 100), ("gcc-1.1", 101)]);
    let [dependent] = publish(&archive, &second, PAYLOAD_BYTES_MAX).await[..] else { panic!("one bundle") };
    assert_eq!(sorted(&archive.dependencies_of(key("vim-9.1"))), sorted(&[first, other]));
    // No purge names it: its own paths lie elsewhere, and it stays for its chunks.
    archive.replace(first);
    let (done, _) = pack_anew(&archive, dependent, &[], &[], PAYLOAD_BYTES_MAX).await.unwrap();
    assert_eq!((done.kept, done.bundles), (2, 1));
    assert_eq!(archive.dependencies_of(key("vim-9.1")), [other], "the others are used on");
    assert_restores(&archive, &second);
}

#[tokio::test]
async fn a_bundle_whose_dependency_was_replaced_behind_its_packing_is_packed_once_more_and_needs_nobody() {
    let archive = TestArchive::new(4, 8);
    publish(&archive, &cache_of(&[("vim-9.0", 100)]), PAYLOAD_BYTES_MAX).await;
    let second = cache_of(&[("vim-9.1", 100), ("news-1", 3)]);
    let [dependent] = publish(&archive, &second, PAYLOAD_BYTES_MAX).await[..] else { panic!("one bundle") };
    assert_eq!(archive.dependencies_of(key("vim-9.1")).len(), 1);
    archive.refuse_commits(1);
    let (done, _) = pack_anew(&archive, dependent, &[], &[], PAYLOAD_BYTES_MAX).await.unwrap();
    assert_eq!(done.kept, 2);
    assert!(archive.dependencies_of(key("vim-9.1")).is_empty());
    assert_restores(&archive, &second);
    // Nothing is tried once more where that cannot be why.
    archive.refuse_commits(1);
    let alone = archive.bundles().pop().unwrap();
    let refused = pack_anew(&archive, alone, &["news-1"], &[], PAYLOAD_BYTES_MAX).await;
    assert!(matches!(refused, Err(RepackError::Ship(_))), "{refused:?}");
}

#[tokio::test]
async fn what_is_archived_already_and_in_nobodys_place_is_packed_as_another_bundle() {
    let archive = TestArchive::new(4, 8);
    let cache = cache_of(&[("hello-1.0", 1), ("news-1", 3)]);
    let [old] = publish(&archive, &cache, PAYLOAD_BYTES_MAX).await[..] else { panic!("one bundle") };
    let (_, first) = pack_anew(&archive, old, &["news-1"], &[], PAYLOAD_BYTES_MAX).await.unwrap();
    // A rebuild brings both, and not that one took the place of the other.
    let (done, second) = pack_anew(&archive, old, &["news-1"], &[], PAYLOAD_BYTES_MAX).await.unwrap();
    assert_eq!((done.kept, done.left_out), (1, 1));
    assert_ne!(first, second);
    assert_restores(&archive, &cache);
}

#[tokio::test]
async fn a_replacement_whose_answer_was_lost_is_done_and_made_once() {
    let archive = TestArchive::new(4, 8);
    let cache = cache_of(&[("hello-1.0", 1), ("news-1", 3)]);
    let [old] = publish(&archive, &cache, PAYLOAD_BYTES_MAX).await[..] else { panic!("one bundle") };
    archive.lose_answers(1);
    // As soon as it is carried out.
    archive.replace(old);
    let (done, new) = pack_anew(&archive, old, &["news-1"], &[], PAYLOAD_BYTES_MAX).await.unwrap();
    assert_eq!((done.kept, done.left_out, new.len()), (1, 1, 1));
    assert_restores(&archive, &cache);
}
