//! The library's own storage suite, and what it does not ask: crashes, faults, replays and snapshots.

use std::sync::Arc;

use firn_base::{PublicKey, Timestamp};
use firn_coordinator_logic::Facts;
use firn_transport::Environment;
use firn_wire::{Command, CommandOutcome, FEATURE_LEVEL, LedgerAct, TimedCommand, encode};
use openraft::entry::RaftEntry;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt, RaftStateMachine};
use openraft::testing::{StoreBuilder, Suite};
use openraft::{CommittedLeaderId, Entry, EntryPayload, RaftLogReader, RaftSnapshotBuilder};
use tempfile::TempDir;

use super::types::{LogEntry, LogId, RaftStorageError, TypeConfig, Vote};
use super::{InstallGate, LogStore, StateFacts, StateMachine};
use crate::storage::{Fault, KeyValue, Memory, Read, StorageError, StoreKind, copy_image};

type Stores = (Arc<dyn KeyValue>, Arc<dyn KeyValue>);

fn open(stores: &Stores) -> (LogStore, StateMachine) {
    let (log, state) = stores.clone();
    let gate = InstallGate::default();
    let machine = StateMachine::open(Arc::clone(&state), Environment::real(), gate.clone()).unwrap();
    (LogStore::new(log, state, Environment::real(), gate), machine)
}

fn in_memory() -> (Memory, Memory) {
    (Memory::new(StoreKind::Log), Memory::new(StoreKind::State))
}

fn shared(memory: &(Memory, Memory)) -> Stores {
    (Arc::new(memory.0.clone()), Arc::new(memory.1.clone()))
}

/// Makes empty stores, and the place on disk that goes with them. The suite is large, and compiled once for each type that
/// makes stores.
struct Empty(fn() -> (Stores, Option<TempDir>));

impl StoreBuilder<TypeConfig, LogStore, StateMachine, Option<TempDir>> for Empty {
    async fn build(&self) -> Result<(Option<TempDir>, LogStore, StateMachine), RaftStorageError> {
        let (stores, place) = (self.0)();
        let (log, machine) = open(&stores);
        Ok((place, log, machine))
    }
}

#[test]
fn stores_in_memory_pass_the_suite_of_the_library() {
    Suite::test_all(Empty(|| (shared(&in_memory()), None))).unwrap();
}

#[cfg(feature = "rocksdb")]
mod on_disk {
    use super::*;
    use crate::storage::RocksDb;

    fn stores(dir: &std::path::Path) -> Stores {
        let open = |name, kind| Arc::new(RocksDb::open(&dir.join(name), kind).unwrap());
        (open("log", StoreKind::Log), open("state", StoreKind::State))
    }

    #[test]
    fn stores_on_disk_pass_the_suite_of_the_library() {
        let on_disk = || {
            let dir = tempfile::tempdir().unwrap();
            (stores(dir.path()), Some(dir))
        };
        Suite::test_all(Empty(on_disk)).unwrap();
    }

    #[tokio::test]
    async fn a_replica_on_disk_installs_the_state_of_another_and_keeps_it() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let source = stores(from.path());
        let (_, mut machine) = open(&source);
        machine.apply(commands(1..=500)).await.unwrap();
        let digest = digest(&source.1);
        let target = stores(to.path());
        {
            let (_, mut other) = open(&target);
            other.apply(commands(1..=3)).await.unwrap();
            let snapshot = machine.get_current_snapshot().await.unwrap().unwrap();
            other.install_snapshot(&snapshot.meta, snapshot.snapshot).await.unwrap();
        }
        assert_eq!(super::digest(&target.1), digest);
        drop(target);
        let target = stores(to.path());
        assert_eq!(super::digest(&target.1), digest);
        let (_, mut other) = open(&target);
        assert_eq!(other.applied_state().await.unwrap().0, Some(log_id(1, 500)));
    }
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term, 1), index)
}

fn command(index: u64) -> LogEntry {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&index.to_le_bytes());
    let act = LedgerAct::AddUploader { key: PublicKey::from_bytes(key), name: format!("uploader {index}") };
    let command = TimedCommand::of_coordinators(Timestamp::from_millis(index), Command::Govern(act));
    Entry { log_id: log_id(1, index), payload: EntryPayload::Normal(command) }
}

