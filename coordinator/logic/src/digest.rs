//! One number for a whole state, so that replicas and rebuilt archives can be compared.
//!
//! Owns: what is compared. Always holds: digests cover ids, never bundle or node numbers, so that they survive
//! a rebuild that numbers anew; equal states have equal digests on every platform.
//! Leaves to others: when to compare.

use std::collections::BTreeMap;

use firn_base::{BundleNumber, Digest, Location, NodeId, ObjectKey, ShardIndex};
use firn_wire::FeedEvent;

use crate::facts::Scan;
use crate::state::{BundleRecord, NodeNumber};

const PAGE: usize = 4096;

/// Digest of content and governance: bundles, where keys lie, what is held back, externals, the ledger. This is
/// what shard files and ledgers restore; it does not depend on the order of commits.
pub fn content_digest<S: Scan>(state: &S) -> Result<Digest, S::Error> {
    let ids = bundle_ids(state)?;
    let mut sum = Summary::new("content");
    let mut bundles = BTreeMap::new();
    for_each_bundle(state, |record| {
        let codings = record.codings.iter().map(|coding| coding.id.as_bytes().to_vec()).collect::<Vec<_>>();
        bundles.insert(record.id, codings.concat());
    })?;
    for (id, codings) in bundles {
        sum.add(id.as_bytes());
        sum.add(&codings);
    }
    let mut places: BTreeMap<ObjectKey, Vec<Vec<u8>>> = BTreeMap::new();
    for_each_place(state, |key, location| places.entry(key).or_default().push(place(&ids, location)))?;
    for (key, mut all) in places {
        all.sort_unstable();
        sum.add(&key.to_bytes());
        sum.add(&all.concat());
    }
    let mut held = Vec::new();
    let mut after = None;
    loop {
        let page = state.held_after(after, PAGE)?;
        for record in &page {
            let waits: Vec<_> = record.waits.iter().map(ObjectKey::to_bytes).collect();
            held.push((record.key.to_bytes(), place(&ids, record.location), waits.concat()));
        }
        match page.last() {
            Some(last) if page.len() == PAGE => after = Some((last.key, last.location)),
            _ => break,
        }
    }
    held.sort_unstable();
    for (key, place, waits) in held {
        sum.add(&key);
        sum.add(&place);
        sum.add(&waits);
    }
    let mut after = None;
    loop {
        let page = state.externals_after(after, PAGE)?;
        page.iter().for_each(|key| sum.add(&key.to_bytes()));
        match page.last() {
            Some(last) if page.len() == PAGE => after = Some(*last),
            _ => break,
        }
    }
    let ledger = state.counters()?.ledger;
    sum.add(&ledger.entries.to_le_bytes());
    sum.add(ledger.digest.as_bytes());
    Ok(sum.finish())
}

/// Digest of everything: content and governance, nodes, placements, reservations, surplus, the feed and the
/// archive's time. Equal log position means equal digest (invariant 7).
pub fn digest<S: Scan>(state: &S) -> Result<Digest, S::Error> {
    let mut sum = Summary::new("state");
    sum.add(content_digest(state)?.as_bytes());
    let nodes = state.all_nodes()?;
    let node_ids: BTreeMap<NodeNumber, NodeId> = nodes.iter().map(|node| (node.number, node.id)).collect();
    let by_id: BTreeMap<NodeId, _> = nodes.iter().map(|node| (node.id, node)).collect();
    for (id, node) in by_id {
        sum.add(id.as_bytes());
        sum.add(node.operator.as_bytes());
        sum.add(node.failure_domain.as_bytes());
        sum.add(node.address.as_bytes());
        sum.add(node.state.to_string().as_bytes());
        let numbers = [
            node.quota_bytes,
            node.assigned_bytes,
            node.shards,
            node.joined_at.as_millis(),
            node.last_seen.as_millis(),
            node.availability.billionths().into(),
            node.vouched.into(),
            node.declared_since.as_millis(),
            node.site.since.as_millis(),
        ];
        sum.add_numbers(&numbers);
        for (prefix, share) in node.site.addresses.shares() {
            sum.add(prefix.to_string().as_bytes());
            sum.add_numbers(&[(*share).into()]);
        }
        if let Some(origin) = node.site.origin {
            sum.add(origin.to_string().as_bytes());
        }
    }
    let mut bundles = BTreeMap::new();
    for_each_bundle(state, |record| {
        let mut own = Summary::new("bundle");
        own.add(record.uploader.as_bytes());
        own.add_numbers(&[record.keys, record.committed_at.as_millis()]);
        for coding in &record.codings {
            own.add(&[coding.scheme.k(), coding.scheme.n()]);
            own.add(&copies(&node_ids, &coding.placements));
        }
        if let Some(recoding) = &record.recoding {
            for worker in recoding.workers {
                own.add(node_ids.get(&worker).map_or([0; 32], |id| *id.as_bytes()).as_slice());
            }
            own.add_numbers(&[recoding.begun.as_millis()]);
        }
        bundles.insert(record.id, own.finish());
    })?;
    bundles.values().for_each(|own| sum.add(own.as_bytes()));
    let mut after = None;
    loop {
        let page = state.reservations_after(after, PAGE)?;
        for record in &page {
            sum.add(record.id.as_bytes());
            sum.add(record.uploader.as_bytes());
            sum.add(record.coding.as_bytes());
            sum.add_numbers(&[record.expires.as_millis(), u64::from(record.committed.is_some())]);
            sum.add(&copies(&node_ids, &record.assignments));
        }
        match page.last() {
            Some(last) if page.len() == PAGE => after = Some(last.id),
            _ => break,
        }
    }
    add_surplus(state, &node_ids, &mut sum)?;
    add_feed(state, &mut sum)?;
    sum.add_numbers(&[state.counters()?.time.as_millis()]);
    Ok(sum.finish())
}

