//! What the gateway counts, and its text for Prometheus.
//!
//! Always holds: counting is one atomic addition. Leaves to others: what is counted where (`routes`, `core`).

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use firn_retrieval::SwarmCounts;
use hyper::StatusCode;

use crate::gateway_core::GatewayCore;

/// Routes that are counted apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RouteKind {
    CacheInfo,
    NarInfo,
    Nar,
    Listing,
    Log,
    Realisation,
    DebugInfo,
    Why,
    Filter,
    Other,
}

impl RouteKind {
    /// What it is called in metrics and logs.
    pub(crate) fn name(self) -> &'static str {
        ROUTES.iter().find(|(kind, _)| *kind == self).map_or("other", |(_, name)| name)
    }
}

const ROUTES: [(RouteKind, &str); 10] = [
    (RouteKind::CacheInfo, "nix-cache-info"),
    (RouteKind::NarInfo, "narinfo"),
    (RouteKind::Nar, "nar"),
    (RouteKind::Listing, "ls"),
    (RouteKind::Log, "log"),
    (RouteKind::Realisation, "realisation"),
    (RouteKind::DebugInfo, "debuginfo"),
    (RouteKind::Why, "why"),
    (RouteKind::Filter, "filter"),
    (RouteKind::Other, "other"),
];

// What the gateway answers. Anything else would be counted as the last.
const STATUSES: [u16; 10] = [200, 206, 304, 400, 404, 405, 416, 429, 503, 500];

/// Counters of one gateway since it began.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    requests: [[AtomicU64; STATUSES.len()]; ROUTES.len()],
    bytes: [AtomicU64; ROUTES.len()],
    cache_hits: AtomicU64,
    looked_ahead: AtomicU64,
    unreadable: AtomicU64,
    unsettled: AtomicU64,
    broken_off: AtomicU64,
    connections: AtomicU64,
}

impl Metrics {
    pub(crate) fn count_request(&self, route: RouteKind, status: StatusCode, bytes: u64) {
        let column =
            STATUSES.iter().position(|known| *known == status.as_u16()).unwrap_or(STATUSES.len() - 1);
        self.requests[route as usize][column].fetch_add(1, Ordering::Relaxed);
        self.count_bytes(route, bytes);
    }

