//! Why something was not packed into a bundle.

use std::io;

use crate::header_error::HeaderError;

/// Why something was not packed.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// It might not fit. Nothing was changed: seal this bundle and go on in the next.
    #[error("the bundle is full: seal it and go on in the next one")]
    Full,
    /// A chunk is empty or longer than 1 MiB.
    #[error("a chunk of {0} bytes cannot be packed: 1 byte to 1 MiB can")]
    ChunkLength(usize),
    /// The record with its references is larger than 1 MiB. Its object cannot be archived.
    #[error("what is published about the object is larger than 1 MiB")]
    RecordTooLarge,
    /// A field of the record cannot be kept as it is. Its object cannot be archived.
    #[error(
        "a field of the path info is too long, holds a line break, or is a URL that leads out of its cache"
    )]
    RecordUnfit,
    /// The record and the chunks contradict each other.
    #[error("the object cannot be packed: {0}")]
    Contradiction(&'static str),
    /// Patches are not sorted, overlap, leave the object, or belong to no chunked store path.
    #[error("the object's reference patches do not fit it")]
    Patches,
    /// Frames came back in the wrong order, or a frame is not one.
    #[error("frame {found} was appended where {expected} was expected")]
    FrameOrder {
        /// The number that comes next.
        expected: u32,
        /// The number that came.
        found: u32,
    },
    /// Sealing needs every frame that was taken.
    #[error("{0} frames were taken for compression and not appended: append them before sealing")]
    FramesMissing(u32),
    /// An ordinary bundle without a record, a part with one, or a head with several.
    #[error("the bundle cannot be sealed like this: {0}")]
    Role(&'static str),
    /// An object of more than 255 parts.
    #[error("the object needs more than 255 bundles: it is too large to archive")]
    TooManyParts,
    /// Limits of the content header were exceeded.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// zstd failed.
    #[error("compression failed: {0}")]
    Compress(io::Error),
    /// The spool failed.
    #[error("the bundle could not be spooled: {0}")]
    Spool(io::Error),
}
