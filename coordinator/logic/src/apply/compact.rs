//! Compaction: full bundles take the place of small ones, with all their records.
//!
//! Owns: which bundles may come together. Always holds: every record of every bundle that goes lies in a new one from
//! the same command on; there are fewer bundles behind it than before, one of them small at most; told again where the
//! last of them stood, an archive comes out the same, for no act lies between them that changes what a commit shows,
//! and no reference that an earlier one of them recorded as external is archived; but where a bundle between them has
//! another record of a key, and nothing but which came first decides what it shows: another one is the first then. From
//! the sixth level on, no bundle that came since the leader looked uses chunks of one that goes, but one that goes with
//! it or that others have taken the place of.
//! Leaves to others: which are worth it and who used them before (`compacting`), erasing what goes (`purge`), what the
//! new ones hold (whoever packed them, and the leader).

use std::collections::{BTreeMap, BTreeSet};

use firn_base::{BundleId, BundleNumber, Location, ObjectKey};
use firn_bundle::{BundleRole, ContentHeader};
use firn_wire::{
    BundleCommit, COMPACTED_BUNDLES_MAX, CompactedBundle, GatheredPlace, GatheredRecord, IndexEntry,
    LedgerAct, RejectReason,
};

use super::{Verdict, commit, govern, visibility};
use crate::bundle_fill::is_small;
use crate::change::Change;
use crate::facts::Facts;
use crate::history::{History, LEDGER_SPAN_MAX, is_turning_point};
use crate::overlay::Overlay;
use crate::state::{BundleRecord, ErasureRecord};
use crate::stay::is_replaced;

/// As [`compact`], if none of the bundles from `looked_to` on uses chunks of one that goes, unless it goes with it or others
/// have taken its place.
pub(super) fn compact_unused<F: Facts>(
    state: &mut Overlay<'_, F>,
    bundles: &[BundleId],
    into: &[CompactedBundle],
    looked_to: BundleNumber,
) -> Result<Verdict<()>, F::Error> {
    let next = state.counters()?.next_bundle;
    if next.saturating_sub(looked_to.0) > NEWCOMERS_MAX {
        return changed("too many bundles came while it was prepared");
    }
    let going: BTreeSet<&BundleId> = bundles.iter().collect();
    for number in looked_to.0..next {
        let number = BundleNumber(number);
        let Some(newcomer) = state.bundle(number)? else { continue };
        // Nothing is read of it any more, as of others that the leader's look leaves out.
        if is_replaced(state, number)? {
            continue;
        }
        let header = ContentHeader::parse(&newcomer.content_header);
        let uses_some =
            header.is_ok_and(|header| header.dependencies().iter().any(|named| going.contains(named)));
        if uses_some && !going.contains(&newcomer.id) {
            return changed("another bundle has come to use chunks of one of them");
        }
    }
    compact(state, bundles, into)
}

/// Bundles that one command reads for who uses others: some hundred come in the minute that checking what was sent may take.
const NEWCOMERS_MAX: u32 = 4_096;

/// Lets the bundles of `into` take the place of `bundles`, all at once.
pub(super) fn compact<F: Facts>(
    state: &mut Overlay<'_, F>,
    bundles: &[BundleId],
    into: &[CompactedBundle],
) -> Result<Verdict<()>, F::Error> {
    let going = match read_going(state, bundles, into.len())? {
        Ok(going) => going,
        Err(reason) => return Ok(Err(reason)),
    };
    if let Err(reason) = check_records(state, &going, into)? {
        return Ok(Err(reason));
    }
    let standing = match common_place(state, &going)? {
        Ok(standing) => standing,
        Err(reason) => return Ok(Err(reason)),
    };
    let mut numbers = Vec::with_capacity(into.len());
    for (position, bundle) in into.iter().enumerate() {
        let number = match commit::add(state, &as_commit(bundle), standing.externals.clone())? {
            Ok(number) => number,
            Err(reason) => return Ok(Err(reason)),
        };
        let Some(record) = state.bundle(number)? else { return changed("a new bundle is not there") };
        let Ok(header) = ContentHeader::parse(&record.content_header) else {
            return changed("a new bundle has no header");
        };
        if header.role() != BundleRole::Ordinary {
            return changed("a new bundle is a head or a part of a large object");
        }
        if header.dependencies().iter().any(|named| bundles.contains(named)) {
            return changed("a new bundle uses chunks of one that goes");
        }
        // Or the same bytes would be packed anew each time a little comes.
        if position + 1 < into.len() && is_small(record.payload_bytes, record.keys) {
            return changed("a new bundle is small, and not the last one");
        }
        let History { committed_at, ledger_entries } = standing.history;
        state.write(Change::PutBundle(BundleRecord { committed_at, ledger_entries, ..record }));
        numbers.push(number);
    }
    for (bundle, number) in into.iter().zip(&numbers) {
        for GatheredRecord { key, from, to } in &bundle.records {
            let Some(from) = location(&going, *from) else {
                return changed("a record comes from none of the bundles that go");
            };
            let to = Location { bundle: *number, block: to.block, entry: to.entry };
            if !visibility::relocate(state, *key, from, to)? {
                return changed("a record of one lies elsewhere");
            }
        }
    }
    let since = state.counters()?.time;
    for old in &going {
        state.write(Change::PutErasure(ErasureRecord {
            bundle: old.number,
            id: old.id,
            keys: Vec::new(),
            replacements: numbers.clone(),
            since,
            erased: None,
        }));
        govern::record(state, &LedgerAct::Repack { bundle: old.id })?;
    }
    Ok(Ok(()))
}

