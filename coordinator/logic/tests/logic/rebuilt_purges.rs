//! An archive from which bundles were erased for purges is told again: equal digests, and what stayed readable is readable.

use firn_coordinator_logic::{CertifiedBundle, Facts, MemoryState, RecordSummary};
use firn_wire::{Command, CommandOutcome, LedgerAct, ReplacementBundle};

use crate::rebuild_support::{evidence, heads, in_order, show, withdraw};
use crate::support::{Archive, at, bundle_id, commit_of, entry, feature, key, moved, node_id, uploader};

const FOUR: [u32; 4] = [0, 1, 2, 3];

impl Archive {
    fn is_applied(&mut self, command: Command) {
        assert_eq!(self.run(command), CommandOutcome::Applied);
    }

    /// Purges `name` out of bundle `old`: the keys `kept` come into bundle `new`, ten entries behind where they lay.
    fn purge_out_of(&mut self, old: u8, name: u8, (new, kept): (u8, &[u8])) {
        self.govern(withdraw(name));
        self.govern(LedgerAct::Purge { key: key(name), reason: "court".into() });
        self.is_applied_reserve(new);
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
        self.is_applied(Command::EraseBundle { bundle: bundle_id(old), surplus: Vec::new() });
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
        features: vec![feature(name)],
    };
    let tag = [3, 7, 9].into_iter().find(|tag| bundle_id(*tag) == bundle.certificate.bundle).unwrap();
    match tag {
        7 => vec![record(1, 11, &[])],
        9 => vec![record(5, 15, &[1]), record(8, 18, &[2])],
        _ => vec![record(10, 10, &[2])],
    }
}

#[test]
fn an_archive_with_purges_and_withdrawals_told_again_has_the_same_digests() {
    let old = purged();
    let visible: Vec<u8> = (1..=10).filter(|name| old.is_visible(*name)).collect();
    assert_eq!(visible, [5, 8], "what was readable before a withdrawal stays so, what came later waits");
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
    assert_eq!((1..=10).filter(|name| new.is_visible(*name)).collect::<Vec<u8>>(), visible);
    assert_eq!(new.digests(), old.digests());
    let (Ok(before), Ok(after)) = (old.state.counters(), new.state.counters());
    assert_eq!(
        (after.visible_keys, after.held_records, after.withdrawn, after.externals),
        (before.visible_keys, before.held_records, before.withdrawn, before.externals)
    );
}
