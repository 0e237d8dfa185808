//! How much went over a node's line today and this month.
//!
//! Always holds: what is on the disk is never less than what went, but for what goes between two looks: the disk says how
//! much ahead of itself it counts, and a node that was killed begins with all of that. So a count costs a write for each
//! 256 MiB on a busy line; what a kill adds is at most what a run had moved before, or 1 MiB. Whatever the clock does, what
//! was counted for a month is there when the clock shows that month again, unless it has shown six others since.
//! The same holds of what of it went to strangers.
//! Leaves to others: counting datagrams, the disk, the calendar.

use std::str::FromStr;

use firn_base::ByteCount;

use crate::local_time::Date;
use crate::strangers::strangers_month;

const MAGIC: &str = "firn-traffic 2";
// Did not count strangers apart.
const MAGIC_FIRST: &str = "firn-traffic 1";

// The one that the clock shows, and those that it showed last: a machine without a clock of its own starts in 1970, and
// others jump.
const MONTHS_MOST: usize = 6;

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
    kept: KeptTraffic,
    run_bytes: u64,
    // What the disk counts for this month; nothing if that is not known.
    kept_month_bytes: Option<u64>,
}

/// What is kept on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptTraffic {
    date: Date,
    day_bytes: u64,
    month: MonthBytes,
    // Counted beyond that, whether it went or not.
    ahead_bytes: u64,
    // Other months that the clock showed, the last one first, with what went in them.
    others: Vec<(Month, MonthBytes)>,
}

/// What went in a month.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct MonthBytes {
    all: u64,
    // Of these, what went to strangers.
    strangers: u64,
}

/// Year and month.
type Month = (u64, u8);

impl TrafficBook {
    /// Goes on with what is on the disk, if there is something.
    pub fn open(kept: Option<KeptTraffic>, today: Date) -> Self {
        let Some(mut kept) = kept else {
            let others = Vec::new();
            let month = MonthBytes::default();
            let kept = KeptTraffic { date: today, day_bytes: 0, month, ahead_bytes: 0, others };
            return Self { kept, run_bytes: 0, kept_month_bytes: None };
        };
        let ahead_bytes = std::mem::take(&mut kept.ahead_bytes);
        kept.day_bytes = kept.day_bytes.saturating_add(ahead_bytes);
        kept.month.all = kept.month.all.saturating_add(ahead_bytes);
        // All of it may have gone to strangers.
        kept.month.strangers = kept.month.strangers.saturating_add(ahead_bytes);
        let kept_month_bytes = Some(kept.month.all);
        let mut book = Self { kept, run_bytes: 0, kept_month_bytes };
        book.turn_to(today);
        book
    }

    /// `bytes` more went, by `today`.
    pub fn add(&mut self, bytes: u64, today: Date) {
        self.turn_to(today);
        for count in [&mut self.kept.day_bytes, &mut self.kept.month.all, &mut self.run_bytes] {
            *count = count.saturating_add(bytes);
        }
    }

    /// Of what went, `bytes` more went to strangers.
    pub fn add_to_strangers(&mut self, bytes: u64) {
        let count = &mut self.kept.month.strangers;
        *count = count.saturating_add(bytes);
    }

    /// Bytes of today.
    pub const fn today(&self) -> ByteCount {
        ByteCount(self.kept.day_bytes)
    }

    /// Bytes of this month.
    pub const fn this_month(&self) -> ByteCount {
        ByteCount(self.kept.month.all)
    }

    /// Of these, bytes that went to strangers.
    pub const fn strangers_this_month(&self) -> ByteCount {
        ByteCount(self.kept.month.strangers)
    }

    /// Whether strangers have had their part of a month of `limit` bytes, with `more` that went to them since.
    pub fn strangers_have_spent(&self, limit: ByteCount, more: u64) -> bool {
        self.kept.month.strangers.saturating_add(more) >= strangers_month(limit).0
    }

    /// What of a month of `limit` bytes is left to serve and build with.
    pub const fn left(&self, limit: ByteCount) -> ByteCount {
        ByteCount((limit.0 - in_touch(limit)).saturating_sub(self.kept.month.all))
    }

    /// Whether a month of `limit` bytes is used up, but for what it takes to stay in touch.
    pub const fn has_spent(&self, limit: ByteCount) -> bool {
        self.left(limit).0 == 0
    }

    /// What is to be written now, before more goes; none if the disk is far enough ahead.
    pub fn due(&self) -> Option<KeptTraffic> {
        let ahead_bytes = self.run_bytes.clamp(AHEAD_BYTES_LEAST, AHEAD_BYTES_MOST);
        let room = self.kept_month_bytes.map_or(0, |kept| kept.saturating_sub(self.kept.month.all));
        // Half is used up by the time of a look, not all.
        (room < ahead_bytes / 2).then(|| KeptTraffic { ahead_bytes, ..self.exact() })
    }

    /// What is to be written when nothing more goes.
    pub fn exact(&self) -> KeptTraffic {
        self.kept.clone()
    }

