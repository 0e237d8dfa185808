//! `firn verify`: reading back what is archived, completely.

use clap::Args;
use firn_base::{ByteCount, Location, ObjectKey};
use firn_bundle::RecordBody;
use firn_gateway::Located;
use firn_nix_format::nixbase32;
use firn_retrieval::ReadError;
use futures::stream::{self, StreamExt};
use serde::Serialize;

use crate::cli::CommonOptions;
use crate::command_error::{CommandError, Done};
use crate::feed_keys::{FeedKeys, may_be_more};
use crate::output::print_as;
use crate::path_search::unsettled;
use crate::progress::{Progress, Unit};
use crate::record_finder::RecordFinder;
use crate::session::Session;
use crate::store_path_argument::StorePathArgument;

/// Read objects back completely and check every hash.
///
/// Everything is read from the storage nodes, around those that are away, as a gateway would. Any object that
/// cannot be read, or is not what its path info promises, is named and makes the exit code 1.
#[derive(Debug, Args)]
pub(crate) struct VerifyOptions {
    /// Check everything that the archive's feed names
    #[arg(long, conflicts_with = "paths")]
    all: bool,
    /// Store paths: whole, by base name, or by their hash of 32 characters
    #[arg(required_unless_present = "all", value_name = "STOREPATH")]
    paths: Vec<StorePathArgument>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Failure {
    name: String,
    reason: String,
}

/// What a check came to. The names of the fields are those of the JSON.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct VerifySummary {
    /// Objects that were looked at.
    checked: u64,
    /// Of these, those that could not be read.
    unreadable: u64,
    /// Of these, those that are not what their path info promises.
    mismatched: u64,
    /// Bytes that were read and found right.
    bytes: u64,
    /// All that failed.
    failures: Vec<Failure>,
    /// Of everything: for how many seconds the coordinators that answer have not known whether there is more. Left out where
    /// they know that this is all.
    #[serde(skip_serializing_if = "Option::is_none")]
    stale_seconds: Option<u64>,
}

// Keys that are looked up together: their places are sorted, so that a bundle is read in one go.
const KEYS_AT_ONCE: usize = 10_000;

// Each holds a few frames of some MiB.
const OBJECTS_AT_ONCE: usize = 8;

const FAILURE_LINES_MAX: usize = 50;

/// Runs the command.
pub(crate) async fn run(common: &CommonOptions, options: VerifyOptions) -> Result<Done, CommandError> {
    let session = Session::open(common).await?;
    let finder = session.finder();
    let mut summary = VerifySummary::default();
    let progress = Progress::new("checking", Unit::Things("objects"), 0);
    if options.all {
        let feed = FeedKeys::open(session.archive().coordinators()).await;
        let mut feed = feed.map_err(|error| CommandError::Failed(error.to_string()))?;
        progress.expect(feed.events());
        if let Some(stale) = feed.stale() {
            eprintln!("note: {}", may_be_more(stale));
            summary.stale_seconds = Some(stale.as_secs());
        }
        let next = async |feed: &mut FeedKeys| {
            feed.next_page().await.map_err(|error| CommandError::Failed(error.to_string()))
        };
        while let Some(keys) = next(&mut feed).await? {
            for keys in keys.chunks(KEYS_AT_ONCE) {
                let places = finder.locate_visible(keys).await?;
                let located = Located { places, doubt: None };
                check_keys(&finder, keys, located, &mut summary, &progress).await;
            }
        }
    } else {
        let keys: Vec<ObjectKey> = options.paths.iter().map(StorePathArgument::key).collect();
        progress.expect(u64::try_from(keys.len()).unwrap_or(u64::MAX));
        let located = finder.locate(&keys).await?;
        check_keys(&finder, &keys, located, &mut summary, &progress).await;
    }
    drop(progress);
    summary.failures.sort();
    print_as(common.json, &summary, ToString::to_string)?;
    session.close().await;
    Ok(Done::when(summary.unreadable == 0 && summary.mismatched == 0))
}

async fn check_keys(
    finder: &RecordFinder,
    keys: &[ObjectKey],
    Located { places, doubt }: Located,
    summary: &mut VerifySummary,
    progress: &Progress,
) {
    let doubt = doubt.as_deref();
    let mut places: Vec<(ObjectKey, Vec<Location>)> = keys.iter().copied().zip(places).collect();
    places.sort_by(|(_, one), (_, other)| one.cmp(other));
    let checks = places.into_iter().map(|(key, places)| async move {
        let checked = check(finder, &key, &places, doubt).await;
        (key, checked)
    });
    let mut checks = std::pin::pin!(stream::iter(checks).buffer_unordered(OBJECTS_AT_ONCE));
    while let Some((key, checked)) = checks.next().await {
        summary.take(&key, checked);
        progress.add(1);
        progress.say(ByteCount(summary.bytes).to_string());
    }
}

/// What is wrong with an object, and its name as far as it is known.
struct Wrong {
    name: Option<String>,
    reason: String,
    mismatched: bool,
}

