//! A binary cache behind a URL.
//!
//! Owns: requests, and which failures pass. Always holds: no request leaves the source's origin or goes to an address that
//! it may not have; a failure that may pass is tried again, at growing distances and not for ever; a broken body goes on
//! where it ended.
//! Leaves to others: when to try again (`firn-client-logic`).

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use firn_client_logic::{AddressRule, BodyVersion, RetrySchedule};
use ureq::Agent;
use ureq::http::Response;
use ureq::unversioned::transport::DefaultConnector;

use super::guarded_resolver::GuardedResolver;
use super::origin::Origin;
use super::resuming_body::ResumingBody;
use super::{SourceError, SourceFile, SourceOptions};
use crate::http_client::{FetchError, config, is_there, open};

// Beyond it a server leads in circles.
const REDIRECTS_MAX: u32 = 5;

pub(super) struct HttpSource {
    origin: Origin,
    agent: Agent,
    retries: RetrySchedule,
    // Waits; tests do not.
    pause: fn(Duration),
    // Grows with each use, so that no two pauses are spread alike.
    seed: AtomicU64,
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

impl HttpSource {
    pub(super) fn new(text: &str, options: &SourceOptions) -> Result<Self, SourceError> {
        let origin = Origin::parse(text).ok_or_else(|| SourceError::NoUrl(text.to_owned()))?;
        let rule = AddressRule::for_host(origin.host(), options.private);
        let config = config()
            // Each one is looked at.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .max_idle_connections(options.connections)
            .max_idle_connections_per_host(options.connections)
            .build();
        let agent = Agent::with_parts(config, DefaultConnector::default(), GuardedResolver::new(rule));
        let seed = AtomicU64::new(options.seed);
        Ok(Self { origin, agent, retries: RetrySchedule::default(), pause: std::thread::sleep, seed })
    }

    /// With another schedule, and without waiting.
    #[cfg(test)]
    pub(super) fn impatient(self, retries: RetrySchedule) -> Self {
        Self { retries, ..self.pausing(|_| {}) }
    }

    /// That tells `pause` and does not wait.
    #[cfg(test)]
    pub(super) fn pausing(self, pause: fn(Duration)) -> Self {
        Self { pause, ..self }
    }

    pub(super) fn has(&self, name: &str) -> Result<bool, SourceError> {
        let answer = self.ask(name, Wanted::Presence).map_err(|error| failed(name, &error))?;
        Ok(answer.is_some())
    }

    pub(super) fn open_file(self: &Arc<Self>, url: &str) -> Result<Option<SourceFile>, SourceError> {
        let answer = self.ask(url, Wanted::Whole).map_err(|error| failed(url, &error))?;
        let Some(answer) = answer else { return Ok(None) };
        let etag = header(&answer, "etag").map(str::to_owned);
        let fetched = open(answer).map_err(|error| failed(url, &error))?;
        let version = BodyVersion::new(etag.as_deref(), fetched.bytes);
        let body = ResumingBody::new(Arc::clone(self), url, version, fetched.reader);
        Ok(Some(SourceFile { reader: Box::new(body), bytes: fetched.bytes }))
    }

    /// The answer to a request, tried as often as it makes sense; none if there is nothing.
    pub(super) fn ask(
        &self,
        name: &str,
        wanted: Wanted<'_>,
    ) -> Result<Option<Response<ureq::Body>>, FetchError> {
        let mut failures = 0;
        loop {
            let (error, asked) = match self.ask_once(name, wanted) {
                Ok(answer) => {
                    let status = answer.status().as_u16();
                    // Whether the part is the right one is seen by whoever asked.
                    let partial = matches!(wanted, Wanted::Rest(..)) && matches!(status, 206 | 416);
                    match if partial { Ok(true) } else { is_there(status) } {
                        Ok(there) => return Ok(there.then_some(answer)),
                        Err(error) => (error, header(&answer, "retry-after").and_then(seconds)),
                    }
                }
                Err(error) => (error, None),
            };
            failures += 1;
            if !passes(&error) || !self.wait(name, failures, asked, &error) {
                return Err(error);
            }
        }
    }

    /// Waits after a failure; false if no further try is due.
    pub(super) fn wait(
        &self,
        name: &str,
        failures: u32,
        asked: Option<Duration>,
        cause: &dyn fmt::Display,
    ) -> bool {
        let seed = self.seed.fetch_add(1, Ordering::Relaxed);
        let Some(pause) = self.retries.pause(failures, asked, seed) else { return false };
        tracing::info!("{name}: {cause}; trying again in {pause:.1?}");
        (self.pause)(pause);
        true
    }

    /// One request, and what it is redirected to.
    fn ask_once(&self, name: &str, wanted: Wanted<'_>) -> Result<Response<ureq::Body>, FetchError> {
        let mut url = self.origin.url(name);
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
            let location = header(&answer, "location").unwrap_or_default();
            let elsewhere = || FetchError::Elsewhere(location.chars().take(200).collect());
            url = self.origin.redirected(&url, location).ok_or_else(elsewhere)?;
        }
        Err(FetchError::Circles)
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
        self.origin.fmt(formatter)
    }
}

pub(super) fn header<'a>(answer: &'a Response<ureq::Body>, name: &str) -> Option<&'a str> {
    answer.headers().get(name).and_then(|value| value.to_str().ok())
}

/// The form with a date is rare, and says no more than that the server is busy.
fn seconds(text: &str) -> Option<Duration> {
    text.trim().parse().ok().map(Duration::from_secs)
}

/// Whether it may be otherwise in a while.
fn passes(error: &FetchError) -> bool {
    match error {
        FetchError::Status(status) => matches!(status, 408 | 425 | 429 | 500 | 502..=504 | 520..=530),
        FetchError::ContentEncoding(_) | FetchError::Elsewhere(_) | FetchError::Circles => false,
        FetchError::Way(error) => match error {
            ureq::Error::Io(error) => error.kind() != io::ErrorKind::PermissionDenied,
            ureq::Error::Timeout(_)
            | ureq::Error::HostNotFound
            | ureq::Error::ConnectionFailed
            | ureq::Error::ConnectProxyFailed(_)
            | ureq::Error::Protocol(_) => true,
            _ => false,
        },
    }
}

fn failed(name: &str, error: &FetchError) -> SourceError {
    SourceError::Fetch { name: name.to_owned(), reason: error.to_string() }
}
