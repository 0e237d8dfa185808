//! A backup: one coordinator's state in one file, signed, to be kept elsewhere.
//!
//! Owns: the file's format. Always holds: a file is there under its name only once all of it is on disk; it is used only
//! if a coordinator signed it whom a roster names that the archive's key signed, and after every byte had the hash that
//! this one signed; what is restored from it begins as a rebuild, so it never makes a node delete anything.
//! Leaves to others: what lies in the files of a state (`storage`), going on from it (`raft::refound`).

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use firn_base::{ArchiveId, Timestamp};
use firn_wire::{
    Descriptor, DescriptorError, Identity, OpenError, Signed, Statement, VerifiedRoster, decode, encode,
};
use serde::{Deserialize, Serialize};

use crate::raft::read_position;
use crate::storage::{IMAGE_PIECE_BYTES, ImageFile, KeyValue, StorageError};

const MAGIC: &[u8; 8] = b"firnsnap";
// 10,000 files of 100 bytes, and a roster.
const HEADER_BYTES_MAX: usize = 4 << 20;

/// What a coordinator says of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotContents {
    /// When it was made.
    pub taken_at: Timestamp,
    /// Index of the last entry of the log that made the state.
    pub applied: u64,
    /// The files of the state, as they follow in the backup.
    pub files: Vec<ImageFile>,
}

impl Statement for SnapshotContents {
    const KIND: &'static str = "snapshot";
}

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    descriptor: Descriptor,
    contents: Signed<SnapshotContents>,
}

/// A backup that was found to be signed, its files not looked at yet.
#[derive(Debug)]
pub struct SnapshotFile {
    file: File,
    path: PathBuf,
    contents: SnapshotContents,
    roster: VerifiedRoster,
}

/// Why a backup was not written, or is not used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotFileError {
    /// Something has its name.
    #[error("{} is there already: name another file", .0.display())]
    Exists(PathBuf),
    /// The file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is no backup, or is cut off.
    #[error("{} is no backup of a coordinator, or is damaged: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The roster in it is not one of the archive.
    #[error("{}: {source}", path.display())]
    Roster {
        /// The file.
        path: PathBuf,
        /// Why.
        source: DescriptorError,
    },
    /// It is of another archive.
    #[error("{} is a backup of archive {found}, not of {expected}", path.display())]
    OtherArchive {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Whose key was given.
        expected: String,
    },
    /// Nobody whom its roster names signed it.
    #[error("{} is not signed by a coordinator of its archive", .0.display())]
    Unsigned(PathBuf),
    /// The store failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Writes a backup of `state` to `to`, or below it if that is a directory. Gives its length. Blocks.
pub(crate) fn write(
    state: &dyn KeyValue,
    to: &Path,
    descriptor: &Descriptor,
    identity: &Identity,
    taken_at: Timestamp,
) -> Result<u64, SnapshotFileError> {
    let image = state.image()?;
    let applied = read_position(&*image)?.applied.map_or(0, |applied| applied.index);
    let to = match to.is_dir() {
        true => to.join(format!("firn-{}-{applied}.snapshot", descriptor.archive.short())),
        false => to.to_owned(),
    };
    if to.exists() {
        return Err(SnapshotFileError::Exists(to));
    }
    let contents = SnapshotContents { taken_at, applied, files: image.files().to_vec() };
    let contents = Signed::seal(identity, descriptor.archive, &contents);
    let header = encode(&Header { descriptor: descriptor.clone(), contents });
    let part = to.with_extension("part");
    let failed = |source| SnapshotFileError::Io { path: part.clone(), source };
    let mut file = File::create(&part).map_err(failed)?;
    let length = u32::try_from(header.len()).map_err(|error| failed(io::Error::other(error)))?;
    file.write_all(MAGIC).map_err(failed)?;
    file.write_all(&length.to_le_bytes()).map_err(failed)?;
    file.write_all(&header).map_err(failed)?;
    let mut written = (MAGIC.len() + 4 + header.len()) as u64;
    for (number, described) in image.files().iter().enumerate() {
        let mut offset = 0;
        while offset < described.bytes {
            let piece = image.read_file(number, offset, IMAGE_PIECE_BYTES)?;
            if piece.is_empty() {
                return Err(failed(io::ErrorKind::UnexpectedEof.into()));
            }
            file.write_all(&piece).map_err(failed)?;
            offset += piece.len() as u64;
            written += piece.len() as u64;
        }
    }
    file.sync_all().map_err(failed)?;
    fs::rename(&part, &to).map_err(failed)?;
    let directory = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)?;
    Ok(written)
}

