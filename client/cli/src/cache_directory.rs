//! A binary cache in a directory, as Nix reads it by `file://`.
//!
//! Owns: where files lie in it, and who writes into it. Always holds: nothing is written outside of it, whatever URL a
//! record names; a narinfo gets its name after its NAR and its listing, and all of them when their bytes are on disk; a
//! file that another path relies on is never replaced by different bytes: `nar/<NarHash>.nar` holds the NAR of that hash, and
//! `nar/<store path hash>-<NarHash>.nar…` that of this path, `nar/<FileHash>.nar…` the file of that hash where its path info
//! states it, and nothing else; one program writes at a time.
//! Leaves to others: whether bytes are right (what is written was checked), what lies there already (`cache_check`).

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use firn_base::KeyKind;
use firn_nix_format::{Compression, PathInfo, STORE_DIR, Sha256, check_cache_url, nixbase32};
use firn_retrieval::ByteStream;
use firn_transport::Environment;
use rustix::fs::FlockOperation;
use tokio::sync::Mutex;

use crate::command_error::CommandError;
use crate::file_writer::{PARTIAL_PREFIX, PARTIAL_SUFFIX, PartialFile, WriteError};
use crate::nar_encoder::NarCompression;

const CACHE_INFO: &str = "nix-cache-info";

/// Where files lie besides narinfos.
const FOLDERS: [&str; 5] = ["nar", "log", "realisations", "build-trace-v2", "debuginfo"];

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

/// Which NAR a narinfo goes on to name that is there already and says the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NamedNar {
    /// The one that it names: others of the same content may lie beside it.
    First,
    /// The one that was added: the other one was found to be another file than is wanted.
    Added,
}

/// The file of a NAR as it lies in the cache: what the narinfo says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredNar {
    /// Its place, relative to the cache.
    pub(crate) url: String,
    /// How it is compressed.
    pub(crate) compression: Compression,
    /// Its bytes.
    pub(crate) bytes: u64,
    /// Their SHA-256, where it is known.
    pub(crate) sha256: Option<Sha256>,
}

/// A binary cache that files are added to.
#[derive(Debug)]
pub(crate) struct CacheDirectory {
    environment: Environment,
    root: PathBuf,
    // Merging reads, then writes.
    narinfos: Mutex<()>,
    // Its lock keeps other programs of ours away as long as it is open.
    _cache_info: File,
}

impl CacheDirectory {
    /// Opens or makes the cache at `root`, and removes what a program that was killed left half written. A directory
    /// with anything else in it is refused, and one that another program writes into.
    pub(crate) async fn open(environment: &Environment, root: &Path) -> Result<Self, CommandError> {
        let place = root.to_owned();
        let cache_info = environment.blocking(move || prepare(&place)).await?;
        Ok(Self {
            environment: environment.clone(),
            root: root.to_owned(),
            narinfos: Mutex::new(()),
            _cache_info: cache_info,
        })
    }

    /// The directory.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The world it lies in.
    pub(crate) const fn environment(&self) -> &Environment {
        &self.environment
    }

    /// Adds the NAR of `info`, which the stream was checked to be, compressed here.
    pub(crate) async fn add_nar(
        &self,
        info: &PathInfo,
        compression: NarCompression,
        stream: ByteStream,
    ) -> Result<StoredNar, WriteError> {
        let url = match compression {
            NarCompression::None => nar_url(info.nar_hash),
            compressed => own_url(info, compressed.into()),
        };
        let path = self.root.join(&url);
        let file = self.partial(&path, stream, compression).await?;
        let (bytes, sha256) = (file.bytes, file.sha256.unwrap_or(info.nar_hash));
        self.environment.blocking(move || file.replace(&path)).await?;
        Ok(StoredNar { url, compression: compression.into(), bytes, sha256: Some(sha256) })
    }

