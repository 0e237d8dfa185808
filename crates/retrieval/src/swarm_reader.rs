//! Payloads from the nodes that hold their shards.
//!
//! Owns: which nodes are asked for a range, when others are asked instead, and how often in all. Always holds:
//! a range comes from its data shard or from any k others; requests under way are bounded; a range that k
//! holders can give is given. Leaves to others: one race for one range (`piece_race`), where holders are
//! (`directory`), the wire (`shard_source`).

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use firn_base::{BundleId, ShardIndex};
use firn_bundle::ContentHeader;
use firn_erasure::Coder;
use firn_wire::{NodeAddress, RefusalKind, ShardReport};
use futures::FutureExt;
use futures::future::{BoxFuture, try_join_all};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::hedge_budget::HedgeBudget;
use crate::node_health::{NodeHealth, PatienceBounds, Strike};
use crate::payload::check_range;
use crate::piece_race::{PieceRace, Shortage};
use crate::{BundleFacts, Directory, PayloadReader, ReadError, ReadRangeError, ShardRange, ShardSource};

/// How hard a swarm reader tries.
#[derive(Debug, Clone, Copy)]
pub struct SwarmOptions {
    /// A holder is read around once it takes longer than it usually does, or, before anything is known of it, than
    /// others do; but not before so long.
    pub hedge_after: Duration,
    /// However long a holder usually takes, it is read around after so long, or, where the whole fleet takes longer,
    /// as long as the fleet usually does.
    pub hedge_within: Duration,
    /// How many more than k are asked when a range is read around a holder: the first k count.
    pub surplus: usize,
    /// Requests under way at most, over all reads.
    pub requests_max: usize,
    /// After this long a range is given up; it is tried twice.
    pub give_up_after: Duration,
}

impl Default for SwarmOptions {
    fn default() -> Self {
        Self {
            // A thread that gets no turn for a moment is no reason to ask seven nodes.
            hedge_after: Duration::from_millis(20),
            hedge_within: Duration::from_millis(300),
            surplus: 3,
            requests_max: 128,
            give_up_after: Duration::from_secs(20),
        }
    }
}

impl SwarmOptions {
    pub(crate) const fn patience(&self) -> PatienceBounds {
        PatienceBounds { least: self.hedge_after, most: self.hedge_within }
    }
}

/// What a swarm reader has done since it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SwarmCounts {
    /// Ranges of shards that were wanted.
    pub ranges: u64,
    /// Of these, read around their holder because it failed, is away or was avoided.
    pub degraded: u64,
    /// Of these, also asked of others because their holder was slow.
    pub hedged: u64,
    /// Of the hedged ones, had from others first.
    pub hedges_won: u64,
    /// Ranges decoded from other shards than their own.
    pub rebuilt: u64,
    /// Requests to nodes, without those of trials.
    pub requests: u64,
    /// Requests that see whether a node that is read around has recovered.
    pub trials: u64,
    /// Nodes' answers that they are at their limit.
    pub busy: u64,
    /// Requests under way now.
    pub under_way: u64,
    /// Wrong answers.
    pub lies: u64,
    /// Ranges that too few holders could give.
    pub unreadable: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) ranges: AtomicU64,
    pub(crate) degraded: AtomicU64,
    pub(crate) hedged: AtomicU64,
    pub(crate) hedges_won: AtomicU64,
    pub(crate) rebuilt: AtomicU64,
    pub(crate) requests: AtomicU64,
    pub(crate) trials: AtomicU64,
    pub(crate) busy: AtomicU64,
    pub(crate) lies: AtomicU64,
    pub(crate) unreadable: AtomicU64,
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Why one range of one data shard was not read.
enum PieceError {
    /// For this reason.
    Read(ReadError),
    /// Its coding is no longer the bundle's: these are the facts now.
    Recoded(Arc<BundleFacts>),
}

impl From<ReadError> for PieceError {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

/// Reads payloads from nodes. Clones share caches, limits and counts.
#[derive(Debug, Clone)]
pub struct SwarmReader {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) directory: Arc<dyn Directory>,
    pub(crate) source: Arc<dyn ShardSource>,
    pub(crate) options: SwarmOptions,
    pub(crate) health: NodeHealth,
    pub(crate) permits: Semaphore,
    pub(crate) counters: Counters,
    hedges: Mutex<HedgeBudget>,
}

impl Shared {
    fn hedges(&self) -> MutexGuard<'_, HedgeBudget> {
        self.hedges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether one more range may be read around a holder that is merely late.
    pub(crate) fn may_hedge(&self) -> bool {
        self.hedges().spend()
    }

    /// Draws conclusions about a node from its answer to what it was asked at `begun`; the bytes if there are any.
    pub(crate) fn judge(
        &self,
        address: &NodeAddress,
        index: ShardIndex,
        wanted: &ShardRange,
        begun: Instant,
        result: Result<Bytes, ReadRangeError>,
    ) -> Option<Bytes> {
        let (node, bundle) = (address.node, wanted.bundle.id);
        let strike = |strike| self.health.strike(node, strike, begun, Instant::now());
        let error = match result {
            Ok(bytes) => {
                self.health.answered(node, bytes.len() as u64, begun.elapsed());
                return Some(bytes);
            }
            Err(error) => error,
        };
        match &error {
            ReadRangeError::Lied { .. } => {
                count(&self.counters.lies);
                strike(Strike::Lied);
                warn!(%bundle, shard = %index, "{error}");
                let (coding, offset) = (wanted.bundle.coding.coding_id(), wanted.range.start);
                let bytes = wanted.range.end.saturating_sub(offset);
                self.directory.report(ShardReport { node, coding, index, offset, bytes });
                return None;
            }
            ReadRangeError::Refused { refused, .. } => match refused.kind {
                RefusalKind::NotFound | RefusalKind::Disk => self.directory.doubt(bundle),
                RefusalKind::Expired | RefusalKind::NotAllowed => self.directory.forget_pass(),
                RefusalKind::Unavailable => {
                    count(&self.counters.busy);
                    strike(Strike::Busy);
                }
                _ => strike(Strike::Failed),
            },
            ReadRangeError::Unreachable { .. } => strike(Strike::Failed),
            ReadRangeError::OutOfRange { .. } => {}
        }
        debug!(%bundle, shard = %index, "{error}");
        None
    }
}

