//! What all tasks of a running node share.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use firn_base::{ArchiveId, ByteCount, NodeId, Timestamp};
use firn_storage_node_logic::{DeletionRefusals, Membership, Pains, Work, admit_work};
use firn_transport::{ConnectionPool, CoordinatorClient, Environment};
use firn_wire::{Identity, JoinToken, NodeStatus, RefusalKind, RefusedRequest, Signed};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, timeout};

use crate::authority::Authority;
use crate::build_line::BuildLine;
use crate::certificates::Certificates;
use crate::governance::LedgerCopy;
use crate::lent::Lent;
use crate::scrub::Scrub;
use crate::store::{Disk, ShardStore};

// Each holds a block of 1 MiB and what QUIC has buffered for it.
const STORES_MAX: usize = 16;

// Each holds a proof of up to 4 MiB.
const READS_MAX: usize = 32;

// Audits and rebuilding must get through however busy readers keep the node.
const COORDINATOR_READS_MAX: usize = 8;

// Each holds a proof of 1 MiB while it waits for the line.
const BUILD_READS_MAX: usize = 32;

// Each holds two blocks of 1 MiB for every shard involved: about 40 MiB for k = 16.
const BUILDS_MAX: usize = 3;

// A short burst waits; whoever waits longer is better served elsewhere.
const TURN_WAIT_MAX: Duration = Duration::from_secs(2);

// The leader waits minutes for a build, and gives a refused one to the next worker only after a while.
const BUILD_WAIT_MAX: Duration = Duration::from_secs(60);

// Outside its hours a node serves one reader at a time. A reader who fetches a path asks for several things at once, and
// gives up after 15 s without a byte (`firn_retrieval::RANGE_STALL_MAX`).
const SPARING_WAIT_MAX: Duration = Duration::from_secs(10);

// As many as a reader asks for at once. Each waits with a request, not with a proof.
const SPARING_WAITING_MAX: usize = 32;

/// What all tasks of a running node share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) environment: Environment,
    pub(crate) identity: Identity,
    pub(crate) archive: ArchiveId,
    pub(crate) address: String,
    pub(crate) failure_domain: String,
    pub(crate) lent: Lent,
    // What goes out for builds, the node's own and others'.
    pub(crate) build_line: BuildLine,
    pub(crate) token: Option<Signed<JoinToken>>,
    pub(crate) store: Arc<ShardStore>,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) pool: ConnectionPool,
    pub(crate) client: CoordinatorClient,
    pub(crate) authority: Authority,
    pub(crate) ledger: LedgerCopy,
    pub(crate) certificates: Certificates,
    // Entries of the ledger of whose erased bundles nothing is left here.
    pub(crate) erased_through: AtomicU64,
    pub(crate) scrub: Scrub,
    pub(crate) membership: Mutex<Membership>,
    pub(crate) links: Mutex<BTreeMap<NodeId, LinkState>>,
    pub(crate) refusals: Mutex<DeletionRefusals>,
    pub(crate) leaving: AtomicBool,
    pub(crate) counters: Counters,
    pub(crate) turns: Turns,
    pub(crate) started: Instant,
    // Generation of the roster in force: links are started and ended by it.
    pub(crate) generation: watch::Sender<u64>,
    // Set once nothing counts any more of what a node holds that wanted to leave.
    pub(crate) left: watch::Sender<bool>,
    // Drawn at start.
    pub(crate) run: u64,
}

/// What is known of the link to one coordinator.
#[derive(Debug, Clone, Default)]
pub(crate) struct LinkState {
    pub(crate) address: String,
    pub(crate) connected: bool,
    pub(crate) heard: Option<Instant>,
    pub(crate) trouble: Option<String>,
}

/// What the node has done since it was started.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) ranges_served: AtomicU64,
    pub(crate) bytes_served: AtomicU64,
    pub(crate) build_bytes_served: AtomicU64,
    pub(crate) shards_stored: AtomicU64,
    pub(crate) bytes_stored: AtomicU64,
    pub(crate) shards_trashed: AtomicU64,
    pub(crate) builds: AtomicU64,
    pub(crate) build_bytes_read: AtomicU64,
    pub(crate) build_bytes_sent: AtomicU64,
    pub(crate) refusals: AtomicU64,
    pub(crate) deletions_refused: AtomicU64,
}

/// How much is done at once.
#[derive(Debug)]
pub(crate) struct Turns {
    stores: Arc<Semaphore>,
    reads: Arc<Semaphore>,
    coordinator_reads: Arc<Semaphore>,
    builds: Arc<Semaphore>,
    build_reads: Arc<Semaphore>,
    sparing: Arc<Semaphore>,
    sparing_waiting: Arc<Semaphore>,
}

/// A turn at some work; given back when dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    permit: OwnedSemaphorePermit,
    pains: Pains,
}

impl Turn {
    /// The work is done but for sending what came of it: the turn of whoever works sparingly lasts until that is taken.
    pub(crate) fn sending(self) -> Option<OwnedSemaphorePermit> {
        (self.pains == Pains::Sparing).then_some(self.permit)
    }
}

