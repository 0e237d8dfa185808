//! Rebuilding an archive whose coordinators were lost, or one that begins from an old backup.
//!
//! Nodes show rosters, ledgers and bundles; once nothing new comes, or the operator says so, the history is told again in
//! its order; then inventories bring the placements, each shard with its proof, and the archive is in service.
//! Always holds: nothing is deleted, repaired or moved meanwhile; each step is committed before the next, so that another
//! leader goes on from there. Leaves to others: what is believed (`Evidence`), what commands do (`apply`).

use std::sync::Arc;
use std::time::Duration;

use firn_base::{BundleId, NodeId};
use firn_bundle::Manifest;
use firn_coordinator_logic::{CertifiedBundle, Facts, NextStep, RecordSummary, Scan, plan_entries};
use firn_transport::Connection;
use firn_wire::{
    CONTROL_BYTES_MAX, Command, CommandOutcome, KeptGovernance, NodeReply, NodeRequest, RebuildStage,
    RefusalKind, RefusedRequest, RejectReason, RestoredBundle, SurplusCopy,
};

use super::evidence_reader::read_manifest;
use crate::rebuild::UnderWay;
use crate::serve::{check_record, publishers_ever};
use crate::shared::{Shared, disk, malformed};

/// Nodes that are asked at once: each page is in memory on its way.
const ASKED_AT_ONCE: usize = 16;
const PAGE_WITHIN: Duration = Duration::from_secs(60);
/// A node that broke off is asked again after this.
const AGAIN_AFTER: Duration = Duration::from_secs(30);
/// Entries of a ledger that a node may show: a hundred a day for 27 years.
const LEDGER_ENTRIES_MAX: usize = 1_000_000;
/// Pages that a node may show: 256 codings each, more than the largest disk has.
const PAGES_MAX: usize = 1 << 16;
/// Reservations and surplus copies that one command forgets.
const FORGOTTEN_MAX: usize = 1_024;

/// One look at the rebuild: does what can be done now.
pub(super) async fn step(shared: &Arc<Shared>) -> Result<(), RefusedRequest> {
    match with(shared, |under_way| under_way.stage) {
        RebuildStage::Listening => {
            forget_uncounted(shared).await?;
            ask(shared);
            let (now, quiet) = (shared.environment.now(), shared.rebuild.quiet());
            with(shared, |under_way| {
                let is_quiet = under_way.asking.is_empty() && under_way.is_quiet(quiet, now);
                if under_way.finish || is_quiet {
                    under_way.enter(RebuildStage::Restoring, now);
                }
            });
            Ok(())
        }
        RebuildStage::Restoring => restore(shared).await,
        RebuildStage::Placing => place(shared).await,
        RebuildStage::Ended => Ok(()),
    }
}

fn with<T>(shared: &Shared, look: impl FnOnce(&mut UnderWay) -> T) -> T {
    let roster = shared.standing.in_force().roster.clone();
    shared.rebuild.with((shared.archive, &roster), shared.environment.now(), look)
}

/// Forgets what an older state says of uploads and surplus copies: some of them may have come to count since.
async fn forget_uncounted(shared: &Shared) -> Result<(), RefusedRequest> {
    loop {
        let facts = shared.facts()?;
        let reservations = facts.reservations_after(None, FORGOTTEN_MAX).map_err(|error| disk(&error))?;
        let mut surplus = Vec::new();
        for copy in facts.surplus_after(None, FORGOTTEN_MAX).map_err(|error| disk(&error))? {
            let node = facts.node(copy.node).map_err(|error| disk(&error))?;
            let node = node.ok_or_else(|| malformed("a surplus copy on no node"))?.id;
            surplus.push(SurplusCopy { node, coding: copy.coding, index: copy.index });
        }
        if reservations.is_empty() && surplus.is_empty() {
            return Ok(());
        }
        let reservations = reservations.into_iter().map(|record| record.id).collect();
        let command = Command::ForgetUncounted { reservations, surplus };
        shared.carry_out(command, RefusalKind::Malformed).await?;
    }
}

