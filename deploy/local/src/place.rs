//! The directory of an archive on one machine.
//!
//! ```text
//! D/format lock           whose it is, and that one process works in it
//! D/local.json            roles and ports
//! D/archive.firn          the archive's descriptor
//! D/uploader.key operator.key
//! D/firn.toml             for `firn --config` and FIRN_CONFIG
//! D/ready                 there while the archive is up
//! D/control.sock          for `firn-local stop|start|add|remove`
//! D/coordinator-N/ storage-node-N/ gateway/     data directories of the roles
//! ```
//!
//! Always holds: a directory in which something else lies is never touched.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use firn_transport::{DataDir, write_synced};

use crate::failure::{Failure, failure};
use crate::role::Role;

const ROLE: &str = "local";
const FORMAT: u32 = 1;

// The path of a Unix socket has at most 107 bytes, and the longest is that of a node.
const PATH_BYTES_MAX: usize = 107 - "/storage-node-65535/control.sock".len();

/// An archive's directory, locked for this process.
#[derive(Debug)]
pub(crate) struct Place {
    directory: DataDir,
}

impl Place {
    /// Opens the directory of an archive; an empty or missing one becomes that of a new one.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let path = std::path::absolute(path)?;
        if path.as_os_str().len() > PATH_BYTES_MAX {
            return Err(failure(format!(
                "the path {} is too long for the sockets that are to lie in it: choose one of at most {PATH_BYTES_MAX} bytes",
                path.display()
            )));
        }
        check_ours(&path)?;
        Ok(Self { directory: DataDir::open(&path, ROLE, FORMAT)? })
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A file in it.
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The data directory of a role.
    pub(crate) fn role(&self, role: Role) -> PathBuf {
        self.directory.join(role.to_string())
    }

    /// The archive's descriptor.
    pub(crate) fn descriptor(&self) -> PathBuf {
        self.join("archive.firn")
    }

    /// The key that may upload.
    pub(crate) fn uploader_key(&self) -> PathBuf {
        self.join("uploader.key")
    }

    /// The key that may administer from afar.
    pub(crate) fn operator_key(&self) -> PathBuf {
        self.join("operator.key")
    }

    /// The configuration for `firn`.
    pub(crate) fn config(&self) -> PathBuf {
        self.join("firn.toml")
    }

    /// The file that says that the archive is up.
    pub(crate) fn ready(&self) -> PathBuf {
        self.join("ready")
    }

    /// Takes the ready file away.
    pub(crate) fn not_ready(&self) -> io::Result<()> {
        match std::fs::remove_file(self.ready()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Writes the ready file: where the gateway is.
    pub(crate) fn say_ready(&self, gateway: SocketAddr) -> io::Result<()> {
        write_synced(self.path(), "ready", format!("http://{gateway}\n").as_bytes(), 0o644)
    }

    /// Writes the configuration that lets `firn` find this archive. What `firn` has no option for is told in
    /// comments.
    pub(crate) fn write_config(&self, gateway: SocketAddr) -> Result<(), Failure> {
        let text = |path: PathBuf| toml::Value::String(path.to_string_lossy().into_owned());
        let table: toml::Table = [
            ("archive".to_owned(), text(self.descriptor())),
            ("uploader-key".to_owned(), text(self.uploader_key())),
            // Nodes with bounded lines give strangers a tenth.
            ("reader-key".to_owned(), text(self.uploader_key())),
            ("operator-key".to_owned(), text(self.operator_key())),
        ]
        .into_iter()
        .collect();
        let config = format!(
            "# For `firn --config FILE`, or FIRN_CONFIG. Written at every start of firn-local.\n\
             # gateway: http://{gateway}\n{}",
            toml::to_string(&table)?
        );
        write_synced(self.path(), "firn.toml", config.as_bytes(), 0o644)
            .map_err(|error| failure(format!("cannot write {}: {error}", self.config().display())))
    }
}

/// Refuses a directory in which something else lies.
fn check_ours(path: &Path) -> Result<(), Failure> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failure(format!("cannot read {}: {error}", path.display()))),
    };
    let mut found = None;
    for entry in entries {
        match entry?.file_name().to_string_lossy().as_ref() {
            "format" => return Ok(()),
            // Left by a first start that was cut short, or by a fresh file system.
            "lock" | "format.new" | "lost+found" => {}
            other => found = Some(other.to_owned()),
        }
    }
    match found {
        None => Ok(()),
        Some(found) => Err(failure(format!(
            "{} holds no archive but is not empty ({found} lies in it): choose an empty directory",
            path.display()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_opened_once_and_again() {
        let directory = tempfile::tempdir().unwrap();
        let first = Place::open(directory.path()).unwrap();
        let refusal = Place::open(directory.path()).unwrap_err().to_string();
        assert!(refusal.contains("in use by another process"), "{refusal}");
        drop(first);
        assert!(Place::open(directory.path()).is_ok());
    }

    #[test]
    fn a_directory_with_other_things_in_it_is_refused_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("thesis.tex"), "x").unwrap();
        let refusal = Place::open(directory.path()).unwrap_err().to_string();
        assert!(refusal.contains("thesis.tex lies in it"), "{refusal}");
        assert!(!directory.path().join("format").exists());
        let long = directory.path().join("x".repeat(100));
        assert!(Place::open(&long).unwrap_err().to_string().contains("too long"));
    }

    #[test]
    fn the_configuration_names_everything_that_firn_needs() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::open(&directory.path().join("it's \"here\"")).unwrap();
        place.write_config("127.0.0.1:8484".parse().unwrap()).unwrap();
        let table: toml::Table = std::fs::read_to_string(place.config()).unwrap().parse().unwrap();
        assert_eq!(table["archive"].as_str(), place.descriptor().to_str());
        assert_eq!(table["uploader-key"].as_str(), place.uploader_key().to_str());
        assert_eq!(table["reader-key"].as_str(), place.uploader_key().to_str());
        assert_eq!(table["operator-key"].as_str(), place.operator_key().to_str());
        assert_eq!(table.len(), 4);
    }
}
