//! What became of shards after the commit: late receipts, repairs, moves, losses, trash, strays.
//!
//! Owns: placements of committed bundles. Always holds: a shard leaves its old home only when the same index is
//! placed elsewhere (invariant 5); a shard that would break the domain caps is recorded as surplus, not placed
//! (invariant 3). Changes that no longer fit the state are passed over: the leader saw an earlier one.
//! Leaves to others: receipts and proofs behind the changes (the leader).

use std::time::Duration;

use firn_base::{CodingId, Scheme, ShardIndex, Timestamp};
use firn_wire::{PlacementChange, Policy};

use super::Verdict;
use super::account::{add_placement, add_surplus, charge, drop_surplus, release, remove_placement};
use super::reserve::take_assignment;
use crate::caps::{Caps, n_most};
use crate::change::Change;
use crate::facts::Facts;
use crate::names::NameTable;
use crate::overlay::Overlay;
use crate::state::{BundleRecord, CodingRecord, NodeRecord};
use crate::taken::Taken;

/// Records what became of shards, in the given order.
pub(super) fn record<F: Facts>(
    state: &mut Overlay<'_, F>,
    changes: &[PlacementChange],
) -> Result<Verdict<()>, F::Error> {
    for change in changes {
        let (PlacementChange::Placed { coding, index, node }
        | PlacementChange::Missing { coding, index, node }
        | PlacementChange::Retired { coding, index, node }
        | PlacementChange::Trashed { coding, index, node }
        | PlacementChange::Stray { coding, index, node }) = change;
        let Some(node) = state.node_by_id(*node)? else { continue };
        let copy = (*coding, *index, node.number);
        if matches!(change, PlacementChange::Trashed { .. }) {
            // Only the surplus record goes: if the shard was placed there again, that stands.
            drop_surplus(state, copy)?;
            continue;
        }
        let Some((mut bundle, position)) = coded_bundle(state, *coding)? else { continue };
        let of_coding = &mut bundle.codings[position];
        match change {
            PlacementChange::Placed { .. } => placed(state, of_coding, *index, &node)?,
            PlacementChange::Missing { .. } => missing(state, of_coding, *index, &node)?,
            PlacementChange::Retired { .. } => retired(state, of_coding, *index, &node)?,
            PlacementChange::Stray { .. } => stray(state, of_coding, *index, &node)?,
            PlacementChange::Trashed { .. } => {}
        }
        state.write(Change::PutBundle(bundle));
    }
    Ok(Ok(()))
}

fn coded_bundle<F: Facts>(
    state: &Overlay<'_, F>,
    coding: CodingId,
) -> Result<Option<(BundleRecord, usize)>, F::Error> {
    let Some(number) = state.coding_bundle(coding)? else { return Ok(None) };
    let Some(bundle) = state.bundle(number)? else { return Ok(None) };
    let position = bundle.codings.iter().position(|own| own.id == coding);
    Ok(position.map(|position| (bundle, position)))
}

fn placed<F: Facts>(
    state: &mut Overlay<'_, F>,
    coding: &mut CodingRecord,
    index: ShardIndex,
    node: &NodeRecord,
) -> Result<(), F::Error> {
    let n_max = Scheme::n_max(coding.scheme.k()).unwrap_or(coding.scheme.n());
    if !node.is_member() || index.0 >= n_max {
        return Ok(());
    }
    let copy = (coding.id, index, node.number);
    // The placement is charged; what the copy was charged for as surplus or assignment is given back.
    if coding.placements.binary_search(&(index, node.number)).is_err() {
        charge(state, node.number, coding.file_bytes)?;
        if breaks_caps(state, coding, index, node)? {
            add_surplus(state, copy, coding.file_bytes)?;
        } else {
            drop_surplus(state, copy)?;
            add_placement(state, coding, index, node.number)?;
            if let Ok(grown) = Scheme::new(coding.scheme.k(), index.0.saturating_add(1))
                && grown.n() > coding.scheme.n()
            {
                coding.scheme = grown;
            }
        }
    }
    for id in state.reservations_of(coding.id)? {
        if let Some(reservation) = state.reservation(id)? {
            let file_bytes = reservation.file_bytes;
            // A reservation that is still to be committed keeps its assignment, and with it its charge.
            if reservation.committed.is_some() && take_assignment(state, reservation, index, node.number) {
                release(state, node.number, file_bytes)?;
            }
        }
    }
    Ok(())
}

fn missing<F: Facts>(
    state: &mut Overlay<'_, F>,
    coding: &mut CodingRecord,
    index: ShardIndex,
    node: &NodeRecord,
) -> Result<(), F::Error> {
    if remove_placement(state, coding, index, node.number)? {
        release(state, node.number, coding.file_bytes)?;
    } else {
        drop_surplus(state, (coding.id, index, node.number))?;
    }
    Ok(())
}

fn retired<F: Facts>(
    state: &mut Overlay<'_, F>,
    coding: &mut CodingRecord,
    index: ShardIndex,
    node: &NodeRecord,
) -> Result<(), F::Error> {
    if !node.is_member() {
        return missing(state, coding, index, node);
    }
    let mut has_another_home = false;
    for (_, other) in coding.placements.iter().filter(|(own, at)| *own == index && *at != node.number) {
        has_another_home |= state.node(*other)?.is_some_and(|other| other.is_member());
    }
    if has_another_home && remove_placement(state, coding, index, node.number)? {
        add_surplus(state, (coding.id, index, node.number), coding.file_bytes)?;
    }
    Ok(())
}

fn stray<F: Facts>(
    state: &mut Overlay<'_, F>,
    coding: &CodingRecord,
    index: ShardIndex,
    node: &NodeRecord,
) -> Result<(), F::Error> {
    let n_max = Scheme::n_max(coding.scheme.k()).unwrap_or(coding.scheme.n());
    let is_placed = coding.placements.binary_search(&(index, node.number)).is_ok();
    if node.is_member() && index.0 < n_max && !is_placed {
        charge(state, node.number, coding.file_bytes)?;
        add_surplus(state, (coding.id, index, node.number), coding.file_bytes)?;
    }
    Ok(())
}

/// Whether other indexes of the coding that count leave the node no shard.
///
/// A holder that is offline for longer than the policy allows counts no more: its shards are made anew, and
/// those may lie in its domain. (What the node itself holds counts in any case: it has just been heard, whatever
/// the last summary says.) The same index twice in a domain is a move within it and concentrates nothing.
fn breaks_caps<F: Facts>(
    state: &Overlay<'_, F>,
    coding: &CodingRecord,
    index: ShardIndex,
    node: &NodeRecord,
) -> Result<bool, F::Error> {
    let policy = state.policy_or_default()?;
    let now = state.counters()?.time;
    let mut names = NameTable::new();
    let mut taken = Taken::new(Caps::of_any_fleet(&policy), n_most(coding.scheme));
    for (_, holder) in coding.placements.iter().filter(|(other, _)| *other != index) {
        if let Some(holder) =
            state.node(*holder)?.filter(|holder| holder.number == node.number || counts(holder, &policy, now))
        {
            taken.take(&names.names(&holder));
        }
    }
    Ok(!taken.leaves(&names.names(node)))
}

fn counts(holder: &NodeRecord, policy: &Policy, now: Timestamp) -> bool {
    holder.counts_at(holder.last_seen, Duration::from_millis(policy.count_lost_after_millis), now)
}