    pub(crate) fn count_bytes(&self, route: RouteKind, bytes: u64) {
        self.bytes[route as usize].fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn count_cache_hit(&self) {
        self.cache_hits.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_looked_ahead(&self) {
        self.looked_ahead.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_unreadable(&self) {
        self.unreadable.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_unsettled(&self) {
        self.unsettled.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_broken_off(&self) {
        self.broken_off.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_connection(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    /// The text form, with what the core and the swarm know.
    pub(crate) fn text(&self, core: &GatewayCore, swarm: Option<SwarmCounts>) -> String {
        let mut page = Page::default();
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        page.family("requests_total", "counter", "Answers by route and status.");
        for (route, name) in ROUTES {
            for (status, counter) in STATUSES.iter().zip(&self.requests[route as usize]) {
                let count = read(counter);
                if count > 0 || *status == 200 {
                    page.labelled("requests_total", &format!("route=\"{name}\",status=\"{status}\""), count);
                }
            }
        }
        page.family("body_bytes_total", "counter", "Bytes of bodies by route.");
        for (route, name) in ROUTES {
            page.labelled(
                "body_bytes_total",
                &format!("route=\"{name}\""),
                read(&self.bytes[route as usize]),
            );
        }
        let missing = STATUSES.iter().position(|status| *status == 404).unwrap_or_default();
        let misses = self.requests.iter().map(|statuses| read(&statuses[missing])).sum();
        page.one("misses_total", "counter", "Answers 404.", misses);
        page.one(
            "looked_ahead_total",
            "counter",
            "Records looked up because a path refers to them.",
            read(&self.looked_ahead),
        );
        page.one(
            "unreadable_total",
            "counter",
            "Requests for what is archived but could not be read.",
            read(&self.unreadable),
        );
        page.one(
            "unsettled_total",
            "counter",
            "Requests for what may be archived while no coordinator could be asked.",
            read(&self.unsettled),
        );
        page.one(
            "broken_off_total",
            "counter",
            "Bodies that were cut short because reading failed.",
            read(&self.broken_off),
        );
        page.one("cache_hits_total", "counter", "Records found in memory.", read(&self.cache_hits));
        let encoders = core.downloads.encoders_taken() as u64;
        page.one(
            "encoders",
            "gauge",
            "Downloads that are compressed now, but for those that are decompressed first.",
            encoders,
        );
        let decoders = core.downloads.decoders_taken() as u64;
        page.one(
            "decoders",
            "gauge",
            "Downloads of published files that are decompressed now, also to be compressed anew.",
            decoders,
        );
        let plain = core.downloads.plain_taken() as u64;
        page.one(
            "plain_downloads",
            "gauge",
            "Downloads of more than 64 KiB that are sent as they are now.",
            plain,
        );
        page.one("connections_total", "counter", "Connections accepted.", read(&self.connections));
        page.one(
            "feed_position",
            "gauge",
            "Feed position as of which absence is decided.",
            core.feed_position(),
        );
        let filters = core.keys.filters();
        page.one("filters", "gauge", "Filters that are asked.", filters.filters().len() as u64);
        page.one("filter_position", "gauge", "Feed position behind the last filter.", filters.end());
        page.one("filter_keys", "gauge", "Keys in filters, withdrawn ones included.", filters.keys());
        page.one("filter_bytes", "gauge", "Bytes of filters.", filters.bytes());
        page.one("tail_keys", "gauge", "Keys of which the feed told since.", core.tail_keys() as u64);
        page.one(
            "filters_refused_total",
            "counter",
            "Filters that are not what they should be.",
            read(&core.keeper.refused),
        );
        page.one(
            "filter_bytes_fetched_total",
            "counter",
            "Bytes of filters that were fetched.",
            read(&core.keeper.fetched_bytes),
        );
        page.one("ranges_asked_total", "counter", "Index ranges asked of coordinators.", core.ranges.asked());
        page.one(
            "strangers_total",
            "counter",
            "Questions for keys that an index range showed not to be archived.",
            core.ranges.strangers(),
        );
        if let Some(age) = core.feed_age() {
            page.one("feed_age_seconds", "gauge", "Time since the feed held nothing newer.", age.as_secs());
        }
        if let Some(parts) = &core.disk {
            let disk = parts.cache.counts();
            let waiting = disk.waiting_bytes + parts.places.waiting_bytes();
            page.one("disk_cache_waiting_bytes", "gauge", "Bytes not written yet.", waiting);
            page.one("disk_cache_hits_total", "counter", "Reads that the disk answered.", disk.hits);
            page.one("disk_cache_misses_total", "counter", "Reads that it did not.", disk.misses);
            page.one("disk_cache_hit_bytes_total", "counter", "Bytes that it answered.", disk.hit_bytes);
            page.one("disk_cache_written_bytes_total", "counter", "Bytes written to it.", disk.written_bytes);
            page.one("disk_cache_damaged_total", "counter", "Entries that were damaged.", disk.damaged);
            page.one("disk_cache_failed_writes_total", "counter", "Entries not taken.", disk.failed_writes);
            page.one("disk_cache_entries", "gauge", "Entries on disk.", disk.entries);
            page.one("disk_cache_bytes", "gauge", "Bytes on disk.", disk.bytes);
        }
        if let Some(swarm) = swarm {
            page.one("shard_ranges_total", "counter", "Ranges of shards wanted.", swarm.ranges);
            page.one(
                "shard_ranges_degraded_total",
                "counter",
                "Ranges read around their holder.",
                swarm.degraded,
            );
            page.one("shard_ranges_hedged_total", "counter", "Ranges also asked of others.", swarm.hedged);
            page.one(
                "shard_hedges_won_total",
                "counter",
                "Hedged ranges that others gave.",
                swarm.hedges_won,
            );
            page.one("shard_decodes_total", "counter", "Ranges decoded from other shards.", swarm.rebuilt);
            page.one("shard_requests_total", "counter", "Requests to nodes for ranges.", swarm.requests);
            page.one("shard_requests_under_way", "gauge", "Requests to nodes now.", swarm.under_way);
            page.one("node_trials_total", "counter", "Tries whether a node has recovered.", swarm.trials);
            page.one(
                "node_busy_total",
                "counter",
                "Nodes' answers that they are at their limit.",
                swarm.busy,
            );
            page.one("shard_lies_total", "counter", "Wrong answers of nodes.", swarm.lies);
            page.one(
                "shard_ranges_unreadable_total",
                "counter",
                "Ranges that too few holders gave.",
                swarm.unreadable,
            );
        }
        page.text
    }
}

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let written =
            write!(self.text, "# HELP firn_gateway_{name} {help}\n# TYPE firn_gateway_{name} {kind}\n");
        written.expect("a String takes every write");
    }

    fn labelled(&mut self, name: &str, labels: &str, value: u64) {
        writeln!(self.text, "firn_gateway_{name}{{{labels}}} {value}").expect("a String takes every write");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        self.family(name, kind, help);
        writeln!(self.text, "firn_gateway_{name} {value}").expect("a String takes every write");
    }
}
