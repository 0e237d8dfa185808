//! The commands by which full bundles take the place of small ones.
//!
//! Owns: their making. Always holds: each record of a new bundle is said to come from a place in one that it replaces.
//! Leaves to others: checking the new bundles (`commit_check`), carrying the commands out (`apply`).

use std::collections::BTreeMap;

use firn_base::BundleNumber;
use firn_wire::{Command, CompactedBundle, Gathered, GatheredRecord, RecordPlace};

use crate::commit_check::{CheckedBundle, RecordSummary};
use crate::similar::plan_features;

/// Why bundles cannot take the place of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GatheringError {
    /// The manifests and the list of places have not as many records.
    #[error("not every record of the new bundles is said to come from a place in those that they replace")]
    Places,
}

/// The command that lets `checked` bundles take the place of those that `gathered` names, which no bundle below
/// `looked_to` uses.
pub fn plan_gathering(
    gathered: &Gathered,
    checked: Vec<CheckedBundle>,
    looked_to: BundleNumber,
) -> Result<Command, GatheringError> {
    if gathered.from.len() != checked.len() {
        return Err(GatheringError::Places);
    }
    let mut into = Vec::with_capacity(checked.len());
    for (bundle, from) in checked.into_iter().zip(&gathered.from) {
        if from.len() != bundle.records.len() {
            return Err(GatheringError::Places);
        }
        let record = |(record, from): (&RecordSummary, _)| GatheredRecord {
            key: record.key,
            from,
            to: RecordPlace { block: record.block, entry: record.entry },
        };
        into.push(CompactedBundle {
            reservation: bundle.reservation,
            receipts: bundle.receipts,
            records: bundle.records.iter().zip(from.iter().copied()).map(record).collect(),
        });
    }
    Ok(Command::CompactUnused { bundles: gathered.bundles.clone(), into, looked_to })
}

/// By what the records of checked bundles are found, which take the places of those that `gathered` names: one command
/// for each of these in each new bundle.
pub fn plan_gathered_features(gathered: &Gathered, checked: &[CheckedBundle]) -> Vec<Command> {
    let mut commands = Vec::new();
    for (bundle, from) in checked.iter().zip(&gathered.from) {
        let mut by_old: BTreeMap<u16, Vec<RecordSummary>> = BTreeMap::new();
        for (record, from) in bundle.records.iter().zip(from) {
            by_old.entry(from.bundle).or_default().push(record.clone());
        }
        for (number, records) in by_old {
            let old = gathered.bundles.get(usize::from(number)).copied();
            commands.extend(old.and_then(|old| plan_features(bundle.bundle, Some(old), &records)));
        }
    }
    commands
}
