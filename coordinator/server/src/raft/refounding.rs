//! A new log behind a state: how an archive goes on whose coordinators were lost.
//!
//! Always holds: the state says that a rebuild is under way before anybody takes part in the new consensus, so nobody
//! plans by what it has forgotten; the new log begins behind the state, so every other member gets the state first.
//! Leaves to others: where the state comes from (a backup, or nothing), the roster that names the members.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use firn_base::Timestamp;
use firn_transport::Environment;
use firn_wire::{Command, TimedCommand};
use openraft::{CommittedLeaderId, EntryPayload, Membership};

use super::install_gate::InstallGate;
use super::log_store::{begin_log, has_log};
use super::state_machine::{StateMachine, apply_entries, read_position};
use super::types::{LogEntry, LogId, Member, Vote};
use crate::storage::{KeyValue, StorageError};

/// Makes `members`, of which `own` is this one, the coordinators of the archive in `state`, with a log that was never
/// written to. Blocks on the disk.
pub(crate) fn refound(
    log: &dyn KeyValue,
    state: &Arc<dyn KeyValue>,
    (own, members): (u64, BTreeMap<u64, Member>),
    at: Timestamp,
    environment: Environment,
) -> Result<(), StorageError> {
    assert!(!has_log(log)?, "a log that has entries goes on with them");
    let machine = StateMachine::open(Arc::clone(state), environment, InstallGate::default())?;
    let before = read_position(&**state)?.applied;
    let (term, index) = before.map_or((0, 0), |id| (id.leader_id.term, id.index));
    let leader = CommittedLeaderId::new(term.saturating_add(1), own);
    let voters: BTreeSet<u64> = members.keys().copied().collect();
    let payloads = [
        EntryPayload::Normal(TimedCommand::of_coordinators(at, Command::BeginRebuild)),
        EntryPayload::Membership(Membership::new(vec![voters], members)),
    ];
    let entries: Vec<LogEntry> = (index.saturating_add(1)..)
        .zip(payloads)
        .map(|(index, payload)| LogEntry { log_id: LogId::new(leader, index), payload })
        .collect();
    apply_entries(&machine, &entries)?;
    // The log says that all is done: it comes last.
    state.flush()?;
    let behind = entries.last().map_or(LogId::new(leader, index), |entry| entry.log_id);
    begin_log(log, behind, Vote::new(leader.term, own))
}
