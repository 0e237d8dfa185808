//! NARs, files and logs out of payloads: right to the last byte, or an error.

mod costs;

use std::io::Write;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::{
    MemoryReader, Packed, builder, chunks, info, inline, log_record, nar_record, noise, objects, pack,
    pack_with, path,
};
use bytes::Bytes;
use firn_base::{BundleId, ObjectKey};
use firn_bundle::{
    BuildError, BuilderOptions, BundleBuilder, ContentHeader, Encoding, FrameCompression, NewRecord,
    PATCH_PLACEHOLDER, PartChunk, Patch,
};
use firn_nix_format::{Compression, Sha256};
use firn_retrieval::{
    ByteStream, ManifestOptions, ManifestReader, ObjectOptions, ObjectPlan, ObjectReader, PayloadReader,
    ReadError,
};
use firn_transport::Environment;
use futures::future::{BoxFuture, ready};
use futures::{FutureExt, StreamExt};
use proptest::prelude::*;

async fn open(reader: &ObjectReader, packed: &Packed, number: usize) -> ObjectPlan {
    let position = packed.positions[number];
    let record = reader.manifests().record(packed.id(), position.block, position.entry, &position.key).await;
    reader.open(packed.id(), record.unwrap()).await.unwrap()
}

/// What came before the end or the first error.
async fn drain(mut stream: ByteStream) -> (Vec<u8>, Option<ReadError>) {
    let mut bytes = Vec::new();
    while let Some(piece) = stream.next().await {
        match piece {
            Ok(piece) => bytes.extend_from_slice(&piece),
            Err(error) => return (bytes, Some(error)),
        }
    }
    (bytes, None)
}

async fn read(plan: &ObjectPlan, range: Option<Range<u64>>) -> Vec<u8> {
    let (bytes, error) = drain(plan.stream(range).unwrap()).await;
    assert_eq!(error, None);
    bytes
}

fn block_on(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(test);
}

