//! What was applied lately, for a picture of the state that is kept in memory.
//!
//! Owns: a bounded list of changes by log position. Always holds: what is given after a position is everything that
//! was applied after it, in order; when that is not known, nothing is given and the state has to be read anew.
//! Leaves to others: what is made of them (`picture`).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use firn_coordinator_logic::{Catalogue, Change};

// A leader takes them twice a second. A follower takes none, and keeps this many at most: a few kilobytes for a
// bundle's record.
const CHANGES_MAX: usize = 16_384;

/// Changes of one batch.
pub(crate) type Batch = Arc<Vec<Change>>;

/// The list. Clones are the same list.
#[derive(Debug, Clone, Default)]
pub(crate) struct AppliedChanges {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Everything after this position is known.
    complete_after: u64,
    applied: u64,
    batches: VecDeque<(u64, Batch)>,
    changes: usize,
}

impl AppliedChanges {
    /// The position up to which everything was recorded.
    pub(crate) fn applied(&self) -> u64 {
        self.lock().applied
    }

    /// All batches applied after `position`, and the position of the last; none if not all of them are known any
    /// more. What came before `position` is forgotten: nobody asks for it again.
    pub(crate) fn take_after(&self, position: u64) -> Option<(u64, Vec<Batch>)> {
        let mut inner = self.lock();
        if position < inner.complete_after {
            return None;
        }
        while inner.batches.front().is_some_and(|(of, _)| *of <= position) {
            inner.drop_first();
        }
        inner.complete_after = position;
        Some((inner.applied, inner.batches.iter().map(|(_, batch)| Arc::clone(batch)).collect()))
    }

    /// A batch was applied whose last entry is at `position`. What a picture does not show is left out.
    pub(super) fn record(&self, position: u64, changes: impl IntoIterator<Item = Change>) {
        let changes: Vec<_> = changes.into_iter().filter(Catalogue::concerns).collect();
        let mut inner = self.lock();
        inner.applied = position;
        if changes.is_empty() {
            return;
        }
        inner.changes += changes.len();
        inner.batches.push_back((position, Arc::new(changes)));
        while inner.changes > CHANGES_MAX {
            inner.drop_first();
        }
    }

    /// The state stands at `position`, and how it came there is not known.
    pub(super) fn restart(&self, position: u64) {
        *self.lock() =
            Inner { complete_after: position, applied: position, batches: VecDeque::new(), changes: 0 };
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn drop_first(&mut self) {
        if let Some((position, batch)) = self.batches.pop_front() {
            self.complete_after = self.complete_after.max(position);
            self.changes -= batch.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use firn_base::ReservationId;

    use super::*;

    fn change(tag: u8) -> Change {
        Change::RemoveReservation(ReservationId::from_bytes([tag; 32]))
    }

    fn taken(list: &AppliedChanges, position: u64) -> Option<(u64, Vec<Change>)> {
        let (applied, batches) = list.take_after(position)?;
        Some((applied, batches.iter().flat_map(|batch| batch.iter().cloned()).collect()))
    }

    #[test]
    fn everything_after_a_position_is_given_in_order() {
        let list = AppliedChanges::default();
        list.restart(4);
        list.record(6, [change(1)]);
        list.record(7, [change(2), change(3)]);
        assert_eq!(taken(&list, 4), Some((7, vec![change(1), change(2), change(3)])));
        assert_eq!(taken(&list, 6), Some((7, vec![change(2), change(3)])));
        assert_eq!(taken(&list, 7), Some((7, vec![])));
        list.record(9, [change(4)]);
        assert_eq!(taken(&list, 7), Some((9, vec![change(4)])));
    }

    #[test]
    fn before_a_gap_nothing_is_given() {
        let list = AppliedChanges::default();
        list.record(1, [change(1)]);
        assert_eq!(taken(&list, 0), Some((1, vec![change(1)])));
        list.restart(20);
        assert_eq!(taken(&list, 1), None);
        assert_eq!(taken(&list, 20), Some((20, vec![])));
    }

    #[test]
    fn the_list_is_bounded_and_what_it_dropped_makes_a_gap() {
        let list = AppliedChanges::default();
        for position in 1..=3 {
            list.record(position, (0..CHANGES_MAX / 2).map(|_| change(1)));
        }
        assert_eq!(taken(&list, 0), None);
        assert_eq!(
            taken(&list, 1).map(|(applied, changes)| (applied, changes.len())),
            Some((3, CHANGES_MAX))
        );
    }

    #[test]
    fn what_no_picture_shows_is_passed_over() {
        let list = AppliedChanges::default();
        list.record(5, [Change::PutUsedToken(firn_base::TokenId::from_bytes([1; 32]))]);
        assert_eq!(taken(&list, 0), Some((5, vec![])));
        assert_eq!(list.applied(), 5);
    }
}
