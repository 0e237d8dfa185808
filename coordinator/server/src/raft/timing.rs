//! How patient the members of the consensus are with each other.
//!
//! Always holds: all times follow from how long a message and its answer are under way at most ([`Timing::for_round_trip`]),
//! or are a test's own.

use std::time::Duration;

use openraft::{Config, SnapshotPolicy};

/// Times of the consensus. The same on all members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// A leader shows signs of life this often; also how long it waits for an answer to one.
    pub heartbeat: Duration,
    /// A follower waits at least this long behind the leader's lease before it asks for votes.
    pub election_min: Duration,
    /// And at most this long; also the leader's lease.
    pub election_max: Duration,
    /// A leader that no majority answered for longer refuses writes.
    pub write_gate: Duration,
    /// A leader that no majority answered for longer falls silent, so that the leases of its followers lapse.
    ///
    /// openraft issue 2080: else an old leader that reaches only a bridge between two halves keeps the bridge,
    /// and with it a connected majority, from electing another for as long as the partition lasts.
    pub append_gate: Duration,
    /// The state is flushed and the log cut after so many entries.
    pub snapshot_every: u64,
    /// Entries kept behind such a cut, for members that lag a little.
    pub entries_kept: u64,
}

impl Default for Timing {
    /// For a local network: after a leader's death the next one leads within its lease (1 s), the wait (0.5 to 1 s) and a
    /// tick (0.375 s): writes resume in 3 s. Ordinary pauses of a loaded machine stay below 1.5 s.
    fn default() -> Self {
        Self::for_round_trip(Duration::ZERO)
    }
}

/// The shortest time between signs of life.
const HEARTBEAT_MIN: Duration = Duration::from_millis(250);
// For what an answer takes beside its way: a disk that syncs, a machine that is busy.
const ANSWER_TAKES: Duration = Duration::from_millis(100);
/// The longest round trip that times are made for: half way around the world by satellite.
pub const ROUND_TRIP_MAX: Duration = Duration::from_secs(2);

// A way that is found anew more often is never found on a busy machine.
const REDIAL_MIN: Duration = Duration::from_millis(500);

impl Timing {
    /// Times for members that are at most `round_trip` apart, there and back; 80 ms and less are as good as none, and more
    /// than 2 s counts as that.
    ///
    /// While entries are under way, a leader waits for half a heartbeat before it asks for a sign of life and another
    /// half for the answer: so a heartbeat is two round trips and two answers. The rest are multiples: with 300 ms, a
    /// heartbeat is 0.8 s, and after a leader's death the next one leads within its lease (3.2 s), the wait (1.6 to 3.2
    /// s) and a tick (1.2 s).
    pub fn for_round_trip(round_trip: Duration) -> Self {
        let waits = round_trip.min(ROUND_TRIP_MAX).saturating_add(ANSWER_TAKES).saturating_mul(2);
        // Half of the shortest heartbeat, 125 ms, is enough for 80 ms and an answer that is not late.
        let heartbeat = if round_trip <= Duration::from_millis(80) { HEARTBEAT_MIN } else { waits };
        Self {
            heartbeat,
            election_min: heartbeat.saturating_mul(2),
            election_max: heartbeat.saturating_mul(4),
            write_gate: heartbeat.saturating_mul(4),
            append_gate: heartbeat.saturating_mul(8),
            snapshot_every: 5000,
            entries_kept: 5000,
        }
    }

    /// Without an answer for this long, the way to a member is found anew: two heartbeats, no longer than any election
    /// where those are not a test's.
    pub(crate) fn redial_after(&self) -> Duration {
        self.heartbeat.saturating_mul(2).max(REDIAL_MIN)
    }

    /// A member that has not known for longer whether it has all that is committed says so. Two elections take as long: a
    /// leader that is followed by another one is missed by hardly anybody.
    pub(crate) const fn stale_after(&self) -> Duration {
        self.append_gate
    }

    /// As the library wants them; the sentence says what contradicts what.
    pub(crate) fn config(&self) -> Result<Config, String> {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let config = Config {
            cluster_name: "firn".into(),
            heartbeat_interval: millis(self.heartbeat),
            election_timeout_min: millis(self.election_min),
            election_timeout_max: millis(self.election_max),
            // A message is cut by its bytes, see `log_store`.
            max_payload_entries: 1024,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_every),
            max_in_snapshot_log_to_keep: self.entries_kept,
            replication_lag_threshold: self.snapshot_every.saturating_add(self.entries_kept),
            ..Config::default()
        };
        config.validate().map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_times_fit_each_other_and_the_time_to_resume_writes() {
        let timing = Timing::default();
        timing.config().unwrap();
        let tick = timing.heartbeat.saturating_mul(3) / 2;
        let lease = timing.election_max;
        assert!(lease + timing.election_max + tick < Duration::from_millis(2500));
        assert!(timing.write_gate < timing.append_gate && timing.append_gate == 2 * timing.election_max);
    }

    #[test]
    fn times_for_a_round_trip_leave_room_for_answers_and_grow_with_it() {
        let millis = Duration::from_millis;
        assert_eq!(Timing::for_round_trip(millis(80)), Timing::default());
        let mut before = Timing::default();
        for round_trip in [81, 150, 300, 600, 2000] {
            let timing = Timing::for_round_trip(millis(round_trip));
            timing.config().unwrap();
            // A sign of life beside entries, and a vote that is synced, have their answers in time.
            assert!(timing.heartbeat / 2 >= millis(round_trip + 50), "{timing:?}");
            assert!(timing.election_min >= millis(2 * round_trip + 200), "{timing:?}");
            assert!(timing.heartbeat > before.heartbeat && timing.election_min > before.election_min);
            assert!(timing.redial_after() <= timing.election_min && timing.write_gate < timing.append_gate);
            before = timing;
        }
        assert_eq!(Timing::for_round_trip(millis(300)).heartbeat, millis(800));
        assert_eq!(Timing::for_round_trip(Duration::MAX), before);
    }

    #[test]
    fn times_that_contradict_each_other_are_refused() {
        let timing = Timing { heartbeat: Duration::from_secs(2), ..Timing::default() };
        assert!(timing.config().is_err());
    }
}
