//! What came together goes from every disk, and purges go on behind it.

use std::time::Duration;

use firn_base::Timestamp;
use firn_coordinator_logic::{Facts, PurgeBook, PurgesWanted, RefusedSteps, plan_purging, purge_progress};
use firn_wire::{
    Command, CommandOutcome, LedgerAct, MovedRecord, NodeStatus, RecordPlace, ReplacementBundle, SurplusCopy,
};

use crate::compaction_support::{ALL, FOUR, compact, fill, gathered, into, run, three_bundles, visible};
use crate::rebuild_support::withdraw;
use crate::support::{Archive, PAYLOAD_BYTES, at, bundle_id, commit_of, key, moved, status};

const GRACE: Duration = Duration::from_secs(600);

#[test]
fn what_was_compacted_counts_no_more_and_is_erased_once_readers_know_and_the_new_one_is_safe() {
    let mut archive = three_bundles();
    assert_eq!(run(&mut archive, compact(&[1, 2, 3], vec![into(7, &ALL)])), CommandOutcome::Applied);
    assert_eq!(fill(&archive).bundles, 1, "what others took the place of is not counted");
    let commands = |archive: &Archive| {
        archive.planning(|view| {
            let Ok(book) = PurgeBook::read(&archive.state, view.catalogue);
            plan_purging(&book, view, GRACE, &RefusedSteps::default())
        })
    };
    assert_eq!(commands(&archive), []);
    archive.wait(600_000);
    archive.hear_all_but(&[]);
    let erase = |tag| Command::EraseBundle { bundle: bundle_id(tag), surplus: Vec::<SurplusCopy>::new() };
    assert_eq!(commands(&archive), [1, 2, 3].map(erase));
    for tag in [1, 2, 3] {
        assert_eq!(run(&mut archive, erase(tag)), CommandOutcome::Applied);
    }
    let Ok(counters) = archive.state.counters();
    assert_eq!(counters.payload_bytes, PAYLOAD_BYTES);
    for node in FOUR {
        let erased_through = counters.ledger.entries;
        archive.hear_status(node, NodeStatus { erased_through, ..status(1) });
    }
    for command in commands(&archive) {
        assert_eq!(run(&mut archive, command), CommandOutcome::Applied);
    }
    assert!(archive.planning(|view| view.catalogue.is_purged()));
    assert_eq!(fill(&archive).bundles, 1);
}

#[test]
fn a_purge_goes_on_behind_a_compaction() {
    let mut archive = three_bundles();
    assert_eq!(run(&mut archive, compact(&[1, 2, 3], vec![into(7, &ALL)])), CommandOutcome::Applied);
    archive.govern(withdraw(1));
    archive.govern(LedgerAct::Purge { key: key(1), reason: "court".into() });
    // Its bytes lie in a bundle that was replaced before, and nobody asks which.
    let old = [1, 2, 3].map(bundle_id);
    let progress = |archive: &Archive| {
        let wanted = PurgesWanted { since: Timestamp::default(), after: None, limit: usize::MAX };
        let mut all = archive.planning(|view| {
            let Ok(book) = PurgeBook::read(&archive.state, view.catalogue);
            purge_progress(&book, view, &wanted)
        });
        all.remove(0)
    };
    let before = progress(&archive);
    assert_eq!((&before.to_repack[..], &before.passing[..]), (&[bundle_id(7)][..], &old[..]));
    assert_eq!(archive.reserve(8, (2, 4), &FOUR), CommandOutcome::Applied);
    let commit = commit_of(8, &FOUR, Vec::new());
    let stays = ALL[1..].iter().map(gathered).map(|record| MovedRecord { from: record.to, ..moved(&0) });
    let stays = stays.zip(&ALL[1..]).map(|(record, (_, name))| MovedRecord {
        key: key(*name),
        to: at(*name),
        ..record
    });
    let replacement = ReplacementBundle {
        reservation: commit.reservation,
        receipts: commit.receipts,
        records: stays.collect(),
    };
    let replace = Command::ReplaceBundle {
        bundle: bundle_id(7),
        left_out: vec![(key(1), RecordPlace { block: 0, entry: 11 })],
        replacements: vec![replacement],
    };
    assert_eq!(run(&mut archive, replace), CommandOutcome::Applied);
    assert_eq!(visible(&archive), [2, 3, 5]);
    assert_eq!(progress(&archive).passing, [&old[..], &[bundle_id(7)]].concat());
    let erase = |bundle| Command::EraseBundle { bundle, surplus: Vec::new() };
    assert_eq!(run(&mut archive, erase(bundle_id(7))), CommandOutcome::Applied);
    assert_eq!(progress(&archive).passing, old);
    for bundle in old {
        assert_eq!(run(&mut archive, erase(bundle)), CommandOutcome::Applied);
    }
    let after = progress(&archive);
    assert!(after.passing.is_empty() && !after.is_done(), "no node has said that it is gone");
}
