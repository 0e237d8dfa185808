//! How a server takes clients.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::certificate::Certificate;
use super::client_address::AddressRange;
use super::request_log::RequestLog;

/// How a port is served.
#[derive(Debug, Clone, Default)]
pub struct ServerOptions {
    /// Limits on clients.
    pub limits: ServerLimits,
    /// TLS with this certificate and nothing else, or no TLS.
    pub certificate: Option<Arc<Certificate>>,
    /// Proxies in front of the gateway that are believed whom they ask for.
    pub trusted_proxies: Vec<AddressRange>,
    /// Where a line is written for each answer, if anywhere.
    pub request_log: Option<Arc<RequestLog>>,
}

/// Limits on clients.
#[derive(Debug, Clone, Copy)]
pub struct ServerLimits {
    /// Connections at once; further ones wait to be accepted.
    pub connections_max: usize,
    /// Connections at once of one client; further ones are refused. A client is an address, of IPv6 a /64. This and the
    /// next limit hold for nobody on this machine.
    pub client_connections_max: usize,
    /// Requests that one client may make in a second, in the long run; what it does not use in a minute it may use at once.
    pub client_requests_per_second: Option<NonZeroU32>,
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
            // Nix opens 25 at most: four machines behind one address.
            client_connections_max: 100,
            // The public cache is asked 900 times a second by everybody together; a store of 30,000 is enough for all of
            // nixpkgs' system closures at once.
            client_requests_per_second: NonZeroU32::new(500),
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
