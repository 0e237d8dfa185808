//! The consensus of an archive's coordinators: propose a command, read the state, know who leads.
//!
//! Owns: starting and stopping it, and hiding the library it is made with. Always holds: an outcome is given only
//! for a command that a majority has on disk and that was applied here; a member whose store fails stops and says
//! so. Leaves to others: what is proposed (`driver`), carrying messages in (`serve`).

mod changing;
mod yielding;

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use firn_base::{NodeId, PublicKey, Timestamp};
use firn_coordinator_logic::{ClockRefusal, Clocks};
use firn_transport::{BoxFuture, ConnectionPool, Environment};
use firn_wire::{CommandOutcome, StateDigests, TimedCommand};
use openraft::error::{CheckIsLeaderError, ClientWriteError, ForwardToLeader, InitializeError, RaftError};
use openraft::metrics::WaitError;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, timeout};

use crate::raft::{
    AppliedChanges, ClockBook, FreshnessBook, Inbound, InstallGate, LateDigests, LogStore, Member,
    MemberBook, Metrics, NamedMembers, Network, QuorumGate, Raft, StateFacts, StateMachine, Timing,
    check_continuity,
};
use crate::standing::REMOVED_SENTENCE;
use crate::storage::{KeyValue, StorageError};

pub use changing::ChangeError;

// A command that is not applied by then has met a majority that went away: whoever asked may ask again.
const PROPOSAL_TIMEOUT: Duration = Duration::from_secs(10);

/// What a member of the consensus is made of.
#[derive(Debug)]
pub struct ConsensusOptions {
    /// Its number.
    pub raft_id: u64,
    /// Those that the roster names: number → identity, host and UDP port. All of them found the group; later the
    /// log says who is a member, and this where.
    pub members: BTreeMap<u64, (NodeId, String)>,
    /// Whether it founds the group if its log is empty. One member of a new archive does.
    pub bootstrap: bool,
    /// The store of the log.
    pub log: Arc<dyn KeyValue>,
    /// The store of the state.
    pub state: Arc<dyn KeyValue>,
    /// Where blocking work runs, and chance.
    pub environment: Environment,
    /// The ways to the others.
    pub pool: ConnectionPool,
    /// How patient it is. The same on all members.
    pub timing: Timing,
}

/// A running member. Clones are the same member; it ends with the last one, or by [`Self::shutdown`].
#[derive(Clone)]
pub struct Consensus {
    inner: Arc<Inner>,
}

struct Inner {
    raft_id: u64,
    raft: Raft,
    members: MemberBook,
    network: Network,
    log: Arc<dyn KeyValue>,
    state: Arc<dyn KeyValue>,
    // One change of the members at a time.
    changing: Mutex<()>,
    inbound: Inbound,
    gate: QuorumGate,
    freshness: FreshnessBook,
    clocks: ClockBook,
    timing: Timing,
    facts: StateFacts,
    applied_changes: AppliedChanges,
    late_digests: LateDigests,
}

/// Why a member did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its store failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The options contradict each other.
    #[error("the consensus cannot start: {0}")]
    Options(String),
    /// The library stopped, as a rule because a store failed.
    #[error("the consensus stopped while it started: {0}")]
    Stopped(String),
}

/// Why a command has no outcome.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Another coordinator leads: ask that one.
    #[error("another coordinator leads")]
    NotLeader {
        /// Who, if known.
        leader: Option<NodeId>,
    },
    /// The clock of this member is wrong, or not known yet to be right. Nothing was done.
    #[error(transparent)]
    Clock(#[from] ClockRefusal),
    /// No majority answers. The command may have been taken or not: ask again what became of it.
    #[error("no majority of the coordinators answers: try again later")]
    Unavailable,
    /// This member has stopped, as a rule because its store failed.
    #[error("this coordinator has stopped: {0}")]
    Stopped(String),
}

