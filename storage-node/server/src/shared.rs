//! What all tasks of a running node share.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use firn_base::{ArchiveId, ByteCount, NodeId, PublicKey, Timestamp};
use firn_storage_node_logic::{
    Copies, DeletionRefusals, DiskRoom, LeaveWatch, Membership, Pains, ReaderClass, TurnBounds, Work,
    admit_work,
};
use firn_transport::{ConnectionPool, CoordinatorClient, Environment};
use firn_wire::{
    Identity, JoinToken, NodeStanding, NodeStatus, RefusalKind, RefusedRequest, Signed, SuspensionNotice,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, timeout};

use crate::authority::Authority;
use crate::certificates::Certificates;
use crate::fair_gate::{FairGate, FairTurn};
use crate::governance::LedgerCopy;
use crate::lent::Lent;
use crate::line_part::{LinePart, Sending};
use crate::scrub::Scrub;
use crate::store::{Disk, ShardStore};
use crate::week::Week;

// Each holds a block of 1 MiB and what QUIC has buffered for it.
const STORES_MAX: usize = 16;

// Each holds a proof of up to 4 MiB. Of those who ask for much at once others wait for one turn.
const READS: TurnBounds = TurnBounds { turns: 32, turns_each: 32, waiting: 1024, waiting_each: 256 };

// The same while it waits for the part of the line that strangers have. A range of 4 MiB takes half a minute of the usual
// line's: more at once would come slower, not sooner.
const STRANGER_READS: TurnBounds = TurnBounds { turns: 8, turns_each: 2, waiting: 64, waiting_each: 8 };

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

// Outside its hours a node serves one known reader and one stranger at a time, and one build. A reader who fetches a path asks for
// several things at once, and gives up after 15 s without a byte (`firn_retrieval::RANGE_STALL_MAX`).
const SPARING_WAIT_MAX: Duration = Duration::from_secs(10);

// As many as a reader asks for at once. Each waits with a request, not with a proof.
const SPARING: TurnBounds = TurnBounds { turns: 1, turns_each: 1, waiting: 64, waiting_each: 32 };

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
    pub(crate) build_line: LinePart,
    // Known readers who are being sent to.
    pub(crate) readers: Arc<Sending>,
    pub(crate) token: Option<Signed<JoinToken>>,
    pub(crate) store: Arc<ShardStore>,
    pub(crate) disk: Arc<dyn Disk>,
    // What it had free when it was asked last.
    pub(crate) disk_free_bytes: AtomicU64,
    pub(crate) pool: ConnectionPool,
    pub(crate) client: CoordinatorClient,
    pub(crate) authority: Authority,
    pub(crate) ledger: LedgerCopy,
    pub(crate) certificates: Certificates,
    // Entries of the ledger of whose erased bundles nothing is left here.
    pub(crate) erased_through: AtomicU64,
    pub(crate) scrub: Scrub,
    pub(crate) week: Week,
    // When somebody who had dialled this node last asked it something, in milliseconds since it was started; 0 for never.
    pub(crate) dialled_at_millis: AtomicU64,
    pub(crate) membership: Mutex<Membership>,
    pub(crate) links: Mutex<BTreeMap<NodeId, LinkState>>,
    // When a coordinator last answered, also one that is none any more; none if none has in this run.
    pub(crate) heard_at: Mutex<Option<Instant>>,
    // When one did that leads, or knows of none that does.
    pub(crate) led_at: Mutex<Option<Instant>>,
    pub(crate) refusals: Mutex<DeletionRefusals>,
    pub(crate) leaving: AtomicBool,
    pub(crate) leave_watch: Mutex<LeaveWatch>,
    // As the leader said last.
    pub(crate) standing: Mutex<Option<NodeStanding>>,
    // The same of a suspension to come; none until somebody has said whether there is one.
    pub(crate) announced: Mutex<Option<Option<SuspensionNotice>>>,
    pub(crate) counters: Counters,
    pub(crate) turns: Turns,
    pub(crate) started: Instant,
    // Generation of the roster in force: links are started and ended by it.
    pub(crate) generation: watch::Sender<u64>,
    pub(crate) copies: Mutex<Copies>,
    // Set once another process is heard as this node, with what a coordinator said.
    pub(crate) copied: watch::Sender<Option<String>>,
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
    // The term in which it leads, by its own word.
    pub(crate) leads: Option<u64>,
    pub(crate) trouble: Option<String>,
    // Whether the coordinator speaks another version of the protocol.
    pub(crate) speaks_another_version: bool,
}

