//! Features: the records that had each of them last are found, in bundles that stay.

use firn_base::Feature;
use firn_coordinator_logic::{Facts, advance, apply, find_similar, full_digest};
use firn_wire::{
    Command, CommandOutcome, IndexEntry, LedgerAct, ReplacementBundle, SIMILAR_RECORDS_MAX, SimilarRecord,
    TimedCommand,
};

use crate::support::{Archive, at, bundle_id, commit_of, entry, headers, key, moved};

const FOUR: [u32; 4] = [0, 1, 2, 3];

fn named(name: u8) -> Feature {
    Feature::from_bytes([name; 8])
}

fn with(name: u8, features: &[u8]) -> IndexEntry {
    IndexEntry { features: features.iter().copied().map(named).collect(), ..entry(name, &[]) }
}

fn committed(archive: &mut Archive, tag: u8, entries: Vec<IndexEntry>) {
    archive.reserve(tag, (2, 4), &FOUR);
    let outcome = archive.commit(tag, &FOUR, entries);
    assert!(matches!(outcome, CommandOutcome::Committed { .. }), "{outcome:?}");
}

/// What is found for a feature: bundle and entry of each.
fn found(archive: &Archive, name: u8) -> Vec<SimilarRecord> {
    let Ok(mut found) = find_similar(&archive.state, &[named(200), named(name)]);
    assert!(found[0].is_empty(), "nothing has this feature");
    found.remove(1)
}

fn records(places: &[(u8, u8)]) -> Vec<SimilarRecord> {
    let record = |(tag, name): &(u8, u8)| SimilarRecord { bundle: bundle_id(*tag), place: at(*name) };
    places.iter().map(record).collect()
}

#[test]
fn the_records_that_had_a_feature_last_are_found_the_latest_first() {
    let mut archive = Archive::of(4);
    committed(&mut archive, 1, vec![with(1, &[1, 2]), with(2, &[2])]);
    assert_eq!(found(&archive, 1), records(&[(1, 1)]));
    assert_eq!(found(&archive, 2), records(&[(1, 2), (1, 1)]));
    // A feature that is named twice counts once.
    committed(&mut archive, 2, vec![with(3, &[1, 1])]);
    assert_eq!(found(&archive, 1), records(&[(2, 3), (1, 1)]));
    for tag in 3..9 {
        committed(&mut archive, tag, vec![with(tag + 20, &[1])]);
    }
    let last: Vec<_> = (0..).zip((3..9).rev()).map(|(_, tag): (u8, u8)| (tag, tag + 20)).collect();
    assert_eq!(found(&archive, 1), records(&last[..SIMILAR_RECORDS_MAX]));
}

#[test]
fn nothing_is_found_in_a_bundle_that_others_took_the_place_of_and_what_moved_is_found_there() {
    let mut archive = Archive::of(4);
    committed(&mut archive, 1, vec![entry(1, &[]), entry(2, &[]), with(3, &[7])]);
    for act in [
        LedgerAct::Withdraw { key: key(3), reason: "asked to".into() },
        LedgerAct::Purge { key: key(3), reason: "court".into() },
    ] {
        assert_eq!(archive.run(Command::Govern(act)), CommandOutcome::Applied);
    }
    // A bundle that uses chunks of the first, and has a feature of its own.
    archive.reserve_as(60, &headers(60, 2, vec![bundle_id(1)]), 4, &FOUR);
    let dependent = commit_of(60, &FOUR, vec![with(50, &[90])]);
    let commit = Command::Commit { bundles: vec![dependent], externals: Vec::new() };
    assert!(matches!(archive.run(commit), CommandOutcome::Committed { .. }));
    assert_eq!(found(&archive, 90).len(), 1);
    archive.reserve(7, (2, 4), &FOUR);
    let commit = commit_of(7, &FOUR, Vec::new());
    let replacement = ReplacementBundle {
        reservation: commit.reservation,
        receipts: commit.receipts,
        records: vec![moved(&1), moved(&2)],
    };
    let replace = Command::ReplaceBundle {
        bundle: bundle_id(1),
        left_out: vec![(key(3), at(3))],
        replacements: vec![replacement],
    };
    assert_eq!(found(&archive, 7), records(&[(1, 3)]));
    let timed = TimedCommand::of_coordinators(archive.now, replace.clone());
    let (Ok(mut digest), Ok(applied)) = (full_digest(&archive.state), apply(&archive.state, &timed));
    let Ok(()) = advance(&mut digest, &archive.state, &applied.changes);
    assert_eq!(archive.run(replace), CommandOutcome::Applied);
    assert_eq!(Ok(digest), full_digest(&archive.state));
    assert_eq!(found(&archive, 7), records(&[]));
    assert_eq!(found(&archive, 90), records(&[]));
    assert_eq!(found(&archive, 1), records(&[(7, 11)]));
    assert_eq!(found(&archive, 0), records(&[(7, 12)]));
    // The next record that has it drops the place that leads nowhere.
    committed(&mut archive, 8, vec![with(9, &[7])]);
    assert_eq!(archive.state.similar(named(7)).map(|places| places.len()), Ok(1));
}
