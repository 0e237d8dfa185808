//! The statements of the data path: passes, tickets, receipts, delete orders, join tokens.

use firn_base::{CodingId, NodeId, PublicKey, ReservationId, ShardIndex, ShardRoot, Timestamp, TokenId};
use serde::{Deserialize, Serialize};

use crate::{DeleteReason, Statement};

/// Which of two contradicting orders counts: the one of the later roster, then of the later leader.
///
/// The epoch is the consensus term, so that a stale leader can order nothing once a node has heard its
/// successor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct OrderRank {
    /// Generation of the roster under which the order was signed.
    pub generation: u64,
    /// Term of the leader that signed.
    pub epoch: u64,
}

/// A coordinator's word that a reader may read any shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pass {
    /// The reader: the key of the connection that shows the pass.
    pub reader: PublicKey,
    /// The end of the right, in archive time.
    pub expires: Timestamp,
    /// What it is for.
    pub purpose: PassPurpose,
}

/// What the holder of a pass reads for: readers come before builds on a node's line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PassPurpose {
    /// Whoever wants the contents.
    Reading,
    /// Repairs, moves and re-coding.
    Building,
}

impl Statement for Pass {
    const KIND: &'static str = "pass";
}

/// A leader's order to a node to take one shard from one bearer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// The node that shall store.
    pub node: NodeId,
    /// The key of the connection that will bring the shard.
    pub bearer: PublicKey,
    /// The reservation or repair that this belongs to; the receipt repeats it.
    pub reservation: ReservationId,
    /// The coding.
    pub coding: CodingId,
    /// Which shard.
    pub index: ShardIndex,
    /// Bytes of the shard.
    pub shard_bytes: u64,
    /// BLAKE3 of the shard.
    pub root: ShardRoot,
    /// The end of the order, in archive time.
    pub expires: Timestamp,
    /// Its place among orders.
    pub rank: OrderRank,
}

impl Ticket {
    /// What its node says once it has stored the shard.
    pub const fn receipt(&self) -> Receipt {
        Receipt {
            node: self.node,
            reservation: self.reservation,
            coding: self.coding,
            index: self.index,
            root: self.root,
            rank: self.rank,
        }
    }
}

impl Statement for Ticket {
    const KIND: &'static str = "ticket";
}

/// A node's word that a shard is on its disk, synced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The node; also the signer.
    pub node: NodeId,
    /// The reservation or repair of the ticket.
    pub reservation: ReservationId,
    /// The coding.
    pub coding: CodingId,
    /// Which shard.
    pub index: ShardIndex,
    /// BLAKE3 of the shard, as the node computed it.
    pub root: ShardRoot,
    /// The rank of the ticket.
    pub rank: OrderRank,
}

impl Statement for Receipt {
    const KIND: &'static str = "receipt";
}

/// A leader's order to a node to move one shard to trash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteOrder {
    /// The node.
    pub node: NodeId,
    /// The coding.
    pub coding: CodingId,
    /// Which shard.
    pub index: ShardIndex,
    /// Why: this decides of which of its allowances the node takes it.
    pub reason: DeleteReason,
    /// The end of the order, in archive time.
    pub expires: Timestamp,
    /// Its place among orders.
    pub rank: OrderRank,
}

impl Statement for DeleteOrder {
    const KIND: &'static str = "delete";
}

/// A coordinator's invitation: whoever shows it first becomes an active node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// Its name; used up in the ledger.
    pub token: TokenId,
    /// The operator who will own the node.
    pub operator: String,
    /// The end of the invitation, in archive time.
    pub expires: Timestamp,
    /// The only failure domain this token vouches for, if it vouches for one.
    pub failure_domain: Option<String>,
}

impl Statement for JoinToken {
    const KIND: &'static str = "token";
}
