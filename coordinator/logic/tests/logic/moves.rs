//! Draining, and taking apart what shares a domain.

use firn_base::ShardIndex;
use firn_coordinator_logic::{MovePlan, NodeNumber, TidyingPlan, drained_nodes, plan_moves, plan_tidying};
use firn_wire::{Command, NodeState, PlacementChange};

use crate::support::{Archive, BUDGET, node_id};

const FOUR: [u32; 4] = [0, 1, 2, 3];

pub(crate) fn moves(archive: &Archive) -> MovePlan {
    archive.planning(|view| plan_moves(view, &BUDGET, [1; 32]))
}

/// Carries out all planned moves as the swarm would.
pub(crate) fn carry_out(archive: &mut Archive, plan: &MovePlan) {
    for build in &plan.builds {
        let node = |number: &NodeNumber| node_id(number.0);
        let coding = build.coding;
        let placed = build.targets.iter().map(|(index, to)| PlacementChange::Placed {
            coding,
            index: *index,
            node: node(to),
        });
        let retired = build.retire.iter().map(|(index, from)| PlacementChange::Retired {
            coding,
            index: *index,
            node: node(from),
        });
        archive.run(Command::RecordPlacements(placed.chain(retired).collect()));
    }
}

#[test]
fn a_draining_node_is_emptied_and_may_then_go() {
    let mut archive = Archive::of(5);
    archive.publish(1, (2, 4), &FOUR);
    archive.set_state(2, NodeState::Draining);
    let plan = moves(&archive);
    assert_eq!(plan.backlog_shards, 1);
    let build = &plan.builds[0];
    assert_eq!(build.targets, [(ShardIndex(2), NodeNumber(4))]);
    assert_eq!(build.sources[0], (ShardIndex(2), NodeNumber(2)));
    assert_eq!(build.retire, [(ShardIndex(2), NodeNumber(2))]);
    carry_out(&mut archive, &plan);
    assert_eq!(archive.surplus(), [(2, 2)]);
    assert_eq!(archive.planning(|view| plan_tidying(view, 10)), TidyingPlan::default());
    assert_eq!(archive.planning(drained_nodes), [NodeNumber(2)]);
    let plan = moves(&archive);
    assert_eq!((plan.builds.len(), plan.backlog_shards), (0, 0));
}

#[test]
fn a_draining_node_that_is_away_is_emptied_from_the_others() {
    let mut archive = Archive::of(5);
    archive.publish(1, (2, 4), &FOUR);
    archive.set_state(2, NodeState::Draining);
    archive.wait(11_000);
    archive.hear_all_but(&[2]);
    let plan = moves(&archive);
    let sources: Vec<_> = plan.builds[0].sources.iter().map(|(index, _)| index.0).collect();
    assert_eq!(sources, [0, 1, 3]);
}

#[test]
fn a_drain_without_a_legal_home_waits() {
    let mut archive = Archive::of(4);
    archive.publish(1, (2, 4), &FOUR);
    archive.set_state(2, NodeState::Draining);
    let plan = moves(&archive);
    assert_eq!((plan.builds.len(), plan.backlog_shards), (0, 1));
}

#[test]
fn shards_that_came_to_share_a_domain_are_taken_apart_after_three_days() {
    let mut archive = Archive::of(6);
    archive.publish(1, (2, 4), &FOUR);
    archive.join(3, "domain-0");
    assert_eq!(moves(&archive), MovePlan::default());
    archive.wait(3 * 86_400_000 - 1);
    archive.hear_all_but(&[]);
    assert_eq!(moves(&archive), MovePlan::default());
    archive.wait(1);
    let plan = moves(&archive);
    assert_eq!(plan.builds[0].retire, [(ShardIndex(3), NodeNumber(3))]);
    carry_out(&mut archive, &plan);
    assert_eq!(moves(&archive), MovePlan::default());
}

#[test]
fn placements_and_surplus_on_lost_nodes_are_forgotten() {
    let mut archive = Archive::of(5);
    archive.publish(1, (2, 4), &FOUR);
    archive.reserve(2, (2, 4), &FOUR);
    archive.run(Command::ExpireReservations(vec![crate::support::reservation_id(2)]));
    archive.set_state(0, NodeState::Lost);
    let tidying = archive.planning(|view| plan_tidying(view, 10));
    assert_eq!(tidying.changes.len(), 2);
    archive.run(Command::RecordPlacements(tidying.changes));
    assert_eq!((archive.node(0).shards, archive.node(0).assigned_bytes), (0, 0));
    assert_eq!(archive.placements(1), [(1, 1), (2, 2), (3, 3)]);
}
