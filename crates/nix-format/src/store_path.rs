//! Store paths: twenty bytes of hash and a name, below `/nix/store`.
//!
//! Always holds: a [`StorePath`] keeps Nix's rules for hash and name, so it holds no slash and no `..`; paths
//! sort by their base names as text, the order in which Nix signs references.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use crate::nixbase32::{self, ParseNixBase32Error};
use crate::preview;

/// The one store directory whose paths are archived: that of every public cache.
pub const STORE_DIR: &str = "/nix/store";

/// Most bytes of a name. With hash, dash and `.lock` it still fits a file name of 255 bytes.
pub const STORE_PATH_NAME_BYTES_MAX: usize = 211;

/// Characters of the hash part.
const HASH_CHARACTERS: usize = nixbase32::encoded_length(20);

/// A store path such as `/nix/store/<32 characters>-hello-2.12.1`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct StorePath {
    hash: [u8; 20],
    base_name: Box<str>,
}

/// Why a text is no store path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseStorePathError {
    /// The path does not begin with `/nix/store/`.
    #[error("`{0}` does not lie in /nix/store")]
    OutsideStore(String),
    /// There is no dash after a hash of 32 characters.
    #[error("`{0}` is not a hash of 32 characters, a dash and a name")]
    Shape(String),
    /// The hash part is not Nix's base32.
    #[error("the hash of `{text}` cannot be read: {source}")]
    Hash {
        /// The refused text.
        text: String,
        /// What is wrong with the hash.
        source: ParseNixBase32Error,
    },
    /// The name is empty, too long, outside the alphabet or begins like `.` or `..`.
    #[error("`{0}` has a name that Nix does not allow")]
    Name(String),
}

impl StorePath {
    /// Reads a full path, `/nix/store/<hash>-<name>`.
    pub fn parse(path: &str) -> Result<Self, ParseStorePathError> {
        path.strip_prefix(STORE_DIR)
            .and_then(|rest| rest.strip_prefix('/'))
            .ok_or_else(|| ParseStorePathError::OutsideStore(preview(path)))
            .and_then(Self::from_base_name)
    }

    /// Reads a base name, `<hash>-<name>`, as narinfos list references.
    pub fn from_base_name(text: &str) -> Result<Self, ParseStorePathError> {
        let (hash, name) = text
            .split_at_checked(HASH_CHARACTERS)
            .and_then(|(hash, rest)| Some((hash, rest.strip_prefix('-')?)))
            .ok_or_else(|| ParseStorePathError::Shape(preview(text)))?;
        let hash = nixbase32::decode(hash)
            .map_err(|source| ParseStorePathError::Hash { text: preview(text), source })?;
        if !is_name(name) {
            return Err(ParseStorePathError::Name(preview(text)));
        }
        Ok(Self { hash, base_name: text.into() })
    }

    /// The path of `hash` and `name`.
    pub fn from_parts(hash: [u8; 20], name: &str) -> Result<Self, ParseStorePathError> {
        let base_name = format!("{}-{name}", nixbase32::encode(&hash));
        if !is_name(name) {
            return Err(ParseStorePathError::Name(preview(&base_name)));
        }
        Ok(Self { hash, base_name: base_name.into() })
    }

    /// The path without its directory: `<hash>-<name>`.
    pub fn base_name(&self) -> &str {
        &self.base_name
    }

    /// The 20 bytes that the hash part encodes: the path's key in the archive.
    pub const fn hash(&self) -> &[u8; 20] {
        &self.hash
    }

    /// The hash part as its 32 characters, which name the narinfo of the path.
    pub fn hash_part(&self) -> &str {
        &self.base_name[..HASH_CHARACTERS]
    }

    /// The name after the dash.
    pub fn name(&self) -> &str {
        &self.base_name[HASH_CHARACTERS + 1..]
    }
}

