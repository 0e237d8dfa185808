//! Why shards are deleted, and how much of it a node still does.
//!
//! Owns: the reasons of delete orders, and the room that a node says is left of its day's allowances. Always holds:
//! a deletion never widens the room; what is left for unique shards is never more than what is left for all.
//! Leaves to others: how wide the room is (the storage node).

use firn_base::ByteCount;
use serde::{Deserialize, Serialize};

/// Why a shard is to be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum DeleteReason {
    /// A copy that does not count: the same shard is placed on another node.
    Surplus,
    /// A shard of a coding in whose place its bundle has another.
    ReplacedCoding,
    /// What an upload brought that was never committed.
    AbandonedUpload,
}

impl DeleteReason {
    /// Every reason.
    pub const ALL: [Self; 3] = [Self::Surplus, Self::ReplacedCoding, Self::AbandonedUpload];

    /// Whether this may be the last of something: the archive does not keep the same content otherwise. A
    /// coordinator that errs about surplus costs redundancy, one that errs about this costs paths.
    pub const fn is_unique(self) -> bool {
        match self {
            Self::Surplus | Self::ReplacedCoding => false,
            Self::AbandonedUpload => true,
        }
    }
}

/// How much a node would delete now, of what it deletes within a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DeletionRoom {
    /// Bytes of files for whatever reason.
    pub all: ByteCount,
    /// Of these, bytes that may be unique.
    pub unique: ByteCount,
}

impl DeletionRoom {
    /// Bytes that may be deleted for `reason`.
    pub fn of(self, reason: DeleteReason) -> ByteCount {
        if reason.is_unique() { self.unique.min(self.all) } else { self.all }
    }

    /// The room that is left when a file of `bytes` is deleted for `reason`; none if it is too narrow for that.
    pub fn after(self, reason: DeleteReason, bytes: u64) -> Option<Self> {
        if bytes > self.of(reason).0 {
            return None;
        }
        let all = ByteCount(self.all.0 - bytes);
        let unique = if reason.is_unique() { self.unique.0 - bytes } else { self.unique.0 };
        Some(Self { all, unique: ByteCount(unique).min(all) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: DeletionRoom = DeletionRoom { all: ByteCount(100), unique: ByteCount(20) };

    #[test]
    fn surplus_takes_of_the_whole_room_and_what_may_be_unique_of_its_part_too() {
        let after_surplus = ROOM.after(DeleteReason::Surplus, 30).unwrap();
        assert_eq!(after_surplus, DeletionRoom { all: ByteCount(70), unique: ByteCount(20) });
        assert_eq!(ROOM.after(DeleteReason::ReplacedCoding, 30), Some(after_surplus));
        let after_both = after_surplus.after(DeleteReason::AbandonedUpload, 20).unwrap();
        assert_eq!(after_both, DeletionRoom { all: ByteCount(50), unique: ByteCount(0) });
        assert_eq!(after_both.after(DeleteReason::AbandonedUpload, 1), None);
        assert_eq!(after_both.after(DeleteReason::Surplus, 51), None);
        assert!(after_both.after(DeleteReason::Surplus, 50).is_some());
    }

    #[test]
    fn when_little_is_left_in_all_no_more_than_that_is_left_for_what_may_be_unique() {
        let narrow = ROOM.after(DeleteReason::Surplus, 90).unwrap();
        assert_eq!(narrow.of(DeleteReason::AbandonedUpload), ByteCount(10));
        // As a node that lies might say it.
        let odd = DeletionRoom { all: ByteCount(5), unique: ByteCount(9) };
        assert_eq!(odd.after(DeleteReason::AbandonedUpload, 6), None);
        assert_eq!(
            odd.after(DeleteReason::AbandonedUpload, 5),
            Some(DeletionRoom { unique: ByteCount(0), ..DeletionRoom::default() })
        );
    }
}
