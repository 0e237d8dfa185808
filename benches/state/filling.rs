//! Filling an archive through the consensus.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use firn_coordinator::{Consensus, ProposeError};
use firn_coordinator_logic::Facts as _;
use firn_wire::{Command, CommandOutcome, RejectReason, TimedCommand};

use crate::Failure;
use crate::generator::Generator;
use crate::machine;
use crate::members::Members;

/// What filling took.
pub(crate) struct Filled {
    pub(crate) seconds: f64,
    pub(crate) bundles: u64,
    pub(crate) held: u64,
    pub(crate) last_tenth_bundles_per_second: f64,
    pub(crate) cpu_per_thousand: f64,
    pub(crate) resident_megabytes: String,
}

struct Progress {
    next: AtomicU64,
    done: AtomicU64,
    held: AtomicU64,
}

/// Publishes every bundle, `uploads` at a time; all keys must then be visible.
pub(crate) async fn fill(members: &Members, generator: &Generator, uploads: u64) -> Result<Filled, Failure> {
    let leader = members.leader().await?;
    for node in 0..generator.nodes() {
        propose(&leader, 0, generator.join(node)).await?;
    }
    let progress =
        Arc::new(Progress { next: AtomicU64::new(0), done: AtomicU64::new(0), held: AtomicU64::new(0) });
    let (begun, cpu) = (Instant::now(), machine::cpu_seconds()?);
    let tasks: Vec<_> = (0..uploads)
        .map(|_| tokio::spawn(publish(leader.clone(), generator.clone(), Arc::clone(&progress))))
        .collect();
    // Each task notes when it published the first bundle of the last tenth.
    let mut last_tenth: Option<Instant> = None;
    for task in tasks {
        let reached = task.await??;
        last_tenth = last_tenth.into_iter().chain(reached).min();
    }
    let ended = Instant::now();
    let bundles = progress.done.load(Ordering::Relaxed);
    let visible = leader.facts().counters()?.visible_keys;
    if visible != generator.keys() {
        return Err(format!("{visible} of {} keys are visible", generator.keys()).into());
    }
    let tenth = last_tenth.map_or(0.0, |since| ended.duration_since(since).as_secs_f64());
    Ok(Filled {
        seconds: ended.duration_since(begun).as_secs_f64(),
        bundles,
        held: progress.held.load(Ordering::Relaxed),
        last_tenth_bundles_per_second: bundles.div_ceil(10) as f64 / tenth.max(1e-9),
        cpu_per_thousand: (machine::cpu_seconds()? - cpu) * 1000.0 / bundles as f64,
        resident_megabytes: machine::resident_megabytes()?,
    })
}

async fn publish(
    leader: Consensus,
    generator: Generator,
    progress: Arc<Progress>,
) -> Result<Option<Instant>, Failure> {
    let mut last_tenth = None;
    loop {
        let bundle = progress.next.fetch_add(1, Ordering::Relaxed);
        if bundle >= generator.bundles() {
            return Ok(last_tenth);
        }
        if bundle >= generator.bundles() * 9 / 10 {
            last_tenth.get_or_insert_with(Instant::now);
        }
        let held = publish_bundle(&leader, &generator, bundle).await?;
        progress.held.fetch_add(held, Ordering::Relaxed);
        progress.done.fetch_add(1, Ordering::Relaxed);
    }
}

/// Reserves and commits a bundle, and tells its features; gives how many of its keys wait.
pub(crate) async fn publish_bundle(
    leader: &Consensus,
    generator: &Generator,
    bundle: u64,
) -> Result<u64, Failure> {
    propose(leader, bundle, generator.reserve(bundle)?).await?;
    let held = match propose(leader, bundle, generator.commit(bundle)).await? {
        Proposed::Now(CommandOutcome::Committed { held, .. }) => held.len() as u64,
        Proposed::Before => held_of(leader, generator, bundle)?,
        Proposed::Now(_) => return Err("a commit was not applied".into()),
    };
    if generator.has_features() {
        propose(leader, bundle, generator.remember(bundle)?).await?;
    }
    Ok(held)
}

/// How many keys of a bundle wait now. The answer that said how many did when it was committed was lost, so those are not
/// counted for which what they waited for has come since.
fn held_of(leader: &Consensus, generator: &Generator, bundle: u64) -> Result<u64, Failure> {
    let (facts, mut held) = (leader.facts(), 0);
    for number in generator.keys_of(bundle) {
        held += u64::from(!facts.held(Generator::key(number))?.is_empty());
    }
    Ok(held)
}

/// At which time of proposing it a command was applied.
enum Proposed {
    /// At the last one.
    Now(CommandOutcome),
    /// At one before, of which no answer came.
    Before,
}

async fn propose(leader: &Consensus, bundle: u64, command: Command) -> Result<Proposed, Failure> {
    let command = TimedCommand::of_coordinators(Generator::time(bundle), command);
    let mut is_again = false;
    let outcome = loop {
        match leader.propose(command.clone()).await {
            // A stalled disk: the command was not taken, or it was and is applied once the disk goes on.
            Err(ProposeError::Unavailable) => {
                is_again = true;
                tokio::task::yield_now().await;
            }
            other => break other?,
        }
    };
    match outcome {
        CommandOutcome::Rejected(reason) => {
            let is_done = is_again && was_applied(leader, bundle, &command.command, &reason)?;
            if is_done { Ok(Proposed::Before) } else { Err(format!("bundle {bundle}: {reason}").into()) }
        }
        outcome => Ok(Proposed::Now(outcome)),
    }
}

/// Whether a command is refused because it was applied before. Nobody else reserves and commits this bundle; nodes may join
/// twice.
fn was_applied(
    leader: &Consensus,
    bundle: u64,
    command: &Command,
    reason: &RejectReason,
) -> Result<bool, Failure> {
    match (command, reason) {
        (Command::Reserve { .. }, RejectReason::ReservationExists) => Ok(true),
        // Every shard has a receipt, so its reservation ended with the commit.
        (Command::Commit { .. }, RejectReason::UnknownReservation) => {
            Ok(leader.facts().bundle_number(Generator::bundle_id(bundle)?)?.is_some())
        }
        _ => Ok(false),
    }
}
