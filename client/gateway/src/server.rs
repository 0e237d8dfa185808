//! The HTTP server: TCP connections and their limits.
//!
//! Always holds: connections, request heads and waits are bounded; a shutdown lets transfers end for a while
//! and then cuts them. Leaves to others: what is answered (`routes`).

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::options::ServerLimits;
use crate::routes::Router;
use crate::stall_guard::StallGuard;

// Requests of Nix have some 200 bytes of headers. This bounds what a stranger's head can take; answers are
// buffered up to as much, so that small pieces share a write.
const HEAD_BYTES_MAX: usize = 32 << 10;
const HEADERS_MAX: usize = 64;

const BACKLOG: u32 = 1024;

// Out of file descriptors, most likely: some connection will end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the gateway does not listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another program has the port.
    #[error("TCP port {} of {} is in use already: stop the program that has it or choose another port", address.port(), address.ip())]
    InUse {
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
}

impl ListenError {
    fn from_io(address: SocketAddr, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::InUse { address },
            _ => Self::Socket { address, source },
        }
    }
}

/// A port that is ours and that nobody can reach yet.
#[derive(Debug)]
pub struct BoundPort {
    socket: TcpSocket,
    address: SocketAddr,
}

impl BoundPort {
    /// Takes the port; clients are refused until it is opened.
    pub fn bind(address: SocketAddr) -> Result<Self, ListenError> {
        let bind = || {
            let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            // A gateway that was stopped can be started again at once.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            let address = socket.local_addr()?;
            Ok(Self { socket, address })
        };
        bind().map_err(|source| ListenError::from_io(address, source))
    }

    /// Its address, with the port that the system chose if none was asked for.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Opens the port and serves it.
    pub fn serve(self, router: Router, limits: ServerLimits) -> Result<RunningServer, ListenError> {
        let listener =
            self.socket.listen(BACKLOG).map_err(|source| ListenError::from_io(self.address, source))?;
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(serve(listener, router, limits, stopped));
        Ok(RunningServer { address: self.address, stop, task })
    }
}

/// A server that answers. Dropping it ends it at once, transfers included.
#[derive(Debug)]
pub struct RunningServer {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl RunningServer {
    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more connections, closes idle ones, and lets transfers end within the limit.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        drop((&mut self.task).await);
    }
}

impl Drop for RunningServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves `listener` until `stop` says true, then ends within the limit.
async fn serve(listener: TcpListener, router: Router, limits: ServerLimits, mut stop: watch::Receiver<bool>) {
    let permits = Arc::new(Semaphore::new(limits.connections_max.clamp(1, Semaphore::MAX_PERMITS)));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &permits) => accepted,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            () = stopped(&mut stop) => break,
        };
        let (stream, permit) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("a connection was not accepted: {error}");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        router.core().metrics.count_connection();
        let (router, stop) = (router.clone(), stop.clone());
        connections.spawn(async move {
            serve_connection(stream, router, limits, stop).await;
            drop(permit);
        });
    }
    drop(listener);
    let drained = timeout(limits.drain_wait, async { while connections.join_next().await.is_some() {} });
    if drained.await.is_err() {
        tracing::warn!("{} transfers were cut at shutdown", connections.len());
    }
    connections.shutdown().await;
}

/// Waits for the word to stop, or for whoever could say it to be gone.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    drop(stop.wait_for(|stop| *stop).await);
}

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(permits).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, permit))
}

async fn serve_connection(
    stream: TcpStream,
    router: Router,
    limits: ServerLimits,
    mut stop: watch::Receiver<bool>,
) {
    let router = Arc::new(router);
    let service = service_fn(move |request| {
        let router = Arc::clone(&router);
        async move { Ok::<_, Infallible>(router.respond(request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_wait)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .pipeline_flush(true)
        .serve_connection(TokioIo::new(StallGuard::new(stream, limits.stall_max)), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = stopped(&mut stop) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    // A client that went away, or a body that was broken off and told of where it broke.
    if let Err(error) = ended {
        tracing::debug!("a connection ended early: {error}");
    }
}
