//! What is told to a node's owner by a command, and what was told already.
//!
//! Always holds: a cause is told once, and again only after it was gone for a day; an announced suspension is told once, and
//! another one again, four within a day at most. So there are few notices in a day, whatever comes and goes. What was told is
//! written down before it is told.
//! Leaves to others: what concerns an owner (`concern`), running the command, the disk.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use firn_base::Timestamp;

use crate::concern::Concern;

const MAGIC: &str = "firn-notices 1";

/// How long a cause must be gone before it is another one when it is there again.
const CAUSE_GONE_FOR: Duration = Duration::from_secs(86_400);

// It is remembered longer that an announcement was told: it stands for two days and half an hour, in which a node that reaches
// nobody after a start does not know it.
const ANNOUNCEMENT_GONE_FOR: Duration = Duration::from_secs(3 * 86_400);

// How long a cause has been gone is written so often: a node that is started again every day comes to an end with it too.
const WRITTEN_EVERY: Duration = Duration::from_secs(21_600);

// More than there are: a file of a later version may know others.
const CAUSES_MOST: usize = 64;
const CAUSE_BYTES_MOST: usize = 64;

// Announcements that are told within a day. Operators do not mean more of them.
const ANNOUNCEMENTS_MOST: usize = 4;

// What is written of announcements begins with it.
const ANNOUNCEMENT: &str = "suspension-announced-";

/// The cause of a notice that a node has left.
const DRAINED: &str = "drained";

/// What kind of notice it is, by the names that owners' commands know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoticeEvent {
    /// Something needs the owner's attention that has no name of its own here.
    NeedsAttention,
    /// The archive's operators have suspended the node, or will.
    Suspended,
    /// The disk does not give what it holds, or is gone.
    DiskFailing,
    /// The program and the archive speak different versions of the protocol.
    NewVersionRequired,
    /// The node has left: everything on it has another home.
    Drained,
}

impl fmt::Display for NoticeEvent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::NeedsAttention => "needs-attention",
            Self::Suspended => "suspended",
            Self::DiskFailing => "disk-failing",
            Self::NewVersionRequired => "new-version-required",
            Self::Drained => "drained",
        })
    }
}

/// Something to tell the owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Which kind.
    pub event: NoticeEvent,
    /// The name of what it is about: it is told once.
    pub cause: &'static str,
    /// What is the matter and what to do.
    pub sentence: String,
    /// When the archive does something about it, if that is known.
    pub consequence_at: Option<Timestamp>,
}

impl Notice {
    fn drained() -> Self {
        Self {
            event: NoticeEvent::Drained,
            cause: DRAINED,
            sentence: "every shard has another home: this node has left the archive, and what lies in its data directory is yours to delete".to_owned(),
            consequence_at: None,
        }
    }
}

impl From<&Concern> for Notice {
    fn from(concern: &Concern) -> Self {
        let event = match concern {
            Concern::DiskGone(_) | Concern::DiskFailing { .. } => NoticeEvent::DiskFailing,
            Concern::NewVersionRequired(_) => NoticeEvent::NewVersionRequired,
            Concern::SuspensionAnnounced { .. } | Concern::Suspended => NoticeEvent::Suspended,
            Concern::Copied
            | Concern::DiskFilled { .. }
            | Concern::NotAdmitted
            | Concern::NotKnown
            | Concern::OutOfTouch(_)
            | Concern::LeaderUnreached(_)
            | Concern::Draining
            | Concern::Removed
            | Concern::DeletionsRefused { .. } => NoticeEvent::NeedsAttention,
        };
        Self {
            event,
            cause: concern.cause(),
            sentence: concern.sentence(),
            consequence_at: concern.consequence_at(),
        }
    }
}

/// The name under which it is written that a concern was told: its cause, and of an announcement also its time and reason, so
/// that each is told, also two for the same time. In letters, since programs of before read no file with other names in it.
fn written_name(concern: &Concern) -> String {
    let cause = concern.cause();
    match concern {
        Concern::SuspensionAnnounced { at, reason } => {
            format!("{cause}-{}-{}", letters(at.as_millis()), letters(u64::from(fingerprint(reason))))
        }
        _ => cause.to_owned(),
    }
}

/// How long what was told under a name must be gone before that is forgotten.
fn remembered_for(name: &str) -> Duration {
    if name.starts_with(ANNOUNCEMENT) { ANNOUNCEMENT_GONE_FOR } else { CAUSE_GONE_FOR }
}

/// A number's digits, each a letter from `a` on.
fn letters(number: u64) -> String {
    number.to_string().bytes().map(|digit| char::from(digit - b'0' + b'a')).collect()
}

/// Tells reasons apart, by FNV-1a: nobody gains anything by two that are alike here.
fn fingerprint(reason: &str) -> u32 {
    reason.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// Which causes were told, and how long those that are gone have been.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NoticeBook {
    told: BTreeMap<String, Duration>,
}

