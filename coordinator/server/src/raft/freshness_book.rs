//! When this member last had all that was committed, as it is heard.
//!
//! Always holds: each word counts as of a moment before which it was said, never after; a library that stands still, since a
//! disk hangs, says nothing. Leaves to others: what follows from what is heard (`firn_coordinator_logic::Freshness`).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use firn_coordinator_logic::Freshness;
use tokio::sync::watch;
use tokio::time::Instant;

use super::types::{AppendRequest, Metrics};

/// What is known of this member's freshness. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct FreshnessBook {
    began: Instant,
    freshness: Arc<Mutex<Freshness>>,
}

/// What a leader says of what is committed, with a message.
#[derive(Debug, Clone, Copy)]
pub(super) struct LeaderWord {
    entry: u64,
    at: Instant,
}

impl LeaderWord {
    /// The word in `request`, which has just come; none of a leader that has not committed in its own term: what others
    /// committed before it, it does not know yet.
    pub(super) fn of(request: &AppendRequest) -> Option<Self> {
        let committed = request.leader_commit.filter(|log_id| log_id.leader_id == request.vote.leader_id);
        committed.map(|log_id| Self { entry: log_id.index, at: Instant::now() })
    }
}

impl FreshnessBook {
    /// Of a member that begins now.
    pub(crate) fn new() -> Self {
        let freshness = Freshness::new(Duration::ZERO);
        Self { began: Instant::now(), freshness: Arc::new(Mutex::new(freshness)) }
    }

    /// For how long it has not been known whether something newer was committed.
    pub(crate) fn age(&self) -> Duration {
        self.lock().age(self.moment(Instant::now()))
    }

    /// The [age](Self::age) if nobody was heard, or not within `limit`.
    pub(crate) fn stale(&self, limit: Duration) -> Option<Duration> {
        self.lock().stale(self.moment(Instant::now()), limit)
    }

    /// The leader said so, and this member follows it.
    pub(super) fn hear_leader(&self, word: LeaderWord) {
        self.lock().hear(word.entry, self.moment(word.at));
    }

    /// Looks at the library's metrics for as long as it lives.
    pub(crate) async fn follow(self, mut metrics: watch::Receiver<Metrics>) {
        while metrics.changed().await.is_ok() {
            // They say how long ago something was: from when they were made on.
            let now = Instant::now();
            let metrics = metrics.borrow_and_update();
            self.take(&metrics, now);
        }
    }

    fn take(&self, metrics: &Metrics, now: Instant) {
        let mut freshness = self.lock();
        freshness.apply(metrics.last_applied.map_or(0, |log_id| log_id.index));
        // While a majority took it for the leader, nothing could be committed that is not in its log.
        if metrics.state.is_leader()
            && let (Some(silence), Some(last)) = (metrics.millis_since_quorum_ack, metrics.last_log_index)
        {
            freshness.hear(last, self.moment(now).saturating_sub(Duration::from_millis(silence)));
        }
    }

    fn moment(&self, at: Instant) -> Duration {
        at.duration_since(self.began)
    }

    fn lock(&self) -> MutexGuard<'_, Freshness> {
        self.freshness.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use openraft::{CommittedLeaderId, LogId, ServerState};

    use super::*;
    use crate::raft::Vote;

    fn log_id(term: u64, index: u64) -> LogId<u64> {
        LogId::new(CommittedLeaderId::new(term, 1), index)
    }

    fn leader(applied: u64, last: u64, silence: u64) -> Metrics {
        Metrics {
            state: ServerState::Leader,
            last_applied: Some(log_id(7, applied)),
            last_log_index: Some(last),
            millis_since_quorum_ack: Some(silence),
            ..Metrics::new_initial(1)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_is_as_fresh_as_the_last_answer_of_a_majority_also_when_its_library_stands_still() {
        let book = FreshnessBook::new();
        let (sender, receiver) = watch::channel(Metrics::new_initial(1));
        tokio::spawn(book.clone().follow(receiver));
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(book.age(), Duration::from_secs(60));
        sender.send_replace(leader(20, 20, 100));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(book.age(), Duration::from_millis(1100));
        // Metrics that nobody renews do not keep it fresh, and one that lags behind its own log is not.
        tokio::time::sleep(Duration::from_secs(59)).await;
        sender.send_replace(leader(20, 21, 0));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(book.age(), Duration::from_millis(61_100));
        sender.send_replace(leader(21, 21, 0));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(book.age(), Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_is_believed_once_it_has_committed_in_its_own_term() {
        let request = |leader_commit| AppendRequest {
            vote: Vote::new_committed(7, 1),
            prev_log_id: None,
            entries: Vec::new(),
            leader_commit,
        };
        assert!(LeaderWord::of(&request(None)).is_none());
        assert!(LeaderWord::of(&request(Some(log_id(6, 30)))).is_none());
        let word = LeaderWord::of(&request(Some(log_id(7, 31)))).unwrap();
        assert_eq!(word.entry, 31);
    }
}
