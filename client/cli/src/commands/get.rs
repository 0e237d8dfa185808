//! `firn get`: store paths, fetched and unpacked.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use clap::Args;
use firn_base::{ByteCount, ObjectKey};
use firn_client::publisher_keys;
use firn_nix_format::{PublisherKey, StorePath};
use firn_transport::Environment;
use futures::stream::{self, StreamExt};
use serde::Serialize;

use crate::cli::CommonOptions;
use crate::command_error::{CommandError, Done};
use crate::commands::trusted_keys;
use crate::output::{print, print_json};
use crate::progress::{Progress, Unit};
use crate::record_finder::{FoundPath, RecordFinder};
use crate::session::Session;
use crate::store_path_argument::StorePathArgument;
use crate::unpack::{UnpackError, unpack};

/// Fetch and unpack store paths.
///
/// Each path is unpacked as DIR/<base name>, and appears there only when its NAR's hash was found right. A path
/// whose place is taken already is left alone.
#[derive(Debug, Args)]
pub(crate) struct GetOptions {
    /// Store paths: whole, by base name, or by their hash of 32 characters
    #[arg(required = true, value_name = "STOREPATH")]
    paths: Vec<StorePathArgument>,
    /// Fetch everything that they refer to as well
    #[arg(long)]
    closure: bool,
    /// The directory to unpack into
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Only take what these keys have signed, "K1 K2"; by default what any publisher of the archive has
    #[arg(long, value_name = "KEYS", env = "FIRN_TRUSTED_PUBLIC_KEYS")]
    trusted_public_keys: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Unpacked {
    store_path: String,
    output: String,
    nar_size: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Missing {
    path: String,
    reason: String,
}

/// What became of a get. The names of the fields are those of the JSON.
#[derive(Debug, Default, Serialize)]
struct GetSummary {
    unpacked: Vec<Unpacked>,
    already_there: Vec<String>,
    missing: Vec<Missing>,
    bytes: u64,
}

// Each holds some MiB of frames and of pieces that wait for the disk.
const PATHS_AT_ONCE: usize = 4;

/// Runs the command.
pub(crate) async fn run(common: &CommonOptions, options: GetOptions) -> Result<Done, CommandError> {
    let trusted = trusted_keys(&options.trusted_public_keys)?;
    std::fs::create_dir_all(&options.output)
        .map_err(|source| CommandError::file("make the directory", &options.output, source))?;
    let session = Session::open(common).await?;
    let finder = session.finder();
    let publishers = match trusted {
        Some(keys) => keys,
        None => publisher_keys(&session.archive().ledger().await?),
    };
    let mut summary = GetSummary::default();
    let wanted = find(&finder, &options, &publishers, &mut summary).await?;
    fetch(&finder, session.archive().environment(), &options.output, wanted, &mut summary).await;
    summary.missing.sort();
    for path in &summary.missing {
        eprintln!("error: {}: {}", path.path, path.reason);
    }
    if common.json {
        print_json(&summary)?;
    } else {
        let there = summary.already_there.iter().map(|place| format!("{place} (was there already)"));
        let fresh = summary.unpacked.iter().map(|path| path.output.clone());
        let lines: Vec<String> = there.chain(fresh).collect();
        if !lines.is_empty() {
            print(&lines.join("\n"))?;
        }
        eprintln!("{} paths, {} unpacked", summary.unpacked.len(), ByteCount(summary.bytes));
    }
    session.close().await;
    Ok(Done::when(summary.missing.is_empty()))
}

/// The paths asked for, with all that they refer to if so asked.
async fn find(
    finder: &RecordFinder,
    options: &GetOptions,
    publishers: &[PublisherKey],
    summary: &mut GetSummary,
) -> Result<Vec<FoundPath>, CommandError> {
    let mut found: Vec<FoundPath> = Vec::new();
    let mut seen: BTreeSet<ObjectKey> = BTreeSet::new();
    let mut next: BTreeMap<ObjectKey, StorePathArgument> =
        options.paths.iter().map(|path| (path.key(), path.clone())).collect();
    while !next.is_empty() {
        let keys: Vec<ObjectKey> = next.keys().copied().collect();
        seen.extend(&keys);
        let places = finder.locate(&keys).await?;
        let mut references: BTreeMap<ObjectKey, StorePathArgument> = BTreeMap::new();
        for ((key, argument), places) in next.iter().zip(places) {
            let path = finder.path(key, &places, publishers).await;
            let reason = match path {
                Err(error) => error.to_string(),
                Ok(None) => "it is not archived".to_owned(),
                Ok(Some(path)) if !argument.names(&path.info.store_path) => {
                    format!("it is not archived; {} is", path.info.store_path)
                }
                Ok(Some(path)) if path.publisher.is_none() => {
                    "no key that is trusted here has signed it".to_owned()
                }
                Ok(Some(path)) => {
                    if options.closure {
                        let own = path.info.references.iter().map(reference);
                        references.extend(own.filter(|(key, _)| !seen.contains(key)));
                    }
                    found.push(path);
                    continue;
                }
            };
            summary.missing.push(Missing { path: argument.to_string(), reason });
        }
        next = references;
    }
    Ok(found)
}

fn reference(path: &StorePath) -> (ObjectKey, StorePathArgument) {
    (ObjectKey::store_path(*path.hash()), StorePathArgument::Path(path.clone()))
}

async fn fetch(
    finder: &RecordFinder,
    environment: &Environment,
    output: &Path,
    wanted: Vec<FoundPath>,
    summary: &mut GetSummary,
) {
    let place = |path: &FoundPath| output.join(path.info.store_path.base_name());
    let (there, wanted): (Vec<FoundPath>, Vec<FoundPath>) =
        wanted.into_iter().partition(|path| std::fs::symlink_metadata(place(path)).is_ok());
    summary.already_there.extend(there.iter().map(|path| place(path).display().to_string()));
    let bytes = wanted.iter().map(|path| path.info.nar_size).fold(0, u64::saturating_add);
    let progress = &Progress::new("fetching", Unit::Bytes, bytes);
    let fetches = wanted.iter().map(|path| async move {
        let result = fetch_one(finder, environment, output, path, progress).await;
        (path, result)
    });
    let mut fetched = std::pin::pin!(stream::iter(fetches).buffer_unordered(PATHS_AT_ONCE));
    while let Some((path, result)) = fetched.next().await {
        let store_path = path.info.store_path.to_string();
        match result {
            Ok(()) => {
                let nar_size = path.info.nar_size;
                summary.bytes = summary.bytes.saturating_add(nar_size);
                summary.unpacked.push(Unpacked {
                    store_path,
                    output: place(path).display().to_string(),
                    nar_size,
                });
            }
            Err(error) => summary.missing.push(Missing { path: store_path, reason: error.to_string() }),
        }
    }
    summary.unpacked.sort_by(|one, other| one.store_path.cmp(&other.store_path));
}

async fn fetch_one(
    finder: &RecordFinder,
    environment: &Environment,
    output: &Path,
    path: &FoundPath,
    progress: &Progress,
) -> Result<(), UnpackError> {
    let plan = finder.objects().open(path.found.bundle, path.found.record.clone()).await?;
    progress.say(path.info.store_path.name().to_owned());
    unpack(environment, plan.stream(None)?, output, path.info.store_path.base_name()).await?;
    progress.add(path.info.nar_size);
    Ok(())
}
