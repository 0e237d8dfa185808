//! Administration: governance, tokens, the states of nodes; coordinators are in `members`.
//!
//! Always holds: whatever changes something is in the ledger, with whoever asked for it; a suspension that is announced comes
//! there when it is carried out, and is in the log until then; that one is taken back is in the log alone. Leaves to others:
//! whether whoever asks may (`operators`).

use std::time::Duration;

use firn_base::{BundleId, BundleNumber, TokenId};
use firn_coordinator_logic::{
    Facts, PlanningView, PurgeBook, PurgesWanted, Scan, Suspension, bundles_since, check_act,
    check_compaction, check_name, ledger_position, order_of, plan_compaction, purge_progress, read_small,
    replaced_among, small_bundles, survey_drain,
};
use firn_wire::{
    ACTS_PER_REQUEST_MAX, Actor, AdminReply, AdminRequest, COMPACTED_BUNDLES_MAX, Command, CompactionPlan,
    DrainBacklog, JoinToken, LedgerAct, NodeState, RefusalKind, RefusedRequest, RejectReason, Signed,
};

use super::reads::LEDGER_PAGE;
use super::{members, suspensions};
use crate::shared::{Shared, disk, malformed};
use crate::storage::StorageError;

/// Purges in one page: each may name some hundred bundles and nodes, of 32 bytes each.
const PURGES_PAGE: usize = 64;

/// Whether only the leader can carry it out.
pub(super) fn is_for_leader(request: &AdminRequest) -> bool {
    !matches!(
        request,
        AdminRequest::Ledger { .. } | AdminRequest::LedgerPosition { .. } | AdminRequest::Digests
    )
}

/// Whether it can be carried out while nobody leads, if not as well.
pub(super) fn needs_no_leader(request: &AdminRequest) -> bool {
    matches!(request, AdminRequest::Members | AdminRequest::AdoptRoster(_))
}

