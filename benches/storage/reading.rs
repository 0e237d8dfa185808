//! What reading a path or a closure out of nothing but nodes takes: bundles, and bytes beside its own.

use std::collections::{BTreeMap, BTreeSet};

use firn_base::{BundleId, ObjectKey};
use firn_benches::process::Failure;
use firn_bundle::{ChunkRef, Manifest, Record};

use crate::corpus::Corpus;
use crate::variant::Measured;

#[derive(Debug)]
pub(crate) struct Reading {
    // Sorted.
    over_reads: Vec<u64>,
    per_path: Vec<usize>,
    per_closure: Vec<usize>,
}

/// What one path needs of frames; the manifest is read besides.
struct Need {
    over_read: u64,
    bundles: BTreeSet<BundleId>,
}

impl Reading {
    pub(crate) fn of(corpus: &Corpus, measured: &Measured) -> Result<Self, Failure> {
        let manifests: BTreeMap<BundleId, &Manifest> =
            measured.bundles.iter().map(|bundle| (bundle.content.bundle_id(), &*bundle.manifest)).collect();
        let mut needs = BTreeMap::new();
        for manifest in manifests.values() {
            for located in manifest.records() {
                let record = located?.record;
                needs.insert(record.key, Need::of(manifest, &manifests, &record)?);
            }
        }
        let mut over_reads: Vec<u64> = needs.values().map(|need| need.over_read).collect();
        over_reads.sort_unstable();
        let per_path = needs.values().map(|need| need.bundles.len()).collect();
        let per_closure = corpus.paths.keys().map(|key| {
            closure(corpus, *key).iter().flat_map(|key| &needs[key].bundles).collect::<BTreeSet<_>>().len()
        });
        Ok(Self { per_closure: per_closure.collect(), over_reads, per_path })
    }

    /// What `percent` of all paths do not exceed, in bytes.
    pub(crate) fn over_read(&self, percent: usize) -> u64 {
        let rank = (self.over_reads.len() * percent).div_ceil(100).saturating_sub(1);
        self.over_reads.get(rank).copied().unwrap_or(0)
    }

    pub(crate) fn bundles_per_path(&self) -> String {
        mean_and_most(&self.per_path)
    }

    pub(crate) fn bundles_per_closure(&self) -> String {
        mean_and_most(&self.per_closure)
    }
}

impl Need {
    fn of(own: &Manifest, all: &BTreeMap<BundleId, &Manifest>, record: &Record) -> Result<Self, Failure> {
        let mut frames = BTreeSet::new();
        let mut bundles = BTreeSet::from([own.content().bundle_id()]);
        // Its chunks, once each, as stored.
        let mut shares = BTreeMap::new();
        for chunk in own.chunk_list(record)?.chunks() {
            let (bundle, number) = match chunk {
                ChunkRef::Own(number) => (own.content().bundle_id(), number),
                ChunkRef::Foreign(number) => {
                    let foreign = own.foreign(number)?;
                    (own.content().dependencies()[usize::from(foreign.dependency)], foreign.number)
                }
            };
            let manifest = all.get(&bundle).ok_or("a bundle depends on one that is not there")?;
            let chunk = manifest.chunk(number)?;
            let frame = manifest.frame(chunk.frame)?;
            bundles.insert(bundle);
            frames.insert((bundle, chunk.frame, frame.stored_bytes));
            let share = u64::from(chunk.length) * u64::from(frame.stored_bytes) / u64::from(frame.raw_bytes);
            shares.insert((bundle, number), share);
        }
        let read: u64 = frames.iter().map(|(_, _, stored)| u64::from(*stored)).sum();
        Ok(Self { over_read: read.saturating_sub(shares.values().sum()), bundles })
    }
}

/// The path and everything that it leads to.
fn closure(corpus: &Corpus, root: ObjectKey) -> BTreeSet<ObjectKey> {
    let mut seen = BTreeSet::from([root]);
    let mut open = vec![root];
    while let Some(key) = open.pop() {
        let references = corpus.paths.get(&key).into_iter().flat_map(|path| &path.info.references);
        let keys = references.map(|path| ObjectKey::store_path(*path.hash()));
        open.extend(keys.filter(|key| corpus.paths.contains_key(key) && seen.insert(*key)));
    }
    seen
}

fn mean_and_most(counts: &[usize]) -> String {
    let mean = counts.iter().sum::<usize>() as f64 / counts.len().max(1) as f64;
    format!("{mean:.2}, {}", counts.iter().max().copied().unwrap_or(0))
}
