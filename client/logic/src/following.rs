//! Following a source: when to look at it again, and how far behind the archive is.
//!
//! Always holds: a round begins one period after the one before began, or at once if that took longer; after failures the
//! next one comes later and later, up to the period, and never sooner than half a minute; the lag grows until everything
//! that was there at one moment can be read from the archive. No clock: times come in.
//! Leaves to others: reading, publishing, waiting (`firn-cli`).

use std::collections::BTreeSet;
use std::time::Duration;

use firn_base::Timestamp;

use crate::summary::PublishSummary;

// A source or an archive that is away is not helped by being asked more often.
const FAILURE_PAUSE_MIN: Duration = Duration::from_secs(30);

// What is asked for again without a pause is still asked for once a second at most.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// How a look at the source ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoundOutcome {
    /// Every path that was found can be read from the archive.
    Complete,
    /// Some of it was refused or waits.
    Incomplete,
    /// It ended before its end.
    Failed,
}

/// A source that is followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Following {
    period: Duration,
    /// When the round under way, or the last one, began.
    began: Timestamp,
    /// As of when every path can be read from the archive.
    caught_up: Timestamp,
    failures: u32,
    /// Names that need not be looked at again.
    settled: BTreeSet<String>,
    /// Files that were not archived and that no listing names: build logs, which paths lead to.
    unlisted: BTreeSet<String>,
}

impl Following {
    /// Begins at `now` to look every `period`.
    pub const fn new(period: Duration, now: Timestamp) -> Self {
        Self {
            period,
            began: now,
            caught_up: now,
            failures: 0,
            settled: BTreeSet::new(),
            unlisted: BTreeSet::new(),
        }
    }

    /// A round begins: which of `names` it has to look at.
    ///
    /// Those of earlier rounds that are listed no more are forgotten.
    pub fn begin(&mut self, now: Timestamp, names: Vec<String>) -> Vec<String> {
        self.began = now;
        let (old, mut new): (Vec<String>, Vec<String>) =
            names.into_iter().partition(|name| self.settled.contains(mark(name)));
        self.settled = old.iter().map(|name| mark(name).to_owned()).collect();
        new.extend(self.unlisted.iter().cloned());
        new
    }

    /// A round over `names` has ended with this summary. What was refused, waits, or is a file that was not archived is
    /// looked at again; a file alone makes no round incomplete.
    pub fn end(&mut self, names: &[String], summary: &PublishSummary) -> RoundOutcome {
        self.failures = 0;
        let refused = summary.refused.iter().map(|path| mark(&path.name));
        let waiting = summary.waiting.iter().map(|path| mark(&path.name));
        let files = summary.notes.iter().map(|file| mark(&file.name));
        let open: BTreeSet<&str> = refused.chain(waiting).chain(files).collect();
        let listed: BTreeSet<&str> =
            names.iter().filter(|name| !self.unlisted.contains(*name)).map(|name| mark(name)).collect();
        let unlisted =
            summary.notes.iter().map(|file| &file.name).filter(|name| !listed.contains(mark(name)));
        self.unlisted = unlisted.cloned().collect();
        self.settled.extend(
            names.iter().map(|name| mark(name)).filter(|name| !open.contains(name)).map(str::to_owned),
        );
        if !summary.is_complete() {
            return RoundOutcome::Incomplete;
        }
        self.caught_up = self.began;
        RoundOutcome::Complete
    }

    /// A round has ended before its end.
    pub const fn fail(&mut self) -> RoundOutcome {
        self.failures = self.failures.saturating_add(1);
        RoundOutcome::Failed
    }

    /// How long to wait before the next round.
    pub fn pause(&self, now: Timestamp) -> Duration {
        let left = self.period.saturating_sub(now.since(self.began));
        if self.failures == 0 {
            return left.max(PAUSE_MIN);
        }
        let doublings = (self.failures - 1).min(31);
        FAILURE_PAUSE_MIN.saturating_mul(1 << doublings).min(self.period.max(FAILURE_PAUSE_MIN))
    }

    /// How far the archive is behind the source, at most.
    pub fn lag(&self, now: Timestamp) -> Duration {
        now.since(self.caught_up)
    }
}

