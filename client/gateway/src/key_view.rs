//! What a gateway knows of all keys: filters, and the end of the feed behind them.
//!
//! Always holds: a key that the archive serves, as of the position, is never called absent; what is called absent was
//! decided from what is here. Leaves to others: settling what is not decided (`key_ranges`), locks (`shared_keys`).

use firn_base::ObjectKey;

use crate::feed_tail::FeedTail;
use crate::filter_chain::FilterChain;

/// Filters from the beginning of the feed on, and a tail up to the position.
///
/// Where filters end before the tail begins nothing is known of the keys between: that is so while filters are fetched,
/// and always in a gateway that keeps none.
#[derive(Debug, Clone, Default)]
pub struct KeyView {
    pub(crate) filters: FilterChain,
    pub(crate) tail: FeedTail,
}

/// What is known of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    /// The archive does not serve it.
    Absent,
    /// The feed showed it, and told nothing of it since: whoever has heard the feed up to `as_of` knows where it lies.
    Visible { as_of: u64 },
    /// It may be served: whoever has heard the feed up to `as_of` knows. Of what was told since the tail would know.
    Unsettled { as_of: u64 },
}

impl From<FeedTail> for KeyView {
    fn from(tail: FeedTail) -> Self {
        Self { filters: FilterChain::default(), tail }
    }
}

impl KeyView {
    /// What is known of `key`, as of [`Self::position`].
    pub(crate) fn presence(&self, key: &ObjectKey) -> Presence {
        match self.tail.told(key) {
            Some(latest) if latest.is_visible() => Presence::Visible { as_of: latest.position() + 1 },
            Some(_) => Presence::Absent,
            None if self.has_gap() || self.filters.may_contain(key) => {
                Presence::Unsettled { as_of: self.tail.first() }
            }
            None => Presence::Absent,
        }
    }

    /// Whether there are events that neither a filter nor the tail tells of.
    pub(crate) fn has_gap(&self) -> bool {
        self.filters.end() < self.tail.first()
    }

    /// The position of the next event.
    pub(crate) const fn position(&self) -> u64 {
        self.tail.position()
    }
}

#[cfg(test)]
mod tests {
    use firn_wire::FeedEvent;

    use super::*;
    use crate::filter_chain::tests::held;

    fn key(number: u8) -> ObjectKey {
        ObjectKey::store_path([number; 20])
    }

    /// Filters of the keys 0 to 7, whose events end at 8, and a tail from `first` on.
    fn view(first: u64, events: &[FeedEvent]) -> KeyView {
        let keys: Vec<_> = (0..8).map(key).collect();
        let mut tail = FeedTail::at(first);
        tail.apply(first, events).unwrap();
        KeyView { filters: FilterChain::new([held((0, 8), &keys)]), tail }
    }

    #[test]
    fn a_tail_from_the_beginning_settles_every_key() {
        let mut tail = FeedTail::at(0);
        tail.apply(
            0,
            &[FeedEvent::Visible(key(1)), FeedEvent::Visible(key(2)), FeedEvent::Withdrawn(key(2))],
        )
        .unwrap();
        let view = KeyView::from(tail);
        assert_eq!(view.presence(&key(1)), Presence::Visible { as_of: 1 });
        assert_eq!([2, 3].map(|number| view.presence(&key(number))), [Presence::Absent; 2]);
    }

    #[test]
    fn what_a_filter_holds_is_unsettled_and_what_the_feed_told_since_decides() {
        let view =
            view(8, &[FeedEvent::Withdrawn(key(1)), FeedEvent::Visible(key(2)), FeedEvent::Visible(key(50))]);
        assert_eq!(view.presence(&key(0)), Presence::Unsettled { as_of: 8 });
        assert_eq!(view.presence(&key(1)), Presence::Absent, "withdrawn since");
        assert_eq!(view.presence(&key(2)), Presence::Visible { as_of: 10 });
        assert_eq!(view.presence(&key(50)), Presence::Visible { as_of: 11 });
        let strangers = (100..200).filter(|number| view.presence(&key(*number)) != Presence::Absent).count();
        assert!(strangers < 5, "{strangers} of 100");
    }

    #[test]
    fn nothing_is_called_absent_while_events_are_missing() {
        let view = view(9, &[FeedEvent::Withdrawn(key(1))]);
        assert!((100..200).all(|number| view.presence(&key(number)) == Presence::Unsettled { as_of: 9 }));
        assert_eq!(view.presence(&key(1)), Presence::Absent);
    }
}
