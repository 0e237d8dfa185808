//! What the archive takes for real packages, beside one copy of their `.nar.xz` files.
//!
//! `cargo run --release -p firn-benches --example storage -- DIR` prints what RESULTS.md records. The corpora are made by
//! `benches/storage/make-corpora.sh` in DIR, those that are not there yet (needs Nix and apt; some minutes and 3 GB; nothing
//! outside of DIR is written, and a second run finds everything there). Each generation is published on its own, one behind
//! the other, by the client library's own pipeline with all its checks and the coding 16/40; only the sending of shards is
//! left out. `--variant` chooses what is measured, `--corpus` on what.
//!
//! `--rounds 40` publishes the generations in so many small rounds, packs together what coordinators would tell, and prints what that
//! takes beside one publish.
//!
//! `--speed 3` measures three times in turn how fast a publish is, and the parts of it that nobody can avoid, each alone.

mod corpus;
mod parts;
mod reading;
mod rounds;
mod variant;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::Parser;
use firn_benches::process::{Failure, own_memory_kib};
use firn_bundle::FrameCompression;

use crate::corpus::{CORPORA, Corpus};
use crate::parts::{FrameOptions, Parts};
use crate::reading::Reading;
use crate::variant::{Measured, Variant};

/// Measures what packages take.
#[derive(Debug, Parser)]
struct Options {
    /// Where the corpora are, or are made
    dir: PathBuf,
    /// Only these corpora
    #[arg(long, value_delimiter = ',')]
    corpus: Vec<String>,
    /// Only these variants
    #[arg(long, value_delimiter = ',')]
    variant: Vec<Variant>,
    /// Raw bytes of a frame in the variants that publish; what suits the compression if not given
    #[arg(long)]
    frame_bytes: Option<u32>,
    /// What frames are compressed with in the variants that publish, as for `firn publish`
    #[arg(long, default_value_t)]
    frame_compression: FrameCompression,
    /// Instead: publish in so many rounds, compact until nothing is told, and say what that takes beside one publish
    #[arg(long, value_name = "N", conflicts_with = "speed")]
    rounds: Option<usize>,
    /// Measure speed instead of bytes: a publish and its parts run alone, so many times in turn
    #[arg(long, value_name = "ROUNDS")]
    speed: Option<u32>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), Failure> {
    let chosen: Vec<&str> = CORPORA
        .into_iter()
        .filter(|name| options.corpus.is_empty() || options.corpus.iter().any(|wanted| wanted == name))
        .collect();
    if chosen.is_empty() {
        return Err(format!("the corpora are {}", CORPORA.join(", ")).into());
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("storage/make-corpora.sh");
    // Its words go where ours do not: standard output is the table.
    let made = Command::new("bash")
        .arg(script)
        .arg(&options.dir)
        .args(&chosen)
        .stdout(std::io::stderr())
        .status()?;
    if !made.success() {
        return Err("the corpora were not made".into());
    }
    let variants = if options.variant.is_empty() { Variant::ALL.to_vec() } else { options.variant.clone() };
    for name in chosen {
        let corpus = Corpus::open(&options.dir.join(name))?;
        println!(
            "\n{name}: {} paths, {} MB of NARs, {} MB as .nar.xz\n",
            corpus.paths.len(),
            megabytes(corpus.nar_bytes()),
            megabytes(corpus.xz_bytes())
        );
        if let Some(rounds) = options.speed {
            print_speed(&corpus, options, rounds)?;
            continue;
        }
        if let Some(rounds) = options.rounds {
            rounds::print_rounds(&corpus, rounds, options.frame_compression)?;
            continue;
        }
        println!("| {name} | MB | of .nar.xz |");
        println!("| --- | --- | --- |");
        row(".nar.xz, one copy", corpus.xz_bytes(), corpus.xz_bytes());
        row(".nar.zst, level 19, one copy", corpus.zstd_bytes()?, corpus.xz_bytes());
        for variant in &variants {
            let measured = variant.measure(&corpus, options.frame_bytes, options.frame_compression)?;
            print_measured(variant.name(), &corpus, &measured)?;
        }
    }
    Ok(())
}

/// What a publish takes beside the sum of what it cannot avoid; of each the round that took least.
fn print_speed(corpus: &Corpus, options: &Options, rounds: u32) -> Result<(), Failure> {
    let compression = options.frame_compression;
    let bytes = options.frame_bytes.unwrap_or(compression.frame_bytes());
    let frames = FrameOptions { bytes: usize::try_from(bytes)?, compression };
    let (mut whole, mut alone, mut peak) = (Vec::new(), Vec::new(), None);
    for _ in 0..rounds.max(1) {
        let measured = Variant::Publish.measure(corpus, options.frame_bytes, compression)?;
        whole.push((measured.cpu, measured.wall));
        // Before the parts, which lie in memory as a whole, have run for the first time.
        peak.get_or_insert(own_memory_kib("VmHWM")? << 10);
        drop(measured);
        alone.push(Parts::measure(corpus, frames, variant::K)?);
    }
    let cores = std::thread::available_parallelism()?.get();
    let nar = corpus.nar_bytes() as f64 / 1e6;
    let line = |what: &str, time: Duration| {
        println!("| {what} | {:.2} | {:.0} |", time.as_secs_f64(), nar / time.as_secs_f64().max(1e-9));
    };
    println!("| {rounds} rounds, {cores} cores | s | NAR MB/s |");
    println!("| --- | --- | --- |");
    let least = alone.iter().min_by_key(|parts| parts.sum()).ok_or("no round")?;
    for (what, time) in least.rows() {
        line(&format!("alone, one thread, CPU: {what}"), time);
    }
    let sum = least.sum();
    line("all of that, CPU", sum);
    let cpu = whole.iter().map(|(cpu, _)| *cpu).min().ok_or("no round")?;
    let wall = whole.iter().map(|(_, wall)| *wall).min().ok_or("no round")?;
    line("publish, CPU", cpu);
    line("publish, by the clock", wall);
    let of = |time: f64| format!("{:.2}", sum.as_secs_f64() / time.max(1e-9));
    println!("| what cannot be avoided, of the publish's CPU (target 0.8) | {} | |", of(cpu.as_secs_f64()));
    println!(
        "| … of what {cores} cores give in the publish's time | {} | |",
        of(wall.as_secs_f64() * cores as f64)
    );
    println!("| peak memory of the first publish, MB | {:.0} | |", peak.unwrap_or(0) as f64 / 1e6);
    Ok(())
}

fn print_measured(name: &str, corpus: &Corpus, measured: &Measured) -> Result<(), Failure> {
    let xz = corpus.xz_bytes();
    row(&format!("{name}: frames"), measured.frame_bytes(), xz);
    row(&format!("{name}: payload"), measured.payload_bytes(), xz);
    row(&format!("{name}: stored 16/40, shard files"), measured.stored_bytes(), xz);
    if let [.., before, last] = &measured.payload_by_generation()[..] {
        let added = last - before;
        row(
            &format!("{name}: payload that the last generation added, of its own .nar.xz"),
            added,
            corpus.last_xz(),
        );
    }
    let per_core = corpus.nar_bytes() as f64 / 1e6 / measured.cpu.as_secs_f64();
    println!("| {name}: NAR MB per CPU second |  | {per_core:.1} |");
    let reading = Reading::of(corpus, measured)?;
    for (what, percent) in [
        ("bytes of frames read beside its own for one cold path, 95 of 100", 95),
        ("the same, the worst", 100),
    ] {
        println!("| {name}: {what} | {} |  |", megabytes(reading.over_read(percent)));
    }
    println!("| {name}: bundles for one path, mean and most |  | {} |", reading.bundles_per_path());
    println!("| {name}: bundles for one closure, mean and most |  | {} |", reading.bundles_per_closure());
    println!("| {name}: bundles, dependencies |  | {} |", measured.bundles_and_dependencies());
    Ok(())
}

fn row(what: &str, bytes: u64, of: u64) {
    println!("| {what} | {} | {:.3} |", megabytes(bytes), bytes as f64 / of as f64);
}

fn megabytes(bytes: u64) -> String {
    format!("{:.2}", bytes as f64 / 1e6)
}
