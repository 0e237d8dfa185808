//! Restoring a binary cache from bare shard files.
//!
//! Owns: which bundles and objects are tried, and what is said of those that cannot be restored. Always holds: no
//! network; a bundle with too few shards still gives what its data shards hold; what others restore need not come from
//! a bundle that uses chunks of one which was not found (it may stay for its own chunks alone, and then others hold its
//! paths).
//! Leaves to others: finding shards and rebuilding (`firn-retrieval`), writing what was found (`object_writer`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use firn_base::{BundleId, ObjectKey};
use firn_bundle::{BundleRole, ContentHeader, Manifest, Record, RecordBody};
use firn_retrieval::{
    FileReader, FoundShards, ManifestOptions, ManifestReader, ObjectOptions, ObjectReader, PayloadReader,
    ReadError,
};
use firn_transport::Environment;
use futures::stream::{self, StreamExt};

use crate::cache_directory::CacheDirectory;
use crate::command_error::CommandError;
use crate::object_writer::{NarForm, ObjectWriter, Written};
use crate::progress::Progress;
use crate::recovery_summary::{
    DamagedFile, FailedObject, IncompleteBundle, RecoverySummary, WithdrawnObject,
};
use crate::withdrawals::Withdrawals;

// Each holds a few frames of up to 4 MiB; restoring is bound by hashing, not by waiting.
const OBJECTS_AT_ONCE: usize = 4;

/// A recovery that is about to run.
#[derive(Debug)]
pub(crate) struct Recovery {
    environment: Environment,
    files: FileReader,
    objects: ObjectReader,
    writer: ObjectWriter,
    withdrawals: Withdrawals,
}

/// What became of one bundle.
enum BundleOutcome {
    Restored,
    Failed(String),
}

/// What became of one object.
enum ObjectOutcome {
    Path(Written),
    Other(Written),
    Withdrawn(WithdrawnObject),
    /// Another bundle had it.
    Restored,
    Failed(FailedObject),
}

impl Recovery {
    /// Finds the shard files under `places` and makes ready the cache at `output`.
    pub(crate) async fn open(
        environment: &Environment,
        places: Vec<PathBuf>,
        withdrawals: Withdrawals,
        output: &Path,
    ) -> Result<Self, CommandError> {
        let files = FileReader::scan(environment.clone(), places).await?;
        if files.bundles().is_empty() {
            let damaged = files.damaged_files();
            return Err(CommandError::Failed(match damaged.first() {
                None => "no shard file was found: name the directories that hold them".to_owned(),
                Some(file) => format!(
                    "no usable shard file was found among {} damaged ones, the first is {}: {}",
                    damaged.len(),
                    file.path.display(),
                    file.what
                ),
            }));
        }
        let cache = CacheDirectory::open(environment, output).await?;
        let manifests = ManifestReader::new(Arc::new(files.clone()), ManifestOptions::default());
        let objects = ObjectReader::new(manifests, environment.clone(), ObjectOptions::default());
        let writer = ObjectWriter::new(cache, NarForm::default());
        Ok(Self { environment: environment.clone(), files, objects, writer, withdrawals })
    }

    /// Restores everything that can be.
    ///
    /// # Errors
    /// Only what would keep every object from being written, such as a full disk.
    pub(crate) async fn run(&self, progress: &Progress) -> Result<RecoverySummary, CommandError> {
        let bundles = self.files.bundles();
        let mut summary = RecoverySummary {
            bundles: count(bundles.len()),
            notes: self.withdrawals.notes.clone(),
            ..RecoverySummary::default()
        };
        progress.set(0, summary.bundles);
        let mut restored = BTreeSet::new();
        let mut failed: BTreeMap<BundleId, String> = BTreeMap::new();
        let found: BTreeSet<BundleId> = bundles.iter().map(|(id, ..)| *id).collect();
        let tried = bundles.iter().filter(|(_, content, _)| content.role() != BundleRole::Part);
        let (whole, lacking): (Vec<_>, Vec<_>) =
            tried.partition(|(_, content, _)| content.dependencies().iter().all(|id| found.contains(id)));
        // Of what was restored so far, where anybody asks.
        let mut keys = (!lacking.is_empty()).then(BTreeSet::new);
        for (id, content, _) in whole.into_iter().chain(lacking) {
            progress.say(format!("{} paths", summary.paths));
            let is_head = content.role() == BundleRole::Head;
            let parts = if is_head { content.dependencies() } else { &[] };
            match self.restore_bundle(*id, content, &mut keys, &mut summary).await? {
                BundleOutcome::Restored => {
                    restored.insert(*id);
                    restored.extend(parts);
                }
                BundleOutcome::Failed(why) => {
                    let part = || format!("it is a part of an object of bundle {}: {why}", id.short());
                    failed.extend(parts.iter().map(|own| (*own, part())));
                    failed.insert(*id, why);
                }
            }
            progress.add(1 + count(parts.len()));
        }
        self.writer.cache().sync().await.map_err(|error| CommandError::Failed(error.to_string()))?;
        for (id, content, found) in &bundles {
            if restored.contains(id) {
                summary.bundles_restored += 1;
            } else {
                let why = failed.remove(id);
                summary.incomplete_bundles.push(incomplete(*id, content, *found, why));
            }
        }
        let damaged = self.files.damaged_files().into_iter();
        summary.damaged_files.extend(damaged.map(|file| DamagedFile {
            path: file.path.display().to_string(),
            reason: file.what,
            used: file.usable,
        }));
        summary.failed_objects.sort();
        summary.withdrawn_objects.sort();
        Ok(summary)
    }

