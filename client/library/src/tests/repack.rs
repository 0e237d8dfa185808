//! Bundles that are packed anew: what they hold comes back, chunks that stay are used on, and those that go are not.

use std::collections::BTreeSet;
use std::sync::Arc;

use firn_base::{BundleId, ObjectKey};
use firn_bundle::{Blob, BuilderOptions, BundleRole, Encoding, NewRecord, PAYLOAD_BYTES_MAX};
use firn_client_logic::UploadPolicy;
use firn_nix_format::{Compression, Sha256, StorePath};
use firn_transport::Environment;

use super::archive::TestArchive;
use super::cache::{Cache, info_of, nar_of, noise};
use super::earlier::cache_of;
use super::pipeline::{assert_restores, key, publish_with};
use crate::content::ContentWriter;
use crate::events::PublishEvents;
use crate::nar_writer::NarWriter;
use crate::pack::Packer;
use crate::publish_options::PublishOptions;
use crate::repack::{RepackError, RepackOptions, Repacked, repack_in};
use crate::replacement::ReplaceError;
use crate::ship::{ShipError, Shipping, TakesPlaceOf};
use crate::spool::SpoolDir;
use crate::spooled_bundle::BundleSet;
use crate::verify::VerifiedObject;

async fn publish(archive: &Arc<TestArchive>, cache: &Cache, bundle_bytes: u64) -> Vec<BundleId> {
    let before = archive.bundles().len();
    let options =
        PublishOptions { bundle_bytes, reuse_small_bundles: true, ..PublishOptions::new(cache.source()) };
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

/// Brings a set that was not published.
async fn ship(archive: &Arc<TestArchive>, set: BundleSet) {
    let (environment, events) = (Environment::real(), PublishEvents::none());
    let (spool, policy) = (SpoolDir::open(None).unwrap(), UploadPolicy::default());
    let shipping = Shipping::to(archive.clone(), environment, spool, policy, events);
    shipping.ship(Arc::new(set), TakesPlaceOf::Nothing(Vec::new())).await.unwrap();
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
    let info = info_of(path.clone(), &bytes);
    let spool = SpoolDir::open(None).unwrap();
    let mut content = ContentWriter::patched(&spool, &info).unwrap();
    content.push(&bytes).unwrap();
    let mut content = content.finish().unwrap();
    let mut record = NewRecord::store_path(info, Encoding::Chunked);
    record.patches = content.take_patches();
    let mut packer = Packer::new(Environment::real(), spool.clone(), BuilderOptions::default(), 1);
    packer
        .push(VerifiedObject { record, content, source_bytes: 0, recipe_tried: false, earlier: Vec::new() })
        .await
        .unwrap();
    ship(&archive, packer.finish().await.unwrap().unwrap()).await;
    let key = ObjectKey::store_path(*path.hash());
    assert_eq!(archive.patches(key), 1);

    // The same objects are the same bundle, but for a mark.
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
async fn a_bundle_whose_dependency_is_replaced_while_it_is_packed_is_packed_once_more_without_that_one() {
    let archive = TestArchive::new(4, 8);
    let [first] = publish(&archive, &cache_of(&[("vim-9.0", 100)]), PAYLOAD_BYTES_MAX).await[..] else {
        panic!("one bundle")
    };
    let [other] = publish(&archive, &cache_of(&[("gcc-1.0", 101)]), PAYLOAD_BYTES_MAX).await[..] else {
        panic!("one bundle")
    };
    let second = cache_of(&[("vim-9.1", 100), ("gcc-1.1", 101), ("news-1", 3)]);
    let [dependent] = publish(&archive, &second, PAYLOAD_BYTES_MAX).await[..] else { panic!("one bundle") };
    archive.replace_at_commit(first);
    let (done, new) = pack_anew(&archive, dependent, &[], &[], PAYLOAD_BYTES_MAX).await.unwrap();
    assert_eq!((done.kept, new.len()), (3, 1));
    assert_eq!(archive.dependencies_of(key("vim-9.1")), [other], "the others are used on");
    assert_restores(&archive, &second);
}

#[tokio::test]
async fn a_refusal_that_packing_otherwise_does_not_help_against_ends_it_with_what_to_do() {
    let archive = TestArchive::new(4, 8);
    publish(&archive, &cache_of(&[("vim-9.0", 100)]), PAYLOAD_BYTES_MAX).await;
    let second = cache_of(&[("vim-9.1", 100), ("news-1", 3)]);
    let [dependent] = publish(&archive, &second, PAYLOAD_BYTES_MAX).await[..] else { panic!("one bundle") };
    archive.refuse_commits(1);
    let before = archive.reservations();
    let refused = pack_anew(&archive, dependent, &["news-1"], &[], PAYLOAD_BYTES_MAX).await.unwrap_err();
    assert!(matches!(refused, RepackError::Replace(ReplaceError::Refused(_))), "{refused:?}");
    let said = refused.to_string();
    assert!(said.contains("not today") && said.contains("run this again"), "{said}");
    assert_eq!(archive.reservations(), before + 1, "it was packed and sent once");
}

#[tokio::test]
async fn what_is_archived_already_and_in_nobodys_place_is_packed_as_another_bundle_hardly_larger() {
    let archive = TestArchive::new(4, 8);
    let cache = cache_of(&[("hello-1.0", 1), ("vim-9.0", 100), ("news-1", 3)]);
    let [old] = publish(&archive, &cache, PAYLOAD_BYTES_MAX).await[..] else { panic!("one bundle") };
    let mut payloads = Vec::new();
    let mut seen = vec![old];
    // A rebuild brings all of them, and not that one took the place of the other.
    for _ in 0..3 {
        let (done, new) = pack_anew(&archive, old, &["news-1"], &[], PAYLOAD_BYTES_MAX).await.unwrap();
        assert_eq!((done.kept, done.left_out, new.len()), (2, 1, 1));
        assert!(!seen.contains(&new[0]));
        seen.extend(new);
        payloads.push(done.payload.0);
    }
    assert!(payloads.iter().all(|bytes| bytes.abs_diff(payloads[0]) < 200), "{payloads:?}");
    assert_restores(&archive, &cache);
}

#[tokio::test]
async fn a_replacement_whose_answer_was_lost_is_done_and_made_once() {
    let archive = TestArchive::new(4, 8);
    let cache = cache_of(&[("hello-1.0", 1), ("news-1", 3)]);
    let [old] = publish(&archive, &cache, PAYLOAD_BYTES_MAX).await[..] else { panic!("one bundle") };
    archive.lose_answers(1);
    // By the commit itself.
    archive.replace_at_commit(old);
    let before = archive.reservations();
    let (done, new) = pack_anew(&archive, old, &["news-1"], &[], PAYLOAD_BYTES_MAX).await.unwrap();
    assert_eq!((done.kept, done.left_out, new.len()), (1, 1, 1));
    assert_eq!(archive.answers_to_lose(), 0, "the answer was lost");
    assert_eq!((archive.commits(), archive.reservations()), (vec![1, 1], before + 1), "it was sent once");
    assert_restores(&archive, &cache);
}

#[tokio::test]
async fn what_others_have_taken_the_place_of_is_told_so_and_no_figures_of_a_set_that_was_not_sent() {
    let archive = TestArchive::new(4, 8);
    let cache = cache_of(&[("hello-1.0", 1), ("news-1", 3)]);
    let [old] = publish(&archive, &cache, PAYLOAD_BYTES_MAX).await[..] else { panic!("one bundle") };
    // Somebody else packs the same, and that takes the place.
    pack_anew(&archive, old, &["news-1"], &[], PAYLOAD_BYTES_MAX).await.unwrap();
    archive.replace(old);
    let before = (archive.reservations(), archive.bundles().len());
    let done = pack_anew(&archive, old, &["news-1"], &[], PAYLOAD_BYTES_MAX).await.unwrap_err();
    assert!(matches!(done, RepackError::Replace(ReplaceError::Others)), "{done:?}");
    assert_eq!((archive.reservations(), archive.bundles().len()), before, "nothing was sent");
    // Also where it shows only when the set is refused.
    archive.refuse_commits(1);
    let other = pack_anew(&archive, old, &["hello-1.0"], &[], PAYLOAD_BYTES_MAX).await.unwrap_err();
    assert!(matches!(other, RepackError::Replace(ReplaceError::Others)), "{other:?}");
    assert_eq!(archive.bundles().len(), before.1);
}

/// Packs logs of these bytes, one behind the other, and brings them.
async fn bring_logs(archive: &Arc<TestArchive>, logs: &[&[u8]]) -> BundleId {
    let spool = SpoolDir::open(None).unwrap();
    let mut packer = Packer::new(Environment::real(), spool.clone(), BuilderOptions::default(), 1);
    for (name, bytes) in (0..).zip(logs) {
        let mut content = ContentWriter::new(&spool, bytes.len() as u64).unwrap();
        content.push(bytes).unwrap();
        let (url, bytes, sha256) = (format!("log/{name}"), bytes.len() as u64, Sha256::of(bytes));
        let blob = Blob { url, compression: Compression::None, bytes, sha256 };
        let record = NewRecord::blob(ObjectKey::build_log([name; 20]), blob, Encoding::Chunked);
        let content = content.finish().unwrap();
        packer
            .push(VerifiedObject {
                record,
                content,
                source_bytes: 0,
                recipe_tried: false,
                earlier: Vec::new(),
            })
            .await
            .unwrap();
    }
    ship(archive, packer.finish().await.unwrap().unwrap()).await;
    archive.bundles().pop().unwrap()
}

#[tokio::test]
async fn a_bundle_of_one_chunk_or_none_is_packed_as_another_one_however_often() {
    for log in [&b"it was built"[..], b"x", b""] {
        let archive = TestArchive::new(4, 8);
        let mut seen = vec![bring_logs(&archive, &[log]).await];
        for _ in 0..4 {
            // Each of them in the place of the latest one, while all that were before are archived.
            let latest = *seen.last().unwrap();
            let (done, new) = pack_anew(&archive, latest, &[], &[], PAYLOAD_BYTES_MAX).await.unwrap();
            assert_eq!((done.kept, new.len()), (1, 1));
            assert!(!seen.contains(&new[0]));
            seen.extend(new);
            assert!(archive.restore(ObjectKey::build_log([0; 20])) == log);
        }
    }
}

#[tokio::test]
async fn a_set_of_which_one_bundle_is_archived_already_is_sent_as_another_set() {
    let archive = TestArchive::new(4, 8);
    let logs = [1, 2, 3].map(|seed| noise(900_000, seed));
    let first = bring_logs(&archive, &[&logs[0], &logs[1]]).await;
    let whole = bring_logs(&archive, &[&logs[0], &logs[1], &logs[2]]).await;
    // In bundles of that size the first two are the first bundle again.
    let (done, new) = pack_anew(&archive, whole, &[], &[], 2 << 20).await.unwrap();
    assert_eq!((done.kept, new.len()), (3, 2));
    assert!(!new.contains(&first), "{new:?}");
    assert_eq!(archive.commits(), [1, 1, 2], "nothing of the first set was brought");
    for (name, log) in (0..).zip(&logs) {
        assert!(archive.restore(ObjectKey::build_log([name; 20])) == *log);
    }
}

#[tokio::test]
async fn a_bundle_of_which_nothing_is_kept_is_not_packed() {
    let archive = TestArchive::new(4, 8);
    let cache = cache_of(&[("news-1", 3)]);
    let [old] = publish(&archive, &cache, PAYLOAD_BYTES_MAX).await[..] else { panic!("one bundle") };
    let (done, new) = pack_anew(&archive, old, &["news-1"], &[], PAYLOAD_BYTES_MAX).await.unwrap();
    assert_eq!((done.kept, done.left_out, done.bundles, new.len()), (0, 1, 0, 0));
}

#[tokio::test]
async fn nothing_is_reserved_for_a_set_that_does_not_restore() {
    let archive = TestArchive::new(4, 8);
    let spool = SpoolDir::open(None).unwrap();
    let path = StorePath::from_parts([7; 20], "own-1").unwrap();
    let nar = nar_of(&noise(300_000, 1));
    let mut writer = NarWriter::new(&spool, &info_of(path.clone(), &nar)).unwrap();
    writer.push(&nar).unwrap();
    let record = NewRecord::store_path(info_of(path, &nar), Encoding::Chunked);
    let content = writer.finish().unwrap();
    let mut packer = Packer::new(Environment::real(), spool.clone(), BuilderOptions::default(), 1);
    packer
        .push(VerifiedObject { record, content, source_bytes: 0, recipe_tried: false, earlier: Vec::new() })
        .await
        .unwrap();
    let set = Arc::new(packer.finish().await.unwrap().unwrap());
    let (policy, events) = (UploadPolicy::default(), PublishEvents::none());
    let shipping = Shipping::to(archive.clone(), Environment::real(), spool, policy, events);
    let ship = async || shipping.ship(Arc::clone(&set), TakesPlaceOf::Nothing(Vec::new())).await;
    set.bundles[0].damage(1000);
    let refused = ship().await;
    assert!(matches!(refused, Err(ShipError::Restore(_))), "{refused:?}");
    assert_eq!((archive.reservations(), archive.bundles().len()), (0, 0));
    // It is the damage that keeps it back.
    set.bundles[0].damage(1000);
    ship().await.unwrap();
    assert_eq!((archive.reservations(), archive.bundles().len()), (1, 1));
}
