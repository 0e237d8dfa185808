//! What apply, lookups and planners read of the state.
//!
//! Owns: the two traits that a store of records implements: [`Facts`], single records and short lists by
//! prefix, and [`Scan`], pages in key order. Always holds: reading changes nothing, and equal states answer
//! equally, lists in the documented order. Leaves to others: where the records lie (the shell, `memory`).

use firn_base::{
    BundleId, BundleNumber, CodingId, Feature, Location, NodeId, ObjectKey, PublicKey, ReservationId,
    ShardIndex, TokenId,
};
use firn_wire::{FeedEvent, LedgerEntry, LedgerState, OperatorEntry, Policy};

use crate::state::{
    BundleRecord, Counters, ErasureRecord, FeatureRecord, HeldRecord, NodeNumber, NodeRecord, PurgeRecord,
    ReservationRecord, SurplusRecord, WithdrawnRecord,
};

/// Single records and short lists. Over an ordered key-value store each method is one get, or one scan of a
/// prefix where it returns a list.
pub trait Facts {
    /// Why the store could not be read. Apply passes it on and changes nothing; the replica then stops.
    type Error;

    /// Counts and heads; the default for an empty store.
    fn counters(&self) -> Result<Counters, Self::Error>;
    /// A node by number.
    fn node(&self, number: NodeNumber) -> Result<Option<NodeRecord>, Self::Error>;
    /// A node's number by identity.
    fn node_number(&self, id: NodeId) -> Result<Option<NodeNumber>, Self::Error>;
    /// A bundle by number.
    fn bundle(&self, number: BundleNumber) -> Result<Option<BundleRecord>, Self::Error>;
    /// A bundle's number by id.
    fn bundle_number(&self, id: BundleId) -> Result<Option<BundleNumber>, Self::Error>;
    /// The bundle of a committed coding.
    fn coding_bundle(&self, coding: CodingId) -> Result<Option<BundleNumber>, Self::Error>;
    /// A reservation that has not ended.
    fn reservation(&self, id: ReservationId) -> Result<Option<ReservationRecord>, Self::Error>;
    /// Reservations of a coding that have not ended, in order of their ids.
    fn reservations_of(&self, coding: CodingId) -> Result<Vec<ReservationId>, Self::Error>;
    /// A surplus copy.
    fn surplus(
        &self,
        node: NodeNumber,
        coding: CodingId,
        index: ShardIndex,
    ) -> Result<Option<SurplusRecord>, Self::Error>;
    /// Where a visible key lies; none if it is held, withdrawn or unknown.
    fn location(&self, key: ObjectKey) -> Result<Option<Location>, Self::Error>;
    /// Further places of a visible key, in order of location (bundle, block, entry).
    fn variants(&self, key: ObjectKey) -> Result<Vec<Location>, Self::Error>;
    /// Held records of a key, in order of location.
    fn held(&self, key: ObjectKey) -> Result<Vec<HeldRecord>, Self::Error>;
    /// Held records that wait for `awaited`, in order of key and location.
    fn waiters(&self, awaited: ObjectKey) -> Result<Vec<(ObjectKey, Location)>, Self::Error>;
    /// Whether a reference was recorded as external.
    fn is_external(&self, key: ObjectKey) -> Result<bool, Self::Error>;
    /// A key that is withdrawn.
    fn withdrawn(&self, key: ObjectKey) -> Result<Option<WithdrawnRecord>, Self::Error>;
    /// A key that is or was to be purged.
    fn purge(&self, key: ObjectKey) -> Result<Option<PurgeRecord>, Self::Error>;
    /// A bundle in whose place others are.
    fn erasure(&self, bundle: BundleNumber) -> Result<Option<ErasureRecord>, Self::Error>;
    /// Places of the records that had a feature last, the latest first; empty if none had it.
    fn similar(&self, feature: Feature) -> Result<Vec<Location>, Self::Error>;
    /// An entry of the ledger; none behind its end.
    fn ledger_entry(&self, position: u64) -> Result<Option<LedgerEntry>, Self::Error>;
    /// Whether a join token was used.
    fn is_token_used(&self, token: TokenId) -> Result<bool, Self::Error>;
    /// An operator, as the ledger says it is now.
    fn operator(&self, key: PublicKey) -> Result<Option<OperatorEntry>, Self::Error>;
    /// The policy in force; none before bootstrap.
    fn policy(&self) -> Result<Option<Policy>, Self::Error>;

    /// Whether a key is withdrawn.
    fn is_withdrawn(&self, key: ObjectKey) -> Result<bool, Self::Error> {
        Ok(self.withdrawn(key)?.is_some())
    }

    /// A node by identity.
    fn node_by_id(&self, id: NodeId) -> Result<Option<NodeRecord>, Self::Error> {
        self.node_number(id)?.map_or(Ok(None), |number| self.node(number))
    }

