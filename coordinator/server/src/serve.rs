//! Answering requests.
//!
//! Owns: who may ask what, and which requests go on to the leader. Always holds: a request that came forwarded
//! is never forwarded again; what an operator asks is never taken from another coordinator, but from the operator; a
//! commit-sized message is read from uploaders, operators and coordinators only.
//! Leaves to others: each request's meaning (the modules below).

mod administer;
mod certificates;
mod commit;
mod compact;
mod filters;
mod index_range;
mod members;
mod nodes;
mod operators;
mod reads;
mod reserve;
mod status;
mod suspensions;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use firn_base::{AddressPrefix, PublicKey};
use firn_coordinator_logic::Facts;
use firn_transport::{BoxFuture, Connection, Handler, Stream, StreamError};
use firn_wire::{
    Actor, AdminReply, AdminRequest, COMMIT_BYTES_MAX, CONTROL_BYTES_MAX, CommitRequest, CoordinatorReply,
    CoordinatorRequest, FEATURE_LEVEL, OperatorRole, PassPurpose, RefusalKind, RefusedRequest, RejectReason,
    decode, encode,
};
use tokio::time::{Instant, timeout_at};

use crate::driver::take_report;
use crate::shared::{Shared, malformed, not_allowed};

pub(crate) use commit::{check_record, publishers_ever};

const NO_LEADER: &str = "the coordinators have no leader now: try again in a moment";

/// Time for the leader to answer what was forwarded: a commit is checked, replicated and synced.
const FORWARD_WITHIN: Duration = Duration::from_secs(30);

/// A follower is behind its leader by less than a heartbeat, or is slow.
const OWN_COMMIT_WITHIN: Duration = Duration::from_secs(2);

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asker {
    pub(crate) key: PublicKey,
    /// Where its connection to a coordinator came from; none for this machine's own socket.
    pub(crate) seen_at: Option<AddressPrefix>,
}

/// Answers the streams of every peer.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) shared: Arc<Shared>,
}

impl Handler for Service {
    async fn handle(&self, connection: &Connection, mut stream: Stream) {
        let peer = connection.peer();
        let bytes_max = if self.may_send_much(peer) { COMMIT_BYTES_MAX } else { CONTROL_BYTES_MAX };
        let reply = match stream.receive::<CoordinatorRequest>(bytes_max).await {
            Ok(request) => self.answer(peer, Some(connection), request).await,
            Err(error @ (StreamError::TooLarge { .. } | StreamError::Unreadable { .. })) => {
                CoordinatorReply::Refused(malformed(error.to_string()))
            }
            Err(_) => return,
        };
        // Whoever is gone before the answer asks again.
        if stream.send(&reply).await.is_ok() {
            stream.finish();
        }
    }
}

impl Service {
    fn may_send_much(&self, peer: PublicKey) -> bool {
        self.shared.is_coordinator(peer)
            || self.shared.facts().and_then(|facts| self.shared.governance(&facts)).is_ok_and(|governance| {
                governance.uploaders.contains_key(&peer)
                    || governance.operator_may(peer, OperatorRole::Content)
            })
    }

