//! What stays free for repairs, and when publishing stops.

use std::collections::{BTreeMap, BTreeSet};

use firn_base::{Scheme, TokenId};
use firn_coordinator_logic::{
    HealthClass, NodeRecord, PlacementRequest, RepairPlan, Reserve, classify, default_policy, plan_placement,
    plan_repairs,
};
use firn_wire::{
    Command, DomainRule, LedgerAct, NodeState, PlacementChange, Policy, ReserveLevel, ReserveRoom,
};
use proptest::prelude::*;

use crate::moves::moves;
use crate::support::{Archive, BUDGET, QUOTA_BYTES, coding_id, node_id, place, reservation_id};

const TWELVE: [u32; 12] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];

/// Bundles have one byte for a name in these tests.
const BUNDLES_MAX: u8 = 250;

fn repairs(archive: &Archive) -> RepairPlan {
    archive.planning(|view| plan_repairs(view, &BUDGET, [1; 32]))
}

fn reserve(archive: &Archive) -> Reserve {
    let awaited = repairs(archive).awaited_bytes + moves(archive).awaited_bytes;
    archive.planning(|view| Reserve::measure(view, awaited))
}

fn room(archive: &Archive) -> ReserveRoom {
    reserve(archive).room()
}

/// Bytes of the file of each shard of the bundles in these tests.
fn file_bytes(k: u8) -> u64 {
    let mut archive = Archive::of(u32::from(k));
    let nodes: Vec<u32> = (0..u32::from(k)).collect();
    archive.publish(1, (k, k), &nodes);
    archive.bundle(1).codings[0].file_bytes
}

/// Node after node, each with its domain and quota.
fn fleet(nodes: &[(u32, u64)]) -> Archive {
    let mut archive = Archive::of(0);
    for (node, (domain, quota_bytes)) in (0..).zip(nodes) {
        join(&mut archive, node, (&format!("domain-{domain}"), &format!("operator-{node}")), *quota_bytes);
    }
    archive
}

fn join(archive: &mut Archive, node: u32, (domain, operator): (&str, &str), quota_bytes: u64) {
    let mut token = [0; 32];
    token[..4].copy_from_slice(&node.to_le_bytes());
    archive.run(Command::JoinNode {
        node: node_id(node),
        operator: operator.into(),
        failure_domain: domain.into(),
        vouched: false,
        seen_at: Some(place(node, None)),
        address: format!("[::1]:{node}"),
        quota_bytes,
        token: Some(TokenId::from_bytes(token)),
    });
    archive.hear(node);
}

/// The scheme for the fleet's width, and bytes of each file of a bundle.
fn scheme_of(archive: &Archive) -> Option<(Scheme, u64)> {
    let scheme = Scheme::for_width(archive.planning(|view| view.fleet.width()))?;
    Some((scheme, file_bytes(scheme.k())))
}

/// Publishes one bundle as the coordinator would; not if it refuses it.
fn publish_one(archive: &mut Archive, tag: u8, (scheme, file_bytes): (Scheme, u64)) -> Result<(), String> {
    reserve(archive).check(scheme, file_bytes).map_err(|error| error.to_string())?;
    let avoid = BTreeSet::new();
    let request = PlacementRequest { scheme, file_bytes, avoid: &avoid };
    let chosen = archive.planning(|view| plan_placement(view.fleet, &request, [tag; 32]));
    let nodes = archive.nodes();
    let number = |id| nodes.iter().find(|node| node.id == id).unwrap().number.0;
    let chosen = chosen.map_err(|error| error.to_string())?;
    let chosen: Vec<u32> = chosen.into_iter().map(|(_, id)| number(id)).collect();
    archive.publish(tag, (scheme.k(), scheme.n()), &chosen);
    Ok(())
}

/// Publishes until it is refused, and gives the sentence.
fn fill(archive: &mut Archive) -> String {
    let coded = scheme_of(archive).unwrap();
    (1..=BUNDLES_MAX).find_map(|tag| publish_one(archive, tag, coded).err()).expect("the quotas are small")
}

/// What each domain holds and has free.
fn domains(archive: &Archive) -> Vec<(u64, u64)> {
    let mut domains: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for node in archive.nodes() {
        let sums = domains.entry(node.failure_domain.clone()).or_default();
        *sums = (sums.0 + node.assigned_bytes, sums.1 + node.free_bytes());
    }
    domains.into_values().collect()
}

