//! Answers to plain requests that are in memory, as bytes.
//!
//! Always holds: they are the bytes that hyper would send, counted and limited alike; what has to be logged, or may be
//! another client's, is not answered here. Leaves to others: what is in memory (`routes`).

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use hyper::Response;

use super::connection::Served;
use super::plain_request::PlainRequest;
use super::short_cut::Answers;

/// What of a body is copied behind its head at most. Hyper sends larger ones from where they lie, for all connections
/// that ask for them.
pub(super) const BODY_BYTES_MAX: usize = 64 << 10;

/// What a connection answers from memory.
pub(super) struct FromMemory {
    served: Arc<Served>,
    date: DateLine,
}

/// The line of a head that says when it was written, made once a second.
#[derive(Debug, Default)]
struct DateLine {
    second: u64,
    line: String,
}

impl FromMemory {
    /// For this connection.
    pub(super) fn new(served: Arc<Served>) -> Self {
        Self { served, date: DateLine::default() }
    }
}

impl Answers for FromMemory {
    fn answer(&mut self, request: &PlainRequest<'_>, into: &mut Vec<u8>) -> bool {
        let Some(response) = self.served.answer_from_memory(request) else { return false };
        let now = self.served.environment().now().as_millis() / 1000;
        write_answer(&response, self.date.at(now), into);
        true
    }
}

impl DateLine {
    fn at(&mut self, second: u64) -> &str {
        if self.second != second || self.line.is_empty() {
            let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(second));
            (self.second, self.line) = (second, format!("date: {date}\r\n"));
        }
        &self.line
    }
}

fn write_answer(response: &Response<Bytes>, date: &str, into: &mut Vec<u8>) {
    let status = response.status();
    let reason = status.canonical_reason().unwrap_or_default();
    for part in ["HTTP/1.1 ", status.as_str(), " ", reason, "\r\n"] {
        into.extend_from_slice(part.as_bytes());
    }
    for (name, value) in response.headers() {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            into.extend_from_slice(part);
        }
    }
    into.extend_from_slice(date.as_bytes());
    into.extend_from_slice(b"\r\n");
    into.extend_from_slice(response.body());
}
