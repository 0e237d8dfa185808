//! Reservations: space for one coded bundle on named nodes, until it is used or ended.
//!
//! Owns: opening and ending them. Always holds: a reservation's assignments keep the domain caps (invariant 3)
//! and fit into free quotas; what an ended one leaves behind is surplus until it is trashed, unless the copy
//! counts otherwise. Leaves to others: choosing the nodes (`placement`), using it (`commit`).

use firn_base::{CodingId, NodeId, PublicKey, ReservationId, ShardIndex, Timestamp};
use firn_wire::{NodeState, RejectReason};

use super::Verdict;
use super::account::{add_surplus, charge, drop_surplus, release};
use crate::caps::{Caps, n_most};
use crate::change::Change;
use crate::facts::Facts;
use crate::headers::CodedBundle;
use crate::names::NameTable;
use crate::overlay::Overlay;
use crate::state::{NodeNumber, NodeRecord, ReservationRecord};
use crate::taken::Taken;

/// What the leader decided to set aside.
pub(super) struct WantedReservation<'a> {
    pub(super) id: ReservationId,
    pub(super) uploader: PublicKey,
    pub(super) content_header: &'a [u8],
    pub(super) coding_header: &'a [u8],
    pub(super) n: u8,
    pub(super) assignments: &'a [(ShardIndex, NodeId)],
    pub(super) expires: Timestamp,
}

fn malformed<T, E>(why: impl Into<String>) -> Result<Verdict<T>, E> {
    Ok(Err(RejectReason::Malformed(why.into())))
}

/// Opens a reservation.
pub(super) fn reserve<F: Facts>(
    state: &mut Overlay<'_, F>,
    wanted: &WantedReservation<'_>,
) -> Result<Verdict<()>, F::Error> {
    if state.reservation(wanted.id)?.is_some() {
        return Ok(Err(RejectReason::ReservationExists));
    }
    let coded = match CodedBundle::read(wanted.content_header, wanted.coding_header, wanted.n) {
        Ok(coded) => coded,
        Err(error) => return malformed(error.to_string()),
    };
    if let Some(known) = state.bundle_by_id(coded.bundle)? {
        let is_erased = known.codings.is_empty();
        return Ok(Err(if is_erased { RejectReason::BundleErased } else { RejectReason::BundleExists }));
    }
    let nodes = match assigned_nodes(state, wanted, &coded)? {
        Ok(nodes) => nodes,
        Err(reason) => return Ok(Err(reason)),
    };
    if nodes.len() < usize::from(coded.scheme.commit_threshold()) {
        return malformed("fewer shards are assigned than a commit needs");
    }
    let mut assignments: Vec<(ShardIndex, NodeNumber)> =
        nodes.iter().map(|(index, node)| (*index, node.number)).collect();
    assignments.sort_unstable();
    for (index, node) in &assignments {
        // An abandoned upload of the same bundle may have left the same shard there: it is wanted again.
        drop_surplus(state, (coded.coding, *index, *node))?;
        charge(state, *node, coded.file_bytes)?;
    }
    state.write(Change::PutReservationOf(coded.coding, wanted.id));
    state.write(Change::PutReservation(ReservationRecord {
        id: wanted.id,
        uploader: wanted.uploader,
        bundle: coded.bundle,
        content_header: wanted.content_header.to_vec(),
        coding: coded.coding,
        coding_header: wanted.coding_header.to_vec(),
        scheme: coded.scheme,
        shard_bytes: coded.shard_bytes,
        file_bytes: coded.file_bytes,
        assignments,
        expires: wanted.expires,
        committed: None,
    }));
    Ok(Ok(()))
}

