//! What shard files are called, in their place and in trash.
//!
//! Always holds: a name says which shard of which coding a file holds, so the inventory is a directory listing;
//! shards are spread over 256 directories by the first byte of the coding. A name in trash also says since when and
//! why it lies there; only names that are written exactly as we write them are read.

use firn_base::{CodingId, ShardIndex, Timestamp};
use firn_wire::DeleteReason;

/// The directory of everything that the store keeps.
pub(crate) const SHARDS: &str = "shards";

/// What the headers of the shards say.
pub(crate) const INDEX: &str = "shards/index";

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
    Ordered(DeleteReason),
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

    /// Reads what a name is shown as.
    pub(crate) fn parse(text: &str) -> Option<Self> {
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

impl TrashReason {
    const ALL: [Self; 4] = [
        Self::Ordered(DeleteReason::Surplus),
        Self::Ordered(DeleteReason::ReplacedCoding),
        Self::Ordered(DeleteReason::AbandonedUpload),
        Self::Damaged,
    ];

    /// Why its deletion was ordered, if it was.
    pub(crate) const fn ordered(self) -> Option<DeleteReason> {
        match self {
            Self::Ordered(reason) => Some(reason),
            Self::Damaged => None,
        }
    }

    const fn suffix(self) -> &'static str {
        match self {
            Self::Ordered(DeleteReason::Surplus) => "surplus",
            Self::Ordered(DeleteReason::ReplacedCoding) => "replaced",
            Self::Ordered(DeleteReason::AbandonedUpload) => "abandoned",
            Self::Damaged => "damaged",
        }
    }
}

impl TrashName {
    pub(crate) fn path(self) -> String {
        format!("{TRASH}/{}", self.file_name())
    }

    fn file_name(self) -> String {
        format!("{}.{}.{}", self.shard, self.since.as_millis(), self.reason.suffix())
    }

    pub(crate) fn parse_file_name(name: &str) -> Option<Self> {
        let (rest, suffix) = name.rsplit_once('.')?;
        let (shard, since) = rest.rsplit_once('.')?;
        let reason = TrashReason::ALL.into_iter().find(|reason| reason.suffix() == suffix)?;
        let since = Timestamp::from_millis(since.parse().ok()?);
        let parsed = Self { since, shard: ShardName::parse(shard)?, reason };
        // Of another spelling it would be counted here and removed nowhere.
        (parsed.file_name() == name).then_some(parsed)
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
        for reason in TrashReason::ALL {
            let trash = TrashName { since: Timestamp::from_millis(5), shard: name, reason };
            assert_eq!(TrashName::parse_file_name(&file(&trash.path())), Some(trash));
        }
        let surplus = TrashReason::Ordered(DeleteReason::Surplus);
        let trash = TrashName { since: Timestamp::from_millis(5), shard: name, reason: surplus };
        assert_eq!(trash.path(), format!("shards/trash/{}.17.5.surplus", "ab".repeat(32)));
        for odd in [
            "17.05.surplus",
            "17.+5.surplus",
            "17.5.Surplus",
            "17.5.",
            "17.5",
            "017.5.surplus",
            "17.-5.surplus",
        ] {
            assert_eq!(TrashName::parse_file_name(&format!("{}.{odd}", "ab".repeat(32))), None, "{odd}");
        }
        let capitals = file(&name.path()).to_uppercase();
        for other in ["", "a.shard", "marker", capitals.as_str()] {
            assert_eq!(ShardName::parse_file_name(other), None);
            assert_eq!(TrashName::parse_file_name(other), None);
        }
    }
}
