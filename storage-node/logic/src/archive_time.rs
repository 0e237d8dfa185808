//! Archive time: what the coordinators' clocks say, told by the node's own clock.
//!
//! Always holds: the offset is the middle one of those learnt from the coordinators, so one coordinator of
//! three with a wrong clock moves nothing; before any was heard it is zero.
//! Leaves to others: reading a clock.

use std::collections::BTreeMap;

use firn_base::{NodeId, Timestamp};

/// How far the archive's clock is ahead of the node's own.
#[derive(Debug, Clone, Default)]
pub struct ArchiveTime {
    // Milliseconds by which each coordinator was ahead when it was last heard.
    offsets: BTreeMap<NodeId, i64>,
}

impl ArchiveTime {
    /// Learns that `coordinator` stated `theirs` in answer to a question that was sent at `asked` and answered
    /// at `answered` of the node's clock.
    pub fn learn(&mut self, coordinator: NodeId, theirs: Timestamp, asked: Timestamp, answered: Timestamp) {
        // The answer was written about half of the round trip ago.
        let half = answered.since(asked) / 2;
        let ours = asked.after(half);
        let offset = i128::from(theirs.as_millis()) - i128::from(ours.as_millis());
        let offset = i64::try_from(offset).unwrap_or(if offset < 0 { i64::MIN } else { i64::MAX });
        self.offsets.insert(coordinator, offset);
    }

    /// Forgets coordinators that the roster no longer names.
    pub fn retain(&mut self, mut is_coordinator: impl FnMut(NodeId) -> bool) {
        self.offsets.retain(|id, _| is_coordinator(*id));
    }

    /// The archive's time when the node's clock shows `local`.
    pub fn at(&self, local: Timestamp) -> Timestamp {
        let offset = self.offset_millis();
        let millis = if offset < 0 {
            local.as_millis().saturating_sub(offset.unsigned_abs())
        } else {
            local.as_millis().saturating_add(offset.unsigned_abs())
        };
        Timestamp::from_millis(millis)
    }

    /// By how many milliseconds the archive's clock is ahead; negative if it is behind.
    pub fn offset_millis(&self) -> i64 {
        let mut offsets: Vec<i64> = self.offsets.values().copied().collect();
        offsets.sort_unstable();
        // Of an even number the earlier of the two middle ones: then rights end rather later than sooner for
        // a node whose own clock is right, and expiries are hours.
        offsets.get(offsets.len().saturating_sub(1) / 2).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    const fn id(byte: u8) -> NodeId {
        NodeId::from_bytes([byte; 32])
    }

    #[test]
    fn half_of_the_round_trip_is_taken_off() {
        let mut time = ArchiveTime::default();
        assert_eq!(time.at(at(5_000)), at(5_000));
        time.learn(id(1), at(2_050), at(1_000), at(1_100));
        assert_eq!(time.at(at(5_000)), at(6_000));
    }

    #[test]
    fn one_wrong_clock_of_three_moves_nothing() {
        let mut time = ArchiveTime::default();
        time.learn(id(1), at(1_010), at(1_000), at(1_000));
        time.learn(id(2), at(1_020), at(1_000), at(1_000));
        time.learn(id(3), at(u64::MAX), at(1_000), at(1_000));
        assert_eq!(time.at(at(1_000)), at(1_020));
        time.learn(id(3), at(0), at(1_000), at(1_000));
        assert_eq!(time.at(at(1_000)), at(1_010));
        time.retain(|node| node != id(3));
        assert_eq!(time.at(at(1_000)), at(1_010));
    }

    #[test]
    fn a_clock_that_is_ahead_is_set_back() {
        let mut time = ArchiveTime::default();
        time.learn(id(1), at(400), at(1_000), at(1_000));
        assert_eq!(time.at(at(1_000)), at(400));
        assert_eq!(time.at(at(100)), at(0));
    }
}
