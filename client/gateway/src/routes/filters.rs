//! Filters for mirrors and other gateways: the lists under one stable URL, each filter below it under its id.
//!
//! Always holds: a filter under its id is the same bytes for ever. Leaves to others: which there are (`filter_keeper`).

use firn_base::FilterId;
use hyper::StatusCode;
use hyper::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderValue};

use super::objects::{behind_the_end, content_range, etag};
use super::{Answer, Asked, CACHE_FOR_EVER, CACHE_LISTS, CACHE_MISS, OCTETS, Router, TEXT};
use crate::body::GatewayBody;
use crate::range_header::Wanted;

impl Router {
    /// What coordinators sign of the filters that are here.
    pub(super) fn filter_lists(&self) -> Answer {
        match self.core.filter_lists.text() {
            Some(text) => Answer::whole(text, TEXT, CACHE_LISTS),
            None => {
                let sentence = "this gateway has no filters: the archive may be too small for one";
                Answer::sentence(StatusCode::NOT_FOUND, sentence.into(), CACHE_MISS)
            }
        }
    }

    pub(super) fn filter(&self, id: FilterId, asked: Asked<'_>) -> Answer {
        let filters = self.core.keys.filters();
        let Some(filter) = filters.find(id) else {
            let sentence = "this gateway has no such filter, or has it no more: see /firn/filters";
            return Answer::sentence(StatusCode::NOT_FOUND, sentence.into(), CACHE_MISS);
        };
        let (bytes, etag) = (&filter.bytes, etag(&id.to_string()));
        let length = bytes.len() as u64;
        let (status, range) = match asked.part(length, &etag) {
            Wanted::Whole => (StatusCode::OK, 0..length),
            Wanted::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
            Wanted::Nothing => return behind_the_end(length),
        };
        // Within the bytes, which are in memory.
        let [start, end] = [range.start, range.end].map(|at| usize::try_from(at).unwrap_or(bytes.len()));
        let part = bytes.slice(start..end);
        let mut answer = Answer::new(status)
            .with(CONTENT_TYPE, OCTETS)
            .with(CONTENT_LENGTH, part.len().into())
            .with(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        if status == StatusCode::PARTIAL_CONTENT {
            answer = answer.with(CONTENT_RANGE, content_range(&range, length));
        }
        answer.tagged(etag, CACHE_FOR_EVER).body(GatewayBody::whole(part))
    }
}
