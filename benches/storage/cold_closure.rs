//! Reading a closure that nothing is known of: which requests it takes, and whom.
//!
//! Owns: counting. Always holds: it is read by the readers that gateways read with, path infos first and then every NAR,
//! checked against its NarHash; a range that lies in two shards is two requests; what nodes are asked for is counted without
//! proofs, and as if each shard lay on a node of its own that answers at once. Leaves to others: lookups at coordinators.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use firn_base::{BundleId, ObjectKey, ShardIndex};
use firn_benches::process::Failure;
use firn_bundle::ContentHeader;
use firn_client::PaperBundle;
use firn_retrieval::{
    ManifestOptions, ManifestReader, ObjectOptions, ObjectReader, PayloadReader, ReadError,
};
use firn_transport::Environment;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::TryStreamExt;

use crate::corpus::Corpus;
use crate::reading::{Reading, Readings};
use crate::variant::Measured;

// What a gateway remembers of frames if its operator says nothing else.
const FRAME_CACHE_BYTES: usize = 256_000_000;

/// What reading a closure took.
#[derive(Debug)]
pub(crate) struct ColdClosure {
    generation: u32,
    pub(crate) paths: usize,
    pub(crate) nar_bytes: u64,
    own_bytes: u64,
    // Bundles that hold its records; those and what they use; how many its bytes would fill.
    record_bundles: usize,
    bundles: usize,
    bundles_filled: u64,
    reads: Reads,
    each_path: Readings,
}

/// What was asked of nodes.
#[derive(Debug, Default, Clone)]
struct Reads {
    manifests: Tally,
    frames: Tally,
    holders: BTreeSet<(BundleId, ShardIndex)>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    requests: u64,
    bytes: u64,
}

/// The bundles of a measurement, as nodes would give them.
#[derive(Debug)]
struct CountedPayloads {
    bundles: BTreeMap<BundleId, PaperBundle>,
    reads: Mutex<Reads>,
}

impl ColdClosure {
    /// Reads the largest closure of a generation.
    pub(crate) fn read(
        corpus: &Corpus,
        measured: &Measured,
        reading: &Reading,
        generation: u32,
    ) -> Result<Self, Failure> {
        let closure = corpus.largest_closure(generation);
        let bundles = measured.bundles.iter().map(|bundle| (bundle.content.bundle_id(), bundle.clone()));
        let payloads = Arc::new(CountedPayloads { bundles: bundles.collect(), reads: Mutex::default() });
        let reader: Arc<dyn PayloadReader> = Arc::<CountedPayloads>::clone(&payloads);
        let places = places(measured)?;
        let read = read_all(reader, &places, &closure);
        let nar_bytes = tokio::runtime::Runtime::new()?.block_on(read)?;
        if nar_bytes != corpus.nar_bytes_of(&closure) {
            return Err("the closure came back with other sizes than were published".into());
        }
        let records = closure.iter().filter_map(|key| places.get(key)).map(|(bundle, _)| bundle);
        let need = reading.together(&closure);
        let reads = payloads.reads.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(Self {
            generation,
            paths: closure.len(),
            nar_bytes,
            own_bytes: need.own_bytes(),
            record_bundles: records.collect::<BTreeSet<_>>().len(),
            bundles: need.bundles.len(),
            bundles_filled: need.own_bytes().div_ceil(measured.bundle_bytes),
            reads,
            each_path: reading.paths(&closure),
        })
    }
}

