//! How a server takes clients.

use std::sync::Arc;
use std::time::Duration;

use super::certificate::Certificate;

/// How a port is served.
#[derive(Debug, Clone, Default)]
pub struct ServerOptions {
    /// Limits on clients.
    pub limits: ServerLimits,
    /// TLS with this certificate and nothing else, or no TLS.
    pub certificate: Option<Arc<Certificate>>,
}

/// Limits on clients.
#[derive(Debug, Clone, Copy)]
pub struct ServerLimits {
    /// Connections at once; further ones wait to be accepted.
    pub connections_max: usize,
    /// A connection that sends no whole request head for so long is closed, idle ones too.
    pub header_wait: Duration,
    /// A connection whose peer takes no byte for so long is cut.
    pub stall_max: Duration,
    /// How long a connection without requests stays open after a shutdown began: a request that is on its way is answered.
    pub linger: Duration,
    /// How long transfers may go on after a shutdown began.
    pub drain_wait: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            // Each may hold some MiB of frames ahead.
            connections_max: 1024,
            // Longer than Nix leaves a connection idle between two batches of requests.
            header_wait: Duration::from_secs(60),
            stall_max: Duration::from_secs(60),
            // Some round trips over the slowest lines.
            linger: Duration::from_secs(2),
            drain_wait: Duration::from_secs(30),
        }
    }
}

impl From<ServerLimits> for ServerOptions {
    fn from(limits: ServerLimits) -> Self {
        Self { limits, ..Self::default() }
    }
}
