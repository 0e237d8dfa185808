//! A coordinator's figures in Prometheus' text form.
//!
//! Owns: their names and what they mean, in words. Always holds: what a coordinator says of itself is there whatever has
//! become of the others; what only a leader measures is left out by others, and is never a zero. Leaves to others: serving
//! them (`http`), what to do about them (docs/operators.md).

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use firn_wire::{ArchiveStatus, CoordinatorStatus, FilterEntry, RefusedRequest};

use crate::consensus::ConsensusStatus;
use crate::coordinator::Administration;

/// What a coordinator says of itself, whoever leads.
#[derive(Debug)]
pub(super) struct OwnFigures {
    consensus: ConsensusStatus,
    ready: bool,
    /// For how long it has not been known whether something newer is committed.
    age: Duration,
    clock_wrong: bool,
    /// Log and state, on disk; none if the disk does not say.
    disk_bytes: Option<(u64, u64)>,
    /// Length of the feed, and whether the archive is being rebuilt; none if the state cannot be read.
    state: Option<(u64, bool)>,
    filters: Arc<[FilterEntry]>,
}

impl OwnFigures {
    /// Asks the coordinator.
    pub(super) async fn of(administration: &Administration) -> Self {
        Self {
            consensus: administration.consensus_status(),
            ready: administration.readiness().is_ok(),
            age: administration.age(),
            clock_wrong: administration.is_clock_wrong(),
            disk_bytes: administration.disk_bytes().await.ok(),
            state: administration.counters().ok().map(|counters| (counters.feed_head, counters.rebuilding)),
            filters: administration.filters(),
        }
    }
}

/// All figures. Who cannot say how the archive is says all the same how it is itself: the scrape succeeds, and alerts can
/// tell.
pub(super) fn text(own: &OwnFigures, archive: Result<&ArchiveStatus, &RefusedRequest>) -> String {
    let archive = match archive {
        Ok(status) => archive_figures(status),
        Err(refusal) => format!("# the archive's figures are missing: {refusal}\n"),
    };
    own_figures(own) + &archive
}

fn gauge(name: &str, help: &str, value: u64) -> String {
    format!("# HELP firn_{name} {help}\n# TYPE firn_{name} gauge\nfirn_{name} {value}\n")
}

fn own_figures(own: &OwnFigures) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let mut text = "# HELP firn_build_info The version that runs.\n# TYPE firn_build_info gauge\n".to_owned();
    // Writing to a text cannot fail.
    let _ = writeln!(text, "firn_build_info{{version=\"{version}\"}} 1");
    let mut gauge = |name: &str, help: &str, value: u64| text.push_str(&gauge(name, help, value));
    let ConsensusStatus { is_leader, applied, last_entry, trimmed, failure, .. } = &own.consensus;
    gauge("coordinator_running", "Whether it takes part; 0 once it has stopped.", failure.is_none().into());
    gauge(
        "coordinator_ready",
        "Whether it takes part, knows a leader, has a clock like the others' and rebuilds nothing.",
        own.ready.into(),
    );
    gauge("coordinator_leads", "Whether it leads.", (*is_leader).into());
    gauge(
        "coordinator_age_seconds",
        "Time since it last knew that it has all that is committed: it hears its leader or a majority.",
        own.age.as_secs(),
    );
    gauge(
        "clock_wrong",
        "Whether this coordinator's clock is more than ten minutes from a majority's.",
        own.clock_wrong.into(),
    );
    gauge(
        "coordinator_applied",
        "Index of the entry of the log that this coordinator applied last.",
        *applied,
    );
    gauge(
        "coordinator_unapplied_entries",
        "Entries of its log that this coordinator has yet to apply.",
        last_entry.saturating_sub(*applied),
    );
    gauge(
        "coordinator_log_entries",
        "Entries that it keeps in its log for those that lag behind.",
        last_entry.saturating_sub(*trimmed),
    );
    if let Some((log, state)) = own.disk_bytes {
        gauge("coordinator_log_bytes", "Bytes that its log takes on disk.", log);
        gauge("coordinator_state_bytes", "Bytes that its state takes on disk.", state);
    }
    if let Some((feed_head, rebuilding)) = own.state {
        let filtered = own.filters.iter().map(|filter| filter.range.end).max().unwrap_or(0);
        gauge("coordinator_feed_head", "Length of the feed that this coordinator has applied.", feed_head);
        gauge(
            "filter_missing_events",
            "Events at the feed's end that no filter of this coordinator is of yet: gateways read them one by one.",
            feed_head.saturating_sub(filtered),
        );
        gauge("rebuilding", "Whether the archive is being rebuilt from its nodes.", rebuilding.into());
    }
    let sum = |figure: fn(&FilterEntry) -> u64| own.filters.iter().map(figure).sum::<u64>();
    gauge("filters", "Filters over the feed that this coordinator serves.", own.filters.len() as u64);
    gauge("filter_events", "Events of the feed that they are of.", sum(|filter| filter.range.events()));
    gauge("filter_keys", "Keys in them.", sum(|filter| filter.keys));
    gauge("filter_bytes", "Bytes that they take.", sum(|filter| filter.bytes));
    text
}

