//! What a recovery came to.
//!
//! Always holds: whatever was found and could not be restored is named.

use std::fmt;

use firn_base::ByteCount;
use serde::Serialize;

/// A bundle of which not everything was restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct IncompleteBundle {
    /// Its id.
    pub(crate) bundle: String,
    /// Distinct shards that were found.
    pub(crate) have: usize,
    /// Shards that are enough.
    pub(crate) need: usize,
    /// Why, as a sentence.
    pub(crate) reason: String,
}

/// A shard file that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct DamagedFile {
    /// Where it lies.
    pub(crate) path: String,
    /// What is wrong.
    pub(crate) reason: String,
    /// Whether its shard was whole nevertheless.
    pub(crate) used: bool,
}

/// An object that was found and not restored.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct FailedObject {
    /// Its store path or URL.
    pub(crate) name: String,
    /// Why, as a sentence.
    pub(crate) reason: String,
}

/// An object that was left out because the archive serves it no more.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct WithdrawnObject {
    /// Its store path or URL.
    pub(crate) name: String,
    /// Why it was withdrawn, in its operators' words.
    pub(crate) reason: String,
}

/// What a recovery came to. The names of the fields are those of the JSON.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub(crate) struct RecoverySummary {
    /// Bundles of which at least one shard file was found.
    pub(crate) bundles: u64,
    /// Those of which everything was restored.
    pub(crate) bundles_restored: u64,
    /// Store paths with their NAR.
    pub(crate) paths: u64,
    /// Build logs and other objects.
    pub(crate) others: u64,
    /// Bytes written.
    pub(crate) bytes: u64,
    /// The other bundles.
    pub(crate) incomplete_bundles: Vec<IncompleteBundle>,
    /// Shard files that were looked at and are not as they were written.
    pub(crate) damaged_files: Vec<DamagedFile>,
    /// Objects of readable manifests that were not restored.
    pub(crate) failed_objects: Vec<FailedObject>,
    /// Objects that were withdrawn from the archive and therefore not restored.
    pub(crate) withdrawn_objects: Vec<WithdrawnObject>,
    /// Things worth knowing that are no failure.
    pub(crate) notes: Vec<String>,
}

// Of a thousand objects of one lost bundle the first few tell as much as all.
const LINES_MAX: usize = 20;

impl RecoverySummary {
    /// Whether everything that was found was restored.
    pub(crate) const fn is_complete(&self) -> bool {
        self.incomplete_bundles.is_empty() && self.failed_objects.is_empty()
    }
}

impl fmt::Display for RecoverySummary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "restored {} paths and {} logs, {}, from {} of {} bundles",
            self.paths,
            self.others,
            ByteCount(self.bytes),
            self.bundles_restored,
            self.bundles
        )?;
        let mut list = |what: &str, lines: Vec<String>| {
            for line in lines.iter().take(LINES_MAX) {
                write!(formatter, "\n{what}: {line}")?;
            }
            match lines.len().checked_sub(LINES_MAX) {
                Some(more @ 1..) => write!(formatter, "\n{what}: and {more} more, which --json names"),
                _ => Ok(()),
            }
        };
        list("note", self.notes.clone())?;
        let withdrawn =
            self.withdrawn_objects.iter().map(|object| format!("{}: {}", object.name, object.reason));
        list("withdrawn", withdrawn.collect())?;
        let damaged = self.damaged_files.iter().map(|file| {
            let used = if file.used { "its shard was used" } else { "not used" };
            format!("{}: {} ({used})", file.path, file.reason)
        });
        list("damaged", damaged.collect())?;
        let incomplete = self.incomplete_bundles.iter().map(|bundle| {
            let id: String = bundle.bundle.chars().take(10).collect();
            format!(
                "bundle {id} has {} of the {} shards it needs: {}",
                bundle.have, bundle.need, bundle.reason
            )
        });
        list("incomplete", incomplete.collect())?;
        let failed = self.failed_objects.iter().map(|object| format!("{}: {}", object.name, object.reason));
        list("not restored", failed.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_its_numbers() {
        let mut summary = RecoverySummary { bundles: 2, bundles_restored: 1, ..RecoverySummary::default() };
        assert!(summary.is_complete());
        summary.incomplete_bundles.push(IncompleteBundle {
            bundle: "ab".repeat(32),
            have: 3,
            need: 4,
            reason: "no shard more was found".to_owned(),
        });
        assert!(!summary.is_complete());
        assert_eq!(
            summary.to_string(),
            "restored 0 paths and 0 logs, 0 B, from 1 of 2 bundles\n\
             incomplete: bundle ababababab has 3 of the 4 shards it needs: no shard more was found"
        );
    }

    #[test]
    fn a_long_list_is_cut_short_for_people() {
        let failed = |number: usize| FailedObject { name: format!("path {number}"), reason: "no".to_owned() };
        let failed_objects = (0..25).map(failed).collect();
        let text = RecoverySummary { failed_objects, ..RecoverySummary::default() }.to_string();
        assert!(text.ends_with("path 19: no\nnot restored: and 5 more, which --json names"), "{text}");
    }
}
