//! Evening out how full nodes are.

use std::collections::BTreeSet;

use firn_base::CodingId;
use firn_coordinator_logic::{
    BrakeState, Facts, MovePlan, NodeNumber, NodeRecord, Orders, PlanningBudget, PlanningView, Scan,
    plan_moves, plan_tidying,
};
use firn_wire::{Command, CommandOutcome, NodeState};
use proptest::prelude::*;

use crate::moves::{carry_out, moves};
use crate::support::{Archive, BUDGET, coding_id, entry, reservation_id, trashed};

/// Bytes of the file of each shard of the test bundles, k = 2 and 4.
const FILE: u64 = 69_864;
/// As the leader plans: few at a time, and few on one node.
const FEW: PlanningBudget = PlanningBudget { builds_max: 32, away_builds_max: 6, builds_per_worker_max: 2 };
const ROUNDS_MAX: u8 = 250;

/// An archive of nodes with room for so many shards each, every node its own domain.
fn archive(rooms: &[u64]) -> Archive {
    let mut archive = Archive::of(0);
    for (node, room) in (0..).zip(rooms) {
        join(&mut archive, node, *room);
    }
    archive
}

fn join(archive: &mut Archive, node: u32, room: u64) {
    archive.join_with(node, &format!("domain-{node}"), room * FILE);
    archive.hear(node);
}

/// `nodes` nodes that hold `bundles` bundles of 4 of 12 evenly and are `per_cent` full with them.
fn even(nodes: u32, bundles: u8, per_cent: u64) -> Archive {
    let shards = u64::from(bundles) * 12 / u64::from(nodes);
    let mut archive = archive(&vec![shards * 100 / per_cent; usize::try_from(nodes).unwrap()]);
    for tag in 0..bundles {
        let holders: Vec<_> = (0..12).map(|index| (u32::from(tag) * 12 + index) % nodes).collect();
        archive.publish(tag, (4, 12), &holders);
    }
    assert_eq!(archive.node(0).assigned_bytes, shards * FILE);
    archive
}

/// What a node keeps, without surplus.
fn kept(archive: &Archive, node: &NodeRecord) -> u64 {
    node.assigned_bytes
        - archive.surplus().iter().filter(|(holder, _)| *holder == node.number.0).count() as u64 * FILE
}

/// Each active node's used share and that of all together, in per cent.
fn shares(archive: &Archive) -> (Vec<f64>, f64) {
    #[allow(clippy::cast_precision_loss, reason = "a test's fleet is small")]
    let share = |kept: u64, quota: u64| kept as f64 * 100.0 / quota as f64;
    let nodes: Vec<_> = archive.nodes().into_iter().filter(|node| node.state == NodeState::Active).collect();
    let each = nodes.iter().map(|node| share(kept(archive, node), node.quota_bytes)).collect();
    let all = nodes.iter().fold((0, 0), |sum, node| (sum.0 + kept(archive, node), sum.1 + node.quota_bytes));
    (each, share(all.0, all.1))
}

/// What active nodes hold beyond 5 points above the fleet's share or 90 %, and lack up to 5 points below it, in bytes.
fn differences(archive: &Archive) -> (u64, u64) {
    let nodes: Vec<_> = archive.nodes().into_iter().filter(|node| node.state == NodeState::Active).collect();
    let all = nodes.iter().fold((0, 0), |sum, node| (sum.0 + kept(archive, node), sum.1 + node.quota_bytes));
    let full = |node: &NodeRecord| node.quota_bytes * 9 / 10;
    let at = |node: &NodeRecord| node.quota_bytes * all.0 / all.1;
    let tolerated = |node: &NodeRecord| node.quota_bytes / 20;
    let upper = |node: &NodeRecord| (at(node) + tolerated(node)).min(full(node));
    let lower = |node: &NodeRecord| at(node).min(full(node)).saturating_sub(tolerated(node));
    let excess = nodes.iter().map(|node| kept(archive, node).saturating_sub(upper(node))).sum();
    let deficit = nodes.iter().map(|node| lower(node).saturating_sub(kept(archive, node))).sum();
    (excess, deficit)
}

/// The fewest bytes that leave no difference: each that is moved lessens the excess of one and the deficit of one.
fn fewest_bytes(archive: &Archive) -> u64 {
    let (excess, deficit) = differences(archive);
    excess.max(deficit)
}

fn plan(archive: &Archive, budget: &PlanningBudget, round: u8) -> MovePlan {
    let seed = *blake3::hash(&[round]).as_bytes();
    archive.planning(|view| plan_moves(view, budget, seed))
}

fn tidy(archive: &mut Archive) {
    let tidying = archive.planning(|view| plan_tidying(view, 1000));
    archive.run(Command::RecordPlacements(tidying.changes));
    archive.run(Command::RecordPlacements(trashed(&tidying.trash)));
}

