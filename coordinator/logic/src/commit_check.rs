//! What the leader decides before it proposes a commit: which entries wait, and for what.
//!
//! Owns: the waits of each entry over all bundles of a request. Always holds: an entry without waits refers only
//! to what is visible, external, or becomes visible with it; time grows with records and references only.
//! Leaves to others: parsing manifests and publishers' signatures (the shell), receipts (`receipts`), what has
//! become visible until the command is applied (`apply`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use firn_base::{BundleId, Feature, NodeId, ObjectKey, ReservationId, ShardIndex};
use firn_bundle::BundleRole;
use firn_wire::{BundleCommit, Command, IndexEntry};

use crate::facts::Facts;

/// One record of a manifest: its key, its place, and what it refers to (itself may be among it).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordSummary {
    /// The key.
    pub key: ObjectKey,
    /// Path-info block of the manifest.
    pub block: u16,
    /// Record in the block.
    pub entry: u16,
    /// References.
    pub references: Vec<ObjectKey>,
    /// By what objects like it are found.
    pub features: Vec<Feature>,
}

/// One bundle of a commit whose manifest and receipts were checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedBundle {
    /// Its reservation.
    pub reservation: ReservationId,
    /// Its id.
    pub bundle: BundleId,
    /// Shards with receipts.
    pub receipts: Vec<(ShardIndex, NodeId)>,
    /// The records of its manifest.
    pub records: Vec<RecordSummary>,
}

/// A bundle is to be committed in which nothing can be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "bundle {0} holds no path and no file, and is no part of a larger object: leave it out, and publish again what uses its chunks"
)]
pub struct WithoutRecords(pub BundleId);

/// Refuses an ordinary bundle without records. One that is there was emptied when the archive was rebuilt, and every purge
/// waits until it is gone: whoever may upload could hold them all up with such bundles.
pub const fn check_has_records(
    bundle: BundleId,
    role: BundleRole,
    records: usize,
) -> Result<(), WithoutRecords> {
    match role {
        BundleRole::Ordinary if records == 0 => Err(WithoutRecords(bundle)),
        BundleRole::Ordinary | BundleRole::Part | BundleRole::Head => Ok(()),
    }
}

/// References that are external.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExternalReferences<'a> {
    /// If nothing of them is archived.
    Offered(&'a [ObjectKey]),
    /// They were recorded when what refers to them was committed, whatever has come of them since.
    Recorded(&'a [ObjectKey]),
}

/// The command for checked bundles. Of `externals` only references of these bundles are taken that are neither
/// archived nor in the commit.
pub fn plan_commit<F: Facts>(
    facts: &F,
    bundles: &[CheckedBundle],
    externals: &[ObjectKey],
) -> Result<Command, F::Error> {
    let records: Vec<&RecordSummary> = bundles.iter().flat_map(|bundle| &bundle.records).collect();
    let (entries, externals) = plan_entries(facts, &records, ExternalReferences::Offered(externals))?;
    let mut entries = entries.into_iter();
    let bundles = bundles.iter().map(|bundle| BundleCommit {
        reservation: bundle.reservation,
        receipts: bundle.receipts.clone(),
        entries: entries.by_ref().take(bundle.records.len()).collect(),
    });
    Ok(Command::Commit { bundles: bundles.collect(), externals })
}

/// The entries of records that become part of the archive at one stroke, and those of `externals` that count.
pub fn plan_entries<F: Facts>(
    facts: &F,
    records: &[&RecordSummary],
    externals: ExternalReferences<'_>,
) -> Result<(Vec<IndexEntry>, Vec<ObjectKey>), F::Error> {
    let mut own_keys = BTreeSet::new();
    for record in records {
        // A withdrawn key never becomes visible, so who refers to it waits.
        if !facts.is_withdrawn(record.key)? {
            own_keys.insert(record.key);
        }
    }
    let (given, are_recorded) = match externals {
        ExternalReferences::Offered(keys) => (keys, false),
        ExternalReferences::Recorded(keys) => (keys, true),
    };
    let given: BTreeSet<_> = given.iter().copied().collect();
    let mut taken = BTreeSet::new();
    let mut satisfied = BTreeMap::new();
    for reference in records.iter().flat_map(|record| &record.references) {
        if !satisfied.contains_key(reference) {
            let known = facts.is_satisfied(*reference)?;
            let external = !known && given.contains(reference) && !own_keys.contains(reference);
            let is_external = external
                && (are_recorded
                    || (facts.held(*reference)?.is_empty() && !facts.is_withdrawn(*reference)?));
            if is_external {
                taken.insert(*reference);
            }
            satisfied.insert(*reference, known || taken.contains(reference));
        }
    }
    let is_open = |reference: &ObjectKey| !satisfied.get(reference).copied().unwrap_or_default();
    let waits = waits_of(records, &own_keys, is_open);
    let entries = records.iter().zip(waits).map(|(record, waits)| IndexEntry {
        key: record.key,
        block: record.block,
        entry: record.entry,
        waits,
    });
    Ok((entries.collect(), taken.into_iter().collect()))
}

/// What each record waits for: open references outside the commit, and keys of the commit that wait themselves.
fn waits_of(
    records: &[&RecordSummary],
    own_keys: &BTreeSet<ObjectKey>,
    is_open: impl Fn(&ObjectKey) -> bool,
) -> Vec<Vec<ObjectKey>> {
    let mut waits: Vec<BTreeSet<ObjectKey>> = vec![BTreeSet::new(); records.len()];
    let mut referrers: BTreeMap<ObjectKey, Vec<usize>> = BTreeMap::new();
    // Records of each key that do not wait: a key waits only when all its records do.
    let mut ready: BTreeMap<ObjectKey, usize> = BTreeMap::new();
    let mut waiting_keys = VecDeque::new();
    for record in records {
        *ready.entry(record.key).or_default() += 1;
    }
    for (position, record) in records.iter().enumerate() {
        let distinct: BTreeSet<_> = record.references.iter().filter(|own| **own != record.key).collect();
        for reference in distinct.into_iter().filter(|reference| is_open(reference)) {
            if own_keys.contains(reference) {
                referrers.entry(*reference).or_default().push(position);
            } else {
                waits[position].insert(*reference);
            }
        }
        if !waits[position].is_empty() {
            begin_to_wait(&mut ready, record.key, &mut waiting_keys);
        }
    }
    while let Some(key) = waiting_keys.pop_front() {
        for position in referrers.remove(&key).unwrap_or_default() {
            let waited = !waits[position].is_empty();
            waits[position].insert(key);
            if !waited {
                begin_to_wait(&mut ready, records[position].key, &mut waiting_keys);
            }
        }
    }
    waits.into_iter().map(|waits| waits.into_iter().collect()).collect()
}

fn begin_to_wait(
    ready: &mut BTreeMap<ObjectKey, usize>,
    key: ObjectKey,
    waiting_keys: &mut VecDeque<ObjectKey>,
) {
    if let Some(left) = ready.get_mut(&key) {
        *left = left.saturating_sub(1);
        if *left == 0 {
            waiting_keys.push_back(key);
        }
    }
}
