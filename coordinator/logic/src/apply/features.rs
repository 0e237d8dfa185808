//! Features: which records had each of them last.
//!
//! Always holds: a feature names at most [`SIMILAR_RECORDS_MAX`] places, the latest first, none in a bundle that others had
//! taken the place of when it was written.
//! Leaves to others: which features a record has (whoever reads its manifest), asking (`similar`).

use firn_base::{BundleNumber, Location};
use firn_wire::{IndexEntry, SIMILAR_RECORDS_MAX};

use crate::change::Change;
use crate::facts::Facts;
use crate::overlay::Overlay;
use crate::state::FeatureRecord;

/// Puts the records of a bundle in front of those that had their features before.
pub(super) fn remember<F: Facts>(
    state: &mut Overlay<'_, F>,
    bundle: BundleNumber,
    entries: &[IndexEntry],
) -> Result<(), F::Error> {
    for entry in entries {
        let own = Location { bundle, block: entry.block, entry: entry.entry };
        for feature in &entry.features {
            let mut places = vec![own];
            for place in state.similar(*feature)? {
                // A record may name a feature twice.
                if place != own
                    && places.len() < SIMILAR_RECORDS_MAX
                    && state.erasure(place.bundle)?.is_none()
                {
                    places.push(place);
                }
            }
            state.write(Change::PutFeature(FeatureRecord { feature: *feature, places }));
        }
    }
    Ok(())
}