/// Carries out what `by` asked; that it may was checked.
pub(super) async fn administer(
    shared: &Shared,
    by: Actor,
    request: AdminRequest,
) -> Result<AdminReply, RefusedRequest> {
    match request {
        AdminRequest::Govern(act) => {
            check(shared, std::slice::from_ref(&act))?;
            shared.carry_out_as(by, Command::Govern(act), RefusalKind::Malformed).await?;
            Ok(AdminReply::Done)
        }
        AdminRequest::CreateToken { operator, failure_domain, valid_millis } => {
            let named =
                |what, name: &str| check_name(what, name).map_err(|error| malformed(error.to_string()));
            named("operator", &operator)?;
            failure_domain.as_deref().map_or(Ok(()), |domain| named("failure domain", domain))?;
            let token = TokenId::from_bytes(shared.environment.seed());
            let expires = shared.trusted_now()?.after(Duration::from_millis(valid_millis));
            let act = LedgerAct::CreateToken {
                token,
                operator: operator.clone(),
                failure_domain: failure_domain.clone(),
                expires,
            };
            shared.carry_out_as(by, Command::Govern(act), RefusalKind::Malformed).await?;
            let token = JoinToken { token, operator, expires, failure_domain };
            Ok(AdminReply::Token(Signed::seal(&shared.identity, shared.archive, &token)))
        }
        AdminRequest::SetNodeState { node, state } => {
            let state = match state {
                // An empty node has nothing to move: it is gone at once.
                NodeState::Draining if is_empty(shared, node)? => NodeState::Gone,
                state => state,
            };
            let announced = suspensions::announced(shared, node)?;
            let command = Command::SetNodeState { node, state };
            shared.carry_out_as(by.clone(), command, RefusalKind::Malformed).await?;
            if let Some(Suspension { at, .. }) = announced {
                tracing::info!(node = %node.short(), %at, %by, %state, "an announced suspension stands no more");
            }
            Ok(match state {
                // It is draining, whether its backlog can be told or not.
                NodeState::Draining => AdminReply::Draining(drain_backlog(shared, node).ok().flatten()),
                _ => AdminReply::Done,
            })
        }
        AdminRequest::AnnounceSuspension { node, reason } => {
            suspensions::announce(shared, by, node, reason).await
        }
        AdminRequest::AnnouncedSuspensions => suspensions::list(shared),
        AdminRequest::GovernAll(acts) => {
            if acts.len() > ACTS_PER_REQUEST_MAX {
                return Err(malformed(format!("ask for at most {ACTS_PER_REQUEST_MAX} acts at a time")));
            }
            check(shared, &acts)?;
            shared.carry_out_as(by, Command::GovernAll(acts), RefusalKind::Malformed).await?;
            Ok(AdminReply::Done)
        }
        AdminRequest::BundlesSince { since, from } => {
            let page = bundles_since(&shared.facts()?, since, from).map_err(|error| disk(&error))?;
            Ok(AdminReply::Bundles { bundles: page.0, next: page.1 })
        }
        AdminRequest::Purges { since, after } => {
            let facts = shared.facts()?;
            let wanted = PurgesWanted { since, after, limit: PURGES_PAGE };
            let progress = shared.with_view(|view| {
                let book = PurgeBook::read(&facts, view.catalogue)?;
                Ok(purge_progress(&book, view, &wanted))
            })?;
            Ok(AdminReply::Purges(progress.map_err(|error: StorageError| disk(&error))?))
        }
        AdminRequest::Compaction { older_than_millis } => {
            let older_than = Duration::from_millis(older_than_millis);
            compaction(shared, older_than, None).await.map(AdminReply::Compaction)
        }
        AdminRequest::CompactionBehind { older_than_millis, bundle } => {
            let older_than = Duration::from_millis(older_than_millis);
            compaction(shared, older_than, Some(bundle)).await.map(AdminReply::Compaction)
        }
        AdminRequest::ReplacedAmong(bundles) => {
            if bundles.len() > COMPACTED_BUNDLES_MAX {
                return Err(malformed(format!(
                    "at most {COMPACTED_BUNDLES_MAX} bundles are asked for at once"
                )));
            }
            let replaced = replaced_among(&shared.facts()?, &bundles).map_err(|error| disk(&error))?;
            Ok(AdminReply::Replaced(replaced))
        }
        AdminRequest::Members => Ok(AdminReply::Members(members::list(shared))),
        AdminRequest::ChangeMember(change) => members::change(shared, by, &change).await,
        AdminRequest::DraftRoster => Ok(AdminReply::RosterDraft(members::draft(shared))),
        AdminRequest::AdoptRoster(descriptor) => members::adopt(shared, by, descriptor).await,
        AdminRequest::Digests => {
            let digests = shared.consensus.late_digests().pop();
            let none = || RefusedRequest::new(RefusalKind::Unavailable, "this coordinator has no state yet");
            Ok(AdminReply::Digests(digests.ok_or_else(none)?))
        }
        AdminRequest::RebuildProgress => Ok(AdminReply::Rebuild(shared.rebuild.progress(&shared.facts()?)?)),
        AdminRequest::FinishRebuild => match shared.rebuild.finish() {
            true => Ok(AdminReply::Done),
            false => Err(malformed(RejectReason::NotRebuilding.to_string())),
        },
        AdminRequest::ReopenRebuild => {
            if shared.is_rebuilding()? {
                return Err(malformed(
                    "the archive is being rebuilt: nodes are listened to until `rebuild finish`",
                ));
            }
            shared.carry_out(Command::BeginRebuild, RefusalKind::Malformed).await?;
            shared.rebuild.forget_ended();
            Ok(AdminReply::Done)
        }
        AdminRequest::Snapshot { .. } => Err(malformed(
            "a snapshot is written where its coordinator runs: use --data-dir on that machine, without --operator-key",
        )),
        AdminRequest::Nodes => Ok(AdminReply::Nodes(super::status::summaries(shared)?)),
        AdminRequest::LedgerPosition { since } => {
            let position = ledger_position(&shared.facts()?, since).map_err(|error| disk(&error))?;
            Ok(AdminReply::LedgerPosition(position))
        }
        AdminRequest::Ledger { from } => {
            let page = shared.facts()?.ledger_from(from, LEDGER_PAGE);
            Ok(AdminReply::Ledger(page.map_err(|error| disk(&error))?))
        }
    }
}

