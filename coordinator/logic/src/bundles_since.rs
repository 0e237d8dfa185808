//! Which bundles hold what was archived since a time.
//!
//! Always holds: what was archived before and only packed anew since is not taken for newer than it is, for a bundle that
//! takes the place of another has that one's time. Leaves to others: what is in them (whoever reads their manifests).

use firn_base::{BundleNumber, Timestamp};

use crate::facts::Scan;

/// Bundles looked at for one page.
const PAGE: usize = 4096;

/// A page of bundles, and where the next one begins.
pub type BundlePage = (Vec<BundleNumber>, Option<BundleNumber>);

/// Bundles from a number on that were committed at `since` or later.
pub fn bundles_since<S: Scan>(
    state: &S,
    since: Timestamp,
    from: BundleNumber,
) -> Result<BundlePage, S::Error> {
    let page = state.bundles_from(from, PAGE)?;
    let is_new = |record: &&crate::BundleRecord| !record.codings.is_empty() && record.committed_at >= since;
    let bundles = page.iter().filter(is_new).map(|record| record.number).collect();
    let next = page.last().filter(|_| page.len() == PAGE).and_then(|last| last.number.0.checked_add(1));
    Ok((bundles, next.map(BundleNumber)))
}
