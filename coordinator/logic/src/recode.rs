//! Planning re-coding: bundles of a young archive get a larger k as its fleet grows.
//!
//! Owns: which bundles are coded anew, and the next step of each. A bundle goes through four: two workers compute the
//! roots of the new coding, each by itself; one node makes its shards and brings them home; another decodes the payload
//! from parity alone; then the new coding counts. What is committed between the steps says where a bundle is, so any
//! leader goes on. Always holds: the old coding stays as it is meanwhile, read, repaired and counted; a k only grows;
//! a coding is begun only where its n shards have legal homes with room beside the reserve, and while nothing is to be
//! repaired; workers and decoder are nodes of which no two can vanish together, of different operators where the archive
//! has several. Leaves to others: comparing the answers and proposing commands (the shell), replaced copies (`tidying`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use firn_base::{BundleNumber, CodingId, Scheme, ShardIndex, shard_bytes};
use firn_bundle::{SHARD_FILE_HEADER_BYTES_MAX, SHARD_FILE_TRAILER_BYTES, outboard_bytes};
use firn_wire::{NodeState, RecodeProgress};

use crate::brake::BrakeState;
use crate::build_plan::{BuildCause, BuildPlan};
use crate::builder::SPARE_SOURCES;
use crate::catalogue::BundleView;
use crate::fleet::{FleetNode, FleetView};
use crate::health::{classify, repair_threshold};
use crate::placement::{Wanted, choose};
use crate::planning::PlanningView;
use crate::repair::needs_no_repair;
use crate::repair_traffic::{LineShares, RepairTraffic};
use crate::reserve_room::Reserve;
use crate::second_codings::SecondView;
use crate::state::NodeNumber;
use crate::taken::Taken;

/// What re-coding has to go by besides the view.
#[derive(Debug, Clone, Copy)]
pub struct RecodeTerms {
    /// The width that the fleet has kept for a while.
    pub steady_width: usize,
    /// Whether repairs are waiting or under way: nothing new is begun then.
    pub repairs_are_due: bool,
    /// Bytes that need room which nothing has set aside yet.
    pub awaited_bytes: u64,
    /// Bundles that may be between their first and their last step at a time.
    pub bundles_max: usize,
    /// Builds on one worker, those on their way included.
    pub builds_per_worker_max: usize,
}

/// One step of one bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecodeStep {
    /// Who does it, and what is read; for [`RecodeWork::Shards`] also what is brought where.
    pub order: BuildPlan,
    /// What is done.
    pub work: RecodeWork,
}

/// What is done in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecodeWork {
    /// The order's worker and another one compute the roots for a new scheme.
    Roots {
        /// The other one.
        other: NodeNumber,
        /// k and n of the new coding.
        scheme: Scheme,
    },
    /// Shards of the second coding are made and brought home.
    Shards,
    /// The order's worker decodes the payload from parity of the second coding.
    Decode,
}

/// What re-coding has to do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RecodePlan {
    /// Steps to order now.
    pub steps: Vec<RecodeStep>,
    /// Second codings to give up.
    pub drops: Vec<(BundleNumber, CodingId)>,
    /// How far the archive has come.
    pub progress: RecodeProgress,
}

/// A second coding that does not count after this long is given up: its bytes serve nobody meanwhile.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(24 * 3600);

/// The scheme to re-code for at a width; none where its parity is less than k, for then nobody could decode a payload
/// from parity alone. Such bundles wait for a wider fleet.
fn target(width: usize) -> Option<Scheme> {
    Scheme::for_width(width).filter(|scheme| scheme.n() - scheme.k() >= scheme.k())
}

