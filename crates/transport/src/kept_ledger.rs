//! A ledger on disk, as every node keeps it beside its shards: signed heads, then all entries.
//!
//! Always holds: of a ledger that somebody else kept only that part is believed which a majority of the coordinators
//! signed, at that length or a larger one that is there. Leaves to others: files (`storage-node`, `firn recover`).

use firn_wire::{
    LedgerEntry, LedgerHead, LedgerState, Signed, VerifiedRoster, believed_entries, decode, encode, is_chain,
};

use crate::VerifiedLedger;

impl VerifiedLedger {
    /// A ledger without entries.
    pub fn empty() -> Self {
        Self { entries: Vec::new(), state: LedgerState::default(), heads: Vec::new() }
    }

    /// Its bytes on disk: `postcard` of heads and entries behind the version of the protocol.
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(&(&self.heads, &self.entries))
    }

    /// Reads what [`Self::to_bytes`] wrote on one's own disk: none if the chain of entries is broken. Signatures were
    /// checked before it was written.
    pub fn from_own_bytes(bytes: &[u8]) -> Option<Self> {
        let (heads, entries): (Vec<Signed<LedgerHead>>, Vec<LedgerEntry>) = decode(bytes).ok()?;
        if !is_chain(&entries) {
            return None;
        }
        Some(Self { state: LedgerState::read(&entries), entries, heads })
    }

    /// Reads what a stranger may have written, and believes as much of it as more than half of the coordinators of
    /// `roster` signed: none if that is nothing.
    pub fn from_bytes(bytes: &[u8], roster: &VerifiedRoster) -> Option<Self> {
        let Self { mut entries, heads, .. } = Self::from_own_bytes(bytes)?;
        let (length, believed) = believed_entries(&entries, &heads, roster)?;
        entries.truncate(length);
        Some(Self { state: LedgerState::read(&entries), entries, heads: believed })
    }
}

#[cfg(test)]
mod tests {
    use firn_base::{ArchiveId, Digest, ObjectKey, Timestamp};
    use firn_wire::{CoordinatorEntry, Identity, LedgerAct, Roster};

    use super::*;

    fn identity(byte: u8) -> Identity {
        Identity::from_seed(&[byte; 32])
    }

    fn archive() -> ArchiveId {
        ArchiveId::from(identity(100).public())
    }

    fn roster() -> VerifiedRoster {
        let coordinators = (1..=3)
            .map(|number| CoordinatorEntry {
                id: identity(number).node_id(),
                raft_id: number.into(),
                address: "h:1".into(),
            })
            .collect();
        let roster = Roster {
            archive: archive(),
            generation: 1,
            issued: Timestamp::from_millis(1),
            coordinators,
            retired: Vec::new(),
        };
        VerifiedRoster::open(&Signed::seal(&identity(100), archive(), &roster), archive()).unwrap()
    }

    fn entries(keys: &[u8]) -> Vec<LedgerEntry> {
        let mut entries: Vec<LedgerEntry> = Vec::new();
        for (position, byte) in (0..).zip(keys) {
            entries.push(LedgerEntry {
                position,
                previous: entries.last().map_or(Digest::from_bytes([0; 32]), LedgerEntry::digest),
                at: Timestamp::from_millis(1),
                by: firn_wire::Actor::Coordinators,
                act: LedgerAct::Withdraw { key: ObjectKey::store_path([*byte; 20]), reason: "law".into() },
            });
        }
        entries
    }

    /// The first `length` entries of the chain of `keys`, signed by a coordinator or somebody else.
    fn head(signer: u8, keys: &[u8]) -> Signed<LedgerHead> {
        let entries = entries(keys);
        let digest = entries.last().unwrap().digest();
        let head = LedgerHead { entries: u64::try_from(entries.len()).unwrap(), digest };
        Signed::seal(&identity(signer), archive(), &head)
    }

    fn believed(keys: &[u8], heads: Vec<Signed<LedgerHead>>) -> Option<usize> {
        let entries = entries(keys);
        let ledger = VerifiedLedger { state: LedgerState::read(&entries), entries, heads };
        let read = VerifiedLedger::from_bytes(&ledger.to_bytes(), &roster())?;
        assert_eq!(read.state.withdrawn.len(), read.entries.len());
        Some(read.entries.len())
    }

    #[test]
    fn as_much_is_believed_as_a_majority_signed() {
        assert_eq!(believed(&[1, 2, 3], vec![head(1, &[1, 2, 3]), head(2, &[1, 2, 3])]), Some(3));
        assert_eq!(believed(&[1, 2, 3], vec![head(1, &[1, 2, 3]), head(2, &[1, 2])]), Some(2));
        assert_eq!(believed(&[1, 2, 3], vec![head(3, &[1]), head(1, &[1, 2, 3]), head(2, &[1, 2])]), Some(2));
    }

    #[test]
    fn a_minority_strangers_and_heads_of_other_ledgers_are_not_believed() {
        assert_eq!(believed(&[1, 2], vec![head(1, &[1, 2])]), None);
        assert_eq!(believed(&[1, 2], vec![head(1, &[1, 2]), head(1, &[1])]), None);
        assert_eq!(believed(&[1, 2], vec![head(1, &[1, 2]), head(9, &[1, 2])]), None);
        assert_eq!(believed(&[1, 2], vec![head(1, &[1, 2]), head(2, &[1, 3])]), None);
        // Genuine heads of a longer ledger beside entries that were forged.
        assert_eq!(believed(&[7], vec![head(1, &[1, 2]), head(2, &[1, 2])]), None);
        assert_eq!(believed(&[], Vec::new()), None);
    }

    #[test]
    fn a_broken_chain_or_garbage_is_no_ledger() {
        let mut broken = entries(&[1, 2, 3]);
        broken.remove(1);
        let heads = vec![head(1, &[1, 2, 3]), head(2, &[1, 2, 3])];
        let ledger = VerifiedLedger { state: LedgerState::default(), entries: broken, heads };
        assert!(VerifiedLedger::from_own_bytes(&ledger.to_bytes()).is_none());
        assert!(VerifiedLedger::from_bytes(&ledger.to_bytes(), &roster()).is_none());
        assert!(VerifiedLedger::from_own_bytes(b"no ledger").is_none());
        let whole = VerifiedLedger { entries: entries(&[1]), ..VerifiedLedger::empty() }.to_bytes();
        assert!(VerifiedLedger::from_own_bytes(&whole).is_some());
        assert!(VerifiedLedger::from_own_bytes(&whole[..whole.len() - 1]).is_none());
    }
}
