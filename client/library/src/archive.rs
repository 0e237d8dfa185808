//! An archive as its clients find it: descriptor, coordinators, connections.
//!
//! Owns: opening an archive for publishers, gateways and the command line. Always holds: opening dials nobody;
//! a descriptor is used only if the archive's key signed its roster; a program never goes back to an older
//! roster than the one it keeps.
//! Leaves to others: what is asked of the archive.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use firn_base::ArchiveId;
use firn_nix_format::{ParsePublisherKeyError, PublisherKey};
use firn_retrieval::{
    CachedDirectory, CoordinatorSource, Directory, DirectoryOptions, ManifestOptions, ManifestReader,
    NodeSource, ObjectOptions, ObjectReader, SwarmOptions, SwarmReader,
};
use firn_transport::{
    AskError, BindError, ConnectionPool, CoordinatorClient, Endpoint, EndpointOptions, Environment,
    LedgerError, VerifiedLedger, write_synced,
};
use firn_wire::{Descriptor, DescriptorError, Identity};

use crate::descriptor_source::{DescriptorSource, fetch_descriptor};

/// How an archive is opened.
#[derive(Debug, Clone)]
pub struct ArchiveOptions {
    /// Where the descriptor is: a file or an http(s) URL.
    pub descriptor: String,
    /// Where the newest descriptor is kept between runs; nowhere if not given.
    pub state_dir: Option<PathBuf>,
    /// The bounds of the endpoint.
    pub endpoint: EndpointOptions,
}

/// An archive, opened. Clones share connections.
#[derive(Debug, Clone)]
pub struct Archive {
    environment: Environment,
    identity: Identity,
    id: ArchiveId,
    coordinators: CoordinatorClient,
    kept: Option<PathBuf>,
}

