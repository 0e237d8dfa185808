//! An answer being put together.

use std::borrow::Cow;

use bytes::Bytes;
use hyper::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

use crate::body::GatewayBody;

/// The feed position as of which the answer is true.
pub(super) const FEED_POSITION: HeaderName = HeaderName::from_static("firn-feed-position");

/// Set where 404 means "archived but unreadable now".
pub(super) const UNREADABLE: HeaderName = HeaderName::from_static("firn-unreadable");

// The most that any answer has, with the date.
const HEADERS: usize = 10;

/// A response to GET; HEAD drops the body at the end.
#[derive(Debug)]
pub(super) struct Answer(Response<GatewayBody>);

impl Answer {
    pub(super) fn new(status: StatusCode) -> Self {
        let mut response = Response::new(GatewayBody::empty());
        *response.status_mut() = status;
        response.headers_mut().reserve(HEADERS);
        Self(response)
    }

    /// One plain sentence.
    pub(super) fn sentence(status: StatusCode, sentence: Cow<'static, str>, cache: HeaderValue) -> Self {
        let text = match sentence {
            Cow::Borrowed(text) => Bytes::from_static(text.as_bytes()),
            Cow::Owned(text) => text.into(),
        };
        let mut answer = Self::whole(text, super::TEXT, cache);
        *answer.0.status_mut() = status;
        answer
    }

    /// 200 with all of `body`.
    pub(super) fn whole(body: Bytes, content_type: HeaderValue, cache: HeaderValue) -> Self {
        Self::new(StatusCode::OK)
            .with(CONTENT_TYPE, content_type)
            .with(CONTENT_LENGTH, body.len().into())
            .with(CACHE_CONTROL, cache)
            .body(GatewayBody::whole(body))
    }

    pub(super) fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers_mut().insert(name, value);
        self
    }

    pub(super) fn tagged(self, etag: HeaderValue, cache: HeaderValue) -> Self {
        self.with(ETAG, etag).with(CACHE_CONTROL, cache)
    }

    pub(super) fn body(mut self, body: GatewayBody) -> Self {
        *self.0.body_mut() = body;
        self
    }

    pub(super) fn into_response(self, head: bool) -> Response<GatewayBody> {
        if head { self.body(GatewayBody::empty()).0 } else { self.0 }
    }
}
