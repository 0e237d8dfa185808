//! The width that a fleet has kept for a while: what bundles are re-coded for.
//!
//! Owns: the memory of how narrow the fleet was. Always holds: a wider fleet counts only once it was as wide all the
//! time asked for, a narrower one at once: to code a bundle anew costs several times its bytes in traffic, so a fleet
//! that flaps shall not bring it about. Leaves to others: the scheme of new bundles (`width`), which follows at once.

use std::collections::VecDeque;
use std::time::Duration;

use firn_base::Timestamp;

/// The least width of a period that has just ended.
#[derive(Debug, Clone)]
pub struct SteadyWidth {
    hold: Duration,
    begun: Option<Timestamp>,
    // Increasing widths with the time each was last seen: the first is the least of the period.
    seen: VecDeque<(Timestamp, usize)>,
}

impl SteadyWidth {
    /// Nothing seen yet; a width counts once it was held for `hold`.
    pub const fn new(hold: Duration) -> Self {
        Self { hold, begun: None, seen: VecDeque::new() }
    }

    /// Forgets everything: what a leader before saw is not known to a new one.
    pub fn restart(&mut self) {
        *self = Self::new(self.hold);
    }

    /// Notes the width at `now`; times must not go back.
    pub fn observe(&mut self, width: usize, now: Timestamp) {
        self.begun.get_or_insert(now);
        while self.seen.back().is_some_and(|(_, wider)| *wider >= width) {
            self.seen.pop_back();
        }
        self.seen.push_back((now, width));
        while self.seen.front().is_some_and(|(time, _)| now.since(*time) > self.hold) {
            self.seen.pop_front();
        }
    }

    /// The width that was never fallen short of within the period; 0 before a whole period was seen.
    pub fn least(&self, now: Timestamp) -> usize {
        let is_whole = self.begun.is_some_and(|begun| now.since(begun) >= self.hold);
        self.seen.front().filter(|_| is_whole).map_or(0, |(_, width)| *width)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minutes: u64) -> Timestamp {
        Timestamp::from_millis(minutes * 60_000)
    }

    #[test]
    fn a_wider_fleet_counts_once_it_has_held_and_a_narrower_one_at_once() {
        let mut steady = SteadyWidth::new(Duration::from_secs(600));
        for minute in 0..10 {
            steady.observe(6, at(minute));
            assert_eq!(steady.least(at(minute)), 0, "no whole period was seen");
        }
        steady.observe(24, at(10));
        assert_eq!(steady.least(at(10)), 6);
        for minute in 11..=19 {
            steady.observe(24, at(minute));
            assert_eq!(steady.least(at(minute)), 6);
        }
        steady.observe(24, at(20));
        assert_eq!(steady.least(at(20)), 24);
        steady.observe(23, at(21));
        assert_eq!(steady.least(at(21)), 23);
        steady.restart();
        assert_eq!(steady.least(at(40)), 0);
    }

    #[test]
    fn a_fleet_that_flaps_never_counts_as_wide() {
        let mut steady = SteadyWidth::new(Duration::from_secs(600));
        for minute in 0..100 {
            steady.observe(if minute % 9 == 0 { 23 } else { 24 }, at(minute));
            assert!(steady.least(at(minute)) < 24);
        }
    }
}
