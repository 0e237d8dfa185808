//! What the holders of one bundle take: nodes, failure domains, operators.
//!
//! Owns: telling in constant time whether caps leave a node, for passes that ask it of many nodes for each of millions
//! of bundles. Always holds: it answers as [`FleetView::share_a_domain`] does when asked of every holder.
//! Leaves to others: which holders stay.

use firn_wire::DomainRule;

use crate::catalogue::NodeNames;
use crate::fleet::FleetView;
use crate::state::NodeNumber;

/// What is taken for the bundle that was begun last.
#[derive(Debug)]
pub(crate) struct Taken {
    operators_count: bool,
    // The bundle, counted up, for which each was last taken: forgetting them all costs nothing.
    bundle: u64,
    nodes: Vec<u64>,
    domains: Vec<u64>,
    operators: Vec<u64>,
}

impl Taken {
    /// Nothing is taken.
    pub(crate) fn new(fleet: &FleetView) -> Self {
        let operators_count = fleet.rule() == DomainRule::Public;
        Self { operators_count, bundle: 1, nodes: Vec::new(), domains: Vec::new(), operators: Vec::new() }
    }

    /// Another bundle: nothing is taken any more.
    pub(crate) const fn begin(&mut self) {
        self.bundle += 1;
    }

    /// A node of these names holds a shard that counts: its failure domain is taken.
    pub(crate) fn take(&mut self, names: NodeNames) {
        mark(&mut self.domains, usize_of(names.domain), self.bundle);
        mark(&mut self.operators, usize_of(names.operator), self.bundle);
    }

    /// A node is no choice itself, whether its domain is taken or not.
    pub(crate) fn take_node(&mut self, node: NodeNumber) {
        mark(&mut self.nodes, node.position(), self.bundle);
    }

    /// Whether the failure domain of a node of these names is free.
    pub(crate) fn leaves(&self, names: NodeNames) -> bool {
        let is_taken = |marks: &[u64], at: usize| marks.get(at) == Some(&self.bundle);
        let domain = is_taken(&self.domains, usize_of(names.domain));
        !(domain || (self.operators_count && is_taken(&self.operators, usize_of(names.operator))))
    }

    /// Whether it is a choice itself.
    pub(crate) fn leaves_node(&self, node: NodeNumber) -> bool {
        self.nodes.get(node.position()) != Some(&self.bundle)
    }
}

fn mark(marks: &mut Vec<u64>, at: usize, bundle: u64) {
    if marks.len() <= at {
        marks.resize(at + 1, 0);
    }
    marks[at] = bundle;
}

fn usize_of(interned: u32) -> usize {
    usize::try_from(interned).expect("a name's number has 32 bits, and so has usize at least")
}