    /// Adds the file that `info` was published with, at the published URL, unless that is not to be trusted or belongs
    /// to another file. The stream was checked to be it, or is its NAR, which is compressed here and then has the FileHash.
    pub(crate) async fn add_published_nar(
        &self,
        info: &PathInfo,
        compression: NarCompression,
        stream: ByteStream,
    ) -> Result<StoredNar, WriteError> {
        let own = own_url(info, info.compression);
        let wanted = if is_usable_nar_url(info) { info.url.clone() } else { own.clone() };
        let path = self.root.join(&wanted);
        let file = self.partial(&path, stream, compression).await?;
        if let (Some(made), published) = (file.sha256, info.file_hash)
            && published != Some(made)
        {
            return Err(
                published.map_or(WriteError::Lost, |published| WriteError::OtherFile { made, published })
            );
        }
        let bytes = file.bytes;
        let (root, narinfo, published) = (self.root.clone(), self.narinfo_path(info), info.clone());
        let place = move || place_published(&root, &narinfo, &published, (file, wanted));
        let url = self.environment.blocking(place).await?;
        Ok(StoredNar { url, compression: info.compression, bytes, sha256: info.file_hash })
    }

    /// Adds a log or the like under its URL. The first one stays: says whether these bytes are there now.
    pub(crate) async fn add_blob(
        &self,
        kind: KeyKind,
        url: &str,
        stream: ByteStream,
    ) -> Result<bool, WriteError> {
        if !is_usable_blob_url(kind, url) {
            return Err(WriteError::Refused { url: url.to_owned() });
        }
        let path = self.root.join(url);
        let file = self.partial(&path, stream, NarCompression::None).await?;
        self.environment.blocking(move || file.keep_first(&path).map(|kept| kept.is_ok())).await
    }

    /// Adds `<hash>.narinfo`: what `info` says, with the place of a NAR that lies in the cache already. Before it comes
    /// `<hash>.ls`, the listing of the NAR as JSON, if it is given: what has a narinfo is not looked for again.
    pub(crate) async fn add_narinfo(
        &self,
        info: &PathInfo,
        nar: &StoredNar,
        named: NamedNar,
        listing: Option<Vec<u8>>,
    ) -> Result<NarInfoOutcome, WriteError> {
        let _merging = self.narinfos.lock().await;
        let path = self.narinfo_path(info);
        let (root, info, nar) = (self.root.clone(), info.clone(), nar.clone());
        let write = move || write_narinfo(&root, &path, &info, (&nar, named), listing.as_deref());
        self.environment.blocking(write).await
    }

    /// Takes the narinfo of this store path away: it names something that is not what it says.
    pub(crate) async fn remove_narinfo(&self, info: &PathInfo) -> Result<(), WriteError> {
        self.remove(self.narinfo_path(info)).await
    }

    /// Takes a log or the like away that is damaged.
    pub(crate) async fn remove_blob(&self, kind: KeyKind, url: &str) -> Result<(), WriteError> {
        if is_usable_blob_url(kind, url) { self.remove(self.root.join(url)).await } else { Ok(()) }
    }

    /// Waits until everything that was added is on disk, with its name.
    pub(crate) async fn sync(&self) -> Result<(), WriteError> {
        let root = self.root.clone();
        let sync = move || {
            let synced = File::open(&root).and_then(|place| Ok(rustix::fs::syncfs(place)?));
            synced.map_err(|source| WriteError::disk(&root, source))
        };
        self.environment.blocking(sync).await
    }

    async fn remove(&self, path: PathBuf) -> Result<(), WriteError> {
        let remove = move || match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(WriteError::disk(&path, error)),
            _ => Ok(()),
        };
        self.environment.blocking(remove).await
    }

    fn narinfo_path(&self, info: &PathInfo) -> PathBuf {
        self.root.join(format!("{}.narinfo", info.store_path.hash_part()))
    }

    async fn partial(
        &self,
        path: &Path,
        stream: ByteStream,
        compression: NarCompression,
    ) -> Result<PartialFile, WriteError> {
        let directory = path.parent().unwrap_or(&self.root);
        PartialFile::from_stream(&self.environment, directory, stream, compression).await
    }
}

