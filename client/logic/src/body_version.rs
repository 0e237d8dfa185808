//! Whether an answer goes on where a broken one ended.
//!
//! Always holds: only bytes of the very same version of a file are put together. A server's word for that is a strong ETag,
//! the length of the whole, and the place at which its answer begins; where any of them is missing or another, it is no.
//! Leaves to others: what is done then (the client library begins the file anew and compares what it had).

/// What a server says of the version of a file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BodyVersion {
    /// The strong ETag, with its quotes.
    pub etag: Option<String>,
    /// Bytes of the whole file.
    pub bytes: Option<u64>,
}

/// A part of a file, as `Content-Range` says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyPart {
    /// The first byte.
    pub first: u64,
    /// The last byte.
    pub last: u64,
    /// Bytes of the whole file, where that is known.
    pub bytes: Option<u64>,
}

impl BodyVersion {
    /// By the headers `ETag` and `Content-Length` of an answer with the whole file. A weak tag does not say that bytes
    /// are equal.
    pub fn new(etag: Option<&str>, bytes: Option<u64>) -> Self {
        let strong = |tag: &&str| tag.len() > 2 && tag.starts_with('"') && tag.ends_with('"');
        Self { etag: etag.map(str::trim).filter(strong).map(str::to_owned), bytes }
    }

    /// Whether an answer of this part under this ETag is the rest of this version from `offset` on.
    pub fn continues(&self, offset: u64, part: Option<BodyPart>, etag: Option<&str>) -> bool {
        let (Some(own), Some(bytes), Some(part)) = (&self.etag, self.bytes, part) else { return false };
        part == BodyPart { first: offset, last: bytes.wrapping_sub(1), bytes: Some(bytes) }
            && Self::new(etag, None).etag.as_ref() == Some(own)
    }
}

impl BodyPart {
    /// By the header `Content-Range` (`bytes 5-9/10`).
    pub fn parse(text: &str) -> Option<Self> {
        let (range, whole) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let bytes = if whole == "*" { None } else { Some(whole.parse().ok()?) };
        Some(Self { first: first.parse().ok()?, last: last.parse().ok()?, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn continues(offset: u64, range: &str, etag: &str) -> bool {
        BodyVersion::new(Some("\"a\""), Some(10)).continues(offset, BodyPart::parse(range), Some(etag))
    }

    #[test]
    fn only_the_rest_of_the_same_version_continues() {
        assert!(continues(5, "bytes 5-9/10", "\"a\""));
        for (range, etag) in [
            ("bytes 5-9/10", "\"b\""),
            ("bytes 5-9/10", "W/\"a\""),
            ("bytes 4-9/10", "\"a\""),
            ("bytes 5-8/10", "\"a\""),
            ("bytes 5-9/11", "\"a\""),
            ("bytes 5-9/*", "\"a\""),
            ("bytes */10", "\"a\""),
            ("5-9/10", "\"a\""),
        ] {
            assert!(!continues(5, range, etag), "{range} {etag}");
        }
    }

    #[test]
    fn nothing_continues_a_version_without_a_strong_etag_or_a_length() {
        let part = BodyPart::parse("bytes 5-9/10");
        for version in [
            BodyVersion::new(Some("W/\"a\""), Some(10)),
            BodyVersion::new(None, Some(10)),
            BodyVersion::new(Some("\"a\""), None),
        ] {
            assert!(!version.continues(5, part, Some("\"a\"")), "{version:?}");
        }
        assert!(!BodyVersion::new(Some("\"a\""), Some(0)).continues(5, part, Some("\"a\"")));
    }
}
