//! Makes build plans one after the other, each aware of what those before promised.
//!
//! Owns: targets, worker and sources of a build. Always holds: no domain cap is broken against any holder that
//! counts; no worker gets more builds than it may; the room of a target is promised once.
//! Leaves to others: which shards of which bundle (`repair`, `moves`, `balance`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use firn_base::ShardIndex;

use crate::build_plan::{BuildCause, BuildPlan};
use crate::catalogue::BundleView;
use crate::fleet::{FleetView, serves_readers};
use crate::health::goal;
use crate::index_set::IndexSet;
use crate::placement::{Wanted, choose};
use crate::planning::{PlanningBudget, PlanningView};
use crate::repair_traffic::{LineShares, RepairTraffic};
use crate::state::NodeNumber;

// The worker reads from those that answer: three more than k, so that slow or failing ones do not end it.
pub(crate) const SPARE_SOURCES: usize = 3;

/// Makes build plans one after the other.
pub(crate) struct Builder<'a> {
    view: &'a PlanningView<'a>,
    fleet: FleetView,
    load: BTreeMap<NodeNumber, usize>,
    traffic: RepairTraffic,
    builds_left: usize,
    away_builds_left: usize,
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
    pub(crate) cause: BuildCause,
}

/// Why there is no build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotBuilt {
    /// The budget is used up, or whoever could work or be read has as much to do as it may: soon again.
    Busy,
    /// Caps and room leave no node online for any of the shards.
    NoHome,
    /// Fewer than k sources are online.
    NoSource,
}

impl<'a> Builder<'a> {
    pub(crate) fn new(view: &'a PlanningView<'a>, budget: &PlanningBudget, seed: [u8; 32]) -> Self {
        Self {
            view,
            fleet: view.fleet.clone(),
            load: view.orders.load(),
            traffic: view.orders.traffic().clone(),
            builds_left: budget.builds_max,
            away_builds_left: budget.away_builds_max,
            builds_per_worker_max: budget.builds_per_worker_max,
            seed,
        }
    }

    pub(crate) const fn is_spent(&self) -> bool {
        self.builds_left == 0
    }

    /// Whether no more builds for shards that are away may be ordered.
    pub(crate) fn is_spent_on_away(&self) -> bool {
        self.builds_left == 0 || self.away_builds_left == 0 || !self.traffic.has_room_for_away(self.view.now)
    }

    /// A build that makes shards anew.
    pub(crate) fn repair(
        &mut self,
        bundle: &BundleView,
        shards: &[ShardIndex],
        cause: BuildCause,
    ) -> Result<BuildPlan, NotBuilt> {
        // Copies on nodes counted lost are replaced: should the node return, they are surplus. Copies on nodes that
        // are only away stay: they count.
        let lost = |(index, holder): &(ShardIndex, NodeNumber)| {
            shards.contains(index) && self.fleet.node(*holder).is_none_or(|node| !node.counted)
        };
        let replaced: Vec<_> = bundle.placements.iter().copied().filter(lost).collect();
        self.build(&WantedBuild { bundle, shards, replaced: &replaced, cause })
    }

    /// A build of as many of the shards as legal nodes take now.
    pub(crate) fn build(&mut self, wanted: &WantedBuild<'_>) -> Result<BuildPlan, NotBuilt> {
        let WantedBuild { bundle, shards, replaced, .. } = *wanted;
        if self.is_spent() {
            return Err(NotBuilt::Busy);
        }
        let staying = self.staying(bundle, replaced);
        let mut avoid = self.view.orders.trashing_of(bundle.coding);
        // Whoever holds or held any shard of it: one more would be two on one node, or hit a copy in trash.
        avoid.extend(bundle.placements.iter().map(|(_, holder)| *holder));
        let mut seed = blake3::Hasher::new_keyed(&self.seed);
        seed.update(bundle.coding.as_bytes());
        let n = goal(bundle.scheme, self.fleet.width()).n();
        let request = Wanted {
            count: shards.len(),
            n,
            file_bytes: bundle.file_bytes,
            staying: &staying,
            avoid: &avoid,
        };
        let chosen: Vec<_> = choose(&self.fleet, &request, *seed.finalize().as_bytes())
            .iter()
            .map(|node| node.number)
            .collect();
        self.build_on(wanted, &chosen)
    }

