//! Commit: bundles become part of the archive, all of a command or none.
//!
//! Owns: bundle records and numbers. Always holds (invariant 2): a bundle enters with receipts for at least
//! k + ⌈(n-k)/2⌉ distinct shards, from the nodes its reservation named, none of them lost; and with every bundle
//! it depends on. Leaves to others: signatures, manifests and references (`commit_check`).

use std::collections::BTreeSet;

use firn_base::{BundleNumber, Location, ObjectKey, ShardIndex};
use firn_wire::{BundleCommit, CommandOutcome, IndexEntry, RejectReason};

use super::account::{add_placement, drop_surplus};
use super::{Verdict, reserve, visibility};
use crate::change::Change;
use crate::facts::Facts;
use crate::headers::CodedBundle;
use crate::overlay::Overlay;
use crate::state::{BundleRecord, CodingRecord, NodeNumber, ReservationRecord};
use crate::stay::all_stay;

/// Commits `bundles`, in which a head stands behind its parts.
pub(super) fn commit<F: Facts>(
    state: &mut Overlay<'_, F>,
    bundles: &[BundleCommit],
    externals: &[ObjectKey],
) -> Result<Verdict<CommandOutcome>, F::Error> {
    if bundles.is_empty() {
        return Ok(Err(RejectReason::Malformed("a commit of no bundle".into())));
    }
    let mut numbers = Vec::with_capacity(bundles.len());
    let mut entries = Vec::new();
    let mut recorded = visibility::unsatisfied(state, externals)?;
    for (position, bundle) in bundles.iter().enumerate() {
        // Each bundle is added before the next is checked, so that a head finds its parts. A rejection
        // undoes all of them.
        let is_last = position + 1 == bundles.len();
        let external = if is_last { std::mem::take(&mut recorded) } else { Vec::new() };
        let number = match add(state, bundle, external)? {
            Ok(number) => number,
            Err(reason) => return Ok(Err(reason)),
        };
        numbers.push(number);
        entries.extend(
            bundle
                .entries
                .iter()
                .map(|entry| (Location { bundle: number, block: entry.block, entry: entry.entry }, entry)),
        );
    }
    let revealed = visibility::reveal(state, &entries, externals)?;
    Ok(Ok(CommandOutcome::Committed { bundles: numbers, visible: revealed.visible, held: revealed.held }))
}

/// Adds one bundle, whose entries are not in the index yet.
pub(super) fn add<F: Facts>(
    state: &mut Overlay<'_, F>,
    commit: &BundleCommit,
    externals: Vec<ObjectKey>,
) -> Result<Verdict<BundleNumber>, F::Error> {
    let Some(reservation) = state.reservation(commit.reservation)? else {
        return Ok(Err(RejectReason::UnknownReservation));
    };
    if state.bundle_number(reservation.bundle)?.is_some() {
        return Ok(Err(RejectReason::BundleExists));
    }
    if let Err(reason) = check_places(&commit.entries) {
        return Ok(Err(reason));
    }
    let headers = (&reservation.content_header, &reservation.coding_header);
    let coded = match CodedBundle::read(headers.0, headers.1, reservation.scheme.n()) {
        Ok(coded) => coded,
        Err(error) => return Ok(Err(RejectReason::Malformed(error.to_string()))),
    };
    if let Err(reason) = check_dependencies(state, &coded)? {
        return Ok(Err(reason));
    }
    let counted = counted_receipts(state, commit, &reservation)?;
    let distinct: BTreeSet<_> = counted.iter().map(|(index, _)| *index).collect();
    let needed = coded.scheme.commit_threshold();
    if distinct.len() < usize::from(needed) {
        let found = u8::try_from(distinct.len()).unwrap_or(u8::MAX);
        return Ok(Err(RejectReason::TooFewReceipts { found, needed }));
    }
    let number = match take_number(state, &coded)? {
        Ok(number) => number,
        Err(reason) => return Ok(Err(reason)),
    };
    let history = History { keys: commit.entries.len() as u64, externals };
    enter(state, number, &coded, reservation, &counted, history)?;
    Ok(Ok(number))
}

