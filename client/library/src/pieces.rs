//! A stream of bytes on its way from one thread to the next.
//!
//! Always holds: what is read is what was sent, in its order, and an error is read where it was met; no more than
//! [`PIECES_WAITING_MAX`] pieces wait, so that neither thread runs far ahead of the other. A sender that goes away is the
//! stream's end: whether it was the right one is told by length and hash.
//! Leaves to others: which threads, and what becomes of the bytes.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Bytes of a piece: large enough that waking the other thread costs nothing, small enough for the second-level cache.
pub(crate) const PIECE_BYTES: usize = 256 << 10;

/// Pieces between two threads: what keeps both busy while one of them writes a buffer to the disk.
pub(crate) const PIECES_WAITING_MAX: usize = 4;

/// Takes a stream's bytes.
#[derive(Debug)]
pub(crate) struct PieceSender(SyncSender<io::Result<Vec<u8>>>);

/// Gives them, on another thread.
#[derive(Debug)]
pub(crate) struct PieceReader {
    receiver: Receiver<io::Result<Vec<u8>>>,
    piece: Vec<u8>,
    read: usize,
}

/// Nobody reads any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("nobody reads this any more")]
pub(crate) struct Unread;

/// The two ends of a stream.
pub(crate) fn pieces() -> (PieceSender, PieceReader) {
    let (sender, receiver) = sync_channel(PIECES_WAITING_MAX);
    (PieceSender(sender), PieceReader { receiver, piece: Vec::new(), read: 0 })
}

impl PieceSender {
    /// Sends a copy of these bytes; waits while enough are on their way.
    pub(crate) fn send(&self, bytes: &[u8]) -> Result<(), Unread> {
        self.0.send(Ok(bytes.to_vec())).map_err(|_| Unread)
    }

    /// Sends all that comes out of `source`, and the error that ends it.
    pub(crate) fn send_all(self, mut source: impl Read) {
        loop {
            let mut piece = Vec::with_capacity(PIECE_BYTES);
            let read = source.by_ref().take(PIECE_BYTES as u64).read_to_end(&mut piece);
            if !piece.is_empty() && self.0.send(Ok(piece)).is_err() {
                return;
            }
            match read {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) => {
                    // Whoever reads no more has a reason of its own.
                    let _ = self.0.send(Err(error));
                    return;
                }
            }
        }
    }
}

impl PieceReader {
    /// The next piece as it was sent; none at the end.
    pub(crate) fn next_piece(&mut self) -> io::Result<Option<Vec<u8>>> {
        self.receiver.recv().map_or(Ok(None), |piece| piece.map(Some))
    }
}

impl Read for PieceReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.read == self.piece.len() {
            let Some(piece) = self.next_piece()? else { return Ok(0) };
            (self.piece, self.read) = (piece, 0);
        }
        let count = buffer.len().min(self.piece.len() - self.read);
        buffer[..count].copy_from_slice(&self.piece[self.read..self.read + count]);
        self.read += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives these bytes, and then an error.
    struct Broken<'a>(&'a [u8]);

    impl Read for Broken<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            match self.0.read(buffer)? {
                0 => Err(io::Error::other("broken")),
                count => Ok(count),
            }
        }
    }

    #[test]
    fn what_is_read_is_what_was_sent() {
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
        for length in [0, 1, PIECE_BYTES, bytes.len()] {
            let (sender, mut reader) = pieces();
            std::thread::scope(|scope| {
                let source = &bytes[..length];
                scope.spawn(move || sender.send_all(source));
                let mut read = Vec::new();
                reader.read_to_end(&mut read).unwrap();
                assert!(read == source, "{length} bytes come as others");
            });
        }
    }

    #[test]
    fn an_error_comes_behind_what_came_before_it() {
        let bytes = vec![7; PIECE_BYTES + 10];
        let (sender, mut reader) = pieces();
        std::thread::scope(|scope| {
            scope.spawn(|| sender.send_all(Broken(&bytes)));
            let mut read = Vec::new();
            assert_eq!(reader.read_to_end(&mut read).unwrap_err().to_string(), "broken");
            assert_eq!(read, bytes);
        });
    }

    #[test]
    fn a_sender_without_a_reader_stops_and_does_not_wait() {
        let (sender, reader) = pieces();
        drop(reader);
        assert_eq!(sender.send(b"bytes"), Err(Unread));
        sender.send_all(io::repeat(0));
    }
}
