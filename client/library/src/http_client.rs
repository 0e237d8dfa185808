//! Fetching over HTTP: narinfos, NARs, logs, descriptors, filters.
//!
//! Always holds: a server that sends nothing is given up; a body that was encoded for the way is refused, so
//! that bytes are always those of the file. Calls block.
//! Leaves to others: how much of a body is read.

use std::fmt;
use std::io::Read;
use std::ops::Range;
use std::time::Duration;

use firn_client_logic::S3Refusal;
use ureq::Agent;
use ureq::config::ConfigBuilder;
use ureq::http::{Response, Version};
use ureq::typestate::AgentScope;

/// How long a server is waited for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waits {
    pub(crate) connect: Duration,
    /// A cache in front of slow storage may take its time to begin.
    pub(crate) response: Duration,
    /// A server that sends nothing for so long in the middle of a body has forgotten us.
    pub(crate) stall: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        let minute = Duration::from_secs(60);
        Self { connect: Duration::from_secs(20), response: minute, stall: minute }
    }
}

/// A body under way.
pub struct Fetched {
    /// The body, as far as it has come.
    pub reader: Box<dyn Read + Send>,
    /// How many bytes it has, if the server says it.
    pub bytes: Option<u64>,
    /// Whether the server says where it ends, be it only at its end: else one that broke looks whole.
    pub ends: bool,
}

impl fmt::Debug for Fetched {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Fetched").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

/// Why a URL gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The server refuses.
    #[error("the server answers {0}")]
    Status(u16),
    /// The body is encoded for the way.
    #[error("the server sends it with the content encoding `{0}`, which is not read")]
    ContentEncoding(String),
    /// The server sends us out of its folder or to another one.
    #[error(
        "the server leads to {0}, which lies outside of the source: it is read from where it was said to be and below"
    )]
    Elsewhere(String),
    /// The server sends us away and does not say where.
    #[error("the server leads elsewhere and does not say where")]
    NoLocation,
    /// The server sends us from one place to the next.
    #[error("the server leads in circles")]
    Circles,
    /// S3 refuses, and says why.
    #[error("{0}")]
    S3(Box<S3Refusal>),
    /// The server does not say where the body ends.
    #[error(
        "the server says neither its length nor its end, so that half of it could not be told from all of it"
    )]
    Endless,
    /// The body broke.
    #[error("{0}")]
    Body(String),
    /// The server is away, as other requests found out.
    #[error("the server was given up: {0}")]
    Away(String),
    /// Anything between here and the server.
    #[error("{0}")]
    Way(#[from] ureq::Error),
}

/// An agent whose every wait ends.
pub fn agent() -> Agent {
    config(Waits::default()).build().into()
}

pub(crate) fn config(waits: Waits) -> ConfigBuilder<AgentScope> {
    Agent::config_builder()
        .http_status_as_error(false)
        .user_agent(concat!("firn/", env!("CARGO_PKG_VERSION")))
        .accept_encoding("identity")
        .timeout_connect(Some(waits.connect))
        .timeout_recv_response(Some(waits.response))
        .timeout_per_read(Some(waits.stall))
        .timeout_per_write(Some(waits.stall))
}

/// The body at `url`; none if the server has nothing there.
pub fn get(agent: &Agent, url: &str) -> Result<Option<Fetched>, FetchError> {
    let response = agent.get(url).call()?;
    if is_there(response.status().as_u16())? { open(response).map(Some) } else { Ok(None) }
}

/// These bytes of the body at `url`; none if the server has nothing there. It is refused if it gives others.
pub fn get_range(agent: &Agent, url: &str, range: Range<u64>) -> Result<Option<Fetched>, FetchError> {
    let wanted = format!("bytes={}-{}", range.start, range.end.saturating_sub(1));
    let response = agent.get(url).header("Range", wanted).call()?;
    match response.status().as_u16() {
        206 => open(response).map(Some),
        // The whole body is not what was asked for.
        200 => Err(FetchError::Status(200)),
        other => is_there(other).map(|_| None),
    }
}

/// The body of an answer.
pub(crate) fn open(response: Response<ureq::Body>) -> Result<Fetched, FetchError> {
    let encoding = response.headers().get("content-encoding").and_then(|value| value.to_str().ok());
    if let Some(encoding) = encoding.filter(|encoding| !encoding.eq_ignore_ascii_case("identity")) {
        return Err(FetchError::ContentEncoding(encoding.chars().take(40).collect()));
    }
    // HTTP/1.0 knows no chunks.
    let chunked = response.version() >= Version::HTTP_11
        && response.headers().get("transfer-encoding").and_then(|value| value.to_str().ok()).is_some_and(
            |codings| codings.split(',').any(|coding| coding.trim().eq_ignore_ascii_case("chunked")),
        );
    let body = response.into_body();
    let bytes = body.content_length();
    Ok(Fetched { reader: Box::new(body.into_reader()), bytes, ends: chunked || bytes.is_some() })
}

/// Nix's own rule: 403, 404 and 410 all mean that there is nothing. (Sources look closer at 403.)
pub(crate) fn is_there(status: u16) -> Result<bool, FetchError> {
    match status {
        200 => Ok(true),
        403 | 404 | 410 => Ok(false),
        other => Err(FetchError::Status(other)),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;

    use super::*;

    /// A server that gives this answer to one connection.
    fn serve(answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            stream.write_all(answer.as_bytes()).unwrap();
        });
        format!("http://{address}/x")
    }

    #[test]
    fn a_body_is_read_and_its_length_known() {
        let url = serve("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello");
        let mut fetched = get(&agent(), &url).unwrap().unwrap();
        let mut text = String::new();
        fetched.reader.read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), fetched.bytes), ("hello", Some(5)));
    }

    #[test]
    fn a_server_that_knows_no_ranges_is_refused_where_one_is_asked_for() {
        let part = "HTTP/1.1 206 Partial\r\nContent-Length: 2\r\nConnection: close\r\n\r\nll";
        let mut text = String::new();
        get_range(&agent(), &serve(part), 2..4).unwrap().unwrap().reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "ll");
        let whole = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
        assert!(get_range(&agent(), &serve(whole), 2..4).is_err());
        let missing = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        assert!(get_range(&agent(), &serve(missing), 2..4).unwrap().is_none());
    }

    #[test]
    fn what_is_missing_is_told_from_what_failed() {
        let missing = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        assert!(get(&agent(), &serve(missing)).unwrap().is_none());
        let broken = "HTTP/1.1 500 Oops\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        assert!(get(&agent(), &serve(broken)).err().unwrap().to_string().contains("500"));
    }

    #[test]
    fn a_body_that_was_encoded_for_the_way_is_refused() {
        let encoded =
            "HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx";
        assert!(get(&agent(), &serve(encoded)).err().unwrap().to_string().contains("`br`"));
    }
}
