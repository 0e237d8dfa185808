//! 32-byte identifiers, one type each, so that a shard root is never taken for a coding.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER_PERMISSIVE;
use serde::{Deserialize, Serialize};

/// Why a text is no identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not 64 hexadecimal digits")]
pub struct ParseIdentifierError {
    text: String,
}

fn parse_hex(text: &str) -> Result<[u8; 32], ParseIdentifierError> {
    let refuse = || ParseIdentifierError { text: text.chars().take(80).collect() };
    let bytes = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).map_err(|_| refuse())?;
    bytes.try_into().map_err(|_| refuse())
}

macro_rules! identifiers {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name([u8; 32]);

        impl $name {
            /// Wraps 32 bytes.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The 32 bytes.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// The first 10 hexadecimal digits, for tables and logs.
            pub fn short(&self) -> String {
                self.to_string().chars().take(10).collect()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&HEXLOWER_PERMISSIVE.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, concat!(stringify!($name), "({})"), self.short())
            }
        }

        impl FromStr for $name {
            type Err = ParseIdentifierError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                parse_hex(text).map(Self)
            }
        }
    )*};
}

identifiers! {
    /// An archive: the ed25519 public key that signs its roster.
    ArchiveId;
    /// A machine, program or person that signs: an ed25519 public key.
    PublicKey;
    /// A storage node or coordinator, named by its ed25519 public key.
    NodeId;
    /// What a bundle holds: BLAKE3 of its content header.
    BundleId;
    /// One erasure-coded form of a bundle: BLAKE3 of its coding header.
    CodingId;
    /// BLAKE3 of one shard.
    ShardRoot;
    /// BLAKE3 of a bundle's payload without padding.
    PayloadRoot;
    /// BLAKE3 of a bundle's manifest.
    ManifestRoot;
    /// One reservation of an upload.
    ReservationId;
    /// One join token.
    TokenId;
    /// A membership filter of the feed: BLAKE3 of its bytes.
    FilterId;
    /// Any other BLAKE3 digest.
    Digest;
}

impl From<PublicKey> for NodeId {
    fn from(key: PublicKey) -> Self {
        Self(key.0)
    }
}

impl From<NodeId> for PublicKey {
    fn from(node: NodeId) -> Self {
        Self(node.0)
    }
}

impl From<ArchiveId> for PublicKey {
    fn from(archive: ArchiveId) -> Self {
        Self(archive.0)
    }
}

impl From<PublicKey> for ArchiveId {
    fn from(key: PublicKey) -> Self {
        Self(key.0)
    }
}

/// A bundle's short name inside one archive's index, counted up in apply.
///
/// Numbers keep index values at 8 bytes; they differ between a rebuilt archive and the one before, so
/// digests and caches outside the coordinator use [`BundleId`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct BundleNumber(pub u32);

impl fmt::Display for BundleNumber {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_prints_as_64_hex_digits_and_parses_back() {
        let id = BundleId::from_bytes([0xab; 32]);
        assert_eq!(id.to_string(), "ab".repeat(32));
        assert_eq!(id.to_string().parse::<BundleId>(), Ok(id));
        assert!("ab".parse::<BundleId>().is_err());
        assert!("zz".repeat(32).parse::<BundleId>().is_err());
    }
}
