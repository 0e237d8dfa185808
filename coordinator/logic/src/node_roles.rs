//! How the shards of each node count, and what of that changed.
//!
//! Owns: nodes' roles and names as the judgement of bundles last saw them. Always holds: a turn that is no newcomer's
//! can never bring copies too close to others. Leaves to others: whom a newcomer may be close to (`kin`), judging bundles
//! (`standing`, `health_index`).

use firn_wire::NodeState;

use crate::fleet::FleetNode;
use crate::names::NodeNames;
use crate::state::NodeNumber;

/// What the judgement of bundles rests on of each node, by its number.
///
/// Millions of copies are looked at in a pass, each on another node: what is asked of every copy is small and by itself,
/// so that all of it stays in the cache that is next to the core.
#[derive(Debug, Clone, Default)]
pub(crate) struct Nodes {
    roles: Vec<NodeRole>,
    names: Vec<Option<NodeNames>>,
}

/// How the shards of a node count. Those of unknown nodes do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct NodeRole {
    /// They are durable.
    pub(crate) counts: bool,
    /// They are online and proved, and readers are served.
    pub(crate) is_reachable: bool,
    pub(crate) is_draining: bool,
    /// It is of the archive no more.
    pub(crate) is_removed: bool,
}

impl NodeRole {
    fn of(node: &FleetNode) -> Self {
        Self {
            counts: node.counted,
            is_reachable: node.is_reachable(),
            is_draining: node.state == NodeState::Draining,
            is_removed: matches!(node.state, NodeState::Lost | NodeState::Gone),
        }
    }

    /// Its shards count and stay where they are: so they take what caps count.
    pub(crate) const fn stays(self) -> bool {
        self.counts && !self.is_draining
    }

    /// Its shards count, and are to find other homes.
    pub(crate) const fn leaves(self) -> bool {
        self.counts && self.is_draining
    }
}

impl Nodes {
    pub(crate) fn role(&self, node: NodeNumber) -> NodeRole {
        self.roles.get(node.position()).copied().unwrap_or_default()
    }

    pub(crate) fn names(&self, node: NodeNumber) -> Option<&NodeNames> {
        self.names.get(node.position())?.as_ref()
    }

    /// Nodes whose shards take what caps count.
    pub(crate) fn staying(&self) -> impl Iterator<Item = (NodeNumber, &NodeNames)> {
        let known = (0..).map(NodeNumber).zip(self.roles.iter().zip(&self.names));
        known
            .filter(|(_, (role, _))| role.stays())
            .filter_map(|(node, (_, names))| Some((node, names.as_ref()?)))
    }

    /// Notes how a node is now; gives how its bundles are to be looked at, if they are.
    pub(crate) fn put(&mut self, node: &FleetNode) -> Option<Turn> {
        let place = node.number.position();
        if self.roles.len() <= place {
            self.roles.resize(place + 1, NodeRole::default());
            self.names.resize(place + 1, None);
        }
        let role = NodeRole::of(node);
        let before = std::mem::replace(&mut self.roles[place], role);
        let names_before = self.names[place].replace(node.names);
        let has_moved = names_before != Some(node.names);
        let is_newcomer = role.stays() && (has_moved || !before.stays());
        (has_moved || role != before).then_some(Turn { before, role, is_newcomer, has_moved })
    }
}

/// What befell a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Turn {
    /// Its shards counted so.
    pub(crate) before: NodeRole,
    /// They count so now.
    pub(crate) role: NodeRole,
    /// They take what caps count, and did not before, or something else: they may lie too close to others now.
    pub(crate) is_newcomer: bool,
    /// It has other names: it may lie in another country now.
    pub(crate) has_moved: bool,
}
