//! How `firn gateway` takes clients: its flags for the door, not for what is behind it.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use firn_gateway::{
    AddressRange, BoundPort, Certificate, CertificateFiles, LogDestination, LogDetail, RequestLog,
    ServerLimits, ServerOptions,
};
use firn_transport::Environment;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::command_error::CommandError;
use crate::service_manager::handed_over_port;

/// How clients are taken.
#[derive(Debug, Args)]
pub(crate) struct ServerFlags {
    /// Address and TCP port to listen on, unless a service manager hands a port over
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080", value_parser = listen_address, env = "FIRN_LISTEN")]
    listen: SocketAddr,
    /// Speak TLS with this certificate: a PEM file, with the certificates that it was signed with behind it. Read again when
    /// it changes, and at SIGHUP
    #[arg(long, value_name = "FILE", requires = "tls_key", env = "FIRN_TLS_CERTIFICATE")]
    tls_certificate: Option<PathBuf>,
    /// The private key of the certificate: a PEM file
    #[arg(long, value_name = "FILE", requires = "tls_certificate", env = "FIRN_TLS_KEY")]
    tls_key: Option<PathBuf>,
    /// Requests that one client may make in a second, in the long run; 0: as many as it likes. What it does not use in
    /// a minute it may use at once. A client is an address, of IPv6 a /64. Clients of this machine are not limited
    #[arg(long, value_name = "N", default_value_t = default_rate(), env = "FIRN_RATE_LIMIT")]
    rate_limit: u32,
    /// Connections that one client may have at once; those of this machine are not limited
    #[arg(long, value_name = "N", default_value_t = ServerLimits::default().client_connections_max, env = "FIRN_CLIENT_CONNECTIONS")]
    client_connections: usize,
    /// Connections that all clients together may have at once; further ones wait
    #[arg(long, value_name = "N", default_value_t = ServerLimits::default().connections_max, env = "FIRN_CONNECTIONS")]
    connections: usize,
    /// A proxy in front of the gateway, by address or range of addresses: limits count whom it names in X-Forwarded-For or
    /// Forwarded. Can be given several times
    #[arg(long, value_name = "ADDR[/BITS]", env = "FIRN_TRUSTED_PROXY", value_delimiter = ',')]
    trusted_proxy: Vec<AddressRange>,
    /// Write a line of JSON for each answer to this file, or to standard output: kind of request, status, bytes, duration. A
    /// renamed file is opened anew at SIGHUP
    #[arg(long, value_name = "FILE|-", env = "FIRN_REQUEST_LOG")]
    request_log: Option<PathBuf>,
    /// Let the request log name clients' addresses
    #[arg(long, requires = "request_log", env = "FIRN_REQUEST_LOG_ADDRESSES")]
    request_log_addresses: bool,
    /// Let the request log name paths: it tells then which store paths somebody has
    #[arg(long, requires = "request_log", env = "FIRN_REQUEST_LOG_PATHS")]
    request_log_paths: bool,
    /// How long downloads may go on after a signal to stop
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = firn_base::parse_duration, env = "FIRN_DRAIN")]
    drain: Duration,
}

impl ServerFlags {
    /// The port: what the service manager holds, else that of the flag.
    pub(crate) fn port(&self) -> Result<BoundPort, CommandError> {
        raise_file_limit();
        let port = match handed_over_port()? {
            Some(port) => BoundPort::handed_over(port),
            None => BoundPort::bind(self.listen),
        };
        port.map_err(|error| CommandError::Gateway(error.into()))
    }

    /// How clients are taken. Reads the certificate, opens the log.
    pub(crate) fn options(self, environment: &Environment) -> Result<ServerOptions, CommandError> {
        let certificate = match (self.tls_certificate, self.tls_key) {
            (Some(certificate), Some(key)) => {
                let opened = Certificate::open(CertificateFiles { certificate, key });
                Some(Arc::new(opened.map_err(|error| CommandError::Usage(error.to_string()))?))
            }
            _ => None,
        };
        let request_log = self.request_log.map(|path| {
            let detail = LogDetail { addresses: self.request_log_addresses, paths: self.request_log_paths };
            let destination = if path.as_os_str() == "-" {
                LogDestination::Output
            } else {
                LogDestination::File(path.clone())
            };
            RequestLog::open(destination, detail, environment.clone())
                .map(Arc::new)
                .map_err(|source| CommandError::file("write the request log to", path, source))
        });
        let limits = ServerLimits {
            connections_max: self.connections,
            client_connections_max: self.client_connections,
            client_requests_per_second: NonZeroU32::new(self.rate_limit),
            drain_wait: self.drain,
            ..ServerLimits::default()
        };
        Ok(ServerOptions {
            limits,
            certificate,
            trusted_proxies: self.trusted_proxy,
            request_log: request_log.transpose()?,
        })
    }
}

/// An address and a port as people write them, if they write both.
fn listen_address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| {
        "write an IP address and a port: 127.0.0.1:8080 for this machine alone, 0.0.0.0:8080 or [::]:8080 for all addresses"
    })
}

/// Each connection is an open file: of those this process takes as many as it may have.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!("connections are limited by the open files that this process may have: {error}");
    }
}

fn default_rate() -> u32 {
    ServerLimits::default().client_requests_per_second.map_or(0, NonZeroU32::get)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_to_listen_is_an_address_and_a_port_and_whoever_writes_else_is_told() {
        assert_eq!(listen_address("[::1]:80").unwrap().port(), 80);
        for text in ["8080", ":8080", "localhost:8080", "127.0.0.1"] {
            assert!(listen_address(text).unwrap_err().contains("127.0.0.1:8080"), "{text}");
        }
    }
}
