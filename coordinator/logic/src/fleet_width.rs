//! How many shards of one bundle a fleet can hold.
//!
//! Owns: the width, and the order in which nodes are tried for homes where all that caps leave are wanted.
//! Always holds: so many shards can be placed by the caps in force, be it perhaps not the most that could.
//! Leaves to others: which scheme follows (`width`), choosing for a bundle (`placement`).
//!
//! What caps leave depends on n where countries count: so the width is the largest for whose scheme they leave all n.

use std::collections::BTreeMap;

use firn_base::Scheme;
use firn_wire::Cap;

use crate::caps::Caps;
use crate::fleet::{FleetNode, FleetView, is_eligible};
use crate::names::NodeNames;
use crate::state::NodeNumber;
use crate::taken::{Taken, usize_of};

// The widest scheme has 40 shards and is chosen from 60 domains on; from 120 on failure domains never leave a shard
// without a home. More change nothing.
const WIDTH_MAX: usize = 120;

/// A fleet's width, measured once for each view of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct FleetWidth {
    shards: usize,
    order: Vec<NodeNumber>,
    /// Networks with how many nodes are in each; none where a failure domain may part nodes of one.
    networks: Vec<(u32, u32)>,
    /// Countries likewise.
    countries: Vec<(u32, u32)>,
}

impl FleetWidth {
    /// Measures a view.
    pub(crate) fn measure(fleet: &FleetView) -> Self {
        let caps = fleet.caps();
        let mut eligible: Vec<&FleetNode> = fleet.nodes().filter(|node| is_eligible(node)).collect();
        let (mut networks, mut countries) = (Vec::new(), Vec::new());
        if caps.is_public() {
            let rivals = Rivals::count(caps, &eligible);
            eligible.sort_by_cached_key(|node| (rivals.of(caps, node.names), node.number));
            if !eligible.iter().any(|node| caps.is_vouched(node.names)) {
                networks.extend(rivals.networks.into_named());
            }
            countries.extend(rivals.countries.into_named());
        }
        let mut taken = Taken::new(caps, 0);
        let mut room = |n: u8| {
            taken.begin(n);
            let mut shards = 0;
            for node in &eligible {
                if shards < WIDTH_MAX && taken.leaves(&node.names) {
                    taken.take(&node.names);
                    shards += 1;
                }
            }
            shards
        };
        let shards = if caps.per_network().is_some() { width_by(&mut room) } else { room(u8::MAX) };
        Self { shards, order: eligible.iter().map(|node| node.number).collect(), networks, countries }
    }

    pub(crate) const fn shards(&self) -> usize {
        self.shards
    }

    pub(crate) fn order(&self) -> &[NodeNumber] {
        &self.order
    }

    /// A cap that by itself leaves fewer than `count` homes beside what is taken, where that is easily seen: without
    /// looking at every node.
    pub(crate) fn too_narrow(&self, count: usize, taken: &Taken) -> Option<Cap> {
        let fewer = |crowds: &[(u32, u32)], open: &dyn Fn(u32) -> u32| {
            let homes = crowds.iter().map(|(name, nodes)| u64::from(open(*name).min(*nodes)));
            !crowds.is_empty() && homes.sum::<u64>() < count as u64
        };
        if fewer(&self.countries, &|name| taken.open_in_country(name)) {
            return Some(Cap::Country);
        }
        fewer(&self.networks, &|name| taken.open_in_network(name)).then_some(Cap::Network)
    }
}

/// The largest width for whose scheme there is room for all n; `room` says how many shards of a bundle of n there is
/// room for, never more for a smaller n.
fn width_by(room: &mut impl FnMut(u8) -> usize) -> usize {
    // Rooms differ only by what a country may have.
    let mut rooms = BTreeMap::new();
    let mut width = WIDTH_MAX;
    while let Some(scheme) = Scheme::for_width(width) {
        let n = scheme.n();
        let room = *rooms.entry(Caps::per_country(n)).or_insert_with(|| room(n));
        width = width.min(room);
        if Scheme::for_width(width).is_some_and(|reached| reached.n() == n) {
            return width;
        }
        // Of a smaller n there is no more room than of this one.
    }
    0
}

/// How many nodes have what in common.
#[derive(Default)]
struct Rivals {
    domains: Crowd,
    operators: Crowd,
    prefixes: Crowd,
    networks: Crowd,
    countries: Crowd,
}

/// How many nodes have each name, by the name's number.
#[derive(Default)]
struct Crowd(Vec<u32>);

impl Crowd {
    fn add(&mut self, name: u32) {
        let at = usize_of(name);
        if self.0.len() <= at {
            self.0.resize(at + 1, 0);
        }
        self.0[at] += 1;
    }

    fn of(&self, name: u32) -> u32 {
        self.0.get(usize_of(name)).copied().unwrap_or_default()
    }

    /// The names that a node has, each with how many have it.
    fn into_named(self) -> impl Iterator<Item = (u32, u32)> {
        (0..).zip(self.0).filter(|(_, nodes)| *nodes > 0)
    }
}

impl Rivals {
    fn count(caps: Caps, nodes: &[&FleetNode]) -> Self {
        let mut rivals = Self::default();
        for FleetNode { names, .. } in nodes {
            rivals.domains.add(names.domain);
            rivals.operators.add(names.operator);
            rivals.prefixes.add(names.prefix);
            if let Some(origin) = caps.origin(*names) {
                rivals.networks.add(origin.network);
                rivals.countries.add(origin.country);
            }
        }
        rivals
    }

    /// Nodes that can hold no shard of a bundle, or fewer, once this one holds one.
    fn of(&self, caps: Caps, names: NodeNames) -> u32 {
        let origin = caps.origin(names).map_or(0, |origin| {
            self.networks.of(origin.network).saturating_add(self.countries.of(origin.country))
        });
        self.domains
            .of(names.domain)
            .saturating_add(self.operators.of(names.operator))
            .saturating_add(self.prefixes.of(names.prefix))
            .saturating_add(origin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The width where countries hold no more than their part and each holds one shard of a bundle in any case.
    fn width(countries: usize, nodes_of_each: usize) -> usize {
        width_by(&mut |n| countries * nodes_of_each.min(Caps::per_country(n).into()))
    }

    #[test]
    fn few_countries_hold_only_small_bundles() {
        let widths: Vec<_> = (0..=6).map(|countries| width(countries, 100)).collect();
        // A fifth of 12 is 2, of 24 is 4: five of these are fewer than n, six are as many.
        assert_eq!(widths, [0, 1, 2, 3, 4, 10, 24]);
        assert_eq!((width(8, 100), width(20, 100)), (64, 120));
    }

    #[test]
    fn the_width_never_shrinks_where_there_is_more_room() {
        for countries in 0..40 {
            for nodes in 1..12 {
                assert!(width(countries, nodes) <= width(countries + 1, nodes));
                assert!(width(countries, nodes) <= width(countries, nodes + 1));
            }
        }
    }
}
