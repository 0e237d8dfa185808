//! Entries of a ledger, for tests of what follows from acts.

use firn_base::{Digest, Timestamp};
use firn_wire::{Actor, LedgerAct, LedgerEntry};

/// The entry of an act; who acted, when, and behind which entry makes no difference here.
pub(crate) fn entry(act: LedgerAct) -> LedgerEntry {
    let (at, previous) = (Timestamp::from_millis(1), Digest::from_bytes([0; 32]));
    LedgerEntry { position: 0, previous, at, by: Actor::Coordinators, act }
}
