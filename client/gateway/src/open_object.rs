//! An object that was found and can be streamed.
//!
//! Always holds: the first bytes were read before a stream is handed out, so that what cannot be read at all is
//! refused and not broken off; where several bundles hold equal contents, any of them will do, and those come first that
//! hold what is sent: whoever archives the same once more, as a file that has to be decompressed, makes nobody wait for a
//! decoder.

use std::ops::Range;

use firn_bundle::{Encoding, RecordBody};
use firn_nix_format::{Compression, Sha256};
use firn_retrieval::{ByteStream, ObjectReader, ReadError};
use futures::{StreamExt, stream};

use crate::download_places::decoder_mebibytes;
use crate::serve_error::ServeError;
use crate::variants::Variant;

/// An object that was found: a NAR or a log.
#[derive(Debug, Clone)]
pub struct OpenObject {
    objects: ObjectReader,
    /// All of the same contents; behind the others those that have to be decompressed.
    variants: Vec<Variant>,
    bytes: u64,
    sha256: Sha256,
}

impl OpenObject {
    /// The object that the first of `variants` holds, and those that promise as many bytes; none if there are none.
    pub(crate) fn new(objects: ObjectReader, mut variants: Vec<Variant>) -> Option<Self> {
        let promised = |variant: &Variant| match &variant.record.body {
            RecordBody::StorePath(info) => (info.nar_size, info.nar_hash),
            RecordBody::Blob(blob) => (blob.bytes, blob.sha256),
        };
        let (bytes, sha256) = promised(variants.first()?);
        // All of this object would else be a part of a longer one, whose hash nobody compares.
        variants.retain(|variant| promised(variant) == (bytes, sha256));
        // Stable: else the order stays.
        variants.sort_by_key(is_decoded);
        Some(Self { objects, variants, bytes, sha256 })
    }

    /// Its bytes, decompressed: NarSize for a NAR.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// SHA-256 of its bytes: NarHash for a NAR.
    pub const fn sha256(&self) -> Sha256 {
        self.sha256
    }

    /// MiB that it takes to decompress it, from its first byte on, if it is archived nowhere but as the file that was
    /// published.
    pub(crate) fn decoder_mebibytes(&self) -> Option<u32> {
        // Those that need no decoder come first.
        if !self.variants.first().is_some_and(is_decoded) {
            return None;
        }
        self.variants.iter().map(|variant| decoder_mebibytes(compression(variant), self.bytes)).max()
    }

    /// The same object out of the bundles that hold what is sent, and behind it out of those whose file has to be
    /// decompressed. What is not there is left out.
    pub(crate) fn by_decoding(&self) -> Vec<Self> {
        let alike = self.variants.chunk_by(|one, next| is_decoded(one) == is_decoded(next));
        alike.map(|variants| Self { variants: variants.to_vec(), ..self.clone() }).collect()
    }

    /// The bytes `range` of it, decompressed and checked; a stream of all of it ends cleanly only if the hash of
    /// the whole is right.
    ///
    /// # Errors
    /// What kept the first bytes from being read. Later failures come from the stream.
    pub(crate) async fn stream(&self, range: Range<u64>) -> Result<ByteStream, ServeError> {
        let mut failure = None;
        for variant in &self.variants {
            match self.begin(variant, range.clone()).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failure = Some(error),
            }
        }
        let failure = failure.map(ServeError::from);
        Err(failure.unwrap_or_else(|| ServeError::unreadable(&"no bundle holds it")))
    }

    async fn begin(&self, variant: &Variant, range: Range<u64>) -> Result<ByteStream, ReadError> {
        let plan = self.objects.open(variant.bundle, variant.record.clone()).await?;
        let mut stream = plan.stream(Some(range))?;
        Ok(match stream.next().await.transpose()? {
            Some(first) => stream::once(async { Ok(first) }).chain(stream).boxed(),
            None => stream,
        })
    }
}

fn is_decoded(variant: &Variant) -> bool {
    variant.record.encoding == Encoding::Verbatim && compression(variant) != Compression::None
}

/// That of the published file.
fn compression(variant: &Variant) -> Compression {
    match &variant.record.body {
        RecordBody::StorePath(info) => info.compression,
        RecordBody::Blob(blob) => blob.compression,
    }
}
