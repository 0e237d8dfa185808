//! What the archive takes for real packages, beside one copy of their `.nar.xz` files.
//!
//! `cargo run --release -p firn-benches --example storage -- DIR` prints what RESULTS.md records. The corpora are made
//! by `benches/storage/make-corpora.sh` in DIR, those that are not there yet (needs Nix and apt; some minutes and 3 GB;
//! nothing outside of DIR is written, and a second run finds everything there); the one called `closure`, 5,000 made-up
//! packages in two generations, by this program (1 GB). Each generation is published on its own, one behind the other,
//! or all of them by one publish with `--at-once`: by the client library's own pipeline with all its checks and the
//! coding 16/40; only the sending of shards is left out. `--variant` chooses what is measured, `--corpus` on what.
//! Behind each variant the largest closure of the first and of the last generation is read as by a gateway that knows
//! nothing yet.
//!
//! `--rounds 40` publishes the generations in so many small rounds, packs together what coordinators would tell, and
//! prints what that takes beside one publish.
//!
//! `--speed 3` measures three times in turn how fast a publish is, and the parts of it that nobody can avoid, each
//! alone; and how fast hash parts are replaced, beside copying the same bytes.

mod cold_closure;
mod corpus;
mod hash_part_speed;
mod package_set;
mod parts;
mod reading;
mod rounds;
mod variant;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::Parser;
use firn_base::ObjectKey;
use firn_benches::process::{Failure, own_memory_kib, reset_own_peak};
use firn_bundle::{FrameCompression, PAYLOAD_BYTES_MAX};

use crate::cold_closure::ColdClosure;
use crate::corpus::Corpus;
use crate::hash_part_speed::HashPartSpeed;
use crate::package_set::PackageSet;
use crate::parts::{FrameOptions, Parts};
use crate::reading::Reading;
use crate::variant::{Measured, Publishing, Variant};

// Those of real packages are called as `make-corpora.sh` calls them.
const REAL_CORPORA: [&str; 4] = ["generations", "pairs", "different", "large"];
const MADE_UP_CORPUS: &str = "closure";

// A system of a thousand paths, among five times as many.
const MADE_UP_PATHS: usize = 5_000;
const MADE_UP_CLOSURE: usize = 1_000;
const MADE_UP_GENERATIONS: u32 = 2;

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
    /// Payload at which a bundle is full: where bundles are smaller, a closure of the same size lies in more of them
    #[arg(long, default_value_t = PAYLOAD_BYTES_MAX)]
    bundle_bytes: u64,
    /// Publish all generations at once instead of one behind the other
    #[arg(long)]
    at_once: bool,
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

impl Options {
    const fn publishing(&self) -> Publishing {
        Publishing {
            frame_bytes: self.frame_bytes,
            frame_compression: self.frame_compression,
            bundle_bytes: self.bundle_bytes,
            at_once: self.at_once,
        }
    }
}

fn run(options: &Options) -> Result<(), Failure> {
    let wanted =
        |name: &&str| options.corpus.is_empty() || options.corpus.iter().any(|wanted| wanted == name);
    let real: Vec<&str> = REAL_CORPORA.into_iter().filter(wanted).collect();
    let made_up = Some(MADE_UP_CORPUS).filter(wanted);
    if real.is_empty() && made_up.is_none() {
        return Err(format!("the corpora are {}, {MADE_UP_CORPUS}", REAL_CORPORA.join(", ")).into());
    }
    if !real.is_empty() {
        make_real(&options.dir, &real)?;
    }
    if let Some(name) = made_up {
        PackageSet::new(MADE_UP_PATHS, MADE_UP_CLOSURE)?
            .make_corpus(&options.dir.join(name), MADE_UP_GENERATIONS)?;
    }
    for name in real.into_iter().chain(made_up) {
        let corpus = Corpus::open(&options.dir.join(name))?;
        println!(
            "\n{name}: {} paths, {} MB of NARs, {} MB as {}\n",
            corpus.paths.len(),
            megabytes(corpus.nar_bytes()),
            megabytes(corpus.file_bytes()),
            corpus.file_kind()
        );
        if let Some(rounds) = options.speed {
            print_speed(&corpus, options, rounds)?;
        } else if let Some(rounds) = options.rounds {
            rounds::print_rounds(&corpus, rounds, options.frame_compression)?;
        } else {
            print_variants(name, &corpus, options)?;
        }
    }
    Ok(())
}

fn make_real(dir: &Path, corpora: &[&str]) -> Result<(), Failure> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("storage/make-corpora.sh");
    // Its words go where ours do not: standard output is the table.
    let mut make = Command::new("bash");
    let made = make.arg(script).arg(dir).args(corpora).stdout(std::io::stderr()).status()?;
    if made.success() { Ok(()) } else { Err("the corpora were not made".into()) }
}

