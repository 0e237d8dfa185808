//! A binary cache behind a URL: on an HTTP server, or in a bucket of S3.
//!
//! Owns: requests. Always holds: no request leaves the source's folder or goes to an address that it may not have; there are
//! never more at once than connections; a failure that may pass is tried again, at growing distances and not for ever, and
//! once the server is found to be away nothing is asked of it; a broken body goes on where it ended.
//! Leaves to others: what a failure means and when to try again (`firn-client-logic`).

use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use firn_client_logic::{AddressRule, BodyVersion, FetchFailure, FetchVerdict, RateFloor, RetrySchedule};
use ureq::Agent;
use ureq::http::Response;
use ureq::unversioned::transport::DefaultConnector;

use super::connections::{Connections, Permit};
use super::guarded_resolver::{GuardedResolver, NoAddress};
use super::origin::Origin;
use super::paced_body::PacedBody;
use super::patience::{Patience, Tries};
use super::resuming_body::ResumingBody;
use super::s3_bucket::S3Bucket;
use super::{SourceError, SourceFile, SourceOptions, without_keys};
use crate::http_client::{FetchError, Waits, config, is_there, open};

// Beyond it a server leads in circles.
const REDIRECTS_MAX: u32 = 5;

// What a refused answer may have for its connection to be used again: reading more costs more than a connection.
const DRAIN_BYTES_MAX: u64 = 64 << 10;

// A modem's rate is 3 KiB/s; whoever sends less has forgotten us, or wants us to wait.
const FLOOR_BYTES: u64 = 64 << 10;
const FLOOR_STRETCH: Duration = Duration::from_secs(60);

// What every cache has, and what none can have: the hash part of nothing but zeros.
const PRESENT: &str = "nix-cache-info";
const IMPOSSIBLE: &str = "00000000000000000000000000000000.narinfo";

pub(super) struct HttpSource {
    place: Place,
    agent: Agent,
    connections: Arc<Connections>,
    patience: Patience,
    floor: RateFloor,
}

/// Where its files are, and how they are asked for.
pub(super) enum Place {
    Server(Origin),
    Bucket(Box<S3Bucket>),
}

/// How much of a file is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wanted<'a> {
    /// Whether it is there.
    Presence,
    Whole,
    /// From this byte on, if it still has this ETag.
    Rest(u64, &'a str),
}

/// What is known of a file before it comes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Expected {
    /// Its bytes.
    pub(super) bytes: Option<u64>,
    /// A hash of it is known: a half one is found out without the server's saying where it ends.
    pub(super) hashed: bool,
    /// It is so small that it comes at once or not at all.
    pub(super) small: bool,
}

/// An answer, and the connection that it takes.
pub(super) struct Answer {
    pub(super) response: Response<ureq::Body>,
    pub(super) permit: Permit,
}

impl HttpSource {
    pub(super) fn new(text: &str, options: &SourceOptions) -> Result<Self, SourceError> {
        let place = Place::parse(text, options)?;
        Ok(Self::with(place, options, Waits::default(), Patience::new(options.seed)))
    }

    pub(super) fn with(place: Place, options: &SourceOptions, waits: Waits, patience: Patience) -> Self {
        let rule = AddressRule::for_host(place.host(), options.private);
        let config = config(waits)
            // Each one is looked at.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .max_idle_connections(options.connections)
            .max_idle_connections_per_host(options.connections)
            .build();
        let agent = Agent::with_parts(config, DefaultConnector::default(), GuardedResolver::new(rule));
        let connections = Connections::new(options.connections.max(1));
        let floor = RateFloor::new(FLOOR_BYTES, FLOOR_STRETCH);
        Self { place, agent, connections, patience, floor }
    }

    /// For which every body comes too slowly.
    #[cfg(test)]
    pub(super) fn with_floor(self, floor: RateFloor) -> Self {
        Self { floor, ..self }
    }

