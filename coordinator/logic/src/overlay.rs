//! A state with changes that are not stored yet.
//!
//! Owns: reading one's own writes, within a command and between commands of one batch. Always holds: an overlay
//! answers as its base would after the changes, and gives each changed record back once.
//! Leaves to others: which changes to make (`apply`), storing them (the shell).

use std::collections::BTreeMap;

use firn_base::{
    BundleId, BundleNumber, CodingId, Feature, Location, NodeId, ObjectKey, PublicKey, ReservationId,
    ShardIndex, TokenId,
};
use firn_wire::{Actor, LedgerEntry, OperatorEntry, Policy};

use crate::change::Change;
use crate::facts::Facts;
use crate::layer::Layer;
use crate::state::{
    BundleRecord, Counters, ErasureRecord, FeatureRecord, FeedRecord, HeldRecord, NodeNumber, NodeRecord,
    PurgeRecord, ReservationRecord, SurplusRecord, WithdrawnRecord,
};

type KeyedPlace = (ObjectKey, Location);

/// Facts with changes on top. [`crate::apply`] uses one for each command; a shell that applies several commands
/// in one batch keeps one and lets it [`absorb`](Self::absorb) the changes of each.
#[derive(Debug)]
pub struct Overlay<'facts, F> {
    facts: &'facts F,
    /// Who asked for the command that is applied: the ledger says so of what it records.
    actor: Actor,
    counters: Counters,
    counters_before: Counters,
    nodes: Layer<NodeNumber, NodeRecord>,
    node_names: Layer<NodeId, NodeNumber>,
    bundles: Layer<BundleNumber, BundleRecord>,
    bundle_names: Layer<BundleId, BundleNumber>,
    coding_names: Layer<CodingId, BundleNumber>,
    reservations: Layer<ReservationId, ReservationRecord>,
    reservations_of: Layer<(CodingId, ReservationId), ReservationId>,
    surplus: Layer<(NodeNumber, CodingId, ShardIndex), SurplusRecord>,
    index: Layer<ObjectKey, Location>,
    variants: Layer<KeyedPlace, Location>,
    held: Layer<KeyedPlace, HeldRecord>,
    waiters: Layer<(ObjectKey, KeyedPlace), KeyedPlace>,
    externals: Layer<ObjectKey, ()>,
    withdrawn: Layer<ObjectKey, WithdrawnRecord>,
    purges: Layer<ObjectKey, PurgeRecord>,
    erasures: Layer<BundleNumber, ErasureRecord>,
    features: Layer<Feature, Vec<Location>>,
    used_tokens: Layer<TokenId, ()>,
    operators: Layer<PublicKey, OperatorEntry>,
    policy: Option<Policy>,
    ledger: BTreeMap<u64, LedgerEntry>,
    feed: BTreeMap<u64, FeedRecord>,
}

impl<'facts, F: Facts> Overlay<'facts, F> {
    /// `facts` without any change yet.
    pub fn new(facts: &'facts F) -> Result<Self, F::Error> {
        let counters = facts.counters()?;
        Ok(Self {
            facts,
            actor: Actor::Coordinators,
            counters,
            counters_before: counters,
            nodes: Layer::default(),
            node_names: Layer::default(),
            bundles: Layer::default(),
            bundle_names: Layer::default(),
            coding_names: Layer::default(),
            reservations: Layer::default(),
            reservations_of: Layer::default(),
            surplus: Layer::default(),
            index: Layer::default(),
            variants: Layer::default(),
            held: Layer::default(),
            waiters: Layer::default(),
            externals: Layer::default(),
            withdrawn: Layer::default(),
            purges: Layer::default(),
            erasures: Layer::default(),
            features: Layer::default(),
            used_tokens: Layer::default(),
            operators: Layer::default(),
            policy: None,
            ledger: BTreeMap::new(),
            feed: BTreeMap::new(),
        })
    }

