//! Shard files made by hand, as storage nodes would have written them.

use std::convert::Infallible;
use std::path::{Path, PathBuf};

use firn_base::{ObjectKey, Scheme, ShardIndex, shard_bytes};
use firn_bundle::{
    Blob, BuilderOptions, BundleBuilder, Chunker, CodingHeader, ContentHeader, Encoding, FrameCompression,
    NewRecord, SealedBundle, ShardFileHeader, ShardTree, shard_file_trailer,
};
use firn_erasure::Coder;
use firn_nix_format::{Compression, NamedSignature, NarNode, PathInfo, Sha256, StorePath, nar};

/// Bytes that do not compress, always the same for a seed.
pub(crate) fn noise(bytes: usize, seed: u8) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut noise);
    noise
}

/// The NAR of one file of so many bytes.
pub(crate) fn file_nar(bytes: usize, seed: u8) -> Vec<u8> {
    file_nar_of(&noise(bytes, seed))
}

/// The NAR of a file.
pub(crate) fn file_nar_of(contents: &[u8]) -> Vec<u8> {
    nar::encode(&NarNode::Regular { contents: contents.to_vec(), executable: false }).unwrap()
}

/// The path info of a NAR as its publisher wrote it, with an xz file of made-up hash.
pub(crate) fn info(seed: u8, nar: &[u8]) -> PathInfo {
    PathInfo {
        store_path: StorePath::from_parts([seed; 20], &format!("package-{seed}")).unwrap(),
        url: format!("nar/{seed}.nar.xz"),
        compression: Compression::Xz,
        file_hash: Some(Sha256::from_bytes([seed; 32])),
        file_size: Some(7),
        nar_hash: Sha256::of(nar),
        nar_size: nar.len() as u64,
        references: vec![StorePath::from_parts([200; 20], "other").unwrap()],
        deriver: None,
        signatures: vec![NamedSignature { key_name: "cache.example.org-1".to_owned(), bytes: [seed; 64] }],
        ca: None,
        extra: Vec::new(),
    }
}

/// A store path kept in chunks.
pub(crate) fn chunked(seed: u8, nar: &[u8]) -> (NewRecord, Vec<u8>) {
    (NewRecord::store_path(info(seed, nar), Encoding::Chunked), nar.to_vec())
}

/// A store path kept as it was published, uncompressed.
pub(crate) fn verbatim(seed: u8, nar: &[u8]) -> (NewRecord, Vec<u8>) {
    let info = PathInfo {
        url: format!("nar/{seed}-as-published.nar"),
        compression: Compression::None,
        file_hash: Some(Sha256::of(nar)),
        file_size: Some(nar.len() as u64),
        ..info(seed, nar)
    };
    (NewRecord::store_path(info, Encoding::Verbatim), nar.to_vec())
}

/// A build log.
pub(crate) fn log(seed: u8, text: &[u8]) -> (NewRecord, Vec<u8>) {
    let blob = Blob {
        url: format!("log/{seed}-package.drv"),
        compression: Compression::Bzip2,
        bytes: text.len() as u64,
        sha256: Sha256::of(text),
    };
    (NewRecord::blob(ObjectKey::build_log([seed; 20]), blob, Encoding::Chunked), text.to_vec())
}

fn chunks(object: &[u8]) -> Vec<Vec<u8>> {
    let mut chunks = Vec::new();
    let mut chunker = Chunker::new();
    let mut keep = |chunk: &[u8]| {
        chunks.push(chunk.to_vec());
        Ok::<(), Infallible>(())
    };
    let Ok(()) = chunker.push(object, &mut keep);
    let Ok(()) = chunker.finish(&mut keep);
    chunks
}

/// Packs objects into one bundle.
pub(crate) fn pack(objects: &[(NewRecord, Vec<u8>)]) -> (SealedBundle, Vec<u8>) {
    pack_as(FrameCompression::Zstd(1), objects)
}

