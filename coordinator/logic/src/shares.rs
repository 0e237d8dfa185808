//! How full nodes are, measured against the fleet.
//!
//! Owns: what counts as used, the fleet's share, and which nodes differ too much from it. Always holds: bytes on
//! their way count at their new home and no more at the old one, and surplus, which waits for trash, counts nowhere:
//! nobody is relieved twice.
//! Leaves to others: which shard goes where (`balance`).

use firn_wire::NodeState;

use crate::build_plan::BuildPlan;
use crate::fleet::FleetNode;
use crate::planning::PlanningView;
use crate::state::NodeNumber;

// Used shares that differ by less are not worth the traffic, for new shards go to emptier nodes anyway: 5 points.
const TOLERANCE_PER_CENT: u64 = 5;
// A fuller node has little room for what its own bundles' repairs bring, and its owner little to spare.
const FULL_PER_CENT: u64 = 90;
const MILLION: u64 = 1_000_000;

/// How far a node may be taken by what it gives or takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Down or up to the mark.
    Mark,
    /// Beyond it, but never so far that it would differ too much.
    Tolerance,
}

/// The used share of one node that takes part: what it keeps of its quota, beside what the fleet keeps of its own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UsedShare {
    quota_bytes: u64,
    kept_bytes: u64,
    /// What it would keep at the fleet's share, or at 90 % of its quota if the fleet is fuller.
    mark_bytes: u64,
    upper_bytes: u64,
    lower_bytes: u64,
    used_millionths: u64,
}

impl UsedShare {
    fn new(quota_bytes: u64, kept_bytes: u64, fleet_kept: u128, fleet_quota: u128) -> Self {
        let at_fleet_share = u128::from(quota_bytes).saturating_mul(fleet_kept) / fleet_quota.max(1);
        let full_bytes = per_cent(quota_bytes, FULL_PER_CENT);
        let at_fleet_share = u64::try_from(at_fleet_share).unwrap_or(u64::MAX);
        let tolerated_bytes = per_cent(quota_bytes, TOLERANCE_PER_CENT);
        let mark_bytes = at_fleet_share.min(full_bytes);
        Self {
            quota_bytes,
            kept_bytes,
            mark_bytes,
            upper_bytes: at_fleet_share.saturating_add(tolerated_bytes).min(full_bytes),
            lower_bytes: mark_bytes.saturating_sub(tolerated_bytes),
            used_millionths: 0,
        }
        .keeping(kept_bytes)
    }

    fn keeping(self, kept_bytes: u64) -> Self {
        let used = u128::from(kept_bytes) * u128::from(MILLION) / u128::from(self.quota_bytes.max(1));
        Self { kept_bytes, used_millionths: u64::try_from(used).unwrap_or(u64::MAX), ..self }
    }

    /// Bytes that it holds too much: above the fleet's share by more than is tolerated, or above 90 %.
    pub(crate) const fn excess_bytes(&self) -> u64 {
        self.kept_bytes.saturating_sub(self.upper_bytes)
    }

    /// Bytes that it lacks: below the mark by more than is tolerated.
    pub(crate) const fn deficit_bytes(&self) -> u64 {
        self.lower_bytes.saturating_sub(self.kept_bytes)
    }

    /// Whether it stays within `reach` without `bytes`.
    pub(crate) const fn may_give(&self, bytes: u64, reach: Reach) -> bool {
        let least = match reach {
            Reach::Mark => self.mark_bytes,
            Reach::Tolerance => self.lower_bytes,
        };
        self.kept_bytes >= least.saturating_add(bytes)
    }

    /// Whether it stays within `reach` with `bytes` more.
    pub(crate) const fn may_take(&self, bytes: u64, reach: Reach) -> bool {
        let most = match reach {
            Reach::Mark => self.mark_bytes,
            Reach::Tolerance => self.upper_bytes,
        };
        self.kept_bytes.saturating_add(bytes) <= most
    }

    /// What it keeps, in millionths of its quota: for comparing nodes.
    pub(crate) const fn used_millionths(&self) -> u64 {
        self.used_millionths
    }
}

