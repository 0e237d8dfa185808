//! A store path as people give it: whole, by its base name, or by its hash alone.

use std::fmt;
use std::str::FromStr;

use firn_base::ObjectKey;
use firn_nix_format::{ParseStorePathError, STORE_DIR, StorePath, nixbase32};

/// A store path that was named on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StorePathArgument {
    /// `/nix/store/<hash>-<name>` or `<hash>-<name>`.
    Path(StorePath),
    /// The 32 characters alone, as they name a narinfo.
    Hash([u8; 20]),
}

impl StorePathArgument {
    /// The key under which it is archived.
    pub(crate) const fn key(&self) -> ObjectKey {
        match self {
            Self::Path(path) => ObjectKey::store_path(*path.hash()),
            Self::Hash(hash) => ObjectKey::store_path(*hash),
        }
    }

    /// Whether it names `path`: the hash alone is the key, but the name that was given must not be another.
    pub(crate) fn names(&self, path: &StorePath) -> bool {
        match self {
            Self::Path(own) => own == path,
            Self::Hash(hash) => hash == path.hash(),
        }
    }
}

impl FromStr for StorePathArgument {
    type Err = ParseStorePathError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // A trailing slash is what a shell's completion leaves behind.
        let text = text.strip_suffix('/').unwrap_or(text);
        if text.starts_with(STORE_DIR) || text.starts_with('/') {
            return StorePath::parse(text).map(Self::Path);
        }
        match nixbase32::decode(text) {
            Ok(hash) => Ok(Self::Hash(hash)),
            Err(_) => StorePath::from_base_name(text).map(Self::Path),
        }
    }
}

impl fmt::Display for StorePathArgument {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.fmt(formatter),
            Self::Hash(hash) => formatter.write_str(&nixbase32::encode(hash)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_may_be_given_whole_by_base_name_or_by_hash() {
        let whole: StorePathArgument = "/nix/store/4d20g8srpvv02vkiwrmz28g62m15n56b-tree/".parse().unwrap();
        let base: StorePathArgument = "4d20g8srpvv02vkiwrmz28g62m15n56b-tree".parse().unwrap();
        let hash: StorePathArgument = "4d20g8srpvv02vkiwrmz28g62m15n56b".parse().unwrap();
        assert_eq!((&whole, whole.key()), (&base, hash.key()));
        let path = StorePath::from_base_name("4d20g8srpvv02vkiwrmz28g62m15n56b-tree").unwrap();
        let other = StorePath::from_base_name("4d20g8srpvv02vkiwrmz28g62m15n56b-bush").unwrap();
        assert!(whole.names(&path) && hash.names(&path) && hash.names(&other) && !whole.names(&other));
        assert_eq!(hash.to_string(), "4d20g8srpvv02vkiwrmz28g62m15n56b");
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "/etc/passwd", "hello", "/nix/store/../x", "../../etc/passwd"] {
            assert!(text.parse::<StorePathArgument>().is_err(), "{text}");
        }
    }
}
