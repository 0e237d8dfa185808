//! Records as programs and operators see them.
//!
//! Owns: turning records into wire messages. Always holds: node numbers become identities; a number without a
//! record is left out. Leaves to others: who may see them.

use std::collections::{BTreeMap, BTreeSet};

use firn_base::{BundleNumber, ByteCount, NodeId, ShardIndex, Timestamp};
use firn_wire::{
    BundleInfo, BundleSummary, Cap, CapCount, CapsStatus, CodingInfo, DrainBacklog, NodeRest, NodeState,
    NodeSummary, RestCause, RestingNode, SecondCoding, ShardCopies,
};

use crate::facts::Facts;
use crate::fleet_watch::FleetWatch;
use crate::health::{BundleHealth, classify};
use crate::names::OriginNames;
use crate::planning::PlanningView;
use crate::repair::{RepairPlan, at_risk_by};
use crate::state::{BundleRecord, NodeNumber, NodeRecord};

/// A bundle for readers: headers and who holds which shard.
///
/// Nodes that were removed are left out: nobody reads from them.
pub fn bundle_info<F: Facts>(facts: &F, record: &BundleRecord) -> Result<BundleInfo, F::Error> {
    let mut codings = Vec::with_capacity(record.codings.len());
    for coding in &record.codings {
        let shards = copies(facts, &coding.placements)?
            .into_iter()
            .map(|(index, nodes)| ShardCopies { index, nodes })
            .collect();
        codings.push(CodingInfo { header: coding.header.clone(), n: coding.scheme.n(), shards });
    }
    Ok(BundleInfo {
        number: record.number,
        committed_at: record.committed_at,
        content_header: record.content_header.clone(),
        codings,
    })
}

/// What only a leader knows of one bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleFindings {
    health: BundleHealth,
    together_since: Option<Timestamp>,
    at_risk_by: Option<BTreeSet<Cap>>,
}

impl BundleFindings {
    /// Looks at one bundle; none if it is not known.
    pub fn of(view: &PlanningView<'_>, number: BundleNumber) -> Option<Self> {
        let bundle = view.catalogue.bundle(number)?;
        Some(Self {
            health: classify(bundle, view.fleet),
            together_since: view.health.together_since(number),
            at_risk_by: at_risk_by(view, number),
        })
    }
}

/// A bundle for operators, with what the leader found. None for a record without a coding, which apply never makes.
pub fn bundle_summary<F: Facts>(
    facts: &F,
    record: &BundleRecord,
    findings: Option<&BundleFindings>,
) -> Result<Option<BundleSummary>, F::Error> {
    let Some(coding) = record.codings.first() else { return Ok(None) };
    let placements: Vec<_> = copies(facts, &coding.placements)?.into_iter().collect();
    let second = match record.codings.get(1) {
        None => None,
        Some(second) => Some(SecondCoding {
            coding: second.id,
            scheme: second.scheme,
            shard_bytes: second.shard_bytes,
            placements: copies(facts, &second.placements)?.into_iter().collect(),
        }),
    };
    // A follower knows only whose state lets shards count.
    let members = u8::try_from(placements.len()).unwrap_or(u8::MAX);
    Ok(Some(BundleSummary {
        number: record.number,
        id: record.id,
        coding: coding.id,
        scheme: coding.scheme,
        payload: ByteCount(record.payload_bytes),
        shard_bytes: coding.shard_bytes,
        keys: record.keys,
        durable: findings.map_or(members, |findings| findings.health.durable),
        online: findings.map(|findings| findings.health.online),
        placements,
        second,
        together_since: findings.and_then(|findings| findings.together_since),
        at_risk_by: findings
            .and_then(|findings| findings.at_risk_by.as_ref())
            .map(|caps| caps.iter().copied().collect()),
    }))
}

