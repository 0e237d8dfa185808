//! Coordinators that are replaced while they lose their power, their network and the time, in simulated worlds.

use firn_simulation::run_succession;

#[test]
fn two_of_three_coordinators_are_replaced_amid_faults_and_nothing_acknowledged_is_lost() {
    let mut faults = 0;
    for seed in 1..6 {
        let outcome = run_succession(seed);
        println!("seed {seed}: {outcome:?}");
        assert_eq!(outcome.violations, [""; 0], "seed {seed}");
        assert!(outcome.acknowledged > 50, "seed {seed}: acts were done all the while");
        faults += outcome.faults;
    }
    assert!(faults > 10, "{faults} faults in all: something has happened");
}
