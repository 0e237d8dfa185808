//! Coding a bundle anew for a larger k: what is asked of nodes, and what is shown of it.

use firn_base::{ByteCount, CodingId, NodeId, Scheme, ShardIndex};
use serde::{Deserialize, Serialize};

use crate::{BuildSource, OrderRank, Pass, Signed};

/// An order to compute the roots of all shards that a bundle would have with another k.
///
/// Given to two nodes that cannot lie together: only what both of them found is believed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecodeOrder {
    /// The content header of the bundle: the payload that is read must have its root.
    pub content_header: Vec<u8>,
    /// The header of the coding that is read.
    pub coding_header: Vec<u8>,
    /// The k to code for.
    pub k: u8,
    /// Shards of the coding that is read; more than its k where there are more.
    pub sources: Vec<BuildSource>,
    /// The worker's right to read.
    pub pass: Signed<Pass>,
    /// Its place among orders.
    pub rank: OrderRank,
}

/// What a worker found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecodeReport {
    /// The coding header for the new k, with the roots of all its shards.
    pub coding_header: Vec<u8>,
    /// Bytes read from other nodes, proofs included.
    pub read: ByteCount,
}

/// An order to decode the payload from parity shards of a new coding alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecodeOrder {
    /// The content header of the bundle: the decoded payload must have its root.
    pub content_header: Vec<u8>,
    /// The header of the new coding: the decoded data shards must have its roots.
    pub coding_header: Vec<u8>,
    /// Parity shards; more than k where there are more.
    pub sources: Vec<BuildSource>,
    /// The decoder's right to read.
    pub pass: Signed<Pass>,
    /// Its place among orders.
    pub rank: OrderRank,
}

/// What came of decoding. Nodes that were away or shards that could not be read are a refusal, no verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecodeReport {
    /// What does not fit, in one sentence; none if payload and data shards have their roots.
    pub differs: Option<String>,
    /// Bytes read from other nodes, proofs included.
    pub read: ByteCount,
}

/// How far bundles have come on their way to the k that the fleet is wide enough for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RecodeProgress {
    /// Bundles whose counted coding has a smaller k.
    pub older: u64,
    /// Of these, bundles that have a second coding, or whose new roots are being computed.
    pub under_way: u64,
}

/// A coding that is being made beside the one that counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecondCoding {
    /// The coding.
    pub coding: CodingId,
    /// k and n.
    pub scheme: Scheme,
    /// Bytes of each shard.
    pub shard_bytes: u64,
    /// Who holds which shard so far.
    pub placements: Vec<(ShardIndex, Vec<NodeId>)>,
}
