//! `firn status`: the archive at a glance, or waiting until it is as it should be.

use std::time::Duration;

use clap::{Args, ValueEnum};
use firn_base::parse_duration;
use firn_transport::AskError;
use firn_wire::{ArchiveStatus, NodeState, NodeSummary};
use tokio::time::{Instant, sleep, timeout_at};

use crate::cli::CommonOptions;
use crate::command_error::{CommandError, Done};
use crate::commands::node;
use crate::output::print_as;
use crate::progress::{Progress, Unit};
use crate::report::{StatusReport, counted};
use crate::session::Session;

/// Print the archive's state, or wait for one.
///
/// With --until or --until-nodes nothing is printed before the archive is in that state; if it is not in time,
/// the exit code is 1.
#[derive(Debug, Args)]
pub(crate) struct StatusOptions {
    /// Wait until every bundle has all its shards and nothing is left to repair or move (`full`), no node is
    /// draining (`drained`), or every bundle can be read (`readable`)
    #[arg(long, value_enum, value_name = "STATE")]
    until: Option<Until>,
    /// Wait until so many nodes are online and have proved what they hold
    #[arg(long, value_name = "N")]
    until_nodes: Option<u64>,
    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = parse_duration)]
    timeout: Duration,
}

/// A state to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Until {
    Full,
    Drained,
    Readable,
}

/// How far the archive is from what is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Distance {
    done: u64,
    total: u64,
    reached: bool,
    sentence: String,
}

const POLL_EVERY: Duration = Duration::from_millis(500);

// The leader measures in rounds: one look alone may fall between an event and the round that notices it.
const LOOKS_IN_A_ROW: u32 = 2;

/// Runs the command.
pub(crate) async fn run(common: &CommonOptions, options: StatusOptions) -> Result<Done, CommandError> {
    let session = Session::open(common).await?;
    let deadline = Instant::now() + options.timeout;
    if let Some(until) = options.until {
        let progress = Progress::new(until.activity(), Unit::Things(until.things()), 0);
        wait(&progress, deadline, options.timeout, async || {
            let status = session.status().await?;
            Ok(until.distance(&status))
        })
        .await?;
    }
    if let Some(wanted) = options.until_nodes {
        let progress = Progress::new("waiting for", Unit::Things("nodes"), wanted);
        wait(&progress, deadline, options.timeout, async || {
            let nodes = node::list(&session).await?;
            Ok(nodes_distance(&nodes, wanted))
        })
        .await?;
    }
    let status = session.status().await?;
    let report = StatusReport::from(&status).with_resting(node::resting(&session).await.as_deref());
    print_as(common.json, &report, ToString::to_string)?;
    session.close().await;
    Ok(Done::Completely)
}

/// Looks again and again until it is reached.
async fn wait(
    progress: &Progress,
    deadline: Instant,
    timeout: Duration,
    mut look: impl AsyncFnMut() -> Result<Distance, AskError>,
) -> Result<(), CommandError> {
    let mut in_a_row = 0;
    let mut last = "no coordinator answered".to_owned();
    loop {
        match timeout_at(deadline, look()).await {
            Ok(Ok(distance)) => {
                progress.set(distance.done, distance.total);
                in_a_row = if distance.reached { in_a_row + 1 } else { 0 };
                last = distance.sentence;
                if in_a_row >= LOOKS_IN_A_ROW {
                    return Ok(());
                }
            }
            // Coordinators may be away for a while, as when a new leader is elected.
            Ok(Err(error)) => {
                in_a_row = 0;
                last = error.to_string();
            }
            Err(_) => {}
        }
        if Instant::now() + POLL_EVERY >= deadline {
            let seconds = timeout.as_secs_f64();
            return Err(CommandError::Failed(format!("not reached within {seconds} s: {last}")));
        }
        sleep(POLL_EVERY).await;
    }
}

