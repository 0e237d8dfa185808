//! What the coordinators read out of a bundle's two headers.
//!
//! Owns: the one place where this crate reads `bundle` formats. Always holds: what was read fits together.
//! Leaves to others: the formats themselves.

use firn_base::{BundleId, CodingId, Scheme, ShardIndex, ShardRoot};
use firn_bundle::{BundleRole, CodingHeader, ContentHeader, HeaderError, ShardFileHeader};

/// A content header and a coding header that belong together, with n chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodedBundle {
    /// BLAKE3 of the content header.
    pub bundle: BundleId,
    /// What its objects are to other bundles.
    pub role: BundleRole,
    /// BLAKE3 of the coding header.
    pub coding: CodingId,
    /// k of the coding header and the n that was given.
    pub scheme: Scheme,
    /// Bytes of the payload.
    pub payload_bytes: u64,
    /// Bytes of each shard.
    pub shard_bytes: u64,
    /// Bytes of each shard's file on a node.
    pub file_bytes: u64,
    /// Bundles it depends on.
    pub dependencies: Vec<BundleId>,
    /// Roots of all indexes that k may ever use.
    pub roots: Vec<ShardRoot>,
}

/// No shard file of a payload is longer, whatever k: a whole payload, 64 bytes of tree for each group of 16 KiB, and
/// 128 KiB for padding, header and trailer.
pub(crate) const fn file_bytes_most(payload_bytes: u64) -> u64 {
    payload_bytes.saturating_add(payload_bytes / 256).saturating_add(128 << 10)
}

/// Why two headers are no coded bundle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodedBundleError {
    /// One of them is damaged, or they do not belong together.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// n does not fit k.
    #[error(transparent)]
    Scheme(#[from] firn_base::SchemeError),
}

impl CodedBundle {
    /// Reads both headers, for `n` shards.
    pub fn read(content_header: &[u8], coding_header: &[u8], n: u8) -> Result<Self, CodedBundleError> {
        let content = ContentHeader::parse(content_header)?;
        let coding = CodingHeader::parse(coding_header)?;
        let scheme = Scheme::new(coding.k(), n)?;
        let (payload_bytes, dependencies) = (content.payload_bytes(), content.dependencies().to_vec());
        let (bundle, role, id) = (content.bundle_id(), content.role(), coding.coding_id());
        let (shard_bytes, roots) = (coding.shard_bytes(), coding.roots().to_vec());
        // Every shard of a coding has a file of the same length, so index 0 speaks for all.
        let file_bytes = ShardFileHeader::new(content, coding, ShardIndex(0))?.layout().file_bytes;
        Ok(Self {
            bundle,
            role,
            coding: id,
            scheme,
            payload_bytes,
            shard_bytes,
            file_bytes,
            dependencies,
            roots,
        })
    }
}
