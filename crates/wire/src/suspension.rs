//! A suspension that a node's owner is told of before it takes effect.
//!
//! Always holds: a reason is one bounded line of text. Leaves to others: when it takes effect (`coordinator/logic`).

use firn_base::{NodeId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{Actor, NAME_BYTES_MAX};

/// What a node is told of its own suspension.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuspensionNotice {
    /// When it takes effect, by the archive's time.
    pub at: Timestamp,
    /// Why, in the words of whoever announced it.
    pub reason: String,
}

impl SuspensionNotice {
    /// Whether an owner can be shown it as it is: it comes from another machine.
    pub fn is_one_line(&self) -> bool {
        self.reason.len() <= NAME_BYTES_MAX && !self.reason.chars().any(char::is_control)
    }
}

/// What operators see of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnnouncedSuspension {
    /// The node.
    pub node: NodeId,
    /// When it takes effect, by the archive's time.
    pub at: Timestamp,
    /// Who announced it.
    pub by: Actor,
    /// Why.
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_shown_only_if_it_is_one_line_that_fits() {
        let notice = |reason: String| SuspensionNotice { at: Timestamp::default(), reason };
        assert!(notice("x".repeat(NAME_BYTES_MAX)).is_one_line());
        for reason in ["x".repeat(NAME_BYTES_MAX + 1), "a\nb".to_owned(), "\u{1b}[2J".to_owned()] {
            assert!(!notice(reason).is_one_line());
        }
    }
}
