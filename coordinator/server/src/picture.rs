//! The archive as planners see it, kept in memory and up to date.
//!
//! Owns: the catalogue and the health of its bundles, in step with each other. Always holds: what was applied before
//! a look is seen in it. Leaves to others: what is planned from it (`driver`), soft state (`shared`).

use std::collections::BTreeSet;

use firn_base::{BundleNumber, Timestamp};
use firn_coordinator_logic::{Catalogue, FleetView, HealthIndex};

use crate::consensus::Consensus;
use crate::storage::StorageError;

/// The committed state in memory, and how its bundles are.
#[derive(Debug)]
pub(crate) struct Picture {
    applied: u64,
    pub(crate) catalogue: Catalogue,
    pub(crate) health: HealthIndex,
    /// Bundles that changed and were not judged since.
    changed: BTreeSet<BundleNumber>,
}

impl Picture {
    /// Reads the whole state.
    pub(crate) fn load(consensus: &Consensus, now: Timestamp) -> Result<Self, StorageError> {
        let (applied, catalogue) = read(consensus, None, now)?;
        let changed = all(&catalogue);
        Ok(Self { applied, catalogue, health: HealthIndex::new(), changed })
    }

    /// Takes in what was applied since; reads the whole state where that is not known any more.
    pub(crate) fn refresh(&mut self, consensus: &Consensus, now: Timestamp) -> Result<(), StorageError> {
        if let Some((applied, batches)) = consensus.applied_changes().take_after(self.applied) {
            for batch in batches {
                self.changed.extend(self.catalogue.absorb(batch.iter(), now));
            }
            self.applied = applied;
        } else {
            // Bundles that were known before may have been erased.
            self.changed = all(&self.catalogue);
            (self.applied, self.catalogue) = read(consensus, Some(&self.catalogue), now)?;
            self.changed.extend(all(&self.catalogue));
        }
        Ok(())
    }

    /// Judges what changed, in `fleet`.
    pub(crate) fn judge(&mut self, fleet: &FleetView, now: Timestamp) {
        self.health.update(&self.catalogue, fleet, &self.changed, now);
        self.changed.clear();
    }
}

fn read(
    consensus: &Consensus,
    before: Option<&Catalogue>,
    now: Timestamp,
) -> Result<(u64, Catalogue), StorageError> {
    // Before the state, so that what is applied meanwhile is taken in once more.
    let applied = consensus.applied_changes().applied();
    Ok((applied, Catalogue::reload(&consensus.facts(), before, now)?))
}

fn all(catalogue: &Catalogue) -> BTreeSet<BundleNumber> {
    catalogue.bundles().map(|bundle| bundle.number).collect()
}