    async fn restore_bundle(
        &self,
        id: BundleId,
        content: &ContentHeader,
        keys: &mut Option<BTreeSet<ObjectKey>>,
        summary: &mut RecoverySummary,
    ) -> Result<BundleOutcome, CommandError> {
        let manifest = match self.manifest(id, content).await {
            Ok(manifest) => manifest,
            Err(error) => return Ok(BundleOutcome::Failed(error.to_string())),
        };
        let (mut tried, mut failures) = (0_u64, 0_u64);
        let mut fresh = Vec::new();
        {
            // What lacks nothing is tried whatever others had: it may have another content of a path.
            let others = keys.as_ref().filter(|_| !self.absent(content).is_empty());
            let is_restored = |key: &ObjectKey| others.is_some_and(|keys| keys.contains(key));
            let records = manifest.records().map(|located| async {
                match located {
                    Ok(located) if is_restored(&located.record.key) => Ok((None, ObjectOutcome::Restored)),
                    Ok(located) => {
                        let key = located.record.key;
                        self.restore_object(id, located.record).await.map(|outcome| (Some(key), outcome))
                    }
                    Err(error) => {
                        let name = format!("a record of bundle {}", id.short());
                        Ok((None, ObjectOutcome::Failed(FailedObject { name, reason: error.to_string() })))
                    }
                }
            });
            let mut outcomes = std::pin::pin!(stream::iter(records).buffer_unordered(OBJECTS_AT_ONCE));
            while let Some(outcome) = outcomes.next().await {
                tried += 1;
                let (key, outcome) = outcome?;
                let (bytes, note) = match outcome {
                    ObjectOutcome::Path(Written { bytes, note }) => {
                        summary.paths += 1;
                        fresh.extend(key);
                        (bytes, note)
                    }
                    ObjectOutcome::Other(Written { bytes, note }) => {
                        summary.others += 1;
                        fresh.extend(key);
                        (bytes, note)
                    }
                    ObjectOutcome::Withdrawn(object) => {
                        summary.withdrawn_objects.push(object);
                        (0, None)
                    }
                    ObjectOutcome::Restored => (0, None),
                    ObjectOutcome::Failed(object) => {
                        failures += 1;
                        summary.failed_objects.push(object);
                        (0, None)
                    }
                };
                summary.bytes = summary.bytes.saturating_add(bytes);
                summary.notes.extend(note);
            }
        }
        if let Some(keys) = keys {
            keys.extend(fresh);
        }
        Ok(match failures {
            0 => BundleOutcome::Restored,
            _ => {
                let absent = self.absent(content);
                BundleOutcome::Failed(format!(
                    "{failures} of its {tried} objects could not be restored{absent}"
                ))
            }
        })
    }

    /// Which bundles that this one uses chunks of were not found at all, as the end of a sentence.
    fn absent(&self, content: &ContentHeader) -> String {
        let found: BTreeSet<BundleId> = self.files.bundles().iter().map(|(id, ..)| *id).collect();
        let absent = content.dependencies().iter().filter(|id| !found.contains(id));
        absent
            .map(|id| format!("; no shard file was found of bundle {}, whose chunks it uses", id.short()))
            .collect()
    }

    /// The manifest, against its root.
    async fn manifest(&self, id: BundleId, content: &ContentHeader) -> Result<Manifest, ReadError> {
        let bytes = self.files.read(id, content.manifest_extent()).await?;
        let content = content.clone();
        let parsed = self.environment.blocking(move || Manifest::parse_whole(&content, bytes)).await;
        parsed.map_err(|error| ReadError::in_manifest(id, &error))
    }

    async fn restore_object(&self, bundle: BundleId, record: Record) -> Result<ObjectOutcome, CommandError> {
        let name = object_name(&record);
        if let Some(reason) = self.withdrawals.reason(record.key) {
            return Ok(ObjectOutcome::Withdrawn(WithdrawnObject { name, reason: reason.to_owned() }));
        }
        let is_path = record.path_info().is_some();
        let written = match self.objects.open(bundle, Arc::new(record)).await {
            Ok(plan) => self.writer.write(&plan).await,
            Err(error) => Err(error.into()),
        };
        match written {
            Ok(written) if is_path => Ok(ObjectOutcome::Path(written)),
            Ok(written) => Ok(ObjectOutcome::Other(written)),
            Err(error) if error.concerns_all() => Err(CommandError::Failed(error.to_string())),
            Err(error) => Ok(ObjectOutcome::Failed(FailedObject { name, reason: error.to_string() })),
        }
    }
}

fn object_name(record: &Record) -> String {
    match &record.body {
        RecordBody::StorePath(info) => info.store_path.to_string(),
        RecordBody::Blob(blob) => blob.url.clone(),
    }
}

fn incomplete(
    id: BundleId,
    content: &ContentHeader,
    found: FoundShards,
    why: Option<String>,
) -> IncompleteBundle {
    let reason = match why {
        Some(why) => why,
        None if content.role() == BundleRole::Part => {
            "it is a part of an object whose head bundle was not found".to_owned()
        }
        None => "it was not tried".to_owned(),
    };
    IncompleteBundle { bundle: id.to_string(), have: found.have, need: found.need, reason }
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
