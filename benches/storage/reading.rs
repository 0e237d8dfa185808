//! What reading a path or a closure out of nothing but nodes takes: bundles, and bytes of frames beside its own.
//!
//! Always holds: figures are reckoned from the manifests that a publish left; each path and each closure is read by
//! itself, and a frame that several of its chunks lie in is read once. Leaves to others: reading for real, manifests
//! included (`cold_closure`).

use std::collections::{BTreeMap, BTreeSet};

use firn_base::{BundleId, ObjectKey};
use firn_benches::process::Failure;
use firn_bundle::{ChunkRef, Manifest, Record};

use crate::corpus::Corpus;
use crate::variant::Measured;

/// What each path of a corpus takes to be read.
#[derive(Debug)]
pub(crate) struct Reading {
    needs: BTreeMap<ObjectKey, Need>,
}

/// What one path or closure needs of frames.
#[derive(Debug, Default, Clone)]
pub(crate) struct Need {
    pub(crate) bundles: BTreeSet<BundleId>,
    // Frames with their stored bytes, and chunks with their part of these.
    frames: BTreeMap<(BundleId, u32), u64>,
    chunks: BTreeMap<(BundleId, u32), u64>,
}

/// What many readings, each by itself, took.
#[derive(Debug)]
pub(crate) struct Readings {
    // Sorted.
    over_reads: Vec<u64>,
    bundles: Vec<usize>,
}

impl Reading {
    pub(crate) fn of(measured: &Measured) -> Result<Self, Failure> {
        let manifests: BTreeMap<BundleId, &Manifest> =
            measured.bundles.iter().map(|bundle| (bundle.content.bundle_id(), &*bundle.manifest)).collect();
        let mut needs = BTreeMap::new();
        for manifest in manifests.values() {
            for located in manifest.records() {
                let record = located?.record;
                needs.insert(record.key, Need::of(manifest, &manifests, &record)?);
            }
        }
        Ok(Self { needs })
    }

    /// What these paths need together.
    pub(crate) fn together(&self, paths: &[ObjectKey]) -> Need {
        let mut together = Need::default();
        self.among(paths).for_each(|need| together.add(need));
        together
    }

    /// Each of these paths.
    pub(crate) fn paths(&self, paths: &[ObjectKey]) -> Readings {
        Readings::new(self.among(paths).map(|need| (need.over_read(), need.bundles.len())))
    }

    /// The closure of each path.
    pub(crate) fn closures(&self, corpus: &Corpus) -> Readings {
        Readings::new(corpus.paths.keys().map(|root| {
            let need = self.together(&corpus.closure(*root));
            (need.over_read(), need.bundles.len())
        }))
    }

    fn among<'a>(&'a self, paths: &'a [ObjectKey]) -> impl Iterator<Item = &'a Need> {
        paths.iter().filter_map(|key| self.needs.get(key))
    }
}

impl Need {
    fn of(own: &Manifest, all: &BTreeMap<BundleId, &Manifest>, record: &Record) -> Result<Self, Failure> {
        let mut need = Self { bundles: BTreeSet::from([own.content().bundle_id()]), ..Self::default() };
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
            need.bundles.insert(bundle);
            need.frames.insert((bundle, chunk.frame), frame.stored_bytes.into());
            let part = u64::from(chunk.length) * u64::from(frame.stored_bytes) / u64::from(frame.raw_bytes);
            need.chunks.insert((bundle, number), part);
        }
        Ok(need)
    }

    fn add(&mut self, other: &Self) {
        self.bundles.extend(&other.bundles);
        self.frames.extend(&other.frames);
        self.chunks.extend(&other.chunks);
    }

    /// Bytes of its chunks, as stored.
    pub(crate) fn own_bytes(&self) -> u64 {
        self.chunks.values().sum()
    }

    /// Bytes of its frames that are those of other chunks.
    pub(crate) fn over_read(&self) -> u64 {
        self.frames.values().sum::<u64>().saturating_sub(self.own_bytes())
    }
}

impl Readings {
    fn new(readings: impl Iterator<Item = (u64, usize)>) -> Self {
        let (mut over_reads, bundles): (Vec<u64>, Vec<usize>) = readings.unzip();
        over_reads.sort_unstable();
        Self { over_reads, bundles }
    }

    /// Megabytes read beside their own: half of them, 95 of 100, the worst.
    pub(crate) fn over_read(&self) -> String {
        let megabytes = |percent| format!("{:.2}", self.over_read_of(percent) as f64 / 1e6);
        [50, 95, 100].map(megabytes).join(", ")
    }

    /// What so many of 100 do not exceed.
    fn over_read_of(&self, percent: usize) -> u64 {
        let rank = (self.over_reads.len() * percent).div_ceil(100).saturating_sub(1);
        self.over_reads.get(rank).copied().unwrap_or(0)
    }

    /// Bundles: mean and most.
    pub(crate) fn bundles(&self) -> String {
        let mean = self.bundles.iter().sum::<usize>() as f64 / self.bundles.len().max(1) as f64;
        format!("{mean:.2}, {}", self.bundles.iter().max().copied().unwrap_or(0))
    }
}
