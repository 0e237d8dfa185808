//! The time of day in the simulated world.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use firn_base::Timestamp;
use firn_transport::Clock;

// 2025-06-15T15:06:40Z: any moment does, as long as it is always the same.
const BEGIN_MILLIS: u64 = 1_750_000_000_000;

/// A machine's clock: simulated, and a little wrong, as clocks are; or very, while somebody has put it off.
#[derive(Debug)]
pub(crate) struct SimulatedClock {
    ahead_millis: u64,
    put_off_millis: Arc<AtomicI64>,
    slept_millis: Arc<AtomicU64>,
}

impl SimulatedClock {
    /// A clock that is ahead of the world's by `ahead_millis`, and by `put_off_millis` at the moment, in a world that slept
    /// for `slept_millis` so far.
    pub(crate) const fn new(
        ahead_millis: u64,
        put_off_millis: Arc<AtomicI64>,
        slept_millis: Arc<AtomicU64>,
    ) -> Self {
        Self { ahead_millis, put_off_millis, slept_millis }
    }

    /// When the simulated world begins.
    pub(crate) const fn beginning() -> Timestamp {
        Timestamp::from_millis(BEGIN_MILLIS)
    }
}

impl Clock for SimulatedClock {
    fn now(&self) -> Timestamp {
        // Outside of a host, as while one is being ended, nobody acts on the time.
        let elapsed = turmoil::sim_elapsed().unwrap_or_default();
        let elapsed = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        let passed = [self.ahead_millis, self.slept_millis.load(Ordering::Relaxed), elapsed];
        let right = passed.into_iter().fold(BEGIN_MILLIS, u64::saturating_add);
        Timestamp::from_millis(right.saturating_add_signed(self.put_off_millis.load(Ordering::Relaxed)))
    }
}
