//! One connection: its handshake, the version of HTTP that it speaks, and its end.
//!
//! Always holds: request heads, bodies, streams and waits are bounded. A shutdown breaks off no answer, and a client that
//! was told nothing else may send its next request: HTTP/1.1 ends with an answer that says so, or after a while without
//! requests, HTTP/2 with GOAWAY. Leaves to others: what is answered (`routes`), taking connections (`server`).

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::activity::Activity;
use super::certificate::HTTP_2;
use super::limits::ServerLimits;
use super::served_body::ServedBody;
use super::stall_guard::StallGuard;
use super::stopped;
use crate::routes::Router;

// Requests of Nix have some 200 bytes of headers. This bounds what a stranger's head can take; answers are
// buffered up to as much, so that small pieces share a write.
const HEAD_BYTES_MAX: usize = 32 << 10;
const HEADERS_MAX: usize = 64;

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
// A piece that is not taken within the stall limit ends the connection: at 60 s this is 2 kB/s for each stream.
const PIECE_BYTES_MAX: usize = 128 << 10;

/// What all connections of a server share.
pub(super) struct Shared {
    pub(super) router: Router,
    pub(super) limits: ServerLimits,
    pub(super) tls: Option<TlsAcceptor>,
}

/// Serves one client until it goes, is let go, or `stop` says true and its answers have ended.
pub(super) async fn serve_connection(
    stream: TcpStream,
    shared: Arc<Shared>,
    stop: watch::Receiver<bool>,
) -> Result<(), ConnectionError> {
    let Some(tls) = &shared.tls else {
        return serve_http_1(stream, &shared, stop).await;
    };
    let handshake = timeout(shared.limits.header_wait, tls.accept(stream));
    let stream = handshake.await.map_err(|_| ConnectionError::SlowHandshake)??;
    if stream.get_ref().1.alpn_protocol() == Some(HTTP_2) {
        serve_http_2(stream, &shared, stop).await
    } else {
        serve_http_1(stream, &shared, stop).await
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
    shared: &Arc<Shared>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), ConnectionError> {
    let activity = Arc::new(Activity::default());
    let service =
        service_fn(|request| answer(request, Arc::clone(shared), Arc::clone(&activity), usize::MAX));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(shared.limits.header_wait)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .pipeline_flush(true)
        .serve_connection(TokioIo::new(StallGuard::new(stream, shared.limits.stall_max)), service);
    let mut connection = pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return Ok(ended?),
        () = stopped(&mut stop) => activity.close_after_answer(),
    }
    // A request may be on its way to us. One that comes within the linger is answered, and told that it was the last.
    let mut begun = activity.begun();
    loop {
        tokio::select! {
            ended = connection.as_mut() => return Ok(ended?),
            () = sleep(shared.limits.linger) => {}
        }
        let before = std::mem::replace(&mut begun, activity.begun());
        if activity.is_idle() && begun == before {
            connection.as_mut().graceful_shutdown();
            return Ok(connection.await?);
        }
    }
}

async fn serve_http_2<T: AsyncRead + AsyncWrite + Unpin>(
    stream: T,
    shared: &Arc<Shared>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), ConnectionError> {
    let ServerLimits { header_wait, stall_max, .. } = shared.limits;
    let activity = Arc::new(Activity::default());
    // Streams outlive this function's frame in the eyes of the compiler: they have their own parts.
    let (for_streams, of_streams) = (Arc::clone(shared), Arc::clone(&activity));
    let service = service_fn(move |request| {
        answer(request, Arc::clone(&for_streams), Arc::clone(&of_streams), PIECE_BYTES_MAX)
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(RECEIVE_WINDOW_BYTES)
        .initial_connection_window_size(RECEIVE_WINDOW_BYTES)
        .max_header_list_size(HEAD_BYTES)
        .max_pending_accept_reset_streams(RESETS_PENDING_MAX)
        .max_local_error_reset_streams(RESETS_BY_US_MAX)
        .max_send_buf_size(STREAM_BUFFER_BYTES)
        .serve_connection(TokioIo::new(StallGuard::new(stream, stall_max)), service);
    let mut connection = pin!(connection);
    let mut stops = pin!(stopped(&mut stop));
    let (mut begun, mut idle, mut is_ending) = (0, Duration::ZERO, false);
    let look_every = header_wait.min(stall_max) / LOOKS;
    loop {
        tokio::select! {
            ended = connection.as_mut() => return Ok(ended?),
            () = &mut stops, if !is_ending => {
                is_ending = true;
                connection.as_mut().graceful_shutdown();
                continue;
            }
            () = sleep(look_every) => {}
        }
        if activity.is_stalled(stall_max) {
            return Err(ConnectionError::Stalled);
        }
        let before = std::mem::replace(&mut begun, activity.begun());
        idle = if activity.is_idle() && begun == before { idle + look_every } else { Duration::ZERO };
        if is_ending && idle >= header_wait {
            return Err(ConnectionError::Stalled);
        }
        if idle >= header_wait {
            (is_ending, idle) = (true, Duration::ZERO);
            connection.as_mut().graceful_shutdown();
        }
    }
}

// Limits on waiting are kept to within an eighth.
const LOOKS: u32 = 8;

#[expect(clippy::cast_possible_truncation, reason = "32 KiB")]
const HEAD_BYTES: u32 = HEAD_BYTES_MAX as u32;

async fn answer(
    request: Request<Incoming>,
    shared: Arc<Shared>,
    activity: Arc<Activity>,
    piece_max: usize,
) -> Result<Response<ServedBody>, Infallible> {
    let answering = activity.begin();
    let mut response = shared.router.respond(request).await;
    if activity.is_closing() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response.map(|body| ServedBody::new(body, answering, piece_max)))
}
