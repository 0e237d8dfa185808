//! An archive whose small bundles came together is told again, and comes out the same.

use firn_coordinator_logic::{CertifiedBundle, Facts, MemoryState, RecordSummary};
use firn_wire::{Command, CommandOutcome, LedgerAct};

use crate::compaction_support::{FOUR, compact, into, run, visible};
use crate::rebuild_support::{evidence, heads, in_order, show, withdraw};
use crate::support::{Archive, at, bundle_id, entry, key, node_id, uploader};

/// Bundles 1 and 2 come together, and 4 with 5; in between there are a withdrawal of what 2 refers to, and records that
/// refer to what is compacted, wait for it, and are external to it.
fn compacted() -> Archive {
    let mut archive = Archive::of(4);
    archive.govern(LedgerAct::AddUploader { key: uploader(), name: "hydra".into() });
    archive.commit_with(1, vec![entry(1, &[]), entry(2, &[])], vec![key(50)]);
    archive.wait(5);
    archive.commit_with(3, vec![entry(5, &[]), entry(6, &[4])], Vec::new());
    archive.wait(5);
    archive.commit_with(2, vec![entry(3, &[]), entry(4, &[90])], vec![key(60)]);
    archive.wait(5);
    archive.govern(withdraw(1));
    archive.commit_with(4, vec![entry(7, &[1])], Vec::new());
    archive.commit_with(5, vec![entry(8, &[])], Vec::new());
    archive.wait(5);
    for (tag, olds, records) in
        [(21, [1, 2], &[(0, 1), (0, 2), (1, 3), (1, 4)][..]), (22, [4, 5], &[(0, 7), (1, 8)][..])]
    {
        assert_eq!(archive.reserve(tag, (2, 4), &FOUR), CommandOutcome::Applied);
        assert_eq!(run(&mut archive, compact(&olds, vec![into(tag, records)])), CommandOutcome::Applied);
    }
    archive.wait(5);
    archive.commit_with(6, vec![entry(9, &[3])], Vec::new());
    archive
}

fn manifests(bundle: &CertifiedBundle) -> Vec<RecordSummary> {
    let record = |(block, name): (u16, u8), behind: u8, references: &[u8]| RecordSummary {
        key: key(name),
        block,
        entry: at(name + behind).entry,
        references: references.iter().copied().map(key).collect(),
        features: Vec::new(),
    };
    let tags = [1, 2, 3, 4, 5, 6, 21, 22].into_iter();
    let tag = tags.into_iter().find(|tag| bundle_id(*tag) == bundle.certificate.bundle).unwrap();
    let small = |name: u8| match name {
        2 => vec![50],
        3 => vec![1, 60],
        4 => vec![90],
        6 => vec![4],
        7 => vec![1],
        9 => vec![3],
        _ => Vec::new(),
    };
    let all = |records: &[(u16, u8)], behind| {
        records.iter().map(|place| record(*place, behind, &small(place.1))).collect()
    };
    match tag {
        1 => all(&[(0, 1), (0, 2)], 0),
        2 => all(&[(0, 3), (0, 4)], 0),
        3 => all(&[(0, 5), (0, 6)], 0),
        4 => all(&[(0, 7)], 0),
        5 => all(&[(0, 8)], 0),
        6 => all(&[(0, 9)], 0),
        21 => all(&[(0, 1), (0, 2), (1, 3), (1, 4)], 10),
        _ => all(&[(0, 7), (1, 8)], 10),
    }
}

fn told_again(old: &Archive, tags: &[u8]) -> Archive {
    let mut evidence = evidence();
    let ledger = old.ledger();
    for node in [1, 2] {
        evidence.show_governance(node_id(node), &[], &heads(&[1, 2], &ledger), ledger.clone());
        for tag in tags {
            show(&mut evidence, node_id(node), old.kept(*tag, &[0, 1]));
        }
    }
    let mut new = Archive::beginning(MemoryState::new(), old.now);
    let _ = in_order(&evidence);
    new.restore(&evidence, manifests);
    new
}

#[test]
fn an_archive_that_was_compacted_and_is_told_again_has_the_same_digests() {
    let mut old = compacted();
    assert_eq!(visible(&old), [2, 3, 5, 8, 9], "4 and 6 wait, 1 is withdrawn, and 7 came later than that");
    for tag in [1, 2, 4, 5] {
        let erase = Command::EraseBundle { bundle: bundle_id(tag), surplus: Vec::new() };
        assert_eq!(run(&mut old, erase), CommandOutcome::Applied);
    }
    let new = told_again(&old, &[22, 6, 21, 3]);
    assert_eq!(visible(&new), visible(&old));
    assert_eq!(new.digests(), old.digests());
    let (Ok(before), Ok(after)) = (old.state.counters(), new.state.counters());
    assert_eq!(
        (after.visible_keys, after.held_records, after.withdrawn, after.externals),
        (before.visible_keys, before.held_records, before.withdrawn, before.externals)
    );
}

#[test]
fn an_archive_that_is_lost_between_compaction_and_erasure_comes_back_with_both_and_counts_no_path_twice() {
    let old = compacted();
    let new = told_again(&old, &[1, 2, 3, 4, 5, 6, 21, 22]);
    assert_eq!(visible(&new), visible(&old));
    let (Ok(before), Ok(after)) = (old.state.counters(), new.state.counters());
    assert_eq!((after.visible_keys, after.withdrawn), (before.visible_keys, before.withdrawn));
    let Ok(places) = new.state.locations(key(3));
    assert_eq!(places.len(), 2, "by the old bundle and by the new one");
}

#[test]
fn of_what_was_committed_at_one_time_a_compacted_bundle_is_told_before_what_came_after_an_act() {
    let mut archive = Archive::of(4);
    archive.commit_with(1, vec![entry(1, &[])], Vec::new());
    archive.commit_with(2, vec![entry(2, &[])], Vec::new());
    archive.govern(LedgerAct::AddUploader { key: uploader(), name: "hydra".into() });
    archive.commit_with(3, vec![entry(3, &[])], Vec::new());
    assert_eq!(archive.reserve(7, (2, 4), &FOUR), CommandOutcome::Applied);
    let both = into(7, &[(0, 1), (1, 2)]);
    assert_eq!(run(&mut archive, compact(&[1, 2], vec![both])), CommandOutcome::Applied);
    assert_eq!(archive.bundle(7).committed_at, archive.bundle(3).committed_at);
    let (mut evidence, ledger) = (evidence(), archive.ledger());
    for node in [1, 2] {
        evidence.show_governance(node_id(node), &[], &heads(&[1, 2], &ledger), ledger.clone());
        for tag in [3, 7] {
            show(&mut evidence, node_id(node), archive.kept(tag, &[0, 1]));
        }
    }
    assert_eq!(in_order(&evidence), [bundle_id(7), bundle_id(3)]);
}
