//! How far a rebuild has come.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a rebuild is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RebuildStage {
    /// Nodes show what they have.
    Listening,
    /// Ledger and bundles are restored in the order in which they came to be.
    Restoring,
    /// Inventories bring placements back.
    Placing,
    /// The archive is in service.
    Ended,
}

/// A bundle that was committed and did not come back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unrestored {
    /// Its id, in hexadecimal digits.
    pub bundle: String,
    /// Why, as a sentence.
    pub reason: String,
}

/// A rebuild at a glance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebuildProgress {
    /// What it is at.
    pub stage: RebuildStage,
    /// Nodes that have shown all they have.
    pub nodes_shown: u64,
    /// Nodes that the ledger names and nobody has heard.
    pub nodes_awaited: u64,
    /// Entries of the longest ledger that is believed.
    pub ledger_entries: u64,
    /// Of these, restored.
    pub ledger_restored: u64,
    /// Bundles with a certificate that is believed.
    pub bundles_seen: u64,
    /// Of these, those of which enough shards were shown.
    pub bundles_readable: u64,
    /// Bundles in the restored state.
    pub bundles_restored: u64,
    /// Bundles without a certificate that is believed: uploads that never ended, commits of the last seconds, inventions.
    pub bundles_uncertified: u64,
    /// Shards shown.
    pub shards_shown: u64,
    /// Bundles that could not be restored.
    pub bundles_unrestored: u64,
    /// Why not, of the first of them.
    pub unrestored: Vec<Unrestored>,
    /// What nodes showed that is not believed, a sentence for each node, the first of them.
    pub refused: Vec<String>,
}

impl fmt::Display for RebuildStage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Listening => "listening",
            Self::Restoring => "restoring",
            Self::Placing => "placing",
            Self::Ended => "ended",
        })
    }
}
