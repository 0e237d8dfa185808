//! What a publish cannot avoid, each part run alone on one thread: the bound that a whole publish is compared with.
//!
//! Always holds: every part works on the same input as a publish, in memory, by the functions that a publish calls;
//! what comes out is checked where the next part does not. Leaves to others: the whole (`variant`), the report
//! (`main`).

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fs;
use std::io::Read;
use std::time::Duration;

use firn_base::{Digest, shard_bytes};
use firn_benches::process::{Failure, thread_time};
use firn_bundle::{
    BORDERED_FILE_BYTES_MIN, Chunker, CompressedFrame, FrameCompression, FrameEntry, PAYLOAD_BYTES_MAX,
    PatchFinder, PendingFrame, compress_frame, decompress_frame, hash_parts,
};
use firn_erasure::{Coder, ColumnBuffers};
use firn_nix_format::{Compression, NarInspector, PathInfo, Sha256, decoder};

use crate::corpus::Corpus;

// As a publish codes: what was read is coded and hashed before it leaves the second-level cache.
const COLUMN_BYTES: usize = 32 << 10;

/// How long each part took.
#[derive(Debug, Clone, Default)]
pub(crate) struct Parts {
    reading: Duration,
    decompressing: Duration,
    hashing: Duration,
    inspecting: Duration,
    patching: Duration,
    chunking: Duration,
    chunk_hashing: Duration,
    compressing: Duration,
    coding: Duration,
    restoring: Duration,
}

/// What is packed so far.
#[derive(Debug, Default)]
struct Packed {
    known: BTreeSet<Digest>,
    // Chunks of the open frame, and where they end in it.
    open: Vec<u8>,
    ends: Vec<usize>,
    payload: Vec<u8>,
}

/// Frames of a publish: raw bytes at which one is closed, and how it is compressed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FrameOptions {
    pub(crate) bytes: usize,
    pub(crate) compression: FrameCompression,
}

fn timed<T>(total: &mut Duration, work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    let begun = thread_time()?;
    let done = work()?;
    *total += thread_time()?.saturating_sub(begun);
    Ok(done)
}

impl Parts {
    /// Does every part for each generation of the corpus, coded with `k`.
    pub(crate) fn measure(corpus: &Corpus, options: FrameOptions, k: u8) -> Result<Self, Failure> {
        let mut parts = Self::default();
        for generation in &corpus.generations {
            // A publish of its own, which stores nothing but its own chunks.
            let mut packed = Packed::default();
            for path in corpus.paths.values().filter(|path| path.generation == *generation) {
                parts.path(corpus, &path.info, options, &mut packed)?;
            }
            parts.close_frame(options, &mut packed)?;
            let payload = usize::try_from(PAYLOAD_BYTES_MAX)?;
            for bundle in packed.payload.chunks(payload) {
                timed(&mut parts.coding, || code(bundle, k))?;
            }
        }
        Ok(parts)
    }

