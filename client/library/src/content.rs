//! The content of one object, patched and cut into chunks, between being checked and being packed.
//!
//! Always holds: small contents lie in memory, large ones in a spool file; memory is bounded whatever comes.
//! Leaves to others: what the bytes are and whether they are right (`verify`).

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, Write};
use std::os::unix::fs::FileExt;

use firn_base::Digest;
use firn_bundle::{Chunker, Patch, PatchFinder, hash_parts};
use firn_nix_format::PathInfo;

use crate::spool::{SpoolDir, SpoolError};

/// Contents up to this size stay in memory: nine of ten paths are below it, and a handful in flight are few.
pub(crate) const MEMORY_BYTES_MAX: u64 = 8 << 20;

const BUFFER_BYTES: usize = 256 << 10;

/// Takes an object's bytes.
#[derive(Debug)]
pub(crate) struct ContentWriter {
    finder: Option<PatchFinder>,
    pushed: u64,
    kept: Kept,
}

#[derive(Debug)]
struct Kept {
    spool: SpoolDir,
    chunker: Chunker,
    lengths: Vec<u32>,
    hashes: Vec<Digest>,
    bytes: u64,
    // Where borders are that what was kept does not reach yet: the finder holds bytes back.
    borders: VecDeque<u64>,
    place: Place<BufWriter<File>>,
}

#[derive(Debug)]
enum Place<F> {
    Memory(Vec<u8>),
    File(F),
}

/// An object's bytes as chunks.
#[derive(Debug)]
pub(crate) struct Content {
    lengths: Vec<u32>,
    hashes: Vec<Digest>,
    bytes: u64,
    patches: Vec<Patch>,
    place: Place<File>,
}

/// Gives an object's chunks one after the other.
#[derive(Debug)]
pub(crate) struct ContentReader {
    lengths: Vec<u32>,
    // The chunk that comes next.
    next: usize,
    bytes: Place<BufReader<File>>,
    read: usize,
    chunk: Vec<u8>,
    spool: SpoolDir,
}

/// Gives copies of an object's chunks one after the other.
#[derive(Debug)]
pub(crate) struct ChunksAgain<'a> {
    content: &'a Content,
    next: usize,
    offset: u64,
    chunk: Vec<u8>,
    spool: SpoolDir,
}

impl ContentWriter {
    /// For an object of about `expected` bytes that is kept as it is.
    pub(crate) fn new(spool: &SpoolDir, expected: u64) -> Result<Self, SpoolError> {
        let place = match usize::try_from(expected) {
            Ok(bytes) if expected <= MEMORY_BYTES_MAX => Place::Memory(Vec::with_capacity(bytes)),
            _ => Place::File(BufWriter::with_capacity(BUFFER_BYTES, spool.file()?)),
        };
        let kept = Kept {
            spool: spool.clone(),
            chunker: Chunker::new(),
            lengths: Vec::new(),
            hashes: Vec::new(),
            bytes: 0,
            borders: VecDeque::new(),
            place,
        };
        Ok(Self { finder: None, pushed: 0, kept })
    }

    /// For the NAR of `info`, which is kept with its hash parts replaced.
    pub(crate) fn patched(spool: &SpoolDir, info: &PathInfo) -> Result<Self, SpoolError> {
        Ok(Self { finder: Some(PatchFinder::new(&hash_parts(info))), ..Self::new(spool, info.nar_size)? })
    }

