//! The life of a node: joining, changing state, being heard.
//!
//! Owns: node records but for their account of bytes. Always holds: a node enters once, with a token that is
//! used up by it; whoever is gone or lost does not come back under the same identity; only an empty node goes.
//! Leaves to others: who may ask for it, and whether the token was signed (the shell).

use firn_base::{AddressHistory, Availability, NodeId, Timestamp, TokenId};
use firn_wire::{
    ADDRESS_BYTES_MAX, LedgerAct, NAME_BYTES_MAX, NodePlace, NodeSighting, NodeState, RejectReason,
};

use super::{Verdict, govern};
use crate::absence::Absence;
use crate::act_check::check_name;
use crate::change::Change;
use crate::facts::Facts;
use crate::overlay::Overlay;
use crate::state::{NodeNumber, NodeRecord, NodeSite};
use crate::suspension::{Suspension, check_announcement};

/// What a joining node says of itself.
pub(super) struct JoiningNode<'a> {
    pub(super) id: NodeId,
    pub(super) operator: &'a str,
    pub(super) failure_domain: &'a str,
    pub(super) vouched: bool,
    pub(super) seen_at: Option<NodePlace>,
    pub(super) address: &'a str,
    pub(super) quota_bytes: u64,
    pub(super) token: Option<TokenId>,
}

/// Admits a node with an unused token, or renews what a known one says of itself; a known node's token stays
/// unused, so that a node may show it at every start.
pub(super) fn join<F: Facts>(
    state: &mut Overlay<'_, F>,
    joining: &JoiningNode<'_>,
) -> Result<Verdict<()>, F::Error> {
    let names_fit = joining.operator.len() <= NAME_BYTES_MAX
        && joining.failure_domain.len() <= NAME_BYTES_MAX
        && joining.address.len() <= ADDRESS_BYTES_MAX;
    if !names_fit {
        return Ok(Err(RejectReason::Malformed("a name or address of the node is too long".into())));
    }
    let now = state.counters()?.time;
    if let Some(mut known) = state.node_by_id(joining.id)? {
        if !known.is_member() {
            return Ok(Err(RejectReason::NodeRemoved));
        }
        if known.operator != joining.operator {
            known.operator = joining.operator.into();
            known.declared_since = now;
        }
        // What a token said stays: a node's own word would part it from others, or join it to them, as it likes.
        if !known.vouched && known.failure_domain != joining.failure_domain {
            known.failure_domain = joining.failure_domain.into();
            known.declared_since = now;
        }
        if let (None, Some(seen_at)) = (known.site.addresses.counted(), joining.seen_at) {
            known.site = site(seen_at, now);
        }
        known.address = joining.address.into();
        known.quota_bytes = joining.quota_bytes;
        known.last_seen = now;
        state.write(Change::PutNode(known));
        return Ok(Ok(()));
    }
    let Some(token) = joining.token else { return Ok(Err(RejectReason::UnknownNode)) };
    let number = NodeNumber(state.counters()?.next_node);
    let Some(next) = number.0.checked_add(1) else {
        return Ok(Err(RejectReason::Malformed("the archive's node numbers are used up".into())));
    };
    let use_token = LedgerAct::UseToken {
        token,
        node: joining.id.into(),
        operator: joining.operator.into(),
        failure_domain: joining.vouched.then(|| joining.failure_domain.into()),
    };
    if let Err(reason) = govern::govern(state, &use_token)? {
        return Ok(Err(reason));
    }
    state.counters_mut().next_node = next;
    state.write(Change::NameNode(joining.id, number));
    state.write(Change::PutNode(NodeRecord {
        operator: joining.operator.into(),
        failure_domain: joining.failure_domain.into(),
        vouched: joining.vouched,
        site: joining.seen_at.map(|seen_at| site(seen_at, now)).unwrap_or_default(),
        address: joining.address.into(),
        quota_bytes: joining.quota_bytes,
        ..unheard(number, joining.id, now)
    }));
    Ok(Ok(()))
}

/// Enters a node that the ledger says was admitted `at`, as its token said it was: what it says of itself follows when it
/// is heard, where it is in its life is forgotten. One that is known stays as it is.
pub(super) fn restore<F: Facts>(
    state: &mut Overlay<'_, F>,
    id: NodeId,
    (operator, failure_domain): (&str, Option<&str>),
    at: Timestamp,
) -> Result<(), F::Error> {
    let number = NodeNumber(state.counters()?.next_node);
    let Some(next) = number.0.checked_add(1) else { return Ok(()) };
    if state.node_number(id)?.is_some() {
        return Ok(());
    }
    // As if heard at this moment: before it can be, it must not count as lost.
    let now = state.counters()?.time;
    state.counters_mut().next_node = next;
    state.write(Change::NameNode(id, number));
    state.write(Change::PutNode(NodeRecord {
        operator: operator.into(),
        failure_domain: failure_domain.unwrap_or_default().into(),
        vouched: failure_domain.is_some(),
        joined_at: at,
        ..unheard(number, id, now)
    }));
    Ok(())
}

/// An active node of which nothing else is known.
fn unheard(number: NodeNumber, id: NodeId, now: Timestamp) -> NodeRecord {
    NodeRecord {
        number,
        id,
        operator: String::new(),
        failure_domain: String::new(),
        vouched: false,
        declared_since: now,
        site: NodeSite::default(),
        address: String::new(),
        quota_bytes: 0,
        assigned_bytes: 0,
        shards: 0,
        state: NodeState::Active,
        joined_at: now,
        last_seen: now,
        availability: Availability::UNKNOWN,
        absence: Absence::default(),
        suspension: None,
    }
}

