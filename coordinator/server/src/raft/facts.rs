//! Reading the state: [`Facts`] and [`Scan`] over the tables.
//!
//! Always holds: a batch of apply is seen as a whole by each single read; several reads may see several states. Leaves
//! to others: what the facts mean (`coordinator/logic`).

use std::sync::Arc;

use firn_base::{
    BundleId, BundleNumber, CodingId, Digest, Feature, KeyPrefix, Location, NodeId, ObjectKey, PublicKey,
    ReservationId, ShardIndex, TokenId,
};
use firn_coordinator_logic::{
    BundleRecord, Counters, ErasureRecord, Facts, FeatureRecord, FeedRecord, HeldRecord, NodeNumber,
    NodeRecord, PurgeRecord, ReservationRecord, Scan, StateDigest, SurplusRecord, WithdrawnRecord,
};
use firn_wire::{FeedEvent, LedgerEntry, OperatorEntry, Policy};

use super::bytes::Reader;
use super::records::{Record, number_from_bytes};
use super::{digests, key_index, keys};
use crate::storage::{Entry, KeyRange, Read, ScanLimit, StorageError, StoreKind, Table};

/// The archive's state for reading. Clones read the same store.
#[derive(Debug, Clone)]
pub struct StateFacts {
    store: Arc<dyn Read>,
}

// How much one step of a digest reads.
const DIGEST_STEP: ScanLimit = ScanLimit { entries: 4096, bytes: 1 << 20 };

impl StateFacts {
    /// The state in `store`, as it is at each read.
    pub fn new(store: Arc<dyn Read>) -> Self {
        Self { store }
    }

    /// Where each of `keys` lies, in their order: the first place first, nothing for a key that cannot be read.
    /// One read of many keys, for lookups.
    pub fn lookup(&self, keys: &[ObjectKey]) -> Result<Vec<Vec<Location>>, StorageError> {
        let found = key_index::locate(&*self.store, keys)?;
        let places = keys.iter().zip(found).map(|(key, place)| {
            let Some(place) = place else { return Ok(Vec::new()) };
            let mut places = vec![place.first];
            if place.may_have_variants {
                places.extend(self.variants(*key)?);
            }
            Ok(places)
        });
        places.collect()
    }

    /// Visible keys that begin with `prefix` behind `after`, which does so too, at most `limit`, in order.
    pub fn keys_with(
        &self,
        prefix: KeyPrefix,
        after: Option<ObjectKey>,
        limit: usize,
    ) -> Result<Vec<ObjectKey>, StorageError> {
        key_index::keys_with(&*self.store, prefix, after, limit)
    }

    /// BLAKE3 over every table: equal log positions have equal digests. Reads everything.
    pub fn digest(&self) -> Result<Digest, StorageError> {
        let mut hasher = blake3::Hasher::new();
        for table in StoreKind::State.tables() {
            let mut range = KeyRange::all();
            loop {
                let entries = self.store.scan(table, &range, DIGEST_STEP)?;
                let Some((last, _)) = entries.last() else { break };
                range = KeyRange::starting_at(keys::behind(last));
                for (key, value) in &entries {
                    hasher.update(&[table.number()]);
                    for part in [key, value] {
                        hasher.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
                        hasher.update(part);
                    }
                }
            }
        }
        Ok(Digest::from_bytes(*hasher.finalize().as_bytes()))
    }

    /// The digest that is kept with the state. It costs one read, and equals what
    /// [`firn_coordinator_logic::full_digest`] makes from everything.
    pub fn kept_digest(&self) -> Result<StateDigest, StorageError> {
        digests::read(&*self.store)
    }

    fn record<R: Record>(&self, table: Table, key: &[u8]) -> Result<Option<R>, StorageError> {
        self.store.get(table, key)?.map(|value| R::from_bytes(&value)).transpose()
    }

    fn number(&self, table: Table, name: &[u8]) -> Result<Option<u32>, StorageError> {
        self.store.get(table, name)?.map(|value| number_from_bytes(&value)).transpose()
    }

    fn has(&self, table: Table, key: &[u8]) -> Result<bool, StorageError> {
        Ok(self.store.get(table, key)?.is_some())
    }

    fn entries(&self, table: Table, range: &KeyRange, limit: usize) -> Result<Vec<Entry>, StorageError> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        self.store.scan(table, range, ScanLimit::entries(limit))
    }

    fn records<R: Record>(
        &self,
        table: Table,
        range: &KeyRange,
        limit: usize,
    ) -> Result<Vec<R>, StorageError> {
        self.entries(table, range, limit)?.iter().map(|(_, value)| R::from_bytes(value)).collect()
    }

    /// What `read` makes of each key of a range, behind the `skip` bytes that all of them begin with.
    fn keys<T>(
        &self,
        table: Table,
        range: &KeyRange,
        skip: usize,
        limit: usize,
        read: impl Fn(&mut Reader<'_>) -> Result<T, StorageError>,
    ) -> Result<Vec<T>, StorageError> {
        let entries = self.entries(table, range, limit)?;
        let keys = entries.iter().map(|(key, _)| {
            let mut reader = Reader::bare(table.name(), key.get(skip..).unwrap_or_default());
            let value = read(&mut reader)?;
            reader.finish()?;
            Ok(value)
        });
        keys.collect()
    }
}

