//! What a URL path asks for.
//!
//! Always holds: a key is well-formed before anything is looked up. Leaves to others: answering.

use firn_base::FilterId;
use firn_nix_format::{Sha256, nixbase32};

use crate::options::NarCompression;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    CacheInfo,
    NarInfo([u8; 20]),
    Nar {
        hash: [u8; 20],
        nar_hash: Sha256,
        compression: NarCompression,
    },
    /// `nar/<FileHash>.nar…`: what other caches' narinfos name.
    PublishedNar,
    Listing([u8; 20]),
    Log([u8; 20]),
    /// Which filters this gateway asks, for mirrors.
    FilterLists,
    Filter(FilterId),
    /// Kinds of objects that are not archived yet.
    Unarchived,
    Metrics,
    Health,
    Ready,
    /// Nothing that a binary cache has.
    Unknown,
    /// A key that cannot be one.
    Malformed(&'static str),
}

/// Which of the two caches under one roof is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Base {
    /// The one whose NARs are compressed as the gateway was told.
    Root,
    /// The one below `/plain`, for clients that know no zstd.
    Plain,
}

const STORE_HASH_DIGITS: usize = 32;
const NAR_HASH_DIGITS: usize = 52;

const MALFORMED_HASH: &str = "a store path hash has 32 characters of Nix's base32";
const MALFORMED_NAR: &str = "a NAR is named by a store path hash, a dash and the 52 characters of its NarHash: nar/<hash>-<NarHash>.nar, or .nar.zst";
const MALFORMED_FILTER: &str = "a filter is named by 64 hexadecimal digits";
const MALFORMED_LOG: &str = "a log is named by its derivation: log/<hash>-<name>.drv";

impl Target {
    /// Reads the path of a URL, with its leading slash.
    pub(crate) fn parse(path: &str) -> (Base, Self) {
        match path.strip_prefix('/') {
            None => (Base::Root, Self::Unknown),
            Some(path) => match path.strip_prefix("plain/") {
                None => (Base::Root, Self::below(path)),
                Some(path) => (Base::Plain, Self::below(path).in_cache()),
            },
        }
    }

    /// Only what a binary cache has: the rest is at the root alone.
    fn in_cache(self) -> Self {
        match self {
            Self::FilterLists | Self::Filter(_) | Self::Metrics | Self::Health | Self::Ready => Self::Unknown,
            target => target,
        }
    }

    fn below(path: &str) -> Self {
        if let Some(hash) = path.strip_suffix(".narinfo") {
            return store_hash(hash).map_or(Self::Malformed(MALFORMED_HASH), Self::NarInfo);
        }
        if let Some(name) = path.strip_prefix("nar/") {
            return nar(name);
        }
        if let Some(hash) = path.strip_suffix(".ls") {
            return store_hash(hash).map_or(Self::Malformed(MALFORMED_HASH), Self::Listing);
        }
        if let Some(derivation) = path.strip_prefix("log/") {
            return log(derivation).map_or(Self::Malformed(MALFORMED_LOG), Self::Log);
        }
        if let Some(id) = path.strip_prefix("firn/filters/") {
            return id.parse().map_or(Self::Malformed(MALFORMED_FILTER), Self::Filter);
        }
        match path {
            "firn/filters" => Self::FilterLists,
            "nix-cache-info" => Self::CacheInfo,
            "metrics" => Self::Metrics,
            "healthz" => Self::Health,
            "readyz" => Self::Ready,
            _ if ["realisations/", "build-trace-v2/", "debuginfo/"]
                .iter()
                .any(|one| path.starts_with(one)) =>
            {
                Self::Unarchived
            }
            _ => Self::Unknown,
        }
    }
}

fn store_hash(text: &str) -> Option<[u8; 20]> {
    nixbase32::decode(text).ok()
}

fn nar(name: &str) -> Target {
    let malformed = Target::Malformed(MALFORMED_NAR);
    let Some((stem, suffix)) = name.split_once(".nar") else { return malformed };
    if let Some((hash, nar_hash)) = stem.split_once('-') {
        return match (store_hash(hash), Sha256::from_base32(nar_hash), suffix) {
            (Some(hash), Ok(nar_hash), "") => {
                Target::Nar { hash, nar_hash, compression: NarCompression::None }
            }
            (Some(hash), Ok(nar_hash), ".zst") => {
                Target::Nar { hash, nar_hash, compression: NarCompression::Zstd }
            }
            _ => malformed,
        };
    }
    let published = stem.len() == NAR_HASH_DIGITS
        && Sha256::from_base32(stem).is_ok()
        && matches!(suffix, "" | ".xz" | ".bz2" | ".zst" | ".br" | ".gz" | ".lzip" | ".lz4");
    if published { Target::PublishedNar } else { malformed }
}

