//! Where a bundle stands in the history that an archive which is rebuilt is told again.
//!
//! Always holds: between two bundles without a turning point a commit shows the same, wherever it stands, of keys of
//! which no other bundle between them has a record. Leaves to others: telling (`restoring`), which bundles come
//! together (`compacting`, `apply`).

use firn_base::{BundleNumber, Timestamp};
use firn_wire::LedgerAct;

use crate::state::BundleRecord;

/// Acts of the ledger between two bundles that may come together, at most: `apply` reads all of them, at some microseconds
/// each. Compaction itself makes two acts for each bundle, so that a day's 144 small bundles are some 300 acts later.
pub(crate) const LEDGER_SPAN_MAX: u64 = 16_384;

/// By what bundles are told one after the other: entries of the ledger when it was committed, when that was, and its number.
pub type HistoryOrder = (u64, Timestamp, BundleNumber);

/// A bundle's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct History {
    /// When it was committed.
    pub(crate) committed_at: Timestamp,
    /// Entries of the ledger then.
    pub(crate) ledger_entries: u64,
}

impl History {
    pub(crate) const fn of(record: &BundleRecord) -> Self {
        Self { committed_at: record.committed_at, ledger_entries: record.ledger_entries }
    }

    /// By what bundles are told one after the other.
    pub(crate) const fn order(record: &BundleRecord) -> HistoryOrder {
        (record.ledger_entries, record.committed_at, record.number)
    }
}

/// Whether an act changes what a commit shows or holds back that comes after it.
pub(crate) const fn is_turning_point(act: &LedgerAct) -> bool {
    match act {
        LedgerAct::Withdraw { .. } | LedgerAct::Reinstate { .. } | LedgerAct::Purge { .. } => true,
        // A rebuild takes paths of every publisher that there ever was, and asks nobody's leave to tell a commit again; what
        // was erased or packed anew is decided by the whole ledger.
        LedgerAct::AddPublisher(_)
        | LedgerAct::RemovePublisher { .. }
        | LedgerAct::AddUploader { .. }
        | LedgerAct::RemoveUploader { .. }
        | LedgerAct::AddOperator { .. }
        | LedgerAct::RemoveOperator { .. }
        | LedgerAct::UseToken { .. }
        | LedgerAct::SetPolicy(_)
        | LedgerAct::Erase { .. }
        | LedgerAct::CreateToken { .. }
        | LedgerAct::SetNodeState { .. }
        | LedgerAct::ChangeMember(_)
        | LedgerAct::AdoptRoster { .. }
        | LedgerAct::Repack { .. }
        | LedgerAct::Refuse { .. } => false,
    }
}
