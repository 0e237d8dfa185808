//! A stream of a connection: framed messages and raw bytes, both ways.
//!
//! Always holds: a message is a u32 length (little-endian) and so many bytes of `wire`'s encoding; its length
//! is compared with the receiver's limit before anything is allocated, and memory grows only with bytes that
//! really arrive. Dropping a stream finishes it like [`Stream::finish`] and tells the peer to stop sending:
//! so a receiver must know how much it expects, and the end of a stream proves nothing.

use std::fmt;

use bytes::{Bytes, BytesMut};
use firn_base::PublicKey;
use firn_wire::{decode, encode};
use quinn::{ReadError, ReadExactError, VarInt, WriteError};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::StreamError;

/// The part of the log that shows every message and every piece that leaves this machine: what a program tells others
/// can be seen with `FIRN_LOG=firn_transport::sent=trace`.
const SENT: &str = "firn_transport::sent";

/// The code of a stream that is broken off.
const BROKEN_OFF: VarInt = VarInt::from_u32(1);

// Allocated for a message before its bytes arrive.
const MESSAGE_BYTES_AT_FIRST: usize = 64 << 10;

// Raw pieces are cut from blocks of this size: one lock and one copy for many datagrams.
const PIECE_BYTES: usize = 256 << 10;

// A new block is begun when less than this is left of the old one.
const PIECE_BYTES_MIN: usize = 32 << 10;

/// A stream of a connection. No method but [`Self::receive_bytes`] may be called again after it was given up
/// midway: the stream is then out of step.
#[derive(Debug)]
pub struct Stream {
    send: quinn::SendStream,
    receive: quinn::RecvStream,
    peer: PublicKey,
    block: BytesMut,
}

impl Stream {
    pub(crate) fn new(send: quinn::SendStream, receive: quinn::RecvStream, peer: PublicKey) -> Self {
        Self { send, receive, peer, block: BytesMut::new() }
    }

    /// Whose stream it is.
    pub const fn peer(&self) -> PublicKey {
        self.peer
    }

    /// Sends a message. Returns when the bytes are on their way, not when they are read.
    pub async fn send<T: Serialize>(&mut self, message: &T) -> Result<(), StreamError> {
        self.send_encoded(Bytes::from(encode(message))).await
    }

    /// Sends a message that is encoded already.
    pub async fn send_encoded(&mut self, message: Bytes) -> Result<(), StreamError> {
        let length =
            u32::try_from(message.len()).map_err(|_| StreamError::Unsendable { bytes: message.len() })?;
        self.show(&message);
        let length = Bytes::copy_from_slice(&length.to_le_bytes());
        let sent = self.send.write_all_chunks(&mut [length, message]).await;
        sent.map_err(|error| self.write_error(error))
    }

    /// Receives a message of at most `bytes_max` bytes.
    pub async fn receive<T: DeserializeOwned>(&mut self, bytes_max: usize) -> Result<T, StreamError> {
        let mut length = [0; 4];
        self.receive_exact(&mut length).await?;
        let bytes = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
        if bytes > bytes_max {
            let _ = self.receive.stop(BROKEN_OFF);
            return Err(StreamError::TooLarge { peer: self.peer, bytes, bytes_max });
        }
        let mut message = Vec::with_capacity(bytes.min(MESSAGE_BYTES_AT_FIRST));
        while message.len() < bytes {
            let piece = self.receive.read_chunk(bytes - message.len(), true).await;
            let piece = piece.map_err(|error| self.read_error(error))?;
            message.extend_from_slice(&piece.ok_or(StreamError::Ended { peer: self.peer })?.bytes);
        }
        decode(&message).map_err(|source| StreamError::Unreadable { peer: self.peer, source })
    }

    /// Sends raw bytes.
    pub async fn send_bytes(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        self.show(&bytes);
        let sent = self.send.write_chunk(bytes).await;
        sent.map_err(|error| self.write_error(error))
    }

