//! Which bundles hold what was archived since a time.
//!
//! Always holds: what was archived before and only packed anew since is not taken for newer than it is.
//! Leaves to others: what is in them (whoever reads their manifests).

use std::collections::BTreeMap;

use firn_base::{BundleNumber, Timestamp};

use crate::facts::Scan;

/// Bundles looked at for one page.
const PAGE: usize = 4096;

/// A page of bundles, and where the next one begins.
pub type BundlePage = (Vec<BundleNumber>, Option<BundleNumber>);

/// Bundles from a number on that were committed at `since` or later, or took the place of such a one.
pub fn bundles_since<S: Scan>(
    state: &S,
    since: Timestamp,
    from: BundleNumber,
) -> Result<BundlePage, S::Error> {
    let replaced = state.erasures_from(BundleNumber(0), usize::MAX)?;
    let origins: BTreeMap<BundleNumber, BundleNumber> =
        replaced.iter().flat_map(|old| old.replacements.iter().map(|new| (*new, old.bundle))).collect();
    let page = state.bundles_from(from, PAGE)?;
    let mut bundles = Vec::new();
    for record in page.iter().filter(|record| !record.codings.is_empty()) {
        // Bundles take the place of older ones only, so this ends.
        let mut first = record.number;
        while let Some(older) = origins.get(&first) {
            first = *older;
        }
        let committed_at = match first == record.number {
            true => record.committed_at,
            false => state.bundle(first)?.map_or(record.committed_at, |first| first.committed_at),
        };
        if committed_at >= since {
            bundles.push(record.number);
        }
    }
    let next = page.last().filter(|_| page.len() == PAGE).and_then(|last| last.number.0.checked_add(1));
    Ok((bundles, next.map(BundleNumber)))
}
