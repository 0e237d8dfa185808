//! Small bundles give nobody their chunks, so that they can come together; and then what was stored twice for that is
//! stored once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use firn_base::{BundleId, Scheme};
use firn_bundle::comes_together;
use firn_client_logic::UploadPolicy;
use firn_nix_format::Compression;
use firn_transport::Environment;
use futures::StreamExt;

use super::cache::{Cache, noise};
use crate::compact::{CompactOptions, Compacted};
use crate::events::PublishEvents;
use crate::paper_archive::{PaperArchive, PaperBundle};
use crate::publish_options::PublishOptions;

const MB: usize = 1_000_000;

fn archive() -> PaperArchive {
    PaperArchive::new(Scheme::new(4, 8).unwrap())
}

/// A path, and contents of so many megabytes each, one behind the other.
type Path<'a> = (&'a str, &'a [(usize, u64)]);

/// Publishes these paths; gives the bundles that came of it.
async fn publish(archive: &PaperArchive, paths: &[Path<'_>]) -> Vec<PaperBundle> {
    let mut cache = Cache::new();
    for (name, contents) in paths {
        let bytes: Vec<u8> =
            contents.iter().flat_map(|(megabytes, seed)| noise(megabytes * MB, *seed)).collect();
        cache.add_path(name, &bytes, Compression::None, &[]);
    }
    let (before, options) = (archive.bundles().len(), PublishOptions::new(cache.source()));
    let publishers = vec![cache.publisher()];
    let published = archive.publish(publishers, &Environment::real(), options, PublishEvents::none()).await;
    assert_eq!(published.unwrap().paths_published, paths.len() as u64);
    archive.bundles().split_off(before)
}

async fn compact(archive: &PaperArchive, bundles: &[PaperBundle]) -> Compacted {
    let options = CompactOptions {
        bundles: bundles.iter().map(id).collect(),
        frame_compression: None,
        spool_dir: None,
        policy: UploadPolicy::default(),
    };
    archive.compact(&Environment::real(), &options, PublishEvents::none()).await.unwrap()
}

fn id(bundle: &PaperBundle) -> BundleId {
    bundle.content.bundle_id()
}

fn is_small(bundle: &PaperBundle) -> bool {
    let records = u64::from(bundle.manifest.header().record_count());
    comes_together(bundle.content.role(), bundle.content.payload_bytes(), records)
}

/// Reads every path whole: what comes has the hash that was published. Gives their names.
async fn read_all(archive: &PaperArchive) -> BTreeSet<String> {
    let objects = archive.objects(&Environment::real());
    let mut names = BTreeSet::new();
    for bundle in archive.bundles() {
        for located in bundle.manifest.records() {
            let record = located.unwrap().record;
            names.insert(record.path_info().unwrap().store_path.name().to_owned());
            let plan = objects.open(id(&bundle), Arc::new(record)).await.unwrap();
            let mut stream = plan.stream_file(None).unwrap();
            while let Some(piece) = stream.next().await {
                piece.unwrap();
            }
        }
    }
    names
}

#[tokio::test]
async fn chunks_of_small_bundles_are_stored_again_until_these_come_together_and_those_of_full_ones_are_used()
{
    let archive = archive();
    let [full] = &publish(&archive, &[("big-1.0", &[(60, 1)]), ("vim-1.0", &[(10, 2)])]).await[..] else {
        panic!("one bundle")
    };
    assert!(!is_small(full));
    // Each adds something, and has all that those before it added.
    let added: Vec<(usize, u64)> = (0..6).map(|round| (1, 100 + round)).collect();
    let mut small = Vec::new();
    for round in 1..=6_usize {
        let contents: Vec<(usize, u64)> = [(10, 2)].into_iter().chain(added[..round].to_vec()).collect();
        let name = format!("vim-1.{round}");
        let own = publish(&archive, &[(name.as_str(), contents.as_slice())]).await;
        let [bundle] = &own[..] else { panic!("one bundle") };
        assert_eq!(bundle.content.dependencies(), [id(full)], "it found the full one behind the small ones");
        let megabytes = bundle.content.payload_bytes() / MB as u64;
        assert_eq!(megabytes, round as u64, "what lies in small ones is stored again");
        small.extend(own);
    }
    assert!(small.iter().all(is_small));
    let done = compact(&archive, &small).await;
    assert_eq!((done.objects, done.bundles), (6, 1));
    let once = 6 * MB as u64;
    assert!((once..once + once / 5).contains(&done.payload.0), "each is stored once: {}", done.payload);
    let [_, together] = &archive.bundles()[..] else { panic!("two bundles") };
    assert_eq!(together.content.dependencies(), [id(full)]);
    assert_eq!(read_all(&archive).await.len(), 8);
}

#[tokio::test]
async fn small_bundles_of_a_name_that_use_nothing_hide_no_full_one_behind_them() {
    let archive = archive();
    let [full] = &publish(&archive, &[("big-1.0", &[(70, 1)]), ("vim-1.0", &[(1, 2)])]).await[..] else {
        panic!("one bundle")
    };
    assert!(!is_small(full));
    // As many as are looked at by a name. So few chunks are found by that alone.
    for (name, seed) in [("vim-1.1", 10), ("vim-1.2", 11)] {
        let [small] = &publish(&archive, &[(name, &[(1, seed)])]).await[..] else { panic!("one bundle") };
        assert!(is_small(small) && small.content.dependencies().is_empty());
    }
    let [again] = &publish(&archive, &[("vim-1.3", &[(1, 2)])]).await[..] else { panic!("one bundle") };
    assert_eq!(again.content.dependencies(), [id(full)]);
}

#[tokio::test]
async fn what_small_publishes_stored_and_a_full_bundle_holds_by_now_is_gone_once_they_come_together() {
    let archive = archive();
    let mut small = Vec::new();
    for (name, contents) in [("one-1.0", (2, 1)), ("two-1.0", (3, 2)), ("own-1.0", (1, 3))] {
        small.extend(publish(&archive, &[(name, &[contents])]).await);
    }
    let full =
        publish(&archive, &[("big-1.0", &[(64, 4)]), ("one-1.1", &[(2, 1)]), ("two-1.1", &[(3, 2)])]).await;
    let [full] = &full[..] else { panic!("one bundle") };
    assert!(full.content.dependencies().is_empty(), "a full bundle keeps no small one where it is");
    let done = compact(&archive, &small).await;
    assert_eq!((done.objects, done.bundles), (3, 1));
    assert!((1_000_000..1_100_000).contains(&done.payload.0), "{}", done.payload);
    let [together, staying] = &archive.bundles()[..] else { panic!("two bundles") };
    assert_eq!(id(staying), id(full), "it stands where the last of them stood");
    assert_eq!(together.content.dependencies(), [id(full)]);
    assert_eq!(read_all(&archive).await.len(), 6);
}

#[tokio::test]
async fn nothing_small_ever_has_dependents_however_publishes_and_compactions_follow() {
    let archive = archive();
    publish(&archive, &[("big-1.0", &[(66, 1)]), ("lib-1.0", &[(3, 2)])]).await;
    for round in 1..=12_u64 {
        let lib = format!("lib-1.{round}");
        publish(&archive, &[(lib.as_str(), &[(3, 2), (1, 100 + round / 3)])]).await;
        if round % 4 == 0 {
            let small: Vec<PaperBundle> = archive.bundles().into_iter().filter(is_small).collect();
            compact(&archive, &small).await;
        }
        let bundles = archive.bundles();
        let by_id: BTreeMap<BundleId, &PaperBundle> =
            bundles.iter().map(|bundle| (id(bundle), bundle)).collect();
        for used in bundles.iter().flat_map(|bundle| bundle.content.dependencies()) {
            assert!(!is_small(by_id[used]), "round {round}");
        }
    }
    assert_eq!(archive.bundles().len(), 2);
    assert_eq!(read_all(&archive).await.len(), 14);
}
