//! Planning moves: good shards brought to other homes.
//!
//! Owns: emptying draining nodes, taking apart shards of which for days more lay together than caps allow (a node's
//! address or domain changed), and that both go before balance. Always holds: a move breaks no cap, judged without the copy
//! that it replaces; that copy counts until the new one has its receipt; bundles that lack shards are repaired first.
//! Leaves to others: evening out how full nodes are (`balance`), missing shards (`repair`), the old copies
//! (`tidying`), why a drain does not end (`drain`).

use std::collections::{BTreeMap, BTreeSet};

use firn_wire::{DrainBacklog, NodeState};

use crate::balance::plan_balance;
use crate::brake::BrakeState;
use crate::build_plan::{BuildCause, BuildPlan};
use crate::builder::{Builder, WantedBuild};
use crate::drain::DrainTally;
use crate::layout::misplaced;
use crate::planning::{PlanningBudget, PlanningView};
use crate::repair::needs_no_repair;
use crate::state::NodeNumber;
use crate::taken::Taken;
use crate::tidying::is_wanted_again;

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

/// Plans moves within `budget`, one shard of a bundle at a time.
pub fn plan_moves(view: &PlanningView<'_>, budget: &PlanningBudget, seed: [u8; 32]) -> MovePlan {
    let mut plan = MovePlan::default();
    let mut builder = Builder::new(view, budget, seed);
    let mut drains = DrainTally::new(view);
    let mut taken = Taken::new(view.fleet.caps(), 0);
    for bundle in view.health.misplaced(view.now).filter_map(|number| view.catalogue.bundle(number)) {
        let misplaced = misplaced(bundle, view.fleet, &mut taken, view.now);
        if misplaced.is_empty() {
            continue;
        }
        plan.backlog_shards += misplaced.len() as u64;
        drains.count(bundle, &misplaced);
        if builder.is_spent() || view.brake != BrakeState::Free || !view.is_at_rest(bundle) {
            continue;
        }
        if !needs_no_repair(view, bundle) {
            continue;
        }
        // The first that finds a legal home; the others follow when this one has arrived.
        plan.builds.extend(misplaced.iter().find_map(|copy| {
            let (shards, replaced) = ([copy.0], [*copy]);
            let wanted =
                WantedBuild { bundle, shards: &shards, replaced: &replaced, cause: BuildCause::Move };
            builder.build(&wanted).ok()
        }));
    }
    plan.awaited_bytes = drains.awaited_bytes;
    plan.drains = drains.backlogs;
    let balance = plan_balance(view, &mut builder, &plan.builds, seed);
    plan.builds.extend(balance.builds);
    plan.backlog_shards += balance.backlog_shards;
    plan
}

/// Draining nodes on which nothing counts: nothing is placed or on its way there, and no surplus is wanted again. They
/// may go; what lies on them is their owners' to delete.
pub fn drained_nodes(view: &PlanningView<'_>) -> Vec<NodeNumber> {
    let mut drained: BTreeSet<_> = view
        .catalogue
        .nodes()
        .filter(|node| node.state == NodeState::Draining && node.shards == 0)
        .map(|node| node.number)
        .collect();
    if drained.is_empty() {
        return Vec::new();
    }
    for (_, node) in view.orders.plans().flat_map(|plan| &plan.targets) {
        drained.remove(node);
    }
    for copy in view.catalogue.surplus().filter(|copy| is_wanted_again(view, copy)) {
        drained.remove(&copy.node);
    }
    drained.into_iter().collect()
}
