//! Planning moves that even out how full nodes are.
//!
//! Owns: which good shards leave nodes that are too full, and come to nodes that are too empty. A node is one or the
//! other when its used share differs from that of all active nodes together by more than 5 points, and too full in
//! any case beyond 90 %. Always holds: moves stop at that tolerance, not at the fleet's share, and go from too full
//! to too empty as long as they can, so that no fewer bytes would do; each lessens what nodes have too much or too
//! little and makes no other node differ too much, so that they end and no shard goes back; a pass looks at each
//! bundle at most twice, and at none while nobody differs.
//! Leaves to others: measuring shares (`shares`), drains and cap breaches (`moves`), the old copies (`tidying`).

use std::cmp::Reverse;
use std::collections::BTreeSet;

use firn_base::{BundleNumber, ShardIndex};
use firn_wire::NodeState;

use crate::brake::BrakeState;
use crate::build_plan::{BuildCause, BuildPlan};
use crate::builder::{Builder, WantedBuild};
use crate::catalogue::BundleView;
use crate::fleet::FleetNode;
use crate::health::goal;
use crate::layout::misplaced;
use crate::openings::Openings;
use crate::placement::takes_now;
use crate::planning::PlanningView;
use crate::repair::needs_no_repair;
use crate::shares::{Reach, UsedShare, UsedShares};
use crate::state::NodeNumber;
use crate::taken::Taken;

/// What is to be moved for balance.
#[derive(Debug, Default)]
pub(crate) struct BalancePlan {
    /// Builds to order now.
    pub(crate) builds: Vec<BuildPlan>,
    /// Shards still to be moved, those on their way included: counted where a pass could plan all of them, else
    /// taken for as many as the bytes are of mean size. None where caps leave no move.
    pub(crate) backlog_shards: u64,
}

/// Plans moves with what `builder` has left after `planned`.
pub(crate) fn plan_balance(
    view: &PlanningView<'_>,
    builder: &mut Builder<'_>,
    planned: &[BuildPlan],
    seed: [u8; 32],
) -> BalancePlan {
    let on_their_way = moving_for_balance(view);
    let shares = UsedShares::new(view, planned);
    if shares.are_even() {
        return BalancePlan { builds: Vec::new(), backlog_shards: on_their_way };
    }
    let estimate = shares.shards_to_move();
    let mut search = Search::new(view, builder, shares, planned);
    search.run(seed, Reach::Mark);
    if search.builds.is_empty() && !search.is_unfinished {
        search.run(seed, Reach::Tolerance);
    }
    let planned = search.builds.len() as u64;
    let to_move = if search.is_unfinished { planned.max(estimate) } else { planned };
    BalancePlan { builds: search.builds, backlog_shards: on_their_way + to_move }
}

/// Copies that builds on their way replace though they lie well.
fn moving_for_balance(view: &PlanningView<'_>) -> u64 {
    let (mut moving, mut taken) = (0, Taken::new(view.fleet.caps(), 0));
    for plan in view.orders.plans() {
        let Some(bundle) = view.catalogue.bundle(plan.bundle) else { continue };
        let misplaced = misplaced(bundle, view.fleet, &mut taken, view.now);
        let lies_well = |copy: &&(ShardIndex, NodeNumber)| {
            view.fleet.node(copy.1).is_some_and(is_active)
                && bundle.placements.contains(copy)
                && !misplaced.contains(copy)
        };
        moving += plan.retire.iter().filter(lies_well).count() as u64;
    }
    moving
}

fn is_active(node: &FleetNode) -> bool {
    node.state == NodeState::Active && node.counted
}

/// Where a pass begins: elsewhere each time, so that no bundle gives all its shards to the same new nodes before
/// the next gives one.
fn start(view: &PlanningView<'_>, seed: [u8; 32]) -> BundleNumber {
    let (first, _) = seed.split_first_chunk::<4>().expect("a seed has 32 bytes");
    let bundles = view.catalogue.last_bundle().map_or(0, |last| u64::from(last.0) + 1);
    let start = (u64::from(u32::from_le_bytes(*first)) * bundles) >> 32;
    BundleNumber(u32::try_from(start).expect("it is less than the count of bundles"))
}

/// One look at the bundles for shards to move.
struct Search<'a, 'b> {
    view: &'a PlanningView<'a>,
    builder: &'a mut Builder<'b>,
    shares: UsedShares,
    openings: Openings,
    taken: Taken,
    planned: BTreeSet<BundleNumber>,
    builds: Vec<BuildPlan>,
    /// There is, or may be, more to move than could be ordered now.
    is_unfinished: bool,
}

impl<'a, 'b> Search<'a, 'b> {
    fn new(
        view: &'a PlanningView<'a>,
        builder: &'a mut Builder<'b>,
        shares: UsedShares,
        planned: &[BuildPlan],
    ) -> Self {
        let openings = Openings::new(&shares, builder, Reach::Mark);
        Self {
            view,
            builder,
            openings,
            taken: Taken::new(view.fleet.caps(), 0),
            planned: planned.iter().map(|build| build.bundle).collect(),
            builds: Vec::new(),
            is_unfinished: false,
            shares,
        }
    }

