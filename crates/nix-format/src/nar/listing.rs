//! What a NAR holds and where: the tree behind a cache's `.ls` files.
//!
//! Always holds: the entries of a directory are sorted by their bytes and unique, and nesting is at most
//! [`crate::nar::DEPTH_MAX`], so recursion over a listing is bounded.

use serde::ser::{Error as _, Serialize, SerializeMap, Serializer};

/// The tree in a NAR, with the offset of each file's contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The file, symlink or directory that the NAR holds.
    pub root: ListingNode,
}

/// One file, symlink or directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListingNode {
    /// A regular file.
    Regular {
        /// Bytes of its contents.
        size: u64,
        /// Whether it may be executed.
        executable: bool,
        /// Where in the NAR its contents begin, in bytes.
        nar_offset: u64,
    },
    /// A directory.
    Directory {
        /// Names and what they name, sorted by the bytes of the name.
        entries: Vec<(Box<[u8]>, Self)>,
    },
    /// A symbolic link.
    Symlink {
        /// Where it points.
        target: Box<[u8]>,
    },
}

/// A name or symlink target is not UTF-8, so Nix's `.ls` format cannot say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the NAR has no listing: a name or symlink target in it is not UTF-8")]
pub struct ListingNotText;

impl Listing {
    /// The listing as Nix writes `.ls` files: JSON, version 1.
    pub fn to_json(&self) -> Result<Vec<u8>, ListingNotText> {
        serde_json::to_vec(self).map_err(|_| ListingNotText)
    }

    /// What lies at `path`, whose segments are separated by `/`; the empty path is the root.
    pub fn find(&self, path: &[u8]) -> Option<&ListingNode> {
        let segments = path.split(|byte| *byte == b'/').filter(|segment| !segment.is_empty());
        segments.into_iter().try_fold(&self.root, |node, segment| match node {
            ListingNode::Directory { entries } => {
                let found = entries.binary_search_by(|(name, _)| name.as_ref().cmp(segment));
                found.ok().map(|index| &entries[index].1)
            }
            _ => None,
        })
    }
}

impl Serialize for Listing {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("version", &1)?;
        map.serialize_entry("root", &self.root)?;
        map.end()
    }
}

impl Serialize for ListingNode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match self {
            Self::Regular { size, executable, nar_offset } => {
                map.serialize_entry("type", "regular")?;
                map.serialize_entry("size", size)?;
                if *executable {
                    map.serialize_entry("executable", &true)?;
                }
                map.serialize_entry("narOffset", nar_offset)?;
            }
            Self::Directory { entries } => {
                map.serialize_entry("type", "directory")?;
                map.serialize_entry("entries", &Entries(entries))?;
            }
            Self::Symlink { target } => {
                map.serialize_entry("type", "symlink")?;
                map.serialize_entry("target", std::str::from_utf8(target).map_err(S::Error::custom)?)?;
            }
        }
        map.end()
    }
}

/// A directory's entries as an object.
struct Entries<'a>(&'a [(Box<[u8]>, ListingNode)]);

impl Serialize for Entries<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, node) in self.0 {
            map.serialize_entry(std::str::from_utf8(name).map_err(S::Error::custom)?, node)?;
        }
        map.end()
    }
}
