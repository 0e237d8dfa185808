//! Which keys can be read: entries of a commit appear at once or wait for their references.
//!
//! Owns: the index, held records, external references and the feed. Always holds (invariant 1): a key becomes
//! visible only when every reference of its record is visible or external, and each key that becomes visible
//! releases those that waited for it in the same command. A withdrawn key is not visible, whatever is
//! committed, until it is reinstated.
//! Leaves to others: which references a record has (`commit_check`).

use std::collections::{BTreeSet, VecDeque};

use firn_base::{Location, ObjectKey};
use firn_wire::IndexEntry;

use crate::change::Change;
use crate::facts::Facts;
use crate::feed_chain;
use crate::overlay::Overlay;
use crate::state::{FeedRecord, HeldRecord, WithdrawnRecord};

/// What a commit did to keys.
pub(super) struct Revealed {
    /// Keys that became visible, of this and of earlier commits.
    pub(super) visible: u64,
    /// Keys of this commit that cannot be read yet.
    pub(super) held: Vec<ObjectKey>,
}

/// Takes in the entries of a commit, each with its place, and the references that are external from now on.
pub(super) fn reveal<F: Facts>(
    state: &mut Overlay<'_, F>,
    entries: &[(Location, &IndexEntry)],
    externals: &[ObjectKey],
) -> Result<Revealed, F::Error> {
    let mut fresh = VecDeque::new();
    let visible_before = state.counters()?.visible_keys;
    for key in externals {
        if !state.is_satisfied(*key)? {
            state.write(Change::PutExternal(*key));
            state.counters_mut().externals += 1;
            fresh.push_back(*key);
        }
    }
    // Entries that wait for nothing come first: others of the same commit may refer to them.
    for (location, entry) in entries.iter().filter(|(_, entry)| entry.waits.is_empty()) {
        show(state, entry.key, *location, &mut fresh)?;
    }
    let mut waiting = BTreeSet::new();
    for (location, entry) in entries.iter().filter(|(_, entry)| !entry.waits.is_empty()) {
        let mut waits = BTreeSet::new();
        for awaited in &entry.waits {
            // The leader saw an earlier state: what it waited for may have appeared since.
            if *awaited != entry.key && !state.is_satisfied(*awaited)? {
                waits.insert(*awaited);
            }
        }
        if waits.is_empty() {
            show(state, entry.key, *location, &mut fresh)?;
        } else {
            hold(state, entry.key, *location, waits);
            waiting.insert(entry.key);
        }
    }
    cascade(state, fresh)?;
    let mut held = Vec::new();
    for key in waiting {
        if state.location(key)?.is_none() {
            held.push(key);
        }
    }
    Ok(Revealed { visible: state.counters()?.visible_keys - visible_before, held })
}

/// Which of `externals` are neither visible nor recorded yet; sorted.
pub(super) fn unsatisfied<F: Facts>(
    state: &Overlay<'_, F>,
    externals: &[ObjectKey],
) -> Result<Vec<ObjectKey>, F::Error> {
    let mut found = BTreeSet::new();
    for key in externals {
        if !state.is_satisfied(*key)? {
            found.insert(*key);
        }
    }
    Ok(found.into_iter().collect())
}

/// Makes a withdrawn key visible again, if a record of it can be read.
pub(super) fn reinstate<F: Facts>(
    state: &mut Overlay<'_, F>,
    record: &WithdrawnRecord,
) -> Result<(), F::Error> {
    state.write(Change::RemoveWithdrawn(record.key));
    let counters = state.counters_mut();
    counters.withdrawn = counters.withdrawn.saturating_sub(1);
    let mut fresh = VecDeque::new();
    for place in &record.places {
        show(state, record.key, *place, &mut fresh)?;
    }
    cascade(state, fresh)
}

