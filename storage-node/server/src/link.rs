//! The links to the coordinators: dialled, kept, and served in both directions.
//!
//! Always holds: one task per coordinator of the roster in force; each link is dialled again for as long as
//! the roster names its coordinator; whatever a coordinator asks on a link is answered as on any connection.
//! Leaves to others: what to say when (`Session`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use firn_base::NodeId;
use firn_storage_node_logic::{Known, LeaveWatch, Session, Step, reconnect_delay};
use firn_transport::{AskError, ConnectError, Connection, serve_connection};
use firn_wire::{
    CoordinatorEntry, CoordinatorReply, CoordinatorRequest, Descriptor, INVENTORY_SHARDS_MAX,
    InventoryComparison, InventoryRange, InventoryShard, JoinRequest, NodeState, OrderRank, RefusalKind,
};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::governance::{ArchiveFileError, keep_descriptor};
use crate::serve::Server;
use crate::shared::Shared;
use crate::store::ShardName;

const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(4);

// The leader commits a join before it answers, and may just be elected.
const JOIN_TIMEOUT: Duration = Duration::from_secs(6);

// A page is up to 2 MB.
const PAGE_TIMEOUT: Duration = Duration::from_secs(30);
const DESCRIPTOR_TIMEOUT: Duration = Duration::from_secs(5);

/// Keeps a link to every coordinator of the roster in force.
pub(crate) async fn keep_links(shared: Arc<Shared>, mut generation: watch::Receiver<u64>) {
    let mut tasks = JoinSet::new();
    let mut running: BTreeMap<NodeId, (CoordinatorEntry, AbortHandle)> = BTreeMap::new();
    loop {
        generation.mark_unchanged();
        let roster = shared.client.roster();
        let coordinators = &roster.roster().coordinators;
        running.retain(|id, (entry, task)| {
            let stays = coordinators.contains(entry);
            if !stays {
                task.abort();
                shared.links.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(id);
            }
            stays
        });
        for entry in coordinators {
            running.entry(entry.id).or_insert_with(|| {
                shared.link(entry.id, |state| state.address.clone_from(&entry.address));
                let task = tasks.spawn(keep_link(Arc::clone(&shared), entry.clone()));
                (entry.clone(), task)
            });
        }
        if generation.changed().await.is_err() {
            return;
        }
    }
}

async fn keep_link(shared: Arc<Shared>, entry: CoordinatorEntry) {
    let mut attempt = 0;
    // Orders that are being carried out when the link is lost go on: their receipts count by another way too.
    let mut serving = JoinSet::new();
    loop {
        while serving.try_join_next().is_some() {}
        let trouble = match shared.pool.get(entry.id, &entry.address).await {
            Ok(connection) => {
                attempt = 0;
                shared.link(entry.id, |state| {
                    state.connected = true;
                    state.trouble = None;
                    state.speaks_another_version = false;
                });
                tracing::info!(coordinator = %entry.id.short(), address = entry.address, "connected");
                let server = Arc::new(Server { shared: Arc::clone(&shared), is_dialled: false });
                serving.spawn(serve_connection(connection.clone(), server));
                converse(&shared, &entry, &connection).await;
                connection.close_reason().unwrap_or_else(|| "it was closed".to_owned())
            }
            Err(error) => {
                let speaks_another_version = matches!(error, ConnectError::WrongProtocol { .. });
                shared.link(entry.id, |state| state.speaks_another_version = speaks_another_version);
                error.to_string()
            }
        };
        shared.link(entry.id, |state| {
            state.connected = false;
            if state.trouble.as_ref() != Some(&trouble) {
                tracing::warn!(coordinator = %entry.id.short(), trouble, "not connected: dialling again");
                state.trouble = Some(trouble);
            }
        });
        sleep(reconnect_delay(attempt, shared.environment.random_u64())).await;
        attempt = attempt.saturating_add(1);
    }
}

