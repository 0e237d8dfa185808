//! What a publish is going to do: which paths are sound, signed by whom, and not archived yet.
//!
//! Owns: presence, build logs, external references. Always holds: a path of the plan carries a signature of an accepted
//! publisher that holds; a reference counts as external only if neither source nor archive has it; a plan holds one
//! [`PlanWindow`] at most.
//! Leaves to others: reading and judging narinfos (`narinfo_reading`), which paths are this uploader's and what comes first
//! (`firn-client-logic`), what lies on disk meanwhile (`survey`), the NARs themselves (`verify`).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::pin::pin;
use std::sync::Arc;

use firn_base::{KeyKind, ObjectKey};
use firn_client_logic::{
    OrderFacts, PackingPath, PlanWindow, PublishOrder, Selection, package_and_version, packing_order,
};
use firn_nix_format::{PathInfo, PublisherKey, StorePath, nixbase32};
use firn_transport::Environment;
use firn_wire::{HeldPath, KEYS_PER_REQUEST_MAX, RefusedRequest};
use futures::{StreamExt, TryStreamExt, stream};

use crate::blob_file::{BlobFile, NarOwners};
use crate::destination::{Destination, unreadable};
use crate::narinfo_reading::{Refusal, batches};
use crate::publish_options::PublishStop;
use crate::sorted_lines::LineReader;
use crate::source::{Source, SourceError};
use crate::spool::{SpoolDir, SpoolError};
use crate::survey::{SeenPath, Survey};

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
        "whether the source has all references could not be found out: {0}; no more is published, and running the same \
         again asks again"
    )]
    Reference(SourceError),
    /// The source is empty.
    #[error("there is no narinfo in {0}: is it a binary cache?")]
    NothingThere(String),
    /// The archive does not say what it has.
    #[error("the archive cannot be asked: {0}")]
    Archive(#[from] RefusedRequest),
    /// What the user named cannot be read.
    #[error("the list of what to publish cannot be read: {0}")]
    Names(io::Error),
    /// What is not in memory cannot be kept.
    #[error(transparent)]
    Spool(#[from] SpoolError),
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
    /// How much of the source is in memory at a time.
    pub(crate) window: PlanWindow,
    /// Where the rest lies.
    pub(crate) spool: &'a SpoolDir,
}

impl Planner<'_> {
    /// The plan for these paths and blobs. Those of a `survey` are a part of it: what the rest of it has is not
    /// external, and which of them wait is asked when all parts are done.
    pub(crate) async fn plan(
        &self,
        accepted: BTreeMap<ObjectKey, PathInfo>,
        blobs: Vec<BlobFile>,
        owners: Arc<NarOwners>,
        survey: Option<&Survey>,
    ) -> Result<Plan, PlanError> {
        let mut plan = Plan { owners, ..Plan::default() };
        plan.learn_names(&accepted);
        let keys: Vec<ObjectKey> = accepted.keys().copied().collect();
        let archived = self.archived(&keys).await?;
        let mut blobs: BTreeMap<_, _> = blobs.into_iter().map(|blob| (blob.key(), blob)).collect();
        blobs.extend(self.build_logs(&accepted, &archived).await);
        plan.blobs = self.lacking(blobs).await?;
        let (old, accepted): (BTreeMap<_, _>, BTreeMap<_, _>) =
            accepted.into_iter().partition(|(key, _)| archived.contains(key));
        plan.skipped = archived.len() as u64;
        plan.externals = self.externals(&accepted, &archived, survey, refuse_unanswered).await?;
        // A part is of one class, with what that needs.
        let by = if survey.is_none() { self.order.clone() } else { PublishOrder::default() };
        let blobs = std::mem::take(&mut plan.blobs);
        // Of each path that nothing needs up to thousands are walked, and their references with them.
        let ordered = move || (order(&accepted, &blobs, &by), accepted, blobs);
        (plan.order, plan.paths, plan.blobs) = self.environment.blocking(ordered).await;
        if survey.is_none() {
            plan.held = self.held(old, &archived).await?;
        }
        Ok(plan)
    }

    /// Those of these paths of a survey that are archived and cannot be read, as a plan that does nothing; and those of
    /// them of which the source does not say any more what they wait for.
    pub(crate) async fn waiting(
        &self,
        survey: &Survey,
        paths: Vec<SeenPath>,
    ) -> Result<(Plan, Vec<Refusal>), PlanError> {
        let keyed = paths.into_iter().filter_map(|path| Some((path.key()?, path)));
        let mut hidden: BTreeMap<ObjectKey, SeenPath> = keyed.collect();
        let unreadable = unreadable(self.destination, hidden.keys().copied().collect()).await?;
        let keys: Vec<ObjectKey> = unreadable.into_iter().collect();
        let archived = self.archived(&keys).await?;
        hidden.retain(|key, _| archived.contains(key));
        let mut refused = Vec::new();
        let infos = self.read_again(hidden.into_values().collect(), &mut refused).await?;
        let mut plan = Plan::default();
        plan.learn_names(&infos);
        plan.held = self.lacking_of(&infos, &archived, Some(survey)).await?;
        let unknown = |(name, reason): Refusal| {
            (name, format!("it is archived, and what it waits for cannot be told: {reason}"))
        };
        Ok((plan, refused.into_iter().map(unknown).collect()))
    }

    /// How many of these blobs the archive lacks, by kind. Build logs of a survey's paths are counted if the source may have
    /// them. Once the stop asks, it is not all.
    pub(crate) async fn count_blobs(
        &self,
        survey: &Survey,
        named: LineReader,
    ) -> Result<BTreeMap<KeyKind, u64>, PlanError> {
        let mut counts = BTreeMap::new();
        for (lines, of_paths) in [(survey.logs().reader(), true), (named, false)] {
            let mut batches = pin!(self.lines(lines, KEYS_PER_REQUEST_MAX));
            while !self.stop.is_asked()
                && let Some(lines) = batches.next().await
            {
                let (lines, logs, source) = (lines?, survey.logs().clone(), self.source.clone());
                let look = move || {
                    let mut blobs = BTreeMap::new();
                    for line in lines {
                        let is_counted = !of_paths && logs.find(&line)?.is_some_and(|log| log == line);
                        let blob = BlobFile::named(&line).filter(|_| !is_counted);
                        let is_there =
                            |blob: &BlobFile| !of_paths || !source.is_local() || blob.is_in(&source);
                        blobs.extend(blob.filter(is_there).map(|blob| (blob.key(), blob)));
                    }
                    Ok::<_, SpoolError>(blobs)
                };
                for key in self.lacking(self.environment.blocking(look).await?).await?.keys() {
                    *counts.entry(key.kind()).or_default() += 1;
                }
            }
        }
        Ok(counts)
    }

    /// Those of these keys that are archived.
    pub(crate) async fn archived(&self, keys: &[ObjectKey]) -> Result<BTreeSet<ObjectKey>, RefusedRequest> {
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
        let unreadable = unreadable(self.destination, old.keys().copied().collect()).await?;
        old.retain(|key, _| unreadable.contains(key));
        self.lacking_of(&old, archived, None).await
    }

    /// What these paths may wait for.
    async fn lacking_of(
        &self,
        paths: &BTreeMap<ObjectKey, PathInfo>,
        archived: &BTreeSet<ObjectKey>,
        survey: Option<&Survey>,
    ) -> Result<Vec<HeldPath>, PlanError> {
        let externals = self.externals(paths, archived, survey, take_as_there).await?;
        Ok(paths.iter().map(|(key, info)| perhaps_held(key, info, &externals)).collect())
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

    /// References that neither the source nor the archive has; of those of which the source does not say it,
    /// `unanswered` says whether they are there.
    async fn externals(
        &self,
        new: &BTreeMap<ObjectKey, PathInfo>,
        archived: &BTreeSet<ObjectKey>,
        survey: Option<&Survey>,
        unanswered: fn(SourceError) -> Result<bool, PlanError>,
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
        let hashes = survey.map(|survey| survey.hashes().clone());
        let lacking = |batch: Vec<(ObjectKey, String)>| {
            let (source, hashes) = (self.source.clone(), hashes.clone());
            self.environment.blocking(move || {
                let mut lacking = Vec::new();
                for (key, hash_part) in batch {
                    let seen = hashes.as_ref().map(|hashes| Survey::find(hashes, &hash_part)).transpose()?;
                    let is_seen = seen.flatten().is_some();
                    // A narinfo that is there and was refused is no lack of the source.
                    if !is_seen && !source.has_narinfo(&hash_part).or_else(unanswered)? {
                        lacking.push(key);
                    }
                }
                Ok::<_, PlanError>(lacking)
            })
        };
        let lacking: Vec<Vec<ObjectKey>> = stream::iter(batches(&unknown, self.jobs))
            .map(lacking)
            .buffered(self.jobs.max(1))
            .try_collect()
            .await?;
        Ok(lacking.into_iter().flatten().collect())
    }
}

/// The source does not say whether it has a reference of what is published: nothing may rest on that.
fn refuse_unanswered(error: SourceError) -> Result<bool, PlanError> {
    Err(if error.is_away() { error.into() } else { PlanError::Reference(error) })
}

/// The source does not say whether it has a reference of what is archived: then that is waited for, if nobody can read it.
fn take_as_there(error: SourceError) -> Result<bool, PlanError> {
    if error.is_away() { Err(error.into()) } else { Ok(true) }
}

impl Plan {
    fn learn_names(&mut self, infos: &BTreeMap<ObjectKey, PathInfo>) {
        for info in infos.values() {
            for path in info.references.iter().chain([&info.store_path]) {
                self.names.entry(key_of(path)).or_insert_with(|| path.base_name().to_owned());
            }
        }
    }

    /// How a key is called: the base name of its path, or its hash part where nobody named it.
    pub(crate) fn name(&self, key: &ObjectKey) -> String {
        if let Some(blob) = self.blobs.get(key) {
            return blob.name();
        }
        self.names.get(key).cloned().unwrap_or_else(|| nixbase32::encode(key.name()))
    }

    /// A path of the plan as one of which nobody knows whether it can be read.
    pub(crate) fn perhaps_held(&self, key: &ObjectKey) -> Option<HeldPath> {
        Some(perhaps_held(key, self.paths.get(key)?, &self.externals))
    }

    /// The external references of a path.
    pub(crate) fn externals_of(&self, key: &ObjectKey) -> impl Iterator<Item = ObjectKey> + '_ {
        let references = self.paths.get(key).into_iter().flat_map(|info| &info.references);
        references.map(key_of).filter(|reference| self.externals.contains(reference))
    }
}

/// A path with what it may wait for: what it refers to beside itself and is not external.
fn perhaps_held(key: &ObjectKey, info: &PathInfo, externals: &BTreeSet<ObjectKey>) -> HeldPath {
    let references = info.references.iter().map(key_of);
    let waiting_for =
        references.filter(|reference| reference != key && !externals.contains(reference)).collect();
    HeldPath { key: *key, waiting_for }
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

/// The key of a path.
pub(crate) fn key_of(path: &StorePath) -> ObjectKey {
    ObjectKey::store_path(*path.hash())
}

fn log_key(deriver: &StorePath) -> ObjectKey {
    ObjectKey::build_log(*deriver.hash())
}
