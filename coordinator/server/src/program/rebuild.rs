//! Beginning an archive again whose coordinators were lost, and looking at how that goes.

use std::path::Path;
use std::sync::Arc;

use firn_base::{NodeId, Timestamp};
use firn_coordinator::storage::KeyValue;
use firn_coordinator::{Peer, RebuildOptions, SnapshotFile, next_descriptor, refound};
use firn_transport::{Environment, load_identity};
use firn_wire::{
    AdminReply, AdminRequest, Descriptor, Identity, RebuildProgress, RebuildStage, VerifiedRoster,
};

use super::administration::done;
use super::arguments::{RebuildAction, RebuildArguments, RunOptions};
use super::desk::{Desk, misfit};
use super::{Failure, WrongUsage};

/// What a rebuild begins with.
pub(crate) struct Beginning {
    archive_key: Identity,
    rosters: Vec<VerifiedRoster>,
    arguments: BeginningArguments,
}

struct BeginningArguments {
    snapshot: Option<std::path::PathBuf>,
    generation: Option<u64>,
    quiet: std::time::Duration,
}

/// Runs as the first of the new coordinators.
pub(crate) async fn rebuild(
    arguments: &RebuildArguments,
    descriptors: &[String],
    options: &RunOptions,
    directory: &Path,
) -> Result<(), Failure> {
    super::run(options, directory, Some(&Beginning::read(arguments, descriptors)?)).await
}

/// Asks the coordinator that leads how it goes, or to go on.
pub(super) async fn administer(action: &RebuildAction, desk: &Desk, json: bool) -> Result<(), Failure> {
    match action {
        RebuildAction::Status => status(desk, json).await,
        RebuildAction::Finish => {
            done(desk, AdminRequest::FinishRebuild).await?;
            println!(
                "what was shown is being restored: `firn-coordinator rebuild status` says how far it is"
            );
            Ok(())
        }
        RebuildAction::Reopen => {
            done(desk, AdminRequest::ReopenRebuild).await?;
            println!("nodes are listened to again: `firn-coordinator rebuild status` says what they show");
            Ok(())
        }
    }
}

impl Beginning {
    fn read(arguments: &RebuildArguments, descriptors: &[String]) -> Result<Self, Failure> {
        let key = arguments.archive_key.as_deref();
        let key = key.ok_or(WrongUsage("name the archive key with --archive-key"))?;
        let archive_key = load_identity(key)?;
        let archive = archive_key.public().into();
        let mut rosters = Vec::new();
        for file in descriptors {
            let text = std::fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
            let descriptor: Descriptor = text.parse().map_err(|error| format!("{file}: {error}"))?;
            rosters.push(descriptor.verify()?);
        }
        if let Some(file) = &arguments.snapshot {
            rosters.push(SnapshotFile::open(file, archive)?.roster().clone());
        }
        if rosters.is_empty() {
            return Err(WrongUsage("name the newest descriptor at hand with --archive: every node keeps one as `archive` in its data directory").into());
        }
        // Of the newest one the next is made.
        rosters.sort_by_key(|roster| roster.roster().generation);
        let snapshot = arguments.snapshot.clone();
        let (generation, quiet) = (arguments.generation, arguments.quiet);
        Ok(Self { archive_key, rosters, arguments: BeginningArguments { snapshot, generation, quiet } })
    }

    /// The descriptor with the new coordinators.
    pub(crate) fn descriptor(
        &self,
        own: &Peer,
        peers: &[Peer],
        now: Timestamp,
    ) -> Result<Descriptor, Failure> {
        let before = self.rosters.last().ok_or("there is no roster to go on from")?;
        let generation = self.arguments.generation;
        Ok(next_descriptor(&self.archive_key, before, (own, peers), generation, now)?)
    }

