//! What becomes of shards after the commit.

use std::collections::BTreeSet;

use firn_base::{AddressHistory, Availability, ByteCount, Scheme, ShardIndex, Timestamp};
use firn_coordinator_logic::{PlacementError, PlacementRequest, plan_placement};
use firn_wire::{Command, NodeRest, NodeSighting, NodeState, NodeStatus, NodeTerms, PlacementChange};

use crate::support::{Archive, QUOTA_BYTES, coding_id, node_id, status};

const FOUR: [u32; 4] = [0, 1, 2, 3];

fn placed(index: u8, node: u32) -> PlacementChange {
    PlacementChange::Placed { coding: coding_id(1, 2), index: ShardIndex(index), node: node_id(node) }
}

fn retired(index: u8, node: u32) -> PlacementChange {
    PlacementChange::Retired { coding: coding_id(1, 2), index: ShardIndex(index), node: node_id(node) }
}

fn missing(index: u8, node: u32) -> PlacementChange {
    PlacementChange::Missing { coding: coding_id(1, 2), index: ShardIndex(index), node: node_id(node) }
}

fn published(nodes: u32) -> Archive {
    let mut archive = Archive::of(nodes);
    archive.publish(1, (2, 4), &FOUR);
    archive
}

fn record(archive: &mut Archive, changes: &[PlacementChange]) {
    archive.run(Command::RecordPlacements(changes.to_vec()));
    for node in archive.nodes() {
        let by_records = archive.assigned_by_records().get(&node.number).copied().unwrap_or_default();
        assert_eq!(node.assigned_bytes, by_records, "the account of {:?}", node.number);
    }
}

#[test]
fn a_shard_leaves_its_old_home_only_for_a_new_one() {
    let mut archive = published(5);
    record(&mut archive, &[retired(0, 0)]);
    assert_eq!(archive.placements(1), [(0, 0), (1, 1), (2, 2), (3, 3)]);
    record(&mut archive, &[placed(0, 4), retired(0, 0)]);
    assert_eq!(archive.placements(1), [(0, 4), (1, 1), (2, 2), (3, 3)]);
    assert_eq!(archive.surplus(), [(0, 0)]);
    assert_eq!((archive.node(0).shards, archive.node(4).shards), (0, 1));
}

#[test]
fn a_new_home_on_a_lost_node_lets_nothing_go() {
    let mut archive = published(5);
    record(&mut archive, &[placed(0, 4)]);
    archive.set_state(4, NodeState::Lost);
    record(&mut archive, &[retired(0, 0)]);
    assert!(archive.placements(1).contains(&(0, 0)));
    record(&mut archive, &[retired(0, 4)]);
    assert!(!archive.placements(1).contains(&(0, 4)));
    assert_eq!(archive.surplus(), []);
}

#[test]
fn a_shard_that_would_break_the_caps_is_surplus() {
    let mut archive = published(5);
    archive.join(4, "domain-1");
    record(&mut archive, &[placed(0, 4)]);
    assert_eq!(archive.surplus(), [(4, 0)]);
    assert_eq!(archive.placements(1).len(), 4);
    // The same index within the domain is a move and legal.
    record(&mut archive, &[placed(1, 4), retired(1, 1)]);
    assert!(archive.placements(1).contains(&(1, 4)));
}

#[test]
fn a_holder_offline_for_too_long_takes_no_domain() {
    let mut archive = published(5);
    archive.join(4, "domain-1");
    archive.wait(73 * 3_600_000);
    record(&mut archive, &[placed(0, 4)]);
    assert!(archive.placements(1).contains(&(0, 4)));
}

#[test]
fn a_node_that_has_just_returned_counts_no_second_shard_whatever_the_last_summary_says() {
    let mut archive = published(5);
    archive.wait(73 * 3_600_000);
    record(&mut archive, &[placed(0, 1)]);
    assert_eq!(archive.placements(1), [(0, 0), (1, 1), (2, 2), (3, 3)]);
    assert_eq!(archive.surplus(), [(1, 0)]);
}

#[test]
fn a_missing_shard_gives_its_bytes_back_and_a_higher_index_raises_n() {
    let mut archive = published(6);
    record(&mut archive, &[missing(0, 0), missing(0, 0)]);
    assert_eq!((archive.node(0).shards, archive.node(0).assigned_bytes), (0, 0));
    record(&mut archive, &[placed(4, 4)]);
    assert_eq!(archive.bundle(1).codings[0].scheme, Scheme::new(2, 5).unwrap());
    record(&mut archive, &[placed(6, 5)]);
    assert_eq!(archive.placements(1).len(), 4, "k = 2 has six indexes");
}

