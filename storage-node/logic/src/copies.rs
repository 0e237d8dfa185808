//! Whether this process is one of two that run with one identity: a data directory was copied, and both are used.
//!
//! Always holds: a process gives up only where more than half of the coordinators hear another one as its node. So never do
//! both, and no single coordinator ends a node. Leaves to others: telling who is heard (`coordinator/logic`).

use std::collections::BTreeSet;

use firn_base::NodeId;

/// Which coordinators hear another process as this node.
#[derive(Debug, Default)]
pub struct Copies {
    refusing: BTreeSet<NodeId>,
}

impl Copies {
    /// A coordinator hears this process.
    pub fn heard(&mut self, coordinator: NodeId) {
        self.refusing.remove(&coordinator);
    }

    /// A coordinator refuses this process, for it hears another one. Says whether this one is to end: more than half of
    /// `coordinators`, those of the roster in force, hear another.
    pub fn refused(&mut self, coordinator: NodeId, coordinators: &BTreeSet<NodeId>) -> bool {
        self.refusing.insert(coordinator);
        self.refusing.retain(|refusing| coordinators.contains(refusing));
        self.refusing.len() * 2 > coordinators.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn coordinators(count: u8) -> Vec<NodeId> {
        (1..=count).map(|byte| NodeId::from_bytes([byte; 32])).collect()
    }

    #[test]
    fn a_process_ends_only_where_most_coordinators_hear_another() {
        for count in 1..=5 {
            let all = coordinators(count);
            let roster = all.iter().copied().collect();
            let mut copies = Copies::default();
            for (before, coordinator) in all.iter().enumerate() {
                assert_eq!(copies.refused(*coordinator, &roster), (before + 1) * 2 > all.len());
                // Saying it twice is no second voice.
                assert_eq!(copies.refused(*coordinator, &roster), (before + 1) * 2 > all.len());
            }
        }
    }

    #[test]
    fn a_coordinator_that_hears_it_again_or_has_left_does_not_count() {
        let all = coordinators(3);
        let roster: BTreeSet<NodeId> = all.iter().copied().collect();
        let mut copies = Copies::default();
        assert!(!copies.refused(all[0], &roster));
        copies.heard(all[0]);
        assert!(!copies.refused(all[1], &roster));
        let without: BTreeSet<NodeId> = [all[0], all[2], NodeId::from_bytes([9; 32])].into();
        assert!(!copies.refused(all[0], &without));
        assert!(copies.refused(all[2], &without));
    }
}
