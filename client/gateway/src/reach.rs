//! Whether coordinators are worth asking now.
//!
//! Nix waits for every answer: where the network is gone, waiting once tells as much as waiting for each path.
//! Always holds: after a failure one question in a while is let through, the others fail at once, until something is heard.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

// A laptop that is on a network again is noticed by the feed's follower within as much.
const TRY_EVERY: Duration = Duration::from_secs(5);

/// What was heard of the coordinators last.
#[derive(Debug, Default)]
pub(crate) struct Reach {
    /// While they are away: when one is asked again.
    next: Mutex<Option<Instant>>,
}

impl Reach {
    /// Whether to ask. While they are away, whoever is told so asks for all.
    pub(crate) fn may_ask(&self) -> bool {
        let mut next = self.next();
        match *next {
            Some(at) if Instant::now() < at => false,
            Some(_) => {
                *next = Some(Instant::now() + TRY_EVERY);
                true
            }
            None => true,
        }
    }

    /// Whether one answered when it was asked last, or none was asked.
    pub(crate) fn seems_there(&self) -> bool {
        self.next().is_none_or(|at| Instant::now() >= at)
    }

    /// One answered.
    pub(crate) fn answered(&self) {
        *self.next() = None;
    }

    /// None answered in time.
    pub(crate) fn failed(&self) {
        *self.next() = Some(Instant::now() + TRY_EVERY);
    }

    fn next(&self) -> MutexGuard<'_, Option<Instant>> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn after_a_failure_one_question_in_a_while_is_let_through() {
        let reach = Reach::default();
        assert!(reach.may_ask() && reach.may_ask());
        reach.failed();
        assert!(!reach.may_ask());
        tokio::time::advance(TRY_EVERY).await;
        assert!(reach.may_ask() && !reach.may_ask());
        reach.answered();
        assert!(reach.may_ask() && reach.may_ask());
    }
}
