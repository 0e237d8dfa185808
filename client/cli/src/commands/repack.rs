//! `firn repack`: bundles that hold purged paths beside others, packed anew without them; then those that use chunks of the
//! former, without these.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use firn_base::{BundleId, Timestamp};
use firn_bundle::FrameCompression;
use firn_client::{
    PublishEvent, PublishEvents, RepackOptions, RepackWork, Repacked, publisher_endpoint, repack,
};
use firn_transport::{Environment, load_identity};
use firn_wire::{AdminReply, AdminRequest};
use serde::Serialize;

use crate::cli::CommonOptions;
use crate::command_error::{CommandError, Done};
use crate::output::print_as;
use crate::progress::{Progress, Unit};
use crate::session::Session;

/// Pack bundles anew that hold purged paths beside others, and those that use chunks of such bundles.
///
/// Reads everything else in them, checks it, packs and sends it, and lets the new bundles take the place of the old ones,
/// which are erased after that. Everything stays readable meanwhile. Can be interrupted at any time and run again.
#[derive(Debug, Args)]
pub(crate) struct RepackFlags {
    /// Only these bundles, and what uses chunks of them; all that purges wait for if none is named
    #[arg(value_name = "BUNDLE")]
    bundles: Vec<BundleId>,
    /// The key file of an operator of the archive (see `firn key`)
    #[arg(long, value_name = "FILE", env = "FIRN_OPERATOR_KEY")]
    operator_key: Option<PathBuf>,
    /// Where large files are kept on the way; the system's directory for temporary files if not given
    #[arg(long, value_name = "DIR", env = "FIRN_SPOOL_DIR")]
    spool_dir: Option<PathBuf>,
    /// What frames of the new bundles are compressed with, as for `firn publish`; if not given, lzma where the old
    /// one has it, else zstd
    #[arg(long, value_name = "CODEC[:LEVEL]")]
    frame_compression: Option<FrameCompression>,
    /// Say which bundles would be packed anew now: those that use chunks of them come after them, and are named then
    #[arg(long)]
    dry_run: bool,
}

/// What became of one bundle.
#[derive(Debug, Serialize)]
struct RepackReport {
    bundle: String,
    kept: u64,
    left_out: u64,
    shared_bytes: u64,
    bundles: u64,
    payload_bytes: u64,
    failure: Option<String>,
}

/// Runs the command.
pub(crate) async fn run(common: &CommonOptions, flags: RepackFlags) -> Result<Done, CommandError> {
    let Some(file) = flags.operator_key else {
        return Err(CommandError::Usage("name the key file of an operator with --operator-key".to_owned()));
    };
    let environment = Environment::real();
    let identity = load_identity(&file).map_err(|error| CommandError::Failed(error.to_string()))?;
    let session = Session::open_as(common, identity, publisher_endpoint(), &environment).await?;
    let only: BTreeSet<BundleId> = flags.bundles.iter().copied().collect();
    let mut reports = Vec::new();
    let finder = session.finder();
    let progress = Arc::new(Progress::new("repacking", Unit::Bytes, 0));
    let mut tried: BTreeSet<BundleId> = BTreeSet::new();
    loop {
        // Which bundles use chunks of one is told once others have taken its place, and not of all at once.
        let work = ask(&session, &only).await?;
        let next: Vec<_> = work.bundles().into_iter().filter(|(bundle, _)| tried.insert(*bundle)).collect();
        if flags.dry_run {
            let would = next.iter().map(|(bundle, _)| RepackReport::of(*bundle, Ok(Repacked::default())));
            reports.extend(would);
            break;
        }
        if next.is_empty() {
            break;
        }
        for (bundle, left_out) in next {
            progress.say(format!("bundle {}", bundle.short()));
            let options = RepackOptions {
                frame_compression: flags.frame_compression,
                spool_dir: flags.spool_dir.clone(),
                ..RepackOptions::new(bundle, left_out, work.going().clone())
            };
            let teller = Arc::clone(&progress);
            let events = PublishEvents::new(move |event| {
                if let PublishEvent::Packed { content, .. } = event {
                    teller.add(content.0);
                }
            });
            let repacked = repack(session.archive(), finder.objects(), &options, events).await;
            reports.push(RepackReport::of(bundle, repacked.map_err(|error| error.to_string())));
        }
    }
    drop(progress);
    print_as(common.json, &reports, |reports| text(reports, flags.dry_run))?;
    session.close().await;
    Ok(Done::when(reports.iter().all(|report| report.failure.is_none())))
}

/// Asks what purges want packed anew.
async fn ask(session: &Session, only: &BTreeSet<BundleId>) -> Result<RepackWork, CommandError> {
    let mut work = RepackWork::default();
    let mut after = None;
    loop {
        let request = AdminRequest::Purges { since: Timestamp::from_millis(0), after };
        let AdminReply::Purges(page) = session.archive().coordinators().administer(request).await? else {
            return Err(CommandError::Failed("the coordinators' answer does not fit".to_owned()));
        };
        let Some(last) = page.last() else { return Ok(work) };
        after = Some(last.key);
        work.add(&page, only);
    }
}

impl RepackReport {
    fn of(bundle: BundleId, repacked: Result<Repacked, String>) -> Self {
        let (done, failure) = match repacked {
            Ok(done) => (done, None),
            Err(failure) => (Repacked::default(), Some(failure)),
        };
        Self {
            bundle: bundle.to_string(),
            kept: done.kept,
            left_out: done.left_out,
            shared_bytes: done.shared.0,
            bundles: done.bundles,
            payload_bytes: done.payload.0,
            failure,
        }
    }
}

fn text(reports: &[RepackReport], dry_run: bool) -> String {
    if reports.is_empty() {
        return "no bundle waits to be packed anew".to_owned();
    }
    let line = |report: &RepackReport| match &report.failure {
        Some(failure) => format!("bundle {}: {failure}", report.bundle),
        None if dry_run => format!("would pack bundle {} anew", report.bundle),
        None => {
            let RepackReport { bundle, kept, left_out, shared_bytes, .. } = report;
            let stays = match shared_bytes {
                0 => String::new(),
                bytes => format!("; {bytes} bytes of these STAY, for other objects hold the same chunks"),
            };
            format!("bundle {bundle}: {kept} objects moved, {left_out} left out{stays}")
        }
    };
    reports.iter().map(line).collect::<Vec<_>>().join("\n")
}
