//! The formats, byte for byte, as the first version wrote them.
//!
//! Headers, proofs and chunk borders must never change. Payloads hold zstd or LZMA, whose output differs between versions
//! of the compressors: what is pinned for them is that the old bytes are still read, and that today's packing means the
//! same. On a mismatch the test says where it wrote what it got instead.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::collections::BTreeMap;

use common::{chunks, info, log, noise, path, reader, records, restore};
use firn_base::{BundleId, ManifestRoot, PayloadRoot, ShardIndex, ShardRoot};
use firn_bundle::{
    BuilderOptions, BundleBuilder, BundleReader, BundleRole, Codec, CodingHeader, ContentHeader, Encoding,
    FrameCompression, NewRecord, PATCH_PLACEHOLDER, ParsedShardFileHeader, Patch, SealedBundle,
    ShardFileHeader, ShardTree, decode_range_exact, encode_range, shard_file_trailer,
};

macro_rules! golden {
    ($name:literal) => {
        ($name, include_bytes!(concat!("golden/", $name)).as_slice())
    };
}

#[expect(clippy::disallowed_methods, reason = "a test tells where to look")]
fn check((name, golden): (&str, &[u8]), actual: &[u8]) {
    if golden != actual {
        let place = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::write(&place, actual).unwrap();
        panic!("{name} is not what this program makes; that is now in {}", place.display());
    }
}

fn content_header() -> ContentHeader {
    ContentHeader::new(
        BundleRole::Ordinary,
        (100_000, PayloadRoot::from_bytes([0x11; 32])),
        (5_000, ManifestRoot::from_bytes([0x22; 32])),
        vec![BundleId::from_bytes([0x33; 32]), BundleId::from_bytes([0x44; 32])],
    )
    .unwrap()
}

fn shard() -> Vec<u8> {
    noise(64 << 10, 77)
}

/// The second of the four data shards is the one whose bytes are known.
fn coding_header() -> CodingHeader {
    let mut roots: Vec<_> = (0..12).map(|index| ShardRoot::from_bytes([index; 32])).collect();
    roots[1] = ShardTree::of(&shard()).root;
    CodingHeader::new(content_header().bundle_id(), 4, 64 << 10, roots).unwrap()
}

#[test]
fn content_header_and_bundle_id() {
    let header = content_header();
    check(golden!("content-header.bin"), &header.to_bytes());
    assert_eq!(ContentHeader::parse(golden!("content-header.bin").1), Ok(header.clone()));
    assert_eq!(
        header.bundle_id().to_string(),
        "9822512a01d722589ce0f71ba8fb205ea38bc626595b0e18aef5db65e237163b"
    );
}

#[test]
fn coding_header_and_coding_id() {
    let header = coding_header();
    check(golden!("coding-header.bin"), &header.to_bytes());
    assert_eq!(CodingHeader::parse(golden!("coding-header.bin").1), Ok(header.clone()));
    assert_eq!(
        header.coding_id().to_string(),
        "d9ea2e50e101ac8f768310687f8ae8490fc446e676592f26d495ed02948805d6"
    );
}

#[test]
fn shard_file_but_for_the_shard() {
    let header = ShardFileHeader::new(content_header(), coding_header(), ShardIndex(1)).unwrap();
    let tree = ShardTree::of(&shard());
    assert_eq!(tree.root, header.root());
    let front = header.to_bytes();
    let end = [tree.outboard.as_slice(), &shard_file_trailer(&front, &tree.outboard)].concat();
    check(golden!("shard-file-header.bin"), &front);
    check(golden!("shard-file-end.bin"), &end);
    let parsed = ShardFileHeader::parse(golden!("shard-file-header.bin").1);
    assert_eq!(parsed, Ok(ParsedShardFileHeader::Complete(Box::new(header.clone()))));
    assert_eq!(header.layout().file_bytes, (front.len() + shard().len() + end.len()) as u64);
}