fn compress(compression: Compression, contents: &[u8]) -> Vec<u8> {
    match compression {
        Compression::None => contents.to_vec(),
        Compression::Xz => liblzma::encode_all(contents, 1).unwrap(),
        Compression::Bzip2 => {
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            encoder.write_all(contents).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Zstd => zstd::encode_all(contents, 3).unwrap(),
    }
}

/// A verbatim record and its published file.
fn verbatim(seed: u8, nar: &[u8], compression: Compression) -> (NewRecord, Vec<u8>) {
    let file = compress(compression, nar);
    let mut info = info(seed, nar, Vec::new());
    info.compression = compression;
    info.file_size = Some(file.len() as u64);
    info.file_hash = Some(Sha256::of(&file));
    (NewRecord::store_path(info, Encoding::Verbatim), file)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn ranges_are_slices_of_the_whole(
        pieces in prop::collection::vec((0u8..4, 0usize..200_000), 0..5),
        cuts in prop::collection::vec(any::<(u64, u64)>(), 6),
        is_log in any::<bool>(),
    ) {
        let object: Vec<u8> = pieces.iter().flat_map(|(seed, bytes)| noise(*bytes, *seed)).collect();
        let record = if is_log { log_record(1, &object) } else { nar_record(1, &object) };
        let other = noise(250_000, 2);
        let packed = pack(&[(nar_record(2, &other), other.clone()), (record, object.clone())]);
        block_on(async {
            let reader = objects(MemoryReader::of(std::slice::from_ref(&packed)), inline());
            let plan = open(&reader, &packed, 1).await;
            let bytes = object.len() as u64;
            assert_eq!(plan.bytes(), bytes);
            assert!(read(&plan, None).await == object);
            for (start, length) in cuts {
                let start = start % (bytes + 1);
                let end = start + length % (bytes - start + 1);
                let expected = &object[usize::try_from(start).unwrap()..usize::try_from(end).unwrap()];
                assert!(read(&plan, Some(start..end)).await == expected, "{start}..{end}");
            }
            assert!(plan.stream(Some(0..bytes + 1)).is_err());
        });
    }
}

#[test]
fn verbatim_objects_give_their_file_and_their_nar() {
    let nar: Vec<u8> =
        (0..200_000u32).flat_map(|number| (number / 5).to_le_bytes()).chain(noise(100_000, 1)).collect();
    for compression in Compression::ALL {
        let (record, file) = verbatim(3, &nar, compression);
        let packed = pack(&[(record, file.clone())]);
        for environment in [inline(), Environment::real()] {
            block_on(async {
                let reader = objects(MemoryReader::of(std::slice::from_ref(&packed)), environment);
                let plan = open(&reader, &packed, 0).await;
                assert_eq!(plan.bytes(), nar.len() as u64);
                assert_eq!((plan.file_bytes(), plan.file_compression()), (file.len() as u64, compression));
                assert!(read(&plan, None).await == nar, "{compression}");
                assert!(drain(plan.stream_file(None).unwrap()).await == (file.clone(), None));
                assert!(read(&plan, Some(700_000..850_001)).await == nar[700_000..850_001]);
                let part = drain(plan.stream_file(Some(5..90)).unwrap()).await;
                assert_eq!(part, (file[5..90].to_vec(), None));
            });
        }
    }
}

#[test]
fn a_wrong_chunk_is_an_error_and_not_bytes() {
    let nar = noise(900_000, 1);
    let packed = pack(&[(nar_record(1, &nar), nar.clone())]);
    let mut payload = packed.payload.clone();
    payload[500_000] ^= 1;
    block_on(async {
        let payloads = MemoryReader::with_payload(&packed, payload);
        let reader = objects(Arc::clone(&payloads) as _, inline());
        let plan = open(&reader, &packed, 0).await;
        let (bytes, error) = drain(plan.stream(None).unwrap()).await;
        assert!(matches!(error, Some(ReadError::Damaged { .. })), "{error:?}");
        let doubted = payloads.doubted.lock().unwrap().clone();
        assert!(
            doubted.iter().any(|(_, range)| range.contains(&500_000)),
            "it is not remembered: {doubted:?}"
        );
        assert!(bytes.len() < 500_000 && bytes == nar[..bytes.len()]);
        let (bytes, error) = drain(plan.stream(Some(499_990..500_010)).unwrap()).await;
        assert!(bytes.is_empty() && error.is_some());
        assert!(read(&plan, Some(0..1000)).await == nar[..1000], "what is whole is served");
    });
}

#[test]
fn a_nar_of_another_hash_never_ends_cleanly() {
    let nar = noise(500_000, 1);
    let mut wrong = info(1, &nar, Vec::new());
    wrong.nar_hash = Sha256::of(b"another");
    let packed = pack(&[(NewRecord::store_path(wrong, Encoding::Chunked), nar.clone())]);
    block_on(async {
        let reader = objects(MemoryReader::of(std::slice::from_ref(&packed)), inline());
        let (bytes, error) = drain(open(&reader, &packed, 0).await.stream(None).unwrap()).await;
        assert!(matches!(error, Some(ReadError::WrongObject { .. })), "{error:?}");
        assert!(bytes.len() < nar.len());
    });
}

/// A bundle that turns into another one of the same name.
#[derive(Debug)]
struct Turncoat {
    before: Arc<MemoryReader>,
    after: Packed,
    turned: AtomicBool,
}

impl PayloadReader for Turncoat {
    fn content(&self, bundle: BundleId) -> BoxFuture<'_, Result<Arc<ContentHeader>, ReadError>> {
        if self.turned.load(Ordering::Relaxed) {
            return ready(Ok(Arc::new(self.after.content.clone()))).boxed();
        }
        self.before.content(bundle)
    }

    fn read(&self, bundle: BundleId, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ReadError>> {
        if self.turned.load(Ordering::Relaxed) {
            let place = |offset: u64| usize::try_from(offset).unwrap();
            let payload = &self.after.payload[place(range.start)..place(range.end)];
            return ready(Ok(Bytes::copy_from_slice(payload))).boxed();
        }
        self.before.read(bundle, range)
    }
}

#[test]
fn a_nar_that_was_right_once_is_refused_when_it_is_made_of_other_chunks() {
    let (nar, other) = (noise(5_000, 1), noise(5_000, 2));
    let right = pack(&[(nar_record(1, &nar), nar.clone())]);
    let wrong = pack(&[(nar_record(1, &nar), other)]);
    block_on(async {
        let before = MemoryReader::of(std::slice::from_ref(&right));
        let payloads = Arc::new(Turncoat { before, after: wrong, turned: AtomicBool::new(false) });
        let nothing = ManifestOptions { heads_bytes: 0, blocks_bytes: 0, tables_bytes: 0 };
        let manifests = ManifestReader::new(Arc::clone(&payloads) as _, nothing);
        let options = ObjectOptions { frame_cache_bytes: 0, ..ObjectOptions::default() };
        let reader = ObjectReader::new(manifests, inline(), options);
        for _ in 0..2 {
            assert!(read(&open(&reader, &right, 0).await, None).await == nar);
        }
        payloads.turned.store(true, Ordering::Relaxed);
        for reason in ["its chunks are others", "its hash is"] {
            let (bytes, error) = drain(open(&reader, &right, 0).await.stream(None).unwrap()).await;
            let error = error.unwrap().to_string();
            assert!(bytes.is_empty() && error.contains(reason), "{error}");
        }
        payloads.turned.store(false, Ordering::Relaxed);
        assert!(read(&open(&reader, &right, 0).await, None).await == nar);
    });
}

#[test]
fn objects_in_frames_of_lzma_are_read_whole_and_in_part_and_damage_is_noticed() {
    let nar: Vec<u8> = (0..400_000_u32).flat_map(u32::to_le_bytes).collect();
    let options =
        BuilderOptions { frame_raw_bytes: 300_000, ..BuilderOptions::with(FrameCompression::Lzma(6)) };
    let packed = pack_with(BundleBuilder::new(options), &[(nar_record(1, &nar), nar.clone())]);
    let frames = usize::try_from(packed.content.manifest_extent().start).unwrap();
    assert!(frames < nar.len() / 2, "{frames} bytes");
    block_on(async {
        let reader = objects(MemoryReader::of(std::slice::from_ref(&packed)), inline());
        let plan = open(&reader, &packed, 0).await;
        assert!(read(&plan, None).await == nar);
        assert!(read(&plan, Some(299_990..600_010)).await == nar[299_990..600_010]);
        for place in [0, frames / 2] {
            let mut payload = packed.payload.clone();
            payload[place] ^= 0x10;
            let reader = objects(MemoryReader::with_payload(&packed, payload), inline());
            let (bytes, error) = drain(open(&reader, &packed, 0).await.stream(None).unwrap()).await;
            assert!(nar.starts_with(&bytes) && bytes.len() < nar.len(), "{place}");
            assert!(matches!(error, Some(ReadError::Damaged { .. })), "{place}: {error:?}");
        }
    });
}

/// `object` under the record of `nar`, in chunks of 1000 bytes, twenty to a frame.
fn pack_many_chunks(nar: &[u8], object: &[u8]) -> Packed {
    let options = BuilderOptions {
        frame_raw_bytes: 20_000,
        frame_compression: FrameCompression::Zstd(1),
        ..BuilderOptions::default()
    };
    let (mut builder, mut payload) = (BundleBuilder::new(options), Vec::new());
    builder.begin_object();
    for chunk in object.chunks(1000) {
        builder.push_chunk(chunk).unwrap();
    }
    builder.finish_object(nar_record(1, nar)).unwrap();
    let sealed = builder.seal(&mut payload).unwrap();
    Packed { content: sealed.content, payload, positions: sealed.positions }
}

#[test]
fn readings_that_began_together_rely_on_the_first_that_was_right_and_not_for_other_chunks() {
    let start = noise(400_000, 1);
    let nar = [start.clone(), noise(400_000, 2)].concat();
    let right = pack_many_chunks(&nar, &nar);
    let wrong = pack_many_chunks(&nar, &[start, noise(400_000, 3)].concat());
    block_on(async {
        let before = MemoryReader::of(std::slice::from_ref(&right));
        let payloads = Arc::new(Turncoat { before, after: wrong, turned: AtomicBool::new(false) });
        let nothing = ManifestOptions { heads_bytes: 0, blocks_bytes: 0, tables_bytes: 0 };
        let manifests = ManifestReader::new(Arc::clone(&payloads) as _, nothing);
        // Each reads on only when its pieces are taken.
        let options = ObjectOptions { bytes_ahead: 0, all_bytes_ahead: 0, frame_cache_bytes: 0 };
        let reader = ObjectReader::new(manifests, inline(), options);
        let mut readings = Vec::new();
        for _ in 0..3 {
            let mut stream = open(&reader, &right, 0).await.stream(None).unwrap();
            let piece = stream.next().await.unwrap().unwrap();
            assert!(piece.len() < 100_000 && piece == nar[..piece.len()]);
            readings.push((piece.len(), stream));
        }
        let (begun, first) = readings.remove(0);
        assert!(drain(first).await == (nar[begun..].to_vec(), None));
        let (begun, good) = readings.remove(0);
        assert!(drain(good).await == (nar[begun..].to_vec(), None));
        payloads.turned.store(true, Ordering::Relaxed);
        let (begun, turned) = readings.remove(0);
        let (bytes, error) = drain(turned).await;
        // Had it been hashed itself, its hash would be what is wrong.
        let error = error.map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("its chunks are others"), "{error}");
        assert!(begun + bytes.len() < nar.len());
    });
}

