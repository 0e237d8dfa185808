//! `firn-simulation SEED [--growth|--disaster] [--lying-disks]` runs one seed; `firn-simulation FROM..TO` runs each in a
//! process of its own. With FIRN_SIMULATION_LOG set, as in `info,openraft=warn`, the programs' logs go to standard error.

use std::process::{Command, ExitCode};
use std::time::Instant;

use firn_simulation::{Outcome, RunOptions, Story, run};
use tracing_subscriber::EnvFilter;

const USAGE: &str = "usage: firn-simulation SEED|FROM..TO [--growth|--disaster] [--lying-disks]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let lying_disks = has("--lying-disks");
    let story = match (has("--growth"), has("--disaster")) {
        (true, _) => Story::Growth,
        (_, true) => Story::Disaster,
        _ => Story::Losses,
    };
    let Some(seeds) = arguments.first() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    if let Some((from, to)) = seeds.split_once("..") {
        return match (from.parse(), to.parse()) {
            (Ok(from), Ok(to)) => run_range(from..to, &arguments[1..]),
            _ => {
                eprintln!("{USAGE}");
                ExitCode::from(2)
            }
        };
    }
    let Ok(seed) = seeds.parse() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    if let Ok(filter) = EnvFilter::try_from_env("FIRN_SIMULATION_LOG") {
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        log.with_ansi(false).without_time().init();
    }
    let begun = Instant::now();
    let outcome = run(RunOptions { seed, story, lying_disks });
    print(seed, &outcome, begun.elapsed().as_secs_f64());
    if outcome.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print(seed: u64, outcome: &Outcome, seconds: f64) {
    let hash: String = outcome.trace.hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    println!("seed {seed} trace {hash}");
    println!(
        "  {:.0} s simulated in {seconds:.1} s: {} nodes, {} paths committed, {} faults, term {}, {} states compared,",
        outcome.simulated.as_secs_f64(),
        outcome.nodes,
        outcome.committed,
        outcome.faults.values().sum::<u64>(),
        outcome.term,
        outcome.positions,
    );
    println!(
        "  {} reads meanwhile and {} put off, {} kB moved by repair, {} files in trash, {} datagrams of {} kB",
        outcome.reads,
        outcome.reads_put_off,
        outcome.repaired_bytes / 1000,
        outcome.trashed,
        outcome.trace.datagrams,
        outcome.trace.bytes / 1000,
    );
    let faults: Vec<String> =
        outcome.faults.iter().map(|(fault, times)| format!("{times} times {fault}")).collect();
    println!("  {}", if faults.is_empty() { "no faults".to_owned() } else { faults.join(", ") });
    if outcome.restored > 0 {
        println!(
            "  {} bundles packed anew for purges, {} bundles back after the disaster, in which {}",
            outcome.purged, outcome.restored, outcome.away
        );
    }
    for violation in &outcome.violations {
        println!("  violation: {violation}");
    }
}

fn run_range(seeds: std::ops::Range<u64>, further: &[String]) -> ExitCode {
    let Ok(program) = std::env::current_exe() else {
        eprintln!("this program does not know where it lies");
        return ExitCode::from(2);
    };
    let failed = seeds.filter(|seed| {
        let status = Command::new(&program).arg(seed.to_string()).args(further).status();
        !status.is_ok_and(|status| status.success())
    });
    let failed: Vec<u64> = failed.collect();
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("seeds that failed: {failed:?}");
    ExitCode::FAILURE
}