    /// Takes changes in, in their order.
    pub fn absorb(&mut self, changes: impl IntoIterator<Item = Change>) {
        changes.into_iter().for_each(|change| self.write(change));
    }

    /// The changes so far, one for each changed record; the same for the same writes in any grouping.
    pub fn into_changes(self) -> Vec<Change> {
        let mut all = Vec::new();
        if self.counters != self.counters_before {
            all.push(Change::PutCounters(self.counters));
        }
        // Node, bundle and coding records and names are never removed, nor are purges, erasures and features.
        all.extend(self.nodes.into_writes().filter_map(|(_, record)| record.map(Change::PutNode)));
        all.extend(self.node_names.into_writes().filter_map(|(id, to)| to.map(|n| Change::NameNode(id, n))));
        all.extend(self.bundles.into_writes().filter_map(|(_, record)| record.map(Change::PutBundle)));
        all.extend(
            self.bundle_names.into_writes().filter_map(|(id, to)| to.map(|n| Change::NameBundle(id, n))),
        );
        all.extend(
            self.coding_names.into_writes().filter_map(|(id, to)| to.map(|n| Change::NameCoding(id, n))),
        );
        all.extend(
            self.reservations
                .into_writes()
                .map(|(id, record)| record.map_or(Change::RemoveReservation(id), Change::PutReservation)),
        );
        all.extend(self.reservations_of.into_writes().map(|((coding, id), put)| match put {
            Some(_) => Change::PutReservationOf(coding, id),
            None => Change::RemoveReservationOf(coding, id),
        }));
        all.extend(self.surplus.into_writes().map(|((node, coding, index), record)| {
            record.map_or(Change::RemoveSurplus(node, coding, index), Change::PutSurplus)
        }));
        all.extend(self.variants.into_writes().map(|((key, location), put)| match put {
            Some(_) => Change::PutVariant(key, location),
            None => Change::RemoveVariant(key, location),
        }));
        all.extend(self.held.into_writes().map(|((key, location), record)| {
            record.map_or(Change::RemoveHeld(key, location), Change::PutHeld)
        }));
        all.extend(self.waiters.into_writes().map(|((awaited, (key, location)), put)| match put {
            Some(_) => Change::PutWaiter { awaited, key, location },
            None => Change::RemoveWaiter { awaited, key, location },
        }));
        all.extend(self.externals.into_writes().map(|(key, _)| Change::PutExternal(key)));
        all.extend(
            self.withdrawn
                .into_writes()
                .map(|(key, record)| record.map_or(Change::RemoveWithdrawn(key), Change::PutWithdrawn)),
        );
        all.extend(self.purges.into_writes().filter_map(|(_, record)| record.map(Change::PutPurge)));
        all.extend(self.erasures.into_writes().filter_map(|(_, record)| record.map(Change::PutErasure)));
        all.extend(self.features.into_writes().filter_map(|(feature, places)| {
            places.map(|places| Change::PutFeature(FeatureRecord { feature, places }))
        }));
        all.extend(self.used_tokens.into_writes().map(|(token, _)| Change::PutUsedToken(token)));
        all.extend(self.operators.into_writes().map(|(key, entry)| match entry {
            Some(entry) => Change::PutOperator(key, entry),
            None => Change::RemoveOperator(key),
        }));
        all.extend(self.policy.map(Change::PutPolicy));
        all.extend(self.ledger.into_values().map(Change::PutLedger));
        // The index follows the feed.
        all.extend(self.feed.into_iter().map(|(position, record)| Change::PutFeed(position, record)));
        all
    }

