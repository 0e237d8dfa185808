//! Checking nodes' receipts against what was asked of them.
//!
//! Owns: which receipt counts for which order. Always holds: a receipt counts only if the node that was to take
//! the shard signed it, for this order, this coding, this index and this root.
//! Leaves to others: whether enough of them came (`apply`).

use std::collections::BTreeSet;

use firn_base::{ArchiveId, CodingId, NodeId, PublicKey, ReservationId, ShardIndex, ShardRoot};
use firn_wire::{OpenError, Receipt, Signed};

use crate::build_plan::BuildPlan;
use crate::facts::Facts;
use crate::headers::{CodedBundle, CodedBundleError};
use crate::state::ReservationRecord;

/// What receipts have to say.
#[derive(Debug, Clone)]
pub struct ExpectedReceipts {
    /// The archive they are signed in.
    pub archive: ArchiveId,
    /// The reservation or build that the tickets named.
    pub order: ReservationId,
    /// The coding.
    pub coding: CodingId,
    /// Roots of the coding's shards.
    pub roots: Vec<ShardRoot>,
    /// Which node was to take which shard.
    pub assigned: BTreeSet<(ShardIndex, NodeId)>,
}

/// Why a receipt does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// More receipts than shards were assigned.
    #[error("{found} receipts for {assigned} shards: send one for each shard")]
    TooMany {
        /// Receipts that came.
        found: usize,
        /// Shards assigned.
        assigned: usize,
    },
    /// The signature does not fit, or the bytes are no receipt.
    #[error("a receipt is not valid: {0}")]
    Open(#[from] OpenError),
    /// Another key than the node's signed.
    #[error("a receipt of node {node} was signed by another key")]
    ForeignSigner {
        /// The node that it names.
        node: String,
    },
    /// For another reservation, build or coding.
    #[error("a receipt belongs to another reservation")]
    OtherOrder,
    /// The node was not to take this shard, or its receipt was recorded already.
    #[error("node {node} was not asked to take shard {index}")]
    NotAssigned {
        /// The node.
        node: String,
        /// The shard.
        index: ShardIndex,
    },
    /// The node stored other bytes.
    #[error("node {node} stored shard {index} with another root")]
    OtherRoot {
        /// The node.
        node: String,
        /// The shard.
        index: ShardIndex,
    },
}

impl ExpectedReceipts {
    /// Those of a reservation.
    pub fn of_reservation<F: Facts>(
        facts: &F,
        archive: ArchiveId,
        reservation: &ReservationRecord,
    ) -> Result<Result<Self, CodedBundleError>, F::Error> {
        let headers = (&reservation.content_header, &reservation.coding_header);
        let coded = match CodedBundle::read(headers.0, headers.1, reservation.scheme.n()) {
            Ok(coded) => coded,
            Err(error) => return Ok(Err(error)),
        };
        let mut assigned = BTreeSet::new();
        for (index, number) in &reservation.assignments {
            assigned.extend(facts.node(*number)?.map(|node| (*index, node.id)));
        }
        let (order, coding) = (reservation.id, reservation.coding);
        Ok(Ok(Self { archive, order, coding, roots: coded.roots, assigned }))
    }

    /// Those of a build that was ordered under the name `order`; `roots` are the coding's.
    pub fn of_build<F: Facts>(
        facts: &F,
        archive: ArchiveId,
        order: ReservationId,
        plan: &BuildPlan,
        roots: Vec<ShardRoot>,
    ) -> Result<Self, F::Error> {
        let mut assigned = BTreeSet::new();
        for (index, number) in &plan.targets {
            assigned.extend(facts.node(*number)?.map(|node| (*index, node.id)));
        }
        Ok(Self { archive, order, coding: plan.coding, roots, assigned })
    }

    /// Checks one receipt.
    pub fn check(&self, receipt: &Signed<Receipt>) -> Result<(ShardIndex, NodeId), ReceiptError> {
        let verified = receipt.open(self.archive)?;
        let (node, index) = (verified.node, verified.index);
        if verified.signer() != PublicKey::from(node) {
            return Err(ReceiptError::ForeignSigner { node: node.short() });
        }
        if verified.reservation != self.order || verified.coding != self.coding {
            return Err(ReceiptError::OtherOrder);
        }
        if !self.assigned.contains(&(index, node)) {
            return Err(ReceiptError::NotAssigned { node: node.short(), index });
        }
        if self.roots.get(index.position()) != Some(&verified.root) {
            return Err(ReceiptError::OtherRoot { node: node.short(), index });
        }
        Ok((index, node))
    }

    /// Checks all receipts of a request: one that does not count refuses the request.
    pub fn check_all(&self, receipts: &[Signed<Receipt>]) -> Result<Vec<(ShardIndex, NodeId)>, ReceiptError> {
        // Each costs a signature check: bounded before the first.
        if receipts.len() > self.assigned.len() {
            return Err(ReceiptError::TooMany { found: receipts.len(), assigned: self.assigned.len() });
        }
        receipts.iter().map(|receipt| self.check(receipt)).collect()
    }
}
