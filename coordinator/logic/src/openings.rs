//! Nodes that may take a shard for balance, the emptiest first.
//!
//! Owns: their order, and their grouping by failure domain: a domain that a bundle has taken is passed over at once,
//! so that few are tried for a bundle however many nodes there are. Always holds: groups with a node that is too
//! empty come first; nodes with as many builds as they may have are left out.
//! Leaves to others: whether a node takes a certain shard (`balance`).

use std::collections::BTreeMap;

use crate::builder::Builder;
use crate::shares::{Reach, UsedShares};
use crate::state::NodeNumber;

/// Nodes that may take shards, by failure domain.
#[derive(Debug)]
pub(crate) struct Openings {
    groups: Vec<Vec<NodeNumber>>,
    /// How many of the groups, the first ones, have a node that is too empty.
    too_empty: usize,
    /// A node that more shards could go to has as many builds as it may.
    pub(crate) some_are_loaded: bool,
}

impl Openings {
    /// The openings before a pass.
    pub(crate) fn new(shares: &UsedShares, builder: &Builder<'_>, reach: Reach) -> Self {
        let fleet = builder.fleet();
        let mut openings = Self { groups: Vec::new(), too_empty: 0, some_are_loaded: false };
        let mut candidates = Vec::new();
        for (number, share) in shares.all().filter(|(_, share)| share.may_take(1, reach)) {
            let Some(node) = fleet.node(number).filter(|node| node.free_bytes > 0) else { continue };
            let is_too_empty = share.deficit_bytes() > 0;
            if builder.is_loaded(number) {
                openings.some_are_loaded |= is_too_empty || shares.has_more_excess();
            } else {
                candidates.push((!is_too_empty, share.used_millionths(), number, node));
            }
        }
        candidates.sort_unstable_by_key(|(is_well, used, number, _)| (*is_well, *used, *number));
        let mut known = BTreeMap::new();
        for (is_well, _, number, node) in candidates {
            let group = *known.entry(node.names.domain).or_insert(openings.groups.len());
            if group == openings.groups.len() {
                openings.groups.push(Vec::new());
                openings.too_empty += usize::from(!is_well);
            }
            openings.groups[group].push(number);
        }
        openings
    }

    /// Groups with a node that is too empty; with `or_any` the others after them.
    pub(crate) fn groups(&self, or_any: bool) -> &[Vec<NodeNumber>] {
        if or_any { &self.groups } else { &self.groups[..self.too_empty] }
    }

    /// Takes a node out.
    pub(crate) fn remove(&mut self, node: NodeNumber) {
        let holds = |group: &Vec<NodeNumber>| group.contains(&node);
        let Some(position) = self.groups.iter().position(holds) else { return };
        self.groups[position].retain(|other| *other != node);
        if self.groups[position].is_empty() {
            self.groups.remove(position);
            self.too_empty -= usize::from(position < self.too_empty);
        }
    }
}
