//! What a node did in each hour of the last week: what its owner sees of it as graphs.
//!
//! Always holds: there are at most 168 hours; an hour that the node did not run in is none, and a clock that is wrong for a
//! while takes no more hours than it runs for. The disk is written once an hour at most, while it is in use anyway, or after six hours: one that nobody reads from may
//! sleep.
//! Leaves to others: counting, drawing, the disk, clocks.

use std::str::FromStr;

use firn_base::Timestamp;

const MAGIC: &str = "firn-week 1";
const HOUR_MILLIS: u64 = 3_600_000;
const HOURS_MOST: usize = 168;
// What a kill may take of the graphs where nobody uses the disk.
const WRITE_AFTER_HOURS: u64 = 6;

/// What happened in an hour. Counts are sums, and what is held is as at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HourCounts {
    /// Bytes sent, everything counted.
    pub uploaded_bytes: u64,
    /// Bytes received, everything counted.
    pub downloaded_bytes: u64,
    /// Ranges served to readers.
    pub reads_helped: u64,
    /// Bytes of the quota in use.
    pub used_bytes: u64,
}

/// The hours of the last week in which the node ran.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WeekBook {
    // Hours since 1970, in order.
    hours: Vec<(u64, HourCounts)>,
    // When a coordinator last answered.
    heard: Option<Timestamp>,
    written_hour: u64,
    // Whether the node had used its disk just before the last look: then it is awake.
    disk_used: bool,
}

impl WeekBook {
    /// Notes what happened since the last look: counts are what came to them, `used_bytes` is what is held now. `heard` is
    /// when a coordinator last answered, if one has in this run.
    pub fn add(&mut self, counts: HourCounts, disk_used: bool, heard: Option<Timestamp>, now: Timestamp) {
        let hour = now.as_millis() / HOUR_MILLIS;
        match self.hours.binary_search_by_key(&hour, |(known, _)| *known) {
            Ok(place) => {
                if let Some((_, sums)) = self.hours.get_mut(place) {
                    sums.uploaded_bytes = sums.uploaded_bytes.saturating_add(counts.uploaded_bytes);
                    sums.downloaded_bytes = sums.downloaded_bytes.saturating_add(counts.downloaded_bytes);
                    sums.reads_helped = sums.reads_helped.saturating_add(counts.reads_helped);
                    sums.used_bytes = counts.used_bytes;
                }
            }
            Err(place) => {
                self.hours.insert(place, (hour, counts));
                self.drop_farthest(hour);
            }
        }
        self.heard = heard.or(self.heard);
        self.disk_used = disk_used;
    }

    /// Drops the hour that is farthest from now if there are too many. Others stay, also those ahead: a machine that starts in
    /// 1970 until it has asked for the time has the whole week still when it knows it.
    fn drop_farthest(&mut self, now_hour: u64) {
        if self.hours.len() <= HOURS_MOST {
            return;
        }
        let distance =
            |found: Option<&(u64, HourCounts)>| found.map_or(0, |(hour, _)| hour.abs_diff(now_hour));
        if distance(self.hours.last()) > distance(self.hours.first()) {
            self.hours.pop();
        } else {
            self.hours.remove(0);
        }
    }

    /// Whether the book is to be written now.
    pub fn is_due(&self, now: Timestamp) -> bool {
        let hour = now.as_millis() / HOUR_MILLIS;
        let passed = hour.abs_diff(self.written_hour);
        passed >= WRITE_AFTER_HOURS || (passed > 0 && self.disk_used)
    }

    /// What was given out by [`Self::to_text`] at `now` is on the disk, or could not be written: it is tried again later.
    pub const fn written(&mut self, now: Timestamp) {
        self.written_hour = now.as_millis() / HOUR_MILLIS;
        self.disk_used = false;
    }

    /// The last week as it ends with the hour of `now`, hour by hour; none for one in which the node did not run.
    pub fn last_week(&self, now: Timestamp) -> Vec<Option<HourCounts>> {
        let end = now.as_millis() / HOUR_MILLIS;
        let begin = (end + 1).saturating_sub(HOURS_MOST as u64);
        let counts = |hour| self.hours.binary_search_by_key(&hour, |(known, _)| *known);
        let found =
            |hour| counts(hour).ok().and_then(|place| self.hours.get(place)).map(|(_, counts)| *counts);
        (begin..=end).map(found).collect()
    }

