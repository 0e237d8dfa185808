//! How well a bundle is: which of its shards are durable, online, missing.
//!
//! Owns: the counting of distinct shards, and what counts as urgent. Always holds: a second copy of an index
//! counts zero; a shard counts as durable while its node is not lost, as online while its node is online and
//! proved. Leaves to others: what is done about it (`repair`).

use firn_base::{Scheme, ShardIndex};
use firn_wire::{BundleHealthCounts, Policy};

use crate::catalogue::BundleView;
use crate::fleet::FleetView;

/// How a bundle stands against its scheme.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HealthClass {
    /// Fewer than k shards are durable.
    Lost,
    /// At or below the urgent threshold.
    Urgent,
    /// Fewer than n.
    Degraded,
    /// All n.
    Full,
}

/// The health of one bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleHealth {
    /// Distinct shards on nodes not counted lost.
    pub durable: u8,
    /// Distinct shards on nodes that are online and proved.
    pub online: u8,
    /// Indexes below n that are not durable, in order.
    pub missing: Vec<ShardIndex>,
    /// How many more durable shards may be lost: durable minus k; zero when lost.
    pub spare: u8,
    /// How it stands.
    pub class: HealthClass,
    /// Fewer than k shards are online.
    pub unreadable: bool,
}

/// Judges one bundle.
pub fn classify(bundle: &BundleView, fleet: &FleetView) -> BundleHealth {
    let (mut durable, mut online) = (IndexSet::default(), IndexSet::default());
    for (index, holder) in &bundle.placements {
        if let Some(node) = fleet.node(*holder)
            && node.counted
        {
            durable.insert(*index);
            if node.online && node.proved {
                online.insert(*index);
            }
        }
    }
    let scheme = bundle.scheme;
    let missing: Vec<_> = (0..scheme.n()).map(ShardIndex).filter(|index| !durable.contains(*index)).collect();
    let (durable, online) = (durable.len(), online.len());
    let class = if durable < scheme.k() {
        HealthClass::Lost
    } else if missing.is_empty() {
        HealthClass::Full
    } else if durable <= scheme.urgent_threshold() {
        HealthClass::Urgent
    } else {
        HealthClass::Degraded
    };
    BundleHealth {
        durable,
        online,
        missing,
        spare: durable.saturating_sub(scheme.k()),
        class,
        unreadable: online < scheme.k(),
    }
}

/// Counts one bundle among the others.
pub(crate) fn count(counts: &mut BundleHealthCounts, health: &BundleHealth, at_risk: bool) {
    match health.class {
        HealthClass::Full => counts.full += 1,
        HealthClass::Degraded => counts.degraded += 1,
        HealthClass::Urgent => counts.urgent += 1,
        HealthClass::Lost => counts.lost += 1,
    }
    counts.unreadable += u64::from(health.unreadable);
    counts.at_risk += u64::from(at_risk);
}

/// The scheme that a bundle shall have in a fleet of `width`: its own k, and as much parity as the fleet allows.
/// Never less than it has: a fleet that shrank lacks shards, it does not need fewer.
pub fn goal(scheme: Scheme, width: usize) -> Scheme {
    let most = Scheme::n_max(scheme.k()).unwrap_or(scheme.n());
    let n = u8::try_from(width).unwrap_or(u8::MAX).min(most).max(scheme.n());
    Scheme::new(scheme.k(), n).unwrap_or(scheme)
}

/// At this many durable shards or fewer a bundle is repaired under `policy`.
pub fn repair_threshold(goal: Scheme, policy: &Policy) -> u8 {
    let below_full = goal.n().saturating_sub(1);
    if policy.repair_at_full || goal.k() <= 4 {
        return below_full;
    }
    policy.repair_at.unwrap_or_else(|| goal.repair_threshold()).min(below_full)
}

/// A set of shard indexes in one word, for the ladder ends at 40: planners count millions of bundles.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct IndexSet(u64);

impl IndexSet {
    pub(crate) fn insert(&mut self, index: ShardIndex) {
        self.0 |= Self::bit(index);
    }

    pub(crate) fn contains(self, index: ShardIndex) -> bool {
        self.0 & Self::bit(index) != 0
    }

    fn len(self) -> u8 {
        u8::try_from(self.0.count_ones()).expect("a word has 64 bits")
    }

    fn bit(index: ShardIndex) -> u64 {
        1_u64.checked_shl(u32::from(index.0)).unwrap_or(0)
    }
}
