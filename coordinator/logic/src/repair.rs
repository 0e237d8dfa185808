//! Planning repairs: shards made anew on legal nodes, the bundles in most danger first.
//!
//! Owns: which bundles are due, which nodes make and take the shards, what cannot be placed. Always holds: a
//! plan breaks no domain cap against any holder that counts; a bundle is not repaired while its upload may still
//! bring the shard, nor twice at a time; all missing shards are made in one build, which reads k only once.
//! Leaves to others: moves (`moves`), tickets and sending (the shell).

use std::collections::{BTreeMap, BTreeSet};

use firn_base::{BundleNumber, CodingId, ShardIndex, Timestamp};
use firn_wire::BundleHealthCounts;

use crate::brake::BrakeState;
use crate::catalogue::{BundleView, Catalogue};
use crate::fleet::FleetView;
use crate::health::{BundleHealth, HealthClass, IndexSet, classify, count, goal, repair_threshold};
use crate::orders::Orders;
use crate::placement::{Wanted, caps_allow, choose};
use crate::state::NodeNumber;

/// Everything a planner looks at, at one moment.
#[derive(Debug, Clone, Copy)]
pub struct PlanningView<'a> {
    /// The committed state.
    pub catalogue: &'a Catalogue,
    /// The fleet.
    pub fleet: &'a FleetView,
    /// Orders on their way.
    pub orders: &'a Orders,
    /// Whether repair that is not urgent may go on.
    pub brake: BrakeState,
    /// The time.
    pub now: Timestamp,
}

/// How much may be on its way at a time.
#[derive(Debug, Clone, Copy)]
pub struct PlanningBudget {
    /// New builds in this plan.
    pub builds_max: usize,
    /// Builds on one worker, those on their way included: a volunteer's line carries few at a time.
    pub builds_per_worker_max: usize,
}

/// One build: a worker reads sources, makes the shards of the targets and brings them there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildPlan {
    /// The bundle.
    pub bundle: BundleNumber,
    /// Its coding.
    pub coding: CodingId,
    /// Who does it: one of the targets.
    pub worker: NodeNumber,
    /// Holders that are online, the preferred first, each index once; for a move first the shard itself.
    pub sources: Vec<(ShardIndex, NodeNumber)>,
    /// Which shard shall come to which node.
    pub targets: Vec<(ShardIndex, NodeNumber)>,
    /// Copies that become surplus once the same index has its receipt from the target.
    pub retire: Vec<(ShardIndex, NodeNumber)>,
    /// Bytes of each shard.
    pub shard_bytes: u64,
    /// Bytes of each shard's file.
    pub file_bytes: u64,
    /// Whether the bundle is at or below its urgent threshold.
    pub urgent: bool,
}

/// What repair has to do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RepairPlan {
    /// Builds to order now, the most urgent first.
    pub builds: Vec<BuildPlan>,
    /// Bundles with a missing shard for which caps leave no node.
    pub at_risk: Vec<BundleNumber>,
    /// Shards still to be made for bundles that are due, those on their way included.
    pub backlog_shards: u64,
    /// Bytes of shards that are missing, have a legal home, and whose room nothing else has set aside: they are not
    /// on their way, and no upload may still bring them.
    pub awaited_bytes: u64,
    /// All bundles by health.
    pub health: BundleHealthCounts,
}

// The worker reads from those that answer: three more than k, so that slow or failing ones do not end it.
const SPARE_SOURCES: usize = 3;

/// Looks at every bundle and plans the most urgent repairs within `budget`.
pub fn plan_repairs(view: &PlanningView<'_>, budget: &PlanningBudget, seed: [u8; 32]) -> RepairPlan {
    let mut plan = RepairPlan::default();
    let mut due = Vec::new();
    let width = view.fleet.width();
    for bundle in view.catalogue.bundles() {
        let goal = goal(bundle.scheme, width);
        let health = classify(bundle, view.fleet);
        let grown = (bundle.scheme.n()..goal.n()).map(ShardIndex);
        let wanted: Vec<_> = health.missing.iter().copied().chain(grown).collect();
        let lacks_home = !health.missing.is_empty()
            && !caps_allow(view.fleet, health.missing.len(), &holders(bundle, view.fleet));
        count(&mut plan.health, &health, lacks_home);
        if lacks_home {
            plan.at_risk.push(bundle.number);
        }
        if !lacks_home && health.class != HealthClass::Lost {
            plan.awaited_bytes =
                plan.awaited_bytes.saturating_add(awaited_bytes(view, bundle, &health.missing));
        }
        if wanted.is_empty() || health.durable > repair_threshold(goal, view.catalogue.policy()) {
            continue;
        }
        plan.backlog_shards += wanted.len() as u64;
        let urgent = health.durable <= bundle.scheme.urgent_threshold();
        let waits = view.orders.is_busy(bundle.number)
            || view.catalogue.awaits_upload(bundle.coding, view.now)
            || (view.brake != BrakeState::Free && !urgent);
        if !waits && !health.unreadable {
            due.push((!urgent, health.spare, bundle.number, wanted));
        }
    }
    due.sort_unstable();
    let mut builder = Builder::new(view, budget, seed);
    for (not_urgent, _, number, wanted) in due {
        if builder.is_spent() {
            break;
        }
        if let Some(bundle) = view.catalogue.bundle(number) {
            plan.builds.extend(builder.repair(bundle, &wanted, !not_urgent));
        }
    }
    plan
}