#[test]
fn changes_of_unknown_things_change_nothing() {
    let mut archive = published(4);
    let before = archive.state.clone();
    let unknown_coding =
        PlacementChange::Placed { coding: coding_id(9, 2), index: ShardIndex(0), node: node_id(0) };
    let unknown_node = placed(0, 40);
    let trashed =
        PlacementChange::Trashed { coding: coding_id(1, 2), index: ShardIndex(0), node: node_id(0) };
    record(&mut archive, &[unknown_coding, unknown_node, trashed, missing(0, 1)]);
    assert_eq!(archive.state, before);
}

fn plan(archive: &Archive, scheme: (u8, u8), file_bytes: u64) -> Result<Vec<u8>, PlacementError> {
    let scheme = Scheme::new(scheme.0, scheme.1).unwrap();
    let avoid = BTreeSet::new();
    archive.planning(|view| {
        let request = PlacementRequest { scheme, file_bytes, avoid: &avoid };
        let planned = plan_placement(view.fleet, &request, [3; 32])?;
        let again = plan_placement(view.fleet, &request, [3; 32])?;
        assert_eq!(planned, again, "the seed decides");
        let nodes: BTreeSet<_> = planned.iter().map(|(_, node)| *node).collect();
        assert_eq!(nodes.len(), planned.len());
        Ok(planned.iter().map(|(index, _)| index.0).collect())
    })
}

#[test]
fn a_plan_names_one_node_for_each_shard() {
    assert_eq!(plan(&Archive::of(8), (4, 7), 1000), Ok((0..7).collect()));
}

#[test]
fn a_plan_makes_do_with_fewer_nodes_down_to_the_commit_threshold() {
    let mut archive = Archive::of(12);
    archive.wait(11_000);
    archive.hear_all_but(&[0, 1, 2, 3]);
    assert_eq!(plan(&archive, (4, 12), 1000).unwrap().len(), 8);
    archive.wait(11_000);
    archive.hear_all_but(&[0, 1, 2, 3, 4]);
    assert_eq!(plan(&archive, (4, 12), 1000), Err(PlacementError::TooFewDomains { found: 7, needed: 8 }));
}

#[test]
fn a_full_fleet_is_told_apart_from_an_absent_one() {
    let outcome = plan(&Archive::of(4), (2, 4), 2 << 30);
    assert_eq!(outcome, Err(PlacementError::Full { found: 0, needed: 3 }));
}

#[test]
fn draining_and_suspended_nodes_receive_no_new_shards() {
    let mut archive = Archive::of(6);
    archive.set_state(0, NodeState::Draining);
    archive.set_state(1, NodeState::Suspended);
    assert_eq!(plan(&archive, (2, 6), 1000).unwrap().len(), 4);
    assert_eq!(archive.planning(|view| view.fleet.width()), 4);
}

#[test]
fn emptier_nodes_are_chosen_more_often() {
    let mut archive = Archive::of(20);
    for node in 0..10 {
        archive.run(Command::JoinNode {
            node: node_id(node),
            operator: "o".into(),
            failure_domain: format!("domain-{node}"),
            vouched: false,
            seen_at: None,
            address: "a".into(),
            quota_bytes: 100 << 20,
            token: None,
        });
    }
    let scheme = Scheme::new(2, 6).unwrap();
    let avoid = BTreeSet::new();
    let full: BTreeSet<_> = (0..10).map(node_id).collect();
    let chosen_full = archive.planning(|view| {
        let request = PlacementRequest { scheme, file_bytes: 1000, avoid: &avoid };
        let plans = (0..100).map(|seed| plan_placement(view.fleet, &request, [seed; 32]).unwrap());
        plans.flatten().filter(|(_, node)| full.contains(node)).count()
    });
    // By weight a tenth each: about 80 of 600, and 300 if room did not count.
    assert!((20..160).contains(&chosen_full), "{chosen_full}");
}

