//! What operators see.
//!
//! Always holds: what only a leader measures is none from a follower. Leaves to others: measuring (`driver`).

use std::collections::BTreeMap;

use firn_base::{BundleNumber, ByteCount, Timestamp};
use firn_coordinator_logic::{
    BundleFindings, Facts, FleetWatch, NodeRecord, PurgeBook, Scan, bundle_summary, choose_scheme,
    node_summary, purge_summary, resting_node, sum_drains,
};
use firn_wire::{ArchiveStatus, CoordinatorReply, NodeState, NodeSummary, PurgeSummary, RefusedRequest};

use crate::shared::{Shared, disk};
use crate::storage::StorageError;

type Reply = Result<CoordinatorReply, RefusedRequest>;

/// Bundles in one page.
const BUNDLES_PAGE: usize = 1_024;

pub(super) fn archive(shared: &Shared) -> Reply {
    let facts = shared.facts()?;
    let counters = facts.counters().map_err(|error| disk(&error))?;
    let nodes = facts.all_nodes().map_err(|error| disk(&error))?;
    let looked = shared.with_view(|view| {
        let purges = match view.catalogue.is_purged() {
            true => PurgeSummary::default(),
            false => purge_summary(&PurgeBook::read(&facts, view.catalogue)?, view),
        };
        // Those that were erased have their numbers still, and no shards: nobody can wait for them to be full.
        let bundles = view.catalogue.bundles().count() as u64;
        Ok((view.fleet.clone(), view.brake.wait(), purges, view.catalogue.fill(), bundles))
    })?;
    let (fleet, wait, purges, fill, bundles) = looked.map_err(|error: StorageError| disk(&error))?;
    let mut states: BTreeMap<NodeState, (u64, u64)> = BTreeMap::new();
    let (mut capacity, mut free) = (0_u64, 0_u64);
    for node in &nodes {
        let view = fleet.node(node.number);
        let counts = states.entry(node.state).or_default();
        counts.0 += 1;
        counts.1 += u64::from(view.is_some_and(|view| view.online));
        if node.state == NodeState::Active {
            capacity = capacity.saturating_add(node.quota_bytes);
            free = free.saturating_add(view.map_or(node.free_bytes(), |view| view.free_bytes));
        }
    }
    let leads = shared.consensus.is_leader();
    let reserve = shared.reserve()?.filter(|_| leads);
    let now = shared.environment.now();
    let soft = shared.soft();
    let findings = soft.findings.as_ref().filter(|_| leads);
    Ok(CoordinatorReply::Status(Box::new(ArchiveStatus {
        archive: shared.archive,
        at: now,
        generation: shared.generation(),
        term: shared.consensus.term(),
        applied: shared.consensus.applied(),
        coordinators: shared.consensus.members_status(),
        roster_gap: super::members::gap(shared),
        nodes: states.into_iter().map(|(state, (all, online))| (state, all, online)).collect(),
        nodes_refusing_deletions: refusing_deletions(&nodes, &soft.fleet, now),
        scheme: choose_scheme(&fleet, &soft.width),
        visible_keys: counters.visible_keys,
        held_keys: counters.held_records,
        external_references: counters.externals,
        bundles,
        payload: ByteCount(counters.payload_bytes),
        stored: ByteCount(counters.stored_bytes),
        capacity: ByteCount(capacity),
        free: ByteCount(free),
        reserve: reserve.map(|reserve| reserve.room()),
        health: findings.map(|findings| findings.health),
        by_spare: findings.map(|findings| findings.by_spare.clone()),
        repair_backlog: findings.map(|findings| findings.repair_backlog),
        move_backlog: findings.map(|findings| findings.move_backlog),
        drain_backlog: findings.and_then(|findings| sum_drains(&nodes, &findings.drains)),
        repair_wait: wait.filter(|_| leads),
        repair_traffic: leads.then_some(ByteCount(soft.repair_traffic_bytes)),
        feed_head: counters.feed_head,
        recoding: findings.map(|findings| findings.recoding),
        caps: findings.and_then(|findings| findings.caps.clone()),
        differing: soft.differing.values().copied().collect(),
        clocks_apart: shared.consensus.clocks().apart(),
        purges,
        fill,
    })))
}

/// Nodes that are heard and say that they were ordered to delete more than they do.
fn refusing_deletions(nodes: &[NodeRecord], watch: &FleetWatch, now: Timestamp) -> u64 {
    let refuses = |node: &&NodeRecord| node_summary(node, watch, None, now).refused_deletions > 0;
    nodes.iter().filter(refuses).count() as u64
}

pub(super) fn nodes(shared: &Shared) -> Reply {
    Ok(CoordinatorReply::NodeList(summaries(shared)?))
}

/// Those that do less than others, and why.
pub(super) fn resting(shared: &Shared) -> Reply {
    let records = shared.facts()?.all_nodes().map_err(|error| disk(&error))?;
    let now = shared.environment.now();
    let soft = shared.soft();
    let resting = records.iter().filter_map(|record| resting_node(record, &soft.fleet, now));
    Ok(CoordinatorReply::Resting(resting.collect()))
}

pub(super) fn summaries(shared: &Shared) -> Result<Vec<NodeSummary>, RefusedRequest> {
    let records = shared.facts()?.all_nodes().map_err(|error| disk(&error))?;
    let now = shared.environment.now();
    let leads = shared.consensus.is_leader();
    let soft = shared.soft();
    let drains = soft.findings.as_ref().filter(|_| leads).map(|findings| &findings.drains);
    let drain = |record: &NodeRecord| drains.and_then(|drains| drains.get(&record.number)).copied();
    Ok(records.iter().map(|record| node_summary(record, &soft.fleet, drain(record), now)).collect())
}

pub(super) fn bundles(shared: &Shared, from: BundleNumber) -> Reply {
    let facts = shared.facts()?;
    let records = facts.bundles_from(from, BUNDLES_PAGE).map_err(|error| disk(&error))?;
    let leads = shared.consensus.is_leader();
    let findings: Vec<Option<BundleFindings>> = shared.with_view(|view| {
        let find = |number| if leads { BundleFindings::of(view, number) } else { None };
        records.iter().map(|record| find(record.number)).collect()
    })?;
    let summaries: Result<Vec<_>, StorageError> = records
        .iter()
        .zip(&findings)
        .filter_map(|(record, findings)| bundle_summary(&facts, record, findings.as_ref()).transpose())
        .collect();
    Ok(CoordinatorReply::BundleList(summaries.map_err(|error| disk(&error))?))
}
