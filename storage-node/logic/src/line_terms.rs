//! What an owner lends of his line.
//!
//! Leaves to others: keeping to it (`transport`), what is counted.

use firn_base::BitRate;

/// What an owner lends of his line; nothing set: all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LineTerms {
    /// How fast the node uploads at most, everything counted.
    pub max_upload: Option<BitRate>,
    /// How fast it downloads at most, everything counted.
    pub max_download: Option<BitRate>,
}
