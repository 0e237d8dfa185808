//! Answering the other members.
//!
//! Always holds: a member speaks for itself only; a snapshot reaches the library only after the whole of it was
//! checked. Leaves to others: what the library makes of it.

use std::sync::Arc;

use firn_base::{NodeId, PublicKey};
use firn_transport::Environment;
use firn_wire::{decode, encode};
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::continuity::note_install;
use super::freshness_book::{FreshnessBook, LeaderWord};
use super::install_gate::InstallGate;
use super::member_book::MemberBook;
use super::message::{RaftAnswer, RaftReply, RaftRequest};
use super::snapshot::{self, StateImage};
use super::types::{AppendResponse, LogId, Raft, Snapshot, SnapshotMeta, Vote};
use crate::storage::{ImageFile, Intake, KeyValue, StorageError};

/// Answers messages of other members.
#[derive(Debug)]
pub(crate) struct Inbound {
    members: MemberBook,
    log: Arc<dyn KeyValue>,
    state: Arc<dyn KeyValue>,
    environment: Environment,
    // At most one snapshot arrives at a time.
    arriving: Arc<Mutex<Option<Arriving>>>,
    gate: InstallGate,
    freshness: FreshnessBook,
}

#[derive(Debug)]
struct Arriving {
    transfer: u64,
    intake: Box<dyn Intake>,
}

impl Inbound {
    /// Answers `members`, for the log in `log` and the state in `state`.
    pub(crate) fn new(
        members: MemberBook,
        log: Arc<dyn KeyValue>,
        state: Arc<dyn KeyValue>,
        environment: Environment,
        gate: InstallGate,
        freshness: FreshnessBook,
    ) -> Self {
        Self { members, log, state, environment, arriving: Arc::default(), gate, freshness }
    }

    /// The answer of `raft` to `message`, which came by a connection of `peer`.
    pub(crate) async fn handle(&self, raft: &Raft, peer: PublicKey, message: &[u8]) -> Vec<u8> {
        let reply = match decode::<RaftRequest>(message) {
            Ok(request) if self.speaks_for_itself(peer, &request) => self.answer(raft, request).await,
            Ok(_) => RaftReply::Refused("only a coordinator may say this, for itself".into()),
            Err(error) => RaftReply::Refused(error.to_string()),
        };
        encode(&RaftAnswer { clock: self.environment.now(), reply })
    }

    fn speaks_for_itself(&self, peer: PublicKey, request: &RaftRequest) -> bool {
        self.members.speaks(NodeId::from(peer), request.vote().leader_id.node_id)
    }

    async fn answer(&self, raft: &Raft, request: RaftRequest) -> RaftReply {
        match request {
            RaftRequest::Append(request) => {
                let word = LeaderWord::of(&request);
                match raft.append_entries(request).await {
                    Ok(response) => {
                        if let Some(word) = word.filter(|_| !is_of_another(&response)) {
                            self.freshness.hear_leader(word);
                        }
                        RaftReply::Append(response)
                    }
                    Err(error) => RaftReply::Refused(error.to_string()),
                }
            }
            RaftRequest::Vote(request) => match raft.vote(request).await {
                Ok(response) => RaftReply::Vote(response),
                Err(error) => RaftReply::Refused(error.to_string()),
            },
            RaftRequest::SnapshotCall { vote } => match self.newer_vote(raft, vote).await {
                Ok(None) => RaftReply::Held(Vec::new()),
                Ok(Some(vote)) => RaftReply::Installed { vote },
                Err(error) => refused(&error),
            },
            RaftRequest::SnapshotBegin { vote, transfer, applied, files } => {
                self.begin(raft, vote, transfer, applied, files).await.unwrap_or_else(|error| refused(&error))
            }
            RaftRequest::SnapshotPart { transfer, file, offset, bytes, .. } => {
                let taken = self.take(transfer, file, offset, bytes).await;
                taken.map_or_else(|error| refused(&error), |()| RaftReply::Taken)
            }
            RaftRequest::SnapshotEnd { vote, transfer, meta } => {
                self.end(raft, vote, transfer, meta).await.unwrap_or_else(|error| refused(&error))
            }
        }
    }

    /// An old leader learns that it is one before it has sent the state in vain.
    async fn newer_vote(&self, raft: &Raft, vote: Vote) -> Result<Option<Vote>, InboundError> {
        let own = raft.with_raft_state(|state| *state.vote_ref()).await;
        let own = own.map_err(|error| InboundError::Stopped(error.to_string()))?;
        Ok((own > vote).then_some(own))
    }

