//! Of which bundles a node that came, or came to be elsewhere, may hold a copy too close to another.
//!
//! Owns: telling them by what nodes have in common, not by looking at bundles: a node has a few relatives and copies of
//! thousands of bundles. Always holds: where no copy lies too close to the node's for another reason than its country,
//! every bundle that is not told lies as well as before. Leaves to others: countries, which hundreds of nodes may share
//! and a bundle's standing counts (`standing`), and whether caps are broken (`layout`).

use firn_base::BundleNumber;

use crate::bundle_set::BundleSet;
use crate::caps::Caps;
use crate::catalogue::Catalogue;
use crate::node_roles::Nodes;
use crate::state::NodeNumber;

/// With more relatives most of a node's bundles are shared with one.
const KIN_MOST: usize = 64;

/// Bundles that a node shares with its relatives.
pub(crate) enum SharedWithKin {
    /// These.
    Known(BundleSet),
    /// Any, for it has many.
    Any,
}

impl SharedWithKin {
    /// Looks for a node's relatives, and for what they hold.
    pub(crate) fn of(newcomer: NodeNumber, nodes: &Nodes, catalogue: &Catalogue, caps: Caps) -> Self {
        let mut shared = BundleSet::default();
        let Some(names) = nodes.names(newcomer) else { return Self::Known(shared) };
        let kin =
            nodes.staying().filter(|(node, other)| *node != newcomer && !caps.are_strangers(names, other));
        for (count, (node, _)) in kin.enumerate() {
            if count == KIN_MOST {
                return Self::Any;
            }
            shared |= catalogue.held_by(node).iter().map(|(bundle, _)| *bundle).collect::<BundleSet>();
        }
        Self::Known(shared)
    }

    /// Whether the node shares a bundle of its own with a relative.
    pub(crate) fn contains(&self, bundle: BundleNumber) -> bool {
        match self {
            Self::Known(shared) => shared.contains(bundle),
            Self::Any => true,
        }
    }
}
