//! How full bundles are.
//!
//! Owns: the sums over all bundles but emptied ones: what was in those lies in others. Always holds: what was added is
//! taken out again with the same figures, for a bundle never changes. Leaves to others: what a small bundle is
//! (`firn-bundle`), what to do about it (`compacting`).

pub(crate) use firn_bundle::{QUARTER_BYTES, is_small};
use firn_wire::BundleFill;

use crate::catalogue::BundleView;

/// Counts a bundle in.
pub(crate) fn add(fill: &mut BundleFill, bundle: &BundleView) {
    count(fill, bundle, u64::saturating_add);
}

/// Counts a bundle out.
pub(crate) fn remove(fill: &mut BundleFill, bundle: &BundleView) {
    count(fill, bundle, u64::saturating_sub);
}

fn count(fill: &mut BundleFill, bundle: &BundleView, with: fn(u64, u64) -> u64) {
    if bundle.is_emptied() {
        return;
    }
    fill.bundles = with(fill.bundles, 1);
    fill.payload.0 = with(fill.payload.0, bundle.payload_bytes);
    if bundle.is_small() {
        fill.small_bundles = with(fill.small_bundles, 1);
        fill.small_payload.0 = with(fill.small_payload.0, bundle.payload_bytes);
    }
}
