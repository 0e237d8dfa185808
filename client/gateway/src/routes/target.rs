//! What a URL path asks for.
//!
//! Always holds: a key is well-formed before anything is looked up. Leaves to others: answering.

use firn_base::FilterId;
use firn_nix_format::{BuildId, RealisationUrl, Sha256, StorePath, nixbase32};

use super::percent;
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
    Realisation(RealisationUrl),
    DebugInfo(BuildId),
    /// How a store path stands.
    Why([u8; 20]),
    /// The page for people.
    Page,
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
const MALFORMED_REALISATION: &str = "a realisation is named by realisations/sha256:<64 digits>!<output>.doi or build-trace-v2/<derivation>/<output>.doi";
const MALFORMED_DEBUG_INFO: &str = "a debuginfo link is named by the 40 hexadecimal digits of its build id";
const MALFORMED_PATH: &str = "this is no store path: ask for /nix/store/<hash>-<name>, for <hash>-<name>, or for the 32 characters of the hash";
const MALFORMED_LOG: &str = "a log is named by its derivation: log/<hash>-<name>.drv";

impl Target {
    /// Reads the path of a URL, with its leading slash, and its query, which only a form has.
    pub(crate) fn parse(path: &str, query: Option<&str>) -> (Base, Self) {
        // A hash may begin with these letters, too.
        let named = match path.strip_prefix("/why") {
            Some("") => Some(query.and_then(|query| percent::field(query, "path"))),
            Some(rest) => rest.strip_prefix('/').map(|name| percent::decoded(name, false)),
            None => None,
        };
        if let Some(named) = named {
            let hash = named.and_then(|name| named_hash(&name));
            return (Base::Root, hash.map_or(Self::Malformed(MALFORMED_PATH), Self::Why));
        }
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
            Self::FilterLists | Self::Filter(_) | Self::Metrics | Self::Health | Self::Ready | Self::Page => {
                Self::Unknown
            }
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
            "" => Self::Page,
            _ if path.starts_with("realisations/") || path.starts_with("build-trace-v2/") => {
                let url = percent::decoded(path, false).and_then(|url| RealisationUrl::parse(&url).ok());
                url.map_or(Self::Malformed(MALFORMED_REALISATION), Self::Realisation)
            }
            _ if path.starts_with("debuginfo/") => {
                BuildId::from_url(path).map_or(Self::Malformed(MALFORMED_DEBUG_INFO), Self::DebugInfo)
            }
            _ => Self::Unknown,
        }
    }
}

fn store_hash(text: &str) -> Option<[u8; 20]> {
    nixbase32::decode(text).ok()
}

/// The hash of a store path as people write it: whole, with something below it, by its base name, or the hash alone.
fn named_hash(text: &str) -> Option<[u8; 20]> {
    let text = text.trim();
    let text = text.strip_prefix('/').unwrap_or(text);
    let text = text.strip_prefix("nix/store/").unwrap_or(text);
    let base_name = text.split_once('/').map_or(text, |(base_name, _)| base_name);
    match StorePath::from_base_name(base_name) {
        Ok(path) => Some(*path.hash()),
        Err(_) => store_hash(base_name.strip_suffix(".narinfo").unwrap_or(base_name)),
    }
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
        let id = format!("sha256:{}!out", "0a".repeat(32));
        let named = |url: &str| Target::Realisation(RealisationUrl::parse(url).unwrap());
        let realisation = named(&format!("realisations/{id}.doi"));
        let trace = named(&format!("build-trace-v2/{HASH}-tree.drv/out.doi"));
        let (plain, zstd) = (nar(NarCompression::None), nar(NarCompression::Zstd));
        for (path, target) in [
            ("/nix-cache-info".to_owned(), Target::CacheInfo),
            (format!("/{HASH}.narinfo"), Target::NarInfo(hash)),
            (format!("/nar/{HASH}-{NAR_HASH}.nar"), plain),
            (format!("/nar/{HASH}-{NAR_HASH}.nar.zst"), zstd),
            (format!("/nar/{NAR_HASH}.nar.xz"), Target::PublishedNar),
            (format!("/{HASH}.ls"), Target::Listing(hash)),
            (format!("/log/{HASH}-hello-2.12.1.drv"), Target::Log(hash)),
            (format!("/realisations/{id}.doi"), realisation.clone()),
            (format!("/realisations/{}.doi", id.replace(':', "%3A").replace('!', "%21")), realisation),
            (format!("/build-trace-v2/{HASH}-tree.drv/out.doi"), trace),
            (format!("/debuginfo/{}.debug", "ab".repeat(20)), Target::DebugInfo(BuildId([0xab; 20]))),
            (format!("/debuginfo/{}", "ab".repeat(20)), Target::DebugInfo(BuildId([0xab; 20]))),
            ("/firn/filters".to_owned(), Target::FilterLists),
            (format!("/firn/filters/{}", "0a".repeat(32)), Target::Filter(FilterId::from_bytes([10; 32]))),
            ("/metrics".to_owned(), Target::Metrics),
            ("/".to_owned(), Target::Page),
            ("/index.html".to_owned(), Target::Unknown),
        ] {
            assert_eq!(Target::parse(&path, None), (Base::Root, target), "{path}");
        }
    }

    #[test]
    fn a_path_is_asked_for_in_every_way_that_people_write_it() {
        let why = (Base::Root, Target::Why(nixbase32::decode(HASH).unwrap()));
        for path in [
            format!("/why/{HASH}"),
            format!("/why/{HASH}-hello-2.12.1"),
            format!("/why//nix/store/{HASH}-hello-2.12.1"),
            format!("/why/nix/store/{HASH}-hello-2.12.1/bin/hello"),
            format!("/why/%2Fnix%2Fstore%2F{HASH}-hello%2B%3F"),
            format!("/why/{HASH}.narinfo"),
        ] {
            assert_eq!(Target::parse(&path, None), why, "{path}");
        }
        for query in [
            format!("path=%2Fnix%2Fstore%2F{HASH}-hello"),
            format!("path=+{HASH}+"),
            format!("x=1&path={HASH}&path=x"),
        ] {
            assert_eq!(Target::parse("/why", Some(&query)), why, "{query}");
        }
        assert_eq!(Target::parse("/whynot", None), (Base::Root, Target::Unknown));
        let begins_so = format!("why{}", &HASH[3..]);
        let narinfo = Target::NarInfo(nixbase32::decode(&begins_so).unwrap());
        assert_eq!(Target::parse(&format!("/{begins_so}.narinfo"), None), (Base::Root, narinfo));
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
            assert_eq!(Target::parse(&path, None), (Base::Plain, target), "{path}");
        }
        assert_eq!(Target::parse("/plain", None), (Base::Root, Target::Unknown));
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
            "/realisations/".to_owned(),
            "/realisations/sha256:00!out.doi".to_owned(),
            "/realisations/%".to_owned(),
            format!("/build-trace-v2/{HASH}-tree/out.doi"),
            "/debuginfo/00ff".to_owned(),
            "/why".to_owned(),
            "/why/".to_owned(),
            "/why/hello".to_owned(),
            format!("/why/{}", HASH.to_uppercase()),
            format!("/why/%00{HASH}"),
        ] {
            assert!(matches!(Target::parse(&path, None), (Base::Root, Target::Malformed(_))), "{path}");
        }
    }
}
