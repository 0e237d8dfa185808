//! Streams that end cleanly only if they were what was promised.

use std::ops::Range;

use bytes::Bytes;
use firn_base::ObjectKey;
use firn_nix_format::Sha256;
use firn_transport::Environment;
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt};
use futures::{FutureExt, poll};
use sha2::Digest;

use crate::proven_compositions::CompositionCheck;
use crate::{ByteStream, ReadError};

// Shorter pieces are hashed where they are: a change of threads costs more.
const HASH_ELSEWHERE_BYTES: usize = 64 << 10;

/// What a whole stream must come to.
#[derive(Debug)]
pub(crate) struct Expected {
    pub(crate) key: ObjectKey,
    pub(crate) bytes: u64,
    pub(crate) sha256: Option<Sha256>,
    /// How it is made, where its hash depends on nothing else.
    pub(crate) composition: Option<CompositionCheck>,
}

struct Verification {
    inner: ByteStream,
    expected: Expected,
    environment: Environment,
    hasher: Hasher,
    count: u64,
    // The piece before the next one: the last one is handed out only when all is well.
    held: Option<Bytes>,
    ended: bool,
}

/// Where hashing goes on.
enum Hasher {
    Here(sha2::Sha256),
    /// While the piece before is sent.
    Elsewhere(BoxFuture<'static, sha2::Sha256>),
}

impl Expected {
    fn wrong(&self, what: String) -> ReadError {
        ReadError::WrongObject { key: self.key, what }
    }

    /// Whether its bytes have to be hashed.
    fn is_hashed(&mut self) -> bool {
        self.sha256.is_some() && !self.composition.as_mut().is_some_and(CompositionCheck::is_relied_on)
    }
}

/// `inner`, whose last piece is withheld until length and hash were found right.
pub(crate) fn verified_stream(inner: ByteStream, expected: Expected, environment: Environment) -> ByteStream {
    let state = Verification {
        inner,
        expected,
        environment,
        hasher: Hasher::Here(sha2::Sha256::new()),
        count: 0,
        held: None,
        ended: false,
    };
    stream::try_unfold(state, |mut state| async move {
        while !state.ended {
            let Some(piece) = state.inner.next().await.transpose()? else {
                state.ended = true;
                state.judge().await?;
                break;
            };
            state.take(&piece).await?;
            if let Some(before) = state.held.replace(piece) {
                return Ok(Some((before, state)));
            }
        }
        Ok(state.held.take().map(|last| (last, state)))
    })
    .boxed()
}

impl Hasher {
    /// Waits until what was given has been hashed.
    async fn back(&mut self) -> sha2::Sha256 {
        match std::mem::replace(self, Self::Here(sha2::Sha256::new())) {
            Self::Here(hasher) => hasher,
            Self::Elsewhere(work) => work.await,
        }
    }
}

impl Verification {
    async fn take(&mut self, piece: &Bytes) -> Result<(), ReadError> {
        self.count = self.count.saturating_add(piece.len() as u64);
        if self.count > self.expected.bytes {
            return Err(self.expected.wrong(format!("it has more than {} bytes", self.expected.bytes)));
        }
        if !self.expected.is_hashed() {
            return Ok(());
        }
        let mut hasher = self.hasher.back().await;
        if piece.len() < HASH_ELSEWHERE_BYTES {
            hasher.update(piece);
            self.hasher = Hasher::Here(hasher);
            return Ok(());
        }
        let (environment, piece) = (self.environment.clone(), piece.clone());
        let work = async move {
            let update = move || {
                hasher.update(&piece);
                hasher
            };
            environment.blocking(update).await
        };
        let mut work = work.boxed();
        // It begins now, and is waited for when it is needed.
        self.hasher = match poll!(&mut work) {
            std::task::Poll::Ready(hasher) => Hasher::Here(hasher),
            std::task::Poll::Pending => Hasher::Elsewhere(work),
        };
        Ok(())
    }

    async fn judge(&mut self) -> Result<(), ReadError> {
        let Expected { bytes, sha256, .. } = self.expected;
        if self.count < bytes {
            return Err(self.expected.wrong(format!("it has {} instead of {bytes} bytes", self.count)));
        }
        let Some(sha256) = sha256 else { return Ok(()) };
        if !self.expected.is_hashed() {
            let what = || format!("its chunks are others than those that gave {sha256} before");
            let holds = self.expected.composition.as_ref().is_some_and(CompositionCheck::holds);
            return if holds { Ok(()) } else { Err(self.expected.wrong(what())) };
        }
        let actual = Sha256::from_bytes(self.hasher.back().await.finalize().into());
        if actual != sha256 {
            return Err(self.expected.wrong(format!("its hash is {actual} instead of {sha256}")));
        }
        if let Some(composition) = &self.expected.composition {
            composition.remember();
        }
        Ok(())
    }
}

/// The bytes `range` of `inner`; what follows is not read.
pub(crate) fn cut_stream(inner: ByteStream, range: Range<u64>, key: ObjectKey) -> ByteStream {
    stream::try_unfold((inner, 0u64), move |(mut inner, mut position)| {
        let range = range.clone();
        async move {
            while position < range.end {
                let Some(piece) = inner.next().await.transpose()? else {
                    let what = format!("it has {position} bytes and ends before byte {}", range.end);
                    return Err(ReadError::WrongObject { key, what });
                };
                let end = position.saturating_add(piece.len() as u64);
                let from = range.start.clamp(position, end) - position;
                let to = range.end.clamp(position, end) - position;
                position = end;
                if from < to {
                    // Both are within the piece.
                    let place = |offset: u64| usize::try_from(offset).expect("a piece fits in memory");
                    return Ok(Some((piece.slice(place(from)..place(to)), (inner, position))));
                }
            }
            Ok(None)
        }
    })
    .boxed()
}