#[test]
fn trash_of_a_day_is_no_room_for_shards_beside_those_that_are_yet_to_come() {
    let mut archive = published(4);
    let assigned = archive.node(0).assigned_bytes;
    let trash = QUOTA_BYTES / 4;
    let room = |archive: &Archive| {
        archive.planning(|view| {
            let node = view.fleet.node(archive.number(0)).unwrap();
            (node.free_bytes, node.free_within_a_day_bytes)
        })
    };
    let hear = |archive: &mut Archive, used: u64, young_trash: u64| {
        let (used, young_trash) = (ByteCount(used), ByteCount(young_trash));
        archive.hear_status(0, NodeStatus { used, young_trash, ..status(1) });
    };
    let expected = (QUOTA_BYTES - assigned - trash, QUOTA_BYTES - assigned);
    // Neither before what is assigned has come nor after.
    hear(&mut archive, trash, trash);
    assert_eq!(room(&archive), expected);
    hear(&mut archive, assigned + trash, trash);
    assert_eq!(room(&archive), expected);
    // What else lies there takes room for longer than a day.
    hear(&mut archive, assigned + 2 * trash, trash);
    assert_eq!(room(&archive), (expected.0 - trash, expected.1 - trash));
}

/// Nodes below `reliable` are there nearly always, the others half of the time.
fn archive_with_reliable(nodes: u32, reliable: u32) -> Archive {
    let mut archive = Archive::of(nodes);
    let sightings = (0..nodes).map(|node| NodeSighting {
        node: node_id(node),
        last_seen: None,
        availability: Availability::from_billionths(if node < reliable { 990_000_000 } else { 495_000_000 })
            .unwrap(),
        addresses: AddressHistory::default(),
        origin: None,
    });
    archive.run(Command::Summary { nodes: sightings.collect() });
    archive
}

#[test]
fn nodes_that_are_there_more_of_the_time_are_chosen_more_often_and_get_the_data_shards() {
    let archive = archive_with_reliable(60, 20);
    let scheme = Scheme::new(4, 12).unwrap();
    let reliable: BTreeSet<_> = (0..20).map(node_id).collect();
    let (mut chosen, rounds) = (0, 400_u32);
    for round in 0..rounds {
        let mut seed = [0; 32];
        seed[..4].copy_from_slice(&round.to_le_bytes());
        let request = PlacementRequest { scheme, file_bytes: 70_000, avoid: &BTreeSet::new() };
        let placed = archive.planning(|view| plan_placement(view.fleet, &request, seed)).unwrap();
        let at: Vec<bool> = placed.iter().map(|(_, node)| reliable.contains(node)).collect();
        // No unreliable node comes before a reliable one.
        assert!(at.is_sorted_by_key(|is_reliable| !is_reliable), "{at:?}");
        chosen += at.iter().filter(|is_reliable| **is_reliable).count();
    }
    // Twice as likely each: of 12 draws without replacement from 20 at 2 and 40 at 1 about 5.6, at 1 each it were 4.
    let mean = chosen as f64 / f64::from(rounds);
    assert!((5.2..6.0).contains(&mean), "{mean}");
}

#[test]
fn a_publisher_is_told_to_wait_where_nodes_rest_and_to_add_nodes_where_that_would_not_do() {
    let mut archive = Archive::of(12);
    let mut rest = |nodes: std::ops::Range<u32>| {
        for node in nodes {
            let rest = Some(NodeRest::OutsideHours);
            archive.watch.heard(archive.number(node), NodeStatus { rest, ..status(1) }, archive.now);
        }
        plan(&archive, (4, 12), 1000)
    };
    assert_eq!(rest(0..4).unwrap().len(), 8);
    assert_eq!(rest(4..6), Err(PlacementError::Resting { found: 6, resting: 6, needed: 8 }));
    // Waiting helps as well where nodes were declared away, or have too little left of their month.
    let until = Timestamp::from_millis(archive.now.as_millis() + 1000);
    for node in 6..8 {
        archive.run(Command::DeclareAbsence { node: node_id(node), until });
    }
    for node in 8..10 {
        let terms = NodeTerms { rest_until: None, month_left: Some(ByteCount(999)) };
        archive.watch.tell_terms(&archive.node(node), terms, archive.now);
    }
    assert_eq!(
        plan(&archive, (4, 12), 1000),
        Err(PlacementError::Resting { found: 2, resting: 10, needed: 8 })
    );
    // Nobody has room for that, whether it rests or not.
    assert!(matches!(
        plan(&archive, (4, 12), QUOTA_BYTES + 1),
        Err(PlacementError::Full { found: 0, needed: 8 })
    ));
    // All stand in the places of those that work.
    let mut archive = Archive::of(6);
    for node in 6..12 {
        archive.join(node, &format!("domain-{}", node - 6));
        let rest = Some(NodeRest::Paused);
        archive.watch.heard(archive.number(node), NodeStatus { rest, ..status(1) }, archive.now);
    }
    assert_eq!(plan(&archive, (4, 12), 1000), Err(PlacementError::TooFewDomains { found: 6, needed: 8 }));
}
