//! Cores over an archive in memory, with what they keep on disk.

use std::path::Path;
use std::pin::pin;
use std::sync::atomic::Ordering;

use firn_base::ArchiveId;
use futures::future::{Either, select};
use hyper::{Request, StatusCode};
use tokio::time::{sleep, timeout};

use super::*;
use crate::options::WhenUnreadable;
use crate::routes::{Arrival, Router};
use support::{ArchiveMaker, MemoryArchive, hash_part, nar_of, nar_path, path_info, secret_key};

#[path = "../../tests/support/mod.rs"]
mod support;

const PATIENCE: Duration = Duration::from_secs(120);

async fn until(what: impl Fn() -> bool) {
    let wait = async {
        while !what() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, wait).await.expect("it comes about");
}

/// A core that keeps places in `place`, as a gateway that was started there.
fn core(archive: &Arc<MemoryArchive>, place: &Path) -> (Arc<GatewayCore>, Arc<PlaceBook>) {
    let id = ArchiveId::from_bytes([1; 32]);
    let (cache, _) = DiskCache::new(Environment::real(), id, place.join("data"), 1 << 20);
    let places = Arc::new(PlaceBook::open(place.join("gateway.places"), id));
    let disk = DiskParts { cache, places: Arc::clone(&places) };
    (Arc::new(support::core(archive).with_disk(Some(disk))), places)
}

/// Path 1 in two bundles, signed by another publisher in each; with the second bundle.
fn two_variants() -> (Arc<MemoryArchive>, BundleId) {
    let nar = nar_of(1000);
    let mut other = path_info(1, &nar);
    other.signatures = vec![secret_key(2).sign(&other)];
    let mut maker = ArchiveMaker::default();
    maker.path(&path_info(1, &nar), &nar);
    maker.seal();
    maker.path(&other, &nar);
    let second = maker.seal();
    (Arc::new(maker.finish()), second)
}

async fn signatures(core: &Arc<GatewayCore>) -> usize {
    core.narinfo([1; 20], NarCompression::None).await.unwrap();
    core.path_info([1; 20]).await.unwrap().0.signatures.len()
}

#[tokio::test]
async fn what_an_earlier_life_found_is_looked_up_again_behind_the_first_answer() {
    let (archive, second) = two_variants();
    let place = tempfile::tempdir().unwrap();
    archive.erase(second);
    let (first_life, places) = core(&archive, place.path());
    assert_eq!(signatures(&first_life).await, 1);
    let known = places.get(&ObjectKey::store_path([1; 20])).unwrap();
    // The second publisher's record shows in no event of the feed.
    archive.erase(BundleId::from_bytes([0; 32]));
    let (core, places) = core(&archive, place.path());
    places.put(ObjectKey::store_path([1; 20]), known);
    let asked = archive.lookups.load(Ordering::Relaxed);
    core.narinfo([1; 20], NarCompression::None).await.unwrap();
    until(|| archive.lookups.load(Ordering::Relaxed) > asked).await;
    let all = || places.get(&ObjectKey::store_path([1; 20])).is_some_and(|known| known.places.len() == 2);
    until(all).await;
    until(|| core.found.get(&ObjectKey::store_path([1; 20])).is_some_and(|found| found.variants.len() == 2))
        .await;
    assert_eq!(signatures(&core).await, 2);
}