fn add_surplus<S: Scan>(
    state: &S,
    node_ids: &BTreeMap<NodeNumber, NodeId>,
    sum: &mut Summary,
) -> Result<(), S::Error> {
    let mut surplus = Vec::new();
    let mut after = None;
    loop {
        let page = state.surplus_after(after, PAGE)?;
        for record in &page {
            let copy = copies(node_ids, &[(record.index, record.node)]);
            surplus.push((copy, record.coding, record.file_bytes, record.since.as_millis()));
        }
        match page.last() {
            Some(last) if page.len() == PAGE => after = Some((last.node, last.coding, last.index)),
            _ => break,
        }
    }
    surplus.sort_unstable();
    for (copy, coding, file_bytes, since) in surplus {
        sum.add(&copy);
        sum.add(coding.as_bytes());
        sum.add_numbers(&[file_bytes, since]);
    }
    Ok(())
}

fn add_feed<S: Scan>(state: &S, sum: &mut Summary) -> Result<(), S::Error> {
    let mut position = 0;
    loop {
        let page = state.feed_from(position, PAGE)?;
        for event in &page {
            let (FeedEvent::Visible(key) | FeedEvent::Withdrawn(key)) = event;
            sum.add(&[u8::from(matches!(event, FeedEvent::Visible(_)))]);
            sum.add(&key.to_bytes());
        }
        if page.len() < PAGE {
            return Ok(());
        }
        position += PAGE as u64;
    }
}

/// A hash over fields, each behind its length, so that no two lists of fields run together.
struct Summary {
    hasher: blake3::Hasher,
}

impl Summary {
    fn new(of: &str) -> Self {
        let mut sum = Self { hasher: blake3::Hasher::new() };
        sum.add(of.as_bytes());
        sum
    }

    fn add(&mut self, bytes: &[u8]) {
        self.hasher.update(&(bytes.len() as u64).to_le_bytes());
        self.hasher.update(bytes);
    }

    fn add_numbers(&mut self, numbers: &[u64]) {
        numbers.iter().for_each(|number| self.add(&number.to_le_bytes()));
    }

    fn finish(self) -> Digest {
        Digest::from_bytes(*self.hasher.finalize().as_bytes())
    }
}

fn copies(node_ids: &BTreeMap<NodeNumber, NodeId>, placements: &[(ShardIndex, NodeNumber)]) -> Vec<u8> {
    let mut named: Vec<_> = placements.iter().map(|(index, node)| (*index, node_ids.get(node))).collect();
    named.sort_unstable();
    let mut bytes = Vec::with_capacity(named.len() * 33);
    for (index, id) in named {
        bytes.push(index.0);
        bytes.extend_from_slice(id.map_or([0; 32], |id| *id.as_bytes()).as_slice());
    }
    bytes
}

fn place(ids: &BTreeMap<BundleNumber, [u8; 32]>, location: Location) -> Vec<u8> {
    let mut bytes = ids.get(&location.bundle).map_or_else(Vec::new, |id| id.to_vec());
    bytes.extend_from_slice(&location.block.to_be_bytes());
    bytes.extend_from_slice(&location.entry.to_be_bytes());
    bytes
}

fn bundle_ids<S: Scan>(state: &S) -> Result<BTreeMap<BundleNumber, [u8; 32]>, S::Error> {
    let mut ids = BTreeMap::new();
    for_each_bundle(state, |record| {
        ids.insert(record.number, *record.id.as_bytes());
    })?;
    Ok(ids)
}

fn for_each_bundle<S: Scan>(state: &S, mut visit: impl FnMut(&BundleRecord)) -> Result<(), S::Error> {
    let mut from = BundleNumber(0);
    loop {
        let page = state.bundles_from(from, PAGE)?;
        page.iter().for_each(&mut visit);
        match page.last().and_then(|last| last.number.0.checked_add(1)) {
            Some(next) if page.len() == PAGE => from = BundleNumber(next),
            _ => return Ok(()),
        }
    }
}

fn for_each_place<S: Scan>(state: &S, mut visit: impl FnMut(ObjectKey, Location)) -> Result<(), S::Error> {
    let mut after = None;
    loop {
        let page = state.keys_after(after, PAGE)?;
        page.iter().for_each(|(key, location)| visit(*key, *location));
        match page.last() {
            Some((last, _)) if page.len() == PAGE => after = Some(*last),
            _ => break,
        }
    }
    let mut after = None;
    loop {
        let page = state.variants_after(after, PAGE)?;
        page.iter().for_each(|(key, location)| visit(*key, *location));
        match page.last() {
            Some(last) if page.len() == PAGE => after = Some(*last),
            _ => return Ok(()),
        }
    }
}
