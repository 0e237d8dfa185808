//! What is remembered of which objects are like each other, and finding them again.
//!
//! Owns: what the leader tells of a bundle's records, and which of the places that are remembered are told: those of records
//! that are in the archive, in bundles that are there to stay. Always holds: of the records of a bundle that share a feature, the
//! latest is told first, for `apply` keeps what it is told first of a bundle, and only that. Leaves to others: which features a
//! record has (whoever reads its manifest), whether shards can be read now (whoever reads them), and what they are good for (the
//! uploader).

use std::collections::{BTreeMap, BTreeSet};

use firn_base::{BundleId, BundleNumber, Feature, Location, ObjectKey};
use firn_bundle::ContentHeader;
use firn_wire::{Command, RecordPlace, SimilarRecord};

use crate::commit_check::{CheckedBundle, RecordSummary};
use crate::facts::{Facts, Scan};
use crate::stay::is_replaced;

// Withdrawals and purges read at a time.
const PAGE: usize = 1_024;

/// The command that remembers by what the `records` of `bundle` are found, proposed right behind the one that brought them;
/// none where there is nothing to remember. The last record comes first: versions of a package lie in the order in which they
/// came, and what is built next is like the last of them. If it is lost because the leader changes in between, packing what is
/// like them takes a few bytes more, and nothing else comes of it.
pub fn plan_features(
    bundle: BundleId,
    replaces: Option<BundleId>,
    records: &[RecordSummary],
) -> Option<Command> {
    let found = records.iter().rev().filter(|record| !record.features.is_empty());
    let records = found.map(|record| {
        let place = RecordPlace { block: record.block, entry: record.entry };
        (place, record.features.clone())
    });
    let records: Vec<_> = records.collect();
    (!records.is_empty()).then_some(Command::RememberFeatures { bundle, replaces, records })
}

/// The commands that remember by what the records of bundles are found that came in one commit, in the place of another bundle or
/// of none.
pub fn plan_commit_features(bundles: &[CheckedBundle], replaces: Option<BundleId>) -> Vec<Command> {
    let told = bundles.iter().filter_map(|own| plan_features(own.bundle, replaces, &own.records));
    let mut told: Vec<Command> = told.collect();
    // What is new comes before what was told before it. But the one place that was another bundle's goes to the first that is told.
    if replaces.is_some() {
        told.reverse();
    }
    told
}

/// What nothing may come to depend on, though it is in the archive: withdrawn records, and bundles of which a purge wants a
/// record gone. It changes with the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GoingContent {
    records: BTreeSet<Location>,
    bundles: BTreeSet<BundleNumber>,
}

impl GoingContent {
    /// Reads it: all withdrawals and purges, of which an archive has few.
    pub fn read<S: Scan>(state: &S) -> Result<Self, S::Error> {
        let mut going = Self::default();
        let mut after: Option<ObjectKey> = None;
        loop {
            let page = state.withdrawn_after(after, PAGE)?;
            let Some(last) = page.last() else { break };
            after = Some(last.key);
            for record in page {
                going.records.extend(state.held(record.key)?.into_iter().map(|held| held.location));
                going.records.extend(record.places);
            }
        }
        let mut after: Option<ObjectKey> = None;
        loop {
            let page = state.purges_after(after, PAGE)?;
            let Some(last) = page.last() else { return Ok(going) };
            after = Some(last.key);
            going.bundles.extend(page.iter().flat_map(|purge| &purge.places).map(|place| place.bundle));
        }
    }

    /// Whether a purge wants a record of a bundle gone.
    pub(crate) fn wants_some_of(&self, bundle: BundleNumber) -> bool {
        self.bundles.contains(&bundle)
    }

    /// The first of `dependencies` that a purge wants a record of gone: what used its chunks would keep it from being
    /// erased.
    pub fn first_of<F: Facts>(
        &self,
        facts: &F,
        dependencies: &[BundleId],
    ) -> Result<Option<BundleId>, F::Error> {
        if self.bundles.is_empty() {
            return Ok(None);
        }
        for dependency in dependencies {
            if facts.bundle_number(*dependency)?.is_some_and(|number| self.bundles.contains(&number)) {
                return Ok(Some(*dependency));
            }
        }
        Ok(None)
    }
}

/// For each feature the records that had it last, the latest first. Left out is what is `going`, and what lies in a bundle that
/// others have taken the place of, or that uses chunks of such a one: it is about to be erased, and no bundle may come to depend
/// on it.
pub fn find_similar<F: Facts>(
    facts: &F,
    going: &GoingContent,
    features: &[Feature],
) -> Result<Vec<Vec<SimilarRecord>>, F::Error> {
    let mut staying: BTreeMap<BundleNumber, Option<BundleId>> = BTreeMap::new();
    let mut all = Vec::with_capacity(features.len());
    for feature in features {
        let mut found = Vec::new();
        for place in facts.similar(*feature)? {
            if going.records.contains(&place) {
                continue;
            }
            let bundle = match staying.get(&place.bundle) {
                Some(known) => *known,
                None => *staying.entry(place.bundle).or_insert(staying_bundle(facts, going, place.bundle)?),
            };
            let place = RecordPlace { block: place.block, entry: place.entry };
            found.extend(bundle.map(|bundle| SimilarRecord { bundle, place }));
        }
        all.push(found);
    }
    Ok(all)
}

/// The id of a bundle that stays, with all bundles whose chunks it uses.
fn staying_bundle<F: Facts>(
    facts: &F,
    going: &GoingContent,
    number: BundleNumber,
) -> Result<Option<BundleId>, F::Error> {
    let goes = |number| Ok(going.bundles.contains(&number) || is_replaced(facts, number)?);
    if goes(number)? {
        return Ok(None);
    }
    let Some(record) = facts.bundle(number)? else { return Ok(None) };
    let Ok(content) = ContentHeader::parse(&record.content_header) else { return Ok(None) };
    for dependency in content.dependencies() {
        let Some(number) = facts.bundle_number(*dependency)? else { return Ok(None) };
        if goes(number)? {
            return Ok(None);
        }
    }
    Ok(Some(record.id))
}
