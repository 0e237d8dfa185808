//! Reading the narinfos of a source: several side by side, each judged, and no more of them in memory than a window holds.
//!
//! Always holds: what is accepted carries a signature of an accepted publisher that holds and describes the path that
//! it is called after; what the source has beyond a window lies in a survey on disk, from where a part is read again
//! with what that needs.
//! Leaves to others: what is done with them (`plan`).

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;

use firn_base::ObjectKey;
use firn_nix_format::{PathInfo, PublisherKey, StorePath, accepted_by};
use futures::{Stream, StreamExt, stream};

use crate::blob_file::NarOwners;
use crate::path_names::Names;
use crate::plan::{PlanError, Planner, key_of};
use crate::sorted_lines::{LineReader, LineSorter};
use crate::source::{Source, SourceError};
use crate::survey::{SeenPath, Survey, SurveyWriter};

// Narinfos read in one go of blocking work, at most.
const BATCH_NARINFOS: usize = 32;

// Narinfos read side by side, before there is room for them in a window: each may have a MiB.
const AT_ONCE_NARINFOS: usize = 512;

/// What the source says of the names that were looked at.
pub(crate) struct Seen {
    /// Narinfos that were read.
    pub(crate) read: u64,
    /// Names and reasons.
    pub(crate) refused: Vec<Refusal>,
    /// Whose NARs debuginfo links may mean.
    pub(crate) owners: Arc<NarOwners>,
    /// Accepted paths that are this uploader's.
    pub(crate) paths: SeenPaths,
}

/// Accepted paths.
pub(crate) enum SeenPaths {
    /// All that there are.
    Few(BTreeMap<ObjectKey, PathInfo>),
    /// More than a window has room for.
    Many(Box<Survey>),
}

/// A name and the reason why it is not published.
pub(crate) type Refusal = (String, String);

/// What a narinfo of this name came to: with the bytes of its text, or the path, where it is known, and the reason.
type Read = (String, Result<(PathInfo, u64), (Option<StorePath>, String)>);