fn assigned_nodes<F: Facts>(
    state: &Overlay<'_, F>,
    wanted: &WantedReservation<'_>,
    coded: &CodedBundle,
) -> Result<Verdict<Vec<(ShardIndex, NodeRecord)>>, F::Error> {
    let caps = Caps::of_any_fleet(&state.policy_or_default()?);
    let (mut names, mut taken) = (NameTable::new(), Taken::new(caps, n_most(coded.scheme)));
    let mut nodes: Vec<(ShardIndex, NodeRecord)> = Vec::new();
    for (index, id) in wanted.assignments {
        if index.0 >= wanted.n {
            return malformed("a shard is assigned that the scheme does not have");
        }
        let Some(node) = state.node_by_id(*id)? else { return Ok(Err(RejectReason::UnknownNode)) };
        if node.state != NodeState::Active {
            return malformed(format!("node {} takes no new shards: it is {}", id.short(), node.state));
        }
        if node.free_bytes() < coded.file_bytes {
            return Ok(Err(RejectReason::NoRoom(id.short())));
        }
        if nodes.iter().any(|(taken, _)| taken == index) {
            return malformed("a shard is assigned twice");
        }
        // Two shards on one node share its domain, so this also keeps nodes distinct.
        let names = names.names(&node);
        if let Some(cap) = taken.kept_by(&names).next() {
            return malformed(format!("more shards are assigned to one {cap} than may lie there"));
        }
        taken.take(&names);
        nodes.push((*index, node));
    }
    Ok(Ok(nodes))
}

/// Ends reservations; unknown ones have ended already.
pub(super) fn end_all<F: Facts>(
    state: &mut Overlay<'_, F>,
    ids: &[ReservationId],
) -> Result<Verdict<()>, F::Error> {
    for id in ids {
        if let Some(record) = state.reservation(*id)? {
            end(state, &record)?;
        }
    }
    Ok(Ok(()))
}

/// Removes a reservation's records.
pub(super) fn remove<F: Facts>(state: &mut Overlay<'_, F>, record: &ReservationRecord) {
    state.write(Change::RemoveReservation(record.id));
    state.write(Change::RemoveReservationOf(record.coding, record.id));
}

/// Takes an assignment out of a reservation because its shard counts otherwise now; the last one ends it once
/// the bundle is committed. The charge stays. Says whether the assignment was there.
pub(super) fn take_assignment<F: Facts>(
    state: &mut Overlay<'_, F>,
    mut record: ReservationRecord,
    index: ShardIndex,
    node: NodeNumber,
) -> bool {
    let Ok(position) = record.assignments.binary_search(&(index, node)) else { return false };
    record.assignments.remove(position);
    if record.assignments.is_empty() && record.committed.is_some() {
        remove(state, &record);
    } else {
        state.write(Change::PutReservation(record));
    }
    true
}

/// Ends one reservation: each node may hold the shard it was to take, so each copy that nothing else counts
/// becomes surplus, to be trashed by order. Gives those copies.
pub(super) fn end<F: Facts>(
    state: &mut Overlay<'_, F>,
    record: &ReservationRecord,
) -> Result<Vec<(ShardIndex, NodeNumber)>, F::Error> {
    remove(state, record);
    let mut left = Vec::new();
    for (index, node) in &record.assignments {
        let member = state.node(*node)?.is_some_and(|node| node.is_member());
        if member && !counts_otherwise(state, record.coding, *index, *node)? {
            add_surplus(state, (record.coding, *index, *node), record.file_bytes)?;
            left.push((*index, *node));
        } else {
            release(state, *node, record.file_bytes)?;
        }
    }
    Ok(left)
}

/// Whether the copy is placed, or another reservation will have it.
fn counts_otherwise<F: Facts>(
    state: &Overlay<'_, F>,
    coding: CodingId,
    index: ShardIndex,
    node: NodeNumber,
) -> Result<bool, F::Error> {
    if let Some(number) = state.coding_bundle(coding)?
        && let Some(bundle) = state.bundle(number)?
    {
        let mut own = bundle.codings.iter().filter(|own| own.id == coding);
        if own.any(|own| own.placements.binary_search(&(index, node)).is_ok()) {
            return Ok(true);
        }
    }
    for id in state.reservations_of(coding)? {
        if let Some(other) = state.reservation(id)?
            && other.assignments.binary_search(&(index, node)).is_ok()
        {
            return Ok(true);
        }
    }
    Ok(false)
}