fn page_after(after: Option<Vec<u8>>) -> KeyRange {
    after.map_or_else(KeyRange::all, |key| KeyRange::starting_at(keys::behind(&key)))
}

impl Facts for StateFacts {
    type Error = StorageError;

    fn counters(&self) -> Result<Counters, StorageError> {
        Ok(self.record(Table::Meta, keys::COUNTERS)?.unwrap_or_default())
    }

    fn node(&self, number: NodeNumber) -> Result<Option<NodeRecord>, StorageError> {
        self.record(Table::Nodes, &keys::node(number))
    }

    fn node_number(&self, id: NodeId) -> Result<Option<NodeNumber>, StorageError> {
        Ok(self.number(Table::NodeNames, id.as_bytes())?.map(NodeNumber))
    }

    fn bundle(&self, number: BundleNumber) -> Result<Option<BundleRecord>, StorageError> {
        self.record(Table::Bundles, &keys::bundle(number))
    }

    fn bundle_number(&self, id: BundleId) -> Result<Option<BundleNumber>, StorageError> {
        Ok(self.number(Table::BundleNames, id.as_bytes())?.map(BundleNumber))
    }

    fn coding_bundle(&self, coding: CodingId) -> Result<Option<BundleNumber>, StorageError> {
        Ok(self.number(Table::CodingNames, coding.as_bytes())?.map(BundleNumber))
    }

    fn reservation(&self, id: ReservationId) -> Result<Option<ReservationRecord>, StorageError> {
        self.record(Table::Reservations, id.as_bytes())
    }

    fn reservations_of(&self, coding: CodingId) -> Result<Vec<ReservationId>, StorageError> {
        let range = KeyRange::prefix(*coding.as_bytes());
        let read = |reader: &mut Reader<'_>| Ok(ReservationId::from_bytes(reader.array()?));
        self.keys(Table::ReservationsOf, &range, coding.as_bytes().len(), usize::MAX, read)
    }

    fn surplus(
        &self,
        node: NodeNumber,
        coding: CodingId,
        index: ShardIndex,
    ) -> Result<Option<SurplusRecord>, StorageError> {
        self.record(Table::Surplus, &keys::surplus(node, coding, index))
    }

    fn location(&self, key: ObjectKey) -> Result<Option<Location>, StorageError> {
        Ok(key_index::locate(&*self.store, &[key])?.pop().flatten().map(|place| place.first))
    }

    fn variants(&self, key: ObjectKey) -> Result<Vec<Location>, StorageError> {
        let prefix = key.to_bytes();
        let range = KeyRange::prefix(prefix);
        self.keys(Table::Variants, &range, prefix.len(), usize::MAX, keys::read_location)
    }

    fn held(&self, key: ObjectKey) -> Result<Vec<HeldRecord>, StorageError> {
        self.records(Table::Held, &KeyRange::prefix(key.to_bytes()), usize::MAX)
    }

    fn waiters(&self, awaited: ObjectKey) -> Result<Vec<(ObjectKey, Location)>, StorageError> {
        let prefix = awaited.to_bytes();
        self.keys(Table::Waiters, &KeyRange::prefix(prefix), prefix.len(), usize::MAX, read_placed)
    }

    fn is_external(&self, key: ObjectKey) -> Result<bool, StorageError> {
        self.has(Table::Externals, &key.to_bytes())
    }

    fn withdrawn(&self, key: ObjectKey) -> Result<Option<WithdrawnRecord>, StorageError> {
        self.record(Table::Withdrawn, &key.to_bytes())
    }

    fn purge(&self, key: ObjectKey) -> Result<Option<PurgeRecord>, StorageError> {
        self.record(Table::Purges, &key.to_bytes())
    }

    fn erasure(&self, bundle: BundleNumber) -> Result<Option<ErasureRecord>, StorageError> {
        self.record(Table::Erasures, &keys::bundle(bundle))
    }

    fn similar(&self, feature: Feature) -> Result<Vec<Location>, StorageError> {
        let found = self.store.get(Table::Features, feature.as_bytes())?;
        found.map_or(Ok(Vec::new()), |bytes| keys::read_locations(Table::Features.name(), &bytes))
    }

    fn ledger_entry(&self, position: u64) -> Result<Option<LedgerEntry>, StorageError> {
        self.record(Table::Ledger, &keys::position(position))
    }

    fn is_token_used(&self, token: TokenId) -> Result<bool, StorageError> {
        self.has(Table::UsedTokens, token.as_bytes())
    }

    fn operator(&self, key: PublicKey) -> Result<Option<OperatorEntry>, StorageError> {
        self.record(Table::Operators, key.as_bytes())
    }

    fn policy(&self) -> Result<Option<Policy>, StorageError> {
        self.record(Table::Meta, keys::POLICY)
    }
}

