//! What a disk has for a node that is not alone on it: others write there too.
//!
//! Always holds: a node takes no shard that would leave the disk less than it keeps free for what must be written all the same:
//! its ledger, the count of its traffic, what was told to its owner; and what it takes at a time has its room one beside the other.
//! Leaves to others: looking at the disk (the node), the quota (`quota`), what the owner is told (`concern`).

use firn_base::ByteCount;

/// Of a large quota the node keeps so much of the disk free.
const RESERVE_BYTES_MOST: u64 = 1 << 30;

/// Of a small quota it keeps one part of so many.
const RESERVE_PART: u64 = 20;

/// What the largest shard takes, one of a bundle that is in one piece: with less left some are refused.
const SHARD_BYTES_MOST: u64 = 257 << 20;

/// What the disk has free, what trash of the node may make free, and what the node leaves of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskRoom {
    free_bytes: u64,
    // Old enough to go for a shard.
    old_trash_bytes: u64,
    reserve_bytes: u64,
    // Set aside for files that are being written. What of them is on the disk already is taken off what it has free, too: how much
    // that is the disk knows only once it has written it out.
    pending_bytes: u64,
}

/// The disk has no room, whatever the quota says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the node's disk has {} free, of which it leaves {} alone, and {} are needed: choose another node, or make room on its disk",
    ByteCount(*free_bytes), ByteCount(*reserve_bytes), ByteCount(*wanted_bytes)
)]
pub struct DiskFilled {
    /// What was asked for.
    pub wanted_bytes: u64,
    /// What the disk has free.
    pub free_bytes: u64,
    /// What of that the node leaves alone, or has set aside for what is being written.
    pub reserve_bytes: u64,
}

impl DiskRoom {
    /// The room of a node with a quota of `quota` on a disk that has `free` left, and of whose trash `old_trash` may make room.
    pub const fn new(free: ByteCount, old_trash: ByteCount, quota: ByteCount) -> Self {
        let part = quota.0 / RESERVE_PART;
        let reserve_bytes = if part < RESERVE_BYTES_MOST { part } else { RESERVE_BYTES_MOST };
        Self { free_bytes: free.0, old_trash_bytes: old_trash.0, reserve_bytes, pending_bytes: 0 }
    }

    /// The same beside files that are being written, for which so much is set aside.
    pub const fn beside(self, pending: ByteCount) -> Self {
        Self { pending_bytes: pending.0, ..self }
    }

    /// What the disk has free.
    pub const fn free(self) -> ByteCount {
        ByteCount(self.free_bytes)
    }

    /// Bytes that shards may still have, once trash has gone for them, beside what is being written.
    const fn left_bytes(self) -> u64 {
        self.left_in_the_end().saturating_sub(self.pending_bytes)
    }

    /// The same where nothing is being written.
    const fn left_in_the_end(self) -> u64 {
        self.free_bytes.saturating_add(self.old_trash_bytes).saturating_sub(self.reserve_bytes)
    }

    /// Bytes of trash that have to go before a file of `bytes` is written.
    pub const fn missing_bytes(self, bytes: u64) -> u64 {
        let taken = self.reserve_bytes.saturating_add(self.pending_bytes);
        bytes.saturating_add(taken).saturating_sub(self.free_bytes)
    }

    /// Whether a file of `bytes` may be written.
    ///
    /// # Errors
    ///
    /// It would leave less than what is kept free.
    pub const fn check(self, bytes: u64) -> Result<(), DiskFilled> {
        if bytes <= self.left_bytes() {
            return Ok(());
        }
        let Self { free_bytes, reserve_bytes, pending_bytes, .. } = self;
        let reserve_bytes = reserve_bytes.saturating_add(pending_bytes);
        Err(DiskFilled { wanted_bytes: bytes, free_bytes, reserve_bytes })
    }

    /// Bytes of `quota` that no new shard can have: those that the account says, or more where the disk has less for the rest.
    pub const fn unavailable(self, quota: ByteCount, by_account: ByteCount) -> ByteCount {
        let by_disk = quota.0.saturating_sub(self.left_bytes());
        if by_disk > by_account.0 { ByteCount(by_disk) } else { by_account }
    }

