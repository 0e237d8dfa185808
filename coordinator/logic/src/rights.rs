//! Which role an act of administration needs.
//!
//! Owns: the one table of it. Always holds: every kind of request, act and command is in it, by a match that does not
//! compile without; what no operator may bring forward is `admin`'s at least, and refused by other rules.
//! Leaves to others: who has which role (the ledger), asking before anything is done (the leader), and again when it is
//! recorded (`apply`).

use firn_wire::{AdminRequest, Command, LedgerAct, OperatorRole};

/// The role that a request needs.
pub fn role_for_request(request: &AdminRequest) -> OperatorRole {
    match request {
        AdminRequest::Govern(act) => role_for_act(act),
        AdminRequest::GovernAll(acts) => role_for_acts(acts),
        AdminRequest::CreateToken { .. }
        | AdminRequest::SetNodeState { .. }
        | AdminRequest::AnnounceSuspension { .. } => OperatorRole::Nodes,
        AdminRequest::ChangeMember(_)
        | AdminRequest::AdoptRoster(_)
        | AdminRequest::FinishRebuild
        | AdminRequest::ReopenRebuild
        | AdminRequest::Snapshot { .. } => OperatorRole::Admin,
        AdminRequest::Members
        | AdminRequest::Nodes
        | AdminRequest::Ledger { .. }
        | AdminRequest::LedgerPosition { .. }
        | AdminRequest::DraftRoster
        | AdminRequest::Digests
        | AdminRequest::RebuildProgress
        | AdminRequest::Purges { .. }
        | AdminRequest::BundlesSince { .. }
        | AdminRequest::Compaction { .. }
        | AdminRequest::CompactionBehind { .. }
        | AdminRequest::ReplacedAmong(_)
        | AdminRequest::AnnouncedSuspensions => OperatorRole::Observer,
    }
}

/// The role that an act of governance needs.
pub const fn role_for_act(act: &LedgerAct) -> OperatorRole {
    match act {
        LedgerAct::AddPublisher(_)
        | LedgerAct::RemovePublisher { .. }
        | LedgerAct::AddUploader { .. }
        | LedgerAct::RemoveUploader { .. }
        | LedgerAct::Withdraw { .. }
        | LedgerAct::Reinstate { .. }
        | LedgerAct::Purge { .. }
        | LedgerAct::Repack { .. } => OperatorRole::Content,
        LedgerAct::CreateToken { .. } | LedgerAct::SetNodeState { .. } => OperatorRole::Nodes,
        LedgerAct::AddOperator { .. }
        | LedgerAct::RemoveOperator { .. }
        | LedgerAct::SetPolicy(_)
        | LedgerAct::ChangeMember(_)
        | LedgerAct::AdoptRoster { .. }
        | LedgerAct::UseToken { .. }
        | LedgerAct::Erase { .. }
        | LedgerAct::Refuse { .. } => OperatorRole::Admin,
    }
}

/// The role that a command needs which an operator has asked for.
pub(crate) fn role_for_command(command: &Command) -> OperatorRole {
    match command {
        Command::Govern(act) => role_for_act(act),
        Command::GovernAll(acts) => role_for_acts(acts),
        Command::SetNodeState { .. } | Command::AnnounceSuspension { .. } => OperatorRole::Nodes,
        Command::ReplaceBundle { .. } | Command::CompactBundles { .. } | Command::CompactUnused { .. } => {
            OperatorRole::Content
        }
        // The coordinators' own.
        Command::JoinNode { .. }
        | Command::Reserve { .. }
        | Command::ExpireReservations(_)
        | Command::Commit { .. }
        | Command::RecordPlacements(_)
        | Command::Summary { .. }
        | Command::BeginRecoding { .. }
        | Command::FinishRecoding { .. }
        | Command::DropRecoding { .. }
        | Command::RaiseFeatureLevel { .. }
        | Command::BeginRebuild
        | Command::RestoreLedger(_)
        | Command::RestoreBundle(_)
        | Command::RestoreLacking(_)
        | Command::ForgetUncounted { .. }
        | Command::EndRebuild
        | Command::EraseBundle { .. }
        | Command::ConfirmErasures(_)
        | Command::RememberFeatures { .. }
        | Command::DeclareAbsence { .. }
        | Command::CarryOutSuspension { .. } => OperatorRole::Admin,
    }
}

/// The smallest role that may do all of them.
fn role_for_acts(acts: &[LedgerAct]) -> OperatorRole {
    let mut needed = acts.iter().map(role_for_act);
    let first = needed.next().unwrap_or(OperatorRole::Observer);
    needed.fold(first, |one, other| match (one.includes(other), other.includes(one)) {
        (true, _) => one,
        (false, true) => other,
        (false, false) => OperatorRole::Admin,
    })
}
