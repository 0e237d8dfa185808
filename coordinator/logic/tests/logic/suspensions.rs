//! Suspensions that a node's owner is told of before they take effect.

use firn_base::{PublicKey, Timestamp};
use firn_coordinator_logic::{
    AnnouncementRefused, Facts, MemoryState, SUSPENSION_NOTICE, Scan, Suspension, apply, check_announcement,
    due_suspensions, suspension_at,
};
use firn_wire::{
    Actor, Command, CommandOutcome, LedgerAct, LedgerEntry, NodeState, OperatorRole, RejectReason,
    TimedCommand,
};

use crate::support::{Archive, node_id};

const ADA: PublicKey = PublicKey::from_bytes([1; 32]);

fn ada() -> Actor {
    Actor::Operator { key: ADA, name: "ada".into() }
}

fn notice_millis() -> u64 {
    u64::try_from(SUSPENSION_NOTICE.as_millis()).unwrap()
}

fn run_as(archive: &mut Archive, by: Actor, command: Command) -> CommandOutcome {
    let command = TimedCommand { at: archive.now, by, command };
    let Ok(applied) = apply(&archive.state, &command);
    archive.state.absorb(applied.changes);
    archive.log.push(command);
    applied.outcome
}

/// An archive in which Ada may suspend nodes.
fn archive() -> Archive {
    let mut archive = Archive::of(3);
    let act = LedgerAct::AddOperator { key: ADA, name: "ada".into(), role: OperatorRole::Nodes };
    assert_eq!(archive.run(Command::Govern(act)), CommandOutcome::Applied);
    archive
}

fn announce(archive: &mut Archive, node: u32, reason: &str) -> (CommandOutcome, Timestamp) {
    let at = suspension_at(archive.now, archive.now);
    let command = Command::AnnounceSuspension { node: node_id(node), at, reason: reason.into() };
    (run_as(archive, ada(), command), at)
}

/// Does what a leader does now. Gives what became of it.
fn lead(archive: &mut Archive) -> Vec<CommandOutcome> {
    let due = due_suspensions(&archive.nodes(), archive.now);
    due.into_iter().map(|(node, at)| archive.run(Command::CarryOutSuspension { node, at })).collect()
}

fn ledger(archive: &Archive) -> Vec<LedgerEntry> {
    let Ok(entries) = archive.state.ledger_from(0, usize::MAX);
    entries
}

fn not_announced(outcome: &CommandOutcome) -> bool {
    matches!(outcome, CommandOutcome::Rejected(RejectReason::Malformed(reason)) if reason.starts_with("no suspension"))
}

#[test]
fn an_announced_node_is_suspended_48_hours_later_once_in_the_name_of_whoever_announced_it() {
    let mut archive = archive();
    let before = ledger(&archive);
    let (outcome, at) = announce(&mut archive, 0, "new disks");
    assert_eq!(outcome, CommandOutcome::Applied);
    assert_eq!(at.since(archive.now), SUSPENSION_NOTICE);
    assert_eq!(archive.node(0).suspension, Some(Suspension { at, by: ada(), reason: "new disks".into() }));
    archive.wait(notice_millis() - 1);
    assert_eq!(lead(&mut archive), []);
    assert_eq!(archive.node(0).state, NodeState::Active);
    // Programs of before read the ledger: nothing of it is there.
    assert_eq!(ledger(&archive), before);
    archive.wait(1);
    // Two that lead one after the other have both seen that it is due.
    let due = due_suspensions(&archive.nodes(), archive.now);
    assert_eq!(due, [(node_id(0), at)]);
    assert_eq!(lead(&mut archive), [CommandOutcome::Applied]);
    assert!(not_announced(&archive.run(Command::CarryOutSuspension { node: node_id(0), at })));
    assert_eq!(lead(&mut archive), []);
    let node = archive.node(0);
    assert_eq!((node.state, node.suspension), (NodeState::Suspended, None));
    let entries = ledger(&archive);
    let [entered] = &entries[before.len()..] else { panic!("{entries:?}") };
    assert_eq!(entered.by, ada());
    assert_eq!(entered.act, LedgerAct::SetNodeState { node: node_id(0), state: NodeState::Suspended });
}

#[test]
fn nobody_is_suspended_before_its_time_whatever_is_proposed() {
    let mut archive = archive();
    let (_, at) = announce(&mut archive, 0, "new disks");
    for at in [archive.now, at, at.after(SUSPENSION_NOTICE)] {
        assert!(not_announced(&archive.run(Command::CarryOutSuspension { node: node_id(0), at })));
    }
    archive.wait(notice_millis());
    let other = Timestamp::from_millis(at.as_millis() - 1);
    assert!(not_announced(&archive.run(Command::CarryOutSuspension { node: node_id(0), at: other })));
    assert_eq!(archive.node(0).state, NodeState::Active);
    // By the archive's time, which may be ahead of the leader's clock.
    assert_eq!(
        suspension_at(at, archive.now.after(SUSPENSION_NOTICE)).since(archive.now),
        2 * SUSPENSION_NOTICE
    );
}

