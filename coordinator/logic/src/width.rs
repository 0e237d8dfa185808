//! Which scheme new bundles get.
//!
//! Owns: the memory of how wide the fleet was. Always holds: a wider fleet counts at once, a narrower one only
//! after a day, unless the wider scheme cannot be placed at all.
//! Leaves to others: measuring the width (`fleet`), placing (`placement`).

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use firn_base::{SHARD_BYTES_MIN, Scheme, Timestamp};

use crate::fleet::FleetView;
use crate::placement::{Wanted, choose};

/// How long a fleet's greatest width is remembered: nodes that sleep at night do not change the scheme.
pub const WIDTH_REMEMBERED_FOR: Duration = Duration::from_secs(24 * 3600);

/// The greatest width of the last day.
#[derive(Debug, Clone, Default)]
pub struct WidthMemory {
    // Decreasing widths with the time each was last seen: the first is the greatest of the last day.
    seen: VecDeque<(Timestamp, usize)>,
}

impl WidthMemory {
    /// Nothing seen yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes the width at `now`; times must not go back.
    pub fn observe(&mut self, width: usize, now: Timestamp) {
        while self.seen.back().is_some_and(|(_, smaller)| *smaller <= width) {
            self.seen.pop_back();
        }
        self.seen.push_back((now, width));
        while self.seen.front().is_some_and(|(time, _)| now.since(*time) > WIDTH_REMEMBERED_FOR) {
            self.seen.pop_front();
        }
    }

    /// The greatest width of the last day; 0 before the first observation.
    pub fn greatest(&self) -> usize {
        self.seen.front().map_or(0, |(_, width)| *width)
    }
}

/// The scheme for a new bundle: that of the remembered width, or, where too few nodes are there to commit with
/// it, that of the nodes which are there. None while no node can take a shard.
pub fn choose_scheme(fleet: &FleetView, memory: &WidthMemory) -> Option<Scheme> {
    let mut scheme = Scheme::for_width(memory.greatest().max(fleet.width()))?;
    loop {
        let (count, n) = (usize::from(scheme.n()), scheme.n());
        let wanted = Wanted { count, n, file_bytes: SHARD_BYTES_MIN, staying: &[], avoid: &BTreeSet::new() };
        let placeable = choose(fleet, &wanted, [0; 32]).len();
        if placeable >= usize::from(scheme.commit_threshold()) {
            return Some(scheme);
        }
        // Of fewer shards a country may have fewer again.
        scheme = Scheme::for_width(placeable)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_width_rises_at_once_and_falls_after_a_day() {
        let hour = |hours: u64| Timestamp::from_millis(hours * 3_600_000);
        let mut memory = WidthMemory::new();
        memory.observe(16, hour(0));
        memory.observe(20, hour(1));
        assert_eq!(memory.greatest(), 20);
        memory.observe(8, hour(2));
        assert_eq!(memory.greatest(), 20);
        memory.observe(8, hour(25));
        assert_eq!(memory.greatest(), 20);
        memory.observe(8, hour(26));
        assert_eq!(memory.greatest(), 8);
    }
}
