//! Sizes, rates and durations as people write them: `500GB`, `64MiB`, `8Mbit/s`, `72h`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Why a text is no size, rate or duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {what}: write for example {example}")]
pub struct ParseQuantityError {
    text: String,
    what: &'static str,
    example: &'static str,
}

/// A count of bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct ByteCount(pub u64);

/// A rate in bytes per second.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct BitRate {
    /// Bytes per second.
    pub bytes_per_second: u64,
}

const SIZE_UNITS: [(&str, u64); 11] = [
    ("", 1),
    ("B", 1),
    ("kB", 1_000),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

// Bits per second come in thousands, as on every line's price list.
const RATE_UNITS: [(&str, u64, u64); 8] = [
    ("bit/s", 1, 8),
    ("kbit/s", 1_000, 8),
    ("Mbit/s", 1_000_000, 8),
    ("Gbit/s", 1_000_000_000, 8),
    ("B/s", 1, 1),
    ("kB/s", 1_000, 1),
    ("MB/s", 1_000_000, 1),
    ("GB/s", 1_000_000_000, 1),
];

const DURATION_UNITS: [(&str, u64); 6] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000), ("w", 604_800_000)];

fn split_number(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit.trim()))
}

impl FromStr for ByteCount {
    type Err = ParseQuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = split_number(text).and_then(|(number, unit)| {
            let (_, factor) = SIZE_UNITS.iter().find(|(name, _)| *name == unit)?;
            number.checked_mul(*factor)
        });
        parsed.map(Self).ok_or_else(|| ParseQuantityError {
            text: text.to_owned(),
            what: "size",
            example: "500GB or 64MiB",
        })
    }
}

impl fmt::Display for ByteCount {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("TB", 1_000_000_000_000), ("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000)];
        match units.iter().find(|(_, factor)| self.0 >= *factor) {
            Some((unit, factor)) => {
                write!(formatter, "{}.{} {unit}", self.0 / factor, self.0 % factor * 10 / factor)
            }
            None => write!(formatter, "{} B", self.0),
        }
    }
}

impl FromStr for BitRate {
    type Err = ParseQuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = split_number(text).and_then(|(number, unit)| {
            let (_, factor, divisor) = RATE_UNITS.iter().find(|(name, _, _)| *name == unit)?;
            Some(number.checked_mul(*factor)? / divisor)
        });
        parsed.map(|bytes_per_second| Self { bytes_per_second }).ok_or_else(|| ParseQuantityError {
            text: text.to_owned(),
            what: "rate",
            example: "8Mbit/s or 1MB/s",
        })
    }
}

impl fmt::Display for BitRate {
    /// In bits, as lines are sold.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = u128::from(self.bytes_per_second) * 8;
        let units = [("Gbit/s", 1_000_000_000), ("Mbit/s", 1_000_000), ("kbit/s", 1_000)];
        match units.iter().find(|(_, factor)| bits >= *factor) {
            Some((unit, factor)) => {
                write!(formatter, "{}.{} {unit}", bits / factor, bits % factor * 10 / factor)
            }
            None => write!(formatter, "{bits} bit/s"),
        }
    }
}

/// Reads a duration such as `72h`, `10d`, `500ms`.
pub fn parse_duration(text: &str) -> Result<Duration, ParseQuantityError> {
    let parsed = split_number(text).and_then(|(number, unit)| {
        let (_, factor) = DURATION_UNITS.iter().find(|(name, _)| *name == unit)?;
        number.checked_mul(*factor)
    });
    parsed.map(Duration::from_millis).ok_or_else(|| ParseQuantityError {
        text: text.to_owned(),
        what: "duration",
        example: "72h, 30m or 10d",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_shown_in_bits() {
        let shown = |bytes_per_second| BitRate { bytes_per_second }.to_string();
        assert_eq!(shown(1_250_000), "10.0 Mbit/s");
        assert_eq!(shown(187_500_000), "1.5 Gbit/s");
        assert_eq!((shown(1_000), shown(12)), ("8.0 kbit/s".into(), "96 bit/s".into()));
    }

    #[test]
    fn sizes_rates_and_durations_read_as_people_write_them() {
        assert_eq!("500GB".parse(), Ok(ByteCount(500_000_000_000)));
        assert_eq!("64MiB".parse(), Ok(ByteCount(64 << 20)));
        assert_eq!("8Mbit/s".parse(), Ok(BitRate { bytes_per_second: 1_000_000 }));
        assert_eq!("1MB/s".parse(), Ok(BitRate { bytes_per_second: 1_000_000 }));
        assert_eq!(parse_duration("72h"), Ok(Duration::from_secs(72 * 3600)));
    }

    #[test]
    fn a_wrong_size_says_how_to_write_one() {
        let error = "many".parse::<ByteCount>().unwrap_err().to_string();
        assert_eq!(error, "`many` is not a size: write for example 500GB or 64MiB");
        assert!("99999999999TB".parse::<ByteCount>().is_err());
    }

    #[test]
    fn sizes_print_with_one_decimal() {
        assert_eq!(ByteCount(1_540_000_000).to_string(), "1.5 GB");
        assert_eq!(ByteCount(12).to_string(), "12 B");
    }
}
