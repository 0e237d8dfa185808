//! A stream that gives up on a peer who takes nothing.
//!
//! Always holds: a write that has to wait longer than allowed without one byte going out fails. What was written before the
//! end arrives: whatever the peer still sends is read, for a moment, since a socket that is closed over unread bytes resets
//! the connection and takes with it what is on its way. Reading is not limited here: connections have limits of their own.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// `inner`, whose writes may wait for `stall_max` at most.
#[derive(Debug)]
pub(super) struct StallGuard<T> {
    inner: T,
    stall_max: Duration,
    /// Runs while a write waits.
    stalled: Option<Pin<Box<Sleep>>>,
    /// Runs when all has been written and the peer may go on sending.
    closing: Option<Pin<Box<Sleep>>>,
}

// A peer that closes its side, as it does when it sees ours closed, ends it sooner.
const CLOSE_WAIT: Duration = Duration::from_secs(1);
const DISCARD_BYTES: usize = 4096;

impl<T> StallGuard<T> {
    pub(super) const fn new(inner: T, stall_max: Duration) -> Self {
        Self { inner, stall_max, stalled: None, closing: None }
    }

    fn watch<R>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stall_max = self.stall_max;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(stall_max)));
        match stalled.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<T: AsyncRead + Unpin> StallGuard<T> {
    /// Reads until the peer has closed its side too, or has had long enough.
    fn poll_last(&mut self, context: &mut Context<'_>) -> Poll<()> {
        // The time comes first: a peer that never pauses takes all of the turn, and then no clock is looked at.
        if self.closing.as_mut().is_none_or(|closing| closing.as_mut().poll(context).is_ready()) {
            return Poll::Ready(());
        }
        let mut discarded = [0; DISCARD_BYTES];
        loop {
            let mut buffer = ReadBuf::new(&mut discarded);
            match ready!(Pin::new(&mut self.inner).poll_read(context, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                _ => return Poll::Ready(()),
            }
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for StallGuard<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for StallGuard<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.watch(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(context, slices);
        self.watch(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(context);
        self.watch(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.closing.is_none() {
            let shut = Pin::new(&mut self.inner).poll_shutdown(context);
            ready!(self.watch(context, shut))?;
            self.closing = Some(Box::pin(sleep(CLOSE_WAIT)));
        }
        self.poll_last(context).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_peer_who_takes_nothing_is_given_up_and_a_slow_one_is_not() {
        let (ours, mut theirs) = duplex(10);
        let mut guarded = StallGuard::new(ours, Duration::from_secs(60));
        let slow = tokio::spawn(async move {
            let mut byte = [0; 1];
            for _ in 0..50 {
                tokio::time::sleep(Duration::from_secs(50)).await;
                theirs.read_exact(&mut byte).await.unwrap();
            }
            theirs
        });
        guarded.write_all(&[7; 60]).await.unwrap();
        let _theirs = slow.await.unwrap();
        let began = Instant::now();
        let error = guarded.write_all(&[7; 60]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed().as_secs(), 60);
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_peer_still_sends_is_read_until_it_ends_or_takes_too_long() {
        let (ours, mut theirs) = duplex(10);
        let mut guarded = StallGuard::new(ours, Duration::from_secs(60));
        let sends = tokio::spawn(async move {
            theirs.write_all(&[7; 5000]).await.unwrap();
            theirs
        });
        let began = Instant::now();
        guarded.shutdown().await.unwrap();
        let theirs = sends.await.expect("all of it was read");
        assert_eq!(began.elapsed(), CLOSE_WAIT, "it does not close its side");
        drop(theirs);

        let (ours, theirs) = duplex(10);
        let mut guarded = StallGuard::new(ours, Duration::from_secs(60));
        drop(theirs);
        let began = Instant::now();
        guarded.shutdown().await.unwrap();
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
    #[tokio::test(start_paused = true)]
    async fn a_peer_that_never_stops_sending_is_left_all_the_same() {
        let endless = tokio::io::join(tokio::io::repeat(7), tokio::io::sink());
        let mut guarded = StallGuard::new(endless, Duration::from_secs(60));
        let closes = tokio::spawn(async move { guarded.shutdown().await });
        tokio::task::yield_now().await;
        assert!(!closes.is_finished(), "it has its time");
        tokio::time::advance(CLOSE_WAIT).await;
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert!(closes.is_finished());
    }
}