impl NoticeBook {
    /// What is to be told of `concerns`, `passed` after the last look; from now on it counts as told. Says too whether the
    /// book is to be written, which comes before anything of it is told.
    ///
    /// By time that passed while the node ran, not by the clock: one that starts in 1970 would end every cause.
    pub fn take(&mut self, concerns: &[Concern], passed: Duration) -> (Vec<Notice>, bool) {
        let names: Vec<String> = concerns.iter().map(written_name).collect();
        let is_there = |told: &String| names.contains(told);
        let mut is_due = false;
        self.told.retain(|cause, gone_for| {
            let before = *gone_for;
            *gone_for = if is_there(cause) { Duration::ZERO } else { before.saturating_add(passed) };
            let steps = |time: Duration| time.as_secs() / WRITTEN_EVERY.as_secs();
            is_due |= steps(before) != steps(*gone_for);
            *gone_for < remembered_for(cause)
        });
        let mut notices = Vec::new();
        for (concern, name) in concerns.iter().zip(names) {
            if !self.told.contains_key(&name) && self.may_tell(concern) {
                self.told.insert(name, Duration::ZERO);
                notices.push(Notice::from(concern));
            }
        }
        is_due |= !notices.is_empty();
        (notices, is_due)
    }

    /// Whether one more of its kind may be told today.
    fn may_tell(&self, concern: &Concern) -> bool {
        let is_of_today = |(name, gone_for): &(&String, &Duration)| {
            name.starts_with(ANNOUNCEMENT) && **gone_for < CAUSE_GONE_FOR
        };
        !matches!(concern, Concern::SuspensionAnnounced { .. })
            || self.told.iter().filter(is_of_today).count() < ANNOUNCEMENTS_MOST
    }

    /// That the node has left; none if that was told. From now on it counts as told.
    pub fn take_drained(&mut self) -> Option<Notice> {
        self.told.insert(DRAINED.to_owned(), Duration::ZERO).is_none().then(Notice::drained)
    }

    /// The file's text.
    pub fn to_text(&self) -> String {
        let mut text = format!("{MAGIC}\n");
        for (cause, gone_for) in &self.told {
            text.push_str(&format!("told {cause} {}\n", gone_for.as_secs()));
        }
        text
    }
}

/// A text does not say what was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a list of what an owner was told")]
pub struct ParseNoticesError;

impl FromStr for NoticeBook {
    type Err = ParseNoticesError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut lines = text.lines();
        if lines.next() != Some(MAGIC) {
            return Err(ParseNoticesError);
        }
        let mut causes = BTreeMap::new();
        for line in lines {
            let told = line.strip_prefix("told ").and_then(|told| told.split_once(' '));
            let (cause, seconds) = told.ok_or(ParseNoticesError)?;
            let is_name = cause.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
            if !is_name || cause.is_empty() || cause.len() > CAUSE_BYTES_MOST || causes.len() >= CAUSES_MOST {
                return Err(ParseNoticesError);
            }
            let seconds = seconds.parse().map_err(|_| ParseNoticesError)?;
            causes.insert(cause.to_owned(), Duration::from_secs(seconds));
        }
        Ok(Self { told: causes })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::concern::Silence;

    const HOUR: Duration = Duration::from_secs(3600);

    const SILENCE: Silence =
        Silence { since: Timestamp::from_millis(0), absent_until: None, count_lost_after: None };

