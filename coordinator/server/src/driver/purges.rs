//! Purges: committing what follows from those under way.
//!
//! Always holds: nothing is ordered of nodes here: they follow the ledger, in which a majority lets an erasure stand.
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
        shared.carry_out(command, RefusalKind::Malformed).await?;
    }
    Ok(())
}
