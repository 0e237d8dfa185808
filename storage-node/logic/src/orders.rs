//! Which of two contradicting orders counts.
//!
//! Always holds: the gate never goes back; an order below the highest rank heard is refused, so a stale
//! leader can delete nothing once its successor was heard. A rank of a roster that the node does not know yet
//! is refused too: one coordinator must not be able to shut the gate for the archive's next generation.
//! Leaves to others: keeping the highest rank across restarts (the shell writes it before it obeys).

use firn_wire::OrderRank;

/// The highest rank of an order or heartbeat heard so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrderGate {
    highest: OrderRank,
}

/// Why an order is not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OrderRefused {
    /// A later leader or roster has spoken.
    #[error(
        "the order is of generation {} and epoch {}, this node has heard {} and {}: ask the present leader for a new one",
        given.generation, given.epoch, highest.generation, highest.epoch
    )]
    Superseded {
        /// The rank of the order.
        given: OrderRank,
        /// The highest rank heard.
        highest: OrderRank,
    },
    /// Signed under a roster that the node has not seen.
    #[error(
        "the order is of roster generation {given}, this node knows {known} and fetches the newer: try again"
    )]
    UnknownGeneration {
        /// The order's generation.
        given: u64,
        /// The generation of the roster in force here.
        known: u64,
    },
}

impl OrderGate {
    /// A gate that stands where it stood when it was last written down; the default rank for a new node.
    pub const fn new(highest: OrderRank) -> Self {
        Self { highest }
    }

    /// The highest rank heard: what the shell writes down.
    pub const fn highest(&self) -> OrderRank {
        self.highest
    }

    /// Takes an order of `rank` under a roster of generation `known`. If the gate rises by it, the shell writes
    /// [`Self::highest`] down before the order is carried out.
    ///
    /// # Errors
    ///
    /// The order is older than one heard before, or of a roster not known yet.
    pub fn accept(&mut self, rank: OrderRank, known: u64) -> Result<(), OrderRefused> {
        if rank.generation > known {
            return Err(OrderRefused::UnknownGeneration { given: rank.generation, known });
        }
        if rank < self.highest {
            return Err(OrderRefused::Superseded { given: rank, highest: self.highest });
        }
        self.highest = rank;
        Ok(())
    }

    /// Takes note of a rank that is no order, as in the answer to a heartbeat.
    pub fn hear(&mut self, rank: OrderRank, known: u64) {
        if rank.generation <= known {
            self.highest = self.highest.max(rank);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn rank(generation: u64, epoch: u64) -> OrderRank {
        OrderRank { generation, epoch }
    }

    #[test]
    fn an_order_of_a_stale_leader_is_refused() {
        let mut gate = OrderGate::new(rank(1, 4));
        assert_eq!(gate.accept(rank(1, 5), 1), Ok(()));
        assert_eq!(gate.accept(rank(1, 5), 1), Ok(()));
        let highest = rank(1, 5);
        assert_eq!(gate.accept(rank(1, 4), 1), Err(OrderRefused::Superseded { given: rank(1, 4), highest }));
    }

    #[test]
    fn a_newer_roster_outranks_any_epoch_of_an_older_one() {
        let mut gate = OrderGate::new(rank(1, u64::MAX));
        assert_eq!(gate.accept(rank(2, 1), 2), Ok(()));
        assert!(gate.accept(rank(1, u64::MAX), 2).is_err());
    }

    #[test]
    fn a_generation_that_the_node_does_not_know_neither_counts_nor_shuts_the_gate() {
        let mut gate = OrderGate::new(rank(1, 1));
        assert_eq!(gate.accept(rank(9, 1), 1), Err(OrderRefused::UnknownGeneration { given: 9, known: 1 }));
        gate.hear(rank(9, 1), 1);
        assert_eq!(gate.accept(rank(1, 1), 1), Ok(()));
    }

    #[test]
    fn a_heartbeat_of_a_new_leader_closes_the_gate_to_the_old_one() {
        let mut gate = OrderGate::new(rank(1, 1));
        gate.hear(rank(1, 2), 1);
        gate.hear(rank(1, 1), 1);
        assert!(gate.accept(rank(1, 1), 1).is_err());
    }
}
