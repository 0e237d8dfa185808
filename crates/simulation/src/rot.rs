//! A bit of a shard that flips on a node's disk.
//!
//! Owns: of which shards. Always holds: it flips in a shard that was whole; no bundle rots
//! twice in a run, and none of which hardly more shards lie on disks than a commit needs, so that nothing is lost. Bits of
//! headers and of other files are left to the tests of nodes, which flip every kind.
//! Leaves to others: when (`faults`), whether a rotten shard is still where it was at the end (`oracle`).

use std::collections::BTreeSet;

use firn_base::BundleId;
use firn_storage_node::{Disk, MemoryDisk, verify_file};

use crate::chance::Chance;
use crate::machines::Machines;
use crate::oracle::{shard_of, spare_codings};

/// What has rotted in a run.
#[derive(Debug, Default)]
pub(crate) struct Rot {
    bundles: BTreeSet<BundleId>,
}

impl Rot {
    /// Flips a bit of a shard of node `number`. Gives the shard's path; none if it has no shard that may rot.
    pub(crate) fn flip(&mut self, machines: &Machines, number: usize, chance: &mut Chance) -> Option<String> {
        let disk = &machines.disks[number];
        let spare = spare_codings(machines);
        let bundle_at = |path: &str| spare.get(&shard_of(path)?.0).copied();
        let mut candidates: Vec<(String, BundleId)> = disk
            .paths()
            .into_iter()
            .filter_map(|path| bundle_at(&path).map(|bundle| (path, bundle)))
            .filter(|(_, bundle)| !self.bundles.contains(bundle))
            .collect();
        if candidates.is_empty() {
            return None;
        }
        let (path, bundle) = candidates.swap_remove(chance.position(candidates.len()));
        let offset = offset_in_shard(disk, &path, chance)?;
        if !disk.flip(&path, offset, 1 << chance.below(8)) {
            return None;
        }
        self.bundles.insert(bundle);
        Some(path)
    }
}

/// Any place of the shard in a file that is whole; none if it is not, or the disk does not give it.
fn offset_in_shard(disk: &MemoryDisk, path: &str, chance: &mut Chance) -> Option<usize> {
    let file = disk.open(path).ok()?;
    let layout = verify_file(file.as_ref()).ok()?.layout();
    usize::try_from(layout.shard_offset + chance.below(layout.shard_bytes)).ok()
}