/// Why an archive was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenArchiveError {
    /// The file is not there or cannot be read.
    #[error(
        "cannot read the archive descriptor {}: {source}; the archive's operator gives it to you, and each coordinator has it at \
         /archive of its HTTP port",
        path.display()
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The URL gave nothing.
    #[error(
        "cannot fetch the archive descriptor {url}: {reason}; a coordinator has it at /archive of its HTTP port, and a file with it \
         can be named instead"
    )]
    Fetch {
        /// The URL.
        url: String,
        /// What happened.
        reason: String,
    },
    /// What is there is no descriptor.
    #[error("{place}: {source}")]
    NoDescriptor {
        /// The file or URL.
        place: String,
        /// What is wrong with it.
        source: DescriptorError,
    },
    /// What was given is no descriptor.
    #[error(transparent)]
    Descriptor(#[from] DescriptorError),
    /// No socket.
    #[error(transparent)]
    Bind(#[from] BindError),
}

impl Archive {
    /// Opens the archive that `options` name, as `identity`. Dials nobody yet.
    pub async fn open(
        options: ArchiveOptions,
        identity: Identity,
        environment: &Environment,
    ) -> Result<Self, OpenArchiveError> {
        let source = DescriptorSource::parse(&options.descriptor);
        let kept = options.state_dir.as_deref().map(|directory| source.kept_in(directory));
        let copy = kept.clone();
        let descriptor = environment.blocking(move || newest_descriptor(&source, copy.as_deref())).await?;
        let archive = Self {
            kept,
            ..Self::with_descriptor(&descriptor, identity, options.endpoint, environment).await?
        };
        archive.keep(&descriptor).await;
        Ok(archive)
    }

    /// Opens the archive of `descriptor`. Dials nobody yet.
    pub async fn with_descriptor(
        descriptor: &Descriptor,
        identity: Identity,
        endpoint: EndpointOptions,
        environment: &Environment,
    ) -> Result<Self, OpenArchiveError> {
        let roster = descriptor.verify()?;
        let endpoint = Endpoint::bind_client(environment, &identity, endpoint).await?;
        let id = roster.archive();
        let coordinators = CoordinatorClient::new(ConnectionPool::new(endpoint), roster);
        Ok(Self { environment: environment.clone(), identity, id, coordinators, kept: None })
    }

    /// Asks a coordinator for the roster in force, goes on with it if it is newer, and keeps it.
    pub async fn refresh(&self) -> Result<(), AskError> {
        let descriptor = self.coordinators.descriptor().await?;
        let roster = firn_wire::VerifiedRoster::open(&descriptor.roster, self.id)?;
        if roster.roster().generation > self.coordinators.roster().roster().generation {
            self.coordinators.adopt_roster(&roster);
            self.keep(&descriptor).await;
        }
        Ok(())
    }

    /// The archive's id.
    pub const fn id(&self) -> ArchiveId {
        self.id
    }

    /// Who this program is in the archive.
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The world it lives in.
    pub const fn environment(&self) -> &Environment {
        &self.environment
    }

    /// The coordinators.
    pub const fn coordinators(&self) -> &CoordinatorClient {
        &self.coordinators
    }

    /// Connections to coordinators and nodes.
    pub fn pool(&self) -> &ConnectionPool {
        self.coordinators.pool()
    }

    /// What reads the archive's objects, and the directory that it finds bundles and nodes by.
    pub fn reader(
        &self,
        manifests: ManifestOptions,
        objects: ObjectOptions,
    ) -> (Arc<dyn Directory>, ObjectReader) {
        let source = Arc::new(CoordinatorSource::new(self.coordinators.clone()));
        let directory: Arc<dyn Directory> =
            Arc::new(CachedDirectory::new(source, self.environment.clone(), DirectoryOptions::default()));
        let nodes = Arc::new(NodeSource::new(self.pool().clone()));
        let swarm = SwarmReader::new(Arc::clone(&directory), nodes, SwarmOptions::default());
        let manifests = ManifestReader::new(Arc::new(swarm), manifests);
        (directory, ObjectReader::new(manifests, self.environment.clone(), objects))
    }

    /// The archive's ledger, vouched for by a majority of its coordinators; if too few of them answer, as a majority
    /// signed it before: its latest entries may be missing then, which is said in the log.
    pub async fn ledger(&self) -> Result<VerifiedLedger, AskError> {
        let asked = self.coordinators.ledger().await;
        let Err(AskError::Ledger(LedgerError::TooFew { found, .. })) = &asked else { return asked };
        let (found, Some(ledger)) = (*found, self.coordinators.ledger_signed_before().await) else {
            return asked;
        };
        let all = self.coordinators.roster().roster().coordinators.len();
        tracing::warn!(
            "{found} of {all} coordinators show their ledger: it is taken as a majority signed it before, the latest withdrawals and \
             publishers may be missing"
        );
        Ok(ledger)
    }

    /// Ends all connections.
    pub async fn close(&self) {
        self.pool().endpoint().close().await;
    }

    /// A program that cannot keep the descriptor works all the same.
    async fn keep(&self, descriptor: &Descriptor) {
        let Some(path) = self.kept.clone() else { return };
        let text = descriptor.to_string();
        let written =
            self.environment.blocking(move || write(&path, &text).map_err(|error| (path, error))).await;
        if let Err((path, error)) = written {
            tracing::warn!(path = %path.display(), %error, "the archive descriptor could not be kept");
        }
    }
}

/// The accepted publishers of a ledger, the most preferred first. A key that is none is left out.
pub fn publisher_keys(ledger: &VerifiedLedger) -> Vec<PublisherKey> {
    let publishers = ledger.state.publishers_by_rank().into_iter();
    let keys = publishers.map(|entry| PublisherKey::from_parts(&entry.name, entry.key.as_bytes()));
    keys.filter_map(|key: Result<_, ParsePublisherKeyError>| {
        key.inspect_err(|error| tracing::warn!(%error, "the ledger names a publisher that is none")).ok()
    })
    .collect()
}

/// The newer of what the source says and what was kept; what was kept if the source says nothing now.
fn newest_descriptor(source: &DescriptorSource, kept: Option<&Path>) -> Result<Descriptor, OpenArchiveError> {
    let kept = kept.and_then(|path| fs::read_to_string(path).ok()?.parse::<Descriptor>().ok());
    match (fetch_descriptor(source), kept) {
        (Ok(fetched), Some(kept)) if kept.archive == fetched.archive => {
            let generation = |descriptor: &Descriptor| descriptor.verify().map(|it| it.roster().generation);
            Ok(if generation(&kept)? > generation(&fetched)? { kept } else { fetched })
        }
        // Whoever names another archive at the same place means it.
        (Ok(fetched), _) => Ok(fetched),
        (Err(error), None) => Err(error),
        (Err(error), Some(kept)) => {
            tracing::warn!(%error, "going on with the archive descriptor of the last run");
            Ok(kept)
        }
    }
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let directory = path.parent().unwrap_or_else(|| Path::new("."));
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    fs::create_dir_all(directory)?;
    write_synced(directory, name, text.as_bytes(), 0o644)
}

#[cfg(test)]
mod tests {
    use firn_base::{NodeId, Timestamp};
    use firn_wire::{CoordinatorEntry, Roster, Signed};

    use super::*;

    fn descriptor(seed: u8, generation: u64) -> Descriptor {
        let key = Identity::from_seed(&[seed; 32]);
        let coordinators = vec![CoordinatorEntry {
            id: NodeId::from_bytes([2; 32]),
            raft_id: 1,
            address: "127.0.0.1:1".into(),
        }];
        let archive = key.public().into();
        let roster =
            Roster { archive, generation, issued: Timestamp::from_millis(1), coordinators, retired: vec![] };
        Descriptor { archive, roster: Signed::seal(&key, archive, &roster) }
    }

    fn generation(descriptor: &Descriptor) -> u64 {
        descriptor.verify().unwrap().roster().generation
    }

    #[test]
    fn the_newest_descriptor_of_an_archive_wins_and_a_missing_file_does_no_harm() {
        let place = tempfile::tempdir().unwrap();
        let (file, kept) = (place.path().join("a.firn"), place.path().join("state/kept"));
        let source = DescriptorSource::parse(file.to_str().unwrap());
        assert!(newest_descriptor(&source, Some(&kept)).unwrap_err().to_string().contains("cannot read"));
        fs::write(&file, descriptor(1, 1).to_string()).unwrap();
        assert_eq!(generation(&newest_descriptor(&source, Some(&kept)).unwrap()), 1);
        write(&kept, &descriptor(1, 3).to_string()).unwrap();
        assert_eq!(generation(&newest_descriptor(&source, Some(&kept)).unwrap()), 3);
        fs::write(&file, descriptor(2, 1).to_string()).unwrap();
        assert_eq!(generation(&newest_descriptor(&source, Some(&kept)).unwrap()), 1, "another archive");
        fs::remove_file(&file).unwrap();
        assert_eq!(generation(&newest_descriptor(&source, Some(&kept)).unwrap()), 3);
    }

    #[tokio::test]
    async fn an_archive_is_opened_without_dialling_and_its_descriptor_kept() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("a.firn");
        fs::write(&file, descriptor(1, 4).to_string()).unwrap();
        let options = ArchiveOptions {
            descriptor: file.to_str().unwrap().to_owned(),
            state_dir: Some(place.path().join("state")),
            endpoint: EndpointOptions::default(),
        };
        let environment = Environment::real();
        let identity = Identity::from_seed(&[5; 32]);
        let archive = Archive::open(options.clone(), identity.clone(), &environment).await.unwrap();
        assert_eq!(archive.id(), descriptor(1, 4).archive);
        archive.close().await;
        fs::remove_file(&file).unwrap();
        let again = Archive::open(options, identity, &environment).await.unwrap();
        assert_eq!(again.id(), archive.id());
    }
}
