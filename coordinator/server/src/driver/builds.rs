//! Builds: repairs and moves that nodes carry out.
//!
//! Always holds: placements are recorded only for receipts that were checked; an old copy is retired in the same
//! command that records the new one. Leaves to others: what to build (`plan_repairs`, `plan_moves`).

use std::sync::Arc;
use std::time::Duration;

use firn_base::ReservationId;
use firn_coordinator_logic::{BuildPlan, CodedBundle, ExpectedReceipts, Facts, NodeNumber, NodeRecord};
use firn_wire::{
    BuildOrder, BuildSource, BuildTarget, CONTROL_BYTES_MAX, Command, NodeReply, NodeRequest, PassPurpose,
    PlacementChange, RefusalKind, RefusedRequest, Signed, Ticket,
};

use crate::raft::StateFacts;
use crate::shared::{Shared, disk, malformed};

/// A build that is not reported on by then is given to another worker; its tickets end at the same time.
const BUILD_WITHIN: Duration = Duration::from_secs(600);
/// A bundle whose build failed rests this long.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Starts builds. Each goes on by itself.
pub(super) fn order(
    shared: &Arc<Shared>,
    plans: impl Iterator<Item = BuildPlan>,
) -> Result<(), RefusedRequest> {
    for plan in plans {
        let id = ReservationId::from_bytes(shared.environment.seed());
        let now = shared.environment.now();
        // Three times as long as the lines take that repair is given of them: they may be busy with others.
        let within = BUILD_WITHIN.max(plan.lines.longest().saturating_mul(3));
        shared.soft().orders.begin_build(id, plan.clone(), now, now.after(within));
        let shared = shared.clone();
        tokio::spawn(async move {
            let done = build(&shared, id, &plan, within).await;
            let retry = match &done {
                Ok(true) => None,
                Ok(false) => Some(shared.environment.now().after(RETRY_AFTER)),
                Err(refusal) => {
                    tracing::info!(bundle = plan.bundle.0, %refusal, "a build failed: it is tried again");
                    Some(shared.environment.now().after(RETRY_AFTER))
                }
            };
            shared.soft().orders.finish_build(id, retry);
        });
    }
    Ok(())
}