    /// Refuses a directory that knows an archive otherwise than from an earlier start of this rebuild.
    pub(crate) fn check_begun(&self, known: &Descriptor) -> Result<(), Failure> {
        let known = known.verify()?;
        let is_later = |before: &VerifiedRoster| {
            before.archive() == known.archive() && before.roster().generation < known.roster().generation
        };
        match self.rosters.iter().all(is_later) {
            true => Ok(()),
            false => Err("this data directory is of a coordinator that takes part in an archive: a rebuild begins with an empty one".into()),
        }
    }

    /// Puts the backup's state in its place, if there is one, and begins the new log. Does nothing where that was done.
    pub(crate) async fn begin(
        &self,
        log: &Arc<dyn KeyValue>,
        state: &Arc<dyn KeyValue>,
        (own, descriptor): (NodeId, &Descriptor),
        environment: &Environment,
    ) -> Result<(), Failure> {
        let roster = descriptor.verify()?;
        let snapshot = match &self.arguments.snapshot {
            Some(file) => Some(SnapshotFile::open(file, descriptor.archive)?),
            None => None,
        };
        let (log, state, inner) = (Arc::clone(log), Arc::clone(state), environment.clone());
        let begin = move || refound(&*log, &state, (own, roster.roster()), snapshot, &inner);
        Ok(environment.blocking(begin).await?)
    }

    /// What the coordinator needs of it.
    pub(crate) fn options(&self) -> RebuildOptions {
        let (rosters, quiet) = (self.rosters.clone(), self.arguments.quiet);
        RebuildOptions { rosters, quiet, ..RebuildOptions::default() }
    }
}

async fn status(desk: &Desk, json: bool) -> Result<(), Failure> {
    let AdminReply::Rebuild(progress) = desk.ask(AdminRequest::RebuildProgress).await? else {
        return Err(misfit());
    };
    match progress {
        Some(progress) if json => println!("{}", to_json(&progress)),
        Some(progress) => print(&progress),
        None if json => println!("null"),
        None => println!("no rebuild is under way"),
    }
    Ok(())
}

fn print(progress: &RebuildProgress) {
    println!("stage      {}", progress.stage);
    println!(
        "nodes      {} have shown what they have, {} awaited",
        progress.nodes_shown, progress.nodes_awaited
    );
    println!("ledger     {} of {} entries restored", progress.ledger_restored, progress.ledger_entries);
    println!(
        "bundles    {} seen, {} readable, {} restored; {} without a certificate",
        progress.bundles_seen,
        progress.bundles_readable,
        progress.bundles_restored,
        progress.bundles_uncertified
    );
    println!("shards     {} shown", progress.shards_shown);
    if progress.bundles_unrestored > 0 {
        println!("missing    {} bundles did not come back:", progress.bundles_unrestored);
    }
    for bundle in &progress.unrestored {
        println!("missing    bundle {}: {}", bundle.bundle, bundle.reason);
    }
    for sentence in &progress.refused {
        println!("refused    {sentence}");
    }
    if progress.stage == RebuildStage::Listening {
        println!("Nodes are listened to: `firn-coordinator rebuild finish` restores what they have shown.");
    }
}

fn to_json(progress: &RebuildProgress) -> serde_json::Value {
    let unrestored = progress.unrestored.iter();
    serde_json::json!({
        "stage": progress.stage.to_string(),
        "nodes_shown": progress.nodes_shown,
        "nodes_awaited": progress.nodes_awaited,
        "ledger_entries": progress.ledger_entries,
        "ledger_restored": progress.ledger_restored,
        "bundles_seen": progress.bundles_seen,
        "bundles_readable": progress.bundles_readable,
        "bundles_restored": progress.bundles_restored,
        "bundles_uncertified": progress.bundles_uncertified,
        "shards_shown": progress.shards_shown,
        "bundles_unrestored": progress.bundles_unrestored,
        "unrestored": unrestored
            .map(|bundle| serde_json::json!({ "bundle": bundle.bundle, "reason": bundle.reason }))
            .collect::<Vec<_>>(),
        "refused": progress.refused,
    })
}