fn read_placed(reader: &mut Reader<'_>) -> Result<(ObjectKey, Location), StorageError> {
    Ok((keys::read_key(reader)?, keys::read_location(reader)?))
}

impl Scan for StateFacts {
    fn nodes_from(&self, from: NodeNumber, limit: usize) -> Result<Vec<NodeRecord>, StorageError> {
        self.records(Table::Nodes, &KeyRange::starting_at(keys::node(from)), limit)
    }

    fn bundles_from(&self, from: BundleNumber, limit: usize) -> Result<Vec<BundleRecord>, StorageError> {
        self.records(Table::Bundles, &KeyRange::starting_at(keys::bundle(from)), limit)
    }

    fn reservations_after(
        &self,
        after: Option<ReservationId>,
        limit: usize,
    ) -> Result<Vec<ReservationRecord>, StorageError> {
        let range = page_after(after.map(|id| id.as_bytes().to_vec()));
        self.records(Table::Reservations, &range, limit)
    }

    fn surplus_after(
        &self,
        after: Option<(NodeNumber, CodingId, ShardIndex)>,
        limit: usize,
    ) -> Result<Vec<SurplusRecord>, StorageError> {
        let range = page_after(after.map(|(node, coding, index)| keys::surplus(node, coding, index)));
        self.records(Table::Surplus, &range, limit)
    }

    fn keys_after(
        &self,
        after: Option<ObjectKey>,
        limit: usize,
    ) -> Result<Vec<(ObjectKey, Location)>, StorageError> {
        key_index::keys_after(&*self.store, after, limit)
    }

    fn variants_after(
        &self,
        after: Option<(ObjectKey, Location)>,
        limit: usize,
    ) -> Result<Vec<(ObjectKey, Location)>, StorageError> {
        let range = page_after(after.map(|(key, location)| keys::placed(key, location)));
        self.keys(Table::Variants, &range, 0, limit, read_placed)
    }

    fn held_after(
        &self,
        after: Option<(ObjectKey, Location)>,
        limit: usize,
    ) -> Result<Vec<HeldRecord>, StorageError> {
        let range = page_after(after.map(|(key, location)| keys::placed(key, location)));
        self.records(Table::Held, &range, limit)
    }

    fn externals_after(
        &self,
        after: Option<ObjectKey>,
        limit: usize,
    ) -> Result<Vec<ObjectKey>, StorageError> {
        let range = page_after(after.map(|key| key.to_bytes().to_vec()));
        self.keys(Table::Externals, &range, 0, limit, keys::read_key)
    }

    fn withdrawn_after(
        &self,
        after: Option<ObjectKey>,
        limit: usize,
    ) -> Result<Vec<WithdrawnRecord>, StorageError> {
        let range = page_after(after.map(|key| key.to_bytes().to_vec()));
        self.records(Table::Withdrawn, &range, limit)
    }

    fn purges_after(&self, after: Option<ObjectKey>, limit: usize) -> Result<Vec<PurgeRecord>, StorageError> {
        let range = page_after(after.map(|key| key.to_bytes().to_vec()));
        self.records(Table::Purges, &range, limit)
    }

    fn erasures_from(&self, from: BundleNumber, limit: usize) -> Result<Vec<ErasureRecord>, StorageError> {
        self.records(Table::Erasures, &KeyRange::starting_at(keys::bundle(from)), limit)
    }

    fn features_after(
        &self,
        after: Option<Feature>,
        limit: usize,
    ) -> Result<Vec<FeatureRecord>, StorageError> {
        let range = page_after(after.map(|feature| feature.as_bytes().to_vec()));
        let entries = self.entries(Table::Features, &range, limit)?;
        let read = |(key, value): &Entry| {
            let table = Table::Features.name();
            let mut reader = Reader::bare(table, key);
            let feature = Feature::from_bytes(reader.array()?);
            reader.finish()?;
            Ok(FeatureRecord { feature, places: keys::read_locations(table, value)? })
        };
        entries.iter().map(read).collect()
    }

    fn used_tokens_after(&self, after: Option<TokenId>, limit: usize) -> Result<Vec<TokenId>, StorageError> {
        let range = page_after(after.map(|token| token.as_bytes().to_vec()));
        let read = |reader: &mut Reader<'_>| Ok(TokenId::from_bytes(reader.array()?));
        self.keys(Table::UsedTokens, &range, 0, limit, read)
    }

    fn ledger_from(&self, position: u64, limit: usize) -> Result<Vec<LedgerEntry>, StorageError> {
        self.records(Table::Ledger, &KeyRange::starting_at(keys::position(position)), limit)
    }

    fn feed_from(&self, position: u64, limit: usize) -> Result<Vec<FeedEvent>, StorageError> {
        let records = key_index::feed_from(&*self.store, position, limit)?;
        Ok(records.iter().map(FeedRecord::event).collect())
    }
}

#[cfg(test)]
#[path = "facts_tests.rs"]
mod tests;
