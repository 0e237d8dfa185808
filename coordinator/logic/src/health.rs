//! How well a bundle is: which of its shards are durable, online, missing.
//!
//! Owns: the counting of distinct shards, and what counts as urgent. Always holds: a second copy of an index
//! counts zero; a shard counts as durable while its node is not lost, as online while its node is online, proved and
//! serves readers: a node that is paused is away. Leaves to others: what is done about it (`repair`).

use firn_base::{Scheme, ShardIndex};
use firn_wire::Policy;

use crate::catalogue::BundleView;
use crate::fleet::FleetView;
use crate::index_set::IndexSet;
use crate::state::NodeNumber;

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
    /// Distinct shards on nodes that are online, proved, and serve readers.
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

/// Which shards of a bundle are where they can be counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Presence {
    /// Distinct shards on nodes not counted lost.
    pub(crate) durable: IndexSet,
    /// Distinct shards on nodes that are online, proved, and serve readers.
    pub(crate) online: IndexSet,
}

impl Presence {
    /// Looks at every copy of a bundle's shards; `node` says whether a node counts, and whether its shards can
    /// be read.
    pub(crate) fn of(bundle: &BundleView, node: impl Fn(NodeNumber) -> (bool, bool)) -> Self {
        let mut presence = Self::default();
        for (index, holder) in &bundle.placements {
            let (counted, reachable) = node(*holder);
            if counted {
                presence.durable.insert(*index);
                if reachable {
                    presence.online.insert(*index);
                }
            }
        }
        presence
    }

    /// How a bundle of `scheme` stands with them.
    pub(crate) fn class(self, scheme: Scheme) -> HealthClass {
        let durable = self.durable.len();
        if durable < scheme.k() {
            HealthClass::Lost
        } else if self.durable.lacks_below(scheme.n()) == 0 {
            HealthClass::Full
        } else if durable <= scheme.urgent_threshold() {
            HealthClass::Urgent
        } else {
            HealthClass::Degraded
        }
    }
}

/// Judges one bundle.
pub fn classify(bundle: &BundleView, fleet: &FleetView) -> BundleHealth {
    let presence = Presence::of(bundle, |number| {
        fleet.node(number).map_or((false, false), |node| (node.counted, node.is_reachable()))
    });
    let scheme = bundle.scheme;
    let (durable, online) = (presence.durable.len(), presence.online.len());
    BundleHealth {
        durable,
        online,
        missing: presence.durable.missing_below(scheme.n()).collect(),
        spare: durable.saturating_sub(scheme.k()),
        class: presence.class(scheme),
        unreadable: online < scheme.k(),
    }
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
