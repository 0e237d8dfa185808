//! Bodies of answers.
//!
//! Always holds: a streamed body ends cleanly only after exactly the promised bytes, and only after its source
//! ended without an error; anything else is an error, on which the connection is cut.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use firn_retrieval::ByteStream;
use futures::StreamExt;
use http_body::{Body, Frame, SizeHint};

use crate::gateway_core::GatewayCore;
use crate::metrics::RouteKind;

/// The body of an answer.
#[derive(Debug)]
pub struct GatewayBody(Kind);

enum Kind {
    Empty,
    Whole(Bytes),
    Stream(Streaming),
}

struct Streaming {
    source: ByteStream,
    left: u64,
    /// What to call it in the log.
    name: String,
    route: RouteKind,
    core: Arc<GatewayCore>,
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
            Self::Stream(stream) => write!(formatter, "Stream({} bytes left)", stream.left),
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
        Self(Kind::Stream(Streaming { source, left: bytes, name, route, core }))
    }

    /// Whether it comes in pieces, which may take long.
    pub(crate) const fn is_streamed(&self) -> bool {
        matches!(self.0, Kind::Stream(_))
    }
}

impl Streaming {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, BrokenOff>>> {
        let failure = match ready!(self.source.poll_next_unpin(context)) {
            Some(Ok(piece)) if piece.len() as u64 <= self.left => {
                self.left -= piece.len() as u64;
                self.core.metrics.count_bytes(self.route, piece.len() as u64);
                return Poll::Ready(Some(Ok(piece)));
            }
            None if self.left == 0 => return Poll::Ready(None),
            Some(Ok(_)) => "there is more of it than its path info says".to_owned(),
            None => format!("{} bytes of it are missing", self.left),
            Some(Err(error)) => error.to_string(),
        };
        self.core.metrics.count_broken_off();
        tracing::warn!("{} was cut off while it was served: {failure}", self.name);
        Poll::Ready(Some(Err(BrokenOff { why: failure })))
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
        SizeHint::with_exact(match &self.0 {
            Kind::Empty => 0,
            Kind::Whole(bytes) => bytes.len() as u64,
            Kind::Stream(stream) => stream.left,
        })
    }
}
