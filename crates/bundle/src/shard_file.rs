//! The shard file: header, shard, outboard tree, trailer.
//!
//! Owns: the file's layout, its header and its trailer. Always holds: a header that was read names an index of
//! its coding, and the coding is one of its bundle.
//! Leaves to others: reading and writing files, and whether the shard has its root.

use firn_base::{ShardIndex, ShardRoot};

use crate::coding_header::{CODING_HEADER_BYTES_MAX, CodingHeader};
use crate::content_header::{CONTENT_HEADER_BYTES_MAX, ContentHeader};
use crate::cursor::Cursor;
use crate::header_error::{HeaderError, HeaderKind, check_version, cut_off, invalid};
use crate::limits::SHARD_FILE_HEADER_BYTES_MAX;
use crate::shard_tree::outboard_bytes;

const MAGIC: [u8; 8] = *b"firnshrd";
const END_MAGIC: [u8; 8] = *b"firn-end";
const VERSION: u16 = 1;
const PREFIX_BYTES: usize = 24;
const KIND: HeaderKind = HeaderKind::ShardFile;

/// Headers are padded to whole pages, so that shards begin on one.
pub const SHARD_FILE_PAGE_BYTES: usize = 4096;

/// Bytes of a shard file's trailer: checksum and magic.
pub const SHARD_FILE_TRAILER_BYTES: usize = 40;

const _: () = assert!(
    PREFIX_BYTES + CONTENT_HEADER_BYTES_MAX + CODING_HEADER_BYTES_MAX <= SHARD_FILE_HEADER_BYTES_MAX as usize
);

/// Where the pieces of a shard file lie, in bytes from its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardFileLayout {
    /// Bytes of the padded header.
    pub header_bytes: u64,
    /// Where the shard begins: behind the header.
    pub shard_offset: u64,
    /// Bytes of the shard.
    pub shard_bytes: u64,
    /// Where the outboard tree begins: behind the shard.
    pub outboard_offset: u64,
    /// Bytes of the outboard tree.
    pub outboard_bytes: u64,
    /// Where the trailer begins: behind the tree.
    pub trailer_offset: u64,
    /// Bytes of the whole file.
    pub file_bytes: u64,
}

/// The front of a shard file: which shard of which coding of which bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardFileHeader {
    content: ContentHeader,
    coding: CodingHeader,
    index: ShardIndex,
}

/// What came of reading the front of a shard file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ParsedShardFileHeader {
    /// The header, whole.
    Complete(Box<ShardFileHeader>),
    /// The header is longer: read this many bytes from the beginning of the file, and parse again.
    NeedsBytes(usize),
}

impl ShardFileHeader {
    /// The header of shard `index` of `coding`; refused if the three do not belong together.
    pub fn new(content: ContentHeader, coding: CodingHeader, index: ShardIndex) -> Result<Self, HeaderError> {
        coding.check_belongs_to(&content)?;
        if coding.root(index).is_none() {
            return Err(invalid(KIND, "its index is one that the coding never uses"));
        }
        Ok(Self { content, coding, index })
    }