/// The used shares of all nodes that could give or take a shard now: active, online and proved.
#[derive(Debug)]
pub(crate) struct UsedShares {
    nodes: Vec<Option<UsedShare>>,
    excess_bytes: u64,
    deficit_bytes: u64,
    mean_shard_bytes: u64,
}

impl UsedShares {
    /// Used shares when all orders and all of `planned` have been carried out.
    ///
    /// The fleet's share is that of all active nodes that count, online or not, together: nodes which reboot must
    /// not change it.
    pub(crate) fn new(view: &PlanningView<'_>, planned: &[BuildPlan]) -> Self {
        let kept = kept_bytes(view, planned);
        let kept_by = |node: &FleetNode| kept.get(node.number.position()).copied().unwrap_or_default();
        let counts = |node: &&FleetNode| node.state == NodeState::Active && node.counted;
        let (mut fleet_kept, mut fleet_quota, mut shards) = (0_u128, 0_u128, 0_u128);
        for node in view.fleet.nodes().filter(counts) {
            fleet_kept += u128::from(kept_by(node));
            fleet_quota += u128::from(node.quota_bytes);
            shards += u128::from(view.catalogue.node(node.number).map_or(0, |record| record.shards));
        }
        let mean_shard_bytes = u64::try_from(fleet_kept / shards.max(1)).unwrap_or(u64::MAX).max(1);
        let mut shares =
            Self { nodes: vec![None; kept.len()], excess_bytes: 0, deficit_bytes: 0, mean_shard_bytes };
        for node in view.fleet.nodes().filter(counts).filter(|node| node.online && node.proved) {
            let share = UsedShare::new(node.quota_bytes, kept_by(node), fleet_kept, fleet_quota);
            shares.put(node.number, share);
        }
        shares
    }

    /// Whether no node differs too much.
    pub(crate) const fn are_even(&self) -> bool {
        self.excess_bytes == 0 && self.deficit_bytes == 0
    }

    /// Whether too-full nodes have more to give than too-empty ones lack: some of it must go to others.
    pub(crate) const fn has_more_excess(&self) -> bool {
        self.excess_bytes > self.deficit_bytes
    }

    /// Whether too-empty nodes lack more than too-full ones have to give: some of it must come from others.
    pub(crate) const fn has_more_deficit(&self) -> bool {
        self.deficit_bytes > self.excess_bytes
    }

    /// A node's share; none if it takes no part.
    pub(crate) fn of(&self, node: NodeNumber) -> Option<&UsedShare> {
        self.nodes.get(node.position())?.as_ref()
    }

    /// All shares, by node.
    pub(crate) fn all(&self) -> impl Iterator<Item = (NodeNumber, &UsedShare)> {
        (0..).map(NodeNumber).zip(&self.nodes).filter_map(|(node, share)| Some((node, share.as_ref()?)))
    }

    /// About how many shards have to move until no node differs too much: no fewer bytes would do, each shard
    /// taken for one of mean size, as far as there are nodes that may give and take them.
    pub(crate) fn shards_to_move(&self) -> u64 {
        let (mut above, mut below) = (0_u64, 0_u64);
        for (_, share) in self.all() {
            above = above.saturating_add(share.kept_bytes.saturating_sub(share.mark_bytes));
            below = below.saturating_add(share.mark_bytes.saturating_sub(share.kept_bytes));
        }
        let bytes = self.excess_bytes.min(below).max(self.deficit_bytes.min(above));
        bytes.div_ceil(self.mean_shard_bytes)
    }

    /// Notes that `bytes` will go from one node to another.
    pub(crate) fn shift(&mut self, from: NodeNumber, to: NodeNumber, bytes: u64) {
        if let (Some(giver), Some(taker)) = (self.of(from).copied(), self.of(to).copied()) {
            self.put(from, giver.keeping(giver.kept_bytes.saturating_sub(bytes)));
            self.put(to, taker.keeping(taker.kept_bytes.saturating_add(bytes)));
        }
    }

