//! Comparing this coordinator's state, and the commands that it knows, with the others'.
//!
//! Always holds: a leader raises the level of commands only to what every coordinator said it knows; a difference is
//! logged when it is first seen and shown for as long as it stands; a coordinator that does not answer is not said to
//! differ. Leaves to others: what differs (`firn_coordinator_logic`).

use std::sync::Arc;
use std::time::Duration;

use firn_base::NodeId;
use firn_coordinator_logic::{Comparison, Facts, compare_states, level_to_raise};
use firn_wire::{
    CONTROL_BYTES_MAX, Command, CoordinatorReply, CoordinatorRequest, FEATURE_LEVEL, RefusalKind,
    RefusedRequest, StateDigests,
};
use tokio::time::{MissedTickBehavior, interval};

use crate::shared::{Shared, disk};

/// Two states that differ do more harm the longer it goes unseen; the answer takes 13 kB.
const COMPARE_EVERY: Duration = Duration::from_secs(10);
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Compares for as long as the process lives.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut rounds = interval(COMPARE_EVERY);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        rounds.tick().await;
        let mut levels = Vec::new();
        let in_force = shared.standing.in_force();
        let coordinators = &in_force.roster.roster().coordinators;
        // Who was removed has no state to differ.
        shared.soft().differing.retain(|id, _| coordinators.iter().any(|entry| entry.id == *id));
        for entry in coordinators {
            if entry.id != shared.identity.node_id() {
                let answer = ask(&shared, entry.id, &entry.address).await;
                levels.push(answer.as_ref().map(|(_, level)| *level));
                if let Some((theirs, _)) = answer {
                    take(&shared, entry.id, &theirs);
                }
            }
        }
        if let Err(refusal) = raise_level(&shared, &levels).await {
            tracing::debug!(%refusal, "the level of commands was not raised");
        }
    }
}

async fn raise_level(shared: &Shared, others: &[Option<u16>]) -> Result<(), RefusedRequest> {
    if !shared.consensus.is_leader() {
        return Ok(());
    }
    let committed = shared.facts()?.counters().map_err(|error| disk(&error))?.feature_level;
    if let Some(level) = level_to_raise(committed, FEATURE_LEVEL, others) {
        shared.carry_out(Command::RaiseFeatureLevel { level }, RefusalKind::Malformed).await?;
        tracing::info!(level, "all coordinators know commands of this level");
    }
    Ok(())
}

async fn ask(shared: &Shared, id: NodeId, address: &str) -> Option<(Vec<StateDigests>, u16)> {
    // Who does not answer shows as offline elsewhere.
    let connection = shared.pool.get(id, address).await.ok()?;
    let asked = connection.call::<_, CoordinatorReply>(
        &CoordinatorRequest::StateDigests,
        CONTROL_BYTES_MAX,
        ANSWER_WITHIN,
    );
    match asked.await.ok()? {
        CoordinatorReply::StateDigests { digests, feature_level } => Some((digests, feature_level)),
        _ => None,
    }
}

/// Compares with one coordinator at this moment. Says whether its state is known to differ.
pub(crate) async fn differs(shared: &Shared, id: NodeId, address: &str) -> bool {
    if let Some((theirs, _)) = ask(shared, id, address).await {
        take(shared, id, &theirs);
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
