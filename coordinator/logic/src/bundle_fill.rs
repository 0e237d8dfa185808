//! How full bundles are.
//!
//! Owns: what a small bundle is, and the sums over all bundles but emptied ones: what was in those lies in others. Always holds: what was added is taken out again with the same
//! figures, for a bundle never changes. Leaves to others: what to do about it (`compacting`).

use firn_bundle::{PAYLOAD_BYTES_MAX, RECORDS_MAX};
use firn_wire::BundleFill;

use crate::catalogue::BundleView;

/// With as many payload bytes a bundle is not small.
pub(crate) const QUARTER_BYTES: u64 = PAYLOAD_BYTES_MAX / 4;

/// With as many records a bundle is not small, whatever their bytes.
const QUARTER_RECORDS: u64 = RECORDS_MAX as u64 / 4;

/// Whether a bundle is under a quarter full.
pub(crate) const fn is_small(payload_bytes: u64, records: u64) -> bool {
    payload_bytes < QUARTER_BYTES && records < QUARTER_RECORDS
}

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