    async fn begin(
        &self,
        raft: &Raft,
        vote: Vote,
        transfer: u64,
        applied: Option<LogId>,
        files: Vec<ImageFile>,
    ) -> Result<RaftReply, InboundError> {
        if let Some(vote) = self.newer_vote(raft, vote).await? {
            return Ok(RaftReply::Installed { vote });
        }
        let mut arriving = self.arriving.lock().await;
        *arriving = None;
        // One that was installed while its sender stopped waiting does not come again.
        let (own, committed) = raft
            .with_raft_state(|state| (*state.vote_ref(), state.committed))
            .await
            .map_err(|error| InboundError::Stopped(error.to_string()))?;
        if committed >= applied {
            return Ok(RaftReply::Installed { vote: own });
        }
        let state = Arc::clone(&self.state);
        let intake = self.environment.blocking(move || state.intake(files)).await?;
        let held = intake.held();
        *arriving = Some(Arriving { transfer, intake });
        Ok(RaftReply::Held(held))
    }

    /// What arrives for `transfer`, taken out: what fails or is broken off meanwhile goes on with a new beginning,
    /// from what is on disk.
    async fn slot(
        &self,
        transfer: u64,
    ) -> Result<(OwnedMutexGuard<Option<Arriving>>, Arriving), InboundError> {
        let mut slot = Arc::clone(&self.arriving).lock_owned().await;
        let arriving =
            slot.take_if(|arriving| arriving.transfer == transfer).ok_or(InboundError::OutOfTurn)?;
        Ok((slot, arriving))
    }

    async fn take(&self, transfer: u64, file: u32, offset: u64, bytes: Vec<u8>) -> Result<(), InboundError> {
        let (mut slot, mut arriving) = self.slot(transfer).await?;
        let file = usize::try_from(file).unwrap_or(usize::MAX);
        let (arriving, done) = self
            .environment
            .blocking(move || {
                let done = arriving.intake.write(file, offset, &bytes);
                (arriving, done)
            })
            .await;
        done?;
        *slot = Some(arriving);
        Ok(())
    }

    async fn end(
        &self,
        raft: &Raft,
        vote: Vote,
        transfer: u64,
        meta: SnapshotMeta,
    ) -> Result<RaftReply, InboundError> {
        let (mut slot, mut arriving) = self.slot(transfer).await?;
        let (arriving, verified) = self
            .environment
            .blocking(move || {
                let verified = arriving.intake.verify();
                (arriving, verified)
            })
            .await;
        if !verified? {
            let held = arriving.intake.held();
            *slot = Some(arriving);
            return Ok(RaftReply::Held(held));
        }
        let (expected, log) = (meta.clone(), Arc::clone(&self.log));
        let opening = move || {
            let stage = arriving.intake.open()?;
            snapshot::check(&*stage, &expected)?;
            note_install(&*log, expected.last_log_id)?;
            Ok::<_, StorageError>(stage)
        };
        let stage = self.environment.blocking(opening).await?;
        let snapshot = Snapshot { meta, snapshot: Box::new(StateImage::Arrived(stage)) };
        let (raft, gate) = (raft.clone(), self.gate.clone());
        // To its end, also when whoever sent it has stopped waiting; nothing else arrives meanwhile.
        let installing = tokio::spawn(async move {
            let _slot = slot;
            gate.begin();
            let installed = raft.install_full_snapshot(vote, snapshot).await;
            gate.end();
            installed
        });
        let installed = installing.await.map_err(|error| InboundError::Stopped(error.to_string()))?;
        let vote = installed.map_err(|error| InboundError::Stopped(error.to_string()))?.vote;
        Ok(RaftReply::Installed { vote })
    }
}

/// Whether whoever sent the entries leads no more.
const fn is_of_another(response: &AppendResponse) -> bool {
    matches!(response, AppendResponse::HigherVote(_))
}

fn refused(error: &InboundError) -> RaftReply {
    RaftReply::Refused(error.to_string())
}

#[derive(Debug, thiserror::Error)]
enum InboundError {
    #[error("this coordinator's consensus has stopped: {0}")]
    Stopped(String),
    #[error("a part of a snapshot came out of turn: send it again from the beginning")]
    OutOfTurn,
    #[error(transparent)]
    Storage(#[from] StorageError),
}
