//! The end of the feed: what it told last of each key since a position.
//!
//! Owns: exactness where no filter is yet. Always holds: the same events give the same answers, whatever batches they came
//! in; a key is forgotten only as a whole, once its last event lies before the beginning. Leaves to others: pulling the
//! feed (`feed_follower`), locks (`shared_keys`), the file (`view_file`).

use std::collections::BTreeMap;

use firn_base::ObjectKey;
use firn_wire::FeedEvent;

/// What the feed told last of each key since a position.
///
/// A tree, because it never stops to grow or to shrink: about 45 bytes for each key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FeedTail {
    keys: BTreeMap<ObjectKey, Latest>,
    first: u64,
    position: u64,
}

/// A position of the feed, and whether the key became visible there or was withdrawn: in one number, for there are many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Latest(u64);

/// Events were offered that do not continue the feed where the tail ends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the feed continues at position {found} where {expected} is expected")]
pub struct FeedGap {
    /// Where the tail ends.
    pub expected: u64,
    /// Where the events begin.
    pub found: u64,
}

// Coordinators count events in 40 bits; what is larger is no position of a feed.
pub(crate) const POSITION_MAX: u64 = (1 << 40) - 1;

impl Latest {
    pub(crate) const fn new(position: u64, visible: bool) -> Self {
        Self(position << 1 | visible as u64)
    }

    pub(crate) const fn from_number(number: u64) -> Self {
        Self(number)
    }

    pub(crate) const fn to_number(self) -> u64 {
        self.0
    }

    pub(crate) const fn position(self) -> u64 {
        self.0 >> 1
    }

    pub(crate) const fn is_visible(self) -> bool {
        self.0 & 1 == 1
    }
}

impl FeedTail {
    /// A tail that knows of no event yet, and goes on at `position`.
    pub const fn at(position: u64) -> Self {
        Self { keys: BTreeMap::new(), first: position, position }
    }

    /// The tail with these keys, each once; none if they do not fit it.
    pub(crate) fn from_parts(first: u64, position: u64, keys: Vec<(ObjectKey, Latest)>) -> Option<Self> {
        let count = keys.len();
        let fits = keys.iter().all(|(_, latest)| (first..position).contains(&latest.position()));
        let keys: BTreeMap<_, _> = keys.into_iter().collect();
        (fits && first <= position && position <= POSITION_MAX && keys.len() == count).then_some(Self {
            keys,
            first,
            position,
        })
    }

    /// What the feed told last of `key`, if it told of it.
    pub(crate) fn told(&self, key: &ObjectKey) -> Option<Latest> {
        self.keys.get(key).copied()
    }

    /// Where it begins.
    pub const fn first(&self) -> u64 {
        self.first
    }

    /// The position of the next event.
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// How many keys it tells of.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether it tells of none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The keys in order.
    pub(crate) fn keys(&self) -> impl Iterator<Item = (&ObjectKey, Latest)> {
        self.keys.iter().map(|(key, latest)| (key, *latest))
    }

    /// Takes events that begin at position `first`. On an error nothing changed.
    pub fn apply(&mut self, first: u64, events: &[FeedEvent]) -> Result<(), FeedGap> {
        let end = first.saturating_add(events.len() as u64);
        if first != self.position || end > POSITION_MAX {
            return Err(FeedGap { expected: self.position, found: first });
        }
        for (position, event) in (first..).zip(events) {
            let (key, visible) = match event {
                FeedEvent::Visible(key) => (key, true),
                FeedEvent::Withdrawn(key) => (key, false),
            };
            self.keys.insert(*key, Latest::new(position, visible));
        }
        self.position = end;
        Ok(())
    }

    /// What this tail and one that goes as far or farther tell of the same feed. Of what lies between them nobody knows: if
    /// something does, the later one alone is what is known exactly.
    pub(crate) fn continued_by(mut self, later: Self) -> Self {
        if later.first > self.position || later.first <= self.first {
            return later;
        }
        self.keys.extend(later.keys);
        Self { keys: self.keys, first: self.first, position: later.position }
    }

