//! Purges: others take the place of bundles that hold a purged key, and then those are erased.
//!
//! Owns: which records leave the archive, and when a bundle leaves it. Always holds: every record of a bundle that is
//! replaced lies in its replacement from the same command on, but for those of purged keys; a bundle is erased only if it
//! was replaced before, and the ledger says so: nodes believe the ledger, not the leader.
//! Leaves to others: whether readers are still at it, and whether others use chunks of it (`plan_purging`); what the
//! replacements hold (whoever packed them, and the leader).

use std::collections::BTreeSet;

use firn_base::{BundleId, BundleNumber, Location, NodeId, ObjectKey};
use firn_bundle::{BundleRole, ContentHeader};
use firn_wire::{
    BundleCommit, IndexEntry, LedgerAct, RecordPlace, RejectReason, ReplacementBundle, SurplusCopy,
};

use super::account::{drop_surplus, release, remove_placement};
use super::{Verdict, commit, govern, reserve, visibility};
use crate::change::Change;
use crate::facts::Facts;
use crate::overlay::Overlay;
use crate::state::{BundleRecord, ErasedRecord, ErasureRecord, NodeNumber, PurgeRecord};
use crate::stay::is_replaced;

/// Begins the purge of a withdrawn key. Says whether there is anything new to do.
pub(super) fn begin<F: Facts>(state: &mut Overlay<'_, F>, key: ObjectKey) -> Result<Verdict<bool>, F::Error> {
    let Some(withdrawn) = state.withdrawn(key)? else { return Ok(Err(RejectReason::NotWithdrawn)) };
    let mut places = withdrawn.places;
    for held in state.held(key)? {
        if !places.contains(&held.location) {
            places.push(held.location);
        }
    }
    let before = state.purge(key)?;
    if before.is_some_and(|before| before.places == places) {
        return Ok(Ok(false));
    }
    let since = state.counters()?.time;
    state.write(Change::PutPurge(PurgeRecord { key, since, places }));
    Ok(Ok(true))
}

/// Lets `replacements` take the place of a bundle, all at once.
pub(super) fn replace<F: Facts>(
    state: &mut Overlay<'_, F>,
    bundle: BundleId,
    left_out: &[(ObjectKey, RecordPlace)],
    replacements: &[ReplacementBundle],
) -> Result<Verdict<()>, F::Error> {
    let Some(old) = state.bundle_by_id(bundle)? else { return Ok(Err(RejectReason::UnknownBundle)) };
    if is_replaced(state, old.number)? {
        return changed("others have taken its place");
    }
    if !accounts_for_all(&old, left_out, replacements) {
        return changed("not every record of it is left out or moved, once each");
    }
    let mut numbers = Vec::with_capacity(replacements.len());
    for replacement in replacements {
        let number = match commit::add(state, &as_commit(replacement), old.externals.clone())? {
            Ok(number) => number,
            Err(reason) => return Ok(Err(reason)),
        };
        // It stands where its first form stood: told again later than that, what refers to a path that was withdrawn since
        // would wait for it.
        if let Some(record) = state.bundle(number)? {
            let (committed_at, ledger_entries) = (old.committed_at, old.ledger_entries);
            state.write(Change::PutBundle(BundleRecord { committed_at, ledger_entries, ..record }));
        }
        numbers.push(number);
    }
    let mut keys: BTreeSet<ObjectKey> = BTreeSet::new();
    for (key, place) in left_out {
        if !leave_out(state, *key, at(old.number, *place))? {
            return changed("a record is left out that no purge wants gone");
        }
        keys.insert(*key);
    }
    for (replacement, number) in replacements.iter().zip(&numbers) {
        for record in &replacement.records {
            let (from, to) = (at(old.number, record.from), at(*number, record.to));
            if !visibility::relocate(state, record.key, from, to)? {
                return changed("a record of it lies elsewhere");
            }
        }
    }
    let keys: Vec<_> = keys.into_iter().collect();
    let mut gone = vec![old.number];
    gone.extend(parts_of(state, &old)?);
    let since = state.counters()?.time;
    for number in gone {
        if let Some(record) = state.bundle(number)? {
            state.write(Change::PutErasure(ErasureRecord {
                bundle: number,
                id: record.id,
                keys: keys.clone(),
                replacements: numbers.clone(),
                since,
                erased: None,
            }));
        }
    }
    // One that held nothing else goes by itself.
    if !replacements.is_empty() {
        govern::record(state, &LedgerAct::Repack { bundle })?;
    }
    Ok(Ok(()))
}