    /// The answer to a request of `client`, that came on `connection` if not from this machine itself.
    pub(crate) async fn answer(
        &self,
        client: PublicKey,
        connection: Option<&Connection>,
        request: CoordinatorRequest,
    ) -> CoordinatorReply {
        let seen_at = connection.map(|connection| AddressPrefix::of(connection.remote_address().ip()));
        let asker = Asker { key: client, seen_at };
        let result = match request {
            CoordinatorRequest::Raft(message) if self.shared.is_coordinator(client) => {
                Ok(CoordinatorReply::Raft(self.shared.consensus.handle_raft(client, &message).await))
            }
            CoordinatorRequest::Forward { client: key, seen_at, request }
                if self.is_coordinator(connection) =>
            {
                match decode(&request) {
                    Ok(request) if is_of_operators(&request) && key != client => Err(not_allowed(
                        "what an operator asks is taken from the operator: a coordinator speaks for its own socket only",
                    )),
                    Ok(request) if is_of_inventories(&request) => Err(not_asked_for()),
                    Ok(request) => self.answer_here(Asker { key, seen_at }, request).await,
                    Err(error) => Err(malformed(error.to_string())),
                }
            }
            CoordinatorRequest::StateDigests if self.is_coordinator(connection) => {
                let digests = self.shared.consensus.late_digests();
                let clock = self.shared.environment.now();
                Ok(CoordinatorReply::StateDigests { digests, feature_level: FEATURE_LEVEL, clock })
            }
            CoordinatorRequest::Raft(_)
            | CoordinatorRequest::Forward { .. }
            | CoordinatorRequest::StateDigests => {
                Err(not_allowed("only coordinators of the roster may say this"))
            }
            CoordinatorRequest::Heartbeat(status) => {
                nodes::heartbeat(&self.shared, client, connection, status)
            }
            request if is_of_inventories(&request) && !self.shared.consensus.is_leader() => {
                Err(not_asked_for())
            }
            request if is_for_leader(&request) && !self.shared.consensus.is_leader() => {
                if is_of_operators(&request) {
                    self.answer_operator(asker, request).await
                } else {
                    self.forward(asker, request).await
                }
            }
            request => self.answer_here(asker, request).await,
        };
        result.unwrap_or_else(CoordinatorReply::Refused)
    }

    fn is_coordinator(&self, connection: Option<&Connection>) -> bool {
        connection.is_some_and(|connection| self.shared.is_coordinator(connection.peer()))
    }