/// What stays the same however a path or file is written: the hash of a path, the id in the URL of a file; of anything
/// else all of it.
pub(crate) fn mark(name: &str) -> &str {
    let base = name.strip_prefix("/nix/store/").unwrap_or(name);
    match base.get(..32) {
        Some(hash) if hash.bytes().all(|byte| byte.is_ascii_alphanumeric()) => hash,
        _ => {
            let id = base.strip_prefix("realisations/").unwrap_or(base);
            id.strip_suffix(".doi").or_else(|| id.strip_suffix(".debug")).unwrap_or(id)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::{NotedFile, WaitingPath};

    const HASHES: [&str; 3] = [
        "4d20g8srpvv02vkiwrmz28g62m15n56b",
        "5d20g8srpvv02vkiwrmz28g62m15n56b",
        "6d20g8srpvv02vkiwrmz28g62m15n56b",
    ];
    const PERIOD: Duration = Duration::from_secs(600);

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    fn names() -> Vec<String> {
        let [a, b, c] = HASHES;
        vec![format!("/nix/store/{a}-a"), format!("{b}-b"), c.to_owned(), "realisations/x.doi".to_owned()]
    }

    #[test]
    fn what_is_settled_is_not_looked_at_again_and_what_was_refused_or_waits_is() {
        let mut following = Following::new(PERIOD, at(0));
        assert_eq!(following.begin(at(0), names()), names());
        let mut summary = PublishSummary::default();
        summary.refuse(format!("{}.narinfo", HASHES[2]), "no signature");
        let waiting = WaitingPath { name: format!("{}-b", HASHES[1]), waiting_for: Vec::new() };
        summary.waiting.push(waiting);
        assert_eq!(following.end(&names(), &summary), RoundOutcome::Incomplete);
        assert_eq!(following.begin(at(600), names()), names()[1..3]);
        assert_eq!(following.end(&names()[1..3], &PublishSummary::default()), RoundOutcome::Complete);
        assert!(following.begin(at(1200), names()).is_empty());
        let new = "7d20g8srpvv02vkiwrmz28g62m15n56b".to_owned();
        assert_eq!(following.begin(at(1800), [names(), vec![new.clone()]].concat()), [new]);
    }

    #[test]
    fn a_file_that_was_not_archived_is_looked_at_again_also_where_no_listing_names_it() {
        let mut following = Following::new(PERIOD, at(0));
        let listed = vec!["debuginfo/ab".to_owned(), "sha256:0a!out".to_owned(), HASHES[0].to_owned()];
        assert_eq!(following.begin(at(0), listed.clone()), listed);
        let log = format!("log/{}-a.drv", HASHES[1]);
        let noted = ["debuginfo/ab.debug", "realisations/sha256:0a!out.doi", &log];
        let notes = noted.map(|name| NotedFile { name: name.to_owned(), reason: "timeout".to_owned() });
        let summary = PublishSummary { notes: notes.to_vec(), ..PublishSummary::default() };
        assert_eq!(following.end(&listed, &summary), RoundOutcome::Complete);
        let again = following.begin(at(600), listed.clone());
        assert_eq!(again, [listed[0].clone(), listed[1].clone(), log.clone()]);
        let summary = PublishSummary { notes: vec![notes[2].clone()], ..PublishSummary::default() };
        following.end(&again, &summary);
        assert_eq!(following.begin(at(1200), listed.clone()), std::slice::from_ref(&log));
        following.end(&[log], &PublishSummary::default());
        assert!(following.begin(at(1800), listed).is_empty());
    }

    #[test]
    fn what_is_listed_no_more_is_forgotten_and_new_when_it_comes_back() {
        let mut following = Following::new(PERIOD, at(0));
        following.begin(at(0), names());
        following.end(&names(), &PublishSummary::default());
        assert!(following.begin(at(600), names()[1..].to_vec()).is_empty());
        assert_eq!(following.settled.len(), 3);
        assert_eq!(following.begin(at(1200), names()), names()[..1]);
    }

    #[test]
    fn the_lag_counts_from_the_beginning_of_the_last_complete_round() {
        let mut following = Following::new(PERIOD, at(0));
        following.begin(at(10), names());
        assert_eq!(following.lag(at(100)), Duration::from_secs(100), "nothing is known to be there");
        following.end(&names(), &PublishSummary::default());
        assert_eq!(following.lag(at(100)), Duration::from_secs(90));
        following.begin(at(610), names());
        following.fail();
        assert_eq!(following.lag(at(700)), Duration::from_secs(690));
    }

    #[test]
    fn rounds_begin_a_period_apart_and_later_after_failures() {
        let mut following = Following::new(PERIOD, at(0));
        following.begin(at(0), names());
        following.end(&names(), &PublishSummary::default());
        assert_eq!(following.pause(at(100)), Duration::from_secs(500));
        assert_eq!(following.pause(at(6000)), PAUSE_MIN, "a long round is followed by the next one");
        let pauses = std::iter::repeat_with(|| {
            following.fail();
            following.pause(at(6000)).as_secs()
        });
        assert_eq!(pauses.take(7).collect::<Vec<_>>(), [30, 60, 120, 240, 480, 600, 600]);
        following.end(&names(), &PublishSummary::default());
        assert_eq!(following.pause(at(100)), Duration::from_secs(500), "one that goes well forgets them");
    }
}
