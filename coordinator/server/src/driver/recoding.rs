//! Re-coding: carrying the steps out that were planned, and committing what they came to.
//!
//! Always holds: a second coding is begun only when two workers answered with equal headers, each over its own
//! connection; it counts only when a third has decoded it; what nodes disagree on is logged with their names and believed
//! of neither. Leaves to others: which step of which bundle, and by whom (`plan_recoding`); making the shards (`builds`).

use std::sync::Arc;
use std::time::Duration;

use firn_base::{BundleNumber, CodingId, ReservationId, Scheme};
use firn_coordinator_logic::{
    BuildPlan, BundleRecord, Facts, NodeNumber, RecodePlan, RecodeStep, RecodeWork, RootsAnswer, judge_roots,
};
use firn_wire::{
    BuildSource, Command, DecodeOrder, NodeReply, NodeRequest, PassPurpose, RecodeOrder, RefusalKind,
    RefusedRequest,
};

use super::builds;
use crate::shared::{Shared, disk, malformed};

/// A step that is not reported on by then is given to other nodes.
const STEP_WITHIN: Duration = Duration::from_secs(1800);
/// A bundle one of whose steps failed rests this long: other nodes are asked then, drawn by lot.
const RETRY_AFTER: Duration = Duration::from_secs(30);

/// Gives second codings up, and starts steps. Each goes on by itself.
pub(super) async fn order(shared: &Arc<Shared>, plan: RecodePlan) -> Result<(), RefusedRequest> {
    for (bundle, coding) in plan.drops {
        tracing::warn!(bundle = bundle.0, %coding, "re-coding a bundle is given up");
        give_up(shared, bundle, coding).await?;
    }
    for step in plan.steps {
        let id = ReservationId::from_bytes(shared.environment.seed());
        let now = shared.environment.now();
        // Three times as long as the lines take that repair is given of them: they may be busy with others.
        let within = STEP_WITHIN.max(step.order.lines.longest().saturating_mul(3));
        shared.soft().orders.begin_build(id, step.order.clone(), now, now.after(within));
        let shared = shared.clone();
        tokio::spawn(async move {
            let done = carry_out(&shared, id, &step, within).await.unwrap_or_else(|refusal| {
                tracing::info!(bundle = step.order.bundle.0, %refusal, "a step of re-coding failed: it is tried again");
                false
            });
            let retry = (!done).then(|| shared.environment.now().after(RETRY_AFTER));
            shared.soft().orders.finish_build(id, retry);
        });
    }
    Ok(())
}

/// Has a step carried out. Says whether the next one may follow at once.
async fn carry_out(
    shared: &Shared,
    id: ReservationId,
    step: &RecodeStep,
    within: Duration,
) -> Result<bool, RefusedRequest> {
    match step.work {
        RecodeWork::Roots { other, scheme } => {
            let workers = [step.order.worker, other];
            compute_roots(shared, &step.order, workers, scheme, within).await
        }
        RecodeWork::Shards => builds::build(shared, id, &step.order, within).await,
        RecodeWork::Decode => decode(shared, &step.order, within).await,
    }
}

async fn compute_roots(
    shared: &Shared,
    plan: &BuildPlan,
    workers: [NodeNumber; 2],
    scheme: Scheme,
    within: Duration,
) -> Result<bool, RefusedRequest> {
    let (record, sources) = look_up(shared, plan)?;
    let coding = record.codings.first().filter(|coding| coding.id == plan.coding);
    let coding = coding.ok_or_else(|| malformed(format!("bundle {} has another coding now", plan.bundle)))?;
    let ask = |worker: NodeNumber| {
        let (content_header, coding_header) = (record.content_header.clone(), coding.header.clone());
        let sources = sources.clone();
        async move {
            let worker = builds::node_record(&shared.facts()?, worker)?;
            let pass = shared.pass(worker.id.into(), PassPurpose::Building)?;
            let order = RecodeOrder {
                content_header,
                coding_header,
                k: scheme.k(),
                sources,
                pass,
                rank: shared.rank(),
            };
            match builds::ask_worker(shared, &worker, &NodeRequest::Recode(order), within).await? {
                NodeReply::Recoded(report) => {
                    shared.soft().repair_traffic_bytes += report.read.0;
                    Ok(RootsAnswer { worker: worker.id, coding_header: report.coding_header })
                }
                _ => Err(builds::away(&worker, "its answer does not fit")),
            }
        }
    };
    let (one, other) = tokio::join!(ask(workers[0]), ask(workers[1]));
    match judge_roots(&record, scheme, [one?, other?]) {
        Ok(command) => shared.carry_out(command, RefusalKind::Malformed).await.map(|_| true),
        Err(error) => {
            tracing::warn!(bundle = %record.id, %error, "the roots of a new coding are not known: others are asked");
            Ok(false)
        }
    }
}

async fn decode(shared: &Shared, plan: &BuildPlan, within: Duration) -> Result<bool, RefusedRequest> {
    let (record, sources) = look_up(shared, plan)?;
    let coding = record.codings.iter().find(|coding| coding.id == plan.coding);
    let coding = coding.ok_or_else(|| malformed(format!("bundle {} lost its coding", plan.bundle)))?;
    let decoder = builds::node_record(&shared.facts()?, plan.worker)?;
    let order = DecodeOrder {
        content_header: record.content_header.clone(),
        coding_header: coding.header.clone(),
        sources,
        pass: shared.pass(decoder.id.into(), PassPurpose::Building)?,
        rank: shared.rank(),
    };
    let reply = builds::ask_worker(shared, &decoder, &NodeRequest::Decode(order), within).await?;
    let NodeReply::Decoded(report) = reply else {
        return Err(builds::away(&decoder, "its answer does not fit"));
    };
    shared.soft().repair_traffic_bytes += report.read.0;
    if let Some(differs) = report.differs {
        tracing::warn!(
            bundle = %record.id, decoder = %decoder.id.short(), differs,
            "a new coding was not decoded: it is given up"
        );
        give_up(shared, plan.bundle, plan.coding).await?;
        return Ok(false);
    }
    let command = Command::FinishRecoding { bundle: record.id, coding: plan.coding, decoder: decoder.id };
    shared.carry_out(command, RefusalKind::Malformed).await?;
    tracing::info!(bundle = %record.id, scheme = %coding.scheme, "a bundle is coded anew");
    Ok(true)
}

async fn give_up(shared: &Shared, bundle: BundleNumber, coding: CodingId) -> Result<(), RefusedRequest> {
    let record = shared.facts()?.bundle(bundle).map_err(|error| disk(&error))?;
    let bundle = record.ok_or_else(|| malformed(format!("bundle {bundle} is unknown")))?.id;
    shared.carry_out(Command::DropRecoding { bundle, coding }, RefusalKind::Malformed).await.map(drop)
}

/// The bundle of a step, and where its worker reads.
fn look_up(shared: &Shared, plan: &BuildPlan) -> Result<(BundleRecord, Vec<BuildSource>), RefusedRequest> {
    let facts = shared.facts()?;
    let record = facts.bundle(plan.bundle).map_err(|error| disk(&error))?;
    let record = record.ok_or_else(|| malformed(format!("bundle {} is unknown", plan.bundle)))?;
    Ok((record, builds::build_sources(&facts, plan)?))
}
