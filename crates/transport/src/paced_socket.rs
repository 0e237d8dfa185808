//! A UDP socket that sends and receives no faster than its line may go.
//!
//! Owns: waiting for the line. Always holds: every datagram counts; whoever wants to send waits his turn among all
//! others; nothing is dropped or queued here. What is sent without asking first, the answers to newcomers, is made up
//! for by waiting. What comes waits in the kernel's buffer, which is kept short for it: to senders this looks like a
//! slow line with a short queue, and they go as fast as it goes.
//! Leaves to others: what is sent (quinn), the rates and counts (`line`), the buffer (`endpoint`).

use std::fmt;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use firn_base::BitRate;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::Line;

// A batch of datagrams that takes longer than 5 ms makes everybody else on the line wait.
const BATCHES_PER_SECOND: u64 = 200;

// All who wait are woken when the line is free, and the first to be woken takes it: whoever has just had it would be
// first again, and signs of life would never get through beside one that always has more to send. Timers go by
// milliseconds, and the line's credit makes up for the pause if nobody else waits.
const GIVE_WAY: Duration = Duration::from_millis(2);

// The usual datagram, for choosing how many make a batch.
const DATAGRAM_BYTES: u64 = 1500;

/// A socket that keeps to its line.
pub(crate) struct PacedSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    line: Arc<Line>,
    // Until the line leaves room for what comes next. One task receives.
    receiving: Mutex<Option<Pin<Box<Sleep>>>>,
}

impl PacedSocket {
    /// `inner`, keeping to `line`.
    pub(crate) fn new(inner: Arc<dyn AsyncUdpSocket>, line: Arc<Line>) -> Self {
        Self { inner, line, receiving: Mutex::new(None) }
    }
}

impl fmt::Debug for PacedSocket {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("PacedSocket").field("line", &self.line).finish_non_exhaustive()
    }
}

impl AsyncUdpSocket for PacedSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        let inner = Arc::clone(&self.inner).create_io_poller();
        Box::pin(PacedPoller { socket: self, inner, waiting: None, had_turn: false })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.inner.try_send(transmit)?;
        let bytes = transmit.contents.len();
        self.line.up.note(bytes, transmit.segment_size.unwrap_or(bytes), Instant::now());
        Ok(())
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut waiting = self.receiving.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(waiting) = &mut *waiting {
                ready!(waiting.as_mut().poll(context));
            }
            // What was sent meanwhile does not count here, but the rate may have changed.
            *waiting = self.line.down.pace.wait(Instant::now()).map(|until| Box::pin(sleep_until(until)));
            if waiting.is_none() {
                break;
            }
        }
        drop(waiting);
        let most = batch(self.line.down.pace.rate()).min(buffers.len()).min(meta.len());
        let received = ready!(self.inner.poll_recv(context, &mut buffers[..most], &mut meta[..most]))?;
        let now = Instant::now();
        for message in &meta[..received] {
            self.line.down.note(message.len, message.stride, now);
        }
        Poll::Ready(Ok(received))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments().min(batch(self.line.up.pace.rate()))
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
    // Since it last had to wait.
    had_turn: bool,
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
            let wait = self.socket.line.up.pace.wait(Instant::now());
            match wait {
                Some(until) => {
                    let gives_way =
                        if std::mem::take(&mut self.had_turn) { GIVE_WAY } else { Duration::ZERO };
                    self.waiting = Some(Box::pin(sleep_until(until + gives_way)));
                }
                None => {
                    self.had_turn = true;
                    return self.inner.as_mut().poll_writable(context);
                }
            }
        }
    }
}

/// How many datagrams fill a batch.
fn batch(rate: Option<BitRate>) -> usize {
    let Some(rate) = rate else { return usize::MAX };
    let datagrams = rate.bytes_per_second / BATCHES_PER_SECOND / DATAGRAM_BYTES;
    usize::try_from(datagrams).unwrap_or(usize::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Mutex;

    use super::*;
    use crate::LineRates;

    /// A socket that takes everything.
    #[derive(Debug)]
    struct Nowhere;

    impl AsyncUdpSocket for Nowhere {
        fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
            Box::pin(Always)
        }

        fn try_send(&self, _: &Transmit<'_>) -> io::Result<()> {
            Ok(())
        }

        fn poll_recv(
            &self,
            _: &mut Context<'_>,
            _: &mut [IoSliceMut<'_>],
            _: &mut [RecvMeta],
        ) -> Poll<io::Result<usize>> {
            Poll::Pending
        }

        fn local_addr(&self) -> io::Result<SocketAddr> {
            Ok(([127, 0, 0, 1], 1).into())
        }
    }

    #[derive(Debug)]
    struct Always;

    impl UdpPoller for Always {
        fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn line(upload: Option<BitRate>, download: Option<BitRate>) -> Arc<Line> {
        Arc::new(Line::new(LineRates { upload, download }))
    }

    #[tokio::test(start_paused = true)]
    async fn connections_take_turns_at_a_line_that_is_never_free() {
        let rate = Some(BitRate { bytes_per_second: 1_000_000 });
        let socket = Arc::new(PacedSocket::new(Arc::new(Nowhere), line(rate, None)));
        let order = Arc::new(Mutex::new(Vec::new()));
        let connections: Vec<_> = (0..3)
            .map(|name| {
                let (socket, order) = (Arc::clone(&socket), Arc::clone(&order));
                let mut poller = Arc::clone(&socket).create_io_poller();
                // A task of its own, as quinn gives to each.
                tokio::spawn(async move {
                    for _ in 0..12 {
                        poll_fn(|context| poller.as_mut().poll_writable(context)).await.unwrap();
                        let transmit = Transmit {
                            destination: ([127, 0, 0, 1], 2).into(),
                            ecn: None,
                            contents: &[0; 12_000],
                            segment_size: None,
                            src_ip: None,
                        };
                        socket.try_send(&transmit).unwrap();
                        order.lock().unwrap().push(name);
                    }
                })
            })
            .collect();
        for connection in connections {
            connection.await.unwrap();
        }
        let order = order.lock().unwrap().clone();
        for end in 1..=order.len() {
            let count = |name| order[..end].iter().filter(|own| **own == name).count();
            let counts = [count(0), count(1), count(2)];
            let ahead = counts.iter().max().unwrap() - counts.iter().min().unwrap();
            assert!(ahead <= 3, "{order:?}");
        }
    }

    #[test]
    fn batches_fit_the_rate_and_hold_a_datagram_at_least() {
        let of = |bytes_per_second| batch(Some(BitRate { bytes_per_second }));
        assert_eq!((of(0), of(1_250_000), of(125_000_000), batch(None)), (1, 4, 416, usize::MAX));
    }
}
