//! The content of an archive in words, to say what differs where two digests of it do.
//!
//! Always holds: a sentence knows no numbers of bundles and no times, as the digest of content does not, so equal content
//! has equal sentences. Leaves to others: whether content is equal, which digests say (`coordinator/logic`).

use std::collections::{BTreeMap, BTreeSet};

use firn_base::{BundleId, BundleNumber, Location};
use firn_coordinator::StateFacts;
use firn_coordinator_logic::{HeldRecord, Scan, WithdrawnRecord};

/// So many facts are told of those that are missing, and of those that are new.
const TOLD_MAX: usize = 4;

/// Every fact that the digest of content sums.
pub(crate) fn content_of(state: &StateFacts) -> Result<BTreeSet<String>, String> {
    let all = usize::MAX;
    let bundles = read(state.bundles_from(BundleNumber(0), all))?;
    let names: BTreeMap<BundleNumber, BundleId> =
        bundles.iter().map(|bundle| (bundle.number, bundle.id)).collect();
    let place = |location: Location| {
        let bundle = names.get(&location.bundle).map_or_else(|| "nowhere".to_owned(), BundleId::short);
        format!("{bundle} at {}/{}", location.block, location.entry)
    };
    let mut content = BTreeSet::new();
    for bundle in bundles.iter().filter(|bundle| !bundle.codings.is_empty()) {
        let codings: BTreeSet<String> = bundle.codings.iter().map(|coding| coding.id.short()).collect();
        content.insert(format!("bundle {} has codings {codings:?}", bundle.id.short()));
    }
    for (key, location) in
        read(state.keys_after(None, all))?.into_iter().chain(read(state.variants_after(None, all))?)
    {
        content.insert(format!("{key:?} lies in {}", place(location)));
    }
    for HeldRecord { key, location, waits } in read(state.held_after(None, all))? {
        content.insert(format!("{key:?} in {} waits for {waits:?}", place(location)));
    }
    for key in read(state.externals_after(None, all))? {
        content.insert(format!("{key:?} is external"));
    }
    for WithdrawnRecord { key, places } in read(state.withdrawn_after(None, all))? {
        let places: BTreeSet<String> = places.into_iter().map(place).collect();
        content.insert(format!("{key:?} is withdrawn and lies in {places:?}"));
    }
    Ok(content)
}

/// The first facts that there were and are not, and that there are and were not.
pub(crate) fn differences(before: &BTreeSet<String>, after: &BTreeSet<String>) -> String {
    let first = |one: &BTreeSet<String>, other| {
        let facts: Vec<&str> = one.difference(other).map(String::as_str).collect();
        let told = facts.iter().take(TOLD_MAX).copied().collect::<Vec<_>>().join("; ");
        format!("{} ({told})", facts.len())
    };
    format!(
        "facts of content that are missing: {}; that are new: {}",
        first(before, after),
        first(after, before)
    )
}

fn read<T, E: std::fmt::Display>(read: Result<T, E>) -> Result<T, String> {
    read.map_err(|error| error.to_string())
}
