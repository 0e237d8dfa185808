//! A running coordinator.
//!
//! Owns: starting its parts in order and ending them. Always holds: it answers nobody before its stores are
//! open and its archive is known. Leaves to others: arguments and signals (`main`).

use std::sync::Arc;
use std::time::Duration;

use firn_base::{DiskWindows, NodeId, PublicKey};
use firn_coordinator_logic::{AddressTable, Counters, Facts, Scan, member_number};
use firn_transport::{BoxFuture, ConnectionPool, Endpoint, Environment, serve};
use firn_wire::{
    AdminReply, AdminRequest, ArchiveStatus, CoordinatorReply, CoordinatorRequest, Descriptor, FeedBatch,
    FilterEntry, Identity, LedgerAct, MemberChange, Policy, RefusalKind, RefusedRequest, RejectReason,
};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::clock_watch;
use crate::consensus::{Consensus, ConsensusOptions, ConsensusStatus, StartError};
use crate::filters::{self, FilterOptions};
use crate::ledger_heads::{self, LedgerHeads};
use crate::member_watch;
use crate::raft::Timing;
use crate::rebuild::RebuildOptions;
use crate::serve::{Asker, Service};
use crate::shared::{Parts, Shared, disk, named_members};
use crate::standing::{InForce, Standing, StandingError};
use crate::storage::{KeyValue, StorageError};
use crate::{comparison, driver};

/// What a coordinator is made of.
#[derive(Debug)]
pub struct CoordinatorOptions {
    /// Who it is.
    pub identity: Identity,
    /// The archive. If a newer roster was taken before, that one counts.
    pub descriptor: Descriptor,
    /// The entry of the log that made it a member, where it has just learnt of that; none for a founder, and where it
    /// took part before.
    pub named_since: Option<u64>,
    /// The socket it listens on, bound with the same identity.
    pub endpoint: Endpoint,
    /// The store of the log.
    pub log: Arc<dyn KeyValue>,
    /// The store of the state.
    pub state: Arc<dyn KeyValue>,
    /// Whether it founds the archive, and with which policy.
    pub founding: Option<Policy>,
    /// How patient the consensus is.
    pub timing: Timing,
    /// Bundles are re-coded for a larger k once the fleet was wide enough for it this long; see [`RECODE_AFTER`].
    pub recode_after: Duration,
    /// Shards of a bundle in whose place others are stay for readers this long; see [`ERASE_AFTER`].
    pub erase_after: Duration,
    /// In which windows of a day shards are moved, and repairs made that are not urgent; none: always.
    pub disk_windows: Option<DiskWindows>,
    /// Which network and country addresses are of; without it only operators and address prefixes keep shards apart in
    /// a `public` archive.
    pub address_table: Option<AddressTable>,
    /// Where filters over the feed are kept.
    pub filters: FilterOptions,
    /// What is at hand for a rebuild, if one is under way.
    pub rebuild: RebuildOptions,
    /// Clock, chance and threads.
    pub environment: Environment,
}

/// How long a fleet is as wide as a k asks for before bundles are re-coded for that, if nothing else is said: a fleet
/// that grows passes through one k in little more than that, one that flaps moves nothing.
pub const RECODE_AFTER: Duration = Duration::from_secs(3600);

/// How long shards of a replaced bundle stay, if nothing else is said: directories believe what they know for two minutes,
/// a NAR that is being read is done by then.
pub const ERASE_AFTER: Duration = Duration::from_secs(600);

/// A running coordinator. Dropping it stops it at once; what it acknowledged is on disk.
#[derive(Debug)]
pub struct Coordinator {
    service: Arc<Service>,
    endpoint: Endpoint,
    tasks: JoinSet<()>,
}