/// The place of the new bundles in the history, and the references that those which go recorded as external; sorted.
struct Standing {
    history: History,
    externals: Vec<ObjectKey>,
}

fn changed<T, E>(why: &str) -> Result<Verdict<T>, E> {
    Ok(Err(RejectReason::BundleChanged(why.to_owned())))
}

/// The bundles that go, if each of them may.
fn read_going<F: Facts>(
    state: &Overlay<'_, F>,
    bundles: &[BundleId],
    into: usize,
) -> Result<Verdict<Vec<BundleRecord>>, F::Error> {
    let distinct: BTreeSet<&BundleId> = bundles.iter().collect();
    if distinct.len() < bundles.len() || bundles.len() > COMPACTED_BUNDLES_MAX {
        let why = format!("a compaction names at most {COMPACTED_BUNDLES_MAX} bundles, each once");
        return Ok(Err(RejectReason::Malformed(why)));
    }
    if into == 0 || into >= bundles.len() {
        return Ok(Err(RejectReason::Malformed("a compaction leaves fewer bundles than there were".into())));
    }
    let mut going = Vec::with_capacity(bundles.len());
    for id in bundles {
        let Some(record) = state.bundle_by_id(*id)? else { return Ok(Err(RejectReason::UnknownBundle)) };
        if is_replaced(state, record.number)? {
            return changed("others have taken the place of one");
        }
        let header = ContentHeader::parse(&record.content_header);
        if !header.is_ok_and(|header| header.role() == BundleRole::Ordinary) {
            return changed("one of them is a head or a part of a large object");
        }
        going.push(record);
    }
    Ok(Ok(going))
}

/// Refuses records that are not all of those of the bundles that go, once each, and any that a purge wants gone.
fn check_records<F: Facts>(
    state: &Overlay<'_, F>,
    going: &[BundleRecord],
    into: &[CompactedBundle],
) -> Result<Verdict<()>, F::Error> {
    let records = || into.iter().flat_map(|bundle| &bundle.records);
    let places: BTreeSet<GatheredPlace> = records().map(|record| record.from).collect();
    let mut counts: BTreeMap<u16, u64> = BTreeMap::new();
    places.iter().for_each(|from| *counts.entry(from.bundle).or_default() += 1);
    let is_whole =
        |(number, old): (u16, &BundleRecord)| counts.get(&number).copied().unwrap_or(0) == old.keys;
    let named = (0..=u16::MAX).zip(going);
    if places.len() != records().count() || counts.len() > going.len() || !named.clone().all(is_whole) {
        return changed("not every record of them is moved, once each");
    }
    for record in records() {
        let Some(from) = location(going, record.from) else {
            return changed("a record comes from none of the bundles that go");
        };
        if state.purge(record.key)?.is_some_and(|purge| purge.places.contains(&from)) {
            return changed("a purge wants a record of one gone: `firn repack` comes first");
        }
    }
    Ok(Ok(()))
}

/// Where the new bundles stand in the history, if an archive that is told again comes out the same with them there.
fn common_place<F: Facts>(
    state: &Overlay<'_, F>,
    going: &[BundleRecord],
) -> Result<Verdict<Standing>, F::Error> {
    let Some(last) = going.iter().max_by_key(|record| History::order(record)) else {
        return Ok(Err(RejectReason::Malformed("a compaction of no bundle".into())));
    };
    let history = History::of(last);
    let first = going.iter().map(|record| record.ledger_entries).min().unwrap_or(history.ledger_entries);
    if history.ledger_entries.saturating_sub(first) > LEDGER_SPAN_MAX {
        return changed("too many acts of the ledger lie between them");
    }
    for position in first..history.ledger_entries {
        let Some(entry) = state.ledger_entry(position)? else {
            return changed("the ledger lacks an act that lies between them");
        };
        if is_turning_point(&entry.act) {
            return changed("a withdrawal, reinstatement or purge lies between them");
        }
    }
    let mut externals: BTreeSet<ObjectKey> = BTreeSet::new();
    for record in going {
        for key in &record.externals {
            // Told again behind what brought it, it would be no external reference any more.
            if record.number != last.number && state.is_archived(*key)? {
                return changed("a reference that an earlier one of them recorded as external is archived");
            }
            externals.insert(*key);
        }
    }
    Ok(Ok(Standing { history, externals: externals.into_iter().collect() }))
}

fn location(going: &[BundleRecord], from: GatheredPlace) -> Option<Location> {
    let bundle: BundleNumber = going.get(usize::from(from.bundle))?.number;
    Some(Location { bundle, block: from.place.block, entry: from.place.entry })
}

fn as_commit(bundle: &CompactedBundle) -> BundleCommit {
    let entry = |record: &GatheredRecord| IndexEntry {
        key: record.key,
        block: record.to.block,
        entry: record.to.entry,
        // What a record waits for goes with it.
        waits: Vec::new(),
    };
    BundleCommit {
        reservation: bundle.reservation,
        receipts: bundle.receipts.clone(),
        entries: bundle.records.iter().map(entry).collect(),
    }
}
