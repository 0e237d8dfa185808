//! Keeping an eye on the other coordinators: a newer roster, a change that was left half done, this coordinator's
//! own removal.
//!
//! Always holds: a newer roster goes both ways between any two that meet, so it reaches everybody who can be
//! reached from one that has it, with or without a leader; a coordinator takes itself for removed only if its
//! archive's roster retires it, or if more than half of the others know members without it that are later than any it
//! was among: one that lies cannot make the rest go.
//! Leaves to others: who may be a member (`coordinator/logic`), keeping the roster (`standing`).

use std::sync::Arc;
use std::time::Duration;

use firn_base::NodeId;
use firn_wire::{
    CONTROL_BYTES_MAX, CoordinatorEntry, CoordinatorReply, CoordinatorRequest, Descriptor, MembersInForce,
};
use futures::future::join_all;

use crate::shared::Shared;
use crate::storage::StorageError;

// Small questions; a removed coordinator learns of it this soon.
const PAUSE: Duration = Duration::from_secs(2);
const WITHIN: Duration = Duration::from_secs(2);

/// Runs until this coordinator is found to be removed, and then ends its part in the consensus.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut rosters = shared.standing.watch();
    loop {
        match look(&shared).await {
            Ok(false) => {}
            Ok(true) => return leave(&shared).await,
            Err(error) => tracing::debug!(%error, "the members cannot be read"),
        }
        if shared.consensus.is_leader() {
            shared.consensus.finish_change().await;
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            _ = rosters.changed() => {}
        }
    }
}

async fn leave(shared: &Shared) {
    // If the disk fails, the next start asks again.
    if let Err(error) = shared.standing.note_removed().await {
        tracing::error!(%error, "that this coordinator was removed cannot be written down");
    }
    shared.consensus.leave().await;
}

/// Asks everybody once. Says whether this coordinator takes part no more.
async fn look(shared: &Shared) -> Result<bool, StorageError> {
    let own = shared.identity.node_id();
    let mut others = shared.consensus.others_and_self();
    others.retain(|entry| entry.id != own);
    let answers = join_all(others.iter().map(|entry| meet(shared, entry))).await;
    if shared.standing.in_force().roster.has_retired(own) {
        return Ok(true);
    }
    let (since, members) = shared.consensus.applied_members()?;
    let last_among = if names(&members, own) { since } else { 0 }.max(shared.standing.named_since());
    let is_without = |answer: &MembersInForce| answer.since > last_among && !names(&answer.members, own);
    Ok(answers.iter().flatten().filter(|answer| is_without(answer)).count() > others.len() / 2)
}

fn names(members: &[CoordinatorEntry], id: NodeId) -> bool {
    members.iter().any(|entry| entry.id == id)
}

/// What one other coordinator knows of the members. The newer roster of both is the roster of both afterwards.
async fn meet(shared: &Shared, other: &CoordinatorEntry) -> Option<MembersInForce> {
    let CoordinatorReply::Members(answer) = ask(shared, other, &CoordinatorRequest::GetMembers).await? else {
        return None;
    };
    let in_force = shared.standing.in_force();
    let own_generation = in_force.roster.roster().generation;
    if answer.generation < own_generation {
        offer(shared, other, in_force.descriptor.clone()).await;
    } else if answer.generation > own_generation
        && let Some(CoordinatorReply::Descriptor(descriptor)) =
            ask(shared, other, &CoordinatorRequest::GetDescriptor).await
        && let Err(error) = shared.adopt_roster(descriptor).await
    {
        tracing::warn!(coordinator = %other.id, %error, "a newer roster was not taken");
    }
    Some(answer)
}

/// Gives `other` a roster. Says whether it is in force there now.
pub(crate) async fn offer(shared: &Shared, other: &CoordinatorEntry, descriptor: Descriptor) -> bool {
    let answer = ask(shared, other, &CoordinatorRequest::OfferRoster(descriptor.clone())).await;
    matches!(answer, Some(CoordinatorReply::Descriptor(in_force)) if in_force == descriptor)
}

async fn ask(
    shared: &Shared,
    other: &CoordinatorEntry,
    request: &CoordinatorRequest,
) -> Option<CoordinatorReply> {
    let asked = async {
        let connection = shared.pool.get(other.id, &other.address).await.ok()?;
        connection.call(request, CONTROL_BYTES_MAX, WITHIN).await.ok()
    };
    tokio::time::timeout(WITHIN, asked).await.ok().flatten()
}
