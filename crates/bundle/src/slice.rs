//! What one shard alone says of what lies in it.
//!
//! Owns: which shards are plain slices of their payload, and what can be read of names in one without the others. Always
//! holds: nothing is guessed: names come from records of the manifest; of frames that cannot be told apart without it only
//! what they mention is given, as a mention.
//! Leaves to others: reading the shard and whether it has its root.

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;

use firn_base::ShardIndex;

use crate::block::{Block, BlockDirectory};
use crate::chunk_entry::ChunkRef;
use crate::chunk_list::ChunkList;
use crate::codec::Codec;
use crate::limits::{BLOCKS_RAW_BYTES_MAX, FRAME_RAW_BYTES_MAX};
use crate::manifest::Manifest;
use crate::manifest_error::ManifestError;
use crate::manifest_header::{MANIFEST_HEADER_BYTES, ManifestHeader};
use crate::proof::ReadAt;
use crate::record::{Record, RecordBody};
use crate::shard_file::ShardFileHeader;

/// Names that are mentioned by the frames of one slice and given, at most.
pub const MENTIONS_MAX: usize = 10_000;

// A slice has a few thousand frames of ours; the bytes of a frame's beginning may stand anywhere.
const BEGINNINGS_MAX: usize = 65_536;

// Raw bytes of frames, and of what looked like one: a thousand in vain, which a slice of ours has hardly one of.
const LOOKED_AT_BYTES_MAX: u64 = BLOCKS_RAW_BYTES_MAX * 16;

const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const STORE_PREFIX: &[u8] = b"/nix/store/";
const HASH_PART_BYTES: usize = 32;
const NAME_BYTES_MAX: usize = 211;

/// What one shard alone says of what lies in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SliceContents {
    /// A parity shard: a sum over all slices, of which nothing can be read without as many shards as there are slices.
    Parity,
    /// A plain slice with the whole manifest in it.
    Whole {
        /// Names of the objects of which chunks lie in this slice, in their order.
        here: Vec<String>,
        /// Names of the bundle's other objects.
        elsewhere: Vec<String>,
    },
    /// A plain slice with the beginning of the manifest: some of the bundle's objects have names.
    Beginning {
        /// The names that can be read.
        names: Vec<String>,
        /// How many objects the bundle has.
        records: u32,
    },
    /// A plain slice of frames, perhaps with the end of the manifest: names stand in the manifest's beginning.
    Frames {
        /// The shard in which the manifest begins.
        manifest_in: ShardIndex,
        /// Names of store paths that its frames mention, as contents or as references, in order; at most [`MENTIONS_MAX`].
        mentioned: Vec<String>,
    },
}

