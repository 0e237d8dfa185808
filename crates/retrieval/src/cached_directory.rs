//! A directory that asks coordinators and remembers.
//!
//! Owns: when facts are fetched anew. Always holds: memory is bounded; equal questions under way are asked once;
//! what was known once is answered even with every coordinator away. Leaves to others: which coordinator is
//! asked (`transport`).

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use firn_base::{BundleId, BundleNumber, Timestamp};
use firn_transport::Environment;
use firn_wire::{BundleName, Pass, ShardReport, Signed};
use futures::FutureExt;
use futures::future::BoxFuture;
use lru::LruCache;
use tokio::time::Instant;

use crate::directory_source::DirectorySource;
use crate::single_flight::SingleFlight;
use crate::{BundleFacts, Directory, DirectoryError, NodeBook};

/// How long a directory believes what it knows.
#[derive(Debug, Clone, Copy)]
pub struct DirectoryOptions {
    /// Bundles remembered; each takes 2 to 6 kB.
    pub bundles_max: NonZeroUsize,
    /// Addresses older than this are fetched anew when they are used.
    pub nodes_for: Duration,
    /// Facts of a bundle older than this are fetched anew when they are used: repair moves shards.
    pub bundle_for: Duration,
    /// A pass with less time left than this is renewed.
    pub pass_margin: Duration,
    /// How long a reader that has old facts waits for new ones.
    pub refresh_wait: Duration,
}

impl Default for DirectoryOptions {
    fn default() -> Self {
        Self {
            bundles_max: NonZeroUsize::new(8192).expect("a constant above zero"),
            nodes_for: Duration::from_secs(5),
            bundle_for: Duration::from_secs(120),
            pass_margin: Duration::from_secs(3600),
            refresh_wait: Duration::from_secs(2),
        }
    }
}

// Doubts and failed refreshes do not make coordinators be asked more often than this.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);

type Answer<T> = Result<Arc<T>, DirectoryError>;

/// Asks coordinators where bundles lie, and remembers. Clones share what they know.
#[derive(Clone)]
pub struct CachedDirectory {
    shared: Arc<Shared>,
}

struct Shared {
    source: Arc<dyn DirectorySource>,
    environment: Environment,
    options: DirectoryOptions,
    known: Mutex<Known>,
    bundle_flights: SingleFlight<BundleName, Answer<BundleFacts>>,
    node_flights: SingleFlight<(), Answer<NodeBook>>,
    pass_flights: SingleFlight<(), Answer<Signed<Pass>>>,
}

struct Known {
    bundles: LruCache<BundleId, KnownBundle>,
    numbers: LruCache<BundleNumber, BundleId>,
    nodes: Option<(Arc<NodeBook>, Instant)>,
    nodes_asked: Option<Instant>,
    pass: Option<(Arc<Signed<Pass>>, Timestamp)>,
    pass_asked: Option<Instant>,
}

#[derive(Clone)]
struct KnownBundle {
    facts: Arc<BundleFacts>,
    fetched: Instant,
    asked: Instant,
    doubtful: bool,
}

impl fmt::Debug for CachedDirectory {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("CachedDirectory").field("source", &self.shared.source).finish_non_exhaustive()
    }
}

impl CachedDirectory {
    /// A directory that knows nothing yet and asks `source`.
    pub fn new(
        source: Arc<dyn DirectorySource>,
        environment: Environment,
        options: DirectoryOptions,
    ) -> Self {
        let known = Known {
            bundles: LruCache::new(options.bundles_max),
            numbers: LruCache::new(options.bundles_max),
            nodes: None,
            nodes_asked: None,
            pass: None,
            pass_asked: None,
        };
        Self {
            shared: Arc::new(Shared {
                source,
                environment,
                options,
                known: Mutex::new(known),
                bundle_flights: SingleFlight::new(),
                node_flights: SingleFlight::new(),
                pass_flights: SingleFlight::new(),
            }),
        }
    }

