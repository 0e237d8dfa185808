//! Comparing this coordinator's state, the commands that it knows and its clock with the others'.
//!
//! Always holds: a leader raises the level of commands only to what every coordinator said it knows, and asks when it
//! begins to lead: a new archive has its level before anybody has anything to commit; a difference is logged when it is first
//! seen and shown for as long as it stands; a coordinator that does not answer is not said to differ. Leaves to others: what
//! differs (`firn_coordinator_logic`), what a wrong clock means (`clock_watch`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use firn_base::NodeId;
use firn_coordinator_logic::{
    ClockStanding, Comparison, Facts, compare_states, is_level_awaited, level_to_raise,
};
use firn_wire::{
    Actor, CONTROL_BYTES_MAX, Command, CommandOutcome, CoordinatorReply, CoordinatorRequest, FEATURE_LEVEL,
    RefusedRequest, StateDigests,
};
use futures::future::join_all;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::shared::{Shared, disk, malformed};

/// Two states that differ do more harm the longer it goes unseen; the answer takes 13 kB.
const COMPARE_EVERY: Duration = Duration::from_secs(10);
/// While it is not known whether the clock is right, or it is not: all machines may have slept, and be right. And while the
/// others are yet to say which commands they know: what came with a level waits for that.
const UNSURE_EVERY: Duration = Duration::from_secs(1);
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

struct Answer {
    digests: Vec<StateDigests>,
    feature_level: u16,
}

/// Compares for as long as the process lives.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut rounds = interval(UNSURE_EVERY);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut watch = shared.consensus.watch();
    let mut last: Option<Instant> = None;
    let mut led = false;
    loop {
        let changed = tokio::select! {
            _ = rounds.tick() => true,
            changed = watch.wait_for(|status| status.is_leader != led) => changed,
        };
        if !changed {
            return;
        }
        let leads = watch.status().is_leader;
        let begins_to_lead = leads && !led;
        led = leads;
        let is_due = last.is_none_or(|last| last.elapsed() >= COMPARE_EVERY);
        let is_unsure =
            shared.consensus.clocks().standing() != ClockStanding::Agrees || awaits_level(&shared);
        if begins_to_lead || is_due || is_unsure {
            last = Some(Instant::now());
            compare(&shared).await;
        }
    }
}

/// Whether this leader is to raise the level once all have said what they know.
fn awaits_level(shared: &Shared) -> bool {
    let committed = shared.facts().map(|facts| facts.counters().map(|counters| counters.feature_level));
    let Ok(Ok(committed)) = committed else { return false };
    shared.consensus.is_leader()
        && is_level_awaited(committed, FEATURE_LEVEL, shared.soft().levels.values().copied())
}

/// Compares with all others at this moment, and raises the level if this one leads and all know a later one.
pub(crate) async fn compare(shared: &Shared) {
    let in_force = shared.standing.in_force();
    let coordinators = &in_force.roster.roster().coordinators;
    // Who was removed has no state to differ.
    shared.soft().differing.retain(|id, _| coordinators.iter().any(|entry| entry.id == *id));
    let own = shared.identity.node_id();
    let others = coordinators.iter().filter(|entry| entry.id != own);
    let answers =
        join_all(others.map(async |entry| (entry.id, ask(shared, entry.id, &entry.address).await))).await;
    let mut levels = BTreeMap::new();
    for (id, answer) in answers {
        levels.insert(id, answer.as_ref().map(|answer| answer.feature_level));
        if let Some(answer) = answer {
            take(shared, id, &answer.digests);
        }
    }
    shared.soft().levels.clone_from(&levels);
    if let Err(refusal) = raise_level(shared, levels.into_values()).await {
        tracing::debug!(%refusal, "the level of commands was not raised");
    }
}

async fn raise_level(
    shared: &Shared,
    others: impl IntoIterator<Item = Option<u16>>,
) -> Result<(), RefusedRequest> {
    if !shared.consensus.is_leader() {
        return Ok(());
    }
    let committed = shared.facts()?.counters().map_err(|error| disk(&error))?.feature_level;
    if let Some(level) = level_to_raise(committed, FEATURE_LEVEL, others) {
        // Whoever asks for this may be about to propose a command, for which it is.
        let raise = Command::RaiseFeatureLevel { level };
        match shared.propose_known(Actor::Coordinators, raise).await? {
            CommandOutcome::Rejected(reason) => return Err(malformed(reason.to_string())),
            _ => tracing::info!(level, "all coordinators know commands of this level"),
        }
    }
    Ok(())
}

async fn ask(shared: &Shared, id: NodeId, address: &str) -> Option<Answer> {
    // Who does not answer shows as offline elsewhere.
    let dialled = timeout(ANSWER_WITHIN, shared.pool.get(id, address));
    let connection = dialled.await.ok()?.ok()?;
    let asked = Instant::now();
    let call = connection.call::<_, CoordinatorReply>(
        &CoordinatorRequest::StateDigests,
        CONTROL_BYTES_MAX,
        ANSWER_WITHIN,
    );
    let CoordinatorReply::StateDigests { digests, feature_level, clock } = call.await.ok()? else {
        return None;
    };
    // At once: others may take their time.
    shared.consensus.note_clock(id, asked, clock);
    Some(Answer { digests, feature_level })
}

/// Compares with one coordinator at this moment. Says whether its state is known to differ.
pub(crate) async fn differs(shared: &Shared, id: NodeId, address: &str) -> bool {
    if let Some(answer) = ask(shared, id, address).await {
        take(shared, id, &answer.digests);
    }
    shared.soft().differing.contains_key(&id)
}

fn take(shared: &Shared, id: NodeId, theirs: &[StateDigests]) {
    let mut soft = shared.soft();
    match compare_states(&shared.consensus.late_digests(), id, theirs) {
        Comparison::Unknown => {}
        Comparison::Equal => drop(soft.differing.remove(&id)),
        Comparison::Differs(difference) => {
            soft.differing.entry(id).or_insert_with(|| {
                tracing::error!(
                    coordinator = %id.short(),
                    %difference,
                    "the state of this coordinator and of another differ: one of them errs"
                );
                difference
            });
        }
    }
}
