//! Answering HTTP requests: what a binary cache is asked, and how the gateway fares.
//!
//! Owns: status codes and headers. Always holds: HEAD has the headers of GET and no body; nothing is ever
//! content-encoded; a refusal is one plain sentence; what is not archived is 404, never 5xx. Leaves to others:
//! sockets (`server`), finding things (`core`).

mod answer;
mod compressed;
mod filters;
mod objects;
mod page;
mod percent;
mod target;
mod why;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use firn_base::ObjectKey;
use firn_retrieval::SwarmReader;
use hyper::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, IF_NONE_MATCH};
use hyper::{Method, Request, Response, StatusCode, Uri};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::body::GatewayBody;
use crate::download_places::ClientPlaces;
use crate::gateway_core::{GatewayCore, Hit, KnownNarInfo};
use crate::metrics::RouteKind;
use crate::narinfo::RenderedNarInfo;
use crate::options::{NarCompression, WhenUnreadable};
use crate::serve_error::ServeError;
use answer::Answer;
use target::{Base, Target};

/// Answers requests from one core.
#[derive(Debug, Clone)]
pub struct Router {
    core: Arc<GatewayCore>,
    when_unreadable: WhenUnreadable,
    nar_compression: NarCompression,
    swarm: Option<SwarmReader>,
}

/// What of a request decides its answer.
#[derive(Debug, Clone, Copy)]
struct Asked<'a> {
    head: bool,
    uri: &'a Uri,
    headers: &'a HeaderMap,
    arrival: Arrival<'a>,
}

/// An answer that is known at once. It was not given yet: nothing is counted or begun for it.
#[derive(Debug)]
pub(crate) struct FoundInMemory {
    response: Response<Bytes>,
    hit: Option<Hit>,
}

impl FoundInMemory {
    /// How long its body is.
    pub(crate) fn body_bytes(&self) -> usize {
        self.response.body().len()
    }
}

/// How a request came. Told beside it: what is put into a request itself costs three allocations.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Arrival<'a> {
    /// Over TLS.
    pub(crate) over_tls: bool,
    /// What is read for its connection at once: who gets no turn opens nothing. None if nobody has to wait.
    pub(crate) turns: Option<&'a Arc<Semaphore>>,
    /// The places of its client's downloads. None if that is not limited.
    pub(crate) places: Option<&'a ClientPlaces>,
}

const CACHE_INFO: &str = "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 45\n";

// A client that asks again soon learns soon of a path that became visible; Nix itself remembers misses anyway.
const CACHE_MISS: HeaderValue = HeaderValue::from_static("public, max-age=10");
// A list names files that go when others take their places.
const CACHE_LISTS: HeaderValue = HeaderValue::from_static("public, max-age=60");
const CACHE_SHORT: HeaderValue = HeaderValue::from_static("public, max-age=300");
const CACHE_INFO_FOR: HeaderValue = HeaderValue::from_static("public, max-age=3600");
const CACHE_FOR_EVER: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const NAR_INFO: HeaderValue = HeaderValue::from_static("text/x-nix-narinfo");
const CACHE_INFO_TYPE: HeaderValue = HeaderValue::from_static("text/x-nix-cache-info");
const ZSTD: HeaderValue = HeaderValue::from_static("application/zstd");
const NAR: HeaderValue = HeaderValue::from_static("application/x-nix-nar");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");
const METRICS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4");

// Shards are read around and coordinators elect within seconds; what takes longer is worth a longer pause.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("10");

/// A gateway that hears of no coordinator for so long sends its clients to others that do. How old its view is says the
/// metric: where coordinators hear no majority all gateways grow old together, and read on.
const SILENCE_MAX: Duration = Duration::from_secs(60);

impl Router {
    /// Answers from `core`, with narinfos that name NARs in this form; `swarm`'s counts appear among the metrics.
    pub const fn new(
        core: Arc<GatewayCore>,
        when_unreadable: WhenUnreadable,
        nar_compression: NarCompression,
        swarm: Option<SwarmReader>,
    ) -> Self {
        Self { core, when_unreadable, nar_compression, swarm }
    }

    /// The core that it answers from.
    pub const fn core(&self) -> &Arc<GatewayCore> {
        &self.core
    }

    /// Answers one request. Its body, if it has one, is not read.
    pub async fn respond<B>(&self, request: Request<B>) -> Response<GatewayBody> {
        let (_, response) = self.respond_as(request, Arrival::default()).await;
        response
    }

