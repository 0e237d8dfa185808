//! Orders that are on their way: soft state of the leader.
//!
//! Owns: leases on builds and deletions, each with a deadline. Always holds: one build of a bundle at a time, so
//! that nothing is made twice; a node whose copy of a shard is being trashed is offered no shard of the same
//! coding, so that no late deletion hits a new copy; a node is asked to delete only what it said it would after its
//! last deletion. Leaves to others: sending them (the shell).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use firn_base::{BundleNumber, CodingId, ReservationId, ShardIndex, Timestamp};

use crate::build_plan::{BuildCause, BuildPlan};
use crate::repair_traffic::RepairTraffic;
use crate::state::NodeNumber;

/// What the leader has ordered and not yet heard the end of.
#[derive(Debug, Clone, Default)]
pub struct Orders {
    builds: BTreeMap<ReservationId, (BuildPlan, Timestamp)>,
    building: BTreeSet<BundleNumber>,
    resting: BTreeMap<BundleNumber, Timestamp>,
    put_off: BTreeMap<BundleNumber, Timestamp>,
    traffic: RepairTraffic,
    trashing: BTreeMap<(CodingId, NodeNumber, ShardIndex), Timestamp>,
    deletions: BTreeMap<NodeNumber, LastDeletion>,
    /// What any node said before counts for no deletion: the leader before may have ordered some.
    settled: Timestamp,
}

/// The last deletion on a node that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct LastDeletion {
    ended: Timestamp,
    /// What the node says of itself counts for further deletions if it is heard from then on.
    settled: Timestamp,
}

/// How a deletion ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeletionEnd {
    /// The copy is in trash, or was not there.
    Done,
    /// The node refused.
    Refused,
}

/// A heartbeat that was written before a deletion does not arrive later than this after it: nodes wait no longer for
/// an answer.
const HEARTBEAT_UNDER_WAY_MAX: Duration = Duration::from_secs(4);

/// A node that refused is not asked again before: it was told more than it does, and alarms its owner.
const REFUSED_REST: Duration = Duration::from_secs(600);

impl Orders {
    /// No orders, and none before.
    pub fn new() -> Self {
        Self::default()
    }

    /// No orders of a leader that leads since `now`. What another ordered before is not known here: nodes refuse it from
    /// the first answer to a heartbeat on, and what they say of their allowances then knows of it.
    pub fn succeeding(now: Timestamp) -> Self {
        Self { settled: now.after(HEARTBEAT_UNDER_WAY_MAX), ..Self::default() }
    }

    /// A build was ordered at `now` under the name `id`; its tickets end at `deadline`.
    pub fn begin_build(&mut self, id: ReservationId, plan: BuildPlan, now: Timestamp, deadline: Timestamp) {
        self.traffic.take(&plan.lines, now);
        self.building.insert(plan.bundle);
        self.builds.insert(id, (plan, deadline));
    }

    /// A build ended. Gives its plan back, unless its deadline had passed before. With `retry_after` the bundle
    /// is not built again before: for builds that failed.
    pub fn finish_build(&mut self, id: ReservationId, retry_after: Option<Timestamp>) -> Option<BuildPlan> {
        let (plan, _) = self.builds.remove(&id)?;
        self.building.remove(&plan.bundle);
        if let Some(time) = retry_after {
            self.resting.insert(plan.bundle, time);
        }
        Some(plan)
    }

    /// A deletion was ordered; the order ends at `deadline`.
    pub fn begin_trash(&mut self, copy: (NodeNumber, CodingId, ShardIndex), deadline: Timestamp) {
        let (node, coding, index) = copy;
        self.trashing.insert((coding, node, index), deadline);
    }

    /// A deletion was carried out, or will surely not be. An order whose answer was lost stays until its
    /// deadline.
    pub fn finish_trash(
        &mut self,
        copy: (NodeNumber, CodingId, ShardIndex),
        end: DeletionEnd,
        now: Timestamp,
    ) {
        let (node, coding, index) = copy;
        self.trashing.remove(&(coding, node, index));
        self.note_deletion(node, end, now);
    }

    fn note_deletion(&mut self, node: NodeNumber, end: DeletionEnd, now: Timestamp) {
        let rest = match end {
            DeletionEnd::Done => HEARTBEAT_UNDER_WAY_MAX,
            DeletionEnd::Refused => REFUSED_REST,
        };
        let settled = self.deletions.get(&node).map_or(now, |last| last.settled).max(now.after(rest));
        self.deletions.insert(node, LastDeletion { ended: now, settled });
    }

