//! What repair takes of the nodes' lines.

use std::collections::BTreeMap;

use firn_base::{BitRate, BundleNumber, ReservationId, ShardIndex};
use firn_coordinator_logic::{
    BuildCause, BuildPlan, Facts, HealthClass, HealthIndex, NodeNumber, classify, plan_moves, plan_repairs,
};
use firn_wire::{NodeRest, NodeState, NodeStatus, REPAIR_PER_CENT};

use crate::support::{Archive, BUDGET, status};

const SHARD_BYTES: u64 = 64 << 10;
const RATE: u64 = 20_000;

/// Bundles that all lost a shard, on nodes with slow lines.
fn archive(bundles: u8, slow: impl Iterator<Item = u32>) -> Archive {
    let mut archive = Archive::of(30);
    for tag in 0..bundles {
        let first = u32::from(tag) % 17;
        archive.publish(tag, (4, 12), &(0..1).chain(first + 1..first + 12).collect::<Vec<_>>());
    }
    for node in slow {
        hear_slow(&mut archive, node);
    }
    archive
}

fn hear_slow(archive: &mut Archive, node: u32) {
    let max_upload = Some(BitRate { bytes_per_second: RATE });
    archive.watch.heard(archive.number(node), NodeStatus { max_upload, ..status(1) }, archive.now);
}

/// What each node sends for a build that reads the first k sources, or carries one shard over.
fn sent(build: &BuildPlan) -> Vec<(NodeNumber, u64)> {
    let is_move = build.sources.iter().any(|(index, _)| build.targets.iter().any(|(made, _)| made == index));
    let read = if is_move { 1 } else { 4 };
    let mut sent: Vec<_> = build.sources[..read].iter().map(|(_, node)| (*node, SHARD_BYTES)).collect();
    let away = build.targets.iter().filter(|(_, node)| *node != build.worker).count() as u64;
    sent.push((build.worker, away * SHARD_BYTES));
    sent
}

#[test]
fn repair_takes_no_more_of_a_line_than_its_part_however_much_there_is_to_do() {
    let mut archive = archive(200, 0..30);
    archive.set_state(0, NodeState::Lost);
    let mut totals: BTreeMap<NodeNumber, u64> = BTreeMap::new();
    let (minutes, mut builds, mut order) = (30, 0, 0_u32);
    for _ in 0..minutes {
        for build in archive.planning(|view| plan_repairs(view, &BUDGET, [1; 32]).builds) {
            for (node, bytes) in sent(&build) {
                *totals.entry(node).or_default() += bytes;
            }
            order += 1;
            let mut id = [0; 32];
            id[..4].copy_from_slice(&order.to_le_bytes());
            let id = ReservationId::from_bytes(id);
            archive.orders.begin_build(
                id,
                build,
                archive.now,
                archive.now.after(std::time::Duration::from_secs(9)),
            );
            builds += 1;
        }
        // They all fail, so that there is always as much to do.
        archive.wait(60_000);
        archive.orders.expire(archive.now);
        (1..30).for_each(|node| hear_slow(&mut archive, node));
    }
    let most = RATE * REPAIR_PER_CENT / 100 * (minutes + 1) * 60 + 2 * SHARD_BYTES;
    assert!(totals.values().all(|bytes| *bytes <= most), "{most}: {totals:?}");
    // Of all 29 lines together, at least half of what repair may take was used.
    assert!(totals.values().sum::<u64>() > most * 29 / 2, "{builds} builds, {totals:?}");
}

