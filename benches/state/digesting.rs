//! What the state's digest costs, and whether it is that of the state.

use std::time::Duration;

use firn_base::Timestamp;
use firn_benches::process::thread_time;
use firn_coordinator::StateFacts;
use firn_coordinator_logic::{MemoryState, StateDigest, advance, apply, full_digest};
use firn_wire::{Command, CommandOutcome, TimedCommand};

use crate::Failure;
use crate::generator::Generator;

/// CPU time that a reservation and its commit take, in ordered maps, without log and disk.
#[derive(Debug, Default)]
pub(crate) struct Cost {
    pub(crate) bundles: u32,
    pub(crate) generate: Duration,
    pub(crate) apply: Duration,
    pub(crate) digest: Duration,
}

const BUNDLES_MAX: u64 = 200;

/// Applies the first bundles, and takes them into a digest.
pub(crate) fn measure(generator: &Generator) -> Result<Cost, Failure> {
    let (mut state, mut digest, mut cost) = (MemoryState::new(), StateDigest::default(), Cost::default());
    for node in 0..generator.nodes() {
        carry_out(&mut state, &mut digest, &mut Cost::default(), generator.join(node))?;
    }
    for bundle in 0..generator.bundles().min(BUNDLES_MAX) {
        let begun = thread_time()?;
        let commands = [generator.reserve(bundle)?, generator.commit(bundle), generator.remember(bundle)?];
        cost.generate += thread_time()? - begun;
        for command in commands {
            carry_out(&mut state, &mut digest, &mut cost, command)?;
        }
        cost.bundles += 1;
    }
    Ok(cost)
}

fn carry_out(
    state: &mut MemoryState,
    digest: &mut StateDigest,
    cost: &mut Cost,
    command: Command,
) -> Result<(), Failure> {
    let command = TimedCommand::of_coordinators(Timestamp::from_millis(1_790_000_000_000), command);
    let begun = thread_time()?;
    let Ok(applied) = apply(state, &command);
    cost.apply += thread_time()? - begun;
    if let CommandOutcome::Rejected(reason) = applied.outcome {
        return Err(reason.into());
    }
    let begun = thread_time()?;
    let Ok(()) = advance(digest, state, &applied.changes);
    cost.digest += thread_time()? - begun;
    state.absorb(applied.changes);
    Ok(())
}

/// Compares the digest beside a state with one made from everything in it; gives the CPU time that took.
pub(crate) fn check(facts: &StateFacts) -> Result<Duration, Failure> {
    let begun = thread_time()?;
    if full_digest(facts)? != facts.kept_digest()? {
        return Err("the digest beside the state is not that of the state".into());
    }
    Ok(thread_time()? - begun)
}
