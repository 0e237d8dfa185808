//! One build: shards that a worker makes from others, or carries over, and brings to their homes.
//!
//! Owns: what a build is, and why it is made. Leaves to others: choosing it (`repair`, `moves`, `balance`), carrying
//! it out (the shell).

use firn_base::{BundleNumber, CodingId, ShardIndex};

use crate::repair_traffic::LineShares;
use crate::state::NodeNumber;

/// Why a build is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum BuildCause {
    /// The bundle has so few durable shards that nothing may hold the build up.
    Urgent,
    /// Shards are not durable.
    Missing,
    /// Shards are durable, but few of them have been online for long.
    Away,
    /// A good shard shall lie elsewhere.
    Move,
    /// The bundle gets another coding.
    Recode,
}

/// One build: a worker reads sources, makes the shards of the targets and brings them there. For a step of re-coding
/// that only reads there are no targets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildPlan {
    /// The bundle.
    pub bundle: BundleNumber,
    /// Its coding.
    pub coding: CodingId,
    /// Why.
    pub cause: BuildCause,
    /// Who does it: one of the targets.
    pub worker: NodeNumber,
    /// Holders that are online, the preferred first, each index once; for a move first the shard itself.
    pub sources: Vec<(ShardIndex, NodeNumber)>,
    /// Which shard shall come to which node.
    pub targets: Vec<(ShardIndex, NodeNumber)>,
    /// Copies that become surplus once the same index has its receipt from the target.
    pub retire: Vec<(ShardIndex, NodeNumber)>,
    /// Bytes of each shard.
    pub shard_bytes: u64,
    /// Bytes of each shard's file.
    pub file_bytes: u64,
    /// The coding that the sources are shards of, if it is another one of the bundle.
    pub made_of: Option<CodingId>,
    /// What it takes of the nodes' lines.
    pub lines: LineShares,
}
