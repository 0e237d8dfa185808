//! A new coordinator catches up with a large state: how long, how much memory on both sides, and what commits of the
//! leader cost meanwhile.
//!
//! `cargo run --release -p firn-benches --example catching_up -- DIR --keys 10000000` prints what RESULTS.md records.
//! DIR is empty or missing at first, and removed in the end.
//!
//! The leader is this process, the newcomer another one of the same program. Keys of the index are written to the
//! leader's store as they lie there, beside its log: what is measured is carrying the state, not making it. With `--kill`
//! the newcomer is killed with SIGKILL when half of the state is there, and started again.
//!
//! Always holds: a newcomer that has not all keys in the end, or commits that fail meanwhile, end the run with exit
//! code 1.

use std::error::Error;
use std::io::{BufRead, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use firn_base::PublicKey;
use firn_coordinator::storage::{
    Batch, Durability, KeyRange, KeyValue, Read, RocksDb, ScanLimit, StoreKind, Table,
};
use firn_coordinator::{
    Administration, Coordinator, CoordinatorOptions, ERASE_AFTER, FilterOptions, Joined, Peer, RECODE_AFTER,
    Timing, ask_peers, found_archive,
};
use firn_transport::{Endpoint, EndpointOptions, Environment};
use firn_wire::{AdminRequest, DomainRule, Identity, LedgerAct, MemberChange, Policy};

type Failure = Box<dyn Error + Send + Sync>;

/// Measures how a new coordinator catches up.
#[derive(Debug, Parser)]
struct Options {
    /// Where everything is made
    dir: PathBuf,
    /// Keys of the index
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,
    /// Kill the newcomer when half of the state is there
    #[arg(long)]
    kill: bool,
    /// Be the newcomer: the one to ask for the archive
    #[arg(long, hide = true)]
    peer: Option<Peer>,
    /// Be the newcomer: it has caught up when this entry is applied
    #[arg(long, hide = true, default_value_t = 0)]
    target: u64,
}

// The log is cut after so many entries: the newcomer cannot begin with the first.
const TIMING: fn() -> Timing = || Timing { snapshot_every: 500, entries_kept: 100, ..Timing::default() };
const COMMITS_BEFORE: usize = 2_000;

fn main() -> ExitCode {
    let options = Options::parse();
    let run = async {
        match &options.peer {
            Some(peer) => newcomer(&options, peer).await,
            None => leader(&options).await,
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

fn key(number: u64) -> [u8; 21] {
    let mut key = [0; 21];
    key[1..].copy_from_slice(&blake3::hash(&number.to_le_bytes()).as_bytes()[..20]);
    key
}

/// Writes the keys as a leader's apply does: in no order.
fn fill(store: &dyn KeyValue, keys: u64) -> Result<(), Failure> {
    const BATCH: u64 = 10_000;
    for first in (0..keys).step_by(10_000) {
        let mut batch = Batch::new();
        for number in first..keys.min(first + BATCH) {
            batch.put(Table::Index, key(number), number.to_le_bytes());
        }
        store.write(batch, Durability::Buffered)?;
    }
    Ok(store.flush()?)
}

fn count(store: &dyn Read) -> Result<u64, Failure> {
    let (mut range, mut found) = (KeyRange::all(), 0);
    loop {
        let page = store.scan(Table::Index, &range, ScanLimit::entries(100_000))?;
        let Some((last, _)) = page.last() else { return Ok(found) };
        found += u64::try_from(page.len())?;
        range = KeyRange::starting_at([last.as_slice(), &[0]].concat());
    }
}

type Store = Arc<dyn KeyValue>;

/// The log and the state below `dir`.
fn open(dir: &Path) -> Result<(Store, Store), Failure> {
    let log = RocksDb::open(&dir.join("log"), StoreKind::Log)?;
    Ok((Arc::new(log), Arc::new(RocksDb::open(&dir.join("state"), StoreKind::State)?)))
}

async fn leader(options: &Options) -> Result<(), Failure> {
    let dir = options.dir.join("leader");
    let (log, state) = open(&dir)?;
    let environment = Environment::real();
    let (identity, key) =
        (Identity::from_seed(&environment.seed()), Identity::from_seed(&environment.seed()));
    let loopback: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
    let endpoint = Endpoint::bind(&environment, &identity, loopback, EndpointOptions::default()).await?;
    let own = Peer { id: identity.node_id(), address: endpoint.local_address().to_string() };
    let policy = Policy {
        domains: DomainRule::Named,
        repair_at: None,
        repair_at_full: false,
        count_lost_after_millis: 259_200_000,
        brake: true,
        trust_declared_domains: false,
    };
    let coordinator = Coordinator::start(CoordinatorOptions {
        identity,
        descriptor: found_archive(&key, own.clone(), &[], environment.now()),
        named_since: None,
        endpoint,
        log,
        state: Arc::clone(&state),
        founding: Some(policy),
        timing: TIMING(),
        recode_after: RECODE_AFTER,
        erase_after: ERASE_AFTER,
        disk_windows: None,
        address_table: None,
        filters: FilterOptions::in_memory(),
        rebuild: firn_coordinator::RebuildOptions::default(),
        environment,
    })
    .await?;
    coordinator.consensus().watch().wait_for(|status| status.is_leader && status.applied > 0).await;
    let (filling, keys, begun) = (Arc::clone(&state), options.keys, Instant::now());
    tokio::task::spawn_blocking(move || fill(&*filling, keys)).await??;
    row("what", "measured");
    row("---", "---");
    row("keys; filled in, s", &format!("{keys}; {:.1}", begun.elapsed().as_secs_f64()));
    let administration = coordinator.administration();
    let mut commits = Commits { administration, next: 0 };
    let before = commits.for_count(COMMITS_BEFORE).await?;
    row("a commit before, ms: median, p99, longest", &before);
    let bytes = {
        let image = state.image()?;
        image.files().iter().map(|file| file.bytes).sum::<u64>()
    };
    row("state as files, MB", &megabytes(bytes));
    row("leader's memory before, MB", &resident("self")?);

    let target = coordinator.consensus().applied();
    let mut child = Newcomer::start(options, &own, target)?;
    let change = MemberChange::Add { id: child.id, address: child.address.clone() };
    commits.administration.administer(AdminRequest::ChangeMember(change)).await?;
    let begun = Instant::now();
    let mut seconds_lost = 0.0;
    let mut latencies = Vec::new();
    let mut killed = !options.kill;
    while !child.has_caught_up()? {
        latencies.push(commits.one().await?);
        if !killed && arrived(&options.dir) * 2 > bytes {
            killed = true;
            child.child.kill()?;
            child.child.wait()?;
            row("killed with so much there, MB", &megabytes(arrived(&options.dir)));
            seconds_lost = begun.elapsed().as_secs_f64();
            child = Newcomer::start(options, &own, target)?;
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    if options.kill {
        row("until it was killed, s", &format!("{seconds_lost:.1}"));
    }
    row("caught up in, s", &format!("{seconds:.1}"));
    row("state, MB/s", &format!("{:.0}", bytes as f64 / 1e6 / seconds));
    row("a commit meanwhile, ms: median, p99, longest", &spread(latencies));
    row("leader's memory, MB (peak)", &resident("self")?);
    row("newcomer's memory, MB (peak)", &resident(&child.child.id().to_string())?);
    drop(child.child.stdin.take());
    if !child.child.wait()?.success() {
        return Err("the newcomer failed".into());
    }
    row(
        "leader's log on disk, MB, after entries",
        &format!("{}, {}", megabytes(bytes_below(&dir.join("log"))), coordinator.consensus().applied()),
    );
    coordinator.shutdown().await;
    std::fs::remove_dir_all(&options.dir)?;
    Ok(())
}

struct Commits {
    administration: Administration,
    next: u64,
}

impl Commits {
    async fn one(&mut self) -> Result<Duration, Failure> {
        let mut key = [1; 32];
        key[..8].copy_from_slice(&self.next.to_le_bytes());
        self.next += 1;
        let act = LedgerAct::AddUploader { key: PublicKey::from_bytes(key), name: "load".into() };
        let begun = Instant::now();
        self.administration.administer(AdminRequest::Govern(act)).await?;
        Ok(begun.elapsed())
    }

    async fn for_count(&mut self, count: usize) -> Result<String, Failure> {
        let mut latencies = Vec::with_capacity(count);
        for _ in 0..count {
            latencies.push(self.one().await?);
        }
        Ok(spread(latencies))
    }
}

fn spread(mut latencies: Vec<Duration>) -> String {
    latencies.sort();
    let at = |per_cent: usize| {
        let index = latencies.len().saturating_sub(1) * per_cent / 100;
        latencies.get(index).map_or(0.0, |latency| latency.as_secs_f64() * 1e3)
    };
    format!("{:.2}, {:.2}, {:.2}", at(50), at(99), at(100))
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / 1e6)
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

/// What of the state has arrived at the newcomer.
fn arrived(dir: &Path) -> u64 {
    bytes_below(&dir.join("newcomer/state/incoming"))
}

/// Resident memory of a process, and its peak.
fn resident(process: &str) -> Result<String, Failure> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let field = |name: &str| -> u64 {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|kilobytes| kilobytes.parse().ok()).unwrap_or(0)
    };
    Ok(format!("{} ({})", field("VmRSS:") * 1024 / 1_000_000, field("VmHWM:") * 1024 / 1_000_000))
}

/// The other process, as the leader's process sees it.
struct Newcomer {
    child: Child,
    id: firn_base::NodeId,
    address: String,
    lines: tokio::sync::mpsc::Receiver<String>,
}

impl Newcomer {
    fn start(options: &Options, peer: &Peer, target: u64) -> Result<Self, Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(&options.dir).args([
            "--keys",
            &options.keys.to_string(),
            "--target",
            &target.to_string(),
        ]);
        command.args(["--peer", &format!("{}@{}", peer.id, peer.address)]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut output = BufReader::new(child.stdout.take().ok_or("no output")?);
        let mut line = String::new();
        output.read_line(&mut line)?;
        let (id, address) = line.trim().split_once('@').ok_or("the newcomer does not say who it is")?;
        let (id, address) = (id.parse()?, address.to_owned());
        Ok(Self { child, id, address, lines: listen(output) })
    }

    fn has_caught_up(&mut self) -> Result<bool, Failure> {
        match self.lines.try_recv() {
            Ok(_) => Ok(true),
            Err(tokio::sync::mpsc::error::TryRecvError::Empty) => Ok(false),
            Err(_) => Err("the newcomer has ended".into()),
        }
    }
}

fn listen(output: BufReader<ChildStdout>) -> tokio::sync::mpsc::Receiver<String> {
    let (sender, lines) = tokio::sync::mpsc::channel(8);
    std::thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                break;
            }
        }
    });
    lines
}

