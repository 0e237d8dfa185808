//! Saying no to a client that asks for too much.

use std::time::Duration;

use bytes::Bytes;
use hyper::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};

use crate::body::GatewayBody;

/// Why a request is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Its client may make the next one after this time.
    TooManyRequests { wait: Duration },
    /// Its client has so many connections already.
    TooManyConnections { connections_max: usize },
}

// Whoever has too many connections has to close some first.
const CONNECTIONS_WAIT: Duration = Duration::from_secs(5);

impl Refusal {
    /// 429, with a time after which it is worth trying again.
    pub(super) fn response(self) -> Response<GatewayBody> {
        let (sentence, wait) = match self {
            Self::TooManyRequests { wait } => {
                let seconds = whole_seconds(wait);
                (format!("too many requests come from your address: try again in {seconds} s"), wait)
            }
            Self::TooManyConnections { connections_max } => {
                let sentence = format!("your address has {connections_max} connections already: use those");
                (sentence, CONNECTIONS_WAIT)
            }
        };
        let body = Bytes::from(sentence);
        let mut response = Response::new(GatewayBody::whole(body.clone()));
        *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(CONTENT_LENGTH, body.len().into());
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(RETRY_AFTER, whole_seconds(wait).into());
        response
    }
}

/// At least one: a client that comes back too early is refused again.
const fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs() + 1
}
