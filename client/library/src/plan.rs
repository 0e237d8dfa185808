//! What a publish is going to do: which paths are sound, signed by whom, and not archived yet.
//!
//! Owns: what the source has, reading and judging narinfos, presence, external references. Always holds: a
//! path of the plan carries a signature of an accepted publisher that holds; a reference counts as external
//! only if neither source nor archive has it.
//! Leaves to others: which paths are this uploader's and what comes first (`firn-client-logic`), the NARs themselves
//! (`verify`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use firn_base::{KeyKind, ObjectKey};
use firn_client_logic::{
    OrderFacts, PackingPath, PublishOrder, Selection, package_and_version, packing_order,
};
use firn_nix_format::{PathInfo, PublisherKey, StorePath, accepted_by, nixbase32};
use firn_transport::Environment;
use firn_wire::{HeldPath, KEYS_PER_REQUEST_MAX, RefusedRequest};
use futures::{StreamExt, TryStreamExt, stream};

use crate::blob_file::{BlobFile, NarOwners};
use crate::destination::Destination;
use crate::publish_options::PublishStop;
use crate::source::{Source, SourceError};

// Narinfos read in one go of blocking work, at most.
const BATCH_NARINFOS: usize = 32;

/// What a publish is going to do.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// What to pack, in this order: keys of `paths` and `blobs`.
    pub(crate) order: Vec<ObjectKey>,
    pub(crate) paths: BTreeMap<ObjectKey, PathInfo>,
    /// Build logs, realisations, debuginfo links.
    pub(crate) blobs: BTreeMap<ObjectKey, BlobFile>,
    /// Whose NARs debuginfo links may mean.
    pub(crate) owners: Arc<NarOwners>,
    pub(crate) externals: BTreeSet<ObjectKey>,
    /// How paths and references are called.
    names: BTreeMap<ObjectKey, String>,
    /// Paths that the archive has and nobody can read yet, with the references that they may wait for.
    pub(crate) held: Vec<HeldPath>,
    /// Names and reasons.
    pub(crate) refused: Vec<(String, String)>,
    /// Narinfos that were read.
    pub(crate) read: u64,
    /// Paths that the archive has.
    pub(crate) skipped: u64,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The source cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Whether a reference is external depends on the source, and it does not say.
    #[error(
        "whether the source has all references could not be found out: {0}; nothing was published, and running the same \
         again asks again"
    )]
    Reference(SourceError),
    /// The source is empty.
    #[error("there is no narinfo in {0}: is it a binary cache?")]
    NothingThere(String),
    /// The archive does not say what it has.
    #[error("the archive cannot be asked: {0}")]
    Archive(#[from] RefusedRequest),
}

/// What a publish looks at.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Names {
    /// Names of narinfos, sorted.
    pub(crate) narinfos: Vec<String>,
    /// Files that are no NARs, besides build logs, which narinfos lead to.
    pub(crate) blobs: Vec<BlobFile>,
}

/// What the plan is made from.
pub(crate) struct Planner<'a> {
    pub(crate) environment: &'a Environment,
    pub(crate) source: &'a Source,
    pub(crate) destination: &'a dyn Destination,
    /// Accepted publishers, the most preferred first.
    pub(crate) publishers: &'a [PublisherKey],
    pub(crate) selection: &'a Selection,
    pub(crate) order: &'a PublishOrder,
    /// Once it asks, nothing more is read, and nothing is planned.
    pub(crate) stop: &'a PublishStop,
    /// Batches read side by side.
    pub(crate) jobs: usize,
}