    /// Finds out whether the server is there, and how it says that it lacks something, before much is asked of it.
    pub(super) fn greet(&self) -> Result<(), SourceError> {
        self.patience.state().begin();
        let mut tries = Tries::default();
        let failed = |error: FetchError| self.failed(PRESENT, &error);
        // In full, as servers that know no HEAD are asked, too.
        if let Some(answer) = self.ask(PRESENT, Wanted::Whole, &mut tries).map_err(failed)? {
            self.drain(answer.response);
        }
        let _permit = self.connections.take();
        self.learn();
        Ok(())
    }

    pub(super) fn has(&self, name: &str) -> Result<bool, SourceError> {
        let mut tries = Tries::default();
        let answer =
            self.ask(name, Wanted::Presence, &mut tries).map_err(|error| self.failed(name, &error))?;
        let is_there = answer.is_some();
        if let Some(answer) = answer {
            self.drain(answer.response);
        }
        Ok(is_there)
    }

    pub(super) fn open_file(
        self: &Arc<Self>,
        url: &str,
        expected: Expected,
    ) -> Result<Option<SourceFile>, SourceError> {
        let mut tries = Tries::default();
        let failed = |error: FetchError| self.failed(url, &error);
        let Some(answer) = self.ask(url, Wanted::Whole, &mut tries).map_err(failed)? else { return Ok(None) };
        let etag = header(&answer.response, "etag").map(str::to_owned);
        let fetched = open(answer.response).map_err(failed)?;
        if !fetched.ends && !expected.hashed {
            return Err(failed(FetchError::Endless));
        }
        let bytes = fetched.bytes.or(expected.bytes);
        let version = BodyVersion::new(etag.as_deref(), bytes);
        let reader = self.paced(fetched.reader, expected, answer.permit);
        let body = ResumingBody::new(Arc::clone(self), url, expected, version, reader, tries);
        Ok(Some(SourceFile { reader: Box::new(body), bytes }))
    }

    pub(super) fn paced(&self, body: Box<dyn Read + Send>, expected: Expected, permit: Permit) -> PacedBody {
        let floor = if expected.small { RateFloor::whole(FLOOR_STRETCH) } else { self.floor };
        PacedBody::new(body, floor, self.patience.clock(), Some(permit))
    }

    /// The answer to a request, tried as often as `tries` permits; none if there is nothing.
    pub(super) fn ask(
        &self,
        name: &str,
        wanted: Wanted<'_>,
        tries: &mut Tries,
    ) -> Result<Option<Answer>, FetchError> {
        loop {
            self.patience.turn()?;
            let permit = self.connections.take();
            // It may have been found out while this request waited for a connection.
            self.patience.turn()?;
            let (error, asked) = match self.ask_once(name, wanted) {
                Ok(response) => {
                    let status = response.status().as_u16();
                    let asked = header(&response, "retry-after").and_then(RetrySchedule::parse_asked);
                    if status == 200 || matches!(status, 206 | 416) && self.asks_for_part(wanted) {
                        self.patience.state().answered();
                        return Ok(Some(Answer { response, permit }));
                    }
                    match self.refused(response) {
                        Some(error) => (error, asked),
                        None => {
                            self.patience.state().answered();
                            return Ok(None);
                        }
                    }
                }
                Err(error) => (error, None),
            };
            drop(permit);
            self.failure(name, tries, asked, error)?;
        }
    }

    /// Whether a part may come. That it is the right one is seen by whoever asked.
    const fn asks_for_part(&self, wanted: Wanted<'_>) -> bool {
        match wanted {
            Wanted::Whole => false,
            Wanted::Presence => matches!(self.place, Place::Bucket(_)),
            Wanted::Rest(..) => true,
        }
    }

    /// Why an answer gave no file; none if there is nothing. The caller has a permit.
    fn refused(&self, answer: Response<ureq::Body>) -> Option<FetchError> {
        let bucket = match &self.place {
            Place::Server(_) => {
                let status = answer.status().as_u16();
                self.drain(answer);
                return match is_there(status) {
                    Ok(_) if status != 403 || self.hides() => None,
                    Ok(_) => Some(FetchError::Status(status)),
                    Err(error) => Some(error),
                };
            }
            Place::Bucket(bucket) => bucket,
        };
        let (parts, body) = answer.into_parts();
        let head = Response::from_parts(parts.clone(), ());
        let mut said = Vec::new();
        self.read_little(Response::from_parts(parts, body), &mut said);
        let refusal = bucket.refusal(&head, &said);
        let is_absent = refusal.lacks() || refusal.may_hide() && self.hides();
        (!is_absent).then(|| FetchError::S3(Box::new(refusal)))
    }