#[test]
fn a_node_that_rests_is_neither_read_nor_given_anything_and_what_it_holds_counts() {
    let mut archive = archive(60, std::iter::empty());
    let durable =
        |archive: &Archive| archive.planning(|view| plan_repairs(view, &BUDGET, [1; 32]).builds.len());
    for node in 1..10 {
        let rest = Some(NodeRest::OutsideHours);
        archive.watch.heard(archive.number(node), NodeStatus { rest, ..status(1) }, archive.now);
    }
    // Nothing is missing.
    assert_eq!(durable(&archive), 0);
    archive.set_state(0, NodeState::Lost);
    let builds = archive.planning(|view| plan_repairs(view, &BUDGET, [1; 32]).builds);
    let rests = |number: NodeNumber| (1..10).any(|node| archive.number(node) == number);
    assert!(builds.len() > 20, "{}", builds.len());
    for build in &builds {
        assert!(!rests(build.worker) && !build.sources.iter().any(|(_, node)| rests(*node)), "{build:?}");
        assert!(!build.targets.iter().any(|(_, node)| rests(*node)), "{build:?}");
    }
}

#[test]
fn nodes_without_a_bound_are_read_where_the_others_have_enough_to_do() {
    let mut archive = archive(60, 0..15);
    archive.set_state(0, NodeState::Lost);
    let builds = archive.planning(|view| plan_repairs(view, &BUDGET, [1; 32]).builds);
    let is_fast = |(_, node): &(ShardIndex, NodeNumber)| node.0 >= 15;
    let with_fast: Vec<_> = builds
        .iter()
        .filter(|build| {
            let Ok(Some(bundle)) = archive.state.bundle(build.bundle) else { return false };
            bundle.codings[0].placements.iter().filter(|copy| is_fast(copy)).count() >= 4
        })
        .collect();
    assert!(with_fast.len() > 20, "{}", with_fast.len());
    assert!(with_fast.iter().all(|build| build.sources[..4].iter().all(is_fast)));
    let mut all_slow = self::archive(60, 0..30);
    all_slow.set_state(0, NodeState::Lost);
    let few = all_slow.planning(|view| plan_repairs(view, &BUDGET, [1; 32]).builds);
    assert!(!few.is_empty() && few.len() < builds.len(), "{} {}", few.len(), builds.len());
}

#[test]
fn slow_lines_are_read_and_work_only_where_faster_ones_are_too_few() {
    // A third of all nodes is slow: nobody waits for them while others are there.
    let mut archive = Archive::of(30);
    (0..6).for_each(|tag| archive.publish(tag, (4, 12), &(0..12).collect::<Vec<_>>()));
    let is_slow = |node: NodeNumber| node.0.is_multiple_of(3);
    for node in 3..30 {
        let bytes_per_second = if is_slow(NodeNumber(node)) { RATE } else { RATE * 10 };
        let max_upload = Some(BitRate { bytes_per_second });
        archive.watch.heard(archive.number(node), NodeStatus { max_upload, ..status(1) }, archive.now);
    }
    for node in 0..3 {
        archive.set_state(node, NodeState::Lost);
    }
    let builds = archive.planning(|view| plan_repairs(view, &BUDGET, [1; 32]).builds);
    assert_eq!(builds.len(), 6);
    for build in &builds {
        assert!(build.sources[..4].iter().all(|(_, node)| !is_slow(*node)), "{build:?}");
        let targets: Vec<_> = build.targets.iter().map(|(_, node)| *node).collect();
        assert!(!is_slow(build.worker) || targets.iter().all(|node| is_slow(*node)), "{build:?}");
    }
}

#[test]
fn a_node_that_leaves_gives_its_whole_line() {
    let moves = |state| {
        let mut archive = archive(200, 0..30);
        archive.set_state(0, state);
        archive.planning(|view| plan_moves(view, &BUDGET, [1; 32]).builds.len())
    };
    let drained = moves(NodeState::Draining);
    // A minute ahead at 20 kB/s, and the build that begins in it.
    assert_eq!(drained as u64, RATE * 60 / SHARD_BYTES + 1);
}

#[test]
fn a_node_that_leaves_is_relieved_once_it_works_again() {
    let mut archive = archive(20, 0..30);
    archive.set_state(0, NodeState::Draining);
    let mut moves = |rest| {
        archive.watch.heard(archive.number(0), NodeStatus { rest, ..status(1) }, archive.now);
        archive.planning(|view| plan_moves(view, &BUDGET, [1; 32]).builds.len())
    };
    assert_eq!(moves(Some(NodeRest::Paused)), 0);
    assert_eq!(moves(None), 20);
}

