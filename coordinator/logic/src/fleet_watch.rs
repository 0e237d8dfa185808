//! What a coordinator hears of nodes: soft state, rebuilt by each leader from heartbeats.
//!
//! Owns: when each node was last heard, and which run of its program it is; below it, how long it was online and where
//! (`presence`), what it said of its terms (`told_terms`), and how far its inventory has come (`inventory_stage`).
//! Always holds: time is given, never read. Leaves to others: the committed record of who was heard (`Command::Summary`).

mod inventory_stage;
mod presence;
#[cfg(test)]
mod tests;
mod told_terms;

use std::collections::BTreeMap;
use std::time::Duration;

use firn_base::Timestamp;
use firn_wire::NodeStatus;

use self::inventory_stage::{Beginnings, Stage};
pub use self::inventory_stage::{ComparisonProgress, Inventory, InventoryProgress};
use self::presence::Presence;
use self::told_terms::ToldTerms;
use crate::fleet::serves_readers;
use crate::state::{NodeNumber, NodeRecord};

/// A node that was silent for longer is offline: five heartbeats of 2 s.
pub const OFFLINE_AFTER: Duration = Duration::from_secs(10);

/// How often the leader commits when nodes were last heard.
pub const SUMMARY_INTERVAL: Duration = Duration::from_secs(600);

// The same run of the program after a short absence: its disk cannot have been exchanged meanwhile.
const PROOF_KEPT_FOR: Duration = Duration::from_secs(600);

/// Everything heard since this coordinator began to listen.
#[derive(Debug, Clone)]
pub struct FleetWatch {
    started: Timestamp,
    /// Since when it is measured how long nodes are online.
    measured_since: Timestamp,
    nodes: BTreeMap<NodeNumber, Watched>,
}

#[derive(Debug, Clone)]
struct Watched {
    last_seen: Timestamp,
    presence: Presence,
    status: NodeStatus,
    /// Bytes that were assigned to it when it was heard for the last time but one, and when it was heard last.
    assigned_bytes: Option<(u64, u64)>,
    /// What it said of its terms last.
    terms: Option<ToldTerms>,
    reported_online: bool,
    stage: Stage,
    beginnings: Beginnings,
}

impl Watched {
    fn is_online(&self, now: Timestamp) -> bool {
        now.since(self.last_seen) <= OFFLINE_AFTER
    }
}

/// One node as it was heard.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sighting<'a> {
    /// When it was last heard at the latest: by this coordinator, or by the one before, which may have heard it until
    /// its next summary was due.
    pub(crate) last_seen: Timestamp,
    /// Heard within [`OFFLINE_AFTER`].
    pub(crate) online: bool,
    /// When the inventory was asked for that was compared and sampled in this run; none while that was not done.
    pub(crate) inventory_since: Option<Timestamp>,
    /// What it said of itself last.
    pub(crate) status: Option<&'a NodeStatus>,
    /// Bytes that were assigned to it since it was heard for the last time but one: what it said last may not count them, for
    /// they may have been on their way.
    pub(crate) assigned_since: u64,
}

/// What a heartbeat brought about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// It was offline or unknown before.
    pub came_online: bool,
    /// Ask it for its inventory.
    pub inventory_wanted: bool,
}

impl FleetWatch {
    /// A watch that begins at `started` and has heard nobody.
    pub const fn new(started: Timestamp) -> Self {
        Self { started, measured_since: started, nodes: BTreeMap::new() }
    }

    /// When it began.
    pub const fn started(&self) -> Timestamp {
        self.started
    }

    /// A node was heard. Another run than before, or a long absence, makes its inventory wanted.
    pub fn heard(&mut self, node: NodeNumber, status: NodeStatus, now: Timestamp) -> Heard {
        let came_online = !self.is_online(node, now);
        let stage = Stage::Wanted { since: now, is_broken_off: false };
        let mut watched = match self.nodes.remove(&node) {
            Some(mut known) => {
                // Until it is noticed, a silence counts as presence; a longer one does not count at all.
                if known.is_online(now) {
                    known.presence.was_online_for(now.since(known.last_seen.max(self.measured_since)));
                }
                let is_same_run =
                    known.status.run == status.run && now.since(known.last_seen) <= PROOF_KEPT_FOR;
                let stage = if is_same_run { known.stage } else { stage };
                Watched { status, stage, ..known }
            }
            None => Watched {
                last_seen: now,
                presence: Presence::default(),
                status,
                assigned_bytes: None,
                terms: None,
                reported_online: true,
                stage,
                beginnings: Beginnings::default(),
            },
        };
        watched.last_seen = watched.last_seen.max(now);
        watched.reported_online = true;
        // One that was begun and broken off is wanted too; a node that is at it goes on.
        let inventory_wanted = watched.inventory_is_wanted();
        self.nodes.insert(node, watched);
        Heard { came_online, inventory_wanted }
    }

    /// This is the record of a node that was heard just now.
    pub fn assigned_by_then(&mut self, record: &NodeRecord) {
        if let Some(watched) = self.nodes.get_mut(&record.number) {
            let before = watched.assigned_bytes.map_or(record.assigned_bytes, |(_, last)| last);
            watched.assigned_bytes = Some((before, record.assigned_bytes));
        }
    }

    /// Nodes that fell silent since this was last asked; each is named once.
    pub fn newly_offline(&mut self, now: Timestamp) -> Vec<NodeNumber> {
        let mut offline = Vec::new();
        for (node, watched) in &mut self.nodes {
            if watched.reported_online && now.since(watched.last_seen) > OFFLINE_AFTER {
                watched.reported_online = false;
                offline.push(*node);
            }
        }
        offline
    }

    /// Whether a node was heard within [`OFFLINE_AFTER`].
    pub fn is_online(&self, node: NodeNumber, now: Timestamp) -> bool {
        self.nodes.get(&node).is_some_and(|watched| watched.is_online(now))
    }

    /// Whether a node is online and answers readers, by its own word.
    pub fn serves_readers(&self, node: NodeNumber, now: Timestamp) -> bool {
        let rest = self.status(node).and_then(|status| status.rest);
        self.is_online(node, now) && rest.is_none_or(serves_readers)
    }

    /// What a node said of itself last.
    pub fn status(&self, node: NodeNumber) -> Option<&NodeStatus> {
        self.nodes.get(&node).map(|watched| &watched.status)
    }

    /// When a node was last heard by this coordinator.
    pub fn last_heard(&self, node: NodeNumber) -> Option<Timestamp> {
        self.nodes.get(&node).map(|watched| watched.last_seen)
    }

    /// All that was heard of a node.
    pub(crate) fn sighting(&self, record: &NodeRecord, now: Timestamp) -> Sighting<'_> {
        let watched = self.nodes.get(&record.number);
        let before = record.last_seen.after(SUMMARY_INTERVAL).min(self.started).max(record.last_seen);
        Sighting {
            last_seen: watched.map_or(before, |watched| watched.last_seen.max(record.last_seen)),
            online: watched.is_some_and(|watched| watched.is_online(now)),
            inventory_since: watched.and_then(Watched::inventory_since),
            status: watched.map(|watched| &watched.status),
            assigned_since: watched
                .and_then(|watched| watched.assigned_bytes)
                .map_or(0, |(before, _)| record.assigned_bytes.saturating_sub(before)),
        }
    }
}
