//! What is remembered of which objects are like each other, and finding them again.
//!
//! Owns: what the leader tells of a bundle's records, and which of the places that are remembered are told: those in bundles
//! that are there to stay. Leaves to others: which features a record has (whoever reads its manifest), whether shards can be
//! read now (whoever reads them), and what they are good for (the uploader).

use std::collections::BTreeMap;

use firn_base::{BundleId, BundleNumber, Feature};
use firn_bundle::ContentHeader;
use firn_wire::{Command, RecordPlace, SimilarRecord};

use crate::commit_check::RecordSummary;
use crate::facts::Facts;

/// The command that remembers by what the `records` of `bundle` are found, proposed right behind the one that brought them;
/// none where there is nothing to remember. If it is lost because the leader changes in between, packing what is like them
/// takes a few bytes more, and nothing else comes of it.
pub fn plan_features(
    bundle: BundleId,
    replaces: Option<BundleId>,
    records: &[RecordSummary],
) -> Option<Command> {
    let found = records.iter().filter(|record| !record.features.is_empty());
    let records = found.map(|record| {
        let place = RecordPlace { block: record.block, entry: record.entry };
        (place, record.features.clone())
    });
    let records: Vec<_> = records.collect();
    (!records.is_empty()).then_some(Command::RememberFeatures { bundle, replaces, records })
}

/// For each feature the records that had it last, the latest first. Left out is what lies in a bundle that others have taken
/// the place of, and what uses chunks of such a one: it is about to be erased, and no bundle may come to depend on it.
pub fn find_similar<F: Facts>(facts: &F, features: &[Feature]) -> Result<Vec<Vec<SimilarRecord>>, F::Error> {
    let mut staying: BTreeMap<BundleNumber, Option<BundleId>> = BTreeMap::new();
    let mut all = Vec::with_capacity(features.len());
    for feature in features {
        let mut found = Vec::new();
        for place in facts.similar(*feature)? {
            let bundle = match staying.get(&place.bundle) {
                Some(known) => *known,
                None => *staying.entry(place.bundle).or_insert(staying_bundle(facts, place.bundle)?),
            };
            let place = RecordPlace { block: place.block, entry: place.entry };
            found.extend(bundle.map(|bundle| SimilarRecord { bundle, place }));
        }
        all.push(found);
    }
    Ok(all)
}

fn staying_bundle<F: Facts>(facts: &F, number: BundleNumber) -> Result<Option<BundleId>, F::Error> {
    if facts.erasure(number)?.is_some() {
        return Ok(None);
    }
    let Some(record) = facts.bundle(number)? else { return Ok(None) };
    let Ok(content) = ContentHeader::parse(&record.content_header) else { return Ok(None) };
    for dependency in content.dependencies() {
        let Some(number) = facts.bundle_number(*dependency)? else { return Ok(None) };
        if facts.erasure(number)?.is_some() {
            return Ok(None);
        }
    }
    Ok(Some(record.id))
}
