//! Small bundles that stand near each other in the history, as many as one bundle has room for.
//!
//! Owns: the groups, and their limits. Always holds: neighbours of the history come together, so that closures and versions
//! stay near, but that one with other dependencies parts none that have theirs in common; a group keeps to every limit of a
//! bundle and of a command.
//! Leaves to others: whether a group is worth it, and which of it are free (`compacting`).

use std::collections::BTreeSet;

use firn_base::JointDependencies;
use firn_bundle::{MANIFEST_BYTES_MAX, PAYLOAD_BYTES_MAX, RECORDS_MAX};
use firn_wire::COMPACTED_BUNDLES_MAX;

use super::SmallBundle;
use crate::history::LEDGER_SPAN_MAX;

/// Groups that are open at a time, each for other full bundles that its members use: small publishes of a large archive use
/// now these and now those.
const OPEN_GROUPS_MAX: usize = 32;

/// Neighbours that one command could put together and that use so many others, as many as fit. Those that use too many
/// together do not part the ones before from the ones behind: each goes into that open group of which it uses most
/// already.
pub(super) fn neighbours(
    small: &[SmallBundle],
    turning_points: &BTreeSet<u64>,
    dependencies_max: usize,
) -> Vec<Vec<SmallBundle>> {
    let mut groups = Vec::new();
    let mut open: Vec<Room<'_>> = Vec::new();
    let mut before: Option<&SmallBundle> = None;
    for bundle in small {
        let is_cut = before.is_some_and(|before| {
            before.is_last || turning_points.range(before.order.0..bundle.order.0).next().is_some()
        });
        before = Some(bundle);
        if is_cut {
            groups.extend(open.drain(..).map(Room::into_bundles));
        }
        // What is full is not filled up with what comes much later.
        groups.extend(open.extract_if(.., |room| room.is_full_for(bundle)).map(Room::into_bundles));
        let used = open.iter().map(|room| &room.used);
        let found = JointDependencies::likest(used, &bundle.dependencies, dependencies_max);
        match found.and_then(|at| open.get_mut(at)) {
            Some(room) => room.take(bundle),
            None => {
                if open.len() >= OPEN_GROUPS_MAX {
                    groups.push(open.remove(0).into_bundles());
                }
                let mut room = Room::default();
                room.take(bundle);
                open.push(room);
            }
        }
    }
    groups.extend(open.drain(..).map(Room::into_bundles));
    groups
}

/// A group that is open, and what one bundle has room for.
#[derive(Default)]
struct Room<'a> {
    bundles: Vec<&'a SmallBundle>,
    payload_bytes: u64,
    manifest_bytes: u64,
    records: u64,
    used: JointDependencies<'a>,
}

impl<'a> Room<'a> {
    /// Whether another one has no room, whatever it uses.
    fn is_full_for(&self, bundle: &SmallBundle) -> bool {
        let first = self.bundles.first().map_or(bundle.order.0, |first| first.order.0);
        self.bundles.len() >= COMPACTED_BUNDLES_MAX
            || self.payload_bytes.saturating_add(bundle.payload_bytes) > PAYLOAD_BYTES_MAX
            || self.manifest_bytes.saturating_add(bundle.manifest_bytes) > MANIFEST_BYTES_MAX
            || self.records.saturating_add(bundle.records) > u64::from(RECORDS_MAX)
            || bundle.order.0.saturating_sub(first) > LEDGER_SPAN_MAX
    }

    /// Takes the room of one more.
    fn take(&mut self, bundle: &'a SmallBundle) {
        self.used.take(&bundle.id, &bundle.dependencies);
        self.payload_bytes = self.payload_bytes.saturating_add(bundle.payload_bytes);
        self.manifest_bytes = self.manifest_bytes.saturating_add(bundle.manifest_bytes);
        self.records = self.records.saturating_add(bundle.records);
        self.bundles.push(bundle);
    }

    fn into_bundles(self) -> Vec<SmallBundle> {
        self.bundles.into_iter().cloned().collect()
    }
}