impl Planner<'_> {
    /// Reads and judges the narinfos of all names. Once the stop asks, what is given is not all.
    pub(crate) async fn look(&self, names: &Names) -> Result<Seen, PlanError> {
        let mut seen = Seen {
            read: 0,
            refused: Vec::new(),
            owners: Arc::default(),
            paths: SeenPaths::Few(BTreeMap::new()),
        };
        let mut owners = LineSorter::new(self.spool.clone());
        let many_blobs = names.blobs.len() > self.window.paths;
        let mut writer = many_blobs.then(|| SurveyWriter::new(self.spool));
        let (mut held, mut room) = (BTreeMap::new(), self.window.whole());
        let batches = self.batches_of(names.narinfos.reader(), names.narinfos.len());
        let mut batches = pin!(self.read(batches));
        while let Some(batch) = batches.next().await {
            if self.stop.is_asked() {
                return Ok(seen);
            }
            let mut lines = Vec::new();
            for (name, read) in batch? {
                seen.read += 1;
                let Some((info, text_bytes)) = self.judge(name, read, &mut seen.refused) else { continue };
                if names.has_links {
                    // Also those that others take: links to them may be ours.
                    lines.push(NarOwners::line(&info));
                }
                if !self.selection.takes_path(info.store_path.base_name()) {
                    continue;
                }
                if !room.take(text_bytes) {
                    let entered = writer.take().unwrap_or_else(|| SurveyWriter::new(self.spool));
                    writer = Some(self.enter(entered, std::mem::take(&mut held)).await?);
                    room = self.window.whole();
                    room.take(text_bytes);
                }
                held.insert(key_of(&info.store_path), (info, text_bytes));
            }
            if !lines.is_empty() {
                let push = move || lines.into_iter().try_for_each(|line| owners.push(line)).map(|()| owners);
                owners = self.environment.blocking(push).await?;
            }
        }
        seen.owners = Arc::new(NarOwners::new(self.environment.blocking(move || owners.finish()).await?));
        seen.paths = match writer {
            None => SeenPaths::Few(held.into_iter().map(|(key, (info, _))| (key, info)).collect()),
            Some(writer) => {
                let (writer, order) = (self.enter(writer, held).await?, self.order.clone());
                SeenPaths::Many(Box::new(self.environment.blocking(move || writer.finish(&order)).await?))
            }
        };
        Ok(seen)
    }

    /// Enters paths into a survey.
    async fn enter(
        &self,
        mut writer: SurveyWriter,
        paths: BTreeMap<ObjectKey, (PathInfo, u64)>,
    ) -> Result<SurveyWriter, PlanError> {
        let keys: Vec<ObjectKey> = paths.keys().copied().collect();
        let archived = self.archived(&keys).await?;
        let may_be_new = self.source.is_local();
        let push = move || {
            for (key, (info, text_bytes)) in paths {
                writer.push(&info, text_bytes, archived.contains(&key), may_be_new)?;
            }
            Ok(writer)
        };
        self.environment.blocking(push).await
    }

    /// Those of these paths of a survey that are to be read when their turn comes. What an earlier window took along is
    /// archived by then, and of a source on this machine its build log may be new all the same.
    pub(crate) async fn still_new(&self, own: Vec<SeenPath>) -> Result<Vec<SeenPath>, PlanError> {
        if self.source.is_local() {
            return Ok(own);
        }
        let keys: Vec<ObjectKey> = own.iter().filter_map(SeenPath::key).collect();
        let archived = self.archived(&keys).await?;
        let is_new = |path: &SeenPath| path.key().is_none_or(|key| !archived.contains(&key));
        Ok(own.into_iter().filter(is_new).collect())
    }

    /// Reads these paths of a survey again, and what they need of it as far as there is room in a window: so they need not
    /// wait for what comes much later. What has `failed` before is left to its own turn.
    pub(crate) async fn with_needs(
        &self,
        survey: &Survey,
        own: Vec<SeenPath>,
        failed: &BTreeSet<ObjectKey>,
    ) -> Result<(BTreeMap<ObjectKey, PathInfo>, Vec<Refusal>), PlanError> {
        let (mut paths, mut refused) = (BTreeMap::new(), Vec::new());
        let mut asked: BTreeSet<ObjectKey> = own.iter().filter_map(SeenPath::key).collect();
        let mut room = self.window.whole();
        for path in &own {
            room.take(path.text_bytes);
        }
        let mut next = own;
        while !next.is_empty() && !self.stop.is_asked() {
            let read = self.read_again(next, &mut refused).await?;
            let needed = read.values().flat_map(|info: &PathInfo| &info.references);
            let needed: BTreeMap<ObjectKey, String> = needed
                .map(|path| (key_of(path), path.hash_part().to_owned()))
                .filter(|(key, _)| !failed.contains(key) && asked.insert(*key))
                .collect();
            paths.extend(read);
            let keys: Vec<ObjectKey> = needed.keys().copied().collect();
            let archived = self.archived(&keys).await?;
            let lacking = needed.into_iter().filter(|(key, _)| !archived.contains(key));
            let lacking: Vec<String> = lacking.map(|(_, hash_part)| hash_part).collect();
            let hashes = survey.hashes().clone();
            let find = move || {
                let found = lacking.iter().map(|hash_part| Survey::find(&hashes, hash_part));
                found.filter_map(Result::transpose).collect::<Result<Vec<_>, _>>()
            };
            let found = self.environment.blocking(find).await?;
            next = found.into_iter().filter(|path| room.take(path.text_bytes)).collect();
        }
        Ok((paths, refused))
    }

    /// Reads paths of a survey again, until the stop asks. What has changed and is refused now is told, and so is what
    /// has grown: there is room for what was seen.
    pub(crate) async fn read_again(
        &self,
        paths: Vec<SeenPath>,
        refused: &mut Vec<Refusal>,
    ) -> Result<BTreeMap<ObjectKey, PathInfo>, PlanError> {
        let names: Vec<String> = paths.iter().map(|path| path.hash_part.clone()).collect();
        let seen: BTreeMap<String, u64> =
            paths.into_iter().map(|path| (path.hash_part, path.text_bytes)).collect();
        let batches = stream::iter(batches(&names, self.jobs)).map(Ok);
        let mut batches = pin!(self.read(batches));
        let mut infos = BTreeMap::new();
        while !self.stop.is_asked()
            && let Some(batch) = batches.next().await
        {
            for (name, read) in batch? {
                let Some((info, text_bytes)) = self.judge(name, read, refused) else { continue };
                if seen.get(info.store_path.hash_part()).is_none_or(|seen_bytes| text_bytes > *seen_bytes) {
                    let reason = "its narinfo has grown since it was read first: the next run publishes it";
                    refused.push((info.store_path.to_string(), reason.to_owned()));
                    continue;
                }
                infos.insert(key_of(&info.store_path), info);
            }
        }
        Ok(infos)
    }

    /// The path info, if it counts; the reason is kept if it is ours.
    fn judge(
        &self,
        name: String,
        read: Result<(PathInfo, u64), (Option<StorePath>, String)>,
        refused: &mut Vec<Refusal>,
    ) -> Option<(PathInfo, u64)> {
        match read {
            Ok(read) => Some(read),
            Err((Some(path), _)) if !self.selection.takes_path(path.base_name()) => None,
            Err((path, reason)) => {
                let name = path.map_or_else(|| format!("{name}.narinfo"), |path| path.to_string());
                refused.push((name, reason));
                None
            }
        }
    }

    /// Names in batches that keep all jobs busy.
    fn batches_of(
        &self,
        names: LineReader,
        count: u64,
    ) -> impl Stream<Item = Result<Vec<String>, PlanError>> {
        self.lines(names, batch_size(usize::try_from(count).unwrap_or(usize::MAX), self.jobs))
    }

    /// Lines, so many at a time.
    pub(crate) fn lines(
        &self,
        lines: LineReader,
        count_max: usize,
    ) -> impl Stream<Item = Result<Vec<String>, PlanError>> {
        stream::try_unfold(lines, move |mut lines| async move {
            let (batch, lines) = self.environment.blocking(move || (lines.lines(count_max), lines)).await;
            let batch = batch?;
            Ok((!batch.is_empty()).then_some((batch, lines)))
        })
    }

    /// Reads the narinfos of these names, several batches side by side.
    fn read(
        &self,
        batches: impl Stream<Item = Result<Vec<String>, PlanError>>,
    ) -> impl Stream<Item = Result<Vec<Read>, PlanError>> {
        let read = move |batch: Result<Vec<String>, PlanError>| async move {
            let batch = batch?;
            let (source, publishers) = (self.source.clone(), self.publishers.to_vec());
            let read = move || {
                let read = batch.into_iter().map(|name| match read_narinfo(&source, &publishers, &name) {
                    Err(Unread::Away(error)) => Err(error),
                    Err(Unread::Refused(path, reason)) => Ok((name, Err((path, reason)))),
                    Ok(read) => Ok((name, Ok(read))),
                });
                read.collect::<Result<Vec<_>, SourceError>>()
            };
            Ok::<_, PlanError>(self.environment.blocking(read).await?)
        };
        batches.map(read).buffered(self.jobs.max(1))
    }
}