/// Asks nodes that have come since, or have come again.
fn ask(shared: &Arc<Shared>) {
    let now = shared.environment.now();
    for (node, connection) in shared.links.all() {
        let number = connection.number();
        let begins = with(shared, |under_way| {
            let is_new = under_way.asked.get(&node) != Some(&number);
            let is_again = under_way.again.get(&node).is_some_and(|at| *at <= now);
            let is_asked = under_way.asking.contains(&node) || under_way.asking.len() >= ASKED_AT_ONCE;
            let begins = (is_new || is_again) && !is_asked;
            if begins {
                under_way.again.remove(&node);
                under_way.asked.insert(node, number);
                under_way.asking.insert(node);
            }
            begins
        });
        if begins {
            let shared = Arc::clone(shared);
            tokio::spawn(async move {
                let asked = ask_node(&shared, node, &connection).await;
                if let Err(sentence) = &asked {
                    tracing::warn!(node = node.short(), sentence, "a node has not shown all it has");
                }
                let now = shared.environment.now();
                with(&shared, |under_way| {
                    under_way.asking.remove(&node);
                    under_way.news_at = now;
                    match asked {
                        Ok(()) => under_way.evidence.all_shown(node),
                        Err(_) => drop(under_way.again.insert(node, now.after(AGAIN_AFTER))),
                    }
                });
            });
        }
    }
}

async fn ask_node(shared: &Shared, node: NodeId, connection: &Connection) -> Result<(), String> {
    let call = async |request: NodeRequest| {
        let reply = connection.call::<_, NodeReply>(&request, CONTROL_BYTES_MAX, PAGE_WITHIN).await;
        match reply.map_err(|error| error.to_string())? {
            NodeReply::Refused(refusal) => Err(refusal.to_string()),
            reply => Ok(reply),
        }
    };
    let unfit = || "its answer does not fit".to_owned();
    let mut governance = KeptGovernance { rosters: vec![], heads: vec![], entries: vec![], more: true };
    while governance.more {
        let from = u64::try_from(governance.entries.len()).unwrap_or(u64::MAX);
        let NodeReply::Governance(page) = call(NodeRequest::ShowGovernance { from }).await? else {
            return Err(unfit());
        };
        if page.entries.len() + governance.entries.len() > LEDGER_ENTRIES_MAX {
            return Err("its ledger is endless".to_owned());
        }
        governance.more = page.more && !page.entries.is_empty();
        if from == 0 {
            (governance.rosters, governance.heads) = (page.rosters, page.heads);
        }
        governance.entries.extend(page.entries);
    }
    let KeptGovernance { rosters, heads, entries, .. } = governance;
    with(shared, |under_way| under_way.evidence.show_governance(node, &rosters, &heads, entries));
    let mut after = None;
    for _ in 0..PAGES_MAX {
        let NodeReply::Bundles { bundles, more_after } = call(NodeRequest::ShowBundles { after }).await?
        else {
            return Err(unfit());
        };
        with(shared, |under_way| {
            bundles.into_iter().for_each(|kept| under_way.evidence.show_bundle(node, kept))
        });
        match more_after {
            None => return Ok(()),
            Some(next) if after < Some(next) => after = Some(next),
            Some(_) => return Err("it shows the same bundles again and again".to_owned()),
        }
    }
    Err("it shows an endless number of bundles".to_owned())
}

/// Tells the history again, in its order.
async fn restore(shared: &Arc<Shared>) -> Result<(), RefusedRequest> {
    for id in with(shared, |under_way| under_way.evidence.in_order()) {
        let is_there = shared.facts()?.bundle_number(id).map_err(|error| disk(&error))?.is_some();
        if !is_there && !with(shared, |under_way| under_way.unrestored.contains_key(&id)) {
            restore_up_to(shared, Some(id)).await?;
        }
    }
    restore_up_to(shared, None).await?;
    let now = shared.environment.now();
    with(shared, |under_way| under_way.enter(RebuildStage::Placing, now));
    Ok(())
}

/// Restores the ledger as far as it is older than bundle `next`, and then that.
async fn restore_up_to(shared: &Arc<Shared>, next: Option<BundleId>) -> Result<(), RefusedRequest> {
    loop {
        let entries = shared.facts()?.counters().map_err(|error| disk(&error))?.ledger.entries;
        let step = with(shared, |under_way| {
            let entries = if under_way.ledger_refused { u64::MAX } else { entries };
            under_way.evidence.next_step(entries, next)
        });
        match step {
            NextStep::Ledger(entries) => match shared.propose(Command::RestoreLedger(entries)).await? {
                CommandOutcome::Rejected(RejectReason::OtherLedger) => {
                    tracing::error!(
                        "the ledger that nodes show does not follow on the one of the backup: the backup's counts"
                    );
                    with(shared, |under_way| under_way.ledger_refused = true);
                }
                CommandOutcome::Rejected(reason) => return Err(malformed(reason.to_string())),
                _ => {}
            },
            NextStep::Bundle(bundle) => {
                return restore_bundle(shared, bundle).await;
            }
            NextStep::Done => return Ok(()),
        }
    }
}