fn commands(indexes: std::ops::RangeInclusive<u64>) -> Vec<LogEntry> {
    indexes.map(command).collect()
}

fn digest(state: &Arc<dyn KeyValue>) -> firn_base::Digest {
    StateFacts::new(Arc::clone(state) as Arc<dyn Read>).digest().unwrap()
}

#[tokio::test]
async fn what_the_log_acknowledged_survives_a_loss_of_power() {
    for chance in 0..4 {
        let memory = in_memory();
        let (mut log, _) = open(&shared(&memory));
        let vote = Vote::new(3, 2);
        log.save_vote(&vote).await.unwrap();
        log.blocking_append(commands(1..=20)).await.unwrap();
        log.save_committed(Some(log_id(1, 15))).await.unwrap();
        memory.0.crash(chance);
        memory.1.crash(chance);
        let (mut log, _) = open(&shared(&memory));
        assert_eq!(log.read_vote().await.unwrap(), Some(vote));
        assert_eq!(log.get_log_state().await.unwrap().last_log_id, Some(log_id(1, 20)));
        assert_eq!(log.try_get_log_entries(..).await.unwrap(), commands(1..=20));
        let committed = log.read_committed().await.unwrap();
        assert!(committed.is_none() || committed == Some(log_id(1, 15)));
    }
}

#[tokio::test]
async fn a_purge_never_takes_what_the_state_has_not_on_disk() {
    for chance in 0..10 {
        let memory = in_memory();
        let (mut log, mut machine) = open(&shared(&memory));
        log.blocking_append(commands(1..=20)).await.unwrap();
        for index in 1..=20 {
            machine.apply(vec![command(index)]).await.unwrap();
        }
        log.purge(log_id(1, 10)).await.unwrap();
        memory.0.crash(chance);
        memory.1.crash(chance);
        let (mut log, mut machine) = open(&shared(&memory));
        let applied = machine.applied_state().await.unwrap().0.map_or(0, |applied| applied.index);
        let first = log.try_get_log_entries(..).await.unwrap().first().map(|entry| entry.log_id.index);
        assert!(first.is_some_and(|first| first <= applied + 1), "applied {applied}, log from {first:?}");
    }
}

#[tokio::test]
async fn replaying_the_log_from_wherever_power_was_lost_gives_the_same_state() {
    let whole = in_memory();
    let (_, mut machine) = open(&shared(&whole));
    let outcomes = machine.apply(commands(1..=600)).await.unwrap();
    assert!(outcomes.iter().all(|outcome| *outcome == CommandOutcome::Applied));
    let expected = digest(&shared(&whole).1);
    for chance in 0..30 {
        let memory = in_memory();
        let (_, mut machine) = open(&shared(&memory));
        for some in commands(1..=600).chunks(37) {
            machine.apply(some.to_vec()).await.unwrap();
        }
        memory.1.crash(chance);
        let (_, mut machine) = open(&shared(&memory));
        let applied = machine.applied_state().await.unwrap().0.map_or(0, |applied| applied.index);
        if applied < 600 {
            machine.apply(commands(applied + 1..=600)).await.unwrap();
        }
        assert_eq!(digest(&shared(&memory).1), expected, "power lost at {applied}");
    }
}

