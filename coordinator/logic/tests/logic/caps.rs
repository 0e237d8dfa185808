//! Domain caps of `public` archives, against a recount that looks at all holders anew.

use std::collections::{BTreeMap, BTreeSet};

use firn_base::{AddressHistory, AsNumber, Availability, Country, Origin, Scheme, ShardIndex, TokenId};
use firn_coordinator_logic::{
    BREACH_MENDED_AFTER, HealthIndex, NodeRecord, PlacementRequest, WidthMemory, choose_scheme,
    default_policy, plan_moves, plan_placement, plan_repairs, plan_tidying,
};
use firn_wire::{
    Cap, Command, CommandOutcome, DomainRule, LedgerAct, NodePlace, NodeSighting, NodeState, PlacementChange,
    Policy, RejectReason,
};
use proptest::prelude::*;

use crate::support::{Archive, BUDGET, QUOTA_BYTES, bundle_id, headers, node_id, place};

const DAY_MILLIS: u64 = 86_400_000;

/// What a node has in common with others, and where it is.
#[derive(Debug, Clone)]
struct Traits {
    operator: u32,
    domain: u32,
    prefix: u32,
    /// Zero is unknown.
    network: u32,
    /// Zero is unknown.
    country: u8,
    vouched: bool,
}

impl Traits {
    /// Node `number`, which shares nothing with anybody.
    fn alone(number: u32) -> Self {
        let country = u8::try_from(number % 26).unwrap() + 1;
        Self {
            operator: number,
            domain: number,
            prefix: number,
            network: number + 1,
            country,
            vouched: false,
        }
    }

    fn place(&self) -> NodePlace {
        let country = Country::try_from([b'X', b'A' - 1 + self.country]).ok();
        let asn = (self.network > 0).then_some(AsNumber(self.network));
        place(self.prefix, Some(Origin { asn, country }))
    }
}

fn public_archive(trust_declared_domains: bool) -> Archive {
    let mut archive = Archive::of(0);
    let policy = Policy { domains: DomainRule::Public, trust_declared_domains, ..default_policy() };
    archive.run(Command::Govern(LedgerAct::SetPolicy(policy)));
    archive
}

fn join(archive: &mut Archive, node: u32, traits: &Traits) -> CommandOutcome {
    let mut token = [0; 32];
    token[..4].copy_from_slice(&node.to_le_bytes());
    let outcome = archive.run(Command::JoinNode {
        node: node_id(node),
        operator: format!("operator-{}", traits.operator),
        failure_domain: format!("domain-{}", traits.domain),
        vouched: traits.vouched,
        seen_at: Some(traits.place()),
        address: format!("h:{node}"),
        quota_bytes: QUOTA_BYTES,
        token: Some(TokenId::from_bytes(token)),
    });
    archive.hear(node);
    outcome
}

/// The nodes count as being elsewhere from now on, and say so of their domains.
fn change(archive: &mut Archive, fleet: &[Traits]) {
    for (node, traits) in (0..).zip(fleet) {
        join(archive, node, traits);
    }
    let sighting = |(node, traits): (u32, &Traits)| NodeSighting {
        node: node_id(node),
        last_seen: Some(archive.now),
        availability: Availability::UNKNOWN,
        addresses: AddressHistory::first_seen_at(traits.place().prefix),
        origin: traits.place().origin,
    };
    let nodes = (0..).zip(fleet).map(sighting).collect();
    archive.run(Command::Summary { nodes });
}

