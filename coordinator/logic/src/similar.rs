//! Finding archived objects by features.
//!
//! Owns: which of the places that are remembered are told: those in bundles that are there to stay. Leaves to others: whether
//! their shards can be read now (whoever reads them), and what they are good for (the uploader).

use std::collections::BTreeMap;

use firn_base::{BundleId, BundleNumber, Feature};
use firn_bundle::ContentHeader;
use firn_wire::{RecordPlace, SimilarRecord};

use crate::facts::Facts;

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
