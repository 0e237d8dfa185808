//! Features: short hashes by which objects that share chunks find each other.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Bytes of a [`Feature`]. That any two of 300 million are the same has a probability of 1 in 400; it would cost one look
/// in vain.
pub const FEATURE_BYTES: usize = 8;

/// What objects that probably share chunks have in common: a hash of their package's name, or of one of their chunks.
/// It is a hint and proves nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Feature([u8; FEATURE_BYTES]);

impl Feature {
    /// Wraps 8 bytes.
    pub const fn from_bytes(bytes: [u8; FEATURE_BYTES]) -> Self {
        Self(bytes)
    }

    /// The 8 bytes.
    pub const fn as_bytes(&self) -> &[u8; FEATURE_BYTES] {
        &self.0
    }
}

impl fmt::Debug for Feature {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Feature({:016x})", u64::from_be_bytes(self.0))
    }
}
