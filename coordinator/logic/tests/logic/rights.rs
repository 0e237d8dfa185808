//! Operators: which role an act needs, and that a command without it changes nothing.

use firn_base::{BundleId, BundleNumber, PublicKey, Timestamp, TokenId};
use firn_coordinator_logic::{
    Facts, Scan, apply, default_policy, ledger_position, role_for_act, role_for_request,
};
use firn_wire::{
    Actor, AdminRequest, Command, CommandOutcome, LedgerAct, MemberChange, NodeState, OperatorRole,
    PublisherEntry, RejectReason, TimedCommand,
};

use crate::support::{Archive, key, node_id};

const ADA: PublicKey = PublicKey::from_bytes([1; 32]);
const BOB: PublicKey = PublicKey::from_bytes([2; 32]);

fn acts() -> Vec<(LedgerAct, OperatorRole)> {
    let text = || "x".to_owned();
    let publisher = PublisherEntry { name: text(), key: ADA, rank: 1 };
    let (token, bundle) = (TokenId::from_bytes([3; 32]), BundleId::from_bytes([4; 32]));
    let use_token = LedgerAct::UseToken { token, node: ADA, operator: text(), failure_domain: None };
    let make_token = LedgerAct::CreateToken {
        token,
        operator: text(),
        failure_domain: None,
        expires: Timestamp::from_millis(1),
    };
    let refuse = LedgerAct::Refuse {
        operator: ADA,
        name: text(),
        what: text(),
        needed: OperatorRole::Admin,
        times: 1,
    };
    let (content, nodes, admin) = (OperatorRole::Content, OperatorRole::Nodes, OperatorRole::Admin);
    vec![
        (LedgerAct::AddPublisher(publisher), content),
        (LedgerAct::RemovePublisher { name: text() }, content),
        (LedgerAct::AddUploader { key: ADA, name: text() }, content),
        (LedgerAct::RemoveUploader { key: ADA }, content),
        (LedgerAct::Withdraw { key: key(1), reason: text() }, content),
        (LedgerAct::Reinstate { key: key(1), reason: text() }, content),
        (LedgerAct::Purge { key: key(1), reason: text() }, content),
        (LedgerAct::Repack { bundle }, content),
        (make_token, nodes),
        (LedgerAct::SetNodeState { node: node_id(1), state: NodeState::Lost }, nodes),
        (LedgerAct::AddOperator { key: ADA, name: text(), role: OperatorRole::Observer }, admin),
        (LedgerAct::RemoveOperator { key: ADA }, admin),
        (LedgerAct::SetPolicy(default_policy()), admin),
        (LedgerAct::ChangeMember(MemberChange::Promote { id: node_id(1) }), admin),
        (LedgerAct::AdoptRoster { generation: 1 }, admin),
        (use_token, admin),
        (LedgerAct::Erase { bundle }, admin),
        (refuse, admin),
    ]
}

#[test]
fn every_act_and_request_needs_the_role_that_is_written_here() {
    for (act, role) in acts() {
        assert_eq!(role_for_act(&act), role, "{act:?}");
        assert_eq!(role_for_request(&AdminRequest::Govern(act.clone())), role, "{act:?}");
        assert_eq!(role_for_request(&AdminRequest::GovernAll(vec![act])), role);
    }
    let token = AdminRequest::CreateToken { operator: String::new(), failure_domain: None, valid_millis: 1 };
    let (node, since) = (node_id(1), Timestamp::from_millis(1));
    let all = [
        (token, OperatorRole::Nodes),
        (AdminRequest::SetNodeState { node, state: NodeState::Gone }, OperatorRole::Nodes),
        (AdminRequest::ChangeMember(MemberChange::Remove { id: node }), OperatorRole::Admin),
        (AdminRequest::FinishRebuild, OperatorRole::Admin),
        (AdminRequest::ReopenRebuild, OperatorRole::Admin),
        (AdminRequest::Snapshot { to: String::new() }, OperatorRole::Admin),
        (AdminRequest::Members, OperatorRole::Observer),
        (AdminRequest::Nodes, OperatorRole::Observer),
        (AdminRequest::Ledger { from: 0 }, OperatorRole::Observer),
        (AdminRequest::LedgerPosition { since }, OperatorRole::Observer),
        (AdminRequest::DraftRoster, OperatorRole::Observer),
        (AdminRequest::Digests, OperatorRole::Observer),
        (AdminRequest::RebuildProgress, OperatorRole::Observer),
        (AdminRequest::Purges { since: Timestamp::from_millis(0), after: None }, OperatorRole::Observer),
        (AdminRequest::BundlesSince { since, from: BundleNumber(0) }, OperatorRole::Observer),
        (AdminRequest::ReplacedAmong(Vec::new()), OperatorRole::Observer),
        (AdminRequest::AnnounceSuspension { node, reason: String::new() }, OperatorRole::Nodes),
        (AdminRequest::AnnouncedSuspensions, OperatorRole::Observer),
        (
            AdminRequest::CompactionBehind { older_than_millis: 0, bundle: BundleId::from_bytes([1; 32]) },
            OperatorRole::Observer,
        ),
        (AdminRequest::GovernAll(Vec::new()), OperatorRole::Observer),
    ];
    for (request, role) in all {
        assert_eq!(role_for_request(&request), role, "{request:?}");
    }
}

