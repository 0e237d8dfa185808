//! Writing a binary cache from the archive.
//!
//! Owns: what is written, kept or replaced, and what is said of what cannot be written. Always holds: what is there and
//! right is not fetched again; a narinfo names a NAR that lies complete beside it, with its listing if that is wanted,
//! so that whatever stops the export leaves a cache that is valid as far as it goes; memory is bounded however much is
//! exported; "done" is said when everything is on disk.
//! Leaves to others: finding paths (`path_search`), files (`object_writer`), reading (`firn-retrieval`).

use std::collections::BTreeMap;
use std::path::Path;

use firn_base::{KeyKind, Location, ObjectKey};
use firn_nix_format::{StorePath, nixbase32};
use firn_retrieval::ReadError;
use firn_transport::{AskError, Environment};
use futures::stream::{self, StreamExt};

use crate::cache_check::There;
use crate::cache_directory::{CacheDirectory, NamedNar};
use crate::command_error::CommandError;
use crate::export_summary::ExportSummary;
use crate::feed_keys::{FeedKeys, may_be_more};
use crate::file_writer::WriteError;
use crate::object_writer::{NarForm, ObjectWriter, Written};
use crate::path_search::{Missing, MissingState, PathSearch, unreadable, unwritable};
use crate::progress::Progress;
use crate::record_finder::{FoundPath, FoundRecord};
use crate::store_path_argument::StorePathArgument;

/// An export that is about to run.
#[derive(Debug)]
pub(crate) struct Export {
    search: PathSearch,
    writer: ObjectWriter,
    at_once: usize,
}

/// Which other objects go with store paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Others {
    /// The logs of the paths that are exported.
    OwnLogs,
    /// All logs and other objects of the archive.
    All,
}

/// Something to export.
enum Job {
    Path(Box<FoundPath>),
    Blob(ObjectKey, Vec<Location>),
}

/// What became of it.
enum Outcome {
    Path { written: Written, replaced: bool },
    KeptPath { note: Option<String> },
    Blob(Written),
    KeptBlob,
    Missing(Missing),
}

/// Each holds up to 12 MiB of frames ahead, and as many as there are cores an encoder besides.
const OBJECTS_AT_ONCE: usize = 8;
/// The tree of a NAR can take 250 MB.
const OBJECTS_WITH_LISTINGS_AT_ONCE: usize = 2;

/// Keys that are looked up together: their places are sorted, so that a bundle is read in one go.
const KEYS_AT_ONCE: usize = 10_000;
const LOOKS_AT_ONCE: usize = 32;

impl Export {
    /// Opens or makes the cache at `root`, for what `search` finds.
    pub(crate) async fn open(
        environment: &Environment,
        search: PathSearch,
        root: &Path,
        form: NarForm,
    ) -> Result<Self, CommandError> {
        let cache = CacheDirectory::open(environment, root).await?;
        let at_once = if form.listings { OBJECTS_WITH_LISTINGS_AT_ONCE } else { OBJECTS_AT_ONCE };
        Ok(Self { search, writer: ObjectWriter::new(cache, form), at_once })
    }

    /// Exports `paths`, and with `closure` everything that they refer to, with their logs.
    ///
    /// # Errors
    /// What keeps every object from being found or written. A path that is missing is told in the summary.
    pub(crate) async fn named(
        &self,
        paths: &[StorePathArgument],
        closure: bool,
        progress: &Progress,
    ) -> Result<ExportSummary, CommandError> {
        let mut summary = self.summary();
        let (found, missing) = self.search.find(paths, closure).await?;
        missing.into_iter().for_each(|missing| summary.miss(missing));
        progress.expect(found.iter().map(|path| path.info.nar_size).fold(0, u64::saturating_add));
        let logs = self.logs(&found).await?;
        let paths = found.into_iter().map(|path| Job::Path(Box::new(path)));
        let done = |bytes| progress.add(bytes);
        self.carry_out(paths.chain(logs).collect(), &mut summary, &done).await?;
        self.end(summary).await
    }

    /// Exports everything of the archive that those have signed for whom the search looks.
    ///
    /// # Errors
    /// As for [`Self::named`].
    pub(crate) async fn all(
        &self,
        feed: &mut FeedKeys,
        others: Others,
        progress: &Progress,
    ) -> Result<ExportSummary, CommandError> {
        let mut summary = self.summary();
        progress.expect(feed.events());
        summary.notes.extend(feed.stale().map(may_be_more));
        let failed = |error: crate::feed_keys::FeedError| CommandError::Failed(error.to_string());
        while let Some(keys) = feed.next_page().await.map_err(failed)? {
            for keys in keys.chunks(KEYS_AT_ONCE) {
                let jobs = self.jobs(keys, others, &mut summary).await?;
                self.carry_out(jobs, &mut summary, &|_| ()).await?;
                progress.add(count(keys.len()));
                progress.say(format!("{} paths", summary.paths + summary.kept));
            }
        }
        self.end(summary).await
    }

