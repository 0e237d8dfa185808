//! Which copies of a bundle do not lie as they should.
//!
//! Owns: telling them, and since when more lie together than caps allow. Always holds: a copy is to move only if no other
//! of its index is on a node that stays; a breach of caps names as few copies as it takes, the later indexes, and
//! is mended only when it has lasted; since when it lasts follows from committed records, so that no change of leaders
//! begins it anew. Leaves to others: where copies go (`moves`), which bundles have any (`health_index`), what becomes
//! of extra copies (`tidying`).

use firn_base::{ShardIndex, Timestamp};
use firn_wire::NodeState;

use crate::caps::is_due;
use crate::catalogue::BundleView;
use crate::fleet::FleetView;
use crate::health::goal;
use crate::names::NodeNames;
use crate::state::NodeNumber;
use crate::taken::Taken;

/// Why a copy shall lie elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// Its node is being emptied.
    Draining,
    /// With those of smaller indexes more lie together than caps allow.
    TooMuch {
        /// Since when.
        since: Timestamp,
    },
}

/// What the judgement of a copy rests on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Holder<'a> {
    pub(crate) names: &'a NodeNames,
    pub(crate) is_draining: bool,
}

/// Tells `found` of every copy that shall lie elsewhere. `counted` gives the holder of a copy if it counts.
pub(crate) fn find_flaws<'a>(
    placements: &[(ShardIndex, NodeNumber)],
    counted: impl Fn(NodeNumber) -> Option<Holder<'a>>,
    taken: &mut Taken,
    mut found: impl FnMut((ShardIndex, NodeNumber), Flaw),
) {
    let stays = |holder: &Holder<'_>| !holder.is_draining;
    for copies in placements.chunk_by(|one, next| one.0 == next.0) {
        // Nearly all shards lie once: millions of them are looked at in a pass.
        if let [copy] = copies {
            let Some(holder) = counted(copy.1) else { continue };
            if !stays(&holder) {
                found(*copy, Flaw::Draining);
            } else if taken.leaves(holder.names) {
                taken.take(holder.names);
            } else if let Some(since) = taken.too_much_since(holder.names) {
                found(*copy, Flaw::TooMuch { since });
            }
            continue;
        }
        let holders = || copies.iter().filter_map(|(_, node)| counted(*node));
        let (mut staying, mut leaving) = (0, 0);
        holders().for_each(|holder| if stays(&holder) { staying += 1 } else { leaving += 1 });
        if staying == 0 && leaving > 0 {
            let copies = copies.iter().filter(|(_, node)| counted(*node).is_some());
            copies.for_each(|copy| found(*copy, Flaw::Draining));
        }
        // Of several copies one will stay: any that caps leave.
        let kept = holders().find(|holder| stays(holder) && taken.leaves(holder.names));
        match kept {
            Some(holder) => taken.take(holder.names),
            None if staying == 1 => {
                let crowded = copies.iter().filter_map(|copy| Some((copy, counted(copy.1).filter(stays)?)));
                for (copy, holder) in crowded {
                    if let Some(since) = taken.too_much_since(holder.names) {
                        found(*copy, Flaw::TooMuch { since });
                    }
                }
            }
            None => {}
        }
    }
}

/// Copies of a bundle that shall lie elsewhere now.
pub(crate) fn misplaced(
    bundle: &BundleView,
    fleet: &FleetView,
    taken: &mut Taken,
    now: Timestamp,
) -> Vec<(ShardIndex, NodeNumber)> {
    let mut misplaced = Vec::new();
    find_flaws_in(bundle, fleet, taken, |copy, flaw| match flaw {
        Flaw::TooMuch { since } if !is_due(since, now) => {}
        Flaw::Draining | Flaw::TooMuch { .. } => misplaced.push(copy),
    });
    misplaced
}

/// How many shards of a bundle have to find other homes because more lie together than caps allow, whether that has
/// lasted or not. `taken` has what the others take then, draining nodes among them, and all holders as no choice.
pub(crate) fn count_too_much(bundle: &BundleView, fleet: &FleetView, taken: &mut Taken) -> usize {
    let (mut too_much, mut draining) = (0, Vec::new());
    find_flaws_in(bundle, fleet, taken, |copy, flaw| match flaw {
        Flaw::Draining => draining.extend(fleet.node(copy.1)),
        Flaw::TooMuch { .. } => too_much += 1,
    });
    draining.into_iter().for_each(|node| taken.take(&node.names));
    bundle.placements.iter().for_each(|(_, holder)| taken.take_node(*holder));
    too_much
}

fn find_flaws_in(
    bundle: &BundleView,
    fleet: &FleetView,
    taken: &mut Taken,
    found: impl FnMut((ShardIndex, NodeNumber), Flaw),
) {
    let counted = |number| {
        let node = fleet.node(number).filter(|node| node.counted)?;
        Some(Holder { names: &node.names, is_draining: node.state == NodeState::Draining })
    };
    taken.begin(goal(bundle.scheme, fleet.width()).n());
    find_flaws(&bundle.placements, counted, taken, found);
}
