//! What a publish came to, and the exit code that says so.
//!
//! Owns: the account that `firn publish` prints. Always holds: whatever was asked for and cannot be read now is
//! named with its reason.
//! Leaves to others: printing (`cli`), the reasons' words (whoever refused).

use std::collections::BTreeSet;
use std::fmt;

use firn_base::ByteCount;

use crate::following::mark;

/// Something that was not published, and why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RefusedPath {
    /// The store path, or the narinfo's name where that could not be read.
    pub name: String,
    /// One sentence.
    pub reason: String,
}

/// A path that is committed and not visible yet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct WaitingPath {
    /// The path.
    pub name: String,
    /// The references it waits for.
    pub waiting_for: Vec<String>,
}

/// A file besides paths that was not archived, which takes nothing from any path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct NotedFile {
    /// Its URL in the source, by which it may be named again.
    pub name: String,
    /// One sentence.
    pub reason: String,
}

impl fmt::Display for NotedFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} was not archived: {}", self.name, self.reason)
    }
}

/// What one publish did; with `dry_run`, what it would have done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PublishSummary {
    /// Nothing was sent.
    pub dry_run: bool,
    /// Narinfos that were read.
    pub paths_read: u64,
    /// Paths committed by this publish.
    pub paths_published: u64,
    /// Build logs committed by this publish.
    pub logs_published: u64,
    /// Realisations committed by this publish.
    pub realisations_published: u64,
    /// Debuginfo links committed by this publish.
    pub debuginfo_published: u64,
    /// Paths that the archive had already.
    pub paths_skipped: u64,
    /// Bytes of the NARs and logs that were committed.
    pub content: ByteCount,
    /// Bytes of the files in which the source keeps them.
    pub source: ByteCount,
    /// Payload bytes of the bundles that were committed.
    pub payload: ByteCount,
    /// Bytes of chunks of earlier bundles that they use: these were not stored again.
    pub reused: ByteCount,
    /// Bytes of all shards that nodes gave receipts for.
    pub sent: ByteCount,
    /// Committed paths whose published file was tried to be made again.
    pub recipes_tried: u64,
    /// Those of them whose recipe was found and is kept.
    pub recipes_kept: u64,
    /// Bundles that were committed.
    pub bundles: u64,
    /// What was not published, sorted by name.
    pub refused: Vec<RefusedPath>,
    /// What is committed, by this publish or before, and waits, sorted by name.
    pub waiting: Vec<WaitingPath>,
    /// References that neither the source nor the archive has, recorded as external, sorted.
    pub externals: Vec<String>,
    /// Files that were not archived and are no failure, such as a log that could not be read, sorted by name.
    pub notes: Vec<NotedFile>,
}

impl PublishSummary {
    /// Whether everything that was asked for can be read now.
    pub const fn is_complete(&self) -> bool {
        self.refused.is_empty() && self.waiting.is_empty()
    }

    /// 0 when everything that was asked for can be read now, else 1.
    pub const fn exit_code(&self) -> u8 {
        if self.is_complete() { 0 } else { 1 }
    }

    /// Notes a refusal.
    pub fn refuse(&mut self, name: impl Into<String>, reason: impl fmt::Display) {
        self.refused.push(RefusedPath { name: name.into(), reason: reason.to_string() });
    }

    /// Notes external references, each once: those of every bundle of an import are mostly the same.
    pub fn note_externals(&mut self, names: impl IntoIterator<Item = String>) {
        for name in names {
            if let Err(place) = self.externals.binary_search(&name) {
                self.externals.insert(place, name);
            }
        }
    }

    /// Takes the refusals of paths with these hash parts back: they were tried again, and are archived by now.
    pub fn take_back(&mut self, hash_parts: &BTreeSet<&str>) {
        self.refused.retain(|path| !hash_parts.contains(mark(&path.name)));
    }

    /// Sorts the lists, so that equal publishes print alike whatever finished first.
    pub fn sort(&mut self) {
        self.refused.sort();
        // What was needed before its turn, and refused, is tried again when that comes; a log with each output of its
        // derivation.
        self.refused.dedup();
        self.waiting.sort();
        self.notes.sort();
        self.notes.dedup();
    }
}

