//! The node's copies of the descriptor and of the ledger.
//!
//! Always holds: the newest roster seen is kept, never an older one; the node stays with its archive; a ledger
//! that a majority vouched for is kept with their signatures, so that all nodes together can rebuild the
//! archive's governance.
//! Leaves to others: fetching and verifying them (`transport`), when to look (`link`).

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use firn_base::{BundleId, PublicKey};
use firn_storage_node_logic::{KnownReaders, ReaderClass, erased_bundles, patience};
use firn_transport::{AskError, CoordinatorClient, Environment, VerifiedLedger};
use firn_wire::{
    Descriptor, DescriptorError, KeptGovernance, ROSTERS_KEPT_MAX, Roster, Signed, decode, encode,
};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::store::{Disk, read_small, replace_small};

const ROSTERS_FILE: &str = "rosters";
const ROSTERS_BYTES_MAX: u64 = 16 << 20;
const ARCHIVE_FILE: &str = "archive";
const ARCHIVE_BYTES_MAX: u64 = 1 << 20;
const LEDGER_FILE: &str = "ledger";

// A million entries of governance at 200 bytes.
const LEDGER_BYTES_MAX: u64 = 256 << 20;

// Names are bounded, so a page stays within a control message.
const LEDGER_PAGE: usize = 2_048;

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
        let generation = kept.verify()?.roster().generation;
        if generation > given_generation {
            tracing::warn!(
                kept = generation,
                given = given_generation,
                "the given roster is older than the one kept here: that one counts"
            );
        }
        if generation >= given_generation {
            return Ok(kept);
        }
    }
    keep_roster(disk, &given)?;
    replace_small(disk, "", ARCHIVE_FILE, given.to_string().as_bytes())?;
    Ok(given)
}

/// The rosters that were in force here, for whoever has to tell long afterwards whose signatures counted.
pub(crate) fn kept_rosters(disk: &dyn Disk) -> io::Result<Vec<Signed<Roster>>> {
    let Some(bytes) = read_small(disk, ROSTERS_FILE, ROSTERS_BYTES_MAX)? else { return Ok(Vec::new()) };
    Ok(decode(&bytes).unwrap_or_else(|_| {
        tracing::error!("the file `rosters` of the data directory is damaged: it begins anew");
        Vec::new()
    }))
}

/// Adds the roster of `descriptor` to those that were in force; of too many the oldest go.
fn keep_roster(disk: &dyn Disk, descriptor: &Descriptor) -> io::Result<()> {
    let mut rosters = kept_rosters(disk)?;
    rosters.push(descriptor.roster.clone());
    let surplus = rosters.len().saturating_sub(ROSTERS_KEPT_MAX);
    rosters.drain(..surplus);
    replace_small(disk, "", ROSTERS_FILE, &encode(&rosters))
}

/// The node's copy of the ledger.
#[derive(Debug)]
pub(crate) struct LedgerCopy {
    environment: Environment,
    disk: Arc<dyn Disk>,
    inner: Mutex<Copy>,
    entries: std::sync::atomic::AtomicU64,
    // By all entries of the copy.
    told: RwLock<Told>,
}

/// What the node goes by of what the ledger says.
#[derive(Debug)]
struct Told {
    readers: KnownReaders,
    patience: Option<Duration>,
}

impl Told {
    fn by(ledger: &VerifiedLedger) -> Self {
        let mut readers = KnownReaders::default();
        readers.enter(&ledger.entries);
        Self { readers, patience: patience(&ledger.entries) }
    }
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
        let told = RwLock::new(Told::by(&ledger));
        Ok(Self { told, environment, disk, inner: Mutex::new(Copy { ledger, refreshed: None }), entries })
    }

    /// A page of the copy for a coordinator that rebuilds the archive, with `rosters` if it is the first.
    pub(crate) async fn show(&self, from: u64, rosters: Vec<Signed<Roster>>) -> KeptGovernance {
        let copy = self.inner.lock().await;
        let from = usize::try_from(from).unwrap_or(usize::MAX).min(copy.ledger.entries.len());
        let rest = &copy.ledger.entries[from..];
        let heads = if from == 0 { copy.ledger.heads.clone() } else { Vec::new() };
        let entries: Vec<_> = rest.iter().take(LEDGER_PAGE).cloned().collect();
        KeptGovernance { rosters, heads, more: entries.len() < rest.len(), entries }
    }

    /// Entries of the copy.
    pub(crate) fn entries(&self) -> u64 {
        self.entries.load(std::sync::atomic::Ordering::Acquire)
    }

    /// Whose reads those of `reader` are, by the copy.
    pub(crate) fn class_of(&self, reader: PublicKey) -> ReaderClass {
        self.told.read().unwrap_or_else(PoisonError::into_inner).readers.class_of(reader)
    }

    /// How long the archive waits for a node that is away, by the copy; none if it does not say.
    pub(crate) fn patience(&self) -> Option<Duration> {
        self.told.read().unwrap_or_else(PoisonError::into_inner).patience
    }

    /// Bundles that the copy says are erased in its entry `from` or behind it, and the entries of the copy.
    pub(crate) async fn erased_from(&self, from: u64) -> (BTreeSet<BundleId>, u64) {
        let copy = self.inner.lock().await;
        copy.erased_from(from)
    }

    /// The same of all entries, before anybody shares the copy.
    pub(crate) fn erased(&mut self) -> (BTreeSet<BundleId>, u64) {
        self.inner.get_mut().erased_from(0)
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
                *self.told.write().unwrap_or_else(PoisonError::into_inner) = Told::by(&ledger);
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

impl Copy {
    fn erased_from(&self, from: u64) -> (BTreeSet<BundleId>, u64) {
        let entries = &self.ledger.entries;
        let begin = usize::try_from(from).unwrap_or(usize::MAX).min(entries.len());
        (erased_bundles(&entries[begin..]), entries.len() as u64)
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
        assert_eq!(kept_descriptor(&disk).unwrap(), Some(newest.clone()));
        // Those that were in force stay, for old signatures.
        assert_eq!(kept_rosters(&disk).unwrap(), [descriptor(1, 1).roster, newest.roster]);
    }
}
