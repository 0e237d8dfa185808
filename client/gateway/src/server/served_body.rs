//! A body on its way to a client.
//!
//! Always holds: the request that it answers counts as open, and its line of the log is unwritten, until the body is
//! dropped. Leaves to others: what is in it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::activity::Answering;
use super::request_log::PendingLine;
use crate::body::{BrokenOff, GatewayBody};

/// An answer's body, with what has to be known of its progress.
#[derive(Debug)]
pub(super) struct ServedBody {
    body: GatewayBody,
    /// Nothing where the whole body goes at once and nobody wants to hear of it.
    progress: Option<Box<Progress>>,
}

/// What goes on while a body is sent.
#[derive(Debug)]
pub(super) struct Progress {
    answering: Answering,
    line: Option<PendingLine>,
    /// No piece is larger.
    piece_max: usize,
    /// What is left of a larger piece.
    rest: Bytes,
}

impl Progress {
    /// Of the answer to `answering`, which goes in pieces of at most `piece_max` bytes; `line` tells of its end.
    pub(super) const fn new(answering: Answering, line: Option<PendingLine>, piece_max: usize) -> Self {
        Self { answering, line, piece_max, rest: Bytes::new() }
    }
}

impl ServedBody {
    /// A body that goes at once, and of whose end nobody wants to hear.
    pub(super) const fn whole(body: GatewayBody) -> Self {
        Self { body, progress: None }
    }

    /// A body that may take its time.
    pub(super) fn watched(body: GatewayBody, mut progress: Progress) -> Self {
        if let Some(line) = &mut progress.line {
            line.expects(body.size_hint().exact());
        }
        // Nobody asks for the first piece while the client lets nothing through.
        progress.answering.gave();
        Self { body, progress: Some(Box::new(progress)) }
    }
}

impl Body for ServedBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let Self { body, progress } = &mut *self;
        let Some(progress) = progress else { return Pin::new(body).poll_frame(context) };
        if progress.rest.is_empty() {
            progress.answering.awaited();
            match ready!(Pin::new(body).poll_frame(context)).transpose()?.map(Frame::into_data) {
                Some(Ok(piece)) => progress.rest = piece,
                Some(Err(other)) => return Poll::Ready(Some(Ok(other))),
                None => {
                    if let Some(line) = &mut progress.line {
                        line.ended();
                    }
                    return Poll::Ready(None);
                }
            }
        }
        let piece = progress.rest.split_to(progress.rest.len().min(progress.piece_max));
        progress.answering.gave();
        if let Some(line) = &mut progress.line {
            line.gave(piece.len() as u64);
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.progress.as_ref().is_none_or(|progress| progress.rest.is_empty()) && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.progress.as_ref().map_or(0, |progress| progress.rest.len() as u64);
        self.body.size_hint().exact().map_or_else(SizeHint::default, |left| SizeHint::with_exact(left + rest))
    }
}
