//! The way out: how long trash is kept, and how much may be deleted in a day.
//!
//! Owns: which trash goes when, and the room that is left of the day's allowances. Always holds: nothing leaves trash
//! within a day, whatever needs its room; so what was deleted within a day is exactly the trash that is younger, and
//! the allowances need no record of their own that a restart or a lost file could forget. Allowances are reckoned in lengths of
//! files, as whoever orders reckons them: blocks of the node's disk are for the room that trash makes.
//! Leaves to others: moving and removing files; remembering refusals (`refusals`).
//!
//! The allowances bound what an erring coordinator, or whoever stole a coordinator's key, can do before somebody
//! notices: of what a node held a day ago, a fiftieth for what may be unique, a tenth altogether. "Held" is what it
//! stores and what it deleted within the day, so that the allowance does not shrink with every deletion, and from day
//! to day falls with what is left: a week of theft leaves half of a node. Shards that are brought raise it: whoever
//! can order shards to be stored can raise it to a tenth of the quota.
//!
//! Of a small node that may be less than one shard, and nothing would ever go. So it is never less than
//! [`DeletionLimits::floor_bytes`], which is room for a shard file of any size. A node that holds no more than that can
//! be emptied in a day by a stolen key. What it held then lies in trash for a day at least, and its owner can put it
//! back.

use std::time::Duration;

use firn_base::{ByteCount, Timestamp};
use firn_wire::{DeleteReason, DeletionRoom};

/// How long trash is kept while there is room: a wrong order is noticed within a week.
pub const TRASH_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// How long trash is kept at the least, whatever needs its room; also the time over which deletions are counted.
pub const TRASH_KEPT_LEAST: Duration = Duration::from_secs(24 * 3600);

/// How much a node deletes within [`TRASH_KEPT_LEAST`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeletionLimits {
    /// Hundredths of the bytes it holds, for whatever reason.
    pub all_percent: u64,
    /// Of these, hundredths of the bytes it holds that may be unique.
    pub unique_percent: u64,
    /// Bytes that it deletes in any case, however little it holds.
    pub floor_bytes: u64,
}

impl DeletionLimits {
    /// The limits of every node: 10 % altogether, 2 % of what may be unique, and 512 MiB in any case, which is a shard
    /// file of the largest size (256 MiB at k = 1, beside header and tree) and most of a second.
    pub const STANDARD: Self = Self { all_percent: 10, unique_percent: 2, floor_bytes: 512 << 20 };

    /// What a node that stores files of `stored_file_bytes` and has `young` in trash would still delete.
    pub fn room(&self, stored_file_bytes: u64, young: &YoungTrash) -> DeletionRoom {
        let held = stored_file_bytes.saturating_add(young.deleted_bytes);
        let left = |percent: u64, deleted: u64| {
            let share = u128::from(held) * u128::from(percent) / 100;
            let allowed = u64::try_from(share).unwrap_or(u64::MAX).max(self.floor_bytes);
            ByteCount(allowed.saturating_sub(deleted))
        };
        let all = left(self.all_percent, young.deleted_bytes);
        DeletionRoom { all, unique: left(self.unique_percent, young.unique_bytes).min(all) }
    }
}

/// One file in trash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrashEntry {
    /// When it was moved there, by the node's clock.
    pub since: Timestamp,
    /// Its length.
    pub file_bytes: u64,
    /// What it takes on the disk, in whole blocks.
    pub disk_bytes: u64,
    /// Why its deletion was ordered; none if it was found damaged and set aside.
    pub ordered: Option<DeleteReason>,
}

/// Trash that is younger than [`TRASH_KEPT_LEAST`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct YoungTrash {
    /// What all of it takes on the disk: it makes room for nothing yet.
    pub bytes: u64,
    /// The lengths of what of it was deleted by order.
    pub deleted_bytes: u64,
    /// Of these, what may be unique.
    pub unique_bytes: u64,
}

