//! Which copies of a bundle do not lie as they should.
//!
//! Owns: telling them. Always holds: a copy is to move only if no other of its index lies well.
//! Leaves to others: where it goes (`moves`), which bundles have any (`health_index`), what becomes of extra copies
//! (`tidying`).

use firn_base::ShardIndex;
use firn_wire::NodeState;

use crate::catalogue::BundleView;
use crate::fleet::{FleetNode, FleetView};
use crate::state::NodeNumber;

/// Copies that shall lie elsewhere, each the only good one of its index.
pub(crate) fn misplaced(bundle: &BundleView, fleet: &FleetView) -> Vec<(ShardIndex, NodeNumber)> {
    let counted: Vec<(ShardIndex, &FleetNode)> = bundle
        .placements
        .iter()
        .filter_map(|(index, holder)| Some((*index, fleet.node(*holder).filter(|node| node.counted)?)))
        .collect();
    let mut misplaced = Vec::new();
    for (position, (index, node)) in counted.iter().enumerate() {
        let crowded =
            |(other, at): &(ShardIndex, &FleetNode)| other != index && fleet.share_a_domain(node, at);
        if node.state != NodeState::Draining && !counted[..position].iter().any(crowded) {
            continue;
        }
        let has_a_home = |(other, at): &(ShardIndex, &FleetNode)| {
            other == index && at.number != node.number && at.state != NodeState::Draining
        };
        if !counted.iter().any(has_a_home) {
            misplaced.push((*index, node.number));
        }
    }
    misplaced
}