/// The hash of a derivation. The name may hold anything: it does not choose the log.
fn log(derivation: &str) -> Option<[u8; 20]> {
    let (hash, rest) = derivation.split_at_checked(STORE_HASH_DIGITS)?;
    if !rest.starts_with('-') || rest.contains('/') {
        return None;
    }
    store_hash(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "4d20g8srpvv02vkiwrmz28g62m15n56b";
    const NAR_HASH: &str = "0a65g9v2vzcn1k0qnvlgkzadgqqq2zlyn89i4h3sdccwqj630li3";

    #[test]
    fn every_url_of_a_binary_cache_is_understood() {
        let hash = nixbase32::decode(HASH).unwrap();
        let nar_hash = Sha256::from_base32(NAR_HASH).unwrap();
        let nar = |compression| Target::Nar { hash, nar_hash, compression };
        let (plain, zstd) = (nar(NarCompression::None), nar(NarCompression::Zstd));
        for (path, target) in [
            ("/nix-cache-info".to_owned(), Target::CacheInfo),
            (format!("/{HASH}.narinfo"), Target::NarInfo(hash)),
            (format!("/nar/{HASH}-{NAR_HASH}.nar"), plain),
            (format!("/nar/{HASH}-{NAR_HASH}.nar.zst"), zstd),
            (format!("/nar/{NAR_HASH}.nar.xz"), Target::PublishedNar),
            (format!("/{HASH}.ls"), Target::Listing(hash)),
            (format!("/log/{HASH}-hello-2.12.1.drv"), Target::Log(hash)),
            ("/realisations/sha256:00!out.doi".to_owned(), Target::Unarchived),
            ("/debuginfo/00ff".to_owned(), Target::Unarchived),
            ("/firn/filters".to_owned(), Target::FilterLists),
            (format!("/firn/filters/{}", "0a".repeat(32)), Target::Filter(FilterId::from_bytes([10; 32]))),
            ("/metrics".to_owned(), Target::Metrics),
            ("/".to_owned(), Target::Unknown),
            ("/index.html".to_owned(), Target::Unknown),
        ] {
            assert_eq!(Target::parse(&path), (Base::Root, target), "{path}");
        }
    }

    #[test]
    fn below_plain_lies_the_cache_and_nothing_else() {
        let hash = nixbase32::decode(HASH).unwrap();
        for (path, target) in [
            ("/plain/nix-cache-info".to_owned(), Target::CacheInfo),
            (format!("/plain/{HASH}.narinfo"), Target::NarInfo(hash)),
            (format!("/plain/log/{HASH}-hello.drv"), Target::Log(hash)),
            ("/plain/hello.narinfo".to_owned(), Target::Malformed(MALFORMED_HASH)),
            ("/plain/metrics".to_owned(), Target::Unknown),
            ("/plain/firn/filters".to_owned(), Target::Unknown),
            ("/plain/plain/nix-cache-info".to_owned(), Target::Unknown),
            ("/plain/".to_owned(), Target::Unknown),
        ] {
            assert_eq!(Target::parse(&path), (Base::Plain, target), "{path}");
        }
        assert_eq!(Target::parse("/plain"), (Base::Root, Target::Unknown));
    }

    #[test]
    fn keys_that_cannot_be_keys_are_malformed() {
        for path in [
            "/.narinfo".to_owned(),
            "/hello.narinfo".to_owned(),
            format!("/{}.narinfo", HASH.replace('4', "e")),
            format!("/{HASH}x.narinfo"),
            format!("/../{HASH}.narinfo"),
            "/hello.ls".to_owned(),
            "/nar/".to_owned(),
            "/nar/hello.nar".to_owned(),
            format!("/nar/{HASH}-{NAR_HASH}.nar.xz"),
            format!("/nar/{HASH}-{HASH}.nar"),
            format!("/nar/{NAR_HASH}.nar.exe"),
            "/log/hello.drv".to_owned(),
            format!("/log/{HASH}"),
            format!("/log/{HASH}-a/../b"),
            "/log/ü".to_owned(),
            "/firn/filters/0a".to_owned(),
        ] {
            assert!(matches!(Target::parse(&path), (Base::Root, Target::Malformed(_))), "{path}");
        }
    }
}
