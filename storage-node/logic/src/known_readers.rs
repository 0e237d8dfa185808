//! Who of those that read is known to the archive, and who is a stranger.
//!
//! Always holds: known is whose key the ledger names as an uploader's or an operator's, of whatever role, and has not removed
//! since; a majority of the coordinators signed that, so that a single one, or a thief of its key, makes nobody known. Everybody else
//! is a stranger: he may read, by the same pass, from the part of a line that strangers have.
//! Leaves to others: passes (`admission`), how much strangers have (`strangers`).

use std::collections::BTreeSet;

use firn_base::PublicKey;
use firn_wire::{LedgerAct, LedgerEntry};

/// Whose reads they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReaderClass {
    /// The archive knows the reader.
    Known,
    /// It does not.
    Stranger,
}

/// Whom the ledger names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KnownReaders {
    uploaders: BTreeSet<PublicKey>,
    operators: BTreeSet<PublicKey>,
}

impl KnownReaders {
    /// Takes note of entries of the ledger, in their order, each once.
    pub fn enter(&mut self, entries: &[LedgerEntry]) {
        for entry in entries {
            match &entry.act {
                LedgerAct::AddUploader { key, .. } => {
                    self.uploaders.insert(*key);
                }
                LedgerAct::RemoveUploader { key } => {
                    self.uploaders.remove(key);
                }
                LedgerAct::AddOperator { key, .. } => {
                    self.operators.insert(*key);
                }
                LedgerAct::RemoveOperator { key } => {
                    self.operators.remove(key);
                }
                _ => {}
            }
        }
    }

    /// Whose reads those of `key` are.
    pub fn class_of(&self, key: PublicKey) -> ReaderClass {
        let known = self.uploaders.contains(&key) || self.operators.contains(&key);
        if known { ReaderClass::Known } else { ReaderClass::Stranger }
    }
}

#[cfg(test)]
mod tests {
    use firn_wire::OperatorRole;

    use super::*;
    use crate::test_ledger::entry;

    #[test]
    fn known_is_whom_the_ledger_names_until_it_removes_him() {
        let [uploader, operator, both] = [1, 2, 3].map(|byte| PublicKey::from_bytes([byte; 32]));
        let upload = |key| entry(LedgerAct::AddUploader { key, name: "ada".into() });
        let role = OperatorRole::Observer;
        let operate = |key| entry(LedgerAct::AddOperator { key, name: "gateway".into(), role });
        let mut readers = KnownReaders::default();
        assert_eq!(readers.class_of(uploader), ReaderClass::Stranger);
        readers.enter(&[upload(uploader), operate(operator), upload(both), operate(both)]);
        let classes = |readers: &KnownReaders| [uploader, operator, both].map(|key| readers.class_of(key));
        assert_eq!(classes(&readers), [ReaderClass::Known; 3]);
        let removed = [uploader, both].map(|key| entry(LedgerAct::RemoveUploader { key }));
        readers.enter(&removed);
        assert_eq!(classes(&readers), [ReaderClass::Stranger, ReaderClass::Known, ReaderClass::Known]);
        readers.enter(&[operator, both].map(|key| entry(LedgerAct::RemoveOperator { key })));
        assert_eq!(classes(&readers), [ReaderClass::Stranger; 3]);
    }
}