#[test]
fn a_small_nar_of_another_hash_gives_no_byte() {
    let (mut record, file) = verbatim(1, b"a few bytes", Compression::Zstd);
    if let firn_bundle::RecordBody::StorePath(info) = &mut record.body {
        info.nar_hash = Sha256::of(b"another");
    }
    let chunked = NewRecord::store_path(
        firn_nix_format::PathInfo { nar_hash: Sha256::of(b"another"), ..info(2, b"some bytes", Vec::new()) },
        Encoding::Chunked,
    );
    let packed = pack(&[(record, file), (chunked, b"some bytes".to_vec())]);
    block_on(async {
        let reader = objects(MemoryReader::of(std::slice::from_ref(&packed)), inline());
        for number in 0..2 {
            let plan = open(&reader, &packed, number).await;
            let (bytes, error) = drain(plan.stream(None).unwrap()).await;
            assert!(bytes.is_empty() && matches!(error, Some(ReadError::WrongObject { .. })));
        }
    });
}

#[test]
fn a_verbatim_file_that_is_longer_or_no_file_is_an_error() {
    let nar = noise(100_000, 1);
    let (mut longer, longer_file) = verbatim(1, &nar, Compression::Xz);
    if let firn_bundle::RecordBody::StorePath(info) = &mut longer.body {
        info.nar_size = 50_000;
    }
    let garbage = noise(3000, 2);
    let mut no_file = info(2, &nar, Vec::new());
    no_file.file_size = Some(3000);
    let (mut other_file, file) = verbatim(3, &nar, Compression::Bzip2);
    if let firn_bundle::RecordBody::StorePath(info) = &mut other_file.body {
        info.file_hash = Some(Sha256::of(b"another"));
    }
    let packed = pack(&[
        (longer, longer_file),
        (NewRecord::store_path(no_file, Encoding::Verbatim), garbage),
        (other_file, file),
    ]);
    block_on(async {
        let reader = objects(MemoryReader::of(std::slice::from_ref(&packed)), inline());
        for number in 0..3 {
            let plan = open(&reader, &packed, number).await;
            let (bytes, error) = drain(plan.stream(None).unwrap()).await;
            assert!(matches!(error, Some(ReadError::WrongObject { .. })), "{number}: {error:?}");
            assert!(bytes.len() <= 100_000);
        }
        let plan = open(&reader, &packed, 2).await;
        assert!(drain(plan.stream_file(None).unwrap()).await.1.is_some());
    });
}

