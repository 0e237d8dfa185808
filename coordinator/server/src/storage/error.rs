//! What can go wrong with a store, in sentences for whoever runs the coordinator.

use std::io;

use firn_wire::DecodeError;

/// Why a store could not be opened, read or written. After a failed write the coordinator stops: what is on
/// disk is then what a restart finds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StorageError {
    /// Reading or writing failed.
    #[error("the coordinator's store could not be read or written: check its disk ({0})")]
    Io(String),
    /// What is there is not what was written.
    #[error(
        "the coordinator's store is damaged: `firn-coordinator resync` rebuilds it from the other coordinators ({0})"
    )]
    Corrupted(String),
    /// No space left.
    #[error("the disk of the coordinator's store is full: free some space, then start it again ({0})")]
    Full(String),
    /// Another process has it open.
    #[error("another process uses the store in {0}: stop it first")]
    Locked(String),
    /// Written by a newer program.
    #[error("the store was written by a newer version: update this program ({0})")]
    Newer(String),
    /// Written by an older program, in a format that this one does not read.
    #[error(
        "the store was written by an older version, and is not damaged ({0}): start the version that wrote it, or leave it \
         behind: `firn-coordinator resync` where other coordinators run this version, `firn-coordinator rebuild` where none does"
    )]
    Older(String),
}

impl StorageError {
    /// Damage, described by `what`.
    pub fn corrupted(what: impl Into<String>) -> Self {
        Self::Corrupted(what.into())
    }

    /// `what` has version `found`, and this program reads `known`.
    pub fn of_version(what: &str, found: impl Into<u64>, known: impl Into<u64>) -> Self {
        let (found, known) = (found.into(), known.into());
        let sentence = format!("{what} has version {found}, this program reads {known}");
        if found > known { Self::Newer(sentence) } else { Self::Older(sentence) }
    }

    /// `what` cannot be decoded: it is of another version, or damaged.
    pub fn undecodable(what: &str, error: DecodeError) -> Self {
        match error {
            DecodeError::Version { found, known } => Self::of_version(what, found, known),
            error => Self::Corrupted(format!("{what}: {error}")),
        }
    }
}

impl From<io::Error> for StorageError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full(error.to_string()),
            _ => Self::Io(error.to_string()),
        }
    }
}
