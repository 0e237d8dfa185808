//! Whole bundles: what is packed is restored, and no damage makes the parsers panic.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../common/mod.rs"]
mod common;
mod slices;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use common::{builder, chunks, info, log, noise, pack, path, reader, records, restore, with_manifest};
use firn_base::{BundleId, Digest, ObjectKey};
use firn_bundle::{
    Block, BlockDirectory, BuildError, BuilderOptions, BundleBuilder, BundleReader, BundleRole, ChunkEntry,
    ChunkList, ChunkRef, Codec, Encoding, FRAMES_KEPT_BYTES, ForeignChunk, FrameCompression, FrameEntry,
    MANIFEST_FIRST_READ_BYTES, Manifest, ManifestError, ManifestHeader, NewRecord, ObjectSize,
    PATCH_PLACEHOLDER, PartChunk, Patch, PushedChunk, ReadAt, RecipeNumber, compress_frame, decompress_frame,
};
use proptest::prelude::*;

/// What an object takes of an empty bundle, however badly it compresses.
fn size_of(object: &[u8]) -> ObjectSize {
    let chunks = chunks(object);
    let new: BTreeSet<&Vec<u8>> = chunks.iter().collect();
    let new_bytes = new.iter().map(|chunk| chunk.len() as u64).sum();
    let new_chunks = new.len() as u64;
    let chunks = chunks.len() as u64;
    ObjectSize { chunks, new_chunks, new_bytes, packed_bytes: new_bytes, foreign_chunks: 0 }
}

