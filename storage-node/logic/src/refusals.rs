//! Delete orders that went too far: how many, and when to speak of them.
//!
//! Owns: the alarm. Always holds: it is up from the first refusal until a day has passed without another; however
//! often a node is asked, its log hears of it every ten minutes at most.
//! Leaves to others: refusing (`trash`), the log and the heartbeats (the shell).

use std::time::Duration;

use firn_base::Timestamp;

use crate::TRASH_KEPT_LEAST;

/// The alarm is repeated in the log no sooner than this: whoever tries again and again shall not fill a disk.
const TOLD_EVERY: Duration = Duration::from_secs(600);

/// Refusals since the alarm went up. A new run of the node begins without: whoever goes on is refused again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeletionRefusals {
    count: u64,
    last: Timestamp,
    told: Option<Timestamp>,
}

impl DeletionRefusals {
    /// Counts a refusal at `now`; gives the number to be logged, if it is time for that.
    pub fn add(&mut self, now: Timestamp) -> Option<u64> {
        if self.current(now) == 0 {
            *self = Self::default();
        }
        self.count = self.count.saturating_add(1);
        self.last = now;
        // A clock that was set back is no reason to be silent.
        if self.told.is_some_and(|told| told <= now && now.since(told) < TOLD_EVERY) {
            return None;
        }
        self.told = Some(now);
        Some(self.count)
    }

    /// Refusals of this alarm; 0 once a day has passed since the last.
    pub fn current(&self, now: Timestamp) -> u64 {
        if now.since(self.last) < TRASH_KEPT_LEAST { self.count } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000_000_000 + seconds * 1_000)
    }

    #[test]
    fn the_alarm_lasts_for_a_day_after_the_last_refusal_and_then_begins_anew() {
        let mut refusals = DeletionRefusals::default();
        assert_eq!(refusals.current(at(0)), 0);
        refusals.add(at(0));
        refusals.add(at(3_600));
        assert_eq!(refusals.current(at(3_600 + 86_399)), 2);
        assert_eq!(refusals.current(at(3_600 + 86_400)), 0);
        assert_eq!(refusals.add(at(200_000)), Some(1));
    }

    #[test]
    fn the_log_hears_of_the_first_refusal_and_then_every_ten_minutes() {
        let mut refusals = DeletionRefusals::default();
        assert_eq!(refusals.add(at(10)), Some(1));
        assert_eq!(refusals.add(at(11)), None);
        assert_eq!(refusals.add(at(609)), None);
        assert_eq!(refusals.add(at(610)), Some(4));
        assert_eq!(refusals.add(at(5)), Some(5));
    }
}
