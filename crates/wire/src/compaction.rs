//! Compaction: small bundles whose records come together in full ones.

use firn_base::{BundleId, ByteCount, NodeId, ObjectKey, ReservationId, ShardIndex};
use serde::{Deserialize, Serialize};

use crate::{RecordPlace, UploadedBundle};

/// Bundles that one compaction takes the place of, at most: of a megabyte each they fill one. Of smaller ones more would fit,
/// but each is an erasure and two acts of the ledger, all in one command.
pub const COMPACTED_BUNDLES_MAX: usize = 256;

/// Groups in one answer.
pub const COMPACTION_GROUPS_MAX: usize = 64;

/// The place of a record in one of several bundles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct GatheredPlace {
    /// Which of the bundles that go, in the order in which they are named.
    pub bundle: u16,
    /// Where in it.
    pub place: RecordPlace,
}

/// A record that goes from one of several bundles into another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatheredRecord {
    /// Its key.
    pub key: ObjectKey,
    /// Where it lies now.
    pub from: GatheredPlace,
    /// Where it lies in the bundle that takes the others' place.
    pub to: RecordPlace,
}

/// One of the bundles in which others come together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompactedBundle {
    /// Its reservation, which holds its headers.
    pub reservation: ReservationId,
    /// Shards with receipts.
    pub receipts: Vec<(ShardIndex, NodeId)>,
    /// All records of its manifest.
    pub records: Vec<GatheredRecord>,
}

/// What uploaded bundles take the place of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gathered {
    /// The bundles that go, at most [`COMPACTED_BUNDLES_MAX`].
    pub bundles: Vec<BundleId>,
    /// For each uploaded bundle: where each of its records, in the order of its manifest, lies in those.
    pub from: Vec<Vec<GatheredPlace>>,
}

/// An operator's program has packed small bundles anew, and asks that the new ones take their place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompactRequest {
    /// The new bundles.
    pub bundles: Vec<UploadedBundle>,
    /// What they take the place of.
    pub gathered: Gathered,
}

/// How much of an archive lies in bundles under a quarter full: by payload bytes and by records, whichever fills a bundle
/// more. Bundles that others have taken the place of are not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BundleFill {
    /// All bundles.
    pub bundles: u64,
    /// Bytes of their payloads.
    pub payload: ByteCount,
    /// Bundles under a quarter full.
    pub small_bundles: u64,
    /// Bytes of their payloads.
    pub small_payload: ByteCount,
}

impl BundleFill {
    /// Whether more than `per_cent` of all bytes lie in bundles under a quarter full.
    pub fn exceeds(&self, per_cent: u8) -> bool {
        u128::from(self.small_payload.0) * 100 > u128::from(self.payload.0) * u128::from(per_cent)
    }
}

/// Small bundles that would fill one together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompactionGroup {
    /// The bundles, in the order of the history.
    pub bundles: Vec<BundleId>,
    /// Bytes of their payloads.
    pub payload: ByteCount,
    /// Their records.
    pub records: u64,
}

/// What is to be compacted now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompactionPlan {
    /// How full bundles are.
    pub fill: BundleFill,
    /// The first groups, at most [`COMPACTION_GROUPS_MAX`]; if there are as many, more may stand behind the last one.
    pub groups: Vec<CompactionGroup>,
}
