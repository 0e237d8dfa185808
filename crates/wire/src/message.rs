//! The bytes of a message: a u16 protocol version, then `postcard`.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The version that leads every message. A machine refuses another version by name instead of guessing.
pub const PROTOCOL_VERSION: u16 = 1;

/// Why bytes are no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Fewer bytes than a version.
    #[error("the message ends before its version")]
    Truncated,
    /// Written by a newer or older program.
    #[error("the message has version {found}, this program knows {known}: update the older of the two")]
    Version {
        /// The version found.
        found: u16,
        /// The version that was expected.
        known: u16,
    },
    /// The bytes do not follow the message's shape.
    #[error("the message is malformed: {0}")]
    Malformed(String),
    /// Bytes follow the message.
    #[error("{0} bytes follow the end of the message")]
    Trailing(usize),
}

/// The bytes of `message`.
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    encode_as(PROTOCOL_VERSION, message)
}

/// The bytes of something that is kept, and has versions of its own.
pub fn encode_as<T: Serialize>(version: u16, kept: &T) -> Vec<u8> {
    let bytes = version.to_le_bytes().to_vec();
    postcard::to_extend(kept, bytes).expect("messages hold no type that postcard cannot write")
}

/// Reads what [`encode`] wrote. The caller has bounded the length of `bytes`; collections inside cannot claim
/// more elements than the bytes hold.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    decode_as(PROTOCOL_VERSION, bytes)
}

/// Reads what [`encode_as`] wrote of `version`. The caller has bounded `bytes`, as for [`decode`].
pub fn decode_as<T: DeserializeOwned>(known: u16, bytes: &[u8]) -> Result<T, DecodeError> {
    let (version, body) = bytes.split_first_chunk::<2>().ok_or(DecodeError::Truncated)?;
    let found = u16::from_le_bytes(*version);
    if found != known {
        return Err(DecodeError::Version { found, known });
    }
    let (message, rest) =
        postcard::take_from_bytes(body).map_err(|error| DecodeError::Malformed(error.to_string()))?;
    if rest.is_empty() { Ok(message) } else { Err(DecodeError::Trailing(rest.len())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_another_version_is_refused_by_name() {
        let mut bytes = encode(&7_u32);
        assert_eq!(decode::<u32>(&bytes), Ok(7));
        bytes[0] = 9;
        assert_eq!(decode::<u32>(&bytes), Err(DecodeError::Version { found: 9, known: 1 }));
        assert_eq!(decode_as::<u32>(9, &bytes), Ok(7));
        assert_eq!(encode_as(9, &7_u32), bytes);
    }

    #[test]
    fn bytes_after_a_message_are_refused() {
        let mut bytes = encode(&7_u32);
        bytes.push(0);
        assert_eq!(decode::<u32>(&bytes), Err(DecodeError::Trailing(1)));
    }

    #[test]
    fn a_list_that_claims_more_than_it_holds_is_refused_without_allocating_it() {
        let bytes = [1, 0, 0xff, 0xff, 0xff, 0xff, 0x0f, 1];
        assert!(matches!(decode::<Vec<u64>>(&bytes), Err(DecodeError::Malformed(_))));
    }
}
