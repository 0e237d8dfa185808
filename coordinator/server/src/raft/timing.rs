//! How patient the members of the consensus are with each other.

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
    /// The state is flushed and the log cut after so many entries.
    pub snapshot_every: u64,
    /// Entries kept behind such a cut, for members that lag a little.
    pub entries_kept: u64,
}

impl Default for Timing {
    /// After a leader's death the next one leads within its lease (1 s), the wait (0.5 to 1 s) and a tick
    /// (0.375 s): writes resume in 3 s. Ordinary pauses of a loaded machine stay below 1.5 s.
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(250),
            election_min: Duration::from_millis(500),
            election_max: Duration::from_millis(1000),
            write_gate: Duration::from_millis(1000),
            snapshot_every: 5000,
            entries_kept: 5000,
        }
    }
}

impl Timing {
    /// A leader that no majority answered for longer falls silent, so that the leases of its followers lapse.
    ///
    /// openraft issue 2080: else an old leader that reaches only a bridge between two halves keeps the bridge,
    /// and with it a connected majority, from electing another for as long as the partition lasts.
    pub fn append_gate(&self) -> Duration {
        self.election_max.saturating_mul(2)
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
        assert!(timing.write_gate < timing.append_gate());
    }

    #[test]
    fn times_that_contradict_each_other_are_refused() {
        let timing = Timing { heartbeat: Duration::from_secs(2), ..Timing::default() };
        assert!(timing.config().is_err());
    }
}