fn print_variants(name: &str, corpus: &Corpus, options: &Options) -> Result<(), Failure> {
    let (files, kind) = (corpus.file_bytes(), corpus.file_kind());
    println!("| {name} | MB | of {kind} |");
    println!("| --- | --- | --- |");
    row(&format!("{kind}, one copy"), files, files);
    // What is made up says nothing about compression.
    if name != MADE_UP_CORPUS {
        row(".nar.zst, level 19, one copy", corpus.zstd_bytes()?, files);
    }
    let variants = if options.variant.is_empty() { Variant::ALL.to_vec() } else { options.variant.clone() };
    let mut closures = Vec::new();
    for variant in variants {
        let renamed = if variant.is_patched() { None } else { Some(corpus.renamed()?) };
        let corpus = renamed.as_ref().unwrap_or(corpus);
        let measured = variant.measure(corpus, options.publishing())?;
        let reading = Reading::of(&measured)?;
        print_measured(variant.name(), corpus, &measured, &reading);
        let ends = [corpus.generations.first(), corpus.generations.last()];
        for generation in ends.into_iter().flatten().collect::<BTreeSet<_>>() {
            closures.push((variant.name(), ColdClosure::read(corpus, &measured, &reading, *generation)?));
        }
    }
    for (variant, closure) in closures {
        println!("\n{name}, {variant}:\n\n{closure}");
    }
    Ok(())
}

/// What a publish takes beside the sum of what it cannot avoid; of each the round that took least.
fn print_speed(corpus: &Corpus, options: &Options, rounds: u32) -> Result<(), Failure> {
    let compression = options.frame_compression;
    let bytes = options.frame_bytes.unwrap_or(compression.frame_bytes());
    let frames = FrameOptions { bytes: usize::try_from(bytes)?, compression };
    let (mut whole, mut alone, mut peak) = (Vec::new(), Vec::new(), None);
    reset_own_peak()?;
    for _ in 0..rounds.max(1) {
        let measured = Variant::Publish.measure(corpus, options.publishing())?;
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
    println!("\n{}", HashPartSpeed::measure(corpus, rounds)?);
    Ok(())
}

fn print_measured(name: &str, corpus: &Corpus, measured: &Measured, reading: &Reading) {
    let files = corpus.file_bytes();
    row(&format!("{name}: frames"), measured.frame_bytes(), files);
    row(&format!("{name}: payload"), measured.payload_bytes(), files);
    row(&format!("{name}: stored 16/40, shard files"), measured.stored_bytes(), files);
    if let [.., before, last] = &measured.payload_by_publish()[..] {
        row(
            &format!("{name}: payload that the last generation added, of its own files"),
            last - before,
            corpus.last_file_bytes(),
        );
    }
    let rate = |time: Duration| corpus.nar_bytes() as f64 / 1e6 / time.as_secs_f64().max(1e-9);
    let (cpu, wall) = (rate(measured.cpu), rate(measured.wall));
    println!("| {name}: NAR MB/s: of one core's time; by the clock |  | {cpu:.1}; {wall:.1} |");
    let paths: Vec<ObjectKey> = corpus.paths.keys().copied().collect();
    let readings = [("path", reading.paths(&paths)), ("closure", reading.closures(corpus))];
    for (what, readings) in &readings {
        println!(
            "| {name}: MB of frames read beside its own for one cold {what}: half, 95 of 100, worst | {} |  |",
            readings.over_read()
        );
        println!("| {name}: bundles for one {what}: mean, most |  | {} |", readings.bundles());
    }
    println!("| {name}: bundles, dependencies |  | {} |", measured.bundles_and_dependencies());
}

fn row(what: &str, bytes: u64, of: u64) {
    println!("| {what} | {} | {:.3} |", megabytes(bytes), bytes as f64 / of as f64);
}

fn megabytes(bytes: u64) -> String {
    format!("{:.2}", bytes as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closure_among_others_is_read_whole_and_patches_are_where_they_are_wanted() -> Result<(), Failure> {
        let dir = std::env::temp_dir().join(format!("firn-storage-bench-{}", std::process::id()));
        PackageSet::new(40, 15)?.make_corpus(&dir, 2)?;
        let corpus = Corpus::open(&dir)?;
        let publishing = Publishing {
            frame_bytes: None,
            frame_compression: FrameCompression::default(),
            bundle_bytes: 2 << 20,
            at_once: false,
        };
        // Among so few packages another one may lead to more.
        let largest = corpus.largest_closure(2);
        let (paths, nar_bytes) = (largest.len(), corpus.nar_bytes_of(&largest));
        assert!(paths >= 15, "{paths}");
        for variant in [Variant::Unpatched, Variant::Reuse] {
            let corpus = if variant.is_patched() { Corpus::open(&dir)? } else { corpus.renamed()? };
            let measured = variant.measure(&corpus, publishing)?;
            let reading = Reading::of(&measured)?;
            let closure = ColdClosure::read(&corpus, &measured, &reading, 2)?;
            assert_eq!((closure.paths, closure.nar_bytes), (paths, nar_bytes));
            let mut patches = 0;
            for bundle in &measured.bundles {
                for located in bundle.manifest.records() {
                    patches += bundle.manifest.chunk_list(&located?.record)?.patches().len();
                }
            }
            assert_eq!(patches > 0, variant.is_patched(), "{variant:?}");
        }
        Ok(std::fs::remove_dir_all(dir)?)
    }
}
