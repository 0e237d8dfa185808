//! The restore check: no bundle is announced before every object in it was restored and its hash was seen.
//!
//! Owns: reading objects back out of the payloads that are about to be sent. Always holds: each object is read
//! through the manifest as it lies in the payload file, and its NarHash (or a blob's SHA-256) is computed anew; where the
//! published file is what is kept, so is its FileHash, if one was stated. What it uses of earlier bundles comes from the
//! spool, and is named by the bundle, number and hash under which `earlier` has read it from the archive, or
//! `archived_objects` has. That it was really read there, so that the object can be restored from the archive, rests on
//! these alone.
//! Leaves to others: formats (`firn-bundle`), reading the archive.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Read};
use std::sync::Arc;

use firn_base::BundleId;
use firn_bundle::{
    BundleReader, BundleRole, ChunkRef, Encoding, FRAMES_KEPT_BYTES, Manifest, ManifestError, PatchApplier,
    PatchError, Record, RecordBody, RestoreError, verify_chunk,
};
use firn_nix_format::{NarMismatch, Sha256, VerifyingReader, decoder};

use crate::spooled_bundle::{BundleSet, SpooledBundle};

const PIECE_BYTES: usize = 256 << 10;

/// Why a bundle set must not be sent.
#[derive(Debug, thiserror::Error)]
pub enum RestoreCheckError {
    /// The payload cannot be read.
    #[error("the spooled bundle cannot be read back: {0}")]
    Read(#[from] io::Error),
    /// The manifest is none.
    #[error("the spooled bundle has a bad manifest: {0}")]
    Manifest(#[from] ManifestError),
    /// The chunks of an object are not what they should be.
    #[error("an object cannot be restored from the spooled bundle: {0}")]
    Restore(#[from] RestoreError),
    /// The patches of an object are not what they should be.
    #[error("an object cannot be restored from the spooled bundle: {0}")]
    Patch(#[from] PatchError),
    /// An object comes out as another one.
    #[error("an object comes out of the spooled bundle as another: {0}")]
    Object(#[from] NarMismatch),
    /// A chunk is named that was not read from where it is said to lie.
    #[error("the spooled bundle names chunk {number} of another bundle, which was not read from there")]
    Foreign {
        /// Its number there.
        number: u32,
    },
    /// A record is missing.
    #[error("the spooled bundle has {found} objects and {packed} were packed")]
    Objects {
        /// Records in the manifest.
        found: usize,
        /// Objects packed.
        packed: usize,
    },
}

/// A bundle's payload, and where its foreign chunks lie in the spool.
struct Reader<'a> {
    payload: BundleReader<&'a SpooledBundle>,
    bundle: &'a SpooledBundle,
    foreign: Vec<u64>,
    // Of a head, which of the bundles before it each of its parts is.
    parts: Vec<Option<usize>>,
}

/// Restores every object of `set` and compares its hash. Blocks.
pub(crate) fn check_restores(set: &BundleSet) -> Result<(), RestoreCheckError> {
    let mut readers: Vec<Reader<'_>> = Vec::with_capacity(set.bundles.len());
    let mut places: BTreeMap<BundleId, usize> = BTreeMap::new();
    for (place, bundle) in set.bundles.iter().enumerate() {
        readers.push(open(bundle, &places, FRAMES_KEPT_BYTES / set.bundles.len().max(1))?);
        places.insert(bundle.sealed.content.bundle_id(), place);
    }
    let mut found = 0;
    for position in 0..readers.len() {
        // A head depends on the parts before it, other bundles on what is archived.
        let (parts, rest) = readers.split_at_mut(position);
        let Some(own) = rest.first_mut() else { break };
        let records: Result<Vec<_>, ManifestError> = own.payload.manifest().records().collect();
        for located in records? {
            check_object(own, parts, &located.record)?;
            found += 1;
        }
    }
    if found != set.objects.len() {
        return Err(RestoreCheckError::Objects { found, packed: set.objects.len() });
    }
    Ok(())
}

/// Opens a bundle behind those at `places`, to keep frames of so many bytes: all parts of an object are open at once.
fn open<'a>(
    bundle: &'a Arc<SpooledBundle>,
    places: &BTreeMap<BundleId, usize>,
    frames_bytes_max: usize,
) -> Result<Reader<'a>, RestoreCheckError> {
    let content = &bundle.sealed.content;
    let mut manifest = vec![0; usize::try_from(content.manifest_bytes()).map_err(io::Error::other)?];
    bundle.read_padded(content.manifest_extent().start, &mut manifest)?;
    let manifest = Manifest::parse_whole(content, manifest)?;
    let lengths = manifest.foreign_chunks().iter().map(|chunk| u64::from(chunk.length));
    let foreign = lengths.scan(0, |end, length| Some(std::mem::replace(end, *end + length))).collect();
    let parts = match content.role() {
        BundleRole::Head => content.dependencies().iter().map(|part| places.get(part).copied()).collect(),
        BundleRole::Ordinary | BundleRole::Part => Vec::new(),
    };
    let payload = BundleReader::new(manifest, bundle.as_ref()).keeping(frames_bytes_max);
    Ok(Reader { payload, bundle, foreign, parts })
}

fn check_object<'b>(
    own: &mut Reader<'b>,
    parts: &mut [Reader<'b>],
    record: &Record,
) -> Result<(), RestoreCheckError> {
    match (&record.body, record.encoding) {
        (RecordBody::StorePath(info), Encoding::Chunked) => {
            with_object(own, parts, record, |object| read_to_end(object, info.nar_hash, info.nar_size))
        }
        (RecordBody::StorePath(info), Encoding::Verbatim) => {
            if let Some(file_hash) = info.file_hash {
                with_object(own, parts, record, |object| {
                    read_to_end(object, file_hash, record.content_bytes)
                })?;
            }
            with_object(own, parts, record, |object| {
                let object = BufReader::with_capacity(PIECE_BYTES, object);
                read_to_end(decoder(info.compression, object)?, info.nar_hash, info.nar_size)
            })
        }
        (RecordBody::Blob(blob), _) => {
            with_object(own, parts, record, |object| read_to_end(object, blob.sha256, blob.bytes))
        }
    }
}

/// Gives `read` the content of an object from its first byte on.
fn with_object<'b>(
    own: &mut Reader<'b>,
    parts: &mut [Reader<'b>],
    record: &Record,
    read: impl FnOnce(ObjectReader<'_, 'b>) -> Result<(), RestoreCheckError>,
) -> Result<(), RestoreCheckError> {
    let list = own.payload.manifest().chunk_list(record)?;
    let patches = PatchApplier::new(list.patches(), &record.hash_parts())?;
    let chunks: Vec<ChunkRef> = list.chunks().collect();
    let mut failure = None;
    let object = ObjectReader {
        own,
        parts,
        chunks: chunks.into_iter(),
        patches,
        chunk: Vec::new(),
        read: 0,
        failure: &mut failure,
    };
    let outcome = read(object);
    // The reason behind an error that went through a decoder says more than the decoder.
    failure.map_or(outcome, Err)
}

fn read_to_end(reader: impl Read, hash: Sha256, bytes: u64) -> Result<(), RestoreCheckError> {
    let mut reader = VerifyingReader::new(reader, hash, bytes);
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match reader.read(&mut piece) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                return Err(NarMismatch::in_error(&error).map_or(error.into(), RestoreCheckError::from));
            }
        }
    }
    Ok(reader.finish()?)
}

