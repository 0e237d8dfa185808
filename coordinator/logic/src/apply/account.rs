//! The account of bytes: what placements, reservations and surplus copies take of each node's quota.
//!
//! Owns: charging and releasing. Always holds: a node's assigned bytes are the file bytes of its placements,
//! open assignments and surplus copies together; a copy that goes from one to another takes its charge along.
//! Leaves to others: when a copy goes from one to another.

use firn_base::{CodingId, ShardIndex};

use crate::change::Change;
use crate::facts::Facts;
use crate::overlay::Overlay;
use crate::state::{CodingRecord, NodeNumber, SurplusRecord};

/// Changes a node's record, if it exists.
pub(super) fn change_node<F: Facts>(
    state: &mut Overlay<'_, F>,
    node: NodeNumber,
    change: impl FnOnce(&mut crate::state::NodeRecord),
) -> Result<(), F::Error> {
    if let Some(mut record) = state.node(node)? {
        change(&mut record);
        state.write(Change::PutNode(record));
    }
    Ok(())
}

/// Charges `bytes` to a node.
pub(super) fn charge<F: Facts>(
    state: &mut Overlay<'_, F>,
    node: NodeNumber,
    bytes: u64,
) -> Result<(), F::Error> {
    change_node(state, node, |record| record.assigned_bytes = record.assigned_bytes.saturating_add(bytes))
}

/// Gives `bytes` back to a node.
pub(super) fn release<F: Facts>(
    state: &mut Overlay<'_, F>,
    node: NodeNumber,
    bytes: u64,
) -> Result<(), F::Error> {
    change_node(state, node, |record| record.assigned_bytes = record.assigned_bytes.saturating_sub(bytes))
}

/// Adds a placement whose bytes are charged already.
pub(super) fn add_placement<F: Facts>(
    state: &mut Overlay<'_, F>,
    coding: &mut CodingRecord,
    index: ShardIndex,
    node: NodeNumber,
) -> Result<(), F::Error> {
    let Err(position) = coding.placements.binary_search(&(index, node)) else { return Ok(()) };
    coding.placements.insert(position, (index, node));
    let counters = state.counters_mut();
    counters.stored_bytes = counters.stored_bytes.saturating_add(coding.file_bytes);
    change_node(state, node, |record| record.shards = record.shards.saturating_add(1))
}

/// Takes a placement away, its bytes still charged. Says whether it was there.
pub(super) fn remove_placement<F: Facts>(
    state: &mut Overlay<'_, F>,
    coding: &mut CodingRecord,
    index: ShardIndex,
    node: NodeNumber,
) -> Result<bool, F::Error> {
    let Ok(position) = coding.placements.binary_search(&(index, node)) else { return Ok(false) };
    coding.placements.remove(position);
    let counters = state.counters_mut();
    counters.stored_bytes = counters.stored_bytes.saturating_sub(coding.file_bytes);
    change_node(state, node, |record| record.shards = record.shards.saturating_sub(1))?;
    Ok(true)
}

/// Makes a charged copy surplus; if one is recorded there already, the second charge is given back.
pub(super) fn add_surplus<F: Facts>(
    state: &mut Overlay<'_, F>,
    (coding, index, node): (CodingId, ShardIndex, NodeNumber),
    file_bytes: u64,
) -> Result<(), F::Error> {
    if state.surplus(node, coding, index)?.is_some() {
        return release(state, node, file_bytes);
    }
    let since = state.counters()?.time;
    state.write(Change::PutSurplus(SurplusRecord { node, coding, index, file_bytes, since }));
    Ok(())
}

/// Forgets a surplus copy and gives its bytes back. Says whether there was one.
pub(super) fn drop_surplus<F: Facts>(
    state: &mut Overlay<'_, F>,
    (coding, index, node): (CodingId, ShardIndex, NodeNumber),
) -> Result<bool, F::Error> {
    let Some(record) = state.surplus(node, coding, index)? else { return Ok(false) };
    state.write(Change::RemoveSurplus(node, coding, index));
    release(state, node, record.file_bytes)?;
    Ok(true)
}
