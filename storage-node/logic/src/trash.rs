//! The way out: deletes are bounded per hour, and what was deleted lies in trash for a day.
//!
//! Always holds: a node never follows more delete orders than its hourly allowance, so whoever steals a
//! coordinator's key empties no fleet overnight; trash goes after 24 hours, or sooner, oldest first, when new
//! shards need its room.
//! Leaves to others: moving and removing files.

use std::time::Duration;

use firn_base::Timestamp;

/// How long trash is kept while there is room: a wrong order is noticed within a day.
pub const TRASH_KEPT: Duration = Duration::from_secs(24 * 3600);

/// Deletes that every node may follow in an hour, however few shards it holds: a small archive must be able to
/// move everything away from a node that leaves.
pub const DELETES_PER_HOUR_MIN: u64 = 1_000;

// Of a large node a tenth per hour: draining it takes longer than that anyway.
const DELETED_SHARE_PER_HOUR: u64 = 10;

const HOUR_MILLIS: u64 = 3_600_000;

/// One file in trash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrashEntry {
    /// When it was moved there, by the node's clock.
    pub since: Timestamp,
    /// Its size.
    pub bytes: u64,
}

/// Which entries of `trash`, given oldest first, are to be removed so that nothing is older than a day and at
/// least `needed` bytes become free: how many of the oldest.
pub fn trash_to_empty(trash: impl IntoIterator<Item = TrashEntry>, now: Timestamp, needed: u64) -> usize {
    let mut freed = 0_u64;
    trash
        .into_iter()
        .take_while(|entry| {
            let goes = freed < needed || now.since(entry.since) >= TRASH_KEPT;
            freed = freed.saturating_add(entry.bytes);
            goes
        })
        .count()
}

/// How many delete orders may still be followed.
#[derive(Debug, Clone)]
pub struct DeleteBudget {
    // Thousandths of a delete, so that an allowance of a few per hour still trickles in.
    left_thousandths: u64,
    refilled: Timestamp,
}

/// The hour's deletes are used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this node has deleted as much as it may within an hour: order the rest later")]
pub struct TooManyDeletes;

impl DeleteBudget {
    /// A full budget for a node that holds `shards` shards at `now`.
    pub fn new(shards: u64, now: Timestamp) -> Self {
        Self { left_thousandths: Self::allowance(shards).saturating_mul(1_000), refilled: now }
    }

    /// Uses up one delete of a node that holds `shards` shards at `now`.
    ///
    /// # Errors
    ///
    /// None is left.
    pub fn take(&mut self, shards: u64, now: Timestamp) -> Result<(), TooManyDeletes> {
        let full = Self::allowance(shards).saturating_mul(1_000);
        let passed = u64::try_from(now.since(self.refilled).as_millis()).unwrap_or(u64::MAX);
        let gained = full.saturating_mul(passed.min(HOUR_MILLIS)) / HOUR_MILLIS;
        // A clock that was set back starts the measurement anew without a gain. Gains below a thousandth are
        // left to grow.
        if gained > 0 || now < self.refilled {
            self.left_thousandths = self.left_thousandths.saturating_add(gained).min(full);
            self.refilled = now;
        }
        self.left_thousandths = self.left_thousandths.checked_sub(1_000).ok_or(TooManyDeletes)?;
        Ok(())
    }

    fn allowance(shards: u64) -> u64 {
        (shards / DELETED_SHARE_PER_HOUR).max(DELETES_PER_HOUR_MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn entry(hours_ago: u32, bytes: u64, now: Timestamp) -> TrashEntry {
        let millis = u64::try_from((HOUR * hours_ago).as_millis()).unwrap();
        TrashEntry { since: Timestamp::from_millis(now.as_millis() - millis), bytes }
    }

    #[test]
    fn trash_goes_after_a_day_or_when_room_is_needed_oldest_first() {
        let now = Timestamp::from_millis(1_000_000_000);
        let trash = [entry(30, 5, now), entry(24, 5, now), entry(3, 5, now), entry(1, 5, now)];
        assert_eq!(trash_to_empty(trash, now, 0), 2);
        assert_eq!(trash_to_empty(trash, now, 1), 2);
        assert_eq!(trash_to_empty(trash, now, 11), 3);
        assert_eq!(trash_to_empty(trash, now, 1_000), 4);
        assert_eq!(trash_to_empty([], now, 1_000), 0);
    }

    #[test]
    fn a_node_follows_no_more_deletes_than_its_allowance() {
        let start = Timestamp::from_millis(0);
        let mut budget = DeleteBudget::new(100, start);
        for _ in 0..DELETES_PER_HOUR_MIN {
            budget.take(100, start).unwrap();
        }
        assert_eq!(budget.take(100, start), Err(TooManyDeletes));
        let later = start.after(HOUR / 2);
        for _ in 0..DELETES_PER_HOUR_MIN / 2 {
            budget.take(100, later).unwrap();
        }
        assert_eq!(budget.take(100, later), Err(TooManyDeletes));
    }

    #[test]
    fn a_clock_that_jumps_ahead_gives_one_hour_at_most() {
        let mut budget = DeleteBudget::new(0, Timestamp::from_millis(0));
        let far = Timestamp::from_millis(u64::MAX);
        let followed = (0..3_000).filter(|_| budget.take(0, far).is_ok()).count();
        assert_eq!(followed, 1_000);
    }
}
