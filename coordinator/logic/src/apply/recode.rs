//! A second coding of a bundle: begun, brought to count, or given up.
//!
//! Owns: the change from one coding to another. Always holds: a bundle has one coding, or two of which the first counts
//! and the second has a larger k; the second begins to count only on the word of three nodes of which no two can vanish
//! or lie together (two for its roots, one that decoded it), and with receipts as for a commit (invariant 2); copies of
//! the coding that goes are surplus from then on, still charged, so that readers who know of it only find them.
//! Leaves to others: what the nodes said (the leader), placing shards of the second coding (`placements`).

use std::collections::BTreeSet;

use firn_base::{BundleId, CodingId, NodeId, ShardIndex};
use firn_wire::{Policy, RejectReason};

use super::Verdict;
use super::account::{add_surplus, release, remove_placement};
use crate::caps::Caps;
use crate::change::Change;
use crate::facts::Facts;
use crate::headers::CodedBundle;
use crate::names::NameTable;
use crate::overlay::Overlay;
use crate::state::{BundleRecord, CodingRecord, NodeRecord, RecodingRecord};
use crate::taken::Taken;

fn changed<T, E>(why: &str) -> Result<Verdict<T>, E> {
    Ok(Err(RejectReason::BundleChanged(why.to_owned())))
}

/// Gives a bundle a second coding on whose roots `workers` agree.
pub(super) fn begin<F: Facts>(
    state: &mut Overlay<'_, F>,
    bundle: BundleId,
    coding_header: &[u8],
    n: u8,
    workers: [NodeId; 2],
) -> Result<Verdict<()>, F::Error> {
    let Some(mut record) = state.bundle_by_id(bundle)? else { return Ok(Err(RejectReason::UnknownBundle)) };
    let [first] = record.codings.as_slice() else { return changed("it has two codings") };
    let coded = match CodedBundle::read(&record.content_header, coding_header, n) {
        Ok(coded) => coded,
        Err(error) => return Ok(Err(RejectReason::Malformed(error.to_string()))),
    };
    if coded.scheme.k() <= first.scheme.k() {
        return changed("its k is as large");
    }
    let (Some(one), Some(other)) = (member(state, workers[0])?, member(state, workers[1])?) else {
        return Ok(Err(RejectReason::UnknownNode));
    };
    if !are_apart(&state.policy_or_default()?, &[&one, &other]) {
        return Ok(Err(RejectReason::Malformed("the workers can vanish together".into())));
    }
    for coding in [first.id, coded.coding] {
        // Uploads of either would place shards without looking at what is done here.
        if !state.reservations_of(coding)?.is_empty() {
            return changed("an upload of it is under way");
        }
    }
    if state.coding_bundle(coded.coding)?.is_some_and(|named| named != record.number) {
        return Ok(Err(RejectReason::Malformed("the coding is one of another bundle".into())));
    }
    state.write(Change::NameCoding(coded.coding, record.number));
    let begun = state.counters()?.time;
    record.recoding = Some(RecodingRecord { workers: [one.number, other.number], begun });
    record.codings.push(CodingRecord {
        id: coded.coding,
        header: coding_header.to_vec(),
        scheme: coded.scheme,
        shard_bytes: coded.shard_bytes,
        file_bytes: coded.file_bytes,
        placements: Vec::new(),
    });
    state.write(Change::PutBundle(record));
    Ok(Ok(()))
}

/// Lets the second coding count: `decoder` has restored the payload from its parity.
pub(super) fn finish<F: Facts>(
    state: &mut Overlay<'_, F>,
    bundle: BundleId,
    coding: CodingId,
    decoder: NodeId,
) -> Result<Verdict<()>, F::Error> {
    let (record, recoding) = match under_way(state, bundle, coding)? {
        Ok(found) => found,
        Err(reason) => return Ok(Err(reason)),
    };
    let Some(decoder) = member(state, decoder)? else { return Ok(Err(RejectReason::UnknownNode)) };
    let policy = state.policy_or_default()?;
    for worker in recoding.workers {
        // A worker that was removed meanwhile still is not the decoder.
        if state.node(worker)?.is_none_or(|worker| !are_apart(&policy, &[&worker, &decoder])) {
            return Ok(Err(RejectReason::Malformed("the decoder can vanish together with a worker".into())));
        }
    }
    let second = &record.codings[1];
    let mut placed: BTreeSet<ShardIndex> = BTreeSet::new();
    for (index, holder) in &second.placements {
        if state.node(*holder)?.is_some_and(|holder| holder.is_member()) {
            placed.insert(*index);
        }
    }
    let needed = second.scheme.commit_threshold();
    if placed.len() < usize::from(needed) {
        let found = u8::try_from(placed.len()).unwrap_or(u8::MAX);
        return Ok(Err(RejectReason::TooFewReceipts { found, needed }));
    }
    end(state, record, 0)?;
    Ok(Ok(()))
}

/// Gives the second coding up.
pub(super) fn drop_second<F: Facts>(
    state: &mut Overlay<'_, F>,
    bundle: BundleId,
    coding: CodingId,
) -> Result<Verdict<()>, F::Error> {
    let (record, _) = match under_way(state, bundle, coding)? {
        Ok(found) => found,
        Err(reason) => return Ok(Err(reason)),
    };
    end(state, record, 1)?;
    Ok(Ok(()))
}

/// A bundle with the second coding that the command means.
fn under_way<F: Facts>(
    state: &Overlay<'_, F>,
    bundle: BundleId,
    coding: CodingId,
) -> Result<Verdict<(BundleRecord, RecodingRecord)>, F::Error> {
    let Some(record) = state.bundle_by_id(bundle)? else { return Ok(Err(RejectReason::UnknownBundle)) };
    match (record.recoding, record.codings.as_slice()) {
        (Some(recoding), [_, second]) if second.id == coding => Ok(Ok((record, recoding))),
        _ => changed("it has no such second coding"),
    }
}

/// Ends a re-coding: the coding at this place among the two leaves the bundle.
fn end<F: Facts>(
    state: &mut Overlay<'_, F>,
    mut record: BundleRecord,
    leaving: usize,
) -> Result<(), F::Error> {
    let leaving = record.codings.remove(leaving);
    give_up(state, leaving)?;
    record.recoding = None;
    state.write(Change::PutBundle(record));
    Ok(())
}

/// Makes the copies of a coding that leaves its bundle surplus.
fn give_up<F: Facts>(state: &mut Overlay<'_, F>, mut coding: CodingRecord) -> Result<(), F::Error> {
    for (index, node) in coding.placements.clone() {
        remove_placement(state, &mut coding, index, node)?;
        if state.node(node)?.is_some_and(|record| record.is_member()) {
            add_surplus(state, (coding.id, index, node), coding.file_bytes)?;
        } else {
            release(state, node, coding.file_bytes)?;
        }
    }
    Ok(())
}

fn member<F: Facts>(state: &Overlay<'_, F>, id: NodeId) -> Result<Option<NodeRecord>, F::Error> {
    Ok(state.node_by_id(id)?.filter(NodeRecord::is_member))
}

fn are_apart(policy: &Policy, nodes: &[&NodeRecord; 2]) -> bool {
    let (mut names, mut taken) = (NameTable::new(), Taken::new(Caps::of_any_fleet(policy), 0));
    taken.begin_workers();
    taken.take(&names.names(nodes[0]));
    nodes[0].number != nodes[1].number && taken.leaves(&names.names(nodes[1]))
}
