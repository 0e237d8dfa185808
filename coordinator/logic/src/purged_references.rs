//! What an archive that is told again remembers of paths that a purge took away.
//!
//! Owns: when each purged key was withdrawn. Always holds: only the believed ledger says so. A purged key that was withdrawn
//! after a bundle's commit is taken to have been readable until then, so what referred to it did not wait for it in the end;
//! nobody holds it any more who could tell. Leaves to others: planning the entries (`commit_check`).

use std::collections::BTreeMap;

use firn_base::ObjectKey;
use firn_wire::{LedgerAct, LedgerEntry};

use crate::commit_check::RecordSummary;

/// Keys that were purged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PurgedReferences {
    /// Position in the ledger of the withdrawal that came before the purge.
    withdrawn_at: BTreeMap<ObjectKey, u64>,
}

impl PurgedReferences {
    /// Reads a ledger from its beginning.
    pub fn read(ledger: &[LedgerEntry]) -> Self {
        let (mut withdrawn, mut purged) = (BTreeMap::new(), BTreeMap::new());
        for entry in ledger {
            match &entry.act {
                LedgerAct::Withdraw { key, .. } => drop(withdrawn.insert(*key, entry.position)),
                LedgerAct::Purge { key, .. } => {
                    purged.extend(withdrawn.get(key).map(|position| (*key, *position)));
                }
                _ => {}
            }
        }
        Self { withdrawn_at: purged }
    }

    /// Takes references out of the records of a bundle for which they did not have to wait: it was committed when the
    /// ledger had `ledger_entries` entries.
    pub fn forget_in(&self, records: &mut [RecordSummary], ledger_entries: u64) {
        let was_readable =
            |key: &ObjectKey| self.withdrawn_at.get(key).is_some_and(|position| *position >= ledger_entries);
        for record in records {
            record.references.retain(|key| !was_readable(key));
        }
    }
}