impl SnapshotFile {
    /// Opens the backup at `path` if it is one of `archive`, signed.
    pub fn open(path: &Path, archive: ArchiveId) -> Result<Self, SnapshotFileError> {
        let io = |source| SnapshotFileError::Io { path: path.to_owned(), source };
        let damaged =
            |what: &str| SnapshotFileError::Damaged { path: path.to_owned(), what: what.to_owned() };
        let cut = |error: io::Error| match error.kind() {
            io::ErrorKind::UnexpectedEof => damaged("it is cut off"),
            _ => io(error),
        };
        let mut file = File::open(path).map_err(io)?;
        let mut start = [0; 12];
        file.read_exact(&mut start).map_err(cut)?;
        let (magic, length) = start.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err(damaged("it does not begin as one"));
        }
        let length = u32::from_le_bytes(length.try_into().unwrap_or([u8::MAX; 4]));
        let length = usize::try_from(length).ok().filter(|length| *length <= HEADER_BYTES_MAX);
        let mut header = vec![0; length.ok_or_else(|| damaged("its header is too long"))?];
        file.read_exact(&mut header).map_err(cut)?;
        let Header { descriptor, contents } = decode(&header).map_err(|error| damaged(&error.to_string()))?;
        if descriptor.archive != archive {
            return Err(SnapshotFileError::OtherArchive {
                path: path.to_owned(),
                found: descriptor.archive.to_string(),
                expected: archive.to_string(),
            });
        }
        let roster = descriptor
            .verify()
            .map_err(|source| SnapshotFileError::Roster { path: path.to_owned(), source })?;
        let unsigned = |_: OpenError| SnapshotFileError::Unsigned(path.to_owned());
        let contents = contents.open(archive).map_err(unsigned)?;
        if !roster.has_coordinator(contents.signer()) {
            return Err(SnapshotFileError::Unsigned(path.to_owned()));
        }
        Ok(Self { file, path: path.to_owned(), contents: contents.into_statement(), roster })
    }

    /// What its coordinator said of it.
    pub const fn contents(&self) -> &SnapshotContents {
        &self.contents
    }

    /// The roster that was in force when it was made.
    pub const fn roster(&self) -> &VerifiedRoster {
        &self.roster
    }

    /// Puts the state in it in the place of that in `state`, once every file of it was found whole. Blocks.
    pub fn install(mut self, state: &dyn KeyValue) -> Result<(), SnapshotFileError> {
        let damaged =
            |what: &str| SnapshotFileError::Damaged { path: self.path.clone(), what: what.to_owned() };
        // What arrived of another state before is not wanted.
        state.forget_arrivals()?;
        let mut intake = state.intake(self.contents.files.clone())?;
        let held = intake.held();
        for (number, described) in self.contents.files.iter().enumerate() {
            let mut offset = 0;
            // Files with the same contents arrive once.
            let is_held = held.get(number).is_some_and(|held| *held == described.bytes);
            let earlier = self.contents.files.iter().take(number);
            let is_twin = is_held || earlier.into_iter().any(|other| other.hash == described.hash);
            while offset < described.bytes {
                let left = usize::try_from(described.bytes - offset).unwrap_or(usize::MAX);
                let mut piece = vec![0; left.min(IMAGE_PIECE_BYTES)];
                self.file.read_exact(&mut piece).map_err(|error| damaged(&error.to_string()))?;
                if !is_twin {
                    intake.write(number, offset, &piece)?;
                }
                offset += piece.len() as u64;
            }
        }
        if !intake.verify()? {
            return Err(damaged("a file in it is not what its coordinator signed"));
        }
        Ok(intake.open()?.install()?)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use firn_base::NodeId;
    use firn_coordinator_logic::{Facts, full_digest};
    use firn_transport::Environment;

    use super::*;
    use crate::founding::{Peer, found_archive};
    use crate::raft::StateFacts;
    use crate::refounding::refound;
    use crate::storage::{Memory, StoreKind};

    struct Backup {
        place: tempfile::TempDir,
        key: Identity,
        coordinator: Identity,
        descriptor: Descriptor,
        state: Arc<dyn KeyValue>,
    }

    impl Backup {
        /// A coordinator's state with something in it.
        fn new() -> Self {
            let (key, coordinator) = (Identity::from_seed(&[1; 32]), Identity::from_seed(&[2; 32]));
            let own = Peer { id: coordinator.node_id(), address: "h:1".into() };
            let descriptor = found_archive(&key, own, &[], Timestamp::default());
            let state: Arc<dyn KeyValue> = Arc::new(Memory::new(StoreKind::State));
            let backup = Self { place: tempfile::tempdir().unwrap(), key, coordinator, descriptor, state };
            backup.refound(&backup.state, None).unwrap();
            backup
        }

        fn refound(
            &self,
            state: &Arc<dyn KeyValue>,
            snapshot: Option<SnapshotFile>,
        ) -> Result<(), SnapshotFileError> {
            let roster = self.descriptor.verify().unwrap();
            let own = (self.coordinator.node_id(), roster.roster());
            refound(&Memory::new(StoreKind::Log), state, own, snapshot, &Environment::real())
        }

        fn path(&self) -> PathBuf {
            self.place.path().join("backup")
        }

        fn write(&self, signer: &Identity) -> Result<u64, SnapshotFileError> {
            write(&*self.state, &self.path(), &self.descriptor, signer, Timestamp::from_millis(7))
        }

        fn open(&self) -> Result<SnapshotFile, SnapshotFileError> {
            SnapshotFile::open(&self.path(), self.descriptor.archive)
        }

        fn damage(&self, change: impl FnOnce(&mut Vec<u8>)) {
            let mut bytes = fs::read(self.path()).unwrap();
            change(&mut bytes);
            fs::write(self.path(), bytes).unwrap();
        }
    }

    #[test]
    fn a_backup_gives_the_state_back_in_which_a_rebuild_is_under_way() {
        let backup = Backup::new();
        let bytes = backup.write(&backup.coordinator).unwrap();
        assert_eq!(bytes, fs::metadata(backup.path()).unwrap().len());
        assert!(matches!(backup.write(&backup.coordinator), Err(SnapshotFileError::Exists(_))));
        let opened = backup.open().unwrap();
        let before = read_position(&*backup.state).unwrap().applied.unwrap();
        assert_eq!(
            (opened.contents().applied, opened.contents().taken_at),
            (before.index, Timestamp::from_millis(7))
        );
        let other: Arc<dyn KeyValue> = Arc::new(Memory::new(StoreKind::State));
        backup.refound(&other, Some(opened)).unwrap();
        let after = read_position(&*other).unwrap().applied.unwrap();
        assert_eq!((after.leader_id.term, after.index), (before.leader_id.term + 1, before.index + 2));
        let facts = StateFacts::new(Arc::clone(&other) as _);
        assert!(facts.counters().unwrap().rebuilding);
        let (fresh, kept) = (StateFacts::new(Arc::clone(&backup.state) as _), facts);
        let digest = |facts: &StateFacts| full_digest(facts).unwrap().restorable();
        assert_eq!(digest(&kept), digest(&fresh));
    }

    #[test]
    fn a_backup_that_is_not_as_it_was_signed_is_refused_and_the_store_left_alone() {
        let backup = Backup::new();
        backup.write(&backup.coordinator).unwrap();
        let last = |bytes: &mut Vec<u8>| *bytes.last_mut().unwrap() ^= 1;
        backup.damage(last);
        let other: Arc<dyn KeyValue> = Arc::new(Memory::new(StoreKind::State));
        let refused = backup.refound(&other, Some(backup.open().unwrap())).unwrap_err();
        assert!(matches!(refused, SnapshotFileError::Damaged { .. }), "{refused}");
        assert_eq!(read_position(&*other).unwrap().applied, None);
        backup.damage(last);
        backup.damage(|bytes| bytes.truncate(bytes.len() - 1));
        let refused = backup.refound(&other, Some(backup.open().unwrap())).unwrap_err();
        assert!(matches!(refused, SnapshotFileError::Damaged { .. }), "{refused}");
        backup.damage(|bytes| bytes.truncate(20));
        assert!(matches!(backup.open(), Err(SnapshotFileError::Damaged { .. })));
        backup.damage(|bytes| bytes[8..12].copy_from_slice(&u32::MAX.to_le_bytes()));
        assert!(matches!(backup.open(), Err(SnapshotFileError::Damaged { .. })));
        backup.damage(|bytes| bytes[0] ^= 1);
        assert!(matches!(backup.open(), Err(SnapshotFileError::Damaged { .. })));
    }

    #[test]
    fn a_backup_that_no_coordinator_of_the_archive_signed_is_refused() {
        let backup = Backup::new();
        backup.write(&Identity::from_seed(&[9; 32])).unwrap();
        assert!(matches!(backup.open(), Err(SnapshotFileError::Unsigned(_))));
        let other = SnapshotFile::open(&backup.path(), Identity::from_seed(&[8; 32]).public().into());
        assert!(matches!(other, Err(SnapshotFileError::OtherArchive { .. })));
        // A thief's roster under the archive's name.
        fs::remove_file(backup.path()).unwrap();
        let thief = Identity::from_seed(&[9; 32]);
        let own = Peer { id: NodeId::from(thief.public()), address: "h:1".into() };
        let forged = found_archive(&thief, own, &[], Timestamp::default());
        let forged = Descriptor { archive: backup.key.public().into(), ..forged };
        write(&*backup.state, &backup.path(), &forged, &thief, Timestamp::default()).unwrap();
        assert!(matches!(backup.open(), Err(SnapshotFileError::Roster { .. })));
    }
}
