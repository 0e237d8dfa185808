//! Unpacking a NAR into a directory while it arrives.
//!
//! Always holds: the tree appears under its name only after the NAR's hash was found right; nothing in a NAR
//! leads a write out of the tree (the restorer works relative to directories it made itself and follows no
//! symlink); whatever was there before stays.
//! Leaves to others: checking the hash (the stream ends cleanly only if it is right).

use std::fs;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use firn_retrieval::{ByteStream, ReadError};
use firn_transport::Environment;
use futures::StreamExt;
use nix_archive::nar::{CaseHack, restore_reader};
use tokio::sync::mpsc;

/// Why a NAR was not unpacked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnpackError {
    /// It could not be read, or is not what it should be.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// It is no NAR, or the disk refused.
    #[error("it cannot be unpacked: {0}")]
    Restore(String),
    /// The place cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Disk {
        /// The place.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

// Pieces are at most 4 MiB.
const PIECES_AHEAD: usize = 4;
const BUFFER_BYTES: usize = 256 << 10;

/// Unpacks the NAR in `stream` as `directory/name`, where nothing may be yet.
pub(crate) async fn unpack(
    environment: &Environment,
    mut stream: ByteStream,
    directory: &Path,
    name: &str,
) -> Result<(), UnpackError> {
    let (sender, receiver) = mpsc::channel(PIECES_AHEAD);
    let (directory, name) = (directory.to_owned(), name.to_owned());
    let restoring = environment.blocking(move || restore(receiver, &directory, &name));
    let feeding = async move {
        while let Some(piece) = stream.next().await {
            if sender.send(piece).await.is_err() {
                break;
            }
        }
    };
    futures::future::join(restoring, feeding).await.0
}

fn restore(
    receiver: mpsc::Receiver<Result<Bytes, ReadError>>,
    directory: &Path,
    name: &str,
) -> Result<(), UnpackError> {
    let failed = |source| UnpackError::Disk { path: directory.to_owned(), source };
    // Beside its last place, so that the tree can be renamed there.
    let partial = tempfile::Builder::new().prefix(".firn-").suffix(".partial").tempdir_in(directory);
    let partial = partial.map_err(failed)?;
    let tree = partial.path().join("tree");
    let mut pieces =
        BufReader::with_capacity(BUFFER_BYTES, Pieces { receiver, rest: Bytes::new(), failure: None });
    if let Err(error) = restore_reader(&mut pieces, &tree, CaseHack::native()) {
        // The reader hides whose fault it was.
        return Err(match pieces.into_inner().failure {
            Some(failure) => UnpackError::Read(failure),
            None => UnpackError::Restore(error.to_string()),
        });
    }
    let place = directory.join(name);
    let refused = |source| UnpackError::Disk { path: place.clone(), source };
    if fs::symlink_metadata(&place).is_ok() {
        return Err(refused(io::ErrorKind::AlreadyExists.into()));
    }
    fs::rename(&tree, &place).map_err(refused)
}

/// Pieces of a stream as something to read from.
struct Pieces {
    receiver: mpsc::Receiver<Result<Bytes, ReadError>>,
    rest: Bytes,
    failure: Option<ReadError>,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.receiver.blocking_recv() {
                Some(Ok(piece)) => self.rest = piece,
                // A stream that was dropped looks like an end, and no NAR is complete without its last piece.
                None => return Ok(0),
                Some(Err(error)) => {
                    self.failure = Some(error);
                    return Err(io::Error::other("the stream broke off"));
                }
            }
        }
        let count = buffer.len().min(self.rest.len());
        buffer[..count].copy_from_slice(&self.rest.split_to(count));
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use firn_nix_format::{NarNode, nar};
    use futures::stream;

    use super::*;

    fn tree() -> Vec<u8> {
        let file = |contents: &[u8], executable| NarNode::Regular { contents: contents.to_vec(), executable };
        let link = NarNode::Symlink { target: b"../../../etc/passwd".to_vec() };
        let entries =
            [(&b"bin"[..], file(b"#!", true)), (b"link", link), (b"text", file(&[7; 300_000], false))];
        let entries: BTreeMap<_, _> = entries.map(|(name, node)| (name.to_vec(), node)).into();
        nar::encode(&NarNode::Directory(entries)).unwrap()
    }

    fn stream_of(bytes: &[u8], end: Option<ReadError>) -> ByteStream {
        let pieces: Vec<_> = bytes.chunks(10_000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        stream::iter(pieces.into_iter().chain(end.map(Err))).boxed()
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn a_tree_appears_whole() {
        let place = tempfile::tempdir().unwrap();
        unpack(&Environment::real(), stream_of(&tree(), None), place.path(), "x").await.unwrap();
        assert_eq!(names(place.path()), ["x"]);
        assert_eq!(names(&place.path().join("x")), ["bin", "link", "text"]);
        assert_eq!(fs::read(place.path().join("x/text")).unwrap().len(), 300_000);
        let error = unpack(&Environment::real(), stream_of(&tree(), None), place.path(), "x").await;
        assert!(matches!(error, Err(UnpackError::Disk { .. })));
    }

    #[tokio::test]
    async fn a_stream_that_ends_in_an_error_leaves_nothing_and_tells_it() {
        let place = tempfile::tempdir().unwrap();
        let cause = ReadError::NoDirectory { cause: "all are away".to_owned() };
        let stream = stream_of(&tree(), Some(cause.clone()));
        let error = unpack(&Environment::real(), stream, place.path(), "x").await.unwrap_err();
        assert!(matches!(&error, UnpackError::Read(own) if *own == cause), "{error}");
        assert_eq!(names(place.path()), Vec::<String>::new());
    }

    #[tokio::test]
    async fn what_is_cut_off_or_no_nar_leaves_nothing() {
        let place = tempfile::tempdir().unwrap();
        let nar = tree();
        for bytes in [&nar[..nar.len() - 8], &nar[..100], b"hello", b""] {
            let stream = stream_of(bytes, None);
            assert!(unpack(&Environment::real(), stream, place.path(), "x").await.is_err());
        }
        assert_eq!(names(place.path()), Vec::<String>::new());
    }
}
