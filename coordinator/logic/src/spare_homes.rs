//! How many homes caps leave at least beside the holders of any bundle, wherever these are.
//!
//! Owns: that bound, so that few of the bundles that lack shards have to be looked at to know that they are not at risk.
//! Always holds: there are never fewer homes than it says. Leaves to others: finding out about the other bundles
//! (`repair`, `placement`).
//!
//! Take nodes that are all apart. A holder that joins them costs a few: the node that shares its domain, the one that
//! shares its operator, the one that shares its prefix, one of its network and one of its country where these are full
//! now. So beside h holders all but h times that many are left, whoever the holders are.

use crate::caps::Caps;
use crate::fleet::FleetView;
use crate::names::{NodeNames, OriginNames};
use crate::taken::{Taken, usize_of};

/// What a bundle needs homes for. Those of equal wants are one case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HomesWanted {
    /// The n by which caps count.
    pub(crate) n: u8,
    /// Copies that lie somewhere.
    pub(crate) holders: u16,
    /// Shards that may need another home, at most.
    pub(crate) homeless: u16,
}

/// Homes beside the holders of any bundle of some n.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SpareHomes {
    /// Nodes that are all apart.
    apart: usize,
    /// How many of them each holder costs at most.
    cost_of_holder: usize,
}

impl SpareHomes {
    /// Measures a fleet for bundles of n shards.
    pub(crate) fn measure(fleet: &FleetView, n: u8) -> Self {
        let holders = fleet.nodes().filter(|node| node.counted).map(|node| node.names);
        Self::of(fleet.caps(), n, fleet.eligible().map(|node| node.names), holders)
    }

    /// By names of nodes that may take shards, and of those that may hold some.
    fn of(
        caps: Caps,
        n: u8,
        eligible: impl Iterator<Item = NodeNames>,
        holders: impl Iterator<Item = NodeNames>,
    ) -> Self {
        let apart = all_apart(caps, n, eligible);
        let rivals = Rivals::of(caps, &apart);
        let costs = holders.map(|names| rivals.cost(&names));
        Self { apart: apart.len(), cost_of_holder: costs.max().unwrap_or_default() }
    }

    /// Whether there are surely homes for all that a bundle wants.
    pub(crate) fn suffice(self, wanted: HomesWanted) -> bool {
        let lost = self.cost_of_holder.saturating_mul(wanted.holders.into());
        self.apart >= lost.saturating_add(wanted.homeless.into())
    }
}

/// As many as are found at once that could hold a bundle of n shards together.
///
/// As if no failure domain parted nodes: then every name is had by one or a few, and what is apart is so the more by the
/// caps in force.
fn all_apart(caps: Caps, n: u8, eligible: impl Iterator<Item = NodeNames>) -> Vec<NodeNames> {
    let mut taken = Taken::new(caps.trusting_nobody(), n);
    let strictly = eligible.map(|names| NodeNames { vouched: false, ..names });
    let mut apart = Vec::new();
    for names in strictly {
        if taken.leaves(&names) {
            taken.take(&names);
            apart.push(names);
        }
    }
    apart
}

/// Nodes that are all apart, by their names.
struct Rivals<'a> {
    caps: Caps,
    apart: &'a [NodeNames],
    domains: Vec<Option<usize>>,
    operators: Vec<Option<usize>>,
    prefixes: Vec<Option<usize>>,
    networks: Vec<Option<usize>>,
    countries: Vec<Option<usize>>,
}

impl<'a> Rivals<'a> {
    fn of(caps: Caps, apart: &'a [NodeNames]) -> Self {
        let by = |name: &dyn Fn(&NodeNames) -> Option<u32>| {
            let mut firsts = Vec::new();
            for (place, names) in apart.iter().enumerate() {
                let Some(at) = name(names).map(usize_of) else { continue };
                if firsts.len() <= at {
                    firsts.resize(at + 1, None);
                }
                firsts[at].get_or_insert(place);
            }
            firsts
        };
        let in_public = |name: u32| caps.is_public().then_some(name);
        Self {
            caps,
            apart,
            domains: by(&|names| Some(names.domain)),
            operators: by(&|names| in_public(names.operator)),
            prefixes: by(&|names| in_public(names.prefix)),
            networks: by(&|names| caps.origin(*names).map(|origin| origin.network)),
            countries: by(&|names| caps.origin(*names).map(|origin| origin.country)),
        }
    }

