//! The archive that a command works with.
//!
//! Owns: which descriptor and identity are used, and whom to ask for what only the leader knows.
//! Leaves to others: descriptors and connections (`firn-client`).

use std::path::PathBuf;
use std::time::Duration;

use firn_client::{Archive, ArchiveOptions};
use firn_retrieval::{ManifestOptions, ObjectOptions};
use firn_transport::{AskError, EndpointOptions, Environment, load_identity};
use firn_wire::{ArchiveStatus, CoordinatorReply, CoordinatorRequest, Identity};

use crate::cli::CommonOptions;
use crate::command_error::CommandError;
use crate::record_finder::RecordFinder;

/// An archive that was found. Dials nobody before it is asked.
#[derive(Debug)]
pub(crate) struct Session {
    archive: Archive,
}

// A leader that does not answer within this is about to be replaced.
const LEADER_TIMEOUT: Duration = Duration::from_secs(5);

impl Session {
    /// Opens the archive that `options` name, as the reader that they name, or one whom nobody knows.
    pub(crate) async fn open(options: &CommonOptions) -> Result<Self, CommandError> {
        let environment = Environment::real();
        let identity = match &options.reader_key {
            Some(file) => load_identity(file)?,
            None => Identity::from_seed(&environment.seed()),
        };
        Self::open_as(options, identity, EndpointOptions::default(), &environment).await
    }

    /// Opens the archive that `options` name as `identity`.
    pub(crate) async fn open_as(
        options: &CommonOptions,
        identity: Identity,
        endpoint: EndpointOptions,
        environment: &Environment,
    ) -> Result<Self, CommandError> {
        let Some(descriptor) = options.archive.clone() else {
            return Err(CommandError::Usage(
                "which archive? name its descriptor with --archive FILE|URL, or a configuration file with --config"
                    .to_owned(),
            ));
        };
        let options = ArchiveOptions { descriptor, state_dir: state_dir(), endpoint };
        let archive = Archive::open(options, identity, environment).await?;
        Ok(Self { archive })
    }

    /// The archive.
    pub(crate) const fn archive(&self) -> &Archive {
        &self.archive
    }

    /// Reads records and objects.
    pub(crate) fn finder(&self) -> RecordFinder {
        let (directory, objects) = self.archive.reader(ManifestOptions::default(), ObjectOptions::default());
        RecordFinder::new(self.archive.coordinators().clone(), directory, objects)
    }

    /// The archive at a glance, by the leader if it answers: the others know no health.
    pub(crate) async fn status(&self) -> Result<ArchiveStatus, AskError> {
        let status = self.archive.coordinators().status().await?;
        if status.health.is_some() {
            return Ok(status);
        }
        match self.ask_leader_of(&status, &CoordinatorRequest::Status).await {
            Some(CoordinatorReply::Status(better)) => Ok(*better),
            _ => Ok(status),
        }
    }

    /// Asks the leader, or whoever answers if it does not.
    pub(crate) async fn ask_leader(
        &self,
        request: &CoordinatorRequest,
    ) -> Result<CoordinatorReply, AskError> {
        let coordinators = self.archive.coordinators();
        let status = coordinators.status().await?;
        match self.ask_leader_of(&status, request).await {
            Some(reply) => Ok(reply),
            None => coordinators.ask(request).await,
        }
    }

    async fn ask_leader_of(
        &self,
        status: &ArchiveStatus,
        request: &CoordinatorRequest,
    ) -> Option<CoordinatorReply> {
        let leader = status.coordinators.iter().find(|coordinator| coordinator.leader)?;
        self.archive.coordinators().ask_coordinator(leader.id, request, LEADER_TIMEOUT).await.ok()
    }

    /// Ends all connections.
    pub(crate) async fn close(self) {
        self.archive.close().await;
    }
}

/// Where programs keep what they learn of an archive between runs, by the XDG rules.
fn state_dir() -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    let home = std::env::var_os("HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    let state = state.or_else(|| home.map(|home| home.join(".local/state")));
    state.filter(|path| path.is_absolute()).map(|path| path.join("firn"))
}
