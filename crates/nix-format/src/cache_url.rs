//! The URL of a narinfo: where in its cache the NAR lies, never outside of it.

use crate::preview;

/// Most bytes of a URL. File names end at 255 and caches nest a folder or two.
pub const CACHE_URL_BYTES_MAX: usize = 1024;

/// Why a URL is not followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CacheUrlError {
    /// It is longer than [`CACHE_URL_BYTES_MAX`].
    #[error("the URL `{0}…` is longer than 1024 bytes")]
    TooLong(String),
    /// It is absolute, has a scheme, or climbs with `..`, plainly or percent-encoded.
    #[error("the URL `{0}` leads out of the cache; it must be a plain relative path such as nar/name.nar.xz")]
    LeavesCache(String),
}

/// Checks that `url`, joined to a cache's directory or address, stays below it.
///
/// A query is allowed (`nar/x.nar?hash=…` occurs); it is held to the same rules, because in a directory it is
/// part of the file name.
pub fn check_cache_url(url: &str) -> Result<(), CacheUrlError> {
    if url.len() > CACHE_URL_BYTES_MAX {
        return Err(CacheUrlError::TooLong(preview(url)));
    }
    let decoded = percent_decoded(url.as_bytes());
    if [url.as_bytes(), &decoded].into_iter().all(stays_below) {
        Ok(())
    } else {
        Err(CacheUrlError::LeavesCache(preview(url)))
    }
}

/// Whether every segment is a plain name.
fn stays_below(path: &[u8]) -> bool {
    let plain = |byte: &u8| !byte.is_ascii_control() && !b"\\# ".contains(byte);
    let mut segments = path.split(|byte| *byte == b'/');
    // A colon before the first slash would make a scheme or a drive letter.
    let scheme = path.split(|byte| *byte == b'/').next().is_some_and(|first| first.contains(&b':'));
    path.iter().all(plain)
        && !scheme
        && segments.all(|segment| {
            let name = segment.split(|byte| *byte == b'?').next().unwrap_or_default();
            !name.is_empty() && ![&b"."[..], b".."].iter().any(|dots| segment == *dots || name == *dots)
        })
}

/// `text` with each `%` and two hexadecimal digits replaced by the byte they name, once.
fn percent_decoded(text: &[u8]) -> Vec<u8> {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        let named = match (first, digit(tail.first()), digit(tail.get(1))) {
            (b'%', Some(high), Some(low)) => u8::try_from(high * 16 + low).ok(),
            _ => None,
        };
        decoded.push(named.unwrap_or(*first));
        rest = if named.is_some() { &tail[2..] } else { tail };
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_real_caches_are_followed() {
        for url in [
            "nar/1094wph9z4nwlgvsd53abfz8i117ykiv5dwnq9nnhz846s7xqd7d.nar.xz",
            "nar/14vg46h9nbbqgbrbszrqm48f0bgzj6c4q3wkkcjf6gp53g8b21gh.nar?hash=jiwdym6f9w6v5jcbqf5wn7fmg11v5q0j",
            "deep/er/x..y.nar",
            "x.nar",
            "nar/100%",
            "nar/sha256:x.nar",
        ] {
            assert_eq!(check_cache_url(url), Ok(()), "{url}");
        }
    }

    #[test]
    fn urls_that_lead_out_of_the_cache_are_refused() {
        for url in [
            "",
            "/etc/passwd",
            "../../etc/passwd",
            "nar/../../etc/passwd",
            "nar/..",
            "nar/./x",
            "nar//x",
            "nar/",
            "//host/x",
            "https://host/x.nar",
            "file:///etc/passwd",
            "C:\\x",
            "nar\\..\\x",
            "nar/%2e%2e/%2E%2e/etc/passwd",
            "nar%2f..%2f..%2fx",
            "%2fetc%2fpasswd",
            "nar/..?x",
            "nar/x?y/../../z",
            "nar/x\n",
            "nar/x\0",
            "nar/x%00",
            "nar/x#y",
        ] {
            let error = check_cache_url(url).unwrap_err().to_string();
            assert!(error.contains("leads out of the cache"), "{url}");
        }
        assert!(check_cache_url(&"n".repeat(1025)).unwrap_err().to_string().contains("1024 bytes"));
    }
}
