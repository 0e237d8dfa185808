//! The records of the coordinators' state.
//!
//! Owns: what is remembered of nodes, bundles, reservations, surplus copies and held paths.
//! Always holds: plain values without serialisation; lists that say "sorted" are sorted and without
//! repetition, so that equal states are equal values.
//! Leaves to others: how records change (`apply`), how they are read (`facts`), their bytes (the shell).

use std::time::Duration;

use firn_base::{
    AddressHistory, AddressPrefix, Availability, BundleId, BundleNumber, CodingId, Digest, Feature, Location,
    NodeId, ObjectKey, Origin, PublicKey, ReservationId, Scheme, ShardIndex, Timestamp,
};
use firn_wire::{FeedEvent, LedgerHead, NodePlace, NodeState};

use crate::absence::Absence;
use crate::address_table::AddressTable;
use crate::suspension::Suspension;

/// A node's short name in placements, counted up in apply; a node keeps it for ever.
///
/// A placement is 5 bytes instead of 33. Never taken for a [`BundleNumber`]: both count from zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeNumber(pub u32);

impl NodeNumber {
    /// Its place in tables of all nodes.
    pub(crate) fn position(self) -> usize {
        usize::try_from(self.0).expect("node numbers have 32 bits, and so has usize at least")
    }
}

/// One storage node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRecord {
    /// Its number.
    pub number: NodeNumber,
    /// Its identity.
    pub id: NodeId,
    /// Its owner.
    pub operator: String,
    /// What it can vanish together with.
    pub failure_domain: String,
    /// Whether that is the word of an operator's token, which the node cannot change.
    pub vouched: bool,
    /// Since when it is in that failure domain.
    pub declared_since: Timestamp,
    /// Where coordinators see it.
    pub site: NodeSite,
    /// Host and UDP port.
    pub address: String,
    /// Its hard quota in bytes.
    pub quota_bytes: u64,
    /// Bytes of shard files placed, reserved or surplus on it, by the coordinators' account.
    pub assigned_bytes: u64,
    /// Shards placed on it.
    pub shards: u64,
    /// Where it is in its life.
    pub state: NodeState,
    /// When it was admitted.
    pub joined_at: Timestamp,
    /// When it was last heard, as of the last summary.
    pub last_seen: Timestamp,
    /// How much of the time it is there, as of the last summary.
    pub availability: Availability,
    /// What its owner has declared of absences.
    pub absence: Absence,
    /// A suspension that its owner is told of; none once it is suspended.
    pub suspension: Option<Suspension>,
}

/// Where a node is, as coordinators see it: never what it says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeSite {
    /// Where it was seen.
    pub addresses: AddressHistory,
    /// What a table says of the prefix that counts; none if no leader with a table has looked it up.
    pub origin: Option<Origin>,
    /// Since when that prefix counts and is said to be there.
    pub since: Timestamp,
}

impl NodeSite {
    /// The place that counts; none before the node was seen.
    pub fn place(&self) -> Option<NodePlace> {
        Some(NodePlace { prefix: self.addresses.counted()?, origin: self.origin })
    }

    /// Where it is after a time of which the node was seen at prefixes for so long each. Where there is no table, what
    /// one said of the same prefix before still holds, and nothing is known of another.
    pub(crate) fn after(
        &self,
        passed: Duration,
        seen_for: &[(AddressPrefix, Duration)],
        table: Option<&AddressTable>,
    ) -> Self {
        let addresses = self.addresses.after(passed, seen_for);
        let counted = addresses.counted();
        let origin = match (table, counted) {
            (Some(table), Some(prefix)) => Some(table.origin(prefix)),
            _ if counted == self.addresses.counted() => self.origin,
            _ => None,
        };
        Self { addresses, origin, since: self.since }
    }
}

impl NodeRecord {
    /// Whether its state lets its shards count. (Being offline for long is judged elsewhere.)
    pub const fn is_member(&self) -> bool {
        matches!(self.state, NodeState::Active | NodeState::Suspended | NodeState::Draining)
    }

    /// Whether its shards count at `now`, if it was last heard at `last_seen` and a node may be away for `count_lost_after`.
    pub fn counts_at(&self, last_seen: Timestamp, count_lost_after: Duration, now: Timestamp) -> bool {
        self.is_member() && (now.since(last_seen) <= count_lost_after || self.absence.in_force(now).is_some())
    }

