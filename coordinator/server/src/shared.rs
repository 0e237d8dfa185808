//! What the parts of a running coordinator share.
//!
//! Owns: the handles, the soft state behind one lock, the cached reading of the ledger. Always holds: no lock
//! is held over an await. Leaves to others: answering (`serve`), leading (`driver`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use firn_base::{ArchiveId, DiskWindows, NodeId, PublicKey, Timestamp};
use firn_coordinator_logic::{
    AddressTable, BrakeFacts, ClockRefusal, ClockStanding, FleetView, FleetWatch, GoingContent, HearingFacts,
    LevelRefusal, LossWatch, NodeNumber, Orders, PlanningView, Refusals, RefusedSteps, ReportBook, Reserve,
    Scan, SteadyWidth, Voices, WidthMemory, brake, check_level, is_still_hearing,
};
use firn_transport::{ConnectionPool, Environment};
use firn_wire::{
    Actor, Command, CommandOutcome, CoordinatorEntry, Descriptor, Identity, LedgerHead, LedgerState,
    OrderRank, Pass, PassPurpose, RefusalKind, RefusedRequest, RejectReason, Roster, Signed, TimedCommand,
};

use crate::comparison;
use crate::consensus::{Consensus, ProposeError};
use crate::filters::{FilterOptions, Filters};
use crate::ledger_heads::LedgerHeads;
use crate::links::Links;
use crate::picture::Picture;
use crate::raft::{Member, NamedMembers, StateFacts};
use crate::rebuild::{Rebuild, RebuildOptions};
use crate::standing::{Standing, StandingError};
use crate::storage::StorageError;

/// How long a pass is good for.
const PASS_VALID: Duration = Duration::from_secs(24 * 3600);

/// Everything that a running coordinator's parts share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) identity: Identity,
    pub(crate) archive: ArchiveId,
    pub(crate) standing: Standing,
    pub(crate) ledger_heads: LedgerHeads,
    pub(crate) consensus: Consensus,
    pub(crate) environment: Environment,
    pub(crate) pool: ConnectionPool,
    pub(crate) links: Links,
    /// Which network and country addresses are of, if this coordinator was given a table.
    pub(crate) address_table: Option<AddressTable>,
    pub(crate) filters: Filters,
    /// How long shards of a bundle in whose place others are stay for readers who know of it only.
    pub(crate) erase_after: Duration,
    pub(crate) disk_windows: Option<DiskWindows>,
    soft: Mutex<Soft>,
    governance: Mutex<Option<(LedgerHead, Arc<LedgerState>)>>,
    going: Mutex<Option<(LedgerHead, Arc<GoingContent>)>>,
    picture: Mutex<Option<Picture>>,
    /// What nodes show while the archive is rebuilt.
    pub(crate) rebuild: Rebuild,
}

/// What is heard and under way; lost with the process and rebuilt from heartbeats.
#[derive(Debug)]
pub(crate) struct Soft {
    pub(crate) fleet: FleetWatch,
    /// Which process is heard as each node.
    pub(crate) voices: Voices,
    pub(crate) orders: Orders,
    losses: LossWatch,
    pub(crate) width: WidthMemory,
    /// What bundles are re-coded for.
    pub(crate) steady_width: SteadyWidth,
    /// When this coordinator last became leader; none while it follows.
    pub(crate) leading_since: Option<Timestamp>,
    /// What the last planning pass found; none from a follower.
    pub(crate) findings: Option<Findings>,
    /// Coordinators whose states were found to differ from this one's.
    pub(crate) differing: BTreeMap<NodeId, firn_wire::StateDifference>,
    /// The level of commands that each other coordinator knows, as it said when it was asked last; none if it did not.
    pub(crate) levels: BTreeMap<NodeId, Option<u16>>,
    /// Bytes that repairs, moves and re-coding read and sent since this leader began.
    pub(crate) repair_traffic_bytes: u64,
    /// What operators were refused of late.
    pub(crate) refusals: Refusals,
    /// Steps of purges that were refused to this leader.
    pub(crate) refused_steps: RefusedSteps,
    /// When nodes were looked at because of what readers said.
    pub(crate) reports: ReportBook,
}

