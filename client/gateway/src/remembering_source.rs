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
use firn_wire::{BundleInfo, BundleName, NodeAddress, Pass, Signed, decode, encode};
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
    bundles: LruCache<BundleId, ()>,
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
            if self.recalled().bundles.put(bundle, ()).is_some() {
                return None;
            }
            infos.push(Some(self.saved_bundle(bundle).await?));
        }
        Some(infos)
    }

    fn keep_bundles(&self, infos: &[Option<BundleInfo>]) {
        for info in infos.iter().flatten() {
            if let Ok(facts) = BundleFacts::from_info(info) {
                self.recalled().bundles.put(facts.id, ());
                self.cache.replace(&CacheKey::Bundle(facts.id), Bytes::from(encode(info)));
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
