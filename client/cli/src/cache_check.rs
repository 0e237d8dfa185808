//! What of an object lies in a binary cache already.
//!
//! Always holds: what is called right was read completely and has the hash that was signed, or that the archive knows
//! of a log; no link in the cache leads the reading out of it; memory is bounded whatever lies there.
//! Leaves to others: what becomes of what is missing or damaged (`export`).

use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use firn_bundle::Blob;
use firn_client::{Source, SourceError};
use firn_nix_format::{
    Compression, NarInspector, PathInfo, PublisherKey, Sha256, VerifyingReader, accepted_by, decoder,
};
use sha2::Digest;

use crate::cache_directory::{CacheDirectory, StoredNar, is_published_place};
use crate::object_writer::{NarListing, list};

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum There<T> {
    /// Nothing of it.
    Nothing,
    /// All of it.
    Right(T),
    /// Something that is not what it should be, and why.
    Damaged(String),
    /// Another content of the same store path, signed by one of the publishers.
    Other,
    /// All of it, and as another file than the one that was published.
    OtherFile,
}

/// A NAR that lies there and is what its narinfo says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RightNar {
    /// Its file.
    pub(crate) nar: StoredNar,
    /// Its listing, if that was asked for: made from what was read.
    pub(crate) listing: Option<NarListing>,
}

const BUFFER_BYTES: usize = 256 << 10;

impl CacheDirectory {
    /// What lies there of the store path of `info`, with its listing if that is wanted; `as_published` only the published
    /// file is right. A narinfo that says something else stays if one of `publishers` has signed it.
    pub(crate) async fn look(
        &self,
        info: &PathInfo,
        publishers: &[PublisherKey],
        listing: bool,
        as_published: bool,
    ) -> There<RightNar> {
        let (root, info, publishers) = (self.root().to_owned(), info.clone(), publishers.to_vec());
        self.environment().blocking(move || look(&root, &info, &publishers, (listing, as_published))).await
    }

    /// What lies there of a log or the like, whose file is compressed as `compression` says.
    pub(crate) async fn look_for_blob(&self, blob: &Blob, compression: Compression) -> There<()> {
        let (root, blob): (PathBuf, Blob) = (self.root().to_owned(), blob.clone());
        let look = move || {
            let source = source(&root)?;
            let wanted =
                Wanted { url: &blob.url, compression, sha256: blob.sha256, bytes: blob.bytes, file: None };
            is_content(&source, wanted, None)
        };
        match self.environment().blocking(look).await {
            Ok(true) => There::Right(()),
            Ok(false) => There::Nothing,
            Err(reason) => There::Damaged(reason),
        }
    }
}

fn look(
    root: &Path,
    info: &PathInfo,
    publishers: &[PublisherKey],
    (listing, as_published): (bool, bool),
) -> There<RightNar> {
    let narinfo = source(root).and_then(|source| {
        let text = source.narinfo(info.store_path.hash_part()).map_err(|error| error.to_string())?;
        Ok(text.map(|text| (source, text)))
    });
    let (source, text) = match narinfo {
        Ok(Some(found)) => found,
        Ok(None) => return There::Nothing,
        Err(reason) => return There::Damaged(reason),
    };
    let there = match PathInfo::parse(&text) {
        Ok(there) => there,
        Err(error) => return There::Damaged(error.to_string()),
    };
    if there.fingerprint() != info.fingerprint() {
        let is_same_path = there.store_path == info.store_path;
        return match accepted_by(&there, publishers).filter(|_| is_same_path) {
            Some(_) => There::Other,
            None => There::Damaged("its narinfo says something that no publisher has signed".to_owned()),
        };
    }
    let mut inspector = listing.then(|| NarInspector::new(info.nar_size));
    let wanted = Wanted {
        url: &there.url,
        compression: there.compression,
        sha256: info.nar_hash,
        bytes: info.nar_size,
        file: info.file_hash.filter(|_| as_published),
    };
    let file = |info: &PathInfo| (info.compression, info.file_hash);
    if as_published && (file(&there) != file(info) || !is_published_place(root, info, &there.url)) {
        return There::OtherFile;
    }
    match is_content(&source, wanted, inspector.as_mut()) {
        Ok(true) => There::Right(RightNar {
            nar: StoredNar {
                bytes: there.file_size.unwrap_or(info.nar_size),
                url: there.url,
                compression: there.compression,
                sha256: there.file_hash,
            },
            listing: inspector.map(list),
        }),
        Ok(false) => There::Damaged(format!("its narinfo is there, and {} is not", there.url)),
        Err(reason) => There::Damaged(reason),
    }
}

