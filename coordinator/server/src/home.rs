//! A coordinator's data directory: lock, identity, archive key, descriptor.
//!
//! Always holds: an identity or archive key that is there is never written again; a descriptor is replaced
//! only by one of a larger generation; log and state are moved aside only together, and what is to come then is on disk
//! before. Leaves to others: the two stores below `log` and `state`, being taken back (`founding`).

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
const STATE_DIRECTORY: &str = "state";
/// Says that there was a log: written once the stores are there.
const STARTED_FILE: &str = "started";
/// Says that this coordinator is being rebuilt from the others, and how far that is.
const RESYNC_FILE: &str = "resync";
const RESYNC_FORMAT: &str = "firn-resync 1";
/// Log and state that were moved aside lie below directories of this name and a number.
const DAMAGED_DIRECTORY: &str = "damaged";

/// How far the rebuilding of a coordinator from the others is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resync {
    /// Log and state are moved aside; the others are to take it back before it says anything.
    Asking,
    /// They have taken it back with this entry of the log; it catches up and has no vote yet.
    Admitted(u64),
}

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
         disk mounted? If the log is lost, `firn-coordinator resync` rebuilds it from the other coordinators", path.display()
    )]
    LogLost {
        /// Where it was.
        path: PathBuf,
    },
    /// It is being rebuilt, and whoever opens it does not ask the others to take it back.
    #[error(
        "the coordinator in {} is being rebuilt from the others: start it with `firn-coordinator --data-dir` until it has its \
         vote again", path.display()
    )]
    Rebuilding {
        /// The data directory.
        path: PathBuf,
    },
    /// What says how far a rebuilding is cannot be read.
    #[error("{} is not readable: call `firn-coordinator resync` again", path.display())]
    Resync {
        /// The file.
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

    /// Refuses to go on without the log if there was one, and before the others have taken a coordinator back that is being
    /// rebuilt. To be called before the stores are opened.
    pub fn check_log(&self) -> Result<(), HomeError> {
        if self.resync()? == Some(Resync::Asking) {
            return Err(HomeError::Rebuilding { path: self.directory.path().to_owned() });
        }
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

    /// How far a rebuilding from the others is; none if none is under way.
    pub fn resync(&self) -> Result<Option<Resync>, HomeError> {
        let path = self.join(RESYNC_FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(HomeError::Io { path, source }),
        };
        match text.trim_end().strip_prefix(RESYNC_FORMAT).map(str::trim) {
            Some("asking") => Ok(Some(Resync::Asking)),
            Some(said) => match said.strip_prefix("admitted ").map(str::parse) {
                Some(Ok(since)) => Ok(Some(Resync::Admitted(since))),
                _ => Err(HomeError::Resync { path }),
            },
            None => Err(HomeError::Resync { path }),
        }
    }

    /// Begins a rebuilding: log and state are moved aside, and the next start asks the others. Gives where they are now;
    /// none if nothing was there. A beginning that was interrupted is finished by the next call.
    pub fn begin_resync(&self) -> Result<Option<PathBuf>, HomeError> {
        self.write_resync("asking")?;
        let lying = [LOG_DIRECTORY, STATE_DIRECTORY].map(|name| self.join(name));
        if !lying.iter().any(|path| path.exists()) {
            return Ok(None);
        }
        let mut aside = (1_u32..).map(|number| self.join(&format!("{DAMAGED_DIRECTORY}-{number}")));
        let aside = { aside }.find(|path| !path.exists()).unwrap_or_else(|| self.join(DAMAGED_DIRECTORY));
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| HomeError::Io { path, source }
        };
        fs::create_dir(&aside).map_err(io(&aside))?;
        for path in lying.iter().filter(|path| path.exists()) {
            let name = path.file_name().unwrap_or_default();
            fs::rename(path, aside.join(name)).map_err(io(path))?;
        }
        let started = self.join(STARTED_FILE);
        match fs::remove_file(&started) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(&started)(error)),
            _ => {}
        }
        for directory in [aside.as_path(), self.directory.path()] {
            fs::File::open(directory).and_then(|it| it.sync_all()).map_err(io(directory))?;
        }
        Ok(Some(aside))
    }

    /// Remembers that the others have taken this coordinator back with entry `since` of the log.
    pub fn note_admitted(&self, since: u64) -> Result<(), HomeError> {
        self.write_resync(&format!("admitted {since}"))
    }

    /// Remembers that this coordinator has its vote again: the rebuilding is done.
    pub fn end_resync(&self) -> Result<(), HomeError> {
        let path = self.join(RESYNC_FILE);
        fs::remove_file(&path)
            .and_then(|()| fs::File::open(self.directory.path())?.sync_all())
            .map_err(|source| HomeError::Io { path, source })
    }

    fn write_resync(&self, what: &str) -> Result<(), HomeError> {
        let text = format!("{RESYNC_FORMAT} {what}\n");
        write_synced(self.directory.path(), RESYNC_FILE, text.as_bytes(), 0o644)
            .map_err(|source| HomeError::Io { path: self.join(RESYNC_FILE), source })
    }

    /// Makes the archive key. An existing one is an error: an archive has one key for good.
    pub fn create_archive_key(&self, environment: &Environment) -> Result<Identity, HomeError> {
        let identity = Identity::from_seed(&environment.seed());
        write_identity(&self.join(ARCHIVE_KEY_FILE), &identity)?;
        Ok(identity)
    }

    /// The descriptor kept here, if there is one yet.
    pub fn descriptor(&self) -> Result<Option<Descriptor>, HomeError> {
        Self::read_descriptor(self.directory.path())
    }

    /// The descriptor kept in a coordinator's data directory, for programs beside the one that has opened it.
    pub fn read_descriptor(directory: &Path) -> Result<Option<Descriptor>, HomeError> {
        let path = directory.join(DESCRIPTOR_FILE);
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
        assert!(error.to_string().contains("firn-coordinator resync"), "{error}");
    }

    #[test]
    fn a_rebuilding_moves_log_and_state_aside_and_goes_on_where_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::open(directory.path(), &Environment::real()).unwrap();
        assert_eq!(home.resync().unwrap(), None);
        for round in 1..=2 {
            for name in [LOG_DIRECTORY, STATE_DIRECTORY] {
                fs::create_dir(home.join(name)).unwrap();
                fs::write(home.join(name).join("current"), format!("round {round}")).unwrap();
            }
            home.note_log().unwrap();
            let aside = home.begin_resync().unwrap().unwrap();
            assert_eq!(fs::read_to_string(aside.join("log/current")).unwrap(), format!("round {round}"));
            assert!(aside.join("state/current").exists() && !home.join(LOG_DIRECTORY).exists());
            assert_eq!(home.resync().unwrap(), Some(Resync::Asking));
            // Without having been taken back it would vote as if it had never voted.
            assert!(matches!(home.check_log(), Err(HomeError::Rebuilding { .. })));
            assert_eq!(home.begin_resync().unwrap(), None);
            home.note_admitted(17).unwrap();
            home.check_log().unwrap();
            assert_eq!(home.resync().unwrap(), Some(Resync::Admitted(17)));
        }
        home.end_resync().unwrap();
        assert_eq!(home.resync().unwrap(), None);
        fs::write(home.join(RESYNC_FILE), "something").unwrap();
        assert!(matches!(home.resync(), Err(HomeError::Resync { .. })));
    }
}