#[test]
fn acts_of_two_roles_together_need_admin() {
    let together = |acts: &[LedgerAct]| role_for_request(&AdminRequest::GovernAll(acts.to_vec()));
    let all = acts();
    let act = |role| all.iter().find(|(_, needed)| *needed == role).map(|(act, _)| act.clone()).unwrap();
    let (content, nodes) = (act(OperatorRole::Content), act(OperatorRole::Nodes));
    assert_eq!(together(&[content.clone(), content.clone()]), OperatorRole::Content);
    assert_eq!(together(&[content.clone(), nodes.clone()]), OperatorRole::Admin);
    assert_eq!(together(&[nodes, content]), OperatorRole::Admin);
}

fn run_as(archive: &mut Archive, key: PublicKey, name: &str, command: Command) -> CommandOutcome {
    let by = Actor::Operator { key, name: name.into() };
    let Ok(applied) = apply(&archive.state, &TimedCommand { at: archive.now, by, command });
    archive.state.absorb(applied.changes);
    applied.outcome
}

fn give(archive: &mut Archive, key: PublicKey, name: &str, role: OperatorRole) {
    let act = LedgerAct::AddOperator { key, name: name.into(), role };
    assert_eq!(archive.run(Command::Govern(act)), CommandOutcome::Applied);
}

fn withdraw(name: u8) -> Command {
    Command::Govern(LedgerAct::Withdraw { key: key(name), reason: "asked to".into() })
}

fn last_actor(archive: &Archive) -> Actor {
    let Ok(counters) = archive.state.counters();
    let Ok(last) = archive.state.ledger_from(counters.ledger.entries - 1, 1);
    last[0].by.clone()
}

#[test]
fn a_command_of_an_operator_without_the_role_changes_nothing() {
    let mut archive = Archive::of(1);
    give(&mut archive, ADA, "ada", OperatorRole::Nodes);
    give(&mut archive, BOB, "bob", OperatorRole::Content);
    let Ok(before) = archive.state.counters();
    let refused = |needed| CommandOutcome::Rejected(RejectReason::NeedsRole(needed));
    let suspend = || Command::SetNodeState { node: node_id(0), state: NodeState::Suspended };
    assert_eq!(run_as(&mut archive, ADA, "ada", withdraw(1)), refused(OperatorRole::Content));
    assert_eq!(run_as(&mut archive, BOB, "bob", suspend()), refused(OperatorRole::Nodes));
    assert_eq!(run_as(&mut archive, BOB, "bob", Command::EndRebuild), refused(OperatorRole::Admin));
    let stranger = PublicKey::from_bytes([9; 32]);
    assert_eq!(run_as(&mut archive, stranger, "ada", suspend()), refused(OperatorRole::Nodes));
    assert_eq!(
        run_as(&mut archive, ADA, "bob", suspend()),
        refused(OperatorRole::Nodes),
        "nobody lends a name"
    );
    let Ok(after) = archive.state.counters();
    assert_eq!(after, before);
    assert_eq!(run_as(&mut archive, ADA, "ada", suspend()), CommandOutcome::Applied);
    assert_eq!(last_actor(&archive), Actor::Operator { key: ADA, name: "ada".into() });
    assert_eq!(run_as(&mut archive, BOB, "bob", withdraw(1)), CommandOutcome::Applied);
    assert_eq!(last_actor(&archive), Actor::Operator { key: BOB, name: "bob".into() });
}

#[test]
fn a_role_that_is_taken_away_is_gone_at_the_next_command() {
    let mut archive = Archive::of(0);
    give(&mut archive, ADA, "ada", OperatorRole::Admin);
    assert_eq!(run_as(&mut archive, ADA, "ada", withdraw(1)), CommandOutcome::Applied);
    give(&mut archive, ADA, "ada", OperatorRole::Observer);
    let refused = CommandOutcome::Rejected(RejectReason::NeedsRole(OperatorRole::Content));
    assert_eq!(run_as(&mut archive, ADA, "ada", withdraw(2)), refused);
    give(&mut archive, ADA, "ada", OperatorRole::Content);
    assert_eq!(run_as(&mut archive, ADA, "ada", withdraw(2)), CommandOutcome::Applied);
    archive.run(Command::Govern(LedgerAct::RemoveOperator { key: ADA }));
    assert_eq!(run_as(&mut archive, ADA, "ada", withdraw(3)), refused);
    let again = archive.run(Command::Govern(LedgerAct::RemoveOperator { key: ADA }));
    assert_eq!(again, CommandOutcome::Rejected(RejectReason::NoOperator));
}

#[test]
fn a_node_that_changes_state_is_in_the_ledger_and_one_that_does_not_is_not() {
    let mut archive = Archive::of(1);
    let Ok(before) = archive.state.counters();
    let suspend = || Command::SetNodeState { node: node_id(0), state: NodeState::Suspended };
    archive.run(suspend());
    archive.run(suspend());
    let Ok(entries) = archive.state.ledger_from(before.ledger.entries, 10);
    let [entry] = entries.as_slice() else { panic!("{entries:?}") };
    assert_eq!(entry.act, LedgerAct::SetNodeState { node: node_id(0), state: NodeState::Suspended });
    assert_eq!(entry.by, Actor::Coordinators);
}

#[test]
fn a_time_is_found_in_the_ledger_where_its_first_entry_is() {
    let mut archive = Archive::of(0);
    let start = archive.now.as_millis();
    for name in 0..9 {
        archive.run(withdraw(name));
        archive.wait(if name % 3 == 2 { 1000 } else { 0 });
    }
    let position = |millis: u64| {
        let Ok(position) = ledger_position(&archive.state, Timestamp::from_millis(millis));
        position
    };
    assert_eq!((position(0), position(start)), (0, 0));
    assert_eq!((position(start + 1), position(start + 1000)), (3, 3));
    assert_eq!((position(start + 2000), position(start + 2001)), (6, 9));
}