    /// Reads the header from the first bytes of a shard file: 4,096 are nearly always enough. Bytes behind the
    /// header are ignored.
    pub fn parse(bytes: &[u8]) -> Result<ParsedShardFileHeader, HeaderError> {
        if bytes.len() < PREFIX_BYTES {
            // Whatever is no whole prefix may still begin like one.
            let shared = bytes.len().min(MAGIC.len());
            if bytes[..shared] != MAGIC[..shared] {
                return Err(HeaderError::Magic(KIND));
            }
            return Ok(ParsedShardFileHeader::NeedsBytes(SHARD_FILE_PAGE_BYTES));
        }
        let mut cursor = Cursor::new(bytes);
        let cut_off = cut_off(KIND);
        if cursor.array().map_err(&cut_off)? != MAGIC {
            return Err(HeaderError::Magic(KIND));
        }
        check_version(KIND, cursor.u16().map_err(&cut_off)?, VERSION)?;
        let index = ShardIndex(cursor.u8().map_err(&cut_off)?);
        if cursor.u8().map_err(&cut_off)? != 0 {
            return Err(invalid(KIND, "reserved bytes are not zero"));
        }
        let header_bytes = length(cursor.u32().map_err(&cut_off)?);
        let content_bytes = length(cursor.u32().map_err(&cut_off)?);
        let coding_bytes = length(cursor.u32().map_err(&cut_off)?);
        if content_bytes > CONTENT_HEADER_BYTES_MAX || coding_bytes > CODING_HEADER_BYTES_MAX {
            return Err(invalid(KIND, "it names a header that is too long"));
        }
        if header_bytes != padded(PREFIX_BYTES + content_bytes + coding_bytes) {
            return Err(invalid(KIND, "its length does not fit the headers in it"));
        }
        if bytes.len() < header_bytes {
            return Ok(ParsedShardFileHeader::NeedsBytes(header_bytes));
        }
        let content = ContentHeader::parse(cursor.take(content_bytes).map_err(&cut_off)?)?;
        let coding = CodingHeader::parse(cursor.take(coding_bytes).map_err(&cut_off)?)?;
        let padding = cursor.take(header_bytes - PREFIX_BYTES - content_bytes - coding_bytes);
        if padding.map_err(&cut_off)?.iter().any(|byte| *byte != 0) {
            return Err(invalid(KIND, "its padding is not zero"));
        }
        Self::new(content, coding, index).map(|header| ParsedShardFileHeader::Complete(Box::new(header)))
    }

    /// The header with its padding: see `docs/formats.md`.
    pub fn to_bytes(&self) -> Vec<u8> {
        let content = self.content.to_bytes();
        let coding = self.coding.to_bytes();
        let header_bytes = padded(PREFIX_BYTES + content.len() + coding.len());
        let field = |length: usize| u32::try_from(length).expect("headers are a few kB").to_le_bytes();
        let mut bytes = Vec::with_capacity(header_bytes);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&[self.index.0, 0]);
        bytes.extend_from_slice(&field(header_bytes));
        bytes.extend_from_slice(&field(content.len()));
        bytes.extend_from_slice(&field(coding.len()));
        bytes.extend_from_slice(&content);
        bytes.extend_from_slice(&coding);
        bytes.resize(header_bytes, 0);
        bytes
    }

    /// Where the pieces of the file lie.
    pub fn layout(&self) -> ShardFileLayout {
        let header_bytes = self.to_bytes().len() as u64;
        let shard_bytes = self.coding.shard_bytes();
        let outboard_bytes = outboard_bytes(shard_bytes);
        let outboard_offset = header_bytes + shard_bytes;
        let trailer_offset = outboard_offset + outboard_bytes;
        ShardFileLayout {
            header_bytes,
            shard_offset: header_bytes,
            shard_bytes,
            outboard_offset,
            outboard_bytes,
            trailer_offset,
            file_bytes: trailer_offset + SHARD_FILE_TRAILER_BYTES as u64,
        }
    }

    /// What the bundle holds.
    pub const fn content(&self) -> &ContentHeader {
        &self.content
    }

    /// The coding that the shard is of.
    pub const fn coding(&self) -> &CodingHeader {
        &self.coding
    }

    /// Which shard of the coding this is.
    pub const fn index(&self) -> ShardIndex {
        self.index
    }

    /// The root that the shard must have.
    pub fn root(&self) -> ShardRoot {
        self.coding.root(self.index).expect("new checked that the coding has a root for the index")
    }
}

/// The trailer of a file with this padded header and outboard tree.
pub fn shard_file_trailer(header: &[u8], outboard: &[u8]) -> [u8; SHARD_FILE_TRAILER_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(header).update(outboard);
    let mut trailer = [0; SHARD_FILE_TRAILER_BYTES];
    trailer[..32].copy_from_slice(hasher.finalize().as_bytes());
    trailer[32..].copy_from_slice(&END_MAGIC);
    trailer
}

