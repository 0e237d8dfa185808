//! A coordinator's standing: the roster in force here, and whether this coordinator still takes part.
//!
//! Always holds: the roster is the newest that was ever taken, and on disk before anybody hears of it, in the log's
//! store, so that it shares the log's fate; a removed coordinator stays removed. Leaves to others: which members
//! there are (`consensus`), handing rosters on (`member_watch`).

use std::sync::Arc;

use firn_transport::Environment;
use firn_wire::{Descriptor, DescriptorError, VerifiedRoster, decode, encode};
use serde::de::DeserializeOwned;
use tokio::sync::{Mutex, watch};

use crate::storage::{Batch, Durability, KeyValue, StorageError, Table};

const ROSTER: &[u8] = b"roster";
const NAMED_SINCE: &[u8] = b"named-since";
const REMOVED: &[u8] = b"removed";

/// What a removed coordinator says of itself.
pub(crate) const REMOVED_SENTENCE: &str = "this coordinator was removed from its archive (`firn-coordinator member remove`) and \
     takes part no more: its data directory may be deleted; to add this machine again, start with an empty one";

/// A roster that was checked, and the descriptor that carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InForce {
    pub(crate) descriptor: Descriptor,
    pub(crate) roster: VerifiedRoster,
}

impl InForce {
    fn generation(&self) -> u64 {
        self.roster.roster().generation
    }
}

/// The standing of this coordinator.
#[derive(Debug)]
pub(crate) struct Standing {
    log: Arc<dyn KeyValue>,
    environment: Environment,
    current: watch::Sender<Arc<InForce>>,
    // One roster is written at a time.
    adopting: Mutex<()>,
    named_since: u64,
}

/// Why a standing cannot be known or changed.
#[derive(Debug, thiserror::Error)]
pub enum StandingError {
    /// The roster is not signed by its archive.
    #[error(transparent)]
    Descriptor(#[from] DescriptorError),
    /// It belongs to another archive.
    #[error("the roster belongs to another archive")]
    WrongArchive,
    /// The store failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// This coordinator was removed.
    #[error("{REMOVED_SENTENCE}")]
    Removed,
}

impl Standing {
    /// Bytes that the log's store takes on disk.
    pub(crate) fn log_bytes(&self) -> Result<u64, StorageError> {
        self.log.disk_bytes()
    }

    /// What `log` remembers, and `given` if that is newer. `named_since` is the entry of the log that made this
    /// coordinator a member, if it has just learnt so. Blocks on the disk.
    pub(crate) fn open(
        log: Arc<dyn KeyValue>,
        environment: Environment,
        given: Descriptor,
        named_since: Option<u64>,
    ) -> Result<Self, StandingError> {
        if read::<bool>(&*log, REMOVED)?.unwrap_or(false) {
            return Err(StandingError::Removed);
        }
        let given = InForce { roster: given.verify()?, descriptor: given };
        let kept = read::<Descriptor>(&*log, ROSTER)?
            .map(|descriptor| Ok::<_, DescriptorError>(InForce { roster: descriptor.verify()?, descriptor }))
            .transpose()?;
        if kept.as_ref().is_some_and(|kept| kept.descriptor.archive != given.descriptor.archive) {
            return Err(StandingError::WrongArchive);
        }
        let current = kept.filter(|kept| kept.generation() >= given.generation()).unwrap_or(given);
        if let Some(since) = named_since {
            write(&*log, NAMED_SINCE, &since)?;
        }
        let named_since = read(&*log, NAMED_SINCE)?.unwrap_or(0);
        let (current, _) = watch::channel(Arc::new(current));
        Ok(Self { log, environment, current, adopting: Mutex::default(), named_since })
    }

    /// The roster in force.
    pub(crate) fn in_force(&self) -> Arc<InForce> {
        Arc::clone(&self.current.borrow())
    }

    /// Tells of newer rosters.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<InForce>> {
        self.current.subscribe()
    }

    /// The entry of the log that is known to have made this coordinator a member; 0 for a founder.
    pub(crate) const fn named_since(&self) -> u64 {
        self.named_since
    }

    /// Takes `descriptor` into force if it is newer; it is on disk when this returns. Says whether it was newer.
    pub(crate) async fn adopt(&self, descriptor: Descriptor) -> Result<bool, StandingError> {
        let _one = self.adopting.lock().await;
        let current = self.in_force();
        // Costs less than a signature: whoever offers old ones makes little work.
        let generation =
            descriptor.roster.peek().map_err(|error| DescriptorError::Damaged(error.to_string()))?.generation;
        if generation <= current.generation() {
            return Ok(false);
        }
        if descriptor.archive != current.descriptor.archive {
            return Err(StandingError::WrongArchive);
        }
        let roster = descriptor.verify()?;
        let (log, bytes) = (Arc::clone(&self.log), descriptor.clone());
        self.environment.blocking(move || write(&*log, ROSTER, &bytes)).await?;
        tracing::info!(generation, "a new roster is in force");
        self.current.send_replace(Arc::new(InForce { descriptor, roster }));
        Ok(true)
    }