impl fmt::Display for ColdClosure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mega = |bytes: u64| bytes as f64 / 1e6;
        let Reads { manifests, frames, holders } = &self.reads;
        writeln!(
            formatter,
            "| the closure of {} paths in generation {}, cold | |",
            self.paths, self.generation
        )?;
        writeln!(formatter, "| --- | --- |")?;
        let (nars, own) = (mega(self.nar_bytes), mega(self.own_bytes));
        writeln!(formatter, "| NARs, MB; its chunks as stored, MB | {nars:.2}; {own:.2} |")?;
        writeln!(
            formatter,
            "| bundles with its path infos; those and what they use; bundles that its chunks would fill | {}; {}; {} |",
            self.record_bundles, self.bundles, self.bundles_filled
        )?;
        writeln!(
            formatter,
            "| reads of manifests; MB; for each path | {}; {:.2}; {:.2} |",
            manifests.requests,
            mega(manifests.bytes),
            manifests.requests as f64 / self.paths.max(1) as f64
        )?;
        writeln!(
            formatter,
            "| reads of frames; MB; of these beside its own | {}; {:.2}; {:.2} |",
            frames.requests,
            mega(frames.bytes),
            mega(frames.bytes.saturating_sub(self.own_bytes))
        )?;
        writeln!(formatter, "| holders (shard of a bundle) that are read | {} |", holders.len())?;
        write!(
            formatter,
            "| MB of frames beside its own, each path by itself: half, 95 of 100, worst | {} |",
            self.each_path.over_read()
        )
    }
}

type Places = BTreeMap<ObjectKey, (BundleId, (u16, u16))>;

/// Bundle, block and entry of each record: what a coordinator tells.
fn places(measured: &Measured) -> Result<Places, Failure> {
    let mut places = Places::new();
    for bundle in &measured.bundles {
        for located in bundle.manifest.records() {
            let located = located?;
            let place = (located.block, located.entry);
            places.insert(located.record.key, (bundle.content.bundle_id(), place));
        }
    }
    Ok(places)
}

/// Reads path infos and NARs as Nix does: what paths refer to before themselves. Gives the bytes of all NARs.
async fn read_all(
    payloads: Arc<dyn PayloadReader>,
    places: &Places,
    closure: &[ObjectKey],
) -> Result<u64, Failure> {
    let manifests = ManifestReader::new(payloads, ManifestOptions::default());
    let options = ObjectOptions { frame_cache_bytes: FRAME_CACHE_BYTES, ..ObjectOptions::default() };
    let objects = ObjectReader::new(manifests, Environment::real(), options);
    let mut records = Vec::new();
    for key in closure {
        let (bundle, (block, entry)) = places.get(key).ok_or("a path of the closure is not archived")?;
        let record = objects.manifests().record(*bundle, *block, *entry, key).await?;
        records.push((*bundle, record));
    }
    let mut bytes = 0;
    for (bundle, record) in records.into_iter().rev() {
        let mut nar = objects.open(bundle, record).await?.stream(None)?;
        while let Some(piece) = nar.try_next().await? {
            bytes += piece.len() as u64;
        }
    }
    Ok(bytes)
}

impl CountedPayloads {
    fn bundle(&self, bundle: BundleId) -> Result<&PaperBundle, ReadError> {
        self.bundles.get(&bundle).ok_or(ReadError::UnknownBundle { bundle })
    }

    fn count(&self, own: &PaperBundle, bundle: BundleId, range: &Range<u64>) {
        let is_manifest = range.start >= own.content.manifest_extent().start;
        let mut reads = self.reads.lock().unwrap_or_else(PoisonError::into_inner);
        for (shard, bytes) in own.coding.locate(range.clone()) {
            reads.holders.insert((bundle, shard));
            let tally = if is_manifest { &mut reads.manifests } else { &mut reads.frames };
            tally.requests += 1;
            tally.bytes += bytes.end - bytes.start;
        }
    }
}

impl PayloadReader for CountedPayloads {
    fn content(&self, bundle: BundleId) -> BoxFuture<'_, Result<Arc<ContentHeader>, ReadError>> {
        async move { Ok(Arc::new(self.bundle(bundle)?.content.clone())) }.boxed()
    }

    fn read(&self, bundle: BundleId, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ReadError>> {
        async move {
            let own = self.bundle(bundle)?;
            self.count(own, bundle, &range);
            let failed = |what: String| ReadError::Damaged { bundle, what };
            let length = usize::try_from(range.end.saturating_sub(range.start));
            let mut piece = vec![0; length.map_err(|error| failed(error.to_string()))?];
            own.payload.read_exact_at(range.start, &mut piece).map_err(|error| failed(error.to_string()))?;
            Ok(piece.into())
        }
        .boxed()
    }
}
