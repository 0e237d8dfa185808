//! `firn compact`: small bundles, packed together into full ones.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use firn_base::{BundleId, ByteCount};
use firn_bundle::FrameCompression;
use firn_client::{
    CompactError, CompactOptions, Compacted, CompactionRounds, PublishEvent, PublishEvents, UploadPolicy,
    compact, publisher_endpoint,
};
use firn_transport::{Environment, load_identity};
use firn_wire::{AdminReply, AdminRequest, BundleFill, CompactionGroup, CompactionPlan};
use serde::Serialize;

use crate::cli::CommonOptions;
use crate::command_error::{CommandError, Done};
use crate::output::print_as;
use crate::progress::{Progress, Unit};
use crate::session::Session;

/// Pack small bundles together into full ones.
///
/// The coordinators say which: neighbours that fill half a bundle together, and smaller ones once more than 5 % of all bytes
/// lie in bundles under a quarter full. Everything in them is read, checked, packed and sent, and the new bundles take their
/// place at one stroke; the old ones are erased after that. Everything stays readable meanwhile. Can be interrupted at any
/// time and run again. It needs room for both.
#[derive(Debug, Args)]
pub(crate) struct CompactFlags {
    /// The key file of an operator of the archive, for contents (see `firn key`)
    #[arg(long, value_name = "FILE", env = "FIRN_OPERATOR_KEY")]
    operator_key: Option<PathBuf>,
    /// Where large files are kept on the way, of one group all that is packed and, raw, what that uses of full bundles:
    /// up to tens of gigabytes; the system's directory for temporary files if not given
    #[arg(long, value_name = "DIR", env = "FIRN_SPOOL_DIR")]
    spool_dir: Option<PathBuf>,
    /// What frames of the new bundles are compressed with, as for `firn publish`; if not given, lzma where one of the old
    /// ones has it, else zstd
    #[arg(long, value_name = "CODEC[:LEVEL]")]
    frame_compression: Option<FrameCompression>,
    /// Leave bundles alone that are younger than this: whoever uploads them may still be at it
    #[arg(long, value_name = "DURATION", value_parser = firn_base::parse_duration, default_value = "1h")]
    older_than: Duration,
    /// Begin no more once so many bytes of payload were packed anew
    #[arg(long, value_name = "SIZE")]
    limit: Option<ByteCount>,
    /// Say which bundles would be packed together
    #[arg(long)]
    dry_run: bool,
}

/// What became of one group of bundles.
#[derive(Debug, Serialize)]
struct GroupReport {
    /// The small bundles.
    from: Vec<String>,
    /// Bytes of their payloads.
    from_bytes: u64,
    objects: u64,
    /// New bundles.
    bundles: u64,
    payload_bytes: u64,
    failure: Option<String>,
}

/// What was done, and how full bundles were when the coordinators were last asked.
#[derive(Debug, Serialize)]
struct CompactReport {
    groups: Vec<GroupReport>,
    fill: BundleFill,
    /// Why no more was asked for, where that is not the end; or why `fill` is that of before.
    stopped: Option<String>,
}

/// Runs the command.
pub(crate) async fn run(common: &CommonOptions, flags: CompactFlags) -> Result<Done, CommandError> {
    let Some(file) = flags.operator_key.clone() else {
        return Err(CommandError::Usage("name the key file of an operator with --operator-key".to_owned()));
    };
    let environment = Environment::real();
    let identity = load_identity(&file).map_err(|error| CommandError::Failed(error.to_string()))?;
    let session = Session::open_as(common, identity, publisher_endpoint(), &environment).await?;
    let report = compact_all(&session, &flags).await;
    session.close().await;
    let report = report?;
    print_as(common.json, &report, |report| text(report, flags.dry_run))?;
    let is_whole = report.groups.iter().all(|group| group.failure.is_none());
    Ok(Done::when(is_whole && report.stopped.is_none()))
}