/// Counts anew what holders have in common: the caps that one of each of these nodes would break.
fn broken(trusts: bool, per_network: usize, n: u8, holders: &[&NodeRecord]) -> BTreeSet<Cap> {
    let mut broken = BTreeSet::new();
    let apart = |node: &NodeRecord| trusts || node.vouched;
    let origin = |node: &NodeRecord| node.site.origin.unwrap_or_default();
    for one in holders {
        let count = |same: &dyn Fn(&NodeRecord) -> bool| {
            let same: Vec<_> = holders.iter().filter(|other| same(other)).collect();
            (same.len(), same.iter().all(|other| apart(other)))
        };
        let (in_domain, _) = count(&|other| other.failure_domain == one.failure_domain);
        let (of_operator, _) = count(&|other| other.operator == one.operator);
        let prefix = one.site.addresses.counted();
        let (in_prefix, prefix_is_apart) = count(&|other| other.site.addresses.counted() == prefix);
        let (in_network, network_is_apart) = count(&|other| origin(other).asn == origin(one).asn);
        let (in_country, _) = count(&|other| origin(other).country == origin(one).country);
        for (cap, is_broken) in [
            (Cap::Domain, in_domain > 1),
            (Cap::Operator, of_operator > 1),
            (Cap::Prefix, in_prefix > 1 && !prefix_is_apart),
            (Cap::Network, in_network > per_network && !network_is_apart),
            (Cap::Country, in_country > usize::from(n / 5).max(1)),
        ] {
            if is_broken {
                broken.insert(cap);
            }
        }
    }
    broken
}

/// Shards that may lie in one network of this fleet.
fn per_network(nodes: &[NodeRecord]) -> usize {
    let members = nodes.iter().filter(|node| node.is_member());
    let known: BTreeSet<_> = members.filter_map(|node| node.site.origin?.asn).collect();
    if known.len() < 60 { 2 } else { 1 }
}

fn any_traits() -> impl Strategy<Value = Traits> {
    traits_of(12, 8, 8)
}

/// With so many operators, domains and prefixes, networks and countries.
fn traits_of(names: u32, networks: u32, countries: u8) -> impl Strategy<Value = Traits> {
    let drawn = (0..names, 0..names, 0..names, 0..networks, 0..countries, prop::bool::weighted(0.2));
    drawn.prop_map(|(operator, domain, prefix, network, country, vouched)| Traits {
        operator,
        domain,
        prefix,
        network,
        country,
        vouched,
    })
}

fn any_fleet(nodes: usize) -> impl Strategy<Value = Vec<Traits>> {
    prop::collection::vec(any_traits(), nodes)
}

/// An archive of nodes that were apart when two bundles of 4/12 were published, and then turned out to be as `fleet`.
fn archive_that_changed(trusts: bool, fleet: &[Traits], away: &BTreeSet<u32>) -> Archive {
    let mut archive = public_archive(trusts);
    for (node, traits) in (0..).zip(fleet) {
        join(&mut archive, node, &Traits { vouched: traits.vouched, ..Traits::alone(node) });
    }
    let nodes: Vec<u32> = (0..u32::try_from(fleet.len()).unwrap()).collect();
    for tag in [1, 2] {
        archive.publish(tag, (4, 12), &nodes[..12]);
    }
    archive.wait(DAY_MILLIS);
    change(&mut archive, fleet);
    for node in away {
        archive.set_state(*node, NodeState::Lost);
    }
    archive
}

/// Distinct holders that count, one for each index.
fn holders<'a>(nodes: &'a [NodeRecord], placements: &[(u8, u32)]) -> Vec<&'a NodeRecord> {
    let by_index: BTreeMap<u8, u32> = placements.iter().copied().collect();
    by_index.values().map(|node| &nodes[*node as usize]).filter(|node| node.is_member()).collect()
}

#[test]
fn an_assignment_beyond_what_any_fleet_allows_is_rejected_with_the_cap() {
    type Change = fn(&mut Traits);
    let cases: [(Cap, Change); 4] = [
        (Cap::Domain, |traits| traits.domain = 0),
        (Cap::Operator, |traits| traits.operator = 0),
        (Cap::Prefix, |traits| traits.prefix = 0),
        (Cap::Country, |traits| traits.country = 1),
    ];
    for (cap, join_up) in cases {
        let mut archive = public_archive(false);
        for node in 0..4 {
            let mut traits = Traits::alone(node);
            if node == 3 {
                join_up(&mut traits);
            }
            join(&mut archive, node, &traits);
        }
        let CommandOutcome::Rejected(RejectReason::Malformed(why)) =
            archive.reserve(1, (2, 4), &[0, 1, 2, 3])
        else {
            panic!("{cap} is not kept")
        };
        assert!(why.contains(&cap.to_string()), "{why}");
        assert_eq!(archive.reserve(2, (2, 4), &[0, 1, 2]), CommandOutcome::Applied);
    }
}

