//! The commands by which full bundles take the place of small ones.
//!
//! Owns: their making. Always holds: each record of a new bundle is said to come from a place in one that it replaces.
//! Leaves to others: checking the new bundles (`commit_check`), carrying the commands out (`apply`).

use std::collections::BTreeMap;

use firn_base::BundleNumber;
use firn_wire::{Command, CompactedBundle, Gathered, GatheredRecord, RecordPlace};

use crate::commit_check::{CheckedBundle, RecordSummary};
use crate::compacting::order_of;
use crate::facts::Facts;
use crate::history::HistoryOrder;
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

/// By what the records of checked bundles are found, which take the places of those that `gathered` names: one command for each
/// of these in each new bundle. Those of the bundle that was the last in the history come first, in whatever order they are named:
/// of each new bundle the latest of several versions is found, also where the leader changes before all is told.
pub fn plan_gathered_features<F: Facts>(
    facts: &F,
    gathered: &Gathered,
    checked: &[CheckedBundle],
) -> Result<Vec<Command>, F::Error> {
    let mut orders = Vec::with_capacity(gathered.bundles.len());
    for old in &gathered.bundles {
        orders.push(order_of(facts, *old)?);
    }
    // By the places of old bundles in the history, then by new bundle.
    let mut told: BTreeMap<(HistoryOrder, usize, u16), Vec<RecordSummary>> = BTreeMap::new();
    for (number, (new, from)) in checked.iter().zip(&gathered.from).enumerate() {
        for (record, from) in new.records.iter().zip(from) {
            // Of what is unknown nothing is remembered.
            let Some(Some(order)) = orders.get(usize::from(from.bundle)) else { continue };
            told.entry((*order, number, from.bundle)).or_default().push(record.clone());
        }
    }
    let commands = told.into_iter().rev().filter_map(|((_, number, old), records)| {
        let (new, old) = (checked.get(number)?, gathered.bundles.get(usize::from(old))?);
        plan_features(new.bundle, Some(*old), &records)
    });
    Ok(commands.collect())
}