/// A record of a key lies in another bundle from now on. Says whether it lay where it is said to come from.
///
/// The key stays what it is: visible at no fewer places, withdrawn, or held.
pub(super) fn relocate<F: Facts>(
    state: &mut Overlay<'_, F>,
    key: ObjectKey,
    from: Location,
    to: Location,
) -> Result<bool, F::Error> {
    if let Some(mut purge) = state.purge(key)?
        && replace_in(&mut purge.places, from, to)
    {
        // Asked for while the bundle was being packed anew: it has to be packed once more.
        state.write(Change::PutPurge(purge));
    }
    if let Some(mut withdrawn) = state.withdrawn(key)?
        && replace_in(&mut withdrawn.places, from, to)
    {
        state.write(Change::PutWithdrawn(withdrawn));
        return Ok(true);
    }
    if state.location(key)? == Some(from) {
        append_to_feed(state, FeedRecord::Moved { key, location: to });
        return Ok(true);
    }
    if state.variants(key)?.contains(&from) {
        state.write(Change::RemoveVariant(key, from));
        state.write(Change::PutVariant(key, to));
        return Ok(true);
    }
    let Some(held) = state.held(key)?.into_iter().find(|held| held.location == from) else {
        return Ok(false);
    };
    unhold(state, &held)?;
    hold(state, key, to, held.waits.into_iter().collect());
    Ok(true)
}

fn replace_in(places: &mut [Location], from: Location, to: Location) -> bool {
    let place = places.iter_mut().find(|place| **place == from);
    place.map(|place| *place = to).is_some()
}

/// Forgets a held record and what it waits for.
pub(super) fn unhold<F: Facts>(state: &mut Overlay<'_, F>, record: &HeldRecord) -> Result<(), F::Error> {
    let HeldRecord { key, location, waits } = record;
    for awaited in waits {
        state.write(Change::RemoveWaiter { awaited: *awaited, key: *key, location: *location });
    }
    state.write(Change::RemoveHeld(*key, *location));
    let counters = state.counters_mut();
    counters.held_records = counters.held_records.saturating_sub(1);
    Ok(())
}

/// Appends one record, with which its key appears or vanishes.
pub(super) fn append_to_feed<F: Facts>(state: &mut Overlay<'_, F>, record: FeedRecord) {
    let counters = state.counters_mut();
    let position = counters.feed_head;
    counters.feed_head += 1;
    counters.feed_digest = feed_chain::behind(counters.feed_digest, record.event());
    state.write(Change::PutFeed(position, record));
}

fn hold<F: Facts>(
    state: &mut Overlay<'_, F>,
    key: ObjectKey,
    location: Location,
    waits: BTreeSet<ObjectKey>,
) {
    for awaited in &waits {
        state.write(Change::PutWaiter { awaited: *awaited, key, location });
    }
    state.write(Change::PutHeld(HeldRecord { key, location, waits: waits.into_iter().collect() }));
    state.counters_mut().held_records += 1;
}

/// Makes a record readable: the first of its key makes the key visible, later ones are variants beside it. A record of
/// a withdrawn key is kept for the day when that is reinstated.
fn show<F: Facts>(
    state: &mut Overlay<'_, F>,
    key: ObjectKey,
    location: Location,
    fresh: &mut VecDeque<ObjectKey>,
) -> Result<(), F::Error> {
    if let Some(mut record) = state.withdrawn(key)? {
        if !record.places.contains(&location) {
            record.places.push(location);
            state.write(Change::PutWithdrawn(record));
        }
        return Ok(());
    }
    match state.location(key)? {
        None => {
            state.counters_mut().visible_keys += 1;
            append_to_feed(state, FeedRecord::Visible { key, location });
            fresh.push_back(key);
        }
        Some(first) if first == location => {}
        Some(_) => state.write(Change::PutVariant(key, location)),
    }
    Ok(())
}

/// Releases what waited for `fresh` keys, and what waited for those.
fn cascade<F: Facts>(state: &mut Overlay<'_, F>, mut fresh: VecDeque<ObjectKey>) -> Result<(), F::Error> {
    while let Some(awaited) = fresh.pop_front() {
        // Waiters exist only while records are held; most commits find none and need no scan.
        if state.counters()?.held_records == 0 {
            return Ok(());
        }
        for (key, location) in state.waiters(awaited)? {
            state.write(Change::RemoveWaiter { awaited, key, location });
            let Some(mut record) = state.held(key)?.into_iter().find(|record| record.location == location)
            else {
                continue;
            };
            record.waits.retain(|wait| *wait != awaited);
            if record.waits.is_empty() {
                unhold(state, &record)?;
                show(state, key, location, &mut fresh)?;
            } else {
                state.write(Change::PutHeld(record));
            }
        }
    }
    Ok(())
}
