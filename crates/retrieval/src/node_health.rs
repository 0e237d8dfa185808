//! How nodes behaved lately: how long they take, and which to read around for a while.
//!
//! Always holds: a node that failed is tried again after a minute at most, unless it lied, and then beside a read and not
//! within one, so that nobody waits for it; of several failures at once one counts; nothing is remembered of more nodes
//! than an archive has. Leaves to others: what an archive thinks of a node, the clock.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use firn_base::NodeId;
use tokio::time::Instant;

use crate::latency::{FleetLatency, Latency};

const AVOID_FAILED: Duration = Duration::from_secs(1);
// One late answer says little, and trying again costs nobody time.
const AVOID_SLOW: Duration = Duration::from_millis(200);
const AVOID_BUSY: Duration = Duration::from_millis(500);
const AVOID_MOST: Duration = Duration::from_secs(60);

// Wrong bytes come from a bad disk, bad memory or bad faith; none of them passes in a minute.
const AVOID_LIAR: Duration = Duration::from_secs(600);

// A node that was never heard is late when it takes so many times as long as nine of ten reads from others.
const LATE_TIMES: u32 = 2;

// What a node is taken to need before any was heard: a home line of 8 Mbit/s, 64 KiB at a time.
const UNKNOWN_PER_UNIT: Duration = Duration::from_millis(65);
const UNIT_BYTES: u64 = 64 << 10;

/// What a node did instead of answering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strike {
    /// It cannot be reached, or broke off.
    Failed,
    /// It had not answered when others had, and was late by then.
    Slow,
    /// It says that it is at its limit.
    Busy,
    /// It sent wrong bytes.
    Lied,
}

#[derive(Debug, Clone, Copy, Default)]
struct Record {
    latency: Latency,
    strikes: u32,
    struck: Option<Instant>,
    /// Read around since its last strike; trusted again once it answers.
    avoided: bool,
    /// It lied, and is not tried yet: right answers beside the wrong one change nothing.
    lied: bool,
    /// When a node that is read around is tried.
    try_at: Option<Instant>,
}

/// What to expect of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outlook {
    /// It is to be read around.
    pub(crate) avoided: bool,
    /// It should have answered by then.
    pub(crate) expected: Duration,
    /// After this long it is late.
    pub(crate) patience: Duration,
}

/// How long is waited at least and at most, whatever was measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PatienceBounds {
    pub(crate) least: Duration,
    /// Where the whole fleet takes longer, it is as long as that.
    pub(crate) most: Duration,
}

#[derive(Debug, Default)]
struct Known {
    nodes: BTreeMap<NodeId, Record>,
    /// All nodes together: what is expected of one that was never heard.
    fleet: FleetLatency,
}

/// What is known of nodes' behaviour.
#[derive(Debug, Default)]
pub(crate) struct NodeHealth {
    known: Mutex<Known>,
}

impl NodeHealth {
    /// What to expect of a read of so many bytes.
    pub(crate) fn outlook(&self, node: NodeId, bytes: u64, bounds: PatienceBounds) -> Outlook {
        let known = self.known();
        let record = known.nodes.get(&node).copied().unwrap_or_default();
        let fleet = known.fleet.usual(bytes);
        let late = fleet.map_or(unknown(bytes), |usual| usual.saturating_mul(LATE_TIMES));
        let (expected, patience) = match (record.latency.estimate(bytes), fleet) {
            (Some(own), _) => (own.mean, own.patience()),
            (None, Some(usual)) => (usual, late),
            (None, None) => (late, late.max(bounds.most)),
        };
        let patience = patience.clamp(bounds.least, bounds.most.max(late).max(bounds.least));
        Outlook { avoided: record.avoided, expected, patience }
    }

    /// The node answered.
    pub(crate) fn answered(&self, node: NodeId, bytes: u64, took: Duration) {
        let mut known = self.known();
        known.fleet.observe(bytes, took);
        let record = known.nodes.entry(node).or_default();
        record.latency.observe(bytes, took);
        if record.lied {
            return;
        }
        (record.strikes, record.avoided, record.try_at) = (0, false, None);
    }

