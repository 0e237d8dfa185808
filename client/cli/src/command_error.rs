//! How a command ends.

use std::io;
use std::path::PathBuf;

use firn_client::OpenArchiveError;
use firn_gateway::{LocateError, StartError};
use firn_retrieval::ReadError;
use firn_transport::{AskError, IdentityFileError};

use crate::path_search::WhoseError;

/// A command that came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Done {
    /// Everything that was asked for was done: exit code 0.
    Completely,
    /// Some of it could not be done, and was named: exit code 1.
    Incompletely,
}

impl Done {
    /// Completely if `complete`.
    pub(crate) const fn when(complete: bool) -> Self {
        if complete { Self::Completely } else { Self::Incompletely }
    }
}

/// Why a command did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    /// Options do not fit together: exit code 2.
    #[error("{0}")]
    Usage(String),
    /// A signal.
    #[error("stopped before it was done; run it again to go on")]
    Stopped,
    /// Nobody reads the output any more.
    #[error("the output was closed")]
    OutputClosed,
    /// The output cannot be written.
    #[error("cannot write the output: {0}")]
    Output(io::Error),
    /// A file.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The archive was not found.
    #[error(transparent)]
    Open(#[from] OpenArchiveError),
    /// The coordinators.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// Whose word counts.
    #[error(transparent)]
    Whose(#[from] WhoseError),
    /// The index.
    #[error(transparent)]
    Locate(#[from] LocateError),
    /// Reading.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A key file.
    #[error(transparent)]
    Identity(#[from] IdentityFileError),
    /// The gateway.
    #[error(transparent)]
    Gateway(#[from] StartError),
    /// Anything else, as a sentence.
    #[error("{0}")]
    Failed(String),
}

impl CommandError {
    /// A failed access to a file.
    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::File { action, path: path.into(), source }
    }
}
