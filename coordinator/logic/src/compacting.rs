//! Which small bundles come together in full ones, and when.
//!
//! Owns: the choice among groups of neighbours, and the plan; below it, which small bundles are free to come together
//! (`small_bundle`), who is whose neighbour (`neighbours`), and the command (`gathering`). Always holds: what was packed anew
//! lies in a bundle that is no longer small, or that is at least twice as large as the one it came from: so a byte of a
//! bundle of b bytes is packed anew at most 1 + log2(64 MiB / b) times, as long as packing saves nothing, and what packing
//! saves is gone for good; nothing comes together that `apply` would refuse.
//! Leaves to others: packing and sending (an operator's program), the command (`apply`), room (a reservation gets none that
//! repairs need), erasing what others took the place of (`purging`).

mod gathering;
mod neighbours;
mod small_bundle;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use firn_base::{BundleId, BundleNumber, ByteCount};
use firn_bundle::{DEPENDENCIES_MAX, PAYLOAD_BYTES_MAX, RECORDS_MAX};
use firn_wire::{BundleFill, COMPACTION_GROUPS_MAX, CompactionGroup, CompactionPlan};

pub use self::gathering::{GatheringError, plan_gathered_features, plan_gathering};
use self::neighbours::neighbours;
pub use self::small_bundle::{
    SmallBundle, UsedBundle, UsedByOthers, check_unused, order_of, read_small, small_bundles,
};
use crate::brake::BrakeState;
use crate::bundle_fill::QUARTER_BYTES;
use crate::facts::Scan;
use crate::history::is_turning_point;
use crate::planning::PlanningView;

/// More of all bytes than this shall not lie in small bundles.
const SMALL_PER_CENT_MAX: u8 = 5;

/// What fills a bundle so far is packed in any case.
const HALF_BYTES: u64 = PAYLOAD_BYTES_MAX / 2;
const HALF_RECORDS: u64 = RECORDS_MAX as u64 / 2;

/// Other bundles that a group may use. It needs a quarter of a bundle for each eight, and has a bundle at most: with a quarter to
/// spare, or hardly any group would have exactly what it needs.
const WIDE_DEPENDENCIES_MAX: usize = 3 * DEPENDENCIES_MAX;
const _: () = assert!(
    (WIDE_DEPENDENCIES_MAX / DEPENDENCIES_MAX) as u64 * QUARTER_BYTES <= PAYLOAD_BYTES_MAX - QUARTER_BYTES
);

/// Entries of the ledger read at a time.
const PAGE: usize = 4_096;

/// Why nothing is compacted now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CompactionRefusal {
    /// Repair needs the fleet for itself.
    #[error(
        "{0} bundles can lose few more shards: repair comes first, compact again when `firn status` shows none as urgent"
    )]
    Urgent(u64),
    /// Nobody knows how the fleet is.
    #[error("much of the fleet is away, or the leader has not heard it yet: compact again when it is back")]
    FleetAway,
}

/// Whether anything may be compacted now.
pub fn check_compaction(view: &PlanningView<'_>) -> Result<(), CompactionRefusal> {
    let urgent = view.health.tally().counts.urgent;
    match view.brake {
        _ if urgent > 0 => Err(CompactionRefusal::Urgent(urgent)),
        BrakeState::NewLeader { .. } | BrakeState::FleetVanished { .. } => Err(CompactionRefusal::FleetAway),
        _ => Ok(()),
    }
}

/// What to compact now of these bundles, in the order of the history.
pub fn plan_compaction<S: Scan>(
    state: &S,
    small: &[SmallBundle],
    fill: BundleFill,
) -> Result<CompactionPlan, S::Error> {
    Ok(plan_groups(small, &read_turning_points(state, small)?, fill))
}

/// What to compact now of these bundles, in the order of the history, between which acts at `turning_points` of the ledger lie.
pub fn plan_groups(
    small: &[SmallBundle],
    turning_points: &BTreeSet<u64>,
    fill: BundleFill,
) -> CompactionPlan {
    let mut groups = chosen_groups(small, turning_points, fill.exceeds(SMALL_PER_CENT_MAX));
    groups.truncate(COMPACTION_GROUPS_MAX);
    CompactionPlan { fill, groups: groups.iter().map(|group| told(group)).collect() }
}

