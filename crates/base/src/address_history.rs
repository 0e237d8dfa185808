//! Which address prefixes a node was seen at, and which of them counts.
//!
//! Owns: the shares and their arithmetic. Always holds: at most eight prefixes; the shares add up to no more than one;
//! the first is the one with the largest share, and stays first until another has more. Leaves to others: observing
//! addresses, what a prefix is taken for.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::AddressPrefix;

/// The parts of the last week that a node was seen at prefixes.
///
/// What lies back counts less, half as much for every 3.5 days: so a node that moved counts as moved after it was 3.5
/// days at its new address, for most of the last 7 days, and one that flaps between two counts where it mostly is.
/// A window of 7 days would say the same and need a list as long as a node's address changes often.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "Vec<(AddressPrefix, u32)>", into = "Vec<(AddressPrefix, u32)>")]
pub struct AddressHistory {
    // With their shares in billionths, the largest first.
    shares: Vec<(AddressPrefix, u32)>,
}

/// Shares are no history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the shares of a node's addresses are too many, not in order, or more than one together")]
pub struct AddressHistoryError;

const ONE: u32 = 1_000_000_000;
const HALVED_AFTER: Duration = Duration::from_secs(7 * 86_400 / 2);

// Half a minute of now: not worth its room.
const FORGOTTEN_BELOW: u32 = ONE / 10_000;

impl AddressHistory {
    /// Prefixes that are remembered at most: a node that has more in a week is where it mostly is, if anywhere.
    pub const PREFIXES_MAX: usize = 8;

    /// A node that was seen for the first time.
    pub fn first_seen_at(prefix: AddressPrefix) -> Self {
        Self { shares: vec![(prefix, 0)] }
    }

    /// The prefix that counts: that of most of the last 7 days; none before the node was seen.
    pub fn counted(&self) -> Option<AddressPrefix> {
        self.shares.first().map(|(prefix, _)| *prefix)
    }

    /// Prefixes and their shares in billionths, the largest first.
    pub fn shares(&self) -> &[(AddressPrefix, u32)] {
        &self.shares
    }

    /// The history after a time of which the node was seen at `prefixes` for so long each. Beyond half of
    /// [`Self::PREFIXES_MAX`] prefixes at once are passed over.
    #[must_use]
    pub fn after(&self, passed: Duration, prefixes: &[(AddressPrefix, Duration)]) -> Self {
        if passed.is_zero() {
            return self.clone();
        }
        let prefixes = &prefixes[..prefixes.len().min(Self::PREFIXES_MAX / 2)];
        let kept = (-passed.as_secs_f64() / HALVED_AFTER.as_secs_f64()).exp2();
        let mut shares: Vec<(AddressPrefix, f64, bool)> = self
            .shares
            .iter()
            .map(|(prefix, share)| (*prefix, f64::from(*share) / f64::from(ONE) * kept, false))
            .collect();
        // Who measured more than has passed measured its parts in proportion.
        let whole = prefixes.iter().map(|(_, time)| time.as_secs_f64()).sum::<f64>();
        let whole = whole.max(passed.as_secs_f64());
        for (prefix, time) in prefixes.iter().filter(|(_, time)| !time.is_zero()) {
            let more = time.as_secs_f64() / whole * (1.0 - kept);
            match shares.iter_mut().find(|(known, ..)| known == prefix) {
                Some(known) => (known.1, known.2) = (known.1 + more, true),
                None => shares.push((*prefix, more, true)),
            }
        }
        shares.sort_by(|one, other| other.1.total_cmp(&one.1));
        // Where it is now stays, or a node with many addresses could never be seen to settle at a new one.
        while shares.len() > Self::PREFIXES_MAX
            && let Some(least) = shares.iter().rposition(|(.., is_now)| !is_now)
        {
            shares.remove(least);
        }
        let mut left = ONE;
        let mut rounded = Vec::with_capacity(shares.len());
        for (prefix, share, _) in shares {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "between 0 and a billion"
            )]
            let share = ((share.clamp(0.0, 1.0) * f64::from(ONE)) as u32).min(left);
            if rounded.is_empty() || share >= FORGOTTEN_BELOW {
                left -= share;
                rounded.push((prefix, share));
            }
        }
        Self { shares: rounded }
    }
}

impl TryFrom<Vec<(AddressPrefix, u32)>> for AddressHistory {
    type Error = AddressHistoryError;

    fn try_from(shares: Vec<(AddressPrefix, u32)>) -> Result<Self, AddressHistoryError> {
        let sum: u64 = shares.iter().map(|(_, share)| u64::from(*share)).sum();
        let is_distinct =
            (1..shares.len()).all(|at| shares[..at].iter().all(|(known, _)| *known != shares[at].0));
        let fits = shares.len() <= Self::PREFIXES_MAX
            && sum <= ONE.into()
            && shares.is_sorted_by(|one, next| one.1 >= next.1);
        if fits && is_distinct { Ok(Self { shares }) } else { Err(AddressHistoryError) }
    }
}

