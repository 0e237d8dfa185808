//! A binary cache in a directory, as Nix reads it by `file://`.
//!
//! Owns: where files lie in it. Always holds: nothing is written outside of it, whatever URL a record names; a
//! narinfo is written after its NAR; a file that another path relies on is never replaced by different bytes:
//! `nar/<NarHash>.nar` holds the NAR of that hash and nothing else.
//! Leaves to others: whether bytes are right (`recovery` writes only what was checked).

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use firn_base::KeyKind;
use firn_nix_format::{Compression, PathInfo, STORE_DIR, Sha256, check_cache_url};
use firn_retrieval::ByteStream;
use firn_transport::Environment;
use tokio::sync::Mutex;

use crate::command_error::CommandError;
use crate::file_writer::{PartialFile, WriteError};

const CACHE_INFO: &str = "nix-cache-info";

/// What became of a narinfo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NarInfoOutcome {
    /// It is there.
    Written,
    /// The cache has one that says the same; it carries the signatures of both now.
    Merged,
    /// The cache has one that says something else, which stays.
    OtherStays,
}

/// A binary cache that files are added to.
#[derive(Debug)]
pub(crate) struct CacheDirectory {
    environment: Environment,
    root: PathBuf,
    // Merging reads, then writes.
    narinfos: Mutex<()>,
}

impl CacheDirectory {
    /// Opens or makes the cache at `root`. A directory with anything else in it is refused.
    pub(crate) async fn open(environment: &Environment, root: &Path) -> Result<Self, CommandError> {
        let place = root.to_owned();
        environment.blocking(move || prepare(&place)).await?;
        Ok(Self { environment: environment.clone(), root: root.to_owned(), narinfos: Mutex::new(()) })
    }

    /// Adds a NAR, which the stream was checked to be; gives its URL and bytes.
    pub(crate) async fn add_nar(
        &self,
        hash: Sha256,
        stream: ByteStream,
    ) -> Result<(String, u64), WriteError> {
        let url = nar_url(hash);
        let path = self.root.join(&url);
        let file = self.partial(&path, stream).await?;
        let bytes = self.environment.blocking(move || file.replace(&path)).await?;
        Ok((url, bytes))
    }

    /// Adds the file that `info` was published with; gives the URL that it got and its bytes: the published one,
    /// unless that is not to be trusted or belongs to another file.
    pub(crate) async fn add_published_nar(
        &self,
        info: &PathInfo,
        stream: ByteStream,
    ) -> Result<(String, u64), WriteError> {
        let substitute = substitute_url(info);
        let wanted = if is_usable_nar_url(info) { info.url.clone() } else { substitute.clone() };
        let path = self.root.join(&wanted);
        let file = self.partial(&path, stream).await?;
        let bytes = file.bytes;
        let substitute_path = self.root.join(&substitute);
        let place = move || match file.keep_first(&path)? {
            Ok(()) => Ok(true),
            Err(file) => file.replace(&substitute_path).map(|_| false),
        };
        let placed = self.environment.blocking(place).await?;
        Ok((if placed { wanted } else { substitute }, bytes))
    }

    /// Adds a log or the like under its URL. The first one stays: says whether these bytes are there now.
    pub(crate) async fn add_blob(
        &self,
        kind: KeyKind,
        url: &str,
        stream: ByteStream,
    ) -> Result<bool, WriteError> {
        let folders: &[&str] = match kind {
            KeyKind::BuildLog => &["log/"],
            KeyKind::Realisation => &["realisations/", "build-trace-v2/"],
            KeyKind::DebugInfo => &["debuginfo/"],
            KeyKind::StorePath => &[],
        };
        let path = self.root.join(url);
        if check_cache_url(url).is_err() || !folders.iter().any(|folder| url.starts_with(folder)) {
            return Err(WriteError::disk(&path, io::Error::other("no object of its kind has such a URL")));
        }
        let file = self.partial(&path, stream).await?;
        self.environment.blocking(move || file.keep_first(&path).map(|kept| kept.is_ok())).await
    }

