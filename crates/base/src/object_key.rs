//! Keys of archived objects and where the index says they lie.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use crate::BundleNumber;

/// Bytes of an [`ObjectKey`]: 1 byte of kind and 20 bytes of name.
pub const KEY_BYTES: usize = 21;

/// What kind of object a key names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum KeyKind {
    /// A store path: the NAR with its path info. The name is the store path hash.
    StorePath = 1,
    /// A build log. The name is the store path hash of the derivation.
    BuildLog = 2,
    /// A realisation. The name is the first 20 bytes of BLAKE3 of the URL path.
    Realisation = 3,
    /// A debuginfo link. The name is the build id.
    DebugInfo = 4,
}

impl KeyKind {
    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        [Self::StorePath, Self::BuildLog, Self::Realisation, Self::DebugInfo]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// The name under which an object is archived: kind and 20 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    kind: KeyKind,
    name: [u8; 20],
}

/// Why bytes or a text are no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseKeyError {
    /// The first byte names no kind of object.
    #[error("a key of unknown kind {0}")]
    UnknownKind(u8),
    /// The length or an alphabet is wrong.
    #[error("a key is 42 hexadecimal digits")]
    Malformed,
}

impl ObjectKey {
    /// The key of `name` among objects of `kind`.
    pub const fn new(kind: KeyKind, name: [u8; 20]) -> Self {
        Self { kind, name }
    }

    /// The key of a store path by its 20-byte hash.
    pub const fn store_path(hash: [u8; 20]) -> Self {
        Self::new(KeyKind::StorePath, hash)
    }

    /// The key of a build log by the 20-byte hash of its derivation.
    pub const fn build_log(hash: [u8; 20]) -> Self {
        Self::new(KeyKind::BuildLog, hash)
    }

    /// The key of an object of `kind` that is named by its URL relative to the cache: the first 20 bytes of BLAKE3.
    pub fn named(kind: KeyKind, url: &str) -> Self {
        let mut name = [0; 20];
        name.copy_from_slice(&blake3::hash(url.as_bytes()).as_bytes()[..20]);
        Self::new(kind, name)
    }

    /// What kind of object this is.
    pub const fn kind(&self) -> KeyKind {
        self.kind
    }

    /// The 20 bytes after the kind.
    pub const fn name(&self) -> &[u8; 20] {
        &self.name
    }

    /// Kind and name as they lie in the index.
    pub fn to_bytes(&self) -> [u8; KEY_BYTES] {
        let mut bytes = [0; KEY_BYTES];
        bytes[0] = self.kind as u8;
        bytes[1..].copy_from_slice(&self.name);
        bytes
    }

    /// Reads what [`Self::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8; KEY_BYTES]) -> Result<Self, ParseKeyError> {
        let kind = KeyKind::from_byte(bytes[0]).ok_or(ParseKeyError::UnknownKind(bytes[0]))?;
        let mut name = [0; 20];
        name.copy_from_slice(&bytes[1..]);
        Ok(Self { kind, name })
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&HEXLOWER.encode(&self.to_bytes()))
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}({})", self.kind, HEXLOWER.encode(&self.name[..5]))
    }
}

impl FromStr for ObjectKey {
    type Err = ParseKeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = HEXLOWER.decode(text.as_bytes()).map_err(|_| ParseKeyError::Malformed)?;
        Self::from_bytes(&bytes.try_into().map_err(|_| ParseKeyError::Malformed)?)
    }
}

// Keys travel as their 21 bytes, so that a message of 10,000 keys is 210 kB and an unknown kind is refused
// while it is read.
impl Serialize for ObjectKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_bytes().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ObjectKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_bytes(&<[u8; KEY_BYTES]>::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// Where an object's path info lies: bundle, block of the manifest, entry in the block.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Location {
    /// The bundle by its number in this archive.
    pub bundle: BundleNumber,
    /// The path-info block within the manifest.
    pub block: u16,
    /// The record within the block.
    pub entry: u16,
}

impl Location {
    /// The index value: bundle 32 bits, block 16, entry 16, little-endian.
    pub fn to_bytes(&self) -> [u8; 8] {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&self.bundle.0.to_le_bytes());
        bytes[4..6].copy_from_slice(&self.block.to_le_bytes());
        bytes[6..].copy_from_slice(&self.entry.to_le_bytes());
        bytes
    }

    /// Reads what [`Self::to_bytes`] wrote.
    pub const fn from_bytes(bytes: &[u8; 8]) -> Self {
        let [b0, b1, b2, b3, c0, c1, e0, e1] = *bytes;
        Self {
            bundle: BundleNumber(u32::from_le_bytes([b0, b1, b2, b3])),
            block: u16::from_le_bytes([c0, c1]),
            entry: u16::from_le_bytes([e0, e1]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_its_kind_and_twenty_bytes() {
        let key = ObjectKey::build_log([7; 20]);
        assert_eq!(key.to_bytes()[0], 2);
        assert_eq!(ObjectKey::from_bytes(&key.to_bytes()), Ok(key));
        assert_eq!(key.to_string().parse(), Ok(key));
    }

    #[test]
    fn a_key_by_url_is_the_beginning_of_its_digest() {
        let key = ObjectKey::named(KeyKind::Realisation, "realisations/x.doi");
        let digest = blake3::hash(b"realisations/x.doi");
        assert_eq!((key.kind(), &key.name()[..]), (KeyKind::Realisation, &digest.as_bytes()[..20]));
    }

    #[test]
    fn an_unknown_kind_is_refused() {
        assert_eq!(ObjectKey::from_bytes(&[9; 21]), Err(ParseKeyError::UnknownKind(9)));
    }

    #[test]
    fn an_index_value_is_eight_little_endian_bytes() {
        let location = Location { bundle: BundleNumber(0x0102_0304), block: 0x0506, entry: 0x0708 };
        assert_eq!(location.to_bytes(), [4, 3, 2, 1, 6, 5, 8, 7]);
        assert_eq!(Location::from_bytes(&location.to_bytes()), location);
    }
}
