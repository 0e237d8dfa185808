//! The digest behind some changes, from the one before them.
//!
//! Always holds: it reads what each changed record was, and nothing else. Leaves to others: storing the digest in the
//! same batch as the changes (the shell).

use std::collections::BTreeMap;

use firn_base::{BundleId, BundleNumber, Location, ObjectKey};

use super::StateDigest;
use super::fact::Entry;
use crate::change::Change;
use crate::facts::Facts;
use crate::state::{FeatureRecord, FeedRecord, WithdrawnRecord};

/// Takes `changes` into `digest`, which is that of `facts`: the state before them. A record is changed at most once, and
/// the feed in order, as [`crate::Overlay::into_changes`] gives them.
pub fn advance<F: Facts>(digest: &mut StateDigest, facts: &F, changes: &[Change]) -> Result<(), F::Error> {
    let mut names = BTreeMap::new();
    for change in changes {
        if let Change::PutBundle(record) = change {
            names.insert(record.number, record.id);
        }
    }
    let mut advance = Advance { digest, facts, names, shown: BTreeMap::new() };
    changes.iter().try_for_each(|change| advance.take(change))
}

struct Advance<'a, F> {
    digest: &'a mut StateDigest,
    facts: &'a F,
    names: BTreeMap<BundleNumber, BundleId>,
    // Keys that these changes make visible, for those that they also withdraw.
    shown: BTreeMap<ObjectKey, Location>,
}

