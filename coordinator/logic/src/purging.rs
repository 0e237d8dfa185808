//! Purges under way: which bundles are replaced by nothing, which are erased, who has done it, and what to tell of it.
//!
//! Owns: when the shards of a replaced bundle may go. Always holds: none goes before readers have learnt where its paths
//! lie now, before its replacements have as many durable shards as a commit needs, and as long as a path is read by chunks
//! of it; parts of an object stay as long as their head; a purge is not over while a bundle that was replaced before it lies
//! anywhere with what it wants gone; a node counts as free of a bundle only on its own word that it has carried the ledger out that far.
//! Leaves to others: packing anew what is left of a bundle, and what uses its chunks (an operator's program), deleting
//! (nodes, by the ledger).
//!
//! A bundle that was packed anew for the sake of one whose chunks it uses may have to stay for those that use chunks of its
//! own. It keeps nothing else: its paths are read elsewhere, so it needs the chunks of others no more. Were they waited for
//! all the same, a purge would have to pack anew whatever uses chunks of what uses chunks of its bundle, and so on, which is
//! most of an archive.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use firn_base::{BundleId, BundleNumber, NodeId, ObjectKey, Timestamp};
use firn_bundle::{BundleRole, ContentHeader};
use firn_wire::{
    Command, MovedRecord, NeededBundle, PurgeHolder, PurgeProgress, PurgeSummary, RecordPlace, Replaced,
    ReplacementBundle, SurplusCopy,
};

use crate::catalogue::BundleView;
use crate::commit_check::{CheckedBundle, RecordSummary};
use crate::facts::{Facts, Scan};
use crate::planning::PlanningView;
use crate::state::{ErasureRecord, NodeNumber, PurgeRecord};

/// Purges looked at; an archive has few, and each is an act of its operators.
const PURGES_MAX: usize = 65_536;

/// Erasures read at a time.
const PAGE: usize = 1_024;

/// Bundles of each kind that one plan replaces or erases.
const BUNDLES_MAX: usize = 64;

/// Bundles that one answer names because they use chunks of a bundle that is to go: of each such bundle, and altogether. Once
/// those are packed anew, the next answer names others.
const DEPENDENTS_OF_ONE_MAX: usize = 64;
const DEPENDENTS_MAX: usize = 4_096;

/// Confirmations recorded by one command.
const CONFIRMED_MAX: usize = 4_096;

/// All that is committed of purges.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PurgeBook {
    purges: Vec<PurgeRecord>,
    /// In order of numbers; left out are those that are over and were for no purged key. Of the others, `keys` are also those
    /// that purges wanted gone later, of what has taken the bundle's place: its own shards hold them as well.
    erasures: Vec<ErasureRecord>,
    /// Of bundles that hold purged records: their ids, and how many records they have altogether.
    bundles: BTreeMap<BundleNumber, (BundleId, u64)>,
}