/// All nodes work but for the first `resting`.
fn hear_resting(archive: &mut Archive, resting: u32, rest: NodeRest) {
    archive.hear_all_but(&[]);
    for node in 0..resting {
        archive.watch.heard(archive.number(node), NodeStatus { rest: Some(rest), ..status(1) }, archive.now);
    }
}

fn one_bundle() -> Archive {
    let mut archive = Archive::of(24);
    archive.publish(1, (4, 12), &(0..12).collect::<Vec<_>>());
    archive
}

#[test]
fn what_nobody_can_read_now_is_durable_but_not_online() {
    let mut archive = one_bundle();
    for (rest, online) in [(NodeRest::Paused, 3), (NodeRest::TrafficSpent, 3), (NodeRest::OutsideHours, 12)] {
        hear_resting(&mut archive, 9, rest);
        archive.planning(|view| {
            let health = classify(view.catalogue.bundle(BundleNumber(0)).unwrap(), view.fleet);
            assert_eq!((health.durable, health.online, health.class), (12, online, HealthClass::Full));
            assert_eq!(health.unreadable, online < 4);
            assert_eq!(plan_repairs(view, &BUDGET, [1; 32]).builds, []);
            assert_eq!(plan_repairs(view, &BUDGET, [1; 32]).health.unreadable, u64::from(online < 4));
        });
        for node in 0..9 {
            let reads = archive.watch.serves_readers(archive.number(node), archive.now);
            assert_eq!(reads, rest == NodeRest::OutsideHours);
        }
    }
}

#[test]
fn two_weeks_of_pauses_cost_nothing_but_for_bundles_that_few_others_hold() {
    let after_two_weeks = |resting| {
        let (mut archive, mut health) = (one_bundle(), HealthIndex::new());
        let mut builds = Vec::new();
        for _ in 0..14 * 24 {
            archive.wait(3_600_000);
            hear_resting(&mut archive, resting, NodeRest::Paused);
            builds = archive.planning_with(&mut health, |view| plan_repairs(view, &BUDGET, [1; 32]).builds);
            if !builds.is_empty() {
                break;
            }
        }
        builds
    };
    assert_eq!(after_two_weeks(4), []);
    let builds = after_two_weeks(7);
    assert!(!builds.is_empty());
    for build in builds {
        assert_eq!(build.cause, BuildCause::Away);
        assert!(build.sources.iter().all(|(_, node)| node.0 >= 7), "{build:?}");
    }
}

#[test]
fn only_what_is_urgent_is_made_of_what_nodes_outside_their_hours_hold() {
    let mut archive = one_bundle();
    for node in 5..12 {
        archive.set_state(node, NodeState::Lost);
    }
    let mut builds = |resting, rest| {
        hear_resting(&mut archive, resting, rest);
        archive.planning(|view| plan_repairs(view, &BUDGET, [1; 32]).builds)
    };
    assert_eq!(builds(2, NodeRest::Paused), []);
    let built = builds(2, NodeRest::OutsideHours);
    assert_eq!((built.len(), built[0].cause), (1, BuildCause::Urgent));
    // Those that work are read first, and none that rests works.
    let sources: Vec<_> = built[0].sources.iter().map(|(_, node)| node.0 < 2).collect();
    assert_eq!(sources, [false, false, false, true, true]);
    assert!(built[0].worker.0 >= 12);
    assert_eq!(builds(5, NodeRest::OutsideHours).len(), 1);
    // One shard lost is not urgent.
    let mut archive = one_bundle();
    archive.set_state(11, NodeState::Lost);
    let mut builds = |resting| {
        hear_resting(&mut archive, resting, NodeRest::OutsideHours);
        archive.planning(|view| plan_repairs(view, &BUDGET, [1; 32]).builds.len())
    };
    assert_eq!((builds(7), builds(8)), (1, 0));
}
