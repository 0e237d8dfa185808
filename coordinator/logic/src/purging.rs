//! Purges under way: which bundles are replaced by nothing, which are erased, who has done it, and what to tell of it.
//!
//! Owns: when the shards of a replaced bundle may go. Always holds: none goes before readers have learnt where its
//! paths lie now, before its replacements have as many durable shards as a commit needs, and as long as a path is read
//! by chunks of it; parts of an object stay as long as their head; a purge is not over while a bundle that was replaced
//! before it lies anywhere with what it wants gone; a bundle of which nobody knows what was in it counts for every
//! purge; a node counts as free of a bundle only on its own word that it has carried the ledger out that far.
//! Leaves to others: packing anew what is left of a bundle, and what uses its chunks (an operator's program), deleting
//! (nodes, by the ledger).
//!
//! A bundle that was packed anew for the sake of one whose chunks it uses may have to stay for those that use chunks of its
//! own. It keeps nothing else: its paths are read elsewhere, so it needs the chunks of others no more. Were they waited for
//! all the same, a purge would have to pack anew whatever uses chunks of what uses chunks of its bundle, and so on, which is
//! most of an archive.
//!
//! A rebuild brings such a bundle back without its records, and what took its place is forgotten: it is *emptied*. Any
//! purged path may lie in it. It is replaced by nothing, and counts for every purge until it is erased.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use firn_base::{BundleId, BundleNumber, NodeId, ObjectKey, Timestamp};
use firn_bundle::{BundleRole, ContentHeader};
use firn_wire::{
    Command, MovedRecord, NeededBundle, PurgeHolder, PurgeProgress, PurgeSummary, RecordPlace, Replaced,
    ReplacementBundle, SurplusCopy,
};

use crate::absence::ABSENCE_MOST;
use crate::catalogue::{BundleView, Catalogue};
use crate::commit_check::{CheckedBundle, RecordSummary};
use crate::facts::Facts;
use crate::planning::PlanningView;
use crate::purge_index::PurgeIndex;
use crate::refused_steps::RefusedSteps;
use crate::state::{ErasureRecord, NodeNumber};
use crate::stay::{Stay, stay_of};

/// Bundles of each kind that one plan replaces or erases.
const BUNDLES_MAX: usize = 64;

/// Bundles that one answer names because they use chunks of a bundle that is to go: of each such bundle, and
/// altogether. Once those are packed anew, the next answer names others.
const DEPENDENTS_OF_ONE_MAX: usize = 64;
const DEPENDENTS_MAX: usize = 4_096;

/// Confirmations recorded by one command.
const CONFIRMED_MAX: usize = 4_096;

/// All that is committed of purges, and what follows of one for another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PurgeBook<'a> {
    index: &'a PurgeIndex,
    /// Of erasures that are not over: the keys that purges wanted gone, also of what has taken the bundle's place: its own
    /// shards hold them as well.
    keys: BTreeMap<BundleNumber, BTreeSet<ObjectKey>>,
    /// The records that purges want gone, by bundle.
    unwanted: BTreeMap<BundleNumber, Vec<(ObjectKey, RecordPlace)>>,
}

impl<'a> PurgeBook<'a> {
    /// The book of `catalogue`; `state` tells of what was replaced long ago.
    pub fn read<F: Facts>(state: &F, catalogue: &'a Catalogue) -> Result<Self, F::Error> {
        let index = catalogue.purges();
        let unwanted = unwanted(index);
        let keys = later_keys(state, index, &unwanted)?;
        Ok(Self { index, keys, unwanted })
    }

    /// Whether a purge wants gone what the shards of a replaced bundle hold, or may hold.
    fn is_wanted_gone(&self, erasure: &ErasureRecord) -> bool {
        match is_emptied(erasure) {
            true => self.index.len() > 0,
            false => self.keys.get(&erasure.bundle).map_or(!erasure.keys.is_empty(), |keys| !keys.is_empty()),
        }
    }