/// Refuses a trailer that is not the one of this padded header and outboard tree.
pub fn check_shard_file_trailer(header: &[u8], outboard: &[u8], trailer: &[u8]) -> Result<(), HeaderError> {
    if trailer.len() != SHARD_FILE_TRAILER_BYTES {
        return Err(HeaderError::Length(HeaderKind::Trailer));
    }
    if trailer[32..] != END_MAGIC {
        return Err(HeaderError::Magic(HeaderKind::Trailer));
    }
    if trailer != shard_file_trailer(header, outboard) {
        return Err(HeaderError::Checksum);
    }
    Ok(())
}

const fn length(field: u32) -> usize {
    // Targets with 16-bit addresses are none of ours.
    field as usize
}

const fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(SHARD_FILE_PAGE_BYTES)
}

#[cfg(test)]
mod tests {
    use firn_base::{BundleId, ManifestRoot, PayloadRoot};

    use super::*;
    use crate::content_header::BundleRole;

    fn header(role: BundleRole, dependencies: u8, k: u8, roots: u8) -> ShardFileHeader {
        let content = ContentHeader::new(
            role,
            (100_000, PayloadRoot::from_bytes([1; 32])),
            (100, ManifestRoot::from_bytes([2; 32])),
            (0..dependencies).map(|i| BundleId::from_bytes([i; 32])).collect(),
        )
        .unwrap();
        let roots = (0..roots).map(|i| ShardRoot::from_bytes([i; 32])).collect();
        let shard_bytes = firn_base::shard_bytes(100_000, k);
        let coding = CodingHeader::new(content.bundle_id(), k, shard_bytes, roots).unwrap();
        ShardFileHeader::new(content, coding, ShardIndex(2)).unwrap()
    }

    #[test]
    fn the_longest_header_tells_how_many_bytes_it_needs() {
        let header = header(BundleRole::Head, 255, 16, 40);
        let bytes = header.to_bytes();
        assert_eq!(bytes.len(), 12_288);
        for length in [0, 5, 24, 4096, 12_287] {
            let wanted = if length < 24 { 4096 } else { 12_288 };
            let parsed = ShardFileHeader::parse(&bytes[..length]);
            assert_eq!(parsed, Ok(ParsedShardFileHeader::NeedsBytes(wanted)));
        }
        assert_eq!(ShardFileHeader::parse(&bytes), Ok(ParsedShardFileHeader::Complete(Box::new(header))));
    }

    #[test]
    fn the_pieces_of_a_file_follow_each_other() {
        let layout = header(BundleRole::Ordinary, 0, 4, 12).layout();
        assert_eq!(layout.header_bytes, 4096);
        assert_eq!(layout.outboard_offset, 4096 + 65_536);
        assert_eq!(layout.outboard_bytes, 3 * 64);
        assert_eq!(layout.file_bytes, 4096 + 65_536 + 192 + 40);
    }

    #[test]
    fn no_flipped_byte_of_a_header_passes_the_trailer() {
        let header = header(BundleRole::Ordinary, 1, 2, 6).to_bytes();
        let trailer = shard_file_trailer(&header, &[7; 192]);
        assert_eq!(check_shard_file_trailer(&header, &[7; 192], &trailer), Ok(()));
        for position in 0..header.len() {
            let mut damaged = header.clone();
            damaged[position] ^= 1;
            // Parsing may refuse it or not, but must not panic.
            let _ = ShardFileHeader::parse(&damaged);
            assert!(check_shard_file_trailer(&damaged, &[7; 192], &trailer).is_err());
        }
    }

    #[test]
    fn a_newer_file_has_its_own_error() {
        let mut bytes = header(BundleRole::Ordinary, 0, 1, 3).to_bytes();
        bytes[8] = 9;
        let error = ShardFileHeader::parse(&bytes).unwrap_err();
        assert_eq!(error, HeaderError::TooNew { kind: KIND, found: 9, known: 1 });
    }

    #[test]
    fn a_coding_of_another_bundle_is_refused() {
        let (one, other) = (header(BundleRole::Ordinary, 0, 1, 3), header(BundleRole::Ordinary, 1, 1, 3));
        assert!(ShardFileHeader::new(one.content, other.coding, ShardIndex(0)).is_err());
    }
}
