//! Who may have what done: passes, tickets, delete orders and build orders against the roster, archive time,
//! the node's own id and the key of the connection.
//!
//! Always holds: a coordinator's signature counts only under the roster in force; a right is the right of one
//! key, checked against the connection that shows it; the order gate is asked last, so that a refused order
//! does not move it.
//! Leaves to others: whether there is room (`quota`), whether the bytes are right (the shard store).

use firn_base::{CodingId, NodeId, PublicKey, Timestamp};
use firn_wire::{
    BuildOrder, DeleteOrder, OpenError, OrderRank, Pass, PassPurpose, RefusalKind, RefusedRequest, Signed,
    Statement, Ticket, VerifiedRoster,
};

use crate::{OrderGate, OrderRefused, TooManyDeletes};

/// What a node checks against: who it is, whom it believes, and when.
#[derive(Debug, Clone, Copy)]
pub struct Grounds<'a> {
    /// This node.
    pub node: NodeId,
    /// The roster in force.
    pub roster: &'a VerifiedRoster,
    /// Archive time.
    pub now: Timestamp,
}

/// A right to read that was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadRight {
    /// Its end, in archive time.
    pub expires: Timestamp,
    /// What it is for.
    pub purpose: PassPurpose,
}

/// Why a request was not admitted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdmissionError {
    /// A signature does not fit, or what was signed is something else.
    #[error("the {what} cannot be believed: {cause}")]
    Forged {
        /// What was shown.
        what: &'static str,
        /// What does not fit.
        cause: OpenError,
    },
    /// The signer is no coordinator of the roster in force.
    #[error("the {what} is signed by {signer}, who is no coordinator of this archive's roster")]
    NotACoordinator {
        /// What was shown.
        what: &'static str,
        /// The first digits of the signer.
        signer: String,
    },
    /// Only a coordinator may ask for this, over its own connection.
    #[error("only a coordinator may order this, and {peer} is none in this archive's roster")]
    PeerNotACoordinator {
        /// The first digits of the key of the connection.
        peer: String,
    },
    /// No pass was shown.
    #[error("reading needs a pass: ask a coordinator for one")]
    NoPass,
    /// Shown by another key than the one it was made for.
    #[error("the {what} was made for {holder}, not for the key of this connection")]
    WrongBearer {
        /// What was shown.
        what: &'static str,
        /// The first digits of the key that it was made for.
        holder: String,
    },
    /// Made for another node.
    #[error("the {what} is for node {node}: bring it there")]
    WrongNode {
        /// What was shown.
        what: &'static str,
        /// The first digits of the node.
        node: String,
    },
    /// Its time is over.
    #[error("the {what} ended at {expires}, it is {now}: ask for a new one")]
    Expired {
        /// What was shown.
        what: &'static str,
        /// When it ended.
        expires: Timestamp,
        /// Archive time.
        now: Timestamp,
    },
    /// A later leader or roster has spoken, or one that is not known yet.
    #[error(transparent)]
    Order(#[from] OrderRefused),
    /// A build order that contradicts itself.
    #[error("the build order contradicts itself: {0}")]
    Contradiction(&'static str),
}

impl From<AdmissionError> for RefusedRequest {
    fn from(error: AdmissionError) -> Self {
        let kind = match &error {
            AdmissionError::Expired { .. } => RefusalKind::Expired,
            AdmissionError::Order(OrderRefused::Superseded { .. }) => RefusalKind::Superseded,
            AdmissionError::Order(OrderRefused::UnknownGeneration { .. }) => RefusalKind::Unavailable,
            AdmissionError::Contradiction(_) => RefusalKind::Malformed,
            _ => RefusalKind::NotAllowed,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<TooManyDeletes> for RefusedRequest {
    fn from(error: TooManyDeletes) -> Self {
        Self::new(RefusalKind::Unavailable, error.to_string())
    }
}

impl Grounds<'_> {
    /// Checks that `reader` may read any shard: by a pass, or as a coordinator, who needs none. Gives the end
    /// of the right.
    pub fn check_pass(
        &self,
        pass: Option<&Signed<Pass>>,
        reader: PublicKey,
    ) -> Result<ReadRight, AdmissionError> {
        if self.roster.has_coordinator(reader) {
            let expires = Timestamp::from_millis(u64::MAX);
            return Ok(ReadRight { expires, purpose: PassPurpose::Reading });
        }
        let pass = self.open("pass", pass.ok_or(AdmissionError::NoPass)?)?;
        check_bearer("pass", pass.reader, reader)?;
        self.check_expiry("pass", pass.expires)?;
        Ok(ReadRight { expires: pass.expires, purpose: pass.purpose })
    }

    /// Checks that `bearer` brings a shard that a leader ordered to this node.
    pub fn check_ticket(
        &self,
        ticket: &Signed<Ticket>,
        bearer: PublicKey,
        gate: &mut OrderGate,
    ) -> Result<Ticket, AdmissionError> {
        let ticket = self.open("ticket", ticket)?;
        self.check_node("ticket", ticket.node)?;
        check_bearer("ticket", ticket.bearer, bearer)?;
        self.check_expiry("ticket", ticket.expires)?;
        gate.accept(ticket.rank, self.roster.roster().generation)?;
        Ok(ticket)
    }

    /// Checks that a leader ordered this node to delete a shard, and that a coordinator brings the order.
    pub fn check_delete(
        &self,
        order: &Signed<DeleteOrder>,
        peer: PublicKey,
        gate: &mut OrderGate,
    ) -> Result<DeleteOrder, AdmissionError> {
        self.check_coordinator(peer)?;
        let order = self.open("delete order", order)?;
        self.check_node("delete order", order.node)?;
        self.check_expiry("delete order", order.expires)?;
        gate.accept(order.rank, self.roster.roster().generation)?;
        Ok(order)
    }

    /// Checks that a coordinator orders this node to build shards of `coding`, and that the tickets are for
    /// this node to bear. Gives the tickets in the order of the targets; their nodes check them again.
    pub fn check_build(
        &self,
        order: &BuildOrder,
        coding: CodingId,
        peer: PublicKey,
        gate: &mut OrderGate,
    ) -> Result<Vec<Ticket>, AdmissionError> {
        self.check_coordinator(peer)?;
        let tickets: Vec<Ticket> = order
            .targets
            .iter()
            .map(|target| {
                let ticket = self.open("ticket", &target.ticket)?;
                check_bearer("ticket", ticket.bearer, self.node.into())?;
                if ticket.coding != coding {
                    return Err(AdmissionError::Contradiction("a ticket is for another coding"));
                }
                if ticket.reservation != order.reservation {
                    return Err(AdmissionError::Contradiction("a ticket is for another order"));
                }
                Ok(ticket)
            })
            .collect::<Result<_, _>>()?;
        gate.accept(order.rank, self.roster.roster().generation)?;
        Ok(tickets)
    }

    /// Checks that a coordinator orders this node to read and to answer what it found.
    pub fn check_reading(
        &self,
        rank: OrderRank,
        peer: PublicKey,
        gate: &mut OrderGate,
    ) -> Result<(), AdmissionError> {
        self.check_coordinator(peer)?;
        gate.accept(rank, self.roster.roster().generation)?;
        Ok(())
    }

    fn check_coordinator(&self, peer: PublicKey) -> Result<(), AdmissionError> {
        if self.roster.has_coordinator(peer) {
            return Ok(());
        }
        Err(AdmissionError::PeerNotACoordinator { peer: peer.short() })
    }

    fn open<T: Statement>(&self, what: &'static str, signed: &Signed<T>) -> Result<T, AdmissionError> {
        // Membership before the signature: a stranger's signature is not worth the arithmetic.
        if !self.roster.has_coordinator(signed.signer()) {
            return Err(AdmissionError::NotACoordinator { what, signer: signed.signer().short() });
        }
        let verified =
            signed.open(self.roster.archive()).map_err(|cause| AdmissionError::Forged { what, cause })?;
        Ok(verified.into_statement())
    }

    fn check_node(&self, what: &'static str, node: NodeId) -> Result<(), AdmissionError> {
        if node == self.node { Ok(()) } else { Err(AdmissionError::WrongNode { what, node: node.short() }) }
    }

    fn check_expiry(&self, what: &'static str, expires: Timestamp) -> Result<(), AdmissionError> {
        if self.now < expires {
            return Ok(());
        }
        Err(AdmissionError::Expired { what, expires, now: self.now })
    }
}

fn check_bearer(what: &'static str, holder: PublicKey, bearer: PublicKey) -> Result<(), AdmissionError> {
    if holder == bearer {
        return Ok(());
    }
    Err(AdmissionError::WrongBearer { what, holder: holder.short() })
}
