//! How much went over a node's line today and this month.
//!
//! Always holds: what is on the disk is never less than what went, but for what goes between two looks: the disk says how
//! much ahead of itself it counts, and a node that was killed begins with all of that. So a count costs a write for each
//! 256 MiB on a busy line and no byte of a month is forgotten; what a kill adds is at most what a run had moved before,
//! or 1 MiB. A month begins with the calendar's; a clock that goes backwards gives no bytes back.
//! Leaves to others: counting datagrams, the disk, the calendar.

use std::str::FromStr;

use firn_base::ByteCount;

use crate::local_time::Date;

const MAGIC: &str = "firn-traffic 1";

const AHEAD_BYTES_LEAST: u64 = 1 << 20;
// Two seconds of a line of 1 Gbit/s.
const AHEAD_BYTES_MOST: u64 = 256 << 20;

// What is left of a month for staying in touch: heartbeats to three coordinators are measured to take 2 GB, and there
// are orders to delete and the ledger. Of a small month a tenth.
const IN_TOUCH_BYTES_MOST: u64 = 3_000_000_000;
const IN_TOUCH_PART: u64 = 10;

/// How much went over a node's line today and this month, both ways together.
#[derive(Debug, Clone)]
pub struct TrafficBook {
    date: Date,
    day_bytes: u64,
    month_bytes: u64,
    run_bytes: u64,
    // What the disk counts for this month; nothing if it is of another one, or not known.
    kept_month_bytes: Option<u64>,
}

/// What is kept on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeptTraffic {
    date: Date,
    day_bytes: u64,
    month_bytes: u64,
    // Counted beyond that, whether it went or not.
    ahead_bytes: u64,
}

impl TrafficBook {
    /// Goes on with what is on the disk, if there is something.
    pub fn open(kept: Option<KeptTraffic>, today: Date) -> Self {
        let mut book =
            Self { date: today, day_bytes: 0, month_bytes: 0, run_bytes: 0, kept_month_bytes: None };
        if let Some(kept) = kept {
            book.date = kept.date;
            book.day_bytes = kept.day_bytes.saturating_add(kept.ahead_bytes);
            book.month_bytes = kept.month_bytes.saturating_add(kept.ahead_bytes);
            book.kept_month_bytes = Some(book.month_bytes);
            book.turn_to(today);
        }
        book
    }

    /// `bytes` more went, by `today`.
    pub fn add(&mut self, bytes: u64, today: Date) {
        self.turn_to(today);
        for count in [&mut self.day_bytes, &mut self.month_bytes, &mut self.run_bytes] {
            *count = count.saturating_add(bytes);
        }
    }

    /// Bytes of today.
    pub const fn today(&self) -> ByteCount {
        ByteCount(self.day_bytes)
    }

    /// Bytes of this month.
    pub const fn this_month(&self) -> ByteCount {
        ByteCount(self.month_bytes)
    }

    /// Whether a month of `limit` bytes is used up, but for what it takes to stay in touch.
    pub const fn has_spent(&self, limit: ByteCount) -> bool {
        let part = limit.0 / IN_TOUCH_PART;
        let in_touch = if part < IN_TOUCH_BYTES_MOST { part } else { IN_TOUCH_BYTES_MOST };
        self.month_bytes >= limit.0 - in_touch
    }

    /// What is to be written now, before more goes; none if the disk is far enough ahead.
    pub fn due(&self) -> Option<KeptTraffic> {
        let ahead_bytes = self.run_bytes.clamp(AHEAD_BYTES_LEAST, AHEAD_BYTES_MOST);
        let room = self.kept_month_bytes.map_or(0, |kept| kept.saturating_sub(self.month_bytes));
        // Half is used up by the time of a look, not all.
        (room < ahead_bytes / 2).then(|| KeptTraffic { ahead_bytes, ..self.exact() })
    }

    /// What is to be written when nothing more goes.
    pub const fn exact(&self) -> KeptTraffic {
        KeptTraffic {
            date: self.date,
            day_bytes: self.day_bytes,
            month_bytes: self.month_bytes,
            ahead_bytes: 0,
        }
    }

    /// `kept` is on the disk.
    pub const fn written(&mut self, kept: &KeptTraffic) {
        self.kept_month_bytes = Some(kept.month_bytes.saturating_add(kept.ahead_bytes));
    }

    fn turn_to(&mut self, today: Date) {
        if today == self.date {
            return;
        }
        if today > self.date {
            self.day_bytes = 0;
            if !today.is_same_month(self.date) {
                self.month_bytes = 0;
                self.kept_month_bytes = None;
            }
        }
        self.date = today;
    }
}