    /// Remembers that this coordinator takes part no more.
    pub(crate) async fn note_removed(&self) -> Result<(), StorageError> {
        let log = Arc::clone(&self.log);
        self.environment.blocking(move || write(&*log, REMOVED, &true)).await
    }
}

fn read<T: DeserializeOwned>(log: &dyn KeyValue, name: &[u8]) -> Result<Option<T>, StorageError> {
    let bytes = log.get(Table::LogMeta, name)?;
    let unread = |error| StorageError::undecodable("this coordinator's standing", error);
    bytes.map(|bytes| decode(&bytes).map_err(unread)).transpose()
}

fn write<T: serde::Serialize>(log: &dyn KeyValue, name: &[u8], value: &T) -> Result<(), StorageError> {
    let mut batch = Batch::new();
    batch.put(Table::LogMeta, name, encode(value));
    log.write(batch, Durability::Synced)
}

#[cfg(test)]
mod tests {
    use firn_base::{NodeId, Timestamp};
    use firn_wire::{CoordinatorEntry, Identity, Roster, Signed};

    use super::*;
    use crate::storage::{Memory, StoreKind};

    fn descriptor(key: u8, generation: u64) -> Descriptor {
        let key = Identity::from_seed(&[key; 32]);
        let archive = key.public().into();
        let entry = CoordinatorEntry { id: NodeId::from_bytes([1; 32]), raft_id: 1, address: "h:1".into() };
        let issued = Timestamp::from_millis(generation);
        let roster = Roster { archive, generation, issued, coordinators: vec![entry], retired: vec![] };
        Descriptor { archive, roster: Signed::seal(&key, archive, &roster) }
    }

    fn open(log: &Memory, given: Descriptor) -> Result<Standing, StandingError> {
        Standing::open(Arc::new(log.clone()), Environment::real(), given, None)
    }

    #[tokio::test]
    async fn the_newest_roster_stays_in_force_whatever_is_given_later() {
        let log = Memory::new(StoreKind::Log);
        let standing = open(&log, descriptor(1, 2)).unwrap();
        let mut watch = standing.watch();
        assert!(!standing.adopt(descriptor(1, 2)).await.unwrap());
        assert!(!standing.adopt(descriptor(1, 1)).await.unwrap());
        assert!(standing.adopt(descriptor(1, 5)).await.unwrap());
        watch.changed().await.unwrap();
        assert_eq!(watch.borrow().generation(), 5);
        drop(standing);
        // A loss of power: it was on disk.
        log.crash(0);
        assert_eq!(open(&log, descriptor(1, 2)).unwrap().in_force().generation(), 5);
        assert_eq!(open(&log, descriptor(1, 6)).unwrap().in_force().generation(), 6);
        assert!(matches!(open(&log, descriptor(2, 7)), Err(StandingError::WrongArchive)));
    }

    #[tokio::test]
    async fn a_roster_of_another_archive_or_hand_is_refused() {
        let standing = open(&Memory::new(StoreKind::Log), descriptor(1, 1)).unwrap();
        assert!(matches!(standing.adopt(descriptor(2, 9)).await, Err(StandingError::WrongArchive)));
        let forged = Descriptor { archive: descriptor(1, 1).archive, ..descriptor(2, 9) };
        assert!(matches!(standing.adopt(forged).await, Err(StandingError::Descriptor(_))));
        assert_eq!(standing.in_force().generation(), 1);
    }

    #[tokio::test]
    async fn a_removed_coordinator_stays_removed() {
        let log = Memory::new(StoreKind::Log);
        open(&log, descriptor(1, 1)).unwrap().note_removed().await.unwrap();
        log.crash(0);
        let error = open(&log, descriptor(1, 2)).unwrap_err();
        assert!(error.to_string().starts_with("this coordinator was removed from its archive"));
    }

    #[test]
    fn what_made_it_a_member_is_remembered() {
        let log = Memory::new(StoreKind::Log);
        let since = |since| {
            let store = Arc::new(log.clone());
            Standing::open(store, Environment::real(), descriptor(1, 1), since).unwrap().named_since()
        };
        assert_eq!((since(None), since(Some(17)), since(None)), (0, 17, 17));
    }
}
