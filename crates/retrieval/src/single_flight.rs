//! One of several equal questions is asked; all who asked get its answer.
//!
//! Always holds: at most one future per key runs; it goes on as long as one asker waits, and is cancelled with
//! the last of them. Leaves to others: remembering answers.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};

type Flight<T> = BoxFuture<'static, T>;

// Above this many keys, those whose askers are gone are swept out.
const KEYS_BEFORE_SWEEP: usize = 64;

/// Questions under way, by key.
pub struct SingleFlight<K, T: Clone> {
    flights: Mutex<BTreeMap<K, WeakShared<Flight<T>>>>,
}

impl<K, T: Clone> fmt::Debug for SingleFlight<K, T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SingleFlight")
    }
}

impl<K: Ord + Clone, T: Clone + Send + Sync + 'static> Default for SingleFlight<K, T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Ord + Clone, T: Clone + Send + Sync + 'static> SingleFlight<K, T> {
    /// None under way.
    pub const fn new() -> Self {
        Self { flights: Mutex::new(BTreeMap::new()) }
    }

    /// The answer of the question under way for `key`, or of `ask`.
    pub async fn run(&self, key: K, ask: impl FnOnce() -> Flight<T>) -> T {
        let flight = self.join(&key, ask);
        let answer = flight.clone().await;
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        // Another question with the same key may have begun since.
        if flights.get(&key).and_then(WeakShared::upgrade).is_some_and(|other| other.ptr_eq(&flight)) {
            flights.remove(&key);
        }
        answer
    }

    fn join(&self, key: &K, ask: impl FnOnce() -> Flight<T>) -> Shared<Flight<T>> {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(key).and_then(WeakShared::upgrade) {
            return flight;
        }
        if flights.len() > KEYS_BEFORE_SWEEP {
            flights.retain(|_, flight| flight.upgrade().is_some());
        }
        let flight = ask().shared();
        if let Some(weak) = flight.downgrade() {
            flights.insert(key.clone(), weak);
        }
        flight
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn equal_questions_are_asked_once_and_later_ones_again() {
        let flights = SingleFlight::new();
        let asked = Arc::new(AtomicUsize::new(0));
        let ask = || {
            let asked = Arc::clone(&asked);
            flights.run(7, move || {
                async move {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    asked.fetch_add(1, Ordering::Relaxed)
                }
                .boxed()
            })
        };
        assert_eq!(futures::future::join_all([ask(), ask(), ask()]).await, [0, 0, 0]);
        assert_eq!(ask().await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_answer_survives_the_first_asker() {
        let flights = SingleFlight::new();
        let ask = || {
            flights.run(1, || {
                async {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    5
                }
                .boxed()
            })
        };
        let mut first = Box::pin(ask());
        assert!(futures::poll!(&mut first).is_pending());
        let mut second = Box::pin(ask());
        assert!(futures::poll!(&mut second).is_pending());
        drop(first);
        assert_eq!(second.await, 5);
    }
}
