//! The archive at a glance: what is told of it, and its JSON.

#[cfg(test)]
pub(crate) mod tests;
mod text;

use std::collections::BTreeMap;
use std::fmt;

use firn_base::Scheme;
use firn_wire::{
    ArchiveStatus, BundleFill, BundleHealthCounts, CapsStatus, DrainBacklog, NodeState, PurgeSummary,
    RecodeProgress, RepairWait, ReserveLevel, ReserveRoom, RestingNode, SpareCount,
};
use serde::Serialize;

use super::coordinator_alarm::{ClockReport, DifferenceReport};

/// `k` of `n`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct SchemeReport {
    k: u8,
    n: u8,
}

impl From<Scheme> for SchemeReport {
    fn from(scheme: Scheme) -> Self {
        Self { k: scheme.k(), n: scheme.n() }
    }
}

impl fmt::Display for SchemeReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.k, self.n)
    }
}

#[derive(Debug, Serialize)]
struct CoordinatorReport {
    id: String,
    address: String,
    online: bool,
    leader: bool,
    votes: bool,
    lag: Option<u64>,
}

#[derive(Debug, Default, Clone, Copy, Serialize)]
struct NodesInState {
    all: u64,
    online: u64,
}

#[derive(Debug, Serialize)]
struct HealthReport {
    full: u64,
    degraded: u64,
    urgent: u64,
    lost: u64,
    unreadable: u64,
    at_risk: u64,
}

/// With a sentence for people where there is something to do.
#[derive(Debug, Serialize)]
struct ReserveReport {
    #[serde(flatten)]
    room: ReserveRoom,
    warning: Option<String>,
}

/// With a sentence for people.
#[derive(Debug, Serialize)]
struct WaitReport {
    #[serde(flatten)]
    wait: RepairWait,
    sentence: String,
}

/// [`ArchiveStatus`] as it is printed.
#[derive(Debug, Serialize)]
pub(crate) struct StatusReport {
    archive: String,
    at: u64,
    generation: u64,
    term: u64,
    applied: u64,
    coordinators: Vec<CoordinatorReport>,
    /// What to sign, where the roster does not name exactly the coordinators.
    roster: Option<String>,
    nodes: BTreeMap<String, NodesInState>,
    nodes_refusing_deletions: u64,
    scheme: Option<SchemeReport>,
    visible_keys: u64,
    held_keys: u64,
    external_references: u64,
    bundles: u64,
    payload: u64,
    stored: u64,
    capacity: u64,
    free: u64,
    reserve: Option<ReserveReport>,
    health: Option<HealthReport>,
    by_spare: Option<Vec<SpareCount>>,
    repair_backlog: Option<u64>,
    move_backlog: Option<u64>,
    drain_backlog: Option<DrainBacklog>,
    repair_wait: Option<WaitReport>,
    repair_traffic: Option<u64>,
    recoding: Option<RecodeProgress>,
    caps: Option<CapsStatus>,
    feed_head: u64,
    differing: Vec<DifferenceReport>,
    clocks_apart: Vec<ClockReport>,
    purges: PurgeSummary,
    fill: BundleFill,
    /// How many nodes rest for which reason; null where the coordinators do not say.
    resting: Option<BTreeMap<String, u64>>,
}

const STATES: [NodeState; 5] =
    [NodeState::Active, NodeState::Suspended, NodeState::Draining, NodeState::Gone, NodeState::Lost];

impl From<&ArchiveStatus> for StatusReport {
    fn from(status: &ArchiveStatus) -> Self {
        let coordinators = status.coordinators.iter().map(|coordinator| CoordinatorReport {
            id: coordinator.id.to_string(),
            address: coordinator.address.clone(),
            online: coordinator.online,
            leader: coordinator.leader,
            votes: coordinator.votes,
            lag: coordinator.lag,
        });
        // Every state is named, so that nobody has to ask whether it is there.
        let mut nodes: BTreeMap<_, _> =
            STATES.map(|state| (state.to_string(), NodesInState::default())).into();
        for (state, all, online) in &status.nodes {
            nodes.insert(state.to_string(), NodesInState { all: *all, online: *online });
        }
        let health = |counts: BundleHealthCounts| HealthReport {
            full: counts.full,
            degraded: counts.degraded,
            urgent: counts.urgent,
            lost: counts.lost,
            unreadable: counts.unreadable,
            at_risk: counts.at_risk,
        };
        let reserve = |room: ReserveRoom| ReserveReport {
            room,
            warning: (room.level != ReserveLevel::Enough).then(|| room.to_string()),
        };
        Self {
            archive: status.archive.to_string(),
            at: status.at.as_millis(),
            generation: status.generation,
            term: status.term,
            applied: status.applied,
            coordinators: coordinators.collect(),
            roster: (!status.roster_gap.is_closed()).then(|| status.roster_gap.to_string()),
            nodes,
            nodes_refusing_deletions: status.nodes_refusing_deletions,
            scheme: status.scheme.map(SchemeReport::from),
            visible_keys: status.visible_keys,
            held_keys: status.held_keys,
            external_references: status.external_references,
            bundles: status.bundles,
            payload: status.payload.0,
            stored: status.stored.0,
            capacity: status.capacity.0,
            free: status.free.0,
            reserve: status.reserve.map(reserve),
            health: status.health.map(health),
            by_spare: status.by_spare.clone(),
            repair_backlog: status.repair_backlog,
            move_backlog: status.move_backlog,
            drain_backlog: status.drain_backlog,
            repair_wait: status
                .repair_wait
                .map(|wait| WaitReport { wait, sentence: wait.sentence(status.at) }),
            repair_traffic: status.repair_traffic.map(|bytes| bytes.0),
            recoding: status.recoding,
            caps: status.caps.clone(),
            feed_head: status.feed_head,
            differing: status.differing.iter().map(DifferenceReport::from).collect(),
            clocks_apart: status.clocks_apart.iter().map(ClockReport::from).collect(),
            purges: status.purges,
            fill: status.fill,
            resting: None,
        }
    }
}

impl StatusReport {
    /// The same with the nodes that rest, if they are known.
    pub(crate) fn with_resting(self, nodes: Option<&[RestingNode]>) -> Self {
        let count = |nodes: &[RestingNode]| {
            let mut counts = BTreeMap::new();
            for node in nodes {
                *counts.entry(node.cause.to_string()).or_default() += 1;
            }
            counts
        };
        Self { resting: nodes.map(count), ..self }
    }
}
