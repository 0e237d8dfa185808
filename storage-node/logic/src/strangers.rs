//! The part that strangers have of what an owner lends.
//!
//! Always holds: of a bounded rate and of a month's traffic they have a tenth at most, all of them together. Outside the hours in which
//! a node works its line is slower, and that tenth may be all of it. Where the owner set no bound, there is none for them either:
//! there is nothing to take a part of.
//! Leaves to others: who is a stranger (`known_readers`), keeping the pace (the shell).

use std::time::Duration;

use firn_base::{BitRate, ByteCount};

use crate::rest::REST_UPLOAD;

/// The part of strangers, in per cent.
pub const STRANGERS_PER_CENT: u64 = 10;

// What is sent beside the bytes of a range: headers of datagrams, of QUIC and of streams are less than a sixteenth.
const HEADERS_PART: u64 = 16;

/// How fast strangers are sent to at most, all together; none if the owner set no bound. It does not fall outside the hours in
/// which a node works: the whole line is slow then, and whoever finds nobody else may be a stranger.
pub fn strangers_rate(max_upload: Option<BitRate>) -> Option<BitRate> {
    max_upload.map(|rate| part_of_rate(rate, STRANGERS_PER_CENT))
}

/// What strangers have of a month's traffic.
pub fn strangers_month(monthly_traffic: ByteCount) -> ByteCount {
    ByteCount(part(monthly_traffic.0, STRANGERS_PER_CENT))
}

/// What a range of so many bytes counts as, sent.
pub const fn on_the_line(bytes: u64) -> u64 {
    bytes.saturating_add(bytes.div_ceil(HEADERS_PART))
}

/// How long a turn of a stranger lasts at most who takes so many bytes, `at_once` of whom are sent to: twice what it takes if they
/// share what strangers have, and a minute. Who takes a piece now and then keeps others from the turn no longer than that.
pub fn stranger_turn_most(bytes: u64, rate: Option<BitRate>, at_once: usize) -> Duration {
    // Outside its hours a node is no faster than that, whatever strangers have of its line.
    let least = rate.map_or(REST_UPLOAD, |rate| rate.min(REST_UPLOAD)).bytes_per_second.max(1);
    let at_once = u64::try_from(at_once).unwrap_or(u64::MAX);
    let all_bytes = on_the_line(bytes).saturating_mul(at_once).saturating_mul(2);
    Duration::from_secs(60).saturating_add(Duration::from_secs(all_bytes / least))
}

/// So many per cent, at most all, of a rate.
pub const fn part_of_rate(rate: BitRate, per_cent: u64) -> BitRate {
    BitRate { bytes_per_second: part(rate.bytes_per_second, per_cent) }
}

const fn part(whole: u64, per_cent: u64) -> u64 {
    // No overflow, and nothing above the part.
    whole / 100 * per_cent + whole % 100 * per_cent / 100
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
    fn a_turn_is_bounded_by_what_all_strangers_together_take_twice_over() {
        let rate = |bytes_per_second| Some(BitRate { bytes_per_second });
        let seconds = |bytes, rate, at_once| stranger_turn_most(bytes, rate, at_once).as_secs();
        // With headers 4,250,000 bytes: 34 s at 1 Mbit/s.
        assert_eq!(seconds(4_000_000, rate(125_000), 1), 60 + 2 * 34);
        assert_eq!(seconds(4_000_000, rate(125_000), 8), 60 + 2 * 8 * 34);
        assert_eq!(seconds(4_000_000, rate(12_500), 8), 60 + 2 * 8 * 340);
        // A fast line is a slow one outside the hours.
        assert_eq!(seconds(4_000_000, rate(1_250_000), 8), seconds(4_000_000, rate(125_000), 8));
        assert_eq!(seconds(4_000_000, None, 8), seconds(4_000_000, rate(125_000), 8));
        assert_eq!(seconds(0, rate(0), 8), 60);
        assert_eq!(seconds(u64::MAX, rate(0), usize::MAX), u64::MAX);
    }

    #[test]
    fn headers_count() {
        assert_eq!((on_the_line(0), on_the_line(1), on_the_line(16_000)), (0, 2, 17_000));
        assert_eq!(on_the_line(u64::MAX), u64::MAX);
    }
}
