//! What healing and balance have to cost at least, computed from what was there before.

use std::collections::BTreeMap;
use std::fmt;

use crate::snapshot::{Node, Snapshot};

/// What is gone with some nodes.
#[derive(Debug, Default)]
pub(crate) struct Loss {
    /// Shards.
    pub(crate) shards: u64,
    /// Bundles that lost any.
    pub(crate) bundles: u64,
    /// Bytes of the shards.
    pub(crate) lost_bytes: u64,
    /// Bytes to read and send when each bundle is repaired once: k shards in, d shards out.
    pub(crate) bound_bytes: u64,
}

impl Loss {
    /// The loss when the nodes `dead`, by failure domain, are gone.
    pub(crate) fn of(before: &Snapshot, dead: &[String]) -> Self {
        let is_dead =
            |id: &str| before.nodes.iter().any(|node| node.node == id && dead.contains(&node.failure_domain));
        let mut loss = Self::default();
        for bundle in &before.bundles {
            let lost: u64 = bundle.copies().filter(|(_, _, node)| is_dead(node)).map(|_| 1).sum();
            if lost > 0 {
                loss.shards += lost;
                loss.bundles += 1;
                loss.lost_bytes += lost * bundle.shard_bytes;
                loss.bound_bytes += (bundle.scheme.k + lost) * bundle.shard_bytes;
            }
        }
        loss
    }
}

/// How equally full nodes are. Shares are parts of a million of the quota.
pub(crate) struct Evenness {
    fleet: u64,
    least: u64,
    most: u64,
    least_bytes: u64,
}

// The archive's own tolerance: 5 points.
const TOLERANCE: u64 = 50_000;
const MILLION: u128 = 1_000_000;

impl Evenness {
    /// Of the active nodes, that keep so many bytes.
    pub(crate) fn of(nodes: &[Node], kept: &BTreeMap<String, u64>) -> Self {
        let kept_by = |node: &Node| kept.get(&node.node).copied().unwrap_or_default();
        let active = || nodes.iter().filter(|node| node.state == "active");
        let share =
            |bytes: u128, quota: u128| u64::try_from(bytes * MILLION / quota.max(1)).unwrap_or(u64::MAX);
        let sum = |figure: &dyn Fn(&Node) -> u64| active().map(|node| u128::from(figure(node))).sum::<u128>();
        let fleet = share(sum(&kept_by), sum(&|node| node.quota));
        let shares = || active().map(|node| share(kept_by(node).into(), node.quota.into()));
        let part = |quota: u64, share: u64| {
            u64::try_from(u128::from(quota) * u128::from(share) / MILLION).unwrap_or(u64::MAX)
        };
        let above = |node: &Node| kept_by(node).saturating_sub(part(node.quota, fleet + TOLERANCE));
        let below =
            |node: &Node| part(node.quota, fleet.saturating_sub(TOLERANCE)).saturating_sub(kept_by(node));
        Self {
            fleet,
            least: shares().min().unwrap_or_default(),
            most: shares().max().unwrap_or_default(),
            least_bytes: u64::try_from(sum(&above).max(sum(&below))).unwrap_or(u64::MAX),
        }
    }

    /// Bytes that have to move at least until no node differs too much.
    pub(crate) const fn least_bytes(&self) -> u64 {
        self.least_bytes
    }

    /// Whether none differs too much.
    pub(crate) const fn is_even(&self) -> bool {
        self.most <= self.fleet + TOLERANCE && self.least + TOLERANCE >= self.fleet
    }
}

impl fmt::Display for Evenness {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per_cent = |share: u64| format!("{}.{}", share / 10_000, share / 1_000 % 10);
        write!(formatter, "{}, {}, {}", per_cent(self.least), per_cent(self.fleet), per_cent(self.most))
    }
}