    /// The answer of this coordinator itself, whether it leads or not.
    fn answer_here(
        &self,
        asker: Asker,
        request: CoordinatorRequest,
    ) -> BoxFuture<'_, Result<CoordinatorReply, RefusedRequest>> {
        Box::pin(self.answered(asker, request))
    }

    async fn answered(
        &self,
        asker: Asker,
        request: CoordinatorRequest,
    ) -> Result<CoordinatorReply, RefusedRequest> {
        let (shared, client) = (&self.shared, asker.key);
        if is_of_contents(&request) && shared.is_rebuilding()? {
            // What is not restored yet must not pass for absent.
            let sentence = RejectReason::Rebuilding.to_string();
            return Err(RefusedRequest::new(RefusalKind::Unavailable, sentence));
        }
        match request {
            CoordinatorRequest::GetDescriptor => {
                Ok(CoordinatorReply::Descriptor(shared.standing.in_force().descriptor.clone()))
            }
            CoordinatorRequest::GetMembers => members::in_force(shared),
            CoordinatorRequest::OfferRoster(descriptor) => members::take(shared, descriptor).await,
            CoordinatorRequest::GetPass => {
                shared.pass(client, PassPurpose::Reading).map(CoordinatorReply::Pass)
            }
            CoordinatorRequest::GetLedger { from } => reads::ledger(shared, from),
            CoordinatorRequest::GetLedgerHeads => reads::ledger_heads(shared),
            CoordinatorRequest::Presence(keys) => reads::presence(shared, &keys),
            CoordinatorRequest::Lookup(keys) => reads::lookup(shared, &keys),
            CoordinatorRequest::Similar(features) => reads::similar(shared, features).await,
            CoordinatorRequest::Bundles(names) => reads::bundles(shared, &names),
            CoordinatorRequest::GetCertificates(codings) => {
                certificates::certificates(shared, client, &codings)
            }
            CoordinatorRequest::Nodes => reads::nodes(shared),
            CoordinatorRequest::Feed { from, wait_millis } => reads::feed(shared, from, wait_millis).await,
            CoordinatorRequest::News { from, wait_millis } => reads::news(shared, from, wait_millis).await,
            CoordinatorRequest::ListFilters => filters::list(shared),
            CoordinatorRequest::FilterPiece { filter, offset } => {
                filters::piece(shared, filter, offset).await
            }
            CoordinatorRequest::IndexRange(request) => index_range::answer(shared, request).await,
            CoordinatorRequest::ListHeld => reads::held(shared),
            CoordinatorRequest::ListExternals => reads::externals(shared),
            CoordinatorRequest::GetScheme => reserve::scheme(shared),
            CoordinatorRequest::Reserve(request) => reserve::reserve(shared, client, request).await,
            CoordinatorRequest::Commit(request) => commit::commit(shared, client, request).await,
            CoordinatorRequest::Compact(request) => compact::compact(shared, client, request).await,
            CoordinatorRequest::LateReceipts(receipts) => {
                commit::late_receipts(shared, client, &receipts).await
            }
            CoordinatorRequest::Release(reservations) => commit::release(shared, client, &reservations).await,
            CoordinatorRequest::Join(request) => nodes::join(shared, asker, request).await,
            CoordinatorRequest::Inventory { shards, more } => {
                nodes::inventory(shared, client, shards, more).await
            }
            CoordinatorRequest::TellTerms(terms) => nodes::tell_terms(shared, client, terms),
            CoordinatorRequest::DeclareAbsence { for_millis } => {
                nodes::declare_absence(shared, client, for_millis).await
            }
            CoordinatorRequest::GetSuspension => suspensions::of_asker(shared, client),
            CoordinatorRequest::CompareInventory(comparison) => {
                nodes::compare_inventory(shared, client, comparison).await
            }
            CoordinatorRequest::ReportShard(report) => {
                take_report(shared, report).await.map(|()| CoordinatorReply::ReportTaken)
            }
            CoordinatorRequest::Status => status::archive(shared),
            CoordinatorRequest::ListNodes => status::nodes(shared),
            CoordinatorRequest::ListResting => status::resting(shared),
            CoordinatorRequest::ListBundles { from } => status::bundles(shared, from),
            CoordinatorRequest::Admin(request) => {
                // Another coordinator speaks for whoever reached its socket: the owner of its machine.
                let by = operators::admit(shared, client, &request).await?;
                if !members::may_ask(client, &request) {
                    return Err(not_allowed("a coordinator is taken back only when it asks for that itself"));
                }
                administer::administer(shared, by, request).await.map(CoordinatorReply::Admin)
            }
            CoordinatorRequest::Raft(_)
            | CoordinatorRequest::Forward { .. }
            | CoordinatorRequest::StateDigests
            | CoordinatorRequest::Heartbeat(_) => Err(malformed("this is not forwarded")),
        }
    }

    /// The answer of a coordinator that does not lead to an operator: only what can wait for no leader is done here.
    async fn answer_operator(
        &self,
        asker: Asker,
        request: CoordinatorRequest,
    ) -> Result<CoordinatorReply, RefusedRequest> {
        let sentence = match self.shared.consensus.leader() {
            Some(leader) => format!("an operator asks the leader itself, which is {}", leader.short()),
            None if matches!(&request, CoordinatorRequest::Admin(request) if administer::needs_no_leader(request)) =>
            {
                return self.answer_here(asker, request).await;
            }
            None => NO_LEADER.to_owned(),
        };
        Err(RefusedRequest::new(RefusalKind::Unavailable, sentence))
    }

    /// Hands a request on to the leader.
    pub(crate) async fn forward(
        &self,
        asker: Asker,
        request: CoordinatorRequest,
    ) -> Result<CoordinatorReply, RefusedRequest> {
        let unavailable = |sentence: String| RefusedRequest::new(RefusalKind::Unavailable, sentence);
        let Some(leader) = self.shared.consensus.leader() else {
            // The state at a glance is worth having while nobody leads.
            return match request {
                CoordinatorRequest::Status
                | CoordinatorRequest::ListNodes
                | CoordinatorRequest::ListResting
                | CoordinatorRequest::ListBundles { .. } => self.answer_here(asker, request).await,
                _ => Err(unavailable(NO_LEADER.to_owned())),
            };
        };
        if leader == self.shared.identity.node_id() {
            return self.answer_here(asker, request).await;
        }
        let address = self
            .shared
            .consensus
            .address_of(leader)
            .ok_or_else(|| unavailable(format!("the leader {} is not known here yet", leader.short())))?;
        let is_act = matches!(request, CoordinatorRequest::Admin(_));
        let Asker { key: client, seen_at } = asker;
        let forwarded = CoordinatorRequest::Forward { client, seen_at, request: encode(&request) };
        let is_sent = AtomicBool::new(false);
        let reply = async {
            let dialled = self.shared.pool.get(leader, &address).await;
            let connection = dialled.map_err(|error| error.to_string())?;
            is_sent.store(true, Ordering::Relaxed);
            let reply = connection.call::<_, CoordinatorReply>(&forwarded, CONTROL_BYTES_MAX, FORWARD_WITHIN);
            reply.await.map_err(|error| error.to_string())
        };
        let mut watch = self.shared.consensus.watch();
        // Dialling a leader that was killed takes five seconds, and a connection to it looks alive for ten; the next one
        // leads long before.
        let another_leads = watch.wait_for(|status| status.leader.is_some_and(|known| known != leader));
        let reason = tokio::select! {
            biased;
            reply = reply => match reply {
                Ok(reply) => {
                    self.until_here(&reply).await;
                    return Ok(reply);
                }
                Err(reason) => reason,
            },
            _ = another_leads => "another coordinator leads by now".to_owned(),
        };
        let sentence = format!("the leader has not answered: {reason}");
        // What was sent may be done.
        let kind = if is_act && is_sent.load(Ordering::Relaxed) {
            RefusalKind::Uncertain
        } else {
            RefusalKind::Unavailable
        };
        Err(RefusedRequest::new(kind, sentence))
    }

    /// Waits until what the leader has committed is here, too: whoever commits by this coordinator asks it next, and is to
    /// find what it brought.
    async fn until_here(&self, reply: &CoordinatorReply) {
        let CoordinatorReply::Committed { bundles, .. } = reply else { return };
        let Some(last) = bundles.iter().max() else { return };
        let deadline = Instant::now() + OWN_COMMIT_WITHIN;
        let mut watch = self.shared.consensus.watch();
        loop {
            let applied = watch.status().applied;
            let is_here =
                self.shared.facts().is_ok_and(|facts| facts.bundle(*last).is_ok_and(|it| it.is_some()));
            // One that lags for longer answers all the same: what was committed is committed.
            if is_here
                || !timeout_at(deadline, watch.wait_for(|now| now.applied > applied)).await.unwrap_or(false)
            {
                return;
            }
        }
    }

    /// An act of administration from this machine's own socket.
    pub(crate) fn administer(
        &self,
        request: AdminRequest,
    ) -> BoxFuture<'_, Result<AdminReply, RefusedRequest>> {
        Box::pin(self.administered(request))
    }

    async fn administered(&self, request: AdminRequest) -> Result<AdminReply, RefusedRequest> {
        if let AdminRequest::Snapshot { to } = &request {
            return administer::snapshot(&self.shared, to).await;
        }
        let nobody_leads = self.shared.consensus.leader().is_none();
        if self.shared.consensus.is_leader()
            || !administer::is_for_leader(&request)
            || (nobody_leads && administer::needs_no_leader(&request))
        {
            let by = Actor::Socket { coordinator: self.shared.identity.node_id() };
            return administer::administer(&self.shared, by, request).await;
        }
        let own = Asker { key: self.shared.identity.public(), seen_at: None };
        match self.forward(own, CoordinatorRequest::Admin(request)).await? {
            CoordinatorReply::Admin(reply) => Ok(reply),
            CoordinatorReply::Refused(refusal) => Err(refusal),
            _ => Err(malformed("the leader gave an answer that does not fit")),
        }
    }
}

