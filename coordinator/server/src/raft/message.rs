//! What members of the consensus say to each other, inside `CoordinatorRequest::Raft` and its reply.

use firn_base::Timestamp;
use serde::{Deserialize, Serialize};

use super::types::{AppendRequest, AppendResponse, LogId, SnapshotMeta, Vote, VoteRequest, VoteResponse};
use crate::storage::ImageFile;

/// From one member to another.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum RaftRequest {
    /// Entries, or a sign of life without any.
    Append(AppendRequest),
    /// Asks for a vote.
    Vote(VoteRequest),
    /// A snapshot is about to be made for whoever answers.
    SnapshotCall {
        /// The leader's.
        vote: Vote,
    },
    /// The files of a snapshot follow. They take the place of those of one that has not ended.
    SnapshotBegin {
        /// The leader's.
        vote: Vote,
        /// Names the transfer.
        transfer: u64,
        /// Where the state stands.
        applied: Option<LogId>,
        /// What there is to fetch.
        files: Vec<ImageFile>,
    },
    /// What follows in one of them.
    SnapshotPart {
        /// The leader's.
        vote: Vote,
        /// Which transfer.
        transfer: u64,
        /// Which file, counted from zero.
        file: u32,
        /// Where in it.
        offset: u64,
        /// The bytes.
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
    },
}

/// An answer, and when it was given.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct RaftAnswer {
    /// What the clock of the member that answers shows.
    pub(super) clock: Timestamp,
    /// The answer.
    pub(super) reply: RaftReply,
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
    /// So much of each file of the snapshot is here, from its beginning.
    Held(Vec<u64>),
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
            Self::SnapshotBegin { .. } | Self::SnapshotPart { .. } => true,
            Self::Vote(_) | Self::SnapshotCall { .. } | Self::SnapshotEnd { .. } => false,
        }
    }

    /// The vote of whoever sent it.
    pub(super) const fn vote(&self) -> &Vote {
        match self {
            Self::Append(request) => &request.vote,
            Self::Vote(request) => &request.vote,
            Self::SnapshotCall { vote }
            | Self::SnapshotBegin { vote, .. }
            | Self::SnapshotPart { vote, .. }
            | Self::SnapshotEnd { vote, .. } => vote,
        }
    }
}
