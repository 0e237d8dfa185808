//! How often nodes are looked at because of what readers say of them.
//!
//! Anybody who may read may say anything of anybody, and each look costs the node up to 1 MiB of its line. Always holds: one
//! node is looked at once in [`NODE_EVERY`] at most, and all together once in [`ANY_EVERY`]; memory is bounded by the nodes.
//! Leaves to others: looking.

use std::collections::BTreeMap;
use std::time::Duration;

use firn_base::Timestamp;

use crate::NodeNumber;

/// 1 MiB in as long is a tenth of a line of 8 Mbit/s.
const NODE_EVERY: Duration = Duration::from_secs(10);

/// What the leader reads for all reports together: 10 MiB/s at most.
const ANY_EVERY: Duration = Duration::from_millis(100);

/// When nodes were looked at last.
#[derive(Debug, Default)]
pub struct ReportBook {
    looked: BTreeMap<NodeNumber, Timestamp>,
    last: Option<Timestamp>,
}

impl ReportBook {
    /// Whether `node` is to be looked at now. Then it counts as looked at.
    pub fn admit(&mut self, node: NodeNumber, now: Timestamp) -> bool {
        let too_soon =
            |last: Option<Timestamp>, every| last.is_some_and(|last: Timestamp| now < last.after(every));
        if too_soon(self.last, ANY_EVERY) || too_soon(self.looked.get(&node).copied(), NODE_EVERY) {
            return false;
        }
        // Who was looked at long ago needs no place.
        self.looked.retain(|_, last| now < last.after(NODE_EVERY));
        self.looked.insert(node, now);
        self.last = Some(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_much_is_said_of_a_node_it_is_looked_at_once_in_ten_seconds() {
        let mut book = ReportBook::default();
        let looks = (0..100_000u64)
            .filter(|millis| book.admit(NodeNumber(1), Timestamp::from_millis(1_000_000 + millis)))
            .count();
        assert_eq!(looks, 10);
    }

    #[test]
    fn however_many_nodes_something_is_said_of_there_are_ten_looks_a_second() {
        let mut book = ReportBook::default();
        let looks = (0..10_000u32)
            .filter(|millis| {
                let now = Timestamp::from_millis(1_000_000 + u64::from(*millis));
                book.admit(NodeNumber(*millis), now)
            })
            .count();
        assert_eq!((looks, book.looked.len()), (100, 100));
        assert!(book.admit(NodeNumber(7), Timestamp::from_millis(2_000_000)));
        assert_eq!(book.looked.len(), 1, "who was looked at long ago is forgotten");
    }
}