    fn summary(&self) -> ExportSummary {
        let root = self.writer.cache().root();
        let root = std::path::absolute(root).unwrap_or_else(|_| root.to_owned());
        ExportSummary { cache: format!("file://{}", root.display()), ..ExportSummary::default() }
    }

    async fn end(&self, mut summary: ExportSummary) -> Result<ExportSummary, CommandError> {
        self.writer.cache().sync().await.map_err(|error| CommandError::Failed(error.to_string()))?;
        summary.missing.sort();
        Ok(summary)
    }

    /// What there is to be done for these visible keys.
    async fn jobs(
        &self,
        keys: &[ObjectKey],
        others: Others,
        summary: &mut ExportSummary,
    ) -> Result<Vec<Job>, AskError> {
        let mut places: Vec<(ObjectKey, Vec<Location>)> =
            keys.iter().copied().zip(self.search.finder().locate_visible(keys).await?).collect();
        places.sort_by(|(_, one), (_, other)| one.cmp(other));
        let (paths, blobs): (Vec<_>, Vec<_>) =
            places.into_iter().partition(|(key, _)| key.kind() == KeyKind::StorePath);
        let looks = paths.iter().map(|(key, places)| {
            let argument = StorePathArgument::Hash(*key.name());
            async move { self.search.look(key, places, &argument).await }
        });
        let looks: Vec<_> = stream::iter(looks).buffered(LOOKS_AT_ONCE).collect().await;
        let mut found = Vec::new();
        for look in looks {
            match look {
                Ok(path) => found.push(path),
                // Others' paths were not asked for, and withdrawn since is no failure.
                Err(missing) if missing.state == MissingState::Unreadable => summary.miss(missing),
                Err(_) => {}
            }
        }
        let mut jobs = match others {
            Others::OwnLogs => self.logs(&found).await?,
            Others::All => blobs.into_iter().map(|(key, places)| Job::Blob(key, places)).collect(),
        };
        jobs.extend(found.into_iter().map(|path| Job::Path(Box::new(path))));
        Ok(jobs)
    }

    /// The logs of what made these paths, as far as they are archived.
    async fn logs(&self, paths: &[FoundPath]) -> Result<Vec<Job>, AskError> {
        let derivers = paths.iter().filter_map(|path| path.info.deriver.as_ref());
        let keys: BTreeMap<ObjectKey, &StorePath> =
            derivers.map(|deriver| (ObjectKey::build_log(*deriver.hash()), deriver)).collect();
        let keys: Vec<ObjectKey> = keys.into_keys().collect();
        let mut jobs = Vec::new();
        for keys in keys.chunks(KEYS_AT_ONCE) {
            let places = self.search.finder().locate_once(keys).await?;
            let known = keys.iter().zip(places).filter(|(_, places)| !places.is_empty());
            jobs.extend(known.map(|(key, places)| Job::Blob(*key, places)));
        }
        Ok(jobs)
    }

    async fn carry_out(
        &self,
        jobs: Vec<Job>,
        summary: &mut ExportSummary,
        done: &impl Fn(u64),
    ) -> Result<(), CommandError> {
        let jobs = jobs.into_iter().map(|job| async move {
            let bytes = match &job {
                Job::Path(path) => path.info.nar_size,
                Job::Blob(..) => 0,
            };
            (bytes, self.carry_out_one(job).await)
        });
        let mut outcomes = std::pin::pin!(stream::iter(jobs).buffer_unordered(self.at_once));
        while let Some((bytes, outcome)) = outcomes.next().await {
            let written = match outcome.map_err(|error| CommandError::Failed(error.to_string()))? {
                Outcome::Path { written, replaced } => {
                    summary.paths += 1;
                    summary.replaced += u64::from(replaced);
                    Some(written)
                }
                Outcome::Blob(written) => {
                    summary.others += 1;
                    Some(written)
                }
                Outcome::KeptPath { note } => {
                    summary.kept += 1;
                    note.into_iter().for_each(|note| summary.note(note));
                    None
                }
                Outcome::KeptBlob => None,
                Outcome::Missing(missing) => {
                    summary.miss(missing);
                    None
                }
            };
            if let Some(Written { bytes, note }) = written {
                summary.bytes = summary.bytes.saturating_add(bytes);
                note.into_iter().for_each(|note| summary.note(note));
            }
            done(bytes);
        }
        Ok(())
    }

