//! Purges under way: which bundles are replaced by nothing, which are erased, who has done it, and what to tell of it.
//!
//! Owns: when the shards of a replaced bundle may go. Always holds: none goes before readers have learnt where its paths
//! lie now, before its replacements have as many durable shards as a commit needs, and as long as others use chunks of it;
//! a node counts as free of a bundle only on its own word that it has carried the ledger out that far.
//! Leaves to others: packing anew what is left of a bundle (an operator's program), deleting (nodes, by the ledger).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use firn_base::{BundleId, BundleNumber, NodeId, ObjectKey, Timestamp};
use firn_wire::{
    Command, MovedRecord, NeededBundle, PurgeHolder, PurgeProgress, PurgeSummary, RecordPlace, Replaced,
    ReplacementBundle, SurplusCopy,
};

use crate::commit_check::{CheckedBundle, RecordSummary};
use crate::facts::Scan;
use crate::planning::PlanningView;
use crate::state::{ErasureRecord, NodeNumber, PurgeRecord};

/// Purges looked at; an archive has few, and each is an act of its operators.
const PURGES_MAX: usize = 65_536;

/// Bundles replaced or erased by one plan.
const BUNDLES_MAX: usize = 64;

/// Confirmations recorded by one command.
const CONFIRMED_MAX: usize = 4_096;

/// All that is committed of purges.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PurgeBook {
    purges: Vec<PurgeRecord>,
    erasures: Vec<ErasureRecord>,
    /// Of bundles that hold purged records: their ids, and how many records they have altogether.
    bundles: BTreeMap<BundleNumber, (BundleId, u64)>,
}

impl PurgeBook {
    /// Reads it.
    pub fn read<S: Scan>(state: &S) -> Result<Self, S::Error> {
        let purges = state.purges_after(None, PURGES_MAX)?;
        let erasures = state.erasures_from(BundleNumber(0), PURGES_MAX)?;
        let mut bundles = BTreeMap::new();
        for number in purges.iter().flat_map(|purge| &purge.places).map(|place| place.bundle) {
            if let Some(record) = state.bundle(number)? {
                bundles.insert(number, (record.id, record.keys));
            }
        }
        Ok(Self { purges, erasures, bundles })
    }

    /// Whether nothing is to be done or waited for.
    pub fn is_settled(&self) -> bool {
        self.bundles.is_empty() && self.erasures.iter().all(ErasureRecord::is_over)
    }

    /// The records that purges want gone, by bundle.
    fn unwanted(&self) -> BTreeMap<BundleNumber, Vec<(ObjectKey, RecordPlace)>> {
        let mut unwanted: BTreeMap<BundleNumber, Vec<_>> = BTreeMap::new();
        for purge in &self.purges {
            for place in &purge.places {
                let (block, entry) = (place.block, place.entry);
                unwanted.entry(place.bundle).or_default().push((purge.key, RecordPlace { block, entry }));
            }
        }
        unwanted
    }

    /// What purges want gone of one bundle.
    pub fn unwanted_of(&self, bundle: BundleNumber) -> Vec<(ObjectKey, RecordPlace)> {
        self.unwanted().remove(&bundle).unwrap_or_default()
    }
}

/// Why bundles cannot take the place of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplacementError {
    /// The manifests and the list of places have not as many records.
    #[error("not every record of the new bundles is said to come from a place in the one that they replace")]
    Places,
    /// A purged record is in a new bundle.
    #[error("a record is in the new bundles that a purge wants gone: pack them again")]
    Unwanted,
}

/// The command that lets `checked` bundles take the place of another, of which `unwanted` records are left out.
pub fn plan_replacement(
    replaced: &Replaced,
    unwanted: Vec<(ObjectKey, RecordPlace)>,
    checked: Vec<CheckedBundle>,
) -> Result<Command, ReplacementError> {
    if replaced.from.len() != checked.len() {
        return Err(ReplacementError::Places);
    }
    let is_unwanted = |from: &RecordPlace| unwanted.iter().any(|(_, place)| place == from);
    let mut replacements = Vec::with_capacity(checked.len());
    for (bundle, from) in checked.into_iter().zip(&replaced.from) {
        if from.len() != bundle.records.len() {
            return Err(ReplacementError::Places);
        }
        if from.iter().any(is_unwanted) {
            return Err(ReplacementError::Unwanted);
        }
        let record = |(record, from): (&RecordSummary, &RecordPlace)| MovedRecord {
            key: record.key,
            from: *from,
            to: RecordPlace { block: record.block, entry: record.entry },
        };
        replacements.push(ReplacementBundle {
            reservation: bundle.reservation,
            receipts: bundle.receipts,
            records: bundle.records.iter().zip(from).map(record).collect(),
        });
    }
    Ok(Command::ReplaceBundle { bundle: replaced.bundle, left_out: unwanted, replacements })
}

/// What to commit now. Shards of a replaced bundle stay for `readers_learn_within`.
pub fn plan_purging(
    book: &PurgeBook,
    view: &PlanningView<'_>,
    readers_learn_within: Duration,
) -> Vec<Command> {
    let mut commands = Vec::new();
    for (number, left_out) in book.unwanted() {
        let Some((bundle, records)) = book.bundles.get(&number) else { continue };
        // Nothing else is in it: nobody need pack anything.
        if left_out.len() as u64 == *records {
            commands.push(Command::ReplaceBundle { bundle: *bundle, left_out, replacements: Vec::new() });
        }
    }
    let due = book.erasures.iter().filter(|erasure| {
        erasure.erased.is_none()
            && view.now.since(erasure.since) >= readers_learn_within
            && dependents_of(view, erasure) == 0
            && erasure.replacements.iter().all(|number| is_safe(view, *number))
    });
    commands.extend(due.map(|erasure| Command::EraseBundle {
        bundle: erasure.id,
        surplus: surplus_of(view, erasure.bundle),
    }));
    commands.truncate(BUNDLES_MAX);
    let confirmed = confirmed(book, view);
    if !confirmed.is_empty() {
        commands.push(Command::ConfirmErasures(confirmed));
    }
    commands
}