/// Writes a backup of this coordinator's state to a file of this machine.
pub(super) async fn snapshot(shared: &Shared, to: &str) -> Result<AdminReply, RefusedRequest> {
    let (state, to) = (shared.consensus.state(), std::path::PathBuf::from(to));
    let identity = shared.identity.clone();
    let (descriptor, taken_at) = (shared.standing.in_force().descriptor.clone(), shared.environment.now());
    let written = shared
        .environment
        .blocking(move || crate::snapshot_file::write(&*state, &to, &descriptor, &identity, taken_at));
    match written.await {
        Ok(bytes) => Ok(AdminReply::SnapshotWritten { bytes }),
        Err(error) => Err(RefusedRequest::new(RefusalKind::Disk, error.to_string())),
    }
}

/// What to compact now of what is older than this, and stands behind a bundle if one is named.
async fn compaction(
    shared: &Shared,
    older_than: Duration,
    behind: Option<BundleId>,
) -> Result<CompactionPlan, RefusedRequest> {
    if shared.is_rebuilding()? {
        return Err(malformed(RejectReason::Rebuilding.to_string()));
    }
    // Better now than when all of it is packed and sent.
    let command =
        Command::CompactUnused { bundles: Vec::new(), into: Vec::new(), looked_to: BundleNumber(0) };
    shared.settle_level(&command).await?;
    let place = match behind {
        Some(bundle) => order_of(&shared.facts()?, bundle).map_err(|error| disk(&error))?,
        None => None,
    };
    let (may, fill, used) = shared.with_view(|view| {
        // Nothing stands behind what nobody knows.
        let is_known = behind.is_none() || place.is_some();
        let used = if is_known { small_bundles(view, place) } else { Vec::new() };
        (check_compaction(view), view.catalogue.fill(), used)
    })?;
    may.map_err(|refusal| RefusedRequest::new(RefusalKind::Unavailable, refusal.to_string()))?;
    let facts = shared.facts()?;
    let going = shared.going(&facts).map_err(|error| disk(&error))?;
    // Some ten thousand records may have to be read, and as many acts of the ledger: not on the threads of the network.
    let plan = move || {
        let small = read_small(&facts, used, &going, older_than)?;
        plan_compaction(&facts, &small, fill)
    };
    shared.environment.blocking(plan).await.map_err(|error: StorageError| disk(&error))
}

fn is_empty(shared: &Shared, node: firn_base::NodeId) -> Result<bool, RefusedRequest> {
    let record = shared.facts()?.node_by_id(node).map_err(|error| disk(&error))?;
    Ok(record.is_some_and(|record| record.shards == 0 && record.assigned_bytes == 0))
}

fn drain_backlog(shared: &Shared, node: firn_base::NodeId) -> Result<Option<DrainBacklog>, RefusedRequest> {
    if shared.is_still_hearing()? {
        return Ok(None);
    }
    let survey = |view: &PlanningView<'_>| {
        let number = view.catalogue.node_number(node)?;
        Some((number, survey_drain(view, number)))
    };
    let Some((number, backlog)) = shared.with_view(survey)? else { return Ok(None) };
    // Lists show it at once, not only after the next pass.
    if let Some(findings) = &mut shared.soft().findings {
        findings.drains.insert(number, backlog);
    }
    Ok(Some(backlog))
}

fn check(shared: &Shared, acts: &[LedgerAct]) -> Result<(), RefusedRequest> {
    if shared.is_rebuilding()? {
        return Err(malformed(RejectReason::Rebuilding.to_string()));
    }
    let governance = shared.governance(&shared.facts()?)?;
    let checked = acts.iter().try_for_each(|act| check_act(&governance, act));
    checked.map_err(|error| malformed(error.to_string()))
}
