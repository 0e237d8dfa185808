//! The digests by which coordinators compare their states.

use firn_base::{Digest, NodeId};
use serde::{Deserialize, Serialize};

/// A state at one position of the log. Equal positions mean equal digests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateDigests {
    /// Index of the last applied entry.
    pub applied: u64,
    /// Of bundles, keys, external references and withdrawals.
    pub content: Digest,
    /// Of the ledger, used tokens and the policy.
    pub governance: Digest,
    /// Of nodes, placements, reservations, surplus copies and counters.
    pub rest: Digest,
}

/// A coordinator whose state is not what another's was at the same position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateDifference {
    /// The coordinator that was compared with the one that tells of it. Which of them errs is not known from it.
    pub coordinator: NodeId,
    /// The first position at which a difference was seen.
    pub applied: u64,
    /// Whether content differs.
    pub content: bool,
    /// Whether governance differs.
    pub governance: bool,
    /// Whether the rest differs.
    pub rest: bool,
}

impl StateDigests {
    /// How the state of `coordinator`, which says `other`, differs; none if it does not, or if the positions do.
    pub fn difference(&self, coordinator: NodeId, other: &Self) -> Option<StateDifference> {
        let difference = StateDifference {
            coordinator,
            applied: self.applied,
            content: self.content != other.content,
            governance: self.governance != other.governance,
            rest: self.rest != other.rest,
        };
        (self.applied == other.applied && self != other).then_some(difference)
    }
}

impl std::fmt::Display for StateDifference {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = [(self.content, "content"), (self.governance, "governance"), (self.rest, "the rest")];
        let parts: Vec<_> = parts.into_iter().filter_map(|(differs, name)| differs.then_some(name)).collect();
        write!(formatter, "{} at entry {}", parts.join(", "), self.applied)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digests(applied: u64, content: u8, rest: u8) -> StateDigests {
        let digest = |byte| Digest::from_bytes([byte; 32]);
        StateDigests { applied, content: digest(content), governance: digest(9), rest: digest(rest) }
    }

    #[test]
    fn only_states_at_the_same_position_are_compared() {
        let other = NodeId::from_bytes([1; 32]);
        assert_eq!(digests(5, 1, 1).difference(other, &digests(5, 1, 1)), None);
        assert_eq!(digests(5, 1, 1).difference(other, &digests(6, 2, 2)), None);
        let difference = digests(5, 1, 1).difference(other, &digests(5, 2, 2)).unwrap();
        assert_eq!(difference.to_string(), "content, the rest at entry 5");
        assert!(!difference.governance);
    }
}