/// What the node has done since it was started.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) ranges_served: AtomicU64,
    pub(crate) reads_helped: AtomicU64,
    pub(crate) bytes_served: AtomicU64,
    pub(crate) stranger_bytes_served: AtomicU64,
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
    reads: Arc<FairGate>,
    stranger_reads: Arc<FairGate>,
    coordinator_reads: Arc<Semaphore>,
    builds: Arc<Semaphore>,
    build_reads: Arc<Semaphore>,
    sparing: [Arc<FairGate>; 3],
}

/// A turn at some work; given back when dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    permit: Permit,
    pains: Pains,
}

/// What gives a turn back when it is dropped.
#[derive(Debug)]
pub(crate) enum Permit {
    // Held for its drop alone.
    Usual { _permit: OwnedSemaphorePermit },
    Fair { _turn: FairTurn },
}

impl Turn {
    /// The work is done but for sending what came of it: the turn of whoever works sparingly lasts until that is taken.
    pub(crate) fn sending(self) -> Option<Permit> {
        (self.pains == Pains::Sparing).then_some(self.permit)
    }

    /// How many strangers have such a turn at once, if this is a stranger's.
    pub(crate) const fn strangers_at_once(&self) -> usize {
        match self.pains {
            Pains::Usual => STRANGER_READS.turns,
            Pains::Sparing => SPARING.turns,
        }
    }
}

impl Default for Turns {
    fn default() -> Self {
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Self {
            stores: semaphore(STORES_MAX),
            reads: FairGate::new(READS),
            stranger_reads: FairGate::new(STRANGER_READS),
            coordinator_reads: semaphore(COORDINATOR_READS_MAX),
            builds: semaphore(BUILDS_MAX),
            build_reads: semaphore(BUILD_READS_MAX),
            sparing: std::array::from_fn(|_| FairGate::new(SPARING)),
        }
    }
}

impl Turns {
    /// Waits for a turn of `who`, not for long.
    async fn take(&self, work: Work, who: PublicKey, pains: Pains) -> Result<Turn, RefusedRequest> {
        let [known, strangers, builds] = &self.sparing;
        let permit = match (pains, work) {
            (Pains::Sparing, Work::StrangerRead) => fair(strangers, who, SPARING_WAIT_MAX).await,
            (Pains::Sparing, Work::BuildRead) => fair(builds, who, SPARING_WAIT_MAX).await,
            (Pains::Sparing, _) => fair(known, who, SPARING_WAIT_MAX).await,
            (Pains::Usual, Work::Read) => fair(&self.reads, who, TURN_WAIT_MAX).await,
            (Pains::Usual, Work::StrangerRead) => fair(&self.stranger_reads, who, TURN_WAIT_MAX).await,
            (Pains::Usual, Work::Store) => usual(&self.stores, TURN_WAIT_MAX).await,
            (Pains::Usual, Work::CoordinatorRead) => usual(&self.coordinator_reads, TURN_WAIT_MAX).await,
            (Pains::Usual, Work::Build) => usual(&self.builds, BUILD_WAIT_MAX).await,
            (Pains::Usual, Work::BuildRead) => usual(&self.build_reads, TURN_WAIT_MAX).await,
        };
        let busy = "this node is busy: try again later or ask another";
        let permit = permit.ok_or_else(|| RefusedRequest::new(RefusalKind::Unavailable, busy))?;
        Ok(Turn { permit, pains })
    }
}

