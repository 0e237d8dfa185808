//! How much one commit may bring into the log.
//!
//! Always holds: a command whose records had room is taken by every follower, whatever those records wait for. Without that
//! a leader would keep an entry in its log that it can send to nobody, and nothing behind it would be committed. Manifests
//! do not bound it by themselves: keys and references that repeat compress to nothing.
//! Leaves to others: the bytes of manifests (`COMMIT_BYTES_MAX` of the request), counting (whoever reads them).

use firn_base::KEY_BYTES;
use firn_wire::COMMIT_BYTES_MAX;

/// Bytes of a record's entry in a command, at most, without what it waits for: its key, up to two places of six bytes, a
/// length.
const RECORD_BYTES: usize = KEY_BYTES + 2 * 6 + 5;

/// Bytes that are left to receipts, external references, records that are left out, and what is around a command: 40
/// receipts for each of 256 bundles have 0.7 MB, 65,535 of the others 1.8 MB each.
const BESIDE_BYTES: usize = 8 << 20;

const ENTRIES_BYTES_MAX: usize = COMMIT_BYTES_MAX - BESIDE_BYTES;

/// Room for the records of one command.
#[derive(Debug)]
pub struct CommitRoom {
    left: usize,
}

/// A commit has too many records and references.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "its records and their references would take more than {} MiB of the coordinators' log: put fewer of them into one bundle",
    ENTRIES_BYTES_MAX >> 20
)]
pub struct CommitTooLarge;

impl Default for CommitRoom {
    fn default() -> Self {
        Self { left: ENTRIES_BYTES_MAX }
    }
}

impl CommitRoom {
    /// Takes the room of a record with so many references.
    pub const fn take(&mut self, references: usize) -> Result<(), CommitTooLarge> {
        let bytes = RECORD_BYTES.saturating_add(references.saturating_mul(KEY_BYTES));
        match self.left.checked_sub(bytes) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(CommitTooLarge),
        }
    }
}

#[cfg(test)]
mod tests {
    use firn_base::{BundleId, NodeId, ObjectKey, ReservationId, ShardIndex, Timestamp};
    use firn_wire::{
        BundleCommit, Command, IndexEntry, MovedRecord, RecordPlace, ReplacementBundle, TimedCommand, encode,
    };

    use super::*;

    const LAST: RecordPlace = RecordPlace { block: u16::MAX, entry: u16::MAX };

    fn key() -> ObjectKey {
        ObjectKey::store_path([255; 20])
    }

    fn bytes_of(command: Command) -> usize {
        encode(&TimedCommand::of_coordinators(Timestamp::from_millis(u64::MAX), command)).len()
    }

    /// How many records with so many references there is room for.
    fn room_for(references: usize) -> usize {
        let mut room = CommitRoom::default();
        std::iter::repeat_with(|| room.take(references)).take_while(Result::is_ok).count()
    }

    fn beside() -> (ReservationId, Vec<(ShardIndex, NodeId)>, Vec<ObjectKey>) {
        let receipts = vec![(ShardIndex(255), NodeId::from_bytes([255; 32])); 40 * 256];
        (ReservationId::from_bytes([255; 32]), receipts, vec![key(); 65_535])
    }

    #[test]
    fn a_commit_that_had_room_is_taken_by_followers_whatever_it_waits_for() {
        for references in [0, 1, 1000, 65_535] {
            let (reservation, receipts, externals) = beside();
            let (block, entry) = (LAST.block, LAST.entry);
            let record = IndexEntry { key: key(), block, entry, waits: vec![key(); references] };
            let entries = vec![record; room_for(references)];
            let bundles = vec![BundleCommit { reservation, receipts, entries }];
            let bytes = bytes_of(Command::Commit { bundles, externals });
            assert!((ENTRIES_BYTES_MAX / 2..COMMIT_BYTES_MAX - 4096).contains(&bytes), "{bytes}");
        }
    }

    #[test]
    fn a_replacement_that_had_room_is_taken_by_followers() {
        let (reservation, receipts, _) = beside();
        let records = vec![MovedRecord { key: key(), from: LAST, to: LAST }; room_for(0)];
        let command = Command::ReplaceBundle {
            bundle: BundleId::from_bytes([255; 32]),
            left_out: vec![(key(), LAST); 65_535],
            replacements: vec![ReplacementBundle { reservation, receipts, records }],
        };
        assert!(bytes_of(command) < COMMIT_BYTES_MAX - 4096);
    }

    #[test]
    fn two_million_references_have_room_and_more_than_the_log_can_take_have_not() {
        let mut room = CommitRoom::default();
        for _ in 0..65_535 {
            room.take(31).unwrap();
        }
        assert_eq!(CommitRoom::default().take(4_000_000), Err(CommitTooLarge));
        assert_eq!(CommitRoom::default().take(usize::MAX), Err(CommitTooLarge));
    }
}
