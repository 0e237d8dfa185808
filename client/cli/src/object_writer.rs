//! Writing archived objects into a binary cache.
//!
//! Owns: which form of an object becomes which file. Always holds: a NAR gets its name only after its NarHash was
//! found right, a log after its hash; a listing is made from the very bytes that were written.
//! Leaves to others: where files lie (`cache_directory`), which objects are wanted (`recovery`, `export`).

use std::sync::{Arc, Mutex, PoisonError};

use firn_bundle::{Blob, Encoding, RecordBody};
use firn_nix_format::{NarInspector, PathInfo};
use firn_retrieval::{ByteStream, ObjectPlan, ReadError};
use futures::StreamExt;

use crate::cache_directory::{CacheDirectory, NarInfoOutcome};
use crate::file_writer::WriteError;
use crate::nar_encoder::NarCompression;

/// In which form NARs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct NarForm {
    /// Compressed like this; as the archive has it if not given: bare, or as it was published.
    pub(crate) compression: Option<NarCompression>,
    /// With a listing beside each.
    pub(crate) listings: bool,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Written {
    /// Bytes of the file.
    pub(crate) bytes: u64,
    /// Something worth knowing that is no failure.
    pub(crate) note: Option<String>,
}

/// Writes objects into a cache.
#[derive(Debug)]
pub(crate) struct ObjectWriter {
    cache: CacheDirectory,
    form: NarForm,
}

impl ObjectWriter {
    /// Writes into `cache`.
    pub(crate) const fn new(cache: CacheDirectory, form: NarForm) -> Self {
        Self { cache, form }
    }

    /// The cache.
    pub(crate) const fn cache(&self) -> &CacheDirectory {
        &self.cache
    }

    /// Writes the object of `plan`, as its own record describes it.
    pub(crate) async fn write(&self, plan: &ObjectPlan) -> Result<Written, WriteError> {
        match &plan.record().body {
            RecordBody::StorePath(info) => self.write_path(plan, info).await,
            RecordBody::Blob(blob) => self.write_blob(plan, blob).await,
        }
    }

    /// Writes the NAR of `plan` and the narinfo of `info`, which may carry more signatures than the record.
    pub(crate) async fn write_path(&self, plan: &ObjectPlan, info: &PathInfo) -> Result<Written, WriteError> {
        let is_wanted = |form: NarCompression| plan.file_compression() == form.into();
        let as_published =
            plan.record().encoding == Encoding::Verbatim && self.form.compression.is_none_or(is_wanted);
        let listing = Arc::new(Mutex::new(NarInspector::new(info.nar_size)));
        let nar = if as_published {
            // The file is not the NAR, so whether the NAR is right shows before it is written.
            let mut stream = self.inspected(plan.stream(None)?, &listing);
            while let Some(piece) = stream.next().await {
                piece?;
            }
            self.cache.add_published_nar(info, plan.stream_file(None)?).await?
        } else {
            let stream = self.inspected(plan.stream(None)?, &listing);
            let compression = self.form.compression.unwrap_or(NarCompression::None);
            self.cache.add_nar(info, compression, stream).await?
        };
        let outcome = self.cache.add_narinfo(info, &nar).await?;
        let mut note = (outcome == NarInfoOutcome::OtherStays).then(|| {
            format!(
                "{} was found with two contents: its narinfo names one, the NAR {} lies beside it",
                info.store_path, info.nar_hash
            )
        });
        if self.form.listings && note.is_none() {
            let inspector = Arc::into_inner(listing).map(Mutex::into_inner);
            let inspector = inspector.map(|inspector| inspector.unwrap_or_else(PoisonError::into_inner));
            let listing = inspector.and_then(|inspector| inspector.finish().ok());
            match listing.and_then(|listing| listing.to_json().ok()) {
                Some(json) => self.cache.add_listing(info, json).await?,
                None => note = Some(format!("{} has no listing: names in it are not text", info.store_path)),
            }
        }
        Ok(Written { bytes: nar.bytes, note })
    }

    async fn write_blob(&self, plan: &ObjectPlan, blob: &Blob) -> Result<Written, WriteError> {
        let kind = plan.record().key.kind();
        let stream = match plan.record().encoding {
            Encoding::Chunked => plan.stream(None)?,
            Encoding::Verbatim => {
                check_whole(plan).await?;
                plan.stream_file(None)?
            }
        };
        let there = self.cache.add_blob(kind, &blob.url, stream).await?;
        let note = (!there).then(|| format!("{} was found with two contents: one was kept", blob.url));
        Ok(Written { bytes: plan.file_bytes(), note })
    }

    /// The same bytes, which are looked at on their way if listings are wanted.
    fn inspected(&self, stream: ByteStream, listing: &Arc<Mutex<NarInspector>>) -> ByteStream {
        if !self.form.listings {
            return stream;
        }
        let listing = Arc::clone(listing);
        let look = move |piece: Result<bytes::Bytes, ReadError>| {
            if let Ok(bytes) = &piece {
                // What is no NAR shows in `finish`.
                let mut inspector = listing.lock().unwrap_or_else(PoisonError::into_inner);
                inspector.push(bytes).ok();
            }
            piece
        };
        stream.map(look).boxed()
    }
}

/// Reads the object to its end: its hash is right, or there is an error.
async fn check_whole(plan: &ObjectPlan) -> Result<(), ReadError> {
    let mut stream = plan.stream(None)?;
    while let Some(piece) = stream.next().await {
        piece?;
    }
    Ok(())
}