/// What a planning pass measured.
#[derive(Debug, Clone, Default)]
pub(crate) struct Findings {
    pub(crate) health: firn_wire::BundleHealthCounts,
    pub(crate) by_spare: Vec<firn_wire::SpareCount>,
    pub(crate) repair_backlog: u64,
    pub(crate) move_backlog: u64,
    /// Bytes of shards that need room which nothing has set aside yet.
    pub(crate) awaited_bytes: u64,
    pub(crate) drains: BTreeMap<NodeNumber, firn_wire::DrainBacklog>,
    pub(crate) recoding: firn_wire::RecodeProgress,
    pub(crate) caps: Option<firn_wire::CapsStatus>,
}

/// The parts of a [`Shared`] that exist before it.
pub(crate) struct Parts {
    pub(crate) identity: Identity,
    pub(crate) standing: Standing,
    pub(crate) ledger_heads: LedgerHeads,
    pub(crate) consensus: Consensus,
    pub(crate) environment: Environment,
    pub(crate) pool: ConnectionPool,
    pub(crate) recode_after: Duration,
    pub(crate) erase_after: Duration,
    pub(crate) disk_windows: Option<DiskWindows>,
    pub(crate) address_table: Option<AddressTable>,
    pub(crate) filters: FilterOptions,
    pub(crate) rebuild: RebuildOptions,
}

impl Shared {
    pub(crate) fn new(parts: Parts) -> Arc<Self> {
        let Parts {
            identity,
            standing,
            ledger_heads,
            consensus,
            environment,
            pool,
            recode_after,
            address_table,
            erase_after,
            disk_windows,
            filters,
            rebuild,
        } = parts;
        let soft = Soft {
            fleet: FleetWatch::new(environment.now()),
            voices: Voices::default(),
            orders: Orders::new(),
            losses: LossWatch::new(),
            width: WidthMemory::new(),
            steady_width: SteadyWidth::new(recode_after),
            leading_since: None,
            findings: None,
            differing: BTreeMap::new(),
            levels: BTreeMap::new(),
            repair_traffic_bytes: 0,
            refusals: Refusals::new(),
            refused_steps: RefusedSteps::default(),
            reports: ReportBook::default(),
        };
        Arc::new(Self {
            archive: standing.in_force().descriptor.archive,
            identity,
            standing,
            ledger_heads,
            consensus,
            environment,
            pool,
            links: Links::default(),
            address_table,
            filters: Filters::new(filters),
            erase_after,
            disk_windows,
            soft: Mutex::new(soft),
            governance: Mutex::default(),
            going: Mutex::default(),
            picture: Mutex::default(),
            rebuild: Rebuild::new(rebuild),
        })
    }

    pub(crate) fn soft(&self) -> MutexGuard<'_, Soft> {
        self.soft.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The applied state at this moment.
    pub(crate) fn facts(&self) -> Result<StateFacts, RefusedRequest> {
        self.check_running().map(|()| self.consensus.facts())
    }

    /// Refuses what a replica cannot answer that stopped: its state may be behind for good, others answer better.
    fn check_running(&self) -> Result<(), RefusedRequest> {
        match self.consensus.status().failure {
            None => Ok(()),
            Some(failure) => Err(RefusedRequest::new(
                RefusalKind::Disk,
                format!("this coordinator has stopped, another may answer: {failure}"),
            )),
        }
    }

    /// Who may do what, as of the applied ledger.
    pub(crate) fn governance(&self, facts: &StateFacts) -> Result<Arc<LedgerState>, RefusedRequest> {
        use firn_coordinator_logic::Facts;
        let head = facts.counters().map_err(|error| disk(&error))?.ledger;
        let mut cached = self.governance.lock().unwrap_or_else(PoisonError::into_inner);
        match cached.as_ref() {
            Some((known, state)) if *known == head => Ok(state.clone()),
            _ => {
                let state = Arc::new(facts.ledger_state().map_err(|error| disk(&error))?);
                *cached = Some((head, state.clone()));
                Ok(state)
            }
        }
    }

