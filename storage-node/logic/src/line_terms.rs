//! What an owner lends of his line.
//!
//! Leaves to others: keeping to it (`rest`, `transport`), what is counted.

use firn_base::{BitRate, ByteCount};

use crate::local_time::ActiveHours;

/// What an owner lends of his line; nothing set: all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LineTerms {
    /// How fast the node uploads at most, everything counted.
    pub max_upload: Option<BitRate>,
    /// How fast it downloads at most, everything counted.
    pub max_download: Option<BitRate>,
    /// About how many bytes go over the line in a month of the calendar, both ways together: once they are nearly used up
    /// the node only stays in touch, which is not bounded.
    pub monthly_traffic: Option<ByteCount>,
    /// When the node works.
    pub active_hours: Option<ActiveHours>,
}
