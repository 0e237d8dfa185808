//! A coordinator's state at scale: what a key costs on disk, how fast commits fill it, how fast lookups read it.
//!
//! `cargo run --release -p firn-benches --example state -- DIR --keys 10000000` prints what RESULTS.md records. DIR is
//! empty or missing at first; everything is made there, and removed in the end unless `--keep` is given.
//!
//! Commands are proposed as a leader proposes them when it has checked an upload: signatures, manifests and receipts of
//! millions of made-up paths would measure those checks, not the state. Everything behind that point is real: log,
//! consensus, apply, RocksDB.
//!
//! Owns: the order of measurements and the report. Always holds: an outcome that is not the expected one, and a lookup
//! that finds anything but what was committed, end the run with exit code 1. Leaves to others: commands (`generator`),
//! members (`members`), features (`similar`), filling (`filling`), digests (`digesting`), lookups (`lookups`) and whose
//! their time is (`split`), RocksDB alone (`bare`), filters (`feed_filters`), the machine (`machine`).
//!
//! A long run is done in pieces: `--fill-for 15` ends filling after so many minutes and keeps what there is, `--resume` goes
//! on, and once all bundles are there `--filled --only PART` measures a part of the rest.

mod bare;
mod digesting;
mod feed_filters;
mod filling;
mod generator;
mod lookups;
mod machine;
mod members;
mod similar;
mod split;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use firn_coordinator::storage::{StoreKind, Table};

use crate::bare::Bare;
use crate::filling::{Filled, Filling};
use crate::generator::Generator;
use crate::members::{Members, StateStore};

type Failure = Box<dyn Error + Send + Sync>;

/// Fills a coordinator by real commits and measures disk, memory, commits and lookups, beside RocksDB alone.
#[derive(Debug, Parser)]
struct Options {
    /// Where everything is made
    dir: PathBuf,
    /// Keys to commit
    #[arg(long, default_value_t = 20_000)]
    keys: u64,
    /// Keys of one bundle
    #[arg(long, default_value_t = 200)]
    keys_per_bundle: u64,
    /// Storage nodes; each bundle lies on 40 of them at 16/40
    #[arg(long, default_value_t = 1000)]
    nodes: u32,
    /// Coordinators: one, or three on loopback
    #[arg(long, default_value_t = 1)]
    members: u8,
    /// Uploads under way at a time
    #[arg(long, default_value_t = 16)]
    uploads: u64,
    /// Lookups of each kind
    #[arg(long, default_value_t = 100_000)]
    lookups: u64,
    /// Keys that have one name: builds and versions of one output of one package
    #[arg(long, default_value_t = 8)]
    keys_per_name: u64,
    /// Remember nothing of what is like what
    #[arg(long)]
    no_features: bool,
    /// Leave out RocksDB alone
    #[arg(long)]
    no_bare: bool,
    /// Make the filters over the feed too, with more commits beside it
    #[arg(long)]
    filters: bool,
    /// Leave out the digest made anew
    #[arg(long)]
    no_digest: bool,
    /// Take a DIR that was kept, without filling it again; with --filters measure these alone
    #[arg(long)]
    filled: bool,
    /// Stop filling after so many minutes, measure nothing else and keep what was made: --resume goes on
    #[arg(long, value_name = "MINUTES")]
    fill_for: Option<u64>,
    /// Go on filling a DIR that was kept
    #[arg(long, conflicts_with = "filled")]
    resume: bool,
    /// Measure only these parts of a DIR that is filled, and keep it
    #[arg(long, value_name = "PART", value_delimiter = ',', requires = "filled", conflicts_with = "filters")]
    only: Vec<Part>,
    /// Keep what was made
    #[arg(long)]
    keep: bool,
}

/// What is measured of a state that is filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Bytes per key, before and after compaction
    Disk,
    /// Lookups of what is like what
    Features,
    /// The digest made anew
    Digest,
    /// What a reservation and a commit cost
    Commits,
    /// Lookups of keys
    Lookups,
    /// RocksDB alone
    Bare,
}

