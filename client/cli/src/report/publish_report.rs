//! What a publish came to, as JSON. The text for people is the summary's own.

use firn_client::PublishSummary;
use serde::Serialize;

use super::UploadEstimate;

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
    /// Of a dry run; null where there is nothing to send.
    estimated_upload: Option<u64>,
    /// Whether by how the archive stores what it has, or by measurements of others.
    estimated_by: Option<&'static str>,
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
            estimated_by: estimate.map(UploadEstimate::basis),
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
    use firn_base::ByteCount;
    use firn_wire::ArchiveStatus;

    use super::super::{Packing, example_status};
    use super::*;

    #[test]
    fn the_fields_of_the_json_are_pinned() {
        let mut summary = PublishSummary { paths_read: 2, paths_published: 1, ..PublishSummary::default() };
        summary.refuse("x", "no signature");
        let expected = concat!(
            r#"{"dry_run":false,"paths_read":2,"paths_published":1,"logs_published":0,"#,
            r#""realisations_published":0,"debuginfo_published":0,"paths_skipped":0,"#,
            r#""content":0,"source":1000,"payload":0,"reused":0,"sent":0,"recipes_tried":0,"recipes_kept":0,"bundles":0,"#,
            r#""estimated_upload":2500,"estimated_by":"archive","#,
            r#""refused":[{"name":"x","reason":"no signature"}],"waiting":[],"externals":[],"notes":[]}"#
        );
        summary.source = ByteCount(1000);
        let status = ArchiveStatus { payload: ByteCount(2), stored: ByteCount(5), ..example_status() };
        let estimate = UploadEstimate::new(&summary, &status, Packing::Zstd);
        assert_eq!(serde_json::to_string(&PublishReport::new(&summary, estimate)).unwrap(), expected);
    }
}
