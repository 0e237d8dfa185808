//! How bundles stand, asked for by anybody: within bounds.
//!
//! Always holds: coordinators are asked a few times at once, and of one bundle once in a while; whoever finds too much under
//! way goes without. Leaves to others: asking (`coordinators`).

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use firn_base::BundleId;
use lru::LruCache;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::coordinators::{BundleStanding, CoordinatorsAway};

// Answers name all shards of a bundle, and anybody may ask.
const ASKED_AT_ONCE: usize = 4;

// A person who looks again sees what changed; a program that asks on and on costs nobody anything.
const FRESH: Duration = Duration::from_secs(10);

const KNOWN_MAX: NonZeroUsize = NonZeroUsize::new(1024).expect("a constant above zero");

/// Standings that were asked for lately.
#[derive(Debug)]
pub(crate) struct Standings {
    known: Mutex<LruCache<BundleId, (Instant, BundleStanding)>>,
    permits: Semaphore,
}

impl Default for Standings {
    fn default() -> Self {
        Self { known: Mutex::new(LruCache::new(KNOWN_MAX)), permits: Semaphore::new(ASKED_AT_ONCE) }
    }
}

impl Standings {
    /// How the bundle stands: as said lately, or by `ask`.
    pub(crate) async fn get(
        &self,
        bundle: BundleId,
        ask: impl Future<Output = Result<BundleStanding, CoordinatorsAway>>,
    ) -> Result<BundleStanding, CoordinatorsAway> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&bundle).copied();
        if let Some((_, standing)) = known.filter(|(at, _)| at.elapsed() < FRESH) {
            return Ok(standing);
        }
        let permit = self.permits.try_acquire();
        let _permit =
            permit.map_err(|_| CoordinatorsAway { cause: "too much is asked of them".to_owned() })?;
        let standing = ask.await?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.put(bundle, (Instant::now(), standing));
        Ok(standing)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use firn_base::Timestamp;
    use futures::FutureExt;

    use super::*;

    const STANDING: BundleStanding =
        BundleStanding { committed_at: Timestamp::from_millis(0), k: 4, n: 6, held: 6, online: 5 };

    #[tokio::test(start_paused = true)]
    async fn a_bundle_is_asked_for_once_in_a_while_and_few_are_at_once() {
        let (standings, asked) = (Standings::default(), AtomicUsize::new(0));
        let ask = async || {
            asked.fetch_add(1, Ordering::Relaxed);
            Ok(STANDING)
        };
        let bundle = |number: u8| BundleId::from_bytes([number; 32]);
        for expected in [1, 1, 1] {
            assert_eq!(standings.get(bundle(1), ask()).await, Ok(STANDING));
            assert_eq!(asked.load(Ordering::Relaxed), expected);
        }
        tokio::time::advance(FRESH).await;
        assert_eq!(standings.get(bundle(1), ask()).await, Ok(STANDING));
        assert_eq!(asked.load(Ordering::Relaxed), 2);
        let mut waiting: Vec<_> =
            (10..14).map(|number| Box::pin(standings.get(bundle(number), std::future::pending()))).collect();
        assert!(waiting.iter_mut().all(|one| one.now_or_never().is_none()));
        assert!(standings.get(bundle(2), ask()).await.is_err(), "without a permit it is left out");
        assert_eq!(standings.get(bundle(1), ask()).await, Ok(STANDING));
        drop(waiting);
        assert_eq!(standings.get(bundle(2), ask()).await, Ok(STANDING));
        assert_eq!(asked.load(Ordering::Relaxed), 3);
    }
}