/// The caps for operators, and how they are kept, by the plan of repairs that the same view led to.
pub fn caps_status(view: &PlanningView<'_>, repairs: &RepairPlan) -> CapsStatus {
    let caps = view.fleet.caps();
    let counted = view.fleet.nodes().filter(|node| node.counted);
    let origins: Vec<OriginNames> = counted.filter_map(|node| caps.origin(node.names)).collect();
    let known = |of: fn(&OriginNames) -> u32| {
        let names: BTreeSet<u32> = origins.iter().map(of).filter(|name| *name != OriginNames::NONE).collect();
        names.len() as u64
    };
    let mut at_risk_by: BTreeMap<Cap, u64> = BTreeMap::new();
    for cap in repairs.at_risk.values().flatten() {
        *at_risk_by.entry(*cap).or_default() += 1;
    }
    CapsStatus {
        public: caps.is_public(),
        per_network: caps.per_network(),
        networks: known(|origin| origin.network),
        countries: known(|origin| origin.country),
        unknown: origins.iter().filter(|origin| origin.is_unknown()).count() as u64,
        width: view.fleet.width() as u64,
        breaches: view.health.breaches(view.now),
        at_risk_by: at_risk_by.into_iter().map(|(cap, bundles)| CapCount { cap, bundles }).collect(),
    }
}

/// A node for operators, as this coordinator hears it; `drain` as the leader measured it.
pub fn node_summary(
    record: &NodeRecord,
    watch: &FleetWatch,
    drain: Option<DrainBacklog>,
    now: Timestamp,
) -> NodeSummary {
    let online = watch.is_online(record.number, now);
    NodeSummary {
        node: record.id,
        operator: record.operator.clone(),
        failure_domain: record.failure_domain.clone(),
        vouched: record.vouched,
        seen_at: record.site.place(),
        address: record.address.clone(),
        state: record.state,
        online,
        proved: online && watch.is_proved(record.number),
        last_seen: watch.last_heard(record.number),
        availability: record.availability,
        quota: ByteCount(record.quota_bytes),
        assigned: ByteCount(record.assigned_bytes),
        shards: record.shards,
        // The measurement may be older than the record.
        drain: drain.filter(|_| record.state == NodeState::Draining),
        refused_deletions: watch
            .status(record.number)
            .filter(|_| online)
            .map_or(0, |status| status.refused_deletions),
    }
}

/// Why a node of the archive does less than others at `now`, as this coordinator hears it; none if it does not.
pub fn resting_node(record: &NodeRecord, watch: &FleetWatch, now: Timestamp) -> Option<RestingNode> {
    let node = record.id;
    if !record.is_member() {
        return None;
    }
    let online = watch.is_online(record.number, now);
    let rest = watch.status(record.number).filter(|_| online).and_then(|status| status.rest);
    let (cause, until) = match (rest, record.absence.in_force(now)) {
        // It is there, whatever was declared.
        (Some(rest), _) => {
            let cause = match rest {
                NodeRest::Paused => RestCause::Paused,
                NodeRest::TrafficSpent => RestCause::TrafficSpent,
                NodeRest::OutsideHours => RestCause::OutsideHours,
            };
            (cause, watch.terms(record.number, now).and_then(|terms| terms.rest_until))
        }
        (None, Some(until)) => (RestCause::Absent, Some(until)),
        (None, None) => return None,
    };
    Some(RestingNode { node, cause, until })
}

/// Who holds which shard, of nodes that are of the archive, each index once.
fn copies<F: Facts>(
    facts: &F,
    placements: &[(ShardIndex, NodeNumber)],
) -> Result<BTreeMap<ShardIndex, Vec<NodeId>>, F::Error> {
    let mut copies: BTreeMap<ShardIndex, Vec<NodeId>> = BTreeMap::new();
    for (index, number) in placements {
        if let Some(node) = facts.node(*number)?.filter(NodeRecord::is_member) {
            copies.entry(*index).or_default().push(node.id);
        }
    }
    Ok(copies)
}
