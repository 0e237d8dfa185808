//! Coordinators as separate processes in namespaces of the network, while everything goes wrong that does in earnest:
//! cut ways in one or both directions, kill -9, pauses, disks that stall, clocks that are off. Writers and readers of the
//! ledger, publishers with storage nodes, and readers of the feeds and of presence go on all the while; what they were told
//! is checked against what the coordinators have in the end.
//!
//! `FIRN_TEST_FAULT_RUNS` says how many runs (default 3), `FIRN_TEST_FAULT_SEED` with which seed they begin (default 1):
//! `FIRN_TEST_FAULT_RUNS=200 cargo test --release -p firn-local --test faults -- --nocapture` takes about 70 minutes on two busy cores.
//! It needs root, `ip`, loop devices and libfaketime; where those are not there it says so and passes, unless
//! `FIRN_TEST_FAULTS=required`.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod clients;
mod clock;
mod damage;
mod disk;
mod history;
mod members;
mod network;
mod observer;
mod outside;
mod run;
mod script;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::time::Instant;

use clock::Clocks;
use disk::Disk;
use members::{Founded, Members};
use network::Network;
use outside::Outside;
use run::play;
use script::Script;

const HOSTS: usize = 5;

/// Behind the coordinators': the host of all others, to which no way is ever cut. So one that is cut off from its like goes on
/// being asked.
const OUTSIDE: usize = HOSTS;

/// A number from the environment.
fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |number| number.parse().unwrap())
}

/// What this machine gives, if it gives all.
fn equipment(place: &std::path::Path) -> Result<(Network, Vec<Disk>, Clocks), String> {
    let clocks = Clocks::find()?;
    let network = Network::make(HOSTS + 1)?;
    let disks = (0..HOSTS).map(|number| Disk::make(place, number)).collect::<Result<_, _>>()?;
    Ok((network, disks, clocks))
}

/// The same; where it is not given, that is said, and is a failure if it must be.
fn equipment_or_skip(place: &std::path::Path) -> Option<(Network, Vec<Disk>, Clocks)> {
    match equipment(place) {
        Ok(equipment) => Some(equipment),
        Err(lacking) => {
            assert_ne!(std::env::var("FIRN_TEST_FAULTS").as_deref(), Ok("required"), "{lacking}");
            println!("skipped: {lacking}");
            None
        }
    }
}

#[test]
fn no_acknowledged_act_is_lost_and_no_replica_goes_back_whatever_goes_wrong() {
    let place = tempfile::tempdir().unwrap();
    let Some((mut network, mut disks, clocks)) = equipment_or_skip(place.path()) else { return };
    let (runs, first) = (setting("FIRN_TEST_FAULT_RUNS", 3), setting("FIRN_TEST_FAULT_SEED", 1));
    let mut founded: BTreeMap<usize, Founded> = BTreeMap::new();
    for seed in first..first + runs {
        let script = Script::draw(seed);
        println!("seed {seed}: {} coordinators", script.members);
        let founded = founded
            .entry(script.members)
            .or_insert_with(|| Founded::with_nodes(place.path(), &network, &clocks, script.members));
        let begun = Instant::now();
        let outside = Outside::start(founded, network.host(OUTSIDE), place.path(), seed);
        let members = Members::start(founded, &mut network, &mut disks, &format!("run-{seed}"));
        let outcome = play(members, outside, &script);
        println!(
            "seed {seed}: {} acts acknowledged, {} refused, {} unknown, {} reads, longest gap {:.1} s; {} bundles acknowledged, {} \
             unknown, {} reads of feeds, {} of presence; {:.1} s in all",
            outcome.acknowledged,
            outcome.refused,
            outcome.unknown,
            outcome.reads,
            outcome.longest_gap.as_secs_f64(),
            outcome.published,
            outcome.unknown_published,
            outcome.feed_reads,
            outcome.presence_reads,
            begun.elapsed().as_secs_f64()
        );
        assert_eq!(outcome.violations, [], "seed {seed}");
    }
    println!("{runs} runs, seeds from {first} on: nothing that was acknowledged is lost");
}
