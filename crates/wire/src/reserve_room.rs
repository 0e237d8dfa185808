//! Room that an archive keeps for repairs.

use std::fmt;

use firn_base::ByteCount;
use serde::{Deserialize, Serialize};

/// How far the room is from the point at which publishing stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReserveLevel {
    /// There is enough.
    Enough,
    /// Publishing goes on, but not for long.
    Low,
    /// What is free is needed for repairs: nothing new is taken.
    Exhausted,
}

/// What storage nodes have free, and how much of it is not for publishing.
///
/// As text it says how things stand and what to do about them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReserveRoom {
    /// Quotas of the nodes that take shards.
    pub capacity: ByteCount,
    /// What these nodes may still be given, surplus copies and trash included, which make room within days.
    pub free: ByteCount,
    /// What stays free for repairs.
    pub kept: ByteCount,
    /// The part of it that shards need which are missing, or are to leave draining nodes.
    pub awaited: ByteCount,
    /// So many of the largest failure domains may vanish together, and what they held can be made anew.
    pub domains: u8,
    /// The quota that is missing at the least; 0 while publishing goes on.
    pub missing: ByteCount,
    /// How things stand.
    pub level: ReserveLevel,
}

impl ReserveRoom {
    /// Why nothing is taken now, and what to do about it; `bundle` is what the refused one would have taken, if
    /// there is room, but not for that much.
    pub fn refusal(&self, bundle: Option<ByteCount>) -> String {
        let (and, bundle) = match bundle {
            Some(bytes) => (",", format!(", and this bundle takes {bytes}")),
            None => (" and", String::new()),
        };
        format!(
            "the archive has {} of space free{and} keeps {} for repairs{}{bundle}: add at least {} of quota on \
             storage nodes in other failure domains",
            self.free,
            self.kept,
            self.in_case(),
            rounded_up(self.missing)
        )
    }

    const fn in_case(&self) -> &'static str {
        match self.domains {
            0 => "",
            1 => ", in case its largest failure domain vanishes",
            _ => ", in case its two largest failure domains vanish",
        }
    }
}

impl fmt::Display for ReserveRoom {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let left = ByteCount(self.free.0.saturating_sub(self.kept.0));
        match self.level {
            ReserveLevel::Enough => write!(formatter, "{} of what is free is kept for repairs", self.kept)?,
            ReserveLevel::Low => write!(
                formatter,
                "room is low: {} of what is free is kept for repairs{}, and publishing stops when {left} more is \
                 taken: add quota on storage nodes in other failure domains",
                self.kept,
                self.in_case()
            )?,
            ReserveLevel::Exhausted => write!(formatter, "publishing has stopped: {}", self.refusal(None))?,
        }
        match self.awaited.0 {
            0 => Ok(()),
            _ => {
                write!(formatter, "; of what is kept, {} is for shards to be made or moved now", self.awaited)
            }
        }
    }
}

/// Up to the next tenth of the unit that is shown, so that who adds what is read has added enough.
fn rounded_up(bytes: ByteCount) -> ByteCount {
    let unit = [1_000_000_000_000, 1_000_000_000, 1_000_000, 1_000].into_iter().find(|unit| bytes.0 >= *unit);
    ByteCount(unit.and_then(|unit| bytes.0.checked_next_multiple_of(unit / 10)).unwrap_or(bytes.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: ReserveRoom = ReserveRoom {
        capacity: ByteCount(10_000_000_000_000),
        free: ByteCount(1_200_000_000_000),
        kept: ByteCount(1_500_000_000_000),
        awaited: ByteCount(0),
        domains: 2,
        missing: ByteCount(300_000_000_001),
        level: ReserveLevel::Exhausted,
    };

    #[test]
    fn a_refusal_names_what_is_missing_and_never_too_little() {
        assert_eq!(
            ROOM.refusal(None),
            "the archive has 1.2 TB of space free and keeps 1.5 TB for repairs, in case its two largest failure \
             domains vanish: add at least 300.1 GB of quota on storage nodes in other failure domains"
        );
        let one = ReserveRoom { domains: 1, ..ROOM };
        assert!(one.refusal(None).contains("for repairs, in case its largest failure domain vanishes: add"));
        let none = ReserveRoom { domains: 0, missing: ByteCount(999), ..ROOM };
        assert!(none.refusal(None).contains("for repairs: add at least 999 B of quota"));
    }

    #[test]
    fn a_bundle_for_which_there_is_too_little_room_is_named_with_its_size() {
        let sentence = ROOM.refusal(Some(ByteCount(768_000_000)));
        assert!(
            sentence.starts_with("the archive has 1.2 TB of space free, keeps 1.5 TB for repairs, in case ")
        );
        assert!(sentence.contains(" vanish, and this bundle takes 768.0 MB: add at least "), "{sentence}");
    }

    #[test]
    fn people_read_how_much_is_kept_and_when_publishing_stops() {
        assert!(
            ROOM.to_string().starts_with("publishing has stopped: the archive has 1.2 TB of space free and")
        );
        let enough = ReserveRoom { free: ByteCount(9_000_000_000_000), level: ReserveLevel::Enough, ..ROOM };
        assert_eq!(enough.to_string(), "1.5 TB of what is free is kept for repairs");
        let low = ReserveRoom {
            free: ByteCount(1_800_000_000_000),
            awaited: ByteCount(2_000_000_000),
            level: ReserveLevel::Low,
            ..ROOM
        };
        assert_eq!(
            low.to_string(),
            "room is low: 1.5 TB of what is free is kept for repairs, in case its two largest failure domains \
             vanish, and publishing stops when 300.0 GB more is taken: add quota on storage nodes in other failure \
             domains; of what is kept, 2.0 GB is for shards to be made or moved now"
        );
    }
}
