//! What entries of the cache are called.

use firn_base::{ArchiveId, BundleId};

use super::admission::Name;
use crate::compressed_nar::FORM;
use crate::frame_book::NarName;

/// What an entry is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CacheKey {
    /// These bytes of the bundle's payload, as nodes proved them.
    Payload {
        /// The bundle.
        bundle: BundleId,
        /// The first byte.
        start: u64,
        /// The byte behind the last.
        end: u64,
    },
    /// A bundle and where its shards lie, as a coordinator said.
    Bundle(BundleId),
    /// The addresses of nodes, as a coordinator said.
    Nodes,
    /// The right to read, as a coordinator signed it.
    Pass,
    /// How long the frames of this NAR are, in today's form.
    Frames(NarName),
}

impl CacheKey {
    /// The name of the entry's file, and the key as it is written into that: what lies in a directory of another archive is
    /// not taken for this one's.
    pub(super) fn encode(&self, archive: ArchiveId) -> (Name, Vec<u8>) {
        let mut key = archive.as_bytes().to_vec();
        match self {
            Self::Payload { bundle, start, end } => {
                key.push(0);
                key.extend_from_slice(bundle.as_bytes());
                key.extend_from_slice(&start.to_le_bytes());
                key.extend_from_slice(&end.to_le_bytes());
            }
            Self::Bundle(bundle) => {
                key.push(1);
                key.extend_from_slice(bundle.as_bytes());
            }
            Self::Nodes => key.push(2),
            Self::Pass => key.push(3),
            Self::Frames(nar) => {
                key.push(4);
                key.extend_from_slice(FORM.as_bytes());
                key.extend_from_slice(&nar.path);
                key.extend_from_slice(nar.sha256.as_bytes());
                key.extend_from_slice(&nar.bytes.to_le_bytes());
            }
        }
        let mut name = [0; 16];
        name.copy_from_slice(&blake3::hash(&key).as_bytes()[..16]);
        (name, key)
    }
}
