//! `firn recover`: a binary cache from bare shard files.

use std::path::PathBuf;

use clap::Args;
use firn_transport::Environment;

use crate::cli::CommonOptions;
use crate::command_error::{CommandError, Done};
use crate::output::print_as;
use crate::progress::{Progress, Unit};
use crate::recovery::Recovery;
use crate::withdrawals::Withdrawals;

/// Restore a binary cache from bare shard files, without any archive.
///
/// Any k shards of a bundle are enough, wherever they lie. Every NAR's hash is checked; what cannot be restored
/// is named, and makes the exit code 1. Shards of an upload that was never committed look like a bundle with too
/// few shards.
#[derive(Debug, Args)]
pub(crate) struct RecoverOptions {
    /// Directories that hold shard files, at any depth; symbolic links in them are not followed
    #[arg(required = true, value_name = "SHARD_DIR")]
    shard_dirs: Vec<PathBuf>,
    /// The directory to restore into, as a binary cache that Nix reads by file://
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Restore also what was withdrawn and not purged, by the ledger that nodes keep beside their shards
    #[arg(long)]
    include_withdrawn: bool,
}

/// Runs the command.
pub(crate) async fn run(common: &CommonOptions, options: RecoverOptions) -> Result<Done, CommandError> {
    let environment = Environment::real();
    // What was purged is meant to be nowhere.
    let withdrawals = Withdrawals::find(&options.shard_dirs, options.include_withdrawn);
    let recovery = Recovery::open(&environment, options.shard_dirs, withdrawals, &options.output).await?;
    let summary = {
        let progress = Progress::new("restoring", Unit::Things("bundles"), 0);
        recovery.run(&progress).await?
    };
    print_as(common.json, &summary, |summary| {
        format!("{summary}\nthe cache: file://{}", absolute(&options.output))
    })?;
    Ok(Done::when(summary.is_complete()))
}

fn absolute(path: &std::path::Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}