    /// How many of the nodes one more of these names costs at most, when others may have cost some before it.
    fn cost(&self, names: &NodeNames) -> usize {
        let mut rivals: Vec<usize> = [
            first(&self.domains, names.domain),
            first(&self.operators, names.operator),
            first(&self.prefixes, names.prefix),
        ]
        .into_iter()
        .flatten()
        .collect();
        rivals.sort_unstable();
        rivals.dedup();
        let origin = self.caps.origin(*names).unwrap_or(OriginNames::UNKNOWN);
        let network = first(&self.networks, origin.network).is_some();
        let country = first(&self.countries, origin.country).is_some();
        // A rival that goes makes room in its network and country, too; one that is gone already does not.
        let cost = |left: u32| {
            let goes = |at: &usize| left & (1 << at) != 0;
            let going = || (0..rivals.len()).filter(goes).filter_map(|at| self.origin_of(rivals[at]));
            let makes_room = (
                going().any(|rival| rival.network == origin.network),
                going().any(|rival| rival.country == origin.country),
            );
            (0..rivals.len()).filter(goes).count()
                + usize::from(network && !makes_room.0)
                + usize::from(country && !makes_room.1)
        };
        (0..1 << rivals.len()).map(cost).max().unwrap_or_default()
    }

    fn origin_of(&self, place: usize) -> Option<OriginNames> {
        self.caps.origin(self.apart[place])
    }
}

fn first(firsts: &[Option<usize>], name: u32) -> Option<usize> {
    firsts.get(usize_of(name)).copied().flatten()
}

#[cfg(test)]
mod tests {
    use firn_base::Timestamp;
    use firn_wire::{DomainRule, Policy};
    use proptest::prelude::*;

    use super::*;
    use crate::policy::default_policy;

    const SOME_TIME: Timestamp = Timestamp::from_millis(1);

    fn names() -> impl Strategy<Value = NodeNames> {
        let drawn = (0_u32..20, 0_u32..20, 0_u32..20, 1_u32..12, 1_u32..8, any::<bool>(), any::<bool>());
        drawn.prop_map(|(domain, operator, prefix, network, country, seen, vouched)| NodeNames {
            domain,
            operator,
            prefix,
            origin: seen.then_some(OriginNames { network, country }),
            vouched,
            declared_since: SOME_TIME,
            seen_since: SOME_TIME,
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn beside_any_holders_there_are_as_many_homes_as_it_says(
            (nodes, holders, n) in (
                prop::collection::vec(names(), 1..60),
                prop::collection::vec(any::<prop::sample::Index>(), 0..6),
                1_u8..40,
            ),
            (is_public, trust_declared_domains) in any::<(bool, bool)>(),
        ) {
            let domains = if is_public { DomainRule::Public } else { DomainRule::Named };
            let policy = Policy { domains, trust_declared_domains, ..default_policy() };
            let caps = Caps::of_fleet(&policy, nodes.iter().copied());
            let spare = SpareHomes::of(caps, n, nodes.iter().copied(), nodes.iter().copied());
            let mut taken = Taken::new(caps, n);
            holders.iter().for_each(|holder| taken.take(holder.get(&nodes)));
            let mut homes = 0;
            for names in all_apart(caps, n, nodes.iter().copied()) {
                if taken.leaves(&names) {
                    taken.take(&names);
                    homes += 1;
                }
            }
            let surely = |homeless| spare.suffice(HomesWanted { n, holders: u16::try_from(holders.len()).unwrap(), homeless });
            prop_assert!(!surely(homes + 1), "it promises more than the {} that are there", homes);
        }
    }

    #[test]
    fn a_wide_fleet_has_homes_for_all_that_the_widest_bundle_may_lack() {
        let policy = Policy { domains: DomainRule::Public, ..default_policy() };
        let nodes = (0..1000).map(|number| NodeNames {
            domain: number,
            operator: number,
            prefix: number,
            origin: Some(OriginNames { network: 1 + number / 6, country: 1 + number % 25 }),
            vouched: false,
            declared_since: SOME_TIME,
            seen_since: SOME_TIME,
        });
        let spare = SpareHomes::of(Caps::of_fleet(&policy, nodes.clone()), 40, nodes.clone(), nodes);
        assert!((1..=40).all(|homeless| spare.suffice(HomesWanted {
            n: 40,
            holders: 40 - homeless,
            homeless
        })));
    }
}
