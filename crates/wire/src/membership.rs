//! Who takes part in the consensus, and how that is changed.
//!
//! Always holds: a change is complete when the archive key has signed the roster that it makes; until then the
//! [`RosterGap`] says what the roster in force lacks. Leaves to others: whether a change may be made
//! (`coordinator/logic`), carrying it out (`coordinator/server`).

use std::fmt;

use firn_base::NodeId;
use serde::{Deserialize, Serialize};

use crate::{CoordinatorEntry, CoordinatorStatus, DescriptorError, Roster, decode, encode, text_form};

/// One change of the coordinators.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberChange {
    /// Take in a coordinator that catches up and has no vote yet.
    Add {
        /// Its identity, never used before.
        id: NodeId,
        /// Host and UDP port.
        address: String,
    },
    /// Give one that has caught up, and that the roster names, a vote.
    Promote {
        /// Which.
        id: NodeId,
    },
    /// Let one go for good.
    Remove {
        /// Which.
        id: NodeId,
    },
    /// Give the vote of one to another in one step; before that the other is added, as by [`Self::Add`].
    Replace {
        /// Whose vote ends.
        old: NodeId,
        /// Who takes it.
        new: NodeId,
        /// Host and UDP port of the new one.
        address: String,
    },
    /// Take one back that the roster names and that has lost its log or its state: whatever it was, it is taken out, and
    /// asked for again it is taken in as a learner with an empty log. Only it itself asks for this, while it does nothing
    /// else.
    Readmit {
        /// Which.
        id: NodeId,
    },
}

impl MemberChange {
    /// The coordinator that it is about; of two the one that comes.
    pub const fn subject(&self) -> NodeId {
        match self {
            Self::Add { id, .. } | Self::Promote { id } | Self::Remove { id } | Self::Readmit { id } => *id,
            Self::Replace { new, .. } => *new,
        }
    }
}

/// How far a change came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberStep {
    /// The coordinator is taken in and catches up; it has no vote.
    Added,
    /// It has a vote.
    Promoted,
    /// It takes part no more.
    Removed,
    /// The vote of the old one has gone to the new one.
    Replaced,
}

/// Who takes part, as one coordinator has applied it: for those that ask whether they do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembersInForce {
    /// Generation of the roster in force there.
    pub generation: u64,
    /// Index of the log's entry that made these the members: of two answers the larger is the later.
    pub since: u64,
    /// The members, whether they vote or not; empty where none are known yet.
    pub members: Vec<CoordinatorEntry>,
}

/// The coordinators with the state of their roster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberList {
    /// Term of the consensus.
    pub term: u64,
    /// The coordinators.
    pub members: Vec<CoordinatorStatus>,
    /// What the roster in force lacks.
    pub gap: RosterGap,
}

/// What the roster in force says of the members.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RosterGap {
    /// Its generation.
    pub generation: u64,
    /// Members that it does not name: nobody takes their word yet.
    pub lacks: Vec<NodeId>,
    /// Coordinators that it still names though they are no members: their word still counts with nodes.
    pub still_names: Vec<NodeId>,
}

impl RosterGap {
    /// Whether it names exactly the members.
    pub fn is_closed(&self) -> bool {
        self.lacks.is_empty() && self.still_names.is_empty()
    }
}

impl fmt::Display for RosterGap {
    /// One sentence.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |ids: &[NodeId]| ids.iter().map(NodeId::short).collect::<Vec<_>>().join(", ");
        write!(formatter, "roster generation {} ", self.generation)?;
        match (self.lacks.as_slice(), self.still_names.as_slice()) {
            ([], []) => return write!(formatter, "names the members in force"),
            (lacks, []) => write!(formatter, "lacks {}", names(lacks))?,
            ([], still) => write!(formatter, "still names {}", names(still))?,
            (lacks, still) => write!(formatter, "lacks {} and still names {}", names(lacks), names(still))?,
        }
        write!(formatter, ": sign the next with `firn-coordinator roster sign`")
    }
}

/// A roster that nobody has signed yet, as a text to be carried to where the archive key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RosterDraft(
    /// What is to be signed.
    pub Roster,
);

const DRAFT_MAGIC: &str = "firn-roster-draft 1";

impl fmt::Display for RosterDraft {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(roster) = self;
        let mut comments = vec![format!("archive {}, generation {}", roster.archive, roster.generation)];
        let named = |entry: &CoordinatorEntry| format!("coordinator {} at {}", entry.id, entry.address);
        comments.extend(roster.coordinators.iter().map(named));
        comments.extend(roster.retired.iter().map(|id| format!("retired {id}")));
        text_form::write(formatter, DRAFT_MAGIC, &comments, &encode(roster))
    }
}

impl std::str::FromStr for RosterDraft {
    type Err = DescriptorError;

    /// What the comments say is not read: show what was decoded before it is signed.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = text_form::read(DRAFT_MAGIC, text).ok_or(DescriptorError::NotADraft)?;
        let roster = decode(&bytes.map_err(DescriptorError::Damaged)?);
        roster.map(Self).map_err(|error| DescriptorError::Damaged(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use firn_base::{ArchiveId, Timestamp};

    use super::*;

    #[test]
    fn a_gap_says_what_is_missing_and_what_to_do() {
        let (one, two) = (NodeId::from_bytes([1; 32]), NodeId::from_bytes([2; 32]));
        let mut gap = RosterGap { generation: 3, ..RosterGap::default() };
        assert!(gap.is_closed());
        assert_eq!(gap.to_string(), "roster generation 3 names the members in force");
        gap.lacks.push(one);
        assert!(!gap.is_closed());
        let sign = "sign the next with `firn-coordinator roster sign`";
        assert_eq!(gap.to_string(), format!("roster generation 3 lacks {}: {sign}", one.short()));
        gap.still_names.push(two);
        let both = format!("lacks {} and still names {}", one.short(), two.short());
        assert_eq!(gap.to_string(), format!("roster generation 3 {both}: {sign}"));
    }

    #[test]
    fn a_draft_survives_its_text_form_and_is_no_descriptor() {
        let id = NodeId::from_bytes([1; 32]);
        let roster = Roster {
            archive: ArchiveId::from_bytes([9; 32]),
            generation: 2,
            issued: Timestamp::from_millis(5),
            coordinators: vec![CoordinatorEntry { id, raft_id: 1, address: "h:1".into() }],
            retired: vec![NodeId::from_bytes([2; 32])],
        };
        let draft = RosterDraft(roster);
        assert_eq!(draft.to_string().parse::<RosterDraft>().unwrap(), draft);
        assert!(draft.to_string().parse::<crate::Descriptor>().is_err());
        assert!("firn-roster-draft 1\nAAAA".parse::<RosterDraft>().is_err());
    }
}
