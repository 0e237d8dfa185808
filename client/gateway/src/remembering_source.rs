//! What coordinators said of bundles, nodes and our right to read, also after a start while none of them answers.
//!
//! Always holds: what an earlier life was told is answered once, so that a start waits for nobody; after that coordinators
//! are asked, and what was said last is answered only where none does. Leaves to others: how long answers are believed
//! (`CachedDirectory`, which asks anew for what is old or was found wrong), the disk (`disk_cache`).

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use firn_base::{BundleId, PublicKey};
use firn_retrieval::{BundleFacts, DirectoryError, DirectorySource};
use firn_transport::Environment;
use firn_wire::{BundleInfo, BundleName, NodeAddress, Pass, ShardReport, Signed, decode, encode};
use futures::FutureExt;
use futures::future::BoxFuture;
use lru::LruCache;
use tokio::time::Instant;

use crate::disk_cache::{CacheKey, DiskCache};

// Addresses are fetched every few seconds while somebody reads; a start needs those of a minute ago.
const KEEP_NODES_EVERY: Duration = Duration::from_secs(60);

// Bundles whose saved facts were answered in this life.
const RECALLED_MAX: NonZeroUsize = NonZeroUsize::new(65_536).expect("a constant above zero");

// A pass that ends before a node has read it is none.
const PASS_LEFT: Duration = Duration::from_secs(60);

/// Asks `inner`, and remembers on disk.
#[derive(Debug)]
pub(crate) struct RememberingSource {
    inner: Arc<dyn DirectorySource>,
    cache: DiskCache,
    environment: Environment,
    /// Passes are made out to this key.
    reader: PublicKey,
    recalled: Mutex<Recalled>,
}

#[derive(Debug)]
struct Recalled {
    // With the hash of what is saved, once that is known.
    bundles: LruCache<BundleId, Option<blake3::Hash>>,
    nodes: bool,
    pass: bool,
    nodes_kept: Option<Instant>,
}

impl RememberingSource {
    pub(crate) fn new(
        inner: Arc<dyn DirectorySource>,
        cache: DiskCache,
        environment: Environment,
        reader: PublicKey,
    ) -> Self {
        let bundles = LruCache::new(RECALLED_MAX);
        let recalled = Recalled { bundles, nodes: false, pass: false, nodes_kept: None };
        Self { inner, cache, environment, reader, recalled: Mutex::new(recalled) }
    }

    fn recalled(&self) -> MutexGuard<'_, Recalled> {
        self.recalled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether what is saved of the bundle was answered in this life; from now on it was.
    fn is_recalled(&self, bundle: BundleId) -> bool {
        let mut recalled = self.recalled();
        recalled.bundles.get(&bundle).is_some() || recalled.bundles.put(bundle, None).is_some()
    }

    async fn saved_bundle(&self, bundle: BundleId) -> Option<BundleInfo> {
        let key = CacheKey::Bundle(bundle);
        let info = decode::<BundleInfo>(&self.cache.get(&key).await?).ok()?;
        BundleFacts::from_info(&info).ok().filter(|facts| facts.id == bundle).map(|_| info)
    }

    async fn saved_nodes(&self) -> Option<Vec<NodeAddress>> {
        decode(&self.cache.get(&CacheKey::Nodes).await?).ok()
    }

    async fn saved_pass(&self) -> Option<Signed<Pass>> {
        let pass: Signed<Pass> = decode(&self.cache.get(&CacheKey::Pass).await?).ok()?;
        let statement = pass.peek().ok()?;
        let lasts = self.environment.now().after(PASS_LEFT) < statement.expires;
        (statement.reader == self.reader && lasts).then_some(pass)
    }

    /// Facts of bundles: those asked for by id for the first time out of the past, if all are there.
    async fn recall_bundles(&self, names: &[BundleName]) -> Option<Vec<Option<BundleInfo>>> {
        let mut infos = Vec::with_capacity(names.len());
        for name in names {
            let BundleName::Id(bundle) = *name else { return None };
            if self.is_recalled(bundle) {
                return None;
            }
            infos.push(Some(self.saved_bundle(bundle).await?));
        }
        Some(infos)
    }

    fn keep_bundles(&self, infos: &[Option<BundleInfo>]) {
        for info in infos.iter().flatten() {
            if let Ok(facts) = BundleFacts::from_info(info) {
                let bytes = Bytes::from(encode(info));
                let hash = Some(blake3::hash(&bytes));
                // Facts in use are asked for every two minutes, and rarely change.
                if self.recalled().bundles.put(facts.id, hash).flatten() != hash {
                    self.cache.replace(&CacheKey::Bundle(facts.id), bytes);
                }
            }
        }
    }

    fn keep_nodes(&self, nodes: &Vec<NodeAddress>) {
        let now = Instant::now();
        let mut recalled = self.recalled();
        if recalled.nodes_kept.is_none_or(|kept| now.duration_since(kept) >= KEEP_NODES_EVERY) {
            recalled.nodes_kept = Some(now);
            self.cache.replace(&CacheKey::Nodes, Bytes::from(encode(nodes)));
        }
    }
}

