//! What an export came to, for people and as JSON.

use std::fmt;

use firn_base::ByteCount;
use serde::Serialize;

use crate::path_search::Missing;
use crate::report::counted;

/// What an export came to. The names of the fields are those of the JSON.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct ExportSummary {
    /// Where Nix reads the cache.
    pub(crate) cache: String,
    /// Store paths whose NAR was written.
    pub(crate) paths: u64,
    /// Of these, those of which something damaged had been there.
    pub(crate) replaced: u64,
    /// Store paths that were there already, and right.
    pub(crate) kept: u64,
    /// Build logs and other objects that were written.
    pub(crate) others: u64,
    /// Bytes written.
    pub(crate) bytes: u64,
    /// Paths and logs that are not there.
    pub(crate) missing_total: u64,
    /// Of these, the first ones.
    pub(crate) missing: Vec<Missing>,
    /// Things worth knowing that are no failure.
    pub(crate) notes: Vec<String>,
}

/// Of an archive that has lost its nodes this is enough to see what is wrong.
const LISTED_MAX: usize = 100_000;

impl ExportSummary {
    /// Whether everything that was asked for is there.
    pub(crate) const fn is_complete(&self) -> bool {
        self.missing_total == 0
    }

    /// This is missing, too.
    pub(crate) fn miss(&mut self, missing: Missing) {
        self.missing_total += 1;
        if self.missing.len() < LISTED_MAX {
            self.missing.push(missing);
        }
    }

    /// This is worth knowing.
    pub(crate) fn note(&mut self, note: String) {
        if self.notes.len() < LISTED_MAX {
            self.notes.push(note);
        }
    }
}

impl fmt::Display for ExportSummary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} and {}", counted(self.paths, "path"), counted(self.others, "log"))?;
        write!(formatter, " written, {}", ByteCount(self.bytes))?;
        if self.replaced > 0 {
            write!(formatter, "; of {} something damaged had been there", counted(self.replaced, "path"))?;
        }
        if self.kept > 0 {
            write!(formatter, "; {} there already", counted(self.kept, "path"))?;
        }
        if self.missing_total > 0 {
            write!(formatter, "; {} missing", self.missing_total)?;
        }
        write!(formatter, "\nthe cache: {}", self.cache)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path_search::MissingState;

    fn summary() -> ExportSummary {
        let mut summary = ExportSummary {
            cache: "file:///c".to_owned(),
            paths: 3,
            replaced: 1,
            kept: 2,
            others: 1,
            bytes: 2_000_000,
            ..ExportSummary::default()
        };
        let reason = "it is not archived".to_owned();
        summary.miss(Missing { path: "x".to_owned(), state: MissingState::NotArchived, reason });
        summary
    }

    #[test]
    fn a_summary_says_what_was_there_and_what_is_missing() {
        assert!(ExportSummary::default().is_complete() && !summary().is_complete());
        assert_eq!(
            summary().to_string(),
            "3 paths and 1 log written, 2.0 MB; of 1 path something damaged had been there; 2 paths there already; \
             1 missing\nthe cache: file:///c"
        );
    }

    #[test]
    fn the_fields_of_the_json_are_pinned() {
        assert_eq!(
            serde_json::to_string(&summary()).unwrap(),
            concat!(
                r#"{"cache":"file:///c","paths":3,"replaced":1,"kept":2,"others":1,"bytes":2000000,"missing_total":1,"#,
                r#""missing":[{"path":"x","state":"not-archived","reason":"it is not archived"}],"notes":[]}"#
            )
        );
    }

    #[test]
    fn an_endless_list_is_counted_to_its_end() {
        let mut summary = ExportSummary::default();
        for _ in 0..LISTED_MAX + 5 {
            let (path, reason) = (String::new(), String::new());
            summary.miss(Missing { path, state: MissingState::Unreadable, reason });
        }
        assert_eq!((summary.missing.len(), summary.missing_total), (LISTED_MAX, LISTED_MAX as u64 + 5));
    }
}