/// Each coordinator, as the leader sees it.
fn coordinators(all: &[CoordinatorStatus]) -> String {
    let mut text = "# HELP firn_coordinator_up Whether the leader heard it within an election timeout.\n\
                    # TYPE firn_coordinator_up gauge\n"
        .to_owned();
    for CoordinatorStatus { id, online, .. } in all {
        let _ = writeln!(text, "firn_coordinator_up{{id=\"{id}\"}} {}", u8::from(*online));
    }
    text.push_str(
        "# HELP firn_coordinator_lag_entries Entries of the leader's log that it lacks.\n\
         # TYPE firn_coordinator_lag_entries gauge\n",
    );
    for CoordinatorStatus { id, lag, .. } in all {
        if let Some(lag) = lag {
            let _ = writeln!(text, "firn_coordinator_lag_entries{{id=\"{id}\"}} {lag}");
        }
    }
    text
}

/// The archive's figures, as the leader sees it.
fn archive_figures(status: &ArchiveStatus) -> String {
    let mut text = String::new();
    let mut gauge = |name: &str, help: &str, value: u64| text.push_str(&gauge(name, help, value));
    gauge("visible_keys", "Keys that can be read.", status.visible_keys);
    gauge("held_keys", "Keys that wait for a reference.", status.held_keys);
    gauge("external_references", "References recorded as external.", status.external_references);
    gauge("bundles", "Committed bundles.", status.bundles);
    gauge("payload_bytes", "Payload bytes of committed bundles.", status.payload.0);
    gauge("stored_bytes", "Bytes of all placed shards.", status.stored.0);
    gauge("capacity_bytes", "Quotas of active nodes.", status.capacity.0);
    gauge("free_bytes", "Bytes that may still be assigned.", status.free.0);
    gauge(
        "nodes_refusing_deletions",
        "Nodes that refused within a day to delete more than they do in one.",
        status.nodes_refusing_deletions,
    );
    gauge("feed_head", "Length of the feed.", status.feed_head);
    gauge("consensus_term", "Term of the consensus.", status.term);
    gauge("consensus_applied", "Index of the last applied entry.", status.applied);
    gauge("roster_generation", "Generation of the roster in force.", status.generation);
    gauge(
        "roster_differing_coordinators",
        "Coordinators that the roster in force lacks, or still names.",
        (status.roster_gap.lacks.len() + status.roster_gap.still_names.len()) as u64,
    );
    gauge("bundles_small", "Bundles under a quarter full.", status.fill.small_bundles);
    gauge(
        "bundles_small_payload_bytes",
        "Bytes of payload in bundles under a quarter full.",
        status.fill.small_payload.0,
    );
    gauge(
        "bundles_staying_payload_bytes",
        "Bytes of payload in bundles that no others have taken the place of.",
        status.fill.payload.0,
    );
    gauge("purges_under_way", "Purges of which something is left.", status.purges.under_way);
    gauge(
        "purges_to_repack_bundles",
        "Bundles that wait for `firn repack`: they hold purged paths beside others, or use chunks of one that did.",
        status.purges.to_repack,
    );
    gauge(
        "purges_waiting_nodes",
        "Nodes that have not confirmed that nothing is left of what is purged.",
        status.purges.waiting,
    );
    gauge(
        "coordinators_differing",
        "Coordinators whose state is not this one's at the same entry of the log.",
        u64::try_from(status.differing.len()).unwrap_or(u64::MAX),
    );
    gauge(
        "coordinators_clock_apart",
        "Coordinators whose clock is more than ten minutes from the others'.",
        u64::try_from(status.clocks_apart.len()).unwrap_or(u64::MAX),
    );
    if let Some(reserve) = status.reserve {
        gauge(
            "reserve_free_bytes",
            "Bytes that active nodes may be given, surplus and trash included.",
            reserve.free.0,
        );
        gauge("reserve_kept_bytes", "Bytes of them that are kept for repairs.", reserve.kept.0);
        gauge("reserve_missing_bytes", "Quota that is missing before publishing goes on.", reserve.missing.0);
    }
    if let Some(health) = status.health {
        gauge("bundles_full", "Bundles with all n shards durable.", health.full);
        gauge("bundles_degraded", "Bundles with fewer than n, not urgent.", health.degraded);
        gauge("bundles_urgent", "Bundles at or below the urgent threshold.", health.urgent);
        gauge("bundles_lost", "Bundles with fewer than k durable.", health.lost);
        gauge("bundles_unreadable", "Bundles with fewer than k online.", health.unreadable);
        gauge("bundles_at_risk", "Bundles for which caps leave no node.", health.at_risk);
    }
    if let Some(caps) = &status.caps {
        gauge("caps_width_shards", "Shards of one bundle that domain caps allow.", caps.width);
        gauge("caps_networks", "Networks (AS) that nodes are known to be in.", caps.networks);
        gauge("caps_countries", "Countries that nodes are known to be in.", caps.countries);
        gauge("caps_unknown_nodes", "Nodes of unknown network or country.", caps.unknown);
        gauge(
            "caps_breached_bundles",
            "Bundles with more shards together than caps allow.",
            caps.breaches.bundles,
        );
        gauge(
            "caps_breached_due_bundles",
            "Of them those whose shards move apart, for it has lasted.",
            caps.breaches.due,
        );
    }
    if let Some(recoding) = status.recoding {
        gauge("recode_older_bundles", "Bundles in a smaller k than the fleet allows.", recoding.older);
        gauge("recode_under_way_bundles", "Bundles that are being coded anew.", recoding.under_way);
    }
    if let Some(drain) = status.drain_backlog {
        gauge(
            "drain_backlog_without_home_shards",
            "Shards of draining nodes for which domain caps leave no other node.",
            drain.without_home,
        );
        gauge(
            "drain_backlog_home_unavailable_shards",
            "Shards of draining nodes whose other homes are offline or full.",
            drain.home_unavailable,
        );
    }
    if status.repair_backlog.is_some() {
        let left = status.repair_wait.map_or(0, |wait| wait.until.since(status.at).as_secs());
        gauge("repair_wait_seconds", "Until repair that is not urgent goes on at the latest.", left);
    }
    for (name, help, value) in [
        ("repair_backlog_shards", "Shards that repair has to make.", status.repair_backlog),
        ("move_backlog_shards", "Shards that have to move.", status.move_backlog),
    ] {
        if let Some(value) = value {
            gauge(name, help, value);
        }
    }
    if let Some(bytes) = status.repair_traffic {
        let (name, help) =
            ("firn_repair_traffic_bytes_total", "Read and sent by repair since this leader began.");
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {}", bytes.0);
    }
    if let Some(by_spare) = &status.by_spare {
        let help = "Bundles by how many more durable shards each may lose.";
        let _ = writeln!(text, "# HELP firn_bundles_by_spare {help}\n# TYPE firn_bundles_by_spare gauge");
        for count in by_spare {
            let _ = writeln!(text, "firn_bundles_by_spare{{spare=\"{}\"}} {}", count.spare, count.bundles);
        }
    }
    text.push_str(&coordinators(&status.coordinators));
    let _ = writeln!(text, "# HELP firn_nodes Nodes by state.\n# TYPE firn_nodes gauge");
    for (state, all, online) in &status.nodes {
        let _ = writeln!(text, "firn_nodes{{state=\"{state}\",online=\"true\"}} {online}");
        let _ = writeln!(
            text,
            "firn_nodes{{state=\"{state}\",online=\"false\"}} {}",
            all.saturating_sub(*online)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use firn_base::{Digest, FeedRange, FilterId, NodeId};
    use firn_wire::RefusalKind;

    use super::*;

    fn own() -> OwnFigures {
        let filter = FilterEntry {
            range: FeedRange { first: 0, end: 60 },
            id: FilterId::from_bytes([1; 32]),
            bytes: 70,
            keys: 50,
            feed_digest: Digest::from_bytes([2; 32]),
        };
        OwnFigures {
            consensus: ConsensusStatus {
                term: 2,
                leader: None,
                is_leader: false,
                applied: 30,
                last_entry: 33,
                trimmed: 20,
                failure: None,
            },
            ready: false,
            age: Duration::from_secs(70),
            clock_wrong: false,
            disk_bytes: Some((1_000, 2_000)),
            state: Some((64, true)),
            filters: Arc::new([filter]),
        }
    }

    fn has(text: &str, line: &str) -> bool {
        text.lines().any(|found| found == line)
    }

    #[test]
    fn a_coordinator_tells_of_itself_while_nobody_leads() {
        let refusal = RefusedRequest::new(RefusalKind::Unavailable, "no leader");
        let text = text(&own(), Err(&refusal));
        for line in [
            "firn_coordinator_running 1",
            "firn_coordinator_ready 0",
            "firn_coordinator_applied 30",
            "firn_coordinator_unapplied_entries 3",
            "firn_coordinator_log_entries 13",
            "firn_coordinator_log_bytes 1000",
            "firn_coordinator_state_bytes 2000",
            "firn_coordinator_feed_head 64",
            "firn_filter_missing_events 4",
            "firn_rebuilding 1",
            "firn_filter_keys 50",
        ] {
            assert!(has(&text, line), "{line} in {text}");
        }
        assert!(text.ends_with("# the archive's figures are missing: no leader\n"), "{text}");
    }

    #[test]
    fn every_figure_has_help_and_a_type_before_it() {
        let status = |id, lag| CoordinatorStatus {
            id: NodeId::from_bytes([id; 32]),
            address: String::new(),
            online: lag == Some(0),
            leader: false,
            votes: true,
            lag,
        };
        let text = own_figures(&own()) + &coordinators(&[status(1, Some(0)), status(2, None)]);
        let one = NodeId::from_bytes([1; 32]);
        assert!(has(&text, &format!("firn_coordinator_lag_entries{{id=\"{one}\"}} 0")));
        assert_eq!(text.matches("firn_coordinator_lag_entries{").count(), 1);
        let mut described = "";
        for line in text.lines() {
            match line.strip_prefix("# TYPE ") {
                Some(kind) => described = kind.split(' ').next().unwrap(),
                None if line.starts_with('#') => {}
                None => assert_eq!(line.split(['{', ' ']).next(), Some(described)),
            }
        }
    }
}
