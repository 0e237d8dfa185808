//! Signatures as narinfos carry them: the name of a key and 64 bytes.
//!
//! Leaves to others: whose signature counts ([`crate::PublisherKey`], [`crate::accepted_by`]).

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64;

use crate::preview;

/// Most bytes of a key's name; the longest known ones have about 40.
const KEY_NAME_BYTES_MAX: usize = 255;

/// A signature and the name of the key that is said to have made it: `cache.nixos.org-1:<base64>`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamedSignature {
    /// The name of the key: not empty, without colon or white space.
    pub key_name: String,
    /// The ed25519 signature.
    pub bytes: [u8; 64],
}

/// Why a text is no signature.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a signature: a key's name, a colon and 64 bytes in base64")]
pub struct ParseSignatureError {
    text: String,
}

impl FromStr for NamedSignature {
    type Err = ParseSignatureError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        split_named(text)
            .map(|(key_name, bytes)| Self { key_name: key_name.to_owned(), bytes })
            .ok_or_else(|| ParseSignatureError { text: preview(text) })
    }
}

impl fmt::Display for NamedSignature {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.key_name, BASE64.encode(&self.bytes))
    }
}

impl fmt::Debug for NamedSignature {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "NamedSignature({self})")
    }
}

/// Splits `name:base64` into a name and exactly `N` bytes. Signatures and keys share this form.
pub(crate) fn split_named<const N: usize>(text: &str) -> Option<(&str, [u8; N])> {
    // Checked before decoding, so that a long text allocates nothing.
    let (name, base64) = text.split_once(':').filter(|(_, base64)| base64.len() == N.div_ceil(3) * 4)?;
    let bytes = BASE64.decode(base64.as_bytes()).ok()?;
    is_key_name(name).then_some((name, bytes.try_into().ok()?))
}

/// Whether `name` can name a key in a line of text.
pub(crate) fn is_key_name(name: &str) -> bool {
    let plain = |character: char| !character.is_whitespace() && !character.is_control() && character != ':';
    (1..=KEY_NAME_BYTES_MAX).contains(&name.len()) && name.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_prints_as_it_was_written() {
        let text = format!("cache.example.org-1:{}==", "A".repeat(86));
        let signature: NamedSignature = text.parse().unwrap();
        assert_eq!((signature.key_name.as_str(), signature.bytes), ("cache.example.org-1", [0; 64]));
        assert_eq!(signature.to_string(), text);
    }

    #[test]
    fn what_is_no_signature_is_refused() {
        let zeros = "A".repeat(86);
        for text in [
            String::new(),
            "key".to_owned(),
            "key:".to_owned(),
            format!(":{zeros}=="),
            format!("key:{zeros}"),
            format!("key:{zeros}AA"),
            format!("key:{zeros}==="),
            format!("a key:{zeros}=="),
            format!("{}:{zeros}==", "k".repeat(256)),
        ] {
            assert!(text.parse::<NamedSignature>().is_err(), "{text}");
        }
    }
}