/// How the consensus stands, as this member sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsensusStatus {
    /// The term: the epoch of orders.
    pub term: u64,
    /// Who leads, if known.
    pub leader: Option<NodeId>,
    /// Whether this member leads.
    pub is_leader: bool,
    /// Index of the last applied entry; 0 before the first.
    pub applied: u64,
    /// Index of the last entry of its log; 0 before the first.
    pub last_entry: u64,
    /// Index up to which its log is trimmed; 0 while it has all.
    pub trimmed: u64,
    /// Why this member has stopped; none while it runs.
    pub failure: Option<String>,
}

/// Tells of changes of the [`ConsensusStatus`].
#[derive(Debug, Clone)]
pub struct ConsensusWatch {
    metrics: watch::Receiver<Metrics>,
    raft_id: u64,
    members: MemberBook,
    // Of a member that has ended its stores may be opened anew.
    stores: [Weak<dyn KeyValue>; 2],
}

impl Consensus {
    /// Starts a member with what its stores hold.
    pub fn start(options: ConsensusOptions) -> BoxFuture<'static, Result<Self, StartError>> {
        Box::pin(Self::started(options))
    }

    async fn started(options: ConsensusOptions) -> Result<Self, StartError> {
        let ConsensusOptions { raft_id, members, bootstrap, log, state, environment, pool, timing } = options;
        let members: BTreeMap<_, _> =
            members.into_iter().map(|(number, (id, address))| (number, Member { id, address })).collect();
        if bootstrap && !members.contains_key(&raft_id) {
            return Err(StartError::Options(format!("number {raft_id} is not among the founders")));
        }
        let founders = members.clone();
        let members = MemberBook::new(NamedMembers { members, ..NamedMembers::default() });
        let config = timing.config().map_err(StartError::Options)?;
        let install_gate = InstallGate::default();
        let state_machine = {
            let (state, inner, gate) = (Arc::clone(&state), environment.clone(), install_gate.clone());
            environment.blocking(move || StateMachine::open(state, inner, gate)).await?
        };
        {
            let (log, state) = (Arc::clone(&log), Arc::clone(&state));
            environment.blocking(move || check_continuity(&*log, &*state)).await?;
        }
        let (applied_changes, late_digests) = (state_machine.applied_changes(), state_machine.late_digests());
        let log_store =
            LogStore::new(Arc::clone(&log), Arc::clone(&state), environment.clone(), install_gate.clone());
        let gate = QuorumGate::default();
        let clocks = ClockBook::new(pool.endpoint().public().into(), members.clone(), environment.clone());
        let network =
            Network::new(pool, members.clone(), environment.clone(), timing, gate.clone(), clocks.clone());
        let raft = Raft::new(raft_id, Arc::new(config), network.clone(), log_store, state_machine).await;
        let raft = raft.map_err(|error| StartError::Stopped(error.to_string()))?;
        gate.open(raft.metrics());
        members.open(raft.metrics());
        let freshness = FreshnessBook::new(timing);
        tokio::spawn(freshness.clone().follow(raft.metrics()));
        if bootstrap {
            match raft.initialize(founders).await {
                // It was founded before: what is in the log counts.
                Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {}
                Err(error) => return Err(StartError::Stopped(error.to_string())),
            }
        }
        let facts = StateFacts::new(Arc::clone(&state) as _);
        let inbound = Inbound::new(
            members.clone(),
            Arc::clone(&log),
            Arc::clone(&state),
            environment,
            install_gate,
            freshness.clone(),
        );
        let changing = Mutex::default();
        let inner = Inner {
            raft_id,
            raft,
            members,
            network,
            log,
            state,
            changing,
            inbound,
            gate,
            freshness,
            clocks,
            timing,
            facts,
            applied_changes,
            late_digests,
        };
        let inner = Arc::new(inner);
        tokio::spawn(yielding::run(Arc::downgrade(&inner), timing));
        Ok(Self { inner })
    }

    /// Has a command committed and applied, if this member leads.
    pub async fn propose(&self, command: TimedCommand) -> Result<CommandOutcome, ProposeError> {
        if self.is_leader() {
            if !self.inner.gate.leads(self.inner.timing.write_gate) {
                return Err(ProposeError::Unavailable);
            }
            self.check_clock()?;
        }
        let written = timeout(PROPOSAL_TIMEOUT, self.inner.raft.client_write(command)).await;
        match written.map_err(|_| ProposeError::Unavailable)? {
            Ok(written) => Ok(written.data),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to))) => Err(self.not_leader(&to)),
            Err(RaftError::APIError(other)) => Err(ProposeError::Stopped(other.to_string())),
            Err(RaftError::Fatal(fatal)) => Err(ProposeError::Stopped(fatal.to_string())),
        }
    }

    /// On the leader: confirms with a majority that it still leads, and waits until everything committed before
    /// is applied here. Gives the index up to which reads are then current; another member that has
    /// [waited](Self::wait_applied) for it answers as currently.
    pub async fn ensure_linearizable(&self) -> Result<u64, ProposeError> {
        let ensured = timeout(PROPOSAL_TIMEOUT, self.inner.raft.ensure_linearizable()).await;
        match ensured.map_err(|_| ProposeError::Unavailable)? {
            Ok(read) => Ok(read.map_or(0, |log_id| log_id.index)),
            Err(RaftError::APIError(CheckIsLeaderError::ForwardToLeader(to))) => Err(self.not_leader(&to)),
            Err(RaftError::APIError(CheckIsLeaderError::QuorumNotEnough(_))) => {
                Err(ProposeError::Unavailable)
            }
            Err(RaftError::Fatal(fatal)) => Err(ProposeError::Stopped(fatal.to_string())),
        }
    }

    /// Waits until the entry at `index` is applied here, at most `within`.
    pub async fn wait_applied(&self, index: u64, within: Duration) -> Result<(), ProposeError> {
        let wait = self.inner.raft.wait(Some(within));
        match wait.applied_index_at_least(Some(index), "entry applied").await {
            Ok(_) => Ok(()),
            Err(WaitError::Timeout(..)) => Err(ProposeError::Unavailable),
            Err(WaitError::ShuttingDown) => Err(ProposeError::Stopped("it is shutting down".into())),
        }
    }

    /// The answer to a `CoordinatorRequest::Raft` that came by a connection of `peer`: the content of a
    /// `CoordinatorReply::Raft`. The caller bounds the message to `COMMIT_BYTES_MAX`, for entries carry commits.
    pub async fn handle_raft(&self, peer: PublicKey, message: &[u8]) -> Vec<u8> {
        self.inner.inbound.handle(&self.inner.raft, peer, message).await
    }

    /// Who leads, if this member knows.
    pub fn leader(&self) -> Option<NodeId> {
        self.status().leader
    }

    /// Whether this member leads, as far as it knows.
    pub fn is_leader(&self) -> bool {
        self.inner.raft.metrics().borrow().state.is_leader()
    }

    /// For how long this member has not known whether it has all that is committed: since its leader or a majority was
    /// heard, and all applied that they had.
    pub fn age(&self) -> Duration {
        self.inner.freshness.age()
    }

    /// The [age](Self::age) where it is more than an election lets expect, or nobody was heard yet.
    pub fn stale(&self) -> Option<Duration> {
        self.inner.freshness.stale(self.inner.timing.stale_after())
    }

    /// Whether this member leads, a majority answered it a moment ago, and its clock agrees with a majority's.
    pub fn may_write(&self) -> bool {
        self.inner.gate.leads(self.inner.timing.write_gate) && self.check_clock().is_ok()
    }

    /// Refuses to propose with a clock that does not agree with those of a majority. Only what a leader has just heard
    /// counts for it, and that is as much as it has to have heard in order to write at all.
    pub(crate) fn check_clock(&self) -> Result<(), ClockRefusal> {
        self.inner.clocks.look_at_late(self.inner.timing.write_gate).check()
    }

    /// What this member knows of all clocks at this moment.
    pub fn clocks(&self) -> Clocks {
        self.inner.clocks.look()
    }

    /// Another member has just answered a question of the moment `asked`: its clock shows `said`.
    pub(crate) fn note_clock(&self, id: NodeId, asked: Instant, said: Timestamp) {
        self.inner.clocks.note(id, asked, said);
    }

    /// Lets this member ask for votes, or not.
    pub(crate) fn let_stand(&self, stands: bool) {
        self.inner.raft.runtime_config().elect(stands);
    }

    /// The term: the epoch of orders.
    pub fn term(&self) -> u64 {
        self.inner.raft.metrics().borrow().current_term
    }

    /// Index of the last applied entry; 0 before the first.
    pub fn applied(&self) -> u64 {
        self.status().applied
    }

    /// How the consensus stands.
    pub fn status(&self) -> ConsensusStatus {
        self.watch().status()
    }

    /// Tells of changes.
    pub fn watch(&self) -> ConsensusWatch {
        ConsensusWatch {
            metrics: self.inner.raft.metrics(),
            raft_id: self.inner.raft_id,
            members: self.inner.members.clone(),
            stores: [&self.inner.log, &self.inner.state].map(Arc::downgrade),
        }
    }

    /// The state for reading.
    pub fn facts(&self) -> StateFacts {
        self.inner.facts.clone()
    }

    /// The store of the state, for whoever makes a backup of it.
    pub(crate) fn state(&self) -> Arc<dyn KeyValue> {
        Arc::clone(&self.inner.state)
    }

    /// What was applied here lately.
    pub(crate) fn applied_changes(&self) -> &AppliedChanges {
        &self.inner.applied_changes
    }

    /// Digests of the state at late positions, oldest first: to be compared with those of other members.
    pub fn late_digests(&self) -> Vec<StateDigests> {
        self.inner.late_digests.all()
    }

    /// Ends this member. What it acknowledged is on disk before and after.
    pub async fn shutdown(&self) {
        if let Err(error) = self.inner.raft.shutdown().await {
            tracing::error!(%error, "the consensus did not end cleanly");
        }
    }

    fn not_leader(&self, to: &ForwardToLeader<u64, Member>) -> ProposeError {
        let leader = to.leader_id.and_then(|number| self.inner.members.get(number));
        ProposeError::NotLeader { leader: leader.map(|member| member.id) }
    }
}