    async fn bundle_by_id(&self, id: BundleId) -> Answer<BundleFacts> {
        let now = Instant::now();
        let entry = {
            let mut known = self.shared.known();
            known.bundles.get_mut(&id).map(|entry| {
                let before = entry.clone();
                if self.shared.is_due(entry, now) {
                    entry.asked = now;
                }
                before
            })
        };
        let Some(entry) = entry else { return self.fetch_bundle(BundleName::Id(id)).await };
        if self.shared.is_due(&entry, now) {
            if entry.doubtful {
                return self.fetch_in_time(id, entry.facts).await;
            }
            let directory = self.clone();
            tokio::spawn(async move { drop(directory.fetch_bundle(BundleName::Id(id)).await) });
        }
        Ok(entry.facts)
    }

    /// New facts, or the old ones if nobody gives new ones soon.
    async fn fetch_in_time(&self, id: BundleId, old: Arc<BundleFacts>) -> Answer<BundleFacts> {
        let wait = self.shared.options.refresh_wait;
        match tokio::time::timeout(wait, self.fetch_bundle(BundleName::Id(id))).await {
            Ok(Ok(new)) => Ok(new),
            Ok(Err(_)) | Err(_) => Ok(old),
        }
    }

    async fn fetch_bundle(&self, name: BundleName) -> Answer<BundleFacts> {
        let shared = Arc::clone(&self.shared);
        self.shared
            .bundle_flights
            .run(name, move || {
                async move {
                    let mut answers = shared.source.bundles(vec![name]).await?;
                    let info = answers.pop().flatten().ok_or(DirectoryError::UnknownBundle)?;
                    let facts = Arc::new(BundleFacts::from_info(&info)?);
                    let asked_for = match name {
                        BundleName::Id(id) => facts.id == id,
                        BundleName::Number(number) => facts.number == number,
                    };
                    if !asked_for {
                        let what = "another bundle than the one asked for".to_owned();
                        return Err(DirectoryError::Malformed(what));
                    }
                    shared.remember(&facts);
                    Ok(facts)
                }
                .boxed()
            })
            .await
    }

    async fn current_nodes(&self) -> Answer<NodeBook> {
        let now = Instant::now();
        let known = {
            let mut known = self.shared.known();
            let nodes = known.nodes.clone();
            let age = self.shared.options.nodes_for;
            let fresh = nodes.as_ref().is_some_and(|(_, fetched)| now.duration_since(*fetched) < age);
            let asked = known.nodes_asked.is_some_and(|asked| now.duration_since(asked) < ASK_AGAIN_AFTER);
            if let Some((nodes, _)) = nodes.as_ref().filter(|_| fresh || asked) {
                return Ok(Arc::clone(nodes));
            }
            known.nodes_asked = Some(now);
            nodes
        };
        match known {
            Some((nodes, _)) => {
                let directory = self.clone();
                tokio::spawn(async move { drop(directory.fetch_nodes().await) });
                Ok(nodes)
            }
            None => self.fetch_nodes().await,
        }
    }

    async fn fetch_nodes(&self) -> Answer<NodeBook> {
        let shared = Arc::clone(&self.shared);
        self.shared
            .node_flights
            .run((), move || {
                async move {
                    let nodes = shared.source.nodes().await?;
                    let book: NodeBook = nodes.into_iter().map(|node| (node.node, node)).collect();
                    let book = Arc::new(book);
                    shared.known().nodes = Some((Arc::clone(&book), Instant::now()));
                    Ok(book)
                }
                .boxed()
            })
            .await
    }

    async fn current_pass(&self) -> Answer<Signed<Pass>> {
        let (now, wall) = (Instant::now(), self.shared.environment.now());
        let known = {
            let mut known = self.shared.known();
            let pass = known.pass.clone();
            let margin = self.shared.options.pass_margin;
            let fresh = pass.as_ref().is_some_and(|(_, expires)| wall.after(margin) < *expires);
            let asked = known.pass_asked.is_some_and(|asked| now.duration_since(asked) < ASK_AGAIN_AFTER);
            if let Some((pass, _)) = pass.as_ref().filter(|_| fresh || asked) {
                return Ok(Arc::clone(pass));
            }
            known.pass_asked = Some(now);
            pass
        };
        match known {
            Some((pass, expires)) if wall < expires => {
                let directory = self.clone();
                tokio::spawn(async move { drop(directory.fetch_pass().await) });
                Ok(pass)
            }
            _ => self.fetch_pass().await,
        }
    }

