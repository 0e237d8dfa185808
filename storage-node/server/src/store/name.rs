//! What shard files are called, in their place and in trash.
//!
//! Always holds: a name says which shard of which coding a file holds, so the inventory is a directory listing;
//! shards are spread over 256 directories by the first byte of the coding.

use firn_base::{CodingId, ShardIndex, Timestamp};

/// The directory of everything that the store keeps.
pub(crate) const SHARDS: &str = "shards";

/// Files that are being written; at start all of them are torn.
pub(crate) const TEMPORARY: &str = "shards/temp";

/// Files on their way out.
pub(crate) const TRASH: &str = "shards/trash";

/// A shard: of which coding, which one. Ordered as inventories are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardName {
    /// The coding.
    pub coding: CodingId,
    /// Which of its shards.
    pub index: ShardIndex,
}

/// Why a file lies in trash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TrashReason {
    /// A leader ordered it.
    Deleted,
    /// It was found damaged.
    Damaged,
}

/// A file in trash. Ordered by age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TrashName {
    pub(crate) since: Timestamp,
    pub(crate) shard: ShardName,
    pub(crate) reason: TrashReason,
}

impl ShardName {
    /// The name of shard `index` of `coding`.
    pub const fn new(coding: CodingId, index: ShardIndex) -> Self {
        Self { coding, index }
    }

    pub(crate) fn directory(self) -> String {
        format!("{SHARDS}/{:02x}", self.coding.as_bytes()[0])
    }

    pub(crate) fn path(self) -> String {
        format!("{}/{self}.shard", self.directory())
    }

    pub(crate) fn temporary_path(self) -> String {
        format!("{TEMPORARY}/{self}.shard")
    }

    /// Reads a file name of one of the 256 directories.
    pub(crate) fn parse_file_name(name: &str) -> Option<Self> {
        Self::parse(name.strip_suffix(".shard")?)
    }

    fn parse(text: &str) -> Option<Self> {
        let (coding, index) = text.split_once('.')?;
        let name = Self { coding: coding.parse().ok()?, index: ShardIndex(index.parse().ok()?) };
        // One shard has one name: no capitals, no leading zeros.
        (name.to_string() == text).then_some(name)
    }
}

impl std::fmt::Display for ShardName {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}.{}", self.coding, self.index)
    }
}

impl TrashName {
    pub(crate) fn path(self) -> String {
        let reason = match self.reason {
            TrashReason::Deleted => "deleted",
            TrashReason::Damaged => "damaged",
        };
        format!("{TRASH}/{}.{}.{reason}", self.shard, self.since.as_millis())
    }

    pub(crate) fn parse_file_name(name: &str) -> Option<Self> {
        let (rest, reason) = name.rsplit_once('.')?;
        let (shard, since) = rest.rsplit_once('.')?;
        let reason = match reason {
            "deleted" => TrashReason::Deleted,
            "damaged" => TrashReason::Damaged,
            _ => return None,
        };
        let since = Timestamp::from_millis(since.parse().ok()?);
        Some(Self { since, shard: ShardName::parse(shard)?, reason })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_are_read_back_and_nothing_else_is_a_shard() {
        let name = ShardName::new(CodingId::from_bytes([0xab; 32]), ShardIndex(17));
        assert_eq!(name.path(), format!("shards/ab/{}.17.shard", "ab".repeat(32)));
        let file = |path: &str| path.rsplit('/').next().unwrap().to_owned();
        assert_eq!(ShardName::parse_file_name(&file(&name.path())), Some(name));
        let trash = TrashName { since: Timestamp::from_millis(5), shard: name, reason: TrashReason::Damaged };
        assert_eq!(TrashName::parse_file_name(&file(&trash.path())), Some(trash));
        let capitals = file(&name.path()).to_uppercase();
        for other in ["", "a.shard", "marker", capitals.as_str()] {
            assert_eq!(ShardName::parse_file_name(other), None);
            assert_eq!(TrashName::parse_file_name(other), None);
        }
    }
}