    /// The next raw bytes, as many as there are but at most `bytes_max`, and at least one; none at the end.
    /// May be given up midway: nothing is lost.
    pub async fn receive_bytes(&mut self, bytes_max: usize) -> Result<Option<Bytes>, StreamError> {
        if self.block.len() < PIECE_BYTES_MIN.min(bytes_max) {
            self.block = BytesMut::zeroed(PIECE_BYTES.min(bytes_max.max(PIECE_BYTES_MIN)));
        }
        let room = self.block.len().min(bytes_max);
        match self.receive.read(&mut self.block[..room]).await {
            Ok(Some(bytes)) => Ok(Some(self.block.split_to(bytes).freeze())),
            Ok(None) => Ok(None),
            Err(error) => Err(self.read_error(error)),
        }
    }

    /// Puts the next raw bytes into `buffer`, which is not empty: as many as there are, and at least one; 0 at the end.
    /// For a receiver that has the place for all of them already: they are copied once.
    pub async fn receive_into(&mut self, buffer: &mut [u8]) -> Result<usize, StreamError> {
        let read = self.receive.read(buffer).await.map_err(|error| self.read_error(error))?;
        Ok(read.unwrap_or(0))
    }

    /// Fills `buffer` with the next raw bytes.
    pub async fn receive_exact(&mut self, buffer: &mut [u8]) -> Result<(), StreamError> {
        match self.receive.read_exact(buffer).await {
            Ok(()) => Ok(()),
            Err(ReadExactError::FinishedEarly(_)) => Err(StreamError::Ended { peer: self.peer }),
            Err(ReadExactError::ReadError(error)) => Err(self.read_error(error)),
        }
    }

    /// Says that nothing more will be sent. What was sent before still arrives, even if the stream is dropped.
    pub fn finish(&mut self) {
        // Only a stream that is finished or broken off already refuses, and then nothing more is sent either.
        let _ = self.send.finish();
    }

    /// Breaks off both ways: the peer gets [`StreamError::BrokenOff`], bytes not yet sent are dropped.
    pub fn abort(mut self) {
        let _ = self.send.reset(BROKEN_OFF);
        let _ = self.receive.stop(BROKEN_OFF);
    }

    /// Waits until the peer has taken everything after [`Self::finish`], has broken off, or is gone.
    pub async fn drained(&mut self) -> Result<(), StreamError> {
        match self.send.stopped().await {
            Ok(None) => Ok(()),
            Ok(Some(_)) => Err(StreamError::BrokenOff { peer: self.peer }),
            Err(quinn::StoppedError::ConnectionLost(error)) => Err(StreamError::lost(self.peer, &error)),
            Err(quinn::StoppedError::ZeroRttRejected) => Err(StreamError::Finished),
        }
    }

    /// Sends streams of a higher priority first; all begin with zero.
    pub fn set_priority(&self, priority: i32) {
        // Only a stream that has nothing more to send refuses.
        let _ = self.send.set_priority(priority);
    }

    fn show(&self, bytes: &Bytes) {
        // A comparison of one number where nobody looks.
        tracing::trace!(target: SENT, peer = %self.peer, sent = %Hex(bytes));
    }

    fn write_error(&self, error: WriteError) -> StreamError {
        match error {
            WriteError::Stopped(_) => StreamError::BrokenOff { peer: self.peer },
            WriteError::ConnectionLost(error) => StreamError::lost(self.peer, &error),
            WriteError::ClosedStream | WriteError::ZeroRttRejected => StreamError::Finished,
        }
    }

    fn read_error(&self, error: ReadError) -> StreamError {
        match error {
            ReadError::Reset(_) => StreamError::BrokenOff { peer: self.peer },
            ReadError::ConnectionLost(error) => StreamError::lost(self.peer, &error),
            ReadError::ClosedStream | ReadError::IllegalOrderedRead | ReadError::ZeroRttRejected => {
                StreamError::Ended { peer: self.peer }
            }
        }
    }
}

/// Bytes as hexadecimal digits.
struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}
