//! How long the archive waits for a node that is away.
//!
//! Always holds: it is what the ledger says last, which a majority of the coordinators signed.
//! Leaves to others: what follows for an owner (`concern`), declared absences.

use std::time::Duration;

use firn_wire::{LedgerAct, LedgerEntry};

/// How long a node may be away before it counts as lost, by all entries of the ledger; none if they do not say.
pub fn patience(entries: &[LedgerEntry]) -> Option<Duration> {
    entries.iter().rev().find_map(|entry| match &entry.act {
        LedgerAct::SetPolicy(policy) => Some(Duration::from_millis(policy.count_lost_after_millis)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use firn_wire::{DomainRule, Policy};

    use super::*;
    use crate::test_ledger::entry;

    #[test]
    fn the_last_policy_of_the_ledger_counts() {
        let other = || entry(LedgerAct::RemovePublisher { name: "x".into() });
        let policy = |count_lost_after_millis| {
            entry(LedgerAct::SetPolicy(Policy {
                domains: DomainRule::Public,
                repair_at: None,
                repair_at_full: false,
                count_lost_after_millis,
                brake: true,
                trust_declared_domains: false,
            }))
        };
        assert_eq!(patience(&[other()]), None);
        assert_eq!(patience(&[policy(1000), other()]), Some(Duration::from_secs(1)));
        assert_eq!(patience(&[policy(1000), policy(5000), other()]), Some(Duration::from_secs(5)));
    }
}
