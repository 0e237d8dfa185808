//! When a request to a source's server is tried again.
//!
//! Always holds: pauses grow twofold up to a bound, and end; a server that says when to come back is obeyed up to a bound;
//! uploaders that were refused together do not come back together. No clock, no chance: the seed comes in.
//! Leaves to others: which failures pass, waiting (the client library).

use std::time::Duration;

/// How often and how patiently a request is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetrySchedule {
    /// Tries in all, the first one counted.
    pub tries_max: u32,
    /// The pause before the second try, at most.
    pub first: Duration,
    /// The longest pause of our own choosing.
    pub longest: Duration,
    /// The longest pause at a server's word.
    pub asked_max: Duration,
}

impl Default for RetrySchedule {
    // About a minute and a half in all: a server that restarts is back by then, and one that is down should be known
    // to be. Servers that limit rates count by the minute, few by the hour.
    fn default() -> Self {
        Self {
            tries_max: 8,
            first: Duration::from_secs(1),
            longest: Duration::from_secs(30),
            asked_max: Duration::from_secs(300),
        }
    }
}

impl RetrySchedule {
    /// How long to wait after the `failed`th try (from 1 on) failed; none if that was the last. `asked` is what the server
    /// asked for. Equal seeds give equal pauses.
    pub fn pause(&self, failed: u32, asked: Option<Duration>, seed: u64) -> Option<Duration> {
        if failed >= self.tries_max {
            return None;
        }
        let doublings = failed.saturating_sub(1).min(31);
        let whole = self.first.saturating_mul(1 << doublings).min(self.longest);
        // Between half and all of it.
        let half = whole / 2;
        let spread = u64::try_from(half.as_millis()).unwrap_or(u64::MAX).saturating_add(1);
        let own = whole.saturating_sub(half) + Duration::from_millis(mixed(seed, failed) % spread);
        Some(self.asked(asked).unwrap_or_default().saturating_add(own))
    }

    /// What of a server's word is obeyed.
    pub fn asked(&self, asked: Option<Duration>) -> Option<Duration> {
        asked.map(|asked| asked.min(self.asked_max))
    }

    /// How long a request waits that another one's answer holds back for `held`: those that wait together do not come
    /// back together.
    pub fn held(&self, held: Duration, seed: u64) -> Duration {
        let spread = u64::try_from(self.first.as_millis()).unwrap_or(u64::MAX).saturating_add(1);
        held.saturating_add(Duration::from_millis(mixed(seed, 0) % spread))
    }

    /// What the header `Retry-After` asks for. Its form with a date is rare, and says no more than that the server is busy.
    pub fn parse_asked(text: &str) -> Option<Duration> {
        text.trim().parse().ok().map(Duration::from_secs)
    }
}

/// A number in which every bit depends on every bit of both.
pub(crate) fn mixed(seed: u64, failed: u32) -> u64 {
    let mut bits = seed ^ u64::from(failed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for factor in [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53_u64] {
        bits = (bits ^ (bits >> 33)).wrapping_mul(factor);
    }
    bits ^ (bits >> 33)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_end() {
        let schedule = RetrySchedule::default();
        let bounds = [1, 2, 4, 8, 16, 30, 30].map(Duration::from_secs);
        for (failed, most) in (1..).zip(bounds) {
            let pause = schedule.pause(failed, None, 7).unwrap();
            assert!(most / 2 <= pause && pause <= most, "{failed}: {pause:?}");
        }
        assert_eq!(schedule.pause(8, None, 7), None);
    }

    #[test]
    fn a_server_is_obeyed_up_to_a_bound_and_never_asked_sooner_than_otherwise() {
        let schedule = RetrySchedule::default();
        let own = schedule.pause(2, None, 7).unwrap();
        let asked = |seconds| schedule.pause(2, Some(Duration::from_secs(seconds)), 7).unwrap() - own;
        assert_eq!(asked(20), Duration::from_secs(20));
        assert_eq!(asked(100_000), schedule.asked_max);
        assert_eq!(asked(0), Duration::ZERO);
        assert_eq!(RetrySchedule::parse_asked(" 20 "), Some(Duration::from_secs(20)));
        assert_eq!(RetrySchedule::parse_asked("Fri, 31 Dec 1999 23:59:59 GMT"), None);
    }

    #[test]
    fn seeds_spread_the_pauses_also_at_a_servers_word() {
        let schedule = RetrySchedule::default();
        let minute = Duration::from_secs(60);
        let different = |pause: &dyn Fn(u64) -> Duration| {
            (0..100).map(pause).collect::<std::collections::BTreeSet<_>>().len()
        };
        assert!(different(&|seed| schedule.pause(5, None, seed).unwrap()) > 90);
        assert!(different(&|seed| schedule.pause(5, Some(minute), seed).unwrap()) > 90);
        assert!(different(&|seed| schedule.held(minute, seed)) > 80);
        assert!((0..100).all(|seed| schedule.held(minute, seed) >= minute));
    }

    proptest! {
        #[test]
        fn pauses_are_bounded_whatever_the_schedule(
            tries_max in any::<u32>(), failed in any::<u32>(), seed in any::<u64>(),
            first in any::<u64>(), longest in any::<u64>(), asked in any::<Option<u64>>(),
        ) {
            let [first, longest] = [first, longest].map(Duration::from_millis);
            let asked_max = Duration::from_secs(300);
            let schedule = RetrySchedule { tries_max, first, longest, asked_max };
            let pause = schedule.pause(failed, asked.map(Duration::from_secs), seed);
            prop_assert_eq!(pause.is_none(), failed >= tries_max);
            prop_assert!(pause.is_none_or(|pause| pause <= longest.saturating_add(asked_max)));
        }
    }
}