/// Where the NAR of this hash lies.
fn nar_url(hash: Sha256) -> String {
    format!("nar/{}.nar", hash.to_base32())
}

/// Where the file of this path's NAR lies that has no other place: a name that no published URL may have.
fn own_url(info: &PathInfo, compression: Compression) -> String {
    let (path, hash) = (info.store_path.hash_part(), info.nar_hash.to_base32());
    format!("nar/{path}-{hash}.nar{}", compression.file_suffix())
}

/// Whether the published URL may be used: it lies where NARs lie, and where it has the form of our own URLs it
/// is the one of this very NAR.
fn is_usable_nar_url(info: &PathInfo) -> bool {
    let Some(name) = info.url.strip_prefix("nar/") else { return false };
    if check_cache_url(&info.url).is_err() || name.starts_with('.') {
        return false;
    }
    let begins_as_own = name.split_once('-').is_some_and(|(hash, _)| nixbase32::decode::<20>(hash).is_ok());
    if begins_as_own {
        return info.url == own_url(info, info.compression);
    }
    let hash = name.strip_suffix(".nar").and_then(|hash| Sha256::from_base32(hash).ok());
    hash.is_none_or(|hash| hash == info.nar_hash && info.compression == Compression::None)
}

/// Whether the published file of `info` is in its place at `url`: the published one, unless that is not to be used or
/// belongs to another file.
pub(crate) fn is_published_place(root: &Path, info: &PathInfo, url: &str) -> bool {
    let is_taken = || !is_named_after(info) && fs::symlink_metadata(root.join(&info.url)).is_ok();
    !is_usable_nar_url(info) || url == info.url || (url == own_url(info, info.compression) && is_taken())
}

/// Whether the published URL, which may be used, says which bytes lie there: those of the published file, and no others.
fn is_named_after(info: &PathInfo) -> bool {
    let name = info.url.strip_prefix("nar/").and_then(|name| name.split_once('.'));
    let is_file_hash = |hash: Sha256| name.is_some_and(|(stem, _)| stem == hash.to_base32());
    is_named_after_nar(info, &info.url) || info.file_hash.is_some_and(is_file_hash)
}

/// Whether this is a place for nothing but the NAR of `info`.
fn is_named_after_nar(info: &PathInfo, url: &str) -> bool {
    url == own_url(info, info.compression) || url == nar_url(info.nar_hash)
}

/// Gives the published file of `info` the name `wanted`, or our own name where another file lies there; says which.
///
/// What lies under a name that says what lies there, and is something else, was damaged: it is replaced.
fn place_published(
    root: &Path,
    narinfo: &Path,
    info: &PathInfo,
    (file, wanted): (PartialFile, String),
) -> Result<String, WriteError> {
    let file = match file.keep_first(&root.join(&wanted))? {
        Ok(()) => return Ok(wanted),
        Err(file) => file,
    };
    // A FileHash is the word of whoever published it: only bytes that have it take the place that is named after it.
    let is_its_place = is_named_after_nar(info, &wanted)
        || (is_named_after(info) && info.url == wanted && Some(file.hash()?) == info.file_hash);
    let (file, url) = match is_its_place {
        true => (file, wanted),
        false => {
            let own = own_url(info, info.compression);
            match file.keep_first(&root.join(&own))? {
                Ok(()) => return Ok(own),
                Err(file) => (file, own),
            }
        }
    };
    // The path is better absent than with a narinfo whose FileHash is that of the file before.
    let there = fs::read(narinfo).ok().and_then(|text| PathInfo::parse(&text).ok());
    if there.is_some_and(|there| there.url == url) {
        fs::remove_file(narinfo).map_err(|source| WriteError::disk(narinfo, source))?;
    }
    file.replace(&root.join(&url))?;
    Ok(url)
}

/// Whether an object of this kind may have this URL.
fn is_usable_blob_url(kind: KeyKind, url: &str) -> bool {
    let folders: &[&str] = match kind {
        KeyKind::BuildLog => &["log/"],
        KeyKind::Realisation => &["realisations/", "build-trace-v2/"],
        KeyKind::DebugInfo => &["debuginfo/"],
        KeyKind::StorePath => &[],
    };
    check_cache_url(url).is_ok() && folders.iter().any(|folder| url.starts_with(folder))
}

