//! The part that strangers have of what an owner lends.
//!
//! Always holds: of a bounded rate and of a month's traffic they have a tenth at most, all of them together, whatever else the line
//! does. Where the owner set no bound, there is none for them either: there is nothing to take a part of.
//! Leaves to others: who is a stranger (`known_readers`), keeping the pace (the shell).

use firn_base::{BitRate, ByteCount};

/// The part of strangers, in per cent.
pub const STRANGERS_PER_CENT: u64 = 10;

// What is sent beside the bytes of a range: headers of datagrams, of QUIC and of streams are less than a sixteenth.
const HEADERS_PART: u64 = 16;

/// How fast strangers are sent to at most, all together; none if the owner set no bound. It does not fall outside the hours in
/// which a node works: the whole line is slow then, and whoever finds nobody else may be a stranger.
pub fn strangers_rate(max_upload: Option<BitRate>) -> Option<BitRate> {
    max_upload.map(|rate| BitRate { bytes_per_second: part(rate.bytes_per_second) })
}

/// What strangers have of a month's traffic.
pub fn strangers_month(monthly_traffic: ByteCount) -> ByteCount {
    ByteCount(part(monthly_traffic.0))
}

/// What a range of so many bytes counts as, sent.
pub const fn on_the_line(bytes: u64) -> u64 {
    bytes.saturating_add(bytes.div_ceil(HEADERS_PART))
}

const fn part(whole: u64) -> u64 {
    // No overflow, and nothing above the part.
    whole / 100 * STRANGERS_PER_CENT + whole % 100 * STRANGERS_PER_CENT / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_have_a_tenth_of_rate_and_month() {
        let rate = |bytes_per_second| Some(BitRate { bytes_per_second });
        assert_eq!(strangers_rate(rate(1_250_000)), rate(125_000));
        assert_eq!(strangers_rate(rate(1_249_999)), rate(124_999));
        assert_eq!(strangers_rate(None), None);
        assert_eq!(strangers_month(ByteCount(2_000_000_000_000)), ByteCount(200_000_000_000));
        assert_eq!(strangers_month(ByteCount(u64::MAX)).0, u64::MAX / 10);
    }

    #[test]
    fn headers_count() {
        assert_eq!((on_the_line(0), on_the_line(1), on_the_line(16_000)), (0, 2, 17_000));
        assert_eq!(on_the_line(u64::MAX), u64::MAX);
    }
}