/// Restores a bundle by the first of its codings that can be read, or notes why it does not come back.
async fn restore_bundle(shared: &Arc<Shared>, codings: Vec<CertifiedBundle>) -> Result<(), RefusedRequest> {
    let mut failed = None;
    for coding in codings {
        let id = coding.certificate.bundle;
        match restore_by(shared, coding).await? {
            Ok(()) => return Ok(()),
            Err(reason) => drop(failed.get_or_insert((id, reason))),
        }
    }
    if let Some((id, reason)) = failed {
        tracing::warn!(bundle = %id, reason, "a bundle does not come back");
        with(shared, |under_way| under_way.unrestored.insert(id, reason));
    }
    Ok(())
}

/// Reads a bundle's manifest by one of its codings and restores it, or says why not.
async fn restore_by(
    shared: &Arc<Shared>,
    bundle: CertifiedBundle,
) -> Result<Result<(), String>, RefusedRequest> {
    let (content, bytes) = match read_manifest(shared, &bundle).await {
        Ok(read) => read,
        Err(reason) => return Ok(Err(reason)),
    };
    let facts = shared.facts()?;
    let publishers = publishers_ever(&*shared.governance(&facts)?);
    let records = shared.environment.blocking(move || {
        let manifest = Manifest::parse_whole(&content, bytes).map_err(|error| error.to_string())?;
        let records = manifest.records().map(|located| {
            let located = located.map_err(|error| error.to_string())?;
            check_record(&located, &publishers).map_err(|refusal| refusal.to_string())
        });
        records.collect::<Result<Vec<RecordSummary>, String>>()
    });
    let records = match records.await {
        Ok(records) => records,
        Err(reason) => return Ok(Err(reason)),
    };
    let CertifiedBundle { content_header, coding_header, certificate, .. } = bundle;
    let summaries: Vec<&RecordSummary> = records.iter().collect();
    let (entries, externals) =
        plan_entries(&facts, &summaries, &certificate.externals).map_err(|error| disk(&error))?;
    let restored = RestoredBundle {
        content_header,
        coding_header,
        n: certificate.n,
        uploader: certificate.uploader,
        committed_at: certificate.committed_at,
        ledger_entries: certificate.ledger_entries,
        externals,
        entries,
    };
    Ok(match shared.propose(Command::RestoreBundle(Box::new(restored))).await? {
        CommandOutcome::Rejected(reason) => Err(reason.to_string()),
        _ => Ok(()),
    })
}

/// Waits for the inventories of the nodes that are there, then ends the rebuild.
async fn place(shared: &Arc<Shared>) -> Result<(), RefusedRequest> {
    let awaited = shared.with_view(|view| {
        let connected = view.fleet.nodes().filter(|node| shared.links.get(node.id).is_some());
        connected.filter(|node| !node.is_reachable()).count()
    })?;
    let (now, quiet) = (shared.environment.now(), shared.rebuild.quiet());
    let waits = with(shared, |under_way| !under_way.finish && !under_way.is_quiet(quiet, now));
    if awaited > 0 && waits {
        return Ok(());
    }
    shared.carry_out(Command::EndRebuild, RefusalKind::Malformed).await?;
    let mut progress = shared.rebuild.progress(&shared.facts()?)?;
    if let Some(progress) = &mut progress {
        progress.stage = RebuildStage::Ended;
        tracing::info!(
            bundles = progress.bundles_restored,
            unrestored = progress.unrestored.len(),
            uncertified = progress.bundles_uncertified,
            nodes_awaited = progress.nodes_awaited,
            "the archive is rebuilt and in service"
        );
    }
    shared.rebuild.end(progress);
    let mut soft = shared.soft();
    // As a new leader: nodes that are not back yet are waited for before anything is repaired.
    soft.leading_since = Some(now);
    Ok(())
}