#[test]
fn range_proof() {
    let (shard, tree) = (shard(), ShardTree::of(&shard()));
    let range = 16_000..16_500;
    let mut proof = Vec::new();
    encode_range(shard.as_slice(), tree.outboard.as_slice(), tree.root, 65_536, &range, &mut proof).unwrap();
    // The groups are the shard's own bytes: what is pinned is their frame.
    let pinned = [&proof[..256], &proof[proof.len() - 256..]].concat();
    check(golden!("range-proof-ends.bin"), &pinned);
    assert_eq!(decode_range_exact(tree.root, 65_536, &range, &proof).unwrap(), shard[16_000..16_500]);
}

#[test]
fn chunk_borders() {
    // A chunk that is cut elsewhere is stored again: these lengths are for ever.
    let lengths: Vec<_> = chunks(&noise(1_000_000, 78)).iter().map(|chunk| chunk.len().to_string()).collect();
    check(golden!("chunk-lengths.txt"), (lengths.join("\n") + "\n").as_bytes());
}

fn two_objects() -> Vec<(NewRecord, Vec<u8>)> {
    let nar = [noise(300, 1), vec![b'z'; 2000], PATCH_PLACEHOLDER.to_vec(), noise(50, 2)].concat();
    let mut info = info(1, &nar, vec![path(2, "library-2.0"), path(1, "package-1")]);
    info.ca = Some("fixed:r:sha256:0a65g9v2vzcn1k0qnvlgkzadgqqq2zlyn89i4h3sdccwqj630li3".to_owned());
    let mut record = NewRecord::store_path(info, Encoding::Chunked);
    record.patches = vec![Patch { offset: 2300, reference: 1 }];
    vec![(record, nar), (log(3, b"built"), b"built".to_vec())]
}

fn pack_two_objects() -> (SealedBundle, Vec<u8>) {
    let mut builder = BundleBuilder::new(BuilderOptions::default());
    let mut payload = Vec::new();
    for (record, object) in two_objects() {
        builder.begin_object();
        builder.push_chunk(&object).unwrap();
        builder.finish_object(record).unwrap();
    }
    let sealed = builder.seal(&mut payload).unwrap();
    (sealed, payload)
}

/// The object in a part and its head: part, head, and both payloads.
fn spanning_object() -> (NewRecord, Vec<u8>) {
    let nar = noise(700, 5);
    (NewRecord::store_path(info(5, &nar, vec![]), Encoding::Chunked), nar)
}

fn pack_spanning_object() -> [(SealedBundle, Vec<u8>); 2] {
    let (record, nar) = spanning_object();
    let (mut part_payload, mut head_payload) = (Vec::new(), Vec::new());
    let mut builder = BundleBuilder::new(BuilderOptions::default());
    builder.begin_object();
    for chunk in nar.chunks(256) {
        builder.push_chunk(chunk).unwrap();
    }
    let (part, chunks) = builder.seal_as_part(&mut part_payload).unwrap();
    let mut builder = BundleBuilder::new(BuilderOptions::default());
    builder.begin_object();
    builder.finish_spanning_object(record, &[chunks]).unwrap();
    let head = builder.seal(&mut head_payload).unwrap();
    [(part, part_payload), (head, head_payload)]
}

/// Content header and payload, as one file.
fn file((sealed, payload): &(SealedBundle, Vec<u8>)) -> Vec<u8> {
    let header = sealed.content.to_bytes();
    let length = u32::try_from(header.len()).unwrap().to_le_bytes();
    [length.as_slice(), &header, payload].concat()
}

fn open(file: &[u8]) -> BundleReader<&[u8]> {
    let (length, rest) = file.split_first_chunk().unwrap();
    let (header, payload) = rest.split_at(u32::from_le_bytes(*length) as usize);
    reader(&ContentHeader::parse(header).unwrap(), payload)
}

/// Text and x86 code, in a frame each.
fn text_and_code() -> Vec<u8> {
    let text = b"the quick brown fox, frame by frame\n".repeat(1000);
    let mut object = [&text[..], &noise(40_000 - text.len(), 8)].concat();
    for call in 0..8000_u32 {
        object.push(0xe8);
        object.extend_from_slice(&(0x40_0000 + call % 5 * 4096).wrapping_sub(call * 5 + 5).to_le_bytes());
    }
    object
}

