//! NARs, listings, logs, realisations, debuginfo links.
//!
//! Always holds: Content-Length is that of the decompressed object; a range is answered only for the version
//! that the client knows (If-Range). Leaves to others: reading, checking.

use std::ops::Range;

use bytes::Bytes;
use firn_base::{KeyKind, ObjectKey};
use firn_nix_format::{BuildId, RealisationUrl, Sha256};
use firn_retrieval::ByteStream;
use futures::FutureExt;
use hyper::StatusCode;
use hyper::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderValue, IF_RANGE, RANGE,
};
use tokio::sync::OwnedSemaphorePermit;

use super::{Answer, Asked, CACHE_FOR_EVER, CACHE_SHORT, JSON, NAR, Router, TEXT};
use crate::body::GatewayBody;
use crate::download_places::{ClientPlaces, DownloadPlace, NoPlace};
use crate::gateway_core::Use;
use crate::metrics::RouteKind;
use crate::open_object::OpenObject;
use crate::range_header::{Wanted, counts_from_end, wanted};
use crate::serve_error::ServeError;

/// What sets one kind of object apart from another.
struct Kind {
    route: RouteKind,
    content_type: HeaderValue,
    cache: HeaderValue,
}

/// A place for an object, and what is needed to ask for another one.
#[derive(Debug)]
pub(super) struct Room {
    place: DownloadPlace,
    what_for: Use,
    client: Option<ClientPlaces>,
}

impl Router {
    pub(super) async fn nar(&self, hash: [u8; 20], nar_hash: Sha256, asked: Asked<'_>) -> Answer {
        let key = ObjectKey::store_path(hash);
        let kind = Kind { route: RouteKind::Nar, content_type: NAR, cache: CACHE_FOR_EVER };
        match self.core.nar(hash, nar_hash).await {
            Ok(nar) => self.object(key, nar, asked, kind, || self.core.nar(hash, nar_hash)).await,
            Err(error) => self.refusal(&key, error),
        }
    }

    pub(super) async fn log(&self, hash: [u8; 20], asked: Asked<'_>) -> Answer {
        let key = ObjectKey::build_log(hash);
        let kind = Kind { route: RouteKind::Log, content_type: TEXT, cache: CACHE_SHORT };
        match self.core.log(hash).await {
            Ok(log) => self.object(key, log, asked, kind, || self.core.log(hash)).await,
            Err(error) => self.refusal(&key, error),
        }
    }

    pub(super) async fn realisation(&self, url: &RealisationUrl, asked: Asked<'_>) -> Answer {
        let key = ObjectKey::named(KeyKind::Realisation, url.as_str());
        let kind = Kind { route: RouteKind::Realisation, content_type: JSON, cache: CACHE_SHORT };
        match self.core.realisation(url).await {
            Ok(realisation) => {
                self.object(key, realisation, asked, kind, || self.core.realisation(url)).await
            }
            Err(error) => self.refusal(&key, error),
        }
    }

    pub(super) async fn debug_info(&self, id: BuildId, asked: Asked<'_>) -> Answer {
        match self.core.debug_info(id, asked.arrival.places).await {
            Ok(link) => self.made(link, asked),
            Err(error) => self.refusal(&ObjectKey::new(KeyKind::DebugInfo, id.0), error),
        }
    }

    pub(super) async fn listing(&self, hash: [u8; 20], asked: Asked<'_>) -> Answer {
        match self.core.listing(hash).await {
            Ok(listing) => self.made(listing, asked),
            Err(error) => self.refusal(&ObjectKey::store_path(hash), error),
        }
    }

    /// JSON that the gateway made.
    fn made(&self, json: Bytes, asked: Asked<'_>) -> Answer {
        let tag = &blake3::hash(&json).to_hex()[..32];
        let etag = etag(tag);
        let answer = if asked.has(&etag) {
            Answer::new(StatusCode::NOT_MODIFIED)
        } else {
            Answer::whole(json, JSON, CACHE_SHORT)
        };
        self.at_position(answer.tagged(etag, CACHE_SHORT))
    }