/// Why a coordinator did not start.
#[derive(Debug, thiserror::Error)]
pub enum CoordinatorError {
    /// The descriptor is not signed by its archive, or this coordinator was removed from it.
    #[error(transparent)]
    Standing(#[from] StandingError),
    /// The consensus did not start.
    #[error(transparent)]
    Consensus(#[from] StartError),
}

impl Coordinator {
    /// Starts a coordinator.
    pub fn start(options: CoordinatorOptions) -> BoxFuture<'static, Result<Self, CoordinatorError>> {
        Box::pin(Self::started(options))
    }

    async fn started(options: CoordinatorOptions) -> Result<Self, CoordinatorError> {
        let CoordinatorOptions {
            identity,
            descriptor,
            named_since,
            endpoint,
            log,
            state,
            founding,
            timing,
            recode_after,
            erase_after,
            disk_windows,
            address_table,
            filters,
            rebuild,
            environment,
        } = options;
        let standing = {
            let (log, inner) = (Arc::clone(&log), environment.clone());
            environment.blocking(move || Standing::open(log, inner, descriptor, named_since)).await?
        };
        let ledger_heads = {
            let (log, inner) = (Arc::clone(&log), environment.clone());
            environment.blocking(move || LedgerHeads::open(log, inner)).await.map_err(StartError::from)?
        };
        let in_force = standing.in_force();
        let own = identity.node_id();
        if in_force.roster.has_retired(own) {
            return Err(StandingError::Removed.into());
        }
        // One that the roster does not name yet was told so by the members, see `named_since`.
        let raft_id = in_force.roster.entry(own).map_or_else(|| member_number(own), |entry| entry.raft_id);
        let entries = &in_force.roster.roster().coordinators;
        let members =
            entries.iter().map(|entry| (entry.raft_id, (entry.id, entry.address.clone()))).collect();
        let pool = ConnectionPool::new(endpoint.clone());
        let bootstrap = founding.is_some();
        let evidence = rebuild.evidence.clone();
        // Of a rebuild that this process does not know of: nodes show everything again.
        environment.blocking(move || evidence.clear()).await.map_err(StartError::from)?;
        let consensus = Consensus::start(ConsensusOptions {
            raft_id,
            members,
            bootstrap,
            log,
            state,
            environment: environment.clone(),
            pool: pool.clone(),
            timing,
        })
        .await?;
        consensus.rename(named_members(in_force.roster.roster()));
        let shared = Shared::new(Parts {
            identity,
            standing,
            ledger_heads,
            consensus,
            environment,
            pool,
            recode_after,
            erase_after,
            disk_windows,
            address_table,
            filters,
            rebuild,
        });
        let service = Arc::new(Service { shared: shared.clone() });
        let mut tasks = JoinSet::new();
        let (serving, handler) = (endpoint.clone(), service.clone());
        tasks.spawn(async move { serve(&serving, handler).await });
        tasks.spawn(clock_watch::run(Arc::clone(&shared)));
        tasks.spawn(comparison::run(Arc::clone(&shared)));
        tasks.spawn(driver::run(shared.clone()));
        tasks.spawn(filters::run(Arc::clone(&shared)));
        tasks.spawn(ledger_heads::run(Arc::clone(&shared)));
        tasks.spawn(member_watch::run(shared));
        if let Some(policy) = founding {
            let service = service.clone();
            tasks.spawn(async move { settle_policy(&service, policy).await });
        }
        Ok(Self { service, endpoint, tasks })
    }

    /// Who it is.
    pub fn id(&self) -> NodeId {
        self.service.shared.identity.node_id()
    }

    /// The archive, with the roster in force.
    pub fn descriptor(&self) -> Descriptor {
        self.service.shared.standing.in_force().descriptor.clone()
    }

    /// Tells of newer rosters.
    pub fn watch_descriptor(&self) -> DescriptorWatch {
        DescriptorWatch { rosters: self.service.shared.standing.watch() }
    }

    /// Its member of the consensus.
    pub fn consensus(&self) -> &Consensus {
        &self.service.shared.consensus
    }

    /// A handle for administration from this machine.
    pub fn administration(&self) -> Administration {
        Administration { service: self.service.clone() }
    }

    /// Ends it cleanly: peers learn at once.
    pub async fn shutdown(mut self) {
        self.service.shared.consensus.shutdown().await;
        self.tasks.shutdown().await;
        self.endpoint.close().await;
    }
}

/// Tells of newer rosters, for whoever keeps a copy of the descriptor.
#[derive(Debug)]
pub struct DescriptorWatch {
    rosters: watch::Receiver<Arc<InForce>>,
}

impl DescriptorWatch {
    /// Waits for the next one. None once the coordinator is gone.
    pub async fn next(&mut self) -> Option<Descriptor> {
        self.rosters.changed().await.ok()?;
        Some(self.rosters.borrow_and_update().descriptor.clone())
    }
}

/// Administration of an archive through one of its coordinators, by whoever owns its machine.
#[derive(Debug, Clone)]
pub struct Administration {
    service: Arc<Service>,
}

impl Administration {
    /// Carries out one act; it is forwarded to the leader where that is another coordinator.
    pub async fn administer(&self, request: AdminRequest) -> Result<AdminReply, RefusedRequest> {
        self.service.administer(request).await
    }

    /// The archive at a glance, as the leader sees it, or as this coordinator does while there is none.
    pub async fn status(&self) -> Result<ArchiveStatus, RefusedRequest> {
        match self.ask(CoordinatorRequest::Status).await {
            CoordinatorReply::Status(status) => Ok(*status),
            CoordinatorReply::Refused(refusal) => Err(refusal),
            _ => Err(RefusedRequest::new(RefusalKind::Malformed, "the answer does not fit the question")),
        }
    }

