//! A program's line to the network: how fast it may go each way, and what went.
//!
//! Always holds: every datagram counts, its IP and UDP headers included. Leaves to others: waiting for the line
//! (`paced_socket`), what the rates are and what becomes of the counts (the program).

use std::sync::atomic::{AtomicU64, Ordering};

use firn_base::BitRate;
use tokio::time::Instant;

use crate::pace::Pace;

// Headers of UDP and IPv6. IPv4's are 20 bytes less: the line's owner is better served with too much.
const HEADERS_BYTES: u64 = 8 + 40;

/// How fast a line may go; none: as fast as it can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LineRates {
    /// What is sent at most: data, handshakes, acknowledgements, headers.
    pub upload: Option<BitRate>,
    /// What is taken from the network at most, likewise.
    pub download: Option<BitRate>,
}

/// A line that an endpoint keeps to. Its rates may be changed while it is in use.
#[derive(Debug)]
pub struct Line {
    pub(crate) up: Way,
    pub(crate) down: Way,
}

/// One direction of a line.
#[derive(Debug)]
pub(crate) struct Way {
    pub(crate) pace: Pace,
    bytes: AtomicU64,
}

impl Line {
    /// A line on which nothing has gone yet.
    pub fn new(rates: LineRates) -> Self {
        Self { up: Way::new(rates.upload), down: Way::new(rates.download) }
    }

    /// How fast it may go.
    pub fn rates(&self) -> LineRates {
        LineRates { upload: self.up.pace.rate(), download: self.down.pace.rate() }
    }

    /// Changes how fast it may go from now on.
    pub fn set_rates(&self, rates: LineRates) {
        self.up.pace.set_rate(rates.upload);
        self.down.pace.set_rate(rates.download);
    }

    /// Bytes sent so far.
    pub fn sent_bytes(&self) -> u64 {
        self.up.bytes.load(Ordering::Relaxed)
    }

    /// Bytes received so far. What came while the line was full and the kernel dropped is not known.
    pub fn received_bytes(&self) -> u64 {
        self.down.bytes.load(Ordering::Relaxed)
    }
}

impl Way {
    fn new(rate: Option<BitRate>) -> Self {
        Self { pace: Pace::new(rate), bytes: AtomicU64::new(0) }
    }

    /// Notes that `bytes` bytes went at `now`, in datagrams of `datagram_bytes` each but for the last.
    pub(crate) fn note(&self, bytes: usize, datagram_bytes: usize, now: Instant) {
        let datagrams = bytes.div_ceil(datagram_bytes.max(1)).max(1);
        let bytes = bytes as u64 + datagrams as u64 * HEADERS_BYTES;
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.pace.sent(bytes, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_datagram_counts_with_its_headers() {
        let line = Line::new(LineRates::default());
        let now = Instant::now();
        line.up.note(3001, 1000, now);
        line.up.note(0, 0, now);
        line.down.note(1200, 1200, now);
        assert_eq!((line.sent_bytes(), line.received_bytes()), (3001 + 4 * 48 + 48, 1200 + 48));
    }

    #[test]
    fn a_changed_rate_counts_from_then_on() {
        let line = Line::new(LineRates::default());
        let now = Instant::now();
        line.up.note(1 << 30, 1200, now);
        assert_eq!(line.up.pace.wait(now), None);
        let rates = LineRates { upload: Some(BitRate { bytes_per_second: 125_000 }), download: None };
        line.set_rates(rates);
        line.up.note(10_000, 10_000, now);
        assert!(line.up.pace.wait(now).is_some());
        assert_eq!(line.rates(), rates);
        line.set_rates(LineRates::default());
        assert_eq!((line.up.pace.wait(now), line.rates()), (None, LineRates::default()));
    }
}
