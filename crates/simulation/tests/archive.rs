//! The archive in simulated worlds: publish, kill the leader, lose nodes, repair, read everything.

#![expect(clippy::unwrap_used, reason = "a test stops at whatever surprises it")]

use std::process::Command;

/// What one run printed, and whether nothing was violated.
struct Run {
    text: String,
    is_sound: bool,
}

/// Runs a seed in a process of its own, as determinism wants it.
fn simulate(seed: u64, further: &[&str]) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_firn-simulation"));
    let output = command.arg(seed.to_string()).args(further).output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Run { text, is_sound: output.status.success() }
}

fn trace(run: &Run) -> &str {
    run.text.lines().next().unwrap().rsplit_once(" trace ").unwrap().1
}

fn check(seed: u64, further: &[&str]) {
    let run = simulate(seed, further);
    println!("{}", run.text);
    assert!(
        run.is_sound,
        "seed {seed} fails; to see it again: cargo run --release -p firn-simulation -- {seed} {}",
        further.join(" ")
    );
}

/// Each seed is another fleet, another network and another storm.
macro_rules! seeds {
    ($further:expr; $($name:ident = $seed:literal;)*) => {
        $(
            #[test]
            fn $name() {
                check($seed, $further);
            }
        )*
    };
}

seeds! {
    &[];
    what_was_committed_outlives_storm_loss_and_repair_1 = 1;
    what_was_committed_outlives_storm_loss_and_repair_2 = 2;
    what_was_committed_outlives_storm_loss_and_repair_3 = 3;
    what_was_committed_outlives_storm_loss_and_repair_4 = 4;
    what_was_committed_outlives_storm_loss_and_repair_5 = 5;
    what_was_committed_outlives_storm_loss_and_repair_6 = 6;
    what_was_committed_outlives_storm_loss_and_repair_7 = 7;
    what_was_committed_outlives_storm_loss_and_repair_8 = 8;
}

seeds! {
    &["--growth"];
    a_fleet_grows_falls_silent_and_returns_with_everything_1 = 1;
    a_fleet_grows_falls_silent_and_returns_with_everything_2 = 2;
    a_shard_left_behind_of_a_replaced_coding_goes_in_a_fleet_that_grows = 6;
}

seeds! {
    &["--disaster"];
    what_was_published_outlives_a_purge_and_the_loss_of_every_coordinator_while_nodes_are_away = 4;
    what_was_published_outlives_a_purge_and_the_loss_of_every_coordinator_while_one_of_the_next_is_away = 5;
    what_was_published_comes_back_alike_with_those_who_held_the_latest_bundles = 8;
}

#[test]
fn the_same_seed_is_the_same_run_and_another_is_not() {
    let (one, again, other) = (simulate(11, &[]), simulate(11, &[]), simulate(12, &[]));
    assert_eq!(trace(&one), trace(&again), "{}\n{}", one.text, again.text);
    assert_ne!(trace(&one), trace(&other));
}

#[test]
fn disks_that_lie_about_syncing_do_not_go_unnoticed() {
    // Not every storm cuts the power of enough coordinators at the wrong moment.
    let noticed = (1..=4).filter(|seed| !simulate(*seed, &["--lying-disks"]).is_sound).count();
    assert!(noticed > 0, "no seed noticed that acknowledged writes were lost");
}