    /// The parts' names and times.
    pub(crate) fn rows(&self) -> [(&'static str, Duration); 10] {
        [
            ("reading the file", self.reading),
            ("decompressing it", self.decompressing),
            ("SHA-256 of NAR and file", self.hashing),
            ("looking at the NAR's structure", self.inspecting),
            ("replacing hash parts", self.patching),
            ("cutting chunks", self.chunking),
            ("BLAKE3 of chunks and payload", self.chunk_hashing),
            ("compressing frames", self.compressing),
            ("coding and hashing shards", self.coding),
            ("restoring: decompressing frames, BLAKE3, SHA-256", self.restoring),
        ]
    }

    pub(crate) fn sum(&self) -> Duration {
        self.rows().iter().map(|(_, time)| *time).sum()
    }

    fn path(
        &mut self,
        corpus: &Corpus,
        info: &PathInfo,
        options: FrameOptions,
        packed: &mut Packed,
    ) -> Result<(), Failure> {
        let file = timed(&mut self.reading, || Ok(fs::read(corpus.file(info))?))?;
        let mut nar = Vec::with_capacity(usize::try_from(info.nar_size)?);
        timed(&mut self.decompressing, || Ok(decoder(info.compression, &*file)?.read_to_end(&mut nar)?))?;
        let found = timed(&mut self.hashing, || Ok(Sha256::of(&nar)))?;
        if found != info.nar_hash {
            return Err(format!("{} is another NAR than its narinfo says", info.store_path).into());
        }
        if info.compression != Compression::None && info.file_hash.is_some() {
            timed(&mut self.hashing, || Ok(Sha256::of(&file)))?;
        }
        drop(file);
        let borders = timed(&mut self.inspecting, || borders(&nar))?;
        let mut patched = Vec::with_capacity(nar.len());
        timed(&mut self.patching, || {
            let mut finder = PatchFinder::new(&hash_parts(info));
            let mut keep = |bytes: &[u8]| {
                patched.extend_from_slice(bytes);
                Ok::<(), Infallible>(())
            };
            let Ok(()) = finder.push(&nar, &mut keep);
            let Ok(_) = finder.finish(&mut keep);
            Ok(())
        })?;
        // As the restore check will once more.
        timed(&mut self.restoring, || Ok(Sha256::of(&nar)))?;
        drop(nar);
        let lengths = timed(&mut self.chunking, || Ok(cut(&patched, &borders)))?;
        let mut rest = &*patched;
        let chunks = lengths.into_iter().map(|length| {
            let (chunk, behind) = rest.split_at(length);
            rest = behind;
            chunk
        });
        let chunks: Vec<&[u8]> = chunks.collect();
        let hash = |chunk: &&[u8]| Digest::from_bytes(*blake3::hash(chunk).as_bytes());
        let hashes: Vec<Digest> = timed(&mut self.chunk_hashing, || Ok(chunks.iter().map(hash).collect()))?;
        for (chunk, hash) in chunks.into_iter().zip(hashes) {
            if !packed.known.insert(hash) {
                continue;
            }
            if !packed.open.is_empty() && packed.open.len() + chunk.len() > options.bytes {
                self.close_frame(options, packed)?;
            }
            packed.open.extend_from_slice(chunk);
            packed.ends.push(packed.open.len());
        }
        Ok(())
    }

    /// Compresses the open frame, and restores it.
    fn close_frame(&mut self, options: FrameOptions, packed: &mut Packed) -> Result<(), Failure> {
        let (raw, ends) = (std::mem::take(&mut packed.open), std::mem::take(&mut packed.ends));
        if raw.is_empty() {
            return Ok(());
        }
        let frame = PendingFrame { number: 0, raw };
        let frame = timed(&mut self.compressing, || Ok(compress_frame(frame, options.compression)?))?;
        timed(&mut self.chunk_hashing, || Ok(blake3::hash(&frame.stored)))?;
        timed(&mut self.restoring, || restore(&frame, &ends))?;
        packed.payload.extend_from_slice(&frame.stored);
        Ok(())
    }
}

/// Where files begin that a chunk begins with.
fn borders(nar: &[u8]) -> Result<Vec<usize>, Failure> {
    let (mut inspector, mut borders, mut taken) = (NarInspector::new(nar.len() as u64), Vec::new(), 0);
    while let Some(before) = inspector.push_to_file(&nar[taken..], BORDERED_FILE_BYTES_MIN)? {
        taken += before;
        borders.push(taken);
    }
    inspector.finish()?;
    Ok(borders)
}

/// How long the chunks are, one after the other.
fn cut(content: &[u8], borders: &[usize]) -> Vec<usize> {
    let (mut chunker, mut lengths, mut taken) = (Chunker::new(), Vec::new(), 0);
    let mut note = |chunk: &[u8]| {
        lengths.push(chunk.len());
        Ok::<(), Infallible>(())
    };
    for border in borders {
        let Ok(()) = chunker.push(&content[taken..*border], &mut note);
        let Ok(()) = chunker.border(&mut note);
        taken = *border;
    }
    let Ok(()) = chunker.push(&content[taken..], &mut note);
    let Ok(()) = chunker.finish(&mut note);
    lengths
}

fn restore(frame: &CompressedFrame, ends: &[usize]) -> Result<(), Failure> {
    let entry = FrameEntry {
        payload_offset: 0,
        stored_bytes: u32::try_from(frame.stored.len())?,
        raw_bytes: frame.raw_bytes,
        codec: frame.codec,
    };
    let raw = decompress_frame(&frame.stored, &entry)?;
    let mut begin = 0;
    for end in ends {
        std::hint::black_box(blake3::hash(&raw[begin..*end]));
        begin = *end;
    }
    Ok(())
}

/// Codes a payload for all parity that its k may have, and hashes all shards.
fn code(payload: &[u8], k: u8) -> Result<(), Failure> {
    let coder = Coder::new(k)?;
    let shard = usize::try_from(shard_bytes(payload.len() as u64, k))?;
    let mut buffers = ColumnBuffers::new(coder.n_max(), COLUMN_BYTES);
    let mut hashers = vec![blake3::Hasher::new(); coder.n_max()];
    for offset in (0..shard).step_by(COLUMN_BYTES) {
        let bytes = COLUMN_BYTES.min(shard - offset);
        let mut columns: Vec<&mut [u8]> = buffers.slices_mut().map(|column| &mut column[..bytes]).collect();
        let (data, parity) = columns.split_at_mut(coder.k());
        for (number, column) in data.iter_mut().enumerate() {
            let begin = (number * shard + offset).min(payload.len());
            let piece = &payload[begin..(begin + bytes).min(payload.len())];
            column[..piece.len()].copy_from_slice(piece);
            column[piece.len()..].fill(0);
        }
        let data: Vec<&[u8]> = data.iter().map(|column| &**column).collect();
        coder.encode(&data, parity)?;
        let parity = parity.iter().map(|column| &**column);
        for (hasher, column) in hashers.iter_mut().zip(data.iter().copied().chain(parity)) {
            hasher.update(column);
        }
    }
    std::hint::black_box(hashers.iter().map(blake3::Hasher::finalize).collect::<Vec<_>>());
    Ok(())
}
