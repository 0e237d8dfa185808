//! Rebuilding: the history of an archive told again, in its order, from what nodes show.
//!
//! Owns: the commands that only a rebuild uses. Always holds: none of them does anything unless a rebuild is under way;
//! entries of the ledger follow on the last one or are refused; a bundle comes back with its keys and without placements,
//! so that only proved shards count, where the command says so also if one is missing whose chunks it uses, but for a head
//! without its parts; nothing becomes surplus, so nothing is deleted for a rebuild.
//! Leaves to others: what is believed of what nodes show (`evidence`), placements (`placements`, by inventories).

use firn_base::{Location, ReservationId};
use firn_bundle::BundleRole;
use firn_wire::{LedgerAct, LedgerEntry, RejectReason, RestoredBundle, SurplusCopy};

use super::account::{drop_surplus, release};
use super::commit::{check_dependencies, check_places, take_number};
use super::{Verdict, govern, nodes, reserve, visibility};
use crate::change::Change;
use crate::facts::Facts;
use crate::headers::CodedBundle;
use crate::overlay::Overlay;
use crate::state::{BundleRecord, CodingRecord};

/// From here on nothing is taken on but what is restored.
pub(super) fn begin<F: Facts>(state: &mut Overlay<'_, F>) -> Verdict<()> {
    state.counters_mut().rebuilding = true;
    Ok(())
}

/// The archive is in service again.
pub(super) fn end<F: Facts>(state: &mut Overlay<'_, F>) -> Result<Verdict<()>, F::Error> {
    if !state.counters()?.rebuilding {
        return Ok(Err(RejectReason::NotRebuilding));
    }
    state.counters_mut().rebuilding = false;
    Ok(Ok(()))
}

/// Appends entries as they were, all or none, and carries them out.
pub(super) fn restore_ledger<F: Facts>(
    state: &mut Overlay<'_, F>,
    entries: &[LedgerEntry],
) -> Result<Verdict<()>, F::Error> {
    if !state.counters()?.rebuilding {
        return Ok(Err(RejectReason::NotRebuilding));
    }
    for entry in entries {
        let head = state.counters()?.ledger;
        if entry.position != head.entries || entry.previous != head.digest {
            return Ok(Err(RejectReason::OtherLedger));
        }
        // What was recorded was done then. Where bundles are missing now, there may be nothing to do.
        let _ = govern::carry_out(state, &entry.act)?;
        if let LedgerAct::UseToken { node, operator, failure_domain, .. } = &entry.act {
            nodes::restore(state, (*node).into(), (operator, failure_domain.as_deref()), entry.at)?;
        }
        govern::append(state, entry.clone());
    }
    Ok(Ok(()))
}

/// Enters a bundle and shows its keys, or holds them back, as its commit did.
pub(super) fn restore_bundle<F: Facts>(
    state: &mut Overlay<'_, F>,
    bundle: &RestoredBundle,
) -> Result<Verdict<()>, F::Error> {
    restore(state, bundle, false)
}

/// The same, of one that may lack bundles whose chunks it uses.
pub(super) fn restore_lacking<F: Facts>(
    state: &mut Overlay<'_, F>,
    bundle: &RestoredBundle,
) -> Result<Verdict<()>, F::Error> {
    restore(state, bundle, true)
}

fn restore<F: Facts>(
    state: &mut Overlay<'_, F>,
    bundle: &RestoredBundle,
    may_lack: bool,
) -> Result<Verdict<()>, F::Error> {
    if !state.counters()?.rebuilding {
        return Ok(Err(RejectReason::NotRebuilding));
    }
    let coded = match CodedBundle::read(&bundle.content_header, &bundle.coding_header, bundle.n) {
        Ok(coded) => coded,
        Err(error) => return Ok(Err(RejectReason::Malformed(error.to_string()))),
    };
    if state.bundle_number(coded.bundle)?.is_some() {
        return Ok(Err(RejectReason::BundleExists));
    }
    if let Err(reason) = check_places(&bundle.entries) {
        return Ok(Err(reason));
    }
    // Without a part nothing of a head can be read. Of another bundle, what needs the missing one fails by itself, and comes
    // back with it.
    if (coded.role == BundleRole::Head || !may_lack)
        && let Err(reason) = check_dependencies(state, &coded)?
    {
        return Ok(Err(reason));
    }
    let number = match take_number(state, &coded)? {
        Ok(number) => number,
        Err(reason) => return Ok(Err(reason)),
    };
    // Codings that it had before stay unknown: whether this one is whole shows only later, and what is unknown is kept.
    state.write(Change::NameCoding(coded.coding, number));
    let externals = visibility::unsatisfied(state, &bundle.externals)?;
    state.write(Change::NameBundle(coded.bundle, number));
    state.write(Change::PutBundle(BundleRecord {
        number,
        id: coded.bundle,
        content_header: bundle.content_header.clone(),
        payload_bytes: coded.payload_bytes,
        codings: vec![CodingRecord {
            id: coded.coding,
            header: bundle.coding_header.clone(),
            scheme: coded.scheme,
            shard_bytes: coded.shard_bytes,
            file_bytes: coded.file_bytes,
            placements: Vec::new(),
        }],
        recoding: None,
        keys: bundle.entries.len() as u64,
        uploader: bundle.uploader,
        committed_at: bundle.committed_at,
        ledger_entries: bundle.ledger_entries,
        externals,
    }));
    let place = |block, entry| Location { bundle: number, block, entry };
    let entries: Vec<_> =
        bundle.entries.iter().map(|entry| (place(entry.block, entry.entry), entry)).collect();
    visibility::reveal(state, &entries, &bundle.externals)?;
    Ok(Ok(()))
}

/// Forgets reservations and surplus copies, and gives back what they were charged for.
pub(super) fn forget_uncounted<F: Facts>(
    state: &mut Overlay<'_, F>,
    reservations: &[ReservationId],
    surplus: &[SurplusCopy],
) -> Result<Verdict<()>, F::Error> {
    if !state.counters()?.rebuilding {
        return Ok(Err(RejectReason::NotRebuilding));
    }
    for id in reservations {
        let Some(record) = state.reservation(*id)? else { continue };
        reserve::remove(state, &record);
        for (_, node) in &record.assignments {
            release(state, *node, record.file_bytes)?;
        }
    }
    for copy in surplus {
        if let Some(node) = state.node_number(copy.node)? {
            drop_surplus(state, (copy.coding, copy.index, node))?;
        }
    }
    Ok(Ok(()))
}
