//! What draining nodes still hold, and why it does not leave.
//!
//! Owns: telling shards without another home, which waiting does not help, from those whose home is offline or
//! full. Always holds: the shards of a bundle are judged one after the other, as they would be moved, so that two
//! of them never count on the same spare domain; a shard on its way has a home.
//! Leaves to others: moving (`moves`), the caps (`placement`).

use std::collections::BTreeMap;

use firn_base::ShardIndex;
use firn_wire::{DrainBacklog, NodeState};

use crate::catalogue::BundleView;
use crate::fleet::FleetView;
use crate::health::goal;
use crate::layout::misplaced;
use crate::placement::{Home, find_home};
use crate::planning::PlanningView;
use crate::state::{NodeNumber, NodeRecord};
use crate::taken::Taken;

/// What one draining node still holds; only its own bundles are looked at.
pub fn survey_drain(view: &PlanningView<'_>, node: NodeNumber) -> DrainBacklog {
    let mut tally = DrainTally::new(view);
    let mut taken = Taken::new(view.fleet.caps(), 0);
    // Each bundle once, of however many shards.
    let held = view.catalogue.held_by(node).chunk_by(|one, next| one.0 == next.0);
    for bundle in held.filter_map(|shards| view.catalogue.bundle(shards[0].0)) {
        tally.count(bundle, &misplaced(bundle, view.fleet, &mut taken, view.now));
    }
    tally.backlogs.remove(&node).unwrap_or_default()
}

/// What all draining nodes together still hold; none as long as one of them has not been measured.
pub fn sum_drains(
    nodes: &[NodeRecord],
    measured: &BTreeMap<NodeNumber, DrainBacklog>,
) -> Option<DrainBacklog> {
    let draining = nodes.iter().filter(|node| node.state == NodeState::Draining);
    draining.map(|node| measured.get(&node.number)).sum()
}

/// Counts what each draining node still holds.
pub(crate) struct DrainTally<'a> {
    view: &'a PlanningView<'a>,
    taken: Taken,
    pub(crate) backlogs: BTreeMap<NodeNumber, DrainBacklog>,
    /// Bytes of shards that have a legal home and are not on their way there.
    pub(crate) awaited_bytes: u64,
}

impl<'a> DrainTally<'a> {
    /// Nothing counted yet, for every draining node.
    pub(crate) fn new(view: &'a PlanningView<'a>) -> Self {
        let draining = view.fleet.nodes().filter(|node| node.state == NodeState::Draining);
        let backlogs = draining.map(|node| (node.number, DrainBacklog::default())).collect();
        Self { view, taken: Taken::new(view.fleet.caps(), 0), backlogs, awaited_bytes: 0 }
    }

    /// Counts the misplaced shards of one bundle.
    pub(crate) fn count(&mut self, bundle: &BundleView, misplaced: &[(ShardIndex, NodeNumber)]) {
        if !misplaced.iter().any(|(_, holder)| self.backlogs.contains_key(holder)) {
            return;
        }
        let homes = find_homes(self.view, bundle, misplaced, &mut self.taken);
        let on_their_way = self.view.orders.targets(bundle.coding);
        for ((index, holder), home) in misplaced.iter().zip(homes) {
            if let Some(backlog) = self.backlogs.get_mut(holder) {
                if home.is_some() && !on_their_way.iter().any(|(coming, _)| coming == index) {
                    self.awaited_bytes = self.awaited_bytes.saturating_add(bundle.file_bytes);
                }
                backlog.to_move += 1;
                backlog.without_home += u64::from(home.is_none());
                backlog.home_unavailable += u64::from(matches!(home, Some(Home::Unavailable(_))));
            }
        }
    }
}

/// Where each of the misplaced shards could go, if those before it have gone where they could.
fn find_homes<'a>(
    view: &PlanningView<'a>,
    bundle: &BundleView,
    misplaced: &[(ShardIndex, NodeNumber)],
    taken: &mut Taken,
) -> Vec<Option<Home<'a>>> {
    let fleet: &'a FleetView = view.fleet;
    let on_their_way = view.orders.targets(bundle.coding);
    let holders = bundle.placements.iter().chain(on_their_way).filter_map(|(_, holder)| fleet.node(*holder));
    let mut holders: Vec<_> = holders.filter(|node| node.counted).collect();
    let n = goal(bundle.scheme, fleet.width()).n();
    let mut avoid = view.orders.trashing_of(bundle.coding);
    avoid.extend(bundle.placements.iter().map(|(_, holder)| *holder));
    let mut homes = Vec::with_capacity(misplaced.len());
    for (index, holder) in misplaced {
        let leaving = holders.iter().position(|node| node.number == *holder);
        let leaving = leaving.map(|position| holders.swap_remove(position));
        let target = on_their_way.iter().find(|(of, _)| of == index);
        let home = match target.and_then(|(_, node)| fleet.node(*node)) {
            Some(node) => Some(Home::Open(node)),
            None => {
                taken.begin_with(n, holders.iter().copied());
                let home = find_home(fleet, bundle.file_bytes, taken, &avoid);
                holders.extend(home.map(Home::node).or(leaving));
                home
            }
        };
        homes.push(home);
    }
    homes
}
