//! `/why/<store path>`: how a path stands, as a sentence or as JSON.
//!
//! Always holds: whatever is said is 200, and kept by no cache. Leaves to others: finding it out (`explanation`).

use hyper::StatusCode;
use hyper::header::{ACCEPT, HeaderValue, VARY, X_CONTENT_TYPE_OPTIONS};

use super::{Answer, Asked, JSON, NO_STORE, Router};

/// What is said holds others' words: no browser shall take them for a page.
pub(super) const NO_SNIFFING: HeaderValue = HeaderValue::from_static("nosniff");

impl Router {
    pub(super) async fn why(&self, hash: [u8; 20], asked: Asked<'_>) -> Answer {
        let explanation = self.core.explain(hash, asked.arrival.places).await;
        let answer = if asked.accepts_json() {
            Answer::whole(explanation.to_json().into(), JSON, NO_STORE)
        } else {
            Answer::sentence(StatusCode::OK, explanation.sentence().into(), NO_STORE)
        };
        let answer = answer.with(VARY, HeaderValue::from_static("accept"));
        self.at_position(answer.with(X_CONTENT_TYPE_OPTIONS, NO_SNIFFING))
    }
}

impl Asked<'_> {
    /// Whether JSON is among what the client names as acceptable.
    fn accepts_json(&self) -> bool {
        let accepted = self.headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        accepted.flat_map(|value| value.split(',')).any(|kind| {
            kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
        })
    }
}
