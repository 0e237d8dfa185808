//! Nodes on slow lines, of which a few are lost: the others heal within the part of their lines that repair has, none
//! uploads more than its bound, and readers read on all the while.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::support::cache::{Cache, noise};
use crate::support::fetch::{assert_served, path_infos};
use crate::support::local::Local;
use crate::support::reading::while_reading;
use crate::support::wait_for;

// Wide enough for 16/40.
const NODES: u64 = 60;
const SLOW_NODES: u64 = 6;
const LOST: [u64; 6] = [3, 14, 25, 36, 47, 58];

const PATHS: u64 = 6;
const PATH_BYTES: usize = 2_000_000;

/// The part of a line that repair has, in per cent.
const REPAIR_PART: f64 = 30.0;

/// A node's own counters, and the time around the look at them.
#[derive(Debug)]
struct Look {
    begun: Instant,
    ended: Instant,
    rate: u64,
    uploaded: u64,
    for_builds: u64,
}

impl Look {
    fn take(local: &Local, role: &str) -> Self {
        let begun = Instant::now();
        let report = local.report(role);
        let figure = |value: &serde_json::Value| value.as_u64().unwrap();
        Self {
            begun,
            ended: Instant::now(),
            rate: figure(&report["max_upload_bytes_per_second"]),
            uploaded: figure(&report["uploaded_bytes"]),
            for_builds: figure(&report["done"]["build_bytes_uploaded"]),
        }
    }

    /// Both bounds hold between an earlier look and this one, but for what may go at once after a pause.
    fn assert_within_bounds(&self, before: &Self, role: &str) {
        let most = self.ended.duration_since(before.begun).as_secs_f64() + 0.1;
        let within = |bytes: u64, rate: f64| bytes as f64 <= rate * most + 16_384.0;
        let rate = self.rate as f64;
        let (all, for_builds) = (self.uploaded - before.uploaded, self.for_builds - before.for_builds);
        assert!(within(all, rate), "{role}: {before:?} {self:?}");
        assert!(within(for_builds, rate * REPAIR_PART / 100.0), "{role}: {before:?} {self:?}");
    }
}

#[test]
fn repair_keeps_to_its_part_of_slow_lines_and_readers_have_the_rest() {
    let place = tempfile::tempdir().unwrap();
    let cache = Cache::new(place.path().join("cache"));
    for seed in 0..PATHS {
        cache.add(cache.entry(&format!("line-{seed}"), &noise(PATH_BYTES, seed)));
    }
    let (key, nodes) = (cache.publisher(), NODES.to_string());
    let options = ["--coordinators", "1", "--storage-nodes", &nodes, "--max-upload", "10Mbit/s"];
    let more = ["--repair-at", "full", "--publisher", &key];
    let local = Local::up(&[&options[..], &more].concat());
    (0..SLOW_NODES).for_each(|_| local.add_node("1Mbit/s"));
    local.firn(&["status", "--until-nodes", &(NODES + SLOW_NODES).to_string()]).success();
    local.firn(&["publish", cache.path().to_str().unwrap(), "--bundle-size", "4MiB"]).success();
    local.firn(&["status", "--until", "full"]).success();
    let bundles = local.json(&["bundle", "list"]);
    let bundles = bundles.as_array().unwrap();
    assert!(bundles.iter().all(|bundle| bundle["scheme"]["n"] == 40), "{bundles:?}");

    let wanted = path_infos(cache.path());
    let (mut gateway, url) = local.forgetful_gateway(&wanted);
    let reads = AtomicU64::new(0);
    let read = || {
        for (hash, info) in &wanted {
            assert_served(&url, &BTreeMap::from([(hash.clone(), info.clone())]), &key);
            reads.fetch_add(1, Ordering::AcqRel);
        }
    };
    while_reading(read, |reading| {
        let lost = LOST.map(|number| format!("storage-node-{number}"));
        lost.iter().for_each(|role| drop(local.control("stop", role).success()));
        lost.iter().for_each(|role| local.declare_lost(role));
        let before = reads.load(Ordering::Acquire);
        let all = (1..=NODES + SLOW_NODES).map(|number| format!("storage-node-{number}"));
        let roles: Vec<String> = all.filter(|role| !lost.contains(role)).collect();
        let mut looks: BTreeMap<&str, Look> = BTreeMap::new();
        let uploaded = wait_for("every bundle has all its shards again", || {
            for role in &roles {
                let look = Look::take(&local, role);
                if let Some(before) = looks.get(role.as_str()) {
                    look.assert_within_bounds(before, role);
                }
                looks.insert(role, look);
            }
            let status = local.json(&["status"]);
            let is_whole = status["health"]["full"] == status["bundles"] && status["repair_backlog"] == 0;
            let uploaded: u64 = looks.values().map(|look| look.for_builds).sum();
            reading.assert_goes_on();
            (is_whole && uploaded > 0).then_some(uploaded)
        });
        // Of each bundle 16 shards were read at least.
        let shards: u64 = bundles.iter().map(|bundle| 16 * bundle["shard_bytes"].as_u64().unwrap()).sum();
        assert!(uploaded >= shards, "{uploaded} of {shards}");
        assert!(reads.load(Ordering::Acquire) > before, "nothing was read while repair went on");
    });
    gateway.assert_alive();
    local.firn(&["verify", "--all"]).success();
}
