//! Since which level of commands each command is known.
//!
//! Always holds: a command that is added must say its level, for the matches name every one. Leaves to others: which level
//! the coordinators have agreed on, and refusing what is beyond it (the leader, before it proposes).

use crate::{Command, LedgerAct};

/// The level of commands that this program knows: one more whenever a kind of command is added, or the effect of one
/// changes. A leader proposes what came with a level only once the archive's state has it.
pub const FEATURE_LEVEL: u16 = ANNOUNCEMENT;

/// What every program knows.
const FIRST: u16 = 0;

/// Purges, and several acts of governance at once.
const PURGES: u16 = 2;

/// What is remembered of which objects are like each other.
const LIKENESS: u16 = 3;

/// Full bundles in the place of small ones.
const COMPACTION: u16 = 4;

/// Bundles that come back without others whose chunks they use.
const LACKING: u16 = 5;

/// Compactions that are refused where somebody has come to use what goes.
const UNUSED: u16 = 6;

/// Nodes that declare an absence.
const ABSENCE: u16 = 7;

/// Suspensions that are announced to a node's owner.
const ANNOUNCEMENT: u16 = 8;

impl Command {
    /// The level that the archive's state must have before this may be proposed.
    pub fn level(&self) -> u16 {
        match self {
            Self::Govern(act) => act.level(),
            Self::GovernAll(acts) => acts.iter().map(LedgerAct::level).fold(PURGES, u16::max),
            Self::JoinNode { .. }
            | Self::SetNodeState { .. }
            | Self::Reserve { .. }
            | Self::ExpireReservations(_)
            | Self::Commit { .. }
            | Self::RecordPlacements(_)
            | Self::Summary { .. }
            | Self::BeginRecoding { .. }
            | Self::FinishRecoding { .. }
            | Self::DropRecoding { .. }
            | Self::RaiseFeatureLevel { .. }
            | Self::BeginRebuild
            | Self::RestoreLedger(_)
            | Self::RestoreBundle(_)
            | Self::ForgetUncounted { .. }
            | Self::EndRebuild => FIRST,
            Self::ReplaceBundle { .. } | Self::EraseBundle { .. } | Self::ConfirmErasures(_) => PURGES,
            Self::RememberFeatures { .. } => LIKENESS,
            Self::CompactBundles { .. } => COMPACTION,
            Self::RestoreLacking(_) => LACKING,
            Self::CompactUnused { .. } => UNUSED,
            Self::DeclareAbsence { .. } => ABSENCE,
            Self::AnnounceSuspension { .. } | Self::CarryOutSuspension { .. } => ANNOUNCEMENT,
        }
    }
}

impl LedgerAct {
    /// The level that the archive's state must have before this may be proposed.
    pub const fn level(&self) -> u16 {
        match self {
            Self::AddPublisher(_)
            | Self::RemovePublisher { .. }
            | Self::AddUploader { .. }
            | Self::RemoveUploader { .. }
            | Self::AddOperator { .. }
            | Self::RemoveOperator { .. }
            | Self::UseToken { .. }
            | Self::Withdraw { .. }
            | Self::SetPolicy(_)
            | Self::Reinstate { .. }
            | Self::CreateToken { .. }
            | Self::SetNodeState { .. }
            | Self::ChangeMember(_)
            | Self::AdoptRoster { .. }
            | Self::Repack { .. }
            | Self::Refuse { .. } => FIRST,
            Self::Purge { .. } | Self::Erase { .. } => PURGES,
        }
    }
}
