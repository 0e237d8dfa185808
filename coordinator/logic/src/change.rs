//! What apply writes: puts and removals of single records.
//!
//! Owns: the list of all writes. Always holds: a change names one record by its whole key and nothing is
//! implied, with one exception: tables of names and waiters have changes of their own, but the index of visible keys
//! follows the feed. A store carries changes out one by one, those of the feed in order of positions, the others in any
//! order, in one atomic batch. Leaves to others: the bytes of keys and values (the shell).

use firn_base::{
    BundleId, BundleNumber, CodingId, Location, NodeId, ObjectKey, PublicKey, ReservationId, ShardIndex,
    TokenId,
};
use firn_wire::{LedgerEntry, OperatorEntry, Policy};

use crate::state::{
    BundleRecord, Counters, ErasureRecord, FeatureRecord, FeedRecord, HeldRecord, NodeNumber, NodeRecord,
    PurgeRecord, ReservationRecord, SurplusRecord, WithdrawnRecord,
};

/// One write. In key-value terms: table, key → value.
///
/// Numbers and locations within keys must be stored so that byte order is their order (big-endian; a location
/// as bundle, block, entry), since [`crate::Facts`] and [`crate::Scan`] answer in that order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// counters: () → counters.
    PutCounters(Counters),
    /// nodes: number → record.
    PutNode(NodeRecord),
    /// node names: id → number.
    NameNode(NodeId, NodeNumber),
    /// bundles: number → record.
    PutBundle(BundleRecord),
    /// bundle names: id → number.
    NameBundle(BundleId, BundleNumber),
    /// coding names: id → bundle number.
    NameCoding(CodingId, BundleNumber),
    /// reservations: id → record.
    PutReservation(ReservationRecord),
    /// reservations: remove id.
    RemoveReservation(ReservationId),
    /// reservations of codings: (coding, reservation) → ().
    PutReservationOf(CodingId, ReservationId),
    /// reservations of codings: remove (coding, reservation).
    RemoveReservationOf(CodingId, ReservationId),
    /// surplus: (node, coding, index) → record.
    PutSurplus(SurplusRecord),
    /// surplus: remove (node, coding, index).
    RemoveSurplus(NodeNumber, CodingId, ShardIndex),
    /// variants: (key, location) → ().
    PutVariant(ObjectKey, Location),
    /// variants: remove (key, location).
    RemoveVariant(ObjectKey, Location),
    /// held: (key, location) → record.
    PutHeld(HeldRecord),
    /// held: remove (key, location).
    RemoveHeld(ObjectKey, Location),
    /// waiters: (awaited, key, location) → ().
    PutWaiter {
        /// What is waited for.
        awaited: ObjectKey,
        /// The key that waits.
        key: ObjectKey,
        /// The place of the record that waits.
        location: Location,
    },
    /// waiters: remove (awaited, key, location).
    RemoveWaiter {
        /// What was waited for.
        awaited: ObjectKey,
        /// The key that waited.
        key: ObjectKey,
        /// The place of the record that waited.
        location: Location,
    },
    /// externals: key → ().
    PutExternal(ObjectKey),
    /// withdrawn: key → record.
    PutWithdrawn(WithdrawnRecord),
    /// withdrawn: remove key.
    RemoveWithdrawn(ObjectKey),
    /// used tokens: token → ().
    PutUsedToken(TokenId),
    /// operators: key → name and role, which the ledger says too.
    PutOperator(PublicKey, OperatorEntry),
    /// operators: remove key.
    RemoveOperator(PublicKey),
    /// policy: () → policy.
    PutPolicy(Policy),
    /// ledger: position → entry.
    PutLedger(LedgerEntry),
    /// purges: key → record.
    PutPurge(PurgeRecord),
    /// erasures: bundle number → record.
    PutErasure(ErasureRecord),
    /// features: feature → places.
    PutFeature(FeatureRecord),
    /// feed: position → record, and with it the index: a visible or moved key → the position; a withdrawn one is removed.
    PutFeed(u64, FeedRecord),
}