impl Until {
    const fn activity(self) -> &'static str {
        match self {
            Self::Full => "repairing",
            Self::Drained => "draining",
            Self::Readable => "waiting for",
        }
    }

    const fn things(self) -> &'static str {
        match self {
            Self::Full => "bundles at full strength",
            Self::Drained => "nodes drained",
            Self::Readable => "readable bundles",
        }
    }

    fn distance(self, status: &ArchiveStatus) -> Distance {
        let bundles = status.bundles;
        let unknown = || Distance {
            done: 0,
            total: bundles,
            reached: false,
            sentence: "the leader does not answer".to_owned(),
        };
        match self {
            Self::Drained => {
                let draining: u64 = (status.nodes.iter())
                    .filter(|(state, _, _)| *state == NodeState::Draining)
                    .map(|(_, all, _)| *all)
                    .sum();
                let backlog = status.drain_backlog.map_or_else(String::new, |backlog| format!(": {backlog}"));
                let drain = if draining == 1 { "is draining" } else { "are draining" };
                let sentence = format!("{} {drain}{backlog}", counted(draining, "node"));
                Distance { done: 0, total: draining, reached: draining == 0, sentence }
            }
            Self::Full => {
                let (Some(health), Some(repairs), Some(moves)) =
                    (status.health, status.repair_backlog, status.move_backlog)
                else {
                    return unknown();
                };
                let wait = status.repair_wait.map(|wait| format!("; {}", wait.sentence(status.at)));
                let sentence = format!(
                    "{} of {bundles} bundles are at full strength, {repairs} shards are to be made and {moves} to be moved{}",
                    health.full,
                    wait.unwrap_or_default()
                );
                let reached = health.full == bundles && repairs == 0 && moves == 0;
                Distance { done: health.full, total: bundles, reached, sentence }
            }
            Self::Readable => {
                let Some(health) = status.health else { return unknown() };
                let sentence = format!("{} of {bundles} bundles cannot be read", health.unreadable);
                let done = bundles.saturating_sub(health.unreadable);
                Distance { done, total: bundles, reached: health.unreadable == 0, sentence }
            }
        }
    }
}

fn nodes_distance(nodes: &[NodeSummary], wanted: u64) -> Distance {
    let ready = nodes.iter().filter(|node| node.online && node.proved).count();
    let done = u64::try_from(ready).unwrap_or(u64::MAX);
    let sentence = format!("{done} nodes are online and have proved what they hold, {wanted} are waited for");
    Distance { done, total: wanted, reached: done >= wanted, sentence }
}

#[cfg(test)]
mod tests {
    use firn_wire::{BundleHealthCounts, RepairWait, RepairWaitReason};

    use super::*;
    use crate::report::example_status;

    fn with_health(health: BundleHealthCounts, repairs: u64, moves: u64) -> ArchiveStatus {
        ArchiveStatus {
            health: Some(health),
            repair_backlog: Some(repairs),
            move_backlog: Some(moves),
            ..example_status()
        }
    }

    #[test]
    fn full_means_all_shards_and_nothing_left_to_do() {
        let full = BundleHealthCounts { full: 3, ..BundleHealthCounts::default() };
        let reached =
            |health, repairs, moves| Until::Full.distance(&with_health(health, repairs, moves)).reached;
        assert!(reached(full, 0, 0));
        assert!(!reached(full, 1, 0) && !reached(full, 0, 1));
        assert!(!reached(BundleHealthCounts { full: 2, ..full }, 0, 0));
        assert!(!Until::Full.distance(&ArchiveStatus { health: None, ..example_status() }).reached);
    }

    #[test]
    fn whoever_waits_in_vain_is_told_that_repair_waits_too() {
        let wait = RepairWait { reason: RepairWaitReason::FleetVanished, until: example_status().at };
        let waiting = with_health(BundleHealthCounts::default(), 9, 0);
        let status = ArchiveStatus { repair_wait: Some(wait), ..waiting };
        let distance = Until::Full.distance(&status);
        assert!(!distance.reached && distance.sentence.contains("vanished at once"), "{distance:?}");
    }

    #[test]
    fn drained_means_that_no_node_is_draining() {
        let mut status = example_status();
        let waiting = Until::Drained.distance(&status);
        assert!(!waiting.reached && waiting.sentence.contains("it has no other home now"), "{waiting:?}");
        status.nodes.retain(|(state, _, _)| *state != NodeState::Draining);
        assert!(Until::Drained.distance(&status).reached);
    }

    #[test]
    fn readable_means_that_no_bundle_is_unreadable() {
        let health = BundleHealthCounts { unreadable: 1, ..BundleHealthCounts::default() };
        assert!(!Until::Readable.distance(&with_health(health, 9, 9)).reached);
        assert!(Until::Readable.distance(&with_health(BundleHealthCounts::default(), 9, 9)).reached);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_ends_with_what_was_seen_last() {
        let progress = Progress::new("waiting for", Unit::Things("nodes"), 3);
        let within = Duration::from_secs(5);
        let mut looks = 0;
        let error = wait(&progress, Instant::now() + within, within, async || {
            looks += 1;
            Ok(nodes_distance(&[], 3))
        })
        .await
        .unwrap_err();
        assert!(looks > 5, "{looks} looks");
        assert_eq!(
            error.to_string(),
            "not reached within 5 s: 0 nodes are online and have proved what they hold, 3 are waited for"
        );
        wait(&progress, Instant::now() + within, within, async || Ok(nodes_distance(&[], 0))).await.unwrap();
    }
}