impl Options {
    fn wants(&self, part: Part) -> bool {
        let is_left_out = match part {
            Part::Features => self.no_features,
            Part::Digest => self.no_digest,
            Part::Bare => self.no_bare,
            Part::Disk | Part::Commits | Part::Lookups => false,
        };
        !is_left_out && (self.only.is_empty() || self.only.contains(&part))
    }
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), Failure> {
    let counts =
        [options.keys, options.keys_per_bundle, options.keys_per_name, options.uploads, options.lookups];
    if counts.contains(&0) {
        return Err("keys, keys per bundle, keys per name, uploads and lookups are at least 1".into());
    }
    if options.nodes < generator::SHARDS.into() {
        return Err(format!("a bundle needs {} nodes", generator::SHARDS).into());
    }
    std::fs::create_dir_all(&options.dir)?;
    let keys_per_name = (!options.no_features).then_some(options.keys_per_name);
    let generator = Generator::new(options.nodes, options.keys, options.keys_per_bundle, keys_per_name);
    row("what", "measured");
    row("---", "---");
    row("keys, bundles", &format!("{}, {}", options.keys, generator.bundles()));
    row("coordinators, uploads at a time", &format!("{}, {}", options.members, options.uploads));

    if options.filled && options.filters {
        return measure_filters(options, &generator);
    }
    if !options.filled {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let filled = runtime.block_on(fill(options, &generator))?;
        drop(runtime);
        report_filling(options, &filled);
        if filled.there < generator.bundles() {
            row("go on with", "--resume");
            return Ok(());
        }
        if options.fill_for.is_some() {
            row("go on with", "--filled");
            return Ok(());
        }
    }
    measure(options, &generator)?;
    if options.filters {
        measure_filters(options, &generator)?;
    }
    if !options.keep && options.only.is_empty() {
        std::fs::remove_dir_all(&options.dir)?;
    }
    Ok(())
}

/// Measures the parts that are wanted of a state that is filled.
fn measure(options: &Options, generator: &Generator) -> Result<(), Failure> {
    let path = members::state_path(&options.dir, 1);
    let store = StateStore::open(&path)?;
    if options.wants(Part::Disk) {
        report_disk("just after filling", options.keys, &store)?;
        store.compact()?;
        report_disk("compacted", options.keys, &store)?;
        let log = machine::directory_bytes(&members::log_path(&options.dir, 1))?;
        row("log's directory, bytes per key", &per_key(log, options.keys));
        row("resident memory with the compacted state open, MB", &machine::resident_megabytes()?);
    }
    let facts = store.into_facts();
    if options.wants(Part::Features) {
        for (what, rate) in similar::measure(generator, options.lookups, &facts)? {
            row(&format!("features of {what}, 512 at a time, per CPU second"), &format!("{rate:.0}"));
        }
    }
    if options.wants(Part::Digest) {
        let seconds = digesting::check(&facts)?.as_secs_f64();
        row(
            "making the digest anew from the whole state, CPU s (it is the one that was kept)",
            &format!("{seconds:.1}"),
        );
    }
    drop(facts);
    if options.wants(Part::Commits) {
        let cost = digesting::measure(generator)?;
        let micros = |time: Duration| format!("{:.0}", time.as_secs_f64() * 1e6 / f64::from(cost.bundles));
        row("of a reservation and a commit: making them up, CPU µs", &micros(cost.generate));
        row("of a reservation and a commit: apply in memory, CPU µs", &micros(cost.apply));
        row("of a reservation and a commit: digest, CPU µs", &micros(cost.digest));
    }
    if options.wants(Part::Lookups) {
        let firn = lookups::measure(generator, options.lookups, &path, || {
            StateStore::open(&path).map(StateStore::into_lookup)
        })?;
        report_lookups("coordinator", &firn);
    }
    if options.wants(Part::Bare) {
        let path = options.dir.join("bare");
        let bare =
            if options.filled && path.exists() { Bare::open(&path)? } else { Bare::fill(&path, generator)? };
        row("RocksDB alone, compacted, bytes per key", &per_key(bare.bytes()?, options.keys));
        drop(bare);
        let alone =
            lookups::measure(generator, options.lookups, &path, || Bare::open(&path).map(Bare::into_lookup))?;
        report_lookups("RocksDB alone", &alone);
    }
    Ok(())
}

async fn fill(options: &Options, generator: &Generator) -> Result<Filled, Failure> {
    let filling = Filling {
        uploads: options.uploads,
        resume: options.resume,
        until: options.fill_for.map(|minutes| Instant::now() + Duration::from_secs(60 * minutes)),
    };
    let members = Members::start(&options.dir, options.members).await?;
    let filled = filling::fill(&members, generator, filling).await;
    members.stop().await;
    filled
}

fn report_filling(options: &Options, filled: &Filled) {
    let rate = |count: u64| format!("{:.0}", count as f64 / filled.seconds);
    row("bundles that are there; that were brought now", &format!("{}; {}", filled.there, filled.bundles));
    row("filling, s", &format!("{:.1}", filled.seconds));
    row("bundles/s (a reservation and a commit each)", &rate(filled.bundles));
    row("keys/s", &rate(filled.bundles * options.keys_per_bundle));
    row("bundles/s over the last tenth", &format!("{:.0}", filled.last_tenth_bundles_per_second));
    row("keys that waited for a later bundle", &filled.held.to_string());
    row("CPU seconds of all members per 1,000 bundles", &format!("{:.2}", filled.cpu_per_thousand));
    row("resident memory after filling, MB", &filled.resident_megabytes);
}

