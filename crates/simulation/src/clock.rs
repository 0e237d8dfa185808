//! The time of day in the simulated world.

use firn_base::Timestamp;
use firn_transport::Clock;

// 2025-06-15T15:06:40Z: any moment does, as long as it is always the same.
const BEGIN_MILLIS: u64 = 1_750_000_000_000;

/// A machine's clock: simulated, and a little wrong, as clocks are.
#[derive(Debug)]
pub(crate) struct SimulatedClock {
    ahead_millis: u64,
}

impl SimulatedClock {
    /// A clock that is ahead of the world's by `ahead_millis`.
    pub(crate) const fn new(ahead_millis: u64) -> Self {
        Self { ahead_millis }
    }
}

impl Clock for SimulatedClock {
    fn now(&self) -> Timestamp {
        // Outside of a host, as while one is being ended, nobody acts on the time.
        let elapsed = turmoil::sim_elapsed().unwrap_or_default();
        let elapsed = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        Timestamp::from_millis(BEGIN_MILLIS.saturating_add(self.ahead_millis).saturating_add(elapsed))
    }
}
