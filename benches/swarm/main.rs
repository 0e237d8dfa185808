//! A swarm seen from outside: an archive of real programs on loopback loses nodes for good, heals, gets empty nodes
//! and evens out, while readers read everything through a gateway; or it grows until its bundles are coded anew.
//!
//! `cargo run --release -p firn-benches --example swarm -- DIR` prints what RESULTS.md records; the programs must lie
//! beside it (`cargo build --release --bins --workspace`). DIR is empty or missing at first; everything is made there.
//!
//! Owns: the order of events, what is measured in each, and the judgement. Always holds: no measurement relies on the
//! archive's own account where the file system or a reader can tell; every wait ends; a check that fails makes the
//! exit code 1, and whatever was started is ended by its process id. Leaves to others: running programs (`archive`),
//! what they say (`snapshot`), reading (`readers`), counting bytes on disks (`disks`) and lines (`lines`), the
//! bounds (`bounds`), the fleet that grows (`growth`).

mod archive;
mod bounds;
mod cache;
mod disks;
mod growth;
mod lines;
mod readers;
mod snapshot;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use firn_base::ByteCount;
use firn_benches::process::Failure;

use crate::archive::{Archive, Founding, Gateway};
use crate::bounds::{Evenness, Loss};
use crate::cache::Cache;
use crate::disks::Disks;
use crate::lines::Lines;
use crate::readers::{Readers, SoFar};
use crate::snapshot::Snapshot;

/// Kills nodes of a local archive for good, adds empty ones, and measures healing and balance.
#[derive(Debug, Parser)]
struct Options {
    /// Where cache and archive are made
    dir: PathBuf,
    /// Let nodes join until bundles are coded anew for a larger k, instead of losing any
    #[arg(long)]
    grow: bool,
    /// Storage nodes at first [default: 64, with --grow 40]
    #[arg(long)]
    nodes: Option<u64>,
    /// Nodes that are killed and declared lost
    #[arg(long, default_value_t = 12)]
    kill: u64,
    /// Empty nodes that join afterwards [default: 12, with --grow 24]
    #[arg(long)]
    join: Option<u64>,
    /// How fast nodes upload at most [default: as fast as they can]
    #[arg(long)]
    max_upload: Option<String>,
    /// More nodes at first, on slower lines
    #[arg(long, default_value_t = 0)]
    slow_nodes: u64,
    /// How fast these upload at most
    #[arg(long, default_value = "1Mbit/s")]
    slow_upload: String,
    /// NAR bytes to publish, which nothing compresses
    #[arg(long, default_value = "600MB")]
    bytes: ByteCount,
    /// The largest payload of a bundle
    #[arg(long, default_value = "8MiB")]
    bundle_size: ByteCount,
    /// How full the nodes are at first, in per cent of their quotas
    #[arg(long, default_value_t = 40)]
    used: u64,
    /// Readers, each with one download at a time
    #[arg(long, default_value_t = 3)]
    readers: u64,
    /// Kill the leading coordinator in the middle of healing, and start it again in the end
    #[arg(long)]
    kill_leader: bool,
}

impl Options {
    /// Nodes at first that are on lines of the usual kind.
    fn nodes(&self) -> u64 {
        self.nodes.unwrap_or(if self.grow { 40 } else { 64 })
    }

    /// All nodes at first.
    fn first_nodes(&self) -> u64 {
        self.nodes() + self.slow_nodes
    }

    /// Nodes that join later.
    fn join(&self) -> u64 {
        self.join.unwrap_or(if self.grow { 24 } else { 12 })
    }
}

// The gateway's memory: far less than is published, so that reads come from nodes.
const GATEWAY_CACHE: ByteCount = ByteCount(16_000_000);
// Roots, proofs and manifests, in per cent of the shards.
const OVERHEAD_PER_CENT: u64 = 2;
const STEP_WITHIN: Duration = Duration::from_secs(300);
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Nothing may move any more for this long after balance was reached.
const QUIET: Duration = Duration::from_secs(20);
/// Looks in a row that must agree: the leader measures in rounds.
const LOOKS_IN_A_ROW: u32 = 3;

fn main() -> ExitCode {
    match Bench::run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// One run.
struct Bench<'a> {
    options: &'a Options,
    // Ended before the archive that they read.
    readers: Readers,
    archive: Archive,
    begun: Instant,
    failed: Vec<String>,
}

