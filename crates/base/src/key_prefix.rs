//! The beginning of a key: what a reader names who will not name the key.

use serde::{Deserialize, Serialize};

use crate::{KeyKind, ObjectKey};

const PREFIX_BYTES: usize = 3;

/// All keys of one kind whose names begin with the same 20 to 24 bits.
///
/// Of 2^160 names 2^136 and more share a prefix: whoever hears one learns next to nothing about the key. At 300 million
/// keys 18 of them share 24 bits, and 290 share 20.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "([u8; 4], u8)", into = "([u8; 4], u8)")]
pub struct KeyPrefix {
    kind: KeyKind,
    /// Bits behind the prefix are zero.
    name: [u8; PREFIX_BYTES],
    bits: u8,
}

/// Why something is no prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyPrefixError {
    /// Too short a prefix gives too many keys, too long a one says too much of the key.
    #[error("a prefix of {0} bits: it has {min} to {max}", min = KeyPrefix::BITS_MIN, max = KeyPrefix::BITS_MAX)]
    Length(u8),
    /// The first byte names no kind of object.
    #[error("a prefix of unknown kind {0}")]
    UnknownKind(u8),
    /// There are bits behind it.
    #[error("a prefix with bits behind its length")]
    Malformed,
}

impl KeyPrefix {
    /// The fewest bits of a name.
    pub const BITS_MIN: u8 = 20;
    /// The most bits of a name.
    pub const BITS_MAX: u8 = 24;

    /// The first `bits` bits of the name of `key`.
    pub fn of(key: &ObjectKey, bits: u8) -> Result<Self, KeyPrefixError> {
        if !(Self::BITS_MIN..=Self::BITS_MAX).contains(&bits) {
            return Err(KeyPrefixError::Length(bits));
        }
        let mut name = [0; PREFIX_BYTES];
        name.copy_from_slice(&key.name()[..PREFIX_BYTES]);
        name[2] &= u8::MAX << (Self::BITS_MAX - bits);
        Ok(Self { kind: key.kind(), name, bits })
    }

    /// How many bits of the name it gives.
    pub const fn bits(&self) -> u8 {
        self.bits
    }

    /// Whether `key` begins so.
    pub fn covers(&self, key: &ObjectKey) -> bool {
        Self::of(key, self.bits) == Ok(*self)
    }

    /// The kind and the beginning of the first name, as keys lie in order.
    pub const fn first(&self) -> [u8; 4] {
        [self.kind as u8, self.name[0], self.name[1], self.name[2]]
    }

    /// What follows the last key that begins so, as keys lie in order.
    pub fn behind(&self) -> [u8; 4] {
        // A kind is far below 255, so the sum stays within 32 bits.
        u32::from_be_bytes(self.first()).saturating_add(1 << (Self::BITS_MAX - self.bits)).to_be_bytes()
    }
}

impl TryFrom<([u8; 4], u8)> for KeyPrefix {
    type Error = KeyPrefixError;

    fn try_from((first, bits): ([u8; 4], u8)) -> Result<Self, KeyPrefixError> {
        let [kind, name @ ..] = first;
        let kind = KeyKind::from_byte(kind).ok_or(KeyPrefixError::UnknownKind(kind))?;
        let mut whole = [0; 20];
        whole[..PREFIX_BYTES].copy_from_slice(&name);
        let prefix = Self::of(&ObjectKey::new(kind, whole), bits)?;
        if prefix.name == name { Ok(prefix) } else { Err(KeyPrefixError::Malformed) }
    }
}

impl From<KeyPrefix> for ([u8; 4], u8) {
    fn from(prefix: KeyPrefix) -> Self {
        (prefix.first(), prefix.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(first: [u8; 3]) -> ObjectKey {
        let mut name = [7; 20];
        name[..3].copy_from_slice(&first);
        ObjectKey::store_path(name)
    }

    #[test]
    fn a_prefix_covers_the_keys_that_begin_with_its_bits() {
        let prefix = KeyPrefix::of(&key([0xab, 0xcd, 0xef]), 20).unwrap();
        assert_eq!((prefix.first(), prefix.behind()), ([1, 0xab, 0xcd, 0xe0], [1, 0xab, 0xcd, 0xf0]));
        assert!(prefix.covers(&key([0xab, 0xcd, 0xe0])) && !prefix.covers(&key([0xab, 0xcd, 0xdf])));
        assert!(
            !prefix.covers(&ObjectKey::build_log(*key([0xab, 0xcd, 0xef]).name())),
            "a log is another key"
        );
        let last = KeyPrefix::of(&key([0xff; 3]), 24).unwrap();
        assert_eq!(last.behind(), [2, 0, 0, 0], "the next kind follows");
    }

    #[test]
    fn what_is_no_prefix_is_refused() {
        assert_eq!(KeyPrefix::of(&key([0; 3]), 19), Err(KeyPrefixError::Length(19)));
        assert_eq!(KeyPrefix::of(&key([0; 3]), 25), Err(KeyPrefixError::Length(25)));
        assert_eq!(KeyPrefix::try_from(([1, 2, 3, 1], 20)), Err(KeyPrefixError::Malformed));
        assert_eq!(KeyPrefix::try_from(([9, 2, 3, 0], 20)), Err(KeyPrefixError::UnknownKind(9)));
        let prefix = KeyPrefix::of(&key([1, 2, 3]), 22).unwrap();
        assert_eq!(KeyPrefix::try_from(<([u8; 4], u8)>::from(prefix)), Ok(prefix));
    }
}