/// Batches that keep `jobs` busy, also where there are few items.
pub(crate) fn batches<T: Clone>(items: &[T], jobs: usize) -> Vec<Vec<T>> {
    items.chunks(batch_size(items.len(), jobs)).map(<[T]>::to_vec).collect()
}

fn batch_size(items: usize, jobs: usize) -> usize {
    let jobs = jobs.max(1);
    items.div_ceil(jobs).clamp(1, (AT_ONCE_NARINFOS / jobs).clamp(1, BATCH_NARINFOS))
}

/// Why there is no path info.
enum Unread {
    /// The path, where it is known, and the reason.
    Refused(Option<StorePath>, String),
    /// Nothing else can be read either.
    Away(SourceError),
}

/// Reads one narinfo; gives the bytes of its text, too.
fn read_narinfo(source: &Source, publishers: &[PublisherKey], name: &str) -> Result<(PathInfo, u64), Unread> {
    let refused = |reason: String| Unread::Refused(None, reason);
    let text = match source.narinfo(name) {
        Ok(Some(text)) => text,
        Ok(None) => return Err(refused("the source has no such narinfo".to_owned())),
        Err(error) if error.is_away() => return Err(Unread::Away(error)),
        Err(error) => return Err(refused(error.to_string())),
    };
    let info = PathInfo::parse(&text).map_err(|error| refused(error.to_string()))?;
    if info.store_path.hash_part() != name {
        return Err(refused(format!("it describes another path, {}", info.store_path)));
    }
    if accepted_by(&info, publishers).is_some() {
        return Ok((info, text.len() as u64));
    }
    let reason = unsigned(&info, publishers);
    Err(Unread::Refused(Some(info.store_path), reason))
}

/// Why no signature of `info` counts.
fn unsigned(info: &PathInfo, publishers: &[PublisherKey]) -> String {
    if info.signatures.is_empty() {
        return "it carries no signature".to_owned();
    }
    let names: BTreeSet<&str> = info.signatures.iter().map(|signature| signature.key_name.as_str()).collect();
    match names.iter().find(|name| publishers.iter().any(|key| key.name() == **name)) {
        Some(name) => format!("its signature by {name} does not hold"),
        None => {
            let names: Vec<&str> = names.into_iter().collect();
            format!("it is signed by {}, whom the archive does not accept", names.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_names_are_divided_among_all_jobs_and_many_into_small_batches() {
        let sizes = |names: usize, jobs| batches(&vec![0_u8; names], jobs).iter().map(Vec::len).max();
        assert_eq!(batches(&[1, 2, 3], 16), [[1], [2], [3]]);
        assert_eq!((sizes(32, 16), sizes(33, 16)), (Some(2), Some(3)));
        assert_eq!((sizes(100_000, 16), sizes(5, 0), sizes(0, 16)), (Some(32), Some(5), None));
        assert_eq!((sizes(100_000, 256), sizes(100_000, 1_000)), (Some(2), Some(1)), "512 are in memory");
    }
}
