//! Storage nodes: admission, signs of life, inventories.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use firn_base::{AddressPrefix, CodingId, NodeId, PublicKey, ShardIndex};
use firn_coordinator_logic::{
    ComparisonProgress, Facts, Hearing, InventoryProgress, NodeRecord, Voice, check_name, expected_on,
    place_of,
};
use firn_transport::Connection;
use firn_wire::{
    ADDRESS_BYTES_MAX, Command, CoordinatorReply, HeartbeatReply, INVENTORY_RANGES_MAX, INVENTORY_SHARDS_MAX,
    InventoryComparison, JoinRequest, JoinToken, NodeStanding, NodeState, NodeStatus, NodeTerms, RefusalKind,
    RefusedRequest, Signed,
};

use super::Asker;
use crate::driver::take_inventory;
use crate::shared::{Shared, disk, malformed, not_allowed};

type Reply = Result<CoordinatorReply, RefusedRequest>;

pub(super) async fn join(shared: &Shared, asker: Asker, request: JoinRequest) -> Reply {
    check_name("failure domain", &request.failure_domain).map_err(|error| malformed(error.to_string()))?;
    check_address(&request.status.address)?;
    let node = NodeId::from(asker.key);
    let known = shared.facts()?.node_by_id(node).map_err(|error| disk(&error))?;
    if known.is_none() && shared.rebuild.is_listening() {
        return Err(RefusedRequest::new(
            RefusalKind::Unavailable,
            firn_wire::RejectReason::Rebuilding.to_string(),
        ));
    }
    let (operator, failure_domain, vouched, token) = match (&known, &request.token) {
        // Renewed at every start: addresses, domains and quotas change.
        (Some(known), _) => (known.operator.clone(), request.failure_domain, false, None),
        (None, Some(token)) => {
            let token = check_token(shared, token)?;
            let vouched = token.failure_domain.is_some();
            let failure_domain = token.failure_domain.unwrap_or(request.failure_domain);
            (token.operator, failure_domain, vouched, Some(token.token))
        }
        (None, None) => {
            return Err(not_allowed(
                "this archive admits nodes by token: ask its operator for one and start with --token-file",
            ));
        }
    };
    let command = Command::JoinNode {
        node,
        operator,
        failure_domain,
        vouched,
        seen_at: asker.seen_at.map(|prefix| place_of(prefix, shared.address_table.as_ref())),
        address: request.status.address,
        quota_bytes: request.status.quota.0,
        token,
    };
    shared.carry_out(command, RefusalKind::NotAllowed).await?;
    Ok(CoordinatorReply::Joined)
}

fn check_token(shared: &Shared, token: &Signed<JoinToken>) -> Result<JoinToken, RefusedRequest> {
    let refuse =
        |why: &str| not_allowed(format!("the join token {why}: ask the archive's operator for another"));
    let token = token.open(shared.archive).map_err(|_| refuse("is not of this archive"))?;
    if !shared.is_coordinator(token.signer()) {
        return Err(refuse("is not signed by a coordinator of this archive"));
    }
    if token.expires <= shared.environment.now() {
        return Err(refuse(&format!("expired at {}", token.expires)));
    }
    Ok(token.into_statement())
}

fn check_address(address: &str) -> Result<(), RefusedRequest> {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
    let unspecified = address.parse::<SocketAddr>().is_ok_and(|address| address.ip().is_unspecified());
    let wrong = host.is_empty() || port.parse::<u16>().is_err() || address.contains(char::is_whitespace);
    if wrong || unspecified || address.len() > ADDRESS_BYTES_MAX {
        return Err(malformed(
            "a node advertises HOST:PORT, the host as readers reach it: start it with --advertise",
        ));
    }
    Ok(())
}