/// Has a build carried out `within` a time, and records its results. Says whether all of it was made.
pub(super) async fn build(
    shared: &Shared,
    id: ReservationId,
    plan: &BuildPlan,
    within: Duration,
) -> Result<bool, RefusedRequest> {
    let facts = shared.facts()?;
    let deadline = shared.environment.now().after(within);
    let node = |number: NodeNumber| node_record(&facts, number);
    let bundle = facts.bundle(plan.bundle).map_err(|error| disk(&error))?;
    let bundle = bundle.ok_or_else(|| malformed(format!("bundle {} is unknown", plan.bundle)))?;
    let coding = bundle.codings.iter().find(|coding| coding.id == plan.coding);
    let coding = coding.ok_or_else(|| malformed(format!("bundle {} lost its coding", plan.bundle)))?;
    let coded = CodedBundle::read(&bundle.content_header, &coding.header, coding.scheme.n())
        .map_err(|error| malformed(error.to_string()))?;
    let worker = node(plan.worker)?;
    let rank = shared.rank();
    let mut targets = Vec::with_capacity(plan.targets.len());
    for (index, number) in &plan.targets {
        let target = node(*number)?;
        let root = coded.roots.get(index.position()).copied();
        let ticket = Ticket {
            node: target.id,
            bearer: worker.id.into(),
            reservation: id,
            coding: plan.coding,
            index: *index,
            shard_bytes: plan.shard_bytes,
            root: root.ok_or_else(|| malformed(format!("shard {index} has no root")))?,
            expires: deadline,
            rank,
        };
        let ticket = Signed::seal(&shared.identity, shared.archive, &ticket);
        targets.push(BuildTarget { address: target.address, ticket });
    }
    let source_coding_header = match plan.made_of {
        None => None,
        Some(made_of) => {
            let read = bundle.codings.iter().find(|coding| coding.id == made_of);
            let read = read.ok_or_else(|| malformed(format!("bundle {} lost its coding", plan.bundle)))?;
            Some(read.header.clone())
        }
    };
    let order = BuildOrder {
        reservation: id,
        content_header: bundle.content_header.clone(),
        coding_header: coding.header.clone(),
        sources: build_sources(&facts, plan)?,
        targets,
        pass: shared.pass(worker.id.into(), PassPurpose::Building)?,
        rank,
        source_coding_header,
    };
    let reply = ask_worker(shared, &worker, &NodeRequest::Build(order), within).await?;
    let NodeReply::Built(report) = reply else { return Err(away(&worker, "its answer does not fit")) };
    shared.soft().repair_traffic_bytes += report.read.0.saturating_add(report.sent.0);
    let expected = ExpectedReceipts::of_build(&facts, shared.archive, id, plan, coded.roots);
    let expected = expected.map_err(|error| disk(&error))?;
    let mut changes = Vec::new();
    for receipt in report.receipts.iter().take(plan.targets.len()) {
        match expected.check(receipt) {
            Ok((index, node)) => changes.push(PlacementChange::Placed { coding: plan.coding, index, node }),
            Err(error) => {
                tracing::warn!(worker = %worker.id.short(), %error, "a build brought a bad receipt")
            }
        }
    }
    for failure in &report.failures {
        tracing::info!(bundle = plan.bundle.0, worker = %worker.id.short(), failure, "part of a build failed");
    }
    let made = changes.len();
    let placed: Vec<_> = changes
        .iter()
        .filter_map(|change| match change {
            PlacementChange::Placed { index, .. } => Some(*index),
            _ => None,
        })
        .collect();
    for (index, number) in plan.retire.iter().filter(|(index, _)| placed.contains(index)) {
        changes.push(PlacementChange::Retired {
            coding: plan.coding,
            index: *index,
            node: node(*number)?.id,
        });
    }
    if !changes.is_empty() {
        shared.carry_out(Command::RecordPlacements(changes), RefusalKind::Malformed).await?;
    }
    Ok(made == plan.targets.len())
}

/// Where the worker of `plan` reads.
pub(super) fn build_sources(
    facts: &StateFacts,
    plan: &BuildPlan,
) -> Result<Vec<BuildSource>, RefusedRequest> {
    let sources = plan.sources.iter().map(|(index, number)| {
        let source = node_record(facts, *number)?;
        Ok(BuildSource { index: *index, node: source.id, address: source.address })
    });
    sources.collect()
}

/// The record of a node that a plan names.
pub(super) fn node_record(facts: &StateFacts, number: NodeNumber) -> Result<NodeRecord, RefusedRequest> {
    let record = facts.node(number).map_err(|error| disk(&error))?;
    record.ok_or_else(|| malformed(format!("node number {} is unknown", number.0)))
}

pub(super) fn away(worker: &NodeRecord, reason: &str) -> RefusedRequest {
    RefusedRequest::new(RefusalKind::Unavailable, format!("worker {}: {reason}", worker.id.short()))
}

/// Gives a worker an order and waits for what came of it. A refusal is an error.
pub(super) async fn ask_worker(
    shared: &Shared,
    worker: &NodeRecord,
    order: &NodeRequest,
    within: Duration,
) -> Result<NodeReply, RefusedRequest> {
    let connection = shared.links.get(worker.id).ok_or_else(|| away(worker, "it is not connected"))?;
    let reply = connection.call(order, CONTROL_BYTES_MAX, within).await;
    match reply.map_err(|error| away(worker, &error.to_string()))? {
        NodeReply::Refused(refusal) => Err(away(worker, &refusal.sentence)),
        reply => Ok(reply),
    }
}