impl<'a> Bench<'a> {
    /// Runs everything; whether all checks held.
    fn run(options: &'a Options) -> Result<bool, Failure> {
        let begun = Instant::now();
        std::fs::create_dir_all(&options.dir)?;
        let cache = Cache::make(&options.dir.join("cache"), options.bytes.0)?;
        // Bundles of 8/24 have three times their payload.
        let stored = options.bytes.0 * 3 * (100 + OVERHEAD_PER_CENT) / 100;
        let stored = if options.grow { stored } else { stored * 5 / 6 };
        let quota = ByteCount(stored * 100 / options.used / options.first_nodes());
        row("what", "measured");
        row("---", "---");
        row(
            "published, NAR bytes that nothing compresses",
            &format!("{}, {} paths", options.bytes, cache.paths.len()),
        );
        row("nodes, quota of each", &format!("{}, {quota}", options.first_nodes()));
        if let Some(rate) = &options.max_upload {
            let slow = format!("{rate}; of {} nodes {}", options.slow_nodes, options.slow_upload);
            row("nodes upload at most", &slow);
        }

        let max_upload = options.max_upload.as_deref();
        let founding = Founding { nodes: options.nodes(), quota, max_upload, publisher: &cache.publisher };
        let archive = Archive::up(&options.dir, &founding)?;
        (0..options.slow_nodes).try_for_each(|_| archive.add_node(&options.slow_upload))?;
        let since = Instant::now();
        archive.firn(&["publish", &cache.text(), "--bundle-size", &options.bundle_size.0.to_string()])?;
        row("publishing, s", &seconds(since));
        let gateway = Gateway::start(&archive, GATEWAY_CACHE)?;
        let readers = Readers::start(gateway, cache.paths, options.readers)?;
        let mut bench = Self { options, archive, readers, begun, failed: Vec::new() };
        bench.settle("every bundle has all its shards", |_| true)?;
        bench.read_for_a_while();
        if options.grow {
            bench.grow()?;
        } else {
            bench.heal()?;
            bench.balance()?;
        }
        bench.end()
    }

    /// Nodes die and are declared lost; the others make their shards anew.
    fn heal(&mut self) -> Result<(), Failure> {
        let before = Snapshot::take(&self.archive)?;
        let dead: Vec<String> = (0..self.options.kill)
            .map(|n| format!("storage-node-{}", n * self.options.nodes() / self.options.kill + 1))
            .collect();
        for role in &dead {
            self.archive.control("stop", role)?;
        }
        self.say(&format!("{} nodes were killed", dead.len()));
        let left = self.options.first_nodes() - self.options.kill;
        self.wait("the dead nodes are missed", LOOKS_IN_A_ROW, |snapshot| snapshot.online() == left)?;
        self.read("while nodes were dead and nothing was made");
        let loss = Loss::of(&before, &dead);
        let (disks, traffic, loopback) =
            (Disks::measure(&self.archive, &before, &dead)?, before.traffic(), loopback_bytes());
        let worked = self.archive.build_bytes(&dead)?;
        let mut lines = Lines::watch(&self.archive, &before, &dead)?;
        let since = Instant::now();
        for role in &dead {
            self.archive.remove_lost(role)?;
        }
        let deposed = if self.options.kill_leader { Some(self.kill_leader(before.traffic())?) } else { None };
        let healed = self.wait("every bundle has all its shards again", LOOKS_IN_A_ROW, |snapshot| {
            lines.look(&self.archive);
            snapshot.is_at_rest()
        })?;
        let took = seconds(since);
        let traffic = healed.traffic().saturating_sub(traffic);
        let worked = self.archive.build_bytes(&dead)?.saturating_sub(worked);
        let grown = Disks::measure(&self.archive, &healed, &dead)?.shards_bytes() - disks.shards_bytes();
        row(
            "killed for good: shards lost, in bundles",
            &format!("{}, {} of {}", loss.shards, loss.bundles, before.bundles.len()),
        );
        row("until every bundle has 40 shards again, s", &took);
        row("bytes of shards made anew, as the disks say", &ByteCount(grown).to_string());
        row("bytes read and sent for repairs, as the nodes say", &ByteCount(worked).to_string());
        row("… per byte of shard made anew", &ratio(worked, loss.lost_bytes));
        row("bound: (k + d) / d", &ratio(loss.bound_bytes, loss.lost_bytes));
        row("… of the bound", &ratio(worked, loss.bound_bytes));
        row(
            "all bytes over loopback meanwhile, readers included",
            &ByteCount(loopback_bytes() - loopback).to_string(),
        );
        self.check(worked * 10 <= loss.bound_bytes * 11, "repair read and sent at most 1.1 times the bound");
        if let Some(most) = lines.most() {
            row("most that repair took of a line within a look, % (target ≤ 30)", &per_cent(most.for_builds));
            row("most that went over a line within a look, % of its bound", &per_cent(most.all));
            row("… over the whole time: most for repair; most in all, %", &lines.over_all());
            self.check(most.for_builds <= 0.33 && most.all <= 1.1, "lines are kept to their bounds");
        }
        match deposed {
            // What the old leader counted is gone with it.
            Some(leader) => self.archive.control("start", &leader)?,
            None => {
                row("read and sent for repairs, as status says", &ByteCount(traffic).to_string());
                self.check(traffic == worked, "status and nodes agree on the traffic of repairs");
            }
        }
        self.check(grown >= loss.lost_bytes, "as many bytes were made as were lost");
        self.read("while others healed");
        Ok(())
    }

