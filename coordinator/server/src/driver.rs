//! Leading: what the leader does between requests.
//!
//! Owns: the rhythm of planning, and carrying plans out. Always holds: only a leader plans; a plan's result is
//! committed before anything depends on it; work under way is bounded by the planning budget.
//! Leaves to others: every choice (`firn_coordinator_logic`).

mod builds;
mod deletions;
mod evidence_reader;
mod inventories;
mod listening;
mod purges;
mod rebuilding;
mod recoding;
mod reports;
mod restoring;

use std::sync::Arc;
use std::time::Duration;

use firn_base::{NodeId, Timestamp};
use firn_coordinator_logic::{
    NodeRecord, Orders, PassPlan, RefusedSteps, SUMMARY_INTERVAL, Scan, Suspension, due_suspensions,
    plan_pass,
};
use firn_wire::{Command, CommandOutcome, NodeState, RefusalKind, RefusedRequest};
use tokio::time::{MissedTickBehavior, interval};

use crate::shared::{Findings, Shared, disk};

pub(crate) use inventories::take_inventory;
pub(crate) use reports::take_report;

/// Between two looks at the archive. A pass over a small archive takes far less; a large one is planned less
/// often by itself, because a pass that takes longer delays the next.
const PASS_INTERVAL: Duration = Duration::from_millis(500);

/// For a bundle without a home or source for its repair none is looked for so long.
const PUT_OFF_FOR: Duration = Duration::from_secs(5);

/// Leads while this coordinator is the leader, for as long as the process lives.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut passes = interval(PASS_INTERVAL);
    passes.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last_summary = shared.environment.now();
    loop {
        passes.tick().await;
        if !shared.consensus.is_leader() {
            follow(&shared);
            continue;
        }
        begin_to_lead(&shared);
        // Reads before the first own commit could miss what the leader before has committed.
        if let Err(refusal) = pass(&shared, &mut last_summary).await
            && refusal.kind != RefusalKind::Unavailable
        {
            tracing::warn!(%refusal, "a planning pass failed");
        }
    }
}

fn follow(shared: &Shared) {
    let mut soft = shared.soft();
    if soft.leading_since.take().is_some() {
        tracing::info!("this coordinator no longer leads");
        soft.findings = None;
        soft.orders = Orders::new();
        shared.rebuild.end(None);
    }
}

fn begin_to_lead(shared: &Shared) {
    if shared.soft().leading_since.is_some() {
        return;
    }
    tracing::info!(term = shared.consensus.term(), "this coordinator leads");
    // A follower's picture took all nodes for unproved: since when shards are offline begins here.
    shared.forget_picture();
    let now = shared.environment.now();
    let mut soft = shared.soft();
    soft.leading_since = Some(now);
    // What was before is in the summaries of the leader before.
    soft.fleet.measure_from(now);
    soft.orders = Orders::succeeding(now);
    soft.repair_traffic_bytes = 0;
    soft.refused_steps = RefusedSteps::default();
    soft.steady_width.restart();
}

