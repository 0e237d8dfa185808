//! Which nodes shall hold the shards of a bundle.
//!
//! Owns: the choice for new bundles, repairs and moves. Always holds: chosen nodes are active, online, have
//! room, and together with the holders that stay are nowhere more than caps allow; the choice follows from view and
//! seed alone. Leaves to others: promising the room (`apply`), which scheme (`width`).

use std::cmp::Reverse;
use std::collections::BTreeSet;

use firn_base::{NodeId, Scheme, ShardIndex};
use firn_wire::{Cap, NodeState};

use crate::fleet::{FleetNode, FleetView};
use crate::state::NodeNumber;
use crate::taken::Taken;

/// What is to be placed.
#[derive(Debug, Clone, Copy)]
pub struct PlacementRequest<'a> {
    /// k and n.
    pub scheme: Scheme,
    /// Bytes of each shard's file.
    pub file_bytes: u64,
    /// Nodes not to be chosen, as those on which a shard of the same coding is being trashed.
    pub avoid: &'a BTreeSet<NodeNumber>,
}

/// Why no placement was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    /// Too few failure domains have an active node online.
    #[error("only {found} failure domains have a node online, a commit needs {needed}: add nodes or wait")]
    TooFewDomains {
        /// Domains found.
        found: usize,
        /// Distinct shards that a commit needs.
        needed: usize,
    },
    /// Enough have room, but too many of them rest, or have too little left of their month's traffic.
    #[error(
        "only {found} failure domains take a shard now, a commit needs {needed}: {resting} more rest, \
         paused, declared away, outside their hours or with their month's traffic used up: try again later"
    )]
    Resting {
        /// Domains that take a shard.
        found: usize,
        /// Domains that would if their nodes did not rest.
        resting: usize,
        /// Distinct shards that a commit needs.
        needed: usize,
    },
    /// There are nodes enough, but they are full.
    #[error("only {found} failure domains have room for a shard, a commit needs {needed}: add nodes")]
    Full {
        /// Domains with room.
        found: usize,
        /// Distinct shards that a commit needs.
        needed: usize,
    },
}

/// One node for each shard of a new bundle: as many of the scheme's n as domains allow now, at least the commit
/// threshold. Emptier nodes, and those that are there more of the time, are chosen more often; of those chosen the most
/// available get the data shards, which hold the manifest too: from them a range is read in one round trip.
///
/// Whether the archive has room beside what it keeps for repairs is asked before (`reserve_room`).
pub fn plan_placement(
    fleet: &FleetView,
    request: &PlacementRequest<'_>,
    seed: [u8; 32],
) -> Result<Vec<(ShardIndex, NodeId)>, PlacementError> {
    let needed = usize::from(request.scheme.commit_threshold());
    let wanted = Wanted {
        count: usize::from(request.scheme.n()),
        n: request.scheme.n(),
        file_bytes: request.file_bytes,
        staying: &[],
        avoid: request.avoid,
    };
    let mut chosen = choose(fleet, &wanted, seed);
    if chosen.len() < needed {
        let (found, resting) = (chosen.len(), count_resting(fleet, &wanted, &chosen));
        if found + resting >= needed {
            return Err(PlacementError::Resting { found, resting, needed });
        }
        let without_room = choose(fleet, &Wanted { file_bytes: 0, ..wanted }, seed).len();
        return Err(if without_room < needed {
            PlacementError::TooFewDomains { found: without_room, needed }
        } else {
            PlacementError::Full { found: chosen.len(), needed }
        });
    }
    // By whole per cent, and else as they were chosen: who is there a little more need not hold all data.
    chosen.sort_by_key(|node| Reverse(node.availability.per_cent()));
    Ok((0..request.scheme.n()).map(ShardIndex).zip(chosen.into_iter().map(|node| node.id)).collect())
}

/// How many nodes beside those that were chosen would take a shard if they did not rest, nor kept to a month's traffic.
fn count_resting(fleet: &FleetView, wanted: &Wanted<'_>, chosen: &[&FleetNode]) -> usize {
    let mut taken = Taken::new(fleet.caps(), wanted.n);
    taken.begin_with(wanted.n, chosen.iter().copied());
    let would_take = |node: &&FleetNode| {
        node.online
            && (node.rests() || node.month_left_bytes < wanted.file_bytes)
            && node.free_within_a_day_bytes >= wanted.file_bytes
            && !wanted.avoid.contains(&node.number)
    };
    let mut resting = 0;
    for node in fleet.eligible().filter(would_take) {
        if taken.leaves(&node.names) {
            taken.take(&node.names);
            resting += 1;
        }
    }
    resting
}

/// What to choose nodes for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    /// How many at most.
    pub(crate) count: usize,
    /// Shards that the bundle is to have in all.
    pub(crate) n: u8,
    /// Room that each must have.
    pub(crate) file_bytes: u64,
    /// Holders of other shards that stay: their domains are taken.
    pub(crate) staying: &'a [NodeNumber],
    /// Nodes not to be chosen.
    pub(crate) avoid: &'a BTreeSet<NodeNumber>,
}