/// Takes a replaced bundle out of the books, and lets the ledger tell nodes to remove every shard of it.
pub(super) fn erase<F: Facts>(
    state: &mut Overlay<'_, F>,
    bundle: BundleId,
    surplus: &[SurplusCopy],
) -> Result<Verdict<()>, F::Error> {
    let Some(mut record) = state.bundle_by_id(bundle)? else { return Ok(Err(RejectReason::UnknownBundle)) };
    let Some(mut erasure) = state.erasure(record.number)?.filter(|erasure| erasure.erased.is_none()) else {
        return changed("nothing has taken its place, or it is erased");
    };
    let mut holders: BTreeSet<NodeNumber> = BTreeSet::new();
    for coding in &mut record.codings {
        for id in state.reservations_of(coding.id)? {
            if let Some(reservation) = state.reservation(id)? {
                holders.extend(reservation.assignments.iter().map(|(_, node)| *node));
                for (index, node) in reserve::end(state, &reservation)? {
                    drop_surplus(state, (reservation.coding, index, node))?;
                }
            }
        }
        for (index, node) in coding.placements.clone() {
            remove_placement(state, coding, index, node)?;
            release(state, node, coding.file_bytes)?;
            holders.insert(node);
        }
    }
    for copy in surplus {
        if state.coding_bundle(copy.coding)? == Some(record.number)
            && let Some(node) = state.node_number(copy.node)?
            && drop_surplus(state, (copy.coding, copy.index, node))?
        {
            holders.insert(node);
        }
    }
    record.codings.clear();
    record.recoding = None;
    let counters = state.counters_mut();
    counters.payload_bytes = counters.payload_bytes.saturating_sub(record.payload_bytes);
    state.write(Change::PutBundle(record));
    let position = govern::record(state, &LedgerAct::Erase { bundle })?;
    let holders: Vec<NodeNumber> = holders.into_iter().collect();
    erasure.erased = Some(ErasedRecord { position, waiting: holders.clone(), holders });
    state.write(Change::PutErasure(erasure));
    Ok(Ok(()))
}

/// Records which nodes have nothing left of erased bundles. What does not fit the state any more is passed over.
pub(super) fn confirm<F: Facts>(
    state: &mut Overlay<'_, F>,
    confirmed: &[(BundleId, NodeId)],
) -> Result<Verdict<()>, F::Error> {
    for (bundle, node) in confirmed {
        let (Some(number), Some(node)) = (state.bundle_number(*bundle)?, state.node_number(*node)?) else {
            continue;
        };
        let Some(mut erasure) = state.erasure(number)? else { continue };
        let Some(erased) = &mut erasure.erased else { continue };
        if let Ok(place) = erased.waiting.binary_search(&node) {
            erased.waiting.remove(place);
            state.write(Change::PutErasure(erasure));
        }
    }
    Ok(Ok(()))
}

fn changed<T, E>(why: &str) -> Result<Verdict<T>, E> {
    Ok(Err(RejectReason::BundleChanged(why.to_owned())))
}

const fn at(bundle: BundleNumber, place: RecordPlace) -> Location {
    Location { bundle, block: place.block, entry: place.entry }
}

/// Whether the records named are as many as the bundle has, each at a place of its own.
fn accounts_for_all(
    old: &BundleRecord,
    left_out: &[(ObjectKey, RecordPlace)],
    replacements: &[ReplacementBundle],
) -> bool {
    let moved = replacements.iter().flat_map(|replacement| &replacement.records).map(|record| record.from);
    let named: Vec<RecordPlace> = left_out.iter().map(|(_, place)| *place).chain(moved).collect();
    let distinct: BTreeSet<RecordPlace> = named.iter().copied().collect();
    named.len() as u64 == old.keys && distinct.len() == named.len()
}

fn as_commit(replacement: &ReplacementBundle) -> BundleCommit {
    let entry = |record: &firn_wire::MovedRecord| IndexEntry {
        key: record.key,
        block: record.to.block,
        entry: record.to.entry,
        // What a record waits for goes with it.
        waits: Vec::new(),
    };
    BundleCommit {
        reservation: replacement.reservation,
        receipts: replacement.receipts.clone(),
        entries: replacement.records.iter().map(entry).collect(),
    }
}

/// Takes a record out of the archive, if a purge wants it gone. Says whether one does.
fn leave_out<F: Facts>(
    state: &mut Overlay<'_, F>,
    key: ObjectKey,
    location: Location,
) -> Result<bool, F::Error> {
    let Some(mut purge) = state.purge(key)?.filter(|purge| purge.places.contains(&location)) else {
        return Ok(false);
    };
    purge.places.retain(|place| *place != location);
    state.write(Change::PutPurge(purge));
    if let Some(mut withdrawn) = state.withdrawn(key)? {
        withdrawn.places.retain(|place| *place != location);
        state.write(Change::PutWithdrawn(withdrawn));
    }
    if let Some(held) = state.held(key)?.into_iter().find(|held| held.location == location) {
        visibility::unhold(state, &held)?;
    }
    Ok(true)
}

/// The parts of a head: they hold nothing but pieces of its one object.
fn parts_of<F: Facts>(state: &Overlay<'_, F>, bundle: &BundleRecord) -> Result<Vec<BundleNumber>, F::Error> {
    let role = |header: &[u8]| ContentHeader::parse(header).ok();
    let Some(head) = role(&bundle.content_header).filter(|header| header.role() == BundleRole::Head) else {
        return Ok(Vec::new());
    };
    let mut parts = Vec::new();
    for id in head.dependencies() {
        if let Some(part) = state.bundle_by_id(*id)?
            && role(&part.content_header).is_some_and(|header| header.role() == BundleRole::Part)
            && state.erasure(part.number)?.is_none()
        {
            parts.push(part.number);
        }
    }
    Ok(parts)
}