impl From<AddressHistory> for Vec<(AddressPrefix, u32)> {
    fn from(history: AddressHistory) -> Self {
        history.shares
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTES: Duration = Duration::from_secs(600);
    const A_DAY: u32 = 144;

    fn prefix(byte: u8) -> AddressPrefix {
        AddressPrefix::V4([192, 0, byte])
    }

    /// The history after so many summaries of ten minutes at one prefix each.
    fn after(mut history: AddressHistory, at: impl IntoIterator<Item = u8>) -> AddressHistory {
        for byte in at {
            history = history.after(MINUTES, &[(prefix(byte), MINUTES)]);
        }
        history
    }

    fn at(byte: u8, summaries: u32) -> impl Iterator<Item = u8> {
        (0..summaries).map(move |_| byte)
    }

    #[test]
    fn who_moves_counts_as_moved_after_half_a_week() {
        let settled = after(AddressHistory::first_seen_at(prefix(1)), at(1, 365 * A_DAY));
        let moving = after(settled, at(2, 7 * A_DAY / 2 - 1));
        assert_eq!(moving.counted(), Some(prefix(1)));
        assert_eq!(after(moving, at(2, 2)).counted(), Some(prefix(2)));
    }

    #[test]
    fn who_flaps_counts_where_it_mostly_is() {
        let mut history = after(AddressHistory::first_seen_at(prefix(1)), at(1, 7 * A_DAY));
        for summary in 0..30 * A_DAY {
            history = after(history, [if summary % 5 < 2 { 2 } else { 1 }]);
            assert_eq!(history.counted(), Some(prefix(1)));
        }
    }

    #[test]
    fn a_time_without_being_seen_makes_the_old_address_count_less() {
        let settled = after(AddressHistory::first_seen_at(prefix(1)), at(1, 365 * A_DAY));
        let away = settled.after(Duration::from_secs(30 * 86_400), &[]);
        assert_eq!(away.counted(), Some(prefix(1)), "there is no other");
        assert_eq!(after(away, at(2, 2)).counted(), Some(prefix(2)));
    }

    #[test]
    fn who_had_many_addresses_can_settle_at_another_one() {
        let restless = after(AddressHistory::default(), (0..40 * A_DAY).map(|summary| (summary % 40) as u8));
        assert_eq!(restless.shares().len(), AddressHistory::PREFIXES_MAX);
        assert_eq!(after(restless, at(99, 4 * A_DAY)).counted(), Some(prefix(99)));
    }

    #[test]
    fn shares_that_are_no_history_are_refused() {
        let (one, other) = ((prefix(1), 2), (prefix(2), 1));
        assert!(AddressHistory::try_from(vec![one, other]).is_ok());
        assert!(AddressHistory::try_from(vec![other, one]).is_err(), "out of order");
        assert!(AddressHistory::try_from(vec![one, one]).is_err(), "twice");
        assert!(AddressHistory::try_from(vec![(prefix(1), ONE), other]).is_err(), "more than one");
        let many = (0..9).map(|byte| (prefix(byte), 0)).collect::<Vec<_>>();
        assert!(AddressHistory::try_from(many).is_err(), "too many");
    }

    fn steps() -> impl Strategy<Value = Vec<(u32, Vec<(u8, u32)>)>> {
        let seen = prop::collection::vec((0_u8..12, 0_u32..100_000), 0..6);
        prop::collection::vec((0_u32..1_000_000, seen), 0..60)
    }

    proptest! {
        #[test]
        fn every_history_is_one_that_may_travel_and_the_first_has_the_largest_share(steps in steps()) {
            let mut history = AddressHistory::default();
            for (passed, seen) in steps {
                let seen: Vec<_> = seen
                    .into_iter()
                    .map(|(byte, time)| (prefix(byte), Duration::from_secs(time.into())))
                    .collect();
                let before = history.counted();
                history = history.after(Duration::from_secs(passed.into()), &seen);
                prop_assert_eq!(AddressHistory::try_from(history.shares.clone()), Ok(history.clone()));
                prop_assert!(before.is_none() || history.counted().is_some(), "what counted is not forgotten");
            }
        }

        #[test]
        fn where_it_was_for_most_of_the_time_counts_however_the_time_is_cut(
            (other, cuts) in (0_u32..49, prop::collection::vec(1_u32..400, 1..40)),
        ) {
            let mut history = AddressHistory::first_seen_at(prefix(2));
            for cut in cuts {
                let passed = Duration::from_secs(u64::from(cut) * 600);
                let little = passed * other / 100;
                history = history.after(passed, &[(prefix(2), little), (prefix(1), passed - little)]);
                prop_assert_eq!(history.counted(), Some(prefix(1)));
            }
        }
    }
}