/// Plans and carries out until nothing is planned any more; the bytes that were moved.
fn settle(archive: &mut Archive, tidies: bool) -> u64 {
    let mut moved = 0;
    for round in 0..ROUNDS_MAX {
        let plan = plan(archive, &FEW, round);
        if plan.builds.is_empty() {
            assert_eq!(plan.backlog_shards, 0);
            return moved;
        }
        assert!(plan.backlog_shards >= plan.builds.len() as u64);
        moved += plan.builds.iter().map(|build| build.file_bytes).sum::<u64>();
        carry_out(archive, &plan);
        if tidies {
            tidy(archive);
        }
    }
    panic!("moves never end");
}

fn assert_even(archive: &Archive) {
    let (each, all) = shares(archive);
    assert!(each.iter().all(|share| (share - all).abs() <= 5.0 && *share <= 90.0), "{each:?} beside {all}");
}

#[test]
fn nodes_that_join_empty_are_filled_with_hardly_more_than_the_fewest_bytes() {
    let mut archive = even(16, 240, 50);
    assert_eq!(moves(&archive), MovePlan::default());
    (16..20).for_each(|node| join(&mut archive, node, 360));
    let fewest = fewest_bytes(&archive);
    assert_eq!(fewest, 4 * 360 * 35 / 100 * FILE, "four nodes from nothing to 35 % of their quota");
    let moved = settle(&mut archive, true);
    assert_even(&archive);
    assert!(moved >= fewest && moved * 10 <= fewest * 12, "{moved} bytes instead of {fewest}");
    assert_eq!(settle(&mut archive, true), 0);
}

#[test]
fn the_backlog_is_what_is_then_moved() {
    let mut archive = even(16, 240, 50);
    (16..20).for_each(|node| join(&mut archive, node, 360));
    let backlog = plan(&archive, &FEW, 0).backlog_shards;
    let idle = PlanningBudget { builds_max: 0, ..FEW };
    assert_eq!(plan(&archive, &idle, 0).backlog_shards, backlog);
    assert_eq!(moves(&archive).backlog_shards, backlog);
    assert_eq!(backlog * FILE, settle(&mut archive, true));
}

#[test]
fn shards_on_their_way_and_copies_that_wait_for_trash_are_not_moved_again() {
    let mut archive = even(16, 240, 50);
    (16..20).for_each(|node| join(&mut archive, node, 360));
    let expected = fewest_bytes(&archive);
    let deadline = archive.now.after(std::time::Duration::from_secs(600));
    let first = moves(&archive);
    for (id, build) in (0..).zip(first.builds.clone()) {
        archive.orders.begin_build(reservation_id(id), build, archive.now, deadline);
    }
    let second = moves(&archive);
    assert_eq!(
        (second.builds.len(), second.backlog_shards),
        (0, first.backlog_shards),
        "one of a bundle at a time"
    );
    assert_eq!(first.backlog_shards * FILE, expected);
    archive.orders = Orders::new();
    // Nothing is trashed while a fifth of the quota is free, and here nobody tidies at all.
    let moved = settle(&mut archive, false);
    assert!(moved * 10 <= expected * 12, "{moved} bytes instead of {expected}");
    assert_even(&archive);
}

#[test]
fn a_node_at_ninety_five_per_cent_is_relieved_to_ninety() {
    let mut archive = even(16, 240, 88);
    assert_eq!(moves(&archive).builds, []);
    // Its owner lowers the quota: 180 shards are 95 % of it.
    join(&mut archive, 3, 189);
    let plan = moves(&archive);
    assert_eq!((plan.builds.len(), plan.backlog_shards), (10, 10));
    assert!(plan.builds.iter().all(|build| build.retire[0].1 == NodeNumber(3)));
    settle(&mut archive, true);
    assert_eq!(archive.node(3).assigned_bytes, 170 * FILE);
    assert_even(&archive);
}

#[test]
fn a_node_whose_quota_fell_below_what_it_holds_is_relieved_of_the_excess() {
    let mut archive = even(16, 240, 50);
    join(&mut archive, 3, 100);
    let (_, all) = shares(&archive);
    assert!(shares(&archive).0[3] > 179.0);
    settle(&mut archive, true);
    assert!(shares(&archive).0[3] <= all + 5.0);
    assert_even(&archive);
}