/// Judges all bundles without planning anything: what `status` shows.
pub fn survey(view: &PlanningView<'_>) -> RepairPlan {
    plan_repairs(view, &PlanningBudget { builds_max: 0, builds_per_worker_max: 0 }, [0; 32])
}

/// Bytes that the missing shards of a bundle still need room for.
fn awaited_bytes(view: &PlanningView<'_>, bundle: &BundleView, missing: &[ShardIndex]) -> u64 {
    if missing.is_empty() || view.catalogue.awaits_upload(bundle.coding, view.now) {
        return 0;
    }
    let on_their_way = view.orders.targets(bundle.number);
    let waits = |index: &&ShardIndex| !on_their_way.iter().any(|(coming, _)| coming == *index);
    bundle.file_bytes.saturating_mul(missing.iter().filter(waits).count() as u64)
}

/// Nodes that hold a shard of the bundle that counts.
fn holders(bundle: &BundleView, fleet: &FleetView) -> Vec<NodeNumber> {
    let counted = |number: &NodeNumber| fleet.node(*number).is_some_and(|node| node.counted);
    let all: BTreeSet<_> = bundle.placements.iter().map(|(_, holder)| *holder).filter(counted).collect();
    all.into_iter().collect()
}

/// Makes build plans one after the other, each aware of what those before promised.
pub(crate) struct Builder<'a> {
    view: &'a PlanningView<'a>,
    fleet: FleetView,
    load: BTreeMap<NodeNumber, usize>,
    builds_left: usize,
    builds_per_worker_max: usize,
    seed: [u8; 32],
}

/// What one build shall bring about.
pub(crate) struct WantedBuild<'a> {
    pub(crate) bundle: &'a BundleView,
    /// Shards to make.
    pub(crate) shards: &'a [ShardIndex],
    /// Copies that the new ones replace: they take no domain.
    pub(crate) replaced: &'a [(ShardIndex, NodeNumber)],
    pub(crate) urgent: bool,
}

impl<'a> Builder<'a> {
    pub(crate) fn new(view: &'a PlanningView<'a>, budget: &PlanningBudget, seed: [u8; 32]) -> Self {
        Self {
            view,
            fleet: view.fleet.clone(),
            load: view.orders.load(),
            builds_left: budget.builds_max,
            builds_per_worker_max: budget.builds_per_worker_max,
            seed,
        }
    }

    pub(crate) const fn is_spent(&self) -> bool {
        self.builds_left == 0
    }

    fn repair(&mut self, bundle: &BundleView, shards: &[ShardIndex], urgent: bool) -> Option<BuildPlan> {
        // Copies on nodes counted lost are replaced: should the node return, they are surplus.
        let lost = |(index, holder): &(ShardIndex, NodeNumber)| {
            shards.contains(index) && self.fleet.node(*holder).is_none_or(|node| !node.counted)
        };
        let replaced: Vec<_> = bundle.placements.iter().copied().filter(lost).collect();
        self.build(&WantedBuild { bundle, shards, replaced: &replaced, urgent })
    }

