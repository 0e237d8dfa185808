//! Features: which records had each of them last.
//!
//! Always holds: a feature names at most [`SIMILAR_RECORDS_MAX`] places, of as many bundles, the one that was committed last
//! first; of the records of a bundle the one that was told first; none in a bundle that others had taken the place of when it was
//! written. What is told twice changes nothing.
//! Leaves to others: which features a record has (whoever reads its manifest), whether there is a record at a place
//! (nothing here lists records by place, and a place that is wrong costs one look in vain), asking (`similar`).

use std::collections::BTreeMap;

use firn_base::{BundleId, BundleNumber, Feature, Location};
use firn_wire::{RecordPlace, SIMILAR_RECORDS_MAX};

use crate::change::Change;
use crate::facts::Facts;
use crate::overlay::Overlay;
use crate::state::FeatureRecord;
use crate::stay::is_replaced;

/// Remembers what is told of `bundle`, which took the place of `replaces`. Of a bundle that is not there, that others have
/// taken the place of, or that took no such place, nothing is remembered.
pub(super) fn remember<F: Facts>(
    state: &mut Overlay<'_, F>,
    bundle: BundleId,
    replaces: Option<BundleId>,
    records: &[(RecordPlace, Vec<Feature>)],
) -> Result<(), F::Error> {
    let Some(number) = state.bundle_number(bundle)? else { return Ok(()) };
    let mut replaced = Replaced::default();
    if replaced.is(state, number)? {
        return Ok(());
    }
    let before = match replaces {
        None => None,
        Some(before) => match taken_from(state, before, number)? {
            None => return Ok(()),
            before => before,
        },
    };
    for (place, features) in records {
        let own = Location { bundle: number, block: place.block, entry: place.entry };
        for feature in features {
            let known = state.similar(*feature)?;
            // One place of a bundle leads to its manifest: others would take the places of other bundles.
            if known.iter().any(|place| place.bundle == number) {
                continue;
            }
            let mut places = Vec::with_capacity(known.len() + 1);
            if before.is_none() {
                places.push(own);
            }
            let mut is_in_its_place = before.is_none();
            for place in known {
                if before == Some(place.bundle) {
                    places.push(own);
                    is_in_its_place = true;
                } else if !replaced.is(state, place.bundle)? {
                    places.push(place);
                }
            }
            // What was forgotten before it moved is no news.
            if !is_in_its_place {
                places.push(own);
            }
            places.truncate(SIMILAR_RECORDS_MAX);
            state.write(Change::PutFeature(FeatureRecord { feature: *feature, places }));
        }
    }
    Ok(())
}

/// The number of bundle `before`, if `number` is one of those in its place.
fn taken_from<F: Facts>(
    state: &Overlay<'_, F>,
    before: BundleId,
    number: BundleNumber,
) -> Result<Option<BundleNumber>, F::Error> {
    let Some(before) = state.bundle_number(before)? else { return Ok(None) };
    let erasure = state.erasure(before)?;
    Ok(erasure.is_some_and(|erasure| erasure.replacements.contains(&number)).then_some(before))
}

/// Which bundles others have taken the place of, as far as it was looked up: the features of one bundle mostly name the
/// same few others.
#[derive(Debug, Default)]
struct Replaced(BTreeMap<BundleNumber, bool>);

impl Replaced {
    fn is<F: Facts>(&mut self, state: &Overlay<'_, F>, bundle: BundleNumber) -> Result<bool, F::Error> {
        if let Some(known) = self.0.get(&bundle) {
            return Ok(*known);
        }
        let replaced = is_replaced(state, bundle)?;
        self.0.insert(bundle, replaced);
        Ok(replaced)
    }
}
