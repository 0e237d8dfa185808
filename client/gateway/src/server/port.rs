//! The TCP port of a gateway: taken by us, or handed over by whoever holds it across restarts.
//!
//! Always holds: nobody is let in before the port is served. Leaves to others: serving it.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

use super::{OpenPort, RunningServer, ServerOptions, start};
use crate::routes::Router;

const BACKLOG: u32 = 1024;

/// Why the gateway does not listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another program has the port.
    #[error("TCP port {} of {} is in use already: stop the program that has it or choose another port", address.port(), address.ip())]
    InUse {
        /// The address asked for.
        address: SocketAddr,
    },
    /// The system keeps the port for others.
    #[error("this user may not listen on TCP port {}: choose a port of 1024 or above, or let a service manager hand the port over", address.port())]
    Denied {
        /// The address asked for.
        address: SocketAddr,
    },
    /// No interface has the address.
    #[error("this machine has no address {}: listen on one that it has, or on 0.0.0.0 or [::] for all", address.ip())]
    NotHere {
        /// The address asked for.
        address: SocketAddr,
    },
    /// Anything else.
    #[error("cannot listen on TCP address {address}: {source}")]
    Socket {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// What was handed over does not listen on a TCP port.
    #[error("the socket that was handed over is no TCP port to listen on: {source}")]
    HandedOver {
        /// What the system said.
        source: io::Error,
    },
    /// TLS does not work.
    #[error("TLS cannot be spoken: {source}")]
    Tls {
        /// What is wrong.
        source: rustls::Error,
    },
}

impl ListenError {
    fn from_io(address: SocketAddr, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::InUse { address },
            io::ErrorKind::PermissionDenied => Self::Denied { address },
            io::ErrorKind::AddrNotAvailable => Self::NotHere { address },
            _ => Self::Socket { address, source },
        }
    }
}

/// A port that is ours. One that we took ourselves nobody can reach yet; at one that was handed over clients wait.
#[derive(Debug)]
pub struct BoundPort {
    socket: Socket,
    address: SocketAddr,
}

#[derive(Debug)]
enum Socket {
    /// Clients are refused until it listens.
    Bound(TcpSocket),
    HandedOver(TcpListener),
}

impl BoundPort {
    /// Takes the port; clients are refused until it is opened.
    ///
    /// # Errors
    ///
    /// The port is another's, or the system refuses.
    pub fn bind(address: SocketAddr) -> Result<Self, ListenError> {
        let bind = || {
            let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            // A gateway that was stopped can be started again at once.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            let address = socket.local_addr()?;
            Ok(Self { socket: Socket::Bound(socket), address })
        };
        bind().map_err(|source| ListenError::from_io(address, source))
    }

    /// A port that somebody else holds open while gateways come and go: clients that come in between wait instead of being
    /// refused.
    ///
    /// # Errors
    ///
    /// It is no TCP port.
    pub fn handed_over(listener: std::net::TcpListener) -> Result<Self, ListenError> {
        let adopt = || {
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            Ok(Self { socket: Socket::HandedOver(TcpListener::from_std(listener)?), address })
        };
        adopt().map_err(|source| ListenError::HandedOver { source })
    }

    /// Its address, with the port that the system chose if none was asked for.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Opens the port and serves it.
    ///
    /// # Errors
    ///
    /// The system does not let it listen, or TLS does not work.
    pub fn serve(self, router: Router, options: ServerOptions) -> Result<RunningServer, ListenError> {
        let Self { socket, address } = self;
        let (listener, outlives_us) = match socket {
            Socket::Bound(socket) => (socket.listen(BACKLOG), false),
            Socket::HandedOver(listener) => (Ok(listener), true),
        };
        let listener = listener.map_err(|source| ListenError::from_io(address, source))?;
        start(OpenPort { listener, address, outlives_us }, router, options)
    }
}
