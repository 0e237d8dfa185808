//! The archive's policy and what it means for failure domains.
//!
//! Owns: the default policy and the rule which nodes may not hold shards of one bundle together.
//! Always holds: the rule is symmetric. Leaves to others: address prefixes, AS and country of a `public`
//! archive, which need facts that nodes do not declare yet.

use firn_wire::{DomainRule, Policy};

use crate::state::NodeRecord;

/// A node offline for longer counts as lost, unless the archive says otherwise: home machines reboot, and one
/// repair costs 2.3 shards of traffic.
pub const COUNT_LOST_AFTER_MILLIS: u64 = 72 * 3_600_000;

/// What holds before the archive has decided on a policy.
pub const fn default_policy() -> Policy {
    Policy {
        domains: DomainRule::Named,
        repair_at: None,
        repair_at_full: false,
        count_lost_after_millis: COUNT_LOST_AFTER_MILLIS,
        brake: true,
    }
}

/// Whether two nodes may not hold different shards of one bundle: they can vanish together.
pub fn share_a_domain(rule: DomainRule, one: &NodeRecord, other: &NodeRecord) -> bool {
    one.failure_domain == other.failure_domain
        || (rule == DomainRule::Public && one.operator == other.operator)
}
