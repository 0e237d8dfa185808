//! What keeps a draining node from being empty.

use firn_base::{ByteCount, ShardIndex};
use firn_coordinator_logic::{NodeNumber, drained_nodes, plan_tidying, sum_drains, survey_drain};
use firn_wire::{Command, DrainBacklog, NodeState, NodeStatus, PlacementChange};

use crate::moves::{carry_out, moves};
use crate::support::{Archive, QUOTA_BYTES, node_id, reservation_id, status};

const TWELVE: [u32; 12] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];
const BUNDLES: u8 = 3;

/// Every one of twelve failure domains holds a shard of every bundle.
fn full_fleet() -> Archive {
    let mut archive = Archive::of(12);
    for tag in 1..=BUNDLES {
        archive.publish(tag, (4, 12), &TWELVE);
    }
    archive
}

fn join(archive: &mut Archive, node: u32, domain: &str) {
    archive.join(node, domain);
    archive.hear(node);
}

/// To move, of these without a home, and with one that is unavailable.
fn backlog(archive: &Archive, node: u32) -> (u64, u64, u64) {
    let DrainBacklog { to_move, without_home, home_unavailable } = moves(archive).drains[&NodeNumber(node)];
    let surveyed = archive.planning(|view| survey_drain(view, NodeNumber(node)));
    assert_eq!(surveyed, DrainBacklog { to_move, without_home, home_unavailable });
    (to_move, without_home, home_unavailable)
}

/// Carries out one round of moves and of tidying.
fn carry_out_a_round(archive: &mut Archive) {
    let plan = moves(archive);
    carry_out(archive, &plan);
    let tidying = archive.planning(|view| plan_tidying(view, 100));
    assert_eq!(tidying.trash, [], "a draining node deletes nothing");
    archive.run(Command::RecordPlacements(tidying.changes));
}

#[test]
fn in_a_full_fleet_no_shard_of_a_draining_node_has_another_home() {
    let mut archive = full_fleet();
    archive.set_state(3, NodeState::Draining);
    assert_eq!(backlog(&archive, 3), (3, 3, 0));
    carry_out_a_round(&mut archive);
    assert_eq!(backlog(&archive, 3), (3, 3, 0));
    assert_eq!(archive.node(3).shards, u64::from(BUNDLES));
    assert_eq!(archive.planning(drained_nodes), []);
}

#[test]
fn with_one_domain_more_every_shard_has_a_home_and_the_drain_ends() {
    let mut archive = full_fleet();
    archive.set_state(3, NodeState::Draining);
    join(&mut archive, 12, "domain-12");
    assert_eq!(backlog(&archive, 3), (3, 0, 0));
    carry_out_a_round(&mut archive);
    assert_eq!(backlog(&archive, 3), (0, 0, 0));
    assert_eq!(archive.planning(drained_nodes), [NodeNumber(3)]);
    assert_eq!(archive.surplus(), [(3, 3); 3]);
    archive.set_state(3, NodeState::Gone);
    assert_eq!(moves(&archive).drains.len(), 0);
    // Then it counts for nothing.
    carry_out_a_round(&mut archive);
    assert_eq!((archive.surplus(), archive.node(3).assigned_bytes), (vec![], 0));
}

#[test]
fn a_draining_node_that_a_shard_is_on_its_way_to_is_not_gone() {
    let mut archive = full_fleet();
    archive.set_state(3, NodeState::Draining);
    join(&mut archive, 12, "domain-12");
    let builds = moves(&archive).builds;
    let deadline = archive.now.after(std::time::Duration::from_secs(60));
    archive.set_state(12, NodeState::Draining);
    assert_eq!(archive.planning(drained_nodes), [NodeNumber(12)]);
    archive.orders.begin_build(reservation_id(1), builds[0].clone(), archive.now, deadline);
    assert_eq!(archive.planning(drained_nodes), []);
}

