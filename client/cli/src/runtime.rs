//! The runtime that commands run in.
//!
//! Always holds: however many connections have something to do, each comes to its turn.

use std::io;

use tokio::runtime::{Builder, Runtime};

// A thread's own queue has 256 places. With more connections than that at work, half of it overflows into the queue that
// all threads share, which is looked into at every 30th turn or so by default: whoever got there waited 60 ms where
// others waited 2. Looking into an empty one is reading a number.
const SHARED_QUEUE_INTERVAL: u32 = 2;

/// A runtime with a thread for each processor.
///
/// # Errors
/// The system gives no threads or no descriptors.
pub(crate) fn runtime() -> io::Result<Runtime> {
    builder().build()
}

fn builder() -> Builder {
    let mut builder = Builder::new_multi_thread();
    builder.global_queue_interval(SHARED_QUEUE_INTERVAL).enable_all();
    builder
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Barrier;

    use super::*;

    const TASKS: usize = 1000;
    const TURNS: usize = 200_000;

    /// How many turns each of many tasks had that always have something to do, when all had so many together.
    fn turns(mut builder: Builder) -> Vec<usize> {
        let runtime = builder.worker_threads(1).build().unwrap();
        let turns: Arc<[AtomicUsize]> = (0..TASKS).map(|_| AtomicUsize::new(0)).collect();
        let left = Arc::new(AtomicUsize::new(TURNS));
        let begin = Arc::new(Barrier::new(TASKS));
        runtime.block_on(async {
            let tasks = (0..TASKS).map(|number| {
                let (turns, left, begin) = (Arc::clone(&turns), Arc::clone(&left), Arc::clone(&begin));
                let take = |left: usize| left.checked_sub(1);
                tokio::spawn(async move {
                    begin.wait().await;
                    while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
                        turns[number].fetch_add(1, Ordering::Relaxed);
                        tokio::task::yield_now().await;
                    }
                })
            });
            for task in tasks.collect::<Vec<_>>() {
                task.await.unwrap();
            }
        });
        turns.iter().map(|turns| turns.load(Ordering::Relaxed)).collect()
    }

    #[test]
    fn no_task_has_twice_the_turns_of_another_where_a_threads_own_queue_is_too_short_for_all() {
        let turns = turns(builder());
        let (least, most) = (turns.iter().min().unwrap(), turns.iter().max().unwrap());
        assert!(*most < 2 * least, "{least} to {most} turns");
    }
}
