//! A record of the manifest: one archived object, and what its source published about it.
//!
//! Owns: what a record says. Always holds: a record of a store path carries its path info, any other a blob.
//! Leaves to others: its bytes (`record_codec`), its chunks (`chunk_list`).

use std::ops::Range;

use firn_base::{KeyKind, ObjectKey};
use firn_nix_format::{Compression, PathInfo, Sha256, StorePath};

use crate::chunk_list::Patch;
use crate::cursor::leb128_bytes;
use crate::recipe_number::RecipeNumber;

// A record's fields of fixed width are below 160 bytes; a block of its own adds 22.
const RECORD_FIXED_BYTES_MAX: usize = 200;

/// In which form an object is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Encoding {
    /// What was published, decompressed: Nix gets the exact NAR.
    Chunked = 0,
    /// The published file as it was.
    Verbatim = 1,
}

/// What is known of an object that is no store path: a build log, realisation or debuginfo link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// Its URL as published, relative to the cache.
    pub url: String,
    /// How the published file is compressed.
    pub compression: Compression,
    /// Its bytes, decompressed.
    pub bytes: u64,
    /// SHA-256, decompressed.
    pub sha256: Sha256,
}

/// What the source published about an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordBody {
    /// The path info of a store path, with original URL, FileHash, FileSize and Compression.
    StorePath(Box<PathInfo>),
    /// Any other object.
    Blob(Blob),
}

/// What a builder is told about an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRecord {
    /// The name under which it is archived.
    pub key: ObjectKey,
    /// In which form its chunks are.
    pub encoding: Encoding,
    /// The recipe that makes the published file of the content.
    pub recipe: RecipeNumber,
    /// Hash parts that were replaced while packing, by offset; only for chunked store paths.
    pub patches: Vec<Patch>,
    /// What the source published.
    pub body: RecordBody,
}

impl NewRecord {
    /// The record of a store path in `encoding`, without recipe and patches.
    pub fn store_path(info: PathInfo, encoding: Encoding) -> Self {
        Self {
            key: ObjectKey::store_path(*info.store_path.hash()),
            encoding,
            recipe: RecipeNumber::NONE,
            patches: Vec::new(),
            body: RecordBody::StorePath(Box::new(info)),
        }
    }

    /// What the patches add to the manifest at most.
    pub(crate) fn patches_bytes_bound(&self) -> u64 {
        let distance = self.patches.last().map_or(0, |last| leb128_bytes(last.offset));
        let number = self.body.path_info().map_or(0, |info| leb128_bytes(info.references.len() as u64));
        (distance + number).saturating_mul(self.patches.len() as u64)
    }

    /// What the record with its references adds to the manifest at most, but for its chunks and patches.
    pub fn bytes_bound(&self) -> u64 {
        let path = |path: &StorePath| 20 + 1 + path.name().len();
        let texts = match &self.body {
            RecordBody::Blob(blob) => blob.url.len(),
            RecordBody::StorePath(info) => {
                info.url.len()
                    + path(&info.store_path)
                    + info.references.iter().map(|reference| 2 + path(reference)).sum::<usize>()
                    + info.deriver.as_ref().map_or(0, path)
                    + info.ca.as_ref().map_or(0, String::len)
                    + info.signatures.iter().map(|named| 65 + named.key_name.len()).sum::<usize>()
                    + info.extra.iter().map(|(name, value)| 6 + name.len() + value.len()).sum::<usize>()
            }
        };
        (RECORD_FIXED_BYTES_MAX + texts) as u64
    }

    /// The record of any other object.
    pub const fn blob(key: ObjectKey, blob: Blob, encoding: Encoding) -> Self {
        let body = RecordBody::Blob(blob);
        Self { key, encoding, recipe: RecipeNumber::NONE, patches: Vec::new(), body }
    }
}

/// One archived object, as the manifest describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The name under which it is archived.
    pub key: ObjectKey,
    /// In which form its chunks are.
    pub encoding: Encoding,
    /// The recipe that makes the published file of the content: see [`Self::published_file`].
    pub recipe: RecipeNumber,
    /// Bytes of all its chunks.
    pub content_bytes: u64,
    /// Where among the chunk lists of the manifest its own lies: see [`crate::ManifestHeader::chunk_list_extent`].
    pub chunk_list: Range<u64>,
    /// What the source published.
    pub body: RecordBody,
}

impl RecordBody {
    /// The path info, if the object is a store path.
    pub fn path_info(&self) -> Option<&PathInfo> {
        match self {
            Self::StorePath(info) => Some(info),
            Self::Blob(_) => None,
        }
    }
}

impl Record {
    /// The path info, if the object is a store path.
    pub fn path_info(&self) -> Option<&PathInfo> {
        self.body.path_info()
    }

    /// What is known of the object, if it is no store path.
    pub const fn as_blob(&self) -> Option<&Blob> {
        match &self.body {
            RecordBody::StorePath(_) => None,
            RecordBody::Blob(blob) => Some(blob),
        }
    }

    /// The hash parts that patches of this object number: see [`hash_parts`].
    pub fn hash_parts(&self) -> Vec<[u8; 32]> {
        self.path_info().map(hash_parts).unwrap_or_default()
    }
}

/// The hash parts that patches of a store path number: its own, then those of its references in published order.
pub fn hash_parts(info: &PathInfo) -> Vec<[u8; 32]> {
    let part =
        |path: &StorePath| path.hash_part().as_bytes().try_into().expect("a hash part has 32 characters");
    std::iter::once(&info.store_path).chain(&info.references).map(part).collect()
}

/// Why `body`, kept as `encoding` in `content_bytes` bytes under `key`, contradicts itself; as a clause.
pub(crate) fn contradiction(
    key: &ObjectKey,
    encoding: Encoding,
    content_bytes: u64,
    body: &RecordBody,
) -> Option<&'static str> {
    let published_bytes = match body {
        RecordBody::StorePath(info) => {
            if *key != ObjectKey::store_path(*info.store_path.hash()) {
                return Some("its key is not that of its store path");
            }
            match encoding {
                Encoding::Chunked => Some(info.nar_size),
                Encoding::Verbatim => info.file_size,
            }
        }
        RecordBody::Blob(blob) => {
            if key.kind() == KeyKind::StorePath {
                return Some("its key is that of a store path, and it has no path info");
            }
            (encoding == Encoding::Chunked).then_some(blob.bytes)
        }
    };
    if published_bytes.is_some_and(|published| published != content_bytes) {
        return Some("its chunks do not add up to the size that was published");
    }
    None
}
