//! The coordinators: who they are, changing them, and the rosters that name them.
//!
//! Always holds: a roster is in force for good once this says so, for more than half of the voters have it on disk.
//! Leaves to others: whether a change is safe (`coordinator/logic`).

use firn_base::{NodeId, PublicKey};
use firn_coordinator_logic::{
    MemberFacts, MemberPlan, MemberRefusal, check_next_roster, next_roster, plan_member_change, roster_gap,
};
use firn_wire::{
    Actor, AdminReply, AdminRequest, Command, CoordinatorEntry, CoordinatorReply, Descriptor, LedgerAct,
    MemberChange, MemberList, MemberStep, MembersInForce, RefusalKind, RefusedRequest, Roster, RosterGap,
};
use futures::future::join_all;

use crate::comparison;
use crate::consensus::{ChangeError, ProposeError};
use crate::member_watch::offer;
use crate::shared::{Shared, disk, malformed};
use crate::standing::StandingError;

#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error(transparent)]
    Refusal(#[from] MemberRefusal),
    #[error(transparent)]
    Change(#[from] ChangeError),
}

impl From<Refused> for RefusedRequest {
    fn from(refused: Refused) -> Self {
        let kind = match &refused {
            Refused::Refusal(_) => RefusalKind::Malformed,
            Refused::Change(ChangeError::Propose(ProposeError::Stopped(_))) => RefusalKind::Disk,
            Refused::Change(_) => RefusalKind::Unavailable,
        };
        Self::new(kind, refused.to_string())
    }
}

/// Changes who takes part.
pub(super) async fn change(
    shared: &Shared,
    by: Actor,
    change: &MemberChange,
) -> Result<AdminReply, RefusedRequest> {
    let in_force = shared.standing.in_force();
    let differing = differing(shared, change).await;
    let make = |members: &[MemberFacts]| {
        let facts =
            |member: &MemberFacts| MemberFacts { differs: differing == Some(member.id), ..member.clone() };
        let members: Vec<_> = members.iter().map(facts).collect();
        plan_member_change(&members, in_force.roster.roster(), change)
    };
    // What is refused anyhow is not entered; what is, is entered before: a leader that takes itself out cannot do it later.
    make(&shared.consensus.member_facts()).map_err(Refused::from)?;
    enter(shared, by, LedgerAct::ChangeMember(change.clone())).await?;
    let plan = shared.consensus.change_members(|members| make(members).map_err(Refused::from)).await?;
    let step = match (change, plan) {
        (_, MemberPlan::AddLearner { .. }) => MemberStep::Added,
        (MemberChange::Promote { .. }, _) => MemberStep::Promoted,
        (MemberChange::Replace { .. }, _) => MemberStep::Replaced,
        (MemberChange::Add { .. } | MemberChange::Remove { .. } | MemberChange::Readmit { .. }, _) => {
            MemberStep::Removed
        }
    };
    tracing::info!(?change, ?step, "the coordinators have changed");
    Ok(AdminReply::MemberChanged(step))
}

/// Whoever is to get a vote, if its state is not this one's at the same entry of the log. It has the log, and maybe made
/// something else of it: that would show only when it leads.
async fn differing(shared: &Shared, change: &MemberChange) -> Option<NodeId> {
    if !matches!(change, MemberChange::Promote { .. } | MemberChange::Replace { .. }) {
        return None;
    }
    let member = shared.consensus.member_facts().into_iter().find(|member| member.id == change.subject())?;
    comparison::differs(shared, member.id, &member.address).await.then_some(member.id)
}

/// Enters what is done in the ledger; not while that is restored, when nothing is added to it.
async fn enter(shared: &Shared, by: Actor, act: LedgerAct) -> Result<(), RefusedRequest> {
    if shared.is_rebuilding()? {
        return Ok(());
    }
    shared.carry_out_as(by, Command::Govern(act), RefusalKind::Malformed).await.map(drop)
}

/// Whether `client` may ask for this of the changes of coordinators: whoever asks to be taken back says by it that it is
/// silent otherwise, which nobody can say of another.
pub(super) fn may_ask(client: PublicKey, request: &AdminRequest) -> bool {
    match request {
        AdminRequest::ChangeMember(MemberChange::Readmit { id }) => NodeId::from(client) == *id,
        _ => true,
    }
}

/// The coordinators with what their roster lacks.
pub(super) fn list(shared: &Shared) -> MemberList {
    let (term, members) = (shared.consensus.term(), shared.consensus.members_status());
    MemberList { term, members, gap: gap(shared) }
}

/// What the roster in force lacks.
pub(super) fn gap(shared: &Shared) -> RosterGap {
    let members: Vec<NodeId> = shared.consensus.member_facts().into_iter().map(|member| member.id).collect();
    roster_gap(shared.standing.in_force().roster.roster(), &members)
}

/// Who takes part, for those who ask whether they do.
pub(super) fn in_force(shared: &Shared) -> Result<CoordinatorReply, RefusedRequest> {
    let (since, members) = shared.consensus.applied_members().map_err(|error| disk(&error))?;
    let generation = shared.standing.in_force().roster.roster().generation;
    Ok(CoordinatorReply::Members(MembersInForce { generation, since, members }))
}

/// The roster that names the members of this moment.
pub(super) fn draft(shared: &Shared) -> Roster {
    let members: Vec<_> = shared.consensus.member_facts().iter().map(entry).collect();
    next_roster(shared.standing.in_force().roster.roster(), &members, shared.environment.now())
}

fn entry(member: &MemberFacts) -> CoordinatorEntry {
    CoordinatorEntry { id: member.id, raft_id: member.number, address: member.address.clone() }
}

/// Takes a roster from another coordinator, or from whoever has it: its signature says all.
pub(super) async fn take(
    shared: &Shared,
    descriptor: Descriptor,
) -> Result<CoordinatorReply, RefusedRequest> {
    adopt_here(shared, descriptor).await?;
    Ok(CoordinatorReply::Descriptor(shared.standing.in_force().descriptor.clone()))
}

async fn adopt_here(shared: &Shared, descriptor: Descriptor) -> Result<bool, RefusedRequest> {
    shared.adopt_roster(descriptor).await.map_err(|error| match &error {
        StandingError::Storage(cause) => disk(cause),
        _ => malformed(error.to_string()),
    })
}

/// Takes a roster that the operator brings, and gives it to the others.
pub(super) async fn adopt(
    shared: &Shared,
    by: Actor,
    descriptor: Descriptor,
) -> Result<AdminReply, RefusedRequest> {
    let members = shared.consensus.member_facts();
    let in_force = shared.standing.in_force();
    // The same one again: it may not have reached enough of the others.
    if descriptor != in_force.descriptor {
        let next = descriptor.verify().map_err(|error| malformed(error.to_string()))?;
        check_next_roster(in_force.roster.roster(), &members, next.roster())
            .map_err(|error| malformed(error.to_string()))?;
        if !adopt_here(shared, descriptor.clone()).await? {
            return Err(malformed("another roster came into force meanwhile: draft it anew"));
        }
    }
    let own = shared.identity.node_id();
    let kept = members.iter().map(|member| {
        let descriptor = descriptor.clone();
        async move {
            let is_kept = member.id == own || offer(shared, &entry(member), descriptor).await;
            is_kept && member.votes
        }
    });
    let kept = join_all(kept).await.into_iter().filter(|kept| *kept).count();
    let voters = members.iter().filter(|member| member.votes).count();
    if kept <= voters / 2 {
        return Err(RefusedRequest::new(
            RefusalKind::Unavailable,
            format!(
                "the roster is in force here and reached {kept} of {voters} coordinators that vote: it goes on spreading; \
                 give it again until more than half have it"
            ),
        ));
    }
    // It is in force, and its signature says all: that it was brought is entered if anybody leads.
    let act = LedgerAct::AdoptRoster { generation: shared.generation() };
    if let Err(error) = enter(shared, by, act).await {
        tracing::warn!(%error, "that a roster was brought is not entered in the ledger");
    }
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    Ok(AdminReply::RosterAdopted { kept: count(kept), voters: count(voters) })
}