    /// Adds `<hash>.narinfo` with the text `info.to_narinfo(…)` for a NAR that lies in the cache already.
    pub(crate) async fn add_narinfo(
        &self,
        info: &PathInfo,
        url: &str,
        compression: Compression,
        file: Option<(Sha256, u64)>,
    ) -> Result<NarInfoOutcome, WriteError> {
        let _merging = self.narinfos.lock().await;
        let path = self.root.join(format!("{}.narinfo", info.store_path.hash_part()));
        let (root, info, url) = (self.root.clone(), info.clone(), url.to_owned());
        self.environment.blocking(move || write_narinfo(&root, &path, &info, &url, compression, file)).await
    }

    /// Waits until everything that was added is on disk.
    pub(crate) async fn sync(&self) -> Result<(), WriteError> {
        let root = self.root.clone();
        let sync = move || {
            let synced = File::open(&root).and_then(|place| Ok(rustix::fs::syncfs(place)?));
            synced.map_err(|source| WriteError::disk(&root, source))
        };
        self.environment.blocking(sync).await
    }

    async fn partial(&self, path: &Path, stream: ByteStream) -> Result<PartialFile, WriteError> {
        let directory = path.parent().unwrap_or(&self.root);
        PartialFile::from_stream(&self.environment, directory, stream).await
    }
}

/// Where the NAR of this hash lies.
fn nar_url(hash: Sha256) -> String {
    format!("nar/{}.nar", hash.to_base32())
}

/// Where a published file goes whose own URL cannot be used: a name that nothing else can have.
fn substitute_url(info: &PathInfo) -> String {
    let (path, hash) = (info.store_path.hash_part(), info.nar_hash.to_base32());
    format!("nar/{path}-{hash}.nar{}", info.compression.file_suffix())
}

/// Whether the published URL may be used: it lies where NARs lie, and where it has the form of our own URLs it
/// is the one of this very NAR.
fn is_usable_nar_url(info: &PathInfo) -> bool {
    let Some(name) = info.url.strip_prefix("nar/") else { return false };
    if check_cache_url(&info.url).is_err() || name.starts_with('.') {
        return false;
    }
    let hash = name.strip_suffix(".nar").and_then(|hash| Sha256::from_base32(hash).ok());
    hash.is_none_or(|hash| hash == info.nar_hash && info.compression == Compression::None)
}

fn prepare(root: &Path) -> Result<(), CommandError> {
    fs::create_dir_all(root).map_err(|source| CommandError::file("make the directory", root, source))?;
    let info = root.join(CACHE_INFO);
    if info.exists() {
        return Ok(());
    }
    let mut entries = fs::read_dir(root).map_err(|source| CommandError::file("list", root, source))?;
    if entries.next().is_some() {
        return Err(CommandError::Failed(format!(
            "{} is not empty and no binary cache: name a new directory with --output",
            root.display()
        )));
    }
    let text = format!("StoreDir: {STORE_DIR}\nWantMassQuery: 1\nPriority: 45\n");
    let written = PartialFile::from_text(root, &text).and_then(|file| file.replace(&info));
    written.map(|_| ()).map_err(|error| CommandError::Failed(error.to_string()))
}