/// An object made of pieces that other objects share.
fn object(pieces: &[(u8, usize)]) -> Vec<u8> {
    pieces.iter().flat_map(|(seed, bytes)| noise(*bytes, *seed)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn every_object_is_restored_as_it_was(
        objects in prop::collection::vec(
            (prop::collection::vec((0u8..4, 0usize..150_000), 0..4), any::<bool>()), 1..12),
    ) {
        let objects: Vec<(NewRecord, Vec<u8>)> = (0u8..).zip(objects).map(|(seed, (pieces, is_log))| {
            let object = object(&pieces);
            let references = (0..seed % 5).map(|other| path(other, "reference")).collect();
            let record = match is_log {
                true => log(seed, &object),
                false => NewRecord::store_path(info(seed, &object, references), Encoding::Chunked),
            };
            (record, object)
        }).collect();
        let (sealed, payload) = pack(&objects);
        let mut reader = reader(&sealed.content, &payload);
        let found = records(&reader);
        prop_assert_eq!(found.len(), objects.len());
        for ((record, (new, object)), position) in found.iter().zip(&objects).zip(&sealed.positions) {
            prop_assert_eq!(&record.body, &new.body);
            prop_assert_eq!(position.key, record.key);
            let located = reader.manifest().record(position.block, position.entry).unwrap();
            prop_assert_eq!(&located, record);
            prop_assert_eq!(&restore(&mut reader, record, &mut BTreeMap::new()), object);
        }
        // Equal input, equal bytes.
        prop_assert_eq!(pack(&objects), (sealed, payload));
    }

    #[test]
    fn of_an_object_that_is_taken_back_nothing_is_left(
        objects in prop::collection::vec(
            (prop::collection::vec((0u8..4, 0usize..150_000), 0..4), any::<bool>(), 0usize..5), 1..16),
        offered in prop::collection::vec((0u8..4, 0usize..150_000), 0..3),
    ) {
        let earlier = chunks(&object(&offered));
        let begin = || {
            let mut builder = builder();
            for (number, chunk) in (0..).zip(&earlier) {
                let hash = Digest::from_bytes(*blake3::hash(chunk).as_bytes());
                let length = u32::try_from(chunk.len()).unwrap();
                let bundle = BundleId::from_bytes([u8::try_from(number).unwrap(); 32]);
                builder.offer_foreign_chunk(bundle, PartChunk { number, length, hash });
            }
            builder
        };
        let (mut all, mut all_payload) = (begin(), Vec::new());
        let (mut kept, mut kept_payload) = (begin(), Vec::new());
        // Frames may be on their way when an object is begun, and are given back before one is taken back.
        let mut on_their_way = VecDeque::new();
        let mut give_back = |all: &mut BundleBuilder, spool: &mut Vec<u8>, left: usize| {
            while let Some(frame) = all.take_frame() {
                on_their_way.push_back(compress_frame(frame, FrameCompression::Zstd(3)).unwrap());
            }
            while on_their_way.len() > left {
                all.append_frame(&on_their_way.pop_front().unwrap(), spool).unwrap();
            }
        };
        let mut names = Vec::new();
        for (seed, (pieces, is_kept, left)) in (0u8..).zip(objects) {
            let object = object(&pieces);
            all.begin_object();
            for chunk in chunks(&object) {
                all.push_chunk(&chunk).unwrap();
                give_back(&mut all, &mut all_payload, left);
            }
            if is_kept {
                all.finish_object(log(seed, &object)).unwrap();
                kept.begin_object();
                for chunk in chunks(&object) {
                    kept.push_chunk(&chunk).unwrap();
                }
                kept.finish_object(log(seed, &object)).unwrap();
                kept.append_pending(&mut kept_payload).unwrap();
                names.push(seed);
            } else {
                give_back(&mut all, &mut all_payload, 0);
                all_payload.truncate(usize::try_from(all.abandon_object()).unwrap());
            }
        }
        if !names.is_empty() {
            give_back(&mut all, &mut all_payload, 0);
            let sealed = kept.seal(&mut kept_payload).unwrap();
            prop_assert_eq!(all.seal(&mut all_payload).unwrap(), sealed.clone());
            prop_assert!(all_payload == kept_payload);
            let manifest = Manifest::parse_whole(&sealed.content, sealed.manifest.clone()).unwrap();
            prop_assert_eq!(unnamed_chunks(&manifest), 0);
        }
    }

    #[test]
    fn no_damage_of_a_manifest_panics(
        place in any::<prop::sample::Index>(), value in any::<u8>(), cut in any::<prop::sample::Index>(),
    ) {
        let (sealed, payload) = small_bundle();
        let mut damaged = sealed.manifest.clone();
        let place = place.index(damaged.len());
        damaged[place] = value;
        if let Some(content) = with_manifest(&sealed.content, &damaged)
            && let Ok(manifest) = Manifest::parse_whole(&content, damaged.clone())
        {
            for located in manifest.records() {
                let record = located.unwrap().record;
                let mut reader = firn_bundle::BundleReader::new(manifest.clone(), payload.as_slice());
                let _ = reader.restore(&record, |_| unreachable!("no dependencies"), |_| Ok(()));
            }
        }
        damaged.truncate(cut.index(damaged.len()));
        if let Some(content) = with_manifest(&sealed.content, &damaged) {
            prop_assert!(Manifest::parse_whole(&content, damaged).is_err());
        }
    }
}

/// How many chunks, of its own and of others, no record names.
fn unnamed_chunks(manifest: &Manifest) -> usize {
    let mut named = BTreeSet::new();
    for located in manifest.records() {
        let list = manifest.chunk_list(&located.unwrap().record).unwrap();
        named.extend(list.chunks().map(|chunk| format!("{chunk:?}")));
    }
    let header = manifest.header();
    header.chunk_count() as usize + header.foreign_count() as usize - named.len()
}

fn small_bundle() -> (firn_bundle::SealedBundle, Vec<u8>) {
    let (first, second) = (noise(120_000, 1), [noise(40_000, 2), vec![0; 300_000]].concat());
    let references = vec![path(1, "package-1"), path(9, "elsewhere")];
    pack(&[
        (NewRecord::store_path(info(1, &first, vec![]), Encoding::Chunked), first),
        (NewRecord::store_path(info(2, &second, references), Encoding::Chunked), second),
        (log(3, b"it was built"), b"it was built".to_vec()),
    ])
}

#[test]
fn every_flipped_bit_of_the_tables_is_refused_or_harmless() {
    let (sealed, _) = small_bundle();
    for position in 0..sealed.manifest.len() {
        for bit in 0..8 {
            let mut damaged = sealed.manifest.clone();
            damaged[position] ^= 1 << bit;
            let content = with_manifest(&sealed.content, &damaged).unwrap();
            let _ = Manifest::parse_whole(&content, damaged);
        }
    }
}

#[test]
fn equal_chunks_are_stored_once() {
    let shared = noise(400_000, 7);
    let objects: Vec<_> = (1..4)
        .map(|seed| {
            let object = [noise(1000, seed), shared.clone()].concat();
            (NewRecord::store_path(info(seed, &object, vec![]), Encoding::Chunked), object)
        })
        .collect();
    let (sealed, payload) = pack(&objects);
    assert!(payload.len() < 800_000, "{} bytes", payload.len());
    assert_eq!(sealed.content.role(), BundleRole::Ordinary);
}

#[test]
fn a_reader_by_pieces_fetches_only_what_it_needs() {
    let (sealed, payload) = small_bundle();
    let base = usize::try_from(sealed.content.manifest_extent().start).unwrap();
    let fetch = |extent: std::ops::Range<u64>| {
        let at = |offset: u64| base + usize::try_from(offset).unwrap();
        &payload[at(extent.start)..at(extent.end)]
    };
    let manifest_bytes = sealed.content.manifest_bytes();
    let first_read = fetch(0..manifest_bytes.min(MANIFEST_FIRST_READ_BYTES));
    let header = ManifestHeader::parse(first_read, manifest_bytes).unwrap();
    let directory = BlockDirectory::parse(fetch(header.directory_extent()), &header).unwrap();
    let position = sealed.positions[1];
    let block = directory.entry(position.block).unwrap();
    let block = Block::parse(fetch(block.extent.clone()), block).unwrap();
    let record = block.record(position.entry).unwrap();
    let list = ChunkList::parse(fetch(header.chunk_list_extent(record).unwrap()), 1, &header).unwrap();
    let mut object = Vec::new();
    for chunk in list.chunks() {
        let ChunkRef::Own(number) = chunk else { panic!("no dependencies") };
        let extent = header.chunk_entries_extent(&(number..number + 1)).unwrap();
        let chunk = ChunkEntry::parse_table(fetch(extent), number, &header).unwrap()[0];
        let extent = header.frame_entries_extent(&(chunk.frame..chunk.frame + 1)).unwrap();
        let frames_end = sealed.content.manifest_extent().start;
        let frame = FrameEntry::parse_table(fetch(extent), chunk.frame, &header, frames_end).unwrap()[0];
        let place = frame.payload_extent();
        let stored = &payload[usize::try_from(place.start).unwrap()..usize::try_from(place.end).unwrap()];
        object.extend_from_slice(chunk.cut(&decompress_frame(stored, &frame).unwrap()).unwrap());
    }
    assert_eq!(object, [noise(40_000, 2), vec![0; 300_000]].concat());
}

#[test]
fn an_object_too_large_for_one_bundle_becomes_parts_and_a_head() {
    let options =
        BuilderOptions { payload_bytes_max: 400_000, frame_raw_bytes: 100_000, ..BuilderOptions::default() };
    let object = noise(1_000_000, 5);
    let record = NewRecord::store_path(info(5, &object, vec![]), Encoding::Chunked);
    assert!(BundleBuilder::new(options).would_exceed(&size_of(&object), &record));
    let mut parts = Vec::new();
    let mut payloads = Vec::new();
    let mut builder = BundleBuilder::new(options);
    builder.begin_object();
    let mut seal = |builder: &mut BundleBuilder| {
        let full = std::mem::replace(builder, BundleBuilder::new(options));
        let mut payload = Vec::new();
        let (sealed, chunks) = full.seal_as_part(&mut payload).unwrap();
        parts.push(chunks);
        payloads.push((sealed, payload));
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
    builder.finish_spanning_object(record, &parts).unwrap();
    let mut payload = Vec::new();
    let head = builder.seal(&mut payload).unwrap();
    assert_eq!(head.content.role(), BundleRole::Head);
    assert!(parts.len() >= 3, "{} parts", parts.len());

    let mut others: BTreeMap<_, _> = payloads
        .iter()
        .map(|(part, payload)| {
            assert!(payload.len() <= 400_000);
            (part.content.bundle_id(), reader(&part.content, payload))
        })
        .collect();
    let mut head_reader = reader(&head.content, &payload);
    for (number, dependency) in (0..).zip(head.content.dependencies()) {
        head_reader.manifest().check_dependency(number, others[dependency].manifest()).unwrap();
        let wrong = head_reader.manifest().check_dependency(number, head_reader.manifest());
        assert!(wrong.is_err());
    }
    let record = records(&head_reader).remove(0);
    assert!(restore(&mut head_reader, &record, &mut others) == object);
}

#[test]
fn a_chunk_of_an_earlier_bundle_is_named_and_not_stored_again() {
    let shared = noise(200_000, 1);
    let (earlier, earlier_payload) = pack(&[(log(1, &shared), shared.clone())]);
    let earlier_id = earlier.content.bundle_id();
    let mut others = BTreeMap::from([(earlier_id, reader(&earlier.content, &earlier_payload))]);

    let mut builder = builder();
    for (number, chunk) in (0..).zip(others[&earlier_id].manifest().chunks()) {
        let offer = PartChunk { number, length: chunk.length, hash: chunk.hash };
        builder.offer_foreign_chunk(earlier_id, offer);
    }
    let object = [shared, noise(10, 2)].concat();
    builder.begin_object();
    let pushed: Vec<_> = chunks(&object).iter().map(|chunk| builder.push_chunk(chunk).unwrap()).collect();
    assert_eq!(pushed.first(), Some(&PushedChunk::Foreign));
    assert_eq!(pushed.last(), Some(&PushedChunk::Stored));
    builder.finish_object(log(2, &object)).unwrap();
    let mut payload = Vec::new();
    let sealed = builder.seal(&mut payload).unwrap();
    assert_eq!(sealed.content.dependencies(), [earlier_id]);
    let mut reader = reader(&sealed.content, &payload);
    let record = records(&reader).remove(0);
    assert!(restore(&mut reader, &record, &mut others) == object);
}

#[test]
fn patched_hash_parts_are_restored() {
    let reference = path(4, "reference");
    let packed = [b"begin ".as_slice(), &PATCH_PLACEHOLDER, b" and ", &PATCH_PLACEHOLDER, b" end"].concat();
    let mut record = NewRecord::store_path(info(3, &packed, vec![reference.clone()]), Encoding::Chunked);
    let own = path(3, "package-3");
    record.patches = vec![Patch { offset: 6, reference: 1 }, Patch { offset: 43, reference: 0 }];
    let (sealed, payload) = pack(&[(record.clone(), packed.clone())]);
    let mut reader = reader(&sealed.content, &payload);
    let found = records(&reader).remove(0);
    let text = String::from_utf8(restore(&mut reader, &found, &mut BTreeMap::new())).unwrap();
    assert_eq!(text, format!("begin {} and {} end", reference.hash_part(), own.hash_part()));

    record.patches[1].reference = 2;
    let mut builder = builder();
    builder.begin_object();
    builder.push_chunk(&packed).unwrap();
    assert!(matches!(builder.finish_object(record), Err(BuildError::Patches)));
}

#[test]
fn patches_count_when_it_is_asked_whether_an_object_fits() {
    // Nothing but placeholders, so that the patches are more than what is left of the content.
    let object = PATCH_PLACEHOLDER.repeat(20_000);
    let size = size_of(&object);
    let references = (0..200).map(|seed| path(seed, "reference")).collect();
    let mut record = NewRecord::store_path(info(3, &object, references), Encoding::Chunked);
    let options = |payload_bytes_max| BuilderOptions { payload_bytes_max, ..BuilderOptions::default() };
    let fits = |bound, record: &NewRecord| !BundleBuilder::new(options(bound)).would_exceed(&size, record);
    let mut bound = size.new_bytes;
    while !fits(bound, &record) {
        bound += 1000;
    }
    record.patches = (0..20_000).map(|number| Patch { offset: 32 * number, reference: 200 }).collect();
    assert!(!fits(bound, &record));

    // Where it is found to fit, it does.
    while !fits(bound, &record) {
        bound += 1000;
    }
    let mut builder = BundleBuilder::new(options(bound));
    builder.begin_object();
    for chunk in chunks(&object) {
        builder.push_chunk(&chunk).unwrap();
    }
    builder.finish_object(record).unwrap();
}

#[test]
fn many_records_fill_many_blocks_and_keep_their_places() {
    let mut builder = builder();
    let mut positions = Vec::new();
    for number in 0..1000u32 {
        let mut hash = [0; 20];
        hash[..4].copy_from_slice(&number.to_le_bytes());
        let mut info = info(1, b"x", vec![path(2, "a"), path(3, "b")]);
        info.store_path = firn_nix_format::StorePath::from_parts(hash, "many").unwrap();
        builder.begin_object();
        builder.push_chunk(b"x").unwrap();
        positions.push(builder.finish_object(NewRecord::store_path(info, Encoding::Chunked)).unwrap());
    }
    let mut payload = Vec::new();
    let sealed = builder.seal(&mut payload).unwrap();
    assert_eq!(positions, sealed.positions);
    assert_eq!(positions.last().map(|last| last.block), Some(15));
    let reader = reader(&sealed.content, &payload);
    for position in positions {
        assert_eq!(reader.manifest().record(position.block, position.entry).unwrap().key, position.key);
    }
    assert!(reader.manifest().record(16, 0).is_err());
    assert!(reader.manifest().record(0, 64).is_err());
}

#[test]
fn a_record_that_contradicts_its_chunks_is_refused_and_the_object_stays_open() {
    let mut builder = builder();
    builder.begin_object();
    builder.push_chunk(b"four").unwrap();
    let wrong_size = NewRecord::store_path(info(1, b"three", vec![]), Encoding::Chunked);
    assert!(matches!(builder.finish_object(wrong_size), Err(BuildError::Contradiction(_))));
    let mut wrong_key = NewRecord::store_path(info(1, b"four", vec![]), Encoding::Chunked);
    wrong_key.key = ObjectKey::store_path([9; 20]);
    assert!(matches!(builder.finish_object(wrong_key), Err(BuildError::Contradiction(_))));
    let mut line_break = info(1, b"four", vec![]);
    line_break.ca = Some("a\nURL: elsewhere".to_owned());
    let line_break = NewRecord::store_path(line_break, Encoding::Chunked);
    assert!(matches!(builder.finish_object(line_break), Err(BuildError::RecordUnfit)));
    let mut large = info(1, b"four", vec![]);
    large.extra = vec![("Note".to_owned(), "x".repeat(1 << 20))];
    let large = NewRecord::store_path(large, Encoding::Chunked);
    assert!(matches!(builder.finish_object(large), Err(BuildError::RecordTooLarge)));
    let right = NewRecord::store_path(info(1, b"four", vec![]), Encoding::Chunked);
    assert!(builder.finish_object(right).is_ok());
}

#[test]
fn a_record_just_below_the_limit_lies_alone_in_its_block() {
    let mut large = info(2, b"x", vec![]);
    large.extra = vec![("Note".to_owned(), String::from_utf8(vec![b'x'; 1_000_000]).unwrap())];
    let objects: Vec<_> = [info(1, b"x", vec![]), large, info(3, b"x", vec![])]
        .map(|info| (NewRecord::store_path(info, Encoding::Chunked), b"x".to_vec()))
        .to_vec();
    let (sealed, payload) = pack(&objects);
    assert_eq!(sealed.positions.iter().map(|position| position.block).collect::<Vec<_>>(), [0, 1, 2]);
    let found = records(&reader(&sealed.content, &payload));
    assert_eq!(found[1].body, objects[1].0.body);
}

#[test]
fn a_verbatim_object_is_its_published_file() {
    let file = noise(3000, 1);
    let mut published = info(1, b"the NAR", vec![]);
    published.file_size = Some(3000);
    let record = NewRecord::store_path(published, Encoding::Verbatim);
    let (sealed, payload) = pack(&[(record, file.clone())]);
    let mut reader = reader(&sealed.content, &payload);
    let found = records(&reader).remove(0);
    assert_eq!((found.encoding, found.content_bytes), (Encoding::Verbatim, 3000));
    assert_eq!(restore(&mut reader, &found, &mut BTreeMap::new()), file);
}

#[test]
fn a_recipe_is_kept_also_if_only_a_newer_version_knows_it() {
    let objects = [0, 1, 2, 3, 255].map(|number: u8| {
        let nar = noise(1_000, number);
        let mut record = NewRecord::store_path(info(number, &nar, Vec::new()), Encoding::Chunked);
        record.recipe = RecipeNumber::from_byte(number);
        (record, nar)
    });
    let (sealed, payload) = pack(&objects);
    let reader = reader(&sealed.content, &payload);
    let kept: Vec<u8> = records(&reader).iter().map(|record| record.recipe.to_byte()).collect();
    assert_eq!(kept, [0, 1, 2, 3, 255]);
}

#[test]
fn frames_compressed_elsewhere_come_back_in_order() {
    let object = noise(1_000_000, 3);
    let mut builder = builder();
    builder.begin_object();
    for chunk in chunks(&object) {
        builder.push_chunk(&chunk).unwrap();
    }
    builder.finish_object(log(1, &object)).unwrap();
    builder.close_frame();
    let mut frames = Vec::new();
    while let Some(frame) = builder.take_frame() {
        frames.push(compress_frame(frame, FrameCompression::Zstd(3)).unwrap());
    }
    let mut payload = Vec::new();
    let out_of_order = builder.append_frame(&frames[1], &mut payload);
    assert!(matches!(out_of_order, Err(BuildError::FrameOrder { expected: 0, found: 1 })));
    for frame in &frames {
        builder.append_frame(frame, &mut payload).unwrap();
    }
    let bound = builder.payload_bytes_bound();
    let sealed = builder.seal(&mut payload).unwrap();
    assert!(sealed.content.payload_bytes() <= bound);
    assert_eq!((sealed, payload), pack(&[(log(1, &object), object)]));
}

/// The manifest of a frame of zeros, its version changed to another.
fn manifest_of(compression: FrameCompression, version: Option<u8>) -> Result<Manifest, ManifestError> {
    let mut builder = BundleBuilder::new(BuilderOptions::with(compression));
    builder.begin_object();
    builder.push_chunk(&[0; 1000]).unwrap();
    builder.finish_object(log(1, &[0; 1000])).unwrap();
    let sealed = builder.seal(&mut Vec::new()).unwrap();
    let mut manifest = sealed.manifest;
    manifest[8] = version.unwrap_or(manifest[8]);
    Manifest::parse_whole(&with_manifest(&sealed.content, &manifest).unwrap(), manifest)
}

#[test]
fn lzma_makes_a_manifest_of_version_2_which_older_programs_know_as_too_new() {
    let (zstd, lzma) = (FrameCompression::Zstd(3), FrameCompression::Lzma(6));
    for (compression, version, codec) in [(zstd, 1, Codec::Zstd), (lzma, 2, Codec::Lzma)] {
        let manifest = manifest_of(compression, None).unwrap();
        assert_eq!((manifest.bytes()[8..10].to_vec(), manifest.frames()[0].codec), (vec![version, 0], codec));
        assert_eq!(manifest.header().may_have_lzma(), version == 2);
    }
    assert_eq!(manifest_of(zstd, Some(2)).unwrap().frames()[0].codec, Codec::Zstd);
    let early = manifest_of(lzma, Some(1)).unwrap_err().to_string();
    assert!(early.contains("its codec came with a later version"), "{early}");
    let late = manifest_of(lzma, Some(3)).unwrap_err();
    assert_eq!(late, ManifestError::TooNew { found: 3, known: 2 });
    assert!(late.to_string().contains("update the program"));
}

/// Counts what is read of a payload.
struct Counted<'a> {
    payload: &'a [u8],
    reads: std::cell::Cell<u32>,
}

impl ReadAt for &Counted<'_> {
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> std::io::Result<usize> {
        self.reads.set(self.reads.get() + 1);
        self.payload.read_at(offset, bytes)
    }
}

