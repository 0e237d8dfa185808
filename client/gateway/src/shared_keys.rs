//! The key set as many requests ask it while one follower changes it.
//!
//! Always holds: a question waits for the application of one batch at most, never for a merge; position and
//! membership that a request sees belong to the set or a later one. Leaves to others: who changes it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard};

use firn_base::ObjectKey;
use firn_wire::FeedEvent;
use hyper::header::HeaderValue;
use tokio::time::Instant;

use crate::key_set::{FeedGap, KeySet};

/// The gateway's key set. One task changes it, any number ask.
#[derive(Debug)]
pub(crate) struct SharedKeys {
    set: RwLock<KeySet>,
    position: AtomicU64,
    keys: AtomicU64,
    followed_once: AtomicBool,
    followed: Mutex<Option<Instant>>,
    position_header: RwLock<HeaderValue>,
}

impl SharedKeys {
    /// The set from which the feed is followed; `usable` if it may answer before the feed was heard.
    pub(crate) fn new(set: KeySet, usable: bool) -> Self {
        let shared = Self {
            set: RwLock::new(KeySet::default()),
            position: AtomicU64::new(0),
            keys: AtomicU64::new(0),
            followed_once: AtomicBool::new(usable),
            followed: Mutex::new(None),
            position_header: RwLock::new(HeaderValue::from_static("0")),
        };
        shared.replace(set);
        shared
    }

    pub(crate) fn contains(&self, key: &ObjectKey) -> bool {
        self.read().contains(key)
    }

    pub(crate) fn position(&self) -> u64 {
        self.position.load(Ordering::Relaxed)
    }

    /// The position as the header that answers carry.
    pub(crate) fn position_header(&self) -> HeaderValue {
        self.position_header.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn len(&self) -> u64 {
        self.keys.load(Ordering::Relaxed)
    }

    /// Whether the set has been what the feed says, now or in an earlier life of this gateway.
    pub(crate) fn is_usable(&self) -> bool {
        self.followed_once.load(Ordering::Acquire)
    }

    /// When the feed was last known to hold nothing newer.
    pub(crate) fn followed_at(&self) -> Option<Instant> {
        *self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The feed holds nothing newer now.
    pub(crate) fn mark_followed(&self) {
        *self.followed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        self.followed_once.store(true, Ordering::Release);
    }

    /// Applies events; only one task may do this.
    pub(crate) fn apply(&self, first: u64, events: &[FeedEvent]) -> Result<(), FeedGap> {
        {
            let mut set = self.set.write().unwrap_or_else(PoisonError::into_inner);
            set.apply(first, events)?;
            self.publish(&set);
        }
        // Nobody else changes the set, so it can be merged without holding up those who ask.
        let merged = {
            let set = self.read();
            set.wants_merge().then(|| KeySet::from_sorted(set.to_sorted(), set.position()))
        };
        if let Some(merged) = merged.flatten() {
            self.replace(merged);
        }
        Ok(())
    }

    /// Another set in place of this one.
    pub(crate) fn replace(&self, new: KeySet) {
        let mut set = self.set.write().unwrap_or_else(PoisonError::into_inner);
        *set = new;
        self.publish(&set);
    }

    /// The set as it is now: cheap but for the latest changes.
    pub(crate) fn snapshot(&self) -> KeySet {
        self.read().clone()
    }

    fn read(&self) -> RwLockReadGuard<'_, KeySet> {
        self.set.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, set: &KeySet) {
        self.position.store(set.position(), Ordering::Relaxed);
        self.keys.store(set.len() as u64, Ordering::Relaxed);
        *self.position_header.write().unwrap_or_else(PoisonError::into_inner) = set.position().into();
    }
}
