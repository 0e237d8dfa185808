//! Where an archive's descriptor comes from: a file or a URL.
//!
//! Always holds: at most 1 MiB is read, and what is returned was verified against the archive's key.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use firn_wire::Descriptor;

use crate::archive::OpenArchiveError;
use crate::http_client::{agent, get};

const DESCRIPTOR_BYTES_MAX: u64 = 1 << 20;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DescriptorSource {
    File(PathBuf),
    Url(String),
}

impl DescriptorSource {
    pub(crate) fn parse(text: &str) -> Self {
        match text.split_once("://") {
            Some(("http" | "https", _)) => Self::Url(text.to_owned()),
            Some(("file", path)) => Self::File(path.into()),
            _ => Self::File(text.into()),
        }
    }

    /// The file in `directory` in which the newest descriptor from here is kept.
    pub(crate) fn kept_in(&self, directory: &Path) -> PathBuf {
        let digest = blake3::hash(self.to_string().as_bytes()).to_hex();
        directory.join(format!("archive-{}.firn", &digest[..16]))
    }
}

impl fmt::Display for DescriptorSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(formatter),
            Self::Url(url) => formatter.write_str(url),
        }
    }
}

/// Reads the descriptor. Blocks.
pub(crate) fn fetch_descriptor(source: &DescriptorSource) -> Result<Descriptor, OpenArchiveError> {
    let text = match source {
        DescriptorSource::File(path) => {
            let read = File::open(path).and_then(read_text);
            read.map_err(|source| OpenArchiveError::Read { path: path.clone(), source })?
        }
        DescriptorSource::Url(url) => {
            let failed = |reason: String| OpenArchiveError::Fetch { url: url.clone(), reason };
            let fetched = get(&agent(), url).map_err(|error| failed(error.to_string()))?;
            let fetched = fetched.ok_or_else(|| failed("there is nothing at this address".to_owned()))?;
            read_text(fetched.reader).map_err(|error| failed(error.to_string()))?
        }
    };
    text.parse().map_err(|error| OpenArchiveError::NoDescriptor { place: source.to_string(), source: error })
}

fn read_text(reader: impl Read) -> io::Result<String> {
    let mut text = String::new();
    reader.take(DESCRIPTOR_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}
