//! A directory that remembers what coordinators said, and goes on without them.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::{Coded, address, code, inline, nar_record, node, noise, pack};
use firn_base::{ArchiveId, BundleNumber, ShardIndex, Timestamp};
use firn_retrieval::{CachedDirectory, Directory, DirectoryError, DirectoryOptions, DirectorySource};
use firn_wire::{
    BundleInfo, BundleName, CodingInfo, Identity, NodeAddress, Pass, PassPurpose, ShardCopies, ShardReport,
    Signed,
};
use futures::FutureExt;
use futures::future::BoxFuture;

#[derive(Debug)]
struct Coordinators {
    bundles: Mutex<Vec<BundleInfo>>,
    away: AtomicBool,
    asked_bundles: AtomicUsize,
    asked_nodes: AtomicUsize,
    asked_passes: AtomicUsize,
    pass_valid: Duration,
}

impl Coordinators {
    async fn answer<T>(&self, asked: &AtomicUsize, answer: T) -> Result<T, DirectoryError> {
        asked.fetch_add(1, Ordering::SeqCst);
        if self.away.load(Ordering::SeqCst) {
            // As long as asking all of them takes.
            tokio::time::sleep(Duration::from_secs(15)).await;
            return Err(DirectoryError::Unavailable("no coordinator answers".to_owned()));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        Ok(answer)
    }
}

impl DirectorySource for Coordinators {
    fn bundles(
        &self,
        names: Vec<BundleName>,
    ) -> BoxFuture<'_, Result<Vec<Option<BundleInfo>>, DirectoryError>> {
        let known = self.bundles.lock().unwrap().clone();
        let found = names.iter().map(|name| {
            let is_it = |info: &&BundleInfo| match name {
                BundleName::Number(number) => info.number == *number,
                BundleName::Id(id) => {
                    firn_bundle::ContentHeader::parse(&info.content_header).unwrap().bundle_id() == *id
                }
            };
            known.iter().find(is_it).cloned()
        });
        let found = found.collect();
        async move { self.answer(&self.asked_bundles, found).await }.boxed()
    }

    fn nodes(&self) -> BoxFuture<'_, Result<Vec<NodeAddress>, DirectoryError>> {
        async move { self.answer(&self.asked_nodes, vec![address(0, true)]).await }.boxed()
    }

    fn report(&self, _: ShardReport) -> BoxFuture<'_, Result<(), DirectoryError>> {
        async { Ok(()) }.boxed()
    }

    fn pass(&self) -> BoxFuture<'_, Result<Signed<Pass>, DirectoryError>> {
        let identity = Identity::from_seed(&[1; 32]);
        let expires = inline().now().after(self.pass_valid);
        let pass = Pass { reader: identity.public(), expires, purpose: PassPurpose::Reading };
        let pass = Signed::seal(&identity, ArchiveId::from_bytes([2; 32]), &pass);
        async move { self.answer(&self.asked_passes, pass).await }.boxed()
    }
}

fn info(coded: &Coded, holder: usize) -> BundleInfo {
    let shards = vec![ShardCopies { index: ShardIndex(0), nodes: vec![node(holder)] }];
    let coding = CodingInfo { header: coded.coding.to_bytes(), n: 6, shards };
    BundleInfo {
        number: BundleNumber(7),
        committed_at: Timestamp::from_millis(1),
        content_header: coded.content.to_bytes(),
        codings: vec![coding],
    }
}

fn setup(options: DirectoryOptions) -> (Coded, Arc<Coordinators>, CachedDirectory) {
    let nar = noise(1000, 1);
    let coded = code(&pack(&[(nar_record(1, &nar), nar)]), 2);
    let coordinators = Arc::new(Coordinators {
        bundles: Mutex::new(vec![info(&coded, 0)]),
        away: AtomicBool::new(false),
        asked_bundles: AtomicUsize::new(0),
        asked_nodes: AtomicUsize::new(0),
        asked_passes: AtomicUsize::new(0),
        pass_valid: Duration::from_secs(24 * 3600),
    });
    let directory = CachedDirectory::new(Arc::clone(&coordinators) as _, inline(), options);
    (coded, coordinators, directory)
}

#[tokio::test(start_paused = true)]
async fn a_bundle_is_asked_for_once_by_number_and_id() {
    let (coded, coordinators, directory) = setup(DirectoryOptions::default());
    let id = coded.content.bundle_id();
    let reads = (0..5).map(|_| directory.numbered(BundleNumber(7)));
    for facts in futures::future::join_all(reads).await {
        assert_eq!(facts.unwrap().id, id);
    }
    assert_eq!(directory.bundle(id).await.unwrap().holders_of(ShardIndex(0)), [node(0)]);
    assert_eq!(coordinators.asked_bundles.load(Ordering::SeqCst), 1);
    let unknown = directory.numbered(BundleNumber(8)).await;
    assert_eq!(unknown, Err(DirectoryError::UnknownBundle));
}