#[test]
fn hash_parts_are_restored_in_wholes_and_ranges() {
    for distance in [777, 9_000, 40_000] {
        let reference = path(4, "reference");
        let own = path(3, "package-3");
        let mut packed_object = noise(300_000, 5);
        let mut nar = packed_object.clone();
        let mut patches = Vec::new();
        for offset in (100..290_000).step_by(distance) {
            let number = u32::try_from(patches.len() % 2).unwrap();
            let part = if number == 0 { own.hash_part() } else { reference.hash_part() };
            packed_object[offset..offset + 32].copy_from_slice(&PATCH_PLACEHOLDER);
            nar[offset..offset + 32].copy_from_slice(part.as_bytes());
            patches.push(Patch { offset: offset as u64, reference: number });
        }
        let mut record = NewRecord::store_path(info(3, &nar, vec![reference]), Encoding::Chunked);
        record.patches = patches;
        let packed = pack(&[(record, packed_object)]);
        block_on(async {
            let memory = MemoryReader::of(std::slice::from_ref(&packed));
            let reader = objects(Arc::clone(&memory) as _, inline());
            let plan = open(&reader, &packed, 0).await;
            assert!(read(&plan, None).await == nar);
            let bytes_read = memory.bytes_read();
            assert!(read(&plan, None).await == nar);
            assert_eq!(memory.bytes_read(), bytes_read, "the second time its frames are in memory");
            for start in (0..290_000u64).step_by(13_131) {
                let end = start + 5000;
                let expected = &nar[usize::try_from(start).unwrap()..usize::try_from(end).unwrap()];
                assert!(read(&plan, Some(start..end)).await == expected);
            }
        });
    }
}

