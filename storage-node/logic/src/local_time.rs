//! The calendar and the clock on the wall where a node stands: months and hours are its owner's.
//!
//! Leaves to others: reading the clock and knowing the time zone.

use std::fmt;
use std::str::FromStr;

use firn_base::Timestamp;

const DAY_MILLIS: u64 = 86_400_000;
const MINUTE_MILLIS: u64 = 60_000;
const DAY_MINUTES: u16 = 1440;

/// A day of the calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Date {
    /// The year.
    pub year: u64,
    /// The month, from 1.
    pub month: u8,
    /// The day of the month, from 1.
    pub day: u8,
}

/// What calendar and clock show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalTime {
    /// The day.
    pub date: Date,
    /// Minutes since midnight.
    pub minute: u16,
}

impl LocalTime {
    /// What they show at `now` where they are so many seconds ahead of UTC.
    pub fn new(now: Timestamp, utc_offset_seconds: i32) -> Self {
        let local = now.as_millis().saturating_add_signed(i64::from(utc_offset_seconds) * 1000);
        // As a timestamp prints: the calendar is in one place.
        let shown = Timestamp::from_millis(local).to_string();
        let date = shown.split('T').next().and_then(|date| date.parse().ok()).unwrap_or(Date::FIRST);
        let minute = local % DAY_MILLIS / MINUTE_MILLIS;
        Self { date, minute: u16::try_from(minute).unwrap_or_default() }
    }

    /// Minutes until the next month begins.
    pub fn minutes_of_month_left(self) -> u32 {
        let days = u32::from(self.date.days_of_month().saturating_sub(self.date.day));
        days * u32::from(DAY_MINUTES) + u32::from(DAY_MINUTES.saturating_sub(self.minute))
    }
}

impl Date {
    /// The first that a timestamp may be of.
    pub const FIRST: Self = Self { year: 1970, month: 1, day: 1 };

    /// How many days its month has.
    const fn days_of_month(self) -> u8 {
        match self.month {
            4 | 6 | 9 | 11 => 30,
            2 if self.year.is_multiple_of(4)
                && (!self.year.is_multiple_of(100) || self.year.is_multiple_of(400)) =>
            {
                29
            }
            2 => 28,
            _ => 31,
        }
    }

    /// Whether both are of one month.
    pub const fn is_same_month(self, other: Self) -> bool {
        self.year == other.year && self.month == other.month
    }
}

impl fmt::Display for Date {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

/// A text is no date.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a date: write for example 2026-11-27")]
pub struct ParseDateError;

impl FromStr for Date {
    type Err = ParseDateError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split('-');
        let mut part = || parts.next().filter(|part| part.bytes().all(|byte| byte.is_ascii_digit()));
        let (Some(year), Some(month), Some(day)) = (part(), part(), part()) else {
            return Err(ParseDateError);
        };
        let date = (year.parse(), month.parse(), day.parse());
        let (Ok(year), Ok(month @ 1..=12), Ok(day @ 1..=31)) = date else { return Err(ParseDateError) };
        if parts.next().is_some() { Err(ParseDateError) } else { Ok(Self { year, month, day }) }
    }
}

/// The hours of a day in which a node works, by the clock on the wall.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActiveHours {
    from_minute: u16,
    until_minute: u16,
}

/// A text names no hours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` are no hours of a day: write for example 22:00-07:00")]
pub struct ParseHoursError {
    text: String,
}

impl ActiveHours {
    /// Whether the node works then. Hours that end before they begin go on over midnight.
    pub const fn contain(self, minute: u16) -> bool {
        if self.from_minute < self.until_minute {
            self.from_minute <= minute && minute < self.until_minute
        } else {
            self.from_minute <= minute || minute < self.until_minute
        }
    }

    /// Minutes until they begin again.
    pub const fn minutes_until(self, minute: u16) -> u16 {
        let minutes = if minute < self.from_minute { 0 } else { DAY_MINUTES };
        (minutes + self.from_minute).saturating_sub(minute)
    }
}

impl FromStr for ActiveHours {
    type Err = ParseHoursError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let hours = text.split_once('-').and_then(|(from, until)| {
            let (from_minute, until_minute) = (parse_minute(from)?, parse_minute(until)? % DAY_MINUTES);
            // From when to when a whole day is cannot be seen: whoever means it names no hours.
            let is_some = from_minute != until_minute && from_minute < DAY_MINUTES;
            is_some.then_some(Self { from_minute, until_minute })
        });
        hours.ok_or_else(|| ParseHoursError { text: text.to_owned() })
    }
}

impl fmt::Display for ActiveHours {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, until) = (self.from_minute, self.until_minute);
        write!(formatter, "{:02}:{:02}-{:02}:{:02}", from / 60, from % 60, until / 60, until % 60)
    }
}

fn parse_minute(text: &str) -> Option<u16> {
    let (hours, minutes) = text.trim().split_once(':')?;
    let number = |digits: &str| -> Option<u16> {
        let is_number = (1..=2).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| digits.parse().ok())?
    };
    let minute = number(hours)? * 60 + number(minutes).filter(|minutes| *minutes < 60)?;
    (minute <= DAY_MINUTES).then_some(minute)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calendar_and_clock_are_those_of_the_time_zone() {
        // 2026-11-22T21:45:09Z.
        let now = Timestamp::from_millis(1_795_383_909_000);
        let shown = |seconds| {
            let LocalTime { date, minute } = LocalTime::new(now, seconds);
            (date.to_string(), minute / 60, minute % 60)
        };
        assert_eq!(shown(0), ("2026-11-22".into(), 21, 45));
        assert_eq!(shown(3 * 3600), ("2026-11-23".into(), 0, 45));
        assert_eq!(shown(-22 * 3600), ("2026-11-21".into(), 23, 45));
        assert_eq!(LocalTime::new(Timestamp::from_millis(0), -3600).date, Date::FIRST);
    }

    #[test]
    fn hours_may_go_over_midnight() {
        let hours: ActiveHours = "22:00-07:00".parse().unwrap();
        let contained = |hour: u16| hours.contain(hour * 60);
        assert_eq!([21, 22, 23, 0, 6, 7, 12].map(contained), [false, true, true, true, true, false, false]);
        assert!(hours.contain(6 * 60 + 59));
        let hours: ActiveHours = "9:30-24:00".parse().unwrap();
        assert_eq!([569, 570, 1439, 0].map(|minute| hours.contain(minute)), [false, true, true, false]);
        assert_eq!(hours.to_string(), "09:30-00:00");
    }

    #[test]
    fn hours_that_say_nothing_are_refused() {
        for text in
            ["", "22:00", "22-07", "25:00-07:00", "22:60-07:00", "7:00-07:00", "24:00-07:00", "+1:00-2:00"]
        {
            assert!(text.parse::<ActiveHours>().is_err(), "{text}");
        }
        let sentence = "nights".parse::<ActiveHours>().unwrap_err().to_string();
        assert_eq!(sentence, "`nights` are no hours of a day: write for example 22:00-07:00");
    }

    #[test]
    fn dates_read_as_they_print() {
        let date = Date { year: 2026, month: 11, day: 3 };
        assert_eq!(date.to_string().parse(), Ok(date));
        for text in
            ["2026-13-01", "2026-00-01", "2026-11", "2026-11-03-1", "-1-01-01", "2026-11-+3", "2026-11-0x"]
        {
            assert!(text.parse::<Date>().is_err(), "{text}");
        }
    }
}