impl DirectorySource for RememberingSource {
    fn bundles(
        &self,
        names: Vec<BundleName>,
    ) -> BoxFuture<'_, Result<Vec<Option<BundleInfo>>, DirectoryError>> {
        async move {
            if let Some(infos) = self.recall_bundles(&names).await {
                return Ok(infos);
            }
            match self.inner.bundles(names.clone()).await {
                Ok(infos) => {
                    self.keep_bundles(&infos);
                    Ok(infos)
                }
                Err(error) => {
                    let mut infos = Vec::with_capacity(names.len());
                    for name in names {
                        let BundleName::Id(bundle) = name else { return Err(error) };
                        infos.push(Some(self.saved_bundle(bundle).await.ok_or_else(|| error.clone())?));
                    }
                    Ok(infos)
                }
            }
        }
        .boxed()
    }

    fn nodes(&self) -> BoxFuture<'_, Result<Vec<NodeAddress>, DirectoryError>> {
        async move {
            let first = !std::mem::replace(&mut self.recalled().nodes, true);
            if let Some(nodes) = if first { self.saved_nodes().await } else { None } {
                return Ok(nodes);
            }
            let nodes = self.inner.nodes().await?;
            self.keep_nodes(&nodes);
            Ok(nodes)
        }
        .boxed()
    }

    fn report(&self, report: ShardReport) -> BoxFuture<'_, Result<(), DirectoryError>> {
        self.inner.report(report)
    }

    fn pass(&self) -> BoxFuture<'_, Result<Signed<Pass>, DirectoryError>> {
        async move {
            let first = !std::mem::replace(&mut self.recalled().pass, true);
            if let Some(pass) = if first { self.saved_pass().await } else { None } {
                return Ok(pass);
            }
            let pass = self.inner.pass().await?;
            self.cache.replace(&CacheKey::Pass, Bytes::from(encode(&pass)));
            Ok(pass)
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use firn_base::ArchiveId;
    use firn_wire::{Identity, PassPurpose};
    use tokio::sync::watch;

    use super::*;

    /// Coordinators that know one address and give passes.
    #[derive(Debug, Default)]
    struct Coordinators {
        away: AtomicBool,
        asked: AtomicUsize,
    }

    const ARCHIVE: ArchiveId = ArchiveId::from_bytes([1; 32]);

    fn reader() -> PublicKey {
        Identity::from_seed(&[5; 32]).public()
    }

    impl Coordinators {
        fn answer<T>(&self, answer: T) -> Result<T, DirectoryError> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            match self.away.load(Ordering::Relaxed) {
                true => Err(DirectoryError::Unavailable("none answers".to_owned())),
                false => Ok(answer),
            }
        }
    }

    impl DirectorySource for Coordinators {
        fn bundles(
            &self,
            names: Vec<BundleName>,
        ) -> BoxFuture<'_, Result<Vec<Option<BundleInfo>>, DirectoryError>> {
            async move { self.answer(vec![None; names.len()]) }.boxed()
        }

        fn nodes(&self) -> BoxFuture<'_, Result<Vec<NodeAddress>, DirectoryError>> {
            let node = firn_base::NodeId::from_bytes([3; 32]);
            async move { self.answer(vec![NodeAddress { node, address: "a:1".to_owned(), online: true }]) }
                .boxed()
        }

        fn report(&self, _: ShardReport) -> BoxFuture<'_, Result<(), DirectoryError>> {
            async move { self.answer(()) }.boxed()
        }

        fn pass(&self) -> BoxFuture<'_, Result<Signed<Pass>, DirectoryError>> {
            let expires = Environment::real().now().after(Duration::from_secs(86_400));
            let pass = Pass { reader: reader(), expires, purpose: PassPurpose::Reading };
            let signed = Signed::seal(&Identity::from_seed(&[9; 32]), ARCHIVE, &pass);
            async move { self.answer(signed) }.boxed()
        }
    }

    /// A life of a gateway: what it does, until all of it is written.
    async fn live(
        place: &std::path::Path,
        coordinators: &Arc<Coordinators>,
        reader: PublicKey,
        life: impl AsyncFnOnce(&RememberingSource),
    ) {
        let environment = Environment::real();
        let (cache, writer) = DiskCache::new(environment.clone(), ARCHIVE, place.join("data"), 1 << 20);
        let (stop, stopped) = watch::channel(false);
        let writing = tokio::spawn(writer.run(stopped));
        let inner = Arc::clone(coordinators) as Arc<dyn DirectorySource>;
        life(&RememberingSource::new(inner, cache, environment, reader)).await;
        stop.send_replace(true);
        writing.await.unwrap();
    }

    #[tokio::test]
    async fn a_later_life_reads_on_with_the_pass_and_addresses_of_the_one_before() {
        let place = tempfile::tempdir().unwrap();
        let coordinators = Arc::new(Coordinators::default());
        live(place.path(), &coordinators, reader(), async |source| {
            source.nodes().await.unwrap();
            source.pass().await.unwrap();
        })
        .await;
        coordinators.away.store(true, Ordering::Relaxed);
        live(place.path(), &coordinators, reader(), async |source| {
            let asked = coordinators.asked.load(Ordering::Relaxed);
            assert_eq!(source.nodes().await.unwrap().len(), 1);
            assert_eq!(source.pass().await.unwrap().peek().unwrap().reader, reader());
            assert_eq!(coordinators.asked.load(Ordering::Relaxed), asked, "a start waits for nobody");
            assert!(source.pass().await.is_err(), "asked for again, it is a new one that is wanted");
        })
        .await;
        let other = Identity::from_seed(&[6; 32]).public();
        live(place.path(), &coordinators, other, async |source| {
            assert!(source.pass().await.is_err(), "a pass for another key is of no use");
        })
        .await;
    }
}