impl KeptTraffic {
    /// The file's text.
    pub fn to_text(&self) -> String {
        let Self { date, day_bytes, month_bytes, ahead_bytes } = self;
        format!("{MAGIC}\ndate {date}\nday {day_bytes}\nmonth {month_bytes}\nahead {ahead_bytes}\n")
    }
}

/// A text is no count of traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a count of traffic")]
pub struct ParseTrafficError;

impl FromStr for KeptTraffic {
    type Err = ParseTrafficError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut lines = text.lines();
        let mut value = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ');
        let parsed = (|| {
            let (magic, version) = MAGIC.split_once(' ')?;
            value(magic).filter(|found| *found == version)?;
            let date = value("date")?.parse().ok()?;
            let mut number = |name| value(name)?.parse().ok();
            let (day_bytes, month_bytes, ahead_bytes) = (number("day")?, number("month")?, number("ahead")?);
            Some(Self { date, day_bytes, month_bytes, ahead_bytes })
        })();
        parsed.ok_or(ParseTrafficError)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn date(month: u8, day: u8) -> Date {
        Date { year: 2026, month, day }
    }

    #[test]
    fn days_and_months_begin_with_the_calendar() {
        let mut book = TrafficBook::open(None, date(11, 29));
        book.add(5, date(11, 29));
        book.add(7, date(11, 30));
        assert_eq!((book.today(), book.this_month()), (ByteCount(7), ByteCount(12)));
        book.add(1, date(12, 1));
        assert_eq!((book.today(), book.this_month()), (ByteCount(1), ByteCount(1)));
        // A clock that was wrong gives nothing back.
        book.add(2, date(11, 3));
        assert_eq!((book.today(), book.this_month()), (ByteCount(3), ByteCount(3)));
    }

    #[test]
    fn a_count_goes_on_after_an_orderly_end_as_if_there_was_none() {
        let mut book = TrafficBook::open(None, date(11, 29));
        book.add(5_000_000, date(11, 29));
        let kept = book.exact();
        let book = TrafficBook::open(Some(kept), date(11, 29));
        assert_eq!((book.today(), book.this_month()), (ByteCount(5_000_000), ByteCount(5_000_000)));
        let book = TrafficBook::open(Some(kept), date(11, 30));
        assert_eq!((book.today(), book.this_month()), (ByteCount(0), ByteCount(5_000_000)));
        let book = TrafficBook::open(Some(kept), date(12, 1));
        assert_eq!((book.today(), book.this_month()), (ByteCount(0), ByteCount(0)));
    }

    #[test]
    fn a_month_is_spent_when_what_is_left_is_for_staying_in_touch() {
        let mut book = TrafficBook::open(None, date(11, 29));
        book.add(899, date(11, 29));
        assert!(!book.has_spent(ByteCount(1000)));
        book.add(1, date(11, 29));
        assert!(book.has_spent(ByteCount(1000)) && !book.has_spent(ByteCount(u64::MAX)));
        book.add(0, date(12, 1));
        assert!(!book.has_spent(ByteCount(1000)));
    }

    #[test]
    fn the_file_reads_as_it_was_written_and_nothing_else_does() {
        let kept = KeptTraffic { date: date(2, 3), day_bytes: 4, month_bytes: 5, ahead_bytes: 6 };
        let text = "firn-traffic 1\ndate 2026-02-03\nday 4\nmonth 5\nahead 6\n";
        assert_eq!((kept.to_text().as_str(), text.parse()), (text, Ok(kept)));
        for wrong in ["", "firn-traffic 2\n", "firn-traffic 1\ndate 2026-02-03\nday 4\nmonth -5\nahead 6\n"] {
            assert_eq!(wrong.parse::<KeptTraffic>(), Err(ParseTrafficError));
        }
    }

    proptest! {
        #[test]
        fn no_kill_makes_a_month_less_and_writes_are_few(
            // Bytes between two looks, and whether the node is killed then.
            looks in prop::collection::vec((0u64..128 << 20, prop::bool::weighted(0.05)), 1..300),
        ) {
            let today = date(11, 29);
            let mut book = TrafficBook::open(None, today);
            let mut disk = None;
            let (mut went, mut kills, mut writes) = (0u64, 0u64, 0u64);
            for (bytes, killed) in looks {
                book.add(bytes, today);
                went += bytes;
                if let Some(kept) = book.due() {
                    book.written(&kept);
                    disk = Some(kept);
                    writes += 1;
                }
                if killed {
                    book = TrafficBook::open(disk, today);
                    kills += 1;
                }
                prop_assert!(book.this_month().0 >= went);
            }
            prop_assert!(book.this_month().0 <= went + kills * AHEAD_BYTES_MOST);
            // From 1 MiB on each is for a third more after a start, and then for 128 MiB at least.
            prop_assert!(writes <= (kills + 1) * 24 + went / (128 << 20));
        }
    }
}