    /// The node, which was asked at `asked`, did not answer as it should. What was asked before its last strike counts
    /// with that one.
    pub(crate) fn strike(&self, node: NodeId, strike: Strike, asked: Instant, now: Instant) {
        let mut known = self.known();
        let record = known.nodes.entry(node).or_default();
        record.avoided = true;
        if strike == Strike::Lied {
            (record.lied, record.struck, record.try_at) = (true, Some(now), Some(now + AVOID_LIAR));
            return;
        }
        if record.lied || record.struck.is_some_and(|struck| asked <= struck) {
            return;
        }
        let first = match strike {
            Strike::Failed | Strike::Lied => AVOID_FAILED,
            Strike::Slow => AVOID_SLOW,
            Strike::Busy => AVOID_BUSY,
        };
        let wait = first.saturating_mul(1 << record.strikes.min(10)).min(AVOID_MOST);
        record.strikes = record.strikes.saturating_add(1);
        record.struck = Some(now);
        record.try_at = Some(now + wait);
    }

    /// Whether the node, which is read around, is to be tried now. Whoever is told so tries it; others are not told so
    /// for [`AVOID_MOST`].
    pub(crate) fn take_trial(&self, node: NodeId, now: Instant) -> bool {
        let mut known = self.known();
        let Some(record) = known.nodes.get_mut(&node) else { return false };
        let due = record.avoided && record.try_at.is_some_and(|at| at <= now);
        if due {
            (record.lied, record.try_at) = (false, Some(now + AVOID_MOST));
        }
        due
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unknown(bytes: u64) -> Duration {
    let units = u32::try_from(bytes / UNIT_BYTES + 1).unwrap_or(u32::MAX);
    UNKNOWN_PER_UNIT.saturating_mul(units)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: PatienceBounds =
        PatienceBounds { least: Duration::from_millis(20), most: Duration::from_millis(300) };

    fn node(number: u8) -> NodeId {
        NodeId::from_bytes([number; 32])
    }

    fn avoided(health: &NodeHealth) -> bool {
        health.outlook(node(1), 1, BOUNDS).avoided
    }

    #[test]
    fn a_node_that_fails_again_and_again_is_tried_each_minute_and_trusted_when_it_answers() {
        let (health, mut now) = (NodeHealth::default(), Instant::now());
        assert!(!avoided(&health) && !health.take_trial(node(1), now));
        let mut waits = Vec::new();
        for _ in 0..8 {
            health.strike(node(1), Strike::Failed, now, now);
            let begun = now;
            while !health.take_trial(node(1), now) {
                now += Duration::from_secs(1);
            }
            waits.push((now - begun).as_secs());
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert!(avoided(&health), "until it has answered");
        assert!(!health.take_trial(node(1), now), "one tries for all");
        health.answered(node(1), 1, Duration::from_millis(4));
        assert!(!avoided(&health));
    }

    #[test]
    fn thirty_reads_that_wait_for_a_node_when_it_stalls_are_one_strike() {
        let (health, begun) = (NodeHealth::default(), Instant::now());
        let later = begun + Duration::from_millis(50);
        for _ in 0..30 {
            health.strike(node(1), Strike::Slow, begun, later);
        }
        assert!(!health.take_trial(node(1), later));
        assert!(health.take_trial(node(1), later + AVOID_SLOW));
    }

    #[test]
    fn a_liar_is_not_tried_for_ten_minutes_whatever_else_it_does() {
        let (health, now) = (NodeHealth::default(), Instant::now());
        health.strike(node(1), Strike::Lied, now, now);
        health.strike(node(1), Strike::Slow, now + AVOID_SLOW, now + AVOID_SLOW);
        health.answered(node(1), 1, Duration::from_millis(1));
        assert!(avoided(&health));
        assert!(!health.take_trial(node(1), now + AVOID_LIAR - Duration::from_secs(1)));
        assert!(health.take_trial(node(1), now + AVOID_LIAR));
    }

    #[test]
    fn of_a_node_that_was_never_heard_as_much_is_expected_as_of_the_fleet() {
        let health = NodeHealth::default();
        assert_eq!(health.outlook(node(1), 1, BOUNDS).patience, BOUNDS.most);
        for number in 2..20 {
            health.answered(node(number), 1000, Duration::from_millis(10));
        }
        let stranger = health.outlook(node(1), 1000, BOUNDS);
        assert!(stranger.expected >= Duration::from_millis(10), "{stranger:?}");
        assert!(stranger.patience < Duration::from_millis(40), "{stranger:?}");
        // One that always takes long is not waited for as long as it takes.
        for _ in 0..9 {
            health.answered(node(1), 1000, Duration::from_secs(2));
        }
        assert_eq!(health.outlook(node(1), 1000, BOUNDS).patience, BOUNDS.most);
    }
}