#[tokio::test(start_paused = true)]
async fn what_is_known_is_answered_without_coordinators() {
    let (coded, coordinators, directory) = setup(DirectoryOptions::default());
    let id = coded.content.bundle_id();
    directory.bundle(id).await.unwrap();
    directory.nodes().await.unwrap();
    directory.pass().await.unwrap();
    coordinators.away.store(true, Ordering::SeqCst);
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_secs(300)).await;
        let begun = tokio::time::Instant::now();
        directory.bundle(id).await.unwrap();
        directory.nodes().await.unwrap();
        directory.pass().await.unwrap().unwrap();
        assert!(begun.elapsed() < Duration::from_millis(1));
    }
    directory.doubt(id);
    let begun = tokio::time::Instant::now();
    directory.bundle(id).await.unwrap();
    directory.refresh(id).await.unwrap();
    assert!(begun.elapsed() <= Duration::from_secs(4), "{:?}", begun.elapsed());
    let error = directory.numbered(BundleNumber(8)).await.unwrap_err();
    assert!(matches!(error, DirectoryError::Unavailable(_)));
}

#[tokio::test(start_paused = true)]
async fn doubted_facts_are_fetched_anew_but_not_at_every_doubt() {
    let (coded, coordinators, directory) = setup(DirectoryOptions::default());
    let id = coded.content.bundle_id();
    directory.bundle(id).await.unwrap();
    *coordinators.bundles.lock().unwrap() = vec![info(&coded, 5)];
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(directory.bundle(id).await.unwrap().holders_of(ShardIndex(0)), [node(0)]);
    directory.doubt(id);
    assert_eq!(directory.bundle(id).await.unwrap().holders_of(ShardIndex(0)), [node(5)]);
    for _ in 0..10 {
        directory.doubt(id);
        directory.bundle(id).await.unwrap();
    }
    assert_eq!(coordinators.asked_bundles.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn a_bundle_that_was_erased_is_unknown_to_whoever_finds_nothing_at_its_holders() {
    let (coded, coordinators, directory) = setup(DirectoryOptions::default());
    let id = coded.content.bundle_id();
    directory.bundle(id).await.unwrap();
    coordinators.bundles.lock().unwrap().clear();
    tokio::time::sleep(Duration::from_secs(2)).await;
    directory.doubt(id);
    directory.bundle(id).await.expect("the coordinator that was asked may lag behind");
    assert_eq!(directory.refresh(id).await, Err(DirectoryError::UnknownBundle));
    assert_eq!(directory.bundle(id).await, Err(DirectoryError::UnknownBundle));
}

#[tokio::test(start_paused = true)]
async fn addresses_are_renewed_in_the_background() {
    let (_, coordinators, directory) = setup(DirectoryOptions::default());
    directory.nodes().await.unwrap();
    tokio::time::sleep(Duration::from_secs(4)).await;
    directory.nodes().await.unwrap();
    assert_eq!(coordinators.asked_nodes.load(Ordering::SeqCst), 1);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let begun = tokio::time::Instant::now();
    for _ in 0..5 {
        directory.nodes().await.unwrap();
    }
    assert_eq!(begun.elapsed(), Duration::ZERO);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(coordinators.asked_nodes.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn a_refused_pass_is_replaced() {
    let (_, coordinators, directory) = setup(DirectoryOptions::default());
    for _ in 0..3 {
        directory.pass().await.unwrap();
    }
    assert_eq!(coordinators.asked_passes.load(Ordering::SeqCst), 1);
    directory.forget_pass();
    directory.pass().await.unwrap();
    assert_eq!(coordinators.asked_passes.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn bundles_remembered_are_bounded() {
    let bundles_max = NonZeroUsize::MIN;
    let (coded, coordinators, directory) =
        setup(DirectoryOptions { bundles_max, ..DirectoryOptions::default() });
    let nar = noise(10, 3);
    let other = code(&pack(&[(nar_record(3, &nar), nar)]), 2);
    let other_info = BundleInfo { number: BundleNumber(9), ..info(&other, 1) };
    coordinators.bundles.lock().unwrap().push(other_info);
    for _ in 0..2 {
        directory.bundle(coded.content.bundle_id()).await.unwrap();
        directory.bundle(other.content.bundle_id()).await.unwrap();
    }
    assert_eq!(coordinators.asked_bundles.load(Ordering::SeqCst), 4);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_contradicts_itself_is_refused() {
    let (coded, coordinators, directory) = setup(DirectoryOptions::default());
    let good = info(&coded, 0);
    let mut far = good.clone();
    far.codings[0].shards[0].index = ShardIndex(6);
    let mut many = good.clone();
    many.codings[0].n = 7;
    let none = BundleInfo { codings: Vec::new(), ..good.clone() };
    let garbage =
        BundleInfo { codings: vec![CodingInfo { header: vec![1, 2], ..good.codings[0].clone() }], ..good };
    for bad in [far, many, none, garbage] {
        *coordinators.bundles.lock().unwrap() = vec![bad];
        let error = directory.bundle(coded.content.bundle_id()).await.unwrap_err();
        assert!(matches!(error, DirectoryError::Malformed(_)), "{error}");
    }
}
