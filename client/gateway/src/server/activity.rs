//! What goes on on one connection: which requests are being answered, and whose turn it is in each long answer.
//!
//! Always holds: what was begun ends when its guard is dropped, however it ends. Leaves to others: closing (`connection`).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The requests of one connection.
#[derive(Debug, Default)]
pub(super) struct Activity {
    begun: AtomicUsize,
    open: AtomicUsize,
    closing: AtomicBool,
    /// Streamed bodies by the number of their request, with the time since which the client has not asked for more; none
    /// while it waits for us.
    owed: Mutex<BTreeMap<usize, Option<Instant>>>,
}

/// A request that is being answered, until it is dropped.
#[derive(Debug)]
pub(super) struct Answering {
    activity: Arc<Activity>,
    number: usize,
    streamed: bool,
}

impl Activity {
    /// A request came.
    pub(super) fn begin(self: &Arc<Self>) -> Answering {
        self.open.fetch_add(1, Ordering::Relaxed);
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        Answering { activity: Arc::clone(self), number, streamed: false }
    }

    /// How many requests came so far.
    pub(super) fn begun(&self) -> usize {
        self.begun.load(Ordering::Relaxed)
    }

    /// Whether nothing is being answered.
    pub(super) fn is_idle(&self) -> bool {
        self.open.load(Ordering::Relaxed) == 0
    }

    /// From now on the next answer is the last one.
    pub(super) fn close_after_answer(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// Whether the next answer is the last one.
    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// Whether the client has left a body untouched for as long.
    pub(super) fn is_stalled(&self, stall_max: Duration) -> bool {
        let now = Instant::now();
        self.owed().values().flatten().any(|since| now.duration_since(*since) >= stall_max)
    }

    fn owed(&self) -> MutexGuard<'_, BTreeMap<usize, Option<Instant>>> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Answering {
    /// The client has a piece of the body now and may ask for the next one.
    pub(super) fn gave(&mut self) {
        self.streamed = true;
        self.activity.owed().insert(self.number, Some(Instant::now()));
    }

    /// The client waits for the next piece.
    pub(super) fn awaited(&mut self) {
        self.streamed = true;
        self.activity.owed().insert(self.number, None);
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        if self.streamed {
            self.activity.owed().remove(&self.number);
        }
        self.activity.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn only_a_body_that_its_client_leaves_untouched_is_stalled() {
        let activity = Arc::new(Activity::default());
        let (mut taken, mut awaited) = (activity.begin(), activity.begin());
        taken.gave();
        awaited.gave();
        awaited.awaited();
        advance(MINUTE / 2).await;
        taken.gave();
        advance(MINUTE / 2).await;
        assert!(!activity.is_stalled(MINUTE), "one was taken from, the other waits for us");
        advance(MINUTE / 2).await;
        assert!(activity.is_stalled(MINUTE));
        drop(taken);
        assert!(!activity.is_stalled(MINUTE), "it was given up");
        assert!(!activity.is_idle());
        drop(awaited);
        assert!(activity.is_idle());
        assert_eq!(activity.begun(), 2);
    }
}
