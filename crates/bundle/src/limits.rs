//! How large anything in a bundle may be; readers check these before they allocate.

use crate::content_header::BundleRole;

/// Payload of one bundle: 256 MiB, so that a shard of 16/40 is 16 MiB and moves over a home line in minutes.
pub const PAYLOAD_BYTES_MAX: u64 = 256 << 20;

/// Manifest of one bundle: it is checked in memory at commit.
pub const MANIFEST_BYTES_MAX: u64 = 32 << 20;

/// Records of one bundle: index values name block and entry with 16 bits each.
pub const RECORDS_MAX: u32 = 65_535;

/// With as many payload bytes a bundle is not small: a quarter of what it may have.
pub const QUARTER_BYTES: u64 = PAYLOAD_BYTES_MAX / 4;

/// Whether a bundle is under a quarter full, by payload bytes and by records, whichever fill it more.
pub const fn is_small(payload_bytes: u64, records: u64) -> bool {
    payload_bytes < QUARTER_BYTES && records < RECORDS_MAX as u64 / 4
}

/// Whether a bundle is one that compaction packs together with others: an ordinary one with records that is under a
/// quarter full. What is left over of a large object cannot, and stays as small as it is.
pub const fn comes_together(role: BundleRole, payload_bytes: u64, records: u64) -> bool {
    matches!(role, BundleRole::Ordinary) && records > 0 && is_small(payload_bytes, records)
}

/// Bundles that an ordinary bundle may depend on: each of them must live for it to be read.
pub const DEPENDENCIES_MAX: usize = 8;

/// Parts of an object too large for one bundle: dependency numbers are one byte.
pub const PARTS_MAX: usize = 255;

/// Raw bytes of a frame: 4 MiB decompress in 7 ms, so one chunk out of it stays quick to read.
pub const FRAME_RAW_BYTES_MAX: u32 = 4 << 20;

/// Bytes of a chunk: four times what our chunker cuts, so that its parameters can grow.
pub const CHUNK_BYTES_MAX: u32 = 1 << 20;

/// Reference patches of one object: a tree of 200,000 links into other paths has one for each. They are 4 MiB while it is
/// packed; as part of its chunk list, with at most 15 bytes each, they leave half of what a reader takes to the chunks.
pub const PATCHES_MAX: usize = 1 << 18;

/// Raw bytes of a block of records: the largest path infos known are 484 kB.
pub const BLOCK_RAW_BYTES_MAX: u32 = 1 << 20;

/// Raw bytes of all blocks of a manifest: bounds the work that one commit can ask for.
pub const BLOCKS_RAW_BYTES_MAX: u64 = 256 << 20;

/// A shard file's header: 255 dependencies and 40 roots need 9,624 bytes.
pub const SHARD_FILE_HEADER_BYTES_MAX: u32 = 16 << 10;

/// Bytes at the start of a manifest in which header and block directory normally lie, even of 20,000 paths.
pub const MANIFEST_FIRST_READ_BYTES: u64 = 64 << 10;