    /// Serves `object`; `again` finds it anew.
    async fn object<Again: Future<Output = Result<OpenObject, ServeError>>>(
        &self,
        key: ObjectKey,
        object: OpenObject,
        asked: Asked<'_>,
        kind: Kind,
        again: impl FnOnce() -> Again,
    ) -> Answer {
        let (bytes, etag) = (object.bytes(), etag(&object.sha256().to_base32()));
        let finish = |answer: Answer| {
            let answer = answer.tagged(etag.clone(), kind.cache.clone());
            self.at_position(answer.with(ACCEPT_RANGES, HeaderValue::from_static("bytes")))
        };
        if asked.has(&etag) {
            return finish(Answer::new(StatusCode::NOT_MODIFIED));
        }
        let (status, range) = match asked.part(bytes, &etag) {
            Wanted::Whole => (StatusCode::OK, 0..bytes),
            Wanted::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
            Wanted::Nothing => return self.at_position(behind_the_end(bytes)),
        };
        let mut answer = Answer::new(status)
            .with(CONTENT_TYPE, kind.content_type.clone())
            .with(CONTENT_LENGTH, (range.end - range.start).into());
        if status == StatusCode::PARTIAL_CONTENT {
            answer = answer.with(CONTENT_RANGE, content_range(&range, bytes));
        }
        if !asked.head {
            let length = range.end - range.start;
            let mut turn = None;
            let room = match self.room(&object, Use::Sent { bytes: length }, asked, &mut turn).await {
                Ok(room) => room,
                Err(none) => return self.busy(&none),
            };
            let (stream, place) = match self.stream(&key, object, range, room, again).await {
                Ok(begun) => begun,
                Err(error) => return self.refusal(&key, error),
            };
            let core = self.core.clone();
            let body = GatewayBody::stream(stream, length, key.to_string(), kind.route, core);
            answer = answer.body(body.in_turn(turn).in_place(Some(place)));
        }
        finish(answer)
    }

    /// A place for what is read of `object` first, and its turn, unless it has that.
    pub(super) async fn room(
        &self,
        object: &OpenObject,
        what_for: Use,
        asked: Asked<'_>,
        turn: &mut Option<OwnedSemaphorePermit>,
    ) -> Result<Room, NoPlace> {
        let client = asked.arrival.places;
        let place = loop {
            if turn.is_none() {
                *turn = asked.turn().await;
            }
            if let Some(place) = self.core.place(object, what_for, client).now_or_never() {
                break place?;
            }
            // The turns of a connection are few: others go on while this one waits for its place.
            *turn = None;
            let place = self.core.place(object, what_for, client).await?;
            if let Some(free) = asked.turn().now_or_never() {
                *turn = free;
                break place;
            }
            // Whoever waits for its turn keeps no place, so that no connection has more places than turns.
        };
        Ok(Room { place, what_for, client: client.cloned() })
    }

    /// The bytes `range` of `object`, found anew if it does not lie any more where it was found before, and the place that
    /// they keep: that of `room`, which was made for `object`, or the one that was needed instead.
    pub(super) async fn stream<Again: Future<Output = Result<OpenObject, ServeError>>>(
        &self,
        key: &ObjectKey,
        object: OpenObject,
        range: Range<u64>,
        room: Room,
        again: impl FnOnce() -> Again,
    ) -> Result<(ByteStream, DownloadPlace), ServeError> {
        let Room { place, what_for, client } = room;
        let client = client.as_ref();
        match self.core.begin(&object, range.clone(), Some(place), what_for, client).await {
            Err(ServeError::Unreadable { passing: false, .. }) => {
                self.core.forget(key);
                let found = again().await?;
                // All of this one would else be a part of a longer one, whose hash nobody compares.
                if found.bytes() != object.bytes() {
                    return Err(ServeError::unreadable(&"it has another length now"));
                }
                self.core.begin(&found, range, None, what_for, client).await
            }
            begun => begun,
        }
    }
}

impl Asked<'_> {
    /// The part of an object of `bytes` that is asked for. Ranges have a meaning for GET alone.
    pub(super) fn part(&self, bytes: u64, etag: &HeaderValue) -> Wanted {
        let other_version = self.headers.get(IF_RANGE).is_some_and(|known| known != etag);
        if self.head || other_version { Wanted::Whole } else { wanted(self.range(), bytes) }
    }

    /// Whether a part is asked for that counts from the end.
    pub(super) fn counts_from_end(&self) -> bool {
        counts_from_end(self.range())
    }

    fn range(&self) -> Option<&str> {
        self.headers.get(RANGE).and_then(|value| value.to_str().ok())
    }
}

pub(super) fn behind_the_end(bytes: u64) -> Answer {
    let sentence = format!("the range lies behind the end: there are {bytes} bytes");
    Answer::sentence(StatusCode::RANGE_NOT_SATISFIABLE, sentence.into(), super::NO_STORE)
        .with(CONTENT_RANGE, header(format!("bytes */{bytes}")))
}

pub(super) fn content_range(range: &Range<u64>, bytes: u64) -> HeaderValue {
    // Nobody asks for the empty range of an empty object: that is no part.
    header(format!("bytes {}-{}/{bytes}", range.start, range.end.saturating_sub(1)))
}

pub(super) fn etag(tag: &str) -> HeaderValue {
    header(format!("\"{tag}\""))
}

fn header(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("digits and letters stand in any header")
}
