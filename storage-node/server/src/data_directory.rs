//! A storage node's data directory: whose it is, and that its disk is really there.
//!
//! Always holds: identity and marker are made once, together, in a directory that was empty; afterwards both
//! must be there and name one node. A disk that is not mounted shows as one of them missing, and then nothing
//! is written: a node that began anew in its place would be a stranger without shards.
//! Leaves to others: what lies in the directory besides (`store`, `governance`, `orders_file`).
//!
//! The identity lies at the top of the directory, the marker in `shards/`, because either of the two may be
//! the place where the disk is mounted.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use firn_base::NodeId;
use firn_transport::{
    DataDir, DataDirError, Environment, IDENTITY_FILE, IdentityFileError, load_identity, write_identity,
};
use firn_wire::Identity;

use crate::store::{Disk, FileDisk, read_small, replace_small};

const ROLE: &str = "storage-node";
const FORMAT: u32 = 1;
const MARKER: &str = "shards/marker";
const MARKER_MAGIC: &str = "firn-storage-node 1";
const MARKER_BYTES_MAX: u64 = 4096;

/// A data directory that is open and locked for this process.
#[derive(Debug)]
pub struct DataDirectory {
    identity: Identity,
    disk: Arc<FileDisk>,
}

/// Why a data directory was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenDataError {
    /// Identity and marker do not belong together, or one is missing.
    #[error("data directory {} is not the one of node {node}: is the disk mounted? ({why})", path.display())]
    NotThisNode {
        /// The directory.
        path: PathBuf,
        /// The node that is known from what is there.
        node: String,
        /// What is missing or differs.
        why: &'static str,
    },
    /// The whole directory of another node lies where this one's was.
    #[error(
        "{} is now the data directory of node {found}, and no longer that of node {node}, which ran there: this program ends, so that it can be started as the one that is there. If that is the wrong one, mount the right disk first",
        path.display()
    )]
    AnotherNode {
        /// The directory.
        path: PathBuf,
        /// The node that is there.
        found: NodeId,
        /// The node that was.
        node: NodeId,
    },
    /// There is no node in it, and something else is.
    #[error(
        "{} holds no storage node but is not empty ({found} lies in it): choose an empty directory, or is another disk mounted there?",
        path.display()
    )]
    NotEmpty {
        /// The directory.
        path: PathBuf,
        /// One thing that is there.
        found: String,
    },
    /// There is no node in it, and none was to be made.
    #[error("{} is not the data directory of a storage node: is the disk mounted?", path.display())]
    NoNode {
        /// The directory.
        path: PathBuf,
    },
    /// It is locked, of another role or of a newer format.
    #[error(transparent)]
    Directory(#[from] DataDirError),
    /// The identity cannot be read or written.
    #[error(transparent)]
    Identity(#[from] IdentityFileError),
    /// It cannot be read or written.
    #[error("cannot use the data directory {}: {source}", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl DataDirectory {
    /// Opens the directory of a node; an empty or missing one becomes that of a new node.
    pub fn open(path: &Path, environment: &Environment) -> Result<Self, OpenDataError> {
        match look(path)? {
            Some(identity) => {
                let lock = DataDir::open_existing(path, ROLE, FORMAT)?;
                Ok(Self::of(identity, lock))
            }
            None => Self::create(path, environment),
        }
    }

    /// Opens the directory of `node` once its disk is there again. It makes nothing: where the disk is not mounted there
    /// may be an empty directory.
    pub fn open_again(path: &Path, node: NodeId) -> Result<Self, OpenDataError> {
        let identity = Self::read_identity(path)?;
        let found = identity.node_id();
        if found != node {
            return Err(OpenDataError::AnotherNode { path: path.to_owned(), found, node });
        }
        Ok(Self::of(identity, DataDir::open_existing(path, ROLE, FORMAT)?))
    }

    /// The identity of the node whose directory this is, without locking or making anything.
    pub fn read_identity(path: &Path) -> Result<Identity, OpenDataError> {
        look(path)?.ok_or_else(|| OpenDataError::NoNode { path: path.to_owned() })
    }

    /// Who the node is.
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The directory as a disk. The lock lasts as long as this or any clone of it.
    pub fn disk(&self) -> Arc<FileDisk> {
        Arc::clone(&self.disk)
    }

    fn create(path: &Path, environment: &Environment) -> Result<Self, OpenDataError> {
        let lock = DataDir::open(path, ROLE, FORMAT)?;
        // Another process may have been quicker than our look.
        if look(path)?.is_some() {
            drop(lock);
            return Self::open(path, environment);
        }
        let identity = Identity::from_seed(&environment.seed());
        write_identity(&path.join(IDENTITY_FILE), &identity)?;
        let disk = FileDisk::new(path);
        let failed = |source| OpenDataError::Io { path: path.to_owned(), source };
        disk.make_directory("shards").map_err(failed)?;
        disk.sync_directory("").map_err(failed)?;
        replace_small(&disk, "shards", "marker", marker(identity.node_id()).as_bytes()).map_err(failed)?;
        Ok(Self::of(identity, lock))
    }

    fn of(identity: Identity, lock: DataDir) -> Self {
        let marker = marker(identity.node_id());
        Self { identity, disk: Arc::new(FileDisk::locked(lock, (MARKER, marker))) }
    }
}

/// The identity of the node that lives in `path`; none if the directory is empty or not there.
fn look(path: &Path) -> Result<Option<Identity>, OpenDataError> {
    let identity = match load_identity(&path.join(IDENTITY_FILE)) {
        Ok(identity) => Some(identity),
        Err(IdentityFileError::Missing { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let failed = |source| OpenDataError::Io { path: path.to_owned(), source };
    let marker_bytes = match read_small(&FileDisk::new(path), MARKER, MARKER_BYTES_MAX) {
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => None,
        other => other.map_err(failed)?,
    };
    let not_this = |node: String, why| OpenDataError::NotThisNode { path: path.to_owned(), node, why };
    match (identity, marker_bytes) {
        (Some(identity), Some(bytes)) if bytes == marker(identity.node_id()).as_bytes() => Ok(Some(identity)),
        (Some(identity), Some(bytes)) => {
            let is_known =
                bytes.strip_prefix(MARKER_MAGIC.as_bytes()).is_some_and(|rest| rest.starts_with(b"\n"));
            let why = if is_known {
                "shards/marker is that of another node"
            } else {
                "shards/marker is damaged, or of a later version: then update the program"
            };
            Err(not_this(identity.node_id().to_string(), why))
        }
        (Some(identity), None) => Err(not_this(
            identity.node_id().to_string(),
            "shards/marker, which lies beside its shards, is missing",
        )),
        (None, Some(bytes)) => {
            let text = String::from_utf8_lossy(&bytes);
            let node = text.lines().nth(1).and_then(|line| line.strip_prefix("node ")).unwrap_or("unknown");
            let node: String = node.chars().filter(char::is_ascii_hexdigit).take(64).collect();
            Err(not_this(node, "identity.key is missing"))
        }
        (None, None) => check_empty(path).map(|()| None),
    }
}

/// Refuses a directory that something lies in, apart from what a fresh file system or an interrupted first
/// start leaves there.
fn check_empty(path: &Path) -> Result<(), OpenDataError> {
    let disk = FileDisk::new(path);
    for (directory, allowed) in
        [("", &["lost+found", "lock", "format", "shards"][..]), ("shards", &["lost+found"])]
    {
        let entries = match disk.list(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(OpenDataError::Io { path: path.to_owned(), source }),
        };
        if let Some(entry) = entries.into_iter().find(|entry| !allowed.contains(&entry.name.as_str())) {
            return Err(OpenDataError::NotEmpty { path: path.to_owned(), found: entry.name });
        }
    }
    Ok(())
}

fn marker(node: NodeId) -> String {
    format!("{MARKER_MAGIC}\nnode {node}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path) -> Result<DataDirectory, OpenDataError> {
        DataDirectory::open(path, &Environment::real())
    }

    #[test]
    fn a_node_is_made_once_in_an_empty_directory() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("node");
        let id = open(&path).unwrap().identity().node_id();
        assert_eq!(open(&path).unwrap().identity().node_id(), id);
        assert_eq!(DataDirectory::read_identity(&path).unwrap().node_id(), id);
    }

    #[test]
    fn a_directory_without_its_marker_or_identity_is_refused_and_left_alone() {
        let place = tempfile::tempdir().unwrap();
        let id = open(place.path()).unwrap().identity().node_id();
        let marker = place.path().join("shards/marker");
        let key = place.path().join(IDENTITY_FILE);
        for missing in [&marker, &key] {
            let kept = std::fs::read(missing).unwrap();
            std::fs::remove_file(missing).unwrap();
            let text = open(place.path()).unwrap_err().to_string();
            assert!(text.contains(&format!("is not the one of node {id}: is the disk mounted?")), "{text}");
            assert!(!missing.exists());
            std::fs::write(missing, kept).unwrap();
        }
        // The whole of `shards` is on a disk that is not mounted.
        std::fs::rename(place.path().join("shards"), place.path().join("elsewhere")).unwrap();
        assert!(open(place.path()).unwrap_err().to_string().contains("is the disk mounted?"));
        assert!(!place.path().join("shards").exists());
    }

    #[test]
    fn a_foreign_marker_is_refused() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        drop((open(one.path()).unwrap(), open(other.path()).unwrap()));
        std::fs::copy(other.path().join("shards/marker"), one.path().join("shards/marker")).unwrap();
        assert!(matches!(open(one.path()), Err(OpenDataError::NotThisNode { .. })));
    }

    #[test]
    fn a_directory_with_other_things_in_it_is_refused() {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join("thesis.tex"), "x").unwrap();
        let text = open(place.path()).unwrap_err().to_string();
        assert!(text.contains("thesis.tex"), "{text}");
        assert!(!place.path().join(IDENTITY_FILE).exists());
        assert!(matches!(
            DataDirectory::read_identity(&place.path().join("no")),
            Err(OpenDataError::NoNode { .. })
        ));
    }

    #[test]
    fn a_disk_that_is_gone_is_told_and_its_node_opened_again_only_when_it_is_back() {
        let (place, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mount = place.path().join("disk");
        let directory = open(&mount).unwrap();
        let (id, disk) = (directory.identity().node_id(), directory.disk());
        disk.check_presence().unwrap();
        std::fs::rename(&mount, place.path().join("unplugged")).unwrap();
        assert_eq!(disk.check_presence().unwrap_err().kind(), io::ErrorKind::NotFound);
        std::fs::create_dir(&mount).unwrap();
        disk.check_presence().unwrap_err();
        drop((directory, disk));
        assert!(matches!(DataDirectory::open_again(&mount, id), Err(OpenDataError::NoNode { .. })));
        assert!(std::fs::read_dir(&mount).unwrap().next().is_none(), "nothing is made there");
        drop(open(&other.path().join("disk")).unwrap());
        std::fs::remove_dir(&mount).unwrap();
        std::fs::rename(other.path().join("disk"), &mount).unwrap();
        let error = DataDirectory::open_again(&mount, id).unwrap_err();
        assert!(matches!(error, OpenDataError::AnotherNode { node, .. } if node == id), "{error}");
        std::fs::remove_dir_all(&mount).unwrap();
        std::fs::rename(place.path().join("unplugged"), &mount).unwrap();
        DataDirectory::open_again(&mount, id).unwrap().disk().check_presence().unwrap();
    }

    #[test]
    fn two_processes_do_not_share_a_directory() {
        let place = tempfile::tempdir().unwrap();
        let first = open(place.path()).unwrap();
        assert!(matches!(open(place.path()), Err(OpenDataError::Directory(DataDirError::InUse { .. }))));
        drop(first);
        assert!(open(place.path()).is_ok());
    }
}
