//! The state in ordered maps: the reference for every other store, and the one that simulations use.
//!
//! Owns: one map for each table of [`Change`]. Always holds: it answers [`Facts`] and [`Scan`] exactly as their
//! documentation says. Leaves to others: durability.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::ops::Bound;

use firn_base::{
    BundleId, BundleNumber, CodingId, Feature, Location, NodeId, ObjectKey, PublicKey, ReservationId,
    ShardIndex, TokenId,
};
use firn_wire::{FeedEvent, LedgerEntry, OperatorEntry, Policy};

use crate::change::Change;
use crate::facts::{Facts, Scan};
use crate::state::{
    BundleRecord, Counters, ErasureRecord, FeatureRecord, FeedRecord, HeldRecord, NodeNumber, NodeRecord,
    PurgeRecord, ReservationRecord, SurplusRecord, WithdrawnRecord,
};

/// The whole state in memory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MemoryState {
    counters: Counters,
    nodes: BTreeMap<NodeNumber, NodeRecord>,
    node_names: BTreeMap<NodeId, NodeNumber>,
    bundles: BTreeMap<BundleNumber, BundleRecord>,
    bundle_names: BTreeMap<BundleId, BundleNumber>,
    coding_names: BTreeMap<CodingId, BundleNumber>,
    reservations: BTreeMap<ReservationId, ReservationRecord>,
    reservations_of: BTreeSet<(CodingId, ReservationId)>,
    surplus: BTreeMap<(NodeNumber, CodingId, ShardIndex), SurplusRecord>,
    index: BTreeMap<ObjectKey, Location>,
    variants: BTreeSet<(ObjectKey, Location)>,
    held: BTreeMap<(ObjectKey, Location), HeldRecord>,
    waiters: BTreeSet<(ObjectKey, ObjectKey, Location)>,
    externals: BTreeSet<ObjectKey>,
    withdrawn: BTreeMap<ObjectKey, WithdrawnRecord>,
    purges: BTreeMap<ObjectKey, PurgeRecord>,
    erasures: BTreeMap<BundleNumber, ErasureRecord>,
    features: BTreeMap<Feature, Vec<Location>>,
    used_tokens: BTreeSet<TokenId>,
    operators: BTreeMap<PublicKey, OperatorEntry>,
    policy: Option<Policy>,
    ledger: BTreeMap<u64, LedgerEntry>,
    feed: BTreeMap<u64, FeedRecord>,
}

impl MemoryState {
    /// An empty state.
    pub fn new() -> Self {
        Self::default()
    }

    /// Carries changes out, in their order.
    pub fn absorb(&mut self, changes: impl IntoIterator<Item = Change>) {
        changes.into_iter().for_each(|change| self.write(change));
    }

    fn write(&mut self, change: Change) {
        match change {
            Change::PutCounters(counters) => self.counters = counters,
            Change::PutNode(record) => put(&mut self.nodes, record.number, record),
            Change::NameNode(id, number) => put(&mut self.node_names, id, number),
            Change::PutBundle(record) => put(&mut self.bundles, record.number, record),
            Change::NameBundle(id, number) => put(&mut self.bundle_names, id, number),
            Change::NameCoding(id, number) => put(&mut self.coding_names, id, number),
            Change::PutReservation(record) => put(&mut self.reservations, record.id, record),
            Change::RemoveReservation(id) => drop(self.reservations.remove(&id)),
            Change::PutReservationOf(coding, id) => include(&mut self.reservations_of, (coding, id)),
            Change::RemoveReservationOf(coding, id) => exclude(&mut self.reservations_of, &(coding, id)),
            Change::PutSurplus(record) => {
                put(&mut self.surplus, (record.node, record.coding, record.index), record);
            }
            Change::RemoveSurplus(node, coding, index) => drop(self.surplus.remove(&(node, coding, index))),
            Change::PutVariant(key, location) => include(&mut self.variants, (key, location)),
            Change::RemoveVariant(key, location) => exclude(&mut self.variants, &(key, location)),
            Change::PutHeld(record) => put(&mut self.held, (record.key, record.location), record),
            Change::RemoveHeld(key, location) => drop(self.held.remove(&(key, location))),
            Change::PutWaiter { awaited, key, location } => {
                include(&mut self.waiters, (awaited, key, location));
            }
            Change::RemoveWaiter { awaited, key, location } => {
                exclude(&mut self.waiters, &(awaited, key, location));
            }
            Change::PutExternal(key) => include(&mut self.externals, key),
            Change::PutWithdrawn(record) => put(&mut self.withdrawn, record.key, record),
            Change::RemoveWithdrawn(key) => drop(self.withdrawn.remove(&key)),
            Change::PutPurge(record) => put(&mut self.purges, record.key, record),
            Change::PutErasure(record) => put(&mut self.erasures, record.bundle, record),
            Change::PutFeature(record) => put(&mut self.features, record.feature, record.places),
            Change::PutUsedToken(token) => include(&mut self.used_tokens, token),
            Change::PutOperator(key, entry) => put(&mut self.operators, key, entry),
            Change::RemoveOperator(key) => drop(self.operators.remove(&key)),
            Change::PutPolicy(policy) => self.policy = Some(policy),
            Change::PutLedger(entry) => put(&mut self.ledger, entry.position, entry),
            Change::PutFeed(position, record) => {
                match record {
                    FeedRecord::Visible { key, location } | FeedRecord::Moved { key, location } => {
                        put(&mut self.index, key, location);
                    }
                    FeedRecord::Withdrawn { key } => drop(self.index.remove(&key)),
                }
                put(&mut self.feed, position, record);
            }
        }
    }
}

fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: V) {
    map.insert(key, value);
}

fn include<K: Ord>(set: &mut BTreeSet<K>, key: K) {
    set.insert(key);
}

fn exclude<K: Ord>(set: &mut BTreeSet<K>, key: &K) {
    set.remove(key);
}

fn from_after<K>(after: Option<K>) -> (Bound<K>, Bound<K>) {
    (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded)
}

impl Facts for MemoryState {
    type Error = Infallible;

    fn counters(&self) -> Result<Counters, Infallible> {
        Ok(self.counters)
    }

    fn node(&self, number: NodeNumber) -> Result<Option<NodeRecord>, Infallible> {
        Ok(self.nodes.get(&number).cloned())
    }

    fn node_number(&self, id: NodeId) -> Result<Option<NodeNumber>, Infallible> {
        Ok(self.node_names.get(&id).copied())
    }

    fn bundle(&self, number: BundleNumber) -> Result<Option<BundleRecord>, Infallible> {
        Ok(self.bundles.get(&number).cloned())
    }

    fn bundle_number(&self, id: BundleId) -> Result<Option<BundleNumber>, Infallible> {
        Ok(self.bundle_names.get(&id).copied())
    }

    fn coding_bundle(&self, coding: CodingId) -> Result<Option<BundleNumber>, Infallible> {
        Ok(self.coding_names.get(&coding).copied())
    }

    fn reservation(&self, id: ReservationId) -> Result<Option<ReservationRecord>, Infallible> {
        Ok(self.reservations.get(&id).cloned())
    }

    fn reservations_of(&self, coding: CodingId) -> Result<Vec<ReservationId>, Infallible> {
        let from = (coding, ReservationId::from_bytes([0; 32]));
        Ok(self
            .reservations_of
            .range(from..)
            .take_while(|(own, _)| *own == coding)
            .map(|(_, id)| *id)
            .collect())
    }

    fn surplus(
        &self,
        node: NodeNumber,
        coding: CodingId,
        index: ShardIndex,
    ) -> Result<Option<SurplusRecord>, Infallible> {
        Ok(self.surplus.get(&(node, coding, index)).copied())
    }

    fn location(&self, key: ObjectKey) -> Result<Option<Location>, Infallible> {
        Ok(self.index.get(&key).copied())
    }

    fn variants(&self, key: ObjectKey) -> Result<Vec<Location>, Infallible> {
        let from = (key, Location::from_bytes(&[0; 8]));
        Ok(self.variants.range(from..).take_while(|(own, _)| *own == key).map(|(_, place)| *place).collect())
    }

    fn held(&self, key: ObjectKey) -> Result<Vec<HeldRecord>, Infallible> {
        let from = (key, Location::from_bytes(&[0; 8]));
        Ok(self
            .held
            .range(from..)
            .take_while(|((own, _), _)| *own == key)
            .map(|(_, record)| record.clone())
            .collect())
    }

    fn waiters(&self, awaited: ObjectKey) -> Result<Vec<(ObjectKey, Location)>, Infallible> {
        let first_key = ObjectKey::store_path([0; 20]);
        let from = (awaited, first_key, Location::from_bytes(&[0; 8]));
        Ok(self
            .waiters
            .range(from..)
            .take_while(|(own, _, _)| *own == awaited)
            .map(|(_, key, location)| (*key, *location))
            .collect())
    }

    fn is_external(&self, key: ObjectKey) -> Result<bool, Infallible> {
        Ok(self.externals.contains(&key))
    }

    fn withdrawn(&self, key: ObjectKey) -> Result<Option<WithdrawnRecord>, Infallible> {
        Ok(self.withdrawn.get(&key).cloned())
    }

    fn purge(&self, key: ObjectKey) -> Result<Option<PurgeRecord>, Infallible> {
        Ok(self.purges.get(&key).cloned())
    }

    fn erasure(&self, bundle: BundleNumber) -> Result<Option<ErasureRecord>, Infallible> {
        Ok(self.erasures.get(&bundle).cloned())
    }