    /// Looks at every bundle until nobody differs too much, or no more can be ordered.
    ///
    /// Within the mark, too full nodes are paired with too empty ones, and others serve only for what one side has
    /// more than the other. Where caps or the length of shards leave nothing of that kind, either side is paired
    /// with anybody whom it does not make differ too much.
    fn run(&mut self, seed: [u8; 32], reach: Reach) {
        self.openings = Openings::new(&self.shares, self.builder, reach);
        self.is_unfinished |= self.openings.some_are_loaded;
        let (view, start) = (self.view, start(self.view, seed));
        for bundle in view.catalogue.bundles_around(start) {
            let alone = reach == Reach::Tolerance;
            let empty_alone = alone || self.shares.has_more_deficit();
            let full_alone = alone || self.shares.has_more_excess();
            if self.shares.are_even() || self.openings.groups(full_alone).is_empty() {
                return;
            }
            let Some((copy, is_too_full)) = self.fullest(bundle, empty_alone, reach) else { continue };
            let anybody = is_too_full && full_alone;
            let Some(home) = self.home(bundle, copy, anybody, reach) else { continue };
            if !needs_no_repair(view, bundle) {
                continue;
            }
            if self.builder.is_spent() || view.brake != BrakeState::Free {
                self.is_unfinished = true;
                return;
            }
            if !view.is_at_rest(bundle) || self.planned.contains(&bundle.number) {
                self.is_unfinished = true;
                continue;
            }
            self.plan(bundle, copy, home);
        }
        // Every bundle has given what it may at a time: others of its shards may follow.
        self.is_unfinished |= !self.builds.is_empty();
    }

    fn plan(&mut self, bundle: &BundleView, copy: (ShardIndex, NodeNumber), home: NodeNumber) {
        let (shards, replaced) = ([copy.0], [copy]);
        let wanted = WantedBuild { bundle, shards: &shards, replaced: &replaced, cause: BuildCause::Move };
        let Ok(build) = self.builder.build_on(&wanted, &[home]) else { return };
        self.shares.shift(copy.1, home, bundle.file_bytes);
        self.planned.insert(bundle.number);
        self.builds.push(build);
        if self.builder.is_loaded(home) {
            self.openings.remove(home);
            self.is_unfinished = true;
        }
    }

    /// The copy on the fullest node that may give it, and whether that one is too full; with `or_any` also one that
    /// is not.
    fn fullest(
        &self,
        bundle: &BundleView,
        or_any: bool,
        reach: Reach,
    ) -> Option<((ShardIndex, NodeNumber), bool)> {
        let mut fullest = None;
        for copy in &bundle.placements {
            let Some(share) = self.shares.of(copy.1) else { continue };
            let is_too_full = share.excess_bytes() > 0;
            if (is_too_full || or_any) && share.may_give(bundle.file_bytes, reach) {
                fullest = fullest.max(Some((is_too_full, share.used_millionths(), Reverse(*copy))));
            }
        }
        let (is_too_full, _, Reverse(copy)) = fullest?;
        // One that lies twice is tidied, not moved.
        let copies = bundle.placements.iter().filter(|(index, _)| *index == copy.0).count();
        (copies == 1).then_some((copy, is_too_full))
    }

    /// The emptiest legal home of a copy: too empty, or with `or_any` any that may take it.
    fn home(
        &mut self,
        bundle: &BundleView,
        copy: (ShardIndex, NodeNumber),
        or_any: bool,
        reach: Reach,
    ) -> Option<NodeNumber> {
        let (fleet, file_bytes) = (self.builder.fleet(), bundle.file_bytes);
        self.taken.begin(goal(bundle.scheme, fleet.width()).n());
        for (index, holder) in &bundle.placements {
            self.taken.take_node(*holder);
            let counted = fleet.node(*holder).filter(|node| node.counted && (*index, *holder) != copy);
            counted.into_iter().for_each(|node| self.taken.take(&node.names));
        }
        let mut avoid = None;
        for group in self.openings.groups(or_any) {
            for number in group {
                let Some(node) = fleet.node(*number) else { continue };
                if !(self.taken.leaves(&node.names) && self.taken.leaves_node(node.number)) {
                    continue;
                }
                let fits = |share: &UsedShare| {
                    (or_any || share.deficit_bytes() > 0) && share.may_take(file_bytes, reach)
                };
                let avoid = avoid.get_or_insert_with(|| self.view.orders.trashing_of(bundle.coding));
                if self.shares.of(*number).is_some_and(fits) && takes_now(node, file_bytes, avoid) {
                    return Some(*number);
                }
            }
        }
        None
    }
}
