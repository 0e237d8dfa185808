//! The digest of a state, from everything it holds.

use std::collections::BTreeMap;

use firn_base::{BundleId, BundleNumber, ObjectKey};

use super::StateDigest;
use super::fact::Entry;
use crate::facts::Scan;
use crate::feed_chain::feed_digest_behind;
use crate::state::{Counters, NodeNumber};

const PAGE: usize = 4096;

/// Reads the whole state. What [`super::advance`] kept up must be equal to it.
pub fn full_digest<S: Scan>(state: &S) -> Result<StateDigest, S::Error> {
    let mut digest = StateDigest::default();
    let names = bundles(state, &mut digest)?;
    let name = |number| names.get(&number).copied().unwrap_or(BundleId::from_bytes([0; 32]));
    pages(
        |after| {
            state.nodes_from(after.map_or(NodeNumber(0), |last: NodeNumber| NodeNumber(last.0 + 1)), PAGE)
        },
        |node| node.number,
        |node| digest.add(&Entry::Node(&node)),
    )?;
    pages(
        |after| state.reservations_after(after, PAGE),
        |record| record.id,
        |record| digest.add(&Entry::Reservation(&record)),
    )?;
    pages(
        |after| state.surplus_after(after, PAGE),
        |record| (record.node, record.coding, record.index),
        |record| digest.add(&Entry::Surplus(&record)),
    )?;
    pages(
        |after| state.keys_after(after, PAGE),
        |(key, _)| *key,
        |(key, location)| digest.add(&Entry::Place(key, name(location.bundle), location)),
    )?;
    pages(
        |after| state.variants_after(after, PAGE),
        |place| *place,
        |(key, location)| {
            digest.add(&Entry::Place(key, name(location.bundle), location));
            digest.add(&Entry::Variant(key, location));
        },
    )?;
    pages(
        |after| state.held_after(after, PAGE),
        |record| (record.key, record.location),
        |record| digest.add(&Entry::Held(&record, name(record.location.bundle))),
    )?;
    let key = |key: &ObjectKey| *key;
    pages(|after| state.externals_after(after, PAGE), key, |key| digest.add(&Entry::External(key)))?;
    pages(
        |after| state.withdrawn_after(after, PAGE),
        |record| record.key,
        |record| {
            let bundles: Vec<_> = record.places.iter().map(|location| name(location.bundle)).collect();
            digest.add(&Entry::Withdrawn(&record, &bundles));
        },
    )?;
    pages(
        |after| state.purges_after(after, PAGE),
        |record| record.key,
        |record| digest.add(&Entry::Purge(&record)),
    )?;
    pages(
        |after| state.erasures_from(after.map_or(BundleNumber(0), next), PAGE),
        |record| record.bundle,
        |record| digest.add(&Entry::Erasure(&record)),
    )?;
    pages(
        |after| state.features_after(after, PAGE),
        |record| record.feature,
        |record| digest.add(&Entry::Feature(&record)),
    )?;
    pages(
        |after| state.used_tokens_after(after, PAGE),
        |token| *token,
        |token| digest.add(&Entry::UsedToken(token)),
    )?;
    pages(
        |after| state.ledger_from(after.map_or(0, |last: u64| last + 1), PAGE),
        |entry| entry.position,
        |entry| digest.add(&Entry::Ledger(&entry)),
    )?;
    if let Some(policy) = state.policy()? {
        digest.add(&Entry::Policy(&policy));
    }
    let counters = state.counters()?;
    // An empty state has no counters yet.
    let feed_digest = feed(state)?;
    digest.add(&Entry::Counters(&Counters { feed_digest, ..counters }));
    digest.remove(&Entry::Counters(&Counters::default()));
    Ok(digest)
}

fn bundles<S: Scan>(
    state: &S,
    digest: &mut StateDigest,
) -> Result<BTreeMap<BundleNumber, BundleId>, S::Error> {
    let mut names = BTreeMap::new();
    pages(
        |after| state.bundles_from(after.map_or(BundleNumber(0), next), PAGE),
        |bundle| bundle.number,
        |bundle| {
            names.insert(bundle.number, bundle.id);
            digest.add(&Entry::Bundle(&bundle));
        },
    )?;
    Ok(names)
}

const fn next(last: BundleNumber) -> BundleNumber {
    BundleNumber(last.0.saturating_add(1))
}

fn feed<S: Scan>(state: &S) -> Result<firn_base::Digest, S::Error> {
    let mut chain = Counters::default().feed_digest;
    let mut position = 0;
    loop {
        let page = state.feed_from(position, PAGE)?;
        chain = feed_digest_behind(chain, &page);
        if page.len() < PAGE {
            return Ok(chain);
        }
        position += PAGE as u64;
    }
}

/// Visits every record of pages that follow each other.
fn pages<T, K: Copy, E>(
    mut read: impl FnMut(Option<K>) -> Result<Vec<T>, E>,
    name: impl Fn(&T) -> K,
    mut visit: impl FnMut(T),
) -> Result<(), E> {
    let mut after = None;
    loop {
        let page = read(after)?;
        after = page.last().map(&name);
        let is_last = page.len() < PAGE;
        page.into_iter().for_each(&mut visit);
        if is_last {
            return Ok(());
        }
    }
}
