//! What the ledger wants gone: bundles that were erased, for a purge or because others hold their records.
//!
//! Always holds: only the ledger counts, which a majority of the coordinators signed; no order of a leader makes a node
//! delete beyond trash and the day's allowances. What was erased once is never taken again.
//! Leaves to others: fetching and verifying the ledger (`transport`), removing files (the shell).

use std::collections::BTreeSet;

use firn_base::BundleId;
use firn_wire::{LedgerAct, LedgerEntry};

/// The bundles that `entries` of a verified ledger say are erased.
pub fn erased_bundles(entries: &[LedgerEntry]) -> BTreeSet<BundleId> {
    let erased = entries.iter().filter_map(|entry| match entry.act {
        LedgerAct::Erase { bundle } => Some(bundle),
        _ => None,
    });
    erased.collect()
}

#[cfg(test)]
mod tests {
    use firn_base::ObjectKey;

    use super::*;
    use crate::test_ledger::entry;

    #[test]
    fn bundles_are_erased_by_their_own_entry_and_not_by_a_purge() {
        let (key, reason) = (ObjectKey::store_path([1; 20]), String::new());
        let bundle = BundleId::from_bytes([2; 32]);
        let entries = [entry(LedgerAct::Purge { key, reason }), entry(LedgerAct::Erase { bundle })];
        assert_eq!(erased_bundles(&entries[..1]), BTreeSet::new());
        assert_eq!(erased_bundles(&entries), BTreeSet::from([bundle]));
    }
}