#[test]
fn of_one_network_two_shards_are_taken_and_not_three() {
    let mut archive = public_archive(false);
    for node in 0..4 {
        join(&mut archive, node, &Traits { network: 7, ..Traits::alone(node) });
    }
    assert!(matches!(archive.reserve(1, (2, 3), &[0, 1, 2]), CommandOutcome::Rejected(_)));
    assert_eq!(archive.planning(|view| view.fleet.width()), 2);
}

#[test]
fn nodes_of_unknown_network_and_country_are_together() {
    let mut archive = public_archive(false);
    for node in 0..12 {
        join(&mut archive, node, &Traits { network: 0, ..Traits::alone(node) });
    }
    assert_eq!(archive.planning(|view| view.fleet.width()), 2);
    let mut archive = public_archive(false);
    for node in 0..12 {
        join(&mut archive, node, &Traits { country: 0, ..Traits::alone(node) });
    }
    assert_eq!(archive.planning(|view| view.fleet.width()), 1);
}

#[test]
fn what_a_node_declares_joins_it_to_others_and_parts_it_only_where_it_is_trusted() {
    let in_one_rack = |domains: [u32; 2], vouched: [bool; 2], trusts: bool| {
        let mut archive = public_archive(trusts);
        for (node, (domain, vouched)) in (0..).zip(domains.into_iter().zip(vouched)) {
            let traits = Traits { domain, prefix: 0, network: 1, vouched, ..Traits::alone(node) };
            join(&mut archive, node, &traits);
        }
        archive.planning(|view| view.fleet.width())
    };
    assert_eq!(in_one_rack([0, 1], [false, false], false), 1, "its own word parts nobody");
    assert_eq!(in_one_rack([0, 1], [true, false], false), 1, "both have to be vouched for");
    assert_eq!(in_one_rack([0, 1], [true, true], false), 2);
    assert_eq!(in_one_rack([0, 1], [false, false], true), 2);
    assert_eq!(in_one_rack([0, 0], [true, true], true), 1, "a domain in common always joins");
}

