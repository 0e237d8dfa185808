//! What a publish came to, as JSON. The text for people is the summary's own.

use firn_client::PublishSummary;
use serde::Serialize;

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
    sent: u64,
    bundles: u64,
    refused: Vec<Refused<'a>>,
    waiting: Vec<Waiting<'a>>,
    externals: &'a [String],
    notes: &'a [String],
}

impl<'a> From<&'a PublishSummary> for PublishReport<'a> {
    fn from(summary: &'a PublishSummary) -> Self {
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
            sent: summary.sent.0,
            bundles: summary.bundles,
            refused: refused.map(|path| Refused { name: &path.name, reason: &path.reason }).collect(),
            waiting: waiting
                .map(|path| Waiting { name: &path.name, waiting_for: &path.waiting_for })
                .collect(),
            externals: &summary.externals,
            notes: &summary.notes,
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
            r#""content":0,"source":0,"payload":0,"sent":0,"bundles":0,"#,
            r#""refused":[{"name":"x","reason":"no signature"}],"waiting":[],"externals":[],"notes":[]}"#
        );
        assert_eq!(serde_json::to_string(&PublishReport::from(&summary)).unwrap(), expected);
    }
}