    /// Ranges served to readers in the last week as it ends with the hour of `now`.
    pub fn reads_helped(&self, now: Timestamp) -> u64 {
        self.last_week(now).iter().flatten().fold(0, |sum, counts| sum.saturating_add(counts.reads_helped))
    }

    /// When a coordinator last answered, in this run or one before.
    pub const fn heard(&self) -> Option<Timestamp> {
        self.heard
    }

    /// The file's text.
    pub fn to_text(&self) -> String {
        let mut text = format!("{MAGIC}\n");
        if let Some(heard) = self.heard {
            text.push_str(&format!("heard {}\n", heard.as_millis()));
        }
        for (hour, counts) in &self.hours {
            let HourCounts { uploaded_bytes, downloaded_bytes, reads_helped, used_bytes } = counts;
            text.push_str(&format!(
                "hour {hour} {uploaded_bytes} {downloaded_bytes} {reads_helped} {used_bytes}\n"
            ));
        }
        text
    }
}

/// A text does not say what a node did in a week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the counts of a week")]
pub struct ParseWeekError;

impl FromStr for WeekBook {
    type Err = ParseWeekError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut lines = text.lines().peekable();
        if lines.next() != Some(MAGIC) {
            return Err(ParseWeekError);
        }
        let heard = match lines.next_if(|line| line.starts_with("heard ")) {
            Some(line) => {
                let millis = line.strip_prefix("heard ").and_then(|millis| millis.parse().ok());
                Some(Timestamp::from_millis(millis.ok_or(ParseWeekError)?))
            }
            None => None,
        };
        let mut hours: Vec<(u64, HourCounts)> = Vec::new();
        for line in lines {
            let hour = parse_hour(line).ok_or(ParseWeekError)?;
            let follows = hours.last().is_none_or(|(last, _)| *last < hour.0);
            if !follows || hours.len() >= HOURS_MOST {
                return Err(ParseWeekError);
            }
            hours.push(hour);
        }
        let written_hour = hours.last().map_or(0, |(hour, _)| *hour);
        Ok(Self { hours, heard, written_hour, disk_used: false })
    }
}

