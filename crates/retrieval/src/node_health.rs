//! How nodes behaved lately: how long they take, and which to read around for a while.
//!
//! Always holds: a node that failed is asked again after a minute at most, unless it lied; nothing is
//! remembered of more nodes than an archive has. Leaves to others: what an archive thinks of a node.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use firn_base::NodeId;
use tokio::time::Instant;

const AVOID_FIRST: Duration = Duration::from_secs(1);
const AVOID_MOST: Duration = Duration::from_secs(60);

// Wrong bytes come from a bad disk, bad memory or bad faith; none of them passes in a minute.
const AVOID_LIAR: Duration = Duration::from_secs(600);

// What an unknown node is taken to need: a home line of 8 Mbit/s.
const UNKNOWN_PER_UNIT: Duration = Duration::from_millis(65);

// Times are remembered per this many bytes, with one unit on top for the way there and back.
const UNIT_BYTES: u64 = 64 << 10;

#[derive(Debug, Clone, Copy, Default)]
struct Record {
    per_unit: Option<Duration>,
    failures: u32,
    avoid_until: Option<Instant>,
}

/// What is known of nodes' behaviour.
#[derive(Debug, Default)]
pub(crate) struct NodeHealth {
    nodes: Mutex<BTreeMap<NodeId, Record>>,
}

impl NodeHealth {
    /// Whether the node is to be read around now.
    pub(crate) fn avoided(&self, node: NodeId) -> bool {
        self.record(node).avoid_until.is_some_and(|until| Instant::now() < until)
    }

    /// How long the node should take for so many bytes.
    pub(crate) fn expected(&self, node: NodeId, bytes: u64) -> Duration {
        let per_unit = self.record(node).per_unit.unwrap_or(UNKNOWN_PER_UNIT);
        per_unit.saturating_mul(units(bytes))
    }

    /// Whether the node ever answered, so that [`Self::expected`] is more than a guess.
    pub(crate) fn is_known(&self, node: NodeId) -> bool {
        self.record(node).per_unit.is_some()
    }

    /// The node answered.
    pub(crate) fn answered(&self, node: NodeId, bytes: u64, took: Duration) {
        self.change(node, |record| {
            let now = took / units(bytes);
            record.per_unit = Some(record.per_unit.map_or(now, |before| (before * 7 + now) / 8));
            record.failures = 0;
            record.avoid_until = None;
        });
    }

    /// The node failed, or did not answer before others did.
    pub(crate) fn failed(&self, node: NodeId) {
        self.change(node, |record| {
            let wait = AVOID_FIRST.saturating_mul(1 << record.failures.min(10)).min(AVOID_MOST);
            record.failures = record.failures.saturating_add(1);
            record.avoid_until = Some(Instant::now() + wait);
        });
    }

    /// The node sent wrong bytes.
    pub(crate) fn lied(&self, node: NodeId) {
        self.change(node, |record| record.avoid_until = Some(Instant::now() + AVOID_LIAR));
    }

    fn record(&self, node: NodeId) -> Record {
        let nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.get(&node).copied().unwrap_or_default()
    }

    fn change(&self, node: NodeId, change: impl FnOnce(&mut Record)) {
        change(self.nodes.lock().unwrap_or_else(PoisonError::into_inner).entry(node).or_default());
    }
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes / UNIT_BYTES + 1).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_node_that_fails_again_and_again_is_avoided_for_a_minute_at_most() {
        let (health, node) = (NodeHealth::default(), NodeId::from_bytes([1; 32]));
        assert!(!health.avoided(node));
        health.failed(node);
        assert!(health.avoided(node));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!health.avoided(node));
        for _ in 0..40 {
            health.failed(node);
        }
        tokio::time::advance(Duration::from_secs(59)).await;
        assert!(health.avoided(node));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!health.avoided(node));
        health.answered(node, 1, Duration::from_millis(4));
        assert_eq!(health.expected(node, 1), Duration::from_millis(4));
        assert_eq!(health.expected(node, 128 << 10), Duration::from_millis(12));
    }
}
