//! Planning repairs: shards made anew on legal nodes, the bundles in most danger first.
//!
//! Owns: which bundles are repaired now, what cannot be placed, what is still to be done. Always holds: a bundle is
//! not repaired while its upload may still bring the shard, nor twice at a time; all missing shards are made in one
//! build, which reads k only once; what is urgent by durable shards waits for no brake, what has few shards online
//! waits for its time and takes a part of the budget only.
//! Leaves to others: judging bundles (`health_index`), targets and sources (`builder`), moves (`moves`), tickets and
//! sending (the shell).

use std::collections::{BTreeMap, BTreeSet};

use firn_base::{BundleNumber, ShardIndex};
use firn_wire::{BundleHealthCounts, Cap, SpareCount};

use crate::brake::BrakeState;
use crate::build_plan::{BuildCause, BuildPlan};
use crate::builder::{Builder, NotBuilt};
use crate::caps::Caps;
use crate::catalogue::BundleView;
use crate::health::{HealthClass, goal, repair_threshold};
use crate::layout::count_too_much;
use crate::placement::kept_from_homes;
use crate::planning::{PlanningBudget, PlanningView};
use crate::spare_homes::SpareHomes;
use crate::standing::{COPIES_LEAST, Standing};
use crate::state::NodeNumber;
use crate::taken::Taken;

// Bundles for which one plan looks for homes at most: each look compares all nodes. Those for which there is none are
// put off, so that the next plan comes to others.
const ATTEMPTS_MAX: usize = 256;

/// What repair has to do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RepairPlan {
    /// Builds to order now, the most urgent first.
    pub builds: Vec<BuildPlan>,
    /// Bundles for which no node or no source was found: not to be tried again for a while.
    pub put_off: Vec<BundleNumber>,
    /// Bundles with a missing shard for which caps leave no node, in order, and the caps that keep nodes away: none where
    /// there are no more nodes.
    pub at_risk: BTreeMap<BundleNumber, BTreeSet<Cap>>,
    /// Shards still to be made for bundles that are due, those on their way included.
    pub backlog_shards: u64,
    /// Bytes of shards that are missing, have a legal home, and whose room nothing else has set aside: they are not
    /// on their way, and no upload may still bring them.
    pub awaited_bytes: u64,
    /// All bundles by health.
    pub health: BundleHealthCounts,
    /// Bundles that are not lost by how many more shards each may lose, the fewest first.
    pub by_spare: Vec<SpareCount>,
}

/// Plans the most urgent repairs within `budget`.
pub fn plan_repairs(view: &PlanningView<'_>, budget: &PlanningBudget, seed: [u8; 32]) -> RepairPlan {
    let tally = view.health.tally();
    let at_risk = at_risk(view);
    let mut plan = RepairPlan {
        backlog_shards: tally.backlog_shards,
        awaited_bytes: awaited_bytes(view, &at_risk),
        health: BundleHealthCounts { at_risk: at_risk.len() as u64, ..tally.counts },
        by_spare: view.health.by_spare(),
        at_risk,
        ..RepairPlan::default()
    };
    let mut search = Search { view, builder: Builder::new(view, budget, seed), attempts_left: ATTEMPTS_MAX };
    let width = view.fleet.width();
    for number in view.health.due() {
        if search.is_over() {
            break;
        }
        let Some((bundle, standing)) = search.free(number) else { continue };
        let durable = standing.presence.durable;
        let urgent = durable.len() <= bundle.scheme.urgent_threshold();
        if urgent || view.brake == BrakeState::Free {
            let goal = goal(bundle.scheme, width);
            let wanted: Vec<_> = durable.missing_below(goal.n()).collect();
            let cause = if urgent { BuildCause::Urgent } else { BuildCause::Missing };
            search.attempt(&mut plan, bundle, &wanted, cause);
        }
    }
    // What the brake waits for after a mass disappearance has its own time here; a new leader has heard too little.
    if matches!(view.brake, BrakeState::NewLeader { .. }) {
        return plan;
    }
    for number in view.health.long_few_online(view.now) {
        if search.is_over() || search.builder.is_spent_on_away() {
            break;
        }
        let is_planned = plan.builds.iter().any(|build| build.bundle == number);
        let Some((bundle, standing)) = search.free(number).filter(|_| !is_planned) else { continue };
        search.attempt(&mut plan, bundle, &awaited_online(bundle, standing), BuildCause::Away);
    }
    plan
}

/// Judges all bundles without planning anything: what `status` shows.
pub fn survey(view: &PlanningView<'_>) -> RepairPlan {
    plan_repairs(view, &PlanningBudget::NOTHING, [0; 32])
}

/// Shards to be made though they are durable, so that a bundle with few shards online has some more than the urgent
/// threshold: not all, for those that are away may come back.
fn awaited_online(bundle: &BundleView, standing: &Standing) -> Vec<ShardIndex> {
    let scheme = bundle.scheme;
    let step = (scheme.n() - scheme.k()).div_ceil(5);
    let enough = scheme.urgent_threshold().saturating_add(step).min(scheme.n());
    let online = standing.presence.online;
    online.missing_below(scheme.n()).take(enough.saturating_sub(online.len()).into()).collect()
}