fn parse_hour(line: &str) -> Option<(u64, HourCounts)> {
    let mut numbers = line.strip_prefix("hour ")?.split(' ').map(str::parse::<u64>);
    let mut number = || numbers.next()?.ok();
    let hour = number()?;
    let counts = HourCounts {
        uploaded_bytes: number()?,
        downloaded_bytes: number()?,
        reads_helped: number()?,
        used_bytes: number()?,
    };
    numbers.next().is_none().then_some((hour, counts))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: u64 = 498_717;

    fn at(hour: u64, minute: u64) -> Timestamp {
        Timestamp::from_millis(hour * HOUR_MILLIS + minute * 60_000)
    }

    fn counts(reads_helped: u64) -> HourCounts {
        HourCounts { uploaded_bytes: 10, downloaded_bytes: 20, reads_helped, used_bytes: 30 + reads_helped }
    }

    #[test]
    fn hours_are_summed_and_a_week_of_them_is_kept() {
        let mut book = WeekBook::default();
        for hour in 0..500 {
            book.add(counts(1), false, None, at(HOUR + hour, 0));
            book.add(counts(2), false, None, at(HOUR + hour, 59));
        }
        assert_eq!(book.reads_helped(at(HOUR + 499, 59)), 168 * 3);
        let week = book.last_week(at(HOUR + 499, 59));
        let sum = HourCounts { uploaded_bytes: 20, downloaded_bytes: 40, reads_helped: 3, used_bytes: 32 };
        assert_eq!(week, vec![Some(sum); 168]);
    }

    #[test]
    fn an_hour_in_which_the_node_did_not_run_is_none() {
        let mut book = WeekBook::default();
        book.add(counts(1), false, None, at(HOUR, 0));
        book.add(counts(1), false, None, at(HOUR + 2, 0));
        let week = book.last_week(at(HOUR + 2, 5));
        assert_eq!(week[165..], [Some(counts(1)), None, Some(counts(1))]);
        assert_eq!(week.iter().flatten().count(), 2);
        // The clock was wrong before.
        book.add(counts(1), false, None, at(7, 0));
        assert_eq!(book.last_week(at(7, 0)).iter().flatten().count(), 1);
        assert_eq!(book.last_week(at(7, 0)).len(), 8);
        assert_eq!(book.reads_helped(at(7, 0)), 1);
    }

    #[test]
    fn a_clock_that_starts_in_1970_or_was_ahead_costs_as_many_hours_as_it_was_wrong() {
        let mut book = WeekBook::default();
        for hour in 0..168 {
            book.add(counts(1), false, None, at(HOUR + hour, 0));
        }
        let end = HOUR + 167;
        book.add(counts(1), false, None, at(7, 0));
        book.add(counts(1), false, None, at(7, 1));
        let mut book: WeekBook = book.to_text().parse().unwrap();
        assert_eq!(book.reads_helped(at(end, 1)), 167);
        book.add(counts(1), false, None, at(end, 2));
        assert_eq!(book.reads_helped(at(end, 2)), 168);
        // A whole week ahead: each hour that follows takes the place of one of these.
        for hour in 0..168 {
            book.add(counts(1), false, None, at(HOUR + 100_000 + hour, 0));
        }
        assert_eq!(book.reads_helped(at(end, 3)), 0);
        for hour in 0..168 {
            book.add(counts(1), false, None, at(end + hour, 4));
            assert_eq!(book.reads_helped(at(end + hour, 4)), hour + 1);
        }
    }

    #[test]
    fn the_book_is_written_once_an_hour_while_the_disk_is_in_use_and_else_after_six() {
        let mut book = WeekBook::default();
        assert!(book.is_due(at(HOUR, 0)));
        book.add(counts(1), true, None, at(HOUR, 0));
        book.written(at(HOUR, 0));
        book.add(counts(1), true, None, at(HOUR, 30));
        assert!(!book.is_due(at(HOUR, 59)));
        book.add(counts(1), false, None, at(HOUR + 1, 0));
        assert!(!book.is_due(at(HOUR + 1, 0)));
        book.add(counts(1), true, None, at(HOUR + 1, 1));
        assert!(book.is_due(at(HOUR + 1, 1)));
        book.written(at(HOUR + 1, 1));
        for hour in 1..7 {
            book.add(counts(0), false, None, at(HOUR + hour, 59));
            assert!(!book.is_due(at(HOUR + hour, 59)));
        }
        assert!(book.is_due(at(HOUR + 7, 0)));
    }

    #[test]
    fn the_file_reads_as_it_was_written_and_nothing_else_does() {
        let mut book = WeekBook::default();
        assert_eq!(book.to_text().parse(), Ok(book.clone()));
        book.add(counts(1), false, Some(at(HOUR, 1)), at(HOUR, 2));
        book.add(counts(2), false, None, at(HOUR + 1, 0));
        book.written(at(HOUR + 1, 0));
        let text = "firn-week 1\nheard 1795381260000\nhour 498717 10 20 1 31\nhour 498718 10 20 2 32\n";
        assert_eq!((book.to_text().as_str(), text.parse()), (text, Ok(book)));
        let many: String = (0..169).map(|hour| format!("hour {hour} 0 0 0 0\n")).collect();
        let too_many = format!("{MAGIC}\n{many}");
        let out_of_order = "firn-week 1\nhour 2 0 0 0 0\nhour 2 0 0 0 0\n";
        let negative = "firn-week 1\nhour 2 0 0 -1 0\n";
        let long = "firn-week 1\nhour 2 0 0 0 0 0\n";
        for wrong in ["", "firn-week 2\n", too_many.as_str(), out_of_order, negative, long] {
            assert_eq!(wrong.parse::<WeekBook>(), Err(ParseWeekError));
        }
    }

    proptest! {
        #[test]
        fn whatever_the_clock_does_the_book_stays_small_and_can_be_read(
            looks in prop::collection::vec((0u64..2_000, any::<bool>()), 1..300),
        ) {
            let mut book = WeekBook::default();
            for (hour, restarts) in looks {
                book.add(counts(1), true, Some(at(hour, 0)), at(hour, 0));
                prop_assert!(book.last_week(at(hour, 0)).len() <= 168);
                let text = book.to_text();
                prop_assert!(text.lines().count() <= 170);
                let kept: WeekBook = text.parse().unwrap();
                prop_assert_eq!(kept.last_week(at(hour, 0)), book.last_week(at(hour, 0)));
                if restarts {
                    book = kept;
                }
            }
        }
    }
}
