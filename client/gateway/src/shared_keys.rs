//! The view of all keys as many requests ask it while it changes.
//!
//! Always holds: a question waits for the application of one batch, or of one list of filters, at most; position and
//! presence that a request sees belong to the view or a later one. Leaves to others: who changes it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use firn_base::ObjectKey;
use firn_wire::FeedEvent;
use hyper::header::HeaderValue;
use tokio::time::Instant;

use crate::feed_tail::{FeedGap, FeedTail};
use crate::filter_chain::FilterChain;
use crate::key_view::{KeyView, Presence};

/// What the gateway knows of all keys. Any number ask.
#[derive(Debug)]
pub(crate) struct SharedKeys {
    view: RwLock<KeyView>,
    /// Keys that the tail tells of at most.
    tail_keys_max: usize,
    position: AtomicU64,
    /// How often the filters changed, or the tail was begun anew.
    changes: AtomicU64,
    begun: AtomicBool,
    usable: AtomicBool,
    followed: Mutex<Option<Followed>>,
    /// When a coordinator told the end of the feed last, whether it hears the others or not.
    told: Mutex<Option<Instant>>,
    position_header: RwLock<HeaderValue>,
}

/// When a coordinator was heard to hold nothing newer, and how long before it knew so.
#[derive(Debug, Clone, Copy)]
struct Followed {
    heard: Instant,
    stale: Duration,
}

impl Followed {
    fn age(self) -> Duration {
        self.heard.elapsed().saturating_add(self.stale)
    }
}

impl SharedKeys {
    /// Nothing is known yet.
    pub(crate) fn new(tail_keys_max: usize) -> Self {
        Self {
            view: RwLock::default(),
            tail_keys_max,
            position: AtomicU64::new(0),
            changes: AtomicU64::new(0),
            begun: AtomicBool::new(false),
            usable: AtomicBool::new(false),
            followed: Mutex::new(None),
            told: Mutex::new(None),
            position_header: RwLock::new(HeaderValue::from_static("0")),
        }
    }

    /// Goes on with what an earlier life knew: it may answer before the feed was heard.
    pub(crate) fn resume(&self, view: KeyView) {
        let mut current = self.write();
        *current = view;
        self.publish(&current);
        self.begun.store(true, Ordering::Release);
        self.usable.store(true, Ordering::Release);
    }

    /// What is known of `key`; nothing as long as absence cannot be decided.
    pub(crate) fn presence(&self, key: &ObjectKey) -> Option<Presence> {
        self.is_usable().then(|| self.read().presence(key))
    }

    pub(crate) fn position(&self) -> u64 {
        self.position.load(Ordering::Relaxed)
    }