    /// The erasures that are not over, by the purge that is not over before them; by none those that no purge is over
    /// before.
    fn open_by_key(&self) -> BTreeMap<Option<ObjectKey>, Vec<&'a ErasureRecord>> {
        let mut open: BTreeMap<Option<ObjectKey>, Vec<_>> = BTreeMap::new();
        for erasure in self.index.open_erasures() {
            if is_emptied(erasure) {
                open.entry(None).or_default().push(erasure);
                continue;
            }
            for key in self.keys.get(&erasure.bundle).into_iter().flatten() {
                open.entry(Some(*key)).or_default().push(erasure);
            }
        }
        open
    }

    /// Bundles that use chunks of one that goes, and that nothing has taken the place of.
    fn dependents<'v>(
        &self,
        view: &'v PlanningView<'_>,
        bundle: BundleNumber,
    ) -> impl Iterator<Item = &'v BundleView> {
        let dependents = dependents_of(view, bundle).iter();
        dependents
            .filter_map(|number| view.catalogue.bundle(*number).filter(|_| view.catalogue.stays(*number)))
    }

    /// Bundles to pack anew because they use chunks of one that a purge wants erased.
    fn all_dependents<'v>(&self, view: &'v PlanningView<'_>) -> impl Iterator<Item = &'v BundleView> {
        let kept = self.index.open_erasures();
        let kept = kept.filter(|own| own.erased.is_none() && self.is_wanted_gone(own));
        let kept: Vec<BundleNumber> = kept.map(|erasure| erasure.bundle).chain(self.emptied(view)).collect();
        kept.into_iter().flat_map(|bundle| self.dependents(view, bundle).collect::<Vec<_>>())
    }

    /// Emptied bundles, if there is a purge that they count for.
    fn emptied(&self, view: &PlanningView<'_>) -> impl Iterator<Item = BundleNumber> {
        view.catalogue.emptied().filter(|_| self.index.len() > 0)
    }

    /// Emptied bundles that are to be replaced by nothing now.
    fn emptied_to_replace<'v>(&self, view: &'v PlanningView<'_>) -> impl Iterator<Item = &'v BundleView> {
        let has_purges = self.index.len() > 0;
        let emptied = view.catalogue.emptied().filter(move |_| has_purges);
        emptied.filter_map(|number| view.catalogue.bundle(number))
    }

    /// Whether no path is read by chunks of a replaced bundle, and those that stand in its place would stand a loss.
    fn is_free(&self, view: &PlanningView<'_>, erasure: &ErasureRecord, within: Duration) -> bool {
        let is_free_of_it = |number: &BundleNumber| {
            // One that can go goes first: its shards need the chunks as long as they are there. A head is nothing
            // without its parts, and a rebuild does not bring it back without them.
            let bundle = view.catalogue.bundle(*number);
            let stays = bundle.is_some_and(|bundle| {
                bundle.role != BundleRole::Head && !view.catalogue.dependents_of(bundle).is_empty()
            });
            stays && self.index.erasure(*number).is_some_and(|own| has_moved(view, own, within))
        };
        has_moved(view, erasure, within) && dependents_of(view, erasure.bundle).iter().all(is_free_of_it)
    }

    /// A bundle that goes, with those that use chunks of it; of these at most `names_left` are named.
    fn needed(
        &self,
        view: &PlanningView<'_>,
        (number, bundle): (BundleNumber, BundleId),
        names_left: &mut usize,
    ) -> NeededBundle {
        let mut needed = NeededBundle { bundle, dependents: 0, to_repack: Vec::new() };
        for dependent in self.dependents(view, number).filter(|bundle| !bundle.is_without_records) {
            needed.dependents = needed.dependents.saturating_add(1);
            if needed.to_repack.len() < DEPENDENTS_OF_ONE_MAX && *names_left > 0 {
                needed.to_repack.push(dependent.id);
                *names_left -= 1;
            }
        }
        needed
    }
}

/// The records that purges want gone, by bundle.
fn unwanted(index: &PurgeIndex) -> BTreeMap<BundleNumber, Vec<(ObjectKey, RecordPlace)>> {
    let mut unwanted: BTreeMap<BundleNumber, Vec<_>> = BTreeMap::new();
    for purge in index.open_purges() {
        for place in &purge.places {
            let (block, entry) = (place.block, place.entry);
            unwanted.entry(place.bundle).or_default().push((purge.key, RecordPlace { block, entry }));
        }
    }
    unwanted
}