/// Requests about what is archived: a state that is being rebuilt has no answer.
const fn is_of_contents(request: &CoordinatorRequest) -> bool {
    match request {
        CoordinatorRequest::Presence(_)
        | CoordinatorRequest::Lookup(_)
        | CoordinatorRequest::Similar(_)
        | CoordinatorRequest::Bundles(_)
        | CoordinatorRequest::Feed { .. }
        | CoordinatorRequest::News { .. }
        | CoordinatorRequest::ListFilters
        | CoordinatorRequest::FilterPiece { .. }
        | CoordinatorRequest::IndexRange(_)
        | CoordinatorRequest::ListHeld
        | CoordinatorRequest::ListExternals
        | CoordinatorRequest::GetScheme
        | CoordinatorRequest::Reserve(_)
        | CoordinatorRequest::Commit(_)
        | CoordinatorRequest::Compact(_) => true,
        CoordinatorRequest::GetDescriptor
        | CoordinatorRequest::GetMembers
        | CoordinatorRequest::OfferRoster(_)
        | CoordinatorRequest::GetPass
        | CoordinatorRequest::GetLedger { .. }
        | CoordinatorRequest::GetLedgerHeads
        | CoordinatorRequest::GetCertificates(_)
        | CoordinatorRequest::Nodes
        | CoordinatorRequest::LateReceipts(_)
        | CoordinatorRequest::Release(_)
        | CoordinatorRequest::Join(_)
        | CoordinatorRequest::Inventory { .. }
        | CoordinatorRequest::CompareInventory(_)
        | CoordinatorRequest::ReportShard(_)
        | CoordinatorRequest::Status
        | CoordinatorRequest::ListNodes
        | CoordinatorRequest::ListResting
        | CoordinatorRequest::TellTerms(_)
        | CoordinatorRequest::DeclareAbsence { .. }
        | CoordinatorRequest::GetSuspension
        | CoordinatorRequest::ListBundles { .. }
        | CoordinatorRequest::Admin(_)
        | CoordinatorRequest::Raft(_)
        | CoordinatorRequest::Forward { .. }
        | CoordinatorRequest::StateDigests
        | CoordinatorRequest::Heartbeat(_) => false,
    }
}

