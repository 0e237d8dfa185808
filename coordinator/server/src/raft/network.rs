//! A leader's or candidate's words to the other members.
//!
//! Always holds: a leader that no majority answered for two longest elections sends nothing, nor does one whose clock is
//! wrong; entries that take
//! longer than a heartbeat go on while signs of life pass them, so that one large commit over a slow line costs
//! no leader its office. Leaves to others: finding the way (`contact`), answering (`inbound`).

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use firn_coordinator_logic::ClockStanding;
use firn_transport::{ConnectionPool, Environment};
use openraft::error::{RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::SnapshotResponse;
use openraft::{AnyError, OptionalSend};
use tokio::task::JoinHandle;

use super::clock_book::ClockBook;
use super::contact::{Contacts, NoAnswer};
use super::gate::QuorumGate;
use super::member_book::MemberBook;
use super::message::{RaftReply, RaftRequest};
use super::snapshot::{self, StateImage};
use super::state_machine::read_position;
use super::timing::Timing;
use super::types::{
    AppendRequest, AppendResponse, Doing, LogId, Member, Snapshot, TypeConfig, Vote, VoteRequest,
    VoteResponse,
};
use crate::storage::{IMAGE_PIECE_BYTES, Image, StorageError, lacking};

// Entries on their way, however slow the line: a commit of 80 MB over 25 Mbit/s.
const APPEND_TIMEOUT: Duration = Duration::from_secs(30);

const SNAPSHOT_PART_TIMEOUT: Duration = Duration::from_secs(30);

const CALL_TIMEOUT: Duration = Duration::from_secs(5);
// The other side may be about to verify what had arrived before.
const SNAPSHOT_BEGIN_TIMEOUT: Duration = Duration::from_secs(60);
// The other side checks and syncs the whole state: some 10 GiB on a slow disk.
const SNAPSHOT_END_TIMEOUT: Duration = Duration::from_secs(900);

// Files that arrive damaged are sent again, this often at most.
const SNAPSHOT_ROUNDS: usize = 4;
// A member that does not answer is tried again this soon: well within an election, so that one that comes back
// hears its leader before it asks for votes.
const RETRY_AFTER: Duration = Duration::from_millis(200);

type Fatal = openraft::error::Fatal<u64>;
type Refusal = RPCError<u64, Member, RaftError<u64>>;

/// Makes a [`Peer`] for each member.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    contacts: Contacts,
    members: MemberBook,
    environment: Environment,
    timing: Timing,
    gate: QuorumGate,
    clocks: ClockBook,
}

/// The way to one member.
#[derive(Debug)]
pub(crate) struct Peer {
    network: Network,
    number: u64,
    // What the log says of it; the book may know better.
    first: Member,
    sending: Option<Sending>,
}

/// Entries on their way.
#[derive(Debug)]
struct Sending {
    what: (Vote, Option<LogId>, Option<LogId>),
    task: JoinHandle<Result<RaftReply, NoAnswer>>,
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Network {
    /// The ways to `members`. `gate` looks at the consensus that this belongs to.
    pub(crate) fn new(
        pool: ConnectionPool,
        members: MemberBook,
        environment: Environment,
        timing: Timing,
        gate: QuorumGate,
        clocks: ClockBook,
    ) -> Self {
        let contacts = Contacts::new(pool, environment.clone(), timing.redial_after(), clocks.clone());
        Self { contacts, members, environment, timing, gate, clocks }
    }

    /// Whether member `number` answered within `limit`.
    pub(crate) fn answered_within(&self, number: u64, limit: Duration) -> bool {
        self.contacts.last_answer(number).is_some_and(|answer| answer.elapsed() <= limit)
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &Member) -> Peer {
        Peer { network: self.clone(), number: target, first: node.clone(), sending: None }
    }
}

fn unreachable(sentence: &str) -> Unreachable {
    Unreachable::new(&AnyError::error(sentence))
}

fn refusal(error: &NoAnswer) -> Refusal {
    RPCError::Unreachable(unreachable(&error.0))
}

fn to_append(reply: Result<RaftReply, NoAnswer>) -> Result<AppendResponse, NoAnswer> {
    match reply? {
        RaftReply::Append(response) => Ok(response),
        other => Err(unexpected(other)),
    }
}

fn unexpected(reply: RaftReply) -> NoAnswer {
    match reply {
        RaftReply::Refused(sentence) => NoAnswer(sentence),
        _ => NoAnswer("a member gave an answer to another question".into()),
    }
}

impl Peer {
    fn member(&self) -> Member {
        self.network.members.get(self.number).unwrap_or_else(|| self.first.clone())
    }

