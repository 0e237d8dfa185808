//! What packing gives: positions of records, sealed bundles, and what a part hands on to its head.
//!
//! Owns: these results. Leaves to others: making them (`builder`, `sealing`).

use firn_base::{BundleId, Digest, ObjectKey};

use crate::content_header::ContentHeader;

/// What became of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PushedChunk {
    /// It is stored in this bundle now.
    Stored,
    /// This bundle has it already.
    Known,
    /// Another bundle has it, which this one now depends on.
    Foreign,
}

/// Where a record went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordPosition {
    /// The name of its object.
    pub key: ObjectKey,
    /// The block.
    pub block: u16,
    /// Its place in the block.
    pub entry: u16,
}

/// A bundle whose payload lies complete in the spool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedBundle {
    /// What it holds.
    pub content: ContentHeader,
    /// The manifest: the last bytes of the payload.
    pub manifest: Vec<u8>,
    /// Where each record is, in the order of packing.
    pub positions: Vec<RecordPosition>,
}

/// One chunk of a part, as its head will name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartChunk {
    /// The entry of the part's chunk table.
    pub number: u32,
    /// Its bytes.
    pub length: u32,
    /// BLAKE3 of it.
    pub hash: Digest,
}

/// The piece of an object that a part holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartChunks {
    /// The part.
    pub bundle: BundleId,
    /// The piece's chunks, in the order of the object.
    pub chunks: Vec<PartChunk>,
}