/// An object's bytes out of its bundle and the parts before it.
struct ObjectReader<'a, 'b> {
    own: &'a mut Reader<'b>,
    parts: &'a mut [Reader<'b>],
    chunks: std::vec::IntoIter<ChunkRef>,
    patches: PatchApplier,
    chunk: Vec<u8>,
    // Bytes of the chunk that were handed out.
    read: usize,
    failure: &'a mut Option<RestoreCheckError>,
}

impl ObjectReader<'_, '_> {
    fn next_chunk(&mut self) -> Result<bool, RestoreCheckError> {
        let Some(chunk) = self.chunks.next() else { return Ok(false) };
        self.chunk.clear();
        self.read = 0;
        match chunk {
            ChunkRef::Own(number) => self.chunk.extend_from_slice(self.own.payload.chunk(number)?),
            ChunkRef::Foreign(number) => {
                let entry = *self.own.payload.manifest().foreign(number)?;
                if self.own.payload.manifest().content().role() == BundleRole::Head {
                    let place = self.own.parts.get(usize::from(entry.dependency)).copied().flatten();
                    let part = place.and_then(|place| self.parts.get_mut(place));
                    let part = part.ok_or(RestoreError::ForeignLength { dependency: entry.dependency })?;
                    self.chunk.extend_from_slice(part.payload.chunk(entry.number)?);
                } else {
                    let owner = self.own.payload.manifest().content().dependencies();
                    let owner = owner.get(usize::from(entry.dependency)).copied();
                    let offered = owner.map(|owner| (owner, entry.number, entry.hash));
                    if !offered.is_some_and(|chunk| self.own.bundle.was_offered(&chunk)) {
                        return Err(RestoreCheckError::Foreign { number: entry.number });
                    }
                    self.chunk.resize(usize::try_from(entry.length).map_err(io::Error::other)?, 0);
                    let offset = self.own.foreign.get(number as usize).copied().unwrap_or(u64::MAX);
                    self.own.bundle.read_foreign(offset, &mut self.chunk)?;
                }
                verify_chunk(&self.chunk, &entry.hash).map_err(RestoreError::from)?;
            }
        }
        self.patches.apply(&mut self.chunk)?;
        Ok(true)
    }
}