impl Planner<'_> {
    /// The plan for these names.
    pub(crate) async fn plan(&self, names: Names) -> Result<Plan, PlanError> {
        let Names { narinfos, mut blobs } = names;
        // Logs are whose their paths are.
        blobs.retain(|blob| matches!(blob, BlobFile::Log(_)) || self.selection.takes_file(&blob.name()));
        let mut plan = Plan::default();
        let mut accepted = self.read_all(narinfos, &mut plan).await?;
        if self.stop.is_asked() {
            return Ok(plan);
        }
        if blobs.iter().any(|blob| matches!(blob, BlobFile::DebugInfo(_))) {
            // Also those that others take: links to them may be ours.
            plan.owners = Arc::new(NarOwners::new(accepted.values()));
        }
        accepted.retain(|_, info| self.selection.takes_path(info.store_path.base_name()));
        for info in accepted.values() {
            for path in info.references.iter().chain([&info.store_path]) {
                plan.names.entry(key_of(path)).or_insert_with(|| path.base_name().to_owned());
            }
        }
        let keys: Vec<ObjectKey> = accepted.keys().copied().collect();
        let archived = self.archived(&keys).await?;
        let mut blobs: BTreeMap<_, _> = blobs.into_iter().map(|blob| (blob.key(), blob)).collect();
        blobs.extend(self.build_logs(&accepted, &archived).await);
        plan.blobs = self.lacking(blobs).await?;
        let (old, accepted): (BTreeMap<_, _>, BTreeMap<_, _>) =
            accepted.into_iter().partition(|(key, _)| archived.contains(key));
        plan.held = self.held(old, &archived).await?;
        plan.skipped = archived.len() as u64;
        plan.externals = self.externals(&accepted, &archived).await?;
        plan.order = order(&accepted, &plan.blobs, self.order);
        plan.paths = accepted;
        Ok(plan)
    }

    async fn read_all(
        &self,
        names: Vec<String>,
        plan: &mut Plan,
    ) -> Result<BTreeMap<ObjectKey, PathInfo>, PlanError> {
        let read = |batch: Vec<String>| {
            let (source, publishers) = (self.source.clone(), self.publishers.to_vec());
            self.environment.blocking(move || {
                let read = batch.into_iter().map(|name| match read_narinfo(&source, &publishers, &name) {
                    Err(Unread::Away(error)) => Err(error),
                    Err(Unread::Refused(path, reason)) => Ok((name, Err((path, reason)))),
                    Ok(info) => Ok((name, Ok(info))),
                });
                read.collect::<Result<Vec<_>, SourceError>>()
            })
        };
        let mut accepted = BTreeMap::new();
        let mut batches = stream::iter(batches(&names, self.jobs)).map(read).buffered(self.jobs.max(1));
        while let Some(batch) = batches.next().await {
            if self.stop.is_asked() {
                break;
            }
            for (name, info) in batch? {
                plan.read += 1;
                match info {
                    Ok(info) => {
                        accepted.insert(key_of(&info.store_path), info);
                    }
                    Err((Some(path), _)) if !self.selection.takes_path(path.base_name()) => {}
                    Err((path, reason)) => {
                        let name = path.map_or_else(|| format!("{name}.narinfo"), |path| path.to_string());
                        plan.refused.push((name, reason));
                    }
                }
            }
        }
        Ok(accepted)
    }

    async fn archived(&self, keys: &[ObjectKey]) -> Result<BTreeSet<ObjectKey>, RefusedRequest> {
        let mut archived = BTreeSet::new();
        for batch in keys.chunks(KEYS_PER_REQUEST_MAX) {
            let presence = self.destination.presence(batch.to_vec()).await?;
            archived.extend(batch.iter().zip(presence).filter(|(_, is)| *is).map(|(key, _)| *key));
        }
        Ok(archived)
    }

    /// Those of the archived paths that cannot be read: what they refer to is not all there.
    async fn held(
        &self,
        mut old: BTreeMap<ObjectKey, PathInfo>,
        archived: &BTreeSet<ObjectKey>,
    ) -> Result<Vec<HeldPath>, PlanError> {
        let keys: Vec<ObjectKey> = old.keys().copied().collect();
        for batch in keys.chunks(KEYS_PER_REQUEST_MAX) {
            let visible = self.destination.visible(batch.to_vec()).await?;
            for (key, _) in batch.iter().zip(visible).filter(|(_, is)| *is) {
                old.remove(key);
            }
        }
        let externals = self.externals(&old, archived).await?;
        let lacking = |key: &ObjectKey, info: &PathInfo| {
            let references = info.references.iter().map(key_of);
            references.filter(|reference| reference != key && !externals.contains(reference)).collect()
        };
        Ok(old.iter().map(|(key, info)| HeldPath { key: *key, waiting_for: lacking(key, info) }).collect())
    }

    /// Build logs of accepted paths that the source may have. Behind a URL each look is a request, so only those of new
    /// paths count, and whether they are there shows when they are fetched.
    async fn build_logs(
        &self,
        accepted: &BTreeMap<ObjectKey, PathInfo>,
        archived: &BTreeSet<ObjectKey>,
    ) -> BTreeMap<ObjectKey, BlobFile> {
        let wanted = |key: &ObjectKey| self.source.is_local() || !archived.contains(key);
        let derivers =
            accepted.iter().filter(|(key, _)| wanted(key)).filter_map(|(_, info)| info.deriver.clone());
        let mut logs: BTreeMap<_, _> = derivers.map(BlobFile::Log).map(|blob| (blob.key(), blob)).collect();
        if self.source.is_local() {
            let source = self.source.clone();
            let there = move || {
                logs.retain(|_, log| log.is_in(&source));
                logs
            };
            logs = self.environment.blocking(there).await;
        }
        logs
    }

    /// Those that the archive lacks.
    async fn lacking(
        &self,
        mut blobs: BTreeMap<ObjectKey, BlobFile>,
    ) -> Result<BTreeMap<ObjectKey, BlobFile>, PlanError> {
        let keys: Vec<ObjectKey> = blobs.keys().copied().collect();
        let archived = self.archived(&keys).await?;
        blobs.retain(|key, _| !archived.contains(key));
        Ok(blobs)
    }

    /// References that neither the source nor the archive has.
    async fn externals(
        &self,
        new: &BTreeMap<ObjectKey, PathInfo>,
        archived: &BTreeSet<ObjectKey>,
    ) -> Result<BTreeSet<ObjectKey>, PlanError> {
        let references: BTreeMap<ObjectKey, &StorePath> = new
            .values()
            .flat_map(|info| &info.references)
            .map(|path| (key_of(path), path))
            .filter(|(key, _)| !new.contains_key(key) && !archived.contains(key))
            .collect();
        let keys: Vec<ObjectKey> = references.keys().copied().collect();
        let in_archive = self.archived(&keys).await?;
        let unknown: Vec<(ObjectKey, String)> = references
            .into_iter()
            .filter(|(key, _)| !in_archive.contains(key))
            .map(|(key, path)| (key, path.hash_part().to_owned()))
            .collect();
        let lacking = |batch: Vec<(ObjectKey, String)>| {
            let source = self.source.clone();
            self.environment.blocking(move || {
                let mut lacking = Vec::new();
                for (key, hash_part) in batch {
                    // A narinfo that is there and was refused is no lack of the source.
                    if !source.has_narinfo(&hash_part)? {
                        lacking.push(key);
                    }
                }
                Ok::<_, SourceError>(lacking)
            })
        };
        let lacking: Vec<Vec<ObjectKey>> = stream::iter(batches(&unknown, self.jobs))
            .map(lacking)
            .buffered(self.jobs.max(1))
            .try_collect()
            .await
            .map_err(|error| if error.is_away() { error.into() } else { PlanError::Reference(error) })?;
        Ok(lacking.into_iter().flatten().collect())
    }
}