    /// An error only if every other object would fail too.
    async fn carry_out_one(&self, job: Job) -> Result<Outcome, WriteError> {
        let (name, outcome) = match job {
            Job::Path(path) => (path.info.store_path.to_string(), self.path(&path).await),
            Job::Blob(key, places) => {
                let mut name = format!("the log of {}", nixbase32::encode(key.name()));
                let outcome = self.blob(&key, &places, &mut name).await;
                (name, outcome)
            }
        };
        let missing = |(state, reason)| Ok(Outcome::Missing(Missing { path: name.clone(), state, reason }));
        match outcome {
            Err(error) if error.concerns_all() => Err(error),
            Err(error) => missing(why_missing(&error)),
            Ok(None) => {
                let reason =
                    "the directory has another content of it, which a publisher signed, too: it stays";
                missing((MissingState::Different, reason.to_owned()))
            }
            Ok(Some(outcome)) => Ok(outcome),
        }
    }

    /// None if another content of the path lies there.
    async fn path(&self, path: &FoundPath) -> Result<Option<Outcome>, WriteError> {
        let cache = self.writer.cache();
        let (replaced, named) = match self.writer.look(&path.info, self.search.publishers()).await {
            There::Other => return Ok(None),
            There::Right(there) => {
                let note = self.writer.complete(&path.info, there).await?;
                return Ok(Some(Outcome::KeptPath { note }));
            }
            There::Damaged(why) => {
                tracing::warn!("{} is written anew: {why}", path.info.store_path);
                // While the NAR is on its way the path is better absent than wrong.
                cache.remove_narinfo(&path.info).await?;
                (true, NamedNar::First)
            }
            // Another file of it is no damage, and stays until this one is there.
            There::OtherFile => (false, NamedNar::Added),
            There::Nothing => (false, NamedNar::First),
        };
        let plan = self.plan(&path.found).await?;
        let written = self.writer.write_path(&plan, &path.info, named).await?;
        Ok(Some(Outcome::Path { written, replaced }))
    }

    async fn blob(
        &self,
        key: &ObjectKey,
        places: &[Location],
        name: &mut String,
    ) -> Result<Option<Outcome>, WriteError> {
        // Nobody signs these: the first one stays.
        let Some(place) = places.first() else { return Ok(Some(Outcome::KeptBlob)) };
        let found = self.search.finder().record(key, *place).await?;
        let plan = self.plan(&found).await?;
        if let Some(blob) = found.record.as_blob() {
            name.clone_from(&blob.url);
            let cache = self.writer.cache();
            match cache.look_for_blob(blob, plan.file_compression()).await {
                There::Right(()) => return Ok(Some(Outcome::KeptBlob)),
                There::Damaged(_) => cache.remove_blob(key.kind(), &blob.url).await?,
                There::Nothing | There::Other | There::OtherFile => {}
            }
        }
        Ok(Some(Outcome::Blob(self.writer.write(&plan).await?)))
    }

    async fn plan(&self, found: &FoundRecord) -> Result<firn_retrieval::ObjectPlan, ReadError> {
        self.search.finder().objects().open(found.bundle, found.record.clone()).await
    }
}

/// In what way something is missing that was not written for this reason, and what is to be done.
fn why_missing(error: &WriteError) -> (MissingState, String) {
    match error {
        WriteError::Read(error) => (MissingState::Unreadable, unreadable(error)),
        WriteError::Lost | WriteError::NewerRecipe(_) | WriteError::OtherFile { .. } => {
            (MissingState::NotAsPublished, error.to_string())
        }
        WriteError::Disk { .. } => (MissingState::Unwritable, unwritable(error)),
        WriteError::Refused { .. } => {
            (MissingState::Refused, format!("{error}; whoever published it may do so with another URL"))
        }
    }
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::io;

    use firn_nix_format::Sha256;

    use super::*;

    #[test]
    fn whose_fault_it_is_that_something_is_missing_is_told_apart() {
        let read = ReadError::NoDirectory { cause: "all are away".to_owned() };
        let disk = WriteError::disk(Path::new("/out/nar/x"), io::ErrorKind::IsADirectory.into());
        let refused = WriteError::Refused { url: "log/../x".to_owned() };
        let other = WriteError::OtherFile { made: Sha256::of(b"one"), published: Sha256::of(b"two") };
        for (error, state, words) in [
            (WriteError::Lost, MissingState::NotAsPublished, "and not the file that was published"),
            (WriteError::NewerRecipe(9), MissingState::NotAsPublished, "recipe 9"),
            (other, MissingState::NotAsPublished, "and not its FileHash"),
            (WriteError::Read(read), MissingState::Unreadable, "cannot be read now"),
            (disk, MissingState::Unwritable, "cannot write /out/nar/x: is a directory; see to that"),
            (refused, MissingState::Refused, "its URL log/../x is none"),
        ] {
            let (told, reason) = why_missing(&error);
            assert_eq!(told, state);
            assert!(reason.contains(words), "{reason}");
        }
    }
}
