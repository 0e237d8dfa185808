//! SHA-256 as Nix writes it: the NarHash and the FileHash of a path info.
//!
//! Always holds: it prints as `sha256:` and 52 characters of Nix's base32, the form that is signed.

use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE64, HEXLOWER_PERMISSIVE};
use sha2::Digest;

use crate::{nixbase32, preview};

/// A SHA-256: of a NAR (NarHash) or of a published file (FileHash).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256([u8; 32]);

/// Why a text is no SHA-256.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a SHA-256 as Nix writes it: sha256: and 52 base32 or 64 hexadecimal digits")]
pub struct ParseSha256Error {
    text: String,
}

impl Sha256 {
    /// Wraps 32 bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The bare 52 characters of base32, as they stand in URLs.
    pub fn to_base32(&self) -> String {
        nixbase32::encode(&self.0)
    }

    /// Reads the bare 52 characters of base32.
    pub fn from_base32(text: &str) -> Result<Self, ParseSha256Error> {
        nixbase32::decode(text).map(Self).map_err(|_| ParseSha256Error { text: preview(text) })
    }
}

/// Reads `sha256:` with 52 base32, 64 hexadecimal or 44 base64 characters, and `sha256-` with base64.
impl FromStr for Sha256 {
    type Err = ParseSha256Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let decoded = match (text.strip_prefix("sha256:"), text.strip_prefix("sha256-")) {
            (Some(digits), _) if digits.len() == 52 => {
                return nixbase32::decode(digits)
                    .map(Self)
                    .map_err(|_| ParseSha256Error { text: preview(text) });
            }
            (Some(digits), _) if digits.len() == 64 => HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).ok(),
            (Some(base64), _) | (_, Some(base64)) if base64.len() == 44 => {
                BASE64.decode(base64.as_bytes()).ok()
            }
            _ => None,
        };
        decoded
            .and_then(|bytes| bytes.try_into().ok())
            .map(Self)
            .ok_or_else(|| ParseSha256Error { text: preview(text) })
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "sha256:{}", self.to_base32())
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Sha256({})", self.to_base32())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_spellings_of_one_hash_are_the_same_hash() {
        let nothing = Sha256::of(b"");
        for text in [
            "sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73",
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "sha256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
            "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
        ] {
            assert_eq!(text.parse(), Ok(nothing), "{text}");
        }
        assert_eq!(nothing.to_string(), "sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73");
        assert_eq!(Sha256::from_base32(&nothing.to_base32()), Ok(nothing));
    }

    #[test]
    fn other_algorithms_lengths_and_alphabets_are_refused() {
        for text in [
            "",
            "sha256:",
            "sha256-",
            "sha1:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73",
            "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73",
            "sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c7",
            "sha256:zmdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73",
            "sha256:g3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU",
            "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFUA",
        ] {
            assert!(text.parse::<Sha256>().is_err(), "{text}");
        }
    }
}