#[test]
fn a_node_that_is_resumed_stays_so_whichever_came_first() {
    let mut archive = archive();
    let (_, at) = announce(&mut archive, 0, "new disks");
    let carry_out = || Command::CarryOutSuspension { node: node_id(0), at };
    archive.wait(notice_millis());
    // A leader has seen that it is due, and the operator is faster.
    assert_eq!(archive.set_state(0, NodeState::Active), CommandOutcome::Applied);
    assert!(not_announced(&archive.run(carry_out())));
    assert_eq!((archive.node(0).state, archive.node(0).suspension), (NodeState::Active, None));
    // The other way round; and an announcement after one was taken back is another.
    let (outcome, later) = announce(&mut archive, 0, "new disks");
    assert_eq!(outcome, CommandOutcome::Applied);
    assert!(not_announced(&archive.run(carry_out())));
    archive.wait(notice_millis());
    let outcome = archive.run(Command::CarryOutSuspension { node: node_id(0), at: later });
    assert_eq!(outcome, CommandOutcome::Applied);
    assert_eq!(archive.set_state(0, NodeState::Active), CommandOutcome::Applied);
    assert_eq!(archive.node(0).state, NodeState::Active);
    assert_eq!(lead(&mut archive), []);
}

#[test]
fn whatever_becomes_of_a_node_otherwise_takes_the_announcement_back() {
    for state in [NodeState::Suspended, NodeState::Draining, NodeState::Lost, NodeState::Gone] {
        let mut archive = archive();
        announce(&mut archive, 0, "new disks");
        assert_eq!(archive.set_state(0, state), CommandOutcome::Applied);
        assert_eq!((archive.node(0).state, archive.node(0).suspension), (state, None));
        archive.wait(notice_millis());
        assert_eq!(lead(&mut archive), []);
    }
    // What the node and its coordinators say of it changes nothing.
    let mut archive = archive();
    announce(&mut archive, 0, "new disks");
    let announced = archive.node(0).suspension;
    assert_eq!(archive.join(0, "attic"), CommandOutcome::Applied);
    let nodes = archive.watch.summary(archive.nodes().iter(), None, archive.now);
    assert_eq!(archive.run(Command::Summary { nodes }), CommandOutcome::Applied);
    assert_eq!(archive.node(0).suspension, announced);
}

#[test]
fn only_an_active_node_is_announced_to_be_suspended_and_only_once() {
    let mut archive = archive();
    let (_, at) = announce(&mut archive, 0, "new disks");
    assert_eq!(check_announcement(&archive.node(0)), Err(AnnouncementRefused::Announced { at }));
    archive.wait(1);
    let (again, _) = announce(&mut archive, 0, "other disks");
    assert!(matches!(again, CommandOutcome::Rejected(RejectReason::Malformed(_))), "{again:?}");
    assert_eq!(
        archive.node(0).suspension.map(|announced| (announced.at, announced.reason)),
        Some((at, "new disks".into()))
    );
    let illegal = |from| RejectReason::IllegalState { from, to: NodeState::Suspended };
    for (state, reason) in [
        (NodeState::Suspended, illegal(NodeState::Suspended)),
        (NodeState::Draining, illegal(NodeState::Draining)),
        (NodeState::Lost, RejectReason::NodeRemoved),
    ] {
        assert_eq!(archive.set_state(1, state), CommandOutcome::Applied);
        assert!(check_announcement(&archive.node(1)).is_err());
        assert_eq!(announce(&mut archive, 1, "new disks").0, CommandOutcome::Rejected(reason));
    }
    assert_eq!(announce(&mut archive, 99, "x").0, CommandOutcome::Rejected(RejectReason::UnknownNode));
    for reason in [String::new(), "a\nb".to_owned(), "x".repeat(201)] {
        let (outcome, _) = announce(&mut archive, 2, &reason);
        assert!(matches!(outcome, CommandOutcome::Rejected(RejectReason::Malformed(_))), "{outcome:?}");
    }
    // Whoever may not suspend nodes announces nothing.
    let act = LedgerAct::AddOperator { key: ADA, name: "ada".into(), role: OperatorRole::Content };
    assert_eq!(archive.run(Command::Govern(act)), CommandOutcome::Applied);
    let refused = CommandOutcome::Rejected(RejectReason::NeedsRole(OperatorRole::Nodes));
    assert_eq!(announce(&mut archive, 2, "new disks").0, refused);
    assert_eq!(archive.node(2).suspension, None);
}

#[test]
fn what_was_announced_holds_though_whoever_announced_it_is_no_operator_any_more() {
    let mut archive = archive();
    announce(&mut archive, 0, "new disks");
    let act = LedgerAct::RemoveOperator { key: ADA };
    assert_eq!(archive.run(Command::Govern(act)), CommandOutcome::Applied);
    archive.wait(notice_millis());
    assert_eq!(lead(&mut archive), [CommandOutcome::Applied]);
    assert_eq!(ledger(&archive).last().unwrap().by, ada());
}

#[test]
fn a_replayed_log_comes_to_the_same_state() {
    let mut archive = archive();
    announce(&mut archive, 0, "new disks");
    announce(&mut archive, 1, "a move");
    archive.set_state(1, NodeState::Active);
    archive.wait(notice_millis());
    lead(&mut archive);
    announce(&mut archive, 2, "new disks");
    let mut again = MemoryState::new();
    for command in &archive.log {
        let Ok(applied) = apply(&again, command);
        again.absorb(applied.changes);
    }
    let (Ok(nodes), Ok(counters), Ok(before)) =
        (again.all_nodes(), again.counters(), archive.state.counters());
    assert_eq!((nodes, counters), (archive.nodes(), before));
}