/// The same, with frames of another compression.
pub(crate) fn pack_as(
    compression: FrameCompression,
    objects: &[(NewRecord, Vec<u8>)],
) -> (SealedBundle, Vec<u8>) {
    let mut builder = BundleBuilder::new(BuilderOptions::with(compression));
    let mut payload = Vec::new();
    for (record, object) in objects {
        builder.begin_object();
        for chunk in chunks(object) {
            builder.push_chunk(&chunk).unwrap();
        }
        builder.finish_object(record.clone()).unwrap();
    }
    let sealed = builder.seal(&mut payload).unwrap();
    (sealed, payload)
}

/// Packs an object that no bundle has room for: parts, then the head.
pub(crate) fn pack_spanning(record: NewRecord, object: &[u8]) -> Vec<(SealedBundle, Vec<u8>)> {
    let options = BuilderOptions {
        payload_bytes_max: 400_000,
        frame_raw_bytes: 100_000,
        frame_compression: FrameCompression::Zstd(1),
        ..BuilderOptions::default()
    };
    let (mut bundles, mut parts) = (Vec::new(), Vec::new());
    let mut builder = BundleBuilder::new(options);
    builder.begin_object();
    let mut seal = |builder: &mut BundleBuilder| {
        let full = std::mem::replace(builder, BundleBuilder::new(options));
        let mut payload = Vec::new();
        let (sealed, chunks) = full.seal_as_part(&mut payload).unwrap();
        parts.push(chunks);
        bundles.push((sealed, payload));
        builder.begin_object();
    };
    for chunk in chunks(object) {
        if builder.push_chunk(&chunk).is_err() {
            seal(&mut builder);
            builder.push_chunk(&chunk).unwrap();
        }
    }
    seal(&mut builder);
    builder.finish_spanning_object(record, &parts).unwrap();
    let mut payload = Vec::new();
    let head = builder.seal(&mut payload).unwrap();
    bundles.push((head, payload));
    bundles
}

/// Writes shard files of the bundle, coded with `k`, into `directory`: those of `indexes`.
pub(crate) fn write(
    directory: &Path,
    content: &ContentHeader,
    payload: &[u8],
    k: u8,
    indexes: &[u8],
) -> Vec<PathBuf> {
    let length = usize::try_from(shard_bytes(payload.len() as u64, k)).unwrap();
    let mut shards: Vec<Vec<u8>> = (0..usize::from(k))
        .map(|index| {
            let start = (index * length).min(payload.len());
            let mut shard = payload[start..(start + length).min(payload.len())].to_vec();
            shard.resize(length, 0);
            shard
        })
        .collect();
    let n_max = usize::from(Scheme::n_max(k).unwrap());
    let mut parity = vec![vec![0; length]; n_max - usize::from(k)];
    let data: Vec<&[u8]> = shards.iter().map(Vec::as_slice).collect();
    let mut outputs: Vec<&mut [u8]> = parity.iter_mut().map(Vec::as_mut_slice).collect();
    Coder::new(k).unwrap().encode(&data, &mut outputs).unwrap();
    shards.append(&mut parity);
    let trees: Vec<ShardTree> = shards.iter().map(|shard| ShardTree::of(shard)).collect();
    let roots = trees.iter().map(|tree| tree.root).collect();
    let coding = CodingHeader::new(content.bundle_id(), k, length as u64, roots).unwrap();
    let write = |index: &u8| {
        let header =
            ShardFileHeader::new(content.clone(), coding.clone(), ShardIndex(*index)).unwrap().to_bytes();
        let (shard, outboard) = (&shards[usize::from(*index)], &trees[usize::from(*index)].outboard);
        let trailer = shard_file_trailer(&header, outboard);
        let place = directory.join(format!("node-{index}/ab/cd"));
        std::fs::create_dir_all(&place).unwrap();
        let path = place.join(format!("{}.{index}", coding.coding_id()));
        std::fs::write(&path, [&header, &shard[..], outboard, &trailer[..]].concat()).unwrap();
        path
    };
    indexes.iter().map(write).collect()
}