    /// Asks for the vote of this coordinator, which was taken back without one, until it has it.
    pub async fn regain_vote(&self) {
        const PAUSE: Duration = Duration::from_secs(1);
        let own = self.service.shared.identity.node_id();
        loop {
            // As the leader says, never as this coordinator knows it: what it has caught up with so far may tell of a time when
            // it had its vote.
            let asker = Asker { key: self.service.shared.identity.public(), seen_at: None };
            let asked = self.service.forward(asker, CoordinatorRequest::Admin(AdminRequest::Members)).await;
            if let Ok(CoordinatorReply::Admin(AdminReply::Members(list))) = asked
                && list.members.iter().any(|member| member.id == own && member.votes)
            {
                return;
            }
            let change = AdminRequest::ChangeMember(MemberChange::Promote { id: own });
            // As a rule it has not caught up yet; the leader says when it has.
            if let Err(refused) = self.service.administer(change).await {
                tracing::debug!(%refused, "this coordinator has no vote yet");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The answer to any request, asked as this coordinator itself.
    pub async fn ask(&self, request: CoordinatorRequest) -> CoordinatorReply {
        let own: PublicKey = self.service.shared.identity.public();
        self.service.answer(own, None, request).await
    }

    /// At most `limit` events of the feed from a position on, as this coordinator has applied them, and for how long it has
    /// not known whether there are more, if it does not.
    pub(crate) async fn feed(
        &self,
        from: u64,
        limit: usize,
    ) -> Result<(FeedBatch, Option<Duration>), RefusedRequest> {
        // Before the events are read: what comes meanwhile makes them no older.
        let stale = self.service.shared.consensus.stale();
        let facts = self.service.shared.facts()?;
        let read = move || -> Result<FeedBatch, StorageError> {
            let head = facts.counters()?.feed_head;
            let most = usize::try_from(head.saturating_sub(from)).unwrap_or(usize::MAX);
            Ok(FeedBatch { first: from, events: facts.feed_from(from, limit.min(most))?, head })
        };
        let batch = self.service.shared.environment.blocking(read).await.map_err(|error| disk(&error))?;
        Ok((batch, stale))
    }

    /// How the consensus stands, as this coordinator sees it.
    pub(crate) fn consensus_status(&self) -> ConsensusStatus {
        self.service.shared.consensus.status()
    }

    /// For how long this coordinator has not known whether it has all that is committed.
    pub(crate) fn age(&self) -> Duration {
        self.service.shared.consensus.age()
    }

    /// The counters of this coordinator's state.
    pub(crate) fn counters(&self) -> Result<Counters, RefusedRequest> {
        self.service.shared.facts()?.counters().map_err(|error| disk(&error))
    }

    /// Bytes that log and state take on disk.
    pub(crate) async fn disk_bytes(&self) -> Result<(u64, u64), RefusedRequest> {
        let shared = Arc::clone(&self.service.shared);
        let read = move || -> Result<(u64, u64), StorageError> {
            Ok((shared.standing.log_bytes()?, shared.consensus.state().disk_bytes()?))
        };
        self.service.shared.environment.blocking(read).await.map_err(|error| disk(&error))
    }

    /// The filters over the feed that this coordinator serves.
    pub(crate) fn filters(&self) -> Arc<[FilterEntry]> {
        self.service.shared.filters.served()
    }

    /// Whether this coordinator takes part: it has not stopped, its clock is not wrong, it knows a leader, and the
    /// archive is not being rebuilt, for meanwhile no question about contents is answered. If not, the error says which
    /// in one sentence.
    pub fn readiness(&self) -> Result<(), String> {
        let status = self.service.shared.consensus.status();
        if let Some(failure) = status.failure {
            return Err(format!("stopped: {failure}"));
        }
        self.service.shared.trusted_now().map_err(|refusal| refusal.sentence)?;
        status.leader.ok_or_else(|| "the coordinators have no leader now".to_owned())?;
        match self.service.shared.is_rebuilding().map_err(|refusal| refusal.sentence)? {
            true => Err(RejectReason::Rebuilding.to_string()),
            false => Ok(()),
        }
    }

    /// Whether the clock of this coordinator is wrong, so that it does not lead.
    pub(crate) fn is_clock_wrong(&self) -> bool {
        self.service.shared.trusted_now().is_err()
    }

    /// Whether this coordinator leads.
    pub fn leads(&self) -> bool {
        self.service.shared.consensus.is_leader()
    }

    /// Why this coordinator has stopped; none while it runs.
    pub fn failure(&self) -> Option<String> {
        self.service.shared.consensus.status().failure
    }

    /// The descriptor, for those who ask by HTTP.
    pub fn descriptor(&self) -> Descriptor {
        self.service.shared.standing.in_force().descriptor.clone()
    }
}

/// Puts the founder's policy at the head of a new ledger.
async fn settle_policy(service: &Service, policy: Policy) {
    const PAUSE: Duration = Duration::from_millis(200);
    loop {
        if service.shared.facts().is_ok_and(|facts| facts.policy().is_ok_and(|known| known.is_some())) {
            return;
        }
        let act = LedgerAct::SetPolicy(policy.clone());
        if service.administer(AdminRequest::Govern(act)).await.is_ok() {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}
