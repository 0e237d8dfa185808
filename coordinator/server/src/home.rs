//! A coordinator's data directory: lock, identity, archive key, descriptor.
//!
//! Always holds: an identity or archive key that is there is never written again; a descriptor is replaced
//! only by one of a larger generation. Leaves to others: the two stores below `log` and `state`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use firn_transport::{
    DataDir, DataDirError, Environment, IDENTITY_FILE, IdentityFileError, load_identity,
    load_or_create_identity, write_identity, write_synced,
};
use firn_wire::{Descriptor, DescriptorError, Identity};

/// The format of a coordinator's data directory that this program writes.
const FORMAT: u32 = 1;
const ROLE: &str = "coordinator";
const LOG_DIRECTORY: &str = "log";
const ARCHIVE_KEY_FILE: &str = "archive.key";
const DESCRIPTOR_FILE: &str = "archive.firn";
/// Says that there was a log: written once the stores are there.
const STARTED_FILE: &str = "started";

/// An opened data directory. Nobody else opens it while this lives.
#[derive(Debug)]
pub struct Home {
    directory: DataDir,
    identity: Identity,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// It is in use, foreign, newer, or cannot be written.
    #[error(transparent)]
    Directory(#[from] DataDirError),
    /// A key file is missing or damaged.
    #[error(transparent)]
    Key(#[from] IdentityFileError),
    /// The descriptor is damaged.
    #[error("{}: {source}", path.display())]
    Descriptor {
        /// The file.
        path: PathBuf,
        /// Why.
        source: DescriptorError,
    },
    /// The log was there and is not there any more.
    #[error(
        "the log in {} is gone: without it this coordinator may vote twice in one election, so it does not start. Is the \
         disk mounted? If the log is lost, replace this coordinator: start one with an empty --data-dir, and use \
         `firn-coordinator member replace` on one that runs", path.display()
    )]
    LogLost {
        /// Where it was.
        path: PathBuf,
    },
    /// A file cannot be read or written.
    #[error("cannot read or write {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Home {
    /// Opens the directory; makes it, with a new identity, if it is empty.
    pub fn open(path: &Path, environment: &Environment) -> Result<Self, HomeError> {
        let directory = DataDir::open(path, ROLE, FORMAT)?;
        let key = directory.join(IDENTITY_FILE);
        // A directory that was used before has its identity: a new one would be another coordinator.
        let identity = if directory.is_fresh() {
            load_or_create_identity(&key, environment)?
        } else {
            match load_identity(&key) {
                Err(IdentityFileError::Missing { .. }) if !directory.join(LOG_DIRECTORY).exists() => {
                    load_or_create_identity(&key, environment)?
                }
                loaded => loaded?,
            }
        };
        Ok(Self { directory, identity })
    }

    /// The coordinator's identity.
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The path of a file or directory in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Refuses to go on without the log if there was one. To be called before the stores are opened.
    pub fn check_log(&self) -> Result<(), HomeError> {
        let log = self.join(LOG_DIRECTORY);
        match self.join(STARTED_FILE).exists() && !log.join("current").exists() {
            true => Err(HomeError::LogLost { path: log }),
            false => Ok(()),
        }
    }

    /// Remembers that there is a log. To be called once the stores are open, before anything is voted for.
    pub fn note_log(&self) -> Result<(), HomeError> {
        let path = self.join(STARTED_FILE);
        if path.exists() {
            return Ok(());
        }
        write_synced(self.directory.path(), STARTED_FILE, b"firn-started 1\n", 0o644)
            .map_err(|source| HomeError::Io { path, source })
    }

    /// Makes the archive key. An existing one is an error: an archive has one key for good.
    pub fn create_archive_key(&self, environment: &Environment) -> Result<Identity, HomeError> {
        let identity = Identity::from_seed(&environment.seed());
        write_identity(&self.join(ARCHIVE_KEY_FILE), &identity)?;
        Ok(identity)
    }

    /// The descriptor kept here, if there is one yet.
    pub fn descriptor(&self) -> Result<Option<Descriptor>, HomeError> {
        let path = self.join(DESCRIPTOR_FILE);
        match fs::read_to_string(&path) {
            Ok(text) => text.parse().map(Some).map_err(|source| HomeError::Descriptor { path, source }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(HomeError::Io { path, source }),
        }
    }

    /// Keeps `descriptor`, unless a newer one is here.
    pub fn keep_descriptor(&self, descriptor: &Descriptor) -> Result<(), HomeError> {
        let generation =
            |descriptor: &Descriptor| descriptor.roster.peek().map(|roster| roster.generation).ok();
        if let Some(kept) = self.descriptor()?
            && generation(&kept) >= generation(descriptor)
        {
            return Ok(());
        }
        write_synced(self.directory.path(), DESCRIPTOR_FILE, descriptor.to_string().as_bytes(), 0o644)
            .map_err(|source| HomeError::Io { path: self.join(DESCRIPTOR_FILE), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_coordinator_whose_log_is_gone_does_not_start() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::open(directory.path(), &Environment::real()).unwrap();
        home.check_log().unwrap();
        fs::create_dir(home.join(LOG_DIRECTORY)).unwrap();
        fs::write(home.join(LOG_DIRECTORY).join("current"), "there").unwrap();
        home.note_log().unwrap();
        home.check_log().unwrap();
        fs::remove_dir_all(home.join(LOG_DIRECTORY)).unwrap();
        let error = home.check_log().unwrap_err();
        assert!(matches!(error, HomeError::LogLost { .. }));
        assert!(error.to_string().contains("member replace"), "{error}");
    }
}
