//! One connection: its handshake, the version of HTTP that it speaks, and its end.
//!
//! Always holds: request heads, bodies, streams and waits are bounded. A shutdown breaks off no answer, and a client that
//! was told nothing else may send its next request: HTTP/1.1 ends with an answer that says so, or after a while without
//! requests, HTTP/2 with GOAWAY. Leaves to others: what is answered (`routes`), taking connections (`server`).

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use firn_transport::Environment;
use hyper::body::{Body, Incoming};
use hyper::header::{CONNECTION, HeaderMap, HeaderValue};
use hyper::rt::bounds::Http2ServerConnExec;
use hyper::rt::{Read, Write};
use hyper::server::conn::{http1, http2};
use hyper::service::{HttpService, service_fn};
use hyper::{Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::activity::Activity;
use super::certificate::HTTP_2;
use super::client_address::{AddressRange, Asking, asking};
use super::clients::{Client, ClientConnection, Clients, TooManyConnections};
use super::from_memory::{BODY_BYTES_MAX, FromMemory};
use super::limits::ServerLimits;
use super::plain_request::PlainRequest;
use super::refusal::Refusal;
use super::request_log::{PendingLine, RequestLog};
use super::served_body::{Progress, ServedBody};
use super::short_cut::ShortCut;
use super::stall_guard::StallGuard;
use super::stopped;
use crate::metrics::RouteKind;
use crate::routes::{Arrival, Router};

// Requests of Nix have some 200 bytes of headers. This bounds what a stranger's head can take; answers are
// buffered up to as much, so that small pieces share a write.
pub(super) const HEAD_BYTES_MAX: usize = 32 << 10;

// What curl opens at once on one connection. More wait at the client.
const STREAMS_MAX: u32 = 100;
// Nobody has to send us anything but heads.
const RECEIVE_WINDOW_BYTES: u32 = 64 << 10;
// A client that opens streams and resets them at once makes us work for nothing (CVE-2023-44487): the connection ends when
// so many resets wait to be looked at, or as many streams had to be reset by us.
const RESETS_PENDING_MAX: usize = 20;
const RESETS_BY_US_MAX: usize = 64;
// What of one stream waits in memory for its client, beside the piece being sent.
const STREAM_BUFFER_BYTES: usize = 128 << 10;
// A piece that is not taken within the stall limit ends the connection: at 60 s this is 4 kB/s.
const PIECE_BYTES_MAX: usize = 256 << 10;
// Each reads some MiB ahead. Further streams of the connection wait for their turn, before anything is read for them.
const DOWNLOADS_MAX: usize = 16;

/// What all connections of a server share.
pub(super) struct Shared {
    pub(super) router: Router,
    pub(super) limits: ServerLimits,
    pub(super) tls: Option<TlsAcceptor>,
    pub(super) clients: Clients,
    pub(super) proxies: Vec<AddressRange>,
    pub(super) log: Option<Arc<RequestLog>>,
}

/// Who is at the other end of a connection.
pub(super) struct Peer {
    address: IpAddr,
    standing: Standing,
}

enum Standing {
    /// It speaks for others, or for this machine.
    Unlimited,
    Counted(ClientConnection),
    /// It has too many connections already.
    Refused,
}

impl Shared {
    /// Takes the client at `address` in, if only to refuse it.
    pub(super) fn admit(&self, address: IpAddr) -> Peer {
        let is_proxy = self.proxies.iter().any(|range| range.contains(address));
        let client = if is_proxy { None } else { self.clients.find(address) };
        let standing = match client.map(|client| self.clients.connect(client)) {
            None => Standing::Unlimited,
            Some(Ok(connection)) => Standing::Counted(connection),
            Some(Err(TooManyConnections)) => Standing::Refused,
        };
        Peer { address, standing }
    }

    /// Who asks, for the limits and for the log.
    fn asking(&self, peer: &Peer, headers: &HeaderMap) -> Asking {
        if self.proxies.is_empty() {
            Asking::Address(peer.address)
        } else {
            asking(&self.proxies, peer.address, headers)
        }
    }

    /// Who counts for a request that a proxy passes on; none for all others, and where the client is not limited.
    fn behind_proxy(&self, peer: &Peer, headers: &HeaderMap) -> Option<Arc<Client>> {
        if self.proxies.is_empty() || !matches!(peer.standing, Standing::Unlimited) {
            return None;
        }
        match self.asking(peer, headers) {
            Asking::Address(address) => self.clients.find(address),
            Asking::Unclear(proxy) => Some(self.clients.behind(proxy)),
        }
    }

    fn refusal(&self, peer: &Peer, behind: Option<&Client>) -> Option<Refusal> {
        let taken = match &peer.standing {
            Standing::Counted(connection) => self.clients.request(connection.client()),
            Standing::Unlimited => behind.map_or(Ok(()), |client| self.clients.request(client)),
            Standing::Refused => {
                return Some(Refusal::TooManyConnections {
                    connections_max: self.limits.client_connections_max,
                });
            }
        };
        taken.err().map(|wait| Refusal::TooManyRequests { wait })
    }
}

impl Peer {
    /// Who counts for its own requests.
    fn client(&self) -> Option<&Client> {
        match &self.standing {
            Standing::Counted(connection) => Some(connection.client()),
            Standing::Unlimited | Standing::Refused => None,
        }
    }

    pub(super) const fn is_refused(&self) -> bool {
        matches!(self.standing, Standing::Refused)
    }
}

/// One connection's part in its answers.
pub(super) struct Served {
    shared: Arc<Shared>,
    peer: Peer,
    activity: Arc<Activity>,
    /// Objects that are read for bodies.
    downloads: Arc<Semaphore>,
}

impl Served {
    fn new(shared: Arc<Shared>, peer: Peer) -> Arc<Self> {
        let downloads = Arc::new(Semaphore::new(DOWNLOADS_MAX));
        Arc::new(Self { shared, peer, activity: Arc::default(), downloads })
    }

    /// The answer that hyper would be given, if it is in memory and nothing of the request has to be read or written down
    /// for it but what is plain.
    pub(super) fn answer_from_memory(&self, request: &PlainRequest<'_>) -> Option<Response<Bytes>> {
        let Self { shared, peer, activity, .. } = self;
        if shared.log.is_some() || !shared.proxies.is_empty() || peer.is_refused() || activity.is_closing() {
            return None;
        }
        let found = shared.router.find_in_memory(request.path, request.head)?;
        // Until here nothing was taken or counted: what is hyper's after all is as if it had not been looked at. Whoever is
        // refused is told so there.
        let is_ours = found.body_bytes() <= BODY_BYTES_MAX && shared.refusal(peer, None).is_none();
        is_ours.then(|| shared.router.give(found))
    }

    /// Clock and blocking work.
    pub(super) fn environment(&self) -> &Environment {
        self.shared.router.core().environment()
    }
}

/// Serves one client until it goes, is let go, or `stop` says true and its answers have ended.
pub(super) async fn serve_connection(
    stream: TcpStream,
    peer: Peer,
    shared: Arc<Shared>,
    stop: watch::Receiver<bool>,
) -> Result<(), ConnectionError> {
    let Some(tls) = &shared.tls else {
        return serve_http_1(stream, Served::new(shared, peer), stop).await;
    };
    let handshake = timeout(shared.limits.header_wait, tls.accept(stream));
    let stream = handshake.await.map_err(|_| ConnectionError::SlowHandshake)??;
    if stream.get_ref().1.alpn_protocol() == Some(HTTP_2) {
        serve_http_2(stream, Served::new(shared, peer), stop).await
    } else {
        serve_http_1(stream, Served::new(shared, peer), stop).await
    }
}

/// Why a connection ended before its time: for the log of whoever looks for it.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    #[error("it did not finish its TLS handshake in time")]
    SlowHandshake,
    #[error("it left an answer untouched for too long")]
    Stalled,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Http(#[from] hyper::Error),
}

async fn serve_http_1<T: AsyncRead + AsyncWrite + Unpin>(
    stream: T,
    served: Arc<Served>,
    stop: watch::Receiver<bool>,
) -> Result<(), ConnectionError> {
    let (limits, activity) = (served.shared.limits, Arc::clone(&served.activity));
    // Its own limits are not asked for: that of header lines makes it allocate for each request (a hundred are its
    // default), that of the time for a head starts a timer for each. Time is kept below.
    let stream = StallGuard::new(stream, limits.stall_max);
    let stream = ShortCut::new(stream, FromMemory::new(Arc::clone(&served)), Arc::clone(&activity));
    // A head that has come whole may have filled more than the buffer that others wait in.
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD_BYTES_MAX).max_header_size(HEAD_BYTES_MAX);
    let connection = builder.serve_connection(
        TokioIo::new(stream),
        service_fn(move |request| answer(request, Arc::clone(&served))),
    );
    drive(connection, &activity, limits, stop).await
}

