//! Finding what the archive has already, for many paths: what it asks of coordinators, what it reads of manifests, what
//! memory the uploader takes.
//!
//! `cargo run --release -p firn-benches --example finder -- DIR --paths 1000000` prints what RESULTS.md records. The
//! paths are made up: as many packages as there are paths in a generation, each a NAR of a few kB with its own hash in
//! it; from one generation to the next some packages change, and all are signed and called anew. Each generation is
//! published by the client library's own pipeline into an archive that keeps its bundles in this process and sends
//! nothing. DIR holds one generation at a time and is empty in the end.
//!
//! Always holds: of what did not change at least half is found, or the run ends with exit code 1. Leaves to others:
//! what coordinators take for it (`state`).

mod paths;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use firn_base::Scheme;
use firn_benches::process::{Failure, own_memory_kib, reset_own_peak};
use firn_client::{PaperArchive, PaperRequests, PublishEvents, PublishOptions, PublishSummary, Source};
use firn_transport::Environment;

use crate::paths::Packages;

/// Publishes made-up paths generation by generation and counts what finding duplicates takes.
#[derive(Debug, Parser)]
struct Options {
    /// Where the source of one generation at a time is made
    dir: PathBuf,
    /// Paths in all
    #[arg(long, default_value_t = 8_000)]
    paths: u64,
    /// Generations that they come in
    #[arg(long, default_value_t = 8)]
    generations: u64,
    /// Of so many packages one changes from a generation to the next
    #[arg(long, default_value_t = 8)]
    changed_of: u64,
    /// Bytes of a package's file
    #[arg(long, default_value_t = 6_000)]
    file_bytes: usize,
    /// Of so many packages one has a hundred times as many bytes, so that it is looked for by its chunks too
    #[arg(long, default_value_t = 1_000)]
    large_of: u64,
    /// Payload at which a bundle is full
    #[arg(long, default_value_t = 8 << 20)]
    bundle_bytes: u64,
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
    if options.paths < options.generations
        || [options.generations, options.changed_of, options.large_of].contains(&0)
    {
        return Err(
            "there are paths in each generation, and one of at least one package changes or is large".into(),
        );
    }
    let each = options.paths / options.generations;
    let packages = Packages::new(each, options.changed_of, options.large_of, options.file_bytes)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let archive = PaperArchive::new(Scheme::new(16, 40)?);
    println!(
        "| generation, {each} paths each | NARs, payload, MB | features asked for; requests | manifests read: MB, bytes for each path | frames read, MB | memory before, peak, MB | s |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for generation in 0..options.generations {
        let dir = options.dir.join(format!("generation-{generation}"));
        packages.write(&dir, generation)?;
        let before = archive.requests();
        let (resident, begun) = (reset_peak()?, Instant::now());
        let summary = runtime.block_on(publish(&archive, &packages, &dir, options))?;
        let seconds = begun.elapsed().as_secs_f64();
        let peak = own_memory_kib("VmHWM")?;
        fs::remove_dir_all(&dir)?;
        report(generation, &summary, &since(&archive.requests(), &before), (resident, peak), seconds);
        check(&summary, &packages, generation, each)?;
    }
    let bundles = archive.bundles();
    let dependencies: usize = bundles.iter().map(|bundle| bundle.content.dependencies().len()).sum();
    let manifests: u64 = bundles.iter().map(|bundle| bundle.content.manifest_bytes()).sum();
    println!(
        "\n{} bundles, {dependencies} dependencies, manifests of {:.1} MB",
        bundles.len(),
        mega(manifests)
    );
    fs::remove_dir(&options.dir)?;
    Ok(())
}

async fn publish(
    archive: &PaperArchive,
    packages: &Packages,
    dir: &std::path::Path,
    options: &Options,
) -> Result<PublishSummary, Failure> {
    let source = Source::open(dir.to_str().ok_or("a directory's name is no text")?)?;
    let options = PublishOptions {
        reuse_chunks: true,
        // Bundles are as small as there are few paths, and what is found in them is what is measured.
        reuse_small_bundles: true,
        bundle_bytes: options.bundle_bytes,
        ..PublishOptions::new(source)
    };
    let publishers = vec![packages.publisher()];
    Ok(archive.publish(publishers, &Environment::real(), options, PublishEvents::none()).await?)
}

fn reset_peak() -> Result<u64, Failure> {
    reset_own_peak()?;
    own_memory_kib("VmRSS")
}

fn since(now: &PaperRequests, before: &PaperRequests) -> PaperRequests {
    PaperRequests {
        similar_requests: now.similar_requests - before.similar_requests,
        features: now.features - before.features,
        manifest_bytes: now.manifest_bytes - before.manifest_bytes,
        frame_bytes: now.frame_bytes - before.frame_bytes,
    }
}

fn report(
    generation: u64,
    summary: &PublishSummary,
    asked: &PaperRequests,
    (resident, peak): (u64, u64),
    seconds: f64,
) {
    println!(
        "| {generation} | {:.1}, {:.1} | {}; {} | {:.1}, {} | {:.1} | {:.0}, {:.0} | {seconds:.0} |",
        mega(summary.content.0),
        mega(summary.payload.0),
        asked.features,
        asked.similar_requests,
        mega(asked.manifest_bytes),
        asked.manifest_bytes / summary.paths_published.max(1),
        mega(asked.frame_bytes),
        mega(resident << 10),
        mega(peak << 10),
    );
}

/// Everything was published, and most of what did not change was found: a bundle may depend on eight others, no more.
fn check(summary: &PublishSummary, packages: &Packages, generation: u64, each: u64) -> Result<(), Failure> {
    if summary.exit_code() != 0 || summary.paths_published != each {
        return Err(format!("not everything was published: {summary}").into());
    }
    let unchanged = packages.unchanged_bytes(generation);
    if summary.reused.0 < unchanged / 2 {
        return Err(format!("{} of {unchanged} bytes were found again: {summary}", summary.reused.0).into());
    }
    Ok(())
}

fn mega(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_did_not_change_is_found_in_every_generation() {
        let dir = std::env::temp_dir().join(format!("firn-finder-bench-{}", std::process::id()));
        let path = dir.to_string_lossy().into_owned();
        let arguments = ["finder", &path, "--paths", "600", "--generations", "3", "--large-of", "50"];
        run(&Options::parse_from(arguments)).expect("what did not change is found");
        assert!(!dir.exists());
    }
}