    fn put(&mut self, node: NodeNumber, share: UsedShare) {
        if let Some(place) = self.nodes.get_mut(node.position()) {
            let before = place.map_or((0, 0), |before| (before.excess_bytes(), before.deficit_bytes()));
            self.excess_bytes =
                self.excess_bytes.saturating_sub(before.0).saturating_add(share.excess_bytes());
            self.deficit_bytes =
                self.deficit_bytes.saturating_sub(before.1).saturating_add(share.deficit_bytes());
            *place = Some(share);
        }
    }
}

/// What each node keeps for good: assigned bytes without surplus, with what is to come and without what is to leave.
fn kept_bytes(view: &PlanningView<'_>, planned: &[BuildPlan]) -> Vec<u64> {
    let nodes = view.fleet.nodes().last().map_or(0, |last| last.number.position() + 1);
    let (mut kept, mut leaving) = (vec![0_u64; nodes], vec![0_u64; nodes]);
    let add = |sums: &mut Vec<u64>, node: NodeNumber, bytes: u64| {
        if let Some(sum) = sums.get_mut(node.position()) {
            *sum = sum.saturating_add(bytes);
        }
    };
    view.catalogue.nodes().for_each(|node| add(&mut kept, node.number, node.assigned_bytes));
    view.catalogue.surplus().for_each(|copy| add(&mut leaving, copy.node, copy.file_bytes));
    for build in view.orders.plans().chain(planned) {
        build.targets.iter().for_each(|(_, node)| add(&mut kept, *node, build.file_bytes));
        build.retire.iter().for_each(|(_, node)| add(&mut leaving, *node, build.file_bytes));
    }
    kept.iter().zip(leaving).map(|(kept, leaving)| kept.saturating_sub(leaving)).collect()
}

fn per_cent(bytes: u64, per_cent: u64) -> u64 {
    u64::try_from(u128::from(bytes) * u128::from(per_cent) / 100).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node of 1000 bytes in a fleet that uses `fleet_per_cent`.
    fn share(kept_bytes: u64, fleet_per_cent: u128) -> UsedShare {
        UsedShare::new(1000, kept_bytes, fleet_per_cent, 100)
    }

    #[test]
    fn a_share_differs_too_much_beyond_five_points() {
        assert_eq!((share(450, 40).excess_bytes(), share(350, 40).deficit_bytes()), (0, 0));
        assert_eq!((share(460, 40).excess_bytes(), share(330, 40).deficit_bytes()), (10, 20));
    }

    #[test]
    fn a_node_gives_and_takes_only_down_and_up_to_the_share_of_the_fleet() {
        assert!(share(420, 40).may_give(20, Reach::Mark) && !share(420, 40).may_give(21, Reach::Mark));
        assert!(share(380, 40).may_take(20, Reach::Mark) && !share(380, 40).may_take(21, Reach::Mark));
    }

    #[test]
    fn beyond_the_share_of_the_fleet_it_gives_and_takes_what_is_tolerated() {
        let (giver, taker) = (share(420, 40), share(380, 40));
        assert!(giver.may_give(70, Reach::Tolerance) && !giver.may_give(71, Reach::Tolerance));
        assert!(taker.may_take(70, Reach::Tolerance) && !taker.may_take(71, Reach::Tolerance));
    }

    #[test]
    fn beyond_ninety_per_cent_a_node_is_too_full_whatever_the_fleet() {
        assert_eq!((share(910, 88).excess_bytes(), share(930, 95).excess_bytes()), (10, 30));
        assert!(share(930, 95).may_give(30, Reach::Mark) && !share(930, 95).may_give(31, Reach::Mark));
        assert!(
            share(890, 95).may_take(10, Reach::Tolerance) && !share(890, 95).may_take(11, Reach::Tolerance)
        );
    }

    #[test]
    fn a_quota_below_what_is_held_leaves_an_excess_even_if_it_is_zero() {
        assert_eq!(share(1500, 40).excess_bytes(), 1050);
        assert_eq!(UsedShare::new(0, 7, 40, 100).excess_bytes(), 7);
    }
}