fn source(root: &Path) -> Result<Source, String> {
    let root = root.to_str().ok_or_else(|| format!("the name of {} is no text", root.display()))?;
    Source::open(&format!("file://{root}")).map_err(|error| error.to_string())
}

/// A file that should lie there.
struct Wanted<'a> {
    url: &'a str,
    compression: Compression,
    /// What it decompresses to.
    sha256: Sha256,
    bytes: u64,
    /// Its own hash, where that matters.
    file: Option<Sha256>,
}

/// A file that is hashed on its way.
struct Hashed<'a> {
    file: Box<dyn Read + Send>,
    hasher: &'a mut sha2::Sha256,
}

impl Read for Hashed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

/// Whether there is such a file; an error if it is not what it should be. Its contents are shown to `inspector`.
fn is_content(
    source: &Source,
    wanted: Wanted<'_>,
    mut inspector: Option<&mut NarInspector>,
) -> Result<bool, String> {
    let Wanted { url, compression, sha256, bytes, file: file_sha256 } = wanted;
    let failed = |error: io::Error| format!("{url}: {error}");
    let file = match source.open_file(url) {
        Ok(Some(file)) => file,
        Ok(None) => return Ok(false),
        Err(error @ SourceError::LeavesCache(_)) => return Err(error.to_string()),
        Err(error) => return Err(format!("{url}: {error}")),
    };
    let mut hasher = sha2::Sha256::default();
    let file: Box<dyn Read + Send + '_> = match file_sha256 {
        Some(_) => Box::new(Hashed { file: file.reader, hasher: &mut hasher }),
        None => file.reader,
    };
    let file = BufReader::with_capacity(BUFFER_BYTES, file);
    let decoded = decoder(compression, file).map_err(failed)?;
    let mut checked = VerifyingReader::new(decoded, sha256, bytes);
    let mut piece = vec![0; BUFFER_BYTES];
    loop {
        match checked.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => {
                // What is no NAR shows when it is finished.
                inspector.as_mut().map(|inspector| inspector.push(&piece[..count]));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
    checked.finish().map_err(|mismatch| format!("{url}: {mismatch}"))?;
    let found = Sha256::from_bytes(hasher.finalize().into());
    match file_sha256.filter(|stated| *stated != found) {
        Some(stated) => Err(format!("{url}: it has the hash {found} and not its FileHash {stated}")),
        None => Ok(true),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use bytes::Bytes;
    use firn_nix_format::{NarNode, PublisherSecretKey, StorePath, nar};
    use firn_retrieval::ByteStream;
    use firn_transport::Environment;
    use futures::{StreamExt, stream};

    use super::*;
    use crate::cache_directory::NamedNar;
    use crate::nar_encoder::NarCompression;

    const ALL: [NarCompression; 3] = [NarCompression::None, NarCompression::Zstd, NarCompression::XZ];

    fn key() -> PublisherSecretKey {
        PublisherSecretKey::from_seed("a", &[1; 32]).unwrap()
    }

    fn info(nar: &'static [u8]) -> PathInfo {
        let mut info = PathInfo::of_nar(
            StorePath::from_parts([1; 20], "x").unwrap(),
            "nar/x.nar".to_owned(),
            Sha256::of(nar),
            nar.len() as u64,
        );
        info.signatures = vec![key().sign(&info)];
        info
    }

    fn stream_of(bytes: &'static [u8]) -> ByteStream {
        stream::iter([Ok(Bytes::from_static(bytes))]).boxed()
    }

    async fn cache_with(
        nar: &'static [u8],
        compression: NarCompression,
    ) -> (tempfile::TempDir, CacheDirectory) {
        let place = tempfile::tempdir().unwrap();
        let cache = CacheDirectory::open(&Environment::real(), &place.path().join("out")).await.unwrap();
        let stored = cache.add_nar(&info(nar), compression, stream_of(nar)).await.unwrap();
        cache.add_narinfo(&info(nar), &stored, NamedNar::First, None).await.unwrap();
        (place, cache)
    }

    async fn look_at(cache: &CacheDirectory, nar: &'static [u8]) -> There<StoredNar> {
        match cache.look(&info(nar), &[key().public_key()], false, false).await {
            There::Right(RightNar { nar, listing: None }) => There::Right(nar),
            There::Right(right) => panic!("nobody asked for a listing: {right:?}"),
            There::Damaged(why) => There::Damaged(why),
            There::Other => There::Other,
            There::OtherFile => There::OtherFile,
            There::Nothing => There::Nothing,
        }
    }

    #[track_caller]
    fn assert_damaged<T: std::fmt::Debug>(there: &There<T>, word: &str) {
        assert!(matches!(there, There::Damaged(reason) if reason.contains(word)), "{there:?}");
    }

    #[tokio::test]
    async fn what_was_written_is_right_in_every_compression() {
        for compression in ALL {
            let (_place, cache) = cache_with(b"the nar", compression).await;
            let There::Right(stored) = look_at(&cache, b"the nar").await else { panic!("{compression:?}") };
            let file = fs::read(cache.root().join(&stored.url)).unwrap();
            assert_eq!((stored.sha256, stored.bytes), (Some(Sha256::of(&file)), file.len() as u64));
        }
    }

    #[tokio::test]
    async fn every_byte_that_was_flipped_cut_off_or_added_is_found() {
        for compression in ALL {
            let (_place, cache) = cache_with(b"the nar", compression).await;
            let There::Right(stored) = look_at(&cache, b"the nar").await else { panic!("{compression:?}") };
            let path = cache.root().join(&stored.url);
            let whole = fs::read(&path).unwrap();
            for at in 0..whole.len() {
                // Some bits of a zstd header mean nothing for what comes out.
                if compression != NarCompression::Zstd {
                    let mut flipped = whole.clone();
                    flipped[at] ^= 0xff;
                    fs::write(&path, &flipped).unwrap();
                    let there = look_at(&cache, b"the nar").await;
                    assert!(!matches!(there, There::Right(_)), "{compression:?} {at}");
                }
                fs::write(&path, &whole[..at]).unwrap();
                assert!(
                    !matches!(look_at(&cache, b"the nar").await, There::Right(_)),
                    "{compression:?} {at}"
                );
            }
            fs::write(&path, [&whole[..], b"x"].concat()).unwrap();
            assert!(matches!(look_at(&cache, b"the nar").await, There::Damaged(_)), "{compression:?}");
            fs::remove_file(&path).unwrap();
            assert_damaged(&look_at(&cache, b"the nar").await, "is not");
        }
    }

    #[tokio::test]
    async fn another_content_stays_only_where_a_publisher_has_signed_it() {
        let (_place, cache) = cache_with(b"one", NarCompression::None).await;
        assert_eq!(look_at(&cache, b"two").await, There::Other);
        assert_damaged(&cache.look(&info(b"two"), &[], false, false).await, "no publisher");
        let narinfo = cache.root().join(format!("{}.narinfo", info(b"one").store_path.hash_part()));
        fs::write(&narinfo, "what?").unwrap();
        assert!(matches!(look_at(&cache, b"one").await, There::Damaged(_)));
        fs::remove_file(&narinfo).unwrap();
        assert_eq!(look_at(&cache, b"one").await, There::Nothing);
    }

    #[tokio::test]
    async fn a_listing_is_made_of_what_lies_there() {
        let file = NarNode::Regular { contents: b"text".to_vec(), executable: false };
        let bytes: &'static [u8] = nar::encode(&file).unwrap().leak();
        let json = nar::inspect(bytes).unwrap().to_json().unwrap();
        for compression in ALL {
            let (_place, cache) = cache_with(bytes, compression).await;
            let look = cache.look(&info(bytes), &[key().public_key()], true, false).await;
            let There::Right(right) = look else { panic!("{look:?}") };
            assert_eq!(right.listing, Some(NarListing::Json(json.clone())), "{compression:?}");
        }
        let (_place, cache) = cache_with(b"no nar", NarCompression::None).await;
        let look = cache.look(&info(b"no nar"), &[key().public_key()], true, false).await;
        assert!(
            matches!(look, There::Right(RightNar { listing: Some(NarListing::NotText), .. })),
            "{look:?}"
        );
    }

    #[tokio::test]
    async fn where_the_published_file_is_wanted_it_is_right_by_its_own_hash() {
        let (_place, cache) = cache_with(b"the nar", NarCompression::XZ).await;
        let There::Right(stored) = look_at(&cache, b"the nar").await else { panic!("it was written") };
        let look =
            async |published: &PathInfo| cache.look(published, &[key().public_key()], false, true).await;
        let mut published = PathInfo {
            url: stored.url.clone(),
            compression: Compression::Xz,
            file_hash: stored.sha256,
            ..info(b"the nar")
        };
        assert!(matches!(look(&published).await, There::Right(_)));
        // The same NAR by another encoder, in a file that the narinfo says is the published one.
        let other = liblzma::encode_all(&b"the nar"[..], 1).unwrap();
        fs::write(cache.root().join(&stored.url), other).unwrap();
        assert_damaged(&look(&published).await, "FileHash");
        assert!(matches!(look_at(&cache, b"the nar").await, There::Right(_)), "where any file will do");
        published.file_hash = Some(Sha256::of(b"another file"));
        assert!(matches!(look(&published).await, There::OtherFile));
    }

    #[tokio::test]
    async fn where_the_published_file_is_wanted_it_lies_at_its_url_unless_that_belongs_to_another() {
        let (_place, cache) = cache_with(b"the nar", NarCompression::XZ).await;
        let There::Right(stored) = look_at(&cache, b"the nar").await else { panic!("it was written") };
        let is_right = async |url: &str| {
            let (url, file_hash) = (url.to_owned(), stored.sha256);
            let published = PathInfo { url, compression: Compression::Xz, file_hash, ..info(b"the nar") };
            match cache.look(&published, &[key().public_key()], false, true).await {
                There::Right(_) => true,
                There::OtherFile => false,
                there => panic!("{there:?}"),
            }
        };
        let by_hash = format!("nar/{}.nar.xz", stored.sha256.unwrap().to_base32());
        assert!(is_right(&stored.url).await && is_right("../x").await);
        assert!(!is_right(&by_hash).await && !is_right("nar/a.nar.xz").await);
        for url in [by_hash.as_str(), "nar/a.nar.xz"] {
            fs::write(cache.root().join(url), "something else").unwrap();
        }
        assert!(is_right("nar/a.nar.xz").await, "another path's file lies there");
        assert!(!is_right(&by_hash).await, "what lies there is nobody's file");
    }

    #[tokio::test]
    async fn a_log_is_right_by_its_hash() {
        let (_place, cache) = cache_with(b"one", NarCompression::None).await;
        let blob = Blob {
            url: "log/x.drv".to_owned(),
            compression: Compression::None,
            bytes: 5,
            sha256: Sha256::of(b"built"),
        };
        let look = async || cache.look_for_blob(&blob, Compression::None).await;
        assert_eq!(look().await, There::Nothing);
        fs::create_dir_all(cache.root().join("log")).unwrap();
        fs::write(cache.root().join("log/x.drv"), "built").unwrap();
        assert_eq!(look().await, There::Right(()));
        fs::write(cache.root().join("log/x.drv"), "bui1t").unwrap();
        assert_damaged(&look().await, "hash");
    }
}
