//! Suspensions that are announced to a node's owner: announcing one, and what is announced.
//!
//! Leaves to others: suspending a node at once, and resuming it (`administration`).

use std::collections::BTreeMap;

use firn_base::NodeId;
use firn_wire::{AdminReply, AdminRequest, AnnouncedSuspension};

use super::Failure;
use super::desk::{Desk, misfit};
use super::ledger_log::actor_json;

/// Announces that `node` will be suspended, and prints when.
pub(super) async fn announce(desk: &Desk, node: NodeId, reason: &str) -> Result<(), Failure> {
    let request = AdminRequest::AnnounceSuspension { node, reason: reason.to_owned() };
    match desk.ask_newer(request).await? {
        Some(AdminReply::SuspensionAnnounced { at }) => {
            println!(
                "node {} will be suspended at {at}, and its owner is told so now; `firn-coordinator node resume {node}` \
                 takes that back",
                node.short()
            );
            Ok(())
        }
        Some(_) => Err(misfit()),
        None => Err(
            "the coordinators are of a version that announces no suspension: update them, or suspend a node \
                     that does harm at once with --now"
                .into(),
        ),
    }
}

/// Those that are announced, by node; none of coordinators of a version that announces none.
pub(super) async fn by_node(desk: &Desk) -> Result<BTreeMap<NodeId, AnnouncedSuspension>, Failure> {
    match desk.ask_newer(AdminRequest::AnnouncedSuspensions).await? {
        Some(AdminReply::AnnouncedSuspensions(listed)) => {
            Ok(listed.into_iter().map(|suspension| (suspension.node, suspension)).collect())
        }
        Some(_) => Err(misfit()),
        None => Ok(BTreeMap::new()),
    }
}

/// One for programs.
pub(super) fn json(suspension: &AnnouncedSuspension) -> serde_json::Value {
    let AnnouncedSuspension { node: _, at, by, reason } = suspension;
    serde_json::json!({
        "at": at.to_string(), "at_millis": at.as_millis(), "by": actor_json(by), "reason": reason,
    })
}
