//! Answering the other members.
//!
//! Always holds: a member speaks for itself only; a snapshot reaches the library only after the whole of it was
//! checked. Leaves to others: what the library makes of it.

use std::sync::Arc;

use firn_base::{NodeId, PublicKey};
use firn_transport::Environment;
use firn_wire::{decode, encode};
use tokio::sync::Mutex;

use super::member_book::MemberBook;
use super::message::{RaftReply, RaftRequest};
use super::snapshot::{Import, ImportError, StateImage, Trailer};
use super::types::{Raft, Snapshot, SnapshotMeta, Vote};
use crate::storage::{KeyValue, StorageError};

/// Answers messages of other members.
#[derive(Debug)]
pub(crate) struct Inbound {
    members: MemberBook,
    state: Arc<dyn KeyValue>,
    environment: Environment,
    // At most one snapshot arrives at a time.
    arriving: Mutex<Option<Arriving>>,
}

#[derive(Debug)]
struct Arriving {
    transfer: u64,
    next: u64,
    import: Import,
}

impl Inbound {
    /// Answers `members`, for the state in `state`.
    pub(crate) fn new(members: MemberBook, state: Arc<dyn KeyValue>, environment: Environment) -> Self {
        Self { members, state, environment, arriving: Mutex::new(None) }
    }

    /// The answer of `raft` to `message`, which came by a connection of `peer`.
    pub(crate) async fn handle(&self, raft: &Raft, peer: PublicKey, message: &[u8]) -> Vec<u8> {
        let reply = match decode::<RaftRequest>(message) {
            Ok(request) if self.speaks_for_itself(peer, &request) => self.answer(raft, request).await,
            Ok(_) => RaftReply::Refused("only a coordinator may say this, for itself".into()),
            Err(error) => RaftReply::Refused(error.to_string()),
        };
        encode(&reply)
    }

    fn speaks_for_itself(&self, peer: PublicKey, request: &RaftRequest) -> bool {
        self.members.speaks(NodeId::from(peer), request.vote().leader_id.node_id)
    }

    async fn answer(&self, raft: &Raft, request: RaftRequest) -> RaftReply {
        match request {
            RaftRequest::Append(request) => match raft.append_entries(request).await {
                Ok(response) => RaftReply::Append(response),
                Err(error) => RaftReply::Refused(error.to_string()),
            },
            RaftRequest::Vote(request) => match raft.vote(request).await {
                Ok(response) => RaftReply::Vote(response),
                Err(error) => RaftReply::Refused(error.to_string()),
            },
            RaftRequest::SnapshotBegin { vote, transfer } => match self.begin(raft, vote, transfer).await {
                Ok(reply) => reply,
                Err(error) => RaftReply::Refused(error.to_string()),
            },
            RaftRequest::SnapshotPart { transfer, number, bytes, .. } => {
                match self.take(transfer, number, bytes).await {
                    Ok(()) => RaftReply::Taken,
                    Err(error) => RaftReply::Refused(error.to_string()),
                }
            }
            RaftRequest::SnapshotEnd { vote, transfer, meta, trailer } => {
                match self.end(raft, vote, transfer, meta, trailer).await {
                    Ok(vote) => RaftReply::Installed { vote },
                    Err(error) => RaftReply::Refused(error.to_string()),
                }
            }
        }
    }

    async fn begin(&self, raft: &Raft, vote: Vote, transfer: u64) -> Result<RaftReply, InboundError> {
        let own = raft.with_raft_state(|state| *state.vote_ref()).await;
        let own = own.map_err(|error| InboundError::Stopped(error.to_string()))?;
        if own > vote {
            // An old leader learns so before it has sent the state in vain.
            return Ok(RaftReply::Installed { vote: own });
        }
        let mut arriving = self.arriving.lock().await;
        *arriving = None;
        let state = Arc::clone(&self.state);
        let stage = self.environment.blocking(move || state.stage()).await?;
        *arriving = Some(Arriving { transfer, next: 0, import: Import::new(stage) });
        Ok(RaftReply::Taken)
    }

    async fn take(&self, transfer: u64, number: u64, bytes: Vec<u8>) -> Result<(), InboundError> {
        let mut slot = self.arriving.lock().await;
        // Taken out: what fails or is broken off here does not go on.
        let mut arriving = slot.take().filter(|arriving| arriving.transfer == transfer);
        let Some(mut taken) = arriving.take_if(|arriving| arriving.next == number) else {
            return Err(InboundError::OutOfTurn);
        };
        let (taken, done) = self
            .environment
            .blocking(move || {
                let done = taken.import.take(&bytes);
                taken.next = taken.next.saturating_add(1);
                (taken, done)
            })
            .await;
        done?;
        *slot = Some(taken);
        Ok(())
    }

    async fn end(
        &self,
        raft: &Raft,
        vote: Vote,
        transfer: u64,
        meta: SnapshotMeta,
        trailer: Trailer,
    ) -> Result<Vote, InboundError> {
        let arriving = self.arriving.lock().await.take();
        let arriving = arriving.filter(|arriving| arriving.transfer == transfer);
        let stage = arriving.ok_or(InboundError::OutOfTurn)?.import.finish(trailer)?;
        let snapshot = Snapshot { meta, snapshot: Box::new(StateImage::Arrived(stage)) };
        let installed = raft.install_full_snapshot(vote, snapshot).await;
        Ok(installed.map_err(|error| InboundError::Stopped(error.to_string()))?.vote)
    }
}

#[derive(Debug, thiserror::Error)]
enum InboundError {
    #[error("this coordinator's consensus has stopped: {0}")]
    Stopped(String),
    #[error("a part of a snapshot came out of turn: send it again from the beginning")]
    OutOfTurn,
    #[error(transparent)]
    Import(#[from] ImportError),
    #[error(transparent)]
    Storage(#[from] StorageError),
}