    /// [`Self::respond`], and what kind of thing was asked for.
    pub(crate) async fn respond_as<B>(
        &self,
        request: Request<B>,
        arrival: Arrival<'_>,
    ) -> (RouteKind, Response<GatewayBody>) {
        let (head, uri) = (request.method() == Method::HEAD, request.uri());
        let asked = Asked { head, uri, headers: request.headers(), arrival };
        let (route, answer) = if head || request.method() == Method::GET {
            let (base, target) = Target::parse(uri.path(), uri.query());
            self.answer(base, target, asked).await
        } else {
            let sentence = "only GET and HEAD are answered here";
            let refusal = Answer::sentence(StatusCode::METHOD_NOT_ALLOWED, sentence.into(), NO_STORE);
            (RouteKind::Other, refusal.with(ALLOW, HeaderValue::from_static("GET, HEAD")))
        };
        let response = answer.into_response(head);
        let bytes = match route {
            // Counted as they go.
            RouteKind::Nar | RouteKind::Log | RouteKind::Realisation if response.status().is_success() => 0,
            _ => http_body::Body::size_hint(response.body()).exact().unwrap_or(0),
        };
        self.core.metrics.count_request(route, response.status(), bytes);
        (route, response)
    }

    /// What [`Self::respond`] would answer to a request for `path` without conditions, if that is a narinfo and known at
    /// once. Only looks: for what is answered [`Self::give`] is told.
    pub(crate) fn find_in_memory(&self, path: &str, head: bool) -> Option<FoundInMemory> {
        let (base, Target::NarInfo(hash)) = Target::parse(path, None) else { return None };
        let KnownNarInfo { narinfo, hit } = self.core.narinfo_in_memory(hash, self.compression(base)).ok()?;
        // Other refusals are counted, and told in the log, while they are made.
        if !matches!(narinfo, Ok(_) | Err(ServeError::NotArchived(_))) {
            return None;
        }
        let (parts, body) = self.narinfo(hash, narinfo, |_| false).into_response(head).into_parts();
        Some(FoundInMemory { response: Response::from_parts(parts, body.into_whole()?), hit })
    }

    /// What was found goes to whoever asked.
    pub(crate) fn give(&self, found: FoundInMemory) -> Response<Bytes> {
        let bytes = found.body_bytes() as u64;
        let FoundInMemory { response, hit } = found;
        self.core.gave_from_memory(hit.as_ref());
        self.core.metrics.count_request(RouteKind::NarInfo, response.status(), bytes);
        response
    }

    const fn compression(&self, base: Base) -> NarCompression {
        match base {
            Base::Root => self.nar_compression,
            Base::Plain => NarCompression::None,
        }
    }

    async fn answer(&self, base: Base, target: Target, asked: Asked<'_>) -> (RouteKind, Answer) {
        match target {
            Target::NarInfo(hash) => {
                let narinfo = self.core.narinfo(hash, self.compression(base)).await;
                (RouteKind::NarInfo, self.narinfo(hash, narinfo, |etag| asked.has(etag)))
            }
            // Boxed, so that the future of a narinfo, which is moved about for every request, stays small.
            Target::Nar { hash, nar_hash, compression: NarCompression::None } => {
                (RouteKind::Nar, Box::pin(self.nar(hash, nar_hash, asked)).await)
            }
            Target::Nar { hash, nar_hash, compression: NarCompression::Zstd } => {
                (RouteKind::Nar, Box::pin(self.compressed_nar(hash, nar_hash, asked)).await)
            }
            Target::Listing(hash) => (RouteKind::Listing, Box::pin(self.listing(hash, asked)).await),
            Target::Log(hash) => (RouteKind::Log, Box::pin(self.log(hash, asked)).await),
            Target::PublishedNar => {
                let sentence = "NARs are served under the URLs that the narinfos of this cache name";
                (RouteKind::Nar, self.missing(sentence))
            }
            Target::Realisation(url) => {
                (RouteKind::Realisation, Box::pin(self.realisation(&url, asked)).await)
            }
            Target::DebugInfo(id) => (RouteKind::DebugInfo, Box::pin(self.debug_info(id, asked)).await),
            Target::Why(hash) => (RouteKind::Why, Box::pin(self.why(hash, asked)).await),
            Target::Page => (RouteKind::Other, self.page(asked)),
            Target::FilterLists => (RouteKind::Filter, self.filter_lists()),
            Target::Filter(id) => (RouteKind::Filter, self.filter(id, asked)),
            Target::CacheInfo => {
                let info =
                    Answer::whole(Bytes::from_static(CACHE_INFO.as_bytes()), CACHE_INFO_TYPE, CACHE_INFO_FOR);
                (RouteKind::CacheInfo, info)
            }
            Target::Metrics => {
                let counts = self.swarm.as_ref().map(SwarmReader::counts);
                let text = self.core.metrics.text(&self.core, counts);
                (RouteKind::Other, Answer::whole(text.into(), METRICS, NO_STORE))
            }
            Target::Health => {
                (RouteKind::Other, Answer::sentence(StatusCode::OK, "the gateway runs".into(), NO_STORE))
            }
            Target::Ready => (RouteKind::Other, self.ready()),
            Target::Unknown => {
                let sentence =
                    "there is nothing here: this is a Nix binary cache, and its page at / says how to use it";
                (RouteKind::Other, Answer::sentence(StatusCode::NOT_FOUND, sentence.into(), CACHE_MISS))
            }
            Target::Malformed(sentence) => {
                (RouteKind::Other, Answer::sentence(StatusCode::BAD_REQUEST, sentence.into(), CACHE_MISS))
            }
        }
    }

