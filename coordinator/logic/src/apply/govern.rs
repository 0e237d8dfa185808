//! Acts of governance: each one is appended to the ledger.
//!
//! Owns: the ledger's chain, used tokens, operators, withdrawals, policy. Always holds: an entry names the digest of
//! the entry before, and who asked for it. Leaves to others: whether that one may (`apply`).

use firn_base::ObjectKey;
use firn_wire::{LedgerAct, LedgerEntry, LedgerHead, OperatorEntry, RejectReason};

use super::{Verdict, purge, visibility};
use crate::change::Change;
use crate::facts::Facts;
use crate::overlay::Overlay;
use crate::state::{FeedRecord, WithdrawnRecord};

/// Carries out an act and records it.
pub(super) fn govern<F: Facts>(state: &mut Overlay<'_, F>, act: &LedgerAct) -> Result<Verdict<()>, F::Error> {
    let counters = state.counters()?;
    if counters.rebuilding {
        return Ok(Err(RejectReason::Rebuilding));
    }
    match carry_out(state, act)? {
        Ok(Effect::None) => return Ok(Ok(())),
        Ok(Effect::Some) => {}
        Err(reason) => return Ok(Err(reason)),
    }
    record(state, act)?;
    Ok(Ok(()))
}

/// Whether there was anything to do.
pub(super) enum Effect {
    /// It was so before: nothing is to be recorded.
    None,
    /// It is so from here on.
    Some,
}

/// Carries out an act without recording it.
pub(super) fn carry_out<F: Facts>(
    state: &mut Overlay<'_, F>,
    act: &LedgerAct,
) -> Result<Verdict<Effect>, F::Error> {
    match act {
        LedgerAct::UseToken { token, .. } => {
            if state.is_token_used(*token)? {
                return Ok(Err(RejectReason::TokenUsed));
            }
            state.write(Change::PutUsedToken(*token));
        }
        LedgerAct::Withdraw { key, .. } => {
            if state.is_withdrawn(*key)? {
                return Ok(Ok(Effect::None));
            }
            withdraw(state, *key)?;
        }
        LedgerAct::Reinstate { key, .. } => match state.withdrawn(*key)? {
            Some(_) if state.purge(*key)?.is_some_and(|purge| !purge.places.is_empty()) => {
                return Ok(Err(RejectReason::BeingPurged));
            }
            Some(record) => visibility::reinstate(state, &record)?,
            None => return Ok(Err(RejectReason::NotWithdrawn)),
        },
        LedgerAct::Purge { key, .. } => match purge::begin(state, *key)? {
            Ok(true) => {}
            Ok(false) => return Ok(Ok(Effect::None)),
            Err(reason) => return Ok(Err(reason)),
        },
        // Nodes obey this one, so nothing but a replaced bundle may come to stand in it.
        LedgerAct::Erase { .. } => {
            return Ok(Err(RejectReason::Malformed("bundles are erased by their own command".into())));
        }
        LedgerAct::SetPolicy(policy) => state.write(Change::PutPolicy(policy.clone())),
        LedgerAct::AddOperator { key, name, role } => {
            let entry = OperatorEntry { name: name.clone(), role: *role };
            if state.operator(*key)?.as_ref() == Some(&entry) {
                return Ok(Ok(Effect::None));
            }
            state.write(Change::PutOperator(*key, entry));
        }
        LedgerAct::RemoveOperator { key } => {
            if state.operator(*key)?.is_none() {
                return Ok(Err(RejectReason::NoOperator));
            }
            state.write(Change::RemoveOperator(*key));
        }
        // Who may publish and upload is read from the ledger itself; the others only say what was done.
        LedgerAct::AddPublisher(_)
        | LedgerAct::RemovePublisher { .. }
        | LedgerAct::AddUploader { .. }
        | LedgerAct::RemoveUploader { .. }
        | LedgerAct::CreateToken { .. }
        | LedgerAct::SetNodeState { .. }
        | LedgerAct::ChangeMember(_)
        | LedgerAct::AdoptRoster { .. }
        | LedgerAct::Repack { .. }
        | LedgerAct::Refuse { .. } => {}
    }
    Ok(Ok(Effect::Some))
}

/// Carries out acts one after the other; one that is rejected undoes those before it.
pub(super) fn govern_all<F: Facts>(
    state: &mut Overlay<'_, F>,
    acts: &[LedgerAct],
) -> Result<Verdict<()>, F::Error> {
    for act in acts {
        if let Err(reason) = govern(state, act)? {
            return Ok(Err(reason));
        }
    }
    Ok(Ok(()))
}

/// Records an act. Gives its position.
pub(super) fn record<F: Facts>(state: &mut Overlay<'_, F>, act: &LedgerAct) -> Result<u64, F::Error> {
    let counters = state.counters()?;
    let entry = LedgerEntry {
        position: counters.ledger.entries,
        previous: counters.ledger.digest,
        at: counters.time,
        by: state.actor().clone(),
        act: act.clone(),
    };
    append(state, entry);
    Ok(counters.ledger.entries)
}

/// Appends an entry that follows on the last one.
pub(super) fn append<F: Facts>(state: &mut Overlay<'_, F>, entry: LedgerEntry) {
    state.counters_mut().ledger =
        LedgerHead { entries: entry.position.saturating_add(1), digest: entry.digest() };
    state.write(Change::PutLedger(entry));
}

/// Hides a key: lookups find it no more, and later commits do not bring it back. Its places are kept for the day when
/// it is reinstated; records that wait go on waiting.
fn withdraw<F: Facts>(state: &mut Overlay<'_, F>, key: ObjectKey) -> Result<(), F::Error> {
    let places = state.locations(key)?;
    for variant in places.iter().skip(1) {
        state.write(Change::RemoveVariant(key, *variant));
    }
    let was_visible = !places.is_empty();
    state.write(Change::PutWithdrawn(WithdrawnRecord { key, places }));
    state.counters_mut().withdrawn += 1;
    if was_visible {
        let counters = state.counters_mut();
        counters.visible_keys = counters.visible_keys.saturating_sub(1);
        visibility::append_to_feed(state, FeedRecord::Withdrawn { key });
    }
    Ok(())
}