    fn similar(&self, feature: Feature) -> Result<Vec<Location>, Infallible> {
        Ok(self.features.get(&feature).cloned().unwrap_or_default())
    }

    fn operator(&self, key: PublicKey) -> Result<Option<OperatorEntry>, Infallible> {
        Ok(self.operators.get(&key).cloned())
    }

    fn ledger_entry(&self, position: u64) -> Result<Option<LedgerEntry>, Infallible> {
        Ok(self.ledger.get(&position).cloned())
    }

    fn is_token_used(&self, token: TokenId) -> Result<bool, Infallible> {
        Ok(self.used_tokens.contains(&token))
    }

    fn policy(&self) -> Result<Option<Policy>, Infallible> {
        Ok(self.policy.clone())
    }
}

impl Scan for MemoryState {
    fn nodes_from(&self, from: NodeNumber, limit: usize) -> Result<Vec<NodeRecord>, Infallible> {
        Ok(self.nodes.range(from..).take(limit).map(|(_, record)| record.clone()).collect())
    }

    fn bundles_from(&self, from: BundleNumber, limit: usize) -> Result<Vec<BundleRecord>, Infallible> {
        Ok(self.bundles.range(from..).take(limit).map(|(_, record)| record.clone()).collect())
    }

    fn reservations_after(
        &self,
        after: Option<ReservationId>,
        limit: usize,
    ) -> Result<Vec<ReservationRecord>, Infallible> {
        let range = self.reservations.range(from_after(after));
        Ok(range.take(limit).map(|(_, record)| record.clone()).collect())
    }

    fn surplus_after(
        &self,
        after: Option<(NodeNumber, CodingId, ShardIndex)>,
        limit: usize,
    ) -> Result<Vec<SurplusRecord>, Infallible> {
        Ok(self.surplus.range(from_after(after)).take(limit).map(|(_, record)| *record).collect())
    }

    fn keys_after(
        &self,
        after: Option<ObjectKey>,
        limit: usize,
    ) -> Result<Vec<(ObjectKey, Location)>, Infallible> {
        Ok(self.index.range(from_after(after)).take(limit).map(|(key, place)| (*key, *place)).collect())
    }

    fn variants_after(
        &self,
        after: Option<(ObjectKey, Location)>,
        limit: usize,
    ) -> Result<Vec<(ObjectKey, Location)>, Infallible> {
        Ok(self.variants.range(from_after(after)).take(limit).copied().collect())
    }

    fn held_after(
        &self,
        after: Option<(ObjectKey, Location)>,
        limit: usize,
    ) -> Result<Vec<HeldRecord>, Infallible> {
        Ok(self.held.range(from_after(after)).take(limit).map(|(_, record)| record.clone()).collect())
    }

    fn externals_after(&self, after: Option<ObjectKey>, limit: usize) -> Result<Vec<ObjectKey>, Infallible> {
        Ok(self.externals.range(from_after(after)).take(limit).copied().collect())
    }

    fn withdrawn_after(
        &self,
        after: Option<ObjectKey>,
        limit: usize,
    ) -> Result<Vec<WithdrawnRecord>, Infallible> {
        Ok(self.withdrawn.range(from_after(after)).take(limit).map(|(_, record)| record.clone()).collect())
    }

    fn purges_after(&self, after: Option<ObjectKey>, limit: usize) -> Result<Vec<PurgeRecord>, Infallible> {
        Ok(self.purges.range(from_after(after)).take(limit).map(|(_, record)| record.clone()).collect())
    }

    fn erasures_from(&self, from: BundleNumber, limit: usize) -> Result<Vec<ErasureRecord>, Infallible> {
        Ok(self.erasures.range(from..).take(limit).map(|(_, record)| record.clone()).collect())
    }

    fn features_after(&self, after: Option<Feature>, limit: usize) -> Result<Vec<FeatureRecord>, Infallible> {
        let record = |(feature, places): (&Feature, &Vec<Location>)| FeatureRecord {
            feature: *feature,
            places: places.clone(),
        };
        Ok(self.features.range(from_after(after)).take(limit).map(record).collect())
    }

    fn used_tokens_after(&self, after: Option<TokenId>, limit: usize) -> Result<Vec<TokenId>, Infallible> {
        Ok(self.used_tokens.range(from_after(after)).take(limit).copied().collect())
    }

    fn ledger_from(&self, position: u64, limit: usize) -> Result<Vec<LedgerEntry>, Infallible> {
        Ok(self.ledger.range(position..).take(limit).map(|(_, entry)| entry.clone()).collect())
    }

    fn feed_from(&self, position: u64, limit: usize) -> Result<Vec<FeedEvent>, Infallible> {
        Ok(self.feed.range(position..).take(limit).map(|(_, record)| record.event()).collect())
    }
}