    /// A build that brings the shards, in their order, to nodes that the caller found legal.
    pub(crate) fn build_on(
        &mut self,
        wanted: &WantedBuild<'_>,
        chosen: &[NodeNumber],
    ) -> Result<BuildPlan, NotBuilt> {
        let WantedBuild { bundle, shards, replaced, cause } = *wanted;
        if self.is_spent() || (cause == BuildCause::Away && self.is_spent_on_away()) {
            return Err(NotBuilt::Busy);
        }
        let sources = self.sources(bundle, replaced, cause)?;
        let targets: Vec<_> = shards.iter().copied().zip(chosen.iter().copied()).collect();
        let sends = targets.len() > 1;
        let is_busy = |node| self.is_loaded(node) || (sends && !self.has_line(node));
        // The one that is done first: a worker sends all that it does not keep.
        let sent_bytes = bundle.shard_bytes.saturating_mul(targets.len().saturating_sub(1) as u64);
        let done_after = |node| self.done_after(node, sent_bytes);
        let worker = chosen
            .iter()
            .copied()
            .min_by_key(|node| (is_busy(*node), done_after(*node), self.load_of(*node), *node));
        let worker = worker.ok_or(NotBuilt::NoHome)?;
        if is_busy(worker) {
            return Err(NotBuilt::Busy);
        }
        let lines = self.lines(bundle, cause, worker, &sources, &targets);
        self.traffic.take(&lines, self.view.now);
        for (_, node) in &targets {
            self.fleet.promise(*node, bundle.file_bytes);
        }
        *self.load.entry(worker).or_default() += 1;
        self.builds_left -= 1;
        if cause == BuildCause::Away {
            self.away_builds_left -= 1;
        }
        let made = |copy: &&(ShardIndex, NodeNumber)| targets.iter().any(|(index, _)| *index == copy.0);
        Ok(BuildPlan {
            bundle: bundle.number,
            coding: bundle.coding,
            cause,
            worker,
            sources,
            retire: replaced.iter().filter(made).copied().collect(),
            targets,
            shard_bytes: bundle.shard_bytes,
            file_bytes: bundle.file_bytes,
            made_of: None,
            lines,
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

    /// Whom to read: for a move the copy itself where it is online, then k and a few more, those that are done first and
    /// proved ones first. Those that are outside their hours are read, slowly, only by what is urgent.
    fn sources(
        &self,
        bundle: &BundleView,
        replaced: &[(ShardIndex, NodeNumber)],
        cause: BuildCause,
    ) -> Result<Vec<(ShardIndex, NodeNumber)>, NotBuilt> {
        let k = usize::from(bundle.scheme.k());
        let rests = |number| self.fleet.node(number).is_some_and(|node| node.online && node.rest.is_some());
        // When it works again it gives one shard; now k others would be read for that. One that is here though its owner has
        // declared an absence works: nothing is gained by waiting until it has gone.
        if replaced.iter().any(|(_, holder)| rests(*holder)) {
            return Err(NotBuilt::Busy);
        }
        let may_be_read = |rest| cause == BuildCause::Urgent && serves_readers(rest);
        let mut online: Vec<_> = bundle
            .placements
            .iter()
            .filter_map(|copy| {
                let node = self.fleet.node(copy.1).filter(|node| node.online && node.counted)?;
                if !node.rest.is_none_or(may_be_read) {
                    return None;
                }
                let done_after = self.done_after(copy.1, bundle.shard_bytes);
                let is_copied = replaced.contains(copy);
                Some((!is_copied, node.rests(), done_after, !node.proved, self.load_of(copy.1), *copy))
            })
            .collect();
        online.sort_unstable();
        let same_index = online.iter().filter(|(kept, ..)| !kept).count();
        let mut taken = IndexSet::default();
        let mut sources = Vec::new();
        for (.., (index, holder)) in online {
            if !taken.contains(index) && sources.len() < k + SPARE_SOURCES + same_index {
                taken.insert(index);
                sources.push((index, holder));
                // Those that will be read are the first ones.
                if !self.has_line(holder) && sources.len() <= needed(same_index, k) {
                    return Err(NotBuilt::Busy);
                }
            }
        }
        if sources.len() < needed(same_index, k) { Err(NotBuilt::NoSource) } else { Ok(sources) }
    }

    /// What a build takes of the lines: each source that is read sends one shard, the worker all that it does not
    /// keep.
    fn lines(
        &self,
        bundle: &BundleView,
        cause: BuildCause,
        worker: NodeNumber,
        sources: &[(ShardIndex, NodeNumber)],
        targets: &[(ShardIndex, NodeNumber)],
    ) -> LineShares {
        let is_moved = |(index, _): &&(ShardIndex, NodeNumber)| targets.iter().any(|(made, _)| made == index);
        let same_index = sources.iter().filter(is_moved).count();
        let read = &sources[..needed(same_index, bundle.scheme.k().into()).min(sources.len())];
        let sent = targets.iter().filter(|(_, node)| *node != worker).count() as u64;
        let sent_bytes = bundle.shard_bytes.saturating_mul(sent);
        let mut lines = LineShares::of_order(&self.fleet, read, bundle.shard_bytes, worker, sent_bytes);
        if cause == BuildCause::Away {
            lines.for_away(&self.fleet, bundle.shard_bytes.saturating_mul(read.len() as u64 + sent));
        }
        lines
    }

    /// In how long a node would be done with uploading `bytes` more for repair.
    fn done_after(&self, node: NodeNumber, bytes: u64) -> Duration {
        let node = self.fleet.node(node);
        node.map_or(Duration::ZERO, |node| self.traffic.done_after(node, bytes, self.view.now))
    }

    fn has_line(&self, node: NodeNumber) -> bool {
        self.traffic.has_room(node, self.view.now)
    }
}

/// How many sources are read: the copies themselves where shards are carried over, else k.
const fn needed(same_index: usize, k: usize) -> usize {
    if same_index > 0 { same_index } else { k }
}
