//! The file of a secret key: 64 hexadecimal digits, readable by its owner only.
//!
//! Always holds: a file that is there is never written again, whatever it contains; a new one is on disk
//! before its key is used.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use firn_wire::Identity;

use crate::Environment;
use crate::data_dir::write_synced;

/// The name of a machine's key in its data directory.
pub const IDENTITY_FILE: &str = "identity.key";

/// Why a key file gave no key.
#[derive(Debug, thiserror::Error)]
pub enum IdentityFileError {
    /// There is none.
    #[error("there is no key file {}", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// There is one already.
    #[error("the key file {} exists already: move it away first", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// It holds something else than a key.
    #[error("{} is not a key file: it should hold 64 hexadecimal digits; restore it from a backup, or move it away to begin with a new identity", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be read or written.
    #[error("cannot {action} the key file {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

// 64 digits, a line end, and enough more to see that it is something else.
const KEY_FILE_BYTES_MAX: u64 = 256;

/// The key in the file at `path`; one is made and written if there is no file.
pub fn load_or_create_identity(
    path: &Path,
    environment: &Environment,
) -> Result<Identity, IdentityFileError> {
    match load_identity(path) {
        Err(IdentityFileError::Missing { .. }) => {
            let identity = Identity::from_seed(&environment.seed());
            write_identity(path, &identity)?;
            Ok(identity)
        }
        result => result,
    }
}

/// The key in the file at `path`.
pub fn load_identity(path: &Path) -> Result<Identity, IdentityFileError> {
    let io_error = |source| IdentityFileError::Io { action: "read", path: path.to_owned(), source };
    let malformed = || IdentityFileError::Malformed { path: path.to_owned() };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(IdentityFileError::Missing { path: path.to_owned() });
        }
        Err(source) => return Err(io_error(source)),
    };
    let mode = file.metadata().map_err(io_error)?.permissions().mode();
    if mode & 0o007 != 0 {
        tracing::warn!(path = %path.display(), "everybody on this machine can read the secret key: chmod 600 it");
    }
    let mut text = Vec::new();
    file.take(KEY_FILE_BYTES_MAX).read_to_end(&mut text).map_err(io_error)?;
    let seed = HEXLOWER_PERMISSIVE.decode(text.trim_ascii()).map_err(|_| malformed())?;
    let seed: [u8; 32] = seed.try_into().map_err(|_| malformed())?;
    Ok(Identity::from_seed(&seed))
}

/// Writes a key where there is no file yet, making the directory if need be.
pub fn write_identity(path: &Path, identity: &Identity) -> Result<(), IdentityFileError> {
    let io_error = |source| IdentityFileError::Io { action: "write", path: path.to_owned(), source };
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| io_error(io::Error::from(io::ErrorKind::InvalidInput)))?;
    if fs::symlink_metadata(path).is_ok() {
        return Err(IdentityFileError::Exists { path: path.to_owned() });
    }
    fs::create_dir_all(directory).map_err(io_error)?;
    let text = format!("{}\n", HEXLOWER.encode(&identity.seed()));
    write_synced(directory, name, text.as_bytes(), 0o600).map_err(io_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_for_its_owner_only() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("new/identity.key");
        assert!(matches!(load_identity(&path), Err(IdentityFileError::Missing { .. })));
        let environment = Environment::real();
        let first = load_or_create_identity(&path, &environment).unwrap();
        assert_eq!(load_or_create_identity(&path, &environment).unwrap().public(), first.public());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_to_string(&path).unwrap().len(), 65);
        assert!(matches!(write_identity(&path, &first), Err(IdentityFileError::Exists { .. })));
    }

    #[test]
    fn a_malformed_key_file_is_named_and_never_overwritten() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("identity.key");
        for text in ["", "abc", "zz", &"ab".repeat(33), &"ab".repeat(300)] {
            fs::write(&path, text).unwrap();
            let error = load_or_create_identity(&path, &Environment::real()).unwrap_err();
            assert!(error.to_string().contains("is not a key file"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }
}