    fn causes(notices: &[Notice]) -> Vec<&'static str> {
        notices.iter().map(|notice| notice.cause).collect()
    }

    #[test]
    fn a_cause_is_told_once_and_again_after_it_was_gone_for_a_day() {
        let mut book = NoticeBook::default();
        let refused = |orders| Concern::DeletionsRefused { orders };
        let (told, is_due) = book.take(&[refused(1)], HOUR);
        assert_eq!((causes(&told), is_due), (vec!["deletions-refused"], true));
        // More of the same is the same cause, for as long as it is there.
        for hour in 1..100 {
            assert_eq!(book.take(&[refused(hour)], HOUR), (vec![], false));
        }
        // It goes, and comes back too soon; how long it was gone is written now and then.
        assert_eq!(book.take(&[], HOUR * 5), (vec![], false));
        assert_eq!(book.take(&[], HOUR * 5), (vec![], true));
        assert_eq!(book.take(&[refused(1)], HOUR), (vec![], true));
        assert_eq!(book.take(&[], HOUR * 23), (vec![], true));
        assert_eq!(book.take(&[Concern::Suspended], HOUR).0.len(), 1);
        let (told, is_due) = book.take(&[Concern::Suspended, refused(1)], HOUR);
        assert_eq!((causes(&told), is_due), (vec!["deletions-refused"], true));
    }

    #[test]
    fn a_restart_forgets_nothing_of_what_was_told() {
        let mut book = NoticeBook::default();
        book.take(&[Concern::DiskGone(SILENCE), Concern::Suspended], HOUR);
        book.take(&[Concern::Suspended], HOUR);
        let text = book.to_text();
        assert_eq!(text, "firn-notices 1\ntold disk-gone 3600\ntold suspended 0\n");
        let mut again: NoticeBook = text.parse().unwrap();
        assert_eq!(again, book);
        assert_eq!(again.take(&[Concern::Suspended], HOUR), (vec![], false));
        assert_eq!(again.take_drained(), Some(Notice::drained()));
        again = again.to_text().parse().unwrap();
        assert_eq!(again.take_drained(), None);
        for wrong in ["", "firn-notices 2\n", "firn-notices 1\ntold x\n", "firn-notices 1\ntold X 1\n"] {
            assert_eq!(wrong.parse::<NoticeBook>(), Err(ParseNoticesError));
        }
        let lines =
            |count: usize| -> String { (1..=count).map(|n| format!("told {} 1\n", "a".repeat(n))).collect() };
        assert!(format!("{MAGIC}\n{}", lines(CAUSES_MOST)).parse::<NoticeBook>().is_ok());
        assert!(format!("{MAGIC}\n{}", lines(CAUSES_MOST + 1)).parse::<NoticeBook>().is_err());
    }

    #[test]
    fn each_announced_suspension_is_told_once_and_the_next_one_again() {
        let announced =
            |millis| Concern::SuspensionAnnounced { at: Timestamp::from_millis(millis), reason: "x".into() };
        let mut book = NoticeBook::default();
        let (told, is_due) = book.take(&[announced(1_795_383_909_000)], HOUR);
        assert_eq!((causes(&told), is_due), (vec!["suspension-announced"], true));
        assert_eq!(
            (told[0].event, told[0].consequence_at),
            (NoticeEvent::Suspended, Some(Timestamp::from_millis(1_795_383_909_000)))
        );
        let text = book.to_text();
        assert_eq!(text, "firn-notices 1\ntold suspension-announced-bhjfdidjajaaa-ecefeecgjf 0\n");
        book = text.parse().unwrap();
        // Not known after a start, for as long as it may stand, and there again.
        assert_eq!(book.take(&[], HOUR * 49).0, []);
        assert_eq!(book.take(&[announced(1_795_383_909_000)], HOUR).0, []);
        // Taken back, and announced anew an hour later.
        assert_eq!(book.take(&[], HOUR).0, []);
        assert_eq!(book.take(&[announced(1_795_383_909_001)], HOUR).0.len(), 1);
        // Taken back and announced for the same time, as where the archive's time is ahead of the leader's clock.
        let other = Concern::SuspensionAnnounced {
            at: Timestamp::from_millis(1_795_383_909_001),
            reason: "y".into(),
        };
        assert_eq!(book.take(std::slice::from_ref(&other), HOUR).0.len(), 1);
        assert_eq!(book.take(&[other], HOUR).0, []);
        // Whatever a coordinator says, the file can be read again.
        let last =
            Concern::SuspensionAnnounced { at: Timestamp::from_millis(u64::MAX), reason: "x".repeat(200) };
        assert_eq!(book.take(&[last], HOUR).0.len(), 1);
        assert_eq!(book.to_text().parse::<NoticeBook>(), Ok(book.clone()));
        // It has come: that is told, too.
        assert_eq!(causes(&book.take(&[Concern::Suspended], HOUR).0), ["suspended"]);
    }

    #[test]
    fn whoever_announces_and_takes_back_all_day_is_told_of_four_times() {
        let mut book = NoticeBook::default();
        let minute = Duration::from_secs(60);
        for day in 0..3 {
            let told = (0..1440).map(|minute_of_day| {
                let at = Timestamp::from_millis(day * 1440 + minute_of_day);
                book.take(&[Concern::SuspensionAnnounced { at, reason: "x".into() }], minute).0.len()
            });
            assert_eq!(told.sum::<usize>(), ANNOUNCEMENTS_MOST);
        }
        assert!(book.to_text().parse::<NoticeBook>().is_ok());
    }

    #[test]
    fn every_event_of_an_owner_has_its_name() {
        let names: Vec<String> = [
            Notice::from(&Concern::OutOfTouch(SILENCE)),
            Notice::from(&Concern::Suspended),
            Notice::from(&Concern::DiskFailing { unread_shards: 1 }),
            Notice::from(&Concern::NewVersionRequired(SILENCE)),
            Notice::drained(),
        ]
        .iter()
        .map(|notice| notice.event.to_string())
        .collect();
        let expected = ["needs-attention", "suspended", "disk-failing", "new-version-required", "drained"];
        assert_eq!(names, expected);
    }

    proptest! {
        #[test]
        fn whatever_comes_and_goes_no_cause_is_told_twice_within_a_day(
            // Minutes to the next look, whether the cause is there, and whether the node starts again.
            looks in prop::collection::vec((0u64..300, any::<bool>(), any::<bool>()), 1..200),
        ) {
            let mut book = NoticeBook::default();
            let mut since_told: Option<Duration> = None;
            for (minutes, is_there, restarts) in looks {
                let passed = Duration::from_secs(minutes * 60);
                if restarts {
                    book = book.to_text().parse().unwrap();
                }
                since_told = since_told.map(|since| since + passed);
                let concerns = if is_there { vec![Concern::Suspended] } else { vec![] };
                if !book.take(&concerns, passed).0.is_empty() {
                    prop_assert!(since_told.is_none_or(|since| since >= CAUSE_GONE_FOR));
                    since_told = Some(Duration::ZERO);
                }
            }
        }
    }
}