    /// Says that the next byte is the first of a large file: see [`Chunker::border`].
    pub(crate) fn border(&mut self) {
        self.kept.borders.push_back(self.pushed);
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<(), SpoolError> {
        self.pushed += bytes.len() as u64;
        let kept = &mut self.kept;
        match &mut self.finder {
            Some(finder) => finder.push(bytes, |patched| kept.push(patched)),
            None => kept.push(bytes),
        }
    }

    pub(crate) fn finish(mut self) -> Result<Content, SpoolError> {
        let kept = &mut self.kept;
        let finished = self.finder.map(|finder| finder.finish(|patched| kept.push(patched)));
        let patches = finished.transpose()?.unwrap_or_default();
        self.kept.finish(patches)
    }
}

impl Kept {
    fn push(&mut self, mut bytes: &[u8]) -> Result<(), SpoolError> {
        while let Some(border) = self.borders.front() {
            let before = usize::try_from(border - self.bytes).ok();
            let Some((first, rest)) = before.and_then(|before| bytes.split_at_checked(before)) else { break };
            self.borders.pop_front();
            self.push_unbordered(first)?;
            let (lengths, hashes) = (&mut self.lengths, &mut self.hashes);
            let Ok(()) = self.chunker.border(|chunk| note(lengths, hashes, chunk));
            bytes = rest;
        }
        self.push_unbordered(bytes)
    }

    fn push_unbordered(&mut self, bytes: &[u8]) -> Result<(), SpoolError> {
        let (lengths, hashes) = (&mut self.lengths, &mut self.hashes);
        let Ok(()) = self.chunker.push(bytes, |chunk| note(lengths, hashes, chunk));
        self.keep(bytes)
    }

    fn finish(mut self, patches: Vec<Patch>) -> Result<Content, SpoolError> {
        let (lengths, hashes) = (&mut self.lengths, &mut self.hashes);
        let Ok(()) = self.chunker.finish(|chunk| note(lengths, hashes, chunk));
        let place = match self.place {
            Place::Memory(bytes) => Place::Memory(bytes),
            Place::File(file) => {
                let file = file.into_inner().map_err(|error| self.spool.failed(error.into_error()))?;
                Place::File(file)
            }
        };
        Ok(Content { lengths: self.lengths, hashes: self.hashes, bytes: self.bytes, patches, place })
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<(), SpoolError> {
        let spool = &self.spool;
        self.bytes += bytes.len() as u64;
        if let Place::Memory(memory) = &mut self.place {
            if self.bytes <= MEMORY_BYTES_MAX {
                memory.extend_from_slice(bytes);
                return Ok(());
            }
            // More came than was expected.
            let mut file = BufWriter::with_capacity(BUFFER_BYTES, spool.file()?);
            file.write_all(memory).map_err(|error| spool.failed(error))?;
            self.place = Place::File(file);
        }
        match &mut self.place {
            Place::File(file) => file.write_all(bytes).map_err(|error| spool.failed(error)),
            Place::Memory(_) => Ok(()),
        }
    }
}

fn note(lengths: &mut Vec<u32>, hashes: &mut Vec<Digest>, chunk: &[u8]) -> Result<(), Infallible> {
    // By which the archive is asked for it. The builder hashes it again: what it stores must be that.
    hashes.push(Digest::from_bytes(*blake3::hash(chunk).as_bytes()));
    lengths.push(u32::try_from(chunk.len()).expect("the chunker cuts at 256 KiB"));
    Ok(())
}

impl Content {
    /// Its bytes.
    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The hash parts that were replaced: the record that is packed with the content must have them.
    pub(crate) fn take_patches(&mut self) -> Vec<Patch> {
        std::mem::take(&mut self.patches)
    }

    /// Hash and length of each chunk, from the first on.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = (Digest, u32)> {
        self.hashes.iter().copied().zip(self.lengths.iter().copied())
    }

    /// The chunks from the first on, while it stays.
    pub(crate) fn read_again(&self, spool: &SpoolDir) -> ChunksAgain<'_> {
        ChunksAgain { content: self, next: 0, offset: 0, chunk: Vec::new(), spool: spool.clone() }
    }

    /// The chunks from the first on.
    pub(crate) fn into_reader(self, spool: &SpoolDir) -> Result<ContentReader, SpoolError> {
        let bytes = match self.place {
            Place::Memory(bytes) => Place::Memory(bytes),
            Place::File(mut file) => {
                file.rewind().map_err(|error| spool.failed(error))?;
                Place::File(BufReader::with_capacity(BUFFER_BYTES, file))
            }
        };
        let lengths = self.lengths;
        Ok(ContentReader { lengths, next: 0, bytes, read: 0, chunk: Vec::new(), spool: spool.clone() })
    }
}

