//! What is known at once is answered before hyper reads the request: misses are most of what a client hears, and what is
//! done around one is more than what is done for it.
//!
//! Always holds: answers leave in the order of their requests, one for each; hyper is given every byte of what is not
//! answered here, and from the first unusual byte on everything. That it is between two requests is known, for until then
//! it was given whole heads without bodies only, one after the other. Memory is bounded by one answer. Leaves to others:
//! which requests are plain (`plain_request`), what is answered (`from_memory`), time (`connection`, `stall_guard`).

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::activity::{Activity, Answering};
use super::plain_request::PlainRequest;

/// What knows answers at once.
pub(super) trait Answers {
    /// Writes the whole answer into the empty buffer; without an answer the request is hyper's.
    fn answer(&mut self, request: &PlainRequest<'_>, into: &mut Vec<u8>) -> bool;
}

/// A connection as hyper sees it: without the requests that were answered here.
#[derive(Debug)]
pub(super) struct ShortCut<T, A> {
    inner: T,
    answers: A,
    activity: Arc<Activity>,
    turn: Turn,
    answer: Vec<u8>,
    /// Of the answer.
    sent_bytes: usize,
    answering: Option<Answering>,
}

/// Whose the next bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// A request begins.
    Ours,
    /// Hyper has one request, and has begun to write its answer or not.
    Lent { written: bool },
    /// Hyper's, to the end of the connection.
    Theirs,
}

// What an answer of this size took is kept for the next one; most are a tenth of it.
const ANSWER_KEPT_BYTES: usize = 4096;

impl<T, A> ShortCut<T, A> {
    /// Of the connection `inner`, whose requests `activity` counts.
    pub(super) const fn new(inner: T, answers: A, activity: Arc<Activity>) -> Self {
        Self {
            inner,
            answers,
            activity,
            turn: Turn::Ours,
            answer: Vec::new(),
            sent_bytes: 0,
            answering: None,
        }
    }

    fn wrote(&mut self) {
        if let Turn::Lent { written } = &mut self.turn {
            *written = true;
        }
    }
}