    /// Whether a node that was heard at `heard` may be asked to delete: what it said then knows of everything that it
    /// has deleted. Else two looks at one allowance could ask for more than it has.
    pub fn may_delete(&self, node: NodeNumber, heard: Timestamp) -> bool {
        heard >= self.settled
            && self.deletions.get(&node).is_none_or(|last| heard >= last.settled)
            && !self.trashing.keys().any(|(_, on, _)| *on == node)
    }

    /// Whether a deletion ended on a node at `time` or later: an inventory that was begun by then may still name it.
    pub fn deleted_since(&self, node: NodeNumber, time: Timestamp) -> bool {
        self.deletions.get(&node).is_some_and(|last| last.ended >= time)
    }

    /// Drops what ended by `now`; gives back the builds that nobody reported on.
    pub fn expire(&mut self, now: Timestamp) -> Vec<BuildPlan> {
        self.resting.retain(|_, until| *until > now);
        self.put_off.retain(|_, until| *until > now);
        self.traffic.expire(now);
        let unanswered: Vec<_> =
            self.trashing.iter().filter(|(_, deadline)| **deadline <= now).map(|(copy, _)| *copy).collect();
        for (coding, node, index) in unanswered {
            self.finish_trash((node, coding, index), DeletionEnd::Done, now);
        }
        let over: Vec<_> =
            self.builds.iter().filter(|(_, (_, deadline))| *deadline <= now).map(|(id, _)| *id).collect();
        over.into_iter().filter_map(|id| self.finish_build(id, None)).collect()
    }

    /// Whether a bundle is being built, or rests after a failed build.
    pub fn is_busy(&self, bundle: BundleNumber) -> bool {
        self.building.contains(&bundle) || self.resting.contains_key(&bundle)
    }

    /// No repair was found for a bundle: none is looked for before `until`.
    pub fn put_off(&mut self, bundle: BundleNumber, until: Timestamp) {
        self.put_off.insert(bundle, until);
    }

    /// Whether no repair of a bundle is to be looked for now.
    pub fn is_put_off(&self, bundle: BundleNumber) -> bool {
        self.put_off.contains_key(&bundle)
    }

    /// Which shards of a coding are on their way to which nodes.
    pub fn targets(&self, coding: CodingId) -> &[(ShardIndex, NodeNumber)] {
        let building = self.builds.values().map(|(plan, _)| plan).find(|plan| plan.coding == coding);
        building.map_or(&[], |plan| &plan.targets)
    }

    /// What the builds on their way shall bring about.
    pub(crate) fn plans(&self) -> impl Iterator<Item = &BuildPlan> {
        self.builds.values().map(|(plan, _)| plan)
    }

    /// Builds on their way.
    pub fn builds(&self) -> usize {
        self.builds.len()
    }

    /// What is ordered of the nodes' lines.
    pub(crate) const fn traffic(&self) -> &RepairTraffic {
        &self.traffic
    }

    /// Builds on their way for shards that are only away.
    pub fn away_builds(&self) -> usize {
        self.plans().filter(|plan| plan.cause == BuildCause::Away).count()
    }

    /// Builds on their way by worker.
    pub fn load(&self) -> BTreeMap<NodeNumber, usize> {
        let mut load = BTreeMap::new();
        for (plan, _) in self.builds.values() {
            *load.entry(plan.worker).or_default() += 1;
        }
        load
    }

    /// Bytes on their way by target.
    pub fn bytes_coming(&self) -> BTreeMap<NodeNumber, u64> {
        let mut coming: BTreeMap<NodeNumber, u64> = BTreeMap::new();
        for (plan, _) in self.builds.values() {
            for (_, node) in &plan.targets {
                let bytes = coming.entry(*node).or_default();
                *bytes = bytes.saturating_add(plan.file_bytes);
            }
        }
        coming
    }

    /// Whether a copy is being trashed.
    pub fn is_trashing(&self, copy: (NodeNumber, CodingId, ShardIndex)) -> bool {
        let (node, coding, index) = copy;
        self.trashing.contains_key(&(coding, node, index))
    }

