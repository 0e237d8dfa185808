//! How slowly a body may come.
//!
//! Always holds: only time spent waiting for the server counts, not that of whoever reads.
//! Leaves to others: measuring (the client library).

use std::time::Duration;

/// So many bytes must come in each stretch of waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateFloor {
    bytes: u64,
    per: Duration,
    came: u64,
    waited: Duration,
}

impl RateFloor {
    /// At least `bytes` in each `per` of waiting.
    pub const fn new(bytes: u64, per: Duration) -> Self {
        Self { bytes, per, came: 0, waited: Duration::ZERO }
    }

    /// The whole body within `per` of waiting.
    pub const fn whole(per: Duration) -> Self {
        Self::new(u64::MAX, per)
    }

    /// After `waited` more, `bytes` more came; false if that is too slow.
    pub fn holds(&mut self, waited: Duration, bytes: u64) -> bool {
        self.waited = self.waited.saturating_add(waited);
        self.came = self.came.saturating_add(bytes);
        if self.waited < self.per {
            return true;
        }
        let enough = self.came >= self.bytes;
        (self.came, self.waited) = (0, Duration::ZERO);
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_byte_each_59_seconds_is_too_slow_and_a_slow_line_is_not() {
        let mut floor = RateFloor::new(65_536, MINUTE);
        assert!(floor.holds(Duration::from_secs(59), 1));
        assert!(!floor.holds(Duration::from_secs(59), 1));
        let mut floor = RateFloor::new(65_536, MINUTE);
        // 2 KiB a second.
        assert!((0..1000).all(|_| floor.holds(Duration::from_secs(1), 2048)));
    }

    #[test]
    fn what_came_at_first_does_not_count_for_ever() {
        let mut floor = RateFloor::new(65_536, MINUTE);
        assert!(floor.holds(MINUTE, 1 << 30));
        assert!(!floor.holds(MINUTE, 100));
    }

    #[test]
    fn a_whole_body_has_one_stretch() {
        let mut floor = RateFloor::whole(MINUTE);
        assert!(floor.holds(Duration::from_secs(59), 1 << 20));
        assert!(!floor.holds(Duration::from_secs(1), 1 << 20));
    }
}
