//! How much of the time a node is there.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The part of the time that a node was online, later times counting more: what lies 14 days back counts e times less
/// than today.
///
/// Uptime so far predicts uptime to come: of volunteers' nodes most of those that leave are young, and most of those
/// that sleep at night did so yesterday.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Availability(u32);

const ONE: u32 = 1_000_000_000;
const FORGOTTEN_AFTER: Duration = Duration::from_secs(14 * 86_400);

impl Availability {
    /// What is expected of a node that nobody has watched yet.
    pub const UNKNOWN: Self = Self(ONE / 2);

    /// A value in billionths; none beyond one.
    pub fn from_billionths(billionths: u32) -> Option<Self> {
        (billionths <= ONE).then_some(Self(billionths))
    }

    /// In billionths.
    pub const fn billionths(self) -> u32 {
        self.0
    }

    /// Between 0 and 1.
    pub fn fraction(self) -> f64 {
        f64::from(self.0) / f64::from(ONE)
    }

    /// In whole per cent.
    pub const fn per_cent(self) -> u32 {
        self.0 / (ONE / 100)
    }

    /// The value after a time of which the node was `online` for a part.
    #[must_use]
    pub fn after(self, passed: Duration, online: Duration) -> Self {
        if passed.is_zero() {
            return self;
        }
        let kept = (-passed.as_secs_f64() / FORGOTTEN_AFTER.as_secs_f64()).exp();
        let share = (online.as_secs_f64() / passed.as_secs_f64()).min(1.0);
        let next = self.fraction() * kept + share * (1.0 - kept);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0 and a billion"
        )]
        let billionths = (next.clamp(0.0, 1.0) * f64::from(ONE)).round() as u32;
        Self(billionths)
    }
}

impl fmt::Display for Availability {
    /// In per cent, with one decimal.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{} %", self.per_cent(), self.0 % (ONE / 100) / (ONE / 1000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTES: Duration = Duration::from_secs(600);
    const DAY: Duration = Duration::from_secs(86_400);

    fn after_days(mut availability: Availability, days: u32, online: Duration) -> Availability {
        for _ in 0..days * 144 {
            availability = availability.after(MINUTES, online);
        }
        availability
    }

    #[test]
    fn who_is_always_there_comes_near_to_one_and_who_leaves_is_forgotten_slowly() {
        let month = after_days(Availability::UNKNOWN, 30, MINUTES);
        assert_eq!(month.to_string(), "94.1 %");
        let year = after_days(month, 365, MINUTES);
        assert!(year.billionths() > 999_990_000, "{year}");
        let week_off = after_days(year, 7, Duration::ZERO);
        assert_eq!(week_off.per_cent(), 60);
        assert_eq!(after_days(year, 700, Duration::ZERO).per_cent(), 0);
    }

    #[test]
    fn a_part_of_the_time_is_a_part_of_one_however_it_is_cut() {
        let half = after_days(Availability::UNKNOWN, 200, MINUTES / 4);
        assert_eq!(half.per_cent(), 25);
        let (one, many) =
            (Availability::UNKNOWN.after(DAY, DAY), after_days(Availability::UNKNOWN, 1, MINUTES));
        assert!(one.billionths().abs_diff(many.billionths()) < 1_000, "{one:?} {many:?}");
    }

    #[test]
    fn odd_measurements_stay_within_bounds() {
        assert_eq!(Availability::UNKNOWN.after(Duration::ZERO, DAY), Availability::UNKNOWN);
        assert_eq!(Availability(ONE).after(MINUTES, DAY), Availability(ONE));
        assert_eq!(Availability::from_billionths(ONE + 1), None);
        assert_eq!(Availability(ONE).to_string(), "100.0 %");
    }
}
