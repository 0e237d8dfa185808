//! Governance: the chain, tokens, withdrawals, time.

use firn_base::{Digest, PublicKey, Timestamp};
use firn_coordinator_logic::{Facts, Scan, apply, full_digest};
use firn_wire::{Command, CommandOutcome, FeedEvent, LedgerAct, RejectReason, TimedCommand};

use crate::support::{Archive, entry, key};

const FOUR: [u32; 4] = [0, 1, 2, 3];

fn withdraw(archive: &mut Archive, name: u8) -> CommandOutcome {
    archive.run(Command::Govern(LedgerAct::Withdraw { key: key(name), reason: "asked to".into() }))
}

fn reinstate(archive: &mut Archive, name: u8) -> CommandOutcome {
    archive.run(Command::Govern(LedgerAct::Reinstate { key: key(name), reason: "all is well".into() }))
}

#[test]
fn each_entry_names_the_digest_of_the_one_before() {
    let mut archive = Archive::of(2);
    let act = LedgerAct::AddUploader { key: PublicKey::from_bytes([5; 32]), name: "ci".into() };
    archive.run(Command::Govern(act));
    let Ok(ledger) = archive.state.ledger_from(0, 10);
    assert_eq!(ledger.len(), 3);
    assert_eq!(ledger[0].previous, Digest::from_bytes([0; 32]));
    assert_eq!(ledger[1].previous, ledger[0].digest());
    let Ok(counters) = archive.state.counters();
    assert_eq!((counters.ledger.entries, counters.ledger.digest), (3, ledger[2].digest()));
    let Ok(read) = archive.state.ledger_state();
    assert_eq!((read.used_tokens.len(), read.uploaders.len()), (2, 1));
}

#[test]
fn a_withdrawn_key_is_found_no_more_and_later_commits_do_not_bring_it_back() {
    let mut archive = Archive::of(4);
    archive.publish(1, (2, 4), &FOUR);
    assert_eq!(withdraw(&mut archive, 1), CommandOutcome::Applied);
    assert_eq!(withdraw(&mut archive, 1), CommandOutcome::Applied);
    assert!(!archive.is_visible(1));
    let Ok(feed) = archive.state.feed_from(0, 10);
    assert_eq!(feed, [FeedEvent::Visible(key(1)), FeedEvent::Withdrawn(key(1))]);
    archive.reserve(2, (2, 4), &FOUR);
    archive.commit(2, &FOUR, vec![entry(1, &[]), entry(2, &[])]);
    assert!(!archive.is_visible(1) && archive.is_visible(2));
    let Ok(archived) = archive.state.is_archived(key(1));
    assert!(archived);
}

#[test]
fn a_held_path_that_is_withdrawn_appears_only_once_it_is_reinstated_and_its_reference_is_there() {
    let mut archive = Archive::of(4);
    archive.reserve(1, (2, 4), &FOUR);
    archive.reserve(2, (2, 4), &FOUR);
    archive.reserve(3, (2, 4), &FOUR);
    archive.commit(1, &FOUR, vec![entry(1, &[9]), entry(2, &[8])]);
    withdraw(&mut archive, 1);
    withdraw(&mut archive, 2);
    archive.commit(2, &FOUR, vec![entry(9, &[])]);
    assert!(archive.is_visible(9) && !archive.is_visible(1));
    assert_eq!(reinstate(&mut archive, 1), CommandOutcome::Applied);
    assert_eq!(reinstate(&mut archive, 2), CommandOutcome::Applied);
    assert!(archive.is_visible(1) && !archive.is_visible(2));
    archive.commit(3, &FOUR, vec![entry(8, &[])]);
    assert!(archive.is_visible(2));
}

#[test]
fn a_reinstated_key_is_found_where_it_was_and_where_it_came_to_lie_meanwhile() {
    let mut archive = Archive::of(4);
    archive.publish(1, (2, 4), &FOUR);
    let Ok(before) = archive.state.locations(key(1));
    withdraw(&mut archive, 1);
    archive.reserve(2, (2, 4), &FOUR);
    archive.reserve(3, (2, 4), &FOUR);
    archive.commit(2, &FOUR, vec![entry(1, &[])]);
    archive.commit(3, &FOUR, vec![entry(3, &[1])]);
    assert!(!archive.is_visible(1) && !archive.is_visible(3));
    assert_eq!(reinstate(&mut archive, 1), CommandOutcome::Applied);
    let Ok(after) = archive.state.locations(key(1));
    assert_eq!((&after[..1], after.len()), (&before[..], 2));
    assert!(archive.is_visible(3), "it waited for nothing else");
    let Ok(feed) = archive.state.feed_from(0, 10);
    let told = [
        FeedEvent::Visible(key(1)),
        FeedEvent::Withdrawn(key(1)),
        FeedEvent::Visible(key(1)),
        FeedEvent::Visible(key(3)),
    ];
    assert_eq!(feed, told);
    let Ok(counters) = archive.state.counters();
    assert_eq!((counters.withdrawn, counters.visible_keys), (0, 2));
}

#[test]
fn what_was_not_withdrawn_cannot_be_reinstated() {
    let mut archive = Archive::of(4);
    archive.publish(1, (2, 4), &FOUR);
    let Ok(before) = archive.state.counters();
    assert_eq!(reinstate(&mut archive, 1), CommandOutcome::Rejected(RejectReason::NotWithdrawn));
    let Ok(after) = archive.state.counters();
    assert_eq!(after.ledger, before.ledger, "nothing was done, and the ledger says nothing");
}

#[test]
fn a_token_is_used_once() {
    let mut archive = Archive::of(1);
    let Ok(ledger) = archive.state.ledger_from(0, 1);
    let used = ledger[0].act.clone();
    let outcome = archive.run(Command::Govern(used));
    assert_eq!(outcome, CommandOutcome::Rejected(RejectReason::TokenUsed));
}

#[test]
fn the_archives_time_never_goes_back() {
    let mut archive = Archive::of(1);
    let late = archive.now;
    let act = LedgerAct::RemovePublisher { name: "x".into() };
    let early = TimedCommand::of_coordinators(Timestamp::from_millis(5), Command::Govern(act));
    let Ok(applied) = apply(&archive.state, &early);
    archive.state.absorb(applied.changes);
    let Ok(counters) = archive.state.counters();
    assert_eq!(counters.time, late);
    let Ok(ledger) = archive.state.ledger_from(1, 1);
    assert_eq!(ledger[0].at, late);
}

#[test]
fn the_level_of_commands_only_rises() {
    let mut archive = Archive::of(0);
    for (level, expected) in [(2, 2), (1, 2), (3, 3)] {
        assert_eq!(archive.run(Command::RaiseFeatureLevel { level }), CommandOutcome::Applied);
        let Ok(counters) = archive.state.counters();
        assert_eq!(counters.feature_level, expected);
    }
}

#[test]
fn replaying_the_log_gives_the_same_digest() {
    let mut archive = Archive::of(4);
    archive.publish(1, (2, 4), &FOUR);
    withdraw(&mut archive, 1);
    let mut replica = Archive::of(0);
    for command in &archive.log {
        let Ok(applied) = apply(&replica.state, command);
        replica.state.absorb(applied.changes);
    }
    assert_eq!(replica.state, archive.state);
    assert_eq!(full_digest(&replica.state), full_digest(&archive.state));
    archive.wait(1);
    archive.run(Command::Summary { nodes: vec![] });
    assert_ne!(full_digest(&replica.state), full_digest(&archive.state));
}
