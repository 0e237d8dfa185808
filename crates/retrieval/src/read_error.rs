//! Why something could not be read, for whoever serves it.

use firn_base::{BundleId, ObjectKey};
use firn_bundle::ManifestError;

/// Why a payload, record or object could not be read.
///
/// [`Self::is_temporary`] tells "ask again" (503) from "this will not get better by itself".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Too few holders answer.
    #[error(
        "bundle {} cannot be read now: {have} of its shards answered and {need} are needed; try again later",
        .bundle.short()
    )]
    Unreadable {
        /// The bundle.
        bundle: BundleId,
        /// Shards that answered.
        have: usize,
        /// Shards that are enough.
        need: usize,
    },
    /// What must be asked of a coordinator could not be.
    #[error("the coordinators do not tell where the bundle lies: {cause}; try again later")]
    NoDirectory {
        /// What happened.
        cause: String,
    },
    /// No such bundle is known: not in the archive, or none of its shard files is here.
    #[error("nothing is known of bundle {}", .bundle.short())]
    UnknownBundle {
        /// The bundle.
        bundle: BundleId,
    },
    /// The caller, or a record, names bytes that do not exist.
    #[error("bytes {start} to {end} do not exist: there are {bytes}")]
    OutOfRange {
        /// First byte.
        start: u64,
        /// Byte behind the last.
        end: u64,
        /// How many bytes there are.
        bytes: u64,
    },
    /// The bytes are those that were committed, but they are no bundle, or contradict their own hashes.
    #[error("bundle {} is damaged in itself: {what}", .bundle.short())]
    Damaged {
        /// The bundle.
        bundle: BundleId,
        /// What does not fit.
        what: String,
    },
    /// A newer program has made it: nothing is wrong with it.
    #[error("bundle {} was made by a newer Firn, update this one: {what}", .bundle.short())]
    TooNew {
        /// The bundle.
        bundle: BundleId,
        /// What this program does not know.
        what: String,
    },
    /// What was put together is not what the path info promises. Nothing was handed out as complete.
    #[error("the object {key} does not match its path info: {what}")]
    WrongObject {
        /// Its key.
        key: ObjectKey,
        /// What does not fit.
        what: String,
    },
    /// A local file could not be read.
    #[error("{path} cannot be read: {cause}")]
    Disk {
        /// The file.
        path: String,
        /// The system's reason.
        cause: String,
    },
}

impl ReadError {
    /// Whether the same read may succeed later without anybody repairing content.
    pub const fn is_temporary(&self) -> bool {
        matches!(self, Self::Unreadable { .. } | Self::NoDirectory { .. })
    }

    /// A bundle whose manifest cannot be used: it is too new, or does not fit together.
    pub fn in_manifest(bundle: BundleId, error: &ManifestError) -> Self {
        let what = error.to_string();
        match error {
            ManifestError::TooNew { .. } | ManifestError::Dictionary(_) => Self::TooNew { bundle, what },
            ManifestError::Magic
            | ManifestError::Root
            | ManifestError::Length { .. }
            | ManifestError::Damaged { .. }
            | ManifestError::NoEntry { .. } => Self::Damaged { bundle, what },
        }
    }

    /// A bundle whose own bytes do not fit together.
    pub(crate) fn damaged(bundle: BundleId, what: impl ToString) -> Self {
        Self::Damaged { bundle, what: what.to_string() }
    }
}