    /// Nodes on which a shard of `coding` is being trashed: not to be chosen for another one now.
    pub fn trashing_of(&self, coding: CodingId) -> BTreeSet<NodeNumber> {
        let from = (coding, NodeNumber(0), ShardIndex(0));
        let own = self.trashing.range(from..).take_while(|((of, _, _), _)| *of == coding);
        own.map(|((_, node, _), _)| *node).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repair_traffic::LineShares;

    fn plan(bundle: u32) -> BuildPlan {
        BuildPlan {
            bundle: BundleNumber(bundle),
            coding: CodingId::from_bytes([1; 32]),
            cause: BuildCause::Missing,
            worker: NodeNumber(1),
            sources: vec![(ShardIndex(0), NodeNumber(2))],
            targets: vec![(ShardIndex(1), NodeNumber(1)), (ShardIndex(2), NodeNumber(3))],
            retire: Vec::new(),
            shard_bytes: 90,
            file_bytes: 100,
            made_of: None,
            lines: LineShares::default(),
        }
    }

    #[test]
    fn a_build_is_busy_until_it_ends_or_its_deadline_passes() {
        let (id, time) = (ReservationId::from_bytes([1; 32]), Timestamp::from_millis);
        let mut orders = Orders::new();
        orders.begin_build(id, plan(5), time(1), time(10));
        assert!(orders.is_busy(BundleNumber(5)));
        assert_eq!(orders.bytes_coming().get(&NodeNumber(3)), Some(&100));
        assert_eq!(orders.load().get(&NodeNumber(1)), Some(&1));
        assert_eq!(orders.targets(plan(5).coding)[1], (ShardIndex(2), NodeNumber(3)));
        assert_eq!(orders.targets(CodingId::from_bytes([6; 32])), []);
        assert_eq!(orders.expire(time(9)), []);
        assert_eq!(orders.expire(time(10)), [plan(5)]);
        assert!(!orders.is_busy(BundleNumber(5)));
        assert_eq!(orders.finish_build(id, None), None);
    }

    #[test]
    fn a_failed_build_rests_before_it_is_tried_again() {
        let (id, time) = (ReservationId::from_bytes([1; 32]), Timestamp::from_millis);
        let mut orders = Orders::new();
        orders.begin_build(id, plan(5), time(1), time(10));
        assert_eq!(orders.finish_build(id, Some(time(20))), Some(plan(5)));
        assert!(orders.is_busy(BundleNumber(5)));
        orders.expire(time(20));
        assert!(!orders.is_busy(BundleNumber(5)));
    }

    #[test]
    fn a_node_that_trashes_a_shard_is_offered_none_of_the_same_coding() {
        let coding = CodingId::from_bytes([1; 32]);
        let copy = (NodeNumber(4), coding, ShardIndex(2));
        let mut orders = Orders::new();
        orders.begin_trash(copy, Timestamp::from_millis(10));
        assert!(orders.is_trashing(copy));
        assert_eq!(orders.trashing_of(coding), BTreeSet::from([NodeNumber(4)]));
        assert_eq!(orders.trashing_of(CodingId::from_bytes([2; 32])), BTreeSet::new());
        orders.finish_trash(copy, DeletionEnd::Done, Timestamp::from_millis(5));
        assert!(!orders.is_trashing(copy));
    }

    #[test]
    fn a_node_is_asked_to_delete_more_once_it_was_heard_after_the_last() {
        let (node, other) = (NodeNumber(4), NodeNumber(5));
        let copy = (node, CodingId::from_bytes([1; 32]), ShardIndex(2));
        let at = |seconds: u64| Timestamp::from_millis(1_000_000 + seconds * 1_000);
        let mut orders = Orders::new();
        assert!(orders.may_delete(node, at(0)));
        orders.begin_trash(copy, at(60));
        assert!(!orders.may_delete(node, at(1)) && orders.may_delete(other, at(1)));
        orders.finish_trash(copy, DeletionEnd::Done, at(10));
        assert!(!orders.may_delete(node, at(13)) && orders.may_delete(node, at(14)));
        assert!(orders.deleted_since(node, at(10)) && !orders.deleted_since(node, at(11)));
        orders.begin_trash(copy, at(90));
        orders.finish_trash(copy, DeletionEnd::Refused, at(30));
        assert!(!orders.may_delete(node, at(629)) && orders.may_delete(node, at(630)));
        // One whose answer was lost may have been carried out until its deadline.
        orders.begin_trash(copy, at(700));
        orders.expire(at(700));
        assert!(orders.deleted_since(node, at(700)));
        assert!(!orders.may_delete(node, at(703)) && orders.may_delete(node, at(704)));
    }

    #[test]
    fn a_new_leader_asks_no_node_to_delete_that_was_heard_before_it_led() {
        let at = |seconds: u64| Timestamp::from_millis(1_000_000 + seconds * 1_000);
        let (node, orders) = (NodeNumber(4), Orders::succeeding(at(10)));
        assert!(!orders.may_delete(node, at(9)) && !orders.may_delete(node, at(13)));
        assert!(orders.may_delete(node, at(14)));
    }
}
