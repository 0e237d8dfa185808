//! Filling an archive through the consensus, at once or a piece at a time.
//!
//! Always holds: a command of which no answer came is proposed again, and what it is refused with counts as done only
//! if it says that the first one was applied: nobody else reserves, commits or joins.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use firn_coordinator::{Consensus, ProposeError};
use firn_coordinator_logic::Facts as _;
use firn_wire::{Command, CommandOutcome, RejectReason, TimedCommand};
use tokio::time::{sleep, timeout};

use crate::Failure;
use crate::generator::Generator;
use crate::machine;
use crate::members::Members;

/// How to fill.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Filling {
    /// Uploads under way at a time.
    pub(crate) uploads: u64,
    /// Whether some of it is there already.
    pub(crate) resume: bool,
    /// From then on no further bundle is begun.
    pub(crate) until: Option<Instant>,
}

/// What filling took.
pub(crate) struct Filled {
    /// Bundles that are there, of all.
    pub(crate) there: u64,
    pub(crate) seconds: f64,
    /// Bundles that were brought by this run.
    pub(crate) bundles: u64,
    pub(crate) held: u64,
    pub(crate) last_tenth_bundles_per_second: f64,
    pub(crate) cpu_per_thousand: f64,
    pub(crate) resident_megabytes: String,
}

/// A leader whose disk stood still may have stopped to lead for a moment.
const LEADS_AGAIN_WITHIN: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);

/// Of one that was killed, bundles may lack their features which are that many before the first that is not there.
const GO_BACK: u64 = 4;

struct Progress {
    next: AtomicU64,
    until: Option<Instant>,
    /// Bundles before this one may be there in part.
    perhaps_there: u64,
    done: AtomicU64,
    held: AtomicU64,
}

/// Publishes every bundle, or as many as there is time for; if all are there all keys must be visible.
pub(crate) async fn fill(
    members: &Members,
    generator: &Generator,
    filling: Filling,
) -> Result<Filled, Failure> {
    let leader = members.leader().await?;
    for node in 0..generator.nodes() {
        if leader.facts().node_number(Generator::node_id(node.into()))?.is_none() {
            propose(&leader, 0, generator.join(node), false).await?;
        }
    }
    let missing = if filling.resume { first_missing(&leader, generator)? } else { 0 };
    let progress = Arc::new(Progress {
        next: AtomicU64::new(missing.saturating_sub(GO_BACK * filling.uploads)),
        until: filling.until,
        // Whatever was under way when it ended.
        perhaps_there: if filling.resume { missing + GO_BACK * filling.uploads } else { 0 },
        done: AtomicU64::new(0),
        held: AtomicU64::new(0),
    });
    let (begun, cpu) = (Instant::now(), machine::cpu_seconds()?);
    let tasks: Vec<_> = (0..filling.uploads)
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
    let there = first_missing(&leader, generator)?;
    let visible = leader.facts().counters()?.visible_keys;
    if there == generator.bundles() && visible != generator.keys() {
        return Err(format!("{visible} of {} keys are visible", generator.keys()).into());
    }
    let tenth = last_tenth.map_or(0.0, |since| ended.duration_since(since).as_secs_f64());
    Ok(Filled {
        there,
        seconds: ended.duration_since(begun).as_secs_f64(),
        bundles,
        held: progress.held.load(Ordering::Relaxed),
        last_tenth_bundles_per_second: generator.bundles().div_ceil(10).min(bundles) as f64 / tenth.max(1e-9),
        cpu_per_thousand: (machine::cpu_seconds()? - cpu) * 1000.0 / bundles.max(1) as f64,
        resident_megabytes: machine::resident_megabytes()?,
    })
}

/// The first bundle that is not there.
fn first_missing(leader: &Consensus, generator: &Generator) -> Result<u64, Failure> {
    let facts = leader.facts();
    for bundle in 0..generator.bundles() {
        if facts.bundle_number(Generator::bundle_id(bundle)?)?.is_none() {
            return Ok(bundle);
        }
    }
    Ok(generator.bundles())
}

async fn publish(
    leader: Consensus,
    generator: Generator,
    progress: Arc<Progress>,
) -> Result<Option<Instant>, Failure> {
    let mut last_tenth = None;
    loop {
        if progress.until.is_some_and(|until| Instant::now() >= until) {
            return Ok(last_tenth);
        }
        let bundle = progress.next.fetch_add(1, Ordering::Relaxed);
        if bundle >= generator.bundles() {
            return Ok(last_tenth);
        }
        if bundle >= generator.bundles() * 9 / 10 {
            last_tenth.get_or_insert_with(Instant::now);
        }
        let held = publish_bundle(&leader, &generator, bundle, bundle < progress.perhaps_there).await?;
        progress.held.fetch_add(held, Ordering::Relaxed);
        progress.done.fetch_add(1, Ordering::Relaxed);
    }
}

/// Reserves and commits a bundle, which may be there in part, and tells its features; gives how many of its keys wait.
pub(crate) async fn publish_bundle(
    leader: &Consensus,
    generator: &Generator,
    bundle: u64,
    perhaps_there: bool,
) -> Result<u64, Failure> {
    propose(leader, bundle, generator.reserve(bundle)?, perhaps_there).await?;
    let held = match propose(leader, bundle, generator.commit(bundle), perhaps_there).await? {
        Proposed::Now(CommandOutcome::Committed { held, .. }) => held.len() as u64,
        Proposed::Before => held_of(leader, generator, bundle)?,
        Proposed::Now(_) => return Err("a commit was not applied".into()),
    };
    if generator.has_features() {
        propose(leader, bundle, generator.remember(bundle)?, perhaps_there).await?;
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

async fn propose(
    leader: &Consensus,
    bundle: u64,
    command: Command,
    perhaps_done: bool,
) -> Result<Proposed, Failure> {
    let command = TimedCommand::of_coordinators(Generator::time(bundle), command);
    let mut is_again = perhaps_done;
    let outcome = loop {
        match leader.propose(command.clone()).await {
            // A stalled disk: the command was not taken, or it was and is applied once the disk goes on.
            Err(ProposeError::Unavailable) => {
                is_again = true;
                sleep(PAUSE).await;
            }
            // One that stood still itself is elected anew.
            Err(ProposeError::NotLeader { .. }) if leads_again(leader).await => is_again = true,
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

async fn leads_again(leader: &Consensus) -> bool {
    let mut watch = leader.watch();
    timeout(LEADS_AGAIN_WITHIN, watch.wait_for(|status| status.is_leader)).await.unwrap_or(false)
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
        (Command::Reserve { .. }, RejectReason::ReservationExists | RejectReason::BundleExists) => Ok(true),
        // Every shard has a receipt, so its reservation ended with the commit.
        (Command::Commit { .. }, RejectReason::UnknownReservation) => {
            Ok(leader.facts().bundle_number(Generator::bundle_id(bundle)?)?.is_some())
        }
        _ => Ok(false),
    }
}
