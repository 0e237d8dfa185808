//! The archive's state, made by the log.
//!
//! Always holds: what entries change, the position behind them and the membership go to the store in one batch,
//! so that a restart goes on exactly where the state stands; batches need no sync, for the log has them until
//! the state was flushed. A store that fails stops the replica: apply never makes an outcome of it.
//! Leaves to others: what a command means (`coordinator/logic`), the log (`log_store`).

use std::sync::Arc;

use firn_coordinator_logic::{Counters, Facts, Overlay, advance, apply};
use firn_transport::Environment;
use firn_wire::{CommandOutcome, FEATURE_LEVEL, decode, encode};
use openraft::storage::RaftStateMachine;
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};

use super::applied_changes::AppliedChanges;
use super::bytes::{Reader, Writer};
use super::digests::{self, COMPARED_EVERY, LateDigests};
use super::facts::StateFacts;
use super::install_gate::InstallGate;
use super::snapshot::{self, StateImage};
use super::types::{
    Doing, LogEntry, LogId, RaftStorageError, Snapshot, SnapshotMeta, StoredMembership, TypeConfig,
};
use super::{changes, keys};
use crate::storage::{Batch, Durability, KeyValue, Read, StorageError, Table};

// The one format of the state's tables so far.
const STATE_FORMAT: u32 = 1;

/// The state in a store. Clones are the same state.
#[derive(Debug, Clone)]
pub(crate) struct StateMachine {
    state: Arc<dyn KeyValue>,
    environment: Environment,
    applied_changes: AppliedChanges,
    late_digests: LateDigests,
    gate: InstallGate,
}

/// Where the state stands.
#[derive(Debug, Clone, Default)]
pub(crate) struct Position {
    pub(crate) applied: Option<LogId>,
    pub(crate) membership: StoredMembership,
}

impl StateMachine {
    /// The state in `state`; refuses one of another format. Blocks on the disk.
    pub(crate) fn open(
        state: Arc<dyn KeyValue>,
        environment: Environment,
        gate: InstallGate,
    ) -> Result<Self, StorageError> {
        match state.get(Table::Meta, keys::FORMAT)? {
            Some(bytes) => check_format(&bytes)?,
            None => {
                let mut batch = Batch::new();
                batch.put(Table::Meta, keys::FORMAT, STATE_FORMAT.to_le_bytes());
                state.write(batch, Durability::Synced)?;
            }
        }
        // What is read from here on may be acted upon, so it must survive a loss of power.
        state.flush()?;
        let machine = Self {
            state,
            environment,
            applied_changes: AppliedChanges::default(),
            late_digests: LateDigests::default(),
            gate,
        };
        machine.restart()?;
        Ok(machine)
    }

    /// What is applied from here on.
    pub(crate) fn applied_changes(&self) -> AppliedChanges {
        self.applied_changes.clone()
    }

    /// The digests of the state at late positions.
    pub(crate) fn late_digests(&self) -> LateDigests {
        self.late_digests.clone()
    }

    /// The state is another than what was applied here last.
    fn restart(&self) -> Result<(), StorageError> {
        check_level(StateFacts::new(Arc::clone(&self.state) as Arc<dyn Read>).counters()?)?;
        let applied = read_position(&*self.state)?.applied.map_or(0, |applied| applied.index);
        self.applied_changes.restart(applied);
        self.late_digests.restart(digests::read(&*self.state)?.at(applied));
        Ok(())
    }

    async fn with_state<T: Send + 'static>(
        &self,
        doing: Doing,
        work: impl FnOnce(&Arc<dyn KeyValue>) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, RaftStorageError> {
        let state = Arc::clone(&self.state);
        let done = self.environment.blocking(move || work(&state)).await;
        done.map_err(|error| doing.failed(&error))
    }

    async fn snapshot(&self) -> Result<Option<Snapshot>, RaftStorageError> {
        let position = self.with_state(Doing::ReadState, |state| read_position(&**state)).await?;
        Ok(position.applied.map(|_| Snapshot {
            meta: snapshot::meta(position.applied, position.membership),
            snapshot: Box::new(StateImage::Here(Arc::clone(&self.state))),
        }))
    }
}

/// Refuses a state whose coordinators have agreed on commands that this program does not know: it would part from them.
fn check_level(counters: Counters) -> Result<(), StorageError> {
    let level = counters.feature_level;
    if level > FEATURE_LEVEL {
        let sentence = format!(
            "the coordinators have gone on to commands of level {level}, this program knows {FEATURE_LEVEL}"
        );
        return Err(StorageError::Newer(sentence));
    }
    Ok(())
}

/// Refuses tables of another format.
pub(super) fn check_format(bytes: &[u8]) -> Result<(), StorageError> {
    match Reader::bare("format", bytes).u32()? {
        STATE_FORMAT => Ok(()),
        found => Err(StorageError::of_version("the state", found, STATE_FORMAT)),
    }
}