pub(super) fn heartbeat(
    shared: &Shared,
    client: PublicKey,
    connection: Option<&Connection>,
    status: NodeStatus,
) -> Reply {
    let facts = shared.facts()?;
    let record = facts.node_by_id(NodeId::from(client)).map_err(|error| disk(&error))?;
    let ledger_entries = facts.counters().map_err(|error| disk(&error))?.ledger.entries;
    let leads = shared.consensus.is_leader();
    let mut inventory_wanted = false;
    if let Some(connection) = connection.filter(|_| shared.rebuild.is_listening() && record.is_none()) {
        // Whose nodes there are is only known when some of them have shown the ledger.
        shared.links.keep(connection);
    }
    if let Some(record) = &record {
        check_address(&status.address)?;
        if let Some(connection) = connection {
            check_voice(shared, record.id, connection, status.run)?;
            shared.links.keep(connection);
        }
        let heard = {
            let mut soft = shared.soft();
            let heard = soft.fleet.heard(record.number, status, shared.environment.now());
            soft.fleet.assigned_by_then(record);
            if let Some(connection) = connection {
                let prefix = AddressPrefix::of(connection.remote_address().ip());
                soft.fleet.seen_at(record.number, prefix);
            }
            heard
        };
        if heard.came_online {
            tracing::info!(node = %record.id.short(), domain = record.failure_domain, "node is online");
        }
        inventory_wanted =
            heard.inventory_wanted && leads && record.is_member() && !shared.rebuild.holds_inventories();
    }
    Ok(CoordinatorReply::Heartbeat(HeartbeatReply {
        now: shared.environment.now(),
        leader: shared.consensus.leader(),
        generation: shared.generation(),
        epoch: shared.consensus.term(),
        ledger_entries,
        inventory_wanted,
        state: record.map(|record| record.state),
    }))
}

/// A node says what its terms are, and is told where it stands.
pub(super) fn tell_terms(shared: &Shared, client: PublicKey, terms: NodeTerms) -> Reply {
    let record = known(shared, client)?;
    shared.soft().fleet.tell_terms(&record, terms, shared.environment.now());
    Ok(CoordinatorReply::Standing(standing(shared, &record)))
}

/// A node's owner says that it may be away from now on.
pub(super) async fn declare_absence(shared: &Shared, client: PublicKey, for_millis: u64) -> Reply {
    let ends = for_millis == 0;
    if ends {
        // All that was committed has to be known here.
        shared.confirm_leadership().await?;
    }
    let record = known(shared, client)?;
    let now = shared.trusted_now()?;
    if ends && record.absence.in_force(now).is_none() {
        // Every `resume` asks for it, also that of a pause: there is nothing to commit.
        return Ok(CoordinatorReply::Standing(standing(shared, &record)));
    }
    let until = now.after(Duration::from_millis(for_millis));
    // Apply looks once more: this is for the sentence.
    record.absence.declare(until, now).map_err(|refused| not_allowed(refused.to_string()))?;
    let command = Command::DeclareAbsence { node: record.id, until };
    shared.carry_out(command, RefusalKind::NotAllowed).await?;
    tracing::info!(node = %record.id.short(), %until, "a node's owner has declared that it may be away");
    Ok(CoordinatorReply::Standing(standing(shared, &known(shared, client)?)))
}

/// The record of a node that speaks for itself.
pub(super) fn known(shared: &Shared, client: PublicKey) -> Result<NodeRecord, RefusedRequest> {
    let record = shared.facts()?.node_by_id(NodeId::from(client)).map_err(|error| disk(&error))?;
    record
        .filter(NodeRecord::is_member)
        .ok_or_else(|| not_allowed("only a node of this archive may say this"))
}

fn standing(shared: &Shared, record: &NodeRecord) -> NodeStanding {
    let now = shared.environment.now();
    let is_drained = record.state == NodeState::Draining && shared.consensus.is_leader();
    let soft = shared.soft();
    let findings = soft.findings.as_ref().filter(|_| is_drained);
    NodeStanding {
        drain: findings.and_then(|findings| findings.drains.get(&record.number)).copied(),
        absent_until: record.absence.in_force(now),
        absence_left_millis: u64::try_from(record.absence.left_beyond(now).as_millis()).unwrap_or(u64::MAX),
    }
}