impl ConsensusWatch {
    /// How the consensus stands.
    pub fn status(&self) -> ConsensusStatus {
        let metrics = self.metrics.borrow();
        let leader = metrics.current_leader.and_then(|number| self.members.get(number));
        ConsensusStatus {
            term: metrics.current_term,
            leader: leader.map(|member| member.id),
            is_leader: metrics.state.is_leader(),
            applied: metrics.last_applied.map_or(0, |log_id| log_id.index),
            last_entry: metrics.last_log_index.unwrap_or(0),
            trimmed: metrics.purged.map_or(0, |log_id| log_id.index),
            failure: match self.members.is_removed() {
                true => Some(REMOVED_SENTENCE.to_owned()),
                false => metrics.running_state.as_ref().err().map(|error| self.why(error)),
            },
        }
    }

    /// Why the library has stopped. What fails next because a store failed may be what it says first.
    fn why(&self, error: &impl ToString) -> String {
        let failed = self.stores.iter().find_map(|store| store.upgrade()?.failure());
        failed.map_or_else(|| error.to_string(), |failed| failed.to_string())
    }

    /// This member's number.
    pub const fn raft_id(&self) -> u64 {
        self.raft_id
    }

    /// Waits for a change since the last call. Gives false once the member is gone: there will be none.
    pub async fn changed(&mut self) -> bool {
        self.metrics.changed().await.is_ok()
    }

    /// Waits until `condition` holds. Gives false once the member is gone.
    pub async fn wait_for(&mut self, mut condition: impl FnMut(&ConsensusStatus) -> bool) -> bool {
        loop {
            if condition(&self.status()) {
                return true;
            }
            if !self.changed().await {
                return false;
            }
        }
    }
}

impl std::fmt::Debug for Consensus {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Consensus").field("raft_id", &self.inner.raft_id).finish_non_exhaustive()
    }
}
