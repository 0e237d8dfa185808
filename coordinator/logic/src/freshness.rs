//! How fresh a coordinator's state is: the last moment of which it knows that it has all that was committed by then.
//!
//! Always holds: who has heard nobody yet is never fresh; the moment never goes back; silence makes it older, whatever
//! the reason: a leader that hears no majority, a follower that hears no leader, either of them with a disk that hangs.
//! Leaves to others: who is heard, and the steady clock (the shell).

use std::time::Duration;

/// What a coordinator knows of its own freshness. Moments are times of a steady clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Freshness {
    began: Duration,
    fresh_at: Option<Duration>,
    applied: u64,
    awaited: Option<Heard>,
}

/// By this moment no entry behind this one was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Heard {
    entry: u64,
    at: Duration,
}

impl Freshness {
    /// Of a coordinator that begins at `now` and has heard nobody.
    pub const fn new(now: Duration) -> Self {
        Self { began: now, fresh_at: None, applied: 0, awaited: None }
    }

    /// By the moment `at` nothing behind `entry` was committed: so a majority showed, or a leader said that has committed in
    /// its own term (before that it does not know).
    pub fn hear(&mut self, entry: u64, at: Duration) {
        // One that is further behind is sooner applied: with the newest, a coordinator under load would never be fresh.
        if self.awaited.is_none_or(|awaited| entry <= awaited.entry) {
            self.awaited = Some(Heard { entry, at });
        }
        self.settle();
    }

    /// Entries up to this one are applied.
    pub fn apply(&mut self, applied: u64) {
        self.applied = self.applied.max(applied);
        self.settle();
    }

    /// For how long it has not been known whether something newer was committed; of a coordinator that has heard nobody, for
    /// how long at least.
    pub fn age(&self, now: Duration) -> Duration {
        now.saturating_sub(self.fresh_at.unwrap_or(self.began))
    }

    /// The age of a coordinator that has heard nobody, or not within `limit`.
    pub fn stale(&self, now: Duration, limit: Duration) -> Option<Duration> {
        let age = self.age(now);
        (self.fresh_at.is_none() || age > limit).then_some(age)
    }

    fn settle(&mut self) {
        if let Some(heard) = self.awaited.take_if(|heard| heard.entry <= self.applied) {
            self.fresh_at = self.fresh_at.max(Some(heard.at));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_coordinator_that_hears_nobody_grows_old() {
        let mut freshness = Freshness::new(at(10));
        assert_eq!(freshness.age(at(15)), at(5));
        assert_eq!(freshness.stale(at(10), at(2)), Some(at(0)), "it may have been away for a year");
        freshness.apply(8);
        freshness.hear(8, at(20));
        assert_eq!((freshness.age(at(20)), freshness.age(at(90))), (at(0), at(70)));
        assert_eq!((freshness.stale(at(22), at(2)), freshness.stale(at(23), at(2))), (None, Some(at(3))));
        // Entries that it applies do not make it fresh: nobody says that they are all.
        freshness.apply(9);
        assert_eq!(freshness.age(at(90)), at(70));
    }

    #[test]
    fn one_that_lags_is_as_fresh_as_what_it_has_applied() {
        let mut freshness = Freshness::new(at(0));
        freshness.hear(100, at(10));
        freshness.apply(99);
        assert_eq!(freshness.age(at(12)), at(12));
        // The newest word is not waited for: under load there is always a newer one.
        freshness.hear(200, at(11));
        freshness.apply(100);
        assert_eq!(freshness.age(at(12)), at(2));
        freshness.hear(200, at(13));
        freshness.apply(200);
        assert_eq!(freshness.age(at(13)), at(0));
    }

    #[test]
    fn what_another_leader_discards_is_not_waited_for() {
        let mut freshness = Freshness::new(at(0));
        freshness.apply(50);
        // The end of the own log, which nobody else had.
        freshness.hear(70, at(1));
        assert_eq!(freshness.age(at(5)), at(5));
        freshness.hear(50, at(5));
        assert_eq!(freshness.age(at(5)), at(0));
    }

    #[test]
    fn the_moment_never_goes_back() {
        let mut freshness = Freshness::new(at(0));
        freshness.hear(0, at(9));
        freshness.hear(0, at(4));
        assert_eq!(freshness.age(at(9)), at(0));
    }
}