impl YoungTrash {
    /// Sums up what of `trash`, given youngest first, is young at `now`. What lies in the future is young.
    pub fn sum(trash: impl IntoIterator<Item = TrashEntry>, now: Timestamp) -> Self {
        let mut sum = Self::default();
        for entry in trash.into_iter().take_while(|entry| is_young(entry, now)) {
            sum.bytes = sum.bytes.saturating_add(entry.disk_bytes);
            if let Some(reason) = entry.ordered {
                sum.deleted_bytes = sum.deleted_bytes.saturating_add(entry.file_bytes);
                if reason.is_unique() {
                    sum.unique_bytes = sum.unique_bytes.saturating_add(entry.file_bytes);
                }
            }
        }
        sum
    }
}

/// How many of the oldest of `trash`, given oldest first, have lain there for [`TRASH_KEPT`].
pub fn expired_trash(trash: impl IntoIterator<Item = TrashEntry>, now: Timestamp) -> usize {
    trash.into_iter().take_while(|entry| now.since(entry.since) >= TRASH_KEPT).count()
}

/// How many of the oldest of `trash`, given oldest first, have to go for `needed` bytes of the disk to become free; none if what
/// may go is not enough, for then nothing need go at all.
pub fn trash_for_room(
    trash: impl IntoIterator<Item = TrashEntry>,
    now: Timestamp,
    needed: u64,
) -> Option<usize> {
    let (mut freed, mut count) = (0_u64, 0);
    let mut old = trash.into_iter().take_while(|entry| !is_young(entry, now));
    while freed < needed {
        freed = freed.saturating_add(old.next()?.disk_bytes);
        count += 1;
    }
    Some(count)
}

fn is_young(entry: &TrashEntry, now: Timestamp) -> bool {
    now.since(entry.since) < TRASH_KEPT_LEAST
}