    /// Bytes that may still be assigned to it.
    pub const fn free_bytes(&self) -> u64 {
        self.quota_bytes.saturating_sub(self.assigned_bytes)
    }
}

/// One erasure-coded form of a bundle and where its shards lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodingRecord {
    /// BLAKE3 of the header.
    pub id: CodingId,
    /// The coding header's bytes.
    pub header: Vec<u8>,
    /// How many shards are enough and how many there should be. n grows when a shard of a higher index is
    /// placed.
    pub scheme: Scheme,
    /// Bytes of each shard.
    pub shard_bytes: u64,
    /// Bytes of each shard's file on a node: what is counted against quotas.
    pub file_bytes: u64,
    /// Who holds which shard; sorted. One index may lie on several nodes, one node may hold several indexes
    /// (which caps forbid, but a changed failure domain may bring about).
    pub placements: Vec<(ShardIndex, NodeNumber)>,
}

/// One committed bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleRecord {
    /// Its number.
    pub number: BundleNumber,
    /// BLAKE3 of the content header.
    pub id: BundleId,
    /// The content header's bytes.
    pub content_header: Vec<u8>,
    /// Bytes of its payload.
    pub payload_bytes: u64,
    /// Its codings: one, or two while it is being re-coded; the first is the one to read and to count.
    pub codings: Vec<CodingRecord>,
    /// What is known of its second coding; none while it has one coding.
    pub recoding: Option<RecodingRecord>,
    /// Records in its manifest.
    pub keys: u64,
    /// Who committed it.
    pub uploader: PublicKey,
    /// When.
    pub committed_at: Timestamp,
    /// Entries of the ledger then.
    pub ledger_entries: u64,
    /// References that its commit recorded as external; sorted.
    pub externals: Vec<ObjectKey>,
}

/// How a second coding came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecodingRecord {
    /// The two nodes that computed its roots: a third has to decode it.
    pub workers: [NodeNumber; 2],
    /// When.
    pub begun: Timestamp,
}

/// Space set aside for one coded bundle.
///
/// Lives on after the commit until all its shards have receipts or it is ended, so that late receipts land.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReservationRecord {
    /// Its name.
    pub id: ReservationId,
    /// Who may use it.
    pub uploader: PublicKey,
    /// The bundle.
    pub bundle: BundleId,
    /// The content header's bytes.
    pub content_header: Vec<u8>,
    /// The coding.
    pub coding: CodingId,
    /// The coding header's bytes.
    pub coding_header: Vec<u8>,
    /// k and n.
    pub scheme: Scheme,
    /// Bytes of each shard.
    pub shard_bytes: u64,
    /// Bytes of each shard's file on a node.
    pub file_bytes: u64,
    /// Which node shall take which shard and has no committed receipt yet; sorted.
    pub assignments: Vec<(ShardIndex, NodeNumber)>,
    /// After this time the leader ends it.
    pub expires: Timestamp,
    /// The bundle's number, once it is committed.
    pub committed: Option<BundleNumber>,
}

/// A copy of a shard that does not count: it is trashed when its room is needed, or counts again when no other does.
/// Its bytes count until it is gone.
///
/// Key: (node, coding, index).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SurplusRecord {
    /// Where.
    pub node: NodeNumber,
    /// The coding; its bundle may be unknown, if an upload was abandoned.
    pub coding: CodingId,
    /// Which shard.
    pub index: ShardIndex,
    /// Bytes of its file.
    pub file_bytes: u64,
    /// Since when.
    pub since: Timestamp,
}

/// A record of a committed bundle that waits for references before its key may be read.
///
/// Key: (key, location): the same key in two bundles waits for each apart, so that no publisher delays
/// another's path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldRecord {
    /// The key.
    pub key: ObjectKey,
    /// Where its record lies.
    pub location: Location,
    /// What it waits for; sorted, never empty.
    pub waits: Vec<ObjectKey>,
}

/// What the feed remembers of one position. The index says at which position a key that can be read stands: there the
/// feed keeps its place, and nowhere else the present one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedRecord {
    /// A key became visible.
    Visible {
        /// The key.
        key: ObjectKey,
        /// Its first place.
        location: Location,
    },
    /// A key is no longer served.
    Withdrawn {
        /// The key.
        key: ObjectKey,
    },
    /// A key that can be read has another first place: from here on it stands at this position, as visible.
    Moved {
        /// The key.
        key: ObjectKey,
        /// Its first place.
        location: Location,
    },
}

