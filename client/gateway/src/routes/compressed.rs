//! NARs as zstd frames, which are made on the way.
//!
//! Always holds: a part has the bytes that the whole has, since the same NAR gives the same frames; how long the whole is
//! is told where all its frames were made before, and found out for whoever asks for a part. Leaves to others: making
//! frames (`compressed_nar`), remembering their lengths (`frame_book`).

use std::ops::Range;
use std::sync::Arc;

use firn_base::ObjectKey;
use firn_nix_format::Sha256;
use futures::TryStreamExt;
use hyper::StatusCode;
use hyper::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderValue};

use super::objects::{behind_the_end, content_range, etag};
use super::{Answer, Asked, CACHE_FOR_EVER, Router, ZSTD};
use crate::body::GatewayBody;
use crate::compressed_nar::{FORM, FrameStream, compressed, cut};
use crate::disk_cache::DiskCache;
use crate::frame_lengths::FrameLengths;
use crate::open_object::OpenObject;
use crate::range_header::Wanted;
use crate::serve_error::ServeError;

/// One NAR of one store path.
#[derive(Debug, Clone, Copy)]
struct Named {
    hash: [u8; 20],
    nar_hash: Sha256,
    bytes: u64,
}

impl Router {
    pub(super) async fn compressed_nar(&self, hash: [u8; 20], nar_hash: Sha256, asked: Asked<'_>) -> Answer {
        let key = ObjectKey::store_path(hash);
        let nar = match self.core.nar(hash, nar_hash).await {
            Ok(nar) => nar,
            Err(error) => return self.refusal(&key, error),
        };
        let named = Named { hash, nar_hash, bytes: nar.bytes() };
        let etag = etag(&format!("{}.{FORM}", nar_hash.to_base32()));
        let finish = |answer: Answer| {
            let answer = answer.tagged(etag.clone(), CACHE_FOR_EVER);
            self.at_position(answer.with(ACCEPT_RANGES, HeaderValue::from_static("bytes")))
        };
        if asked.has(&etag) {
            return finish(Answer::new(StatusCode::NOT_MODIFIED));
        }
        let mut lengths = self.core.frames.lengths(nar_hash, named.bytes, self.disk()).await;
        // All from the first byte on needs nobody to know where the last one is.
        let wants_part = matches!(asked.part(u64::MAX, &etag), Wanted::Part(part) if part != (0..u64::MAX));
        let turn = if asked.head { None } else { asked.turn().await };
        if wants_part && lengths.total(named.bytes).is_none() {
            lengths = match self.measured(named, nar.clone()).await {
                Ok(lengths) => lengths,
                Err(error) => return self.refusal(&key, error),
            };
        }
        let total = lengths.total(named.bytes);
        let (status, part) = match total.map(|total| asked.part(total, &etag)) {
            None | Some(Wanted::Whole) => (StatusCode::OK, None),
            Some(Wanted::Part(part)) => (StatusCode::PARTIAL_CONTENT, Some(part)),
            Some(Wanted::Nothing) => return self.at_position(behind_the_end(total.unwrap_or(0))),
        };
        let length = part.as_ref().map(|part| part.end - part.start).or(total);
        let mut answer = Answer::new(status).with(CONTENT_TYPE, ZSTD);
        if let Some(length) = length {
            answer = answer.with(CONTENT_LENGTH, length.into());
        }
        if let Some((part, total)) = part.as_ref().zip(total) {
            answer = answer.with(CONTENT_RANGE, content_range(part, total));
        }
        if !asked.head {
            let frames = match part {
                Some(part) => {
                    let range = lengths.range(part, named.bytes);
                    let frames = self.frames(named, nar, range.first, range.nar).await;
                    frames.map(|frames| cut(frames, range.skipped, range.bytes))
                }
                None => self.frames(named, nar, 0, 0..named.bytes).await,
            };
            let frames = match frames {
                Ok(frames) => frames,
                Err(error) => return self.refusal(&key, error),
            };
            let body = GatewayBody::frames(frames, length, key.to_string(), Arc::clone(&self.core));
            answer = answer.body(body.in_turn(turn));
        }
        finish(answer)
    }

    /// The lengths of all frames, of which those that are not known are made for it.
    async fn measured(&self, named: Named, nar: OpenObject) -> Result<Arc<FrameLengths>, ServeError> {
        let _turn = self.core.frames.turn().await;
        let lengths = async || self.core.frames.lengths(named.nar_hash, named.bytes, self.disk()).await;
        // Somebody else may have made them meanwhile.
        let known = lengths().await;
        if known.total(named.bytes).is_some() {
            return Ok(known);
        }
        let unknown = known.known_to()..named.bytes;
        let frames = self.frames(named, nar, known.known(), unknown).await?;
        frames.try_for_each(async |_| Ok(())).await.map_err(|error| ServeError::unreadable(&error))?;
        let measured = lengths().await;
        match measured.total(named.bytes) {
            Some(_) => Ok(measured),
            None => Err(ServeError::unreadable(&"how long it is was forgotten while it was found out")),
        }
    }

    /// The frames from number `first` on, which have the bytes `range` of the NAR.
    async fn frames(
        &self,
        named: Named,
        nar: OpenObject,
        first: usize,
        range: Range<u64>,
    ) -> Result<FrameStream, ServeError> {
        let Named { hash, nar_hash, bytes } = named;
        let key = ObjectKey::store_path(hash);
        let stream = self.stream(&key, nar, range.clone(), || self.core.nar(hash, nar_hash)).await?;
        let (core, mut frame) = (Arc::clone(&self.core), first);
        let heard = move |length| {
            let disk = core.disk.as_ref().map(|disk| &disk.cache);
            core.frames.learn(nar_hash, bytes, (frame, length), disk)?;
            frame += 1;
            Ok(())
        };
        compressed(stream, range.end - range.start, self.core.environment().clone(), Box::new(heard))
            .map_err(|error| ServeError::unreadable(&error))
    }

    fn disk(&self) -> Option<&DiskCache> {
        self.core.disk.as_ref().map(|disk| &disk.cache)
    }
}