fn report_disk(when: &str, keys: u64, store: &StateStore) -> Result<(), Failure> {
    let mut total = 0;
    for table in StoreKind::State.tables() {
        let bytes = store.table_bytes(table)?;
        total += bytes;
        if matches!(table, Table::Index | Table::Feed | Table::Bundles | Table::Features) || bytes * 20 > keys
        {
            row(&format!("{when}: table {}, bytes per key", table.name()), &per_key(bytes, keys));
        }
    }
    row(&format!("{when}: all tables, bytes per key"), &per_key(total, keys));
    Ok(())
}

fn report_lookups(of: &str, measured: &[lookups::Measured]) {
    for lookups::Measured { what, measured } in measured {
        row(&format!("{of}: {what}"), measured);
    }
}

fn measure_filters(options: &Options, generator: &Generator) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    report_filters(&runtime.block_on(feed_filters::measure(&options.dir, generator, options.uploads))?);
    Ok(())
}

fn report_filters(made: &feed_filters::Made) {
    row("events of the feed; filters, bytes", &format!("{}; {}, {}", made.events, made.filters, made.bytes));
    row("from the start until they are all there, beside commits, s", &format!("{:.1}", made.seconds));
    row(
        "bundles/s meanwhile; afterwards",
        &format!("{:.1}; {:.1}", made.beside_per_second, made.alone_per_second),
    );
    row("resident memory before, MB; after", &format!("{}; {}", made.resident_before, made.resident_after));
    row("a second start, until the whole list is told, s", &format!("{:.2}", made.again.as_secs_f64()));
}

fn per_key(bytes: u64, keys: u64) -> String {
    format!("{:.2}", bytes as f64 / keys as f64)
}

fn row(what: &str, measured: &str) {
    println!("| {what} | {measured} |");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_state_is_filled_measured_and_found_again() {
        let dir = std::env::temp_dir().join(format!("firn-state-bench-{}", std::process::id()));
        let path = dir.to_string_lossy().into_owned();
        let arguments = ["state", &path, "--keys", "1000", "--nodes", "40", "--lookups", "500", "--filters"];
        run(&Options::parse_from(arguments)).expect("everything that was committed is found");
        assert!(!dir.exists());
    }

    #[test]
    fn a_state_is_filled_in_pieces_also_behind_one_that_was_killed_and_measured_in_parts() {
        let dir = std::env::temp_dir().join(format!("firn-state-pieces-{}", std::process::id()));
        let path = dir.to_string_lossy().into_owned();
        let with = |keys: &str, more: &[&str]| {
            let arguments = ["state", &path, "--keys-per-bundle", "50", "--nodes", "40", "--lookups", "200"];
            let sized = [&["--keys", keys][..], more].concat();
            Options::parse_from(arguments.into_iter().chain(sized))
        };
        // No time, so nothing but the nodes is there.
        run(&with("1000", &["--fill-for", "0"])).expect("it stops before the first bundle");
        // As one that ended while its last bundles were under way: some have no features yet, and one has no commit.
        let generator = Generator::new(40, 1000, 50, Some(8));
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads");
        runtime.block_on(half_done(&dir, &generator)).expect("its first bundles");
        drop(runtime);
        run(&with("1000", &["--resume", "--keep", "--no-bare"])).expect("it goes on");
        run(&with("1000", &["--filled", "--only", "disk,digest"])).expect("parts");
        run(&with("1000", &["--filled", "--only", "bare,features"])).expect("other parts");
        assert!(dir.exists());
        std::fs::remove_dir_all(&dir).expect("it is there");
    }

    async fn half_done(dir: &std::path::Path, generator: &Generator) -> Result<(), Failure> {
        let members = Members::start(dir, 1).await?;
        let leader = members.leader().await?;
        for bundle in [0, 1, 3] {
            filling::publish_bundle(&leader, generator, bundle, false).await?;
        }
        for (bundle, commands) in [(2, 1), (4, 2)] {
            let all = [generator.reserve(bundle)?, generator.commit(bundle)];
            for command in all.into_iter().take(commands) {
                let command = firn_wire::TimedCommand::of_coordinators(Generator::time(bundle), command);
                leader.propose(command).await?;
            }
        }
        members.stop().await;
        Ok(())
    }
}
