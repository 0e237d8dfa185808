//! `firn get`: store paths as a binary cache, or unpacked.

use std::path::{Path, PathBuf};

use clap::Args;
use firn_base::ByteCount;
use firn_transport::Environment;
use futures::stream::{self, StreamExt};
use serde::Serialize;

use crate::cli::CommonOptions;
use crate::command_error::{CommandError, Done};
use crate::commands::export::{NarFlags, show};
use crate::commands::trusted_keys;
use crate::export::Export;
use crate::output::{print, print_json};
use crate::path_search::{Missing, MissingState, PathSearch, unreadable, unwritable};
use crate::progress::{Progress, Unit};
use crate::record_finder::{FoundPath, RecordFinder};
use crate::report::counted;
use crate::session::Session;
use crate::store_path_argument::StorePathArgument;
use crate::unpack::{UnpackError, unpack};

/// Fetch store paths, as a binary cache that Nix reads by file://, or unpacked.
///
/// The cache is written as `firn export` writes it. With --unpack each path becomes DIR/<base name>, which appears only
/// when its NAR's hash was found right; a path whose place is taken already is left alone. Either way what is missing is
/// named and makes the exit code 1.
#[derive(Debug, Args)]
pub(crate) struct GetOptions {
    /// Store paths: whole, by base name, or by their hash of 32 characters
    #[arg(required = true, value_name = "STOREPATH")]
    paths: Vec<StorePathArgument>,
    /// Fetch everything that they refer to as well
    #[arg(long)]
    closure: bool,
    /// The directory to write into
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Unpack the paths instead of writing a cache
    #[arg(long, conflicts_with_all = ["compression", "as_published", "listings"])]
    unpack: bool,
    #[command(flatten)]
    form: NarFlags,
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

/// What became of unpacking. The names of the fields are those of the JSON.
#[derive(Debug, Default, Serialize)]
struct UnpackSummary {
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
    let session = Session::open(common).await?;
    let environment = session.archive().environment();
    let search = PathSearch::new(&session, trusted).await?;
    let progress = Progress::new("fetching", Unit::Bytes, 0);
    let done = if options.unpack {
        let summary = unpack_all(&search, environment, &options, &progress).await?;
        drop(progress);
        show_unpacked(common, &summary)?
    } else {
        let export = Export::open(environment, search, &options.output, options.form.into()).await?;
        let summary = export.named(&options.paths, options.closure, &progress).await?;
        drop(progress);
        show(common, &summary)?
    };
    session.close().await;
    Ok(done)
}

fn show_unpacked(common: &CommonOptions, summary: &UnpackSummary) -> Result<Done, CommandError> {
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
        let paths = counted(u64::try_from(summary.unpacked.len()).unwrap_or(u64::MAX), "path");
        eprintln!("{paths}, {} unpacked", ByteCount(summary.bytes));
    }
    Ok(Done::when(summary.missing.is_empty()))
}

async fn unpack_all(
    search: &PathSearch,
    environment: &Environment,
    options: &GetOptions,
    progress: &Progress,
) -> Result<UnpackSummary, CommandError> {
    let output = &options.output;
    std::fs::create_dir_all(output)
        .map_err(|source| CommandError::file("make the directory", output, source))?;
    let (wanted, missing) = search.find(&options.paths, options.closure).await?;
    let mut summary = UnpackSummary { missing, ..UnpackSummary::default() };
    let place = |path: &FoundPath| output.join(path.info.store_path.base_name());
    let (there, wanted): (Vec<FoundPath>, Vec<FoundPath>) =
        wanted.into_iter().partition(|path| std::fs::symlink_metadata(place(path)).is_ok());
    summary.already_there.extend(there.iter().map(|path| place(path).display().to_string()));
    progress.expect(wanted.iter().map(|path| path.info.nar_size).fold(0, u64::saturating_add));
    let fetches = wanted.iter().map(|path| async move {
        let result = fetch_one(search.finder(), environment, output, path, progress).await;
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
            Err(error) => {
                let (state, reason) = match error {
                    UnpackError::Read(error) => (MissingState::Unreadable, unreadable(&error)),
                    error => (MissingState::Unwritable, unwritable(&error)),
                };
                summary.missing.push(Missing { path: store_path, state, reason });
            }
        }
    }
    summary.missing.sort();
    summary.unpacked.sort_by(|one, other| one.store_path.cmp(&other.store_path));
    Ok(summary)
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