    /// A build of as many of the shards as legal nodes take now; none if there is no node, worker or source.
    pub(crate) fn build(&mut self, wanted: &WantedBuild<'_>) -> Option<BuildPlan> {
        let WantedBuild { bundle, shards, replaced, .. } = *wanted;
        if self.is_spent() {
            return None;
        }
        let staying = self.staying(bundle, replaced);
        let mut avoid = self.view.orders.trashing_of(bundle.coding);
        // Whoever holds or held any shard of it: one more would be two on one node, or hit a copy in trash.
        avoid.extend(bundle.placements.iter().map(|(_, holder)| *holder));
        let mut seed = blake3::Hasher::new_keyed(&self.seed);
        seed.update(bundle.coding.as_bytes());
        let request =
            Wanted { count: shards.len(), file_bytes: bundle.file_bytes, staying: &staying, avoid: &avoid };
        let chosen: Vec<_> = choose(&self.fleet, &request, *seed.finalize().as_bytes())
            .iter()
            .map(|node| node.number)
            .collect();
        self.build_on(wanted, &chosen)
    }

    /// A build that brings the shards, in their order, to nodes that the caller found legal.
    pub(crate) fn build_on(&mut self, wanted: &WantedBuild<'_>, chosen: &[NodeNumber]) -> Option<BuildPlan> {
        let WantedBuild { bundle, shards, replaced, urgent } = *wanted;
        if self.is_spent() {
            return None;
        }
        let sources = self.sources(bundle, replaced)?;
        let worker = chosen.iter().copied().min_by_key(|node| (self.load_of(*node), *node))?;
        if self.is_loaded(worker) {
            return None;
        }
        let targets: Vec<_> = shards.iter().copied().zip(chosen.iter().copied()).collect();
        for (_, node) in &targets {
            self.fleet.promise(*node, bundle.file_bytes);
        }
        *self.load.entry(worker).or_default() += 1;
        self.builds_left -= 1;
        let made = |copy: &&(ShardIndex, NodeNumber)| targets.iter().any(|(index, _)| *index == copy.0);
        Some(BuildPlan {
            bundle: bundle.number,
            coding: bundle.coding,
            worker,
            sources,
            retire: replaced.iter().filter(made).copied().collect(),
            targets,
            shard_bytes: bundle.shard_bytes,
            file_bytes: bundle.file_bytes,
            urgent,
        })
    }

    /// Whether a worker has as many builds as it may.
    pub(crate) fn is_loaded(&self, worker: NodeNumber) -> bool {
        self.load_of(worker) >= self.builds_per_worker_max
    }

    /// The fleet, less the room that builds of this pass were promised.
    pub(crate) const fn fleet(&self) -> &FleetView {
        &self.fleet
    }

    fn load_of(&self, node: NodeNumber) -> usize {
        self.load.get(&node).copied().unwrap_or_default()
    }

    /// Holders whose domains are taken: all that count, but for those which give up their only shard.
    fn staying(&self, bundle: &BundleView, replaced: &[(ShardIndex, NodeNumber)]) -> Vec<NodeNumber> {
        let kept = bundle.placements.iter().filter(|copy| !replaced.contains(copy));
        let counted = kept.filter(|(_, holder)| self.fleet.node(*holder).is_some_and(|node| node.counted));
        counted.map(|(_, holder)| *holder).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Whom to read: for a move the copy itself where it is online, then k and a few more, proved ones first.
    fn sources(
        &self,
        bundle: &BundleView,
        replaced: &[(ShardIndex, NodeNumber)],
    ) -> Option<Vec<(ShardIndex, NodeNumber)>> {
        let k = usize::from(bundle.scheme.k());
        let mut online: Vec<_> = bundle
            .placements
            .iter()
            .filter_map(|copy| {
                let node = self.fleet.node(copy.1).filter(|node| node.online && node.counted)?;
                Some((!replaced.contains(copy), !node.proved, self.load_of(copy.1), *copy))
            })
            .collect();
        online.sort_unstable();
        let same_index = online.iter().filter(|(kept, ..)| !kept).count();
        let mut taken = IndexSet::default();
        let mut sources = Vec::new();
        for (_, _, _, (index, holder)) in online {
            if !taken.contains(index) && sources.len() < k + SPARE_SOURCES + same_index {
                taken.insert(index);
                sources.push((index, holder));
            }
        }
        (same_index > 0 || sources.len() >= k).then_some(sources)
    }
}

/// Whether a bundle may be moved or tidied now: nothing is on its way to it.
pub(crate) fn is_at_rest(view: &PlanningView<'_>, bundle: &BundleView) -> bool {
    !view.orders.is_busy(bundle.number) && !view.catalogue.awaits_upload(bundle.coding, view.now)
}

/// Whether a bundle is whole enough for moves: repair comes first.
pub(crate) fn needs_no_repair(view: &PlanningView<'_>, bundle: &BundleView, health: &BundleHealth) -> bool {
    health.durable > repair_threshold(bundle.scheme, view.catalogue.policy())
}