/// Packs one group after the other, and asks for more, until nothing new is told, the limit is reached, or what fails
/// would fail for all.
async fn compact_all(session: &Session, flags: &CompactFlags) -> Result<CompactReport, CommandError> {
    let progress = Arc::new(Progress::new("compacting", Unit::Bytes, 0));
    let limit = flags.limit.map_or(u64::MAX, |limit| limit.0);
    let mut packed_bytes = 0_u64;
    let mut rounds = CompactionRounds::default();
    let CompactionPlan { fill, mut groups } = plan(session, flags.older_than, None).await?;
    let mut report = CompactReport { groups: Vec::new(), fill, stopped: None };
    // Whether something was packed since the coordinators said how full bundles are.
    let mut is_fill_old = false;
    'pages: loop {
        let mut next: VecDeque<CompactionGroup> = rounds.take(&groups).into();
        while let Some(group) = next.pop_front() {
            if packed_bytes >= limit {
                break 'pages;
            }
            if flags.dry_run {
                packed_bytes = packed_bytes.saturating_add(group.payload.0);
                report.groups.push(GroupReport::of(&group, Ok(Compacted::default())));
                continue;
            }
            progress.say(format!("{} bundles, {}", group.bundles.len(), group.payload));
            let compacted = compact_group(session, flags, &group, &progress).await;
            if let Err(CompactError::InParts { parts, .. }) = &compacted {
                let parts = rounds.take(parts);
                if !parts.is_empty() {
                    parts.into_iter().rev().for_each(|part| next.push_front(part));
                    continue;
                }
            }
            let stops = compacted.as_ref().is_err_and(CompactError::is_general);
            if compacted.is_ok() {
                // What fails in every run must not use up the limit of every run.
                packed_bytes = packed_bytes.saturating_add(group.payload.0);
                rounds.note_packed();
                is_fill_old = true;
            }
            report.groups.push(GroupReport::of(&group, compacted.map_err(|error| error.to_string())));
            if stops {
                break 'pages;
            }
        }
        if !rounds.go_on(&groups) {
            break;
        }
        // What was done is told, whatever is refused now.
        match plan(session, flags.older_than, rounds.behind()).await {
            Ok(next) => {
                (report.fill, groups) = (next.fill, next.groups);
                is_fill_old = false;
            }
            Err(refused) => {
                report.stopped = Some(refused.to_string());
                return Ok(report);
            }
        }
    }
    if is_fill_old {
        match plan(session, flags.older_than, None).await {
            Ok(now) => report.fill = now.fill,
            Err(refused) => {
                report.stopped =
                    Some(format!("how full bundles are since the packing is not told: {refused}"));
            }
        }
    }
    Ok(report)
}

/// Asks for groups: the first ones, or those behind a bundle.
async fn plan(
    session: &Session,
    older_than: Duration,
    behind: Option<BundleId>,
) -> Result<CompactionPlan, CommandError> {
    let older_than_millis = u64::try_from(older_than.as_millis()).unwrap_or(u64::MAX);
    let request = match behind {
        None => AdminRequest::Compaction { older_than_millis },
        Some(bundle) => AdminRequest::CompactionBehind { older_than_millis, bundle },
    };
    match session.archive().coordinators().administer(request).await? {
        AdminReply::Compaction(plan) => Ok(plan),
        _ => Err(CommandError::Failed("the coordinators' answer does not fit".to_owned())),
    }
}

async fn compact_group(
    session: &Session,
    flags: &CompactFlags,
    group: &CompactionGroup,
    progress: &Arc<Progress>,
) -> Result<Compacted, CompactError> {
    let options = CompactOptions {
        bundles: group.bundles.clone(),
        frame_compression: flags.frame_compression,
        spool_dir: flags.spool_dir.clone(),
        policy: UploadPolicy::default(),
    };
    let teller = Arc::clone(progress);
    let events = PublishEvents::new(move |event| {
        if let PublishEvent::Packed { content, .. } = event {
            teller.add(content.0);
        }
    });
    // Caches of manifests that go are of no use to the next group.
    compact(session.archive(), session.finder().objects(), &options, events).await
}

impl GroupReport {
    fn of(group: &CompactionGroup, compacted: Result<Compacted, String>) -> Self {
        let (done, failure) = match compacted {
            Ok(done) => (done, None),
            Err(failure) => (Compacted::default(), Some(failure)),
        };
        Self {
            from: group.bundles.iter().map(ToString::to_string).collect(),
            from_bytes: group.payload.0,
            objects: done.objects,
            bundles: done.bundles,
            payload_bytes: done.payload.0,
            failure,
        }
    }
}

fn text(report: &CompactReport, dry_run: bool) -> String {
    let line = |group: &GroupReport| {
        let from = format!("{} bundles of {}", group.from.len(), ByteCount(group.from_bytes));
        match &group.failure {
            Some(failure) => format!("{from}: {failure}"),
            None if dry_run => format!("would pack {from} together"),
            None => {
                let GroupReport { objects, bundles, payload_bytes, .. } = group;
                format!("{from}: {objects} objects in {bundles} of {}", ByteCount(*payload_bytes))
            }
        }
    };
    let mut lines: Vec<String> = report.groups.iter().map(line).collect();
    if lines.is_empty() {
        lines.push("nothing is to be packed together".to_owned());
    }
    let BundleFill { bundles, payload, small_bundles, small_payload } = report.fill;
    lines.push(format!(
        "{small_bundles} of {bundles} bundles are under a quarter full, with {small_payload} of {payload}"
    ));
    lines.extend(report.stopped.iter().map(|why| format!("stopped: {why}")));
    lines.join("\n")
}
