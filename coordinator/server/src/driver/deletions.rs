//! Deletions: signed orders to move shards to trash.
//!
//! Always holds: only what the committed state calls surplus is ordered away, and each order says why; what a node
//! refuses stays surplus. Leaves to others: the choice, and how much a node is asked for (`plan_tidying`).

use std::sync::Arc;
use std::time::Duration;

use firn_coordinator_logic::{Deletion, DeletionEnd, Facts};
use firn_wire::{
    CONTROL_BYTES_MAX, Command, DeleteOrder, NodeReply, NodeRequest, PlacementChange, RefusalKind,
    RefusedRequest, Signed,
};

use crate::shared::{Shared, disk, malformed};

/// An order ends after this: a node that was away does not act on old ones.
const DELETE_WITHIN: Duration = Duration::from_secs(60);

/// Starts deletions. Each goes on by itself. While the archive is rebuilt there are none: what is in no book may be all that
/// there is.
pub(super) fn order(shared: &Arc<Shared>, deletions: &[Deletion]) {
    if shared.is_rebuilding().unwrap_or(true) {
        return;
    }
    for deletion in deletions.iter().copied() {
        shared.soft().orders.begin_trash(deletion.copy, shared.environment.now().after(DELETE_WITHIN));
        let shared = shared.clone();
        tokio::spawn(async move {
            match delete(&shared, deletion).await {
                Ok(end) => {
                    let now = shared.environment.now();
                    shared.soft().orders.finish_trash(deletion.copy, end, now);
                }
                // The order may have arrived: the copy stays reserved for it until the order has ended.
                Err(refusal) => {
                    tracing::debug!(node = deletion.copy.0.0, %refusal, "a deletion was not confirmed");
                }
            }
        });
    }
}

async fn delete(shared: &Shared, deletion: Deletion) -> Result<DeletionEnd, RefusedRequest> {
    let Deletion { copy: (number, coding, index), reason } = deletion;
    let facts = shared.facts()?;
    let node = facts.node(number).map_err(|error| disk(&error))?;
    let node = node.ok_or_else(|| malformed("an unknown node"))?.id;
    let expires = shared.environment.now().after(DELETE_WITHIN);
    let order = DeleteOrder { node, coding, index, reason, expires, rank: shared.rank() };
    let order = Signed::seal(&shared.identity, shared.archive, &order);
    let away = |reason: String| RefusedRequest::new(RefusalKind::Unavailable, reason);
    let connection = shared.links.get(node).ok_or_else(|| away("the node is not connected".to_owned()))?;
    let reply = connection.call(&NodeRequest::Delete(order), CONTROL_BYTES_MAX, DELETE_WITHIN).await;
    match reply.map_err(|error| away(error.to_string()))? {
        NodeReply::Deleted => {}
        NodeReply::Refused(refusal) => {
            tracing::warn!(node = %node.short(), %refusal, "a node refuses to delete: what it holds stays surplus");
            return Ok(DeletionEnd::Refused);
        }
        _ => return Err(malformed("the node's answer does not fit")),
    }
    let change = PlacementChange::Trashed { coding, index, node };
    shared.carry_out(Command::RecordPlacements(vec![change]), RefusalKind::Malformed).await?;
    Ok(DeletionEnd::Done)
}