/// Reads every record of the key completely; gives the bytes.
async fn check(
    finder: &RecordFinder,
    key: &ObjectKey,
    places: &[Location],
    doubt: Option<&str>,
) -> Result<u64, Wrong> {
    if places.is_empty() {
        return Err(without_places(doubt));
    }
    let mut bytes = 0_u64;
    for place in places {
        let mut name = None;
        let read = read(finder, key, *place, &mut name).await;
        let read = read.map_err(|error| {
            let mismatched = matches!(error, ReadError::WrongObject { .. } | ReadError::Damaged { .. });
            Wrong { name, reason: error.to_string(), mismatched }
        })?;
        bytes = bytes.saturating_add(read);
    }
    Ok(bytes)
}

/// Of an object that has no place: it is not archived, or that is in doubt.
fn without_places(doubt: Option<&str>) -> Wrong {
    let reason = doubt.map_or_else(|| "the archive does not have it".to_owned(), unsettled);
    Wrong { name: None, reason, mismatched: false }
}

async fn read(
    finder: &RecordFinder,
    key: &ObjectKey,
    place: Location,
    name: &mut Option<String>,
) -> Result<u64, ReadError> {
    let found = finder.record(key, place).await?;
    *name = Some(match &found.record.body {
        RecordBody::StorePath(info) => info.store_path.to_string(),
        RecordBody::Blob(blob) => blob.url.clone(),
    });
    let plan = finder.objects().open(found.bundle, found.record).await?;
    let mut stream = plan.stream(None)?;
    while let Some(piece) = stream.next().await {
        piece?;
    }
    Ok(plan.bytes())
}

impl VerifySummary {
    fn take(&mut self, key: &ObjectKey, checked: Result<u64, Wrong>) {
        self.checked += 1;
        match checked {
            Ok(bytes) => self.bytes = self.bytes.saturating_add(bytes),
            Err(wrong) => {
                let count = if wrong.mismatched { &mut self.mismatched } else { &mut self.unreadable };
                *count += 1;
                let name = wrong.name.unwrap_or_else(|| nixbase32::encode(key.name()));
                self.failures.push(Failure { name, reason: wrong.reason });
            }
        }
    }
}

impl std::fmt::Display for VerifySummary {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for failure in self.failures.iter().take(FAILURE_LINES_MAX) {
            writeln!(formatter, "{}: {}", failure.name, failure.reason)?;
        }
        if let Some(more @ 1..) = self.failures.len().checked_sub(FAILURE_LINES_MAX) {
            writeln!(formatter, "and {more} more, which --json names")?;
        }
        write!(
            formatter,
            "checked {} objects, {}: {} unreadable, {} mismatched",
            self.checked,
            ByteCount(self.bytes),
            self.unreadable,
            self.mismatched
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary() -> VerifySummary {
        let mut summary = VerifySummary::default();
        let key = ObjectKey::store_path([0; 20]);
        summary.take(&key, Ok(100));
        let wrong = |mismatched| Wrong { name: None, reason: "why".to_owned(), mismatched };
        summary.take(&key, Err(wrong(false)));
        summary.take(&key, Err(Wrong { name: Some("x".to_owned()), ..wrong(true) }));
        summary
    }

    #[test]
    fn what_is_in_doubt_is_unreadable_beside_what_was_read() {
        let mut summary = VerifySummary::default();
        summary.take(&ObjectKey::store_path([0; 20]), Err(without_places(Some("one is cut off"))));
        summary.take(&ObjectKey::store_path([1; 20]), Err(without_places(None)));
        summary.take(&ObjectKey::store_path([2; 20]), Ok(100));
        assert_eq!((summary.checked, summary.unreadable, summary.bytes), (3, 2, 100));
        assert!(summary.failures[0].reason.contains("not known now: one is cut off"));
        assert_eq!(summary.failures[1].reason, "the archive does not have it");
    }

    #[test]
    fn failures_are_named_and_counted_by_their_kind() {
        let zeros = "0".repeat(32);
        assert_eq!(
            summary().to_string(),
            format!("{zeros}: why\nx: why\nchecked 3 objects, 100 B: 1 unreadable, 1 mismatched")
        );
    }

    #[test]
    fn the_fields_of_the_json_are_pinned() {
        let expected = format!(
            concat!(
                r#"{{"checked":3,"unreadable":1,"mismatched":1,"bytes":100,"failures":["#,
                r#"{{"name":"{}","reason":"why"}},{{"name":"x","reason":"why"}}]}}"#
            ),
            "0".repeat(32)
        );
        assert_eq!(serde_json::to_string(&summary()).unwrap(), expected);
        let stale = VerifySummary { stale_seconds: Some(7), ..VerifySummary::default() };
        let expected =
            r#"{"checked":0,"unreadable":0,"mismatched":0,"bytes":0,"failures":[],"stale_seconds":7}"#;
        assert_eq!(serde_json::to_string(&stale).unwrap(), expected);
    }
}
