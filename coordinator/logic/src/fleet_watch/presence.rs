//! How long nodes are online, and where they are seen, since it was last summed up.
//!
//! Owns: the time that each was online, by the address it was seen at. Always holds: what was summed up is not measured
//! again; of a node that is at many addresses a few are measured.
//! Leaves to others: whether a silence counts as presence (`fleet_watch`), what follows for a node's record (`state`),
//! committing it (`Command::Summary`).

use std::time::Duration;

use firn_base::{AddressPrefix, Timestamp};
use firn_wire::NodeSighting;

use super::FleetWatch;
use crate::address_table::AddressTable;
use crate::state::{NodeNumber, NodeRecord};

// Who is at more addresses than these within ten minutes is nowhere for most of them.
const PREFIXES_MEASURED_MAX: usize = 4;

/// How long a node was online since that is measured, and where.
#[derive(Debug, Clone, Default)]
pub(super) struct Presence {
    online_for: Duration,
    /// Where it was seen last; none before any connection of it was looked at.
    seen_at: Option<AddressPrefix>,
    /// How long it was seen where, at most at [`PREFIXES_MEASURED_MAX`].
    seen_for: Vec<(AddressPrefix, Duration)>,
}

impl Presence {
    /// Notes that for so long it was online where it was seen last.
    pub(super) fn was_online_for(&mut self, time: Duration) {
        self.online_for += time;
        let Some(prefix) = self.seen_at else { return };
        if let Some((_, sum)) = self.seen_for.iter_mut().find(|(known, _)| *known == prefix) {
            *sum += time;
        } else if self.seen_for.len() < PREFIXES_MEASURED_MAX {
            self.seen_for.push((prefix, time));
        }
    }
}

impl FleetWatch {
    /// The node was heard on a connection from there.
    pub fn seen_at(&mut self, node: NodeNumber, prefix: AddressPrefix) {
        if let Some(watched) = self.nodes.get_mut(&node) {
            watched.presence.seen_at = Some(prefix);
        }
    }

    /// How each of the nodes was heard since this was last measured, for `Command::Summary`; networks and countries by
    /// the table, if this coordinator has one, else as they were.
    pub fn summary<'r>(
        &self,
        records: impl Iterator<Item = &'r NodeRecord>,
        table: Option<&AddressTable>,
        now: Timestamp,
    ) -> Vec<NodeSighting> {
        let passed = now.since(self.measured_since);
        let sighting = |record: &NodeRecord| {
            let watched = self.nodes.get(&record.number);
            let online_for = watched.map_or(Duration::ZERO, |watched| watched.presence.online_for);
            // One that has just joined was not away before.
            let own = passed.min(now.since(record.joined_at));
            let seen_for = watched.map_or(&[][..], |watched| &watched.presence.seen_for);
            let site = record.site.after(own, seen_for, table);
            NodeSighting {
                addresses: site.addresses,
                origin: site.origin,
                node: record.id,
                last_seen: watched.map(|watched| watched.last_seen),
                availability: match record.absence.in_force(now) {
                    // It has said so beforehand: that costs it nothing.
                    Some(_) => record.availability,
                    None => record.availability.after(own, online_for),
                },
            }
        };
        records.filter(|record| record.is_member()).map(sighting).collect()
    }

    /// Measures anew from `now` on: what was before is in a summary, or another leader's.
    pub fn measure_from(&mut self, now: Timestamp) {
        self.measured_since = now;
        for watched in self.nodes.values_mut() {
            watched.presence.online_for = Duration::ZERO;
            watched.presence.seen_for.clear();
        }
    }
}
