//! Bodies of answers.
//!
//! Always holds: a streamed body ends cleanly only after its source ended without an error, and only after exactly
//! the bytes that were promised, if any were; anything else is an error, on which the connection is cut.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use firn_retrieval::ByteStream;
use futures::StreamExt;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;

use crate::compressed_nar::FrameStream;
use crate::download_places::DownloadPlace;
use crate::gateway_core::GatewayCore;
use crate::metrics::RouteKind;

/// The body of an answer.
#[derive(Debug)]
pub struct GatewayBody(Kind);

enum Kind {
    Empty,
    Whole(Bytes),
    /// Boxed, so that answers that are moved about for every request stay small.
    Stream(Box<Streaming>),
}

struct Streaming {
    source: Source,
    /// None if nobody can say beforehand.
    left: Option<u64>,
    /// What to call it in the log.
    name: String,
    route: RouteKind,
    core: Arc<GatewayCore>,
    /// Its place among the bodies of its connection, until it ends.
    turn: Option<OwnedSemaphorePermit>,
    /// Its place among all that are sent, until it ends.
    place: Option<DownloadPlace>,
}

enum Source {
    Object(ByteStream),
    Frames(FrameStream),
}

/// A body was broken off: what was sent of it must not be taken for the whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the body was broken off: {why}")]
pub struct BrokenOff {
    why: String,
}

impl fmt::Debug for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => formatter.write_str("Empty"),
            Self::Whole(bytes) => write!(formatter, "Whole({} bytes)", bytes.len()),
            Self::Stream(stream) => write!(formatter, "Stream({:?} bytes left)", stream.left),
        }
    }
}

impl GatewayBody {
    pub(crate) const fn empty() -> Self {
        Self(Kind::Empty)
    }

    pub(crate) fn whole(bytes: Bytes) -> Self {
        if bytes.is_empty() { Self(Kind::Empty) } else { Self(Kind::Whole(bytes)) }
    }

    /// `bytes` bytes from `source`, counted for `route`.
    pub(crate) fn stream(
        source: ByteStream,
        bytes: u64,
        name: String,
        route: RouteKind,
        core: Arc<GatewayCore>,
    ) -> Self {
        let source = Source::Object(source);
        Self::streaming(Streaming { source, left: Some(bytes), name, route, core, turn: None, place: None })
    }

    /// Of a compressed NAR `bytes` bytes, or all if nobody knows how many they are.
    pub(crate) fn frames(
        source: FrameStream,
        bytes: Option<u64>,
        name: String,
        core: Arc<GatewayCore>,
    ) -> Self {
        let source = Source::Frames(source);
        Self::streaming(Streaming {
            source,
            left: bytes,
            name,
            route: RouteKind::Nar,
            core,
            turn: None,
            place: None,
        })
    }

    fn streaming(streaming: Streaming) -> Self {
        Self(Kind::Stream(Box::new(streaming)))
    }

    /// The same, which keeps its turn until it has ended.
    pub(crate) fn in_turn(mut self, turn: Option<OwnedSemaphorePermit>) -> Self {
        if let Kind::Stream(stream) = &mut self.0 {
            stream.turn = turn;
        }
        self
    }

    /// The same, which keeps its place until it has ended.
    pub(crate) fn in_place(mut self, place: Option<DownloadPlace>) -> Self {
        if let Kind::Stream(stream) = &mut self.0 {
            stream.place = place;
        }
        self
    }

    /// All of it, if it is in memory.
    pub(crate) fn into_whole(self) -> Option<Bytes> {
        match self.0 {
            Kind::Empty => Some(Bytes::new()),
            Kind::Whole(bytes) => Some(bytes),
            Kind::Stream(_) => None,
        }
    }

    /// Whether it comes in pieces, which may take long.
    pub(crate) const fn is_streamed(&self) -> bool {
        matches!(self.0, Kind::Stream(_))
    }
}

impl Streaming {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, BrokenOff>>> {
        let failure = match (ready!(self.source.poll_next(context)), &mut self.left) {
            (Some(Ok(piece)), left) if left.is_none_or(|left| piece.len() as u64 <= left) => {
                if let Some(left) = left {
                    *left -= piece.len() as u64;
                }
                self.core.metrics.count_bytes(self.route, piece.len() as u64);
                return Poll::Ready(Some(Ok(piece)));
            }
            (None, None | Some(0)) => return Poll::Ready(None),
            (Some(Ok(_)), _) => "there is more of it than its path info says".to_owned(),
            (None, Some(left)) => format!("{left} bytes of it are missing"),
            (Some(Err(error)), _) => error,
        };
        self.core.metrics.count_broken_off();
        tracing::warn!("{} was cut off while it was served: {failure}", self.name);
        Poll::Ready(Some(Err(BrokenOff { why: failure })))
    }
}

impl Source {
    /// The next bytes, or why there are none, in words.
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, String>>> {
        match self {
            Self::Object(stream) => stream
                .poll_next_unpin(context)
                .map(|next| next.map(|piece| piece.map_err(|error| error.to_string()))),
            Self::Frames(stream) => stream
                .poll_next_unpin(context)
                .map(|next| next.map(|piece| piece.map_err(|error| error.to_string()))),
        }
    }
}

impl Body for GatewayBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let next = match &mut self.0 {
            Kind::Empty => None,
            Kind::Whole(bytes) => Some(Ok(std::mem::take(bytes))),
            Kind::Stream(stream) => {
                let next = ready!(stream.poll(context));
                if matches!(next, Some(Ok(_))) {
                    return Poll::Ready(next.map(|piece| piece.map(Frame::data)));
                }
                next
            }
        };
        self.0 = Kind::Empty;
        Poll::Ready(next.map(|piece| piece.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.0, Kind::Empty)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Stream(stream) => stream.left.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}
