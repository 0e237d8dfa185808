//! How full bundles are.
//!
//! Owns: the sums over all bundles but emptied ones: what was in those lies in others. Always holds: what was added is taken
//! out again with the same figures, for a bundle never changes. Leaves to others: what a small bundle is (`firn-bundle`), what to
//! do about it (`compacting`).

pub(crate) use firn_bundle::{QUARTER_BYTES, is_small};
use firn_wire::BundleFill;

use crate::catalogue::BundleView;

/// Counts a bundle in.
pub(crate) fn add(fill: &mut BundleFill, bundle: &BundleView) {
    if bundle.is_emptied() {
        return;
    }
    fill.bundles = fill.bundles.saturating_add(1);
    fill.payload.0 = fill.payload.0.saturating_add(bundle.payload_bytes);
    if bundle.is_small() {
        fill.small_bundles = fill.small_bundles.saturating_add(1);
        fill.small_payload.0 = fill.small_payload.0.saturating_add(bundle.payload_bytes);
    }
}

/// Counts a bundle out.
pub(crate) fn remove(fill: &mut BundleFill, bundle: &BundleView) {
    if bundle.is_emptied() {
        return;
    }
    fill.bundles = fill.bundles.saturating_sub(1);
    fill.payload.0 = fill.payload.0.saturating_sub(bundle.payload_bytes);
    if bundle.is_small() {
        fill.small_bundles = fill.small_bundles.saturating_sub(1);
        fill.small_payload.0 = fill.small_payload.0.saturating_sub(bundle.payload_bytes);
    }
}