    async fn fetch_pass(&self) -> Answer<Signed<Pass>> {
        let shared = Arc::clone(&self.shared);
        self.shared
            .pass_flights
            .run((), move || {
                async move {
                    let pass = Arc::new(shared.source.pass().await?);
                    let expires = match pass.peek() {
                        Ok(statement) => statement.expires,
                        Err(error) => return Err(DirectoryError::Malformed(error.to_string())),
                    };
                    shared.known().pass = Some((Arc::clone(&pass), expires));
                    Ok(pass)
                }
                .boxed()
            })
            .await
    }
}

impl Shared {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the facts should be fetched anew.
    fn is_due(&self, entry: &KnownBundle, now: Instant) -> bool {
        let old = now.duration_since(entry.fetched) >= self.options.bundle_for;
        (old || entry.doubtful) && now.duration_since(entry.asked) >= ASK_AGAIN_AFTER
    }

    fn remember(&self, facts: &Arc<BundleFacts>) {
        let now = Instant::now();
        let entry = KnownBundle { facts: Arc::clone(facts), fetched: now, asked: now, doubtful: false };
        let mut known = self.known();
        known.numbers.put(facts.number, facts.id);
        known.bundles.put(facts.id, entry);
    }
}

impl Directory for CachedDirectory {
    fn bundle(&self, bundle: BundleId) -> BoxFuture<'_, Answer<BundleFacts>> {
        self.bundle_by_id(bundle).boxed()
    }

    fn numbered(&self, number: BundleNumber) -> BoxFuture<'_, Answer<BundleFacts>> {
        async move {
            let id = self.shared.known().numbers.get(&number).copied();
            match id {
                Some(id) => self.bundle_by_id(id).await,
                None => self.fetch_bundle(BundleName::Number(number)).await,
            }
        }
        .boxed()
    }

    fn nodes(&self) -> BoxFuture<'_, Answer<NodeBook>> {
        self.current_nodes().boxed()
    }

    fn pass(&self) -> BoxFuture<'_, Result<Option<Arc<Signed<Pass>>>, DirectoryError>> {
        async move { self.current_pass().await.map(Some) }.boxed()
    }

    fn refresh(&self, bundle: BundleId) -> BoxFuture<'_, Answer<BundleFacts>> {
        async move {
            let old = self.shared.known().bundles.peek(&bundle).map(|entry| Arc::clone(&entry.facts));
            let Some(old) = old else { return self.fetch_bundle(BundleName::Id(bundle)).await };
            let wait = self.shared.options.refresh_wait;
            let nodes = tokio::time::timeout(wait, self.fetch_nodes());
            let new = tokio::time::timeout(wait, self.fetch_bundle(BundleName::Id(bundle)));
            match futures::future::join(new, nodes).await.0 {
                Ok(Ok(new)) => Ok(new),
                // It was erased: what lay in it lies in others now.
                Ok(Err(DirectoryError::UnknownBundle)) => {
                    self.shared.known().bundles.pop(&bundle);
                    Err(DirectoryError::UnknownBundle)
                }
                Ok(Err(_)) | Err(_) => Ok(old),
            }
        }
        .boxed()
    }

    fn doubt(&self, bundle: BundleId) {
        if let Some(entry) = self.shared.known().bundles.peek_mut(&bundle) {
            entry.doubtful = true;
        }
    }

    fn report(&self, report: ShardReport) {
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            if let Err(error) = shared.source.report(report).await {
                tracing::debug!("what node {} sent was not reported: {error}", report.node.short());
            }
        });
    }

    fn forget_pass(&self) {
        let mut known = self.shared.known();
        known.pass = None;
    }
}