impl PurgeBook {
    /// Reads it.
    pub fn read<S: Scan>(state: &S) -> Result<Self, S::Error> {
        let purges = state.purges_after(None, PURGES_MAX)?;
        let mut erasures = read_erasures(state)?;
        add_later_keys(state, &purges, &mut erasures)?;
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

    fn erasure(&self, bundle: BundleNumber) -> Option<&ErasureRecord> {
        let place = self.erasures.binary_search_by_key(&bundle, |erasure| erasure.bundle).ok()?;
        self.erasures.get(place)
    }

    /// Bundles that use chunks of a replaced one, and that nothing has taken the place of.
    fn dependents<'a>(
        &'a self,
        view: &'a PlanningView<'_>,
        erasure: &ErasureRecord,
    ) -> impl Iterator<Item = &'a BundleView> {
        let dependents = dependents_of(view, erasure.bundle).iter();
        dependents
            .filter(|number| self.erasure(**number).is_none())
            .filter_map(|number| view.catalogue.bundle(*number))
    }

    /// Bundles to pack anew because they use chunks of one that a purge wants erased.
    fn all_dependents<'a>(&'a self, view: &'a PlanningView<'_>) -> impl Iterator<Item = &'a BundleView> {
        let kept = self.erasures.iter().filter(|own| own.erased.is_none() && !own.keys.is_empty());
        kept.flat_map(|erasure| self.dependents(view, erasure))
    }

    /// Whether no path is read by chunks of a replaced bundle, and those that stand in its place would stand a loss.
    fn is_free(&self, view: &PlanningView<'_>, erasure: &ErasureRecord, within: Duration) -> bool {
        let is_free_of_it = |number: &BundleNumber| {
            // One that can go goes first: its shards need the chunks as long as they are there. A head is nothing without its
            // parts, and a rebuild does not bring it back without them.
            let bundle = view.catalogue.bundle(*number);
            let stays = bundle.is_some_and(|bundle| {
                bundle.role != BundleRole::Head && !view.catalogue.dependents_of(bundle).is_empty()
            });
            stays && self.erasure(*number).is_some_and(|own| has_moved(view, own, within))
        };
        has_moved(view, erasure, within) && dependents_of(view, erasure.bundle).iter().all(is_free_of_it)
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

/// All erasures that anything is told of, or waited for.
fn read_erasures<S: Scan>(state: &S) -> Result<Vec<ErasureRecord>, S::Error> {
    let mut erasures = Vec::new();
    let mut from = BundleNumber(0);
    loop {
        let page = state.erasures_from(from, PAGE)?;
        let next = page.last().and_then(|last| last.bundle.0.checked_add(1)).filter(|_| page.len() == PAGE);
        erasures.extend(page.into_iter().filter(|erasure| !erasure.is_over() || !erasure.keys.is_empty()));
        match next {
            Some(next) => from = BundleNumber(next),
            None => return Ok(erasures),
        }
    }
}

/// Adds to each erasure that is not over the keys that purges want gone, or wanted, of what has taken its bundle's place, however
/// often that was replaced in turn: they were in the bundle, or may have been. Looked at are these erasures and what followed
/// on them.
fn add_later_keys<S: Scan>(
    state: &S,
    purges: &[PurgeRecord],
    erasures: &mut [ErasureRecord],
) -> Result<(), S::Error> {
    // Without a purge no erasure has a key: compaction alone must cost nothing here.
    if purges.is_empty() {
        return Ok(());
    }
    let mut followed: BTreeMap<BundleNumber, ErasureRecord> = BTreeMap::new();
    let mut seen: BTreeSet<BundleNumber> = BTreeSet::new();
    let open = erasures.iter().filter(|erasure| !erasure.is_over());
    let mut to_look_at: Vec<ErasureRecord> = open.cloned().collect();
    while let Some(erasure) = to_look_at.pop() {
        for number in &erasure.replacements {
            if seen.insert(*number) {
                to_look_at.extend(state.erasure(*number)?);
            }
        }
        followed.insert(erasure.bundle, erasure);
    }
    let mut keys: BTreeMap<BundleNumber, BTreeSet<ObjectKey>> = BTreeMap::new();
    for purge in purges {
        for place in &purge.places {
            keys.entry(place.bundle).or_default().insert(purge.key);
        }
    }
    // What takes the place of a bundle has a greater number.
    for (number, erasure) in followed.iter().rev() {
        let mut own: BTreeSet<ObjectKey> = erasure.keys.iter().copied().collect();
        own.extend(erasure.replacements.iter().filter_map(|later| keys.get(later)).flatten());
        keys.entry(*number).or_default().extend(own);
    }
    for erasure in erasures.iter_mut().filter(|erasure| !erasure.is_over()) {
        if let Some(keys) = keys.get(&erasure.bundle) {
            erasure.keys = keys.iter().copied().collect();
        }
    }
    Ok(())
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

/// What goes when others take the place of `bundle`: that one, and its parts if it has some.
pub fn leaving_with<F: Facts>(facts: &F, bundle: BundleId) -> Result<BTreeSet<BundleId>, F::Error> {
    let mut leaving = BTreeSet::from([bundle]);
    let number = facts.bundle_number(bundle)?;
    if let Some(record) = number.map_or(Ok(None), |number| facts.bundle(number))?
        && let Ok(content) = ContentHeader::parse(&record.content_header)
        && content.role() == BundleRole::Head
    {
        leaving.extend(content.dependencies());
    }
    Ok(leaving)
}

/// Those of `bundles` that others have taken the place of, be they erased or not.
pub fn replaced_among<F: Facts>(facts: &F, bundles: &[BundleId]) -> Result<Vec<BundleId>, F::Error> {
    let mut replaced = Vec::new();
    for bundle in bundles {
        let number = facts.bundle_number(*bundle)?;
        if number.map_or(Ok(None), |number| facts.erasure(number))?.is_some() {
            replaced.push(*bundle);
        }
    }
    Ok(replaced)
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
    commands.truncate(BUNDLES_MAX);
    // A rebuild brings such a one back without its records, which lie in others.
    let empty: BTreeSet<BundleId> = book
        .all_dependents(view)
        .filter(|bundle| bundle.is_without_records)
        .map(|bundle| bundle.id)
        .collect();
    commands.extend(empty.into_iter().take(BUNDLES_MAX).map(|bundle| Command::ReplaceBundle {
        bundle,
        left_out: Vec::new(),
        replacements: Vec::new(),
    }));
    let due = book
        .erasures
        .iter()
        .filter(|erasure| erasure.erased.is_none() && book.is_free(view, erasure, readers_learn_within));
    // Each kind has room of its own: one that is refused again and again keeps no other waiting.
    commands.extend(due.take(BUNDLES_MAX).map(|erasure| Command::EraseBundle {
        bundle: erasure.id,
        surplus: surplus_of(view, erasure.bundle),
    }));
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

fn dependents_of<'a>(view: &'a PlanningView<'_>, number: BundleNumber) -> &'a [BundleNumber] {
    view.catalogue.bundle(number).map_or(&[], |bundle| view.catalogue.dependents_of(bundle))
}

/// Whether readers know where the paths of a replaced bundle lie now, and that is as safe as a new bundle.
fn has_moved(view: &PlanningView<'_>, erasure: &ErasureRecord, readers_learn_within: Duration) -> bool {
    view.now.since(erasure.since) >= readers_learn_within
        && erasure.replacements.iter().all(|number| is_safe(view, *number))
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
    let mut names_left = DEPENDENTS_MAX;
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
            if let Some(erased) = &erasure.erased {
                holders.extend(&erased.holders);
                waiting.extend(&erased.waiting);
                continue;
            }
            let mut needed = NeededBundle { bundle: erasure.id, dependents: 0, to_repack: Vec::new() };
            for dependent in book.dependents(view, erasure).filter(|bundle| !bundle.is_without_records) {
                needed.dependents = needed.dependents.saturating_add(1);
                if needed.to_repack.len() < DEPENDENTS_OF_ONE_MAX && names_left > 0 {
                    needed.to_repack.push(dependent.id);
                    names_left -= 1;
                }
            }
            match needed.dependents {
                0 => progress.passing.push(erasure.id),
                _ => progress.kept.push(needed),
            }
        }
        progress.holders = holders.len() as u64;
        progress.waiting = waiting.into_iter().filter_map(|number| holder(view, number)).collect();
        progress
    });
    progress.collect()
}

/// What is left to do of all purges together. A node counts once, whatever it held.
pub fn purge_summary(book: &PurgeBook, view: &PlanningView<'_>) -> PurgeSummary {
    let open = book.erasures.iter().filter(|erasure| !erasure.is_over());
    let mut under_way: BTreeSet<ObjectKey> = open.flat_map(|erasure| erasure.keys.iter().copied()).collect();
    let dependents = book.all_dependents(view).filter(|bundle| !bundle.is_without_records);
    let mut to_repack: BTreeSet<BundleNumber> = dependents.map(|bundle| bundle.number).collect();
    for (number, left_out) in book.unwanted() {
        let Some((_, records)) = book.bundles.get(&number) else { continue };
        if left_out.len() as u64 != *records {
            to_repack.insert(number);
        }
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
        to_repack: to_repack.len() as u64,
        holders: holders.len() as u64,
        waiting: waiting.len() as u64,
    }
}

fn holder(view: &PlanningView<'_>, number: NodeNumber) -> Option<PurgeHolder> {
    let node = view.fleet.node(number)?;
    let last_seen: Timestamp = node.last_seen;
    Some(PurgeHolder { node: node.id, state: node.state, online: node.online, last_seen })
}