impl FeedRecord {
    /// The key that it is about.
    pub const fn key(&self) -> ObjectKey {
        match self {
            Self::Visible { key, .. } | Self::Withdrawn { key } | Self::Moved { key, .. } => *key,
        }
    }

    /// What readers of the feed are told.
    pub const fn event(&self) -> FeedEvent {
        match self {
            // Whoever remembers where it lay looks again.
            Self::Visible { key, .. } | Self::Moved { key, .. } => FeedEvent::Visible(*key),
            Self::Withdrawn { key } => FeedEvent::Withdrawn(*key),
        }
    }
}

/// A key that was withdrawn, and the places of its records: from here it can be reinstated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WithdrawnRecord {
    /// The key.
    pub key: ObjectKey,
    /// Places of its records that could be read otherwise, in the order in which they came; the first one was or will
    /// be the first place.
    pub places: Vec<Location>,
}

/// A key that is to be gone from every disk. Stays for good, so that it can be shown what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PurgeRecord {
    /// The key.
    pub key: ObjectKey,
    /// When that was last asked for.
    pub since: Timestamp,
    /// Places of its records in bundles that nothing has taken the place of yet.
    pub places: Vec<Location>,
}

/// Which records had a feature last. It only helps uploaders to find what is similar: nothing depends on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeatureRecord {
    /// The feature.
    pub feature: Feature,
    /// Their places, the latest first; at least one, at most [`firn_wire::SIMILAR_RECORDS_MAX`].
    pub places: Vec<Location>,
}

/// A bundle in whose place others are: because of purges, or because it was small.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErasureRecord {
    /// The bundle.
    pub bundle: BundleNumber,
    /// Its id.
    pub id: BundleId,
    /// Keys of which it held records that were left out.
    pub keys: Vec<ObjectKey>,
    /// The bundles that took its place.
    pub replacements: Vec<BundleNumber>,
    /// Since when.
    pub since: Timestamp,
    /// What came of erasing it; none as long as its shards are to stay.
    pub erased: Option<ErasedRecord>,
}

impl ErasureRecord {
    /// Whether every node that held shards of it has confirmed that nothing is left.
    pub fn is_over(&self) -> bool {
        self.erased.as_ref().is_some_and(|erased| erased.waiting.is_empty())
    }
}

/// A bundle that nodes were told to erase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErasedRecord {
    /// Where the ledger says so.
    pub position: u64,
    /// Nodes that held shards of it; sorted.
    pub holders: Vec<NodeNumber>,
    /// Those that have not confirmed that nothing is left; sorted.
    pub waiting: Vec<NodeNumber>,
}

/// Counts and heads: the one record that nearly every command changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    /// The next bundle's number; also the count of bundles, for none is ever removed.
    pub next_bundle: u32,
    /// The next node's number; also the count of nodes that ever joined.
    pub next_node: u32,
    /// Events in the feed.
    pub feed_head: u64,
    /// Stands for all events of the feed in their order; each makes the next.
    pub feed_digest: Digest,
    /// Keys that can be read.
    pub visible_keys: u64,
    /// Held records.
    pub held_records: u64,
    /// References recorded as external.
    pub externals: u64,
    /// Withdrawn keys.
    pub withdrawn: u64,
    /// Payload bytes of committed bundles.
    pub payload_bytes: u64,
    /// Bytes of the files of all placed shards.
    pub stored_bytes: u64,
    /// The ledger's length and last digest.
    pub ledger: LedgerHead,
    /// The archive's time: the largest that a command carried.
    pub time: Timestamp,
    /// The level of commands that all coordinators know.
    pub feature_level: u16,
    /// Whether the archive is being rebuilt from what nodes show.
    pub rebuilding: bool,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            next_bundle: 0,
            next_node: 0,
            feed_head: 0,
            feed_digest: Digest::from_bytes([0; 32]),
            visible_keys: 0,
            held_records: 0,
            externals: 0,
            withdrawn: 0,
            payload_bytes: 0,
            stored_bytes: 0,
            ledger: LedgerHead { entries: 0, digest: Digest::from_bytes([0; 32]) },
            time: Timestamp::default(),
            feature_level: 0,
            rebuilding: false,
        }
    }
}