/// Plans the next steps. `taken` are bundles that repairs and moves of the same pass are about to touch.
pub fn plan_recoding(
    view: &PlanningView<'_>,
    terms: &RecodeTerms,
    taken: &BTreeSet<BundleNumber>,
    seed: [u8; 32],
) -> RecodePlan {
    let mut planner = Planner::new(view, terms, seed);
    let (allowed, goal) = (target(view.fleet.width()), target(terms.steady_width));
    let older =
        |scheme: Option<Scheme>| scheme.into_iter().flat_map(|scheme| view.health.smaller_than(scheme.k()));
    planner.plan.progress.older = older(allowed).count() as u64;
    for second in view.catalogue.seconds() {
        planner.begun += 1;
        if !taken.contains(&second.view.number) {
            planner.go_on(second);
        }
    }
    planner.begun += planner.roots_under_way();
    let may_begin = view.brake == BrakeState::Free && !terms.repairs_are_due;
    if let Some(goal) = goal.filter(|_| may_begin) {
        for number in older(Some(goal)) {
            if planner.begun >= terms.bundles_max {
                break;
            }
            let bundle = view.catalogue.bundle(number).filter(|_| !taken.contains(&number));
            if let Some(bundle) = bundle.filter(|_| view.catalogue.second(number).is_none())
                && planner.begin(bundle, goal).is_none()
            {
                break;
            }
        }
    }
    planner.plan.progress.under_way = u64::try_from(planner.begun).unwrap_or(u64::MAX);
    planner.plan
}

struct Planner<'a> {
    view: &'a PlanningView<'a>,
    terms: &'a RecodeTerms,
    seed: [u8; 32],
    fleet: FleetView,
    load: BTreeMap<NodeNumber, usize>,
    traffic: RepairTraffic,
    /// Operators with a node that could work.
    operators: usize,
    /// Bundles between their first and last step.
    begun: usize,
    plan: RecodePlan,
}

/// There is no room, or there are no workers: none for other bundles either.
type NoneLeft = Option<()>;

impl<'a> Planner<'a> {
    fn new(view: &'a PlanningView<'a>, terms: &'a RecodeTerms, seed: [u8; 32]) -> Self {
        let operators: BTreeSet<u32> =
            view.fleet.nodes().filter(|node| works(node)).map(|node| node.names.operator).collect();
        Self {
            view,
            terms,
            seed,
            fleet: view.fleet.clone(),
            load: view.orders.load(),
            traffic: view.orders.traffic().clone(),
            operators: operators.len(),
            begun: 0,
            plan: RecodePlan::default(),
        }
    }

    /// Bundles whose new roots are being computed: orders that bring nothing anywhere.
    fn roots_under_way(&self) -> usize {
        let orders = self.view.orders.plans().filter(|plan| plan.targets.is_empty());
        orders.filter(|plan| self.view.catalogue.second(plan.bundle).is_none()).count()
    }

    /// The next step of a bundle with two codings, if one can be taken now.
    fn go_on(&mut self, second: &SecondView) {
        let number = second.view.number;
        // While disks rest none is begun, but until the next window one might be given up, and all its bytes moved anew.
        let may_go_on = matches!(self.view.brake, BrakeState::Free | BrakeState::DisksRest { .. });
        if !may_go_on || self.view.orders.is_busy(number) {
            return;
        }
        let Some(first) = self.view.catalogue.bundle(number) else { return };
        let is_late = self.view.now.since(second.recoding.begun) > GIVEN_UP_AFTER;
        let is_too_wide = target(self.view.fleet.width()).is_none_or(|now| now.k() < second.view.scheme.k());
        if is_late || is_too_wide {
            self.plan.drops.push((number, second.view.coding));
            return;
        }
        let health = classify(&second.view, self.view.fleet);
        let order = match self.shards(first, &second.view, &health.missing) {
            Some(order) => Some((order, RecodeWork::Shards)),
            // What has no home now need not hold up the rest, if it could wait for repair as well.
            None if health.missing.is_empty()
                || health.durable > repair_threshold(second.view.scheme, self.view.catalogue.policy()) =>
            {
                self.decode(second).map(|order| (order, RecodeWork::Decode))
            }
            None => None,
        };
        if let Some((mut order, work)) = order {
            let read = if work == RecodeWork::Shards { first } else { &second.view };
            let worker = order.worker;
            self.promise(&mut order, &[worker], read);
            self.plan.steps.push(RecodeStep { order, work });
        }
    }