impl SwarmReader {
    /// A reader that learns from `directory` where shards lie and reads them from `source`.
    pub fn new(directory: Arc<dyn Directory>, source: Arc<dyn ShardSource>, options: SwarmOptions) -> Self {
        let permits = Semaphore::new(options.requests_max.clamp(1, Semaphore::MAX_PERMITS));
        let (health, counters) = (NodeHealth::default(), Counters::default());
        let hedges = Mutex::default();
        Self { shared: Arc::new(Shared { directory, source, options, health, permits, counters, hedges }) }
    }

    /// Where it learns where shards lie.
    pub fn directory(&self) -> &Arc<dyn Directory> {
        &self.shared.directory
    }

    /// What it has done since it began.
    pub fn counts(&self) -> SwarmCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.shared.counters;
        SwarmCounts {
            ranges: read(&counters.ranges),
            degraded: read(&counters.degraded),
            hedged: read(&counters.hedged),
            hedges_won: read(&counters.hedges_won),
            rebuilt: read(&counters.rebuilt),
            requests: read(&counters.requests),
            trials: read(&counters.trials),
            busy: read(&counters.busy),
            under_way: self.requests_max().saturating_sub(self.shared.permits.available_permits()) as u64,
            lies: read(&counters.lies),
            unreadable: read(&counters.unreadable),
        }
    }

    fn requests_max(&self) -> usize {
        self.shared.options.requests_max.clamp(1, Semaphore::MAX_PERMITS)
    }

    async fn facts(&self, bundle: BundleId) -> Result<Arc<BundleFacts>, ReadError> {
        self.shared.directory.bundle(bundle).await.map_err(|error| error.into_read_error(bundle))
    }

    async fn read_range(&self, bundle: BundleId, range: Range<u64>) -> Result<Bytes, ReadError> {
        let mut facts = self.facts(bundle).await?;
        check_range(&range, facts.content.payload_bytes())?;
        // A bundle that was coded anew meanwhile is read by its new coding from the beginning: shards of another one are
        // other bytes. The ladder of k ends, so this does.
        loop {
            match self.read_coding(bundle, &facts, &range).await {
                Ok(bytes) => return Ok(bytes),
                Err(PieceError::Recoded(fresh)) if fresh.coding.k() > facts.coding.k() => facts = fresh,
                Err(PieceError::Recoded(_)) => {
                    let (have, need) = (0, usize::from(facts.coding.k()));
                    return Err(ReadError::Unreadable { bundle, have, need });
                }
                Err(PieceError::Read(error)) => return Err(error),
            }
        }
    }

    /// A range of the payload, by the coding of `facts`.
    async fn read_coding(
        &self,
        bundle: BundleId,
        facts: &Arc<BundleFacts>,
        range: &Range<u64>,
    ) -> Result<Bytes, PieceError> {
        let coder = Coder::new(facts.coding.k()).map_err(|error| ReadError::damaged(bundle, error))?;
        let pieces = facts.coding.locate(range.clone());
        let reads = pieces.into_iter().map(|(index, range)| {
            self.read_piece(&coder, ShardRange { bundle: Arc::clone(facts), index, range })
        });
        let mut parts = try_join_all(reads).await?;
        if parts.len() == 1 {
            return Ok(parts.remove(0));
        }
        Ok(parts.concat().into())
    }

    /// One range of one data shard: once with what is known, and once more with fresh facts.
    async fn read_piece(&self, coder: &Coder, wanted: ShardRange) -> Result<Bytes, PieceError> {
        let shared = &self.shared;
        count(&shared.counters.ranges);
        shared.hedges().earn();
        let id = wanted.bundle.id;
        let first = match PieceRace::run(shared, coder, &wanted, false).await? {
            Ok(bytes) => return Ok(bytes),
            Err(shortage) => shortage,
        };
        let fresh = shared.directory.refresh(id).await.map_err(|error| error.into_read_error(id))?;
        if fresh.coding != wanted.bundle.coding {
            return Err(PieceError::Recoded(fresh));
        }
        let wanted = ShardRange { bundle: fresh, ..wanted };
        let second = match PieceRace::run(shared, coder, &wanted, true).await? {
            Ok(bytes) => return Ok(bytes),
            Err(shortage) => shortage,
        };
        count(&shared.counters.unreadable);
        let Shortage { have, need } = second;
        Err(ReadError::Unreadable { bundle: id, have: have.max(first.have), need }.into())
    }
}

impl PayloadReader for SwarmReader {
    fn content(&self, bundle: BundleId) -> BoxFuture<'_, Result<Arc<ContentHeader>, ReadError>> {
        async move { Ok(Arc::clone(&self.facts(bundle).await?.content)) }.boxed()
    }

    fn read(&self, bundle: BundleId, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ReadError>> {
        self.read_range(bundle, range).boxed()
    }
}