    async fn ask(&self, request: RaftRequest, within: Duration) -> Result<RaftReply, NoAnswer> {
        self.network.contacts.ask(self.number, &self.member(), request, within).await
    }

    /// Goes on sending `request`, or begins to.
    fn send_entries(&mut self, request: &AppendRequest) -> &mut Sending {
        let last = request.entries.last().map(|entry| entry.log_id);
        let what = (request.vote, request.prev_log_id, last);
        let same = self.sending.take().filter(|sending| sending.what == what);
        self.sending.insert(same.unwrap_or_else(|| {
            let contacts = self.network.contacts.clone();
            let (number, member) = (self.number, self.member());
            let request = RaftRequest::Append(request.clone());
            let task =
                tokio::spawn(async move { contacts.ask(number, &member, request, APPEND_TIMEOUT).await });
            Sending { what, task }
        }))
    }

    async fn send_snapshot(&self, vote: Vote, snapshot: Snapshot) -> Result<Vote, SendError> {
        let StateImage::Here(store) = *snapshot.snapshot else {
            return Err(NoAnswer("a state that has just arrived is not passed on".into()).into());
        };
        // A checkpoint for nobody would be made five times a second as long as a member is away.
        if let HandedOver::Ended(higher) =
            self.hand_over(RaftRequest::SnapshotCall { vote }, CALL_TIMEOUT).await?
        {
            return Ok(higher);
        }
        let environment = &self.network.environment;
        let (image, position) = environment
            .blocking(move || {
                let image: Arc<dyn Image> = Arc::from(store.image()?);
                let position = read_position(&*image)?;
                Ok::<_, StorageError>((image, position))
            })
            .await
            // Whoever leads with a good disk but no room for a checkpoint shall go on leading: the member asks again.
            .map_err(|error| {
                tracing::error!(%error, to = %self.member(), "no checkpoint of the state could be made");
                NoAnswer(format!("no checkpoint of the state could be made: {error}"))
            })?;
        let transfer = environment.random_u64();
        let (applied, files) = (position.applied, image.files().to_vec());
        let begin = RaftRequest::SnapshotBegin { vote, transfer, applied, files };
        let mut held = match self.hand_over(begin, SNAPSHOT_BEGIN_TIMEOUT).await? {
            HandedOver::Held(held) => held,
            HandedOver::Ended(higher) => return Ok(higher),
        };
        let meta = snapshot::meta(position.applied, position.membership);
        for _ in 0..SNAPSHOT_ROUNDS {
            let sent = self.send_files(vote, transfer, &image, &held).await?;
            tracing::info!(to = %self.member(), bytes = sent, files = image.files().len(), "the state was sent");
            let end = RaftRequest::SnapshotEnd { vote, transfer, meta: meta.clone() };
            held = match self.hand_over(end, SNAPSHOT_END_TIMEOUT).await? {
                HandedOver::Held(held) => held,
                HandedOver::Ended(vote) => return Ok(vote),
            };
        }
        Err(NoAnswer("the files of a snapshot arrive damaged again and again".into()).into())
    }

