//! Purges: committing what follows from those under way.
//!
//! Always holds: a command that is refused keeps no other from being committed; nothing is ordered of nodes here: they follow the ledger, in which a majority lets an erasure stand.
//! Leaves to others: what follows (`plan_purging`), packing bundles anew (an operator's program).

use firn_coordinator_logic::{PurgeBook, plan_purging};
use firn_wire::{Command, RefusalKind, RefusedRequest};

use crate::shared::{Shared, disk};

/// Commits what is due.
pub(super) async fn carry_on(shared: &Shared) -> Result<(), RefusedRequest> {
    let book = PurgeBook::read(&shared.facts()?).map_err(|error| disk(&error))?;
    // Nearly always: no look at the archive is needed then.
    if book.is_settled() {
        return Ok(());
    }
    let commands = shared.with_view(|view| plan_purging(&book, view, shared.erase_after))?;
    for command in commands {
        match &command {
            Command::ReplaceBundle { bundle, .. } => {
                tracing::info!(bundle = %bundle.short(), "a bundle holds nothing that is to stay");
            }
            Command::EraseBundle { bundle, .. } => {
                tracing::info!(bundle = %bundle.short(), "a bundle is erased: nodes hear of it by the ledger");
            }
            _ => {}
        }
        match shared.carry_out(command, RefusalKind::Malformed).await {
            Ok(_) => {}
            // It was wrong by now, or is for good: the next round plans anew.
            Err(refused) if refused.kind == RefusalKind::Malformed => {
                tracing::warn!(%refused, "a step of a purge was refused");
            }
            Err(refused) => return Err(refused),
        }
    }
    Ok(())
}
