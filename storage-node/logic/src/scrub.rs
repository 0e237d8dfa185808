//! When a node reads its own shards again.
//!
//! Owns: how far a round over all shards is to have come at any time. Always holds: in a round every shard is read once
//! that was here when it began, and what is to be read follows from the time alone, whatever comes and goes meanwhile.
//! Leaves to others: reading, and how fast.
//!
//! Shards are read in the order of their names, which are hashes: where a share of the time has passed, names up to the
//! same share of all that there can be are due. What is due is due for a whole window at once, at its beginning, so that a
//! disk that nobody reads from may rest in between.

use std::time::Duration;

use firn_base::{CodingId, Timestamp};

const DAY: Duration = Duration::from_secs(86_400);

/// How often every shard is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScrubPlan {
    /// How long a round takes.
    pub period: Duration,
    /// In how many windows of a day shards are read; at least one.
    pub windows_per_day: u32,
}

/// Names up to which shards are due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ScrubGoal(u64);

impl ScrubPlan {
    /// Every shard within 30 days, in four windows a day.
    pub const STANDARD: Self = Self { period: Duration::from_secs(30 * 86_400), windows_per_day: 4 };

    /// How far a round that began at `began` is to have come at the end of the window in which `now` lies. Windows are counted
    /// from midnight UTC, as those of moves are ([`firn_base::DiskWindows`]): one that wakes a disk does for both.
    pub fn goal(&self, began: Timestamp, now: Timestamp) -> ScrubGoal {
        let windows = self.number(now).saturating_sub(self.number(began)) + 1;
        let due = windows.saturating_mul(self.window().as_millis());
        let period = self.period.as_millis().max(1);
        if due >= period {
            return ScrubGoal(u64::MAX);
        }
        // Below the whole, so that it fits.
        ScrubGoal(u64::try_from((due << 64) / period).unwrap_or(u64::MAX))
    }

    /// How long it is from `now` to the next window.
    pub fn next_window(&self, now: Timestamp) -> Duration {
        let window = self.window().as_millis().max(1);
        let rest = window - u128::from(now.as_millis()) % window;
        Duration::from_millis(u64::try_from(rest).unwrap_or(u64::MAX))
    }

    /// When the round after one that began at `began` begins, if all was read at `now`: with the window in which a period
    /// ends; or at once, where that has begun.
    pub fn next_round(&self, began: Timestamp, now: Timestamp) -> Timestamp {
        let due = began.after(self.period).as_millis();
        let into = u128::from(due) % self.window().as_millis().max(1);
        // Less than a window, which is at most a day.
        let begin = due.saturating_sub(u64::try_from(into).unwrap_or(0));
        Timestamp::from_millis(begin).max(now)
    }

    /// The number of the window in which `time` lies.
    fn number(&self, time: Timestamp) -> u128 {
        u128::from(time.as_millis()) / self.window().as_millis().max(1)
    }

    fn window(&self) -> Duration {
        DAY / self.windows_per_day.max(1)
    }
}

impl ScrubGoal {
    /// Whether shards of this coding are due.
    pub fn includes(self, coding: CodingId) -> bool {
        let (first, _) = coding.as_bytes().split_first_chunk().expect("an id has 32 bytes");
        u64::from_be_bytes(*first) <= self.0
    }

    /// Whether every shard is due.
    pub const fn is_all(self) -> bool {
        self.0 == u64::MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: ScrubPlan = ScrubPlan::STANDARD;
    // The beginning of a window.
    const BEGAN: Timestamp = Timestamp::from_millis(46_297 * 6 * 3_600_000);

    fn coding(first: u8) -> CodingId {
        let mut id = [0; 32];
        id[0] = first;
        CodingId::from_bytes(id)
    }

    fn after_hours(hours: u64) -> Timestamp {
        BEGAN.after(Duration::from_secs(hours * 3600))
    }

    #[test]
    fn after_half_of_the_time_half_of_all_names_are_due() {
        let half = PLAN.goal(BEGAN, after_hours(15 * 24 - 1));
        assert!(half.includes(coding(0x7f)) && !half.includes(coding(0x81)));
    }

    #[test]
    fn what_is_due_is_due_at_the_beginning_of_a_window() {
        for window in 0..120 {
            let (first, last) = (after_hours(window * 6), after_hours(window * 6 + 5));
            assert_eq!(PLAN.goal(BEGAN, first), PLAN.goal(BEGAN, last));
            assert!(PLAN.goal(BEGAN, first) > PLAN.goal(BEGAN, BEGAN) || window == 0);
            assert_eq!(PLAN.next_window(last), Duration::from_secs(3600));
            assert_eq!(
                PLAN.goal(BEGAN, first).is_all(),
                window == 119,
                "all, in the last window and not before"
            );
        }
    }

    #[test]
    fn after_the_period_everything_is_due_and_the_next_round_begins() {
        assert!(PLAN.goal(BEGAN, after_hours(10_000)).includes(coding(0xff)));
        assert_eq!(PLAN.next_round(BEGAN, after_hours(719)), after_hours(720));
        assert_eq!(PLAN.next_round(BEGAN, after_hours(1000)), after_hours(1000));
    }

    #[test]
    fn a_clock_that_was_set_back_and_odd_plans_are_survived() {
        let before = Timestamp::from_millis(5);
        assert_eq!(PLAN.goal(BEGAN, before), PLAN.goal(BEGAN, BEGAN));
        let odd = ScrubPlan { period: Duration::ZERO, windows_per_day: 0 };
        assert!(odd.goal(BEGAN, BEGAN).is_all());
        assert!(odd.next_window(BEGAN) > Duration::ZERO);
    }

    #[test]
    fn a_round_that_began_within_a_window_goes_on_and_ends_with_the_windows_of_the_day() {
        let began = BEGAN.after(Duration::from_secs(5 * 3600));
        // The first window is nearly over: what is due then is due then.
        assert_eq!(PLAN.goal(began, began), PLAN.goal(BEGAN, BEGAN));
        assert!(PLAN.goal(began, after_hours(6)) > PLAN.goal(began, began));
        assert!(PLAN.goal(began, after_hours(119 * 6)).is_all());
        let next = PLAN.next_round(began, after_hours(119 * 6));
        assert_eq!(next, after_hours(120 * 6), "at the beginning of a window, and not later than a period");
        assert_eq!(PLAN.next_round(began, after_hours(120 * 6 + 1)), after_hours(120 * 6 + 1));
    }
}
