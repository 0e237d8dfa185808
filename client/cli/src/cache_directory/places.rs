//! Which place in a binary cache belongs to which file.
//!
//! Always holds: a URL that may be used leads nowhere but where files of its kind lie, and never to the place of another NAR
//! or of a file of our own.
//! Leaves to others: what is written there (`cache_directory`).

use std::fs;
use std::path::Path;

use firn_base::KeyKind;
use firn_nix_format::{Compression, PathInfo, Sha256, check_cache_url, nixbase32};

/// Where the NAR of this hash lies.
pub(super) fn nar_url(hash: Sha256) -> String {
    format!("nar/{}.nar", hash.to_base32())
}

/// Where the file of this path's NAR lies that has no other place: a name that no published URL may have.
pub(super) fn own_url(info: &PathInfo, compression: Compression) -> String {
    let (path, hash) = (info.store_path.hash_part(), info.nar_hash.to_base32());
    format!("nar/{path}-{hash}.nar{}", compression.file_suffix())
}

/// Whether the published URL may be used: it lies where NARs lie, and where it has the form of our own URLs it
/// is the one of this very NAR.
pub(super) fn is_usable_nar_url(info: &PathInfo) -> bool {
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
pub(super) fn is_named_after(info: &PathInfo) -> bool {
    let name = info.url.strip_prefix("nar/").and_then(|name| name.split_once('.'));
    let is_file_hash = |hash: Sha256| name.is_some_and(|(stem, _)| stem == hash.to_base32());
    is_named_after_nar(info, &info.url) || info.file_hash.is_some_and(is_file_hash)
}

/// Whether this is a place for nothing but the NAR of `info`.
pub(super) fn is_named_after_nar(info: &PathInfo, url: &str) -> bool {
    url == own_url(info, info.compression) || url == nar_url(info.nar_hash)
}

/// Whether an object of this kind may have this URL.
pub(super) fn is_usable_blob_url(kind: KeyKind, url: &str) -> bool {
    let folders: &[&str] = match kind {
        KeyKind::BuildLog => &["log/"],
        KeyKind::Realisation => &["realisations/", "build-trace-v2/"],
        KeyKind::DebugInfo => &["debuginfo/"],
        KeyKind::StorePath => &[],
    };
    check_cache_url(url).is_ok() && folders.iter().any(|folder| url.starts_with(folder))
}