fn prepare(root: &Path) -> Result<File, CommandError> {
    fs::create_dir_all(root).map_err(|source| CommandError::file("make the directory", root, source))?;
    let info = root.join(CACHE_INFO);
    if !info.exists() {
        let entries = fs::read_dir(root).map_err(|source| CommandError::file("list", root, source))?;
        if entries.flatten().any(|entry| !is_partial(&entry.file_name())) {
            return Err(CommandError::Failed(format!(
                "{} is not empty and no binary cache: name a new directory",
                root.display()
            )));
        }
        let text = format!("StoreDir: {STORE_DIR}\nWantMassQuery: 1\nPriority: 45\n");
        let written = PartialFile::from_text(root, text.as_bytes()).and_then(|file| file.keep_first(&info));
        written.map_err(|error| CommandError::Failed(error.to_string()))?.ok();
    }
    let lock = File::open(&info).map_err(|source| CommandError::file("open", &info, source))?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let place = root.display();
            return Err(CommandError::Failed(format!("another program writes into {place} at the moment")));
        }
        Err(error) => return Err(CommandError::file("lock", &info, error.into())),
    }
    for place in FOLDERS.iter().map(|folder| root.join(folder)).chain([root.to_owned()]) {
        // What is not there or cannot be listed has nothing to be tidied.
        let entries = fs::read_dir(&place).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| is_partial(&entry.file_name())) {
            fs::remove_file(entry.path())
                .map_err(|source| CommandError::file("remove", entry.path(), source))?;
        }
    }
    Ok(lock)
}

fn is_partial(name: &std::ffi::OsStr) -> bool {
    let name = name.to_string_lossy();
    name.starts_with(PARTIAL_PREFIX) && name.ends_with(PARTIAL_SUFFIX)
}

fn write_narinfo(
    root: &Path,
    path: &Path,
    info: &PathInfo,
    (nar, named): (&StoredNar, NamedNar),
    listing: Option<&[u8]>,
) -> Result<NarInfoOutcome, WriteError> {
    let there = fs::read(path).ok().and_then(|text| PathInfo::parse(&text).ok());
    if there.as_ref().is_some_and(|there| there.fingerprint() != info.fingerprint()) {
        return Ok(NarInfoOutcome::OtherStays);
    }
    if let Some(listing) = listing {
        write_listing(root, &path.with_extension("ls"), listing)?;
    }
    let file = nar.sha256.map(|hash| (hash, nar.bytes));
    let (text, outcome) = match there {
        None => (info.to_narinfo(&nar.url, nar.compression.name(), file), NarInfoOutcome::Written),
        Some(mut there) => {
            let fresh = info.signatures.iter().filter(|one| !there.signatures.contains(one));
            let fresh: Vec<_> = fresh.cloned().collect();
            let (file_hash, file_size) = file.unzip();
            let is_same_file = there.url == nar.url
                && there.compression == nar.compression
                && (there.file_hash, there.file_size) == (file_hash, file_size);
            let stays = is_same_file || named == NamedNar::First;
            if fresh.is_empty() && stays {
                return Ok(NarInfoOutcome::Merged);
            }
            there.signatures.extend(fresh);
            let text = match stays {
                true => there.to_string(),
                false => there.to_narinfo(&nar.url, nar.compression.name(), file),
            };
            (text, NarInfoOutcome::Merged)
        }
    };
    PartialFile::from_text(root, text.as_bytes())?.replace(path)?;
    Ok(outcome)
}