impl Plan {
    /// How a key is called: the base name of its path, or its hash part where nobody named it.
    pub(crate) fn name(&self, key: &ObjectKey) -> String {
        if let Some(blob) = self.blobs.get(key) {
            return blob.name();
        }
        self.names.get(key).cloned().unwrap_or_else(|| nixbase32::encode(key.name()))
    }

    /// A path of the plan as one of which nobody knows whether it can be read.
    pub(crate) fn perhaps_held(&self, key: &ObjectKey) -> Option<HeldPath> {
        let references = self.paths.get(key)?.references.iter().map(key_of);
        let waiting_for =
            references.filter(|reference| reference != key && !self.externals.contains(reference)).collect();
        Some(HeldPath { key: *key, waiting_for })
    }

    /// The external references of a path.
    pub(crate) fn externals_of(&self, key: &ObjectKey) -> impl Iterator<Item = ObjectKey> + '_ {
        let references = self.paths.get(key).into_iter().flat_map(|info| &info.references);
        references.map(key_of).filter(|reference| self.externals.contains(reference))
    }
}

/// What `paths` mean: store paths, base names, hash parts, or files that are no NARs; and what is none of these. Paths whose
/// names say that others take them are left out.
pub(crate) fn names_of(paths: &[String], selection: &Selection) -> (Names, Vec<(String, String)>) {
    let (mut narinfos, mut blobs, mut refused) = (BTreeSet::new(), Vec::new(), Vec::new());
    for path in paths.iter().map(|path| path.trim()).filter(|path| !path.is_empty()) {
        let parsed = StorePath::parse(path).or_else(|_| StorePath::from_base_name(path));
        match (parsed, BlobFile::named(path)) {
            (Ok(path), _) if !selection.takes_path(path.base_name()) => {}
            (Ok(path), _) => drop(narinfos.insert(path.hash_part().to_owned())),
            (Err(_), _) if nixbase32::decode::<20>(path).is_ok() => drop(narinfos.insert(path.to_owned())),
            (Err(_), Some(blob)) => blobs.push(blob),
            (Err(error), None) => refused.push((path.to_owned(), error.to_string())),
        }
    }
    (Names { narinfos: narinfos.into_iter().collect(), blobs }, refused)
}

