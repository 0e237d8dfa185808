//! Rebuilding an archive at scale: how long, how much memory, how many bytes.
//!
//! `cargo run --release -p firn-benches --example rebuild -- DIR --keys 10000000` prints what RESULTS.md records. DIR is
//! empty or missing at first, and removed in the end.
//!
//! The coordinator is this process, on RocksDB, whole; its nodes are another process of the same program, which plays
//! them: real connections, certificates, manifests, signatures and proofs, but payloads that hold nothing beside their
//! manifests. An archive that does not come back whole ends the run with exit code 1.

mod fleet;
mod history;

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use firn_coordinator::storage::{KeyValue, RocksDb, StoreKind};
use firn_coordinator::{
    Administration, Coordinator, CoordinatorOptions, ERASE_AFTER, EvidencePlace, FilterOptions, Peer,
    RECODE_AFTER, RebuildOptions, Timing, next_descriptor, refound,
};
use firn_coordinator_logic::Facts;
use firn_transport::{Endpoint, EndpointOptions, Environment};
use firn_wire::{AdminReply, AdminRequest, Identity, RebuildProgress, RebuildStage};

use crate::history::History;

type Failure = Box<dyn Error + Send + Sync>;

/// Rebuilds a made-up archive and measures that.
#[derive(Debug, Parser)]
struct Options {
    /// Where everything is made
    dir: PathBuf,
    /// Keys of the archive
    #[arg(long, default_value_t = 2_000)]
    keys: u64,
    /// Keys of one bundle
    #[arg(long, default_value_t = 200)]
    keys_per_bundle: u64,
    /// Storage nodes; each bundle lies on 40 of them at 16/40
    #[arg(long, default_value_t = 64)]
    nodes: u64,
    /// End when everything is restored: without the proofs of each shard
    #[arg(long)]
    without_placing: bool,
    /// Be the nodes of this coordinator
    #[arg(long, hide = true)]
    peer: Option<Peer>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let history =
        History { keys: options.keys, keys_per_bundle: options.keys_per_bundle, nodes: options.nodes };
    if options.keys == 0 || options.keys_per_bundle == 0 || options.nodes < u64::from(history::N) {
        eprintln!("error: keys and keys per bundle are at least 1, and a bundle needs {} nodes", history::N);
        return ExitCode::from(2);
    }
    let run = async {
        match &options.peer {
            Some(peer) => fleet::play(&options.dir, &history, peer).await,
            None => rebuild(&options, &history).await,
        }
    };
    let built = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match built.map_err(Failure::from).and_then(|runtime| runtime.block_on(run)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn row(what: &str, measured: &str) {
    println!("| {what} | {measured} |");
}

async fn rebuild(options: &Options, history: &History) -> Result<(), Failure> {
    let dir = options.dir.join("coordinator");
    std::fs::create_dir_all(&dir)?;
    let evidence = dir.join("evidence");
    let (coordinator, own) = begin(&dir).await?;
    row("what", "measured");
    row("---", "---");
    row("keys, bundles, nodes", &format!("{}, {}, {}", history.keys, history.bundles(), history.nodes));
    let mut nodes = Nodes::start(options, &own)?;
    row("making the archive up, s", &nodes.made_in);
    let watch = Watch { administration: coordinator.administration(), evidence };

    let began = Instant::now();
    let (shown, most) = watch.until(|progress| progress.nodes_shown == history.nodes).await?;
    let seconds = began.elapsed().as_secs_f64();
    row("bundles and shards shown", &format!("{}, {}", shown.bundles_seen, shown.shards_shown));
    row("listening, s; shards/s", &format!("{seconds:.1}; {:.0}", shown.shards_shown as f64 / seconds));
    row(
        "evidence on disk at most, MB; bytes a bundle",
        &format!("{}; {}", most / 1_000_000, most / history.bundles()),
    );
    row("resident memory then, and at the peak, MB", &resident()?);

    watch.administration.administer(AdminRequest::FinishRebuild).await?;
    let began = Instant::now();
    let is_restored =
        |progress: &RebuildProgress| matches!(progress.stage, RebuildStage::Placing | RebuildStage::Ended);
    let (restored, _) = watch.until(is_restored).await?;
    let seconds = began.elapsed().as_secs_f64();
    let visible = coordinator.consensus().facts().counters()?.visible_keys;
    if restored.bundles_restored != history.bundles() || visible != history.keys {
        return Err(format!(
            "{visible} keys of {} bundles are back: {restored:?}",
            restored.bundles_restored
        )
        .into());
    }
    let rate = |count: u64| format!("{:.0}", count as f64 / seconds);
    row(
        "restoring, s; bundles/s; keys/s",
        &format!("{seconds:.1}; {}; {}", rate(history.bundles()), rate(history.keys)),
    );
    row("resident memory then, and at the peak, MB", &resident()?);
    if !options.without_placing {
        let began = Instant::now();
        watch.until(|progress| progress.stage == RebuildStage::Ended).await?;
        let seconds = began.elapsed().as_secs_f64();
        row(
            "placing, s; shards proved/s",
            &format!("{seconds:.1}; {:.0}", shown.shards_shown as f64 / seconds),
        );
        row("resident memory then, and at the peak, MB", &resident()?);
    }
    row("state on disk, MB", &(bytes_below(&dir.join("state")) / 1_000_000).to_string());
    coordinator.shutdown().await;
    row("nodes sent: what they show, ranges, MB", &nodes.end()?);
    std::fs::remove_dir_all(&options.dir)?;
    Ok(())
}

/// The first of the new coordinators, with a new log.
async fn begin(dir: &Path) -> Result<(Coordinator, Peer), Failure> {
    let environment = Environment::real();
    let identity = Identity::from_seed(&environment.seed());
    let loopback = (Ipv4Addr::LOCALHOST, 0).into();
    let endpoint = Endpoint::bind(&environment, &identity, loopback, EndpointOptions::default()).await?;
    let own = Peer { id: identity.node_id(), address: endpoint.local_address().to_string() };
    let (_, before) = history::roster_before()?;
    let descriptor = next_descriptor(&history::archive_key(), &before, (&own, &[]), None, environment.now())?;
    let log: Arc<dyn KeyValue> = Arc::new(RocksDb::open(&dir.join("log"), StoreKind::Log)?);
    let state: Arc<dyn KeyValue> = Arc::new(RocksDb::open(&dir.join("state"), StoreKind::State)?);
    refound(&*log, &state, (own.id, descriptor.verify()?.roster()), None, &environment)?;
    let coordinator = Coordinator::start(CoordinatorOptions {
        identity,
        descriptor,
        named_since: None,
        endpoint,
        log,
        state,
        founding: None,
        timing: Timing::default(),
        recode_after: RECODE_AFTER,
        erase_after: ERASE_AFTER,
        disk_windows: None,
        address_table: None,
        filters: FilterOptions::in_directory(dir.join("filters")),
        rebuild: RebuildOptions {
            rosters: vec![before],
            evidence: EvidencePlace::Directory(dir.join("evidence")),
            ..RebuildOptions::default()
        },
        environment,
    });
    Ok((coordinator.await?, own))
}

/// Looks at a rebuild from time to time.
struct Watch {
    administration: Administration,
    evidence: PathBuf,
}

impl Watch {
    /// Waits until it is as far as that; gives also the bytes that its evidence took at most.
    async fn until(
        &self,
        is_far: impl Fn(&RebuildProgress) -> bool,
    ) -> Result<(RebuildProgress, u64), Failure> {
        let mut most = 0;
        loop {
            most = most.max(bytes_below(&self.evidence));
            let reply = self.administration.administer(AdminRequest::RebuildProgress).await;
            if let Ok(AdminReply::Rebuild(Some(progress))) = reply
                && is_far(&progress)
            {
                return Ok((progress, most));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

/// The process that plays the nodes.
struct Nodes {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
    made_in: String,
}

impl Nodes {
    /// Starts it, and waits until it has made everything up.
    fn start(options: &Options, peer: &Peer) -> Result<Self, Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        let number = |value: u64| value.to_string();
        command.arg(&options.dir).args(["--peer", &format!("{}@{}", peer.id, peer.address)]);
        command.args(["--keys", &number(options.keys), "--nodes", &number(options.nodes)]);
        command.args(["--keys-per-bundle", &number(options.keys_per_bundle)]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut output = BufReader::new(child.stdout.take().ok_or("no output")?);
        let mut made_in = String::new();
        output.read_line(&mut made_in)?;
        Ok(Self { child, output, made_in: made_in.trim().to_owned() })
    }

    /// Ends it; gives what it has sent.
    fn end(&mut self) -> Result<String, Failure> {
        drop(self.child.stdin.take());
        let mut sent = String::new();
        self.output.read_line(&mut sent)?;
        match self.child.wait()?.success() {
            true => Ok(sent.trim().to_owned()),
            false => Err("the nodes failed".into()),
        }
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn bytes_below(path: &Path) -> u64 {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    });
    bytes.sum()
}

/// Resident memory of this process, and its peak.
fn resident() -> Result<String, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let field = |name: &str| -> u64 {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|kilobytes| kilobytes.parse().ok()).unwrap_or(0)
    };
    Ok(format!("{}; {}", field("VmRSS:") * 1024 / 1_000_000, field("VmHWM:") * 1024 / 1_000_000))
}