impl Default for Turns {
    fn default() -> Self {
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Self {
            stores: semaphore(STORES_MAX),
            reads: semaphore(READS_MAX),
            coordinator_reads: semaphore(COORDINATOR_READS_MAX),
            builds: semaphore(BUILDS_MAX),
            build_reads: semaphore(BUILD_READS_MAX),
            sparing: semaphore(1),
            sparing_waiting: semaphore(SPARING_WAITING_MAX),
        }
    }
}

impl Turns {
    /// Waits for a turn, not for long.
    async fn take(&self, work: Work, pains: Pains) -> Result<Turn, RefusedRequest> {
        let busy = || {
            RefusedRequest::new(RefusalKind::Unavailable, "this node is busy: try again later or ask another")
        };
        if pains == Pains::Sparing {
            let _waiting = self.sparing_waiting.try_acquire().map_err(|_| busy())?;
            let permit = timeout(SPARING_WAIT_MAX, Arc::clone(&self.sparing).acquire_owned()).await;
            return permit.ok().and_then(Result::ok).map(|permit| Turn { permit, pains }).ok_or_else(busy);
        }
        let semaphore = match work {
            Work::Store => &self.stores,
            Work::Read => &self.reads,
            Work::CoordinatorRead => &self.coordinator_reads,
            Work::Build => &self.builds,
            Work::BuildRead => &self.build_reads,
        };
        let wait = if work == Work::Build { BUILD_WAIT_MAX } else { TURN_WAIT_MAX };
        let permit = timeout(wait, Arc::clone(semaphore).acquire_owned()).await;
        permit.ok().and_then(Result::ok).map(|permit| Turn { permit, pains }).ok_or_else(busy)
    }
}

impl Shared {
    pub(crate) fn id(&self) -> NodeId {
        self.identity.node_id()
    }

    /// The node's own clock: when something was trashed.
    pub(crate) fn local_time(&self) -> Timestamp {
        self.environment.now()
    }

    /// Time since the program began.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Waits for a turn at `work`, if the node does it now.
    pub(crate) async fn turn(&self, work: Work) -> Result<Turn, RefusedRequest> {
        let pains = admit_work(self.lent.rest(), work)?;
        self.turns.take(work, pains).await
    }

    /// What a heartbeat says.
    pub(crate) fn status(&self) -> NodeStatus {
        let now = self.local_time();
        let figures = self.store.figures(now);
        NodeStatus {
            address: self.address.clone(),
            quota: figures.quota,
            used: figures.unavailable(),
            young_trash: ByteCount(figures.young.bytes),
            deletion_room: figures.deletion_room,
            refused_deletions: self.refusals().current(now),
            shards: figures.shards,
            max_upload: self.lent.terms.max_upload,
            rest: self.lent.rest(),
            leaving: self.leaving.load(Ordering::Acquire),
            // A shard that was lost changes the inventory as a restart may.
            run: self.run.wrapping_add(self.store.losses()),
            erased_through: self.erased_through.load(Ordering::Acquire),
        }
    }

    /// Removes what the copy of the ledger says is erased. What fails is tried again later, and not counted before.
    pub(crate) async fn erase(&self) {
        let from = self.erased_through.load(Ordering::Acquire);
        let (bundles, through) = self.ledger.erased_from(from).await;
        let erased = bundles.len();
        match self.with_store(move |store| store.erase(&bundles)).await {
            Ok(removed) => {
                if erased > 0 {
                    tracing::info!(bundles = erased, files = removed, "bundles are erased by the ledger");
                }
                self.erased_through.fetch_max(through, Ordering::AcqRel);
            }
            Err(error) => tracing::error!(%error, "shards of erased bundles cannot be removed"),
        }
    }

    pub(crate) fn refusals(&self) -> MutexGuard<'_, DeletionRefusals> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn membership(&self) -> MutexGuard<'_, Membership> {
        self.membership.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is known of a link.
    pub(crate) fn link(&self, coordinator: NodeId, change: impl FnOnce(&mut LinkState)) {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        change(links.entry(coordinator).or_default());
    }

    /// Runs `work` on the shard store where it holds up nobody.
    pub(crate) async fn with_store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<ShardStore>) -> T + Send + 'static,
    ) -> T {
        let store = Arc::clone(&self.store);
        self.environment.blocking(move || work(&store)).await
    }
}

/// Adds to a counter.
pub(crate) fn count(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn of_those_who_are_served_sparingly_one_has_a_turn_and_few_wait_for_theirs() {
        let turns = Turns::default();
        let take = || turns.take(Work::Read, Pains::Sparing);
        let first = take().await.unwrap();
        let mut waiting: Vec<_> = (0..SPARING_WAITING_MAX).map(|_| Box::pin(take())).collect();
        assert!(waiting.iter_mut().all(|wait| wait.as_mut().now_or_never().is_none()));
        assert_eq!(take().await.unwrap_err().kind, RefusalKind::Unavailable);
        drop(first);
        let second = waiting.remove(0).now_or_never().unwrap().unwrap();
        assert!(waiting.iter_mut().all(|wait| wait.as_mut().now_or_never().is_none()));
        // Its turn lasts until what it asked for is sent, too.
        let sending = second.sending();
        assert!(waiting.iter_mut().all(|wait| wait.as_mut().now_or_never().is_none()));
        drop((sending, waiting));
        assert!(take().await.is_ok());
    }
}