    /// What nothing may come to depend on, as of the applied ledger. Reads all withdrawals when that has changed: blocks.
    pub(crate) fn going(&self, facts: &StateFacts) -> Result<Arc<GoingContent>, StorageError> {
        use firn_coordinator_logic::Facts;
        let head = facts.counters()?.ledger;
        let known = self.going.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((_, going)) = known.filter(|(known, _)| *known == head) {
            return Ok(going);
        }
        let going = Arc::new(GoingContent::read(facts)?);
        *self.going.lock().unwrap_or_else(PoisonError::into_inner) = Some((head, Arc::clone(&going)));
        Ok(going)
    }

    /// Whether nothing is to be done for purges, or waited for, as of the last look at the archive.
    pub(crate) fn is_purged(&self) -> bool {
        let picture = self.picture.lock().unwrap_or_else(PoisonError::into_inner);
        picture.as_ref().is_some_and(|picture| picture.catalogue.is_purged())
    }

    /// Forgets the picture of the archive: the next look begins anew.
    pub(crate) fn forget_picture(&self) {
        *self.picture.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Forgets what was heard of nodes, and when: the clock was wrong meanwhile. What nodes say next is taken as if this
    /// coordinator had just begun.
    pub(crate) fn listen_anew(&self) {
        let now = self.environment.now();
        {
            let mut soft = self.soft();
            soft.fleet = FleetWatch::new(now);
            soft.losses = LossWatch::new();
            soft.findings = None;
            soft.refused_steps = RefusedSteps::default();
            // Most nodes are yet to be heard, as by a leader that is new.
            soft.leading_since = soft.leading_since.map(|_| now);
        }
        self.forget_picture();
    }

    /// The own clock, for what is promised until some time; refused while it is known to be wrong.
    pub(crate) fn trusted_now(&self) -> Result<Timestamp, RefusedRequest> {
        let now = self.environment.now();
        let clocks = self.consensus.clocks();
        match clocks.standing() {
            ClockStanding::Differs => clocks.check().map(|()| now).map_err(|refusal| wrong_clock(&refusal)),
            // Readers must not wait for a majority.
            ClockStanding::Agrees | ClockStanding::Unknown => Ok(now),
        }
    }

    /// Refuses to plan with a clock that does not agree with a majority's.
    pub(crate) fn check_clock(&self) -> Result<(), RefusedRequest> {
        self.consensus.check_clock().map_err(|refusal| wrong_clock(&refusal))
    }

    /// Shows `work` the archive at this moment. The soft state is not locked meanwhile: heartbeats go on.
    pub(crate) fn with_view<T>(
        &self,
        work: impl FnOnce(&PlanningView<'_>) -> T,
    ) -> Result<T, RefusedRequest> {
        self.check_running()?;
        let now = self.environment.now();
        let mut slot = self.picture.lock().unwrap_or_else(PoisonError::into_inner);
        let picture = match slot.as_mut() {
            Some(picture) => {
                picture.refresh(&self.consensus, now).map_err(|error| disk(&error))?;
                picture
            }
            None => slot.insert(Picture::load(&self.consensus, now).map_err(|error| disk(&error))?),
        };
        let (fleet, orders, leader_since, losses_settled_at) = {
            let mut soft = self.soft();
            let fleet = FleetView::new(&picture.catalogue, &soft.fleet, &soft.orders, now);
            soft.losses.observe(&fleet, now);
            let leader_since = soft.leading_since.unwrap_or(now);
            (fleet, soft.orders.clone(), leader_since, soft.losses.settled_at())
        };
        picture.judge(&fleet, now);
        let (members, members_online, capacity) = fleet.members();
        let brake = brake(&BrakeFacts {
            now,
            leader_since,
            enabled: picture.catalogue.policy().brake,
            members,
            members_online,
            capacity,
            departures: fleet.departures(now),
            losses_settled_at,
            disk_windows: self.disk_windows,
        });
        let (catalogue, health) = (&picture.catalogue, &picture.health);
        Ok(work(&PlanningView { catalogue, fleet: &fleet, health, orders: &orders, brake, now }))
    }

    /// Whether the archive is being rebuilt: then nothing is planned, and nothing deleted.
    pub(crate) fn is_rebuilding(&self) -> Result<bool, RefusedRequest> {
        use firn_coordinator_logic::Facts;
        self.facts()?.counters().map(|counters| counters.rebuilding).map_err(|error| disk(&error))
    }

    /// Whether this leader has yet to hear most nodes.
    pub(crate) fn is_still_hearing(&self) -> Result<bool, RefusedRequest> {
        let leader_since = self.soft().leading_since;
        self.with_view(|view| {
            let (members, members_online, _) = view.fleet.members();
            is_still_hearing(&HearingFacts { now: view.now, leader_since, members, members_online })
        })
    }

    /// How much room is kept for repairs; none before this leader has measured what repair has to do, and from a
    /// follower.
    pub(crate) fn reserve(&self) -> Result<Option<Reserve>, RefusedRequest> {
        let awaited = self.soft().findings.as_ref().map(|findings| findings.awaited_bytes);
        awaited.map(|bytes| self.with_view(|view| Reserve::measure(view, bytes))).transpose()
    }

    /// Commits `command` with this moment's time, if all coordinators know such commands and this one's clock is right. A
    /// rejection is an outcome, not an error.
    pub(crate) async fn propose(&self, command: Command) -> Result<CommandOutcome, RefusedRequest> {
        self.propose_as(Actor::Coordinators, command).await
    }

    /// Commits `command`, for which `by` asked, with this moment's time, by the same rules. Where the others have not been
    /// asked which commands they know, as in an archive that is new, they are asked first.
    pub(crate) async fn propose_as(
        &self,
        by: Actor,
        command: Command,
    ) -> Result<CommandOutcome, RefusedRequest> {
        self.settle_level(&command).await?;
        self.propose_known(by, command).await
    }

    /// Commits `command`, for which `by` asked, with this moment's time: all coordinators are known to know it.
    pub(crate) async fn propose_known(
        &self,
        by: Actor,
        command: Command,
    ) -> Result<CommandOutcome, RefusedRequest> {
        let timed = TimedCommand { at: self.environment.now(), by, command };
        self.consensus.propose(timed).await.map_err(|error| refused(&error))
    }

    /// Refuses a command that not all coordinators know. Where they have agreed on less, and nobody is known to keep them from
    /// more, they are asked first.
    pub(crate) async fn settle_level(&self, command: &Command) -> Result<(), RefusedRequest> {
        let waits_for_nobody = self.level_refusal(command)?.is_some_and(|refusal| refusal.waits_for_nobody());
        if waits_for_nobody && self.consensus.is_leader() {
            // On the heap: the compiler bounds how deep futures lie in each other.
            Box::pin(comparison::compare(self)).await;
        }
        match self.level_refusal(command)? {
            None => Ok(()),
            Some(refusal) => Err(RefusedRequest::new(RefusalKind::Unavailable, refusal.to_string())),
        }
    }

    /// Why `command` is not to be proposed yet, if not all coordinators are known to know it.
    pub(crate) fn level_refusal(&self, command: &Command) -> Result<Option<LevelRefusal>, RefusedRequest> {
        use firn_coordinator_logic::Facts;
        let committed = self.facts()?.counters().map_err(|error| disk(&error))?.feature_level;
        Ok(check_level(command, committed, &self.soft().levels).err())
    }

    /// Commits `command` if it can be done now: nothing depends on it.
    pub(crate) async fn hint(&self, command: Command) {
        if let Err(refusal) = self.propose(command).await {
            tracing::debug!(%refusal, "a hint was lost");
        }
    }

    /// Confirms with a majority that this coordinator leads, and that all committed before is applied here.
    pub(crate) async fn confirm_leadership(&self) -> Result<(), RefusedRequest> {
        self.consensus.ensure_linearizable().await.map(drop).map_err(|error| refused(&error))
    }

    /// Commits `command`; a rejection becomes a refusal of `kind`.
    pub(crate) async fn carry_out(
        &self,
        command: Command,
        kind: RefusalKind,
    ) -> Result<CommandOutcome, RefusedRequest> {
        self.carry_out_as(Actor::Coordinators, command, kind).await
    }

    /// Commits `command`, for which `by` asked; a rejection becomes a refusal of `kind`.
    pub(crate) async fn carry_out_as(
        &self,
        by: Actor,
        command: Command,
        kind: RefusalKind,
    ) -> Result<CommandOutcome, RefusedRequest> {
        match self.propose_as(by, command).await? {
            CommandOutcome::Rejected(reason @ RejectReason::NeedsRole(_)) => {
                Err(not_allowed(reason.to_string()))
            }
            CommandOutcome::Rejected(reason) => Err(RefusedRequest::new(kind, reason.to_string())),
            outcome => Ok(outcome),
        }
    }

    /// The rank of orders that this leader signs now.
    pub(crate) fn rank(&self) -> OrderRank {
        OrderRank { generation: self.generation(), epoch: self.consensus.term() }
    }

    /// A pass for `reader`, good for 24 h.
    pub(crate) fn pass(
        &self,
        reader: PublicKey,
        purpose: PassPurpose,
    ) -> Result<Signed<Pass>, RefusedRequest> {
        let expires = self.trusted_now()?.after(PASS_VALID);
        Ok(Signed::seal(&self.identity, self.archive, &Pass { reader, expires, purpose }))
    }

    /// Generation of the roster in force.
    pub(crate) fn generation(&self) -> u64 {
        self.standing.in_force().roster.roster().generation
    }

    /// Takes a roster into force if it is newer. Says whether it was.
    pub(crate) async fn adopt_roster(&self, descriptor: Descriptor) -> Result<bool, StandingError> {
        let adopted = self.standing.adopt(descriptor).await?;
        if adopted {
            self.consensus.rename(named_members(self.standing.in_force().roster.roster()));
        }
        Ok(adopted)
    }

    /// Whether `key` is a coordinator: of the roster in force or of the consensus.
    pub(crate) fn is_coordinator(&self, key: PublicKey) -> bool {
        self.consensus.has_member(NodeId::from(key))
    }
}

/// What the consensus is told of `roster`.
pub(crate) fn named_members(roster: &Roster) -> NamedMembers {
    let entry =
        |entry: &CoordinatorEntry| (entry.raft_id, Member { id: entry.id, address: entry.address.clone() });
    NamedMembers {
        members: roster.coordinators.iter().map(entry).collect(),
        retired: roster.retired.iter().copied().collect(),
    }
}

fn refused(error: &ProposeError) -> RefusedRequest {
    let kind = match error {
        ProposeError::NotLeader { .. } | ProposeError::Clock(_) | ProposeError::Unavailable => {
            RefusalKind::Unavailable
        }
        ProposeError::Stopped(_) => RefusalKind::Disk,
    };
    RefusedRequest::new(kind, error.to_string())
}

fn wrong_clock(refusal: &ClockRefusal) -> RefusedRequest {
    RefusedRequest::new(RefusalKind::Unavailable, refusal.to_string())
}

/// A store that cannot be read or written, for those who ask.
pub(crate) fn disk(error: &StorageError) -> RefusedRequest {
    RefusedRequest::new(RefusalKind::Disk, format!("this coordinator's disk fails: {error}"))
}

/// A refusal of something wrong in itself.
pub(crate) fn malformed(sentence: impl Into<String>) -> RefusedRequest {
    RefusedRequest::new(RefusalKind::Malformed, sentence)
}

/// A refusal of something the asker has no right to.
pub(crate) fn not_allowed(sentence: impl Into<String>) -> RefusedRequest {
    RefusedRequest::new(RefusalKind::NotAllowed, sentence)
}