async fn newcomer(options: &Options, peer: &Peer) -> Result<(), Failure> {
    let dir = options.dir.join("newcomer");
    std::fs::create_dir_all(&dir)?;
    let environment = Environment::real();
    // The same one after it was killed, and at the same address.
    let identity = Identity::from_seed(blake3::hash(options.dir.to_string_lossy().as_bytes()).as_bytes());
    let kept = std::fs::read_to_string(dir.join("address")).ok();
    let address =
        kept.map_or_else(|| Ok((Ipv4Addr::LOCALHOST, 0).into()), |kept| kept.parse::<SocketAddr>())?;
    let endpoint = Endpoint::bind(&environment, &identity, address, EndpointOptions::default()).await?;
    std::fs::write(dir.join("address"), endpoint.local_address().to_string())?;
    println!("{}@{}", identity.node_id(), endpoint.local_address());
    std::io::stdout().flush()?;
    let Joined { descriptor, named_since } = ask_peers(&endpoint, std::slice::from_ref(peer), None).await?;
    let (log, state) = open(&dir)?;
    let coordinator = Coordinator::start(CoordinatorOptions {
        identity,
        descriptor,
        named_since,
        endpoint,
        log,
        state: Arc::clone(&state),
        founding: None,
        timing: TIMING(),
        recode_after: RECODE_AFTER,
        erase_after: ERASE_AFTER,
        disk_windows: None,
        address_table: None,
        filters: FilterOptions::in_memory(),
        rebuild: firn_coordinator::RebuildOptions::default(),
        environment,
    })
    .await?;
    coordinator.consensus().watch().wait_for(|status| status.applied >= options.target).await;
    println!("caught up");
    std::io::stdout().flush()?;
    // The leader's process has looked at this one when it closes our input.
    let keys = options.keys;
    let found = tokio::task::spawn_blocking(move || {
        std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
        count(&*state)
    });
    let found = found.await??;
    if found != keys {
        return Err(format!("{found} of {keys} keys are there").into());
    }
    coordinator.shutdown().await;
    Ok(())
}
