//! Archives with small bundles, and commands that bring them together.

use firn_base::{BundleNumber, Location};
use firn_coordinator_logic::{Catalogue, Facts, advance, apply, full_digest};
use firn_wire::{
    BundleFill, Command, CommandOutcome, CompactedBundle, GatheredPlace, GatheredRecord, RecordPlace,
    RejectReason, TimedCommand,
};

use crate::support::{Archive, at, bundle_id, commit_of, entry, key};

pub(crate) const FOUR: [u32; 4] = [0, 1, 2, 3];

/// Runs a command, and checks the kept digest against one made anew.
pub(crate) fn run(archive: &mut Archive, command: Command) -> CommandOutcome {
    let Ok(mut digest) = full_digest(&archive.state);
    let timed = TimedCommand::of_coordinators(archive.now, command.clone());
    let Ok(applied) = apply(&archive.state, &timed);
    let Ok(()) = advance(&mut digest, &archive.state, &applied.changes);
    let outcome = archive.run(command);
    assert_eq!(Ok(digest), full_digest(&archive.state));
    outcome
}

/// A record of the bundle that is named so many-th comes ten entries behind where it lay.
pub(crate) fn gathered((bundle, name): &(u16, u8)) -> GatheredRecord {
    GatheredRecord {
        key: key(*name),
        from: GatheredPlace { bundle: *bundle, place: at(*name) },
        to: RecordPlace { block: *bundle, entry: at(*name + 10).entry },
    }
}

pub(crate) fn into(tag: u8, records: &[(u16, u8)]) -> CompactedBundle {
    let commit = commit_of(tag, &FOUR, Vec::new());
    let (reservation, receipts) = (commit.reservation, commit.receipts);
    CompactedBundle { reservation, receipts, records: records.iter().map(gathered).collect() }
}

/// Who has looked just now whether others use chunks of them proposes this.
pub(crate) fn compact(tags: &[u8], into: Vec<CompactedBundle>) -> Command {
    compact_unused(tags, into, BundleNumber(u32::MAX))
}

pub(crate) fn compact_unused(tags: &[u8], into: Vec<CompactedBundle>, looked_to: BundleNumber) -> Command {
    let bundles = tags.iter().copied().map(bundle_id).collect();
    Command::CompactUnused { bundles, into, looked_to }
}

pub(crate) fn next_bundle(archive: &Archive) -> BundleNumber {
    let Ok(counters) = archive.state.counters();
    BundleNumber(counters.next_bundle)
}

pub(crate) fn changed(outcome: &CommandOutcome, why: &str) -> bool {
    matches!(outcome, CommandOutcome::Rejected(RejectReason::BundleChanged(said)) if said.contains(why))
}

pub(crate) fn location(archive: &Archive, name: u8) -> Option<Location> {
    let Ok(location) = archive.state.location(key(name));
    location
}

/// Bundle 1 has the keys 1 and 2, bundle 2 has 3, which refers to 1, and 4, which waits for 90; bundle 3 has 5. Bundle 7 is
/// uploaded.
pub(crate) fn three_bundles() -> Archive {
    let mut archive = Archive::of(4);
    archive.commit_with(1, vec![entry(1, &[]), entry(2, &[])], vec![key(50)]);
    archive.wait(5);
    archive.commit_with(2, vec![entry(3, &[]), entry(4, &[90])], Vec::new());
    archive.wait(5);
    archive.commit_with(3, vec![entry(5, &[])], vec![key(60)]);
    archive.wait(5);
    assert_eq!(archive.reserve(7, (2, 4), &FOUR), CommandOutcome::Applied);
    archive
}

pub(crate) const ALL: [(u16, u8); 5] = [(0, 1), (0, 2), (1, 3), (1, 4), (2, 5)];

pub(crate) fn fill(archive: &Archive) -> BundleFill {
    let Ok(catalogue) = Catalogue::load(&archive.state);
    catalogue.fill()
}

pub(crate) fn visible(archive: &Archive) -> Vec<u8> {
    (1..=99).filter(|name| archive.is_visible(*name)).collect()
}
