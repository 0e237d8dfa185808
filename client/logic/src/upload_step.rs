//! What an upload asks of its driver, and how it ends.
//!
//! Leaves to others: when each step is due (`upload`).

use firn_base::{ReservationId, ShardIndex, Timestamp};
use firn_wire::{HeldPath, NodeAddress, Receipt, Signed, Ticket};

/// One shard to bring to one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardSend {
    /// Which bundle of the upload.
    pub bundle: usize,
    /// The reservation under which it goes; to be handed back with the result.
    pub reservation: ReservationId,
    /// Which shard.
    pub index: ShardIndex,
    /// To whom.
    pub target: NodeAddress,
    /// The order that makes the node take it.
    pub ticket: Signed<Ticket>,
}

/// One bundle of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadedPart {
    /// Which bundle of the upload.
    pub bundle: usize,
    /// Its reservation.
    pub reservation: ReservationId,
    /// Its receipts.
    pub receipts: Vec<Signed<Receipt>>,
}

/// What the driver shall do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UploadStep {
    /// Ask for space for this bundle; answer with `handle_reserved` or `handle_reserve_refused`.
    Reserve(usize),
    /// Send a shard; answer with `handle_stored` or `handle_send_failed`.
    Send(Box<ShardSend>),
    /// Commit these bundles, in this order; answer with `handle_committed` or `handle_commit_refused`.
    Commit(Vec<UploadedPart>),
    /// Hand in receipts that came behind the commit; answer with `handle_late_receipts`.
    ReportLate(Vec<Signed<Receipt>>),
    /// Ask for the scheme and code all bundles anew; answer with `handle_recoded`.
    Recode,
    /// Nothing now: ask again when something was handled, or at this time if there is one.
    Wait(Option<Timestamp>),
    /// The upload is over.
    Done(Result<UploadOutcome, UploadError>),
}

/// How a successful upload ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UploadOutcome {
    /// Committed by this upload.
    Committed {
        /// Keys that became visible, also of earlier commits.
        visible: u64,
        /// Keys that wait for a reference.
        held: Vec<HeldPath>,
        /// Receipts over all bundles, late ones included.
        shards: usize,
    },
    /// Every bundle was in the archive already, for instance by this program before it was interrupted.
    AlreadyArchived,
}

/// Why an upload was given up. Nothing of it is visible.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UploadError {
    /// The archive does not take these bundles; others may fare better.
    #[error("the archive refused it: {0}")]
    Refused(String),
    /// This uploader may not upload.
    #[error("{0}")]
    NotAllowed(String),
    /// The archive has no room.
    #[error("{0}")]
    Full(String),
    /// Nodes took too few shards, again and again.
    #[error("only {stored} of the {needed} shards that a commit needs could be stored: {reasons}")]
    TooFewShards {
        /// Shards stored in the last attempt.
        stored: usize,
        /// Shards needed.
        needed: u8,
        /// Why others were not.
        reasons: String,
    },
    /// The archive does not answer, or changes faster than it can be followed.
    #[error("the archive cannot take uploads now, try again later: {0}")]
    Unavailable(String),
}

impl UploadError {
    /// Whether the next upload would meet the same: publishing stops.
    pub const fn stops_publishing(&self) -> bool {
        !matches!(self, Self::Refused(_))
    }
}
