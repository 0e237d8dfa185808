//! The feed's store paths as pages of JSON, for mirrors and for whoever wants to see what is here.
//!
//! Always holds: a page is of a bounded number of events; whoever goes on at `next` misses nothing and sees nothing twice.
//! Names of paths are not known here: they are in the path infos, which gateways serve.

use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use firn_base::KeyKind;
use firn_nix_format::nixbase32;
use firn_wire::{FeedBatch, FeedEvent};
use serde::Serialize;

use crate::coordinator::Administration;

/// Events of one page if nothing is said.
const EVENTS_DEFAULT: usize = 1_000;
/// Events of one page at most: less than a megabyte of JSON.
const EVENTS_MAX: usize = 10_000;

/// A page as it is sent.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Page {
    paths: Vec<Path>,
    /// Where the next page begins: the `after` to ask with.
    next: u64,
    /// The length of the feed: a mirror that has reached it has everything, unless that is stale.
    head: u64,
    /// For how many seconds this coordinator has not known whether there is more. Left out where it knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    stale_seconds: Option<u64>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Path {
    /// The hash part of the store path.
    hash: String,
    /// Whether it was withdrawn here, instead of becoming visible.
    withdrawn: bool,
}

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
struct Question {
    after: u64,
    limit: usize,
}

/// `GET /api/v1/paths?after=POSITION&limit=EVENTS`.
pub(super) async fn paths(State(administration): State<Administration>, uri: Uri) -> Response {
    let question = match Question::parse(uri.query().unwrap_or_default()) {
        Ok(question) => question,
        Err(sentence) => return (StatusCode::BAD_REQUEST, format!("{sentence}\n")).into_response(),
    };
    match administration.feed(question.after, question.limit).await {
        Ok((batch, stale)) => match serde_json::to_string(&Page::of(&batch, stale)) {
            Ok(page) => ([(header::CONTENT_TYPE, "application/json")], page).into_response(),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
        },
        Err(refusal) => (StatusCode::SERVICE_UNAVAILABLE, format!("{refusal}\n")).into_response(),
    }
}

impl Question {
    fn parse(query: &str) -> Result<Self, String> {
        let mut question = Self { after: 0, limit: EVENTS_DEFAULT };
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            match name {
                "after" => {
                    question.after =
                        value.parse().map_err(|_| "`after` is a position of the feed: a number")?;
                }
                "limit" => {
                    let limit = value.parse().ok().filter(|limit| (1..=EVENTS_MAX).contains(limit));
                    question.limit =
                        limit.ok_or_else(|| format!("`limit` is a number from 1 to {EVENTS_MAX}"))?;
                }
                _ => return Err("`after` and `limit` can be asked for, nothing else".to_owned()),
            }
        }
        Ok(question)
    }
}

impl Page {
    fn of(batch: &FeedBatch, stale: Option<Duration>) -> Self {
        let paths = batch.events.iter().filter_map(|event| {
            let (key, withdrawn) = match event {
                FeedEvent::Visible(key) => (key, false),
                FeedEvent::Withdrawn(key) => (key, true),
            };
            let is_path = key.kind() == KeyKind::StorePath;
            is_path.then(|| Path { hash: nixbase32::encode(key.name()), withdrawn })
        });
        let next = batch.first.saturating_add(batch.events.len() as u64);
        let stale_seconds = stale.map(|age| age.as_secs());
        Self { paths: paths.collect(), next, head: batch.head, stale_seconds }
    }
}

#[cfg(test)]
mod tests {
    use firn_base::ObjectKey;

    use super::*;

    #[test]
    fn a_question_names_where_to_go_on_and_how_far() {
        assert_eq!(Question::parse(""), Ok(Question { after: 0, limit: EVENTS_DEFAULT }));
        assert_eq!(Question::parse("limit=7&after=12"), Ok(Question { after: 12, limit: 7 }));
        for refused in
            ["after=", "after=-1", "limit=0", "limit=10001", "limit", "before=3", "after=1;limit=2"]
        {
            assert!(Question::parse(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn a_page_names_store_paths_and_where_the_next_begins() {
        let path = ObjectKey::store_path([0xff; 20]);
        let events = vec![
            FeedEvent::Visible(path),
            FeedEvent::Visible(ObjectKey::build_log([1; 20])),
            FeedEvent::Withdrawn(path),
        ];
        let batch = FeedBatch { first: 40, events, head: 50 };
        let page = serde_json::to_string(&Page::of(&batch, None)).unwrap();
        let hash = "z".repeat(32);
        let expected = format!(
            r#"{{"paths":[{{"hash":"{hash}","withdrawn":false}},{{"hash":"{hash}","withdrawn":true}}],"next":43,"head":50}}"#
        );
        assert_eq!(page, expected);
        let stale = serde_json::to_string(&Page::of(&batch, Some(Duration::from_secs(90)))).unwrap();
        assert_eq!(stale, expected.replace(r#""head":50"#, r#""head":50,"stale_seconds":90"#));
    }
}