/// One look for repairs to order.
struct Search<'a> {
    view: &'a PlanningView<'a>,
    builder: Builder<'a>,
    attempts_left: usize,
}

impl<'a> Search<'a> {
    const fn is_over(&self) -> bool {
        self.builder.is_spent() || self.attempts_left == 0
    }

    /// A bundle that nothing is on its way to and that was not put off.
    fn free(&self, number: BundleNumber) -> Option<(&'a BundleView, &'a Standing)> {
        let bundle = self.view.catalogue.bundle(number)?;
        let free = self.view.is_at_rest(bundle) && !self.view.orders.is_put_off(number);
        Some((bundle, self.view.health.standing(number)?)).filter(|_| free)
    }

    fn attempt(
        &mut self,
        plan: &mut RepairPlan,
        bundle: &BundleView,
        shards: &[ShardIndex],
        cause: BuildCause,
    ) {
        self.attempts_left -= 1;
        match self.builder.repair(bundle, shards, cause) {
            Ok(build) => plan.builds.push(build),
            Err(NotBuilt::Busy) => {}
            Err(NotBuilt::NoHome | NotBuilt::NoSource) => plan.put_off.push(bundle.number),
        }
    }
}

/// Bundles with a missing shard, or one that has to lie elsewhere by the caps, for which these leave no node.
fn at_risk(view: &PlanningView<'_>) -> BTreeMap<BundleNumber, BTreeSet<Cap>> {
    let mut taken = Taken::new(view.fleet.caps(), 0);
    let mut lacks_home = |number| Some((number, kept_from_homes_of(view, number, &mut taken)?));
    let mut at_risk = BTreeMap::new();
    // What a country may have is all in which bundles of different n differ.
    let mut spare_homes = BTreeMap::new();
    for (wanted, bundles) in view.health.wanting() {
        let spare = spare_homes.entry(Caps::per_country(wanted.n));
        let spare = spare.or_insert_with(|| SpareHomes::measure(view.fleet, wanted.n));
        if !spare.suffice(wanted) {
            at_risk.extend(bundles.iter().filter_map(&mut lacks_home));
        }
    }
    at_risk
}

/// The caps that keep all nodes from taking what a bundle lacks, or has too much of in one place, if they are all kept
/// from it.
///
/// In a `public` archive of several nodes a bundle lacks something, too, whose scheme is as narrow as caps leave it, so
/// that one or two nodes hold all of it.
fn kept_from_homes_of(
    view: &PlanningView<'_>,
    number: BundleNumber,
    taken: &mut Taken,
) -> Option<BTreeSet<Cap>> {
    let (bundle, standing) = view.catalogue.bundle(number).zip(view.health.standing(number))?;
    let n = bundle.scheme.n();
    let wanted = if view.fleet.caps().is_public() {
        let nodes = u8::try_from(view.fleet.count_eligible()).unwrap_or(u8::MAX);
        n.max(COPIES_LEAST.min(nodes))
    } else {
        n
    };
    let missing = standing.presence.durable.missing_below(wanted).count();
    let homeless = missing + count_too_much(bundle, view.fleet, taken);
    if homeless == 0 { None } else { kept_from_homes(view.fleet, homeless, taken) }
}

/// For those who ask about one bundle: whether it is at risk, and which caps are why.
pub(crate) fn at_risk_by(view: &PlanningView<'_>, number: BundleNumber) -> Option<BTreeSet<Cap>> {
    kept_from_homes_of(view, number, &mut Taken::new(view.fleet.caps(), 0))
}

/// Bytes that missing shards still need room for.
fn awaited_bytes(view: &PlanningView<'_>, at_risk: &BTreeMap<BundleNumber, BTreeSet<Cap>>) -> u64 {
    let uploads = view.catalogue.awaited_codings(view.now);
    let uploads = uploads.into_iter().filter_map(|coding| view.catalogue.bundle_of(coding));
    let set_aside: BTreeSet<_> = at_risk.keys().copied().chain(uploads.map(|bundle| bundle.number)).collect();
    let standings = set_aside.iter().filter_map(|number| view.health.standing(*number));
    let mut elsewhere: u64 = standings.map(Standing::missing_bytes).sum();
    for build in view.orders.plans().filter(|build| !set_aside.contains(&build.bundle)) {
        let Some(standing) = view.health.standing(build.bundle) else { continue };
        // Shards of a second coding are another matter.
        let Some(bundle) = view.catalogue.bundle_of(build.coding) else { continue };
        let awaited = |(index, _): &&(ShardIndex, NodeNumber)| {
            standing.class != HealthClass::Lost
                && index.0 < bundle.scheme.n()
                && !standing.presence.durable.contains(*index)
        };
        elsewhere += bundle.file_bytes.saturating_mul(build.targets.iter().filter(awaited).count() as u64);
    }
    view.health.tally().missing_bytes.saturating_sub(elsewhere)
}

/// Whether a bundle is whole enough for moves: repair comes first.
pub(crate) fn needs_no_repair(view: &PlanningView<'_>, bundle: &BundleView) -> bool {
    let threshold = repair_threshold(bundle.scheme, view.catalogue.policy());
    view.health.standing(bundle.number).is_some_and(|standing| standing.presence.durable.len() > threshold)
}
