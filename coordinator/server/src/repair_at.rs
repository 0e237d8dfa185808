//! When an archive repairs, as its owner writes it.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How many durable shards of a bundle are too few, in place of the scheme's own rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RepairAt {
    /// Any less than all.
    Full,
    /// So many, or fewer.
    Shards(u8),
}

/// A text that is neither a number of shards nor `full`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write a number of shards, or `full`")]
pub struct ParseRepairAtError;

impl RepairAt {
    /// The number; none if any loss is repaired.
    pub const fn shards(self) -> Option<u8> {
        match self {
            Self::Full => None,
            Self::Shards(shards) => Some(shards),
        }
    }
}

impl FromStr for RepairAt {
    type Err = ParseRepairAtError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "full" => Ok(Self::Full),
            number => number.parse().map(Self::Shards).map_err(|_| ParseRepairAtError),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_number_or_full() {
        assert_eq!("full".parse(), Ok(RepairAt::Full));
        assert_eq!("28".parse().map(RepairAt::shards), Ok(Some(28)));
        for text in ["", "Full", "256", "-1"] {
            assert_eq!(text.parse::<RepairAt>(), Err(ParseRepairAtError));
        }
    }
}