    /// Waits for the next try after a failure.
    ///
    /// # Errors
    /// There is none: that failure, or that the server is away.
    pub(super) fn failure(
        &self,
        name: &str,
        tries: &mut Tries,
        asked: Option<Duration>,
        error: FetchError,
    ) -> Result<(), FetchError> {
        let answers = self.patience.state().answers();
        if tries.failures == 0 {
            tries.answers = answers;
        }
        tries.failures += 1;
        let server_fails = match failure_of(&error).verdict(answers > 0) {
            FetchVerdict::Passes => {
                let what = format!("{self}: {name}");
                if self.patience.wait(&what, tries.failures, asked, &error) {
                    return Ok(());
                }
                // Whether that is the file's fault or the server's.
                self.patience.state().answers() == tries.answers && !self.answers_now()
            }
            FetchVerdict::FileFails => {
                self.patience.state().answered();
                false
            }
            FetchVerdict::ServerFails => true,
        };
        if !server_fails {
            return Err(error);
        }
        let reason = error.to_string();
        self.patience.state().give_up(&reason);
        Err(FetchError::Away(reason))
    }

    /// Whether the server answers at all, by what every cache has.
    fn answers_now(&self) -> bool {
        let _permit = self.connections.take();
        let passes = |status| FetchFailure::Status(status).verdict(true) == FetchVerdict::Passes;
        self.status(PRESENT).is_some_and(|status| !passes(status))
    }

    /// Whether 403 means that the source lacks what was asked for. The caller has a permit.
    fn hides(&self) -> bool {
        let known = self.patience.state().hides();
        known.unwrap_or_else(|| self.learn())
    }

    fn learn(&self) -> bool {
        let (present, impossible) = (self.status(PRESENT), self.status(IMPOSSIBLE));
        let mut state = self.patience.state();
        state.learn(present, impossible);
        state.hides().unwrap_or(false)
    }

    /// The status of one request; none if no answer came.
    fn status(&self, name: &str) -> Option<u16> {
        let response = self.ask_once(name, Wanted::Presence).ok()?;
        let status = response.status().as_u16();
        let is_there = matches!(status, 206 | 416) && self.asks_for_part(Wanted::Presence);
        self.drain(response);
        Some(if is_there { 200 } else { status })
    }

    /// One request, and what it is redirected to.
    fn ask_once(&self, name: &str, wanted: Wanted<'_>) -> Result<Response<ureq::Body>, FetchError> {
        let origin = match &self.place {
            Place::Server(origin) => origin,
            Place::Bucket(bucket) => return self.ask_bucket(bucket, name, wanted),
        };
        let mut url = origin.url(name);
        for _ in 0..=REDIRECTS_MAX {
            let answer = match wanted {
                Wanted::Presence => self.agent.head(&url).call()?,
                Wanted::Whole => self.agent.get(&url).call()?,
                Wanted::Rest(first, etag) => {
                    let range = format!("bytes={first}-");
                    self.agent.get(&url).header("Range", range).header("If-Range", etag).call()?
                }
            };
            if !matches!(answer.status().as_u16(), 301..=303 | 307 | 308) {
                return Ok(answer);
            }
            let location = header(&answer, "location").map(str::to_owned).ok_or(FetchError::NoLocation)?;
            self.drain(answer);
            let elsewhere = || FetchError::Elsewhere(location.chars().take(200).collect());
            url = origin.redirected(&url, &location).ok_or_else(elsewhere)?;
        }
        Err(FetchError::Circles)
    }

