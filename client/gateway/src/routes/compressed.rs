//! NARs as zstd frames, which are made on the way.
//!
//! Always holds: a part has the bytes that the whole has, since the same NAR gives the same frames, and it breaks off before
//! the end of a frame that is another; how long the whole is is told where all its frames were made before of a NAR that was
//! right to the end, and found out for whoever asks for a part. Leaves to others: making frames (`compressed_nar`),
//! remembering their lengths (`frame_book`), how many are made at once (`download_places`).

use std::ops::Range;
use std::sync::Arc;

use firn_base::ObjectKey;
use firn_nix_format::Sha256;
use futures::TryStreamExt;
use hyper::StatusCode;
use hyper::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderValue};

use super::objects::{Room, behind_the_end, content_range, etag};
use super::{Answer, Asked, CACHE_FOR_EVER, Router, ZSTD};
use crate::body::GatewayBody;
use crate::compressed_nar::{FORM, FrameListener, FrameStream, compressed, cut};
use crate::disk_cache::DiskCache;
use crate::frame_book::{NarName, Unmeasured};
use crate::frame_lengths::{FrameDiffers, FrameLengths, MadeFrame};
use crate::gateway_core::{GatewayCore, Use};
use crate::open_object::OpenObject;
use crate::range_header::Wanted;
use crate::serve_error::ServeError;

/// Follows the making of frames.
struct Follower {
    core: Arc<GatewayCore>,
    nar: NarName,
    /// What was made before.
    known: Option<Arc<FrameLengths>>,
    /// The number of the next frame.
    next: usize,
    /// All frames that were made, if they are those of the whole NAR.
    all: Option<Vec<MadeFrame>>,
}

impl Router {
    pub(super) async fn compressed_nar(&self, hash: [u8; 20], nar_hash: Sha256, asked: Asked<'_>) -> Answer {
        let key = ObjectKey::store_path(hash);
        let nar = match self.core.nar(hash, nar_hash).await {
            Ok(nar) => nar,
            Err(error) => return self.refusal(&key, error),
        };
        let named = NarName { path: hash, sha256: nar_hash, bytes: nar.bytes() };
        let etag = etag(&format!("{}.{FORM}", nar_hash.to_base32()));
        let finish = |answer: Answer| {
            let answer = answer.tagged(etag.clone(), CACHE_FOR_EVER);
            self.at_position(answer.with(ACCEPT_RANGES, HeaderValue::from_static("bytes")))
        };
        if asked.has(&etag) {
            return finish(Answer::new(StatusCode::NOT_MODIFIED));
        }
        let mut lengths = self.core.frames.lengths(named, self.disk()).await;
        // All from the first byte on needs nobody to know where the last one is. A few last bytes are not worth that the
        // whole is made for them: whoever asks for them is given that.
        let wants_part = matches!(asked.part(u64::MAX, &etag), Wanted::Part(part) if part != (0..u64::MAX))
            && !asked.counts_from_end();
        let mut turn = None;
        if wants_part && lengths.is_none() {
            // Of those who ask for the same meanwhile the first one's counts.
            let room = match self.room(&nar, Use::Compressed, asked, &mut turn).await {
                Ok(room) => room,
                Err(busy) => return self.busy(&busy),
            };
            let measuring = self.clone().measure(named, nar.clone(), room);
            lengths = match self.core.frames.measured(named, measuring).await {
                Ok(lengths) => Some(lengths),
                Err(Unmeasured::Unread(error)) => return self.refusal(&key, error),
                Err(busy @ Unmeasured::Busy) => return self.busy(&busy),
            };
        }
        let total = lengths.as_deref().map(FrameLengths::total);
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
            let room = match self.room(&nar, Use::Compressed, asked, &mut turn).await {
                Ok(room) => room,
                Err(busy) => return self.busy(&busy),
            };
            let range = part.zip(lengths.as_ref()).map(|(part, lengths)| lengths.range(part, named.bytes));
            let frames = match range {
                Some(range) => {
                    let frames = self.frames(named, nar, range.first, range.nar, lengths, room).await;
                    frames.map(|frames| cut(frames, range.skipped, range.bytes))
                }
                None => self.frames(named, nar, 0, 0..named.bytes, lengths, room).await,
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

    /// Makes all frames for their lengths.
    async fn measure(
        self,
        named: NarName,
        nar: OpenObject,
        room: Room,
    ) -> Result<Arc<FrameLengths>, ServeError> {
        // Somebody may have downloaded all of it meanwhile.
        if let Some(known) = self.core.frames.lengths(named, self.disk()).await {
            return Ok(known);
        }
        let frames = self.frames(named, nar, 0, 0..named.bytes, None, room).await?;
        frames.try_for_each(async |_| Ok(())).await.map_err(|error| ServeError::unreadable(&error))?;
        let measured = self.core.frames.lengths(named, self.disk()).await;
        measured.ok_or_else(|| ServeError::unreadable(&"how long it is was forgotten while it was found out"))
    }

    /// The frames from number `first` on, which have the bytes `range` of the NAR and are those of `known`.
    async fn frames(
        &self,
        named: NarName,
        nar: OpenObject,
        first: usize,
        range: Range<u64>,
        known: Option<Arc<FrameLengths>>,
        room: Room,
    ) -> Result<FrameStream, ServeError> {
        let key = ObjectKey::store_path(named.path);
        let again = || self.core.nar(named.path, named.sha256);
        let (stream, place) = self.stream(&key, nar, range.clone(), room, again).await?;
        let all = (range == (0..named.bytes)).then(Vec::new);
        let follower = Follower { core: Arc::clone(&self.core), nar: named, known, next: first, all };
        let environment = self.core.environment().clone();
        compressed(stream, range.end - range.start, environment, Box::new(follower), place)
            .map_err(|error| ServeError::unreadable(&error))
    }

    fn disk(&self) -> Option<&DiskCache> {
        self.core.disk.as_ref().map(|disk| &disk.cache)
    }
}

impl FrameListener for Follower {
    fn made(&mut self, frame: MadeFrame) -> Result<(), FrameDiffers> {
        if let Some(known) = &self.known
            && let Err(error) = known.check(self.next, frame)
        {
            let disk = self.core.disk.as_ref().map(|disk| &disk.cache);
            self.core.frames.forget(self.nar, disk);
            return Err(error);
        }
        self.next += 1;
        if let Some(all) = &mut self.all {
            all.push(frame);
        }
        Ok(())
    }

    fn ended(&mut self) {
        let lengths = self.all.take().and_then(|all| FrameLengths::new(all, self.nar.bytes));
        if let Some(lengths) = lengths {
            let disk = self.core.disk.as_ref().map(|disk| &disk.cache);
            self.core.frames.learn(self.nar, lengths, disk);
        }
    }
}
