//! An archive from which bundles were erased for purges is told again: equal digests, and what stayed readable is readable.

use firn_coordinator_logic::{CertifiedBundle, Facts, MemoryState, RecordSummary, Scan};
use firn_wire::{
    Command, CommandOutcome, LedgerAct, MovedRecord, RecordPlace, RejectReason, ReplacementBundle,
    RestoredReplacement,
};

use crate::rebuild_support::{evidence, heads, in_order, show, withdraw};
use crate::support::{Archive, bundle_id, commit_of, entry, key, node_id, uploader};

const FOUR: [u32; 4] = [0, 1, 2, 3];

const fn at(entry: u8) -> RecordPlace {
    RecordPlace { block: 0, entry: entry as u16 }
}

impl Archive {
    fn is_applied(&mut self, command: Command) {
        assert_eq!(self.run(command), CommandOutcome::Applied);
    }

    /// Purges `name` out of bundle `old`: the keys `kept` come into bundle `new`, ten entries behind where they lay.
    fn purge_out_of(&mut self, old: u8, name: u8, (new, kept): (u8, &[u8])) {
        self.pack_anew(old, name, (new, kept));
        self.is_applied(Command::EraseBundle { bundle: bundle_id(old), surplus: Vec::new() });
    }

    /// The same up to the erasure.
    fn pack_anew(&mut self, old: u8, name: u8, (new, kept): (u8, &[u8])) {
        self.govern(withdraw(name));
        self.govern(LedgerAct::Purge { key: key(name), reason: "court".into() });
        self.is_applied_reserve(new);
        let moved = |name: &u8| MovedRecord { key: key(*name), from: at(*name), to: at(*name + 10) };
        let commit = commit_of(new, &FOUR, Vec::new());
        let replacement = ReplacementBundle {
            reservation: commit.reservation,
            receipts: commit.receipts,
            records: kept.iter().map(moved).collect(),
        };
        self.is_applied(Command::ReplaceBundle {
            bundle: bundle_id(old),
            left_out: vec![(key(name), at(name))],
            replacements: vec![replacement],
        });
    }

    fn is_applied_reserve(&mut self, tag: u8) {
        assert_eq!(self.reserve(tag, (2, 4), &FOUR), CommandOutcome::Applied);
    }
}

/// Keys 1 and 2 share bundle 1; bundle 2 has 5, which refers to 1, 6, and 8, which refers to 2. The keys 2 and 6 are purged,
/// 1 is withdrawn between them; 10, which refers to 2, comes last.
fn purged() -> Archive {
    let mut archive = Archive::of(4);
    archive.govern(LedgerAct::AddUploader { key: uploader(), name: "hydra".into() });
    archive.commit_with(1, vec![entry(1, &[]), entry(2, &[])], Vec::new());
    archive.wait(5);
    archive.commit_with(2, vec![entry(5, &[]), entry(6, &[]), entry(8, &[])], Vec::new());
    archive.wait(5);
    archive.purge_out_of(1, 2, (7, &[1]));
    archive.govern(withdraw(1));
    archive.wait(5);
    archive.purge_out_of(2, 6, (9, &[5, 8]));
    archive.wait(5);
    archive.commit_with(3, vec![entry(10, &[2])], Vec::new());
    archive
}

fn manifests(bundle: &CertifiedBundle) -> Vec<RecordSummary> {
    let record = |name: u8, entry: u8, references: &[u8]| RecordSummary {
        key: key(name),
        block: 0,
        entry: entry.into(),
        references: references.iter().copied().map(key).collect(),
    };
    let tag = [1, 2, 3, 7, 9].into_iter().find(|tag| bundle_id(*tag) == bundle.certificate.bundle).unwrap();
    match tag {
        1 => vec![record(1, 1, &[]), record(2, 2, &[])],
        2 => vec![record(5, 5, &[1]), record(6, 6, &[]), record(8, 8, &[2])],
        7 => vec![record(1, 11, &[])],
        9 => vec![record(5, 15, &[1]), record(8, 18, &[2])],
        _ => vec![record(10, 10, &[2])],
    }
}

#[test]
fn an_archive_with_purges_and_withdrawals_told_again_has_the_same_digests() {
    let old = purged();
    assert_eq!(
        visible(&old),
        [5, 8],
        "what was readable before a withdrawal stays so, what came later waits"
    );
    let mut evidence = evidence();
    let ledger = old.ledger();
    for node in [1, 2] {
        evidence.show_governance(node_id(node), &[], &heads(&[1, 2], &ledger), ledger.clone());
        for tag in [9, 3, 7] {
            show(&mut evidence, node_id(node), old.kept(tag, &[0, 1]));
        }
    }
    assert_eq!(
        in_order(&evidence),
        [bundle_id(7), bundle_id(9), bundle_id(3)],
        "where their first forms stood"
    );
    let mut new = Archive::beginning(MemoryState::new(), old.now);
    new.restore(&evidence, manifests);
    assert_eq!(visible(&new), [5, 8]);
    assert_eq!(new.digests(), old.digests());
    let (Ok(before), Ok(after)) = (old.state.counters(), new.state.counters());
    assert_eq!(
        (after.visible_keys, after.held_records, after.withdrawn, after.externals),
        (before.visible_keys, before.held_records, before.withdrawn, before.externals)
    );
}