impl<T: AsyncWrite + Unpin, A> ShortCut<T, A> {
    /// Sends what is left of our own answer.
    fn poll_answer(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent_bytes < self.answer.len() {
            let rest = &self.answer[self.sent_bytes..];
            match ready!(Pin::new(&mut self.inner).poll_write(context, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                bytes => self.sent_bytes += bytes,
            }
        }
        if self.answering.is_some() {
            // What encrypts takes more than it has sent: until all of it is on its way it is being answered.
            ready!(Pin::new(&mut self.inner).poll_flush(context))?;
            self.answering = None;
            self.sent_bytes = 0;
            self.answer.clear();
            self.answer.shrink_to(ANSWER_KEPT_BYTES);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin, A: Answers + Unpin> AsyncRead for ShortCut<T, A> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            // Whoever takes no answers is not read from.
            ready!(this.poll_answer(context))?;
            let before = buffer.filled().len();
            ready!(Pin::new(&mut this.inner).poll_read(context, buffer))?;
            let came = &buffer.filled()[before..];
            if came.is_empty() || this.turn == Turn::Theirs {
                return Poll::Ready(Ok(()));
            }
            let plain = PlainRequest::parse(came).filter(|_| this.turn == Turn::Ours);
            let Some(request) = plain else {
                // Among others what comes while hyper answers.
                this.turn = Turn::Theirs;
                return Poll::Ready(Ok(()));
            };
            if !this.answers.answer(&request, &mut this.answer) {
                this.turn = Turn::Lent { written: false };
                return Poll::Ready(Ok(()));
            }
            this.answering = Some(this.activity.begin());
            buffer.set_filled(before);
        }
    }
}

impl<T: AsyncWrite + Unpin, A: Unpin> AsyncWrite for ShortCut<T, A> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_answer(context))?;
        self.wrote();
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_answer(context))?;
        self.wrote();
        Pin::new(&mut self.inner).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_answer(context))?;
        ready!(Pin::new(&mut self.inner).poll_flush(context))?;
        // Hyper flushes when it has nothing left to write. If nothing is being answered either, the answer was that.
        if self.turn == (Turn::Lent { written: true }) && self.activity.is_idle() {
            self.turn = Turn::Ours;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_answer(context))?;
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::pin;
    use std::sync::Mutex;
    use std::task::Waker;

    use bytes::Bytes;
    use futures::stream;
    use http_body::Frame;
    use http_body_util::StreamBody;
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper::{Request, Response};
    use hyper_util::rt::TokioIo;
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, BufStream, DuplexStream, duplex};
    use tokio::task::{JoinHandle, yield_now};

    use super::*;

    /// Answers what begins so with its own path.
    struct Known;

    impl Answers for Known {
        fn answer(&mut self, request: &PlainRequest<'_>, into: &mut Vec<u8>) -> bool {
            let is_known = request.path.starts_with("/known");
            if is_known {
                let (path, length) = (request.path, request.path.len());
                into.extend_from_slice(
                    format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{path}").as_bytes(),
                );
            }
            is_known
        }
    }

    /// A connection over a pipe that takes so many bytes, whose requests hyper answers in pieces; with what hyper saw.
    fn serve(pipe_bytes: usize) -> (DuplexStream, Arc<Mutex<Vec<String>>>, JoinHandle<()>) {
        let (ours, theirs) = duplex(pipe_bytes);
        let (activity, seen) = (Arc::<Activity>::default(), Arc::new(Mutex::new(Vec::new())));
        let short_cut = ShortCut::new(theirs, Known, Arc::clone(&activity));
        let noted = Arc::clone(&seen);
        let service = service_fn(move |request: Request<hyper::body::Incoming>| {
            let (answering, path) = (activity.begin(), request.uri().path().to_owned());
            noted.lock().unwrap().push(path.clone());
            // Its length is not told before, so that its end is a piece of its own.
            let pieces = path.into_bytes().into_iter();
            let body = stream::unfold((pieces, answering), |(mut pieces, answering)| async move {
                yield_now().await;
                let piece = Bytes::from(vec![pieces.next()?]);
                Some((Ok::<_, Infallible>(Frame::data(piece)), (pieces, answering)))
            });
            async { Ok::<_, Infallible>(Response::new(StreamBody::new(Box::pin(body)))) }
        });
        let serving = tokio::spawn(async move {
            drop(http1::Builder::new().serve_connection(TokioIo::new(short_cut), service).await);
        });
        (ours, seen, serving)
    }

    fn request(path: &str, more: &str) -> String {
        format!("GET {path} HTTP/1.1\r\nHost: cache\r\n{more}\r\n")
    }

    /// The body of the next answer.
    async fn answer(stream: &mut (impl AsyncRead + Unpin)) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        stream.read_exact(&mut body).await.unwrap();
        while length.is_none() {
            // In pieces of a byte each.
            let mut piece = [0; 6];
            stream.read_exact(&mut piece[..5]).await.unwrap();
            if piece.starts_with(b"0\r\n\r\n") {
                break;
            }
            stream.read_exact(&mut piece[5..]).await.unwrap();
            body.push(piece[3]);
        }
        String::from_utf8(body).unwrap()
    }

    #[tokio::test]
    async fn what_is_known_never_reaches_hyper_and_is_known_again_after_what_is_not() {
        let (mut stream, seen, _serving) = serve(1 << 16);
        for path in ["/known/1", "/known/2", "/other/1", "/known/3", "/other/2", "/other/3", "/known/4"] {
            stream.write_all(request(path, "").as_bytes()).await.unwrap();
            assert_eq!(answer(&mut stream).await, path);
        }
        assert_eq!(*seen.lock().unwrap(), ["/other/1", "/other/2", "/other/3"]);
    }

    #[tokio::test]
    async fn from_the_first_unusual_byte_on_everything_is_hypers() {
        let whole = request("/known/1", "");
        let (beginning, end) = whole.split_at(20);
        for unusual in [
            vec![request("/known/1", "If-None-Match: \"x\"\r\n")],
            vec![format!("{whole}{whole}")],
            vec![beginning.to_owned(), end.to_owned()],
        ] {
            let (mut stream, seen, _serving) = serve(1 << 16);
            let requests = unusual.concat().matches("GET").count();
            for part in unusual {
                stream.write_all(part.as_bytes()).await.unwrap();
                // The other side has read it before the next comes.
                yield_now().await;
            }
            for _ in 0..requests {
                assert_eq!(answer(&mut stream).await, "/known/1");
            }
            stream.write_all(request("/known/2", "").as_bytes()).await.unwrap();
            assert_eq!(answer(&mut stream).await, "/known/2");
            assert_eq!(seen.lock().unwrap().len(), requests + 1);
        }
    }

    #[tokio::test]
    async fn a_connection_that_its_client_ends_is_over_when_the_last_answer_has_gone() {
        let (stream, _, serving) = serve(1 << 16);
        let (mut reads, mut writes) = tokio::io::split(stream);
        let asking = tokio::spawn(async move {
            writes.write_all(request("/known/1", "").as_bytes()).await.unwrap();
            writes.shutdown().await.unwrap();
        });
        assert_eq!(answer(&mut reads).await, "/known/1");
        assert_eq!(reads.read(&mut [0; 1]).await.unwrap(), 0);
        asking.await.unwrap();
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn an_answer_that_was_taken_and_not_sent_is_still_being_answered() {
        let (mut asks, asked) = duplex(1 << 16);
        let (told, mut hears) = duplex(7);
        // Like TLS it takes all at once, and sends it when it is told to.
        let stream = BufStream::with_capacity(1 << 10, 1 << 10, tokio::io::join(asked, told));
        let activity = Arc::<Activity>::default();
        let mut short_cut = ShortCut::new(stream, Known, Arc::clone(&activity));
        asks.write_all(request("/known/1", "").as_bytes()).await.unwrap();
        let mut buffer = [0; 1 << 10];
        let mut reading = pin!(short_cut.read(&mut buffer));
        let mut context = Context::from_waker(Waker::noop());
        assert!(reading.as_mut().poll(&mut context).is_pending());
        assert!(!activity.is_idle(), "seven bytes are on their way");
        let heard = tokio::select! {
            biased;
            _ = reading.as_mut() => panic!("nothing is hyper's"),
            heard = answer(&mut hears) => heard,
        };
        assert_eq!(heard, "/known/1");
        assert!(reading.as_mut().poll(&mut context).is_pending());
        assert!(activity.is_idle());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn however_requests_come_each_is_answered_once_and_in_order(
            kinds in prop::collection::vec((0_usize..3, any::<bool>()), 1..12),
            pieces in prop::collection::vec(1_usize..120, 1..8),
            pipe_bytes in prop::sample::select(vec![7, 64, 1 << 16]),
        ) {
            let paths: Vec<String> = (0..kinds.len())
                .map(|number| format!("{}/{number}", ["/known", "/other", "/known"][kinds[number].0]))
                .collect();
            let sent: Vec<String> = paths.iter().zip(&kinds).map(|(path, (kind, _))| {
                request(path, if *kind == 2 { "X-Unusual: 1\r\n" } else { "" })
            }).collect();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let answered = runtime.block_on(async {
                let (stream, _, _serving) = serve(pipe_bytes);
                let (mut reads, mut writes) = tokio::io::split(stream);
                let answers = Arc::new(tokio::sync::Semaphore::new(0));
                let taken = Arc::clone(&answers);
                let count = sent.len();
                let asking = tokio::spawn(async move {
                    // Some wait for all answers so far, some do not; some are cut into pieces.
                    let mut pieces = pieces.into_iter().cycle();
                    for (number, (request, (_, waits))) in sent.iter().zip(&kinds).enumerate() {
                        if *waits {
                            drop(taken.acquire_many(u32::try_from(number).unwrap()).await.unwrap());
                            writes.write_all(request.as_bytes()).await.unwrap();
                            continue;
                        }
                        let mut rest = request.as_bytes();
                        while !rest.is_empty() {
                            let (piece, after) = rest.split_at(pieces.next().unwrap().min(rest.len()));
                            writes.write_all(piece).await.unwrap();
                            yield_now().await;
                            rest = after;
                        }
                    }
                    writes
                });
                let mut answered = Vec::new();
                for _ in 0..count {
                    answered.push(answer(&mut reads).await);
                    answers.add_permits(1);
                }
                drop(asking.await.unwrap());
                answered
            });
            prop_assert_eq!(answered, paths);
        }
    }
}
