//! Publishing a binary cache into an archive, from the first narinfo to the last late receipt.
//!
//! Owns: the pipeline and its bounds. Always holds: what is refused keeps nothing else from being published; whatever
//! is interrupted, running again goes on (spool files vanish, reservations expire, archived paths are skipped); memory
//! is bounded by [`PublishOptions::window`] for what is planned, however many paths the source has,
//! [`PublishOptions::memory`] for what is read, the frames of one bundle and the shards on their way, and an encoder on
//! each thread if recipes are looked for. What was refused or waits is kept for the summary.
//! Leaves to others: every single step.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use firn_base::{ByteCount, KeyKind, ObjectKey};
use firn_bundle::BuilderOptions;
use firn_client_logic::{NotedFile, PublishSummary, UploadOutcome, WaitingPath};
use firn_nix_format::{Compression, PublisherKey};
use firn_retrieval::ObjectReader;
use firn_transport::{AskError, BoxFuture, Environment};
use firn_wire::{HeldPath, SimilarRecord};
use futures::StreamExt;
use futures::stream::{FuturesOrdered, FuturesUnordered};
use tokio::sync::mpsc;

use crate::archive::{Archive, publisher_keys};
use crate::archive_destination::ArchiveDestination;
use crate::background::begin;
use crate::blob_file::BlobFile;
use crate::content::MEMORY_BYTES_MAX;
use crate::destination::{Destination, unreadable};
use crate::earlier::{EarlierChunks, FRAMES, MANIFESTS, NAMES_PER_REQUEST};
use crate::events::{PublishEvent, PublishEvents};
use crate::narinfo_reading::SeenPaths;
use crate::pack::Packer;
use crate::path_names::Names;
use crate::plan::{Plan, PlanError, Planner};
use crate::publish_options::{PublishError, PublishOptions, PublishStopped};
use crate::recipe_trial::{Encoders, FILE_HEAD_BYTES_MAX, TrialError, try_recipe};
use crate::ship::{ShipError, Shipped, Shipping, TakesPlaceOf};
use crate::sorted_lines::LineReader;
use crate::source::SourceError;
use crate::spool::{SpoolDir, SpoolError};
use crate::spooled_bundle::BundleSet;
use crate::survey::Sums;
use crate::verify::{VerifiedObject, VerifyError, verify_path};

const MIB: u64 = 1 << 20;

// Bundle sets between their last byte and their commit; each keeps its spool files.
const SETS_IN_FLIGHT: usize = 2;

/// Publishes into `archive`. Dropping the future interrupts it; running again goes on.
///
/// # Errors
/// Refused paths are no error: they are in the summary. An error ends the publish for all that was to come.
pub async fn publish(
    archive: &Archive,
    options: PublishOptions,
    events: PublishEvents,
) -> Result<PublishSummary, PublishStopped> {
    let stopped = |error: AskError| PublishStopped { error: error.into(), summary: Box::default() };
    // An old roster still finds the coordinators that are in both.
    if let Err(error) = archive.refresh().await {
        tracing::debug!(%error, "the roster was not refreshed");
    }
    let publishers = publisher_keys(&archive.ledger().await.map_err(stopped)?);
    let destination = Arc::new(ArchiveDestination(archive.clone()));
    let (_, objects) = archive.reader(MANIFESTS, FRAMES);
    publish_into(destination, Some(objects), publishers, archive.environment(), options, events).await
}