    /// Forgets what was told before `position`, as far as nothing was told since.
    pub fn forget_before(&mut self, position: u64) {
        let position = position.min(self.position);
        if position > self.first {
            self.keys.retain(|_, latest| latest.position() >= position);
            self.first = position;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u8) -> ObjectKey {
        ObjectKey::store_path([number; 20])
    }

    fn visible(number: u8) -> FeedEvent {
        FeedEvent::Visible(key(number))
    }

    fn told(tail: &FeedTail, number: u8) -> Option<(u64, bool)> {
        tail.told(&key(number)).map(|latest| (latest.position(), latest.is_visible()))
    }

    #[test]
    fn the_last_event_of_a_key_counts() {
        let mut tail = FeedTail::at(10);
        tail.apply(10, &[visible(1), visible(2), FeedEvent::Withdrawn(key(1))]).unwrap();
        assert_eq!(
            (told(&tail, 1), told(&tail, 2), told(&tail, 3)),
            (Some((12, false)), Some((11, true)), None)
        );
        tail.apply(13, &[visible(1)]).unwrap();
        assert_eq!(
            (told(&tail, 1), tail.first(), tail.position(), tail.len()),
            (Some((13, true)), 10, 14, 2)
        );
        assert_eq!(tail.told(&ObjectKey::build_log([1; 20])), None, "a log is another key");
    }

    #[test]
    fn a_gap_in_the_feed_is_refused() {
        let mut tail = FeedTail::at(2);
        assert_eq!(tail.apply(3, &[visible(1)]), Err(FeedGap { expected: 2, found: 3 }));
        assert_eq!(tail.apply(1, &[visible(1)]), Err(FeedGap { expected: 2, found: 1 }));
        assert!(FeedTail::at(POSITION_MAX).apply(POSITION_MAX, &[visible(1)]).is_err(), "no feed is so long");
        assert_eq!(tail, FeedTail::at(2));
    }

    #[test]
    fn what_was_told_before_is_forgotten_and_what_was_told_since_stays() {
        let mut tail = FeedTail::at(0);
        tail.apply(0, &[visible(1), visible(2), visible(3), visible(1)]).unwrap();
        tail.forget_before(2);
        assert_eq!(
            (told(&tail, 1), told(&tail, 2), told(&tail, 3)),
            (Some((3, true)), None, Some((2, true)))
        );
        tail.forget_before(1);
        assert_eq!(tail.first(), 2, "what is forgotten does not come back");
        tail.forget_before(100);
        assert_eq!((tail.first(), tail.position(), tail.is_empty()), (4, 4, true));
    }

    #[test]
    fn a_tail_goes_on_in_a_later_one_unless_something_lies_between_them() {
        let mut whole = FeedTail::at(0);
        let events = [visible(1), visible(2), FeedEvent::Withdrawn(key(1)), visible(3), visible(1)];
        whole.apply(0, &events).unwrap();
        let part = |first: usize, end: usize| {
            let mut tail = FeedTail::at(first as u64);
            tail.apply(first as u64, &events[first..end]).unwrap();
            tail
        };
        for (end, first) in [(2, 2), (3, 1), (3, 0), (5, 4)] {
            assert_eq!(part(0, end).continued_by(part(first, 5)), whole, "0..{end} and {first}..5");
        }
        assert_eq!(part(0, 2).continued_by(part(3, 5)), part(3, 5), "nobody knows what was told at 2");
    }

    #[test]
    fn parts_that_do_not_fit_are_no_tail() {
        let part = |position| (key(1), Latest::new(position, true));
        assert!(FeedTail::from_parts(2, 4, vec![part(3)]).is_some());
        assert!(FeedTail::from_parts(2, 4, vec![part(4)]).is_none(), "it lies behind the tail");
        assert!(FeedTail::from_parts(2, 4, vec![part(1)]).is_none(), "it lies before the tail");
        assert!(FeedTail::from_parts(2, 4, vec![part(3), part(2)]).is_none(), "one key is there twice");
        assert!(FeedTail::from_parts(4, 2, Vec::new()).is_none());
    }
}