    /// Makes what is missing of the second coding from shards of the first.
    fn shards(&self, first: &BundleView, second: &BundleView, missing: &[ShardIndex]) -> Option<BuildPlan> {
        let counted = |number: &NodeNumber| self.fleet.node(*number).is_some_and(|node| node.counted);
        let holders: BTreeSet<NodeNumber> = second.placements.iter().map(|(_, holder)| *holder).collect();
        let staying: Vec<_> = holders.iter().copied().filter(counted).collect();
        let mut avoid = self.view.orders.trashing_of(second.coding);
        avoid.extend(holders);
        let homes = Wanted {
            count: missing.len(),
            n: second.scheme.n(),
            file_bytes: second.file_bytes,
            staying: &staying,
            avoid: &avoid,
        };
        let homes = choose(&self.fleet, &homes, self.draw(second.number));
        let worker =
            homes
                .iter()
                .filter(|node| !self.is_loaded(node.number) && self.has_line(node.number))
                .min_by_key(|node| (self.load.get(&node.number).copied().unwrap_or_default(), node.number))?;
        Some(BuildPlan {
            worker: worker.number,
            targets: missing.iter().copied().zip(homes.iter().map(|node| node.number)).collect(),
            made_of: Some(first.coding),
            ..self.reading(second, self.sources(first, |_| true)?)
        })
    }

    /// Has a third node decode the second coding.
    fn decode(&self, second: &SecondView) -> Option<BuildPlan> {
        let view = &second.view;
        let workers: Vec<&FleetNode> =
            second.recoding.workers.iter().filter_map(|worker| self.fleet.node(*worker)).collect();
        let worker = self.worker(view.number, &workers)?;
        let sources = self.sources(view, |index| index.0 >= view.scheme.k())?;
        Some(BuildPlan { worker, ..self.reading(view, sources) })
    }

    /// Begins with a bundle, if it is well. None if no other bundle could be begun with either.
    fn begin(&mut self, bundle: &BundleView, goal: Scheme) -> NoneLeft {
        let health = classify(bundle, self.view.fleet);
        let is_well = needs_no_repair(self.view, bundle) && !health.unreadable;
        if !is_well || !self.view.is_at_rest(bundle) || self.view.catalogue.is_reserved(bundle.coding) {
            return Some(());
        }
        let Some(sources) = self.sources(bundle, |_| true) else { return Some(()) };
        let file_bytes = file_bytes_bound(bundle, goal);
        let awaited_bytes = self.terms.awaited_bytes.saturating_add(self.unplaced_bytes());
        Reserve::measure(self.view, awaited_bytes).check(goal, file_bytes).ok()?;
        let homes = Wanted {
            count: usize::from(goal.n()),
            n: goal.n(),
            file_bytes,
            staying: &[],
            avoid: &BTreeSet::new(),
        };
        if choose(&self.fleet, &homes, self.seed).len() < homes.count {
            return None;
        }
        let worker = self.worker(bundle.number, &[])?;
        let first = self.fleet.node(worker)?.clone();
        let other = self.worker(bundle.number, &[&first])?;
        let mut order = BuildPlan { worker, ..self.reading(bundle, sources) };
        self.promise(&mut order, &[worker, other], bundle);
        self.begun += 1;
        self.plan.steps.push(RecodeStep { order, work: RecodeWork::Roots { other, scheme: goal } });
        Some(())
    }

    /// Bytes that second codings still need room for, those on their way not counted.
    fn unplaced_bytes(&self) -> u64 {
        let unplaced = |second: &SecondView| {
            let view = &second.view;
            let there = view.placements.len() + self.view.orders.targets(view.coding).len();
            let missing = usize::from(view.scheme.n()).saturating_sub(there);
            view.file_bytes.saturating_mul(missing as u64)
        };
        self.view.catalogue.seconds().map(unplaced).fold(0, u64::saturating_add)
    }

    /// An order that only reads, of nobody yet.
    fn reading(&self, bundle: &BundleView, sources: Vec<(ShardIndex, NodeNumber)>) -> BuildPlan {
        BuildPlan {
            bundle: bundle.number,
            coding: bundle.coding,
            worker: NodeNumber(0),
            sources,
            targets: Vec::new(),
            retire: Vec::new(),
            shard_bytes: bundle.shard_bytes,
            file_bytes: bundle.file_bytes,
            cause: BuildCause::Recode,
            made_of: None,
            lines: LineShares::default(),
        }
    }

