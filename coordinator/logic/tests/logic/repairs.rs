//! Health and repair.

use std::collections::{BTreeMap, BTreeSet};

use firn_base::{BundleNumber, ShardIndex};
use firn_coordinator_logic::{
    BrakeState, BuildCause, HealthClass, NodeNumber, PlanningBudget, PlanningView, RepairPlan, classify,
    plan_repairs, survey,
};
use firn_wire::{Cap, Command, LedgerAct, NodeState, PlacementChange, Policy};

use crate::support::{Archive, BUDGET, coding_id, entry, node_id, reservation_id, status};

const TWELVE: [u32; 12] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];

fn repairs(archive: &Archive) -> RepairPlan {
    archive.planning(|view| plan_repairs(view, &BUDGET, [1; 32]))
}

fn full_archive(nodes: u32) -> Archive {
    let mut archive = Archive::of(nodes);
    archive.publish(1, (4, 12), &TWELVE);
    archive
}

fn health(archive: &Archive) -> (u8, u8, HealthClass, bool) {
    archive.planning(|view| {
        let health = classify(view.catalogue.bundle(BundleNumber(0)).unwrap(), view.fleet);
        (health.durable, health.online, health.class, health.unreadable)
    })
}

#[test]
fn a_second_copy_of_an_index_counts_zero() {
    let mut archive = full_archive(13);
    let again = PlacementChange::Placed { coding: coding_id(1, 4), index: ShardIndex(0), node: node_id(12) };
    archive.run(Command::RecordPlacements(vec![again]));
    assert_eq!(health(&archive), (12, 12, HealthClass::Full, false));
}

#[test]
fn a_node_offline_for_a_moment_is_durable_and_after_three_days_it_is_not() {
    let mut archive = full_archive(12);
    archive.wait(11_000);
    archive.hear_all_but(&[0, 1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(health(&archive), (12, 3, HealthClass::Full, true));
    assert_eq!(repairs(&archive).builds, []);
    archive.wait(73 * 3_600_000);
    for node in 1..12 {
        archive.watch.heard(archive.number(node), status(1), archive.now);
    }
    assert_eq!(
        health(&archive),
        (11, 0, HealthClass::Degraded, true),
        "a returning node has to prove itself"
    );
}

#[test]
fn a_lost_shard_is_made_anew_on_a_node_that_holds_none() {
    let mut archive = full_archive(14);
    archive.set_state(3, NodeState::Lost);
    let plan = repairs(&archive);
    assert_eq!((plan.backlog_shards, plan.health.degraded), (1, 1));
    let [build] = plan.builds.as_slice() else { panic!("{plan:?}") };
    assert_eq!(build.targets.len(), 1);
    assert_eq!(build.targets[0].0, ShardIndex(3));
    assert!(build.targets[0].1 >= NodeNumber(12));
    assert_eq!(build.worker, build.targets[0].1);
    assert_eq!(build.sources.len(), 7, "k and three more");
    assert_eq!(build.retire, [(ShardIndex(3), NodeNumber(3))]);
}

#[test]
fn all_missing_shards_are_made_in_one_build_and_ordered_once() {
    let mut archive = full_archive(16);
    for node in [1, 2, 3] {
        archive.set_state(node, NodeState::Lost);
    }
    let plan = repairs(&archive);
    assert_eq!(plan.builds.len(), 1);
    assert_eq!(plan.builds[0].targets.len(), 3);
    let deadline = archive.now.after(std::time::Duration::from_secs(60));
    archive.orders.begin_build(reservation_id(9), plan.builds[0].clone(), archive.now, deadline);
    let plan = repairs(&archive);
    assert_eq!((plan.builds.len(), plan.backlog_shards), (0, 3));
}

#[test]
fn no_repair_while_the_upload_may_still_bring_the_shard() {
    let mut archive = Archive::of(13);
    archive.reserve(1, (4, 12), &TWELVE);
    archive.commit(1, &TWELVE[..11], vec![entry(1, &[])]);
    assert_eq!(repairs(&archive).builds, []);
    archive.wait(3_600_000);
    archive.hear_all_but(&[]);
    archive.hear(0);
    assert_eq!(repairs(&archive).builds.len(), 1);
    let expired = archive.planning(|view| view.catalogue.expired_reservations(view.now, 10));
    assert_eq!(expired, [reservation_id(1)]);
}

#[test]
fn where_caps_leave_no_node_the_bundle_is_at_risk() {
    let mut archive = full_archive(13);
    archive.join(12, "domain-5");
    archive.set_state(3, NodeState::Lost);
    let plan = repairs(&archive);
    let at_risk = BTreeMap::from([(BundleNumber(0), BTreeSet::from([Cap::Domain]))]);
    assert_eq!((plan.builds.len(), plan.at_risk, plan.health.at_risk), (0, at_risk, 1));
}

#[test]
fn a_wider_fleet_gives_more_parity() {
    let mut archive = Archive::of(7);
    archive.publish(1, (4, 7), &TWELVE[..7]);
    assert_eq!(repairs(&archive).builds, []);
    for node in 7..9 {
        archive.join(node, &format!("domain-{node}"));
        archive.hear(node);
    }
    let plan = repairs(&archive);
    let indexes: Vec<_> = plan.builds[0].targets.iter().map(|(index, _)| index.0).collect();
    assert_eq!(indexes, [7, 8]);
}

#[test]
fn wide_schemes_are_repaired_lazily_unless_the_archive_wants_them_full() {
    let mut archive = Archive::of(26);
    let nodes: Vec<u32> = (0..24).collect();
    archive.publish(1, (8, 24), &nodes);
    archive.set_state(0, NodeState::Lost);
    assert_eq!(repairs(&archive).builds, []);
    let policy = Policy { repair_at_full: true, ..firn_coordinator_logic::default_policy() };
    archive.run(Command::Govern(LedgerAct::SetPolicy(policy)));
    assert_eq!(repairs(&archive).builds.len(), 1);
}

#[test]
fn the_brake_lets_urgent_repairs_through_only() {
    let mut archive = full_archive(20);
    let braked = |archive: &Archive| {
        archive.planning(|view| {
            let brake = BrakeState::FleetVanished { until: view.now };
            plan_repairs(&PlanningView { brake, ..*view }, &BUDGET, [1; 32]).builds
        })
    };
    for node in 0..5 {
        archive.set_state(node, NodeState::Lost);
    }
    assert_eq!(health(&archive).0, 7);
    assert_eq!(braked(&archive), []);
    archive.set_state(5, NodeState::Lost);
    let builds = braked(&archive);
    assert!(builds.len() == 1 && builds[0].cause == BuildCause::Urgent);
}

#[test]
fn the_bundle_in_most_danger_comes_first_and_the_budget_holds() {
    let mut archive = Archive::of(20);
    archive.publish(1, (4, 12), &TWELVE);
    archive.publish(2, (4, 12), &[8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19]);
    for node in [8, 9, 12, 13] {
        archive.set_state(node, NodeState::Lost);
    }
    let budget = PlanningBudget { builds_max: 1, away_builds_max: 1, builds_per_worker_max: 1 };
    let plan = archive.planning(|view| plan_repairs(view, &budget, [1; 32]));
    assert_eq!(plan.builds.iter().map(|build| build.bundle.0).collect::<Vec<_>>(), [1]);
    assert_eq!((plan.backlog_shards, plan.health.degraded), (6, 2));
    let seen = archive.planning(survey);
    assert_eq!((seen.builds.len(), seen.backlog_shards), (0, 6));
}
