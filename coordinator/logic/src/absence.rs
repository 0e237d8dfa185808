//! How long a node may be away without being counted lost, by its owner's declaration.
//!
//! A node that is away for longer than the policy allows counts as lost, and what it held is made anew. An owner who
//! knows beforehand says so, and is waited for: 14 days at a time at most. Always holds: whatever is declared, ended
//! and declared again, a node is waited for so for no more than 28 days of any 365: it has 14 days, which come back
//! evenly within a year. What was declared and has not passed is given back when the declaration is ended or made anew;
//! what has passed is not, whether the node was away or not.
//! Leaves to others: what counts meanwhile (`fleet`, `apply`), asking (the shell).

use std::time::Duration;

use firn_base::Timestamp;

const DAY_MILLIS: u64 = 86_400_000;

/// How long an absence lasts at most, and what a node has that has declared none for a year.
pub const ABSENCE_MOST: Duration = Duration::from_secs(14 * 86_400);

const MOST_MILLIS: u64 = 14 * DAY_MILLIS;
const YEAR_MILLIS: u64 = 365 * DAY_MILLIS;

/// What a node has declared of late.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Absence {
    /// Until when it may be away. The first moment of time if it never declared anything.
    pub until: Timestamp,
    /// What was declared, in milliseconds, less what came back since, as of `as_of`.
    pub spent_millis: u64,
    /// When that was so.
    pub as_of: Timestamp,
}

/// Why an absence was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AbsenceRefused {
    /// Too long at a time.
    #[error("an absence lasts 14 days at most: let a node that is away for longer `leave`")]
    TooLong,
    /// It has been away too often.
    #[error(
        "this node may still be away for {} of the 14 days that come back within a year: declare less, or let it `leave`", Hours(.left)
    )]
    Spent {
        /// For how long it may.
        left: Duration,
    },
}

impl Absence {
    /// Whether anything was ever declared.
    pub fn is_declared(&self) -> bool {
        *self != Self::default()
    }

    /// Until when the node may be away; none if it may not at `now`.
    pub fn in_force(&self, now: Timestamp) -> Option<Timestamp> {
        (self.until > now).then_some(self.until)
    }

    /// For how long an absence could be declared at `now`, from then on.
    pub fn left(&self, now: Timestamp) -> Duration {
        Duration::from_millis(MOST_MILLIS.saturating_sub(self.spent_but_for_what_is_to_come(now)))
    }

    /// For how long it could be declared beyond what is declared already.
    pub fn left_beyond(&self, now: Timestamp) -> Duration {
        self.left(now).saturating_sub(self.until.since(now))
    }

    /// What stands after the node declares at `now` that it may be away until then.
    ///
    /// # Errors
    ///
    /// That is too long.
    pub fn declare(&self, until: Timestamp, now: Timestamp) -> Result<Self, AbsenceRefused> {
        let wanted = until.since(now);
        if wanted > ABSENCE_MOST {
            return Err(AbsenceRefused::TooLong);
        }
        let left = self.left(now);
        if wanted > left {
            return Err(AbsenceRefused::Spent { left });
        }
        let wanted_millis = u64::try_from(wanted.as_millis()).unwrap_or(u64::MAX);
        let spent_millis = self.spent_but_for_what_is_to_come(now).saturating_add(wanted_millis);
        Ok(Self { until: until.max(now), spent_millis, as_of: now })
    }

    /// What is spent if the absence that is in force at `now` were ended.
    fn spent_but_for_what_is_to_come(&self, now: Timestamp) -> u64 {
        let passed = u128::from(now.as_millis().saturating_sub(self.as_of.as_millis()));
        let back =
            u64::try_from(passed * u128::from(MOST_MILLIS) / u128::from(YEAR_MILLIS)).unwrap_or(u64::MAX);
        let to_come = self.until.as_millis().saturating_sub(now.as_millis());
        self.spent_millis.saturating_sub(back).saturating_sub(to_come)
    }
}

/// A time in days and hours.
struct Hours<'a>(&'a Duration);

impl std::fmt::Display for Hours<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let hours = self.0.as_secs() / 3600;
        write!(formatter, "{} d {} h", hours / 24, hours % 24)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BEGIN: u64 = 1_795_383_909_000;

    fn day(day: u64) -> Timestamp {
        Timestamp::from_millis(BEGIN + day * DAY_MILLIS)
    }

    fn days(days: u64) -> Duration {
        Duration::from_millis(days * DAY_MILLIS)
    }

    #[test]
    fn fourteen_days_may_be_declared_at_once_and_come_back_within_a_year() {
        let none = Absence::default();
        assert_eq!((none.left(day(0)), none.in_force(day(0)), none.is_declared()), (days(14), None, false));
        assert_eq!(none.declare(day(15), day(0)), Err(AbsenceRefused::TooLong));
        let away = none.declare(day(14), day(0)).unwrap();
        assert_eq!((away.in_force(day(13)), away.in_force(day(14))), (Some(day(14)), None));
        assert_eq!((away.left(day(0)), away.left_beyond(day(0))), (days(14), days(0)));
        let refused = away.declare(day(24), day(14)).unwrap_err();
        assert!(matches!(refused, AbsenceRefused::Spent { left } if left < days(1)), "{refused}");
        assert!(refused.to_string().contains("away for 0 d 12 h of the 14 days"), "{refused}");
        // A bit more than half a year later half of it is back.
        assert!(away.declare(day(14 + 183 + 7), day(14 + 183)).is_ok());
        assert_eq!(away.declare(day(365 + 14), day(365)).unwrap().until, day(365 + 14));
    }

    #[test]
    fn who_is_back_early_has_the_rest_back() {
        let away = Absence::default().declare(day(10), day(0)).unwrap();
        let back = away.declare(day(0), day(3)).unwrap();
        assert_eq!(back.in_force(day(3)), None);
        assert!(back.left(day(3)) >= days(11), "{:?}", back.left(day(3)));
        // Longer than said first costs what is added.
        let longer = away.declare(day(14), day(3)).unwrap();
        assert_eq!(longer.in_force(day(13)), Some(day(14)));
    }

    proptest! {
        #[test]
        fn no_declarations_make_a_node_waited_for_on_more_than_28_days_of_a_year(
            // After how many hours what length in hours is declared.
            acts in prop::collection::vec((0u64..800, 0u64..400), 1..200),
        ) {
            let hour = 3_600_000;
            let (mut absence, mut now) = (Absence::default(), BEGIN);
            // Times in which it was waited for.
            let mut waited: Vec<(u64, u64)> = Vec::new();
            for (pause, length) in acts {
                let ended = absence.until.as_millis().min(now + pause * hour);
                if ended > now {
                    waited.push((now, ended));
                }
                now += pause * hour;
                let at = Timestamp::from_millis(now);
                if let Ok(declared) = absence.declare(Timestamp::from_millis(now + length * hour), at) {
                    prop_assert!(declared.until.since(at) <= ABSENCE_MOST);
                    absence = declared;
                }
            }
            for (begin, _) in &waited {
                let end = begin + YEAR_MILLIS;
                let within = waited.iter().filter(|(from, _)| from >= begin);
                let sum: u64 = within.map(|(from, until)| until.min(&end).saturating_sub(*from)).sum();
                // Rounded down at each act.
                prop_assert!(sum <= 2 * MOST_MILLIS + 1000, "{sum}");
            }
        }
    }
}