/// Requests that only the leader can answer, or answers better.
fn is_for_leader(request: &CoordinatorRequest) -> bool {
    matches!(
        request,
        CoordinatorRequest::Join(_)
            | CoordinatorRequest::ReportShard(_)
            | CoordinatorRequest::GetScheme
            | CoordinatorRequest::Reserve(_)
            | CoordinatorRequest::Commit(_)
            | CoordinatorRequest::Compact(_)
            | CoordinatorRequest::LateReceipts(_)
            | CoordinatorRequest::Release(_)
            | CoordinatorRequest::Status
            | CoordinatorRequest::ListNodes
            | CoordinatorRequest::ListResting
            | CoordinatorRequest::DeclareAbsence { .. }
            | CoordinatorRequest::ListBundles { .. }
    ) || matches!(request, CoordinatorRequest::Admin(request) if administer::is_for_leader(request))
}

/// What is told of an inventory. The leader asks for it on its own link; what began with the leader before must not go on
/// with this one, who has not heard the beginning.
const fn is_of_inventories(request: &CoordinatorRequest) -> bool {
    matches!(request, CoordinatorRequest::Inventory { .. } | CoordinatorRequest::CompareInventory(_))
}

fn not_asked_for() -> RefusedRequest {
    RefusedRequest::new(
        RefusalKind::Unavailable,
        "an inventory is told to the leader, on the link where it asks for it: wait until it asks",
    )
}

/// Requests that count by the role of whoever asks: its own connection to whoever answers says who that is.
const fn is_of_operators(request: &CoordinatorRequest) -> bool {
    matches!(
        request,
        CoordinatorRequest::Admin(_)
            | CoordinatorRequest::Compact(_)
            | CoordinatorRequest::Commit(CommitRequest { replaces: Some(_), .. })
    )
}
