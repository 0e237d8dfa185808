//! What a coordinator shows by HTTP: its descriptor, metrics, health. Nothing here changes anything.

mod paths;

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use firn_wire::{ArchiveStatus, FilterEntry};
use tokio::net::TcpListener;

use crate::coordinator::Administration;

/// Serves on `listener` until dropped: `/archive`, `/api/v1/paths`, `/metrics`, `/healthz`, `/readyz`.
pub async fn serve_http(listener: TcpListener, administration: Administration) -> io::Result<()> {
    let router = Router::new()
        .route("/archive", get(archive))
        .route("/api/v1/paths", get(paths::paths))
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(administration);
    axum::serve(listener, router).await
}

/// Binds the HTTP port; the error names the address.
pub async fn bind_http(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {address} (HTTP): {error}")))
}

async fn archive(State(administration): State<Administration>) -> String {
    administration.descriptor().to_string()
}

async fn healthz(State(administration): State<Administration>) -> impl IntoResponse {
    match administration.failure() {
        None => (StatusCode::OK, "running\n".to_owned()),
        Some(failure) => (StatusCode::SERVICE_UNAVAILABLE, format!("stopped: {failure}\n")),
    }
}

async fn readyz(State(administration): State<Administration>) -> impl IntoResponse {
    match administration.readiness() {
        Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
        Err(sentence) => (StatusCode::SERVICE_UNAVAILABLE, sentence + "\n"),
    }
}

async fn metrics(State(administration): State<Administration>) -> impl IntoResponse {
    let headers = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
    let own = own_figures(&administration);
    // Whoever cannot say how the archive is says all the same how it is itself: the scrape succeeds, and alerts can tell.
    let archive = match administration.status().await {
        Ok(status) => prometheus(&status),
        Err(refusal) => format!("# the archive's figures are missing: {refusal}\n"),
    };
    (
        StatusCode::OK,
        headers,
        own + &archive + &clock(administration.is_clock_wrong()) + &filters(&administration.filters()),
    )
}

/// How this coordinator itself is, whoever leads.
fn own_figures(administration: &Administration) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let mut text = "# HELP firn_build_info The version that runs.\n# TYPE firn_build_info gauge\n".to_owned();
    // Writing to a text cannot fail.
    let _ = writeln!(text, "firn_build_info{{version=\"{version}\"}} 1");
    let figures = [
        ("running", "Whether it takes part; 0 once it has stopped.", administration.failure().is_none()),
        (
            "ready",
            "Whether it takes part, knows a leader and has a clock like the others'.",
            administration.readiness().is_ok(),
        ),
        ("leads", "Whether it leads.", administration.leads()),
    ];
    for (name, help, holds) in figures {
        let name = format!("firn_coordinator_{name}");
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {}", u8::from(holds));
    }
    text
}

fn clock(is_wrong: bool) -> String {
    format!(
        "# HELP firn_clock_wrong Whether this coordinator's clock is more than ten minutes from a majority's.\n\
         # TYPE firn_clock_wrong gauge\nfirn_clock_wrong {}\n",
        u8::from(is_wrong)
    )
}

/// What this coordinator has of filters over the feed.
fn filters(filters: &[FilterEntry]) -> String {
    let sum = |figure: fn(&FilterEntry) -> u64| filters.iter().map(figure).sum::<u64>();
    let figures = [
        ("filters", "Filters over the feed that this coordinator serves.", filters.len() as u64),
        ("filter_events", "Events of the feed that they are of.", sum(|filter| filter.range.events())),
        ("filter_keys", "Keys in them.", sum(|filter| filter.keys)),
        ("filter_bytes", "Bytes that they take.", sum(|filter| filter.bytes)),
    ];
    let line = |(name, help, value): (&str, &str, u64)| {
        format!("# HELP firn_{name} {help}\n# TYPE firn_{name} gauge\nfirn_{name} {value}\n")
    };
    figures.into_iter().map(line).collect()
}

/// The archive's figures in Prometheus' text form. What only a leader measures is left out by others.
fn prometheus(status: &ArchiveStatus) -> String {
    let mut text = String::new();
    let mut gauge = |name: &str, help: &str, value: u64| {
        // Writing to a text cannot fail.
        let _ = writeln!(text, "# HELP firn_{name} {help}\n# TYPE firn_{name} gauge\nfirn_{name} {value}");
    };
    gauge("visible_keys", "Keys that can be read.", status.visible_keys);
    gauge("held_keys", "Keys that wait for a reference.", status.held_keys);
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
