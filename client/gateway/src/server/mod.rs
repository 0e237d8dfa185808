//! The HTTP server: taking connections, and ending in order.
//!
//! Always holds: connections are bounded; a shutdown lets whoever was let in end for a while and then cuts them. Leaves to
//! others: one connection (`connection`), what is answered (`routes`).

mod activity;
mod certificate;
mod client_address;
mod clients;
mod connection;
mod from_memory;
mod limits;
mod plain_request;
mod port;
mod refusal;
mod request_budget;
mod request_log;
mod served_body;
mod short_cut;
mod stall_guard;

pub use certificate::{Certificate, CertificateError, CertificateFiles};
pub use client_address::{AddressRange, ParseAddressRangeError};
pub use limits::{ServerLimits, ServerOptions};
pub use port::{BoundPort, ListenError};
pub use request_log::{LogDestination, LogDetail, RequestLog};

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep, timeout_at};

use crate::routes::Router;
use clients::Clients;
use connection::{Shared, serve_connection};

// Out of file descriptors, most likely: some connection will end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

// Certificates are renewed weeks before they end: a minute is soon enough, and two small files cost nothing.
const CERTIFICATE_EVERY: Duration = Duration::from_secs(60);

// So many clients at once that have too many connections are told so; more are cut without a word.
const REFUSALS_AT_ONCE: usize = 64;

/// A server that answers. Dropping it ends it at once, transfers included.
#[derive(Debug)]
pub struct RunningServer {
    address: SocketAddr,
    certificate: Option<Arc<Certificate>>,
    log: Option<Arc<RequestLog>>,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

/// A port that clients come to.
#[derive(Debug)]
struct OpenPort {
    listener: TcpListener,
    address: SocketAddr,
    /// Somebody else serves it after us: clients that we do not take wait.
    outlives_us: bool,
}

/// Serves `port`.
fn start(port: OpenPort, router: Router, options: ServerOptions) -> Result<RunningServer, ListenError> {
    let ServerOptions { limits, certificate, trusted_proxies: proxies, request_log: log } = options;
    let tls = certificate.as_ref().map(Certificate::acceptor).transpose();
    let tls = tls.map_err(|source| ListenError::Tls { source })?;
    let (stop, stopped) = watch::channel(false);
    let clients = Clients::new(limits.client_requests_per_second, limits.client_connections_max);
    let shared = Arc::new(Shared { router, limits, tls, clients, proxies, log: log.clone() });
    let address = port.address;
    let mut tasks = vec![tokio::spawn(serve(port, shared, stopped))];
    if let Some(certificate) = certificate.clone() {
        tasks.push(tokio::spawn(async move {
            loop {
                sleep(CERTIFICATE_EVERY).await;
                renew(&certificate).await;
            }
        }));
    }
    Ok(RunningServer { address, certificate, log, stop, tasks })
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

    /// Reads the certificate's files again, if there is one: connections to come see what is in them. The request log goes
    /// on in a file opened anew.
    pub async fn reload(&self) {
        if let Some(log) = &self.log {
            log.reopen();
        }
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

/// Serves `port` until `stop` says true, then ends within the limit.
async fn serve(port: OpenPort, shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    let OpenPort { listener, outlives_us, .. } = port;
    let drain_wait = shared.limits.drain_wait;
    let mut door = Door::new(shared, stop.clone());
    tokio::select! {
        () = door.take(&listener) => {}
        () = stopped(&mut stop) => {}
    }
    let ends = Instant::now() + drain_wait;
    let mut before = std::mem::take(&mut door.connections);
    if outlives_us {
        // Whoever comes now would wait until the next server begins, which it does when the last download has ended: it is
        // served here meanwhile, and told that it was the last time.
        tokio::select! {
            () = door.take(&listener) => {}
            () = drain(&mut before) => {}
            () = sleep(drain_wait / 2) => {}
        }
    }
    // The kernel let these in: closing the port would break them off.
    door.take_waiting(listener);
    if timeout_at(ends, async { tokio::join!(drain(&mut before), drain(&mut door.connections)) })
        .await
        .is_err()
    {
        tracing::warn!("downloads were cut at shutdown");
    }
}

/// Waits until all have ended.
async fn drain(connections: &mut JoinSet<()>) {
    while connections.join_next().await.is_some() {}
}

/// Where clients come in.
struct Door {
    shared: Arc<Shared>,
    stop: watch::Receiver<bool>,
    permits: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
    connections: JoinSet<()>,
}

impl Door {
    fn new(shared: Arc<Shared>, stop: watch::Receiver<bool>) -> Self {
        let permits = shared.limits.connections_max.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            shared,
            stop,
            permits: Arc::new(Semaphore::new(permits)),
            refusals: Arc::new(Semaphore::new(REFUSALS_AT_ONCE)),
            connections: JoinSet::new(),
        }
    }

    /// Takes connections for ever. Nobody is lost where it is dropped.
    async fn take(&mut self, listener: &TcpListener) {
        loop {
            let accepted = tokio::select! {
                accepted = accept(listener, &self.permits) => accepted,
                Some(_) = self.connections.join_next(), if !self.connections.is_empty() => continue,
            };
            match accepted {
                Ok(accepted) => self.serve_one(accepted),
                Err(error) => {
                    tracing::warn!("a connection was not accepted: {error}");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Takes those whom the kernel let in already, and closes the port.
    fn take_waiting(&mut self, listener: TcpListener) {
        // Asked directly: what the runtime knows of the socket may be older.
        let Ok(listener) = listener.into_std() else { return };
        while let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned()
            && let Ok((stream, from)) = listener.accept()
        {
            let adopted = stream.set_nonblocking(true).and_then(|()| stream.set_nodelay(true));
            if let Ok(stream) = adopted.and_then(|()| TcpStream::from_std(stream)) {
                self.serve_one(Accepted { stream, address: from.ip(), permit });
            }
        }
    }

    fn serve_one(&mut self, accepted: Accepted) {
        let Accepted { stream, address, permit } = accepted;
        self.shared.router.core().metrics.count_connection();
        let peer = self.shared.admit(address);
        let refusing = peer.is_refused().then(|| Arc::clone(&self.refusals).try_acquire_owned());
        if matches!(refusing, Some(Err(_))) {
            return;
        }
        let (shared, stop) = (Arc::clone(&self.shared), self.stop.clone());
        self.connections.spawn(async move {
            // A client that went away, or a body that was broken off and told of where it broke.
            if let Err(error) = serve_connection(stream, peer, shared, stop).await {
                tracing::debug!("a connection ended early: {error}");
            }
            drop((permit, refusing));
        });
    }
}

/// Waits for the word to stop, or for whoever could say it to be gone.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    drop(stop.wait_for(|stop| *stop).await);
}

/// A connection that was let in, with its place among all.
struct Accepted {
    stream: TcpStream,
    address: IpAddr,
    permit: OwnedSemaphorePermit,
}

async fn accept(listener: &TcpListener, permits: &Arc<Semaphore>) -> io::Result<Accepted> {
    let permit = Arc::clone(permits).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, from) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok(Accepted { stream, address: from.ip(), permit })
}
