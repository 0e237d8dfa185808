//! The types that our consensus is made of, and how our errors become the library's.

use std::fmt;

use firn_base::NodeId;
use firn_wire::{CommandOutcome, TimedCommand};
use openraft::{AnyError, StorageIOError};
use serde::{Deserialize, Serialize};

use super::snapshot::StateImage;
use crate::storage::StorageError;

openraft::declare_raft_types!(
    /// The consensus over commands of the archive.
    pub(crate) TypeConfig:
        D = TimedCommand,
        R = CommandOutcome,
        NodeId = u64,
        Node = Member,
        SnapshotData = StateImage,
);

/// A coordinator as a member of the consensus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    /// Its identity.
    pub(crate) id: NodeId,
    /// Host and UDP port.
    pub(crate) address: String,
}

impl Default for Member {
    /// Nobody: the library asks for it in tests only.
    fn default() -> Self {
        Self { id: NodeId::from_bytes([0; 32]), address: String::new() }
    }
}

impl fmt::Display for Member {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} at {}", self.id.short(), self.address)
    }
}

pub(crate) type Raft = openraft::Raft<TypeConfig>;
pub(super) type LogEntry = openraft::Entry<TypeConfig>;
pub(super) type LogId = openraft::LogId<u64>;
pub(crate) type Vote = openraft::Vote<u64>;
pub(super) type StoredMembership = openraft::StoredMembership<u64, Member>;
pub(super) type SnapshotMeta = openraft::SnapshotMeta<u64, Member>;
pub(super) type Snapshot = openraft::Snapshot<TypeConfig>;
pub(super) type RaftStorageError = openraft::StorageError<u64>;
pub(crate) type Metrics = openraft::RaftMetrics<u64, Member>;
pub(super) type AppendRequest = openraft::raft::AppendEntriesRequest<TypeConfig>;
pub(super) type AppendResponse = openraft::raft::AppendEntriesResponse<u64>;
pub(super) type VoteRequest = openraft::raft::VoteRequest<u64>;
pub(super) type VoteResponse = openraft::raft::VoteResponse<u64>;

/// What was being done to a store when it failed: the library's error says so.
#[derive(Debug, Clone, Copy)]
pub(super) enum Doing {
    ReadLog,
    WriteLog,
    ReadVote,
    WriteVote,
    ReadState,
    WriteState,
}

impl Doing {
    /// The library's error for `error`: the consensus stops on it.
    pub(super) fn failed(self, error: &StorageError) -> RaftStorageError {
        let source = AnyError::new(error);
        match self {
            Self::ReadLog => StorageIOError::read_logs(source),
            Self::WriteLog => StorageIOError::write_logs(source),
            Self::ReadVote => StorageIOError::read_vote(source),
            Self::WriteVote => StorageIOError::write_vote(source),
            Self::ReadState => StorageIOError::read_state_machine(source),
            Self::WriteState => StorageIOError::write_state_machine(source),
        }
        .into()
    }
}