async fn pass(shared: &Arc<Shared>, last_summary: &mut Timestamp) -> Result<(), RefusedRequest> {
    // A leader that was cut off must not plan from what others have changed meanwhile.
    shared.confirm_leadership().await?;
    shared.check_clock()?;
    if shared.is_rebuilding()? {
        return rebuilding::step(shared).await;
    }
    let now = shared.environment.now();
    shared.soft().orders.expire(now);
    let seed = shared.environment.seed();
    let steady_width = shared.soft().steady_width.least(now);
    let decisions = shared.with_view(|view| plan_pass(view, steady_width, seed))?;
    // Not one that was planned by a clock that has just been put wrong.
    shared.check_clock()?;
    put_off(shared, &decisions.repairs.put_off, now);
    note(shared, &decisions, now, shared.is_still_hearing()?);
    let nodes = shared.facts()?.all_nodes().map_err(|error| disk(&error))?;
    for node in leaving_nodes(shared, &nodes) {
        set_state(shared, node.id, NodeState::Draining).await?;
        if let Some(Suspension { at, .. }) = &node.suspension {
            tracing::info!(node = %node.id.short(), %at, "an announced suspension stands no more: the node leaves");
        }
    }
    for (node, at) in due_suspensions(&nodes, now) {
        carry_out_suspension(shared, node, at).await?;
    }
    for node in decisions.drained {
        tracing::info!(node = %node.short(), "nothing counts on this node any more: it is drained and gone");
        set_state(shared, node, NodeState::Gone).await?;
    }
    if !decisions.expired.is_empty() {
        shared.carry_out(Command::ExpireReservations(decisions.expired), RefusalKind::Malformed).await?;
    }
    if !decisions.tidying.changes.is_empty() {
        let command = Command::RecordPlacements(decisions.tidying.changes);
        shared.carry_out(command, RefusalKind::Malformed).await?;
    }
    deletions::order(shared, &decisions.tidying.trash);
    builds::order(shared, decisions.repairs.builds.into_iter().chain(decisions.moves.builds))?;
    recoding::order(shared, decisions.recoding).await?;
    purges::carry_on(shared).await?;
    if now.since(*last_summary) >= SUMMARY_INTERVAL {
        *last_summary = now;
        summarise(shared).await?;
    }
    Ok(())
}

/// Active nodes whose owners want them to leave.
fn leaving_nodes<'a>(shared: &Shared, nodes: &'a [NodeRecord]) -> Vec<&'a NodeRecord> {
    let soft = shared.soft();
    let leaves = |number| soft.fleet.status(number).is_some_and(|status| status.leaving);
    nodes.iter().filter(|node| node.state == NodeState::Active && leaves(node.number)).collect()
}

/// Suspends a node for which this was announced. Whoever took that back a moment ago was faster.
async fn carry_out_suspension(shared: &Shared, node: NodeId, at: Timestamp) -> Result<(), RefusedRequest> {
    match shared.propose(Command::CarryOutSuspension { node, at }).await? {
        CommandOutcome::Rejected(reason) => {
            tracing::info!(node = %node.short(), %at, %reason, "an announced suspension is not carried out");
        }
        _ => tracing::info!(node = %node.short(), %at, "a node is suspended, as was announced"),
    }
    Ok(())
}

fn put_off(shared: &Shared, bundles: &[firn_base::BundleNumber], now: Timestamp) {
    let mut soft = shared.soft();
    bundles.iter().for_each(|bundle| soft.orders.put_off(*bundle, now.after(PUT_OFF_FOR)));
}

fn note(shared: &Shared, decisions: &PassPlan, now: Timestamp, still_hearing: bool) {
    let mut soft = shared.soft();
    soft.width.observe(decisions.width, now);
    soft.steady_width.observe(decisions.width, now);
    for node in soft.fleet.newly_offline(now) {
        tracing::info!(node = node.0, "node is offline");
    }
    // Better no figure than one that takes nodes for gone which had no time to be heard.
    soft.findings = (!still_hearing).then_some(Findings {
        health: decisions.repairs.health,
        by_spare: decisions.repairs.by_spare.clone(),
        repair_backlog: decisions.repairs.backlog_shards,
        move_backlog: decisions.moves.backlog_shards,
        awaited_bytes: decisions.repairs.awaited_bytes.saturating_add(decisions.moves.awaited_bytes),
        drains: decisions.moves.drains.clone(),
        recoding: decisions.recoding.progress,
        caps: Some(decisions.caps.clone()),
    });
}

async fn set_state(shared: &Shared, node: NodeId, state: NodeState) -> Result<(), RefusedRequest> {
    shared.carry_out(Command::SetNodeState { node, state }, RefusalKind::Malformed).await.map(drop)
}

/// Commits how nodes were heard, so that the next leader goes on from there.
async fn summarise(shared: &Shared) -> Result<(), RefusedRequest> {
    let records = shared.facts()?.all_nodes().map_err(|error| disk(&error))?;
    let now = shared.environment.now();
    let nodes = shared.soft().fleet.summary(records.iter(), shared.address_table.as_ref(), now);
    shared.carry_out(Command::Summary { nodes }, RefusalKind::Malformed).await?;
    shared.soft().fleet.measure_from(now);
    Ok(())
}
