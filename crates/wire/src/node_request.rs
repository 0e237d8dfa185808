//! What is asked of a storage node: by readers, by uploaders, and by the leader.

use firn_base::{ByteCount, CodingId, NodeId, ReservationId, ShardIndex};
use serde::{Deserialize, Serialize};

use crate::{
    DecodeOrder, DecodeReport, DeleteOrder, KeptBundle, KeptGovernance, KeptName, OrderRank, Pass, Receipt,
    RecodeOrder, RecodeReport, RefusedRequest, Signed, Ticket,
};

/// A request on a stream of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeRequest {
    /// Send a proved range of a shard: [`NodeReply::Range`], then the proof on the same stream.
    ReadRange(RangeRequest),
    /// Take a shard: its `shard_bytes` bytes follow on the same stream.
    Store(StoreRequest),
    /// From a coordinator: make shards and bring them to their homes.
    Build(BuildOrder),
    /// From a coordinator: move a shard to trash.
    Delete(Signed<DeleteOrder>),
    /// From a coordinator: compute the roots of a coding with another k.
    Recode(RecodeOrder),
    /// From a coordinator: decode a payload from parity alone.
    Decode(DecodeOrder),
    /// From a coordinator that rebuilds the archive: show rosters and ledger.
    ShowGovernance {
        /// The first entry of the ledger wanted; 0 asks for rosters and heads too.
        from: u64,
    },
    /// From a coordinator that rebuilds the archive: name a page of what is here, in order of codings.
    NameBundles {
        /// The last coding of the page before; none to begin with the first.
        after: Option<CodingId>,
    },
    /// From a coordinator that rebuilds the archive: show these of what was named, at most
    /// [`crate::KEPT_PER_REQUEST_MAX`].
    ShowBundles {
        /// Which.
        codings: Vec<CodingId>,
    },
}

/// A range of a shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeRequest {
    /// The reader's right to read. Coordinators need none.
    pub pass: Option<Signed<Pass>>,
    /// The coding.
    pub coding: CodingId,
    /// Which shard.
    pub index: ShardIndex,
    /// First byte.
    pub offset: u64,
    /// How many bytes, at most [`crate::RANGE_BYTES_MAX`].
    pub bytes: u64,
}

/// A shard on its way to its home.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreRequest {
    /// The leader's order.
    pub ticket: Signed<Ticket>,
    /// The content header, for the shard file.
    pub content_header: Vec<u8>,
    /// The coding header, for the shard file; its BLAKE3 is the ticket's coding.
    pub coding_header: Vec<u8>,
}

/// Where a builder reads one shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildSource {
    /// Which shard.
    pub index: ShardIndex,
    /// Who holds it.
    pub node: NodeId,
    /// Host and UDP port.
    pub address: String,
}

/// Where a builder brings one shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildTarget {
    /// Host and UDP port.
    pub address: String,
    /// The order to the target, with the builder as bearer.
    pub ticket: Signed<Ticket>,
}

/// An order to make shards from others and bring them to their homes: repair when sources are other indexes,
/// a move when the source has the same index. One mechanism, and the foundation pays no traffic for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildOrder {
    /// Names this order; tickets and receipts repeat it.
    pub reservation: ReservationId,
    /// The content header of the bundle.
    pub content_header: Vec<u8>,
    /// The coding header: the roots that sources and results are checked against.
    pub coding_header: Vec<u8>,
    /// More than k sources where there are more: the builder reads those that answer.
    pub sources: Vec<BuildSource>,
    /// The shards to make.
    pub targets: Vec<BuildTarget>,
    /// The builder's right to read.
    pub pass: Signed<Pass>,
    /// Its place among orders.
    pub rank: OrderRank,
    /// The header of the coding that the sources are shards of, if it is another one of the same bundle: the shards
    /// are then made of its payload.
    pub source_coding_header: Option<Vec<u8>>,
}

/// What became of a build order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildReport {
    /// From the targets that hold their shard now.
    pub receipts: Vec<Signed<Receipt>>,
    /// Bytes read from sources, proofs included.
    pub read: ByteCount,
    /// Bytes sent to targets.
    pub sent: ByteCount,
    /// One sentence for each target or source that failed.
    pub failures: Vec<String>,
}

/// The answer to a [`NodeRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeReply {
    /// The range follows in bao's combined encoding: so many bytes.
    Range {
        /// Bytes that follow.
        encoded_bytes: u64,
    },
    /// The shard is on disk, synced.
    Stored(Signed<Receipt>),
    /// The build order was carried out as far as it could be.
    Built(BuildReport),
    /// The shard is in trash or was not here.
    Deleted,
    /// Not done, and why.
    Refused(RefusedRequest),
    /// The roots for another k.
    Recoded(RecodeReport),
    /// What came of decoding.
    Decoded(DecodeReport),
    /// Rosters and ledger.
    Governance(KeptGovernance),
    /// The names of what is here.
    BundleNames {
        /// A page, in order of codings.
        names: Vec<KeptName>,
        /// The last coding that was looked at, if there are more behind it.
        more_after: Option<CodingId>,
    },
    /// What was asked for and is here.
    Bundles {
        /// In the order asked for.
        bundles: Vec<KeptBundle>,
        /// How many of the codings asked for were looked at, at least one: a page ends after
        /// [`crate::KEPT_PAGE_BYTES`].
        looked_at: u32,
    },
}