/// Talks to one coordinator until the connection is over.
async fn converse(shared: &Arc<Shared>, entry: &CoordinatorEntry, connection: &Connection) {
    let mut session = Session::new(shared.elapsed());
    let mut begun = Begun::default();
    // Ended with the conversation.
    let mut errands = JoinSet::new();
    while !connection.is_closed() {
        let step = session.next(shared.elapsed(), &mut shared.membership());
        match step {
            Step::Heartbeat => heartbeat(shared, entry.id, &mut session).await,
            Step::Join => join(shared, entry.id, &mut session).await,
            Step::BeginComparison => {
                begun = begin_comparison(shared).await;
                compare(shared, entry.id, &mut session, &begun, None).await;
            }
            Step::RefineRanges(ranges) => {
                compare(shared, entry.id, &mut session, &begun, Some(ranges)).await;
            }
            Step::InventoryPage { after } => {
                let after = after.map(|(coding, index)| ShardName::new(coding, index));
                send_page(shared, entry.id, &mut session, after).await;
            }
            Step::FetchDescriptor => {
                fetch_descriptor(shared, entry.id).await;
                session.descriptor_tried();
            }
            Step::FetchLedger => {
                // Of its own, because it asks all coordinators and heartbeats must go on.
                let shared = Arc::clone(shared);
                while errands.try_join_next().is_some() {}
                errands.spawn(async move {
                    shared.ledger.refresh(&shared.client).await;
                    shared.erase().await;
                });
                session.ledger_tried();
            }
            Step::Wait(time) => {
                // There is time for nothing else: no comparison is under way.
                begun = Begun::default();
                // Whichever comes first.
                let _ = timeout(time, connection.closed()).await;
            }
        }
    }
}

async fn heartbeat(shared: &Arc<Shared>, coordinator: NodeId, session: &mut Session) {
    let (asked, sent) = (shared.environment.now(), shared.elapsed());
    let reply = shared.client.heartbeat(coordinator, shared.status(), HEARTBEAT_TIMEOUT).await;
    let now = shared.elapsed();
    let reply = match reply {
        Ok(reply) => reply,
        Err(error) => {
            tracing::debug!(coordinator = %coordinator.short(), %error, "a heartbeat was not heard");
            // Of all that is refused to a heartbeat this alone is for good.
            if let AskError::Refused(refused) = &error
                && refused.kind == RefusalKind::NotAllowed
            {
                shared.hears(coordinator, Some(&refused.sentence));
            }
            session.heartbeat_refused(now);
            return;
        }
    };
    shared.hears(coordinator, None);
    shared.authority.learn_time(coordinator, reply.now, asked);
    shared.authority.hear(OrderRank { generation: reply.generation, epoch: reply.epoch }).await;
    shared.was_answered(coordinator, reply.leader);
    let leads = (reply.leader == Some(coordinator)).then_some(reply.epoch);
    shared.link(coordinator, |state| state.leads = leads);
    let known = Known {
        generation: shared.client.roster().roster().generation,
        ledger_entries: shared.ledger.entries(),
    };
    let (before, after) = {
        let mut membership = shared.membership();
        let before = membership.state();
        session.heard(&reply, known, (sent, now), &mut membership);
        shared.build_line.give_whole(membership.is_draining());
        (before, membership.state())
    };
    if reply.leader == Some(coordinator) && reply.state != Some(NodeState::Draining) {
        // Should it leave once more, what is counted begins anew.
        *shared.leave_watch.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = LeaveWatch::default();
    }
    if before != after {
        tell_state(shared, after);
    }
}

fn tell_state(shared: &Shared, state: Option<NodeState>) {
    let leaving = shared.leaving.load(std::sync::atomic::Ordering::Acquire);
    match state {
        Some(NodeState::Gone) if leaving => {
            tracing::info!("every shard has a new home: this node has left the archive");
            shared.left.send_replace(true);
        }
        Some(state @ (NodeState::Gone | NodeState::Lost)) => {
            tracing::error!(
                "the archive has removed this node (it is {state}) and counts on nothing here: its shards are yours to delete with the data directory; to come back, begin with an empty one and a new token"
            );
        }
        Some(state) => tracing::info!("this node is {state}"),
        None => tracing::warn!("the archive does not know this node"),
    }
}

