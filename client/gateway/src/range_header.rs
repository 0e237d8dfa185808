//! The Range header: one range of bytes, or none.
//!
//! Always holds: a range that is acted on lies within the object and is not empty.

use std::ops::Range;

/// What part of an object a request wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// All of it: no range, one that is not understood, or several, which a server may answer so.
    Whole,
    /// One range.
    Part(Range<u64>),
    /// A range of which nothing exists.
    Nothing,
}

/// Reads a Range header for an object of `bytes`.
pub(crate) fn wanted(header: Option<&str>, bytes: u64) -> Wanted {
    let spec = header.and_then(|header| header.trim().strip_prefix("bytes="));
    let Some((first, last)) = spec.and_then(|spec| spec.trim().split_once('-')) else { return Wanted::Whole };
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        // A number too large for us is behind the end of everything.
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    let (first, last) = (first.trim(), last.trim());
    let range = match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(bytes),
        (Some(first), None) if last.is_empty() => first..bytes,
        (None, Some(suffix)) if first.is_empty() => bytes.saturating_sub(suffix)..bytes,
        _ => return Wanted::Whole,
    };
    if range.start < range.end { Wanted::Part(range) } else { Wanted::Nothing }
}

/// Whether the range counts from the end, so that the length has to be known to find where it begins.
pub(crate) fn counts_from_end(header: Option<&str>) -> bool {
    let spec = header.and_then(|header| header.trim().strip_prefix("bytes="));
    spec.is_some_and(|spec| spec.trim().starts_with('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_range_is_cut_to_the_object() {
        for (header, range) in [
            ("bytes=0-9", 0..10),
            ("bytes=90-", 90..100),
            ("bytes=-10", 90..100),
            ("bytes=-1000", 0..100),
            ("bytes=50-1000", 50..100),
            ("bytes= 5 - 5 ", 5..6),
            ("bytes=0-99999999999999999999999", 0..100),
        ] {
            assert_eq!(wanted(Some(header), 100), Wanted::Part(range), "{header}");
        }
    }

    #[test]
    fn a_range_behind_the_end_is_nothing() {
        for header in ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=99999999999999999999999-"] {
            assert_eq!(wanted(Some(header), 100), Wanted::Nothing, "{header}");
        }
        assert_eq!(wanted(Some("bytes=0-"), 0), Wanted::Nothing);
    }

    #[test]
    fn only_a_range_without_a_first_byte_counts_from_the_end() {
        assert!(counts_from_end(Some("bytes=-5")) && counts_from_end(Some("bytes= -5")));
        for header in [None, Some("bytes=5-"), Some("bytes=0-5"), Some("lines=-5")] {
            assert!(!counts_from_end(header), "{header:?}");
        }
    }

    #[test]
    fn what_is_not_one_range_of_bytes_is_the_whole() {
        for header in
            ["bytes=0-1,5-6", "lines=1-2", "bytes=", "bytes=-", "bytes=9-1", "bytes=+1-2", "bytes=a-b"]
        {
            assert_eq!(wanted(Some(header), 100), Wanted::Whole, "{header}");
        }
        assert_eq!(wanted(None, 100), Wanted::Whole);
    }
}
