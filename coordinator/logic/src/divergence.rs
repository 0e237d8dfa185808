//! Whether another coordinator's state is as it should be.
//!
//! Always holds: only states at the same position of the log are compared, and the latest such position decides, so that
//! a coordinator whose state was replaced by a good one is no longer reported. Leaves to others: asking, and telling
//! people (the shell).

use firn_base::NodeId;
use firn_wire::{StateDifference, StateDigests};

/// What two lists of digests say of two states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// They have no position in common.
    Unknown,
    /// They were equal at the latest position that both have.
    Equal,
    /// They were not.
    Differs(StateDifference),
}

/// Compares `own` digests with those of `coordinator`, both in order of positions.
pub fn compare_states(own: &[StateDigests], coordinator: NodeId, others: &[StateDigests]) -> Comparison {
    let pairs = own.iter().rev().filter_map(|mine| {
        let position = others.binary_search_by_key(&mine.applied, |digests| digests.applied).ok()?;
        others.get(position).map(|theirs| (mine, theirs))
    });
    let Some((mine, theirs)) = pairs.max_by_key(|(mine, _)| mine.applied) else { return Comparison::Unknown };
    mine.difference(coordinator, theirs).map_or(Comparison::Equal, Comparison::Differs)
}

#[cfg(test)]
mod tests {
    use firn_base::Digest;

    use super::*;

    const OTHER: NodeId = NodeId::from_bytes([1; 32]);

    fn digests(applied: u64, content: u8) -> StateDigests {
        let digest = |byte| Digest::from_bytes([byte; 32]);
        StateDigests { applied, content: digest(content), governance: digest(2), rest: digest(3) }
    }

    #[test]
    fn states_without_a_position_in_common_say_nothing() {
        assert_eq!(compare_states(&[], OTHER, &[digests(1, 1)]), Comparison::Unknown);
        assert_eq!(
            compare_states(&[digests(2, 1)], OTHER, &[digests(1, 1), digests(3, 1)]),
            Comparison::Unknown
        );
    }

    #[test]
    fn the_latest_position_in_common_decides() {
        let own = [digests(1, 1), digests(5, 1), digests(9, 1)];
        assert_eq!(compare_states(&own, OTHER, &[digests(1, 1), digests(5, 1)]), Comparison::Equal);
        let Comparison::Differs(difference) = compare_states(&own, OTHER, &[digests(1, 1), digests(5, 2)])
        else {
            panic!("they differ at 5");
        };
        assert_eq!((difference.applied, difference.content, difference.rest), (5, true, false));
        assert_eq!(compare_states(&own, OTHER, &[digests(5, 2), digests(9, 1)]), Comparison::Equal);
    }
}