/// Why the manifest in a slice cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SliceError {
    /// The shard cannot be read.
    #[error("the shard cannot be read: {0}")]
    Read(#[from] io::Error),
    /// What should be the manifest is none.
    #[error("the bundle's manifest is not one: {0}")]
    Manifest(#[from] ManifestError),
}

/// Which bytes of its payload a shard has as they are; none for a parity shard.
pub fn plain_slice(header: &ShardFileHeader) -> Option<Range<u64>> {
    let (content, coding) = (header.content(), header.coding());
    // For k = 1 every shard is a copy. Else the index says it: slices with equal bytes have equal roots.
    let place = match coding.k() {
        1 => 0,
        k => Some(header.index().0).filter(|index| *index < k)?,
    };
    let start = (u64::from(place) * coding.shard_bytes()).min(content.payload_bytes());
    let end = (start + coding.shard_bytes()).min(content.payload_bytes());
    Some(start..end)
}

/// Reads what a shard says of names: `shard` gives its bytes, from its own beginning on. Takes memory for the manifest,
/// or for a slice of frames.
pub fn read_slice(header: &ShardFileHeader, shard: &impl ReadAt) -> Result<SliceContents, SliceError> {
    let Some(slice) = plain_slice(header) else { return Ok(SliceContents::Parity) };
    let content = header.content();
    let manifest = content.manifest_extent();
    let bytes = |range: Range<u64>| -> io::Result<Vec<u8>> {
        let length = usize::try_from(range.end.saturating_sub(range.start)).map_err(io::Error::other)?;
        let mut bytes = vec![0; length];
        read_exact(shard, range.start.saturating_sub(slice.start), &mut bytes)?;
        Ok(bytes)
    };
    let begins_here = slice.contains(&manifest.start);
    let header_end = manifest.start.saturating_add(MANIFEST_HEADER_BYTES as u64);
    if begins_here && manifest.end <= slice.end {
        let manifest = Manifest::parse_whole(content, bytes(manifest)?)?;
        return Ok(whole(&manifest, &slice)?);
    }
    if begins_here && header_end <= slice.end {
        return Ok(beginning(&bytes(manifest.start..slice.end)?, content.manifest_bytes())?);
    }
    let place = manifest.start / header.coding().shard_bytes().max(1);
    let manifest_in = ShardIndex(u8::try_from(place).unwrap_or(u8::MAX));
    let frames_end = manifest.start.clamp(slice.start, slice.end);
    let mentioned = mentioned_names(&bytes(slice.start..frames_end)?);
    Ok(SliceContents::Frames { manifest_in, mentioned: mentioned.into_iter().collect() })
}

fn whole(manifest: &Manifest, slice: &Range<u64>) -> Result<SliceContents, ManifestError> {
    let (mut here, mut elsewhere) = (Vec::new(), Vec::new());
    for located in manifest.records() {
        let record = located?.record;
        let list = manifest.chunk_list(&record)?;
        let names = if lies_in(manifest, &list, slice)? { &mut here } else { &mut elsewhere };
        names.push(name_of(&record));
    }
    Ok(SliceContents::Whole { here, elsewhere })
}

/// Whether a chunk of a list lies in a frame that the slice has a part of.
fn lies_in(manifest: &Manifest, list: &ChunkList, slice: &Range<u64>) -> Result<bool, ManifestError> {
    for run in list.runs() {
        let ChunkRef::Own(first) = run.first else { continue };
        // Chunks that follow each other lie in frames that do.
        let last = first.saturating_add(run.count.saturating_sub(1));
        let begin = manifest.frame(manifest.chunk(first)?.frame)?.payload_extent().start;
        let end = manifest.frame(manifest.chunk(last)?.frame)?.payload_extent().end;
        if begin < slice.end && slice.start < end {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The names in those blocks that `bytes`, the first of a manifest, have whole.
fn beginning(bytes: &[u8], manifest_bytes: u64) -> Result<SliceContents, ManifestError> {
    let header = ManifestHeader::parse(bytes, manifest_bytes)?;
    let records = header.record_count();
    let mut names = Vec::new();
    if let Some(directory) = cut(bytes, &header.directory_extent()) {
        let directory = BlockDirectory::parse(directory, &header)?;
        for entry in directory.entries() {
            let Some(stored) = cut(bytes, &entry.extent) else { break };
            names.extend(Block::parse(stored, entry)?.records().iter().map(name_of));
        }
    }
    Ok(SliceContents::Beginning { names, records })
}

fn cut<'a>(bytes: &'a [u8], extent: &Range<u64>) -> Option<&'a [u8]> {
    bytes.get(usize::try_from(extent.start).ok()?..usize::try_from(extent.end).ok()?)
}

fn name_of(record: &Record) -> String {
    match &record.body {
        RecordBody::StorePath(info) => info.store_path.to_string(),
        // Whoever packed it chose the words.
        RecordBody::Blob(blob) => blob.url.chars().filter(|one| !one.is_control()).collect(),
    }
}

fn read_exact(source: &impl ReadAt, mut offset: u64, mut buffer: &mut [u8]) -> io::Result<()> {
    while !buffer.is_empty() {
        let count = source.read_at(offset, buffer)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buffer = buffer.get_mut(count..).unwrap_or_default();
        offset += count as u64;
    }
    Ok(())
}

/// Names of store paths that frames mention: in bytes as they are, and in whatever begins and ends as a zstd frame of ours
/// does. What is stored as LZMA has no beginning that could be found.
fn mentioned_names(frames: &[u8]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    collect_mentions(frames, &mut names);
    let mut bytes_left = LOOKED_AT_BYTES_MAX;
    let mut rest = frames;
    let mut beginnings = 0;
    while let Some(place) = rest.windows(ZSTD_MAGIC.len()).position(|window| window == ZSTD_MAGIC) {
        rest = rest.get(place..).unwrap_or_default();
        let frame_bytes = zstd_frame(rest).filter(|(_, raw_bytes)| u64::from(*raw_bytes) <= bytes_left);
        let stored = frame_bytes.and_then(|(stored_bytes, raw)| Some((rest.get(..stored_bytes)?, raw)));
        let raw = stored.and_then(|(stored, raw)| Codec::Zstd.decompress(stored, raw));
        let (step, cost) = match (&raw, stored) {
            (Some(raw), Some((stored, raw_bytes))) => {
                collect_mentions(raw, &mut names);
                (stored.len(), raw_bytes)
            }
            // As much as may have been looked at in vain: whoever packed it chose the bytes.
            _ => (1, FRAME_RAW_BYTES_MAX),
        };
        bytes_left = bytes_left.saturating_sub(cost.into());
        rest = rest.get(step..).unwrap_or_default();
        beginnings += 1;
        if names.len() >= MENTIONS_MAX || beginnings >= BEGINNINGS_MAX || bytes_left == 0 {
            break;
        }
    }
    names
}

/// How long the zstd frame is that `bytes` begin with, stored and raw, if it is one of ours and whole.
fn zstd_frame(bytes: &[u8]) -> Option<(usize, u32)> {
    let bytes = bytes.get(..bytes.len().min(FRAME_RAW_BYTES_MAX as usize))?;
    let stored_bytes = zstd::zstd_safe::find_frame_compressed_size(bytes).ok()?;
    let raw_bytes = zstd::zstd_safe::get_frame_content_size(bytes).ok()??;
    let raw_bytes = u32::try_from(raw_bytes).ok().filter(|raw| (1..=FRAME_RAW_BYTES_MAX).contains(raw))?;
    Some((stored_bytes, raw_bytes))
}

/// Adds the names of store paths in `bytes`, behind whatever stands in place of their hash parts: those of rebuilds are
/// replaced by a constant in frames.
fn collect_mentions(bytes: &[u8], names: &mut BTreeSet<String>) {
    let mut rest = bytes;
    while let Some(place) = rest.windows(STORE_PREFIX.len()).position(|window| window == STORE_PREFIX) {
        rest = rest.get(place + STORE_PREFIX.len()..).unwrap_or_default();
        let Some(b'-') = rest.get(HASH_PART_BYTES) else { continue };
        let behind = rest.get(HASH_PART_BYTES + 1..).unwrap_or_default();
        let is_of_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-._?=".contains(byte);
        let length = behind.iter().position(|byte| !is_of_name(byte)).unwrap_or(behind.len());
        let name = behind.get(..length.min(NAME_BYTES_MAX)).unwrap_or_default();
        if !name.is_empty() && names.len() < MENTIONS_MAX {
            names.insert(String::from_utf8_lossy(name).into_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use firn_base::{ManifestRoot, PayloadRoot, Scheme, ShardRoot, shard_bytes};

    use super::*;
    use crate::coding_header::CodingHeader;
    use crate::content_header::{BundleRole, ContentHeader};

    #[test]
    fn slices_with_equal_bytes_are_told_apart_by_their_index() {
        const HALF: u64 = 1 << 19;
        let (payload_root, manifest_root) =
            (PayloadRoot::from_bytes([1; 32]), ManifestRoot::from_bytes([1; 32]));
        let (payload, manifest) = ((2 * HALF, payload_root), (1000, manifest_root));
        let content = ContentHeader::new(BundleRole::Ordinary, payload, manifest, Vec::new()).unwrap();
        let slice = |k: u8, index: u8| {
            let roots = vec![ShardRoot::from_bytes([2; 32]); Scheme::n_max(k).unwrap().into()];
            let coding = CodingHeader::new(content.bundle_id(), k, shard_bytes(2 * HALF, k), roots).unwrap();
            let header = ShardFileHeader::new(content.clone(), coding, ShardIndex(index)).unwrap();
            plain_slice(&header)
        };
        assert_eq!(slice(2, 0), Some(0..HALF));
        assert_eq!(slice(2, 1), Some(HALF..2 * HALF));
        assert_eq!(slice(2, 2), None);
        assert_eq!(slice(1, 2), Some(0..2 * HALF));
    }

    #[test]
    fn names_are_found_in_frames_as_they_are_and_compressed() {
        let hash = "a".repeat(32);
        let plain = format!("x /nix/store/{hash}-glibc-2.40/lib /nix/store/short-no /nix/store/{hash}-");
        let raw = format!("\0/nix/store/{}-hello-2.12\0/nix/store/{hash}-glibc-2.40/x", "\u{1}".repeat(32));
        let compressed = zstd::bulk::compress(raw.repeat(9).as_bytes(), 3).unwrap();
        let cut_off = &compressed[..compressed.len() - 1];
        let frames = [plain.as_bytes(), &ZSTD_MAGIC, &compressed, &ZSTD_MAGIC, cut_off].concat();
        let names: Vec<String> = mentioned_names(&frames).into_iter().collect();
        assert_eq!(names, ["glibc-2.40", "hello-2.12"]);
        assert!(mentioned_names(&ZSTD_MAGIC.repeat(1000)).is_empty());
        // A packer who wrote nothing but beginnings does not keep anybody for long.
        let behind = |beginnings: usize| {
            mentioned_names(&[ZSTD_MAGIC.repeat(beginnings).as_slice(), &compressed].concat())
        };
        assert_eq!(behind(1000).len(), 2);
        assert!(behind(1100).len() < 2);
    }

    #[test]
    fn mentions_are_few_however_many_there_are() {
        let hash = "a".repeat(32);
        let many: String = (0..MENTIONS_MAX + 9).map(|n| format!("/nix/store/{hash}-n{n} ")).collect();
        assert_eq!(mentioned_names(many.as_bytes()).len(), MENTIONS_MAX);
    }
}