fn write_narinfo(
    root: &Path,
    path: &Path,
    info: &PathInfo,
    url: &str,
    compression: Compression,
    file: Option<(Sha256, u64)>,
) -> Result<NarInfoOutcome, WriteError> {
    let there = fs::read(path).ok().and_then(|text| PathInfo::parse(&text).ok());
    let (text, outcome) = match there {
        None => (info.to_narinfo(url, compression.name(), file), NarInfoOutcome::Written),
        Some(there) if there.fingerprint() != info.fingerprint() => return Ok(NarInfoOutcome::OtherStays),
        Some(mut there) => {
            let fresh = info.signatures.iter().filter(|one| !there.signatures.contains(one));
            let fresh: Vec<_> = fresh.cloned().collect();
            if fresh.is_empty() {
                return Ok(NarInfoOutcome::Merged);
            }
            there.signatures.extend(fresh);
            (there.to_string(), NarInfoOutcome::Merged)
        }
    };
    PartialFile::from_text(root, &text)?.replace(path)?;
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use firn_nix_format::{NamedSignature, StorePath};
    use futures::{StreamExt, stream};

    use super::*;

    fn info(seed: u8, url: &str, compression: Compression) -> PathInfo {
        PathInfo {
            store_path: StorePath::from_parts([seed; 20], "x").unwrap(),
            url: url.to_owned(),
            compression,
            file_hash: None,
            file_size: None,
            nar_hash: Sha256::of(&[seed]),
            nar_size: 1,
            references: Vec::new(),
            deriver: None,
            signatures: Vec::new(),
            ca: None,
            extra: Vec::new(),
        }
    }

    fn bytes(text: &'static str) -> ByteStream {
        stream::iter([Ok(Bytes::from_static(text.as_bytes()))]).boxed()
    }

    async fn cache() -> (tempfile::TempDir, CacheDirectory) {
        let place = tempfile::tempdir().unwrap();
        let cache = CacheDirectory::open(&Environment::real(), &place.path().join("out")).await.unwrap();
        (place, cache)
    }

    #[tokio::test]
    async fn a_published_url_is_kept_where_it_is_free() {
        let (_place, cache) = cache().await;
        let one = info(1, "nar/a.nar.xz", Compression::Xz);
        assert_eq!(cache.add_published_nar(&one, bytes("one")).await.unwrap().0, "nar/a.nar.xz");
        assert_eq!(cache.add_published_nar(&one, bytes("one")).await.unwrap().0, "nar/a.nar.xz");
        let two = info(2, "nar/a.nar.xz", Compression::Xz);
        let (url, count) = cache.add_published_nar(&two, bytes("other")).await.unwrap();
        assert_eq!((url.as_str(), count), (substitute_url(&two).as_str(), 5));
        assert_eq!(fs::read_to_string(cache.root.join("nar/a.nar.xz")).unwrap(), "one");
        assert_eq!(fs::read_to_string(cache.root.join(url)).unwrap(), "other");
        assert_eq!(fs::read_dir(cache.root.join("nar")).unwrap().count(), 2, "nothing is left behind");
    }

    #[tokio::test]
    async fn no_url_leads_out_of_the_cache_or_onto_other_files() {
        let (_place, cache) = cache().await;
        let foreign = nar_url(Sha256::of(b"another"));
        for url in ["../secret", "/etc/passwd", "nix-cache-info", "x.narinfo", "nar/../x", "nar/.x", &foreign]
        {
            let hostile = info(3, url, Compression::Xz);
            let (url, _) = cache.add_published_nar(&hostile, bytes("x")).await.unwrap();
            assert_eq!(url, substitute_url(&hostile));
        }
        for url in ["../log/x", "nix-cache-info", "nar/x", "log/../../x", "log"] {
            assert!(cache.add_blob(KeyKind::BuildLog, url, bytes("x")).await.is_err(), "{url}");
        }
        assert!(cache.add_blob(KeyKind::BuildLog, "log/x.drv", bytes("x")).await.unwrap());
        assert!(!cache.add_blob(KeyKind::BuildLog, "log/x.drv", bytes("y")).await.unwrap());
    }

    #[tokio::test]
    async fn signatures_of_one_content_are_merged_and_another_content_changes_nothing() {
        let (_place, cache) = cache().await;
        let signed = |name: &str| {
            let mut info = info(1, "nar/a.nar", Compression::None);
            info.signatures = vec![NamedSignature { key_name: name.to_owned(), bytes: [1; 64] }];
            info
        };
        let add = async |info: &PathInfo| {
            cache.add_narinfo(info, "nar/b.nar", Compression::None, None).await.unwrap()
        };
        assert_eq!(add(&signed("a")).await, NarInfoOutcome::Written);
        assert_eq!(add(&signed("b")).await, NarInfoOutcome::Merged);
        assert_eq!(add(&signed("b")).await, NarInfoOutcome::Merged);
        let mut other = signed("c");
        other.nar_hash = Sha256::of(b"other");
        assert_eq!(add(&other).await, NarInfoOutcome::OtherStays);
        let path = cache.root.join(format!("{}.narinfo", other.store_path.hash_part()));
        let there = PathInfo::parse(&fs::read(path).unwrap()).unwrap();
        let names: Vec<_> = there.signatures.iter().map(|signature| signature.key_name.as_str()).collect();
        assert_eq!((there.url.as_str(), names), ("nar/b.nar", vec!["a", "b"]));
    }

    #[tokio::test]
    async fn a_directory_with_other_files_is_refused() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("letter.txt"), "dear").unwrap();
        let error = CacheDirectory::open(&Environment::real(), place.path()).await.unwrap_err();
        assert!(error.to_string().contains("is not empty"), "{error}");
    }
}