    /// Kills the leading coordinator once more than `traffic` was read and sent; gives its role.
    fn kill_leader(&self, traffic: u64) -> Result<String, Failure> {
        let midway = |snapshot: &Snapshot| snapshot.traffic() > traffic;
        let leader = self.wait("repairs are under way", 1, midway)?.leader().ok_or("nobody leads")?;
        self.archive.control("stop", &leader)?;
        self.say(&format!("{leader}, which led, was killed"));
        Ok(leader)
    }

    /// Empty nodes join; shards move to them until all are about equally full.
    fn balance(&mut self) -> Result<(), Failure> {
        let before = Snapshot::take(&self.archive)?;
        let disks = Disks::measure(&self.archive, &before, &before.absent())?;
        let since = Instant::now();
        for _ in 0..self.options.join() {
            self.archive.control("add", "storage-node")?;
        }
        let all = self.options.first_nodes() - self.options.kill + self.options.join();
        let joined = self.wait("the new nodes are heard", 1, |snapshot| snapshot.online() == all)?;
        let least = Evenness::of(&joined.nodes, &disks.kept(&before)).least_bytes();
        let even = self.settle("all nodes are about equally full", |snapshot| {
            Evenness::of(&snapshot.nodes, &disks.kept(snapshot)).is_even()
        })?;
        let took = seconds(since);
        let traffic = even.traffic().saturating_sub(before.traffic());
        let moved = disks.moved_bytes(&before, &even);
        let evenness = Evenness::of(&even.nodes, &disks.kept(&even));
        row("empty nodes added", &self.options.join().to_string());
        row("until balanced, s", &took);
        row("used shares then, %: least, fleet, most", &evenness.to_string());
        row("bytes of shards that have another home", &ByteCount(moved).to_string());
        row("least bytes that had to move", &ByteCount(least).to_string());
        row("… moved per byte of these", &ratio(moved, least));
        row("… read and sent per byte of these, as status says", &ratio(traffic, least));
        self.check(moved * 10 <= least * 12, "balance moved at most 1.2 times the least bytes");
        self.read("while nodes joined and shards moved");
        self.say(&format!("watching for {} s whether anything still moves", QUIET.as_secs()));
        std::thread::sleep(QUIET);
        let later = Snapshot::take(&self.archive)?;
        self.check(later.placements() == even.placements(), "nothing moves once all nodes are even");
        self.check(later.traffic() == even.traffic(), "nothing is read or sent once all nodes are even");
        Ok(())
    }

