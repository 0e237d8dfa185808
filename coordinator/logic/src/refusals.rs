//! How often refusals are recorded.
//!
//! Always holds: of one operator at most one refusal is recorded in [`RECORDED_EVERY`], with how many there were; the
//! ledger is kept by every node for good, and an operator whose key was stolen must not be able to fill it.
//! Leaves to others: recording them, and forgetting whoever is no operator any more (nobody else is counted).

use std::collections::BTreeMap;
use std::time::Duration;

use firn_base::{PublicKey, Timestamp};

/// At most 1,440 entries of some 300 bytes a day, until somebody reads them.
const RECORDED_EVERY: Duration = Duration::from_secs(60);

/// Refusals of operators, as the leader counts them.
#[derive(Debug, Default)]
pub struct Refusals {
    counted: BTreeMap<PublicKey, Counted>,
}

#[derive(Debug)]
struct Counted {
    recorded_at: Timestamp,
    unrecorded: u32,
}

impl Refusals {
    /// None refused yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts one more of `operator`. Gives how many are to be recorded at this moment, if any.
    pub fn count(&mut self, operator: PublicKey, now: Timestamp) -> Option<u32> {
        match self.counted.get_mut(&operator) {
            Some(counted) if now < counted.recorded_at.after(RECORDED_EVERY) => {
                counted.unrecorded = counted.unrecorded.saturating_add(1);
                None
            }
            counted => {
                let before = counted.map_or(0, |counted| counted.unrecorded);
                self.counted.insert(operator, Counted { recorded_at: now, unrecorded: 0 });
                Some(before.saturating_add(1))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_that_follow_each_other_are_recorded_together() {
        let (ada, bob) = (PublicKey::from_bytes([1; 32]), PublicKey::from_bytes([2; 32]));
        let mut refusals = Refusals::new();
        let mut at = |key, second: u64| refusals.count(key, Timestamp::from_millis(second * 1000));
        assert_eq!(at(ada, 100), Some(1));
        assert_eq!((at(ada, 101), at(ada, 159)), (None, None));
        assert_eq!(at(bob, 159), Some(1), "each is counted apart");
        assert_eq!(at(ada, 160), Some(3));
        assert_eq!(at(ada, 400), Some(1));
    }
}
