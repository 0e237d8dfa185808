//! Which bundles a rebuild has not brought back, and why not.
//!
//! Always holds: each bundle counts once, and those that are put off are among them until they come back; reasons are
//! kept of the first alone, so memory grows with those that are put off. Leaves to others: trying.

use std::collections::BTreeMap;

use firn_base::BundleId;

use crate::evidence_book::CommitOrder;

/// Bundles of which a report tells one by one.
const TOLD_MAX: usize = 100;

/// Bundles that have not come back, as it looks now.
#[derive(Debug, Default)]
pub struct UnrestoredBundles {
    count: u64,
    reasons: BTreeMap<BundleId, String>,
    /// Those that are tried again once everything else was told.
    put_off: BTreeMap<BundleId, CommitOrder>,
}

impl UnrestoredBundles {
    /// How many they are.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Why not, of the first of them.
    pub const fn reasons(&self) -> &BTreeMap<BundleId, String> {
        &self.reasons
    }

    /// Those that are put off, in the order of the history.
    pub fn put_off(&self) -> Vec<CommitOrder> {
        let mut orders: Vec<_> = self.put_off.values().copied().collect();
        orders.sort_unstable();
        orders
    }

    /// Whether none is put off.
    pub fn is_settled(&self) -> bool {
        self.put_off.is_empty()
    }

    /// A bundle cannot be told yet: it is tried again at the end.
    pub fn put_off_until_the_end(&mut self, order: CommitOrder, reason: String) {
        self.note(order.bundle, reason);
        self.put_off.insert(order.bundle, order);
    }

    /// A bundle is not tried again.
    pub fn give_up(&mut self, bundle: BundleId, reason: String) {
        self.note(bundle, reason);
        self.put_off.remove(&bundle);
    }

    /// A bundle that has come back cannot be read whole without this one, which may come yet.
    pub fn miss(&mut self, bundle: BundleId, reason: String) {
        if !self.reasons.contains_key(&bundle) && !self.put_off.contains_key(&bundle) {
            self.note(bundle, reason);
        }
    }

    /// A bundle is there, perhaps after it was missed.
    pub fn note_restored(&mut self, bundle: BundleId) {
        let was_put_off = self.put_off.remove(&bundle).is_some();
        if self.reasons.remove(&bundle).is_some() || was_put_off {
            self.count = self.count.saturating_sub(1);
        }
    }

    /// The reason that was found last counts.
    fn note(&mut self, bundle: BundleId, reason: String) {
        let is_known = self.reasons.contains_key(&bundle) || self.put_off.contains_key(&bundle);
        if !is_known {
            self.count = self.count.saturating_add(1);
        }
        if self.reasons.len() < TOLD_MAX || self.reasons.contains_key(&bundle) {
            self.reasons.insert(bundle, reason);
        }
    }
}

#[cfg(test)]
mod tests {
    use firn_base::Timestamp;

    use super::*;

    fn order(number: u32) -> CommitOrder {
        let mut bundle = [0; 32];
        // The other way round than the history.
        bundle[..4].copy_from_slice(&(u32::MAX - number).to_be_bytes());
        CommitOrder {
            ledger_entries: 0,
            committed_at: Timestamp::from_millis(0),
            number,
            bundle: BundleId::from_bytes(bundle),
        }
    }

    #[test]
    fn a_bundle_that_is_put_off_counts_once_until_it_comes_back_or_is_given_up() {
        let mut unrestored = UnrestoredBundles::default();
        let many = 3 * u32::try_from(TOLD_MAX).unwrap();
        for round in ["wait", "wait on"] {
            for number in 0..many {
                unrestored.put_off_until_the_end(order(number), round.to_owned());
                unrestored.miss(order(number).bundle, "missed".to_owned());
            }
            assert_eq!((unrestored.count(), unrestored.reasons().len()), (u64::from(many), TOLD_MAX));
            assert!(unrestored.reasons().values().all(|reason| reason == round));
        }
        assert_eq!(unrestored.put_off(), (0..many).map(order).collect::<Vec<_>>());
        unrestored.give_up(order(0).bundle, "damaged".to_owned());
        assert_eq!((unrestored.count(), unrestored.reasons()[&order(0).bundle].as_str()), (300, "damaged"));
        (1..many).for_each(|number| unrestored.note_restored(order(number).bundle));
        assert_eq!((unrestored.count(), unrestored.is_settled()), (1, true));
    }

    #[test]
    fn a_bundle_that_was_missed_and_came_counts_no_more() {
        let mut unrestored = UnrestoredBundles::default();
        unrestored.miss(order(1).bundle, "missed".to_owned());
        unrestored.note_restored(order(1).bundle);
        unrestored.note_restored(order(2).bundle);
        assert_eq!((unrestored.count(), unrestored.reasons().len()), (0, 0));
    }
}
