//! Deletions: signed orders to move shards to trash.
//!
//! Always holds: only what the committed state calls surplus, or an inventory showed to be kept well elsewhere,
//! is ordered away. Leaves to others: the choice (`plan_tidying`, `compare_inventory`).

use std::sync::Arc;
use std::time::Duration;

use firn_base::{CodingId, ShardIndex};
use firn_coordinator_logic::{Facts, NodeNumber};
use firn_wire::{
    CONTROL_BYTES_MAX, Command, DeleteOrder, NodeReply, NodeRequest, PlacementChange, RefusalKind,
    RefusedRequest, Signed,
};

use crate::shared::{Shared, disk, malformed};

/// An order ends after this: a node that was away does not act on old ones.
const DELETE_WITHIN: Duration = Duration::from_secs(60);

/// Starts deletions. Each goes on by itself.
pub(super) fn order(
    shared: &Arc<Shared>,
    copies: &[(NodeNumber, CodingId, ShardIndex)],
) -> Result<(), RefusedRequest> {
    for copy in copies.iter().copied() {
        shared.soft().orders.begin_trash(copy, shared.environment.now().after(DELETE_WITHIN));
        let shared = shared.clone();
        tokio::spawn(async move {
            match delete(&shared, copy).await {
                Ok(()) => shared.soft().orders.finish_trash(copy),
                // The order may have arrived: the copy stays reserved for it until the order has ended.
                Err(refusal) => tracing::debug!(node = copy.0.0, %refusal, "a deletion was not confirmed"),
            }
        });
    }
    Ok(())
}

async fn delete(shared: &Shared, copy: (NodeNumber, CodingId, ShardIndex)) -> Result<(), RefusedRequest> {
    let (number, coding, index) = copy;
    let facts = shared.facts()?;
    let node = facts.node(number).map_err(|error| disk(&error))?;
    let node = node.ok_or_else(|| malformed("an unknown node"))?.id;
    let expires = shared.environment.now().after(DELETE_WITHIN);
    let order = DeleteOrder { node, coding, index, expires, rank: shared.rank() };
    let order = Signed::seal(&shared.identity, shared.archive, &order);
    let away = |reason: String| RefusedRequest::new(RefusalKind::Unavailable, reason);
    let connection = shared.links.get(node).ok_or_else(|| away("the node is not connected".to_owned()))?;
    let reply = connection.call(&NodeRequest::Delete(order), CONTROL_BYTES_MAX, DELETE_WITHIN).await;
    match reply.map_err(|error| away(error.to_string()))? {
        NodeReply::Deleted => {}
        NodeReply::Refused(refusal) => return Err(refusal),
        _ => return Err(malformed("the node's answer does not fit")),
    }
    if facts.surplus(number, coding, index).map_err(|error| disk(&error))?.is_some() {
        let change = PlacementChange::Trashed { coding, index, node };
        shared.carry_out(Command::RecordPlacements(vec![change]), RefusalKind::Malformed).await?;
    }
    Ok(())
}