async fn fair(gate: &Arc<FairGate>, who: PublicKey, wait: Duration) -> Option<Permit> {
    gate.take(who, wait).await.map(|turn| Permit::Fair { _turn: turn })
}

async fn usual(semaphore: &Arc<Semaphore>, wait: Duration) -> Option<Permit> {
    let permit = timeout(wait, Arc::clone(semaphore).acquire_owned()).await;
    permit.ok().and_then(Result::ok).map(|permit| Permit::Usual { _permit: permit })
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

    /// Somebody who has dialled this node asks it something.
    pub(crate) fn was_dialled(&self) {
        let millis = u64::try_from(self.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
        self.dialled_at_millis.store(millis, Ordering::Relaxed);
    }

    /// How long ago that was; none if it has not been since the start.
    pub(crate) fn dialled_ago(&self) -> Option<Duration> {
        let at = self.dialled_at_millis.load(Ordering::Relaxed);
        (at > 0).then(|| self.elapsed().saturating_sub(Duration::from_millis(at)))
    }

    /// A coordinator has answered, and says who leads.
    pub(crate) fn was_answered(&self, coordinator: NodeId, leader: Option<NodeId>) {
        let now = Instant::now();
        self.link(coordinator, |state| state.heard = Some(now));
        *self.heard_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
        // While nobody leads, nobody counts a node as lost.
        if leader.is_none_or(|leader| leader == coordinator) {
            *self.led_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
        }
    }

    /// How long ago a coordinator last answered in this run; none if none has.
    pub(crate) fn heard_ago(&self) -> Option<Duration> {
        let at = *self.heard_at.lock().unwrap_or_else(PoisonError::into_inner);
        at.map(|at| at.elapsed())
    }

    /// When that was, by the own clock.
    pub(crate) fn heard(&self) -> Option<Timestamp> {
        self.heard_ago().map(|ago| self.before(ago))
    }

    /// How long ago one last answered in this run that leads, or knows of none that does; none if none has.
    pub(crate) fn led_ago(&self) -> Option<Duration> {
        let at = *self.led_at.lock().unwrap_or_else(PoisonError::into_inner);
        at.map(|at| at.elapsed())
    }

    /// When that was, by the own clock.
    pub(crate) fn led(&self) -> Option<Timestamp> {
        self.led_ago().map(|ago| self.before(ago))
    }

    /// The own clock's time so long ago.
    fn before(&self, ago: Duration) -> Timestamp {
        let ago_millis = u64::try_from(ago.as_millis()).unwrap_or(u64::MAX);
        Timestamp::from_millis(self.local_time().as_millis().saturating_sub(ago_millis))
    }

    /// Waits for a turn of `who` at `work`, if the node does it now.
    pub(crate) async fn turn(&self, work: Work, who: PublicKey) -> Result<Turn, RefusedRequest> {
        let pains = admit_work(self.lent.rest(), self.lent.strangers_have_spent(), work)?;
        self.turns.take(work, who, pains).await
    }

    /// What reading is for `reader`.
    pub(crate) fn reading(&self, reader: PublicKey) -> Work {
        match self.ledger.class_of(reader) {
            ReaderClass::Known => Work::Read,
            ReaderClass::Stranger => Work::StrangerRead,
        }
    }

    /// What a heartbeat says.
    pub(crate) fn status(&self) -> NodeStatus {
        let now = self.local_time();
        let figures = self.store.figures(now);
        NodeStatus {
            address: self.address.clone(),
            quota: figures.quota,
            used: self.disk_room().unavailable(figures.quota, figures.unavailable()),
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

    /// What the disk has for this node, as it said last.
    pub(crate) fn disk_room(&self) -> DiskRoom {
        self.store.figures(self.local_time()).disk_room(self.disk_free())
    }

    /// What the disk has free, as it said last.
    fn disk_free(&self) -> ByteCount {
        ByteCount(self.disk_free_bytes.load(Ordering::Acquire))
    }

    /// Asks the disk what it has free, and blocks. If it does not say, what it said last goes on to count.
    pub(crate) fn look_for_room(&self) -> ByteCount {
        match self.disk.free_bytes() {
            Ok(free_bytes) => self.disk_free_bytes.store(free_bytes, Ordering::Release),
            Err(error) => tracing::warn!(%error, "the disk does not say what it has free"),
        }
        self.disk_free()
    }

    /// What the disk has free, if that is too little for what the quota has room for.
    pub(crate) fn disk_filled(&self) -> Option<ByteCount> {
        let (room, figures) = (self.disk_room(), self.store.figures(self.local_time()));
        room.is_filled(figures.quota, figures.unavailable()).then(|| room.free())
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

    /// A coordinator hears this process, or another one as this node and says so.
    pub(crate) fn hears(&self, coordinator: NodeId, other: Option<&str>) {
        let mut copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(other) = other else { return copies.heard(coordinator) };
        let roster = self.client.roster();
        let coordinators = roster.roster().coordinators.iter().map(|entry| entry.id).collect();
        if copies.refused(coordinator, &coordinators) {
            self.copied.send_replace(Some(other.to_owned()));
        }
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
        let reader = PublicKey::from_bytes([1; 32]);
        let take = || turns.take(Work::Read, reader, Pains::Sparing);
        let first = take().await.unwrap();
        let mut waiting: Vec<_> = (0..SPARING.waiting_each).map(|_| Box::pin(take())).collect();
        assert!(waiting.iter_mut().all(|wait| wait.as_mut().now_or_never().is_none()));
        assert_eq!(take().await.unwrap_err().kind, RefusalKind::Unavailable);
        // A stranger holds up no known reader, nor the other way round.
        assert!(turns.take(Work::StrangerRead, reader, Pains::Sparing).await.is_ok());
        drop(first);
        let second = waiting.remove(0).now_or_never().unwrap().unwrap();
        assert!(waiting.iter_mut().all(|wait| wait.as_mut().now_or_never().is_none()));
        // Its turn lasts until what it asked for is sent, too.
        let sending = second.sending();
        assert!(waiting.iter_mut().all(|wait| wait.as_mut().now_or_never().is_none()));
        drop((sending, waiting));
        assert!(take().await.is_ok());
    }

    #[tokio::test]
    async fn whoever_reads_much_of_a_sparing_node_makes_another_wait_for_one_turn() {
        let turns = Turns::default();
        let take = |byte| turns.take(Work::Read, PublicKey::from_bytes([byte; 32]), Pains::Sparing);
        let first = take(1).await.unwrap();
        let mut much: Vec<_> = (0..SPARING.waiting_each).map(|_| Box::pin(take(1))).collect();
        assert!(much.iter_mut().all(|wait| wait.as_mut().now_or_never().is_none()));
        let mut other = Box::pin(take(2));
        assert!(other.as_mut().now_or_never().is_none());
        drop(first);
        assert!(much.iter_mut().all(|wait| wait.as_mut().now_or_never().is_none()));
        assert!(other.as_mut().now_or_never().is_some_and(|turn| turn.is_ok()));
    }

    #[tokio::test(start_paused = true)]
    async fn however_many_strangers_read_known_readers_have_their_turns() {
        let turns = Turns::default();
        let key = |byte| PublicKey::from_bytes([byte; 32]);
        let stranger = |byte| turns.take(Work::StrangerRead, key(byte), Pains::Usual);
        let mut held = Vec::new();
        for byte in 0..4 {
            held.push((stranger(byte).await.unwrap(), stranger(byte).await.unwrap()));
            // A third one of the same waits in vain.
            assert_eq!(stranger(byte).await.unwrap_err().kind, RefusalKind::Unavailable);
        }
        assert_eq!(stranger(9).await.unwrap_err().kind, RefusalKind::Unavailable);
        assert!(turns.take(Work::Read, key(1), Pains::Usual).await.is_ok());
        drop(held);
        assert!(stranger(9).await.is_ok());
    }
}
