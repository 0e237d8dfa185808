//! Purges: committing what follows from those under way.
//!
//! Always holds: a command that is refused keeps no other from being committed, and is proposed ever less often; nothing is
//! ordered of nodes here: they follow the ledger, in which a majority lets an erasure stand.
//! Leaves to others: what follows (`plan_purging`), packing bundles anew (an operator's program).

use firn_base::BundleId;
use firn_coordinator_logic::{PurgeBook, plan_purging};
use firn_wire::{Command, CommandOutcome, RefusalKind, RefusedRequest};

use crate::shared::{Shared, disk};

/// Commits what is due.
pub(super) async fn carry_on(shared: &Shared) -> Result<(), RefusedRequest> {
    // Nearly always: no other look at the archive is needed then.
    if shared.is_purged() {
        return Ok(());
    }
    let facts = shared.facts()?;
    let refused = shared.soft().refused_steps.clone();
    let planned = shared.with_view(|view| {
        let book = PurgeBook::read(&facts, view.catalogue)?;
        Ok(plan_purging(&book, view, shared.erase_after, &refused))
    })?;
    let commands = planned.map_err(|error| disk(&error))?;
    let propose = |command| shared.carry_out(command, RefusalKind::Malformed);
    let note = |bundle, is_done| {
        let (now, steps) = (shared.environment.now(), &mut shared.soft().refused_steps);
        if is_done { steps.done(bundle) } else { steps.refused(bundle, now) }
    };
    carry_out_all(commands, propose, note).await
}

/// Carries out each that is not refused, and notes of each bundle whether it was.
async fn carry_out_all<F: Future<Output = Result<CommandOutcome, RefusedRequest>>>(
    commands: Vec<Command>,
    propose: impl Fn(Command) -> F,
    note: impl Fn(BundleId, bool),
) -> Result<(), RefusedRequest> {
    for command in commands {
        let bundle = bundle_of(&command);
        match &command {
            Command::ReplaceBundle { bundle, .. } => {
                tracing::info!(bundle = %bundle.short(), "a bundle holds nothing that is to stay");
            }
            Command::EraseBundle { bundle, .. } => {
                tracing::info!(bundle = %bundle.short(), "a bundle is erased: nodes hear of it by the ledger");
            }
            _ => {}
        }
        let is_done = match propose(command).await {
            Ok(_) => true,
            // It was wrong by now, or is for good: a later round plans anew.
            Err(refused) if refused.kind == RefusalKind::Malformed => {
                tracing::warn!(%refused, "a step of a purge was refused");
                false
            }
            Err(refused) => return Err(refused),
        };
        if let Some(bundle) = bundle {
            note(bundle, is_done);
        }
    }
    Ok(())
}

/// The bundle that a step is about; none for one that is about nodes.
const fn bundle_of(command: &Command) -> Option<BundleId> {
    match command {
        Command::ReplaceBundle { bundle, .. } | Command::EraseBundle { bundle, .. } => Some(*bundle),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    const fn bundle(byte: u8) -> BundleId {
        BundleId::from_bytes([byte; 32])
    }

    fn commands() -> Vec<Command> {
        let replace =
            Command::ReplaceBundle { bundle: bundle(1), left_out: Vec::new(), replacements: Vec::new() };
        let erase = Command::EraseBundle { bundle: bundle(2), surplus: Vec::new() };
        vec![replace, erase, Command::ConfirmErasures(Vec::new())]
    }

    /// How many of the commands were proposed, and what was noted, where the first is refused in this way.
    async fn carried_out(refusal: RefusalKind) -> (bool, usize, Vec<(BundleId, bool)>) {
        let (proposed, noted) = (RefCell::new(0), RefCell::new(Vec::new()));
        let propose = |_| {
            *proposed.borrow_mut() += 1;
            let is_first = *proposed.borrow() == 1;
            let refused = Err(RefusedRequest::new(refusal, "no"));
            std::future::ready(if is_first { refused } else { Ok(CommandOutcome::Applied) })
        };
        let note = |bundle, is_done| noted.borrow_mut().push((bundle, is_done));
        let is_done = carry_out_all(commands(), propose, note).await.is_ok();
        (is_done, proposed.into_inner(), noted.into_inner())
    }

    #[tokio::test]
    async fn a_step_that_is_refused_keeps_no_other_from_being_taken_and_is_remembered() {
        let noted = vec![(bundle(1), false), (bundle(2), true)];
        assert_eq!(carried_out(RefusalKind::Malformed).await, (true, 3, noted));
    }

    #[tokio::test]
    async fn nothing_is_proposed_behind_what_nobody_answers() {
        assert_eq!(carried_out(RefusalKind::Unavailable).await, (false, 1, Vec::new()));
    }
}
