//! How many requests one client may make: so many a second in the long run, and a store of them for when it comes.
//!
//! Always holds: over any time, no more are let through than the store and the rate allow. Times are parameters. Leaves to
//! others: whose budget it is (`clients`).

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A rate of requests, and the store that it fills.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RequestRate {
    /// For each request.
    interval_nanos: u64,
    store_nanos: u64,
}

// A client that builds a system from scratch asks for tens of thousands of paths at once, and then for none. What is not
// used in this time is what it may ask for at once.
const STORE_SECONDS: u64 = 60;
const NANOS: u64 = 1_000_000_000;

impl RequestRate {
    /// `per_second` requests in the long run.
    pub(super) fn new(per_second: NonZeroU32) -> Self {
        Self { interval_nanos: NANOS / u64::from(per_second.get()), store_nanos: STORE_SECONDS * NANOS }
    }
}

/// What one client has used.
#[derive(Debug, Default)]
pub(super) struct RequestBudget {
    /// When the store will be full again, in nanoseconds of the server's life. One number says all: time fills the store.
    full_at: AtomicU64,
}

impl RequestBudget {
    /// Takes one request at the time `now` of the server's life.
    ///
    /// # Errors
    ///
    /// There is none left: one will be there after the time given.
    pub(super) fn take(&self, now: Duration, rate: RequestRate) -> Result<(), Duration> {
        // In 584 years.
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let mut full_at = self.full_at.load(Ordering::Relaxed);
        loop {
            let after = full_at.max(now).saturating_add(rate.interval_nanos);
            let missing = (after - now).saturating_sub(rate.store_nanos);
            if missing > 0 {
                return Err(Duration::from_nanos(missing));
            }
            match self.full_at.compare_exchange_weak(full_at, after, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(other) => full_at = other,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(per_second: u32) -> RequestRate {
        RequestRate::new(NonZeroU32::new(per_second).unwrap())
    }

    #[test]
    fn the_store_is_there_at_once_and_the_rate_after_it() {
        let (budget, rate, begin) = (RequestBudget::default(), rate(100), Duration::from_secs(5));
        let at_once = (0..7000).filter(|_| budget.take(begin, rate).is_ok()).count();
        assert_eq!(at_once, 6000);
        assert_eq!(budget.take(begin, rate), Err(Duration::from_millis(10)));
        let later = begin + Duration::from_secs(3);
        assert_eq!((0..7000).filter(|_| budget.take(later, rate).is_ok()).count(), 300);
        let long_after = later + Duration::from_secs(1000);
        assert_eq!(
            (0..7000).filter(|_| budget.take(long_after, rate).is_ok()).count(),
            6000,
            "no more than the store"
        );
    }

    #[test]
    fn whoever_waits_as_long_as_told_is_let_through() {
        let (budget, rate) = (RequestBudget::default(), rate(7));
        let mut now = Duration::ZERO;
        for _ in 0..2000 {
            if let Err(wait) = budget.take(now, rate) {
                assert!(budget.take(now + wait - Duration::from_nanos(1), rate).is_err());
                now += wait;
                assert_eq!(budget.take(now, rate), Ok(()));
            }
        }
        // 2,000 requests, less the store of 420, at 7 a second.
        assert!(now.as_secs().abs_diff((2000 - 420) / 7) <= 1, "{now:?}");
    }
}