    /// Whether the disk is so full that shards are refused for which `quota` has room, of which the account says that so much cannot
    /// be had.
    pub const fn is_filled(self, quota: ByteCount, by_account: ByteCount) -> bool {
        let left = self.left_in_the_end();
        // The node itself stops before nothing is left.
        let is_eaten = self.free_bytes.saturating_add(self.old_trash_bytes) < self.reserve_bytes;
        is_eaten || (left < SHARD_BYTES_MOST && left < quota.0.saturating_sub(by_account.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GB: u64 = 1_000_000_000;
    const QUOTA: ByteCount = ByteCount(50 * GB);

    fn room(free_bytes: u64) -> DiskRoom {
        DiskRoom::new(ByteCount(free_bytes), ByteCount(0), QUOTA)
    }

    #[test]
    fn what_must_be_written_all_the_same_has_its_room_before_a_shard_has() {
        assert_eq!(room(RESERVE_BYTES_MOST + 10).check(10), Ok(()));
        let refused = room(RESERVE_BYTES_MOST + 10).check(11).unwrap_err();
        assert_eq!((refused.wanted_bytes, refused.free_bytes), (11, RESERVE_BYTES_MOST + 10));
        assert_eq!(room(0).check(1).unwrap_err().reserve_bytes, RESERVE_BYTES_MOST);
        let small = DiskRoom::new(ByteCount(60), ByteCount(0), ByteCount(1_000));
        assert_eq!((small.check(10), small.check(11).is_err()), (Ok(()), true));
    }

    #[test]
    fn old_trash_goes_before_a_shard_is_refused_for_the_disk() {
        let room = DiskRoom::new(ByteCount(RESERVE_BYTES_MOST + 10), ByteCount(30), QUOTA);
        assert_eq!([10, 11, 40].map(|bytes| room.missing_bytes(bytes)), [0, 1, 30]);
        assert_eq!((room.check(40), room.check(41).is_err()), (Ok(()), true));
        assert_eq!(room.unavailable(QUOTA, ByteCount(0)), ByteCount(QUOTA.0 - 40));
        let eaten = DiskRoom::new(ByteCount(RESERVE_BYTES_MOST - 10), ByteCount(30), QUOTA);
        assert_eq!(
            eaten.missing_bytes(20),
            30,
            "what is kept free is free again before a shard has anything"
        );
    }

    #[test]
    fn shards_that_are_written_at_a_time_do_not_share_what_the_disk_has_free() {
        let left = 300;
        let alone = DiskRoom::new(ByteCount(RESERVE_BYTES_MOST + left), ByteCount(20), QUOTA);
        let busy = alone.beside(ByteCount(256));
        assert_eq!((alone.check(left), busy.check(64), busy.check(65).is_err()), (Ok(()), Ok(()), true));
        assert_eq!([44, 45, 64].map(|bytes| busy.missing_bytes(bytes)), [0, 1, 20]);
        assert_eq!(busy.unavailable(QUOTA, ByteCount(0)), ByteCount(QUOTA.0 - 64));
        // That is over in a moment: the owner hears of what lasts.
        let beside = room(RESERVE_BYTES_MOST + SHARD_BYTES_MOST).beside(ByteCount(100));
        assert!(!beside.is_filled(QUOTA, ByteCount(0)));
    }

    #[test]
    fn coordinators_are_told_of_no_more_room_than_quota_and_disk_both_have() {
        let used = ByteCount(10 * GB);
        assert_eq!(room(u64::MAX / 2).unavailable(QUOTA, used), used);
        assert_eq!(room(RESERVE_BYTES_MOST + 40 * GB).unavailable(QUOTA, used), used);
        assert_eq!(room(RESERVE_BYTES_MOST + 3 * GB).unavailable(QUOTA, used), ByteCount(47 * GB));
        assert_eq!(room(5).unavailable(QUOTA, used), QUOTA);
        // A quota that was made smaller than what is there.
        assert_eq!(room(5).unavailable(QUOTA, ByteCount(60 * GB)), ByteCount(60 * GB));
    }

    #[test]
    fn a_node_that_has_filled_its_quota_itself_says_nothing_of_others() {
        let full = QUOTA;
        assert!(!room(RESERVE_BYTES_MOST).is_filled(QUOTA, full));
        assert!(!room(RESERVE_BYTES_MOST + SHARD_BYTES_MOST).is_filled(QUOTA, ByteCount(0)));
        assert!(room(RESERVE_BYTES_MOST + SHARD_BYTES_MOST - 1).is_filled(QUOTA, ByteCount(0)));
        // What is kept free is not taken by the node.
        assert!(room(RESERVE_BYTES_MOST - 1).is_filled(QUOTA, full));
    }
}