    /// Sends what is lacking where `held` is there. Says how many bytes that were.
    async fn send_files(
        &self,
        vote: Vote,
        transfer: u64,
        image: &Arc<dyn Image>,
        held: &[u64],
    ) -> Result<u64, SendError> {
        let mut sent: u64 = 0;
        for (index, mut offset) in lacking(image.files(), held) {
            let file = u32::try_from(index).map_err(|_| NoAnswer("too many files".into()))?;
            while image.files().get(index).is_some_and(|file| offset < file.bytes) {
                let read = Arc::clone(image);
                let reading = move || read.read_file(index, offset, IMAGE_PIECE_BYTES);
                let bytes = self.network.environment.blocking(reading).await?;
                let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                let part = RaftRequest::SnapshotPart { vote, transfer, file, offset, bytes };
                match self.ask(part, SNAPSHOT_PART_TIMEOUT).await? {
                    RaftReply::Taken => {}
                    other => return Err(unexpected(other).into()),
                }
                offset = offset.saturating_add(length);
                sent = sent.saturating_add(length);
            }
        }
        Ok(sent)
    }

    async fn hand_over(&self, request: RaftRequest, within: Duration) -> Result<HandedOver, NoAnswer> {
        match self.ask(request, within).await? {
            RaftReply::Held(held) => Ok(HandedOver::Held(held)),
            RaftReply::Installed { vote } => Ok(HandedOver::Ended(vote)),
            other => Err(unexpected(other)),
        }
    }
}

/// What a member says to a snapshot.
#[derive(Debug)]
enum HandedOver {
    /// It has so much of each file, and wants the rest.
    Held(Vec<u64>),
    /// It has installed it, or voted for another leader: its vote.
    Ended(Vote),
}

#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl RaftNetwork<TypeConfig> for Peer {
    async fn append_entries(
        &mut self,
        request: AppendRequest,
        option: RPCOption,
    ) -> Result<AppendResponse, Refusal> {
        if self.network.gate.is_stale(self.network.timing.append_gate) {
            return Err(RPCError::Unreachable(unreachable("no majority answers: waiting for a new leader")));
        }
        if self.network.clocks.look().standing() == ClockStanding::Differs {
            return Err(RPCError::Unreachable(unreachable("this clock is wrong: waiting for a new leader")));
        }
        let patience = option.soft_ttl() / 2;
        if request.entries.is_empty() {
            let reply = self.ask(RaftRequest::Append(request), option.soft_ttl()).await;
            return to_append(reply).map_err(|error| refusal(&error));
        }
        let sending = self.send_entries(&request);
        let sent = match request.prev_log_id {
            Some(_) => tokio::time::timeout(patience, &mut sending.task).await.ok(),
            // Nothing can be said of a member of which nothing is known.
            None => Some((&mut sending.task).await),
        };
        if let Some(sent) = sent {
            self.sending = None;
            let reply = sent.unwrap_or_else(|error| Err(NoAnswer(error.to_string())));
            return to_append(reply).map_err(|error| refusal(&error));
        }
        // They are still under way: let the member know that its leader lives, and the library that the member
        // does. It then asks for the same entries again.
        let previous = request.prev_log_id;
        let sign_of_life = AppendRequest { entries: Vec::new(), ..request };
        let reply = self.ask(RaftRequest::Append(sign_of_life), patience).await;
        match to_append(reply).map_err(|error| refusal(&error))? {
            AppendResponse::Success => Ok(AppendResponse::PartialSuccess(previous)),
            other => {
                self.sending = None;
                Ok(other)
            }
        }
    }

    async fn vote(&mut self, request: VoteRequest, option: RPCOption) -> Result<VoteResponse, Refusal> {
        match self.ask(RaftRequest::Vote(request), option.soft_ttl()).await {
            Ok(RaftReply::Vote(response)) => Ok(response),
            Ok(other) => Err(refusal(&unexpected(other))),
            Err(error) => Err(refusal(&error)),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<TypeConfig, Fatal>> {
        let mut cancel = pin!(cancel);
        tokio::select! {
            closed = &mut cancel => Err(StreamingError::Closed(closed)),
            sent = self.send_snapshot(vote, snapshot) => match sent {
                Ok(vote) => Ok(SnapshotResponse::new(vote)),
                Err(SendError::Storage(error)) => {
                    Err(StreamingError::StorageError(Doing::ReadState.failed(&error)))
                }
                Err(SendError::NoAnswer(error)) => {
                    Err(StreamingError::Unreachable(unreachable(&error.0)))
                }
            },
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(RETRY_AFTER))
    }
}
