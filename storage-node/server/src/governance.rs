//! The node's copies of the descriptor and of the ledger.
//!
//! Always holds: the newest roster seen is kept, never an older one; the node stays with its archive; a ledger
//! that a majority vouched for is kept with their signatures, so that all nodes together can rebuild the
//! archive's governance.
//! Leaves to others: fetching and verifying them (`transport`), when to look (`link`).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use firn_transport::{AskError, CoordinatorClient, Environment, VerifiedLedger};
use firn_wire::{Descriptor, DescriptorError};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::store::{Disk, read_small, replace_small};

const ARCHIVE_FILE: &str = "archive";
const ARCHIVE_BYTES_MAX: u64 = 1 << 20;
const LEDGER_FILE: &str = "ledger";

// A million entries of governance at 200 bytes.
const LEDGER_BYTES_MAX: u64 = 256 << 20;

// While a fleet joins, the ledger grows every moment; each refresh rewrites the file.
const REFRESH_INTERVAL: Duration = Duration::from_secs(10);

/// Why a descriptor was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveFileError {
    /// The node serves another archive.
    #[error(
        "this node belongs to archive {own}, the descriptor is of {given}: give it a data directory of its own"
    )]
    OtherArchive {
        /// The archive of the data directory.
        own: String,
        /// The archive of the descriptor.
        given: String,
    },
    /// The descriptor is not sound.
    #[error(transparent)]
    Descriptor(#[from] DescriptorError),
    /// The file cannot be read or written.
    #[error("cannot use the file `archive` of the data directory: {0}")]
    Io(#[from] io::Error),
}

/// The descriptor that the node has kept; none for a new node.
pub fn kept_descriptor(disk: &dyn Disk) -> Result<Option<Descriptor>, ArchiveFileError> {
    let Some(bytes) = read_small(disk, ARCHIVE_FILE, ARCHIVE_BYTES_MAX)? else { return Ok(None) };
    let text = String::from_utf8(bytes).map_err(|_| DescriptorError::NotADescriptor)?;
    Ok(Some(text.parse()?))
}

/// Keeps `given` if it is newer than what was kept, and gives the newer of the two.
pub(crate) fn keep_descriptor(disk: &dyn Disk, given: Descriptor) -> Result<Descriptor, ArchiveFileError> {
    let given_generation = given.verify()?.roster().generation;
    if let Some(kept) = kept_descriptor(disk)? {
        if kept.archive != given.archive {
            return Err(ArchiveFileError::OtherArchive {
                own: kept.archive.to_string(),
                given: given.archive.to_string(),
            });
        }
        if kept.verify()?.roster().generation >= given_generation {
            return Ok(kept);
        }
    }
    replace_small(disk, "", ARCHIVE_FILE, given.to_string().as_bytes())?;
    Ok(given)
}

/// The node's copy of the ledger.
#[derive(Debug)]
pub(crate) struct LedgerCopy {
    environment: Environment,
    disk: Arc<dyn Disk>,
    inner: Mutex<Copy>,
    entries: std::sync::atomic::AtomicU64,
}

#[derive(Debug)]
struct Copy {
    ledger: VerifiedLedger,
    refreshed: Option<Instant>,
}

impl LedgerCopy {
    /// Reads the copy on `disk`. One that is damaged is fetched anew.
    pub(crate) fn open(environment: Environment, disk: Arc<dyn Disk>) -> io::Result<Self> {
        let ledger = match read_small(disk.as_ref(), LEDGER_FILE, LEDGER_BYTES_MAX)? {
            None => VerifiedLedger::empty(),
            Some(bytes) => VerifiedLedger::from_own_bytes(&bytes).unwrap_or_else(|| {
                tracing::error!("the node's copy of the ledger is damaged: it is fetched anew");
                VerifiedLedger::empty()
            }),
        };
        let entries = (ledger.entries.len() as u64).into();
        Ok(Self { environment, disk, inner: Mutex::new(Copy { ledger, refreshed: None }), entries })
    }

    /// Entries of the copy.
    pub(crate) fn entries(&self) -> u64 {
        self.entries.load(std::sync::atomic::Ordering::Acquire)
    }

    /// Fetches what was added, unless somebody is at it or was within the last ten seconds.
    pub(crate) async fn refresh(&self, client: &CoordinatorClient) {
        let Ok(mut copy) = self.inner.try_lock() else { return };
        if copy.refreshed.is_some_and(|at| at.elapsed() < REFRESH_INTERVAL) {
            return;
        }
        copy.refreshed = Some(Instant::now());
        match self.fetch(&copy.ledger, client).await {
            Ok(Some(ledger)) => {
                self.entries.store(ledger.entries.len() as u64, std::sync::atomic::Ordering::Release);
                copy.ledger = ledger;
            }
            Ok(None) => {}
            Err(sentence) => tracing::warn!(%sentence, "the copy of the ledger was not refreshed"),
        }
    }

    async fn fetch(
        &self,
        known: &VerifiedLedger,
        client: &CoordinatorClient,
    ) -> Result<Option<VerifiedLedger>, String> {
        let ledger = client.refresh_ledger(known).await.map_err(|error: AskError| error.to_string())?;
        if ledger.entries.len() <= known.entries.len() {
            return Ok(None);
        }
        let bytes = ledger.to_bytes();
        let disk = Arc::clone(&self.disk);
        let written =
            self.environment.blocking(move || replace_small(disk.as_ref(), "", LEDGER_FILE, &bytes));
        written.await.map_err(|error| format!("the file `ledger` cannot be written: {error}"))?;
        Ok(Some(ledger))
    }
}

#[cfg(test)]
mod tests {
    use firn_base::{ArchiveId, Timestamp};
    use firn_wire::{Identity, Roster, Signed};

    use super::*;
    use crate::store::MemoryDisk;

    fn descriptor(key: u8, generation: u64) -> Descriptor {
        let key = Identity::from_seed(&[key; 32]);
        let archive = ArchiveId::from(key.public());
        let roster = Roster {
            archive,
            generation,
            issued: Timestamp::from_millis(1),
            coordinators: Vec::new(),
            retired: Vec::new(),
        };
        Descriptor { archive, roster: Signed::seal(&key, archive, &roster) }
    }

    #[test]
    fn the_newest_descriptor_is_kept_and_another_archive_refused() {
        let disk = MemoryDisk::new();
        assert!(kept_descriptor(&disk).unwrap().is_none());
        let newest = descriptor(1, 2);
        assert_eq!(keep_descriptor(&disk, descriptor(1, 1)).unwrap(), descriptor(1, 1));
        assert_eq!(keep_descriptor(&disk, newest.clone()).unwrap(), newest);
        assert_eq!(keep_descriptor(&disk, descriptor(1, 1)).unwrap(), newest);
        let refused = keep_descriptor(&disk, descriptor(2, 9)).unwrap_err();
        assert!(refused.to_string().starts_with("this node belongs to archive"), "{refused}");
        assert_eq!(kept_descriptor(&disk).unwrap(), Some(newest));
    }
}
