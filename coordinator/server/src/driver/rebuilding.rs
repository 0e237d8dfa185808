//! Rebuilding an archive whose coordinators were lost, or one that begins from an old backup.
//!
//! Nodes show rosters, ledgers and bundles; once nothing new comes, or the operator says so, the history is told again in
//! its order; then inventories bring the placements, each shard with its proof, and the archive is in service.
//! Always holds: nothing is deleted, repaired or moved meanwhile; each step is committed before the next, so that another
//! leader goes on from there. Leaves to others: whose turn it is and when enough was heard (`Listening`), asking one node
//! (`listening`), telling the history (`restoring`), what is believed (`Evidence`), what commands do (`apply`).

use std::convert::Infallible;
use std::sync::Arc;

use firn_coordinator_logic::{Facts, FleetWatch, ListeningFacts, Scan, TurnEnd};
use firn_transport::Connection;
use firn_wire::{Command, RebuildStage, RefusalKind, RefusedRequest, SurplusCopy};
use tokio::sync::oneshot;

use super::listening::ask_node;
use super::restoring::restore;
use crate::rebuild::{SharedEvidence, lock_evidence};
use crate::shared::{Shared, disk, malformed};

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
            let has_ended = listen(shared).await?;
            let now = shared.environment.now();
            shared.rebuild.with(|under_way| {
                if under_way.finish || has_ended {
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
    let known = shared.facts()?.all_nodes().map_err(|error| disk(&error))?;
    let known = known.into_iter().map(|node| node.id);
    let begun =
        shared.environment.blocking(move || inner.rebuild.begin((inner.archive, &roster), known, now));
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

/// Begins and ends turns of nodes; says whether enough was heard.
async fn listen(shared: &Arc<Shared>) -> Result<bool, RefusedRequest> {
    let evidence = shared.rebuild.with(|under_way| Arc::clone(&under_way.evidence))?;
    let shown = Arc::clone(&evidence);
    let named = shared.environment.blocking(move || lock_evidence(&shown).named()).await;
    let links = shared.links.all();
    let connected = links.iter().map(|(node, connection)| (*node, connection.number())).collect();
    let facts = ListeningFacts {
        now: shared.environment.now(),
        quiet: shared.rebuild.quiet(),
        connected: &connected,
        named: &named,
    };
    let (seed, mut begun) = (shared.environment.seed(), Vec::new());
    let has_ended = shared.rebuild.with(|under_way| {
        let plan = under_way.listening.plan(&facts, seed);
        under_way.asking.retain(|node, _| !plan.break_off.contains(node));
        for node in plan.ask {
            let (asking, ended) = oneshot::channel();
            under_way.asking.insert(node, asking);
            begun.push((node, ended));
        }
        plan.has_ended
    })?;
    for (node, ended) in begun {
        if let Some((_, connection)) = links.iter().find(|(connected, _)| *connected == node) {
            let turn = take_turn(Arc::clone(shared), Arc::clone(&evidence), connection.clone(), ended);
            tokio::spawn(turn);
        }
    }
    Ok(has_ended)
}

/// A node's turn, until it has shown everything, breaks off, or is asked no further.
async fn take_turn(
    shared: Arc<Shared>,
    evidence: SharedEvidence,
    connection: Connection,
    ended: oneshot::Receiver<Infallible>,
) {
    let node = connection.peer_node();
    let asked = tokio::select! {
        asked = ask_node(&shared, &evidence, node, &connection) => asked,
        _ = ended => Err("its turn has ended, or nobody waits for it any more".to_owned()),
    };
    if let Err(sentence) = &asked {
        tracing::warn!(node = node.short(), sentence, "a node has not shown all it has");
    }
    let now = shared.environment.now();
    // Where none is under way any more, nobody waits for it; a later one has turns of its own.
    let _ = shared.rebuild.with(|under_way| {
        if Arc::ptr_eq(&under_way.evidence, &evidence) {
            under_way.asking.remove(&node);
            let end = if asked.is_ok() { TurnEnd::Complete } else { TurnEnd::BrokenOff };
            under_way.listening.end_turn(node, end, now);
        }
    });
}

/// Waits for the inventories of the nodes that are there, then ends the rebuild.
async fn place(shared: &Arc<Shared>) -> Result<(), RefusedRequest> {
    let awaited = shared.with_view(|view| {
        let connected = view.fleet.nodes().filter(|node| shared.links.get(node.id).is_some());
        connected.filter(|node| !node.proved).count()
    })?;
    let (now, quiet) = (shared.environment.now(), shared.rebuild.quiet());
    let waits = shared.rebuild.with(|under_way| !under_way.finish && !under_way.has_lasted(quiet, now))?;
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