    /// The readers' result, everything read back, and what lies on the disks.
    fn end(mut self) -> Result<bool, Failure> {
        self.readers.stop();
        self.read("afterwards");
        self.archive.firn(&["verify", "--all"])?;
        row("verify --all", "everything is readable and right");
        let snapshot = Snapshot::take(&self.archive)?;
        let disks = Disks::measure(&self.archive, &snapshot, &snapshot.absent())?;
        row("on the disks of living nodes: placements", &ByteCount(disks.placed_bytes()).to_string());
        row("… surplus", &ByteCount(disks.surplus_bytes()).to_string());
        row("… trash", &ByteCount(disks.trash_bytes()).to_string());
        row("… anything else", &ByteCount(disks.other_bytes()).to_string());
        self.check(disks.other_bytes() == 0, "nothing else lies on the disks");
        let missing = disks.missing(&snapshot);
        self.check(missing == 0, "every placement has its file");
        let wrong = disks.wrong_accounts(&snapshot);
        self.check(wrong.is_empty(), &format!("assigned bytes are the files' bytes on every node {wrong:?}"));
        let used = self.archive.used_bytes(&snapshot.absent())?;
        self.check(used == disks.all_bytes(), "the nodes' own accounts are the files' bytes");
        row("the whole run, s", &seconds(self.begun));
        for failed in &self.failed {
            eprintln!("failed: {failed}");
        }
        Ok(self.failed.is_empty())
    }

    /// Waits until nothing is left to repair or move, and `done` holds too.
    fn settle(&self, what: &str, done: impl Fn(&Snapshot) -> bool) -> Result<Snapshot, Failure> {
        self.wait(what, LOOKS_IN_A_ROW, |snapshot| snapshot.is_at_rest() && done(snapshot))
    }

    /// Looks until `done` holds for so many looks in a row.
    fn wait(
        &self,
        what: &str,
        looks: u32,
        mut done: impl FnMut(&Snapshot) -> bool,
    ) -> Result<Snapshot, Failure> {
        let since = Instant::now();
        let mut in_a_row = 0;
        loop {
            // While a new leader is elected nobody may answer.
            match Snapshot::take(&self.archive) {
                Ok(snapshot) => {
                    in_a_row = if done(&snapshot) { in_a_row + 1 } else { 0 };
                    self.say(&snapshot.progress());
                    if in_a_row >= looks {
                        return Ok(snapshot);
                    }
                }
                Err(error) => self.say(&error.to_string()),
            }
            if since.elapsed() > STEP_WITHIN {
                return Err(format!("{what}: not within {} s", STEP_WITHIN.as_secs()).into());
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Lets readers read while nothing else happens.
    fn read_for_a_while(&mut self) {
        self.readers.since_last();
        std::thread::sleep(if self.options.readers > 0 { QUIET } else { Duration::ZERO });
        self.read("before anything happens");
    }

    /// What was read in a phase that is over.
    fn read(&mut self, phase: &str) {
        let SoFar { reads, bytes, failed, slowest, took } = self.readers.since_last();
        let rate = bytes as f64 / took.as_secs_f64() / 1e6;
        let figures = format!(
            "{reads} ({}, {rate:.1} MB/s), {:.1} s, {failed}",
            ByteCount(bytes),
            slowest.as_secs_f64()
        );
        row(&format!("{phase}: paths read and checked, slowest, failed"), &figures);
        self.check(failed == 0, "no read fails");
        self.check(reads > 0 || self.options.readers == 0, "there are readers");
    }

    fn check(&mut self, holds: bool, what: &str) {
        if !holds {
            self.failed.push(what.to_owned());
        }
    }

    fn say(&self, text: &str) {
        eprintln!("{:6.1} s  {text}", self.begun.elapsed().as_secs_f64());
    }
}

fn row(what: &str, measured: &str) {
    println!("| {what} | {measured} |");
}

fn seconds(since: Instant) -> String {
    format!("{:.1}", since.elapsed().as_secs_f64())
}

fn per_cent(part: f64) -> String {
    format!("{:.1}", part * 100.0)
}

fn ratio(one: u64, other: u64) -> String {
    let thousandths = u128::from(one) * 1000 / u128::from(other.max(1));
    format!("{}.{:03}", thousandths / 1000, thousandths % 1000)
}

/// Everything that went over this machine's loopback so far; ours alone only in a network namespace of its own.
fn loopback_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/net/dev").unwrap_or_default();
    let received = text.lines().find_map(|line| line.trim().strip_prefix("lo:")?.split_whitespace().next());
    received.and_then(|bytes| bytes.parse().ok()).unwrap_or_default()
}