/// An order goes beyond what the node deletes within a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "this node deletes a limited share of its bytes within a day: {} are left of it for this, {} are wanted: order it later",
    ByteCount(*left), ByteCount(*wanted)
)]
pub struct TooManyDeletes {
    /// Bytes that it would delete now for the same reason.
    pub left: u64,
    /// The length of the shard's file.
    pub wanted: u64,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);
    const NOW: Timestamp = Timestamp::from_millis(1_000_000_000_000);
    const MIB: u64 = 1 << 20;

    fn entry(hours_ago: u32, bytes: u64, ordered: Option<DeleteReason>) -> TrashEntry {
        let millis = u64::try_from((HOUR * hours_ago).as_millis()).unwrap();
        let since = Timestamp::from_millis(NOW.as_millis() - millis);
        TrashEntry { since, file_bytes: bytes, disk_bytes: bytes, ordered }
    }

    fn oldest_first() -> [TrashEntry; 5] {
        [170, 168, 30, 24, 23].map(|hours| entry(hours, 5, Some(DeleteReason::Surplus)))
    }

    #[test]
    fn trash_goes_after_a_week() {
        assert_eq!(expired_trash(oldest_first(), NOW), 2);
        assert_eq!(expired_trash([], NOW), 0);
    }

    #[test]
    fn when_room_is_needed_the_oldest_goes_first_and_nothing_within_a_day() {
        assert_eq!(trash_for_room(oldest_first(), NOW, 0), Some(0));
        assert_eq!(trash_for_room(oldest_first(), NOW, 1), Some(1));
        assert_eq!(trash_for_room(oldest_first(), NOW, 11), Some(3));
        assert_eq!(trash_for_room(oldest_first(), NOW, 20), Some(4));
        assert_eq!(trash_for_room(oldest_first(), NOW, 21), None);
        let future = TrashEntry { since: NOW.after(HOUR), ..entry(0, 5, None) };
        assert_eq!(trash_for_room([future], NOW, 1), None);
    }

    #[test]
    fn what_was_deleted_within_a_day_is_counted_by_what_it_may_cost() {
        let trash = [
            entry(0, 1, None),
            entry(1, 20, Some(DeleteReason::Surplus)),
            entry(2, 300, Some(DeleteReason::AbandonedUpload)),
            entry(23, 4_000, Some(DeleteReason::ReplacedCoding)),
            entry(24, 50_000, Some(DeleteReason::AbandonedUpload)),
        ];
        let young = YoungTrash { bytes: 4_321, deleted_bytes: 4_320, unique_bytes: 300 };
        assert_eq!(YoungTrash::sum(trash, NOW), young);
        // What the disk gives for it beyond its length is no deletion.
        let in_blocks = trash.map(|entry| TrashEntry { disk_bytes: 65_536, ..entry });
        assert_eq!(YoungTrash::sum(in_blocks, NOW), YoungTrash { bytes: 4 * 65_536, ..young });
        assert_eq!(trash_for_room(in_blocks.into_iter().rev(), NOW, 65_536), Some(1));
    }

    #[test]
    fn a_node_deletes_a_tenth_of_what_it_held_and_a_fiftieth_of_what_may_be_unique() {
        let limits = DeletionLimits { floor_bytes: 0, ..DeletionLimits::STANDARD };
        let room = |stored, young| limits.room(stored, &young);
        let nothing = room(1_000, YoungTrash::default());
        assert_eq!(nothing, DeletionRoom { all: ByteCount(100), unique: ByteCount(20) });
        // 1,000 were held a day ago, 60 are deleted, 15 of them unique.
        let some = room(940, YoungTrash { bytes: 99, deleted_bytes: 60, unique_bytes: 15 });
        assert_eq!(some, DeletionRoom { all: ByteCount(40), unique: ByteCount(5) });
        let most = room(905, YoungTrash { bytes: 95, deleted_bytes: 95, unique_bytes: 0 });
        assert_eq!(most, DeletionRoom { all: ByteCount(5), unique: ByteCount(5) });
        let beyond = room(0, YoungTrash { bytes: 95, deleted_bytes: 95, unique_bytes: 95 });
        assert_eq!(beyond, DeletionRoom::default());
    }

    #[test]
    fn a_small_node_deletes_at_least_one_shard_of_any_size() {
        let largest = firn_base::shard_bytes(256 * MIB, 1);
        let room = DeletionLimits::STANDARD.room(largest, &YoungTrash::default());
        // Header of 16 KiB at most, outboard tree of 1/256, trailer.
        let file_bytes = largest + largest / 256 + (64 << 10);
        assert!(room.after(DeleteReason::AbandonedUpload, file_bytes).is_some());
        let used_up = YoungTrash { bytes: 512 * MIB, deleted_bytes: 512 * MIB, unique_bytes: 0 };
        assert_eq!(DeletionLimits::STANDARD.room(0, &used_up), DeletionRoom::default());
    }

    proptest! {
        #[test]
        fn an_allowance_is_used_up_by_exactly_what_is_in_trash(
            files in proptest::collection::vec((1_u64..1_000, 0_usize..3), 1..60),
            floor_bytes in 0_u64..2_000,
        ) {
            let limits = DeletionLimits { floor_bytes, ..DeletionLimits::STANDARD };
            let held: u64 = files.iter().map(|(bytes, _)| bytes).sum();
            let (mut stored, mut trash) = (held, Vec::new());
            for (bytes, reason) in files {
                let reason = DeleteReason::ALL[reason];
                let room = limits.room(stored, &YoungTrash::sum(trash.iter().rev().copied(), NOW));
                if let Some(after) = room.after(reason, bytes) {
                    trash.push(entry(0, bytes, Some(reason)));
                    stored -= bytes;
                    let young = YoungTrash::sum(trash.iter().rev().copied(), NOW);
                    prop_assert_eq!(limits.room(stored, &young), after);
                }
            }
            let young = YoungTrash::sum(trash, NOW);
            prop_assert!(young.deleted_bytes <= (held / 10).max(floor_bytes));
            prop_assert!(young.unique_bytes <= (held / 50).max(floor_bytes));
        }
    }
}
