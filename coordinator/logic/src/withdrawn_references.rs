//! What an archive that is told again remembers of paths that were withdrawn.
//!
//! Owns: when each key was withdrawn that is so in the end, or was purged. Always holds: only the ledger says so. A key
//! that was withdrawn after a bundle's commit is taken to have been readable until then, so what referred to it did not
//! wait for it in the end, wherever the telling itself cannot show it: nobody holds a purged key any more; a key that is
//! withdrawn when the bundle is told is shown no more; and if bundles may be missing, one of them may have it.
//! Leaves to others: planning the entries (`commit_check`).

use std::collections::BTreeMap;

use firn_base::ObjectKey;
use firn_wire::{Certificate, LedgerAct, LedgerEntry};

use crate::commit_check::RecordSummary;
use crate::facts::Scan;

const PAGE: usize = 4_096;

/// How much of an archive was told when one of its bundles is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ToldSoFar {
    /// Entries of the ledger. They are more than when the bundle was committed if it comes later than its place in the
    /// history.
    pub ledger_entries: u64,
    /// Whether bundles may be missing.
    pub may_lack: bool,
}

/// Keys that are withdrawn or were purged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WithdrawnReferences {
    /// Position in the ledger of the withdrawal that stands.
    withdrawn_at: BTreeMap<ObjectKey, u64>,
    /// Position of the withdrawal that came before the purge.
    purged_at: BTreeMap<ObjectKey, u64>,
}

impl WithdrawnReferences {
    /// Reads the ledger of `state`, and of `shown`, a ledger from its beginning, what follows on it: nothing if that is
    /// another one.
    pub fn read<S: Scan>(state: &S, shown: &[LedgerEntry]) -> Result<Self, S::Error> {
        let mut references = Self::default();
        let head = state.counters()?.ledger;
        let mut position = 0;
        while position < head.entries {
            let page = state.ledger_from(position, PAGE)?;
            let Some(last) = page.last() else { break };
            position = last.position.saturating_add(1);
            page.iter().for_each(|entry| references.take(entry));
        }
        let told = usize::try_from(head.entries).unwrap_or(usize::MAX);
        let further = shown.get(told..).unwrap_or_default();
        if further.first().is_some_and(|next| next.previous == head.digest) {
            further.iter().for_each(|entry| references.take(entry));
        }
        Ok(references)
    }

    fn take(&mut self, entry: &LedgerEntry) {
        match &entry.act {
            LedgerAct::Withdraw { key, .. } => drop(self.withdrawn_at.insert(*key, entry.position)),
            LedgerAct::Reinstate { key, .. } => drop(self.withdrawn_at.remove(key)),
            LedgerAct::Purge { key, .. } => {
                self.purged_at.extend(self.withdrawn_at.get(key).map(|position| (*key, *position)));
            }
            _ => {}
        }
    }

    /// Takes references out of the records of a bundle, to which `certificate` belongs, for which they did not have to wait.
    pub fn forget_in(&self, records: &mut [RecordSummary], certificate: &Certificate, told: ToldSoFar) {
        let later = |positions: &BTreeMap<ObjectKey, u64>, key: &ObjectKey| {
            positions.get(key).copied().filter(|position| *position >= certificate.ledger_entries)
        };
        let was_readable = |key: &ObjectKey| {
            let was_withdrawn = later(&self.withdrawn_at, key)
                .is_some_and(|position| told.may_lack || position < told.ledger_entries);
            let is_answered = was_withdrawn || later(&self.purged_at, key).is_some();
            // It is recorded as external again, also for those that came later.
            is_answered && !certificate.externals.contains(key)
        };
        for record in records {
            record.references.retain(|key| !was_readable(key));
        }
    }
}