async fn serve_http_2<T: AsyncRead + AsyncWrite + Unpin>(
    stream: T,
    served: Arc<Served>,
    stop: watch::Receiver<bool>,
) -> Result<(), ConnectionError> {
    let (limits, activity) = (served.shared.limits, Arc::clone(&served.activity));
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(RECEIVE_WINDOW_BYTES)
        .initial_connection_window_size(RECEIVE_WINDOW_BYTES)
        .max_header_list_size(HEAD_BYTES)
        .max_pending_accept_reset_streams(RESETS_PENDING_MAX)
        .max_local_error_reset_streams(RESETS_BY_US_MAX)
        .max_send_buf_size(STREAM_BUFFER_BYTES)
        .serve_connection(
            TokioIo::new(StallGuard::new(stream, limits.stall_max)),
            service_fn(move |request| answer(request, Arc::clone(&served))),
        );
    drive(connection, &activity, limits, stop).await
}

/// What the connections of both versions have in common.
trait HttpConnection: Future<Output = hyper::Result<()>> {
    /// Whether a client learns of the end by more than the end, so that it loses no request to it.
    const ANNOUNCES_END: bool;

    /// Lets it end when what is being answered has ended.
    fn end(self: Pin<&mut Self>);
}

impl<I, S> HttpConnection for http1::Connection<I, S>
where
    S: HttpService<Incoming, ResBody = ServedBody>,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    I: Read + Write + Unpin,
{
    const ANNOUNCES_END: bool = false;

    fn end(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<I, S, E> HttpConnection for http2::Connection<I, S, E>
where
    S: HttpService<Incoming, ResBody = ServedBody>,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    I: Read + Write + Unpin,
    E: Http2ServerConnExec<S::Future, ServedBody>,
{
    const ANNOUNCES_END: bool = true;

    fn end(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// Where a connection is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// The server stops: a request that is on its way to us is still answered, and told that it was the last.
    Lingering,
    /// It ends by itself when its answers have gone.
    Ending,
}

/// Lets `connection` run until it has ended or has to.
async fn drive<C: HttpConnection>(
    connection: C,
    activity: &Activity,
    limits: ServerLimits,
    mut stop: watch::Receiver<bool>,
) -> Result<(), ConnectionError> {
    let ServerLimits { header_wait, stall_max, linger, .. } = limits;
    let mut connection = pin!(connection);
    let mut stops = pin!(stopped(&mut stop));
    let (mut phase, mut begun, mut idle) = (Phase::Open, 0, Duration::ZERO);
    loop {
        let look_after =
            if phase == Phase::Open { header_wait.min(stall_max) / LOOKS } else { linger / LOOKS };
        tokio::select! {
            biased;
            ended = connection.as_mut() => return Ok(ended?),
            () = &mut stops, if phase == Phase::Open => {
                activity.close_after_answer();
                (phase, idle) = (Phase::Lingering, Duration::ZERO);
                if C::ANNOUNCES_END {
                    phase = Phase::Ending;
                    connection.as_mut().end();
                }
                continue;
            }
            () = sleep(look_after) => {}
        }
        if activity.is_stalled(stall_max) {
            return Err(ConnectionError::Stalled);
        }
        let before = std::mem::replace(&mut begun, activity.begun());
        idle = if activity.is_idle() && begun == before { idle + look_after } else { Duration::ZERO };
        match phase {
            Phase::Open if idle >= header_wait => {}
            Phase::Lingering if idle >= linger => {}
            // Half a head, or a client that does not answer: there is nothing to wait for.
            Phase::Ending if idle >= linger => return Err(ConnectionError::Stalled),
            _ => continue,
        }
        (phase, idle) = (Phase::Ending, Duration::ZERO);
        connection.as_mut().end();
    }
}

// Times are kept to within an eighth.
const LOOKS: u32 = 8;

#[expect(clippy::cast_possible_truncation, reason = "32 KiB")]
const HEAD_BYTES: u32 = HEAD_BYTES_MAX as u32;

async fn answer(request: Request<Incoming>, served: Arc<Served>) -> Result<Response<ServedBody>, Infallible> {
    let Served { shared, peer, activity, downloads } = &*served;
    let answering = activity.begin();
    let behind = shared.behind_proxy(peer, request.headers());
    let places = peer.client().or(behind.as_deref()).map(Client::places);
    let arrival = Arrival { over_tls: shared.tls.is_some(), turns: Some(downloads), places };
    let says_when_it_closes = request.version() < Version::HTTP_2;
    let line = shared.log.as_ref().map(|log| {
        let client = shared.asking(peer, request.headers()).address();
        PendingLine::begin(Arc::clone(log), &request, client)
    });
    let (kind, mut response) = match shared.refusal(peer, behind.as_deref()) {
        None => shared.router.respond_as(request, arrival).await,
        Some(refusal) => {
            let response = refusal.response();
            let bytes = response.body().size_hint().exact().unwrap_or(0);
            shared.router.core().metrics.count_request(RouteKind::Other, response.status(), bytes);
            (RouteKind::Other, response)
        }
    };
    if says_when_it_closes && (activity.is_closing() || peer.is_refused()) {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let line = line.map(|line| line.answered(kind.name(), response.status()));
    let goes_at_once =
        response.body().size_hint().upper().is_some_and(|bytes| bytes <= PIECE_BYTES_MAX as u64);
    if goes_at_once && !response.body().is_streamed() && line.is_none() {
        return Ok(response.map(ServedBody::whole));
    }
    let progress = Progress::new(answering, line, PIECE_BYTES_MAX);
    Ok(response.map(|body| ServedBody::watched(body, progress)))
}
