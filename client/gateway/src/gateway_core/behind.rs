//! Work that nobody waits for.
//!
//! Always holds: there are at most so many tasks as were allowed, whatever is asked; what is more is not begun; they end
//! with the gateway. Leaves to others: what the work is.

use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::sync::{Semaphore, watch};

/// Tasks behind the answers.
#[derive(Debug)]
pub(super) struct Behind {
    permits: Arc<Semaphore>,
    ended: watch::Sender<bool>,
}

impl Behind {
    pub(super) fn new(tasks_max: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(tasks_max)), ended: watch::channel(false).0 }
    }

    /// Begins `work`, unless there is too much already or all has ended.
    pub(super) fn begin(&self, work: impl FnOnce() -> BoxFuture<'static, ()>) {
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else { return };
        let (work, mut ended) = (work(), self.ended.subscribe());
        tokio::spawn(async move {
            let _permit = permit;
            tokio::select! {
                biased;
                _ = ended.wait_for(|ended| *ended) => {}
                () = work => {}
            }
        });
    }

    /// Ends what is under way; nothing is begun any more.
    pub(super) fn end(&self) {
        self.permits.close();
        self.ended.send_replace(true);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::FutureExt;
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn no_more_is_begun_than_allowed_and_all_of_it_ends_with_the_gateway() {
        let behind = Behind::new(3);
        let begun = AtomicUsize::new(0);
        let (alive, mut all_gone) = mpsc::channel::<()>(1);
        let begin = || {
            behind.begin(|| {
                begun.fetch_add(1, Ordering::Relaxed);
                let alive = alive.clone();
                async move {
                    let _alive = alive;
                    std::future::pending().await
                }
                .boxed()
            });
        };
        (0..10).for_each(|_| begin());
        assert_eq!(begun.load(Ordering::Relaxed), 3);
        behind.end();
        begin();
        assert_eq!(begun.load(Ordering::Relaxed), 3);
        drop(alive);
        assert_eq!(all_gone.recv().await, None);
    }
}