#[test]
fn more_surplus_than_a_node_deletes_in_a_day_holds_nothing_up() {
    let mut archive = even(16, 240, 60);
    (16..20).for_each(|node| join(&mut archive, node, 300));
    join(&mut archive, 3, 190);
    (0..20).for_each(|node| archive.hear_room(node, 0, 0));
    // Two thirds of what the node may keep; it deletes nothing of it for now.
    settle(&mut archive, true);
    assert_even(&archive);
    let on_3 = |archive: &Archive| archive.surplus().iter().filter(|(holder, _)| *holder == 3).count();
    assert!(on_3(&archive) > 18 * 3, "{} copies are more than three times a tenth", on_3(&archive));
    // Its copies are in the account, so that it is offered nothing that it has no room for.
    assert_eq!(archive.node(3).assigned_bytes, 180 * FILE);
    assert!(archive.nodes().iter().all(|node| node.assigned_bytes <= node.quota_bytes));
    let mut days = 0;
    while archive.planning(|view| view.fleet.node(NodeNumber(3)).unwrap().free_bytes) < 190 / 5 * FILE {
        let held = archive.node(3).assigned_bytes;
        archive.hear_room(3, held / 10, held / 50);
        tidy(&mut archive);
        assert!(archive.node(3).assigned_bytes >= held - held / 10);
        archive.hear_room(3, 0, 0);
        assert_eq!(settle(&mut archive, true), 0);
        days += 1;
        assert!(days < 10);
    }
}

#[test]
fn nodes_that_are_nearly_empty_are_all_alike() {
    let mut archive = archive(&[20_000; 8]);
    (0..40).for_each(|tag| archive.publish(tag, (2, 4), &[0, 1, 2, 3]));
    assert_eq!(moves(&archive), MovePlan::default());
}

#[test]
fn only_active_nodes_that_are_online_take_part() {
    let mut archive = even(16, 240, 50);
    (16..20).for_each(|node| join(&mut archive, node, 360));
    archive.set_state(16, NodeState::Suspended);
    archive.set_state(17, NodeState::Draining);
    archive.wait(11_000);
    archive.hear_all_but(&[18]);
    let targets: BTreeSet<_> = moves(&archive).builds.iter().map(|build| build.targets[0].1).collect();
    assert_eq!(targets, BTreeSet::from([NodeNumber(19)]));
    archive.wait(11_000);
    archive.hear_all_but(&[19]);
    archive.hear(18);
    archive.set_state(18, NodeState::Suspended);
    assert_eq!(moves(&archive), MovePlan { drains: moves(&archive).drains, ..MovePlan::default() });
}

#[test]
fn the_brake_holds_moves_back_and_hides_no_backlog() {
    let mut archive = even(16, 240, 50);
    join(&mut archive, 16, 360);
    let free = moves(&archive);
    let braked = archive.planning(|view| {
        let view = PlanningView { brake: BrakeState::FleetVanished { until: archive.now }, ..*view };
        plan_moves(&view, &BUDGET, [1; 32])
    });
    assert_eq!((braked.builds.len(), braked.backlog_shards), (0, free.backlog_shards));
}

#[test]
fn drains_go_first_and_a_bundle_moves_one_shard_at_a_time() {
    let mut archive = even(16, 240, 50);
    (16..20).for_each(|node| join(&mut archive, node, 360));
    archive.set_state(0, NodeState::Draining);
    let few = plan(&archive, &PlanningBudget { builds_max: 100, ..BUDGET }, 1);
    assert!(few.builds.iter().all(|build| build.retire[0].1 == NodeNumber(0)));
    let all = plan(&archive, &BUDGET, 1);
    let bundles: BTreeSet<_> = all.builds.iter().map(|build| build.bundle).collect();
    assert!(all.builds.len() > 180 && bundles.len() == all.builds.len());
}

#[test]
fn equal_facts_and_seeds_give_equal_plans() {
    let mut archive = even(16, 240, 50);
    (16..20).for_each(|node| join(&mut archive, node, 360));
    assert_eq!(plan(&archive, &FEW, 7), plan(&archive, &FEW, 7));
    assert_ne!(plan(&archive, &FEW, 7), plan(&archive, &FEW, 8));
}

#[test]
fn what_caps_keep_on_a_full_node_is_no_backlog() {
    // Four domains hold every bundle: the large node has all it may have.
    let mut archive = archive(&[100, 100, 100, 1000]);
    (0..60).for_each(|tag| archive.publish(tag, (2, 4), &[0, 1, 2, 3]));
    assert_eq!(moves(&archive), MovePlan::default());
    // A second node in the same place may take the place of the first, but none of the other two.
    archive.join_with(4, "domain-0", 100 * FILE);
    archive.hear(4);
    let plan = moves(&archive);
    assert!(!plan.builds.is_empty());
    assert!(plan.builds.iter().all(|build| build.retire[0].1 == NodeNumber(0)));
    settle(&mut archive, true);
    let shards: Vec<_> = archive.nodes().iter().map(|node| node.shards).collect();
    assert_eq!((shards[0] + shards[4], shards[1], shards[2], shards[3]), (60, 60, 60, 60));
}