impl ChunksAgain<'_> {
    /// The next chunk; none behind the last.
    pub(crate) fn next_chunk(&mut self) -> Result<Option<&mut [u8]>, SpoolError> {
        let Some(length) = self.content.lengths.get(self.next) else { return Ok(None) };
        self.chunk.resize(*length as usize, 0);
        match &self.content.place {
            Place::Memory(bytes) => {
                let begin = usize::try_from(self.offset).unwrap_or(usize::MAX);
                self.chunk.copy_from_slice(&bytes[begin..begin + *length as usize]);
            }
            Place::File(file) => {
                let read = file.read_exact_at(&mut self.chunk, self.offset);
                read.map_err(|error| self.spool.failed(error))?;
            }
        }
        self.next += 1;
        self.offset += u64::from(*length);
        Ok(Some(&mut self.chunk))
    }
}

impl ContentReader {
    /// Begins with the first chunk again.
    pub(crate) fn begin_again(&mut self) -> Result<(), SpoolError> {
        (self.next, self.read) = (0, 0);
        match &mut self.bytes {
            Place::Memory(_) => Ok(()),
            Place::File(file) => file.rewind().map_err(|error| self.spool.failed(error)),
        }
    }

    /// The next chunk; none behind the last.
    pub(crate) fn next_chunk(&mut self) -> Result<Option<&[u8]>, SpoolError> {
        let Some(length) = self.lengths.get(self.next) else { return Ok(None) };
        let length = *length as usize;
        self.next += 1;
        match &mut self.bytes {
            Place::Memory(bytes) => {
                let chunk = &bytes[self.read..self.read + length];
                self.read += length;
                Ok(Some(chunk))
            }
            Place::File(file) => {
                self.chunk.resize(length, 0);
                file.read_exact(&mut self.chunk).map_err(|error| self.spool.failed(error))?;
                Ok(Some(&self.chunk))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(bytes: usize) -> Vec<u8> {
        let mut noise = vec![0; bytes];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        noise
    }

    fn round_trip(object: &[u8], expected: u64) -> Vec<usize> {
        let spool = SpoolDir::open(None).unwrap();
        let mut writer = ContentWriter::new(&spool, expected).unwrap();
        for piece in object.chunks(100_000) {
            writer.push(piece).unwrap();
        }
        let content = writer.finish().unwrap();
        assert_eq!(content.bytes(), object.len() as u64);
        let (mut copies, mut copied) = (content.read_again(&spool), Vec::new());
        while let Some(chunk) = copies.next_chunk().unwrap() {
            copied.extend_from_slice(chunk);
        }
        assert!(copied == object, "it may be read before");
        let mut reader = content.into_reader(&spool).unwrap();
        let (mut lengths, mut bytes) = (Vec::new(), Vec::new());
        while let Some(chunk) = reader.next_chunk().unwrap() {
            lengths.push(chunk.len());
            bytes.extend_from_slice(chunk);
        }
        assert!(bytes == object, "the chunks are not the object");
        reader.begin_again().unwrap();
        let mut again = Vec::new();
        while let Some(chunk) = reader.next_chunk().unwrap() {
            again.extend_from_slice(chunk);
        }
        assert!(again == object, "it comes twice alike");
        lengths
    }

    #[test]
    fn chunks_are_the_same_in_memory_and_in_a_file() {
        let object = noise(1_000_000);
        let in_memory = round_trip(&object, object.len() as u64);
        assert!(in_memory.len() > 4);
        assert_eq!(round_trip(&object, u64::MAX), in_memory);
        assert_eq!(round_trip(&[], 0), Vec::<usize>::new());
    }

    #[test]
    fn more_than_was_expected_goes_on_in_a_file() {
        round_trip(&noise(9 << 20), 10);
    }
}
