//! How long reads take when nodes take requests and say nothing: an archive of real programs on loopback, read in this
//! process through the reader of gateways, once with all nodes well and once with a share of them stalled.
//!
//! `cargo run --release -p firn-benches --example stalls -- DIR` prints what RESULTS.md records; the programs must lie
//! beside it. DIR is empty or missing at first. Each read is one NAR of 1 MB, with its hash, by a reader that remembers
//! directories and manifests but no contents.
//!
//! Owns: the order of reads and what is measured. Always holds: every NAR is checked; a read that fails ends the run.
//! Leaves to others: the programs (`archive`), the paths (`cache`).

#[path = "../swarm/archive.rs"]
#[allow(dead_code, reason = "another benchmark uses the rest")]
mod archive;
#[path = "../swarm/cache.rs"]
#[allow(dead_code, reason = "another benchmark uses the rest")]
mod cache;

use std::collections::BTreeSet;
use std::error::Error;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Parser;
use firn_base::{ByteCount, NodeId, ObjectKey};
use firn_client::ArchiveOptions;
use firn_nix_format::Sha256;
use firn_retrieval::{
    CachedDirectory, CoordinatorSource, Directory, DirectoryOptions, ManifestOptions, ManifestReader,
    NodeSource, ObjectOptions, ObjectReader, ReadRangeError, ShardRange, ShardSource, SwarmOptions,
    SwarmReader,
};
use firn_transport::{EndpointOptions, Environment};
use firn_wire::{Identity, NodeAddress, Pass, Signed};
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt, TryStreamExt};

use crate::archive::{Archive, Founding};
use crate::cache::Cache;

type Failure = Box<dyn Error + Send + Sync>;

/// Reads NARs of 1 MB from a local archive, with and without nodes that say nothing.
#[derive(Debug, Parser)]
struct Options {
    /// Where cache and archive are made
    dir: PathBuf,
    /// Storage nodes
    #[arg(long, default_value_t = 20)]
    nodes: u64,
    /// Of these, how many in a hundred say nothing in the second half
    #[arg(long, default_value_t = 10)]
    stalled: usize,
    /// Paths, 1 MB each
    #[arg(long, default_value_t = 100)]
    paths: usize,
    /// Reads of each half
    #[arg(long, default_value_t = 2000)]
    reads: usize,
    /// Reads at once
    #[arg(long, default_value_t = 2)]
    at_once: usize,
}

const NAR_BYTES: u64 = 1_000_000;

/// Nodes as they are, but for those that take a request and never answer it.
#[derive(Debug)]
struct Stalling {
    inner: NodeSource,
    stalled: Arc<Mutex<BTreeSet<NodeId>>>,
}

impl ShardSource for Stalling {
    fn read<'a>(
        &'a self,
        node: &'a NodeAddress,
        pass: Option<Arc<Signed<Pass>>>,
        wanted: &'a ShardRange,
    ) -> BoxFuture<'a, Result<Bytes, ReadRangeError>> {
        async move {
            let answer = self.inner.read(node, pass, wanted).await;
            let stalls = self.stalled.lock().unwrap_or_else(PoisonError::into_inner).contains(&node.node);
            if stalls { std::future::pending().await } else { answer }
        }
        .boxed()
    }
}

fn main() -> Result<(), Failure> {
    let options = Options::parse();
    std::fs::create_dir_all(&options.dir)?;
    let cache = Cache::of(&options.dir.join("cache"), std::iter::repeat_n(NAR_BYTES, options.paths))?;
    let founding = Founding {
        nodes: options.nodes,
        quota: ByteCount(10_000_000_000),
        max_upload: None,
        publisher: &cache.publisher,
    };
    let archive = Archive::up(&options.dir, &founding)?;
    archive.firn(&["publish", &cache.text(), "--bundle-size", "8MiB"])?;
    tokio::runtime::Runtime::new()?.block_on(measure(&options, &cache))
}

