//! How much of their lines nodes give to repair and moves.
//!
//! Owns: for each node until when its part of uploading is taken by what was ordered. Always holds: over any time no
//! more is ordered of a node than its part of the rate that it names, but for what is ordered a minute ahead and one
//! build; what is done for shards that are only away takes a fifth of all that at most. A node that names no rate has
//! no bound here. Uploading is what counts: lines of homes are slow in that direction, and what one node receives
//! another one sends.
//! Leaves to others: keeping the pace itself (the node), which builds are worth it (`builder`).

use std::collections::BTreeMap;
use std::time::Duration;

use firn_base::{ShardIndex, Timestamp};
use firn_wire::{NodeState, REPAIR_PER_CENT};

use crate::fleet::{FleetNode, FleetView};
use crate::state::NodeNumber;

/// The part of all that for shards that are durable but away.
const AWAY_PER_CENT: u64 = 20;

// Orders are given so far ahead, so that no line waits for the next.
const AHEAD: Duration = Duration::from_secs(60);

/// What is ordered of the nodes' lines.
#[derive(Debug, Clone, Default)]
pub(crate) struct RepairTraffic {
    busy_until: BTreeMap<NodeNumber, Timestamp>,
    away_busy_until: Timestamp,
}

/// For how long a build takes the repair part of whose line.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LineShares {
    nodes: Vec<(NodeNumber, Duration)>,
    away: Duration,
}

impl LineShares {
    /// The time in which the slowest line is done with its part, if it does nothing else for repair.
    pub fn longest(&self) -> Duration {
        self.nodes.iter().map(|(_, takes)| *takes).max().unwrap_or_default()
    }

    /// What an order takes of which `sources` are read, each for `read_bytes`, and whose worker sends `sent_bytes`.
    pub(crate) fn of_order(
        fleet: &FleetView,
        sources: &[(ShardIndex, NodeNumber)],
        read_bytes: u64,
        worker: NodeNumber,
        sent_bytes: u64,
    ) -> Self {
        let mut lines = Self::default();
        for node in sources.iter().filter_map(|(_, node)| fleet.node(*node)) {
            lines.upload(node, read_bytes);
        }
        if let Some(node) = fleet.node(worker).filter(|_| sent_bytes > 0) {
            lines.upload(node, sent_bytes);
        }
        lines
    }

    /// A node shall upload `bytes`.
    fn upload(&mut self, node: &FleetNode, bytes: u64) {
        if let Some(rate) = repair_rate(node) {
            self.nodes.push((node.number, takes(bytes, rate)));
        }
    }

    /// All that, `bytes` altogether, is for shards that are only away.
    pub(crate) fn for_away(&mut self, fleet: &FleetView, bytes: u64) {
        if let Some(rate) = away_rate(fleet) {
            self.away = takes(bytes, rate);
        }
    }
}

impl RepairTraffic {
    /// For how long a node's part is taken.
    pub(crate) fn busy_for(&self, node: NodeNumber, now: Timestamp) -> Duration {
        self.busy_until.get(&node).map_or(Duration::ZERO, |busy| busy.since(now))
    }

    /// In how long a node would be done with uploading `bytes` more.
    pub(crate) fn done_after(&self, node: &FleetNode, bytes: u64, now: Timestamp) -> Duration {
        let own = repair_rate(node).map_or(Duration::ZERO, |rate| takes(bytes, rate));
        self.busy_for(node.number, now).saturating_add(own)
    }

    /// Whether more may be ordered of a node.
    pub(crate) fn has_room(&self, node: NodeNumber, now: Timestamp) -> bool {
        self.busy_for(node, now) <= AHEAD
    }

    /// Whether more may be ordered for shards that are only away.
    pub(crate) fn has_room_for_away(&self, now: Timestamp) -> bool {
        self.away_busy_until <= now.after(AHEAD)
    }

    /// A build was ordered.
    pub(crate) fn take(&mut self, shares: &LineShares, now: Timestamp) {
        for (node, takes) in &shares.nodes {
            let busy = self.busy_until.entry(*node).or_insert(now);
            *busy = (*busy).max(now).after(*takes);
        }
        self.away_busy_until = self.away_busy_until.max(now).after(shares.away);
    }

    /// Forgets what is over.
    pub(crate) fn expire(&mut self, now: Timestamp) {
        self.busy_until.retain(|_, busy| *busy > now);
    }
}

/// Bytes per second that a node uploads for repair; none if it names no rate. One that leaves gives all it has, for it
/// is done the sooner.
fn repair_rate(node: &FleetNode) -> Option<u64> {
    let rate = node.max_upload?.bytes_per_second;
    Some(if node.state == NodeState::Draining { rate } else { part(rate, REPAIR_PER_CENT) })
}

/// Bytes per second for shards that are only away; none if a node online names no rate.
fn away_rate(fleet: &FleetView) -> Option<u64> {
    let online = fleet.nodes().filter(|node| node.online);
    let all: Option<Vec<u64>> = online.map(repair_rate).collect();
    Some(part(all?.into_iter().fold(0, u64::saturating_add), AWAY_PER_CENT))
}

fn part(rate: u64, per_cent: u64) -> u64 {
    u64::try_from(u128::from(rate) * u128::from(per_cent) / 100).unwrap_or(u64::MAX)
}

fn takes(bytes: u64, bytes_per_second: u64) -> Duration {
    let millis = u128::from(bytes) * 1000 / u128::from(bytes_per_second.max(1));
    // A line so slow that its part takes a year is busy for good.
    Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX).min(365 * 86_400_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeNumber = NodeNumber(1);

    fn shares(seconds: u64) -> LineShares {
        LineShares { nodes: vec![(NODE, Duration::from_secs(seconds))], away: Duration::ZERO }
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    #[test]
    fn what_is_ordered_over_an_hour_fits_into_it() {
        let mut traffic = RepairTraffic::default();
        let mut ordered = 0;
        for second in 0..3600 {
            if traffic.has_room(NODE, at(second)) {
                traffic.take(&shares(45), at(second));
                ordered += 45;
            }
        }
        assert!((3600..=3600 + 60 + 45).contains(&ordered), "{ordered}");
    }

    #[test]
    fn a_pause_saves_nothing_up() {
        let mut traffic = RepairTraffic::default();
        traffic.take(&shares(61), at(0));
        assert!(!traffic.has_room(NODE, at(0)) && traffic.has_room(NODE, at(1)));
        traffic.expire(at(10_000));
        traffic.take(&shares(61), at(10_000));
        assert!(!traffic.has_room(NODE, at(10_000)));
    }

    #[test]
    fn times_are_those_of_the_rate() {
        assert_eq!(takes(375_000, part(1_250_000, REPAIR_PER_CENT)), Duration::from_secs(1));
        assert_eq!(takes(u64::MAX, 0), Duration::from_secs(365 * 86_400));
    }
}
