//! Rebuilding an archive whose coordinators were lost, or one that begins from an old backup.
//!
//! Nodes show rosters, ledgers and bundles; once nothing new comes, or the operator says so, the history is told again in
//! its order; then inventories bring the placements, each shard with its proof, and the archive is in service.
//! Always holds: nothing is deleted, repaired or moved meanwhile; each step is committed before the next, so that another
//! leader goes on from there. Leaves to others: asking one node (`listening`), telling the history (`restoring`), what is believed (`Evidence`), what
//! commands do (`apply`).

use std::sync::Arc;
use std::time::Duration;

use firn_coordinator_logic::{Facts, FleetWatch, Scan};
use firn_wire::{Command, RebuildStage, RefusalKind, RefusedRequest, SurplusCopy};

use super::listening::ask_node;
use super::restoring::restore;
use crate::rebuild::lock_evidence;
use crate::shared::{Shared, disk, malformed};

/// Nodes that are asked at once: a page of each is in memory on its way.
const ASKED_AT_ONCE: usize = 16;
/// A node that broke off is asked again after this.
const AGAIN_AFTER: Duration = Duration::from_secs(30);
/// Reservations and surplus copies that one command forgets.
const FORGOTTEN_MAX: usize = 1_024;

/// One look at the rebuild: does what can be done now.
pub(super) async fn step(shared: &Arc<Shared>) -> Result<(), RefusedRequest> {
    if !shared.rebuild.is_under_way() {
        begin(shared).await?;
    }
    match shared.rebuild.with(|under_way| under_way.stage)? {
        RebuildStage::Listening => {
            forget_uncounted(shared).await?;
            ask(shared)?;
            let (now, quiet) = (shared.environment.now(), shared.rebuild.quiet());
            shared.rebuild.with(|under_way| {
                let is_quiet = under_way.asking.is_empty() && under_way.is_quiet(quiet, now);
                if under_way.finish || is_quiet {
                    under_way.enter(RebuildStage::Restoring, now);
                }
            })
        }
        RebuildStage::Restoring => restore(shared).await,
        RebuildStage::Placing => place(shared).await,
        RebuildStage::Ended => Ok(()),
    }
}

async fn begin(shared: &Arc<Shared>) -> Result<(), RefusedRequest> {
    let (roster, now, inner) =
        (shared.standing.in_force().roster.clone(), shared.environment.now(), Arc::clone(shared));
    let begun = shared.environment.blocking(move || inner.rebuild.begin((inner.archive, &roster), now));
    begun.await.map_err(|error| disk(&error))?;
    // Of bundles that come back now nothing is placed: nodes that were heard before show their inventories again.
    shared.soft().fleet = FleetWatch::new(now);
    Ok(())
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
fn ask(shared: &Arc<Shared>) -> Result<(), RefusedRequest> {
    let now = shared.environment.now();
    for (node, connection) in shared.links.all() {
        let number = connection.number();
        let begins = shared.rebuild.with(|under_way| {
            let is_new = under_way.asked.get(&node) != Some(&number);
            let is_again = under_way.again.get(&node).is_some_and(|at| *at <= now);
            let is_asked = under_way.asking.contains(&node) || under_way.asking.len() >= ASKED_AT_ONCE;
            if (!is_new && !is_again) || is_asked {
                return None;
            }
            under_way.again.remove(&node);
            under_way.asked.insert(node, number);
            under_way.asking.insert(node);
            Some(Arc::clone(&under_way.evidence))
        })?;
        if let Some(evidence) = begins {
            let shared = Arc::clone(shared);
            tokio::spawn(async move {
                let asked = ask_node(&shared, &evidence, node, &connection).await;
                match &asked {
                    Ok(()) => lock_evidence(&evidence).all_shown(node),
                    Err(sentence) => {
                        tracing::warn!(node = node.short(), sentence, "a node has not shown all it has");
                    }
                }
                let now = shared.environment.now();
                // Where none is under way any more, nobody waits for it.
                let _ = shared.rebuild.with(|under_way| {
                    under_way.asking.remove(&node);
                    under_way.news_at = now;
                    if asked.is_err() {
                        under_way.again.insert(node, now.after(AGAIN_AFTER));
                    }
                });
            });
        }
    }
    Ok(())
}

/// Waits for the inventories of the nodes that are there, then ends the rebuild.
async fn place(shared: &Arc<Shared>) -> Result<(), RefusedRequest> {
    let awaited = shared.with_view(|view| {
        let connected = view.fleet.nodes().filter(|node| shared.links.get(node.id).is_some());
        connected.filter(|node| !node.is_reachable()).count()
    })?;
    let (now, quiet) = (shared.environment.now(), shared.rebuild.quiet());
    let waits = shared.rebuild.with(|under_way| !under_way.finish && !under_way.is_quiet(quiet, now))?;
    if awaited > 0 && waits {
        return Ok(());
    }
    shared.carry_out(Command::EndRebuild, RefusalKind::Malformed).await?;
    let mut progress = shared.rebuild.progress(&shared.facts()?)?;
    if let Some(progress) = &mut progress {
        progress.stage = RebuildStage::Ended;
        tracing::info!(
            bundles = progress.bundles_restored,
            unrestored = progress.bundles_unrestored,
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