async fn measure(options: &Options, cache: &Cache) -> Result<(), Failure> {
    let environment = Environment::real();
    let descriptor = options.dir.join("archive/archive.firn").display().to_string();
    let opening = ArchiveOptions { descriptor, state_dir: None, endpoint: EndpointOptions::default() };
    let archive =
        firn_client::Archive::open(opening, Identity::from_seed(&environment.seed()), &environment).await?;
    let coordinators = archive.coordinators().clone();
    let source = Arc::new(CoordinatorSource::new(coordinators.clone()));
    let directory: Arc<dyn Directory> =
        Arc::new(CachedDirectory::new(source, environment.clone(), DirectoryOptions::default()));
    let stalled = Arc::new(Mutex::new(BTreeSet::new()));
    let nodes = Stalling { inner: NodeSource::new(archive.pool().clone()), stalled: Arc::clone(&stalled) };
    let swarm = SwarmReader::new(Arc::clone(&directory), Arc::new(nodes), SwarmOptions::default());
    let manifests = ManifestReader::new(Arc::new(swarm.clone()), ManifestOptions::default());
    let objects = ObjectReader::new(
        manifests,
        environment,
        ObjectOptions { frame_cache_bytes: 0, ..ObjectOptions::default() },
    );

    let keys: Vec<_> =
        cache.paths.iter().map(|path| ObjectKey::store_path(*path.store_path.hash())).collect();
    let places = coordinators.lookup(&keys).await?;
    let mut paths = Vec::new();
    for ((key, places), info) in keys.iter().zip(places).zip(&cache.paths) {
        let place = places.first().copied().ok_or("a path that was published is not found")?;
        let facts = directory.numbered(place.bundle).await?;
        let record = objects.manifests().record(facts.id, place.block, place.entry, key).await?;
        paths.push((facts.id, record, info.nar_hash));
    }
    let read = async |number: usize| {
        let chance = blake3::hash(&number.to_le_bytes());
        let (first, _) = chance.as_bytes().split_first_chunk::<8>().expect("a hash has 32 bytes");
        let which = usize::try_from(u64::from_le_bytes(*first) % paths.len() as u64)?;
        let (bundle, record, hash) = &paths[which];
        let began = Instant::now();
        let nar = objects.open(*bundle, Arc::clone(record)).await?.read_all(2 << 20).await?;
        let took = began.elapsed();
        if Sha256::of(&nar) == *hash { Ok(took) } else { Err(Failure::from("another NAR")) }
    };
    println!(
        "{} nodes, {} reads of 1 MB each time, {} at once",
        options.nodes, options.reads, options.at_once
    );
    let all: Vec<NodeId> = directory.nodes().await?.keys().copied().collect();
    for silent in [0, all.len() * options.stalled / 100] {
        stalled.lock().unwrap_or_else(PoisonError::into_inner).extend(all.iter().take(silent));
        let before = swarm.counts();
        let took: Vec<Duration> =
            stream::iter(0..options.reads).map(&read).buffered(options.at_once).try_collect().await?;
        let counts = swarm.counts();
        print(silent, took);
        println!(
            "  {} ranges, {} requests, {} hedged ({} won), {} decoded, {} tries",
            counts.ranges - before.ranges,
            counts.requests - before.requests,
            counts.hedged - before.hedged,
            counts.hedges_won - before.hedges_won,
            counts.rebuilt - before.rebuilt,
            counts.trials - before.trials
        );
    }
    archive.close().await;
    Ok(())
}

fn print(silent: usize, mut took: Vec<Duration>) {
    took.sort_unstable();
    let at = |share: usize| took[(took.len() - 1) * share / 1000].as_secs_f64() * 1000.0;
    println!(
        "{silent} silent nodes: p50 {:.1} ms, p90 {:.1}, p99 {:.1}, p99.9 {:.1}, most {:.1}",
        at(500),
        at(900),
        at(990),
        at(999),
        at(1000)
    );
}