/// Which waiting nodes have carried the ledger out beyond an erasure.
fn confirmed(book: &PurgeBook, view: &PlanningView<'_>) -> Vec<(BundleId, NodeId)> {
    let erased = book.erasures.iter().filter_map(|erasure| Some((erasure.id, erasure.erased.as_ref()?)));
    let nodes = erased.flat_map(|(bundle, erased)| {
        let waiting = erased.waiting.iter().filter_map(|number| view.fleet.node(*number));
        let done = waiting.filter(|node| node.erased_through > erased.position);
        done.map(move |node| (bundle, node.id))
    });
    nodes.take(CONFIRMED_MAX).collect()
}

fn dependents_of(view: &PlanningView<'_>, erasure: &ErasureRecord) -> u32 {
    view.catalogue.bundle(erasure.bundle).map_or(0, |bundle| view.catalogue.dependents_of(bundle))
}

/// Whether a replacement would stand a loss as well as a bundle just committed; one that was replaced in turn is
/// answered for by its own replacements.
fn is_safe(view: &PlanningView<'_>, number: BundleNumber) -> bool {
    view.catalogue.bundle(number).is_none_or(|bundle| {
        let standing = view.health.standing(number);
        standing.is_some_and(|standing| standing.presence.durable.len() >= bundle.scheme.commit_threshold())
    })
}

fn surplus_of(view: &PlanningView<'_>, number: BundleNumber) -> Vec<SurplusCopy> {
    let copies = view.catalogue.surplus_of(number).filter_map(|copy| {
        let node = view.fleet.node(copy.node)?.id;
        Some(SurplusCopy { node, coding: copy.coding, index: copy.index })
    });
    copies.collect()
}

/// Which purges are asked for: a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PurgesWanted {
    /// Those that were asked for then or later.
    pub since: Timestamp,
    /// Those of greater keys.
    pub after: Option<ObjectKey>,
    /// At most so many.
    pub limit: usize,
}

/// How far each wanted purge has come, in order of keys.
pub fn purge_progress(
    book: &PurgeBook,
    view: &PlanningView<'_>,
    wanted: &PurgesWanted,
) -> Vec<PurgeProgress> {
    let unwanted = book.unwanted();
    let is_wanted = |purge: &&PurgeRecord| {
        purge.since >= wanted.since && wanted.after.is_none_or(|after| purge.key > after)
    };
    let progress = book.purges.iter().filter(is_wanted).take(wanted.limit).map(|purge| {
        let mut progress = PurgeProgress {
            key: purge.key,
            since: purge.since,
            to_repack: Vec::new(),
            passing: Vec::new(),
            kept: Vec::new(),
            holders: 0,
            waiting: Vec::new(),
        };
        let held: BTreeSet<BundleNumber> = purge.places.iter().map(|place| place.bundle).collect();
        for number in held {
            let Some((bundle, records)) = book.bundles.get(&number) else { continue };
            let left_out = unwanted.get(&number).map_or(0, |records| records.len() as u64);
            let list = if left_out == *records { &mut progress.passing } else { &mut progress.to_repack };
            list.push(*bundle);
        }
        let (mut holders, mut waiting) = (BTreeSet::<NodeNumber>::new(), BTreeSet::<NodeNumber>::new());
        for erasure in book.erasures.iter().filter(|erasure| erasure.keys.contains(&purge.key)) {
            match (&erasure.erased, dependents_of(view, erasure)) {
                (Some(erased), _) => {
                    holders.extend(&erased.holders);
                    waiting.extend(&erased.waiting);
                }
                (None, 0) => progress.passing.push(erasure.id),
                (None, dependents) => progress.kept.push(NeededBundle { bundle: erasure.id, dependents }),
            }
        }
        progress.holders = holders.len() as u64;
        progress.waiting = waiting.into_iter().filter_map(|number| holder(view, number)).collect();
        progress
    });
    progress.collect()
}

/// What is left to do of all purges together. A node counts once, whatever it held.
pub fn purge_summary(book: &PurgeBook) -> PurgeSummary {
    let open = book.erasures.iter().filter(|erasure| !erasure.is_over());
    let mut under_way: BTreeSet<ObjectKey> = open.flat_map(|erasure| erasure.keys.iter().copied()).collect();
    let mut to_repack = 0;
    for (number, left_out) in book.unwanted() {
        let Some((_, records)) = book.bundles.get(&number) else { continue };
        to_repack += u64::from(left_out.len() as u64 != *records);
        under_way.extend(left_out.into_iter().map(|(key, _)| key));
    }
    let (mut holders, mut waiting) = (BTreeSet::<NodeNumber>::new(), BTreeSet::<NodeNumber>::new());
    for erasure in &book.erasures {
        let Some(erased) = &erasure.erased else { continue };
        if erasure.keys.iter().any(|key| under_way.contains(key)) {
            holders.extend(&erased.holders);
            waiting.extend(&erased.waiting);
        }
    }
    PurgeSummary {
        under_way: under_way.len() as u64,
        to_repack,
        holders: holders.len() as u64,
        waiting: waiting.len() as u64,
    }
}

fn holder(view: &PlanningView<'_>, number: NodeNumber) -> Option<PurgeHolder> {
    let node = view.fleet.node(number)?;
    let last_seen: Timestamp = node.last_seen;
    Some(PurgeHolder { node: node.id, state: node.state, online: node.online, last_seen })
}
