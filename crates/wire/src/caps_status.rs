//! What operators see of the domain caps: which hold, what they keep bundles from, where they are broken.

use std::fmt;

use firn_base::Timestamp;
use serde::{Deserialize, Serialize};

/// One of the things that nodes have in common and of which a bundle may have only so many shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cap {
    /// The failure domain.
    Domain,
    /// The operator.
    Operator,
    /// The address prefix.
    Prefix,
    /// The network (AS).
    Network,
    /// The country.
    Country,
}

impl fmt::Display for Cap {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Domain => "failure domain",
            Self::Operator => "operator",
            Self::Prefix => "address prefix",
            Self::Network => "network (AS)",
            Self::Country => "country",
        })
    }
}

/// How many bundles a cap concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapCount {
    /// The cap.
    pub cap: Cap,
    /// Bundles.
    pub bundles: u64,
}

/// Bundles of which more shards lie together than caps allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BreachCount {
    /// All of them.
    pub bundles: u64,
    /// Those whose breach has lasted so long that it is mended.
    pub due: u64,
    /// When the next of the others is due; none if there is none.
    pub next_due: Option<Timestamp>,
}

/// The caps in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapsStatus {
    /// Whether operators, address prefixes, networks and countries count: the archive is `public`.
    pub public: bool,
    /// Shards of one bundle that may lie in one network; none while no table of addresses says which network a node is
    /// in, and in a `named` archive: then networks and countries are not looked at.
    pub per_network: Option<u8>,
    /// Networks that nodes are known to be in.
    pub networks: u64,
    /// Countries that nodes are known to be in.
    pub countries: u64,
    /// Nodes of unknown network or country: they count as being in one together.
    pub unknown: u64,
    /// Shards of one bundle that all caps allow.
    pub width: u64,
    /// Bundles with more shards together than caps allow.
    pub breaches: BreachCount,
    /// For how many of the bundles at risk a cap keeps nodes from taking what is missing.
    pub at_risk_by: Vec<CapCount>,
}
