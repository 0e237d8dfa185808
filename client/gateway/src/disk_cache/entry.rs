//! One entry of the cache as it lies in its file.
//!
//! Always holds: what is read back is what was written, under the key that it was written for, or nothing: every byte of
//! the file is covered by its hash. Leaves to others: files (`store`), what keys mean (`cache_key`).
//!
//! Layout: magic `firncach`, u16 version, length of the key (u16), length of the value (u64), key, value, BLAKE3 of all
//! before (32). Integers are little-endian.

use bytes::Bytes;

const MAGIC: &[u8; 8] = b"firncach";
const VERSION: u16 = 1;
const HEAD_BYTES: usize = 20;
const HASH_BYTES: usize = 32;

/// The bytes of a file with this entry.
pub(crate) fn encode(key: &[u8], value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(key.len()).expect("keys are short");
    let mut file = Vec::with_capacity(file_bytes(key.len(), value.len()));
    file.extend_from_slice(MAGIC);
    file.extend_from_slice(&VERSION.to_le_bytes());
    file.extend_from_slice(&length.to_le_bytes());
    file.extend_from_slice(&(value.len() as u64).to_le_bytes());
    file.extend_from_slice(key);
    file.extend_from_slice(value);
    let hash = blake3::hash(&file);
    file.extend_from_slice(hash.as_bytes());
    file
}

/// The value in a file, if it is that of this key and as it was written.
pub(crate) fn decode(key: &[u8], file: Vec<u8>) -> Option<Bytes> {
    let covered = file.len().checked_sub(HASH_BYTES)?;
    let (before, hash) = file.split_at_checked(covered)?;
    let head = before.get(..HEAD_BYTES)?;
    let fits = head.starts_with(MAGIC)
        && head.get(8..10)? == VERSION.to_le_bytes()
        && head.get(10..12)? == u16::try_from(key.len()).ok()?.to_le_bytes()
        && before.get(HEAD_BYTES..HEAD_BYTES + key.len())? == key;
    let value = HEAD_BYTES + key.len()..covered;
    let length = (value.len() as u64).to_le_bytes();
    let whole = fits && head.get(12..20)? == length && blake3::hash(before).as_bytes() == hash;
    whole.then(|| Bytes::from(file).slice(value))
}

/// How long the file of an entry is.
pub(crate) const fn file_bytes(key: usize, value: usize) -> usize {
    HEAD_BYTES + key + value + HASH_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_pinned() {
        let file = encode(b"key", b"value");
        assert_eq!(file.len(), file_bytes(3, 5));
        let head = [b"firncach".as_slice(), &[1, 0, 3, 0, 5, 0, 0, 0, 0, 0, 0, 0], b"keyvalue"].concat();
        assert_eq!(file, [head.as_slice(), blake3::hash(&head).as_bytes()].concat());
    }

    #[test]
    fn what_was_written_is_read_back_and_nothing_else_is() {
        let file = encode(b"key", b"value");
        assert_eq!(decode(b"key", file.clone()).as_deref(), Some(&b"value"[..]));
        assert_eq!(decode(b"kex", file.clone()), None);
        assert_eq!(decode(b"ke", file.clone()), None);
        for at in 0..file.len() {
            let mut damaged = file.clone();
            damaged[at] ^= 1;
            assert_eq!(decode(b"key", damaged), None, "byte {at}");
            assert_eq!(decode(b"key", file[..at].to_vec()), None, "cut at {at}");
        }
    }

    #[test]
    fn an_empty_value_is_a_value() {
        assert_eq!(decode(b"k", encode(b"k", b"")).as_deref(), Some(&b""[..]));
    }
}