#[tokio::test]
async fn a_store_that_fails_gives_an_error_and_never_an_outcome() {
    let memory = in_memory();
    let (mut log, mut machine) = open(&shared(&memory));
    memory.1.inject(Fault::Full, 0);
    assert!(machine.apply(commands(1..=1)).await.is_err());
    memory.1.heal();
    memory.1.inject(Fault::Read, 0);
    assert!(machine.apply(commands(1..=1)).await.is_err());
    memory.0.inject(Fault::Write, 0);
    assert!(log.blocking_append(commands(1..=1)).await.is_err());
    assert!(log.save_vote(&Vote::new(1, 1)).await.is_err());
    memory.0.heal();
    assert_eq!(log.read_vote().await.unwrap(), None);
    assert!(log.try_get_log_entries(..).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_message_to_a_follower_is_cut_by_its_bytes_but_never_empty() {
    let (mut log, _) = open(&shared(&in_memory()));
    let large = |index| {
        let act = LedgerAct::RemovePublisher { name: "x".repeat(400_000) };
        let command = TimedCommand::of_coordinators(Timestamp::from_millis(1), Command::Govern(act));
        LogEntry { log_id: log_id(1, index), payload: EntryPayload::Normal(command) }
    };
    log.blocking_append((1..=6).map(large)).await.unwrap();
    assert_eq!(log.limited_get_log_entries(1, 7).await.unwrap().len(), 3);
    assert_eq!(log.limited_get_log_entries(6, 7).await.unwrap().len(), 1);
    assert_eq!(log.try_get_log_entries(1..7).await.unwrap().len(), 6);
}

#[tokio::test]
async fn the_bytes_of_an_entry_and_a_vote_on_disk_are_pinned() {
    let entry = encode(&command(7));
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let expected = format!("0100{}{}", "010107", "01070000020700000000000000");
    assert!(hex(&entry).starts_with(&expected), "{}", hex(&entry));
    assert_eq!(hex(&encode(&Vote::new_committed(3, 2))), "0100030201");
    assert_eq!(hex(&encode(&LogEntry::new_blank(log_id(3, 9)))), "010003010900");
}

async fn a_source() -> Stores {
    let stores = shared(&in_memory());
    let (_, mut machine) = open(&stores);
    machine.apply(commands(1..=200)).await.unwrap();
    machine.build_snapshot().await.unwrap();
    stores
}

/// All files of the state of `source`, arrived at `target` and opened.
fn arrived(source: &Stores, target: &Stores) -> Box<dyn crate::storage::Stage> {
    let image = source.1.image().unwrap();
    let mut intake = target.1.intake(image.files().to_vec()).unwrap();
    copy_image(&*image, &mut *intake).unwrap();
    assert!(intake.verify().unwrap());
    intake.open().unwrap()
}

#[tokio::test]
async fn a_snapshot_carries_the_whole_state() {
    let (source, target) = (a_source().await, shared(&in_memory()));
    let stage = arrived(&source, &target);
    let position = super::read_position(&*source.1).unwrap();
    let meta = super::snapshot::meta(position.applied, position.membership);
    super::snapshot::check(&*stage, &meta).unwrap();
    stage.install().unwrap();
    assert_eq!(digest(&target.1), digest(&source.1));
}

#[tokio::test]
async fn a_state_that_does_not_stand_where_its_sender_says_is_refused() {
    let (source, target) = (a_source().await, shared(&in_memory()));
    let stage = arrived(&source, &target);
    let position = super::read_position(&*source.1).unwrap();
    for applied in [None, Some(log_id(1, 199)), Some(log_id(1, 201)), Some(log_id(2, 200))] {
        let meta = super::snapshot::meta(applied, position.membership.clone());
        assert!(matches!(super::snapshot::check(&*stage, &meta), Err(StorageError::Corrupted(_))));
    }
    let members = openraft::Membership::new(
        vec![[1].into()],
        std::collections::BTreeMap::from([(1, Default::default())]),
    );
    let other = super::types::StoredMembership::new(Some(log_id(1, 3)), members);
    let meta = super::snapshot::meta(position.applied, other);
    assert!(matches!(super::snapshot::check(&*stage, &meta), Err(StorageError::Corrupted(_))));
    // No state at all.
    let nothing = shared(&in_memory());
    let meta = super::snapshot::meta(None, Default::default());
    assert!(super::snapshot::check(&*nothing.1, &meta).is_err());
}

#[tokio::test]
async fn a_state_of_a_newer_format_is_refused_on_disk_and_in_a_snapshot() {
    let source = a_source().await;
    let mut batch = crate::storage::Batch::new();
    batch.put(crate::storage::Table::Meta, super::keys::FORMAT, u32::MAX.to_le_bytes());
    source.1.write(batch, crate::storage::Durability::Synced).unwrap();
    let error =
        StateMachine::open(Arc::clone(&source.1), Environment::real(), InstallGate::default()).unwrap_err();
    assert!(matches!(error, StorageError::Newer(_)));
    let stage = arrived(&source, &shared(&in_memory()));
    let position = super::read_position(&*source.1).unwrap();
    let meta = super::snapshot::meta(position.applied, position.membership);
    assert!(matches!(super::snapshot::check(&*stage, &meta), Err(StorageError::Newer(_))));
}

#[tokio::test]
async fn what_an_older_version_wrote_is_named_with_both_versions_and_not_called_damaged() {
    use crate::storage::{Batch, Durability, Table};
    let stores = shared(&in_memory());
    let mut batch = Batch::new();
    batch.put(Table::LogMeta, super::log_store::VOTE, firn_wire::encode_as(1, &Vote::new(3, 2)));
    stores.0.write(batch, Durability::Synced).unwrap();
    let log = super::check_continuity(&*stores.0, &*stores.1).unwrap_err();
    let mut batch = Batch::new();
    batch.put(Table::Meta, super::keys::FORMAT, 0_u32.to_le_bytes());
    stores.1.write(batch, Durability::Synced).unwrap();
    let state =
        StateMachine::open(Arc::clone(&stores.1), Environment::real(), InstallGate::default()).unwrap_err();
    for (error, versions) in
        [(log, "has version 1, this program reads 2"), (state, "has version 0, this program reads 1")]
    {
        assert!(matches!(error, StorageError::Older(_)), "{error:?}");
        let sentence = error.to_string();
        assert!(sentence.contains(versions) && sentence.contains("not damaged"), "{sentence}");
        assert!(sentence.contains("`firn-coordinator resync`"), "{sentence}");
    }
    // What has the right version and no sense is damaged all the same.
    let mut batch = Batch::new();
    batch.put(Table::LogMeta, super::log_store::VOTE, [2_u8, 0, 0xff]);
    stores.0.write(batch, Durability::Synced).unwrap();
    let error = super::check_continuity(&*stores.0, &*stores.1).unwrap_err();
    assert!(matches!(error, StorageError::Corrupted(_)), "{error:?}");
}

#[tokio::test]
async fn a_replica_that_knows_too_few_commands_stops_and_does_not_start_again() {
    let memory = in_memory();
    let stores = shared(&memory);
    let (_, mut machine) = open(&stores);
    machine.apply(commands(1..=3)).await.unwrap();
    let raise = |level| {
        let command = Command::RaiseFeatureLevel { level };
        let payload = EntryPayload::Normal(TimedCommand::of_coordinators(Timestamp::from_millis(9), command));
        Entry { log_id: log_id(1, 4), payload }
    };
    let error = machine.apply([raise(FEATURE_LEVEL + 1)]).await.unwrap_err();
    assert!(error.to_string().contains("gone on to commands of level"), "{error}");
    let counters = StateFacts::new(Arc::clone(&stores.1) as Arc<dyn Read>).counters().unwrap();
    assert_eq!(counters.feature_level, 0, "nothing of it was applied");

    // As another program left it.
    let mut batch = crate::storage::Batch::new();
    let newer = firn_coordinator_logic::Counters { feature_level: FEATURE_LEVEL + 1, ..counters };
    super::changes::record(&*stores.1, &mut batch, &[firn_coordinator_logic::Change::PutCounters(newer)])
        .unwrap();
    stores.1.write(batch, crate::storage::Durability::Synced).unwrap();
    let refused =
        StateMachine::open(Arc::clone(&stores.1), Environment::real(), InstallGate::default()).unwrap_err();
    assert!(matches!(refused, StorageError::Newer(_)), "{refused}");
}

#[tokio::test]
async fn an_entry_of_a_newer_log_is_refused_by_name() {
    let (log, state) = shared(&in_memory());
    let mut batch = crate::storage::Batch::new();
    batch.put(crate::storage::Table::Log, 1_u64.to_be_bytes(), [3, 0, 0]);
    log.write(batch, crate::storage::Durability::Synced).unwrap();
    let mut store = LogStore::new(log, state, Environment::real(), InstallGate::default());
    let error = store.try_get_log_entries(1..2).await.unwrap_err();
    assert!(error.to_string().contains("an entry of the log has version 3"), "{error}");
}
