//! The power is cut before each single call that changes the disk, in memory.
//!
//! `FIRN_TEST_CRASH_SEEDS` says how many outcomes are drawn for each (default 4).

use std::sync::Arc;

use crate::support::CodedBundle;
use crate::support::life::{Said, check, live};
use firn_storage_node::{Disk, MemoryDisk};

#[test]
fn whatever_was_acknowledged_is_so_after_a_power_cut_before_any_step() {
    let seeds: u64 = std::env::var("FIRN_TEST_CRASH_SEEDS").map_or(4, |count| count.parse().unwrap());
    let bundles = std::array::from_fn(|seed| CodedBundle::new(u8::try_from(seed).unwrap(), 60_000, 1));
    let mut steps = 0;
    loop {
        for seed in 0..seeds {
            let (memory, said) = (MemoryDisk::new(), Said::default());
            let disk: Arc<dyn Disk> = Arc::new(memory.clone());
            memory.stop_after(steps);
            let lived = live(&disk, &bundles, &said);
            if lived.is_some() && !memory.has_stopped() {
                assert!(steps > 50, "it has more steps than {steps}");
                println!("the power was cut before each of {steps} steps, {seeds} outcomes of each");
                return;
            }
            memory.crash(seed);
            check(&disk, &said, &format!("step {steps}, seed {seed}"));
        }
        steps += 1;
    }
}