impl Read for ObjectReader<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.read == self.chunk.len() {
            match self.next_chunk() {
                Ok(true) => {}
                Ok(false) => return Ok(0),
                Err(failure) => {
                    *self.failure = Some(failure);
                    return Err(io::Error::other("the object cannot be restored"));
                }
            }
        }
        let count = buffer.len().min(self.chunk.len() - self.read);
        buffer[..count].copy_from_slice(&self.chunk[self.read..self.read + count]);
        self.read += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use firn_bundle::{Blob, BuilderOptions, NewRecord, PATCH_PLACEHOLDER, PartChunk, Patch};
    use firn_nix_format::{Compression, PathInfo, StorePath};
    use firn_transport::Environment;

    use super::*;
    use crate::content::ContentWriter;
    use crate::pack::Packer;
    use crate::spool::SpoolDir;
    use crate::tests::cache::info_of;
    use crate::verify::VerifiedObject;

    fn noise(bytes: usize) -> Vec<u8> {
        let mut noise = vec![0; bytes];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        noise
    }

    async fn packed(bytes: &[u8], sha256: Sha256) -> BundleSet {
        let (url, compression) = ("log/x".to_owned(), Compression::None);
        let blob = Blob { url, compression, bytes: bytes.len() as u64, sha256 };
        packed_as(NewRecord::blob(firn_base::ObjectKey::build_log([1; 20]), blob, Encoding::Chunked), bytes)
            .await
    }

    async fn packed_as(record: NewRecord, bytes: &[u8]) -> BundleSet {
        let spool = SpoolDir::open(None).unwrap();
        let options = BuilderOptions { payload_bytes_max: 4 << 20, ..BuilderOptions::default() };
        let mut packer = Packer::new(Environment::real(), spool.clone(), options, 2);
        let mut content = ContentWriter::new(&spool, 0).unwrap();
        content.push(bytes).unwrap();
        let content = content.finish().unwrap();
        let object =
            VerifiedObject { record, content, source_bytes: 0, recipe_tried: false, earlier: Vec::new() };
        let mut pushed = packer.push(object).await.unwrap();
        assert!(pushed.refused.is_none());
        match packer.finish().await.unwrap() {
            Some(set) => set,
            None => pushed.sealed.remove(0),
        }
    }

    #[tokio::test]
    async fn a_sound_set_passes_and_one_flipped_bit_anywhere_does_not() {
        for bytes in [100_000, 9 << 20] {
            let object = noise(bytes);
            let set = packed(&object, Sha256::of(&object)).await;
            assert!(check_restores(&set).is_ok());
            for bundle in &set.bundles {
                let payload = bundle.sealed.content.payload_bytes();
                for part in 0..8 {
                    let offset = payload * part / 8 + 11;
                    bundle.damage(offset);
                    assert!(check_restores(&set).is_err(), "byte {offset} of {payload}");
                    bundle.damage(offset);
                }
            }
            assert!(check_restores(&set).is_ok());
        }
    }

    #[tokio::test]
    async fn a_chunk_of_an_earlier_bundle_passes_only_as_it_was_read_there() {
        let object = noise(1_000_000);
        let spool = SpoolDir::open(None).unwrap();
        let mut content = ContentWriter::new(&spool, 0).unwrap();
        content.push(&object).unwrap();
        let content = content.finish().unwrap();
        let (bundle, chunks) = (firn_base::BundleId::from_bytes([7; 32]), (10..).zip(content.chunks()));
        let earlier =
            chunks.map(|(number, (hash, length))| (bundle, PartChunk { number, length, hash })).collect();
        let (url, compression) = ("log/x".to_owned(), Compression::None);
        let blob = Blob { url, compression, bytes: object.len() as u64, sha256: Sha256::of(&object) };
        let key = firn_base::ObjectKey::build_log([1; 20]);
        let record = NewRecord::blob(key, blob, Encoding::Chunked);
        let mut packer = Packer::new(Environment::real(), spool.clone(), BuilderOptions::default(), 2);
        packer
            .push(VerifiedObject { record, content, source_bytes: 0, recipe_tried: false, earlier })
            .await
            .unwrap();
        let mut set = packer.finish().await.unwrap().unwrap();
        assert_eq!(set.bundles[0].sealed.content.dependencies(), [bundle]);
        assert_eq!(set.bundles[0].foreign_bytes(), 1_000_000);
        assert!(check_restores(&set).is_ok());
        Arc::get_mut(&mut set.bundles[0]).unwrap().forget_offers();
        assert!(matches!(check_restores(&set), Err(RestoreCheckError::Foreign { number: 10 })));
    }

    #[tokio::test]
    async fn an_object_of_another_hash_does_not_pass() {
        let set = packed(b"one", Sha256::of(b"another")).await;
        assert!(matches!(check_restores(&set), Err(RestoreCheckError::Object(_))));
    }

    #[tokio::test]
    async fn a_verbatim_file_of_another_hash_does_not_pass_even_if_its_nar_is_right() {
        let nar = noise(300_000);
        let mut info = info_of(StorePath::from_parts([1; 20], "own").unwrap(), &nar);
        for (file_hash, passes) in [(None, true), (Some(&nar[..]), true), (Some(&b"another"[..]), false)] {
            info.file_hash = file_hash.map(Sha256::of);
            let set = packed_as(NewRecord::store_path(info.clone(), Encoding::Verbatim), &nar).await;
            assert_eq!(check_restores(&set).is_ok(), passes);
        }
    }

    #[tokio::test]
    async fn a_patch_that_writes_another_hash_or_belongs_nowhere_does_not_pass() {
        let path = |seed, name| StorePath::from_parts([seed; 20], name).unwrap();
        let (own, reference) = (path(1, "own"), path(2, "reference"));
        let nar = [noise(300_000), reference.hash_part().into(), noise(10), own.hash_part().into()].concat();
        let mut patched = nar.clone();
        let offsets = [300_000, 300_042];
        for offset in offsets {
            patched[offset..offset + PATCH_PLACEHOLDER.len()].copy_from_slice(&PATCH_PLACEHOLDER);
        }
        let info = PathInfo { references: vec![reference], ..info_of(own, &nar) };
        let check = async |numbers: &[u32], shift: u64| {
            let mut record = NewRecord::store_path(info.clone(), Encoding::Chunked);
            let patches = offsets.iter().zip(numbers);
            record.patches = patches
                .map(|(offset, reference)| Patch { offset: *offset as u64 - shift, reference: *reference })
                .collect();
            check_restores(&packed_as(record, &patched).await)
        };
        assert!(check(&[1, 0], 0).await.is_ok());
        assert!(matches!(check(&[0, 1], 0).await, Err(RestoreCheckError::Object(_))));
        assert!(matches!(check(&[1], 0).await, Err(RestoreCheckError::Object(_))));
        assert!(matches!(check(&[1, 0], 1).await, Err(RestoreCheckError::Patch(_))));
    }

    #[tokio::test]
    async fn a_record_that_is_missing_is_noticed() {
        let mut set = packed(b"one", Sha256::of(b"one")).await;
        set.objects.push(set.objects[0]);
        assert!(matches!(check_restores(&set), Err(RestoreCheckError::Objects { found: 1, packed: 2 })));
    }
}
