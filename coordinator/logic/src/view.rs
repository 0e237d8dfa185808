//! Records as programs and operators see them.
//!
//! Owns: turning records into wire messages. Always holds: node numbers become identities; a number without a
//! record is left out. Leaves to others: who may see them.

use std::collections::BTreeMap;

use firn_base::{ByteCount, NodeId, ShardIndex, Timestamp};
use firn_wire::{
    BundleInfo, BundleSummary, CodingInfo, DrainBacklog, NodeState, NodeSummary, SecondCoding, ShardCopies,
};

use crate::facts::Facts;
use crate::fleet_watch::FleetWatch;
use crate::health::BundleHealth;
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
    Ok(BundleInfo { number: record.number, content_header: record.content_header.clone(), codings })
}

/// A bundle for operators; `health` as the leader measured it. None for a record without a coding, which apply
/// never makes.
pub fn bundle_summary<F: Facts>(
    facts: &F,
    record: &BundleRecord,
    health: Option<&BundleHealth>,
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
        durable: health.map_or(members, |health| health.durable),
        online: health.map(|health| health.online),
        placements,
        second,
    }))
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
