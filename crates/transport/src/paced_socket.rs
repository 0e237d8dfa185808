//! A UDP socket that sends no faster than it may.
//!
//! Owns: waiting for the line. Always holds: every datagram counts, its IP and UDP headers included; whoever wants to
//! send waits his turn among all others; nothing is dropped or queued here. What is sent without asking first, the
//! answers to newcomers, is made up for by waiting.
//! Leaves to others: what is sent (quinn), the rate (`pace`), what is received.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use firn_base::BitRate;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::pace::Pace;

// A batch of datagrams that takes longer than 5 ms makes everybody else on the line wait.
const BATCHES_PER_SECOND: u64 = 200;

// Headers of UDP and IPv6. IPv4's are 20 bytes less: the line's owner is better served with too much.
const HEADERS_BYTES: u64 = 8 + 40;

// The usual datagram, for choosing how many make a batch.
const DATAGRAM_BYTES: u64 = 1500;

/// A socket with a pace.
pub(crate) struct PacedSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    pace: Pace,
    sent: Arc<AtomicU64>,
}

impl PacedSocket {
    /// `inner`, sending at most at `rate`. What it sends is added to `sent`.
    pub(crate) fn new(inner: Arc<dyn AsyncUdpSocket>, rate: BitRate, sent: Arc<AtomicU64>) -> Self {
        Self { inner, pace: Pace::new(rate), sent }
    }
}

impl fmt::Debug for PacedSocket {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("PacedSocket").field("pace", &self.pace).finish_non_exhaustive()
    }
}

impl AsyncUdpSocket for PacedSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        let inner = Arc::clone(&self.inner).create_io_poller();
        Box::pin(PacedPoller { socket: self, inner, waiting: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.inner.try_send(transmit)?;
        let bytes = transmit.contents.len();
        let datagrams = transmit.segment_size.map_or(1, |segment| bytes.div_ceil(segment.max(1)));
        let bytes = bytes as u64 + datagrams as u64 * HEADERS_BYTES;
        self.sent.fetch_add(bytes, Ordering::Relaxed);
        self.pace.sent(bytes, Instant::now());
        Ok(())
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.inner.poll_recv(context, buffers, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments().min(batch(self.pace.rate()))
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

/// One connection's turn at the line.
struct PacedPoller {
    socket: Arc<PacedSocket>,
    inner: Pin<Box<dyn UdpPoller>>,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl fmt::Debug for PacedPoller {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("PacedPoller")
            .field("waiting", &self.waiting.is_some())
            .finish_non_exhaustive()
    }
}

impl UdpPoller for PacedPoller {
    fn poll_writable(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if let Some(waiting) = &mut self.waiting {
                ready!(waiting.as_mut().poll(context));
                self.waiting = None;
            }
            // Others may have sent meanwhile.
            let wait = self.socket.pace.wait(Instant::now());
            match wait {
                Some(until) => self.waiting = Some(Box::pin(sleep_until(until))),
                None => return self.inner.as_mut().poll_writable(context),
            }
        }
    }
}

/// How many datagrams fill a batch.
fn batch(rate: BitRate) -> usize {
    let datagrams = rate.bytes_per_second / BATCHES_PER_SECOND / DATAGRAM_BYTES;
    usize::try_from(datagrams).unwrap_or(usize::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_fit_the_rate_and_hold_a_datagram_at_least() {
        let of = |bytes_per_second| batch(BitRate { bytes_per_second });
        assert_eq!((of(0), of(1_250_000), of(125_000_000)), (1, 4, 416));
    }
}