/// What purges want gone of one bundle.
pub fn unwanted_of(catalogue: &Catalogue, bundle: BundleNumber) -> Vec<(ObjectKey, RecordPlace)> {
    unwanted(catalogue.purges()).remove(&bundle).unwrap_or_default()
}

/// Whether it is not known what was in a replaced bundle: a rebuild brought it back without its records.
const fn is_emptied(erasure: &ErasureRecord) -> bool {
    erasure.keys.is_empty() && erasure.replacements.is_empty()
}

/// For each erasure that is not over its keys, and those that purges want gone, or wanted, of what has taken its
/// bundle's place, however often that was replaced in turn: they were in the bundle, or may have been. Looked at are
/// these erasures and what followed on them.
fn later_keys<F: Facts>(
    state: &F,
    index: &PurgeIndex,
    unwanted: &BTreeMap<BundleNumber, Vec<(ObjectKey, RecordPlace)>>,
) -> Result<BTreeMap<BundleNumber, BTreeSet<ObjectKey>>, F::Error> {
    let mut keys: BTreeMap<BundleNumber, BTreeSet<ObjectKey>> = BTreeMap::new();
    // Without a purge no erasure has a key: compaction alone must cost nothing here.
    if index.len() == 0 {
        keys.extend(index.open_erasures().map(|erasure| (erasure.bundle, BTreeSet::new())));
        return Ok(keys);
    }
    let mut followed: BTreeMap<BundleNumber, ErasureRecord> = BTreeMap::new();
    let mut seen: BTreeSet<BundleNumber> = BTreeSet::new();
    let mut to_look_at: Vec<ErasureRecord> = index.open_erasures().cloned().collect();
    while let Some(erasure) = to_look_at.pop() {
        for number in erasure.replacements.iter().filter(|number| seen.insert(**number)) {
            to_look_at.extend(match index.erasure(*number) {
                Some(known) => Some(known.clone()),
                None => state.erasure(*number)?,
            });
        }
        followed.insert(erasure.bundle, erasure);
    }
    for (bundle, records) in unwanted {
        keys.entry(*bundle).or_default().extend(records.iter().map(|(key, _)| *key));
    }
    // What takes the place of a bundle has a greater number.
    for (number, erasure) in followed.iter().rev() {
        let mut own: BTreeSet<ObjectKey> = erasure.keys.iter().copied().collect();
        own.extend(erasure.replacements.iter().filter_map(|later| keys.get(later)).flatten());
        keys.entry(*number).or_default().extend(own);
    }
    let is_open = |number: &BundleNumber| index.erasure(*number).is_some_and(|erasure| !erasure.is_over());
    keys.retain(|number, _| is_open(number));
    Ok(keys)
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
        if stay_of(facts, *bundle)? == Stay::Replaced {
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

/// What to commit now. Shards of a replaced bundle stay for `readers_learn_within`; what was refused a moment ago waits.
pub fn plan_purging(
    book: &PurgeBook<'_>,
    view: &PlanningView<'_>,
    readers_learn_within: Duration,
    refused: &RefusedSteps,
) -> Vec<Command> {
    let may_try = |bundle: &BundleId| refused.may_try(*bundle, view.now);
    let replace = |bundle: BundleId, left_out: Vec<(ObjectKey, RecordPlace)>| Command::ReplaceBundle {
        bundle,
        left_out,
        replacements: Vec::new(),
    };
    let all_unwanted = book.unwanted.iter().filter_map(|(number, left_out)| {
        let bundle = view.catalogue.bundle(*number)?;
        // Nothing else is in it: nobody need pack anything.
        let holds_no_more = left_out.len() as u64 == bundle.records;
        (holds_no_more && may_try(&bundle.id)).then(|| replace(bundle.id, left_out.clone()))
    });
    let mut commands: Vec<Command> = all_unwanted.take(BUNDLES_MAX).collect();
    let emptied = book.emptied_to_replace(view).map(|bundle| bundle.id).filter(may_try);
    commands.extend(emptied.take(BUNDLES_MAX).map(|bundle| replace(bundle, Vec::new())));
    let due = book.index.open_erasures().filter(|erasure| {
        erasure.erased.is_none() && may_try(&erasure.id) && book.is_free(view, erasure, readers_learn_within)
    });
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
fn confirmed(book: &PurgeBook<'_>, view: &PlanningView<'_>) -> Vec<(BundleId, NodeId)> {
    let open = book.index.open_erasures();
    let erased = open.filter_map(|erasure| Some((erasure.id, erasure.erased.as_ref()?)));
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
    // Nodes that are away may have what uses an emptied bundle, or what took its place: a rebuild can be taken up again
    // with what they show until they count as lost. Which of them have declared an absence it has forgotten: it waits
    // for all as long as one may last.
    let lost_after = Duration::from_millis(view.catalogue.policy().count_lost_after_millis);
    let within = if is_emptied(erasure) {
        lost_after.max(ABSENCE_MOST).max(readers_learn_within)
    } else {
        readers_learn_within
    };
    view.now.since(erasure.since) >= within
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
    book: &PurgeBook<'_>,
    view: &PlanningView<'_>,
    wanted: &PurgesWanted,
) -> Vec<PurgeProgress> {
    let mut names_left = DEPENDENTS_MAX;
    let open = book.open_by_key();
    let purges = book.index.purges_after(wanted.after).filter(|purge| purge.since >= wanted.since);
    let progress = purges.take(wanted.limit).map(|purge| {
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
        for bundle in held.into_iter().filter_map(|number| view.catalogue.bundle(number)) {
            let left_out = book.unwanted.get(&bundle.number).map_or(0, |records| records.len() as u64);
            let list =
                if left_out == bundle.records { &mut progress.passing } else { &mut progress.to_repack };
            list.push(bundle.id);
        }
        let (mut holders, mut waiting) = (BTreeSet::<NodeNumber>::new(), BTreeSet::<NodeNumber>::new());
        let mut going: Vec<(BundleNumber, BundleId)> = Vec::new();
        let open = open.get(&Some(purge.key)).into_iter().chain(open.get(&None)).flatten().copied();
        for erasure in open.chain(book.index.ended_erasures(purge.key)) {
            match &erasure.erased {
                Some(erased) => {
                    holders.extend(&erased.holders);
                    waiting.extend(&erased.waiting);
                }
                None => going.push((erasure.bundle, erasure.id)),
            }
        }
        let emptied = book.emptied(view).filter_map(|number| view.catalogue.bundle(number));
        going.extend(emptied.map(|bundle| (bundle.number, bundle.id)));
        for bundle in going {
            let needed = book.needed(view, bundle, &mut names_left);
            match needed.dependents {
                0 => progress.passing.push(needed.bundle),
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
pub fn purge_summary(book: &PurgeBook<'_>, view: &PlanningView<'_>) -> PurgeSummary {
    let counts_for_all = |erasure: &ErasureRecord| is_emptied(erasure) && book.is_wanted_gone(erasure);
    let any_may_be_left =
        book.emptied(view).next().is_some() || book.index.open_erasures().any(counts_for_all);
    let mut under_way: BTreeSet<ObjectKey> = book.keys.values().flatten().copied().collect();
    let dependents = book.all_dependents(view).filter(|bundle| !bundle.is_without_records);
    let mut to_repack: BTreeSet<BundleNumber> = dependents.map(|bundle| bundle.number).collect();
    for (number, left_out) in &book.unwanted {
        let Some(bundle) = view.catalogue.bundle(*number) else { continue };
        if left_out.len() as u64 != bundle.records {
            to_repack.insert(*number);
        }
        under_way.extend(left_out.iter().map(|(key, _)| *key));
    }
    let (mut holders, mut waiting) = (BTreeSet::<NodeNumber>::new(), BTreeSet::<NodeNumber>::new());
    if any_may_be_left {
        under_way.extend(book.index.purges_after(None).map(|purge| purge.key));
    }
    let open = book.index.open_erasures().filter(|erasure| {
        let keys = book.keys.get(&erasure.bundle);
        any_may_be_left || keys.is_some_and(|keys| !keys.is_disjoint(&under_way))
    });
    let ended = under_way.iter().flat_map(|key| book.index.ended_erasures(*key));
    for erased in open.chain(ended).filter_map(|erasure| erasure.erased.as_ref()) {
        holders.extend(&erased.holders);
        waiting.extend(&erased.waiting);
    }
    let under_way = if any_may_be_left { book.index.len() } else { under_way.len() };
    PurgeSummary {
        under_way: under_way as u64,
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
