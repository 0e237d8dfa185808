//! Streams that end cleanly only if they were what was promised.
//!
//! Always holds: the bytes with which a stream has all that were promised are handed out after everything was found
//! right, and all others before the next ones are read, so that nobody who takes its time keeps two pieces. Leaves to
//! others: where the bytes come from.

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
    // With it everything is there that was promised: handed out only when all is well.
    last: Option<Bytes>,
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
        last: None,
        ended: false,
    };
    stream::try_unfold(state, |mut state| async move {
        while !state.ended {
            let Some(piece) = state.inner.next().await.transpose()? else {
                state.ended = true;
                state.judge().await?;
                break;
            };
            // Behind the last one there may be such, and nothing else.
            if piece.is_empty() {
                continue;
            }
            state.take(&piece).await?;
            if state.count < state.expected.bytes {
                return Ok(Some((piece, state)));
            }
            state.last = Some(piece);
        }
        Ok(state.last.take().map(|last| (last, state)))
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

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: ObjectKey = ObjectKey::store_path([1; 20]);

    /// A stream of these pieces, and of nothing for ever, of which `whole` was promised.
    fn promised(whole: &[u8], pieces: &[&'static [u8]], ends: bool) -> ByteStream {
        let expected = Expected {
            key: KEY,
            bytes: whole.len() as u64,
            sha256: Some(Sha256::of(whole)),
            composition: None,
        };
        let pieces: Vec<_> = pieces.iter().map(|piece| Ok(Bytes::from_static(piece))).collect();
        let inner = stream::iter(pieces);
        let inner = if ends { inner.boxed() } else { inner.chain(stream::pending()).boxed() };
        verified_stream(inner, expected, Environment::real())
    }

    #[tokio::test]
    async fn a_piece_is_handed_out_before_the_next_one_is_read_and_the_last_one_when_all_is_right() {
        let mut unended = promised(b"abcd", &[b"a", b"", b"bc", b"d"], false);
        for piece in [&b"a"[..], b"bc"] {
            assert_eq!(unended.next().now_or_never().unwrap().unwrap().unwrap(), piece);
        }
        assert!(unended.next().now_or_never().is_none(), "more may follow");
        let ended = promised(b"abcd", &[b"a", b"", b"bc", b"d", b""], true);
        let pieces: Vec<_> = ended.map(Result::unwrap).collect().await;
        assert_eq!(pieces, [&b"a"[..], b"bc", b"d"]);
        assert!(promised(b"", &[b""], true).next().await.is_none(), "nothing was promised");
    }

    #[tokio::test]
    async fn of_what_is_wrong_in_its_hash_or_length_the_last_promised_byte_is_withheld() {
        const WRONG: [&[&[u8]]; 4] =
            [&[b"ab", b"cx"], &[b"ab", b"cd", b"e"], &[b"ab", b"cde"], &[b"ab", b"c"]];
        for pieces in WRONG {
            let mut wrong = promised(b"abcd", pieces, true);
            assert_eq!(wrong.next().await.unwrap().unwrap(), &b"ab"[..]);
            let mut given = 2;
            let failure = loop {
                match wrong.next().await.expect("it has no clean end") {
                    Ok(piece) => given += piece.len(),
                    Err(error) => break error,
                }
            };
            assert!(matches!(failure, ReadError::WrongObject { key: KEY, .. }), "{failure}");
            assert!(given < 4, "{pieces:?}");
        }
    }
}