#[test]
fn a_node_cannot_change_the_domain_that_a_token_gave_it() {
    let mut archive = public_archive(false);
    join(&mut archive, 0, &Traits { vouched: true, ..Traits::alone(0) });
    join(&mut archive, 0, &Traits { domain: 9, ..Traits::alone(0) });
    assert_eq!((archive.node(0).failure_domain, archive.node(0).vouched), ("domain-0".into(), true));
    join(&mut archive, 1, &Traits::alone(1));
    join(&mut archive, 1, &Traits { domain: 9, vouched: true, ..Traits::alone(1) });
    assert!(!archive.node(1).vouched, "a token is used up by joining, not by coming again");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn new_bundles_keep_all_caps_and_are_placed_whole_where_the_width_says_so(
        (fleet, trusts, seed) in (any_fleet(24), any::<bool>(), any::<[u8; 32]>()),
    ) {
        let mut archive = public_archive(trusts);
        for (node, traits) in (0..).zip(&fleet) {
            join(&mut archive, node, traits);
        }
        let nodes = archive.nodes();
        let (width, scheme, placed) = archive.planning(|view| {
            let scheme = choose_scheme(view.fleet, &WidthMemory::new()).unwrap();
            let avoid = BTreeSet::new();
            let request = PlacementRequest { scheme, file_bytes: 70_000, avoid: &avoid };
            let plan = || plan_placement(view.fleet, &request, seed);
            assert_eq!(plan(), plan(), "equal inputs, equal plan");
            (view.fleet.width(), scheme, plan())
        });
        let placed = placed.unwrap();
        let number = |id| nodes.iter().position(|node| node.id == id).unwrap();
        let holders: Vec<_> = placed.iter().map(|(_, id)| &nodes[number(*id)]).collect();
        prop_assert_eq!(broken(trusts, per_network(&nodes), scheme.n(), &holders), BTreeSet::new());
        prop_assert_eq!(Some(scheme), Scheme::for_width(width));
        prop_assert_eq!(placed.len(), usize::from(scheme.n()));
        let numbers: Vec<u32> = placed.iter().map(|(_, id)| u32::try_from(number(*id)).unwrap()).collect();
        let outcome = archive.reserve_as(1, &headers(1, scheme.k(), vec![]), scheme.n(), &numbers);
        prop_assert_eq!(outcome, CommandOutcome::Applied, "a replica takes what the leader plans");
    }

    #[test]
    fn breaches_are_those_of_a_recount_and_no_plan_adds_to_them(
        (fleet, trusts, away) in (any_fleet(18), any::<bool>(), prop::collection::btree_set(0_u32..12, 0..4)),
        seed: [u8; 32],
    ) {
        let mut archive = archive_that_changed(trusts, &fleet, &away);
        let nodes = archive.nodes();
        let most = per_network(&nodes);
        // The scheme's own, and as much as its k may have.
        let n = 12;
        let in_breach = [1, 2].into_iter().filter(|tag| {
            !broken(trusts, most, n, &holders(&nodes, &archive.placements(*tag))).is_empty()
        });
        let count = archive.planning(|view| view.health.breaches(view.now));
        prop_assert_eq!(count.bundles, in_breach.count() as u64);
        prop_assert_eq!(count.due, 0, "nothing has lasted yet");
        prop_assert_eq!(archive.planning(|view| plan_moves(view, &BUDGET, seed).builds.len()), 0);
        archive.wait(u64::try_from(BREACH_MENDED_AFTER.as_millis()).unwrap());
        archive.hear_all_but(&[]);
        let builds = archive.planning(|view| {
            prop_assert_eq!(view.health.breaches(view.now).due, count.bundles);
            let mut builds = plan_repairs(view, &BUDGET, seed).builds;
            builds.extend(plan_moves(view, &BUDGET, seed).builds);
            Ok(builds)
        })?;
        for build in builds {
            let tag = [1, 2].into_iter().find(|tag| archive.bundle(*tag).number == build.bundle).unwrap();
            let mut kept: Vec<(u8, u32)> = archive.placements(tag);
            kept.retain(|(index, node)| {
                !build.retire.iter().any(|(retired, from)| (retired.0, from.0) == (*index, *node))
            });
            let before = broken(trusts, most, n, &holders(&nodes, &kept));
            kept.extend(build.targets.iter().map(|(index, node)| (index.0, node.0)));
            let staying = holders(&nodes, &kept);
            for (_, target) in &build.targets {
                let target = &nodes[target.0 as usize];
                // Of what is broken before nothing involves the new home.
                let others: Vec<_> = staying.iter().copied().filter(|node| node.number != target.number).collect();
                let more = broken(trusts, most, n, &staying);
                prop_assert!(more.is_subset(&before), "{:?} beside {:?}", target, others);
            }
        }
    }

    #[test]
    fn a_bundle_that_lacks_shards_and_is_not_at_risk_has_homes_for_them(
        (fleet, trusts, away) in (
            prop::collection::vec(traits_of(30, 20, 20), 30),
            any::<bool>(),
            prop::collection::btree_set(0_u32..3, 1..3),
        ),
    ) {
        let mut archive = public_archive(trusts);
        for (node, traits) in (0..).zip(&fleet) {
            join(&mut archive, node, &Traits { vouched: traits.vouched, ..Traits::alone(node) });
        }
        archive.publish(1, (2, 3), &[0, 1, 2]);
        archive.wait(DAY_MILLIS);
        change(&mut archive, &fleet);
        for node in &away {
            archive.set_state(*node, NodeState::Lost);
        }
        let nodes = archive.nodes();
        let most = per_network(&nodes);
        let staying = holders(&nodes, &archive.placements(1));
        let is_in_breach = !broken(trusts, most, 3, &staying).is_empty();
        let at_risk = archive.planning(|view| plan_repairs(view, &BUDGET, [7; 32]).at_risk);
        if is_in_breach || !at_risk.is_empty() {
            return Ok(());
        }
        let others: Vec<_> = nodes[3..].iter().collect();
        let lies_well = |chosen: &[&NodeRecord]| {
            let together: Vec<_> = staying.iter().chain(chosen).copied().collect();
            broken(trusts, most, 3, &together).is_empty()
        };
        let found = match away.len() {
            1 => others.iter().any(|one| lies_well(&[one])),
            _ => others.iter().any(|one| others.iter().any(|two| one.number != two.number && lies_well(&[one, two]))),
        };
        prop_assert!(found, "{} shards lack homes and nobody says so", away.len());
    }

    #[test]
    fn plans_come_to_rest_and_leave_no_breach_that_a_home_could_mend(
        (fleet, trusts, away) in (any_fleet(18), any::<bool>(), prop::collection::btree_set(0_u32..12, 0..3)),
        seed: [u8; 32],
    ) {
        let mut archive = archive_that_changed(trusts, &fleet, &away);
        archive.wait(u64::try_from(BREACH_MENDED_AFTER.as_millis()).unwrap());
        let mut health = HealthIndex::new();
        let mut rest = None;
        for _ in 0..60 {
            archive.hear_all_but(&[]);
            let changes = archive.planning_with(&mut health, |view| {
                let repairs = plan_repairs(view, &BUDGET, seed);
                let moves = plan_moves(view, &BUDGET, seed);
                assert_eq!(moves, plan_moves(view, &BUDGET, seed), "equal inputs, equal plan");
                let repaired: BTreeSet<_> = repairs.builds.iter().map(|build| build.bundle).collect();
                let moved = moves.builds.into_iter().filter(|build| !repaired.contains(&build.bundle));
                let mut changes = Vec::new();
                for build in repairs.builds.into_iter().chain(moved) {
                    let coding = build.coding;
                    changes.extend(build.targets.iter().map(|(index, node)| {
                        PlacementChange::Placed { coding, index: *index, node: node_id(node.0) }
                    }));
                    changes.extend(build.retire.iter().map(|(index, node)| {
                        PlacementChange::Retired { coding, index: *index, node: node_id(node.0) }
                    }));
                }
                changes.extend(plan_tidying(view, 100).changes);
                changes
            });
            if changes.is_empty() {
                rest = Some(archive.planning(|view| view.health.breaches(view.now)));
                break;
            }
            archive.run(Command::RecordPlacements(changes));
        }
        prop_assert!(rest.is_some(), "plans go on for ever");
        // What still lies together has no other home: no node is free for the last one of it.
        let nodes = archive.nodes();
        let most = per_network(&nodes);
        for tag in [1, 2] {
            let placements = archive.placements(tag);
            let lying = holders(&nodes, &placements);
            if broken(trusts, most, 12, &lying).is_empty() {
                continue;
            }
            let bundle = archive.bundle(tag);
            let missing = 12 - lying.len();
            let is_whole = archive.planning(|view| plan_repairs(view, &BUDGET, seed).backlog_shards == 0);
            for (index, node) in placements.iter().filter(|_| missing == 0 && is_whole) {
                let others: Vec<_> =
                    lying.iter().copied().filter(|holder| holder.number.0 != *node).collect();
                let fewer = broken(trusts, most, 12, &others);
                if fewer.len() >= broken(trusts, most, 12, &lying).len() {
                    continue;
                }
                for home in nodes.iter().filter(|home| home.state == NodeState::Active) {
                    let holds = bundle.codings[0].placements.iter().any(|(_, at)| *at == home.number);
                    let with: Vec<_> = others.iter().copied().chain([home]).collect();
                    let mends = !holds && broken(trusts, most, 12, &with).is_empty();
                    prop_assert!(!mends, "shard {} of {} could go to {:?}", ShardIndex(*index), bundle_id(tag), home);
                }
            }
        }
    }
}
