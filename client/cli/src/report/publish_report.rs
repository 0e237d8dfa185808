//! What a publish came to, as JSON, and what it would send. The text for people is the summary's own.

use std::fmt;

use firn_base::ByteCount;
use firn_client::PublishSummary;
use firn_wire::ArchiveStatus;
use serde::Serialize;

use super::redundancy;

/// What a publish would send to nodes, by a rule of thumb that it states.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct UploadEstimate {
    files: ByteCount,
    redundancy: f64,
}

impl UploadEstimate {
    /// None where the archive stores nothing yet, or there is nothing to send.
    pub(crate) fn new(summary: &PublishSummary, status: &ArchiveStatus) -> Option<Self> {
        let redundancy = redundancy(status.stored.0, status.payload.0)?;
        (summary.source.0 > 0).then_some(Self { files: summary.source, redundancy })
    }

    /// Bytes of all shards.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an estimate that is shown with two digits"
    )]
    fn upload(self) -> ByteCount {
        ByteCount((self.files.0 as f64 * self.redundancy) as u64)
    }
}

impl fmt::Display for UploadEstimate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "their published files have {}: about {} to send, if bundles take as much as these, stored {:.2} times as in this archive today",
            self.files,
            self.upload(),
            self.redundancy
        )
    }
}

#[derive(Debug, Serialize)]
struct Refused<'a> {
    name: &'a str,
    reason: &'a str,
}

#[derive(Debug, Serialize)]
struct Waiting<'a> {
    name: &'a str,
    waiting_for: &'a [String],
}

/// [`PublishSummary`] as it is printed.
#[derive(Debug, Serialize)]
pub(crate) struct PublishReport<'a> {
    dry_run: bool,
    paths_read: u64,
    paths_published: u64,
    logs_published: u64,
    realisations_published: u64,
    debuginfo_published: u64,
    paths_skipped: u64,
    content: u64,
    source: u64,
    payload: u64,
    reused: u64,
    sent: u64,
    recipes_tried: u64,
    recipes_kept: u64,
    bundles: u64,
    /// Of a dry run; null where the archive is no guide yet.
    estimated_upload: Option<u64>,
    refused: Vec<Refused<'a>>,
    waiting: Vec<Waiting<'a>>,
    externals: &'a [String],
    notes: Vec<String>,
}

impl<'a> PublishReport<'a> {
    /// The report of a publish, and of a dry run with what it would send.
    pub(crate) fn new(summary: &'a PublishSummary, estimate: Option<UploadEstimate>) -> Self {
        let refused = summary.refused.iter();
        let waiting = summary.waiting.iter();
        Self {
            dry_run: summary.dry_run,
            paths_read: summary.paths_read,
            paths_published: summary.paths_published,
            logs_published: summary.logs_published,
            realisations_published: summary.realisations_published,
            debuginfo_published: summary.debuginfo_published,
            paths_skipped: summary.paths_skipped,
            content: summary.content.0,
            source: summary.source.0,
            payload: summary.payload.0,
            reused: summary.reused.0,
            sent: summary.sent.0,
            recipes_tried: summary.recipes_tried,
            recipes_kept: summary.recipes_kept,
            bundles: summary.bundles,
            estimated_upload: estimate.map(|estimate| estimate.upload().0),
            refused: refused.map(|path| Refused { name: &path.name, reason: &path.reason }).collect(),
            waiting: waiting
                .map(|path| Waiting { name: &path.name, waiting_for: &path.waiting_for })
                .collect(),
            externals: &summary.externals,
            notes: summary.notes.iter().map(ToString::to_string).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_the_json_are_pinned() {
        let mut summary = PublishSummary { paths_read: 2, paths_published: 1, ..PublishSummary::default() };
        summary.refuse("x", "no signature");
        let expected = concat!(
            r#"{"dry_run":false,"paths_read":2,"paths_published":1,"logs_published":0,"#,
            r#""realisations_published":0,"debuginfo_published":0,"paths_skipped":0,"#,
            r#""content":0,"source":0,"payload":0,"reused":0,"sent":0,"recipes_tried":0,"recipes_kept":0,"bundles":0,"estimated_upload":2500,"#,
            r#""refused":[{"name":"x","reason":"no signature"}],"waiting":[],"externals":[],"notes":[]}"#
        );
        let estimate = UploadEstimate { files: ByteCount(1000), redundancy: 2.5 };
        assert_eq!(serde_json::to_string(&PublishReport::new(&summary, Some(estimate))).unwrap(), expected);
    }

    #[test]
    fn an_estimate_says_what_it_rests_on() {
        let estimate = UploadEstimate { files: ByteCount(1_000_000), redundancy: 2.5 };
        assert_eq!(
            estimate.to_string(),
            "their published files have 1.0 MB: about 2.5 MB to send, if bundles take as much as these, stored 2.50 times as in this archive today"
        );
    }
}