    /// What was found of a path, for a client that says of versions whether it has them.
    fn narinfo(
        &self,
        hash: [u8; 20],
        found: Result<RenderedNarInfo, ServeError>,
        has: impl Fn(&HeaderValue) -> bool,
    ) -> Answer {
        let narinfo = match found {
            Ok(narinfo) => narinfo,
            Err(error) => return self.refusal(&ObjectKey::store_path(hash), error),
        };
        let answer = if has(&narinfo.etag) {
            Answer::new(StatusCode::NOT_MODIFIED)
        } else {
            Answer::new(StatusCode::OK)
                .with(CONTENT_TYPE, NAR_INFO)
                .with(CONTENT_LENGTH, narinfo.content_length)
                .body(GatewayBody::whole(narinfo.text))
        };
        self.at_position(answer.tagged(narinfo.etag, CACHE_SHORT))
    }

    fn ready(&self) -> Answer {
        match self.readiness() {
            Ok(()) => Answer::sentence(StatusCode::OK, "the gateway is ready".into(), NO_STORE),
            Err(sentence) => Answer::sentence(StatusCode::SERVICE_UNAVAILABLE, sentence, NO_STORE),
        }
    }

    /// Whether it knows what is archived, and some coordinator tells it more; else why not, in a sentence.
    fn readiness(&self) -> Result<(), Cow<'static, str>> {
        if !self.core.is_usable() {
            return Err("the archive's feed was not heard yet".into());
        }
        match self.core.feed_silence() {
            Some(silence) if silence < SILENCE_MAX => Ok(()),
            Some(silence) => {
                Err(format!("no coordinator told the archive's feed for {} s", silence.as_secs()).into())
            }
            None => Err("no coordinator has answered since the gateway was started".into()),
        }
    }

    /// 404, as of the feed position.
    fn missing(&self, sentence: &'static str) -> Answer {
        self.at_position(Answer::sentence(StatusCode::NOT_FOUND, sentence.into(), CACHE_MISS))
    }

    fn refusal(&self, key: &ObjectKey, error: ServeError) -> Answer {
        match &error {
            ServeError::NotArchived(sentence) => return self.missing(sentence),
            ServeError::Unreadable { cause, passing } => {
                if !passing {
                    self.core.forget(key);
                }
                self.core.metrics.count_unreadable();
                tracing::warn!("{key} is archived but cannot be read now: {cause}");
            }
            ServeError::Busy { why } => return self.busy(why),
            // While the network is away every question may come to this: the follower of the feed says so once.
            ServeError::Unsettled { .. } => self.core.metrics.count_unsettled(),
        }
        let sentence = error.to_string().into();
        self.at_position(match self.when_unreadable {
            WhenUnreadable::Retry => Answer::sentence(StatusCode::SERVICE_UNAVAILABLE, sentence, NO_STORE)
                .with(hyper::header::RETRY_AFTER, RETRY_AFTER),
            WhenUnreadable::Miss => Answer::sentence(StatusCode::NOT_FOUND, sentence, NO_STORE)
                .with(answer::UNREADABLE, HeaderValue::from_static("1")),
        })
    }

    /// 503: others are served at the moment.
    fn busy(&self, why: &impl std::fmt::Display) -> Answer {
        let refusal = Answer::sentence(StatusCode::SERVICE_UNAVAILABLE, why.to_string().into(), NO_STORE);
        self.at_position(refusal.with(hyper::header::RETRY_AFTER, RETRY_AFTER))
    }

    fn at_position(&self, answer: Answer) -> Answer {
        answer.with(answer::FEED_POSITION, self.core.keys.position_header())
    }
}

impl Asked<'_> {
    /// Waits until it is this request's turn to read an object; none if nobody has to wait.
    async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        // It is never closed.
        Arc::clone(self.arrival.turns?).acquire_owned().await.ok()
    }

    /// Whether the client has the version `etag` already.
    fn has(&self, etag: &HeaderValue) -> bool {
        self.headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok()).any(|value| {
            let mut tags = value.split(',').map(str::trim);
            tags.any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag).as_bytes() == etag.as_bytes())
        })
    }
}
