//! Which bundles others had taken the place of when an archive was lost, so that telling it again ends where it stood.
//!
//! Owns: what the believed ledger says of that. Always holds: a bundle gives its records up to others only if all of these
//! come back, or were replaced or erased in their turn; if one does not, it comes back whole, with what was purged hidden,
//! and the purge goes on from there. Leaves to others: what comes back (`evidence`), erasing it (`purging`).

use std::collections::{BTreeMap, BTreeSet};

use firn_base::BundleId;
use firn_wire::{LedgerAct, LedgerEntry};

/// Bundles that others took the place of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReplacedBundles {
    replacements: BTreeMap<BundleId, Vec<BundleId>>,
    // In the order of the ledger.
    replaced: Vec<BundleId>,
    erased: BTreeSet<BundleId>,
}

impl ReplacedBundles {
    /// Reads a ledger from its beginning.
    pub fn read(ledger: &[LedgerEntry]) -> Self {
        let mut read = Self::default();
        for entry in ledger {
            match &entry.act {
                LedgerAct::Repack { bundle, replacements } => {
                    read.replacements.insert(*bundle, replacements.clone());
                    read.replaced.push(*bundle);
                }
                LedgerAct::Erase { bundle } => drop(read.erased.insert(*bundle)),
                _ => {}
            }
        }
        read
    }

    /// Whether a bundle was erased: a node that was away may still show what the others have removed, and it does not come
    /// back.
    pub fn is_erased(&self, bundle: BundleId) -> bool {
        self.erased.contains(&bundle)
    }

    /// Whether a bundle took the place of another, or shared that with others. Once it is back, the other one may be.
    pub fn took_a_place(&self, bundle: BundleId) -> bool {
        self.replacements.values().any(|replacements| replacements.contains(&bundle))
    }

    /// Those that were not erased yet, in the order of the ledger.
    pub fn not_erased(&self) -> impl Iterator<Item = BundleId> {
        self.replaced.iter().copied().filter(|bundle| !self.is_erased(*bundle))
    }

    /// The bundles that hold what is left of `bundle`, if each of them comes back, as `comes_back` says. None where one does
    /// not, and where nobody took its place.
    pub fn replacements<E>(
        &self,
        bundle: BundleId,
        mut comes_back: impl FnMut(BundleId) -> Result<bool, E>,
    ) -> Result<Option<Vec<BundleId>>, E> {
        let mut found = BTreeSet::new();
        let Some(first) = self.replacements.get(&bundle) else { return Ok(None) };
        let mut open: Vec<BundleId> = first.clone();
        // Each is opened once: entries of a ledger are in order, but only `apply` knows that they make no circle.
        let mut opened = BTreeSet::from([bundle]);
        while let Some(next) = open.pop() {
            if let Some(later) = self.replacements.get(&next) {
                open.extend(later.iter().copied().filter(|later| opened.insert(*later)));
            } else if !self.is_erased(next) {
                if !comes_back(next)? {
                    return Ok(None);
                }
                found.insert(next);
            }
        }
        // If all of it was purged since, it waits for nobody.
        Ok(Some(found.into_iter().collect()))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use firn_base::{Digest, Timestamp};
    use firn_wire::Actor;

    use super::*;

    fn id(byte: u8) -> BundleId {
        BundleId::from_bytes([byte; 32])
    }

    fn read(acts: Vec<LedgerAct>) -> ReplacedBundles {
        let entry = |(position, act)| LedgerEntry {
            position,
            previous: Digest::from_bytes([0; 32]),
            at: Timestamp::from_millis(1),
            by: Actor::Coordinators,
            act,
        };
        ReplacedBundles::read(&(0..).zip(acts).map(entry).collect::<Vec<_>>())
    }

    fn repack(bundle: u8, replacements: &[u8]) -> LedgerAct {
        LedgerAct::Repack { bundle: id(bundle), replacements: replacements.iter().copied().map(id).collect() }
    }

    fn erase(bundle: u8) -> LedgerAct {
        LedgerAct::Erase { bundle: id(bundle) }
    }

    fn found(replaced: &ReplacedBundles, bundle: u8, back: &[u8]) -> Option<Vec<BundleId>> {
        let Ok(found) = replaced.replacements(id(bundle), |other| -> Result<bool, Infallible> {
            Ok(back.iter().any(|back| id(*back) == other))
        });
        found
    }

    #[test]
    fn what_took_a_bundles_place_is_found_through_those_that_were_replaced_in_turn() {
        // 1 by 2 and 3; 2 by 4, and erased; 3 is erased, for all of it was purged.
        let replaced = read(vec![repack(1, &[2, 3]), repack(2, &[4]), erase(2), erase(3)]);
        assert_eq!(found(&replaced, 1, &[4]), Some(vec![id(4)]));
        assert_eq!(found(&replaced, 1, &[]), None, "what is left of it does not come back");
        assert_eq!(found(&replaced, 9, &[4]), None, "nobody took its place");
        assert_eq!(replaced.not_erased().collect::<Vec<_>>(), [id(1)]);
        assert!(replaced.took_a_place(id(4)) && !replaced.took_a_place(id(1)));
        let all_gone = read(vec![repack(1, &[2]), erase(2)]);
        assert_eq!(found(&all_gone, 1, &[]), Some(Vec::new()));
    }

    #[test]
    fn of_several_all_have_to_come_back_and_a_circle_ends() {
        let replaced = read(vec![repack(1, &[2, 3])]);
        assert_eq!(found(&replaced, 1, &[2]), None);
        assert_eq!(found(&replaced, 1, &[2, 3]), Some(vec![id(2), id(3)]));
        assert_eq!(found(&read(vec![repack(1, &[2]), repack(2, &[1])]), 1, &[]), Some(Vec::new()));
    }
}
