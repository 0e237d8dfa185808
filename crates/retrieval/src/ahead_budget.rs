//! How much of objects is fetched ahead of whoever reads them.
//!
//! Always holds: frames that one stream has fetched ahead take at most its own bytes, and those of all streams together
//! at most what they share, but for one frame each: what a stream is read for next it may always have, so none waits for
//! the reader of another one. Leaves to others: what a frame takes, and in which order frames are fetched.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What all streams of a reader share. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct AheadBudget {
    common: Arc<Semaphore>,
    stream_bytes: u32,
}

/// What one stream may fetch ahead.
#[derive(Debug, Clone)]
pub(crate) struct StreamBudget {
    common: Arc<Semaphore>,
    own: Arc<Semaphore>,
    bytes: u32,
}

/// The room that a frame takes, until this is dropped.
#[derive(Debug)]
pub(crate) struct AheadShare {
    _own: Option<OwnedSemaphorePermit>,
    _common: Option<OwnedSemaphorePermit>,
}

fn permits(bytes: u32) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(usize::try_from(bytes).unwrap_or(Semaphore::MAX_PERMITS)))
}

impl AheadBudget {
    /// `stream_bytes` for each stream, and `common_bytes` for all of them.
    pub(crate) fn new(stream_bytes: u32, common_bytes: u32) -> Self {
        Self { common: permits(common_bytes), stream_bytes: stream_bytes.max(1) }
    }

    /// For one stream more.
    pub(crate) fn stream(&self) -> StreamBudget {
        let common = Arc::clone(&self.common);
        StreamBudget { common, own: permits(self.stream_bytes), bytes: self.stream_bytes }
    }
}

impl StreamBudget {
    /// Waits for the room of a frame of `weight` bytes. Where the common room is taken, a stream waits until nothing of
    /// its own is fetched ahead, and goes on with this one frame alone.
    pub(crate) async fn share(self, weight: u32) -> AheadShare {
        let weight = weight.min(self.bytes);
        // The common room first: whoever waited for it with a part of its own in hand would never have all of its own.
        let beside = async {
            let common = Arc::clone(&self.common).acquire_many_owned(weight).await.ok();
            let own = Arc::clone(&self.own).acquire_many_owned(weight).await.ok();
            AheadShare { _own: own, _common: common }
        };
        let alone = async {
            let own = Arc::clone(&self.own).acquire_many_owned(self.bytes).await.ok();
            AheadShare { _own: own, _common: None }
        };
        tokio::select! {
            biased;
            share = beside => share,
            share = alone => share,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn now(budget: &StreamBudget, weight: u32) -> Option<AheadShare> {
        budget.clone().share(weight).now_or_never()
    }

    #[test]
    fn a_stream_keeps_to_its_own_bytes_and_a_frame_beyond_them_waits_for_all_others() {
        let stream = AheadBudget::new(10, 100).stream();
        let (six, four) = (now(&stream, 6), now(&stream, 4));
        assert!(six.is_some() && four.is_some());
        assert!(now(&stream, 1).is_none());
        drop(six);
        assert!(now(&stream, 99).is_none(), "it counts as ten, and four are taken");
        drop(four);
        assert!(now(&stream, 99).is_some());
    }

    #[test]
    fn streams_share_a_bound_and_each_may_have_one_frame_all_the_same() {
        let budget = AheadBudget::new(10, 12);
        let streams: Vec<StreamBudget> = (0..5).map(|_| budget.stream()).collect();
        let first: Vec<_> = streams.iter().map(|stream| now(stream, 5)).collect();
        assert!(first.iter().all(Option::is_some), "two from the common room, three alone");
        assert!(streams.iter().all(|stream| now(stream, 5).is_none()));
        drop(first);
        let both = (now(&streams[0], 5), now(&streams[0], 5));
        assert!(both.0.is_some() && both.1.is_some(), "everything came back");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_waits_for_others_goes_on_when_its_own_frame_was_taken() {
        let budget = AheadBudget::new(10, 5);
        let (one, two) = (budget.stream(), budget.stream());
        let common = now(&one, 5).unwrap();
        let alone = now(&two, 5).unwrap();
        let next = tokio::spawn(two.clone().share(5));
        tokio::task::yield_now().await;
        assert!(!next.is_finished());
        drop(alone);
        // The first one still holds what is common.
        next.await.unwrap();
        drop(common);
    }
}
