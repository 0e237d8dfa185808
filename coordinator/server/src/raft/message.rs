//! What members of the consensus say to each other, inside `CoordinatorRequest::Raft` and its reply.

use serde::{Deserialize, Serialize};

use super::snapshot::Trailer;
use super::types::{AppendRequest, AppendResponse, SnapshotMeta, Vote, VoteRequest, VoteResponse};

/// From one member to another.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum RaftRequest {
    /// Entries, or a sign of life without any.
    Append(AppendRequest),
    /// Asks for a vote.
    Vote(VoteRequest),
    /// A snapshot follows. It takes the place of one that has not ended.
    SnapshotBegin {
        /// The leader's.
        vote: Vote,
        /// Names the transfer.
        transfer: u64,
    },
    /// The next part.
    SnapshotPart {
        /// The leader's.
        vote: Vote,
        /// Which transfer.
        transfer: u64,
        /// Counts from zero.
        number: u64,
        /// The part.
        bytes: Vec<u8>,
    },
    /// The snapshot is whole: check and install it.
    SnapshotEnd {
        /// The leader's.
        vote: Vote,
        /// Which transfer.
        transfer: u64,
        /// Where the state stands.
        meta: SnapshotMeta,
        /// What must have arrived.
        trailer: Trailer,
    },
}

/// The answer.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum RaftReply {
    /// To entries.
    Append(AppendResponse),
    /// To a request for a vote.
    Vote(VoteResponse),
    /// The part of a snapshot was taken.
    Taken,
    /// The snapshot is installed, or another leader was voted for: see the vote.
    Installed {
        /// The vote of the member that answers.
        vote: Vote,
    },
    /// Not done, and why.
    Refused(String),
}

impl RaftRequest {
    /// Whether it may be large.
    pub(super) const fn is_bulky(&self) -> bool {
        match self {
            Self::Append(request) => !request.entries.is_empty(),
            Self::SnapshotPart { .. } => true,
            Self::Vote(_) | Self::SnapshotBegin { .. } | Self::SnapshotEnd { .. } => false,
        }
    }

    /// The vote of whoever sent it.
    pub(super) const fn vote(&self) -> &Vote {
        match self {
            Self::Append(request) => &request.vote,
            Self::Vote(request) => &request.vote,
            Self::SnapshotBegin { vote, .. }
            | Self::SnapshotPart { vote, .. }
            | Self::SnapshotEnd { vote, .. } => vote,
        }
    }
}