/// An archive in which both bundles were packed anew and neither was erased.
fn purged_midway() -> Archive {
    let mut archive = Archive::of(4);
    archive.govern(LedgerAct::AddUploader { key: uploader(), name: "hydra".into() });
    archive.commit_with(1, vec![entry(1, &[]), entry(2, &[])], Vec::new());
    archive.wait(5);
    archive.commit_with(2, vec![entry(5, &[]), entry(6, &[]), entry(8, &[])], Vec::new());
    archive.wait(5);
    archive.pack_anew(1, 2, (7, &[1]));
    archive.wait(5);
    archive.pack_anew(2, 6, (9, &[5, 8]));
    archive
}

fn visible(archive: &Archive) -> Vec<u8> {
    (1..=10).filter(|name| archive.is_visible(*name)).collect()
}

fn told_again(old: &Archive, shown: &[u8]) -> Archive {
    let mut evidence = evidence();
    let ledger = old.ledger();
    evidence.show_governance(node_id(1), &[], &heads(&[1, 2], &ledger), ledger.clone());
    for tag in shown {
        show(&mut evidence, node_id(1), old.kept(*tag, &[0, 1]));
    }
    let mut new = Archive::beginning(MemoryState::new(), old.now);
    new.restore(&evidence, manifests);
    new
}

#[test]
fn an_archive_lost_between_packing_anew_and_erasing_stands_there_again_and_goes_on() {
    let mut old = purged_midway();
    assert_eq!(visible(&old), [1, 5, 8]);
    let mut new = told_again(&old, &[1, 2, 7, 9]);
    assert_eq!(visible(&new), [1, 5, 8]);
    assert_eq!(new.digests(), old.digests());
    for (tag, by, key_left_out) in [(1, 7, 2), (2, 9, 6)] {
        let bundle = new.bundle(tag);
        let Ok(Some(erasure)) = new.state.erasure(bundle.number) else {
            panic!("bundle {tag} is to be erased")
        };
        assert_eq!(erasure.replacements, [new.bundle(by).number]);
        assert_eq!((erasure.keys, erasure.erased), (vec![key(key_left_out)], None));
    }
    let Ok(purges) = new.state.purges_after(None, 10);
    assert!(
        purges.iter().all(|purge| purge.places.is_empty()),
        "nothing is to be packed once more: {purges:?}"
    );
    // The purge goes on where it was.
    new.is_applied(Command::EndRebuild);
    for archive in [&mut old, &mut new] {
        for tag in [1, 2] {
            archive.is_applied(Command::EraseBundle { bundle: bundle_id(tag), surplus: Vec::new() });
        }
    }
    let content = |archive: &Archive| archive.digests().0;
    assert_eq!(content(&new), content(&old));
    assert_eq!(visible(&new), [1, 5, 8]);
}

#[test]
fn a_bundle_whose_replacement_does_not_come_back_comes_back_whole_without_what_is_purged() {
    let old = purged_midway();
    // Of 7 nobody shows anything.
    let new = told_again(&old, &[1, 2, 9]);
    assert_eq!(visible(&new), [1, 5, 8], "what shared a bundle with a purged path is still readable");
    let number = new.bundle(1).number;
    let Ok(erasure) = new.state.erasure(number);
    assert_eq!(erasure, None, "nothing of it goes");
    let Ok(Some(purge)) = new.state.purge(key(2)) else { panic!("its purge goes on") };
    assert_eq!(purge.places.iter().map(|place| place.bundle).collect::<Vec<_>>(), [number]);
    let Ok(Some(other)) = new.state.purge(key(6)) else { panic!("the other one is a purge still") };
    assert!(other.places.is_empty());
}

#[test]
fn one_that_was_replaced_comes_back_without_records_and_behind_those_that_hold_them() {
    let old = purged_midway();
    let mut evidence = evidence();
    show(&mut evidence, node_id(1), old.kept(1, &[0]));
    let bundle = crate::rebuild_support::codings(&evidence, bundle_id(1)).remove(0);
    let mut new = Archive::beginning(MemoryState::new(), old.now);
    let mut restore = |entries: Vec<firn_wire::IndexEntry>| {
        let command = crate::rebuild_support::restored(bundle.clone(), entries, Vec::new());
        let Command::RestoreBundle(mut command) = command else { panic!("{command:?}") };
        let replacements = vec![bundle_id(7)];
        command.replaced = Some(RestoredReplacement { left_out: Vec::new(), replacements });
        new.run(Command::RestoreBundle(command))
    };
    assert_eq!(restore(Vec::new()), CommandOutcome::Rejected(RejectReason::UnknownBundle));
    let outcome = restore(vec![entry(1, &[])]);
    assert!(matches!(outcome, CommandOutcome::Rejected(RejectReason::Malformed(_))), "{outcome:?}");
}
