//! Steps that the state refused, and when each is tried again.
//!
//! Always holds: a step that is refused again and again is proposed ever less often, up to once in ten minutes; what is
//! remembered is bounded. Leaves to others: what the steps are (`plan_purging`).

use std::collections::BTreeMap;
use std::time::Duration;

use firn_base::{BundleId, Timestamp};

/// A refusal is an entry of the log and a line of the leader's: the first may be a matter of a moment.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(600);

/// Bundles remembered; of more, those that are due soonest are forgotten.
const REFUSED_MAX: usize = 4_096;

/// Bundles of which a step was refused.
#[derive(Debug, Clone, Default)]
pub struct RefusedSteps {
    waits: BTreeMap<BundleId, Wait>,
}

#[derive(Debug, Clone, Copy)]
struct Wait {
    until: Timestamp,
    pause: Duration,
}

impl RefusedSteps {
    /// Whether a step of `bundle` may be proposed now.
    pub fn may_try(&self, bundle: BundleId, now: Timestamp) -> bool {
        self.waits.get(&bundle).is_none_or(|wait| wait.until <= now)
    }

    /// A step of `bundle` was refused.
    pub fn refused(&mut self, bundle: BundleId, now: Timestamp) {
        let pause = match self.waits.get(&bundle) {
            Some(before) => before.pause.saturating_mul(2).min(PAUSE_MAX),
            None => PAUSE_MIN,
        };
        if self.waits.len() >= REFUSED_MAX && !self.waits.contains_key(&bundle) {
            let soonest = self.waits.iter().min_by_key(|(_, wait)| wait.until).map(|(bundle, _)| *bundle);
            soonest.map(|bundle| self.waits.remove(&bundle));
        }
        self.waits.insert(bundle, Wait { until: now.after(pause), pause });
    }

    /// A step of `bundle` was carried out.
    pub fn done(&mut self, bundle: BundleId) {
        self.waits.remove(&bundle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    fn bundle(number: u32) -> BundleId {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&number.to_le_bytes());
        BundleId::from_bytes(bytes)
    }

    #[test]
    fn what_is_refused_again_and_again_is_tried_ever_less_often() {
        let mut steps = RefusedSteps::default();
        let (mut now, mut pauses) = (0, Vec::new());
        for _ in 0..12 {
            steps.refused(bundle(1), at(now));
            let next = (now..).find(|second| steps.may_try(bundle(1), at(*second))).unwrap();
            pauses.push(next - now);
            now = next;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600]);
        assert!(steps.may_try(bundle(2), at(0)));
        steps.done(bundle(1));
        assert!(steps.may_try(bundle(1), at(0)));
    }

    #[test]
    fn of_too_many_those_that_are_due_soonest_are_forgotten() {
        let mut steps = RefusedSteps::default();
        steps.refused(bundle(0), at(0));
        steps.refused(bundle(0), at(0));
        (1..).take(REFUSED_MAX).for_each(|number| steps.refused(bundle(number), at(0)));
        assert_eq!(steps.waits.len(), REFUSED_MAX);
        assert!(!steps.may_try(bundle(0), at(1)), "it waits for longer");
    }
}
