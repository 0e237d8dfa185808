//! What is known of a source's server, by all requests to it together.
//!
//! Always holds: a server that is away is found out once and not by each file; what it asks of one request holds for all.
//! Times are since any moment, the same for all calls.
//! Leaves to others: asking it (the client library).

use std::time::Duration;

/// What is known of a server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerState {
    answers: u64,
    away: Option<String>,
    not_before: Duration,
    told: Option<Duration>,
    hides: Option<bool>,
}

// Often enough to show that something waits, seldom enough to be read.
const TELL_EVERY: Duration = Duration::from_secs(60);

impl ServerState {
    /// Forgets that it was away: whoever begins anew asks anew.
    pub fn begin(&mut self) {
        self.away = None;
    }

    /// It said what it has or lacks.
    pub const fn answered(&mut self) {
        self.answers = self.answers.saturating_add(1);
    }

    /// How often it did so far.
    pub const fn answers(&self) -> u64 {
        self.answers
    }

    /// It is away, for this reason; the first one stays.
    pub fn give_up(&mut self, reason: &str) {
        self.away.get_or_insert_with(|| reason.to_owned());
    }

    /// Why it is away, if it is: nothing is to be asked then.
    pub fn away(&self) -> Option<&str> {
        self.away.as_deref()
    }

    /// It asks for no request before `until`.
    pub fn hold(&mut self, until: Duration) {
        self.not_before = self.not_before.max(until);
    }

    /// How long no request may be sent.
    pub const fn held(&self, now: Duration) -> Duration {
        self.not_before.saturating_sub(now)
    }

    /// Whether the user should be told now that something is tried again.
    pub fn tells(&mut self, now: Duration) -> bool {
        let due = self.told.is_none_or(|told| now.saturating_sub(told) >= TELL_EVERY);
        if due {
            self.told = Some(now);
        }
        due
    }

    /// Whether it answers 403 to what it lacks, as buckets do that may not be listed; none if that is not known.
    pub const fn hides(&self) -> Option<bool> {
        self.hides
    }

    /// Learns that from its answers to two questions, one right after the other: for what every cache has, and for a name
    /// that no cache has. While it refuses the former, the latter says nothing.
    pub fn learn(&mut self, present: Option<u16>, impossible: Option<u16>) {
        if let (Some(200 | 404 | 410), Some(status)) = (present, impossible) {
            self.hides = Some(status == 403 && present == Some(200));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn a_server_that_was_given_up_stays_so_until_somebody_begins_anew() {
        let mut state = ServerState::default();
        assert_eq!(state.away(), None);
        state.give_up("first");
        state.give_up("second");
        state.answered();
        assert_eq!((state.away(), state.answers()), (Some("first"), 1));
        state.begin();
        assert_eq!(state.away(), None);
    }

    #[test]
    fn what_one_request_is_asked_holds_for_all_and_is_never_shortened() {
        let mut state = ServerState::default();
        state.hold(seconds(50));
        state.hold(seconds(20));
        assert_eq!(state.held(seconds(10)), seconds(40));
        assert_eq!(state.held(seconds(60)), seconds(0));
    }

    #[test]
    fn tries_are_told_once_a_minute() {
        let mut state = ServerState::default();
        let told: Vec<u64> = (0..200).filter(|now| state.tells(seconds(*now))).collect();
        assert_eq!(told, [0, 60, 120, 180]);
    }

    #[test]
    fn only_a_server_that_gives_something_says_what_403_means() {
        let learnt = |present, impossible| {
            let mut state = ServerState::default();
            state.learn(present, impossible);
            state.hides()
        };
        assert_eq!(learnt(Some(200), Some(403)), Some(true));
        assert_eq!(learnt(Some(200), Some(404)), Some(false));
        assert_eq!(learnt(Some(404), Some(403)), Some(false));
        for present in [Some(403), Some(429), Some(503), None] {
            assert_eq!(learnt(present, Some(403)), None, "{present:?}");
        }
        assert_eq!(learnt(Some(200), None), None);
    }
}