    /// `kept` is on the disk. If another month has begun meanwhile, what the disk counts for that is not known.
    pub fn written(&mut self, kept: &KeptTraffic) {
        if kept.date.is_same_month(self.kept.date) {
            self.kept_month_bytes = Some(kept.month.all.saturating_add(kept.ahead_bytes));
        }
    }

    fn turn_to(&mut self, today: Date) {
        let kept = &mut self.kept;
        if today == kept.date {
            return;
        }
        kept.day_bytes = 0;
        if !today.is_same_month(kept.date) {
            let known = kept.others.iter().position(|(month, _)| *month == month_of(today));
            let month = known.map_or_else(MonthBytes::default, |place| kept.others.remove(place).1);
            kept.others.insert(0, (month_of(kept.date), kept.month));
            kept.others.truncate(MONTHS_MOST - 1);
            kept.month = month;
            self.kept_month_bytes = None;
        }
        kept.date = today;
    }
}

/// What of a month of `limit` bytes is kept for staying in touch.
const fn in_touch(limit: ByteCount) -> u64 {
    let part = limit.0 / IN_TOUCH_PART;
    if part < IN_TOUCH_BYTES_MOST { part } else { IN_TOUCH_BYTES_MOST }
}

const fn month_of(date: Date) -> Month {
    (date.year, date.month)
}

impl KeptTraffic {
    /// The file's text.
    pub fn to_text(&self) -> String {
        let Self { date, day_bytes, month: MonthBytes { all, strangers }, ahead_bytes, others } = self;
        let mut text = format!(
            "{MAGIC}\ndate {date}\nday {day_bytes}\nmonth {all}\nstrangers {strangers}\nahead {ahead_bytes}\n"
        );
        for ((year, month), MonthBytes { all, strangers }) in others {
            text.push_str(&format!("other {year:04}-{month:02} {all} {strangers}\n"));
        }
        text
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
        let counts_strangers = match lines.next() {
            Some(MAGIC) => true,
            Some(MAGIC_FIRST) => false,
            _ => return Err(ParseTrafficError),
        };
        let mut value = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ');
        let parsed = (|| {
            let date = value("date")?.parse().ok()?;
            let mut number = |name| value(name)?.parse().ok();
            let (day_bytes, all) = (number("day")?, number("month")?);
            let strangers = if counts_strangers { number("strangers")? } else { 0 };
            let ahead_bytes = number("ahead")?;
            let month = MonthBytes { all, strangers };
            Some(Self { date, day_bytes, month, ahead_bytes, others: Vec::new() })
        })();
        let others = lines.map(|line| parse_other(line, counts_strangers)).collect::<Option<Vec<_>>>();
        let parsed = parsed.zip(others).map(|(kept, others)| Self { others, ..kept });
        parsed.filter(|kept| kept.others.len() < MONTHS_MOST).ok_or(ParseTrafficError)
    }
}