impl fmt::Display for PublishSummary {
    /// A few lines for people, the refusals last.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.dry_run { "would publish" } else { "published" };
        write!(
            formatter,
            "{verb} {} paths and {} logs, {} of contents; {} paths were archived already",
            self.paths_published, self.logs_published, self.content, self.paths_skipped
        )?;
        if self.realisations_published + self.debuginfo_published > 0 {
            write!(
                formatter,
                "\nbesides {} realisations and {} debuginfo links",
                self.realisations_published, self.debuginfo_published
            )?;
        }
        if !self.dry_run {
            write!(formatter, "\n{} bundles, {}; {} sent to nodes", self.bundles, self.payload, self.sent)?;
            if self.reused.0 > 0 {
                write!(formatter, "; {} found in earlier bundles", self.reused)?;
            }
        }
        if self.recipes_tried > 0 {
            let (kept, tried) = (self.recipes_kept, self.recipes_tried);
            write!(formatter, "\n{kept} of {tried} published files can be made again by their recipes")?;
        }
        for note in &self.notes {
            write!(formatter, "\nnote: {note}")?;
        }
        for name in &self.externals {
            write!(formatter, "\nexternal: {name} is in neither the source nor the archive")?;
        }
        for path in &self.waiting {
            write!(formatter, "\nwaiting: {} waits for {}", path.name, path.waiting_for.join(", "))?;
        }
        for path in &self.refused {
            write!(formatter, "\nrefused: {}: {}", path.name, path.reason)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_makes_the_exit_code_1_and_is_named_with_its_reason() {
        let mut summary = PublishSummary { paths_published: 2, ..PublishSummary::default() };
        assert_eq!(summary.exit_code(), 0);
        summary.refuse("b", "second");
        summary.refuse("a", "first");
        summary.sort();
        assert_eq!(summary.exit_code(), 1);
        let text = summary.to_string();
        assert!(text.ends_with("refused: a: first\nrefused: b: second"), "{text}");
    }

    #[test]
    fn what_is_refused_twice_for_one_reason_is_told_once() {
        let mut summary = PublishSummary::default();
        for (name, reason) in [("a", "first"), ("b", "first"), ("a", "first"), ("a", "second")] {
            summary.refuse(name, reason);
        }
        summary.sort();
        assert_eq!(summary.refused.len(), 3);
    }

    #[test]
    fn what_was_refused_and_is_archived_after_all_is_no_refusal_however_it_was_called() {
        let [one, other] = ["4d20g8srpvv02vkiwrmz28g62m15n56b", "5d20g8srpvv02vkiwrmz28g62m15n56b"];
        let mut summary = PublishSummary::default();
        for name in [format!("{one}.narinfo"), format!("/nix/store/{one}-a"), format!("{one}-a")] {
            summary.refuse(name, "timeout");
        }
        summary.refuse(format!("{other}-b"), "timeout");
        summary.take_back(&BTreeSet::from([one]));
        let left: Vec<&str> = summary.refused.iter().map(|path| path.name.as_str()).collect();
        assert_eq!(left, [format!("{other}-b")]);
    }

    #[test]
    fn a_path_that_waits_is_not_complete() {
        let waiting = vec![WaitingPath { name: "a".into(), waiting_for: vec!["b".into()] }];
        let summary = PublishSummary { waiting, ..PublishSummary::default() };
        assert_eq!(summary.exit_code(), 1);
        assert!(summary.to_string().contains("waiting: a waits for b"));
    }

    #[test]
    fn an_external_reference_is_noted_once_in_its_place() {
        let mut summary = PublishSummary::default();
        for names in [["b", "c"], ["a", "b"], ["c", "a"]] {
            summary.note_externals(names.map(str::to_owned));
        }
        assert_eq!(summary.externals, ["a", "b", "c"]);
    }

    #[test]
    fn an_external_reference_is_no_failure() {
        let summary = PublishSummary { externals: vec!["x".into()], ..PublishSummary::default() };
        assert_eq!(summary.exit_code(), 0);
    }
}
