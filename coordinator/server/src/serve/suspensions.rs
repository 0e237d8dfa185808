//! Suspensions that are announced to a node's owner.
//!
//! Always holds: the leader alone says when one takes effect; whoever announced it and why is in its log. Leaves to others:
//! what may be announced (`coordinator/logic`), carrying it out (`driver`).

use firn_base::{NodeId, PublicKey, Timestamp};
use firn_coordinator_logic::{Facts, Scan, Suspension, check_announcement, check_name, suspension_at};
use firn_wire::{
    Actor, AdminReply, AnnouncedSuspension, Command, CoordinatorReply, RefusalKind, RefusedRequest,
    RejectReason, SuspensionNotice,
};

use super::nodes::known;
use crate::shared::{Shared, disk, not_allowed};

/// Announces one for `by`.
pub(super) async fn announce(
    shared: &Shared,
    by: Actor,
    node: NodeId,
    reason: String,
) -> Result<AdminReply, RefusedRequest> {
    check_name("reason", &reason).map_err(|error| not_allowed(error.to_string()))?;
    let announcement = |at| Command::AnnounceSuspension { node, at, reason: reason.clone() };
    // Before the time is taken: the others may have to be asked for it.
    shared.settle_level(&announcement(Timestamp::default())).await.map_err(|refused| match refused.kind {
        RefusalKind::Unavailable => RefusedRequest::new(
            refused.kind,
            format!("{}; a node that does harm can be suspended at once with --now", refused.sentence),
        ),
        _ => refused,
    })?;
    // All that was committed has to be known here.
    shared.confirm_leadership().await?;
    let facts = shared.facts()?;
    let record = facts.node_by_id(node).map_err(|error| disk(&error))?;
    let record = record.ok_or_else(|| not_allowed(RejectReason::UnknownNode.to_string()))?;
    // Apply looks once more: this is for the sentence.
    check_announcement(&record).map_err(|refused| not_allowed(refused.to_string()))?;
    let archive_time = facts.counters().map_err(|error| disk(&error))?.time;
    let at = suspension_at(shared.trusted_now()?, archive_time);
    shared.carry_out_as(by.clone(), announcement(at), RefusalKind::NotAllowed).await?;
    tracing::info!(node = %node.short(), %at, %by, reason, "it is announced that a node will be suspended");
    Ok(AdminReply::SuspensionAnnounced { at })
}

/// What is announced of a node; none if it is not to be suspended.
pub(super) fn announced(shared: &Shared, node: NodeId) -> Result<Option<Suspension>, RefusedRequest> {
    let record = shared.facts()?.node_by_id(node).map_err(|error| disk(&error))?;
    Ok(record.and_then(|record| record.suspension))
}

/// All that are announced.
pub(super) fn list(shared: &Shared) -> Result<AdminReply, RefusedRequest> {
    let nodes = shared.facts()?.all_nodes().map_err(|error| disk(&error))?;
    let listed = nodes.into_iter().filter_map(|node| {
        let Suspension { at, by, reason } = node.suspension?;
        Some(AnnouncedSuspension { node: node.id, at, by, reason })
    });
    Ok(AdminReply::AnnouncedSuspensions(listed.collect()))
}

/// What is announced to the node that asks.
pub(super) fn of_asker(shared: &Shared, client: PublicKey) -> Result<CoordinatorReply, RefusedRequest> {
    let announced = known(shared, client)?.suspension;
    let notice = announced.map(|Suspension { at, reason, .. }| SuspensionNotice { at, reason });
    Ok(CoordinatorReply::Suspension(notice))
}
