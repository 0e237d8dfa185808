//! Suspensions that a node's owner is told of before they take effect.
//!
//! An operator announces one; the leader says when it takes effect, keeps it in the node's record, and has it carried out
//! when its time has come. Always holds: its owner can hear of it for 48 hours before, less what all coordinators were down
//! of them; a node that was announced to be suspended is so once, in the name of whoever announced it, unless its state was
//! set meanwhile, which takes the announcement back; so nobody who resumes a node sees it suspended a moment later.
//! Leaves to others: who may (`rights`), telling the node, suspending one at once (`apply`).

use std::time::Duration;

use firn_base::{NodeId, Timestamp};
use firn_wire::{Actor, NodeState, RejectReason};

use crate::clock_rule::CLOCK_BAND;
use crate::state::NodeRecord;

/// How long before a suspension it is announced: 48 hours, so that an owner who is away for a weekend can still ask why, and
/// half an hour more, for the node asks once a minute, and the clock of whoever leads at the end may be ahead of that of
/// whoever led at the beginning.
pub const SUSPENSION_NOTICE: Duration = Duration::from_secs(48 * 3600 + 1800);

// One clock may be that much behind the others' and one ahead.
const _: () = assert!(SUSPENSION_NOTICE.as_secs() >= 48 * 3600 + 2 * CLOCK_BAND.as_secs() + 60);

/// A suspension to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspension {
    /// When the node is suspended.
    pub at: Timestamp,
    /// Who announced it.
    pub by: Actor,
    /// Why, in that one's words: one line.
    pub reason: String,
}

/// Why none is announced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnnouncementRefused {
    /// It is suspended already.
    #[error("this node is suspended already: `firn-coordinator node resume` gives it shards again")]
    Suspended,
    /// It is given nothing new anyway, or is no part of the archive any more.
    #[error("a node that is {0} is not suspended: only one that is active can be")]
    NotActive(NodeState),
    /// One is announced.
    #[error(
        "this node's owner is told already that it will be suspended at {at}: `firn-coordinator node resume` takes that back"
    )]
    Announced {
        /// When that is.
        at: Timestamp,
    },
}

impl AnnouncementRefused {
    /// The same as the outcome of a command.
    pub(crate) fn reject_reason(&self) -> RejectReason {
        let illegal = |from| RejectReason::IllegalState { from, to: NodeState::Suspended };
        match self {
            Self::Suspended => illegal(NodeState::Suspended),
            Self::NotActive(NodeState::Gone | NodeState::Lost) => RejectReason::NodeRemoved,
            Self::NotActive(state) => illegal(*state),
            Self::Announced { .. } => RejectReason::Malformed(self.to_string()),
        }
    }
}

/// Whether it may be announced that `node` will be suspended.
///
/// # Errors
///
/// It is not active, or that is announced already.
pub fn check_announcement(node: &NodeRecord) -> Result<(), AnnouncementRefused> {
    match (node.state, &node.suspension) {
        (NodeState::Suspended, _) => Err(AnnouncementRefused::Suspended),
        (NodeState::Active, None) => Ok(()),
        (NodeState::Active, Some(announced)) => Err(AnnouncementRefused::Announced { at: announced.at }),
        (state, _) => Err(AnnouncementRefused::NotActive(state)),
    }
}

/// When a suspension takes effect that is announced now, by the leader's clock and by the archive's time, which may be
/// ahead of it.
pub fn suspension_at(clock: Timestamp, archive_time: Timestamp) -> Timestamp {
    clock.max(archive_time).after(SUSPENSION_NOTICE)
}

/// The nodes whose announced suspensions are to be carried out at `now`, each with the time that was announced.
pub fn due_suspensions(nodes: &[NodeRecord], now: Timestamp) -> Vec<(NodeId, Timestamp)> {
    let announced = nodes.iter().filter_map(|node| Some((node.id, node.suspension.as_ref()?.at)));
    announced.filter(|(_, at)| *at <= now).collect()
}