    /// A bundle by id.
    fn bundle_by_id(&self, id: BundleId) -> Result<Option<BundleRecord>, Self::Error> {
        self.bundle_number(id)?.map_or(Ok(None), |number| self.bundle(number))
    }

    /// All places of a visible key, the first one first; empty if it cannot be read.
    fn locations(&self, key: ObjectKey) -> Result<Vec<Location>, Self::Error> {
        let Some(first) = self.location(key)? else { return Ok(Vec::new()) };
        let mut all = vec![first];
        all.extend(self.variants(key)?);
        Ok(all)
    }

    /// Whether an uploader may skip a key: it is visible, held back, or withdrawn.
    fn is_archived(&self, key: ObjectKey) -> Result<bool, Self::Error> {
        Ok(self.location(key)?.is_some() || self.is_withdrawn(key)? || !self.held(key)?.is_empty())
    }

    /// Whether a reference to `key` holds nothing back.
    fn is_satisfied(&self, key: ObjectKey) -> Result<bool, Self::Error> {
        Ok(self.location(key)?.is_some() || self.is_external(key)?)
    }

    /// The policy in force, or what holds before bootstrap.
    fn policy_or_default(&self) -> Result<Policy, Self::Error> {
        Ok(self.policy()?.unwrap_or_else(crate::policy::default_policy))
    }
}

/// Pages of records in key order, at most `limit` long; a page shorter than `limit` is the last. `after` names
/// the last record of the page before.
pub trait Scan: Facts {
    /// Nodes from a number on.
    fn nodes_from(&self, from: NodeNumber, limit: usize) -> Result<Vec<NodeRecord>, Self::Error>;
    /// Bundles from a number on.
    fn bundles_from(&self, from: BundleNumber, limit: usize) -> Result<Vec<BundleRecord>, Self::Error>;
    /// Reservations in order of their ids.
    fn reservations_after(
        &self,
        after: Option<ReservationId>,
        limit: usize,
    ) -> Result<Vec<ReservationRecord>, Self::Error>;
    /// Surplus copies in order of node, coding, index.
    fn surplus_after(
        &self,
        after: Option<(NodeNumber, CodingId, ShardIndex)>,
        limit: usize,
    ) -> Result<Vec<SurplusRecord>, Self::Error>;
    /// Visible keys with their first place, in order of keys.
    fn keys_after(
        &self,
        after: Option<ObjectKey>,
        limit: usize,
    ) -> Result<Vec<(ObjectKey, Location)>, Self::Error>;
    /// Further places of visible keys, in order of key and location.
    fn variants_after(
        &self,
        after: Option<(ObjectKey, Location)>,
        limit: usize,
    ) -> Result<Vec<(ObjectKey, Location)>, Self::Error>;
    /// Held records in order of key and location.
    fn held_after(
        &self,
        after: Option<(ObjectKey, Location)>,
        limit: usize,
    ) -> Result<Vec<HeldRecord>, Self::Error>;
    /// External references in order of keys.
    fn externals_after(&self, after: Option<ObjectKey>, limit: usize) -> Result<Vec<ObjectKey>, Self::Error>;
    /// Withdrawn keys in order.
    fn withdrawn_after(
        &self,
        after: Option<ObjectKey>,
        limit: usize,
    ) -> Result<Vec<WithdrawnRecord>, Self::Error>;
    /// Purges in order of keys.
    fn purges_after(&self, after: Option<ObjectKey>, limit: usize) -> Result<Vec<PurgeRecord>, Self::Error>;
    /// Erasures from a bundle's number on.
    fn erasures_from(&self, from: BundleNumber, limit: usize) -> Result<Vec<ErasureRecord>, Self::Error>;
    /// Features in order.
    fn features_after(&self, after: Option<Feature>, limit: usize)
    -> Result<Vec<FeatureRecord>, Self::Error>;
    /// Used join tokens in order.
    fn used_tokens_after(&self, after: Option<TokenId>, limit: usize) -> Result<Vec<TokenId>, Self::Error>;
    /// The ledger from a position on.
    fn ledger_from(&self, position: u64, limit: usize) -> Result<Vec<LedgerEntry>, Self::Error>;
    /// The feed from a position on.
    fn feed_from(&self, position: u64, limit: usize) -> Result<Vec<FeedEvent>, Self::Error>;

    /// All nodes that ever joined.
    fn all_nodes(&self) -> Result<Vec<NodeRecord>, Self::Error> {
        self.nodes_from(NodeNumber(0), usize::MAX)
    }

    /// What the ledger says when read from its beginning.
    fn ledger_state(&self) -> Result<LedgerState, Self::Error> {
        const PAGE: usize = 4096;
        let mut state = LedgerState::default();
        let mut position = 0;
        loop {
            let page = self.ledger_from(position, PAGE)?;
            page.iter().for_each(|entry| state.apply(&entry.act));
            match page.last() {
                Some(last) if page.len() == PAGE => position = last.position + 1,
                _ => return Ok(state),
            }
        }
    }
}
