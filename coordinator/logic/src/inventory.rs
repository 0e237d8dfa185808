//! Comparing what a node says it holds with what it is counted for, and sampling the proof of it.
//!
//! Owns: which differences mean what, and which 16 KiB groups a returning node has to prove. Always holds: what
//! was placed after the inventory was asked for is not held against the node; what no committed state explains
//! is kept ("unknown bundle" is no order); nothing that an upload, build or deletion may be at is touched.
//! Leaves to others: asking the node (the shell).

use std::collections::BTreeSet;

use firn_base::{CodingId, Scheme, ShardIndex};
use firn_wire::PlacementChange;

use crate::catalogue::BundleView;
use crate::fleet_watch::Inventory;
use crate::planning::PlanningView;
use crate::state::NodeNumber;

/// What an inventory showed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InventoryFindings {
    /// Placed there, but not there: to be recorded.
    pub missing: Vec<PlacementChange>,
    /// There, and missing everywhere: to be recorded as `Placed` once the node has proved it.
    pub adopt: Vec<(CodingId, ShardIndex)>,
    /// There without being counted, and the same shard is good elsewhere: to be trashed by order.
    pub trash: Vec<(CodingId, ShardIndex)>,
    /// There, and nothing is known of it: kept.
    pub unknown: u64,
    /// Something was changing meanwhile: ask for the inventory again later.
    pub unsettled: bool,
}

/// Compares an inventory with the committed placements.
pub fn compare_inventory(
    view: &PlanningView<'_>,
    node: NodeNumber,
    inventory: &Inventory,
) -> InventoryFindings {
    let mut findings = InventoryFindings::default();
    let Some(record) = view.catalogue.node(node).filter(|record| record.is_member()) else {
        return findings;
    };
    let expected = view.catalogue.placed_on(node);
    for (coding, index) in &expected {
        if inventory.shards.binary_search(&(*coding, *index)).is_ok() {
            continue;
        }
        let changed = view.catalogue.bundle_of(*coding).map(|bundle| bundle.changed);
        if changed.is_some_and(|changed| changed < inventory.wanted_since) {
            let (coding, index) = (*coding, *index);
            findings.missing.push(PlacementChange::Missing { coding, index, node: record.id });
        } else {
            findings.unsettled = true;
        }
    }
    for (coding, index) in &inventory.shards {
        if expected.binary_search(&(*coding, *index)).is_ok()
            || view.catalogue.is_surplus(node, *coding, *index)
            || view.orders.is_trashing((node, *coding, *index))
            || view.catalogue.is_reserved(*coding)
        {
            continue;
        }
        let Some(bundle) = view.catalogue.bundle_of(*coding) else {
            findings.unknown += 1;
            continue;
        };
        if view.orders.is_busy(bundle.number) {
            findings.unsettled = true;
        } else if is_good_elsewhere(view, bundle, *index) {
            findings.trash.push((*coding, *index));
        } else if Scheme::n_max(bundle.scheme.k()).is_some_and(|most| index.0 < most)
            && !is_durable(view, bundle, *index)
        {
            findings.adopt.push((*coding, *index));
        }
    }
    findings
}

fn is_good_elsewhere(view: &PlanningView<'_>, bundle: &BundleView, index: ShardIndex) -> bool {
    holders_of(bundle, index).any(|holder| view.fleet.node(holder).is_some_and(|node| node.proved))
}

fn is_durable(view: &PlanningView<'_>, bundle: &BundleView, index: ShardIndex) -> bool {
    holders_of(bundle, index).any(|holder| view.fleet.node(holder).is_some_and(|node| node.counted))
}

fn holders_of(bundle: &BundleView, index: ShardIndex) -> impl Iterator<Item = NodeNumber> {
    bundle.placements.iter().filter(move |(own, _)| *own == index).map(|(_, holder)| *holder)
}

/// One 16 KiB group that a node shall send with its proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Challenge {
    /// The coding.
    pub coding: CodingId,
    /// Which shard.
    pub index: ShardIndex,
    /// First byte of the group.
    pub offset: u64,
}

/// Bytes of the range that a challenge asks for: one group of the proof tree.
pub const CHALLENGE_BYTES: u64 = 16 << 10;

/// Shards sampled when a node returns: whoever lacks a fifth of what it is counted for is caught with 99 %.
pub const CHALLENGED_SHARDS: usize = 20;

/// Groups of up to [`CHALLENGED_SHARDS`] shards among those in `held`, which the node is counted for.
pub fn choose_challenges(
    view: &PlanningView<'_>,
    held: &[(CodingId, ShardIndex)],
    seed: [u8; 32],
) -> Vec<Challenge> {
    let mut chance = blake3::Hasher::new_keyed(&seed).update(b"challenges").finalize_xof();
    let mut draw = || {
        let mut bytes = [0; 8];
        chance.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    };
    // Floyd's way to draw distinct positions: as many draws as samples.
    let count = held.len().min(CHALLENGED_SHARDS);
    let mut chosen = BTreeSet::new();
    for last in held.len() - count..held.len() {
        let drawn = usize::try_from(draw() % (last as u64 + 1)).unwrap_or(last);
        if !chosen.insert(drawn) {
            chosen.insert(last);
        }
    }
    let mut challenges = Vec::with_capacity(count);
    for (coding, index) in chosen.into_iter().map(|position| held[position]) {
        if let Some(bundle) = view.catalogue.bundle_of(coding) {
            let groups = bundle.shard_bytes.div_ceil(CHALLENGE_BYTES).max(1);
            challenges.push(Challenge { coding, index, offset: draw() % groups * CHALLENGE_BYTES });
        }
    }
    challenges
}
