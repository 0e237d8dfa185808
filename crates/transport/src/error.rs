//! Why a socket, a connection or a stream did not come about, one sentence each.

use std::net::SocketAddr;
use std::time::Duration;

use firn_base::{NodeId, PublicKey};
use firn_wire::DecodeError;
use quinn::{ConnectionError, TransportErrorCode};

use crate::tls::ALERT_NO_APPLICATION_PROTOCOL;

/// Why an endpoint was not bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another program has the port.
    #[error("UDP port {} of {} is in use already: stop the program that has it or choose another port", address.port(), address.ip())]
    InUse {
        /// The address asked for.
        address: SocketAddr,
    },
    /// The machine has no such address.
    #[error("this machine has no address {}: listen on one of its own or on all with 0.0.0.0", address.ip())]
    NoSuchAddress {
        /// The address asked for.
        address: SocketAddr,
    },
    /// The port is reserved for the system.
    #[error("UDP port {} may only be opened by root: choose one above 1023", address.port())]
    NotAllowed {
        /// The address asked for.
        address: SocketAddr,
    },
    /// Anything else the kernel says.
    #[error("cannot open UDP address {address}: {source}")]
    Socket {
        /// The address asked for.
        address: SocketAddr,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// TLS does not take the identity.
    #[error("the identity cannot be used for TLS: {0}")]
    Tls(String),
}

impl BindError {
    pub(crate) fn from_io(address: SocketAddr, source: std::io::Error) -> Self {
        match source.kind() {
            std::io::ErrorKind::AddrInUse => Self::InUse { address },
            std::io::ErrorKind::AddrNotAvailable => Self::NoSuchAddress { address },
            std::io::ErrorKind::PermissionDenied => Self::NotAllowed { address },
            _ => Self::Socket { address, source },
        }
    }
}

/// Why a peer was not reached.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConnectError {
    /// The text is no address or the name is unknown.
    #[error("cannot find the address `{address}` of {}: {reason}", peer.short())]
    Address {
        /// Who was to be reached.
        peer: NodeId,
        /// The text.
        address: String,
        /// What the resolver said.
        reason: String,
    },
    /// Somebody else answers there.
    #[error("{address} is answered by {found}, not by {peer}: its address or identity has changed")]
    WrongIdentity {
        /// Who was to be reached.
        peer: NodeId,
        /// Where.
        address: String,
        /// Who answered.
        found: PublicKey,
    },
    /// Nobody answers.
    #[error("{} does not answer at {address} within {} s: is it running, and does UDP get through?", peer.short(), after.as_secs())]
    NoAnswer {
        /// Who was to be reached.
        peer: NodeId,
        /// Where.
        address: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// It speaks another protocol or version.
    #[error("{} at {address} does not speak firn/1: update the older of the two programs", peer.short())]
    WrongProtocol {
        /// Who was to be reached.
        peer: NodeId,
        /// Where.
        address: String,
    },
    /// It does not want us, or the handshake failed.
    #[error("{} at {address} cannot be talked to: {reason}", peer.short())]
    Failed {
        /// Who was to be reached.
        peer: NodeId,
        /// Where.
        address: String,
        /// What happened.
        reason: String,
    },
    /// This endpoint is closed.
    #[error("this program is shutting down")]
    Closing,
}

impl ConnectError {
    pub(crate) fn from_quinn(
        peer: NodeId,
        address: &str,
        found: Option<PublicKey>,
        after: Duration,
        error: &ConnectionError,
    ) -> Self {
        let address = address.to_owned();
        match (found, error) {
            (Some(found), _) if found != PublicKey::from(peer) => {
                Self::WrongIdentity { peer, address, found }
            }
            (_, ConnectionError::TimedOut) => Self::NoAnswer { peer, address, after },
            (_, ConnectionError::LocallyClosed) => Self::Closing,
            (_, error) if is_other_protocol(error) => Self::WrongProtocol { peer, address },
            (_, error) => Self::Failed { peer, address, reason: sentence(error) },
        }
    }
}

fn is_other_protocol(error: &ConnectionError) -> bool {
    let alert = TransportErrorCode::crypto(ALERT_NO_APPLICATION_PROTOCOL);
    match error {
        ConnectionError::VersionMismatch => true,
        ConnectionError::TransportError(error) => error.code == alert,
        ConnectionError::ConnectionClosed(close) => close.error_code == alert,
        _ => false,
    }
}

/// Why a stream did not carry what it should.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StreamError {
    /// The connection is gone.
    #[error("the connection to {} is lost: {reason}", peer.short())]
    Lost {
        /// The peer.
        peer: PublicKey,
        /// What happened.
        reason: String,
    },
    /// The peer stopped reading or broke off.
    #[error("{} broke off the exchange", peer.short())]
    BrokenOff {
        /// The peer.
        peer: PublicKey,
    },
    /// The peer finished in the middle of something.
    #[error("the answer of {} ends too early", peer.short())]
    Ended {
        /// The peer.
        peer: PublicKey,
    },
    /// The peer announced more than was allowed; nothing of it was read.
    #[error("{} announced a message of {bytes} bytes, {bytes_max} are allowed", peer.short())]
    TooLarge {
        /// The peer.
        peer: PublicKey,
        /// Bytes announced.
        bytes: usize,
        /// Bytes allowed.
        bytes_max: usize,
    },
    /// The message to send is larger than any receiver takes.
    #[error("a message of {bytes} bytes is too large to send")]
    Unsendable {
        /// Its bytes.
        bytes: usize,
    },
    /// The bytes are no message.
    #[error("{} sent what cannot be read: {source}", peer.short())]
    Unreadable {
        /// The peer.
        peer: PublicKey,
        /// Why.
        source: DecodeError,
    },
    /// The whole exchange took too long.
    #[error("{} did not answer within {} ms", peer.short(), after.as_millis())]
    TimedOut {
        /// The peer.
        peer: PublicKey,
        /// How long it was waited for.
        after: Duration,
    },
    /// Sending after [`crate::Stream::finish`].
    #[error("the stream is finished: nothing more can be sent on it")]
    Finished,
}

impl StreamError {
    pub(crate) fn lost(peer: PublicKey, error: &ConnectionError) -> Self {
        Self::Lost { peer, reason: sentence(error) }
    }
}

/// What became of a connection.
pub(crate) fn sentence(error: &ConnectionError) -> String {
    match error {
        ConnectionError::TimedOut => "it stopped answering".into(),
        ConnectionError::Reset => "it was restarted".into(),
        ConnectionError::LocallyClosed => "it was closed on this side".into(),
        ConnectionError::ApplicationClosed(close) if close.reason.is_empty() => {
            "it closed the connection".into()
        }
        ConnectionError::ApplicationClosed(close) => {
            // A stranger's words: short and printable only.
            let words = String::from_utf8_lossy(&close.reason);
            let words: String = words.chars().filter(|one| !one.is_control()).take(200).collect();
            format!("it closed the connection ({words})")
        }
        other => other.to_string().chars().filter(|one| !one.is_control()).take(300).collect(),
    }
}
