//! Tidying up: extra copies, what lies on removed nodes, which surplus counts again and which is trashed.
//!
//! Owns: the choice which of several copies of a shard counts on. Always holds: a copy is retired, and surplus of a
//! counted coding trashed, only when another of the same index is online and proved; surplus stays while there is room,
//! for what an upload abandoned there is none, and after ten minutes none for what another coding replaced; no node is
//! asked to delete more than it said it would, what it does not stays surplus; draining nodes delete nothing, for what
//! lies on them becomes their owners'.
//! Leaves to others: the signed orders (the shell), how much a node deletes (the node).

use std::collections::BTreeMap;
use std::time::Duration;

use firn_base::{CodingId, NodeId, Scheme, ShardIndex};
use firn_wire::{DeleteReason, DeletionRoom, NodeState, PlacementChange};

use crate::catalogue::BundleView;
use crate::fleet::{FleetNode, FleetView};
use crate::health::goal;
use crate::inventory::{is_durable, is_good_elsewhere};
use crate::planning::PlanningView;
use crate::state::{NodeNumber, SurplusRecord};
use crate::taken::Taken;

/// What to record and what to trash.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TidyingPlan {
    /// For `Command::RecordPlacements`.
    pub changes: Vec<PlacementChange>,
    /// Surplus copies to be trashed by order; record `Trashed` when the node has done it.
    pub trash: Vec<Deletion>,
}

impl TidyingPlan {
    /// Whether a surplus copy of a coding is to count again: the next plan of repairs knows what is missing still.
    pub fn counts_again(&self, coding: CodingId) -> bool {
        let is_placed = |change: &PlacementChange| matches!(change, PlacementChange::Placed { coding: placed, .. } if *placed == coding);
        self.changes.iter().any(is_placed)
    }
}

/// A copy that is to be trashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deletion {
    /// Which: of which coding which shard, on which node.
    pub copy: (NodeNumber, CodingId, ShardIndex),
    /// Why.
    pub reason: DeleteReason,
}

// Readers believe where a bundle lies for two minutes, and somewhat longer while no coordinator answers: copies of a coding
// that was replaced are read until then. What an upload left behind is not missed for as long.
const READERS_LEARN_WITHIN: Duration = Duration::from_secs(600);

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
    let mut rooms = DeletionRooms::new(view);
    for record in view.catalogue.surplus() {
        let (coding, index) = (record.coding, record.index);
        let Some(node) = view.fleet.node(record.node) else { continue };
        if is_removed(node) {
            if plan.changes.len() < limit {
                plan.changes.push(PlacementChange::Trashed { coding, index, node: node.id });
            }
        } else if is_wanted_again(view, record) {
            if plan.changes.len() < limit {
                plan.changes.push(PlacementChange::Placed { coding, index, node: node.id });
            }
        } else if plan.trash.len() < limit
            && let Some(reason) = unwanted(view, node, record)
            && rooms.take(node, reason, record.file_bytes)
        {
            plan.trash.push(Deletion { copy: (node.number, coding, index), reason });
        }
    }
    plan.changes.truncate(limit);
    plan
}

/// Whether a surplus copy is the only good one of its shard and may count: then nothing need be made anew.
///
/// What was in the books before the node was asked for its inventory is there, or it would have left them. Of what
/// came later that is not sure: an upload that ended leaves surplus wherever it may have brought a shard.
pub(crate) fn is_wanted_again(view: &PlanningView<'_>, record: &SurplusRecord) -> bool {
    let Some(bundle) = view.catalogue.bundle_of(record.coding) else { return false };
    let Some(node) = view.fleet.node(record.node).filter(|node| node.counted && node.proved) else {
        return false;
    };
    let was_shown = node.inventory_since.is_some_and(|since| record.since < since);
    let exists = Scheme::n_max(bundle.scheme.k()).is_some_and(|most| record.index.0 < most);
    was_shown
        && exists
        && !is_durable(view, bundle, record.index)
        && view.is_at_rest(bundle)
        && others_of(view.fleet, bundle, record.index).leaves(&node.names)
        && !view.orders.is_trashing((record.node, record.coding, record.index))
}

fn is_removed(node: &FleetNode) -> bool {
    matches!(node.state, NodeState::Lost | NodeState::Gone)
}

/// Why a surplus copy should go, if it should.
fn unwanted(view: &PlanningView<'_>, node: &FleetNode, record: &SurplusRecord) -> Option<DeleteReason> {
    if node.state == NodeState::Draining {
        return None;
    }
    let Some(bundle) = view.catalogue.coded(record.coding) else {
        if view.catalogue.knows_coding(record.coding) {
            let is_known_to_readers = view.now.since(record.since) >= READERS_LEARN_WITHIN;
            return is_known_to_readers.then_some(DeleteReason::ReplacedCoding);
        }
        return (!view.catalogue.is_reserved(record.coding)).then_some(DeleteReason::AbandonedUpload);
    };
    let is_tight = node.free_within_a_day_bytes < node.quota_bytes / FREE_FOR_SURPLUS;
    (is_tight && is_good_elsewhere(view, bundle, record.index)).then_some(DeleteReason::Surplus)
}

/// What each node would still delete, less what this plan asks of it.
#[derive(Debug)]
pub(crate) struct DeletionRooms<'a> {
    view: &'a PlanningView<'a>,
    left: BTreeMap<NodeNumber, DeletionRoom>,
}

impl<'a> DeletionRooms<'a> {
    pub(crate) const fn new(view: &'a PlanningView<'a>) -> Self {
        Self { view, left: BTreeMap::new() }
    }

    /// Uses up room on a node; says whether there was enough.
    pub(crate) fn take(&mut self, node: &FleetNode, reason: DeleteReason, bytes: u64) -> bool {
        let room = self.left.entry(node.number).or_insert_with(|| {
            let says = node.online && self.view.orders.may_delete(node.number, node.last_seen);
            if says { node.deletion_room } else { DeletionRoom::default() }
        });
        let after = room.after(reason, bytes);
        *room = after.unwrap_or(*room);
        after.is_some()
    }
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
        let others = others_of(fleet, bundle, index);
        let keeper = nodes
            .iter()
            .filter(|node| node.counted && node.proved && node.state != NodeState::Draining)
            .min_by_key(|node| (!others.leaves(&node.names), node.state, node.number));
        if let Some(keeper) = keeper {
            let others = nodes.iter().filter(|node| node.number != keeper.number);
            changes.extend(others.map(|node| retire(bundle, index, node.id)));
        }
    }
}

fn retire(bundle: &BundleView, index: ShardIndex, node: NodeId) -> PlacementChange {
    PlacementChange::Retired { coding: bundle.coding, index, node }
}

/// What the holders of other shards take.
fn others_of(fleet: &FleetView, bundle: &BundleView, index: ShardIndex) -> Taken {
    let others = bundle.placements.iter().filter(|(other, _)| *other != index);
    let counted = others.filter_map(|(_, holder)| fleet.node(*holder)).filter(|other| other.counted);
    let n = goal(bundle.scheme, fleet.width()).n();
    let mut taken = Taken::new(fleet.caps(), n);
    taken.begin_with(n, counted);
    taken
}
