//! Who is asked to administer: the coordinator that runs on a data directory, or, with an operator's key, the one that
//! leads.
//!
//! Always holds: the same requests go both ways; what makes sense on the coordinator's own machine alone says so.
//! Leaves to others: what is asked (the commands), who may (the coordinators).

use std::path::{Path, PathBuf};

use firn_client::{Archive, ArchiveOptions};
use firn_coordinator::{ControlError, Home, ask_control};
use firn_transport::{AskError, EndpointOptions, Environment, load_identity};
use firn_wire::{AdminReply, AdminRequest, LedgerEntry, RefusalKind, RefusedRequest};

use super::Failure;

/// Where administration is asked for.
pub(crate) enum Desk {
    /// The control socket in this data directory.
    Socket(PathBuf),
    /// The archive's coordinators, with an operator's key.
    Key(Box<Archive>),
}

impl Desk {
    /// The desk of an operator with the key in `key`, at the archive whose descriptor is `descriptor` (a file or URL).
    pub(crate) async fn with_key(key: &Path, descriptor: &str) -> Result<Self, Failure> {
        let options = ArchiveOptions {
            descriptor: descriptor.to_owned(),
            state_dir: None,
            endpoint: EndpointOptions::default(),
        };
        let archive = Archive::open(options, load_identity(key)?, &Environment::real()).await?;
        Ok(Self::Key(Box::new(archive)))
    }

    /// Asks, and gives the answer.
    pub(crate) async fn ask(&self, request: AdminRequest) -> Result<AdminReply, Failure> {
        match self {
            Self::Socket(directory) => Ok(ask_control(directory, &request).await?),
            Self::Key(archive) => Ok(archive.coordinators().administer(request).await?),
        }
    }

    /// Asks what coordinators of before do not know; none from one of those.
    pub(crate) async fn ask_newer(&self, request: AdminRequest) -> Result<Option<AdminReply>, Failure> {
        let is_old = |refused: &RefusedRequest| refused.kind == RefusalKind::Malformed;
        match self {
            Self::Socket(directory) => match ask_control(directory, &request).await {
                Err(ControlError::Refused(refused)) if is_old(&refused) => Ok(None),
                reply => Ok(Some(reply?)),
            },
            Self::Key(archive) => match archive.coordinators().administer(request).await {
                Err(AskError::Refused(refused)) if is_old(&refused) => Ok(None),
                reply => Ok(Some(reply?)),
            },
        }
    }

    /// A page of the ledger; empty at its end.
    pub(crate) async fn ledger_page(&self, from: u64) -> Result<Vec<LedgerEntry>, Failure> {
        match self.ask(AdminRequest::Ledger { from }).await? {
            AdminReply::Ledger(page) => Ok(page),
            _ => Err(misfit()),
        }
    }

    /// The whole ledger, page by page.
    pub(crate) async fn ledger(&self) -> Result<Vec<LedgerEntry>, Failure> {
        let mut entries = Vec::new();
        loop {
            let page = self.ledger_page(entries.len() as u64).await?;
            if page.is_empty() {
                return Ok(entries);
            }
            entries.extend(page);
        }
    }

    /// The data directory, for `command`, which is of no use from elsewhere.
    pub(crate) fn directory(&self, command: &str) -> Result<&Path, Failure> {
        match self {
            Self::Socket(directory) => Ok(directory),
            Self::Key(_) => Err(format!(
                "`{command}` works on the coordinator's own machine alone: run it there with --data-dir, without \
                 --operator-key"
            )
            .into()),
        }
    }

    /// The archive's coordinators, for reading what is archived.
    pub(crate) async fn coordinators(&self) -> Result<firn_transport::CoordinatorClient, Failure> {
        match self {
            Self::Key(archive) => Ok(archive.coordinators().clone()),
            Self::Socket(directory) => {
                let descriptor = Home::read_descriptor(directory)?
                    .ok_or("this coordinator has no descriptor of its archive yet")?;
                let environment = Environment::real();
                let identity = firn_wire::Identity::from_seed(&environment.seed());
                let options = EndpointOptions::default();
                let archive = Archive::with_descriptor(&descriptor, identity, options, &environment).await?;
                Ok(archive.coordinators().clone())
            }
        }
    }
}

/// An answer to another question.
pub(crate) fn misfit() -> Failure {
    "the coordinator's answer does not fit: update the older of the two programs".into()
}
