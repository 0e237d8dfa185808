//! Applying a committed command: total, deterministic, alike on every replica.
//!
//! Owns: the dispatch and the archive's time. Always holds: a rejected command changes nothing but the time; no
//! command panics; the only inputs are the facts and the command.
//! Leaves to others: each command's meaning (the modules below), writing the changes (the shell).

mod account;
mod commit;
mod compact;
mod features;
mod govern;
mod nodes;
mod placements;
mod purge;
mod rebuild;
mod recode;
mod reserve;
mod visibility;

use firn_wire::{Actor, Command, CommandOutcome, RejectReason, TimedCommand};

use crate::change::Change;
use crate::facts::Facts;
use crate::overlay::Overlay;
use crate::rights::role_for_command;

/// What a command came to, and what to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// For whoever proposed it.
    pub outcome: CommandOutcome,
    /// To be written in one atomic batch with the log position.
    pub changes: Vec<Change>,
}

/// Done, or the reason why nothing is to be changed.
type Verdict<T> = Result<T, RejectReason>;

/// Applies `command` to `facts`. Fails only if the facts cannot be read; the replica must then stop.
///
/// Several commands in one batch: keep an [`Overlay`], apply to it, let it absorb each command's changes.
pub fn apply<F: Facts>(facts: &F, command: &TimedCommand) -> Result<Applied, F::Error> {
    let mut state = Overlay::new(facts)?;
    advance_time(&mut state, command);
    state.set_actor(command.by.clone());
    let done = match check_role(&state, command)? {
        Ok(()) => carry_out(&mut state, &command.command)?,
        Err(reason) => Err(reason),
    };
    let outcome = match done {
        Ok(outcome) => outcome,
        Err(reason) => {
            state = Overlay::new(facts)?;
            advance_time(&mut state, command);
            CommandOutcome::Rejected(reason)
        }
    };
    Ok(Applied { outcome, changes: state.into_changes() })
}

fn advance_time<F: Facts>(state: &mut Overlay<'_, F>, command: &TimedCommand) {
    let time = &mut state.counters_mut().time;
    *time = command.at.max(*time);
}

/// Whether whoever asked may: the leader has looked, but what counts is what the ledger says at this position of the log.
fn check_role<F: Facts>(state: &Overlay<'_, F>, command: &TimedCommand) -> Result<Verdict<()>, F::Error> {
    let Actor::Operator { key, name } = &command.by else { return Ok(Ok(())) };
    let needed = role_for_command(&command.command);
    let operator = state.operator(*key)?;
    let may = operator.is_some_and(|operator| operator.role.includes(needed) && operator.name == *name);
    Ok(if may { Ok(()) } else { Err(RejectReason::NeedsRole(needed)) })
}

fn carry_out<F: Facts>(
    state: &mut Overlay<'_, F>,
    command: &Command,
) -> Result<Verdict<CommandOutcome>, F::Error> {
    let takes_on = matches!(
        command,
        Command::Reserve { .. }
            | Command::Commit { .. }
            | Command::ReplaceBundle { .. }
            | Command::CompactBundles { .. }
            | Command::CompactUnused { .. }
            | Command::EraseBundle { .. }
    );
    if takes_on && state.counters()?.rebuilding {
        return Ok(Err(RejectReason::Rebuilding));
    }
    let done = match command {
        Command::Govern(act) => govern::govern(state, act)?,
        Command::JoinNode {
            node,
            operator,
            failure_domain,
            vouched,
            seen_at,
            address,
            quota_bytes,
            token,
        } => {
            let joining = nodes::JoiningNode {
                id: *node,
                operator,
                failure_domain,
                vouched: *vouched,
                seen_at: *seen_at,
                address,
                quota_bytes: *quota_bytes,
                token: *token,
            };
            nodes::join(state, &joining)?
        }
        Command::DeclareAbsence { node, until } => nodes::declare_absence(state, *node, *until)?,
        Command::SetNodeState { node, state: to } => nodes::set_state(state, *node, *to)?,
        Command::AnnounceSuspension { node, at, reason } => {
            nodes::announce_suspension(state, *node, *at, reason)?
        }
        Command::CarryOutSuspension { node, at } => nodes::carry_out_suspension(state, *node, *at)?,
        Command::Reserve {
            reservation,
            uploader,
            content_header,
            coding_header,
            n,
            assignments,
            expires,
        } => {
            let wanted = reserve::WantedReservation {
                id: *reservation,
                uploader: *uploader,
                content_header,
                coding_header,
                n: *n,
                assignments,
                expires: *expires,
            };
            reserve::reserve(state, &wanted)?
        }
        Command::ExpireReservations(ids) => reserve::end_all(state, ids)?,
        Command::Commit { bundles, externals } => return commit::commit(state, bundles, externals),
        Command::RecordPlacements(changes) => placements::record(state, changes)?,
        Command::Summary { nodes } => nodes::summarise(state, nodes)?,
        Command::BeginRecoding { bundle, coding_header, n, workers } => {
            recode::begin(state, *bundle, coding_header, *n, *workers)?
        }
        Command::FinishRecoding { bundle, coding, decoder } => {
            recode::finish(state, *bundle, *coding, *decoder)?
        }
        Command::RaiseFeatureLevel { level } => {
            let known = &mut state.counters_mut().feature_level;
            *known = (*known).max(*level);
            Ok(())
        }
        Command::BeginRebuild => rebuild::begin(state),
        Command::RestoreLedger(entries) => rebuild::restore_ledger(state, entries)?,
        Command::RestoreBundle(bundle) => rebuild::restore_bundle(state, bundle)?,
        Command::RestoreLacking(bundle) => rebuild::restore_lacking(state, bundle)?,
        Command::ForgetUncounted { reservations, surplus } => {
            rebuild::forget_uncounted(state, reservations, surplus)?
        }
        Command::EndRebuild => rebuild::end(state)?,
        Command::DropRecoding { bundle, coding } => recode::drop_second(state, *bundle, *coding)?,
        Command::ReplaceBundle { bundle, left_out, replacements } => {
            purge::replace(state, *bundle, left_out, replacements)?
        }
        Command::CompactBundles { bundles, into } => compact::compact(state, bundles, into)?,
        Command::CompactUnused { bundles, into, looked_to } => {
            compact::compact_unused(state, bundles, into, *looked_to)?
        }
        Command::EraseBundle { bundle, surplus } => purge::erase(state, *bundle, surplus)?,
        Command::ConfirmErasures(confirmed) => purge::confirm(state, confirmed)?,
        Command::GovernAll(acts) => govern::govern_all(state, acts)?,
        Command::RememberFeatures { bundle, replaces, records } => {
            features::remember(state, *bundle, *replaces, records)?;
            Ok(())
        }
    };
    Ok(done.map(|()| CommandOutcome::Applied))
}
