//! Payloads in local files: what a publisher is about to send, for the check that it can be restored.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use firn_base::BundleId;
use firn_bundle::ContentHeader;
use firn_transport::Environment;
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::payload::check_range;
use crate::{PayloadReader, ReadError};

/// Reads payloads from files that hold them whole, and other bundles through another reader.
///
/// Bytes are as the files hold them: chunk and object hashes are what proves them.
#[derive(Debug, Clone)]
pub struct SpoolReader {
    environment: Environment,
    payloads: BTreeMap<BundleId, (Arc<ContentHeader>, PathBuf)>,
    others: Option<Arc<dyn PayloadReader>>,
}

impl SpoolReader {
    /// A reader without payloads; `others` gives the bundles that those to come depend on.
    pub const fn new(environment: Environment, others: Option<Arc<dyn PayloadReader>>) -> Self {
        Self { environment, payloads: BTreeMap::new(), others }
    }

    /// Adds a bundle whose payload is the file at `path`.
    #[must_use]
    pub fn with_payload(mut self, content: ContentHeader, path: impl Into<PathBuf>) -> Self {
        self.payloads.insert(content.bundle_id(), (Arc::new(content), path.into()));
        self
    }
}

impl PayloadReader for SpoolReader {
    fn content(&self, bundle: BundleId) -> BoxFuture<'_, Result<Arc<ContentHeader>, ReadError>> {
        async move {
            match (self.payloads.get(&bundle), &self.others) {
                (Some((content, _)), _) => Ok(Arc::clone(content)),
                (None, Some(others)) => others.content(bundle).await,
                (None, None) => Err(ReadError::UnknownBundle { bundle }),
            }
        }
        .boxed()
    }

    fn read(&self, bundle: BundleId, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ReadError>> {
        async move {
            match (self.payloads.get(&bundle), &self.others) {
                (Some((content, path)), _) => {
                    check_range(&range, content.payload_bytes())?;
                    let path = path.clone();
                    self.environment.blocking(move || read_file(&path, &range)).await.map(Bytes::from)
                }
                (None, Some(others)) => others.read(bundle, range).await,
                (None, None) => Err(ReadError::UnknownBundle { bundle }),
            }
        }
        .boxed()
    }
}

/// The bytes `range` of the file; the caller has bounded the range.
pub(crate) fn read_file(path: &Path, range: &Range<u64>) -> Result<Vec<u8>, ReadError> {
    let bytes = range.end.saturating_sub(range.start);
    let attempt = || {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(range.start))?;
        let mut buffer = vec![0; usize::try_from(bytes).map_err(std::io::Error::other)?];
        file.read_exact(&mut buffer)?;
        Ok(buffer)
    };
    attempt().map_err(|error: std::io::Error| ReadError::Disk {
        path: path.display().to_string(),
        cause: error.to_string(),
    })
}