    /// The position as the header that answers carry.
    pub(crate) fn position_header(&self) -> HeaderValue {
        self.position_header.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Whether it is known where the feed is to be followed from.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Acquire)
    }

    /// Whether the view has been what the feed says, now or in an earlier life of this gateway.
    pub(crate) fn is_usable(&self) -> bool {
        self.usable.load(Ordering::Acquire)
    }

    /// For how long it has not been known whether the feed holds anything newer; none if that was never known.
    pub(crate) fn age(&self) -> Option<Duration> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner).map(Followed::age)
    }

    /// How long ago a coordinator told the end of the feed, as far as it knows it; none if none has since the beginning.
    pub(crate) fn silence(&self) -> Option<Duration> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).map(|told| told.elapsed())
    }

    /// A coordinator has told all that it knows.
    pub(crate) fn mark_told(&self) {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// So long ago the feed held nothing newer.
    pub(crate) fn mark_followed(&self, stale: Duration) {
        self.mark_told();
        let heard = Followed { heard: Instant::now(), stale };
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        if followed.is_none_or(|before| heard.age() < before.age()) {
            *followed = Some(heard);
        }
        self.usable.store(true, Ordering::Release);
    }

    /// The feed is followed from `position` on; filters stay.
    pub(crate) fn begin_at(&self, position: u64) {
        self.replace_tail(FeedTail::at(position));
        self.begun.store(true, Ordering::Release);
    }

    /// Another tail in place of this one.
    pub(crate) fn replace_tail(&self, tail: FeedTail) {
        let mut view = self.write();
        view.tail = tail;
        self.changes.fetch_add(1, Ordering::Relaxed);
        self.publish(&view);
    }

    /// Everything is forgotten: it was of another feed.
    pub(crate) fn forget_all(&self) {
        self.begun.store(false, Ordering::Release);
        self.usable.store(false, Ordering::Release);
        *self.followed.lock().unwrap_or_else(PoisonError::into_inner) = None;
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let mut view = self.write();
        *view = KeyView::default();
        self.changes.fetch_add(1, Ordering::Relaxed);
        self.publish(&view);
    }

    /// Takes events. Where the tail grows too long its elder half is forgotten: what filters do not tell of it is settled
    /// by coordinators.
    pub(crate) fn apply(&self, first: u64, events: &[FeedEvent]) -> Result<(), FeedGap> {
        let mut view = self.write();
        view.tail.apply(first, events)?;
        if view.tail.len() > self.tail_keys_max {
            let half = (view.tail.position() - view.tail.first()) / 2;
            let middle = view.tail.position() - half;
            view.tail.forget_before(middle);
        }
        self.publish(&view);
        Ok(())
    }

    /// Asks these filters from now on; the tail forgets what they tell.
    pub(crate) fn install(&self, filters: FilterChain) {
        let mut view = self.write();
        view.tail.forget_before(filters.end());
        view.filters = filters;
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// The filters that are asked.
    pub(crate) fn filters(&self) -> FilterChain {
        self.read().filters.clone()
    }

    /// Where filters end, if nothing is known of what lies between them and the tail.
    pub(crate) fn gap(&self) -> Option<u64> {
        let view = self.read();
        view.has_gap().then(|| view.filters.end())
    }

    /// How many keys the tail tells of.
    pub(crate) fn tail_len(&self) -> usize {
        self.read().tail.len()
    }

    pub(crate) const fn tail_keys_max(&self) -> usize {
        self.tail_keys_max
    }

    /// The view as it is now.
    pub(crate) fn snapshot(&self) -> KeyView {
        self.read().clone()
    }

    fn read(&self) -> RwLockReadGuard<'_, KeyView> {
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, KeyView> {
        self.view.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, view: &KeyView) {
        self.position.store(view.position(), Ordering::Relaxed);
        *self.position_header.write().unwrap_or_else(PoisonError::into_inner) = view.position().into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter_chain::tests::held;

    fn key(number: u64) -> ObjectKey {
        let mut name = [7; 20];
        name[..8].copy_from_slice(&number.to_le_bytes());
        ObjectKey::store_path(name)
    }

    fn visible(numbers: std::ops::Range<u64>) -> Vec<FeedEvent> {
        numbers.map(|number| FeedEvent::Visible(key(number))).collect()
    }

    #[test]
    fn a_tail_that_grows_too_long_forgets_its_elder_half_and_calls_nothing_absent() {
        let keys = SharedKeys::new(100);
        keys.begin_at(0);
        keys.apply(0, &visible(0..101)).unwrap();
        keys.mark_followed(Duration::ZERO);
        assert_eq!((keys.gap(), keys.tail_len()), (Some(0), 50));
        assert_eq!(keys.presence(&key(0)), Some(Presence::Unsettled { as_of: 51 }));
        assert_eq!(keys.presence(&key(1000)), Some(Presence::Unsettled { as_of: 51 }));
        assert_eq!(keys.presence(&key(100)), Some(Presence::Visible { as_of: 101 }));
    }

    #[test]
    fn filters_take_the_place_of_what_the_tail_told() {
        let keys = SharedKeys::new(100);
        keys.begin_at(0);
        keys.apply(0, &visible(0..12)).unwrap();
        keys.mark_followed(Duration::ZERO);
        let shown: Vec<_> = (0..8).map(key).collect();
        keys.install(FilterChain::new([held((0, 8), &shown)]));
        assert_eq!((keys.gap(), keys.tail_len(), keys.position()), (None, 4, 12));
        assert_eq!(keys.presence(&key(3)), Some(Presence::Unsettled { as_of: 8 }));
        assert_eq!(keys.presence(&key(9)), Some(Presence::Visible { as_of: 10 }));
    }
}