#[test]
fn a_draining_node_whose_surplus_is_wanted_again_is_not_gone() {
    let mut archive = full_fleet();
    archive.set_state(3, NodeState::Draining);
    join(&mut archive, 12, "domain-12");
    carry_out_a_round(&mut archive);
    archive.set_state(12, NodeState::Lost);
    assert_eq!(archive.planning(drained_nodes), [NodeNumber(3)], "it has not shown its surplus");
    archive.wait(1);
    archive.show_inventory(3);
    assert_eq!(archive.planning(drained_nodes), []);
    let wanted = archive.planning(|view| plan_tidying(view, 100)).changes;
    let again = |change: &&PlacementChange| matches!(change, PlacementChange::Placed { node, .. } if *node == node_id(3));
    assert_eq!(wanted.iter().filter(again).count(), usize::from(BUNDLES));
}

#[test]
fn only_a_domain_that_holds_no_other_shard_is_a_home() {
    let mut archive = full_fleet();
    archive.set_state(3, NodeState::Draining);
    join(&mut archive, 12, "domain-5");
    assert_eq!(backlog(&archive, 3), (3, 3, 0));
    join(&mut archive, 13, "domain-3");
    assert_eq!(backlog(&archive, 3), (3, 0, 0), "a move within the domain concentrates nothing");
    archive.set_state(13, NodeState::Suspended);
    assert_eq!(backlog(&archive, 3), (3, 3, 0), "a suspended node receives no shards");
}

#[test]
fn a_home_that_is_offline_or_full_is_told_apart_from_none() {
    let mut archive = full_fleet();
    archive.set_state(3, NodeState::Draining);
    join(&mut archive, 12, "domain-12");
    let full = NodeStatus { used: ByteCount(QUOTA_BYTES), ..status(1) };
    archive.watch.heard(NodeNumber(12), full, archive.now);
    assert_eq!(backlog(&archive, 3), (3, 0, 3));
    archive.hear(12);
    assert_eq!(backlog(&archive, 3), (3, 0, 0));
    archive.wait(11_000);
    archive.hear_all_but(&[12]);
    assert_eq!(backlog(&archive, 3), (3, 0, 3));
    archive.wait(73 * 3_600_000);
    archive.hear_all_but(&[12]);
    assert_eq!(backlog(&archive, 3), (3, 3, 0), "a node that counts as lost is no home");
}

#[test]
fn two_draining_nodes_do_not_count_on_the_same_spare_domain() {
    let mut archive = full_fleet();
    archive.set_state(3, NodeState::Draining);
    archive.set_state(5, NodeState::Draining);
    join(&mut archive, 12, "domain-12");
    assert_eq!((backlog(&archive, 3), backlog(&archive, 5)), ((3, 0, 0), (3, 3, 0)));
}

#[test]
fn a_shard_on_its_way_has_taken_its_home() {
    let mut archive = full_fleet();
    archive.set_state(5, NodeState::Draining);
    join(&mut archive, 12, "domain-12");
    let deadline = archive.now.after(std::time::Duration::from_secs(60));
    for (tag, build) in (0..).zip(moves(&archive).builds) {
        assert_eq!(build.targets, [(ShardIndex(5), NodeNumber(12))]);
        archive.orders.begin_build(reservation_id(tag), build, archive.now, deadline);
    }
    archive.set_state(3, NodeState::Draining);
    assert_eq!((backlog(&archive, 3), backlog(&archive, 5)), ((3, 3, 0), (3, 0, 0)));
}

#[test]
fn nothing_is_said_of_all_drains_before_each_was_measured() {
    let mut archive = full_fleet();
    let before = moves(&archive).drains;
    assert_eq!(sum_drains(&archive.nodes(), &before), Some(DrainBacklog::default()));
    archive.set_state(3, NodeState::Draining);
    archive.set_state(5, NodeState::Draining);
    assert_eq!(sum_drains(&archive.nodes(), &before), None);
    let sum = DrainBacklog { to_move: 6, without_home: 6, home_unavailable: 0 };
    assert_eq!(sum_drains(&archive.nodes(), &moves(&archive).drains), Some(sum));
}
