//! Objects larger than a bundle, in bounded memory.

use std::fs::File;
use std::io::{BufWriter, Read, Write};

use firn_nix_format::nar::encode_file;
use firn_nix_format::{Compression, Sha256};
use sha2::Digest;

use super::archive::TestArchive;
use super::cache::{Cache, noise};
use super::pipeline::{assert_restores, key, publish_with};
use crate::publish_options::PublishOptions;

/// Writes the NAR of a file of noise without holding it, and gives hash and size.
fn write_large_nar(cache: &Cache, url: &str, bytes: u64) -> (Sha256, u64) {
    struct Hashing(BufWriter<File>, sha2::Sha256, u64);
    impl Write for Hashing {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.1.update(bytes);
            self.2 += bytes.len() as u64;
            self.0.write_all(bytes).map(|()| bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            self.0.flush()
        }
    }
    let file = BufWriter::new(File::create(cache.file(url)).unwrap());
    let mut target = Hashing(file, sha2::Sha256::default(), 0);
    let mut contents = blake3::Hasher::new().finalize_xof().take(bytes);
    encode_file(&mut target, &mut contents, bytes, false).unwrap();
    target.flush().unwrap();
    (Sha256::from_bytes(target.1.finalize().into()), target.2)
}

#[tokio::test]
async fn a_nar_far_larger_than_a_bundle_comes_back_equal() {
    const BYTES: u64 = 300 << 20;
    let (mut cache, archive) = (Cache::sound(), TestArchive::new(4, 6));
    let mut entry = cache.entry("large-1", b"", Compression::None, &["libc-2.40"]);
    (entry.info.nar_hash, entry.info.nar_size) = write_large_nar(&cache, &entry.info.url, BYTES);
    (entry.info.file_hash, entry.info.file_size) = (Some(entry.info.nar_hash), Some(entry.info.nar_size));
    let nar_hash = entry.info.nar_hash;
    cache.add_narinfo(entry);
    let options = PublishOptions { bundle_bytes: 8 << 20, ..PublishOptions::new(cache.source()) };
    let summary = publish_with(&archive, &cache, options).await.unwrap();
    assert_eq!((summary.paths_published, summary.exit_code()), (7, 0), "{summary}");
    let together = archive.commits().into_iter().max();
    assert!(together > Some(37), "parts and head commit together: {together:?}");
    let mut hasher = sha2::Sha256::default();
    archive.restore_into(key("large-1"), |piece| {
        hasher.update(piece);
        Ok(())
    });
    assert_eq!(Sha256::from_bytes(hasher.finalize().into()), nar_hash);
    assert_restores(&archive, &cache);
}

#[tokio::test]
async fn a_large_object_of_equal_bytes_needs_no_second_bundle() {
    let (mut cache, archive) = (Cache::new(), TestArchive::new(4, 6));
    cache.add_path("zeros-1", &vec![0; 30 << 20], Compression::Xz, &[]);
    let options = PublishOptions { bundle_bytes: 4 << 20, ..PublishOptions::new(cache.source()) };
    let summary = publish_with(&archive, &cache, options).await.unwrap();
    assert_eq!((summary.bundles, summary.exit_code()), (1, 0), "{summary}");
    assert_restores(&archive, &cache);
}

#[tokio::test]
async fn verbatim_files_may_span_bundles_too() {
    let (mut cache, archive) = (Cache::new(), TestArchive::new(4, 6));
    cache.add_path("noise-1", &noise(12 << 20, 5), Compression::Xz, &[]);
    let options = PublishOptions {
        bundle_bytes: 4 << 20,
        encoding: firn_bundle::Encoding::Verbatim,
        ..PublishOptions::new(cache.source())
    };
    let summary = publish_with(&archive, &cache, options).await.unwrap();
    assert_eq!((summary.paths_published, summary.exit_code()), (1, 0), "{summary}");
    let url = archive.record(key("noise-1")).path_info().unwrap().url.clone();
    assert!(archive.restore(key("noise-1")) == std::fs::read(cache.file(&url)).unwrap());
}