#[test]
fn frames_that_take_turns_are_read_once_where_there_is_room_for_them() {
    let chunks: Vec<Vec<u8>> = (0..4).map(|seed| noise(90_000, seed)).collect();
    let mut builder = builder();
    let (mut object, mut payload) = (Vec::new(), Vec::new());
    builder.begin_object();
    for number in [0, 1, 2, 3, 0, 3, 1, 2, 0, 1, 0, 1] {
        builder.push_chunk(&chunks[number]).unwrap();
        object.extend_from_slice(&chunks[number]);
    }
    builder.finish_object(log(1, &object)).unwrap();
    let sealed = builder.seal(&mut payload).unwrap();
    let manifest = Manifest::parse_whole(&sealed.content, sealed.manifest).unwrap();
    assert_eq!(manifest.frames().len(), 4);
    for (frames_bytes_max, reads) in [(FRAMES_KEPT_BYTES, 4), (0, 12)] {
        let counted = Counted { payload: &payload, reads: std::cell::Cell::new(0) };
        let mut reader = BundleReader::new(manifest.clone(), &counted).keeping(frames_bytes_max);
        let record = reader.manifest().record(0, 0).unwrap();
        let mut restored = Vec::new();
        let nothing = |_: &ForeignChunk| panic!("no dependencies");
        let keep = |bytes: &[u8]| {
            restored.extend_from_slice(bytes);
            Ok(())
        };
        reader.restore(&record, nothing, keep).unwrap();
        assert_eq!((restored == object, counted.reads.get()), (true, reads));
    }
}

#[test]
fn a_bundle_with_frames_missing_is_not_sealed() {
    let mut builder = builder();
    builder.begin_object();
    builder.push_chunk(&noise(99_999, 1)).unwrap();
    builder.push_chunk(&noise(99_999, 2)).unwrap();
    builder.finish_object(log(1, &[noise(99_999, 1), noise(99_999, 2)].concat())).unwrap();
    assert!(builder.take_frame().is_some());
    let error = builder.seal(&mut Vec::new()).unwrap_err();
    assert!(matches!(error, BuildError::FramesMissing(1) | BuildError::FrameOrder { .. }), "{error}");
}