    pub(crate) fn write(&mut self, change: Change) {
        match change {
            Change::PutCounters(counters) => self.counters = counters,
            Change::PutNode(record) => self.nodes.put(record.number, record),
            Change::NameNode(id, number) => self.node_names.put(id, number),
            Change::PutBundle(record) => self.bundles.put(record.number, record),
            Change::NameBundle(id, number) => self.bundle_names.put(id, number),
            Change::NameCoding(id, number) => self.coding_names.put(id, number),
            Change::PutReservation(record) => self.reservations.put(record.id, record),
            Change::RemoveReservation(id) => self.reservations.remove(id),
            Change::PutReservationOf(coding, id) => self.reservations_of.put((coding, id), id),
            Change::RemoveReservationOf(coding, id) => self.reservations_of.remove((coding, id)),
            Change::PutSurplus(record) => {
                self.surplus.put((record.node, record.coding, record.index), record);
            }
            Change::RemoveSurplus(node, coding, index) => self.surplus.remove((node, coding, index)),
            Change::PutVariant(key, location) => self.variants.put((key, location), location),
            Change::RemoveVariant(key, location) => self.variants.remove((key, location)),
            Change::PutHeld(record) => self.held.put((record.key, record.location), record),
            Change::RemoveHeld(key, location) => self.held.remove((key, location)),
            Change::PutWaiter { awaited, key, location } => {
                self.waiters.put((awaited, (key, location)), (key, location));
            }
            Change::RemoveWaiter { awaited, key, location } => {
                self.waiters.remove((awaited, (key, location)));
            }
            Change::PutExternal(key) => self.externals.put(key, ()),
            Change::PutWithdrawn(record) => self.withdrawn.put(record.key, record),
            Change::RemoveWithdrawn(key) => self.withdrawn.remove(key),
            Change::PutPurge(record) => self.purges.put(record.key, record),
            Change::PutErasure(record) => self.erasures.put(record.bundle, record),
            Change::PutFeature(FeatureRecord { feature, places }) => self.features.put(feature, places),
            Change::PutUsedToken(token) => self.used_tokens.put(token, ()),
            Change::PutOperator(key, entry) => self.operators.put(key, entry),
            Change::RemoveOperator(key) => self.operators.remove(key),
            Change::PutPolicy(policy) => self.policy = Some(policy),
            Change::PutLedger(entry) => {
                self.ledger.insert(entry.position, entry);
            }
            Change::PutFeed(position, record) => {
                match record {
                    FeedRecord::Visible { key, location } | FeedRecord::Moved { key, location } => {
                        self.index.put(key, location);
                    }
                    FeedRecord::Withdrawn { key } => self.index.remove(key),
                }
                self.feed.insert(position, record);
            }
        }
    }

    /// Names whoever asked for the command that is applied.
    pub(crate) fn set_actor(&mut self, actor: Actor) {
        self.actor = actor;
    }

    pub(crate) const fn actor(&self) -> &Actor {
        &self.actor
    }

    pub(crate) const fn counters_mut(&mut self) -> &mut Counters {
        &mut self.counters
    }
}

const FIRST_LOCATION: Location = Location { bundle: BundleNumber(0), block: 0, entry: 0 };
const FIRST_KEY: ObjectKey = ObjectKey::store_path([0; 20]);

