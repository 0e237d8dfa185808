//! Purges: what a withdrawn path needs in order to be gone from every disk, and how far that has come.

use firn_base::{BundleId, CodingId, NodeId, ObjectKey, ReservationId, ShardIndex, Timestamp};
use serde::{Deserialize, Serialize};

use crate::NodeState;

/// The place of a record within its bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RecordPlace {
    /// Path-info block of the manifest.
    pub block: u16,
    /// Record in the block.
    pub entry: u16,
}

/// A record that goes from one bundle into another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovedRecord {
    /// Its key.
    pub key: ObjectKey,
    /// Where it lies in the bundle that is replaced.
    pub from: RecordPlace,
    /// Where it lies in the bundle that takes its place.
    pub to: RecordPlace,
}

/// One of the bundles that take the place of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplacementBundle {
    /// Its reservation, which holds its headers.
    pub reservation: ReservationId,
    /// Shards with receipts.
    pub receipts: Vec<(ShardIndex, NodeId)>,
    /// All records of its manifest.
    pub records: Vec<MovedRecord>,
}

/// What committed bundles take the place of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replaced {
    /// The bundle that goes.
    pub bundle: BundleId,
    /// For each committed bundle: where each of its records, in the order of its manifest, lies in the one that goes.
    pub from: Vec<Vec<RecordPlace>>,
}

/// A copy of a shard that is in the books as surplus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SurplusCopy {
    /// Where.
    pub node: NodeId,
    /// The coding.
    pub coding: CodingId,
    /// Which shard.
    pub index: ShardIndex,
}

/// How far the purge of one key has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PurgeProgress {
    /// The key.
    pub key: ObjectKey,
    /// When its purge was last asked for.
    pub since: Timestamp,
    /// Bundles that hold it beside others, and wait to be packed anew without it.
    pub to_repack: Vec<BundleId>,
    /// Bundles that are needed no more, but which readers may still be at, or whose replacements lack shards.
    pub passing: Vec<BundleId>,
    /// Bundles that are needed no more but by others, which use chunks of them: they stay until those are packed anew.
    pub kept: Vec<NeededBundle>,
    /// Nodes that held shards of bundles which were erased for it.
    pub holders: u64,
    /// Of these, nodes that have not confirmed that nothing of them is left.
    pub waiting: Vec<PurgeHolder>,
}

/// What is left to do of all purges together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PurgeSummary {
    /// Purges of which something is left.
    pub under_way: u64,
    /// Bundles that wait to be packed anew: they hold what is to be gone beside other paths, or use chunks of a bundle that
    /// did.
    pub to_repack: u64,
    /// Nodes that held shards of bundles which were erased for them.
    pub holders: u64,
    /// Of these, nodes that have not confirmed that nothing is left of one of them.
    pub waiting: u64,
}

/// A bundle that others need.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeededBundle {
    /// The bundle.
    pub bundle: BundleId,
    /// How many use chunks of it and wait to be packed anew without.
    pub dependents: u32,
    /// Some of these, the oldest.
    pub to_repack: Vec<BundleId>,
}

/// A node that may still hold shards of an erased bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PurgeHolder {
    /// The node.
    pub node: NodeId,
    /// Where it is in its life.
    pub state: NodeState,
    /// Whether the answering coordinator hears it now.
    pub online: bool,
    /// When it was last heard, as of the last summary.
    pub last_seen: Timestamp,
}

impl PurgeProgress {
    /// Whether nothing of it is left that anybody knows of.
    pub const fn is_done(&self) -> bool {
        self.to_repack.is_empty()
            && self.passing.is_empty()
            && self.kept.is_empty()
            && self.waiting.is_empty()
    }
}
