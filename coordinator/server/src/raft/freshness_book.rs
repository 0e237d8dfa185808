//! When this member last had all that was committed, as it is heard.
//!
//! Always holds: what a leader knows of itself counts as of a moment before it was said, never after; a leader's word
//! counts as of when it came, so what it says is older by its way, unless this process or its library has stood still:
//! then it may have lain here for as long, and counts for nothing; a library that stands still, since a disk hangs,
//! says nothing. Leaves to others: what follows from what is heard (`firn_coordinator_logic::Freshness`).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use firn_coordinator_logic::Freshness;
use tokio::sync::watch;
use tokio::time::Instant;

use super::timing::Timing;
use super::types::{AppendRequest, Metrics};

/// What is known of this member's freshness. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct FreshnessBook {
    began: Instant,
    timing: Timing,
    heard: Arc<Mutex<Heard>>,
}

#[derive(Debug)]
struct Heard {
    freshness: Freshness,
    /// When the library's metrics were looked at last: it renews them at every tick.
    looked_at: Instant,
    /// What came before may have lain here.
    counts_from: Instant,
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
    pub(crate) fn new(timing: Timing) -> Self {
        let began = Instant::now();
        let freshness = Freshness::new(Duration::ZERO);
        let heard = Heard { freshness, looked_at: began, counts_from: began };
        Self { began, timing, heard: Arc::new(Mutex::new(heard)) }
    }

    /// For how long it has not been known whether something newer was committed.
    pub(crate) fn age(&self) -> Duration {
        self.lock().freshness.age(self.moment(Instant::now()))
    }

    /// The [age](Self::age) if nobody was heard, or not within `limit`.
    pub(crate) fn stale(&self, limit: Duration) -> Option<Duration> {
        self.lock().freshness.stale(self.moment(Instant::now()), limit)
    }

    /// The leader said so, and this member follows it.
    pub(super) fn hear_leader(&self, word: LeaderWord) {
        let mut heard = self.lock();
        let stood_still = word.at.saturating_duration_since(heard.looked_at) > self.stands_still_after();
        if word.at >= heard.counts_from && !stood_still {
            heard.freshness.hear(word.entry, self.moment(word.at));
        }
    }

    /// Looks at the library's metrics for as long as it lives.
    pub(crate) async fn follow(self, mut metrics: watch::Receiver<Metrics>) {
        while metrics.changed().await.is_ok() {
            let now = Instant::now();
            let metrics = metrics.borrow_and_update();
            self.take(&metrics, now);
        }
    }

    fn take(&self, metrics: &Metrics, now: Instant) {
        let mut heard = self.lock();
        // They say how long ago something was, from when they were made on: some time after the last look.
        let made_after = std::mem::replace(&mut heard.looked_at, now);
        if now.duration_since(made_after) > self.stands_still_after() {
            // What has lain is read at once.
            heard.counts_from = now + self.timing.heartbeat;
        }
        let freshness = &mut heard.freshness;
        freshness.apply(metrics.last_applied.map_or(0, |log_id| log_id.index));
        // While a majority took it for the leader, nothing could be committed that is not in its log.
        if metrics.state.is_leader()
            && let (Some(silence), Some(last)) = (metrics.millis_since_quorum_ack, metrics.last_log_index)
        {
            freshness.hear(last, self.moment(made_after).saturating_sub(Duration::from_millis(silence)));
        }
    }

    /// Longer than the library is without a tick: one and a half heartbeats.
    const fn stands_still_after(&self) -> Duration {
        self.timing.write_gate
    }

    fn moment(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.began)
    }

    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
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

    const SECOND: Duration = Duration::from_secs(1);

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_is_as_fresh_as_the_last_answer_of_a_majority_also_when_its_library_stands_still() {
        let book = FreshnessBook::new(Timing::default());
        let (sender, receiver) = watch::channel(Metrics::new_initial(1));
        tokio::spawn(book.clone().follow(receiver));
        tokio::time::sleep(SECOND * 60).await;
        assert_eq!(book.age(), SECOND * 60);
        sender.send_replace(leader(20, 20, 0));
        tokio::time::sleep(millis(300)).await;
        // When these were made is known to be after the others only.
        sender.send_replace(leader(20, 20, 100));
        tokio::time::sleep(SECOND).await;
        assert_eq!(book.age(), millis(1400));
        // Metrics that nobody renews do not keep it fresh, and one that lags behind its own log is not.
        tokio::time::sleep(SECOND * 59).await;
        for (applied, age) in [(20, 61_400), (20, 62_400), (21, 2000)] {
            sender.send_replace(leader(applied, 21, 0));
            tokio::time::sleep(SECOND).await;
            assert_eq!(book.age(), millis(age));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_stood_still_when_it_should_have_looked_is_not_fresh_when_it_looks() {
        let book = FreshnessBook::new(Timing::default());
        book.take(&leader(20, 20, 0), Instant::now());
        tokio::time::advance(millis(200)).await;
        // They are made now, and looked at ten minutes later.
        let metrics = leader(20, 20, 0);
        tokio::time::advance(SECOND * 600).await;
        book.take(&metrics, Instant::now());
        assert_eq!(book.age(), SECOND * 600 + millis(200));
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_lain_while_a_follower_stood_still_does_not_make_it_fresh() {
        let book = FreshnessBook::new(Timing::default());
        let follower = Metrics { last_applied: Some(log_id(7, 20)), ..Metrics::new_initial(1) };
        let says = |entry| LeaderWord { entry, at: Instant::now() };
        let tick = async || {
            tokio::time::advance(millis(250)).await;
            book.take(&follower, Instant::now());
        };
        tick().await;
        book.hear_leader(says(20));
        assert_eq!(book.age(), Duration::ZERO);
        tokio::time::advance(SECOND * 600).await;
        // Either of them may be first when all goes on.
        book.hear_leader(says(20));
        assert_eq!(book.age(), SECOND * 600);
        book.take(&follower, Instant::now());
        book.hear_leader(says(20));
        assert_eq!(book.age(), SECOND * 600);
        tick().await;
        book.hear_leader(says(20));
        assert_eq!(book.age(), Duration::ZERO);
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
