//! Making NARs, by the crate `nix-archive`: for tools and tests.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use nix_archive::nar::{Encoder, Error};

/// A tree to be made into a NAR. Its contents lie in memory; for large files there is [`encode_file`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NarNode {
    /// A regular file.
    Regular {
        /// What it holds.
        contents: Vec<u8>,
        /// Whether it may be executed.
        executable: bool,
    },
    /// A directory by the names in it.
    Directory(BTreeMap<Vec<u8>, Self>),
    /// A symbolic link.
    Symlink {
        /// Where it points.
        target: Vec<u8>,
    },
}

/// Why no NAR was made.
#[derive(Debug, thiserror::Error)]
pub enum EncodeNarError {
    /// The tree has a name that no file can have, or is nested too deep.
    #[error("the tree cannot be a NAR: {0}")]
    Tree(String),
    /// Contents could not be read, are shorter than stated, or the NAR could not be written.
    #[error("the NAR could not be written: {0}")]
    Write(#[from] io::Error),
}

impl From<Error> for EncodeNarError {
    fn from(error: Error) -> Self {
        match error {
            Error::Io(error) => Self::Write(error),
            error => Self::Tree(error.to_string()),
        }
    }
}

/// The NAR of `tree`.
pub fn encode(tree: &NarNode) -> Result<Vec<u8>, EncodeNarError> {
    let mut encoder = Encoder::new(Vec::new())?;
    write_node(&mut encoder, None, tree)?;
    Ok(encoder.finish()?)
}

/// Writes the NAR of one file of `size` bytes, which are read from `contents` as they are written.
pub fn encode_file<W: Write>(
    writer: W,
    contents: &mut impl Read,
    size: u64,
    executable: bool,
) -> Result<(), EncodeNarError> {
    let mut encoder = Encoder::new(writer)?;
    let mut file = encoder.start_regular(None, executable, size)?;
    io::copy(&mut contents.take(size), &mut file)?;
    file.finish()?;
    encoder.finish()?;
    Ok(())
}

/// Recursion ends at the encoder's own limit on nesting.
fn write_node<W: Write>(encoder: &mut Encoder<W>, name: Option<&[u8]>, node: &NarNode) -> Result<(), Error> {
    match node {
        NarNode::Regular { contents, executable } => encoder.regular(name, *executable, contents),
        NarNode::Symlink { target } => encoder.symlink(name, target),
        NarNode::Directory(entries) => {
            encoder.start_directory(name)?;
            for (name, node) in entries {
                write_node(encoder, Some(name), node)?;
            }
            encoder.end_directory()
        }
    }
}
