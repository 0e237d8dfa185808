//! How long writes stand still when something befalls the coordinators' leader, in simulated time.

use std::time::Duration;

use firn_coordinator::Timing;
use firn_simulation::{QuorumOptions, QuorumOutcome, QuorumTrouble, run_quorum};

const NEAR: Duration = Duration::from_millis(2);
const FAR: Duration = Duration::from_millis(300);

const SEEDS: std::ops::Range<u64> = 1..4;

fn check(
    coordinators: usize,
    round_trip: Duration,
    trouble: QuorumTrouble,
    within: Duration,
) -> Vec<QuorumOutcome> {
    let timing = Timing::for_round_trip(round_trip);
    let run = |seed| {
        let outcome = run_quorum(QuorumOptions { seed, coordinators, round_trip, timing, trouble });
        println!("{trouble:?} of {coordinators} at {round_trip:?}, seed {seed}: {outcome:?}");
        assert_eq!(outcome.violations, [""; 0], "{trouble:?}, seed {seed}");
        assert!(outcome.longest_gap <= within, "{trouble:?}, seed {seed}: {:?}", outcome.longest_gap);
        outcome
    };
    SEEDS.map(run).collect()
}

#[test]
fn writes_resume_within_three_seconds_of_a_leaders_death_on_a_local_network() {
    for coordinators in [3, 5] {
        let outcomes = check(coordinators, NEAR, QuorumTrouble::Killed, Duration::from_secs(3));
        assert!(outcomes.iter().all(|outcome| outcome.terms > 0), "another one leads");
    }
}

#[test]
fn five_coordinators_go_on_within_six_seconds_when_their_leader_reaches_only_a_bridge() {
    let outcomes = check(5, NEAR, QuorumTrouble::BehindBridge, Duration::from_secs(6));
    assert!(outcomes.iter().all(|outcome| outcome.terms > 0), "another one leads");
    check(5, NEAR, QuorumTrouble::OnOneSide, Duration::from_secs(6));
}

#[test]
fn a_leader_whose_clock_jumps_a_year_is_followed_by_another_and_time_goes_on_as_it_did() {
    for trouble in [QuorumTrouble::ClockAhead, QuorumTrouble::ClockBehind] {
        for coordinators in [3, 5] {
            let outcomes = check(coordinators, NEAR, trouble, Duration::from_secs(3));
            assert!(outcomes.iter().all(|outcome| outcome.terms > 0), "another one leads");
        }
    }
}

#[test]
fn a_leader_that_is_not_heard_or_hears_nobody_is_followed_by_another() {
    for trouble in [QuorumTrouble::CutOff, QuorumTrouble::Mute, QuorumTrouble::Deaf] {
        check(3, NEAR, trouble, Duration::from_secs(6));
    }
}

#[test]
fn coordinators_that_are_far_apart_keep_their_leader_and_find_another_within_ten_seconds() {
    for coordinators in [3, 5] {
        let calm = check(coordinators, FAR, QuorumTrouble::None, Duration::from_secs(3));
        assert!(calm.iter().all(|outcome| outcome.terms == 0), "nothing has happened: {calm:?}");
    }
    let outcomes = check(3, FAR, QuorumTrouble::Killed, Duration::from_secs(10));
    assert!(outcomes.iter().all(|outcome| outcome.terms > 0), "another one leads");
}

#[test]
fn coordinators_that_are_far_apart_do_more_with_times_that_are_made_for_it() {
    let acts = |timing| {
        let trouble = QuorumTrouble::None;
        let run =
            |seed| run_quorum(QuorumOptions { seed, coordinators: 3, round_trip: FAR, timing, trouble });
        SEEDS.map(|seed| run(seed).acknowledged).sum::<usize>()
    };
    let (local, far) = (acts(Timing::default()), acts(Timing::for_round_trip(FAR)));
    println!("{local} acts with the times for a local network, {far} with those for {FAR:?}");
    assert!(far > local + local / 4, "{far}, {local}");
}