/// Publishes into any destination whose accepted publishers are these; what `objects` reads of it is not stored again if
/// the options say so.
pub(crate) async fn publish_into(
    destination: Arc<dyn Destination>,
    objects: Option<ObjectReader>,
    publishers: Vec<PublisherKey>,
    environment: &Environment,
    options: PublishOptions,
    events: PublishEvents,
) -> Result<PublishSummary, PublishStopped> {
    let summary = Mutex::new(PublishSummary { dry_run: options.dry_run, ..PublishSummary::default() });
    let objects = objects.filter(|_| options.reuse_chunks);
    let earlier = objects.map(|objects| {
        EarlierChunks::new(Arc::clone(&destination), objects)
            .in_small_bundles_too(options.reuse_small_bundles)
    });
    let encoders = Encoders::new(options.threads.max(1));
    let publish = Publish { destination, earlier, environment, options, encoders, events, summary };
    let outcome = publish.run(publishers).await;
    let mut summary = publish.summary.into_inner().unwrap_or_else(PoisonError::into_inner);
    summary.sort();
    match outcome {
        Ok(()) => Ok(summary),
        Err(error) => Err(PublishStopped { error, summary: Box::new(summary) }),
    }
}

/// One publish.
pub(crate) struct Publish<'a> {
    destination: Arc<dyn Destination>,
    earlier: Option<EarlierChunks>,
    pub(crate) environment: &'a Environment,
    pub(crate) options: PublishOptions,
    encoders: Encoders,
    pub(crate) events: PublishEvents,
    summary: Mutex<PublishSummary>,
}

/// What became of reading one object.
type Checked = Result<Option<VerifiedObject>, VerifyError>;