/// Everything that a source can list. Blocks.
pub(crate) fn all_names(source: &Source) -> Result<Names, SourceError> {
    let mut names = Names { narinfos: source.list()?, blobs: Vec::new() };
    names.blobs.extend(source.list_blobs()?.iter().filter_map(|url| BlobFile::named(url)));
    Ok(names)
}

/// Batches that keep `jobs` busy, also where there are few items.
fn batches<T: Clone>(items: &[T], jobs: usize) -> Vec<Vec<T>> {
    let each = items.len().div_ceil(jobs.max(1)).clamp(1, BATCH_NARINFOS);
    items.chunks(each).map(<[T]>::to_vec).collect()
}

/// Why there is no path info.
enum Unread {
    /// The path, where it is known, and the reason.
    Refused(Option<StorePath>, String),
    /// Nothing else can be read either.
    Away(SourceError),
}

/// Reads one narinfo.
fn read_narinfo(source: &Source, publishers: &[PublisherKey], name: &str) -> Result<PathInfo, Unread> {
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
        return Ok(info);
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

fn order(
    paths: &BTreeMap<ObjectKey, PathInfo>,
    blobs: &BTreeMap<ObjectKey, BlobFile>,
    order: &PublishOrder,
) -> Vec<ObjectKey> {
    // By name, so that versions of one package come near each other where references leave the choice.
    let mut sorted: Vec<(&ObjectKey, &PathInfo)> = paths.iter().collect();
    sorted.sort_by_key(|(key, info)| (info.store_path.name(), **key));
    let facts: Vec<OrderFacts<'_>> = sorted
        .iter()
        .map(|(key, info)| OrderFacts {
            key: **key,
            name: info.store_path.name(),
            has_references: info.references.iter().any(|reference| *reference != info.store_path),
            content_address: info.ca.as_deref(),
        })
        .collect();
    let mut packages = BTreeMap::new();
    let packing: Vec<PackingPath> = sorted
        .into_iter()
        .zip(order.ranks(&facts))
        .map(|((key, info), rank)| PackingPath {
            key: *key,
            rank,
            package: number_of(package_and_version(info.store_path.name()).0, &mut packages),
            references: info.references.iter().map(key_of).collect(),
            log: info.deriver.as_ref().map(log_key).filter(|log| blobs.contains_key(log)),
        })
        .collect();
    let mut order = packing_order(&packing);
    // Logs of paths that are archived already, and what belongs to no path.
    let packed: BTreeSet<ObjectKey> =
        order.iter().filter(|key| key.kind() == KeyKind::BuildLog).copied().collect();
    order.extend(blobs.keys().filter(|blob| !packed.contains(blob)));
    order
}

/// The number of a package; one that has none yet is given the next.
fn number_of<'a>(package: &'a str, packages: &mut BTreeMap<&'a str, u32>) -> u32 {
    let next = u32::try_from(packages.len()).unwrap_or(u32::MAX);
    *packages.entry(package).or_insert(next)
}

fn key_of(path: &StorePath) -> ObjectKey {
    ObjectKey::store_path(*path.hash())
}

fn log_key(deriver: &StorePath) -> ObjectKey {
    ObjectKey::build_log(*deriver.hash())
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
    }

    #[test]
    fn paths_may_be_written_in_three_ways() {
        let hash = "4d20g8srpvv02vkiwrmz28g62m15n56b";
        let paths =
            [format!("/nix/store/{hash}-tree"), format!("{hash}-tree"), hash.to_owned(), " ".to_owned()];
        let names = Names { narinfos: vec![hash.to_owned()], blobs: Vec::new() };
        let all = Selection::default();
        assert_eq!(names_of(&paths, &all), (names, Vec::new()));
        let (names, refused) = names_of(&["../../etc/passwd".to_owned()], &all);
        assert_eq!(names, Names::default());
        assert!(refused[0].1.contains("../../etc/passwd"), "{}", refused[0].1);
    }

    #[test]
    fn realisations_and_debuginfo_links_may_be_named() {
        let id = format!("sha256:{}!out", "0a".repeat(32));
        let trace = "build-trace-v2/4d20g8srpvv02vkiwrmz28g62m15n56b-tree.drv/out.doi".to_owned();
        let link = format!("debuginfo/{}.debug", "ab".repeat(20));
        let (names, refused) = names_of(&[id.clone(), trace.clone(), link.clone()], &Selection::default());
        let called: Vec<String> = names.blobs.iter().map(BlobFile::name).collect();
        assert_eq!(called, [format!("realisations/{id}.doi"), trace, link]);
        assert!(refused.is_empty() && names.narinfos.is_empty());
    }
}
