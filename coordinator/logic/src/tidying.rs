//! Tidying up: extra copies, what lies on removed nodes, and which surplus is trashed.
//!
//! Owns: the choice which of several copies of a shard counts on. Always holds: a copy is retired only when
//! another of the same index is online and proved; surplus stays while there is room, for a node that leaves
//! or was abandoned by an upload there is none. Leaves to others: the signed orders (the shell).

use firn_base::{CodingId, NodeId, ShardIndex};
use firn_wire::{NodeState, PlacementChange};

use crate::catalogue::BundleView;
use crate::fleet::{FleetNode, FleetView};
use crate::planning::PlanningView;
use crate::state::NodeNumber;

/// What to record and what to trash.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TidyingPlan {
    /// For `Command::RecordPlacements`.
    pub changes: Vec<PlacementChange>,
    /// Surplus copies to be trashed by order; record `Trashed` when the node has done it.
    pub trash: Vec<(NodeNumber, CodingId, ShardIndex)>,
}

// Surplus may stay while a node has more than a fifth of its quota free.
const FREE_FOR_SURPLUS: u64 = 5;

/// Plans at most `limit` changes and `limit` deletions.
pub fn plan_tidying(view: &PlanningView<'_>, limit: usize) -> TidyingPlan {
    let mut plan = TidyingPlan::default();
    for bundle in view.health.untidy().filter_map(|number| view.catalogue.bundle(number)) {
        if plan.changes.len() >= limit {
            break;
        }
        forget_removed(view.fleet, bundle, &mut plan.changes);
        if view.is_at_rest(bundle) {
            retire_extra(view.fleet, bundle, &mut plan.changes);
        }
    }
    for copy in view.catalogue.surplus() {
        let (coding, index) = (copy.coding, copy.index);
        let Some(node) = view.fleet.node(copy.node) else { continue };
        if is_removed(node) {
            if plan.changes.len() < limit {
                plan.changes.push(PlacementChange::Trashed { coding, index, node: node.id });
            }
        } else if plan.trash.len() < limit
            && node.online
            && is_unwanted(view, node, coding)
            && !view.orders.is_trashing((node.number, coding, index))
        {
            plan.trash.push((node.number, coding, index));
        }
    }
    plan.changes.truncate(limit);
    plan
}

fn is_removed(node: &FleetNode) -> bool {
    matches!(node.state, NodeState::Lost | NodeState::Gone)
}

fn is_unwanted(view: &PlanningView<'_>, node: &FleetNode, coding: CodingId) -> bool {
    let abandoned = view.catalogue.bundle_of(coding).is_none() && !view.catalogue.is_reserved(coding);
    let tight = node.free_bytes < node.quota_bytes / FREE_FOR_SURPLUS;
    abandoned || tight || node.state == NodeState::Draining
}

/// Placements on nodes that will not come back.
fn forget_removed(fleet: &FleetView, bundle: &BundleView, changes: &mut Vec<PlacementChange>) {
    for (index, holder) in &bundle.placements {
        if let Some(node) = fleet.node(*holder)
            && is_removed(node)
        {
            changes.push(PlacementChange::Missing { coding: bundle.coding, index: *index, node: node.id });
        }
    }
}

/// Copies beside a good one of the same index.
fn retire_extra(fleet: &FleetView, bundle: &BundleView, changes: &mut Vec<PlacementChange>) {
    for copies in bundle.placements.chunk_by(|one, next| one.0 == next.0).filter(|copies| copies.len() > 1) {
        let index = copies[0].0;
        let nodes: Vec<&FleetNode> = copies
            .iter()
            .filter_map(|(_, holder)| fleet.node(*holder))
            .filter(|node| !is_removed(node))
            .collect();
        let keeper = nodes
            .iter()
            .filter(|node| node.counted && node.proved && node.state != NodeState::Draining)
            .min_by_key(|node| (crowding(fleet, bundle, index, node), node.state, node.number));
        if let Some(keeper) = keeper {
            let others = nodes.iter().filter(|node| node.number != keeper.number);
            changes.extend(others.map(|node| retire(bundle, index, node.id)));
        }
    }
}

fn retire(bundle: &BundleView, index: ShardIndex, node: NodeId) -> PlacementChange {
    PlacementChange::Retired { coding: bundle.coding, index, node }
}

/// How many other shards count in a node's failure domain.
fn crowding(fleet: &FleetView, bundle: &BundleView, index: ShardIndex, node: &FleetNode) -> usize {
    let others = bundle.placements.iter().filter(|(other, _)| *other != index);
    let counted = others.filter_map(|(_, holder)| fleet.node(*holder)).filter(|other| other.counted);
    counted.filter(|other| fleet.share_a_domain(node, other)).count()
}