/// A fleet of nodes of all sizes in fewer domains, bundles anywhere on it, some with a shard too few.
#[derive(Debug, Clone)]
struct Anywhere {
    nodes: Vec<(u64, u32, NodeState)>,
    bundles: Vec<(Vec<u32>, bool)>,
}

fn anywhere() -> impl Strategy<Value = Anywhere> {
    let state = prop_oneof![
        8 => Just(NodeState::Active),
        1 => Just(NodeState::Suspended),
        1 => Just(NodeState::Draining),
    ];
    (5_u32..14).prop_flat_map(move |nodes| {
        let node = (30_u64..200, 0..nodes * 2, state.clone());
        let order = Just((0..nodes).collect::<Vec<_>>()).prop_shuffle();
        let bundles = prop::collection::vec((order, prop::bool::weighted(0.2)), 1..60);
        let nodes = prop::collection::vec(node, usize::try_from(nodes).unwrap());
        (nodes, bundles).prop_map(|(nodes, bundles)| Anywhere { nodes, bundles })
    })
}

/// The archive, and the bundles that lack a shard.
fn build(anywhere: &Anywhere) -> (Archive, BTreeSet<CodingId>) {
    let mut archive = Archive::of(0);
    // Twice as many names as nodes: a few domains have several nodes.
    let domain = |node: u32| anywhere.nodes[usize::try_from(node).unwrap()].1;
    for (node, (room, domain, _)) in (0..).zip(&anywhere.nodes) {
        archive.join_with(node, &format!("domain-{domain}"), room * FILE);
        archive.hear(node);
    }
    let mut short = BTreeSet::new();
    for (tag, (order, lacks)) in (0..).zip(&anywhere.bundles) {
        let mut taken = BTreeSet::new();
        let apart = order.iter().copied().filter(|node| taken.insert(domain(*node)));
        let holders: Vec<_> = apart.take(4 - usize::from(*lacks)).collect();
        if holders.len() < 3 || archive.reserve(tag, (2, 4), &holders) != CommandOutcome::Applied {
            continue;
        }
        archive.commit(tag, &holders, vec![entry(tag, &[])]);
        assert_eq!(archive.bundle(tag).codings[0].file_bytes, FILE);
        if holders.len() < 4 {
            short.insert(coding_id(tag, 2));
        }
    }
    for (node, (_, _, state)) in (0..).zip(&anywhere.nodes) {
        archive.set_state(node, *state);
    }
    // No upload is waited for any more.
    archive.wait(3_600_001);
    let Ok(open) = archive.state.reservations_after(None, usize::MAX);
    archive.run(Command::ExpireReservations(open.iter().map(|reservation| reservation.id).collect()));
    archive.hear_all_but(&[]);
    (archive, short)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn moves_break_no_cap_spare_what_needs_repair_and_end(anywhere in anywhere()) {
        let (mut archive, short) = build(&anywhere);
        let nodes = archive.nodes();
        let record = |number: NodeNumber| nodes.iter().find(|node| node.number == number).unwrap();
        let drains = nodes.iter().any(|node| node.state == NodeState::Draining);
        let (excess, deficit) = differences(&archive);
        let mut moved = 0;
        for round in 0..=ROUNDS_MAX {
            prop_assert!(round < ROUNDS_MAX, "moves never end");
            let plan = plan(&archive, &FEW, round);
            for build in &plan.builds {
                prop_assert!(!short.contains(&build.coding), "a bundle that needs repair was moved");
                let Ok(Some(bundle)) = archive.state.bundle(build.bundle) else { panic!("a bundle of a plan") };
                let (index, target) = build.targets[0];
                prop_assert_eq!(record(target).state, NodeState::Active);
                prop_assert_eq!(build.retire.len(), 1);
                prop_assert_eq!(build.retire[0].0, index);
                for (_, holder) in bundle.codings[0].placements.iter().filter(|copy| **copy != build.retire[0]) {
                    prop_assert_ne!(&record(*holder).failure_domain, &record(target).failure_domain);
                }
            }
            if plan.builds.is_empty() {
                prop_assert_eq!(plan.backlog_shards, plan.drains.values().map(|drain| drain.to_move).sum::<u64>());
                break;
            }
            let before = differences(&archive);
            moved += plan.builds.len() as u64 * FILE;
            carry_out(&mut archive, &plan);
            tidy(&mut archive);
            let (excess, deficit) = differences(&archive);
            prop_assert!(drains || excess + deficit < before.0 + before.1, "a move evened nothing out");
            for node in archive.nodes() {
                prop_assert!(node.assigned_bytes <= node.quota_bytes);
            }
        }
        // Where caps keep too full and too empty nodes apart, each takes moves of its own; one shard more at each end.
        prop_assert!(drains || moved <= excess + deficit + nodes.len() as u64 * FILE);
    }
}