/// All groups that are worth being packed anew, in the order of their last bundles.
fn chosen_groups(
    small: &[SmallBundle],
    turning_points: &BTreeSet<u64>,
    is_pressing: bool,
) -> Vec<Vec<SmallBundle>> {
    let mut groups = Vec::new();
    for group in neighbours(small, turning_points, WIDE_DEPENDENCIES_MAX) {
        let group = free_together(&group);
        if fills_what_it_needs(&group) {
            choose(&group, is_pressing, &mut groups);
            continue;
        }
        for group in neighbours(&group, turning_points, DEPENDENCIES_MAX) {
            choose(&free_together(&group), is_pressing, &mut groups);
        }
    }
    groups.sort_by_key(|group| group.last().map(|bundle| bundle.order));
    groups
}

/// Positions of acts between the first of these bundles and the last that change what a commit shows.
fn read_turning_points<S: Scan>(state: &S, small: &[SmallBundle]) -> Result<BTreeSet<u64>, S::Error> {
    let mut positions = BTreeSet::new();
    let (Some(first), Some(last)) = (small.first(), small.last()) else { return Ok(positions) };
    let (mut next, end) = (first.order.0, last.order.0);
    while next < end {
        let page = state.ledger_from(next, PAGE)?;
        let Some(read) = page.last() else { break };
        next = read.position.saturating_add(1);
        positions
            .extend(page.iter().filter(|entry| is_turning_point(&entry.act)).map(|entry| entry.position));
    }
    Ok(positions)
}

/// Whether a group has bytes enough for as many full bundles as it takes to use all that it uses: what is packed is put in order
/// by that, and each bundle may use eight others.
fn fills_what_it_needs(group: &[SmallBundle]) -> bool {
    let members: BTreeSet<&BundleId> = group.iter().map(|bundle| &bundle.id).collect();
    let used: BTreeSet<&BundleId> = group.iter().flat_map(|bundle| &bundle.dependencies).collect();
    let bundles = used.difference(&members).count().div_ceil(DEPENDENCIES_MAX) as u64;
    bundles <= 1 || payload_of(group) >= bundles.saturating_mul(QUARTER_BYTES)
}

/// Those of a group that others than they themselves use no chunks of.
fn free_together(group: &[SmallBundle]) -> Vec<SmallBundle> {
    let mut free = group.to_vec();
    loop {
        let own: BTreeSet<BundleNumber> = free.iter().map(|bundle| bundle.order.2).collect();
        let before = free.len();
        free.retain(|bundle| bundle.dependents.iter().all(|other| own.contains(other)));
        // One that stays may be what keeps another one.
        if free.len() == before {
            return free;
        }
    }
}

/// Whether all of a group, and nobody else, uses chunks of what is in it.
fn is_closed(group: &[SmallBundle]) -> bool {
    free_together(group).len() == group.len()
}

/// Adds those of a group to `chosen` that are worth being packed anew: all of it, or what lies on one side of its largest
/// bundle.
fn choose(group: &[SmallBundle], is_pressing: bool, chosen: &mut Vec<Vec<SmallBundle>>) {
    // Not by recursion: somebody may have published ever smaller bundles.
    let mut left = vec![group];
    while let Some(group) = left.pop() {
        if group.len() < 2 {
            continue;
        }
        if is_due(group, is_pressing) && is_closed(group) {
            chosen.push(group.to_vec());
            continue;
        }
        let largest = group.iter().enumerate().max_by_key(|(_, bundle)| bundle.payload_bytes);
        let Some((largest, _)) = largest else { continue };
        left.extend(group.get(largest + 1..));
        left.extend(group.get(..largest));
    }
}

fn is_due(group: &[SmallBundle], is_pressing: bool) -> bool {
    let (bytes, records) = (payload_of(group), records_of(group));
    let largest = group.iter().map(|bundle| bundle.payload_bytes).max().unwrap_or(0);
    let is_full = bytes >= HALF_BYTES || records >= HALF_RECORDS;
    is_full || (is_pressing && (bytes >= QUARTER_BYTES || bytes >= largest.saturating_mul(2)))
}

fn payload_of(group: &[SmallBundle]) -> u64 {
    group.iter().fold(0, |sum, bundle| sum.saturating_add(bundle.payload_bytes))
}

fn records_of(group: &[SmallBundle]) -> u64 {
    group.iter().fold(0, |sum, bundle| sum.saturating_add(bundle.records))
}

fn told(group: &[SmallBundle]) -> CompactionGroup {
    CompactionGroup {
        bundles: group.iter().map(|bundle| bundle.id).collect(),
        payload: ByteCount(payload_of(group)),
        records: records_of(group),
    }
}
