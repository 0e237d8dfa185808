//! The bounds of an endpoint and its connections.
//!
//! Always holds: every resource that a peer can take is bounded here: connections, handshakes, streams and
//! the bytes in flight on each.

use std::sync::Arc;
use std::time::Duration;

use quinn::{MtuDiscoveryConfig, TransportConfig, VarInt};

use crate::Line;

/// The bounds of an endpoint and its connections.
#[derive(Debug, Clone)]
pub struct EndpointOptions {
    /// A connection on which nothing was heard for so long is dead.
    pub idle_timeout: Duration,
    /// After so long without traffic a sign of life is sent, so that a living connection never falls idle and
    /// home routers keep its mapping.
    pub keep_alive: Duration,
    /// Streams that the peer may have open at once on one connection; also the handlers at work for it.
    pub bidi_streams_max: u32,
    /// Connections of the endpoint, of either direction, beyond which newcomers are refused.
    pub connections_max: usize,
    /// Handshakes of newcomers in flight. From a quarter of it on newcomers must show that they own their
    /// address (QUIC's Retry); beyond it they are ignored and try again.
    pub handshakes_max: usize,
    /// Bytes that the peer may send on one stream before they are read here.
    pub stream_window_bytes: u32,
    /// Bytes that the peer may send on all streams of a connection before they are read here; also the bytes
    /// kept here until the peer has acknowledged them.
    pub connection_window_bytes: u32,
    /// The line that it keeps to and that counts what goes over it. None: it goes as fast as it can, uncounted.
    pub line: Option<Arc<Line>>,
    /// The largest datagram that is tried towards other machines.
    pub mtu_bytes: u16,
    /// The datagram used towards this machine itself, at most 6,550.
    pub loopback_mtu_bytes: u16,
}

impl Default for EndpointOptions {
    fn default() -> Self {
        Self {
            idle_timeout: Duration::from_secs(10),
            keep_alive: Duration::from_secs(3),
            bidi_streams_max: 256,
            connections_max: 4096,
            handshakes_max: 256,
            stream_window_bytes: 8 << 20,
            connection_window_bytes: 16 << 20,
            line: None,
            mtu_bytes: 1452,
            loopback_mtu_bytes: LOOPBACK_MTU_BYTES,
        }
    }
}

// Measured on loopback, both ends, two cores: 1,400 to 1,900 MB/s at 1.0 to 1.2 processor seconds per GB; with
// 1,452 bytes 430 to 850 MB/s at 2.3 to 2.6.
const LOOPBACK_MTU_BYTES: u16 = 6400;

// The kernel takes ten datagrams of at most this size in one call; with larger ones it falls back to one by
// one, and the rate to that of small datagrams.
const LOOPBACK_MTU_BYTES_MAX: u16 = 6550;

// QUIC asks for 1,200 at least.
const MTU_BYTES_MIN: u16 = 1200;

impl EndpointOptions {
    /// The largest datagram taken from anybody.
    pub(crate) fn datagram_bytes_max(&self) -> u16 {
        self.mtu_bytes.max(self.near_bytes()).clamp(1472, 65_527)
    }

    fn near_bytes(&self) -> u16 {
        self.loopback_mtu_bytes.clamp(MTU_BYTES_MIN, LOOPBACK_MTU_BYTES_MAX)
    }

    /// The settings of a connection with this machine itself (`loopback`) or with another.
    pub(crate) fn transport(&self, loopback: bool) -> Arc<TransportConfig> {
        let mut config = TransportConfig::default();
        // An idle timeout beyond QUIC's largest number means none; so long a one is as good as none.
        config.max_idle_timeout(self.idle_timeout.try_into().ok());
        config.keep_alive_interval(Some(self.keep_alive));
        config.max_concurrent_bidi_streams(self.bidi_streams_max.into());
        config.max_concurrent_uni_streams(VarInt::from_u32(0));
        config.datagram_receive_buffer_size(None);
        config.stream_receive_window(self.stream_window_bytes.into());
        config.receive_window(self.connection_window_bytes.into());
        config.send_window(self.connection_window_bytes.into());
        let mtu = if loopback { self.near_bytes() } else { self.mtu_bytes.max(MTU_BYTES_MIN) };
        let mut discovery = MtuDiscoveryConfig::default();
        discovery.upper_bound(mtu);
        config.mtu_discovery_config(Some(discovery));
        if loopback {
            config.initial_mtu(mtu);
        }
        Arc::new(config)
    }
}
