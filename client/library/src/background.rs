//! Work that goes on whether or not anybody waits for it right now.
//!
//! Leaves to others: how much of it there is at a time.

use std::panic::resume_unwind;

/// Begins `work` at once and gives what waits for its outcome; a panic in it goes on in whoever waits. Dropping what
/// waits does not stop the work.
pub(crate) fn begin<T, W>(work: W) -> impl Future<Output = T> + use<T, W>
where
    T: Send + 'static,
    W: Future<Output = T> + Send + 'static,
{
    let task = tokio::spawn(work);
    async move {
        match task.await {
            Ok(outcome) => outcome,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                // The runtime is being shut down and drops this task next.
                Err(_) => std::future::pending().await,
            },
        }
    }
}