/// Notes that a node may be away for a while.
pub(super) fn declare_absence<F: Facts>(
    state: &mut Overlay<'_, F>,
    id: NodeId,
    until: Timestamp,
) -> Result<Verdict<()>, F::Error> {
    let now = state.counters()?.time;
    let Some(mut node) = state.node_by_id(id)? else { return Ok(Err(RejectReason::UnknownNode)) };
    if !node.is_member() {
        return Ok(Err(RejectReason::NodeRemoved));
    }
    match node.absence.declare(until, now) {
        Ok(absence) => {
            node.absence = absence;
            state.write(Change::PutNode(node));
            Ok(Ok(()))
        }
        Err(refused) => Ok(Err(RejectReason::Malformed(refused.to_string()))),
    }
}

/// Notes that a node's owner is to be told of its suspension, for whoever asked for it.
pub(super) fn announce_suspension<F: Facts>(
    state: &mut Overlay<'_, F>,
    id: NodeId,
    at: Timestamp,
    reason: &str,
) -> Result<Verdict<()>, F::Error> {
    let Some(mut node) = state.node_by_id(id)? else { return Ok(Err(RejectReason::UnknownNode)) };
    if let Err(refusal) = check_name("reason", reason) {
        return Ok(Err(RejectReason::Malformed(refusal.to_string())));
    }
    if let Err(refused) = check_announcement(&node) {
        return Ok(Err(refused.reject_reason()));
    }
    node.suspension = Some(Suspension { at, by: state.actor().clone(), reason: reason.to_owned() });
    state.write(Change::PutNode(node));
    Ok(Ok(()))
}

/// Suspends a node for which this was announced for `at`, if that stands and its time has come. The ledger names whoever
/// announced it: that one was allowed to then, which is what counts.
pub(super) fn carry_out_suspension<F: Facts>(
    state: &mut Overlay<'_, F>,
    id: NodeId,
    at: Timestamp,
) -> Result<Verdict<()>, F::Error> {
    let now = state.counters()?.time;
    let Some(node) = state.node_by_id(id)? else { return Ok(Err(RejectReason::UnknownNode)) };
    match node.suspension {
        Some(announced) if announced.at == at && at <= now => {
            state.set_actor(announced.by);
            set_state(state, id, NodeState::Suspended)
        }
        _ => Ok(Err(RejectReason::Malformed(format!("no suspension of this node is announced for {at}")))),
    }
}

/// Moves a node to another state, if its life allows it. Whatever state is set, a suspension that was announced is taken
/// back by it, or has come.
pub(super) fn set_state<F: Facts>(
    state: &mut Overlay<'_, F>,
    id: NodeId,
    to: NodeState,
) -> Result<Verdict<()>, F::Error> {
    let Some(mut node) = state.node_by_id(id)? else { return Ok(Err(RejectReason::UnknownNode)) };
    if let Err(reason) = check_transition(&node, to) {
        return Ok(Err(reason));
    }
    let is_announced = node.suspension.take().is_some();
    if node.state == to {
        if is_announced {
            state.write(Change::PutNode(node));
        }
    } else {
        node.state = to;
        state.write(Change::PutNode(node));
        // While the ledger is restored nothing is added to it.
        if !state.counters()?.rebuilding {
            govern::record(state, &LedgerAct::SetNodeState { node: id, state: to })?;
        }
    }
    Ok(Ok(()))
}

/// Notes how nodes were heard. Unknown nodes are passed over: they may have been forgotten since.
pub(super) fn summarise<F: Facts>(
    state: &mut Overlay<'_, F>,
    nodes: &[NodeSighting],
) -> Result<Verdict<()>, F::Error> {
    let now = state.counters()?.time;
    for sighting in nodes {
        if let Some(mut node) = state.node_by_id(sighting.node)? {
            let heard = sighting.last_seen.map(|heard| heard.min(now));
            let last_seen = heard.map_or(node.last_seen, |heard| heard.max(node.last_seen));
            let before = node.clone();
            (node.last_seen, node.availability) = (last_seen, sighting.availability);
            node.site.addresses.clone_from(&sighting.addresses);
            node.site.origin = sighting.origin;
            if node.site.place() != before.site.place() {
                node.site.since = now;
            }
            if node != before {
                state.write(Change::PutNode(node));
            }
        }
    }
    Ok(Ok(()))
}

/// Where a node is that was seen for the first time.
fn site(seen_at: NodePlace, now: Timestamp) -> NodeSite {
    let addresses = AddressHistory::first_seen_at(seen_at.prefix);
    NodeSite { addresses, origin: seen_at.origin, since: now }
}

fn check_transition(node: &NodeRecord, to: NodeState) -> Verdict<()> {
    use NodeState::{Active, Draining, Gone, Lost, Suspended};
    match (node.state, to) {
        (from, to) if from == to => Ok(()),
        (Gone, _) | (Lost, Active | Suspended | Draining) => Err(RejectReason::NodeRemoved),
        (Active, Suspended | Draining | Lost)
        | (Suspended, Active | Draining | Lost)
        | (Draining, Active | Lost)
        | (Lost, Gone) => Ok(()),
        (Active | Suspended | Draining, Gone) if node.shards == 0 => Ok(()),
        (Active | Suspended | Draining, Gone) => Err(RejectReason::NodeNotEmpty { shards: node.shards }),
        (from, to) => Err(RejectReason::IllegalState { from, to }),
    }
}