#[test]
fn chunks_of_an_earlier_bundle_are_found_there() {
    let shared = noise(400_000, 1);
    let earlier = pack(&[(nar_record(1, &shared), shared.clone())]);
    let mut builder = builder();
    for (number, chunk) in (0..).zip(chunks(&shared)) {
        let hash = firn_base::Digest::from_bytes(*blake3::hash(&chunk).as_bytes());
        let length = u32::try_from(chunk.len()).unwrap();
        builder.offer_foreign_chunk(earlier.id(), PartChunk { number, length, hash });
    }
    let nar = [noise(1000, 2), shared.clone(), noise(100_000, 3)].concat();
    let later = pack_with(builder, &[(nar_record(2, &nar), nar.clone())]);
    assert_eq!(later.content.dependencies(), [earlier.id()]);
    block_on(async {
        let reader = objects(MemoryReader::of(&[earlier.clone(), later.clone()]), inline());
        let plan = open(&reader, &later, 0).await;
        assert!(read(&plan, None).await == nar);
        assert!(read(&plan, Some(350_000..450_000)).await == nar[350_000..450_000]);
        let alone = objects(MemoryReader::of(std::slice::from_ref(&later)), inline());
        let (_, error) = drain(open(&alone, &later, 0).await.stream(None).unwrap()).await;
        assert_eq!(error, Some(ReadError::UnknownBundle { bundle: earlier.id() }));
    });
}

