//! Streams that end cleanly only if they were what was promised.

use std::ops::Range;

use bytes::Bytes;
use firn_base::ObjectKey;
use firn_nix_format::Sha256;
use firn_transport::Environment;
use futures::stream::{self, StreamExt};
use sha2::Digest;

use crate::{ByteStream, ReadError};

// Shorter pieces are hashed where they are: a change of threads costs more.
const HASH_ELSEWHERE_BYTES: usize = 64 << 10;

/// What a whole stream must come to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected {
    pub(crate) key: ObjectKey,
    pub(crate) bytes: u64,
    pub(crate) sha256: Option<Sha256>,
}

struct Verification {
    inner: ByteStream,
    expected: Expected,
    environment: Environment,
    hasher: sha2::Sha256,
    count: u64,
    // The piece before the next one: the last one is handed out only when all is well.
    held: Option<Bytes>,
    ended: bool,
}

impl Expected {
    fn wrong(&self, what: String) -> ReadError {
        ReadError::WrongObject { key: self.key, what }
    }
}

/// `inner`, whose last piece is withheld until length and hash were found right.
pub(crate) fn verified_stream(inner: ByteStream, expected: Expected, environment: Environment) -> ByteStream {
    let state = Verification {
        inner,
        expected,
        environment,
        hasher: sha2::Sha256::new(),
        count: 0,
        held: None,
        ended: false,
    };
    stream::try_unfold(state, |mut state| async move {
        while !state.ended {
            let Some(piece) = state.inner.next().await.transpose()? else {
                state.ended = true;
                state.judge()?;
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

impl Verification {
    async fn take(&mut self, piece: &Bytes) -> Result<(), ReadError> {
        self.count = self.count.saturating_add(piece.len() as u64);
        if self.count > self.expected.bytes {
            return Err(self.expected.wrong(format!("it has more than {} bytes", self.expected.bytes)));
        }
        if self.expected.sha256.is_none() {
            return Ok(());
        }
        if piece.len() < HASH_ELSEWHERE_BYTES {
            self.hasher.update(piece);
            return Ok(());
        }
        let (mut hasher, piece) = (std::mem::take(&mut self.hasher), piece.clone());
        self.hasher = self
            .environment
            .blocking(move || {
                hasher.update(&piece);
                hasher
            })
            .await;
        Ok(())
    }

    fn judge(&mut self) -> Result<(), ReadError> {
        let Expected { bytes, sha256, .. } = self.expected;
        if self.count < bytes {
            return Err(self.expected.wrong(format!("it has {} instead of {bytes} bytes", self.count)));
        }
        let actual = Sha256::from_bytes(std::mem::take(&mut self.hasher).finalize().into());
        match sha256 {
            Some(expected) if expected != actual => {
                Err(self.expected.wrong(format!("its hash is {actual} instead of {expected}")))
            }
            _ => Ok(()),
        }
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
