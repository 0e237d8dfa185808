//! Losses that come together: nodes that cease to count within moments of one another.
//!
//! Owns: noticing that a node counts no more, and until when others are likely to follow. Always holds: what was lost
//! before the first look is no new loss; losses that follow closely are one burst, and the wait for a burst ends
//! though it goes on; a node that left in order is no loss.
//! Leaves to others: what waits meanwhile (`brake`).

use std::time::Duration;

use firn_base::Timestamp;
use firn_wire::NodeState;

use crate::fleet::FleetView;

/// Nodes as they counted at the last look, and the burst of losses that was seen last.
#[derive(Debug, Clone, Default)]
pub struct LossWatch {
    // By node number; none before the first look.
    counted: Option<Vec<bool>>,
    burst: Option<Burst>,
}

#[derive(Debug, Clone, Copy)]
struct Burst {
    first: Timestamp,
    last: Timestamp,
}

/// Nodes that vanished together were last heard within a heartbeat of 2 s, and an operator who declares several lost
/// does so one after the other. A bundle repaired after each of d losses reads d times k shards, after all of them k:
/// for 16/40 and 7 losses 112 instead of 16. Against the hours until a node counts as lost the wait is nothing.
const FOLLOWS_WITHIN: Duration = Duration::from_secs(5);

/// … but a fleet that loses nodes without end is repaired all the same.
const WAIT_MAX: Duration = Duration::from_secs(60);

impl LossWatch {
    /// A watch that has not looked yet.
    pub const fn new() -> Self {
        Self { counted: None, burst: None }
    }

    /// Looks at the fleet.
    pub fn observe(&mut self, fleet: &FleetView, now: Timestamp) {
        let mut counted = Vec::new();
        let mut lost = false;
        for node in fleet.nodes() {
            let position = node.number.position();
            counted.resize(position + 1, false);
            counted[position] = node.counted;
            let before = self.counted.as_ref().and_then(|before| before.get(position));
            lost |= before == Some(&true) && !node.counted && node.state != NodeState::Gone;
        }
        self.counted = Some(counted);
        if lost {
            let first = match self.burst {
                Some(burst) if now.since(burst.last) < FOLLOWS_WITHIN => burst.first,
                _ => now,
            };
            self.burst = Some(Burst { first, last: now });
        }
    }

    /// Until when more losses are likely to follow the last one; none before any was seen.
    pub fn settled_at(&self) -> Option<Timestamp> {
        self.burst.map(|burst| burst.last.after(FOLLOWS_WITHIN).min(burst.first.after(WAIT_MAX)))
    }
}
