//! The life of nodes.

use std::time::Duration;

use firn_base::{AddressHistory, Availability, Timestamp};
use firn_wire::{Command, CommandOutcome, NodeSighting, NodeState, RejectReason};

use crate::support::{Archive, node_id};

fn join_without_token(archive: &mut Archive, node: u32, quota_bytes: u64) -> CommandOutcome {
    archive.run(Command::JoinNode {
        node: node_id(node),
        operator: "someone".into(),
        failure_domain: "shed".into(),
        vouched: false,
        seen_at: None,
        address: "[::1]:9".into(),
        quota_bytes,
        token: None,
    })
}

#[test]
fn a_stranger_without_a_token_does_not_join() {
    let mut archive = Archive::of(1);
    let outcome = join_without_token(&mut archive, 5, 1);
    assert_eq!(outcome, CommandOutcome::Rejected(RejectReason::UnknownNode));
}

#[test]
fn a_known_node_renews_what_it_says_without_using_a_token() {
    let mut archive = Archive::of(1);
    assert_eq!(archive.join(0, "attic"), CommandOutcome::Applied);
    assert_eq!(join_without_token(&mut archive, 0, 5000), CommandOutcome::Applied);
    let node = archive.node(0);
    assert_eq!((node.quota_bytes, node.failure_domain.as_str()), (5000, "shed"));
    assert_eq!(archive.nodes().len(), 1);
}

#[test]
fn a_lost_node_does_not_come_back_under_its_identity() {
    let mut archive = Archive::of(1);
    assert_eq!(archive.set_state(0, NodeState::Lost), CommandOutcome::Applied);
    let removed = CommandOutcome::Rejected(RejectReason::NodeRemoved);
    assert_eq!(archive.join(0, "attic"), removed);
    assert_eq!(archive.set_state(0, NodeState::Active), removed);
    assert_eq!(archive.set_state(0, NodeState::Gone), CommandOutcome::Applied);
    assert_eq!(archive.set_state(0, NodeState::Lost), removed);
}

#[test]
fn a_node_with_shards_does_not_go() {
    let mut archive = Archive::of(4);
    archive.publish(1, (2, 4), &[0, 1, 2, 3]);
    archive.set_state(0, NodeState::Draining);
    let not_empty = RejectReason::NodeNotEmpty { shards: 1 };
    assert_eq!(archive.set_state(0, NodeState::Gone), CommandOutcome::Rejected(not_empty));
    let illegal = RejectReason::IllegalState { from: NodeState::Draining, to: NodeState::Suspended };
    assert_eq!(archive.set_state(0, NodeState::Suspended), CommandOutcome::Rejected(illegal));
    assert_eq!(archive.set_state(0, NodeState::Active), CommandOutcome::Applied);
}

#[test]
fn a_summary_never_makes_a_node_heard_earlier_or_in_the_future() {
    let mut archive = Archive::of(3);
    archive.wait(5000);
    let far = Timestamp::from_millis(u64::MAX);
    let sighting = |node, last_seen| NodeSighting {
        node: node_id(node),
        last_seen,
        availability: Availability::from_billionths(700_000_000).unwrap(),
        addresses: AddressHistory::default(),
        origin: None,
    };
    let early = Timestamp::from_millis(1);
    let nodes =
        vec![sighting(0, Some(far)), sighting(1, Some(early)), sighting(2, None), sighting(9, Some(far))];
    assert_eq!(archive.run(Command::Summary { nodes }), CommandOutcome::Applied);
    assert_eq!(archive.node(0).last_seen, archive.now);
    for node in [1, 2] {
        assert_eq!(archive.node(node).last_seen, Timestamp::from_millis(1_000_000));
        assert_eq!(archive.node(node).availability.to_string(), "70.0 %");
    }
}

#[test]
fn what_a_leader_saw_of_a_node_becomes_its_availability() {
    let mut archive = Archive::of(3);
    let began = archive.now;
    // The first is heard all the time, the second in the first half, the third not at all.
    for second in 0..600 {
        archive.wait(1_000);
        if second % 5 == 0 {
            archive.hear(0);
            if second < 300 {
                archive.hear(1);
            }
        }
    }
    let nodes = archive.watch.summary(archive.nodes().iter(), None, archive.now);
    archive.watch.measure_from(archive.now);
    let passed = archive.now.since(began);
    let expected = |online_seconds| Availability::UNKNOWN.after(passed, Duration::from_secs(online_seconds));
    let seen: Vec<_> = nodes.iter().map(|node| node.availability).collect();
    assert_eq!(seen, [expected(596), expected(296), expected(0)]);
    assert_eq!(archive.run(Command::Summary { nodes }), CommandOutcome::Applied);
    assert!(archive.node(0).availability > Availability::UNKNOWN);
    // Of the next ten minutes the second is online for the last five; what was before counts no more.
    for second in 0..600 {
        archive.wait(1_000);
        if second % 5 == 0 && second >= 300 {
            archive.hear(1);
        }
    }
    let before = archive.node(1).availability;
    let nodes = archive.watch.summary(archive.nodes().iter(), None, archive.now);
    assert_eq!(nodes[1].availability, before.after(passed, Duration::from_secs(295)));
}
