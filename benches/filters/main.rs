//! Filters over the feed at scale: bits for each key, time and memory to make them, strangers, questions per second.
//!
//! `cargo run --release -p firn-benches --example filters -- DIR --keys 10000000` prints what RESULTS.md records. The
//! feed is made up while it is read, 10 ns an event: what reading it from a store costs is not in the figures. One
//! event in a hundred takes a key back, as hardly any archive does.
//!
//! Always holds: a key that its filter does not have ends the run with exit code 1. Leaves to others: which filters there
//! are and how they are made (`firn_coordinator_logic`), as coordinators do it.

mod feed;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use firn_base::ArchiveId;
use firn_benches::process::Failure;
use firn_filter::MembershipFilter;
use firn_wire::FeedEvent;

use crate::feed::{event, key, make_all, path, spread, stranger};

type Filters = Vec<MembershipFilter<Vec<u8>>>;

/// Keys asked for by number: prepared, so that making them is not measured.
const ASKED: u64 = 1 << 20;

/// Makes the filters of a feed and asks them.
#[derive(Debug, Parser)]
struct Options {
    /// Where the filters are written; they are removed in the end
    dir: PathBuf,
    /// Events of the feed
    #[arg(long, default_value_t = 3_000_000)]
    keys: u64,
    /// Keys that nobody archived, for which the filters are asked
    #[arg(long, default_value_t = 10_000_000)]
    strangers: u64,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), Failure> {
    fs::create_dir_all(&options.dir)?;
    let before = peak_memory()?;
    let began = thread_seconds()?;
    let plan = make_all(&options.dir, ArchiveId::from_bytes([1; 32]), options.keys)?;
    let seconds = thread_seconds()? - began;
    let (mut keys, mut bytes, mut covered) = (0, 0, 0);
    for filter in &plan.serve {
        println!("  filter {}: {} keys, {} bytes", filter.range, filter.keys, filter.bytes);
        keys += filter.keys;
        bytes += filter.bytes;
        covered = filter.range.end;
    }
    println!(
        "{keys} keys in {} filters, {bytes} bytes: {:.3} bits for each key; {} events are left to the feed",
        plan.serve.len(),
        ratio(bytes * 8, keys),
        options.keys - covered
    );
    println!(
        "made in {seconds:.2} s of one core, {:.0} keys/s; memory at the peak {} MiB, {} MiB of it before",
        ratio(keys, 1) / seconds,
        peak_memory()? >> 10,
        before >> 10
    );
    let filters: Filters = plan
        .serve
        .iter()
        .map(|filter| Ok(MembershipFilter::open(fs::read(path(&options.dir, filter.id))?)?))
        .collect::<Result<_, Failure>>()?;
    ask(options, &filters)?;
    for filter in &plan.serve {
        fs::remove_file(path(&options.dir, filter.id))?;
    }
    Ok(())
}

fn ask(options: &Options, filters: &Filters) -> Result<(), Failure> {
    let covered = filters.last().map_or(0, |filter| filter.header().range.end);
    let known = (0..covered).step_by(97).filter_map(|position| match event(position) {
        FeedEvent::Visible(key) => Some(key),
        FeedEvent::Withdrawn(_) => None,
    });
    for key in known {
        if !filters.iter().any(|filter| filter.may_contain(&key)) {
            return Err(format!("{key} became visible, and no filter has it").into());
        }
    }
    let mut each = vec![0_u64; filters.len()];
    let mut any = 0_u64;
    for number in 0..options.strangers {
        let key = stranger(number);
        let mut held = false;
        for (filter, count) in filters.iter().zip(&mut each) {
            let found = filter.may_contain(&key);
            *count += u64::from(found);
            held |= found;
        }
        any += u64::from(held);
    }
    let each: Vec<_> =
        each.iter().map(|count| format!("{:.3} %", 100.0 * ratio(*count, options.strangers))).collect();
    println!(
        "of {} strangers the filters hold {}; at least one holds {:.3} %",
        options.strangers,
        each.join(", "),
        100.0 * ratio(any, options.strangers)
    );
    let strangers: Vec<_> = (options.strangers..options.strangers + ASKED).map(stranger).collect();
    let known: Vec<_> = (0..ASKED).map(|number| key(spread(number) % covered.max(1))).collect();
    for (what, keys) in [("strangers", &strangers), ("archived keys", &known)] {
        let began = thread_seconds()?;
        let found = keys.iter().filter(|key| filters.iter().any(|filter| filter.may_contain(key))).count();
        let seconds = thread_seconds()? - began;
        println!("{what}: {:.0} questions/s on one core, {found} of {ASKED} held", ratio(ASKED, 1) / seconds);
    }
    Ok(())
}

/// For figures: what is lost beyond 53 bits is not seen.
#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

/// How long this thread has run, without what it waited: others may use the machine meanwhile.
fn thread_seconds() -> Result<f64, Failure> {
    let schedstat = fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanos = schedstat.split_whitespace().next().ok_or("the kernel keeps no times of threads")?;
    Ok(Duration::from_nanos(nanos.parse()?).as_secs_f64())
}

/// The most memory that this process has had, in KiB.
fn peak_memory() -> Result<u64, Failure> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let figure =
        line.and_then(|line| line.split_whitespace().next()).ok_or("no VmHWM in /proc/self/status")?;
    Ok(figure.parse()?)
}
