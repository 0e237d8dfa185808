//! A body on its way to a client.
//!
//! Always holds: the request that it answers counts as open until the body is dropped. Leaves to others: what is in it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::activity::Answering;
use crate::body::{BrokenOff, GatewayBody};

/// An answer's body, with what has to be known of its progress.
#[derive(Debug)]
pub(super) struct ServedBody {
    body: GatewayBody,
    /// Nothing where the whole body goes at once.
    progress: Option<Box<Progress>>,
}

#[derive(Debug)]
struct Progress {
    answering: Answering,
    /// No piece is larger.
    piece_max: usize,
    /// What is left of a larger piece.
    rest: Bytes,
}

impl ServedBody {
    /// `body`, which answers the request `answering` and goes in pieces of at most `piece_max` bytes if it is streamed.
    pub(super) fn new(body: GatewayBody, answering: Answering, piece_max: usize) -> Self {
        let progress = body
            .is_streamed()
            .then(|| Box::new(Progress { answering, piece_max: piece_max.max(1), rest: Bytes::new() }));
        Self { body, progress }
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
                None => return Poll::Ready(None),
            }
        }
        let bytes = progress.rest.len().min(progress.piece_max);
        progress.answering.gave();
        Poll::Ready(Some(Ok(Frame::data(progress.rest.split_to(bytes)))))
    }

    fn is_end_stream(&self) -> bool {
        self.progress.as_ref().is_none_or(|progress| progress.rest.is_empty()) && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.progress.as_ref().map_or(0, |progress| progress.rest.len() as u64);
        // Every body of ours knows its length.
        self.body.size_hint().exact().map_or_else(SizeHint::default, |left| SizeHint::with_exact(left + rest))
    }
}