impl Publish<'_> {
    async fn run(&self, publishers: Vec<PublisherKey>) -> Result<(), PublishError> {
        let publishers = self.narrow(publishers)?;
        let source = self.options.source.clone();
        self.environment.blocking(move || source.greet()).await?;
        let spool = SpoolDir::open(self.options.spool_dir.as_deref())?;
        let mut names = self.names(&spool).await?;
        for (name, reason) in std::mem::take(&mut names.refused) {
            self.refuse(name, reason);
        }
        self.events.tell(&PublishEvent::Reading { narinfos: names.narinfos.len() });
        let planner = Planner {
            environment: self.environment,
            source: &self.options.source,
            destination: &*self.destination,
            publishers: &publishers,
            selection: &self.options.selection,
            order: &self.options.order,
            stop: &self.options.stop,
            jobs: self.options.jobs,
            window: self.options.window,
            spool: &spool,
        };
        let seen = planner.look(&names).await?;
        for (name, reason) in seen.refused {
            self.refuse(name, reason);
        }
        self.note(|summary| summary.paths_read = seen.read);
        if self.options.stop.is_asked() {
            return Ok(());
        }
        match seen.paths {
            SeenPaths::Few(paths) => {
                let (blobs, _) = self.blobs(names.blobs.reader(), usize::MAX).await?;
                let plan = planner.plan(paths, blobs, seen.owners, None).await?;
                self.publish_whole(plan, &spool).await
            }
            SeenPaths::Many(survey) => self.publish_in_windows(&planner, &survey, &names, &seen.owners).await,
        }
    }

    /// Publishes what one plan holds.
    async fn publish_whole(&self, mut plan: Plan, spool: &SpoolDir) -> Result<(), PublishError> {
        let mut sums = Sums { archived: plan.skipped, ..Sums::default() };
        plan.paths.values().for_each(|info| sums.add_new(info));
        self.tell_sums(sums, |kind| plan.blobs.keys().filter(|key| key.kind() == kind).count() as u64);
        if self.options.dry_run {
            self.note_externals(&plan);
            return Ok(());
        }
        let mut held = std::mem::take(&mut plan.held);
        let (away, held_now) = self.carry_out(&plan, spool).await?;
        held.extend(held_now);
        self.list_waiting(&plan, held).await?;
        away.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Tells what all plans come to, with `blobs` of each kind. Of a dry run the summary says nothing else but what is
    /// external.
    pub(crate) fn tell_sums(&self, sums: Sums, blobs: impl Fn(KeyKind) -> u64) {
        let (paths, logs) = (sums.new, blobs(KeyKind::BuildLog));
        let (nar_bytes, skipped) = (sums.nar_bytes, sums.archived);
        self.note(|summary| summary.paths_skipped = skipped);
        self.events.tell(&PublishEvent::Planned { paths, logs, nar_bytes, skipped });
        if self.options.dry_run {
            self.note(|summary| {
                summary.paths_published = paths;
                summary.logs_published = logs;
                summary.realisations_published = blobs(KeyKind::Realisation);
                summary.debuginfo_published = blobs(KeyKind::DebugInfo);
                summary.content = nar_bytes;
                summary.source = sums.file_bytes;
            });
        }
    }

    /// Notes the external references of what a dry run would publish.
    pub(crate) fn note_externals(&self, plan: &Plan) {
        self.note(|summary| summary.note_externals(plan.externals.iter().map(|key| plan.name(key))));
    }

    /// Packs and ships what is planned; gives the error of a source that went away, and what was held back.
    pub(crate) async fn carry_out(
        &self,
        plan: &Plan,
        spool: &SpoolDir,
    ) -> Result<(Option<SourceError>, Vec<HeldPath>), PublishError> {
        if plan.order.is_empty() {
            return Ok((None, Vec::new()));
        }
        let (sets, sealed) = mpsc::channel(1);
        tokio::try_join!(self.pack_all(plan, spool, sets), self.ship_all(plan, spool, sealed))
    }

    /// The publishers whose signatures count.
    fn narrow(&self, publishers: Vec<PublisherKey>) -> Result<Vec<PublisherKey>, PublishError> {
        let Some(trusted) = &self.options.trusted_keys else { return Ok(publishers) };
        let names: Vec<String> = publishers.iter().map(|key| key.name().to_owned()).collect();
        let both: Vec<PublisherKey> = publishers.into_iter().filter(|key| trusted.contains(key)).collect();
        if both.is_empty() { Err(PublishError::NoPublisher(names.join(", "))) } else { Ok(both) }
    }

    /// What to look at.
    async fn names(&self, spool: &SpoolDir) -> Result<Names, PublishError> {
        let (source, selection, spool) =
            (self.options.source.clone(), self.options.selection.clone(), spool.clone());
        if let Some(paths) = self.options.paths.clone() {
            let read = move || Names::named(&paths, &selection, &spool);
            return Ok(self.environment.blocking(read).await?);
        }
        let names = self.environment.blocking(move || Names::listed(&source, &selection, &spool)).await?;
        if names.narinfos.len() == 0 {
            return Err(PlanError::NothingThere(self.options.source.to_string()).into());
        }
        Ok(names)
    }

    /// The next blobs, at most so many, and the lines behind them; none at the end.
    pub(crate) async fn blobs(
        &self,
        mut lines: LineReader,
        count_max: usize,
    ) -> Result<(Vec<BlobFile>, LineReader), PublishError> {
        let read = move || loop {
            let some = lines.lines(count_max)?;
            let blobs: Vec<BlobFile> = some.iter().filter_map(|line| BlobFile::named(line)).collect();
            if some.is_empty() || !blobs.is_empty() {
                return Ok::<_, SpoolError>((blobs, lines));
            }
        };
        Ok(self.environment.blocking(read).await?)
    }

    /// Reads, checks and packs every object, several at once, in the plan's order. When the source goes away no further
    /// object is begun, what was read is packed, and that error comes back. Behind a path whose trial was broken off
    /// nothing is packed.
    async fn pack_all(
        &self,
        plan: &Plan,
        spool: &SpoolDir,
        sets: mpsc::Sender<BundleSet>,
    ) -> Result<Option<SourceError>, PublishError> {
        let compression = self.options.frame_compression;
        let options = BuilderOptions {
            payload_bytes_max: self.options.bundle_bytes,
            frame_raw_bytes: self.options.frame_bytes.unwrap_or(compression.frame_bytes()),
            ..BuilderOptions::with(compression)
        };
        let mut packer = Packer::new(self.environment.clone(), spool.clone(), options, self.options.threads);
        let mut waiting: VecDeque<ObjectKey> = plan.order.iter().copied().collect();
        let mut running = FuturesOrdered::new();
        let (mut in_flight, mut away, mut broken_off) = (0, None, false);
        // Archived objects of the names of what comes next.
        let mut named: BTreeMap<ObjectKey, Vec<SimilarRecord>> = BTreeMap::new();
        loop {
            if self.options.stop.is_asked() || away.is_some() {
                waiting.clear();
            }
            while let Some(key) = waiting.front().copied() {
                let cost = memory_of(plan, &key);
                let room = running.len() < self.options.jobs && in_flight + cost <= self.options.memory.0;
                if !room && !running.is_empty() {
                    break;
                }
                if let (Some(earlier), Some(_), None) = (&self.earlier, plan.paths.get(&key), named.get(&key))
                {
                    let next = waiting.iter().filter_map(|key| Some((key, plan.paths.get(key)?)));
                    named = earlier.by_name(next.take(NAMES_PER_REQUEST)).await;
                }
                waiting.pop_front();
                in_flight += cost;
                running.push_back(self.check(
                    plan,
                    spool,
                    key,
                    (cost, named.remove(&key).unwrap_or_default()),
                ));
            }
            let Some((key, cost, checked)) = running.next().await else { break };
            match checked {
                // It may refer to what was left out: committed without that, it would be hidden until the next run.
                Ok(Some(_)) if broken_off => {}
                Ok(Some(object)) => {
                    let content = ByteCount(object.content.bytes());
                    let pushed = packer.push(object).await?;
                    for set in pushed.sealed {
                        // A receiver that is gone has failed, and that error ends this too.
                        let _ = sets.send(set).await;
                    }
                    match pushed.refused {
                        Some(error) => self.refuse(plan.name(&key), error.to_string()),
                        None => self.events.tell(&PublishEvent::Packed { name: plan.name(&key), content }),
                    }
                }
                Ok(None) if key.kind() == KeyKind::BuildLog => {}
                // Named by the user, or gone since it was listed.
                Ok(None) => self.refuse(plan.name(&key), "the source has no such file".to_owned()),
                Err(VerifyError::Trial(TrialError::Spool(error)) | VerifyError::Spool(error)) => {
                    return Err(error.into());
                }
                // The next run publishes it.
                Err(VerifyError::Trial(TrialError::Stopped)) => broken_off = true,
                Err(VerifyError::Source(error)) if error.is_away() => away = away.or(Some(error)),
                // What cannot be had besides takes nothing from a path.
                Err(error) if key.kind() != KeyKind::StorePath => {
                    let file = NotedFile { name: plan.name(&key), reason: error.to_string() };
                    self.note(|summary| summary.notes.push(file));
                }
                Err(error) => self.refuse(plan.name(&key), error.to_string()),
            }
            in_flight -= cost;
        }
        if let Some(set) = packer.finish().await? {
            let _ = sets.send(set).await;
        }
        Ok(away)
    }

    /// Begins to read and check one object, and to look for what earlier ones have of it, at once and whether or not it is
    /// waited for. `named` are the archived objects of its name.
    fn check(
        &self,
        plan: &Plan,
        spool: &SpoolDir,
        key: ObjectKey,
        (cost, named): (u64, Vec<SimilarRecord>),
    ) -> impl Future<Output = (ObjectKey, u64, Checked)> + use<> {
        let (source, spool, encoding) = (self.options.source.clone(), spool.clone(), self.options.encoding);
        let (info, blob) = (plan.paths.get(&key).cloned(), plan.blobs.get(&key).cloned());
        let owners = Arc::clone(&plan.owners);
        let recipe = info.as_ref().and_then(|info| self.options.recipe_of(info));
        let trial_spool = spool.clone();
        let head_bytes_max = if recipe.is_some() { FILE_HEAD_BYTES_MAX } else { 0 };
        let work = move || match (info, blob) {
            (Some(info), _) => verify_path(&source, &info, encoding, head_bytes_max, &spool).map(Some),
            (None, Some(blob)) => Ok(blob.read(&source, &owners, &spool)?.map(|object| (object, Vec::new()))),
            (None, None) => Ok(None),
        };
        let environment = self.environment.clone();
        let (earlier, encoders) = (self.earlier.clone(), self.encoders.places());
        let stop = self.options.stop.clone();
        let checked = begin(async move {
            let Some((mut object, head)) = environment.blocking(work).await? else { return Ok(None) };
            if let Some(recipe) = recipe {
                // Only now: a file that is still on its way keeps no encoder.
                let Ok(_permit) = Arc::clone(&encoders).acquire_owned().await else {
                    return Err(VerifyError::from(TrialError::Stopped));
                };
                let is_over = move || stop.is_asked() || encoders.is_closed();
                let work = move || try_recipe(object, recipe, head, &trial_spool, is_over);
                object = environment.blocking(work).await.map_err(VerifyError::from)?;
            }
            if let Some(earlier) = earlier {
                object.earlier = earlier.find(&object.content, &named).await;
            }
            Ok(Some(object))
        });
        async move { (key, cost, checked.await) }
    }

    /// Ships every set, a few at once; gives the keys that were held back at their commit.
    ///
    /// When one has to stop the publish, those under way end first: space was granted to them, and what is broken off
    /// would keep it from others until its reservation ends.
    async fn ship_all(
        &self,
        plan: &Plan,
        spool: &SpoolDir,
        mut sealed: mpsc::Receiver<BundleSet>,
    ) -> Result<Vec<HeldPath>, PublishError> {
        let shipping = Shipping::to(
            Arc::clone(&self.destination),
            self.environment.clone(),
            spool.clone(),
            self.options.policy,
            self.events.clone(),
        );
        let mut running: FuturesUnordered<BoxFuture<'_, Shipment>> = FuturesUnordered::new();
        let (mut held, mut stopped) = (Vec::new(), None);
        loop {
            tokio::select! {
                // In this order always: a simulation must run twice alike.
                biased;
                Some((set, externals, shipped)) = running.next() => {
                    match self.account(plan, &set, &externals, shipped) {
                        Ok(keys) => held.extend(keys),
                        Err(error) => {
                            sealed.close();
                            stopped = Some(error);
                            break;
                        }
                    }
                }
                set = sealed.recv(), if running.len() < SETS_IN_FLIGHT => match set {
                    Some(set) => running.push(Box::pin(ship(&shipping, plan, set))),
                    None => break,
                },
            }
        }
        while let Some((set, externals, shipped)) = running.next().await {
            match self.account(plan, &set, &externals, shipped) {
                Ok(keys) => held.extend(keys),
                // The first reason is the one to tell: the others met the same.
                Err(error) => stopped = stopped.or(Some(error)),
            }
        }
        stopped.map_or(Ok(held), Err)
    }

    /// Enters a set into the summary.
    fn account(
        &self,
        plan: &Plan,
        set: &BundleSet,
        externals: &BTreeSet<ObjectKey>,
        shipped: Result<Shipped, ShipError>,
    ) -> Result<Vec<HeldPath>, PublishError> {
        let shipped = match shipped {
            Ok(shipped) => shipped,
            Err(ShipError::Code(error)) => return Err(error.into()),
            Err(ShipError::Upload(error)) if error.stops_publishing() => return Err(error.into()),
            Err(error) => {
                for object in &set.objects {
                    self.refuse(plan.name(&object.key), error.to_string());
                }
                return Ok(Vec::new());
            }
        };
        let count = |kind| set.objects.iter().filter(|object| object.key.kind() == kind).count() as u64;
        let content = set.objects.iter().map(|object| object.content_bytes).fold(0, u64::saturating_add);
        let source = set.objects.iter().map(|object| object.source_bytes).fold(0, u64::saturating_add);
        let tried = set.objects.iter().filter(|object| object.recipe_tried).count() as u64;
        let found = set.objects.iter().filter(|object| object.has_recipe).count() as u64;
        let reused = set.bundles.iter().map(|bundle| bundle.foreign_bytes()).fold(0, u64::saturating_add);
        self.note(|summary| {
            summary.paths_published += count(KeyKind::StorePath);
            summary.logs_published += count(KeyKind::BuildLog);
            summary.realisations_published += count(KeyKind::Realisation);
            summary.debuginfo_published += count(KeyKind::DebugInfo);
            summary.recipes_tried += tried;
            summary.recipes_kept += found;
            summary.bundles += set.bundles.len() as u64;
            for (total, more) in [
                (&mut summary.content, content),
                (&mut summary.source, source),
                (&mut summary.payload, shipped.payload),
                (&mut summary.reused, reused),
                (&mut summary.sent, shipped.sent),
            ] {
                *total = ByteCount(total.0.saturating_add(more));
            }
            summary.note_externals(externals.iter().map(|key| plan.name(key)));
        });
        let objects = set.objects.len() as u64;
        self.events.tell(&PublishEvent::Committed { objects, content: ByteCount(content) });
        Ok(match shipped.outcome {
            UploadOutcome::Committed { held, .. } => held,
            UploadOutcome::AlreadyArchived => {
                set.objects.iter().filter_map(|object| plan.perhaps_held(&object.key)).collect()
            }
        })
    }

    /// Lists what was held back, now or before, and still cannot be read: later bundles of this publish may have freed it.
    pub(crate) async fn list_waiting(&self, plan: &Plan, held: Vec<HeldPath>) -> Result<(), PublishError> {
        let mut keys: BTreeSet<ObjectKey> = held.iter().map(|path| path.key).collect();
        keys.extend(held.iter().flat_map(|path| &path.waiting_for));
        let hidden = unreadable(&*self.destination, keys).await.map_err(PlanError::Archive)?;
        let hidden = |key: &ObjectKey| hidden.contains(key);
        // What is hidden though all that it refers to can be read waits for nothing: it was withdrawn.
        let waits = |path: &HeldPath| hidden(&path.key) && path.waiting_for.iter().any(hidden);
        let waiting = held.into_iter().filter(waits).map(|path| WaitingPath {
            name: plan.name(&path.key),
            waiting_for: path
                .waiting_for
                .iter()
                .filter(|key| hidden(key))
                .map(|key| plan.name(key))
                .collect(),
        });
        self.note(|summary| summary.waiting.extend(waiting));
        Ok(())
    }

    pub(crate) fn refuse(&self, name: String, reason: String) {
        self.events.tell(&PublishEvent::Refused { name: name.clone(), reason: reason.clone() });
        self.note(|summary| summary.refuse(name, reason));
    }

    pub(crate) fn note(&self, change: impl FnOnce(&mut PublishSummary)) {
        change(&mut self.summary.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// A set, the external references of its paths, and what became of it.
type Shipment = (Arc<BundleSet>, BTreeSet<ObjectKey>, Result<Shipped, ShipError>);

async fn ship(shipping: &Shipping, plan: &Plan, set: BundleSet) -> Shipment {
    let set = Arc::new(set);
    let externals: BTreeSet<ObjectKey> =
        set.objects.iter().flat_map(|object| plan.externals_of(&object.key)).collect();
    let old = TakesPlaceOf::Nothing(externals.iter().copied().collect());
    let shipped = shipping.ship(Arc::clone(&set), old).await;
    (set, externals, shipped)
}

/// About what reading an object takes: buffers, its content, and the decoder's window. A content that does not lie in memory
/// has the pieces between its threads there, which are fewer bytes.
fn memory_of(plan: &Plan, key: &ObjectKey) -> u64 {
    const BUFFERS: u64 = 2 * MIB;
    let Some(info) = plan.paths.get(key) else { return BUFFERS + MEMORY_BYTES_MAX };
    let window = match info.compression {
        Compression::None => 0,
        Compression::Bzip2 => 4 * MIB,
        // What xz -6 and zstd -19 use, and Nix with them. A file may ask for up to 128 MiB.
        Compression::Xz | Compression::Zstd => info.nar_size.min(8 * MIB),
    };
    BUFFERS + info.nar_size.min(MEMORY_BYTES_MAX) + window
}