#[test]
fn an_object_of_several_parts_is_read_through_its_head() {
    let options =
        BuilderOptions { payload_bytes_max: 400_000, frame_raw_bytes: 100_000, ..BuilderOptions::default() };
    let object = noise(1_000_000, 5);
    let (mut parts, mut bundles) = (Vec::new(), Vec::new());
    let mut builder = BundleBuilder::new(options);
    builder.begin_object();
    let mut seal = |builder: &mut BundleBuilder| {
        let full = std::mem::replace(builder, BundleBuilder::new(options));
        let mut payload = Vec::new();
        let (sealed, chunks) = full.seal_as_part(&mut payload).unwrap();
        parts.push(chunks);
        bundles.push(Packed { content: sealed.content, payload, positions: sealed.positions });
        builder.begin_object();
    };
    for chunk in chunks(&object) {
        if let Err(error) = builder.push_chunk(&chunk) {
            assert!(matches!(error, BuildError::Full), "{error}");
            seal(&mut builder);
            builder.push_chunk(&chunk).unwrap();
        }
    }
    seal(&mut builder);
    builder.finish_spanning_object(nar_record(5, &object), &parts).unwrap();
    let mut payload = Vec::new();
    let sealed = builder.seal(&mut payload).unwrap();
    let head = Packed { content: sealed.content, payload, positions: sealed.positions };
    bundles.push(head.clone());
    block_on(async {
        let reader = objects(MemoryReader::of(&bundles), inline());
        let plan = open(&reader, &head, 0).await;
        assert!(read(&plan, None).await == object);
        assert!(read(&plan, Some(380_000..820_000)).await == object[380_000..820_000]);
    });
}

#[test]
fn a_bundle_of_a_newer_program_is_told_from_a_damaged_one() {
    let nar = noise(10, 1);
    let packed = pack(&[(nar_record(1, &nar), nar)]);
    let manifest = usize::try_from(packed.content.manifest_extent().start).unwrap();
    block_on(async {
        // Behind eight bytes of magic is the version.
        for (place, value, is_new) in [(8, 200, true), (8, 0, false), (0, 0, false)] {
            let mut payload = packed.payload.clone();
            payload[manifest + place] = value;
            let reader = objects(MemoryReader::with_payload(&packed, payload), inline());
            let error = reader.manifests().head(packed.id()).await.unwrap_err();
            assert_eq!(matches!(error, ReadError::TooNew { .. }), is_new, "{error}");
            assert_eq!(matches!(error, ReadError::Damaged { .. }), !is_new, "{error}");
            assert_eq!(error.to_string().contains("made by a newer Firn, update"), is_new, "{error}");
            assert!(!error.is_temporary());
        }
    });
}

#[test]
fn a_record_of_another_key_is_refused() {
    let nar = noise(10, 1);
    let packed = pack(&[(nar_record(1, &nar), nar)]);
    block_on(async {
        let reader = objects(MemoryReader::of(std::slice::from_ref(&packed)), inline());
        let other = ObjectKey::store_path([9; 20]);
        for (block, entry) in [(0, 0), (0, 7), (3, 0)] {
            let found = reader.manifests().record(packed.id(), block, entry, &other).await;
            assert!(matches!(found, Err(ReadError::Damaged { .. })));
        }
    });
}

#[test]
fn no_damage_of_a_payload_panics_or_passes_for_the_object() {
    let nar = [noise(60_000, 1), vec![0; 60_000]].concat();
    let packed = pack(&[(nar_record(1, &nar), nar.clone())]);
    let bytes = packed.payload.len();
    block_on(async {
        for place in (0..bytes).step_by(211).chain(bytes - 400..bytes) {
            let mut payload = packed.payload.clone();
            payload[place] ^= 0x10;
            let reader = objects(MemoryReader::with_payload(&packed, payload), inline());
            let key = packed.positions[0].key;
            let Ok(record) = reader.manifests().record(packed.id(), 0, 0, &key).await else { continue };
            let Ok(plan) = reader.open(packed.id(), record).await else { continue };
            if let (bytes, None) = drain(plan.stream(None).unwrap()).await {
                // A record may now promise another NAR; what is delivered is what it promises.
                let info = plan.record().path_info().unwrap();
                assert_eq!(Sha256::of(&bytes), info.nar_hash);
            }
        }
    });
}
