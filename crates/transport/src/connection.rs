//! A connection with a peer whose key was proved.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use firn_base::{NodeId, PublicKey};
use firn_wire::encode;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::error::sentence;
use crate::listener::CLOSED;
use crate::{Stream, StreamError};

/// A connection with a peer whose key was proved. Clones are the same connection; it closes when the last
/// clone and the last of its streams are dropped.
#[derive(Debug, Clone)]
pub struct Connection {
    quic: quinn::Connection,
    peer: PublicKey,
    streams_max: u32,
}

impl Connection {
    pub(crate) const fn new(quic: quinn::Connection, peer: PublicKey, streams_max: u32) -> Self {
        Self { quic, peer, streams_max }
    }

    /// The peer's key.
    pub const fn peer(&self) -> PublicKey {
        self.peer
    }

    /// The peer's key as the id of a machine.
    pub fn peer_node(&self) -> NodeId {
        self.peer.into()
    }

    /// Where the peer's packets come from now.
    pub fn remote_address(&self) -> SocketAddr {
        let address = self.quic.remote_address();
        SocketAddr::new(address.ip().to_canonical(), address.port())
    }

    /// The best estimate of the round trip.
    pub fn round_trip(&self) -> Duration {
        self.quic.rtt()
    }

    /// Tells connections of this program apart: no two that live at the same time have the same number.
    pub fn number(&self) -> usize {
        self.quic.stable_id()
    }

    /// Whether it is over.
    pub fn is_closed(&self) -> bool {
        self.quic.close_reason().is_some()
    }

    /// Why it is over; none while it lives.
    pub fn close_reason(&self) -> Option<String> {
        self.quic.close_reason().as_ref().map(sentence)
    }

    /// Waits until it is over.
    pub async fn closed(&self) {
        self.quic.closed().await;
    }

    /// Ends it at once, with all its streams.
    pub fn close(&self) {
        self.quic.close(CLOSED, b"");
    }

    /// Opens a stream. Waits while the peer has as many open as it takes. The peer learns of the stream with
    /// its first bytes.
    pub async fn open(&self) -> Result<Stream, StreamError> {
        match self.quic.open_bi().await {
            Ok((send, receive)) => Ok(Stream::new(send, receive, self.peer)),
            Err(error) => Err(StreamError::lost(self.peer, &error)),
        }
    }

    /// The next stream that the peer opens. An error means that the connection is over.
    pub async fn accept(&self) -> Result<Stream, StreamError> {
        match self.quic.accept_bi().await {
            Ok((send, receive)) => Ok(Stream::new(send, receive, self.peer)),
            Err(error) => Err(StreamError::lost(self.peer, &error)),
        }
    }

    /// Asks and waits for the answer: one stream, one message each way. `timeout` covers all of it.
    pub async fn call<Q: Serialize, R: DeserializeOwned>(
        &self,
        request: &Q,
        reply_bytes_max: usize,
        timeout: Duration,
    ) -> Result<R, StreamError> {
        self.call_encoded(Bytes::from(encode(request)), reply_bytes_max, timeout).await
    }

    /// As [`Self::call`], with a request that is encoded already.
    pub async fn call_encoded<R: DeserializeOwned>(
        &self,
        request: Bytes,
        reply_bytes_max: usize,
        within: Duration,
    ) -> Result<R, StreamError> {
        let exchange = async {
            let mut stream = self.open().await?;
            stream.send_encoded(request).await?;
            stream.finish();
            stream.receive(reply_bytes_max).await
        };
        match timeout(within, exchange).await {
            Ok(result) => result,
            Err(_) => Err(StreamError::TimedOut { peer: self.peer, after: within }),
        }
    }

    pub(crate) fn streams_max(&self) -> usize {
        usize::try_from(self.streams_max).unwrap_or(usize::MAX).max(1)
    }
}
