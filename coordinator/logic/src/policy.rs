//! The archive's policy before anybody has decided on one.

use firn_wire::{DomainRule, Policy};

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
        trust_declared_domains: false,
    }
}