    /// One request to S3. What would redirect it is for the user to know: another region or endpoint.
    fn ask_bucket(
        &self,
        bucket: &S3Bucket,
        name: &str,
        wanted: Wanted<'_>,
    ) -> Result<Response<ureq::Body>, FetchError> {
        let mut request = self.agent.get(bucket.signed_url(name));
        for (name, value) in bucket.headers() {
            request = request.header(name, value);
        }
        let request = match wanted {
            Wanted::Presence => request.header("Range", "bytes=0-0"),
            Wanted::Whole => request,
            Wanted::Rest(first, etag) => {
                request.header("Range", format!("bytes={first}-")).header("If-Range", etag)
            }
        };
        Ok(request.call()?)
    }

    /// Reads what nobody wants, if it is little: else its connection could not be used again.
    fn drain(&self, answer: Response<ureq::Body>) {
        self.read_little(answer, &mut io::sink());
    }

    /// Reads a body if it is little, as far as it comes.
    fn read_little(&self, answer: Response<ureq::Body>, into: &mut dyn io::Write) {
        let Ok(body) = open(answer) else { return };
        if body.ends && body.bytes.is_none_or(|bytes| bytes <= DRAIN_BYTES_MAX) {
            let paced =
                PacedBody::new(body.reader, RateFloor::whole(FLOOR_STRETCH), self.patience.clock(), None);
            // A failure costs the connection and nothing else.
            let _ = io::copy(&mut paced.take(DRAIN_BYTES_MAX + 1), into);
        }
    }

    fn failed(&self, name: &str, error: &FetchError) -> SourceError {
        match error {
            FetchError::Away(reason) => SourceError::Away { cache: self.to_string(), reason: reason.clone() },
            error => SourceError::Fetch { name: name.to_owned(), reason: error.to_string() },
        }
    }
}

impl fmt::Debug for HttpSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The origin may hold a password.
        formatter.debug_tuple("HttpSource").field(&self.to_string()).finish()
    }
}

impl fmt::Display for HttpSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Server(origin) => origin.fmt(formatter),
            Place::Bucket(bucket) => bucket.fmt(formatter),
        }
    }
}

impl Place {
    /// What an http(s) or s3 URL names.
    pub(super) fn parse(text: &str, options: &SourceOptions) -> Result<Self, SourceError> {
        if text.starts_with("s3://") {
            return Ok(Self::Bucket(Box::new(S3Bucket::open(text, &options.s3)?)));
        }
        Origin::parse(text).map(Self::Server).ok_or_else(|| SourceError::NoUrl(without_keys(text)))
    }

    fn host(&self) -> &str {
        match self {
            Self::Server(origin) => origin.host(),
            Self::Bucket(bucket) => bucket.host(),
        }
    }
}

pub(super) fn header<'a, B>(answer: &'a Response<B>, name: &str) -> Option<&'a str> {
    answer.headers().get(name).and_then(|value| value.to_str().ok())
}

/// What kind of failure it is.
fn failure_of(error: &FetchError) -> FetchFailure {
    let error = match error {
        FetchError::Status(status) => return FetchFailure::Status(*status),
        FetchError::S3(refusal) => return refusal.failure(),
        FetchError::Body(_) => return FetchFailure::Broken,
        FetchError::Away(_) => return FetchFailure::Untrusted,
        FetchError::Way(error) => error,
        FetchError::ContentEncoding(_)
        | FetchError::Elsewhere(_)
        | FetchError::NoLocation
        | FetchError::Circles
        | FetchError::Endless => return FetchFailure::Unusable,
    };
    match error {
        ureq::Error::Io(error) => match NoAddress::in_error(error) {
            Some(NoAddress::Unknown { .. }) => FetchFailure::Unresolved,
            Some(NoAddress::Forbidden { .. }) => FetchFailure::Untrusted,
            // What rustls says of certificates and of what is no TLS.
            None if error.kind() == io::ErrorKind::InvalidData => FetchFailure::Untrusted,
            None => FetchFailure::Broken,
        },
        ureq::Error::Rustls(_) | ureq::Error::Tls(_) => FetchFailure::Untrusted,
        ureq::Error::Timeout(_)
        | ureq::Error::HostNotFound
        | ureq::Error::ConnectionFailed
        | ureq::Error::ConnectProxyFailed(_)
        | ureq::Error::Protocol(_) => FetchFailure::Broken,
        _ => FetchFailure::Unusable,
    }
}