impl<F: Facts> Facts for Overlay<'_, F> {
    type Error = F::Error;

    fn counters(&self) -> Result<Counters, F::Error> {
        Ok(self.counters)
    }

    fn node(&self, number: NodeNumber) -> Result<Option<NodeRecord>, F::Error> {
        self.nodes.get(&number, || self.facts.node(number))
    }

    fn node_number(&self, id: NodeId) -> Result<Option<NodeNumber>, F::Error> {
        self.node_names.get(&id, || self.facts.node_number(id))
    }

    fn bundle(&self, number: BundleNumber) -> Result<Option<BundleRecord>, F::Error> {
        self.bundles.get(&number, || self.facts.bundle(number))
    }

    fn bundle_number(&self, id: BundleId) -> Result<Option<BundleNumber>, F::Error> {
        self.bundle_names.get(&id, || self.facts.bundle_number(id))
    }

    fn coding_bundle(&self, coding: CodingId) -> Result<Option<BundleNumber>, F::Error> {
        self.coding_names.get(&coding, || self.facts.coding_bundle(coding))
    }

    fn reservation(&self, id: ReservationId) -> Result<Option<ReservationRecord>, F::Error> {
        self.reservations.get(&id, || self.facts.reservation(id))
    }

    fn reservations_of(&self, coding: CodingId) -> Result<Vec<ReservationId>, F::Error> {
        let base = self.facts.reservations_of(coding)?;
        let from = (coding, ReservationId::from_bytes([0; 32]));
        let base = base.into_iter().map(|id| ((coding, id), id));
        Ok(self.reservations_of.merge(base, &from, |(own, _)| *own == coding))
    }

    fn surplus(
        &self,
        node: NodeNumber,
        coding: CodingId,
        index: ShardIndex,
    ) -> Result<Option<SurplusRecord>, F::Error> {
        self.surplus.get(&(node, coding, index), || self.facts.surplus(node, coding, index))
    }

    fn location(&self, key: ObjectKey) -> Result<Option<Location>, F::Error> {
        self.index.get(&key, || self.facts.location(key))
    }

    fn variants(&self, key: ObjectKey) -> Result<Vec<Location>, F::Error> {
        let base = self.facts.variants(key)?;
        let base = base.into_iter().map(|location| ((key, location), location));
        Ok(self.variants.merge(base, &(key, FIRST_LOCATION), |(own, _)| *own == key))
    }

    fn held(&self, key: ObjectKey) -> Result<Vec<HeldRecord>, F::Error> {
        let base = self.facts.held(key)?;
        let base = base.into_iter().map(|record| ((key, record.location), record));
        Ok(self.held.merge(base, &(key, FIRST_LOCATION), |(own, _)| *own == key))
    }

    fn waiters(&self, awaited: ObjectKey) -> Result<Vec<(ObjectKey, Location)>, F::Error> {
        let base = self.facts.waiters(awaited)?;
        let base = base.into_iter().map(|waiter| ((awaited, waiter), waiter));
        Ok(self.waiters.merge(base, &(awaited, (FIRST_KEY, FIRST_LOCATION)), |(own, _)| *own == awaited))
    }

    fn is_external(&self, key: ObjectKey) -> Result<bool, F::Error> {
        // Most archives have few externals and withdrawals, and a commit asks for tens of thousands of keys.
        if self.counters.externals == 0 {
            return Ok(false);
        }
        self.externals.has(&key, || self.facts.is_external(key))
    }

    fn withdrawn(&self, key: ObjectKey) -> Result<Option<WithdrawnRecord>, F::Error> {
        if self.counters.withdrawn == 0 {
            return Ok(None);
        }
        self.withdrawn.get(&key, || self.facts.withdrawn(key))
    }

    fn purge(&self, key: ObjectKey) -> Result<Option<PurgeRecord>, F::Error> {
        self.purges.get(&key, || self.facts.purge(key))
    }

    fn erasure(&self, bundle: BundleNumber) -> Result<Option<ErasureRecord>, F::Error> {
        self.erasures.get(&bundle, || self.facts.erasure(bundle))
    }

    fn similar(&self, feature: Feature) -> Result<Vec<Location>, F::Error> {
        let base = || self.facts.similar(feature).map(Some);
        Ok(self.features.get(&feature, base)?.unwrap_or_default())
    }

    fn ledger_entry(&self, position: u64) -> Result<Option<LedgerEntry>, F::Error> {
        self.ledger
            .get(&position)
            .map_or_else(|| self.facts.ledger_entry(position), |own| Ok(Some(own.clone())))
    }

    fn is_token_used(&self, token: TokenId) -> Result<bool, F::Error> {
        self.used_tokens.has(&token, || self.facts.is_token_used(token))
    }

    fn operator(&self, key: PublicKey) -> Result<Option<OperatorEntry>, F::Error> {
        self.operators.get(&key, || self.facts.operator(key))
    }

    fn policy(&self) -> Result<Option<Policy>, F::Error> {
        self.policy.clone().map_or_else(|| self.facts.policy(), |policy| Ok(Some(policy)))
    }
}
