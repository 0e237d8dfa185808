//! Whether coordinators are worth asking now.
//!
//! Nix waits for every answer: where the network is gone, waiting once tells as much as waiting for each path.
//! Always holds: after a failure all questions fail at once, until a coordinator is heard again; the feed's follower alone
//! tries meanwhile, so that nobody's build waits for what it finds out. Leaves to others: trying (`feed_follower`).

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// What was heard of the coordinators last.
#[derive(Debug, Default)]
pub(crate) struct Reach {
    away: AtomicBool,
    doubts: Notify,
}

impl Reach {
    /// Whether one answered when it was asked last, or none was asked.
    pub(crate) fn is_there(&self) -> bool {
        !self.away.load(Ordering::Acquire)
    }

    /// One answered.
    pub(crate) fn answered(&self) {
        self.away.store(false, Ordering::Release);
    }

    /// None answered the follower, who tries on.
    pub(crate) fn lost(&self) {
        self.away.store(true, Ordering::Release);
    }

    /// None answered somebody else in time: the follower, who may be waiting for news, tries at once.
    pub(crate) fn doubt(&self) {
        if !self.away.swap(true, Ordering::AcqRel) {
            self.doubts.notify_one();
        }
    }

    /// Waits until somebody doubts, or has doubted since the last call.
    pub(crate) async fn doubted(&self) {
        self.doubts.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn nobody_is_let_through_after_a_failure_until_one_answers() {
        let reach = Reach::default();
        assert!(reach.is_there());
        reach.lost();
        assert!(
            !reach.is_there() && reach.doubted().now_or_never().is_none(),
            "the follower knows it itself"
        );
        reach.answered();
        reach.doubt();
        reach.doubt();
        assert!(!reach.is_there());
        assert!(reach.doubted().now_or_never().is_some(), "a doubt is not lost while nobody waits for it");
        assert!(reach.doubted().now_or_never().is_none(), "those that came with it are the same");
    }
}