fn parse_other(line: &str, counts_strangers: bool) -> Option<(Month, MonthBytes)> {
    let (month, bytes) = line.strip_prefix("other ")?.split_once(' ')?;
    let first: Date = format!("{month}-01").parse().ok()?;
    let (all, strangers) = if counts_strangers { bytes.split_once(' ')? } else { (bytes, "0") };
    Some((month_of(first), MonthBytes { all: all.parse().ok()?, strangers: strangers.parse().ok()? }))
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
    }

    #[test]
    fn a_month_goes_on_with_its_count_when_a_wrong_clock_is_right_again() {
        let mut book = TrafficBook::open(None, date(11, 29));
        book.add(12, date(11, 29));
        // A machine without a clock of its own starts in 1970, time after time.
        for start in 1..=9 {
            book = TrafficBook::open(Some(book.exact()), Date::FIRST);
            book.add(2, Date::FIRST);
            assert_eq!(book.this_month(), ByteCount(2 * start));
            book.add(1, date(11, 29));
            assert_eq!(book.this_month(), ByteCount(12 + start));
        }
        // Ahead and back within a run.
        book.add(5, date(12, 29));
        book.add(0, date(11, 29));
        assert_eq!(book.this_month(), ByteCount(21));
        book.add(0, date(12, 1));
        assert_eq!(book.this_month(), ByteCount(5));
    }

    #[test]
    fn what_is_written_of_a_month_that_has_ended_meanwhile_says_nothing_of_the_new_one() {
        let mut book = TrafficBook::open(None, date(11, 30));
        book.add(200 << 20, date(11, 30));
        let kept = book.due().unwrap();
        book.add(1, date(12, 1));
        book.written(&kept);
        assert!(book.due().is_some());
    }

    #[test]
    fn a_count_goes_on_after_an_orderly_end_as_if_there_was_none() {
        let mut book = TrafficBook::open(None, date(11, 29));
        book.add(5_000_000, date(11, 29));
        let kept = book.exact();
        let book = TrafficBook::open(Some(kept.clone()), date(11, 29));
        assert_eq!((book.today(), book.this_month()), (ByteCount(5_000_000), ByteCount(5_000_000)));
        let book = TrafficBook::open(Some(kept.clone()), date(11, 30));
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
    fn strangers_have_a_tenth_of_a_month_whenever_the_clock_shows_it() {
        let mut book = TrafficBook::open(None, date(11, 29));
        book.add(1000, date(11, 29));
        book.add_to_strangers(99);
        assert!(
            !book.strangers_have_spent(ByteCount(1000), 0) && book.strangers_have_spent(ByteCount(1000), 1)
        );
        book.add_to_strangers(1);
        assert!(book.strangers_have_spent(ByteCount(1000), 0));
        assert_eq!(book.strangers_this_month(), ByteCount(100));
        book.add(0, date(12, 1));
        assert!(!book.strangers_have_spent(ByteCount(1000), 0));
        book.add(0, date(11, 30));
        assert!(book.strangers_have_spent(ByteCount(1000), 0));
        // A kill may have made it forget what went to them.
        let kept = book.due().unwrap();
        let book = TrafficBook::open(Some(kept), date(11, 30));
        assert_eq!(book.strangers_this_month().0 - 100, book.this_month().0 - 1000);
    }

    #[test]
    fn the_file_reads_as_it_was_written_and_nothing_else_does() {
        let bytes = |all, strangers| MonthBytes { all, strangers };
        let others = vec![((1970, 1), bytes(7, 1)), ((2026, 1), bytes(8, 0))];
        let kept = KeptTraffic {
            date: date(2, 3),
            day_bytes: 4,
            month: bytes(5, 2),
            ahead_bytes: 6,
            others: Vec::new(),
        };
        let text = "firn-traffic 2\ndate 2026-02-03\nday 4\nmonth 5\nstrangers 2\nahead 6\n";
        assert_eq!((kept.to_text().as_str(), text.parse()), (text, Ok(kept.clone())));
        let with_others = format!("{text}other 1970-01 7 1\nother 2026-01 8 0\n");
        let kept = KeptTraffic { others, ..kept };
        assert_eq!((kept.to_text(), with_others.parse()), (with_others.clone(), Ok(kept.clone())));
        // As it was before strangers were counted.
        let first = "firn-traffic 1\ndate 2026-02-03\nday 4\nmonth 5\nahead 6\nother 1970-01 7\n";
        let others = vec![((1970, 1), bytes(7, 0))];
        assert_eq!(first.parse(), Ok(KeptTraffic { month: bytes(5, 0), others, ..kept }));
        let too_many = format!("{text}{}", "other 1970-01 7 1\n".repeat(MONTHS_MOST));
        let no_month = format!("{text}other 1970-13 7 1\n");
        let first_line = "firn-traffic 2\n";
        let negative = "firn-traffic 2\ndate 2026-02-03\nday 4\nmonth -5\nstrangers 0\nahead 6\n";
        for wrong in ["", "firn-traffic 3\n", first_line, negative, too_many.as_str(), no_month.as_str()] {
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
                    book = TrafficBook::open(disk.clone(), today);
                    kills += 1;
                }
                prop_assert!(book.this_month().0 >= went);
            }
            prop_assert!(book.this_month().0 <= went + kills * AHEAD_BYTES_MOST);
            // From 1 MiB on each is for a third more after a start, and then for 128 MiB at least.
            prop_assert!(writes <= (kills + 1) * 24 + went / (128 << 20));
        }

        #[test]
        fn whatever_the_clock_does_no_byte_of_the_last_months_is_forgotten(
            // Bytes between two looks, the month that the clock shows, and whether the node is killed then.
            looks in prop::collection::vec((0u64..64 << 20, 1..=12u8, prop::bool::weighted(0.1)), 1..300),
        ) {
            let mut book = TrafficBook::open(None, Date::FIRST);
            let mut disk: Option<KeptTraffic> = None;
            // Months as the clock showed them, the last one last, and what went in each.
            let mut went = vec![(month_of(Date::FIRST), 0)];
            for (bytes, month, killed) in looks {
                let today = date(month, 1);
                let known = went.iter().position(|(known, _)| *known == month_of(today));
                let before = known.map_or(0, |place| went.remove(place).1);
                went.push((month_of(today), before + bytes));
                went.drain(..went.len().saturating_sub(MONTHS_MOST));
                book.add(bytes, today);
                if let Some(kept) = book.due() {
                    // As the file has it.
                    let kept: KeptTraffic = kept.to_text().parse().unwrap();
                    book.written(&kept);
                    disk = Some(kept);
                }
                if killed {
                    book = TrafficBook::open(disk.clone(), today);
                }
                for ((_, month), bytes) in went.iter().filter(|(month, _)| month.0 == 2026) {
                    let mut shown = book.clone();
                    shown.add(0, date(*month, 1));
                    prop_assert!(shown.this_month().0 >= *bytes, "{month}: {bytes}, {book:?}");
                }
            }
        }
    }
}