    /// Whom to read: data shards first, for they need no arithmetic; k and a few more. None if there are not k.
    fn sources(
        &self,
        bundle: &BundleView,
        may_be_read: impl Fn(ShardIndex) -> bool,
    ) -> Option<Vec<(ShardIndex, NodeNumber)>> {
        let k = bundle.scheme.k();
        let is_online = |number: NodeNumber| {
            let node = self.fleet.node(number);
            node.is_some_and(|node| node.is_reachable() && node.counted && !node.rests())
                && self.has_line(number)
        };
        let mut copies: Vec<_> = bundle
            .placements
            .iter()
            .filter(|(index, holder)| may_be_read(*index) && is_online(*holder))
            .map(|(index, holder)| (index.0 >= k, *index, *holder))
            .collect();
        copies.sort_unstable();
        copies.dedup_by_key(|(_, index, _)| *index);
        copies.truncate(usize::from(k) + SPARE_SOURCES);
        (copies.len() >= usize::from(k))
            .then(|| copies.into_iter().map(|(_, index, holder)| (index, holder)).collect())
    }

    /// A node drawn by lot that can neither vanish nor lie together with any of `others`.
    fn worker(&self, bundle: BundleNumber, others: &[&FleetNode]) -> Option<NodeNumber> {
        let seed = self.draw(bundle);
        let mut taken = Taken::new(self.fleet.caps(), 0);
        taken.begin_workers();
        others.iter().for_each(|other| taken.take(&other.names));
        let is_of_another = |node: &FleetNode| {
            self.operators <= others.len()
                || others.iter().all(|other| node.names.operator != other.names.operator)
        };
        let is_apart = |node: &FleetNode| taken.leaves(&node.names) && is_of_another(node);
        let able =
            self.fleet.nodes().filter(|node| works(node) && !self.is_loaded(node.number) && is_apart(node));
        able.min_by_key(|node| *blake3::keyed_hash(&seed, node.id.as_bytes()).as_bytes())
            .map(|node| node.number)
    }

    fn is_loaded(&self, node: NodeNumber) -> bool {
        self.load.get(&node).copied().unwrap_or_default() >= self.terms.builds_per_worker_max
    }

    fn has_line(&self, node: NodeNumber) -> bool {
        self.traffic.has_room(node, self.view.now)
    }

    /// Takes what an order needs of nodes and lines; each of `workers` reads k shards of `read`.
    fn promise(&mut self, order: &mut BuildPlan, workers: &[NodeNumber], read: &BundleView) {
        let sources = &order.sources[..usize::from(read.scheme.k()).min(order.sources.len())];
        let read_bytes = read.shard_bytes.saturating_mul(workers.len() as u64);
        let sent = order.targets.iter().filter(|(_, node)| *node != order.worker).count() as u64;
        let sent_bytes = order.shard_bytes.saturating_mul(sent);
        order.lines = LineShares::of_order(&self.fleet, sources, read_bytes, order.worker, sent_bytes);
        self.traffic.take(&order.lines, self.view.now);
        for worker in workers {
            *self.load.entry(*worker).or_default() += 1;
        }
        for (_, node) in &order.targets {
            self.fleet.promise(*node, order.file_bytes);
        }
    }

    fn draw(&self, bundle: BundleNumber) -> [u8; 32] {
        *blake3::keyed_hash(&self.seed, &bundle.0.to_le_bytes()).as_bytes()
    }
}

fn works(node: &FleetNode) -> bool {
    node.state == NodeState::Active && node.online && node.proved && !node.rests()
}

/// The most that a shard file of the new coding may take.
fn file_bytes_bound(bundle: &BundleView, goal: Scheme) -> u64 {
    let payload_bytes = bundle.shard_bytes.saturating_mul(bundle.scheme.k().into());
    let shard_bytes = shard_bytes(payload_bytes, goal.k());
    let around = outboard_bytes(shard_bytes)
        .saturating_add(u64::from(SHARD_FILE_HEADER_BYTES_MAX))
        .saturating_add(SHARD_FILE_TRAILER_BYTES as u64);
    shard_bytes.saturating_add(around)
}
