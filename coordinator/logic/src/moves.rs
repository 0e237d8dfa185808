//! Planning moves: good shards brought to other homes.
//!
//! Owns: emptying draining nodes, taking apart shards that came to share a failure domain (a node came back, or its
//! domain was renamed), and that both go before balance. Always holds: a move breaks no cap, judged without the copy
//! that it replaces; that copy counts until the new one has its receipt; bundles that lack shards are repaired first.
//! Leaves to others: evening out how full nodes are (`balance`), missing shards (`repair`), the old copies
//! (`tidying`), why a drain does not end (`drain`).

use std::collections::BTreeMap;

use firn_base::ShardIndex;
use firn_wire::{DrainBacklog, NodeState};

use crate::balance::plan_balance;
use crate::brake::BrakeState;
use crate::catalogue::BundleView;
use crate::drain::DrainTally;
use crate::fleet::{FleetNode, FleetView};
use crate::health::classify;
use crate::repair::{
    BuildPlan, Builder, PlanningBudget, PlanningView, WantedBuild, is_at_rest, needs_no_repair,
};
use crate::state::NodeNumber;
use crate::taken::Taken;

/// What is to be moved.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MovePlan {
    /// Builds to order now.
    pub builds: Vec<BuildPlan>,
    /// Shards still to be moved, those on their way included; for balance in a large part an estimate.
    pub backlog_shards: u64,
    /// Bytes of shards that are to leave draining nodes, have a legal home, and are not on their way there.
    pub awaited_bytes: u64,
    /// What each draining node still holds.
    pub drains: BTreeMap<NodeNumber, DrainBacklog>,
}

/// Looks at every bundle and plans moves within `budget`, one shard of a bundle at a time.
pub fn plan_moves(view: &PlanningView<'_>, budget: &PlanningBudget, seed: [u8; 32]) -> MovePlan {
    let mut plan = MovePlan::default();
    let mut builder = Builder::new(view, budget, seed);
    let mut drains = DrainTally::new(view);
    let mut taken = Taken::new(view.fleet);
    for bundle in view.catalogue.bundles() {
        if lies_well(bundle, view.fleet, &mut taken) {
            continue;
        }
        let misplaced = misplaced(bundle, view.fleet);
        if misplaced.is_empty() {
            continue;
        }
        plan.backlog_shards += misplaced.len() as u64;
        drains.count(bundle, &misplaced);
        if builder.is_spent() || view.brake != BrakeState::Free || !is_at_rest(view, bundle) {
            continue;
        }
        if !needs_no_repair(view, bundle, &classify(bundle, view.fleet)) {
            continue;
        }
        // The first that finds a legal home; the others follow when this one has arrived.
        plan.builds.extend(misplaced.iter().find_map(|copy| {
            builder.build(&WantedBuild { bundle, shards: &[copy.0], replaced: &[*copy], urgent: false })
        }));
    }
    plan.awaited_bytes = drains.awaited_bytes;
    plan.drains = drains.backlogs;
    let balance = plan_balance(view, &mut builder, &plan.builds, seed);
    plan.builds.extend(balance.builds);
    plan.backlog_shards += balance.backlog_shards;
    plan
}

/// Draining nodes on which nothing is placed and nothing is surplus: they may go.
pub fn drained_nodes(view: &PlanningView<'_>) -> Vec<NodeNumber> {
    let mut drained: Vec<_> = view
        .catalogue
        .nodes()
        .filter(|node| node.state == NodeState::Draining && node.shards == 0)
        .map(|node| node.number)
        .collect();
    drained.retain(|number| !view.catalogue.surplus().any(|copy| copy.node == *number));
    drained
}

/// Whether nothing of a bundle is misplaced, told without comparing every copy with every other: nearly all bundles
/// of nearly all passes are so.
fn lies_well(bundle: &BundleView, fleet: &FleetView, taken: &mut Taken) -> bool {
    taken.begin();
    let holders = bundle.placements.iter().filter_map(|(_, holder)| fleet.node(*holder));
    holders.filter(|node| node.counted).all(|node| {
        let is_alone = taken.leaves(node);
        taken.take(node);
        is_alone && node.state != NodeState::Draining
    })
}

/// Copies that shall lie elsewhere, each the only good one of its index.
pub(crate) fn misplaced(bundle: &BundleView, fleet: &FleetView) -> Vec<(ShardIndex, NodeNumber)> {
    let counted: Vec<(ShardIndex, &FleetNode)> = bundle
        .placements
        .iter()
        .filter_map(|(index, holder)| Some((*index, fleet.node(*holder).filter(|node| node.counted)?)))
        .collect();
    let mut misplaced = Vec::new();
    for (position, (index, node)) in counted.iter().enumerate() {
        let crowded =
            |(other, at): &(ShardIndex, &FleetNode)| other != index && fleet.share_a_domain(node, at);
        if node.state != NodeState::Draining && !counted[..position].iter().any(crowded) {
            continue;
        }
        let has_a_home = |(other, at): &(ShardIndex, &FleetNode)| {
            other == index && at.number != node.number && at.state != NodeState::Draining
        };
        if !counted.iter().any(has_a_home) {
            misplaced.push((*index, node.number));
        }
    }
    misplaced
}