/// Refuses a process that speaks as a node as which another one is heard.
fn check_voice(
    shared: &Shared,
    node: NodeId,
    connection: &Connection,
    run: u64,
) -> Result<(), RefusedRequest> {
    let heard = shared.links.get(node);
    let voice = Voice { connection: connection.number(), run };
    let hearing = shared.soft().voices.hear(node, voice, heard.is_some(), shared.environment.now());
    let address = heard.map_or_else(|| "elsewhere".to_owned(), |heard| heard.remote_address().to_string());
    match hearing {
        Hearing::Heard => Ok(()),
        Hearing::Waits => Err(RefusedRequest::new(
            RefusalKind::Unavailable,
            format!("a moment ago another process spoke as this node, from {address}: ask again"),
        )),
        Hearing::Copy => {
            tracing::warn!(
                node = %node.short(), heard = address, refused = %connection.remote_address(),
                "two processes speak as one node: the later one is refused"
            );
            Err(not_allowed(format!("another process runs as this node, at {address}")))
        }
    }
}

pub(super) async fn inventory(
    shared: &Arc<Shared>,
    client: PublicKey,
    shards: Vec<(CodingId, ShardIndex)>,
    more: bool,
) -> Reply {
    if shards.len() > INVENTORY_SHARDS_MAX {
        return Err(malformed(format!("an inventory page holds at most {INVENTORY_SHARDS_MAX} shards")));
    }
    let record = member(shared, client)?;
    let progress = shared.soft().fleet.inventory_page(record.number, shards, more);
    match progress {
        InventoryProgress::More | InventoryProgress::Unwanted => {}
        InventoryProgress::Complete(inventory) => take_inventory(shared, &record, inventory).await?,
        InventoryProgress::Malformed => {
            return Err(malformed(
                "the pages of an inventory come in order of coding and index: begin again",
            ));
        }
    }
    Ok(CoordinatorReply::InventoryTaken)
}

/// A step of comparing what a node holds with what it is counted for.
pub(super) async fn compare_inventory(
    shared: &Arc<Shared>,
    client: PublicKey,
    comparison: InventoryComparison,
) -> Reply {
    if comparison.ranges.len() > INVENTORY_RANGES_MAX {
        return Err(malformed(format!("a comparison refines at most {INVENTORY_RANGES_MAX} ranges at once")));
    }
    let record = member(shared, client)?;
    let number = record.number;
    // Before anything is made for it: whoever has shown its inventory, or begins again and again, asks for nothing.
    let begun = shared.soft().fleet.begin_step(number, &comparison, shared.environment.now());
    let Some(begun) = begun else {
        return Ok(CoordinatorReply::InventoryCompared { differing: Vec::new() });
    };
    let inner = Arc::clone(shared);
    // Hashing what is expected takes a second for a few million shards: not on the threads of the network, and not while
    // heartbeats wait. It comes to its end even if the node is gone by then.
    let work = move || {
        let expected = match comparison.begins() {
            true => inner.with_view(|view| expected_on(view, number)),
            false => Ok(Vec::new()),
        };
        let taken = expected.map(|expected| begun.take(&comparison, expected));
        let mut soft = inner.soft();
        match taken {
            Ok(taken) => Ok(soft.fleet.end_step(number, taken)),
            Err(refusal) => {
                soft.fleet.want_inventory(number, inner.environment.now());
                Err(refusal)
            }
        }
    };
    let progress = shared.environment.blocking(work).await?;
    let differing = match progress {
        ComparisonProgress::Differing(differing) => differing,
        ComparisonProgress::Unwanted => Vec::new(),
        ComparisonProgress::Complete(inventory) => {
            take_inventory(shared, &record, inventory).await?;
            Vec::new()
        }
        ComparisonProgress::Malformed => {
            return Err(malformed(
                "a comparison goes on with what differed, each range once and in order: begin again",
            ));
        }
    };
    Ok(CoordinatorReply::InventoryCompared { differing })
}

/// The record of a node that may show what it holds.
fn member(shared: &Shared, client: PublicKey) -> Result<NodeRecord, RefusedRequest> {
    let record = shared.facts()?.node_by_id(NodeId::from(client)).map_err(|error| disk(&error))?;
    // Nothing that a lost one holds counts, and nobody asks it.
    record.filter(NodeRecord::is_member).ok_or_else(|| {
        RefusedRequest::new(RefusalKind::NotFound, "this node is not of this archive: join first")
    })
}
