//! Windows of a day in which disks work for the archive without being asked by readers.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::Timestamp;

const DAY_MILLIS: u64 = 86_400_000;

// Of each window the beginning is for work that can wait; the rest is for the disk's.
const OPEN_PART: u64 = 6;

/// In how many windows of a day shards are read again, or moved. They are the same everywhere, counted from midnight
/// UTC: a move wakes several disks, and those then do all that waits. Each is open for its first sixth: of four a day
/// an hour, after which a disk that nobody reads from rests for five.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskWindows {
    per_day: u32,
}

/// A number of windows that does not divide the hours of a day.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no number of windows of a day: write 1, 2, 3, 4, 6, 8, 12 or 24")]
pub struct ParseDiskWindowsError(String);

impl DiskWindows {
    /// Four a day.
    pub const STANDARD: Self = Self { per_day: 4 };

    /// So many windows a day.
    pub const fn per_day(self) -> u32 {
        self.per_day
    }

    /// Whether work that can wait may begin at `now`.
    pub fn is_open(self, now: Timestamp) -> bool {
        now.as_millis() % self.window_millis() < self.window_millis() / OPEN_PART
    }

    /// When the window after `now` begins.
    pub fn next(self, now: Timestamp) -> Timestamp {
        let rest = self.window_millis() - now.as_millis() % self.window_millis();
        now.after(Duration::from_millis(rest))
    }

    fn window_millis(self) -> u64 {
        DAY_MILLIS / u64::from(self.per_day)
    }
}

impl FromStr for DiskWindows {
    type Err = ParseDiskWindowsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let per_day = text.parse().ok().filter(|count: &u32| *count > 0 && 24_u32.is_multiple_of(*count));
        per_day.map(|per_day| Self { per_day }).ok_or_else(|| ParseDiskWindowsError(text.to_owned()))
    }
}

impl fmt::Display for DiskWindows {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.per_day)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hours: u64, minutes: u64) -> Timestamp {
        Timestamp::from_millis(20_000 * DAY_MILLIS + (hours * 60 + minutes) * 60_000)
    }

    #[test]
    fn of_four_windows_each_is_open_for_an_hour_and_closed_for_five() {
        let windows: DiskWindows = "4".parse().unwrap();
        assert_eq!(windows, DiskWindows::STANDARD);
        for begin in [0, 6, 12, 18] {
            assert!(windows.is_open(at(begin, 0)) && windows.is_open(at(begin, 59)));
            assert!((1..6).all(|hour| !windows.is_open(at(begin + hour, 0))));
            assert_eq!(windows.next(at(begin, 0)), at(begin + 6, 0));
            assert_eq!(windows.next(at(begin + 5, 59)), at(begin + 6, 0));
        }
    }

    #[test]
    fn a_number_that_does_not_divide_the_hours_of_a_day_is_refused() {
        for count in [1, 2, 3, 4, 6, 8, 12, 24] {
            let windows: DiskWindows = count.to_string().parse().unwrap();
            assert_eq!((windows.per_day(), windows.to_string()), (count, count.to_string()));
        }
        for wrong in ["0", "5", "48", "-1", "x", ""] {
            assert!(
                wrong.parse::<DiskWindows>().unwrap_err().to_string().contains("write 1, 2, 3"),
                "{wrong}"
            );
        }
    }
}
