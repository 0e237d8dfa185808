//! The log of the consensus, and the vote.
//!
//! Always holds: an entry is acknowledged and a vote counts only after it is on disk; writes happen in the order
//! in which they were asked for; entries are removed for good only after the state that they made was flushed, or
//! the one that takes their place was installed (`install_gate`).
//! Leaves to others: what the entries do (`state_machine`).

use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use firn_transport::Environment;
use firn_wire::{decode_as, encode_as};
use openraft::storage::{LogFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::install_gate::InstallGate;
use super::types::{Doing, LogEntry, LogId, RaftStorageError, TypeConfig, Vote};
use crate::storage::{Batch, Durability, KeyRange, KeyValue, ScanLimit, StorageError, Table};

// Of entries, vote and positions on disk. Messages have a version of their own: a new one of theirs must not make a log
// unreadable.
const LOG_VERSION: u16 = 2;

pub(super) const VOTE: &[u8] = b"vote";
const COMMITTED: &[u8] = b"committed";
pub(super) const PURGED: &[u8] = b"purged";

// One message to a follower, unless a single entry is larger: a quarter of a second of a 50 Mbit/s line.
const MESSAGE: ScanLimit = ScanLimit { entries: 1024, bytes: 1 << 20 };

/// The log in a store. Clones read the same log.
#[derive(Debug, Clone)]
pub(crate) struct LogStore {
    log: Arc<dyn KeyValue>,
    state: Arc<dyn KeyValue>,
    environment: Environment,
    gate: InstallGate,
}

impl LogStore {
    /// The log in `log`, whose entries make the state in `state`.
    pub(crate) fn new(
        log: Arc<dyn KeyValue>,
        state: Arc<dyn KeyValue>,
        environment: Environment,
        gate: InstallGate,
    ) -> Self {
        Self { log, state, environment, gate }
    }

    async fn with_log<T: Send + 'static>(
        &self,
        doing: Doing,
        work: impl FnOnce(&dyn KeyValue) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, RaftStorageError> {
        let log = Arc::clone(&self.log);
        let done = self.environment.blocking(move || work(&*log)).await;
        done.map_err(|error| doing.failed(&error))
    }

    async fn entries(&self, range: KeyRange, limit: ScanLimit) -> Result<Vec<LogEntry>, RaftStorageError> {
        self.with_log(Doing::ReadLog, move |log| {
            let entries = log.scan(Table::Log, &range, limit)?;
            entries.iter().map(|(_, value)| read(value)).collect()
        })
        .await
    }
}

fn key(index: u64) -> [u8; 8] {
    index.to_be_bytes()
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, StorageError> {
    decode_as(LOG_VERSION, bytes).map_err(|error| StorageError::undecodable("an entry of the log", error))
}

pub(super) fn read_meta<T: DeserializeOwned>(
    log: &dyn KeyValue,
    name: &[u8],
) -> Result<Option<T>, StorageError> {
    log.get(Table::LogMeta, name)?.map(|bytes| read(&bytes)).transpose()
}

pub(super) fn write_meta<T: Serialize>(
    log: &dyn KeyValue,
    name: &[u8],
    value: &T,
    durability: Durability,
) -> Result<(), StorageError> {
    let mut batch = Batch::new();
    batch.put(Table::LogMeta, name, encode_as(LOG_VERSION, value));
    log.write(batch, durability)
}

/// The last entry of the log.
pub(super) fn last_entry(log: &dyn KeyValue) -> Result<Option<LogEntry>, StorageError> {
    log.last(Table::Log, &KeyRange::all())?.map(|(_, value)| read(&value)).transpose()
}

/// Whether `log` holds entries, or held some.
pub(crate) fn has_log(log: &dyn KeyValue) -> Result<bool, StorageError> {
    Ok(read_meta::<LogId>(log, PURGED)?.is_some() || log.last(Table::Log, &KeyRange::all())?.is_some())
}

/// Makes an empty log begin behind `behind`, with `vote`.
pub(super) fn begin_log(log: &dyn KeyValue, behind: LogId, vote: Vote) -> Result<(), StorageError> {
    let mut batch = Batch::new();
    batch.put(Table::LogMeta, PURGED, encode_as(LOG_VERSION, &behind));
    batch.put(Table::LogMeta, VOTE, encode_as(LOG_VERSION, &vote));
    log.write(batch, Durability::Synced)
}

fn key_range(range: &impl RangeBounds<u64>) -> KeyRange {
    let from = match range.start_bound() {
        Bound::Included(index) => *index,
        Bound::Excluded(index) => index.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let to = match range.end_bound() {
        Bound::Included(index) => index.checked_add(1),
        Bound::Excluded(index) => Some(*index),
        Bound::Unbounded => None,
    };
    KeyRange { from: key(from).to_vec(), to: to.map(|index| key(index).to_vec()) }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<LogEntry>, RaftStorageError> {
        self.entries(key_range(&range), ScanLimit::entries(usize::MAX)).await
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<LogEntry>, RaftStorageError> {
        self.entries(key_range(&(start..end)), MESSAGE).await
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, RaftStorageError> {
        self.with_log(Doing::ReadLog, |log| {
            let last_purged_log_id: Option<LogId> = read_meta(log, PURGED)?;
            let last_log_id = last_entry(log)?.map(|entry| entry.log_id).or(last_purged_log_id);
            Ok(LogState { last_purged_log_id, last_log_id })
        })
        .await
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), RaftStorageError> {
        let vote = *vote;
        self.with_log(Doing::WriteVote, move |log| write_meta(log, VOTE, &vote, Durability::Synced)).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, RaftStorageError> {
        self.with_log(Doing::ReadVote, |log| read_meta(log, VOTE)).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), RaftStorageError> {
        // Only spares a restarted replica some waiting: the next synced append takes it to disk.
        self.with_log(Doing::WriteLog, move |log| {
            write_meta(log, COMMITTED, &committed, Durability::Buffered)
        })
        .await
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, RaftStorageError> {
        let committed =
            self.with_log(Doing::ReadLog, |log| read_meta::<Option<LogId>>(log, COMMITTED)).await?;
        Ok(committed.flatten())
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: LogFlushed<TypeConfig>,
    ) -> Result<(), RaftStorageError>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut batch = Batch::new();
        for entry in entries {
            batch.put(Table::Log, key(entry.log_id.index), encode_as(LOG_VERSION, &entry));
        }
        // The library waits for the callback before it asks for anything else; so do we.
        self.with_log(Doing::WriteLog, move |log| log.write(batch, Durability::Synced)).await?;
        callback.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), RaftStorageError> {
        self.with_log(Doing::WriteLog, move |log| {
            let mut batch = Batch::new();
            batch.delete_range(Table::Log, key(log_id.index), key(u64::MAX));
            log.write(batch, Durability::Synced)
        })
        .await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), RaftStorageError> {
        self.gate.wait().await.map_err(|error| Doing::WriteState.failed(&error))?;
        let state = Arc::clone(&self.state);
        self.with_log(Doing::WriteLog, move |log| {
            // From here on only the state remembers what these entries did.
            state.flush()?;
            let mut batch = Batch::new();
            batch.put(Table::LogMeta, PURGED, encode_as(LOG_VERSION, &log_id));
            batch.delete_range(Table::Log, key(0), key(log_id.index.saturating_add(1)));
            log.write(batch, Durability::Buffered)
        })
        .await
    }
}