/// Whether Nix allows `name`: its alphabet and length, and neither `.` nor `..`, alone or before a dash.
fn is_name(name: &str) -> bool {
    let in_alphabet = |byte: u8| byte.is_ascii_alphanumeric() || b"+-._?=".contains(&byte);
    let first = name.split('-').next();
    (1..=STORE_PATH_NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(in_alphabet)
        && first != Some(".")
        && first != Some("..")
}

impl PartialOrd for StorePath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

// Nix's base32 puts the last byte first, so the order of the hash bytes would be another one.
impl Ord for StorePath {
    fn cmp(&self, other: &Self) -> Ordering {
        self.base_name.cmp(&other.base_name)
    }
}

impl fmt::Display for StorePath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{STORE_DIR}/{}", self.base_name)
    }
}

impl fmt::Debug for StorePath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "StorePath({})", self.base_name)
    }
}

/// Reads a full path; for base names there is [`StorePath::from_base_name`].
impl FromStr for StorePath {
    type Err = ParseStorePathError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BASE_NAME: &str = "4d20g8srpvv02vkiwrmz28g62m15n56b-tree";

    #[test]
    fn a_path_and_its_base_name_are_read_alike() {
        let path = StorePath::parse(&format!("/nix/store/{BASE_NAME}")).unwrap();
        assert_eq!(StorePath::from_base_name(BASE_NAME), Ok(path.clone()));
        assert_eq!(path.to_string(), format!("/nix/store/{BASE_NAME}"));
        assert_eq!((path.base_name(), path.name()), (BASE_NAME, "tree"));
        assert_eq!(path.hash_part(), "4d20g8srpvv02vkiwrmz28g62m15n56b");
        assert_eq!(nixbase32::encode(path.hash()), path.hash_part());
        assert_eq!(StorePath::from_parts(*path.hash(), "tree"), Ok(path));
    }

    #[test]
    fn names_follow_the_rules_of_nix() {
        for name in ["a", "?=+._-0Z", ".hidden", "...", "..a", &"n".repeat(211)] {
            assert!(StorePath::from_parts([1; 20], name).is_ok(), "{name}");
        }
        for name in ["", ".", "..", ".-a", "..-a", "a b", "a/b", "ä", "a\n", "../a", &"n".repeat(212)] {
            assert!(StorePath::from_parts([1; 20], name).is_err(), "{name}");
        }
    }

    #[test]
    fn what_is_no_store_path_is_refused_with_a_sentence() {
        let refused = |text: &str| StorePath::parse(text).unwrap_err().to_string();
        assert_eq!(refused("../../etc/passwd"), "`../../etc/passwd` does not lie in /nix/store");
        assert_eq!(refused("/nix/store/../../etc/passwd"), {
            "`../../etc/passwd` is not a hash of 32 characters, a dash and a name"
        });
        assert!(refused("/nix/store/eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee-a").contains("base32"));
        assert!(refused(&format!("/nix/store/{BASE_NAME}/bin")).contains("does not allow"));
        assert!(refused(&format!("/nix/store//{BASE_NAME}")).contains("a dash and a name"));
    }

    #[test]
    fn paths_sort_by_their_text_and_not_by_their_hash_bytes() {
        let (mut first, mut second) = ([0; 20], [0; 20]);
        (first[0], second[19]) = (255, 255);
        let [first, second] = [first, second].map(|hash| StorePath::from_parts(hash, "a").unwrap());
        assert!(first < second && first.hash() > second.hash());
        assert!(first.base_name() < second.base_name());
    }

    proptest! {
        #[test]
        fn every_path_parses_from_what_it_prints(hash: [u8; 20], name in "[0-9a-zA-Z+_?=][0-9a-zA-Z+._?=-]{0,210}") {
            let path = StorePath::from_parts(hash, &name).unwrap();
            prop_assert_eq!(path.to_string().parse(), Ok(path));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,60}") {
            let _ = StorePath::from_base_name(&text);
            let _ = StorePath::parse(&text);
        }
    }
}
