//! Coordinators whose clocks are wrong.

use std::fmt;
use std::time::Duration;

use firn_base::NodeId;
use serde::{Deserialize, Serialize};

/// A coordinator whose clock is more than ten minutes from that of the others: it neither leads nor proposes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockDifference {
    /// Whose clock.
    pub coordinator: NodeId,
    /// By how many milliseconds it is ahead; negative if it is behind.
    pub ahead_millis: i64,
}

impl fmt::Display for ClockDifference {
    /// `365.0 days ahead of the others`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = Duration::from_millis(self.ahead_millis.unsigned_abs()).as_secs_f64();
        let (number, unit) = match seconds {
            ..7_200.0 => (seconds / 60.0, "minutes"),
            ..172_800.0 => (seconds / 3_600.0, "hours"),
            _ => (seconds / 86_400.0, "days"),
        };
        let side = if self.ahead_millis < 0 { "behind" } else { "ahead of" };
        write!(formatter, "{number:.1} {unit} {side} the others")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_told_in_a_unit_that_people_see_at_a_glance() {
        let told = |ahead_millis| {
            ClockDifference { coordinator: NodeId::from_bytes([1; 32]), ahead_millis }.to_string()
        };
        assert_eq!(told(660_000), "11.0 minutes ahead of the others");
        assert_eq!(told(-9_000_000), "2.5 hours behind the others");
        assert_eq!(told(31_536_000_000), "365.0 days ahead of the others");
        assert_eq!(told(i64::MIN), "106751991167.3 days behind the others");
    }
}