impl<F: Facts> Advance<'_, F> {
    fn take(&mut self, change: &Change) -> Result<(), F::Error> {
        let facts = self.facts;
        match change {
            Change::PutCounters(counters) => {
                self.turn(Some(Entry::Counters(&facts.counters()?)), Some(Entry::Counters(counters)));
            }
            Change::PutNode(record) => {
                let before = facts.node(record.number)?;
                self.turn(before.as_ref().map(Entry::Node), Some(Entry::Node(record)));
            }
            Change::PutBundle(record) => {
                let before = facts.bundle(record.number)?;
                self.turn(before.as_ref().map(Entry::Bundle), Some(Entry::Bundle(record)));
            }
            Change::PutReservation(record) => {
                let before = facts.reservation(record.id)?;
                self.turn(before.as_ref().map(Entry::Reservation), Some(Entry::Reservation(record)));
            }
            Change::RemoveReservation(id) => {
                let before = facts.reservation(*id)?;
                self.turn(before.as_ref().map(Entry::Reservation), None);
            }
            Change::PutSurplus(record) => {
                let before = facts.surplus(record.node, record.coding, record.index)?;
                self.turn(before.as_ref().map(Entry::Surplus), Some(Entry::Surplus(record)));
            }
            Change::RemoveSurplus(node, coding, index) => {
                let before = facts.surplus(*node, *coding, *index)?;
                self.turn(before.as_ref().map(Entry::Surplus), None);
            }
            Change::PutVariant(key, location) => self.variant(*key, *location, true)?,
            Change::RemoveVariant(key, location) => self.variant(*key, *location, false)?,
            Change::PutHeld(record) => {
                self.held(record.key, record.location)?;
                let bundle = self.name(record.location.bundle)?;
                self.turn(None, Some(Entry::Held(record, bundle)));
            }
            Change::RemoveHeld(key, location) => self.held(*key, *location)?,
            Change::PutExternal(key) if !facts.is_external(*key)? => {
                self.turn(None, Some(Entry::External(*key)));
            }
            Change::PutWithdrawn(record) => {
                self.reinstated(record.key)?;
                let bundles = self.bundles_of(record)?;
                self.turn(None, Some(Entry::Withdrawn(record, &bundles)));
            }
            Change::RemoveWithdrawn(key) => self.reinstated(*key)?,
            Change::PutPurge(record) => {
                let before = facts.purge(record.key)?;
                self.turn(before.as_ref().map(Entry::Purge), Some(Entry::Purge(record)));
            }
            Change::PutErasure(record) => {
                let before = facts.erasure(record.bundle)?;
                self.turn(before.as_ref().map(Entry::Erasure), Some(Entry::Erasure(record)));
            }
            Change::PutFeature(record) => {
                let places = facts.similar(record.feature)?;
                let before = FeatureRecord { feature: record.feature, places };
                let before = (!before.places.is_empty()).then_some(&before);
                self.turn(before.map(Entry::Feature), Some(Entry::Feature(record)));
            }
            Change::PutUsedToken(token) if !facts.is_token_used(*token)? => {
                self.turn(None, Some(Entry::UsedToken(*token)));
            }
            Change::PutPolicy(policy) => {
                let before = facts.policy()?;
                self.turn(before.as_ref().map(Entry::Policy), Some(Entry::Policy(policy)));
            }
            // Only ever appended to.
            Change::PutLedger(entry) => self.turn(None, Some(Entry::Ledger(entry))),
            Change::PutFeed(_, record) => self.feed(record)?,
            Change::PutExternal(_) | Change::PutUsedToken(_) => {}
            // They repeat what records and the ledger say.
            Change::NameNode(..)
            | Change::NameBundle(..)
            | Change::NameCoding(..)
            | Change::PutOperator(..)
            | Change::RemoveOperator(..)
            | Change::PutReservationOf(..)
            | Change::RemoveReservationOf(..)
            | Change::PutWaiter { .. }
            | Change::RemoveWaiter { .. } => {}
        }
        Ok(())
    }

    fn turn(&mut self, before: Option<Entry<'_>>, after: Option<Entry<'_>>) {
        before.iter().for_each(|entry| self.digest.remove(entry));
        after.iter().for_each(|entry| self.digest.add(entry));
    }

    fn name(&mut self, number: BundleNumber) -> Result<BundleId, F::Error> {
        if let Some(id) = self.names.get(&number) {
            return Ok(*id);
        }
        // Places always lie in committed bundles; whatever else is seen equally by all replicas.
        let id = self.facts.bundle(number)?.map_or(BundleId::from_bytes([0; 32]), |bundle| bundle.id);
        self.names.insert(number, id);
        Ok(id)
    }

    fn place(&mut self, key: ObjectKey, location: Location, appears: bool) -> Result<(), F::Error> {
        let entry = Some(Entry::Place(key, self.name(location.bundle)?, location));
        if appears {
            self.turn(None, entry)
        } else {
            self.turn(entry, None)
        }
        Ok(())
    }

    fn variant(&mut self, key: ObjectKey, location: Location, appears: bool) -> Result<(), F::Error> {
        let was_there = self.facts.variants(key)?.contains(&location);
        if was_there == appears {
            return Ok(());
        }
        self.place(key, location, appears)?;
        let entry = Some(Entry::Variant(key, location));
        if appears {
            self.turn(None, entry)
        } else {
            self.turn(entry, None)
        }
        Ok(())
    }

    fn held(&mut self, key: ObjectKey, location: Location) -> Result<(), F::Error> {
        let before = self.facts.held(key)?.into_iter().find(|record| record.location == location);
        let bundle = self.name(location.bundle)?;
        self.turn(before.as_ref().map(|record| Entry::Held(record, bundle)), None);
        Ok(())
    }

    fn reinstated(&mut self, key: ObjectKey) -> Result<(), F::Error> {
        if let Some(record) = self.facts.withdrawn(key)? {
            let bundles = self.bundles_of(&record)?;
            self.turn(Some(Entry::Withdrawn(&record, &bundles)), None);
        }
        Ok(())
    }

    fn bundles_of(&mut self, record: &WithdrawnRecord) -> Result<Vec<BundleId>, F::Error> {
        record.places.iter().map(|location| self.name(location.bundle)).collect()
    }

    fn feed(&mut self, record: &FeedRecord) -> Result<(), F::Error> {
        match record {
            FeedRecord::Visible { key, location } => {
                self.shown.insert(*key, *location);
                self.place(*key, *location, true)
            }
            FeedRecord::Withdrawn { key } => self.hide(*key),
            FeedRecord::Moved { key, location } => {
                self.hide(*key)?;
                self.shown.insert(*key, *location);
                self.place(*key, *location, true)
            }
        }
    }

    fn hide(&mut self, key: ObjectKey) -> Result<(), F::Error> {
        let shown = self.shown.remove(&key);
        let place = if shown.is_some() { shown } else { self.facts.location(key)? };
        place.map_or(Ok(()), |location| self.place(key, location, false))
    }
}
