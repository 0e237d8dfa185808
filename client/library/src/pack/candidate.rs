//! An object before it is in a bundle, and what it is expected to take.
//!
//! Owns: the expectation. Always holds: what the open bundle or an earlier one has counts no bytes; a chunk counts once.
//! Leaves to others: what is done with the expectation (`Packer`), what there is room for (`firn-bundle`).

use std::collections::BTreeSet;

use firn_base::Digest;
use firn_bundle::{BundleBuilder, Encoding, NewRecord, ObjectSize};
use firn_nix_format::Compression;

use crate::earlier::EarlierChunk;
use crate::verify::VerifiedObject;

// What frames take beside the published file: zstd a quarter more than xz, LZMA hardly more. An object that takes more
// than is expected costs the work of packing it twice, one that takes less leaves room that nobody fills.
const MORE_THAN_FILE_SHARE: u64 = 4;

// Of a NAR whose file is not compressed nothing is known: most of them become a third or a quarter.
pub(crate) const LESS_THAN_NAR_SHARE: u64 = 2;

/// An object before it is in a bundle.
pub(super) struct Candidate {
    pub(super) record: NewRecord,
    pub(super) chunks: Vec<(Digest, u32)>,
    pub(super) content_bytes: u64,
    // What all of it is expected to take.
    pub(super) expected_bytes: u64,
    pub(super) earlier: Vec<EarlierChunk>,
}

impl Candidate {
    /// How much it takes of a bundle that may use these chunks of earlier ones, and how many bytes those have.
    pub(super) fn size_in(&self, builder: &BundleBuilder, usable: &[EarlierChunk]) -> (ObjectSize, u64) {
        let usable: BTreeSet<Digest> = usable.iter().map(|(_, chunk)| chunk.hash).collect();
        let mut size = ObjectSize { chunks: self.chunks.len() as u64, ..ObjectSize::default() };
        let (mut seen, mut foreign_bytes) = (BTreeSet::new(), 0_u64);
        for (hash, length) in &self.chunks {
            if builder.knows_chunk(hash) || !seen.insert(hash) {
                continue;
            }
            if usable.contains(hash) {
                size.foreign_chunks += 1;
                foreign_bytes += u64::from(*length);
            } else {
                size.new_chunks += 1;
                size.new_bytes += u64::from(*length);
            }
        }
        let expected = u128::from(self.expected_bytes) * u128::from(size.new_bytes);
        let expected = expected / u128::from(self.content_bytes.max(1));
        size.packed_bytes = u64::try_from(expected).unwrap_or(u64::MAX);
        (size, foreign_bytes)
    }
}

/// What an object that was just read from its source is expected to take.
pub(super) fn expected_bytes(object: &VerifiedObject) -> u64 {
    let (content_bytes, file_bytes) = (object.content.bytes(), object.source_bytes);
    match (object.record.body.path_info(), object.record.encoding) {
        (Some(info), Encoding::Chunked) if info.compression == Compression::None => {
            content_bytes / LESS_THAN_NAR_SHARE
        }
        (Some(_), Encoding::Chunked) => {
            content_bytes.min(file_bytes.saturating_add(file_bytes / MORE_THAN_FILE_SHARE))
        }
        // It is as its file is, compressed or not.
        _ => content_bytes,
    }
}