/// Where the state of `store` stands.
pub(crate) fn read_position(store: &dyn Read) -> Result<Position, StorageError> {
    let applied = store.get(Table::Meta, keys::APPLIED)?.map(|bytes| read_log_id(&bytes)).transpose()?;
    let membership = store
        .get(Table::Meta, keys::MEMBERSHIP)?
        .map(|bytes| decode(&bytes).map_err(|error| StorageError::undecodable("the membership", error)));
    Ok(Position { applied, membership: membership.transpose()?.unwrap_or_default() })
}

fn read_log_id(bytes: &[u8]) -> Result<LogId, StorageError> {
    let mut reader = Reader::record("position", bytes)?;
    let (term, leader, index) = (reader.u64()?, reader.u64()?, reader.u64()?);
    reader.finish()?;
    Ok(LogId::new(openraft::CommittedLeaderId::new(term, leader), index))
}

fn write_applied(batch: &mut Batch, applied: LogId) {
    let leader = applied.leader_id;
    let bytes = Writer::record().u64(leader.term).u64(leader.node_id).u64(applied.index).finish();
    batch.put(Table::Meta, keys::APPLIED, bytes);
}

fn write_membership(batch: &mut Batch, membership: &StoredMembership) {
    batch.put(Table::Meta, keys::MEMBERSHIP, encode(membership));
}

/// Applies `entries` in one batch.
pub(super) fn apply_entries(
    machine: &StateMachine,
    entries: &[LogEntry],
) -> Result<Vec<CommandOutcome>, StorageError> {
    let state = &machine.state;
    let facts = StateFacts::new(Arc::clone(state) as Arc<dyn Read>);
    let mut overlay = Overlay::new(&facts)?;
    let mut batch = Batch::new();
    let mut outcomes = Vec::with_capacity(entries.len());
    for entry in entries {
        let outcome = match &entry.payload {
            EntryPayload::Blank => CommandOutcome::Applied,
            EntryPayload::Normal(command) => {
                let applied = apply(&overlay, command)?;
                overlay.absorb(applied.changes);
                check_level(overlay.counters()?)?;
                applied.outcome
            }
            EntryPayload::Membership(membership) => {
                let stored = StoredMembership::new(Some(entry.log_id), membership.clone());
                write_membership(&mut batch, &stored);
                CommandOutcome::Applied
            }
        };
        outcomes.push(outcome);
    }
    if let Some(last) = entries.last() {
        write_applied(&mut batch, last.log_id);
    }
    let all = overlay.into_changes();
    let mut digest = digests::read(&**state)?;
    if !all.is_empty() {
        advance(&mut digest, &facts, &all)?;
        digests::write(&mut batch, &digest);
    }
    changes::record(&**state, &mut batch, &all)?;
    state.write(batch, Durability::Buffered)?;
    if let Some(last) = entries.last() {
        machine.applied_changes.record(last.log_id.index, all);
        machine.late_digests.record(digest.at(last.log_id.index));
    }
    Ok(outcomes)
}

impl RaftSnapshotBuilder<TypeConfig> for StateMachine {
    /// The state itself, flushed: from here on the log may forget what made it.
    async fn build_snapshot(&mut self) -> Result<Snapshot, RaftStorageError> {
        let position = self.with_state(Doing::WriteState, |state| {
            // Read before the flush: what it says is then on disk.
            let position = read_position(&**state)?;
            state.flush()?;
            // A replica that has come this far needs no one else's state.
            state.forget_arrivals()?;
            Ok(position)
        });
        let position = position.await?;
        Ok(Snapshot {
            meta: snapshot::meta(position.applied, position.membership),
            snapshot: Box::new(StateImage::Here(Arc::clone(&self.state))),
        })
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), RaftStorageError> {
        let position = self.with_state(Doing::ReadState, |state| read_position(&**state)).await?;
        Ok((position.applied, position.membership))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<CommandOutcome>, RaftStorageError>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<_> = entries.into_iter().collect();
        let machine = self.clone();
        self.with_state(Doing::WriteState, move |_| {
            let mut outcomes = Vec::with_capacity(entries.len());
            // Also bounds what an overlay holds while a restarted replica catches up.
            let stretch = |entry: &LogEntry| entry.log_id.index.saturating_sub(1) / COMPARED_EVERY;
            for some in entries.chunk_by(|one, next| stretch(one) == stretch(next)) {
                outcomes.extend(apply_entries(&machine, some)?);
            }
            Ok(outcomes)
        })
        .await
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<StateImage>, RaftStorageError> {
        // The library asks only where it puts a snapshot together itself; here `inbound` does.
        Ok(Box::new(StateImage::Here(Arc::clone(&self.state))))
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        image: Box<StateImage>,
    ) -> Result<(), RaftStorageError> {
        let mut position = Batch::new();
        if let Some(applied) = meta.last_log_id {
            write_applied(&mut position, applied);
        }
        if meta.last_membership.log_id().is_some() {
            write_membership(&mut position, &meta.last_membership);
        }
        let machine = self.clone();
        let installed = self.environment.blocking(move || {
            snapshot::install(&*machine.state, *image, position)?;
            machine.restart()
        });
        let installed = installed.await;
        self.gate.installed(&installed);
        installed.map_err(|error| Doing::WriteState.failed(&error))
    }

    /// The state as it is now: newer than the last one built is as good.
    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, RaftStorageError> {
        self.snapshot().await
    }
}
