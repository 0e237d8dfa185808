//! `--since`: a date, or a position of the ledger.

use std::str::FromStr;

use firn_base::Timestamp;
use firn_wire::LedgerEntry;

/// A moment of an archive's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Since {
    /// A time.
    Time(Timestamp),
    /// The time of an entry of the ledger.
    Position(u64),
}

/// Why a text is no moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "write a date as 2026-11-22 or 2026-11-22T21:05:09Z (UTC), or the position of an entry of the ledger"
)]
pub(crate) struct ParseSinceError;

impl Since {
    /// The time meant, by the ledger's entries from the first on; none if it has no such entry.
    pub(crate) fn time(self, ledger: &[LedgerEntry]) -> Option<Timestamp> {
        match self {
            Self::Time(time) => Some(time),
            Self::Position(position) => {
                ledger.iter().find(|entry| entry.position == position).map(|entry| entry.at)
            }
        }
    }
}

impl FromStr for Since {
    type Err = ParseSinceError;

    fn from_str(text: &str) -> Result<Self, ParseSinceError> {
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return text.parse().map(Self::Position).map_err(|_| ParseSinceError);
        }
        let (date, time) = text.split_once('T').unwrap_or((text, "00:00:00Z"));
        let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
        let [hour, minute, second] = numbers(time.strip_suffix('Z').ok_or(ParseSinceError)?, ':', [2, 2, 2])?;
        if hour > 23 || minute > 59 || second > 59 {
            return Err(ParseSinceError);
        }
        let seconds = days_since_epoch(year, month, day).ok_or(ParseSinceError)? * 86_400;
        let millis = (seconds + hour * 3600 + minute * 60 + second) * 1000;
        Ok(Self::Time(Timestamp::from_millis(millis)))
    }
}

/// Three numbers of so many digits each.
fn numbers(text: &str, separator: char, digits: [usize; 3]) -> Result<[u64; 3], ParseSinceError> {
    let mut parts = text.split(separator);
    let mut numbers = [0; 3];
    for (number, digits) in numbers.iter_mut().zip(digits) {
        let part = parts.next().filter(|part| part.len() == digits).ok_or(ParseSinceError)?;
        if !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(ParseSinceError);
        }
        *number = part.parse().map_err(|_| ParseSinceError)?;
    }
    if parts.next().is_some() { Err(ParseSinceError) } else { Ok(numbers) }
}

fn days_since_epoch(year: u64, month: u64, day: u64) -> Option<u64> {
    let leaps = |year: u64| year / 4 - year / 100 + year / 400;
    let is_leap = leaps(year) > leaps(year.checked_sub(1)?);
    let lengths = [31, if is_leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let before = usize::try_from(month.checked_sub(1)?).ok()?;
    if year < 1970 || day == 0 || day > *lengths.get(before)? {
        return None;
    }
    let years = (year - 1970) * 365 + leaps(year - 1) - leaps(1969);
    Some(years + lengths[..before].iter().sum::<u64>() + day - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_as_times_are_printed() {
        for millis in [0, 951_782_400_000, 1_795_383_909_000, 1_709_251_199_000] {
            let time = Timestamp::from_millis(millis);
            assert_eq!(time.to_string().parse(), Ok(Since::Time(time)));
        }
        let midnight = "2000-02-29T00:00:00Z".parse::<Since>();
        assert_eq!("2000-02-29".parse(), midnight);
    }

    #[test]
    fn a_number_is_a_position_and_anything_else_is_refused() {
        assert_eq!("17".parse(), Ok(Since::Position(17)));
        for text in [
            "",
            "x",
            "2026-11",
            "2026-13-01",
            "2025-02-29",
            "2026-11-31",
            "1969-12-31",
            "2026-11-22T24:00:00Z",
            "2026-11-22T21:05:09",
            "2026-1-22",
            "2026-11-22-1",
            "99999999999999999999999",
        ] {
            assert_eq!(text.parse::<Since>(), Err(ParseSinceError), "{text}");
        }
    }
}