async fn join(shared: &Arc<Shared>, coordinator: NodeId, session: &mut Session) {
    let known = shared.membership().state().is_some();
    let request = CoordinatorRequest::Join(JoinRequest {
        token: shared.token.clone().filter(|_| !known),
        failure_domain: shared.failure_domain.clone(),
        status: shared.status(),
    });
    let reply = shared.client.ask_coordinator(coordinator, &request, JOIN_TIMEOUT).await;
    let now = shared.elapsed();
    let mut membership = shared.membership();
    match reply {
        Ok(CoordinatorReply::Joined) => session.joined(now, &mut membership),
        Err(AskError::Refused(refused)) if refused.kind != RefusalKind::Unavailable => {
            // An empty node whose token was used before is most often one whose disk is not mounted.
            let empty =
                if shared.store.shards() == 0 { " (this node is empty: is its disk mounted?)" } else { "" };
            tracing::error!("the archive does not admit this node: {refused}{empty}");
            session.join_failed(now, false, &mut membership);
        }
        Ok(_) | Err(_) => session.join_failed(now, true, &mut membership),
    }
}

/// A comparison of the inventory that was begun on a link. Listing a large store takes long, so it is done once.
#[derive(Debug, Default)]
struct Begun {
    salt: [u8; 32],
    // What was here then, in order.
    held: Arc<Vec<InventoryShard>>,
}

async fn begin_comparison(shared: &Shared) -> Begun {
    let held = shared.with_store(|store| {
        let (held, _) = store.inventory(None, usize::MAX);
        held.into_iter().map(|name| (name.coding, name.index)).collect::<Vec<_>>()
    });
    Begun { salt: shared.environment.seed(), held: Arc::new(held.await) }
}

/// Takes a step of comparing the inventory: the first one, or what is in `ranges`.
async fn compare(
    shared: &Arc<Shared>,
    coordinator: NodeId,
    session: &mut Session,
    begun: &Begun,
    ranges: Option<Vec<InventoryRange>>,
) {
    let (salt, held) = (begun.salt, Arc::clone(&begun.held));
    // Hashing a million names takes a second.
    let comparison = shared.environment.blocking(move || match ranges {
        None => InventoryComparison::beginning(salt, &held),
        Some(ranges) => InventoryComparison::refining(salt, &ranges, &held),
    });
    let comparison = comparison.await;
    let refined = if comparison.begins() { 0 } else { comparison.ranges.len() };
    match shared.client.compare_inventory(coordinator, comparison, PAGE_TIMEOUT).await {
        Ok(differing) => session.compared(refined, differing),
        Err(error) => {
            tracing::debug!(coordinator = %coordinator.short(), %error, "the inventory was not compared");
            let is_malformed =
                matches!(&error, AskError::Refused(refused) if refused.kind == RefusalKind::Malformed);
            session.not_compared(is_malformed);
        }
    }
}

async fn send_page(
    shared: &Arc<Shared>,
    coordinator: NodeId,
    session: &mut Session,
    after: Option<ShardName>,
) {
    let (page, more) = shared.store.inventory(after, INVENTORY_SHARDS_MAX);
    let last = page.last().map(|name| (name.coding, name.index));
    let shards = page.into_iter().map(|name| (name.coding, name.index)).collect();
    match shared.client.inventory(coordinator, shards, more, PAGE_TIMEOUT).await {
        Ok(()) => session.page_sent(last, more),
        Err(error) => {
            // The next heartbeat tells whether it is still wanted; it begins anew then.
            tracing::debug!(coordinator = %coordinator.short(), %error, "the inventory was not taken");
            session.page_sent(None, false);
        }
    }
}

async fn fetch_descriptor(shared: &Arc<Shared>, coordinator: NodeId) {
    let request = CoordinatorRequest::GetDescriptor;
    let reply = shared.client.ask_coordinator(coordinator, &request, DESCRIPTOR_TIMEOUT).await;
    let Ok(CoordinatorReply::Descriptor(descriptor)) = reply else { return };
    if let Err(error) = adopt_descriptor(shared, descriptor).await {
        tracing::error!(%error, "the new roster cannot be kept");
    }
}

/// Takes a descriptor into force once it is kept on disk. Says whether it was newer.
pub(crate) async fn adopt_descriptor(
    shared: &Arc<Shared>,
    descriptor: Descriptor,
) -> Result<bool, ArchiveFileError> {
    let roster = descriptor.verify()?;
    let disk = Arc::clone(&shared.disk);
    shared.environment.blocking(move || keep_descriptor(disk.as_ref(), descriptor)).await?;
    let adopted = shared.client.adopt_roster(&roster);
    if adopted {
        let generation = roster.roster().generation;
        tracing::info!(generation, "a new roster is in force");
        shared.generation.send_replace(generation);
    }
    Ok(adopted)
}
