//! The HTTP server: taking connections, and ending in order.
//!
//! Always holds: connections are bounded; a shutdown lets whoever was let in end for a while and then cuts them. Leaves to
//! others: one connection (`connection`), what is answered (`routes`).

mod activity;
mod certificate;
mod connection;
mod limits;
mod port;
mod served_body;
mod stall_guard;

pub use certificate::{Certificate, CertificateError, CertificateFiles};
pub use limits::{ServerLimits, ServerOptions};
pub use port::{BoundPort, ListenError};

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet, spawn_blocking};
use tokio::time::{sleep, timeout};

use crate::routes::Router;
use connection::{Shared, serve_connection};

// Out of file descriptors, most likely: some connection will end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

// Certificates are renewed weeks before they end: a minute is soon enough, and two small files cost nothing.
const CERTIFICATE_EVERY: Duration = Duration::from_secs(60);

/// A server that answers. Dropping it ends it at once, transfers included.
#[derive(Debug)]
pub struct RunningServer {
    address: SocketAddr,
    certificate: Option<Arc<Certificate>>,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

/// Serves `listener`; `address` is its address.
fn start(
    listener: TcpListener,
    address: SocketAddr,
    router: Router,
    options: ServerOptions,
) -> Result<RunningServer, ListenError> {
    let ServerOptions { limits, certificate } = options;
    let tls = certificate.as_ref().map(Certificate::acceptor).transpose();
    let tls = tls.map_err(|source| ListenError::Tls { source })?;
    let (stop, stopped) = watch::channel(false);
    let mut tasks = vec![tokio::spawn(serve(listener, Arc::new(Shared { router, limits, tls }), stopped))];
    if let Some(certificate) = certificate.clone() {
        tasks.push(tokio::spawn(async move {
            loop {
                sleep(CERTIFICATE_EVERY).await;
                renew(&certificate).await;
            }
        }));
    }
    Ok(RunningServer { address, certificate, stop, tasks })
}

impl RunningServer {
    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether it speaks TLS.
    pub const fn is_encrypted(&self) -> bool {
        self.certificate.is_some()
    }

    /// Reads the certificate's files again, if there is one: connections to come see what is in them.
    pub async fn renew_certificate(&self) {
        if let Some(certificate) = &self.certificate {
            renew(certificate).await;
        }
    }

    /// Takes no more connections and lets answers end within the limit; connections without requests end after the linger.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        if let Some(serving) = self.tasks.first_mut() {
            drop(serving.await);
        }
    }
}

impl Drop for RunningServer {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn renew(certificate: &Arc<Certificate>) {
    let certificate = Arc::clone(certificate);
    match spawn_blocking(move || certificate.renew()).await {
        Ok(Ok(true)) => tracing::info!("a new certificate is shown from now on"),
        Ok(Ok(false)) => {}
        Ok(Err(error)) => tracing::warn!("the certificate was not renewed, the one before stays: {error}"),
        Err(error) => tracing::warn!("the certificate was not looked at: {error}"),
    }
}

/// Serves `listener` until `stop` says true, then ends within the limit.
async fn serve(listener: TcpListener, shared: Arc<Shared>, stop: watch::Receiver<bool>) {
    let limits = shared.limits;
    let permits = Arc::new(Semaphore::new(limits.connections_max.clamp(1, Semaphore::MAX_PERMITS)));
    let mut connections = JoinSet::new();
    let serve_one = |(stream, permit): Accepted| {
        shared.router.core().metrics.count_connection();
        let (shared, stop) = (Arc::clone(&shared), stop.clone());
        async move {
            // A client that went away, or a body that was broken off and told of where it broke.
            if let Err(error) = serve_connection(stream, shared, stop).await {
                tracing::debug!("a connection ended early: {error}");
            }
            drop(permit);
        }
    };
    let mut stops = stop.clone();
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &permits) => accepted,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            () = stopped(&mut stops) => break,
        };
        match accepted {
            Ok(accepted) => drop(connections.spawn(serve_one(accepted))),
            Err(error) => {
                tracing::warn!("a connection was not accepted: {error}");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // The kernel let these in: closing the port would break them off. Where the port was handed over they would wait for
    // whoever serves it next, but here they are answered sooner.
    for waiting in take_waiting(listener, &permits) {
        connections.spawn(serve_one(waiting));
    }
    let drained = timeout(limits.drain_wait, async { while connections.join_next().await.is_some() {} });
    if drained.await.is_err() {
        tracing::warn!("{} connections were cut at shutdown", connections.len());
    }
    connections.shutdown().await;
}

/// Waits for the word to stop, or for whoever could say it to be gone.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    drop(stop.wait_for(|stop| *stop).await);
}

/// Those whom the kernel let in already. The port is closed.
fn take_waiting(listener: TcpListener, permits: &Arc<Semaphore>) -> Vec<Accepted> {
    let mut waiting = Vec::new();
    // Asked directly: what the runtime knows of the socket may be older.
    let Ok(listener) = listener.into_std() else { return waiting };
    while let Ok(permit) = Arc::clone(permits).try_acquire_owned()
        && let Ok((stream, _)) = listener.accept()
    {
        let adopted = stream.set_nonblocking(true).and_then(|()| stream.set_nodelay(true));
        if let Ok(stream) = adopted.and_then(|()| TcpStream::from_std(stream)) {
            waiting.push((stream, permit));
        }
    }
    waiting
}

type Accepted = (TcpStream, OwnedSemaphorePermit);

async fn accept(listener: &TcpListener, permits: &Arc<Semaphore>) -> io::Result<Accepted> {
    let permit = Arc::clone(permits).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, permit))
}