/// Whether whatever may vanish finds room: compared with every choice of domains, not with the largest.
fn assert_repairable(archive: &Archive, scheme: Scheme) {
    let domains = domains(archive);
    let free: u64 = domains.iter().map(|(_, free)| free).sum();
    let capacity: u64 = archive.nodes().iter().map(|node| node.quota_bytes).sum();
    assert!(free * 10 >= capacity, "{free} of {capacity} are free");
    let vanishing = usize::from(scheme.n() - scheme.k()).min(2);
    let survivors_have_homes = domains.len() >= usize::from(scheme.n()) + vanishing;
    for one in 0..domains.len() {
        for other in 0..domains.len() {
            let gone = match vanishing {
                0 => continue,
                1 if one == other => vec![one],
                2 if one < other => vec![one, other],
                _ => continue,
            };
            let held: u64 = gone.iter().map(|at| domains[*at].0).sum();
            let lost_room: u64 = gone.iter().map(|at| domains[*at].1).sum();
            let room = if survivors_have_homes { free - lost_room } else { free };
            assert!(room >= held, "domains {gone:?} hold {held}, and there is room for {room}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn while_bundles_are_taken_the_largest_domains_can_be_made_anew(
        nodes in prop::collection::vec((0_u32..20, 0_u64..24), 1..30)
    ) {
        let unit = file_bytes(4);
        let nodes: Vec<(u32, u64)> = nodes.iter().map(|(domain, files)| (*domain, files * unit)).collect();
        let mut archive = fleet(&nodes);
        let coded = scheme_of(&archive).unwrap();
        for tag in 1..=BUNDLES_MAX {
            if publish_one(&mut archive, tag, coded).is_err() {
                break;
            }
            assert_repairable(&archive, coded.0);
        }
    }
}

#[test]
fn of_a_fleet_that_was_filled_two_domains_vanish_and_all_is_made_anew() {
    let quota = 60 * file_bytes(4);
    let mut archive = fleet(&(0..22).map(|node| (node, quota)).collect::<Vec<_>>());
    let sentence = fill(&mut archive);
    assert!(sentence.contains("in case its two largest failure domains vanish"), "{sentence}");
    let mut nodes = archive.nodes();
    nodes.sort_by_key(|node| std::cmp::Reverse(node.assigned_bytes));
    let gone: Vec<u32> = nodes[..2].iter().map(|node| node.number.0).collect();
    let held: u64 = nodes[..2].iter().map(|node| node.assigned_bytes).sum();
    archive.wait(73 * 3_600_000);
    archive.hear_all_but(&gone);
    assert_eq!(room(&archive).awaited.0, held);
    assert_eq!(room(&archive).level, ReserveLevel::Exhausted, "what is missing needs the room that was kept");
    for _ in 0..100 {
        let plan = repairs(&archive);
        for build in &plan.builds {
            let coding = build.coding;
            let placed = (build.targets.iter()).map(|(index, node)| PlacementChange::Placed {
                coding,
                index: *index,
                node: node_id(node.0),
            });
            let retired = (build.retire.iter()).map(|(index, node)| PlacementChange::Retired {
                coding,
                index: *index,
                node: node_id(node.0),
            });
            archive.run(Command::RecordPlacements(placed.chain(retired).collect()));
        }
        if plan.builds.is_empty() {
            break;
        }
    }
    let all_full = archive.planning(|view| {
        view.catalogue.bundles().all(|bundle| classify(bundle, view.fleet).class == HealthClass::Full)
    });
    assert!(all_full, "{} bytes found no room", room(&archive).awaited);
    assert_eq!(room(&archive).awaited.0, 0);
}

#[test]
fn publishing_stops_before_nodes_are_full_and_goes_on_when_quota_is_added() {
    let quota = 20 * file_bytes(4);
    let mut archive = fleet(&(0..16).map(|node| (node, quota)).collect::<Vec<_>>());
    let sentence = fill(&mut archive);
    assert!(
        sentence.contains(" of space free, keeps ") && sentence.contains(": add at least "),
        "{sentence}"
    );
    assert_ne!(room(&archive).level, ReserveLevel::Enough);
    assert!(domains(&archive).iter().any(|(_, free)| *free > 0));
    let coded = scheme_of(&archive).unwrap();
    join(&mut archive, 16, ("domain-16", "o"), quota);
    assert_eq!(publish_one(&mut archive, BUNDLES_MAX, coded), Ok(()));
}

#[test]
fn as_many_domains_may_vanish_as_leave_enough_to_make_their_shards_anew() {
    for (nodes, domains) in [(1, 0), (2, 1), (3, 1), (4, 2), (6, 2), (16, 2)] {
        assert_eq!(room(&Archive::of(nodes)).domains, domains, "{nodes} domains");
    }
    // The stop, as a share of what three equal nodes can hold: a third of what is stored has to fit once more.
    let quota = 40 * file_bytes(2);
    let mut archive = fleet(&[(0, quota), (1, quota), (2, quota)]);
    fill(&mut archive);
    let held: u64 = domains(&archive).iter().map(|(held, _)| held).sum();
    assert_eq!(held * 100 / (3 * quota), 75);
}

#[test]
fn nodes_of_one_domain_vanish_together() {
    let mut archive = fleet(&(0..16).map(|node| (node / 2, QUOTA_BYTES)).collect::<Vec<_>>());
    archive.publish(1, (4, 8), &[0, 2, 4, 6, 8, 10, 12, 14]);
    archive.publish(2, (4, 8), &[1, 3, 5, 7, 9, 11, 13, 15]);
    let groups = archive.planning(|view| view.fleet.domains().iter().map(Vec::len).collect::<Vec<_>>());
    assert_eq!(groups, [2; 8]);
}

#[test]
fn in_a_public_archive_an_operator_and_a_domain_vanish_together_also_by_way_of_each_other() {
    let mut archive = Archive::of(0);
    let policy = Policy { domains: DomainRule::Public, ..default_policy() };
    archive.run(Command::Govern(LedgerAct::SetPolicy(policy)));
    for (node, of) in (0..).zip([("a", "ada"), ("b", "bob"), ("b", "ada"), ("c", "eve"), ("d", "bob")]) {
        join(&mut archive, node, of, QUOTA_BYTES);
    }
    let groups = archive.planning(|view| {
        let numbers = |nodes: &Vec<_>| {
            nodes.iter().map(|node: &&firn_coordinator_logic::FleetNode| node.number.0).collect::<Vec<_>>()
        };
        view.fleet.domains().iter().map(numbers).collect::<Vec<_>>()
    });
    assert_eq!(groups, [vec![0, 1, 2, 4], vec![3]]);
}

fn sixteen_with_a_bundle() -> Archive {
    let mut archive = Archive::of(16);
    archive.publish(1, (4, 12), &TWELVE);
    archive
}

#[test]
fn a_suspended_nodes_quota_is_no_capacity_but_what_it_holds_can_vanish() {
    let mut archive = sixteen_with_a_bundle();
    archive.publish(2, (4, 12), &[0, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]);
    let before = room(&archive);
    archive.set_state(0, NodeState::Suspended);
    let after = room(&archive);
    assert_eq!(before.capacity.0 - after.capacity.0, QUOTA_BYTES);
    assert_eq!(before.free.0 - after.free.0, QUOTA_BYTES - 2 * file_bytes(4));
    assert_eq!((after.awaited.0, after.level), (0, ReserveLevel::Enough));
}

#[test]
fn what_a_draining_node_holds_needs_room_elsewhere_once() {
    let mut archive = sixteen_with_a_bundle();
    archive.set_state(3, NodeState::Draining);
    assert_eq!(room(&archive).awaited.0, file_bytes(4));
    let deadline = archive.now.after(std::time::Duration::from_secs(60));
    let build = moves(&archive).builds.remove(0);
    archive.orders.begin_build(reservation_id(9), build, archive.now, deadline);
    let on_its_way = room(&archive);
    assert_eq!(on_its_way.awaited.0, 0, "its room is set aside");
    assert_eq!(on_its_way.free.0, 15 * QUOTA_BYTES - 12 * file_bytes(4));
}

#[test]
fn what_no_domain_may_take_awaits_no_room() {
    let mut archive = Archive::of(12);
    archive.publish(1, (4, 12), &TWELVE);
    archive.set_state(3, NodeState::Draining);
    assert_eq!(room(&archive).awaited.0, 0);
    archive.set_state(3, NodeState::Lost);
    assert_eq!(room(&archive).awaited.0, 0);
}

#[test]
fn what_lost_nodes_held_needs_room_until_it_is_made_anew() {
    let mut archive = sixteen_with_a_bundle();
    archive.set_state(3, NodeState::Lost);
    assert_eq!((room(&archive).awaited.0, room(&archive).capacity.0), (file_bytes(4), 15 * QUOTA_BYTES));
    let deadline = archive.now.after(std::time::Duration::from_secs(60));
    let build = repairs(&archive).builds.remove(0);
    archive.orders.begin_build(reservation_id(9), build, archive.now, deadline);
    assert_eq!(room(&archive).awaited.0, 0, "it is on its way");
}

#[test]
fn a_node_that_is_away_for_a_while_still_has_its_room() {
    let mut archive = sixteen_with_a_bundle();
    let before = room(&archive);
    archive.wait(60_000);
    archive.hear_all_but(&[15]);
    assert_eq!(room(&archive), before);
    archive.wait(73 * 3_600_000);
    archive.hear_all_but(&[15]);
    assert_eq!(room(&archive).capacity.0, 15 * QUOTA_BYTES);
}

#[test]
fn surplus_is_room_for_it_goes_when_room_is_needed() {
    let mut archive = sixteen_with_a_bundle();
    let before = room(&archive);
    let (coding, index) = (coding_id(1, 4), firn_base::ShardIndex(0));
    archive.run(Command::RecordPlacements(vec![
        PlacementChange::Placed { coding, index, node: node_id(12) },
        PlacementChange::Retired { coding, index, node: node_id(0) },
    ]));
    assert_eq!(archive.surplus(), [(0, 0)]);
    let by_account: u64 = archive.nodes().iter().map(NodeRecord::free_bytes).sum();
    assert_eq!((room(&archive).free, by_account), (before.free, before.free.0 - file_bytes(4)));
}