/// Up to `count` nodes, the preferred first: weighted rendezvous hashing by free bytes and availability. Where that
/// leaves some without a home, those are preferred that have least in common with others.
pub(crate) fn choose<'f>(fleet: &'f FleetView, wanted: &Wanted<'_>, seed: [u8; 32]) -> Vec<&'f FleetNode> {
    let staying = || wanted.staying.iter().filter_map(|number| fleet.node(*number));
    let mut taken = Taken::new(fleet.caps(), wanted.n);
    taken.begin_with(wanted.n, staying());
    let mut candidates: Vec<(f64, &FleetNode)> = fleet
        .eligible()
        .filter(|node| takes_now(node, wanted.file_bytes, wanted.avoid) && taken.leaves(&node.names))
        .map(|node| (score(seed, node), node))
        .collect();
    let mut first = |candidates: &[(f64, &'f FleetNode)]| {
        taken.begin_with(wanted.n, staying());
        let mut chosen: Vec<&FleetNode> = Vec::with_capacity(wanted.count);
        for (_, node) in candidates {
            if chosen.len() < wanted.count && taken.leaves(&node.names) {
                taken.take(&node.names);
                chosen.push(node);
            }
        }
        chosen
    };
    let by_scarcity = if fleet.caps().is_public() { candidates.clone() } else { Vec::new() };
    candidates.sort_by(|one, other| one.0.total_cmp(&other.0).then(one.1.number.cmp(&other.1.number)));
    let chosen = first(&candidates);
    if chosen.len() == wanted.count {
        return chosen;
    }
    let scarcest = first(&by_scarcity);
    if scarcest.len() > chosen.len() { scarcest } else { chosen }
}

/// Looks for `count` nodes for shards beside the holders that stay, whom `taken` has: whatever their room and whether
/// they are online now. None if there are so many, else the caps that keep nodes away; where none do, there are no
/// more nodes.
pub(crate) fn kept_from_homes(fleet: &FleetView, count: usize, taken: &mut Taken) -> Option<BTreeSet<Cap>> {
    let (mut found, mut kept_by) = (0, BTreeSet::new());
    for (looks, node) in fleet.eligible().enumerate() {
        if found == count {
            return None;
        }
        // Nearly always the first nodes will do; where they do not, a cap may be too narrow for all others alike.
        if looks == count + LOOKS_SPARE
            && let Some(cap) = fleet.too_narrow(count - found, taken)
        {
            return Some(BTreeSet::from([cap]));
        }
        if !taken.leaves_node(node.number) {
            continue;
        }
        if taken.leaves(&node.names) {
            taken.take(&node.names);
            found += 1;
        } else {
            kept_by.extend(taken.kept_by(&node.names));
        }
    }
    (found < count)
        .then(|| fleet.too_narrow(count - found, taken).map_or(kept_by, |cap| BTreeSet::from([cap])))
}

/// A node that could be the home of a shard.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Home<'f> {
    /// It would take the shard now.
    Open(&'f FleetNode),
    /// Caps allow it, but each such node is offline, full, or trashing a shard of the same coding.
    Unavailable(&'f FleetNode),
}

impl<'f> Home<'f> {
    /// The node.
    pub(crate) const fn node(self) -> &'f FleetNode {
        match self {
            Self::Open(node) | Self::Unavailable(node) => node,
        }
    }
}

/// A home for one shard of `file_bytes` beside those who hold the others, whom `taken` has; none where caps leave no
/// node.
pub(crate) fn find_home<'f>(
    fleet: &'f FleetView,
    file_bytes: u64,
    taken: &Taken,
    avoid: &BTreeSet<NodeNumber>,
) -> Option<Home<'f>> {
    let mut unavailable = None;
    for node in fleet.eligible().filter(|node| taken.leaves(&node.names)) {
        if takes_now(node, file_bytes, avoid) {
            return Some(Home::Open(node));
        }
        unavailable = unavailable.or(Some(Home::Unavailable(node)));
    }
    unavailable
}

/// Whether a node, domains apart, would take a shard of `file_bytes` now.
pub(crate) fn takes_now(node: &FleetNode, file_bytes: u64, avoid: &BTreeSet<NodeNumber>) -> bool {
    node.state == NodeState::Active
        && node.online
        && node.free_bytes >= file_bytes
        && !avoid.contains(&node.number)
}

// Nodes that are looked at beyond those that are needed, before it is asked whether looking is of any use.
const LOOKS_SPARE: usize = 32;

const AVAILABILITY_LEAST: f64 = 0.05;

/// Exponentially distributed with the node's free bytes, times its availability, as rate: the smallest of several is
/// each one with a chance in proportion to that. Only the leader computes it, so its last bits need not agree elsewhere.
fn score(seed: [u8; 32], node: &FleetNode) -> f64 {
    let hash = blake3::keyed_hash(&seed, node.id.as_bytes());
    let (first, _) = hash.as_bytes().split_first_chunk::<4>().expect("a hash has 32 bytes");
    let uniform = (f64::from(u32::from_le_bytes(*first)) + 0.5) / (f64::from(u32::MAX) + 1.0);
    // Megabytes are fine enough for a weight, and fit 32 bits up to 4 PB.
    let room = f64::from(u32::try_from(node.free_bytes >> 20).unwrap_or(u32::MAX)) + 1.0;
    // Who is hardly ever there has a chance all the same: it may do better.
    -uniform.ln() / (room * node.availability.fraction().max(AVAILABILITY_LEAST))
}
