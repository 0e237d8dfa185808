//! Fixed and random objects for the tests of bundles.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::collections::BTreeMap;
use std::convert::Infallible;

use firn_base::{BundleId, ManifestRoot, ObjectKey};
use firn_bundle::{
    Blob, BuilderOptions, BundleBuilder, BundleReader, Chunker, ContentHeader, Encoding, ForeignChunk,
    FrameCompression, Manifest, NewRecord, Record, RestoreError, SealedBundle,
};
use firn_nix_format::{Compression, NamedSignature, PathInfo, Sha256, StorePath};

/// Bytes that do not compress, always the same for a seed.
pub(crate) fn noise(bytes: usize, seed: u8) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut noise);
    noise
}

pub(crate) fn path(seed: u8, name: &str) -> StorePath {
    StorePath::from_parts([seed; 20], name).unwrap()
}

pub(crate) fn info(seed: u8, nar: &[u8], references: Vec<StorePath>) -> PathInfo {
    PathInfo {
        store_path: path(seed, &format!("package-{seed}")),
        url: format!("nar/{seed}.nar.xz"),
        compression: Compression::Xz,
        file_hash: Some(Sha256::from_bytes([seed; 32])),
        file_size: Some(u64::from(seed) * 100),
        nar_hash: Sha256::of(nar),
        nar_size: nar.len() as u64,
        references,
        deriver: Some(path(seed.wrapping_add(100), &format!("package-{seed}.drv"))),
        signatures: vec![NamedSignature { key_name: "cache.example.org-1".to_owned(), bytes: [seed; 64] }],
        ca: None,
        extra: vec![("System".to_owned(), "x86_64-linux".to_owned())],
    }
}

pub(crate) fn log(seed: u8, content: &[u8]) -> NewRecord {
    let blob = Blob {
        url: format!("log/{seed}-package.drv"),
        compression: Compression::Bzip2,
        bytes: content.len() as u64,
        sha256: Sha256::of(content),
    };
    NewRecord::blob(ObjectKey::build_log([seed; 20]), blob, Encoding::Chunked)
}

/// Cuts an object as the publisher does.
pub(crate) fn chunks(object: &[u8]) -> Vec<Vec<u8>> {
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

/// A builder in small frames.
pub(crate) fn builder() -> BundleBuilder {
    BundleBuilder::new(BuilderOptions {
        frame_raw_bytes: 100_000,
        frame_compression: FrameCompression::Zstd(3),
        ..BuilderOptions::default()
    })
}

/// Packs objects into a bundle and its payload.
pub(crate) fn pack(objects: &[(NewRecord, Vec<u8>)]) -> (SealedBundle, Vec<u8>) {
    let mut builder = builder();
    let mut payload = Vec::new();
    for (record, object) in objects {
        builder.begin_object();
        for chunk in chunks(object) {
            builder.push_chunk(&chunk).unwrap();
        }
        builder.finish_object(record.clone()).unwrap();
        builder.append_pending(&mut payload).unwrap();
    }
    let sealed = builder.seal(&mut payload).unwrap();
    (sealed, payload)
}

/// Reads a bundle whose payload lies in memory, and checks that its header describes it.
pub(crate) fn reader<'a>(content: &ContentHeader, payload: &'a [u8]) -> BundleReader<&'a [u8]> {
    assert_eq!(payload.len() as u64, content.payload_bytes());
    assert_eq!(blake3::hash(payload).as_bytes(), content.payload_root().as_bytes());
    let start = usize::try_from(content.manifest_extent().start).unwrap();
    let manifest = Manifest::parse_whole(content, payload[start..].to_vec()).unwrap();
    BundleReader::new(manifest, payload)
}

/// Restores one object of a bundle; chunks of other bundles come from `others`.
pub(crate) fn restore(
    bundle: &mut BundleReader<&[u8]>,
    record: &Record,
    others: &mut BTreeMap<BundleId, BundleReader<&[u8]>>,
) -> Vec<u8> {
    let dependencies = bundle.manifest().content().dependencies().to_vec();
    let foreign = |chunk: &ForeignChunk| -> Result<Vec<u8>, RestoreError> {
        let other = others.get_mut(&dependencies[usize::from(chunk.dependency)]).unwrap();
        Ok(other.chunk(chunk.number)?.to_vec())
    };
    let mut object = Vec::new();
    let keep = |bytes: &[u8]| {
        object.extend_from_slice(bytes);
        Ok(())
    };
    bundle.restore(record, foreign, keep).unwrap();
    object
}

pub(crate) fn records(reader: &BundleReader<&[u8]>) -> Vec<Record> {
    reader.manifest().records().map(|located| located.unwrap().record).collect()
}

/// The header of a bundle like `content` whose manifest is `manifest`: damage then is not noticed by its root.
pub(crate) fn with_manifest(content: &ContentHeader, manifest: &[u8]) -> Option<ContentHeader> {
    let root = ManifestRoot::from_bytes(*blake3::hash(manifest).as_bytes());
    let bytes = content.manifest_extent().start + manifest.len() as u64;
    let payload = (bytes, content.payload_root());
    let dependencies = content.dependencies().to_vec();
    ContentHeader::new(content.role(), payload, (manifest.len() as u64, root), dependencies).ok()
}