fn pack_lzma() -> (SealedBundle, Vec<u8>) {
    let options =
        BuilderOptions { frame_raw_bytes: 40_000, ..BuilderOptions::with(FrameCompression::Lzma(6)) };
    let object = text_and_code();
    let (mut builder, mut payload) = (BundleBuilder::new(options), Vec::new());
    builder.begin_object();
    for chunk in object.chunks(40_000) {
        builder.push_chunk(chunk).unwrap();
    }
    builder.finish_object(log(9, &object)).unwrap();
    let sealed = builder.seal(&mut payload).unwrap();
    (sealed, payload)
}

/// What a bundle means, apart from how zstd wrote it.
fn meaning(reader: &BundleReader<&[u8]>) -> String {
    let manifest = reader.manifest();
    let lists: Vec<_> = records(reader).iter().map(|record| manifest.chunk_list(record).unwrap()).collect();
    let content = manifest.content();
    let bundle = (content.role(), content.dependencies().len(), manifest.header().frame_count());
    let foreign = manifest.foreign_chunks();
    format!("{bundle:?} {:?} {lists:?} {:?} {foreign:?}", records(reader), manifest.chunks())
}

/// With one version of zstd the bytes are equal; with another they must mean the same.
fn check_bundle(golden: (&str, &[u8]), packed: &(SealedBundle, Vec<u8>)) {
    let actual = file(packed);
    if golden.1.is_empty() || meaning(&open(golden.1)) != meaning(&open(&actual)) {
        check(golden, &actual);
    }
}

#[test]
fn bundle_of_two_objects() {
    check_bundle(golden!("two-objects.bundle"), &pack_two_objects());
    let mut reader = open(golden!("two-objects.bundle").1);
    let found = records(&reader);
    for (found, (record, _)) in found.iter().zip(two_objects()) {
        assert_eq!((found.key, &found.body), (record.key, &record.body));
    }
    let mut nar = two_objects()[0].1.clone();
    nar[2300..2332].copy_from_slice(path(2, "library-2.0").hash_part().as_bytes());
    assert_eq!(restore(&mut reader, &found[0], &mut BTreeMap::new()), nar);
    assert_eq!(restore(&mut reader, &found[1], &mut BTreeMap::new()), b"built");
}

#[test]
fn bundle_in_lzma() {
    check_bundle(golden!("lzma.bundle"), &pack_lzma());
    let mut reader = open(golden!("lzma.bundle").1);
    let codecs: Vec<Codec> = reader.manifest().frames().iter().map(|frame| frame.codec).collect();
    assert_eq!(codecs, [Codec::Lzma, Codec::LzmaX86]);
    // Version 2, and the codecs as they are written.
    let manifest = reader.manifest();
    assert_eq!(manifest.bytes()[8..10], [2, 0]);
    let table = manifest.header().frame_entries_extent(&(0..2)).unwrap();
    let table = &manifest.bytes()[usize::try_from(table.start).unwrap()..];
    assert_eq!([table[16], table[24 + 16]], [2, 3]);
    let record = records(&reader).remove(0);
    assert_eq!(restore(&mut reader, &record, &mut BTreeMap::new()), text_and_code());
}

#[test]
fn part_and_head() {
    let [part, head] = pack_spanning_object();
    check_bundle(golden!("part.bundle"), &part);
    check_bundle(golden!("head.bundle"), &head);
    let part = open(golden!("part.bundle").1);
    let mut head = open(golden!("head.bundle").1);
    head.manifest().check_dependency(0, part.manifest()).unwrap();
    let mut others = BTreeMap::from([(part.manifest().content().bundle_id(), part)]);
    assert_eq!(head.manifest().content().dependencies(), [*others.keys().next().unwrap()]);
    let record = records(&head).remove(0);
    assert_eq!(restore(&mut head, &record, &mut others), spanning_object().1);
}
