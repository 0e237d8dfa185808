//! A binary cache in a directory, as Nix reads it by `file://`.
//!
//! Owns: where files lie in it, and who writes into it. Always holds: nothing is written outside of it, whatever URL a
//! record names; a narinfo gets its name after its NAR and its listing, and all of them when their bytes are on disk; a
//! file that another path relies on is never replaced by different bytes: `nar/<NarHash>.nar` holds the NAR of that
//! hash, and `nar/<store path hash>-<NarHash>.nar…` that of this path, `nar/<FileHash>.nar…` the file of that hash
//! where its path info states it, and nothing else; one program writes at a time.
//! Leaves to others: which URL may be used for what (`places`), whether bytes are right (what is written was checked), what
//! lies there already (`cache_check`).

mod places;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use firn_base::KeyKind;
use firn_nix_format::{Compression, PathInfo, STORE_DIR, Sha256};
use firn_retrieval::ByteStream;
use firn_transport::Environment;
use rustix::fs::FlockOperation;
use tokio::sync::Mutex;

pub(crate) use self::places::is_published_place;
use self::places::{
    is_named_after, is_named_after_nar, is_usable_blob_url, is_usable_nar_url, nar_url, own_url,
};
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