/// What is remembered of a commit beside where its shards are.
struct History {
    keys: u64,
    externals: Vec<ObjectKey>,
}

/// Refuses entries of one bundle of which two lie in one place.
pub(super) fn check_places(entries: &[IndexEntry]) -> Verdict<()> {
    let places: BTreeSet<_> = entries.iter().map(|entry| (entry.block, entry.entry)).collect();
    match places.len() < entries.len() {
        true => Err(RejectReason::Malformed("two keys lie in one place".into())),
        false => Ok(()),
    }
}

/// Refuses a bundle that depends on one that is not there, or not for long.
pub(super) fn check_dependencies<F: Facts>(
    state: &Overlay<'_, F>,
    coded: &CodedBundle,
) -> Result<Verdict<()>, F::Error> {
    // One that is on its way out would have to stay for this bundle's sake.
    Ok(if all_stay(state, &coded.dependencies)? { Ok(()) } else { Err(RejectReason::UnknownDependency) })
}

/// The number of one more bundle, which is counted from here on.
pub(super) fn take_number<F: Facts>(
    state: &mut Overlay<'_, F>,
    coded: &CodedBundle,
) -> Result<Verdict<BundleNumber>, F::Error> {
    let number = BundleNumber(state.counters()?.next_bundle);
    let Some(next) = number.0.checked_add(1) else {
        return Ok(Err(RejectReason::Malformed("the archive's bundle numbers are used up".into())));
    };
    let counters = state.counters_mut();
    counters.next_bundle = next;
    counters.payload_bytes = counters.payload_bytes.saturating_add(coded.payload_bytes);
    Ok(Ok(number))
}

/// Receipts that count: for a shard from the node it was assigned to, which is still of the archive.
fn counted_receipts<F: Facts>(
    state: &Overlay<'_, F>,
    commit: &BundleCommit,
    reservation: &ReservationRecord,
) -> Result<BTreeSet<(ShardIndex, NodeNumber)>, F::Error> {
    let mut counted = BTreeSet::new();
    for (index, id) in &commit.receipts {
        if let Some(node) = state.node_by_id(*id)?
            && node.is_member()
            && reservation.assignments.binary_search(&(*index, node.number)).is_ok()
        {
            counted.insert((*index, node.number));
        }
    }
    Ok(counted)
}

fn enter<F: Facts>(
    state: &mut Overlay<'_, F>,
    number: BundleNumber,
    coded: &CodedBundle,
    mut reservation: ReservationRecord,
    counted: &BTreeSet<(ShardIndex, NodeNumber)>,
    history: History,
) -> Result<(), F::Error> {
    let mut coding = CodingRecord {
        id: coded.coding,
        header: reservation.coding_header.clone(),
        scheme: coded.scheme,
        shard_bytes: coded.shard_bytes,
        file_bytes: coded.file_bytes,
        placements: Vec::with_capacity(counted.len()),
    };
    for (index, node) in counted {
        // Charged since the reservation: the placement takes the charge over.
        drop_surplus(state, (coded.coding, *index, *node))?;
        add_placement(state, &mut coding, *index, *node)?;
    }
    let (committed_at, ledger_entries) = (state.counters()?.time, state.counters()?.ledger.entries);
    state.write(Change::NameBundle(coded.bundle, number));
    state.write(Change::NameCoding(coded.coding, number));
    state.write(Change::PutBundle(BundleRecord {
        number,
        id: coded.bundle,
        content_header: reservation.content_header.clone(),
        payload_bytes: coded.payload_bytes,
        codings: vec![coding],
        recoding: None,
        keys: history.keys,
        uploader: reservation.uploader,
        committed_at,
        ledger_entries,
        externals: history.externals,
    }));
    // What has no receipt yet may still come: the reservation lives on for it.
    reservation.assignments.retain(|assignment| !counted.contains(assignment));
    reservation.committed = Some(number);
    if reservation.assignments.is_empty() {
        reserve::remove(state, &reservation);
    } else {
        state.write(Change::PutReservation(reservation));
    }
    Ok(())
}
