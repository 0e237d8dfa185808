//! Comparing what a node says it holds with what it is counted for, and sampling the proof of it.
//!
//! Owns: which differences mean what, and which 16 KiB groups a returning node has to prove. Always holds: what
//! was placed after the inventory was asked for is not held against the node; what no committed state explains
//! is kept ("unknown bundle" is no order); nothing that an upload, build or deletion may be at is touched; every copy of
//! a known bundle that is there enters the books, as placed or as surplus.
//! Leaves to others: asking the node (the shell).

use std::collections::BTreeSet;

use firn_base::{CodingId, Scheme, ShardIndex};
use firn_wire::{DeleteReason, PlacementChange};

use crate::catalogue::BundleView;
use crate::facts::Facts;
use crate::fleet_watch::Inventory;
use crate::headers::file_bytes_most;
use crate::planning::PlanningView;
use crate::state::NodeNumber;
use crate::tidying::DeletionRooms;

/// What an inventory showed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InventoryFindings {
    /// Placed there, but not there: to be recorded.
    pub missing: Vec<PlacementChange>,
    /// There, and missing everywhere: to be recorded as `Placed` once the node has proved it.
    pub adopt: Vec<(CodingId, ShardIndex)>,
    /// What is wrong about its surplus: copies that are there and in no book, though the same shard counts elsewhere,
    /// and copies in the books that are not there. To be recorded.
    pub surplus: Vec<PlacementChange>,
    /// There, of codings that were replaced or given up, and in no book: to be trashed by order, within what the node
    /// says it would delete.
    pub replaced: Vec<(CodingId, ShardIndex)>,
    /// More of them lie there than the node would delete now: ask for the inventory again in a while.
    pub postponed: bool,
    /// There, and nothing is known of it, or it cannot be what it says: kept.
    pub unknown: u64,
    /// Something was changing meanwhile: ask for the inventory again later.
    pub unsettled: bool,
}

/// Compares an inventory with the committed placements.
///
/// `replaced_file_bytes` says of a coding that is not the catalogue's, if it was one of a committed bundle, how long its
/// files may be: see [`replaced_file_bytes`].
pub fn compare_inventory(
    view: &PlanningView<'_>,
    node: NodeNumber,
    inventory: &Inventory,
    replaced_file_bytes: impl Fn(CodingId) -> Option<u64>,
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
        let changed = view.catalogue.coded(*coding).map(|bundle| bundle.changed);
        if changed.is_some_and(|changed| changed < inventory.wanted_since) {
            let (coding, index) = (*coding, *index);
            findings.missing.push(PlacementChange::Missing { coding, index, node: record.id });
        } else {
            findings.unsettled = true;
        }
    }
    let own_surplus = view.catalogue.surplus().filter(|copy| copy.node == node);
    for copy in own_surplus.filter(|copy| copy.since < inventory.wanted_since) {
        let (coding, index) = (copy.coding, copy.index);
        if inventory.shards.binary_search(&(coding, index)).is_err() {
            findings.surplus.push(PlacementChange::Trashed { coding, index, node: record.id });
        }
    }
    let just_deleted = view.orders.deleted_since(node, inventory.wanted_since);
    let mut free_bytes = record.free_bytes();
    let mut rooms = DeletionRooms::new(view);
    for (coding, index) in &inventory.shards {
        if expected.binary_search(&(*coding, *index)).is_ok()
            || view.catalogue.is_surplus(node, *coding, *index)
            || view.orders.is_trashing((node, *coding, *index))
            || view.catalogue.is_reserved(*coding)
        {
            continue;
        }
        let Some(bundle) = view.catalogue.coded(*coding) else {
            // Left behind by a build that ended after its coding was given up.
            let has_room =
                |bytes| view.fleet.node(node).is_some_and(|node| rooms.take(node, REPLACED, bytes));
            match replaced_file_bytes(*coding).map(has_room) {
                Some(true) => findings.replaced.push((*coding, *index)),
                Some(false) => findings.postponed = true,
                None => findings.unknown += 1,
            }
            continue;
        };
        let exists = Scheme::n_max(bundle.scheme.k()).is_some_and(|most| index.0 < most);
        if just_deleted || view.orders.is_busy(bundle.number) || findings.surplus.len() >= STRAYS_MAX {
            findings.unsettled = true;
        } else if exists && !is_durable(view, bundle, *index) {
            findings.adopt.push((*coding, *index));
        } else if let Some(rest) = free_bytes.checked_sub(bundle.file_bytes).filter(|_| exists) {
            // If the other one comes to nothing, surplus counts again: once an inventory has shown it as that.
            findings.unsettled |= !is_good_elsewhere(view, bundle, *index);
            free_bytes = rest;
            findings.surplus.push(PlacementChange::Stray { coding: *coding, index: *index, node: record.id });
        } else {
            findings.unknown += 1;
        }
    }
    findings
}

/// Everything that the books say is on a node, placed or surplus, in order: what its inventory is compared with.
pub fn expected_on(view: &PlanningView<'_>, node: NodeNumber) -> Vec<(CodingId, ShardIndex)> {
    let mut expected = view.catalogue.placed_on(node);
    let surplus = view.catalogue.surplus().filter(|copy| copy.node == node);
    expected.extend(surplus.map(|copy| (copy.coding, copy.index)));
    expected.sort_unstable();
    expected.dedup();
    expected
}

/// Strays recorded by one command; and a node that lies holds no more of them than its quota has room for.
const STRAYS_MAX: usize = 4_096;

const REPLACED: DeleteReason = DeleteReason::ReplacedCoding;

/// The most that a shard file of a coding may have, if the coding was one of a committed bundle and is none any more:
/// another has replaced it, or it was given up. Its k is forgotten with it; for no k is a file longer than for k = 1.
pub fn replaced_file_bytes<F: Facts>(facts: &F, coding: CodingId) -> Result<Option<u64>, F::Error> {
    let Some(number) = facts.coding_bundle(coding)? else { return Ok(None) };
    let Some(bundle) = facts.bundle(number)? else { return Ok(None) };
    let was_replaced = bundle.codings.iter().all(|own| own.id != coding);
    Ok(was_replaced.then(|| file_bytes_most(bundle.payload_bytes)))
}

/// Whether a shard is placed on a node that is online and proved.
pub(crate) fn is_good_elsewhere(view: &PlanningView<'_>, bundle: &BundleView, index: ShardIndex) -> bool {
    holders_of(bundle, index).any(|holder| view.fleet.node(holder).is_some_and(|node| node.proved))
}

/// Whether a shard is placed on a node that counts.
pub(crate) fn is_durable(view: &PlanningView<'_>, bundle: &BundleView, index: ShardIndex) -> bool {
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
        if let Some(bundle) = view.catalogue.coded(coding) {
            let groups = bundle.shard_bytes.div_ceil(CHALLENGE_BYTES).max(1);
            challenges.push(Challenge { coding, index, offset: draw() % groups * CHALLENGE_BYTES });
        }
    }
    challenges
}