/// Writes a listing, unless it lies there already.
fn write_listing(root: &Path, path: &Path, listing: &[u8]) -> Result<(), WriteError> {
    let is_there = fs::symlink_metadata(path)
        .is_ok_and(|there| there.is_file() && there.len() == listing.len() as u64)
        && fs::read(path).is_ok_and(|there| there == listing);
    if is_there { Ok(()) } else { PartialFile::from_text(root, listing)?.replace(path) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use bytes::Bytes;
    use firn_nix_format::{NamedSignature, StorePath};
    use futures::{StreamExt, stream};

    use super::*;
    use crate::nar_encoder::Encoder;

    fn info(seed: u8, url: &str, compression: Compression) -> PathInfo {
        PathInfo {
            compression,
            ..PathInfo::of_nar(
                StorePath::from_parts([seed; 20], "x").unwrap(),
                url.to_owned(),
                Sha256::of(&[seed]),
                1,
            )
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
        assert_eq!(
            cache.add_published_nar(&one, NarCompression::None, bytes("one")).await.unwrap().url,
            "nar/a.nar.xz"
        );
        assert_eq!(
            cache.add_published_nar(&one, NarCompression::None, bytes("one")).await.unwrap().url,
            "nar/a.nar.xz"
        );
        let two = info(2, "nar/a.nar.xz", Compression::Xz);
        let StoredNar { url, bytes: count, .. } =
            cache.add_published_nar(&two, NarCompression::None, bytes("other")).await.unwrap();
        assert_eq!((url.as_str(), count), (own_url(&two, Compression::Xz).as_str(), 5));
        assert_eq!(fs::read_to_string(cache.root.join("nar/a.nar.xz")).unwrap(), "one");
        assert_eq!(fs::read_to_string(cache.root.join(url)).unwrap(), "other");
        assert_eq!(fs::read_dir(cache.root.join("nar")).unwrap().count(), 2, "nothing is left behind");
    }

    /// The path info of a NAR whose published file `xz -6` has made, and that file.
    fn made(nar: &'static str, url: impl FnOnce(Sha256) -> String) -> (PathInfo, Vec<u8>) {
        let mut encoder = Encoder::new(NarCompression::XZ, Vec::new()).unwrap();
        encoder.write_all(nar.as_bytes()).unwrap();
        let file = encoder.finish().unwrap();
        let hash = Sha256::of(&file);
        let info = PathInfo {
            file_hash: Some(hash),
            file_size: Some(file.len() as u64),
            nar_hash: Sha256::of(nar.as_bytes()),
            nar_size: nar.len() as u64,
            ..info(1, &url(hash), Compression::Xz)
        };
        (info, file)
    }

    fn by_hash(hash: Sha256) -> String {
        format!("nar/{}.nar.xz", hash.to_base32())
    }

    fn narinfo(cache: &CacheDirectory, info: &PathInfo) -> String {
        fs::read_to_string(cache.narinfo_path(info)).unwrap()
    }

    #[tokio::test]
    async fn a_file_that_is_made_again_gets_its_name_only_if_it_has_its_file_hash() {
        let (_place, cache) = cache().await;
        let (info, file) = made("the nar", by_hash);
        let lie = PathInfo { file_hash: Some(Sha256::of(b"another")), ..info.clone() };
        let error = cache.add_published_nar(&lie, NarCompression::XZ, bytes("the nar")).await.unwrap_err();
        let hashes = (info.file_hash.unwrap(), lie.file_hash.unwrap());
        assert!(
            matches!(error, WriteError::OtherFile { made, published } if (made, published) == hashes),
            "{error}"
        );
        assert_eq!(fs::read_dir(cache.root.join("nar")).unwrap().count(), 0, "nothing is left behind");
        let nar = cache.add_published_nar(&info, NarCompression::XZ, bytes("the nar")).await.unwrap();
        cache.add_narinfo(&info, &nar, NamedNar::First, None).await.unwrap();
        assert_eq!(fs::read(cache.root.join(&info.url)).unwrap(), file);
        assert_eq!(narinfo(&cache, &info), info.to_string());
    }

    #[tokio::test]
    async fn a_damaged_file_is_replaced_where_its_name_says_which_bytes_are_its_own() {
        let (_place, cache) = cache().await;
        let (info, file) = made("the nar", by_hash);
        let add = async |info: &PathInfo, compression, text| {
            cache.add_published_nar(info, compression, bytes(text)).await.unwrap().url
        };
        fs::create_dir_all(cache.root.join("nar")).unwrap();
        fs::write(cache.root.join(&info.url), "damaged").unwrap();
        assert_eq!(add(&info, NarCompression::XZ, "the nar").await, info.url);
        assert_eq!(fs::read(cache.root.join(&info.url)).unwrap(), file);
        // Whoever states the hash of another file does not get its place.
        let liar = PathInfo { store_path: StorePath::from_parts([2; 20], "x").unwrap(), ..info.clone() };
        assert_eq!(add(&liar, NarCompression::None, "a lie").await, own_url(&liar, Compression::Xz));
        assert_eq!(fs::read(cache.root.join(&info.url)).unwrap(), file);
        // A name that says nothing belongs to whoever came first.
        let (info, _) = made("the nar", |_| "nar/a.nar.xz".to_owned());
        fs::write(cache.root.join(&info.url), "of another path").unwrap();
        assert_eq!(add(&info, NarCompression::XZ, "the nar").await, own_url(&info, Compression::Xz));
        assert_eq!(fs::read_to_string(cache.root.join(&info.url)).unwrap(), "of another path");
    }

    #[tokio::test]
    async fn no_narinfo_states_the_hash_of_a_file_that_was_replaced() {
        let (_place, cache) = cache().await;
        let (mut info, file) = made("the nar", by_hash);
        info.url = own_url(&info, Compression::Xz);
        // What another encoder made, where the published file belongs.
        let other = liblzma::encode_all(&b"the nar"[..], 1).unwrap();
        fs::create_dir_all(cache.root.join("nar")).unwrap();
        fs::write(cache.root.join(&info.url), &other).unwrap();
        let of_other = (Sha256::of(&other), other.len() as u64);
        fs::write(cache.narinfo_path(&info), info.to_narinfo(&info.url, "xz", Some(of_other))).unwrap();
        let nar = cache.add_published_nar(&info, NarCompression::XZ, bytes("the nar")).await.unwrap();
        assert_eq!(fs::read(cache.root.join(&info.url)).unwrap(), file);
        assert!(!cache.narinfo_path(&info).exists());
        cache.add_narinfo(&info, &nar, NamedNar::Added, None).await.unwrap();
        assert_eq!(narinfo(&cache, &info), info.to_string());
    }

    #[tokio::test]
    async fn a_narinfo_names_another_file_only_where_that_is_wanted() {
        let (_place, cache) = cache().await;
        let published = info(1, &nar_url(Sha256::of(&[1])), Compression::None);
        let first = StoredNar {
            url: published.url.clone(),
            compression: Compression::None,
            bytes: 1,
            sha256: Some(published.nar_hash),
        };
        let add = async |nar: &StoredNar, named| {
            cache.add_narinfo(&published, nar, named, None).await.unwrap();
            PathInfo::parse(narinfo(&cache, &published).as_bytes()).unwrap()
        };
        let there = add(&first, NamedNar::First).await;
        assert_eq!((there.file_hash, there.file_size), (first.sha256, Some(1)));
        for changed in [
            StoredNar { url: "nar/a.nar".to_owned(), ..first.clone() },
            StoredNar { url: "nar/a.nar.xz".to_owned(), compression: Compression::Xz, ..first.clone() },
            StoredNar { bytes: 2, ..first.clone() },
            // As it was published: without FileHash.
            StoredNar { sha256: None, ..first.clone() },
        ] {
            assert_eq!(add(&changed, NamedNar::First).await, there);
            let now = add(&changed, NamedNar::Added).await;
            let size = changed.sha256.map(|_| changed.bytes);
            assert_eq!(
                (&now.url, now.compression, now.file_hash, now.file_size),
                (&changed.url, changed.compression, changed.sha256, size)
            );
            assert_eq!(add(&first, NamedNar::Added).await, there);
        }
    }

    #[tokio::test]
    async fn no_url_leads_out_of_the_cache_or_onto_other_files() {
        let (_place, cache) = cache().await;
        let foreign = nar_url(Sha256::of(b"another"));
        let others = own_url(&info(4, "", Compression::Xz), Compression::Xz);
        let outside = ["../secret", "/etc/passwd", "nix-cache-info", "x.narinfo", "nar/../x", "nar/.x"];
        for url in outside.into_iter().chain([foreign.as_str(), &others]) {
            let hostile = info(3, url, Compression::Xz);
            let stored = cache.add_published_nar(&hostile, NarCompression::None, bytes("x")).await.unwrap();
            assert_eq!(stored.url, own_url(&hostile, Compression::Xz));
        }
        for url in ["../log/x", "nix-cache-info", "nar/x", "log/../../x", "log"] {
            let error = cache.add_blob(KeyKind::BuildLog, url, bytes("x")).await.unwrap_err();
            assert!(matches!(&error, WriteError::Refused { url: own } if own == url), "{error}");
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
            let url = "nar/b.nar".to_owned();
            let nar = StoredNar { url, compression: Compression::None, bytes: 1, sha256: None };
            cache.add_narinfo(info, &nar, NamedNar::First, None).await.unwrap()
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
    async fn a_listing_is_there_before_its_narinfo_and_belongs_to_it() {
        let (_place, cache) = cache().await;
        let info = info(1, "nar/a.nar", Compression::None);
        let url = "nar/b.nar".to_owned();
        let nar = StoredNar { url, compression: Compression::None, bytes: 1, sha256: None };
        let add = async |info: &PathInfo, text: &str| {
            cache.add_narinfo(info, &nar, NamedNar::First, Some(text.as_bytes().to_vec())).await
        };
        let narinfo = cache.narinfo_path(&info);
        let listing = narinfo.with_extension("ls");
        // Where a listing cannot be written there is no narinfo, so that the next export tries again.
        fs::create_dir_all(listing.join("in the way")).unwrap();
        assert!(add(&info, "tree").await.is_err());
        assert!(!narinfo.exists());
        fs::remove_dir_all(&listing).unwrap();
        assert_eq!(add(&info, "tree").await.unwrap(), NarInfoOutcome::Written);
        assert_eq!(fs::read_to_string(&listing).unwrap(), "tree");
        for damaged in ["trxe", "", "longer than it was"] {
            fs::write(&listing, damaged).unwrap();
            assert_eq!(add(&info, "tree").await.unwrap(), NarInfoOutcome::Merged);
            assert_eq!(fs::read_to_string(&listing).unwrap(), "tree");
        }
        let other = PathInfo { nar_hash: Sha256::of(b"other"), ..info };
        assert_eq!(add(&other, "another tree").await.unwrap(), NarInfoOutcome::OtherStays);
        assert_eq!(fs::read_to_string(&listing).unwrap(), "tree");
    }

    #[tokio::test]
    async fn a_directory_with_other_files_is_refused() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("letter.txt"), "dear").unwrap();
        let error = CacheDirectory::open(&Environment::real(), place.path()).await.unwrap_err();
        assert!(error.to_string().contains("is not empty"), "{error}");
    }

    #[tokio::test]
    async fn one_program_writes_at_a_time_and_tidies_up_after_one_that_was_killed() {
        let (_place, cache) = cache().await;
        let again = CacheDirectory::open(&Environment::real(), &cache.root).await.unwrap_err();
        assert!(again.to_string().contains("another program writes into"), "{again}");
        fs::create_dir_all(cache.root.join("nar")).unwrap();
        let left = ["nar/.firn-abc.partial", ".firn-def.partial"].map(|name| cache.root.join(name));
        let stays = cache.root.join("nar/x.partial");
        for path in left.iter().chain([&stays]) {
            fs::write(path, "half").unwrap();
        }
        let root = cache.root.clone();
        drop(cache);
        let _cache = CacheDirectory::open(&Environment::real(), &root).await.unwrap();
        assert_eq!((left.each_ref().map(|path| path.exists()), stays.exists()), ([false, false], true));
    }
}
