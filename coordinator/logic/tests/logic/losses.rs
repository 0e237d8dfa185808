//! Losses that come one after the other: repair waits until the last of them.

use firn_base::Timestamp;
use firn_coordinator_logic::{COUNT_LOST_AFTER_MILLIS, LossWatch};
use firn_wire::NodeState;

use crate::support::Archive;

const FOLLOWS_WITHIN: u64 = 5_000;
const WAIT_MAX: u64 = 60_000;

fn look(losses: &mut LossWatch, archive: &Archive) -> Option<Timestamp> {
    archive.planning(|view| losses.observe(view.fleet, view.now));
    losses.settled_at()
}

/// `millis` later than `time`.
fn later(time: Timestamp, millis: u64) -> Option<Timestamp> {
    Some(Timestamp::from_millis(time.as_millis() + millis))
}

#[test]
fn a_burst_settles_some_seconds_after_its_last_loss() {
    let mut archive = Archive::of(6);
    archive.set_state(0, NodeState::Lost);
    let mut losses = LossWatch::new();
    assert_eq!(look(&mut losses, &archive), None, "what was lost before the first look is not new");
    assert_eq!(look(&mut losses, &archive), None);
    archive.set_state(1, NodeState::Lost);
    let first = archive.now;
    assert_eq!(look(&mut losses, &archive), later(first, FOLLOWS_WITHIN));
    archive.wait(4_000);
    assert_eq!(look(&mut losses, &archive), later(first, FOLLOWS_WITHIN));
    archive.set_state(2, NodeState::Lost);
    assert_eq!(look(&mut losses, &archive), later(archive.now, FOLLOWS_WITHIN));
}

#[test]
fn a_burst_without_end_is_not_waited_for_and_the_next_one_is() {
    let mut archive = Archive::of(40);
    let mut losses = LossWatch::new();
    look(&mut losses, &archive);
    let first = archive.now;
    for node in 0..30 {
        archive.set_state(node, NodeState::Lost);
        let settled = look(&mut losses, &archive).unwrap();
        let own = later(archive.now, FOLLOWS_WITHIN);
        assert_eq!(Some(settled), own.min(later(first, WAIT_MAX)), "node {node}");
        archive.wait(4_000);
        archive.hear_all_but(&[]);
    }
    assert!(losses.settled_at() < Some(archive.now));
    archive.wait(FOLLOWS_WITHIN);
    archive.hear_all_but(&[]);
    archive.set_state(30, NodeState::Lost);
    assert_eq!(look(&mut losses, &archive), later(archive.now, FOLLOWS_WITHIN));
}

#[test]
fn silence_for_too_long_is_a_loss_and_leaving_in_order_is_none() {
    let mut archive = Archive::of(6);
    let mut losses = LossWatch::new();
    look(&mut losses, &archive);
    archive.set_state(0, NodeState::Draining);
    archive.set_state(0, NodeState::Gone);
    assert_eq!(look(&mut losses, &archive), None);
    archive.wait(COUNT_LOST_AFTER_MILLIS);
    archive.hear_all_but(&[1]);
    assert_eq!(look(&mut losses, &archive), None, "it counts for as long as the policy says");
    archive.wait(1);
    archive.hear_all_but(&[1]);
    assert_eq!(look(&mut losses, &archive), later(archive.now, FOLLOWS_WITHIN));
}