#[tokio::test]
async fn of_contents_that_differ_none_is_served_before_ranks_are_known_nor_by_older_ranks() {
    let (one, two) = (nar_of(1000), nar_of(2000));
    let mut other = path_info(1, &two);
    other.signatures = vec![secret_key(2).sign(&other)];
    let mut maker = ArchiveMaker::default();
    maker.path(&path_info(1, &one), &one);
    maker.seal();
    maker.path(&other, &two);
    maker.seal();
    let core = Arc::new(support::core(&Arc::new(maker.finish())));
    let refused = core.narinfo([1; 20], NarCompression::None).await;
    assert!(matches!(refused, Err(ServeError::Unreadable { .. })), "{refused:?}");
    let ranked = |numbers: [u8; 2]| {
        let publishers = numbers.map(|number| secret_key(number).public_key()).to_vec();
        core.set_governance(Governance { publishers, ..Governance::default() });
    };
    let served = async || core.path_info([1; 20]).await.unwrap().0.nar_hash;
    ranked([2, 1]);
    assert_eq!(served().await, Sha256::of(&two));
    let listing = core.listing([1; 20]).await.unwrap();
    let key = ObjectKey::store_path([1; 20]);
    let chosen = core.found.get(&key).unwrap();
    ranked([1, 2]);
    // What began before is kept after.
    core.found.insert(key, chosen, 100);
    assert_eq!(served().await, Sha256::of(&one));
    assert_ne!(core.listing([1; 20]).await.unwrap(), listing, "it is that of the NAR that is served now");
}

/// A small path 1 as its published file alone, a small path 2 and a path 3 that is sent only in a place. Nobody has a
/// place yet.
fn of_every_kind() -> (Arc<GatewayCore>, [String; 3]) {
    let (small, large) = (nar_of(1000), nar_of(100_000));
    let mut maker = ArchiveMaker::default();
    maker.published_path(path_info(1, &small), &small);
    maker.path(&path_info(2, &small), &small);
    maker.path(&path_info(3, &large), &large);
    maker.seal();
    let core = Arc::new(support::core(&Arc::new(maker.finish())));
    let numbered = |number, nar: &[u8]| nar_path(nar).replace(&hash_part(1), &hash_part(number));
    (core, [nar_path(&small), numbered(2, &small), numbered(3, &large)])
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_a_place_keeps_no_turn_of_its_connection_meanwhile() {
    let (core, [published, small, large]) = of_every_kind();
    let mut held = Vec::new();
    while let Ok(place) = core.downloads.decoder(None, 144).await {
        held.push(place);
    }
    while let Ok(place) = core.downloads.plain(None).await {
        held.push(place);
    }
    while let Ok(place) = core.downloads.encoder(None).await {
        held.push(place);
    }
    let router = Router::new(Arc::clone(&core), WhenUnreadable::Retry, NarCompression::None, None);
    let turns = Arc::new(Semaphore::new(1));
    let arrival = Arrival { turns: Some(&turns), ..Arrival::default() };
    let ask = |path: &str| router.respond_as(Request::get(path).body(()).unwrap(), arrival);
    for waiting in [&published, &format!("{published}.zst"), &large, &format!("{large}.zst")] {
        match select(pin!(ask(waiting)), pin!(ask(&small))).await {
            Either::Right(((_, answer), _)) => assert_eq!(answer.status(), StatusCode::OK, "{waiting}"),
            Either::Left(_) => panic!("{waiting}: the other one waited as well"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_its_turn_keeps_no_place_meanwhile() {
    let (core, [.., large]) = of_every_kind();
    let mut held = Vec::new();
    while let Ok(place) = core.downloads.plain(None).await {
        held.push(place);
    }
    let router = Router::new(Arc::clone(&core), WhenUnreadable::Retry, NarCompression::None, None);
    let turns = Arc::new(Semaphore::new(1));
    let arrival = Arrival { turns: Some(&turns), ..Arrival::default() };
    let mut asking = pin!(router.respond_as(Request::get(&large).body(()).unwrap(), arrival));
    let moment = Duration::from_secs(1);
    assert!(timeout(moment, asking.as_mut()).await.is_err(), "there is no place");
    let other = Arc::clone(&turns).try_acquire_owned().expect("it keeps no turn");
    held.pop();
    assert!(timeout(moment, asking.as_mut()).await.is_err(), "it is not its turn");
    assert_eq!(core.downloads.plain_taken(), held.len(), "it keeps no place");
    drop(other);
    let (_, answer) = timeout(moment, asking).await.expect("it has both");
    assert_eq!((answer.status(), core.downloads.plain_taken()), (StatusCode::OK, held.len() + 1));
}
