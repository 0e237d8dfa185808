//! The bytes that outlive every program: bundles, codings and shard files.
//!
//! Owns: chunking, frames, manifests, content and coding headers, shard files and range proofs. Every format is
//! described in `docs/formats.md` and pinned by the golden files in `tests/golden`.
//! Always holds: no file, no network, no clock; equal input gives equal bytes; foreign bytes are bounded before
//! anything is allocated for them and make no function panic.
//! Leaves to others: the erasure code (`erasure`), files and connections (shells), signatures (`nix-format`).
//!
//! Packing: [`PatchFinder`] → [`Chunker`] → [`BundleBuilder`] → [`SealedBundle`]. Sharding: [`ShardTreeBuilder`],
//! [`CodingHeader`], [`ShardFileHeader`]; coding anew: [`PayloadTree`]. Reading by pieces: [`ContentHeader`],
//! [`ManifestHeader`], [`BlockDirectory`], [`Block`], [`ChunkList`], the entry tables, [`decompress_frame`],
//! [`ChunkEntry::cut`], [`PatchApplier`]. Reading whole: [`Manifest`], [`BundleReader`]; what one shard alone says:
//! [`read_slice`].

mod block;
mod build_error;
mod builder;
mod chunk_entry;
mod chunk_list;
mod chunking;
mod codec;
mod coding_header;
mod content_header;
mod cursor;
mod frame;
mod frame_compression;
mod hash_part_set;
mod header_error;
mod likeness;
mod limits;
mod lzma;
mod manifest;
mod manifest_error;
mod manifest_header;
mod object_size;
mod open_object;
mod patch;
mod patch_finder;
mod payload_tree;
mod proof;
mod recipe_number;
mod record;
mod record_codec;
mod restore;
mod sealed_bundle;
mod sealing;
mod shard_file;
mod shard_tree;
mod slice;

pub use block::{Block, BlockDirectory, BlockEntry};
pub use build_error::BuildError;
pub use builder::{BuilderOptions, BundleBuilder};
pub use chunk_entry::{ChunkEntry, ChunkRef, ForeignChunk, verify_chunk};
pub use chunk_list::{ChunkList, ChunkRun, PATCH_BYTES, Patch};
pub use chunking::{
    BEFORE_BORDER_BYTES_MIN, BORDERED_FILE_BYTES_MIN, CHUNKER_AVERAGE_BYTES, CHUNKER_MAX_BYTES,
    CHUNKER_MIN_BYTES, Chunker,
};
pub use codec::Codec;
pub use coding_header::{CODING_HEADER_BYTES_MAX, CodingHeader};
pub use content_header::{BundleRole, CONTENT_HEADER_BYTES_MAX, ContentHeader};
pub use frame::{CompressedFrame, FrameEntry, FrameError, PendingFrame, decompress_frame};
pub use frame_compression::{FrameCompression, FrameCompressionError, compress_frame};
pub use header_error::{HeaderError, HeaderKind};
pub use likeness::{FEATURES_PER_RECORD_MAX, FeatureReader, FeatureSampler, name_feature};
pub use limits::{
    BLOCK_RAW_BYTES_MAX, BLOCKS_RAW_BYTES_MAX, CHUNK_BYTES_MAX, DEPENDENCIES_MAX, FRAME_RAW_BYTES_MAX,
    MANIFEST_BYTES_MAX, MANIFEST_FIRST_READ_BYTES, PARTS_MAX, PATCHES_MAX, PAYLOAD_BYTES_MAX, QUARTER_BYTES,
    RECORDS_MAX, SHARD_FILE_HEADER_BYTES_MAX, comes_together, is_small,
};
pub use manifest::{LocatedRecord, Manifest};
pub use manifest_error::{ManifestError, ManifestPart};
pub use manifest_header::{
    BLOCK_ENTRY_BYTES, CHUNK_ENTRY_BYTES, FOREIGN_ENTRY_BYTES, FRAME_ENTRY_BYTES, MANIFEST_HEADER_BYTES,
    ManifestHeader,
};
pub use object_size::ObjectSize;
pub use patch::{PATCH_PLACEHOLDER, PatchApplier, PatchError};
pub use patch_finder::PatchFinder;
pub use payload_tree::{PayloadTree, PayloadTreeError};
pub use proof::{
    ProofError, ReadAt, ReadWindow, covering_groups, decode_range, decode_range_exact, encode_range,
    encode_range_of_file, encoded_range_bytes,
};
pub use recipe_number::{PublishedFile, RecipeNumber};
pub use record::{Blob, Encoding, NewRecord, Record, RecordBody, hash_parts};
pub use restore::{BundleReader, FRAMES_KEPT_BYTES, RestoreError};
pub use sealed_bundle::{PartChunk, PartChunks, PushedChunk, RecordPosition, SealedBundle};
pub use shard_file::{
    ParsedShardFileHeader, SHARD_FILE_PAGE_BYTES, SHARD_FILE_TRAILER_BYTES, ShardFileHeader, ShardFileLayout,
    check_shard_file_trailer, shard_file_trailer,
};
pub use shard_tree::{GROUP_BYTES, ShardLengthError, ShardTree, ShardTreeBuilder, outboard_bytes};
pub use slice::{MENTIONS_MAX, SliceContents, SliceError, plain_slice, read_slice};
