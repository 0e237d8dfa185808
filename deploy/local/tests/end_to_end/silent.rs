//! Nodes that only fall silent, which nobody declares lost: after the archive's own time they count as lost, what is
//! due is repaired, and when they come back with their shards these count again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::support::cache::{Cache, noise};
use crate::support::local::Local;
use crate::support::wait_for;
use serde_json::Value;

// At 8/24 three nodes hold nothing of each bundle, and two are less than the tenth whose absence stops repair.
const NODES: usize = 27;
const K: u64 = 8;
const N: u64 = 24;
const PATHS: u64 = 14;
const PATH_BYTES: usize = 900_000;

/// Twice as long as it takes to notice that a node is away.
const COUNT_LOST_AFTER: &str = "20s";

/// A shard of a bundle, and the node that holds it.
type Placement = (u64, u64, String);

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap()
}

fn placements(local: &Local) -> BTreeSet<Placement> {
    let mut placements = BTreeSet::new();
    for bundle in local.json(&["bundle", "list"]).as_array().unwrap() {
        for placement in bundle["placements"].as_array().unwrap() {
            for node in placement["nodes"].as_array().unwrap() {
                let node = node.as_str().unwrap().to_owned();
                placements.insert((number(&bundle["number"]), number(&placement["index"]), node));
            }
        }
    }
    placements
}

/// Durable shards of each bundle.
fn durable(local: &Local) -> BTreeMap<u64, u64> {
    let bundles = local.json(&["bundle", "list"]);
    let bundles = bundles.as_array().unwrap();
    bundles.iter().map(|bundle| (number(&bundle["number"]), number(&bundle["durable"]))).collect()
}

fn holds(placements: &BTreeSet<Placement>, bundle: u64, node: &str) -> bool {
    placements.iter().any(|placement| placement.0 == bundle && placement.2 == node)
}

/// Two nodes that hold a shard each of some bundles, while of others only one of them does.
fn two_nodes(placements: &BTreeSet<Placement>, nodes: &[String]) -> (usize, usize) {
    let both = |one: &str, other: &str| {
        let both = |bundle: &u64| holds(placements, *bundle, one) && holds(placements, *bundle, other);
        (0..PATHS).filter(both).count() as u64
    };
    let pairs = (0..nodes.len()).flat_map(|one| (0..one).map(move |other| (one, other)));
    let mut mixed = pairs.filter(|(one, other)| (1..PATHS).contains(&both(&nodes[*one], &nodes[*other])));
    mixed.next().expect("three of 27 nodes hold nothing of a bundle")
}

fn role(position: usize) -> String {
    format!("storage-node-{}", position + 1)
}

fn traffic(local: &Local) -> u64 {
    number(&local.json(&["status"])["repair_traffic"])
}

/// Nodes that are online and whose shards count.
fn proved(local: &Local) -> usize {
    let nodes = local.json(&["node", "list"]);
    let counts = |node: &&Value| node["online"] == true && node["proved"] == true;
    nodes.as_array().unwrap().iter().filter(counts).count()
}

fn shard_files(directory: &Path) -> u64 {
    let is_shard = |path: &Path| path.extension().is_some_and(|extension| extension == "shard");
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(|path| {
            if path.is_dir() {
                shard_files(&path)
            } else if is_shard(&path) {
                path.metadata().unwrap().len()
            } else {
                0
            }
        })
        .sum()
}

#[test]
fn silent_nodes_count_as_lost_after_their_time_and_again_when_they_are_back() {
    let place = tempfile::tempdir().unwrap();
    let cache = Cache::new(place.path().join("cache"));
    for seed in 0..PATHS {
        cache.add(cache.entry(&format!("silent-{seed}"), &noise(PATH_BYTES, seed)));
    }
    let (key, nodes) = (cache.publisher(), NODES.to_string());
    // A bundle that lacks one shard is left as it is, one that lacks two is repaired.
    let repair_at = (N - 2).to_string();
    let policy = ["--repair-at", &repair_at, "--count-lost-after", COUNT_LOST_AFTER];
    let fleet = ["--coordinators", "1", "--storage-nodes", &nodes, "--publisher", &key];
    let local = Local::up(&[&fleet[..], &policy].concat());
    local.firn(&["publish", cache.path().to_str().unwrap(), "--bundle-size", "1MiB"]).success();
    local.firn(&["status", "--until", "full"]).success();
    let before = placements(&local);
    assert_eq!(before.len() as u64, PATHS * N);
    let ids: Vec<String> = (0..NODES).map(|position| local.node_id(&role(position))).collect();
    let (one, other) = two_nodes(&before, &ids);
    let short = (0..NODES).find(|position| *position != one && *position != other).unwrap();
    let due: BTreeSet<u64> = (0..PATHS)
        .filter(|bundle| holds(&before, *bundle, &ids[one]) && holds(&before, *bundle, &ids[other]))
        .collect();

    for position in [one, other, short] {
        local.control("stop", &role(position)).success();
    }
    wait_for("three nodes are away", || (proved(&local) == NODES - 3).then_some(()));
    // Away is not lost.
    assert!(durable(&local).values().all(|durable| *durable == N));
    // One of them is back in time: nothing is moved for it, and all that it held counts.
    local.control("start", &role(short)).success();
    wait_for("it is back", || (proved(&local) == NODES - 2).then_some(()));
    assert_eq!((traffic(&local), &placements(&local)), (0, &before));

    wait_for("the others count as lost, and what is due is repaired", || {
        let lacks = |bundle: &u64| {
            let held = [one, other].into_iter().filter(|position| holds(&before, *bundle, &ids[*position]));
            held.count() as u64
        };
        let durable = durable(&local);
        let is_as_it_should = |(bundle, durable): (&u64, &u64)| {
            *durable == if due.contains(bundle) { N } else { N - lacks(bundle) }
        };
        durable.iter().all(is_as_it_should).then_some(())
    });
    let repaired = placements(&local);
    let moved = traffic(&local);
    let shard_bytes = number(&local.json(&["bundle", "list"])[0]["shard_bytes"]);
    // k are read, of the two that are made the worker keeps one.
    let bound = due.len() as u64 * (K + 1) * shard_bytes;
    assert!(moved > 0 && moved * 10 <= bound * 11, "{moved} of {bound}");
    local.firn(&["verify", "--all"]).success();

    local.control("start", &role(one)).success();
    local.control("start", &role(other)).success();
    wait_for("all are back", || (proved(&local) == NODES).then_some(()));
    local.firn(&["status", "--until", "full"]).success();
    assert!(durable(&local).values().all(|durable| *durable == N));
    // What was not repaired lies where it lay; for what was, the old copies are surplus. Nothing was moved for it.
    assert_eq!((traffic(&local), &placements(&local)), (moved, &repaired));
    let (kept, made): (BTreeSet<_>, BTreeSet<_>) =
        repaired.into_iter().partition(|placement| before.contains(placement));
    assert_eq!(made.len(), due.len() * 2);
    assert!(kept.iter().any(|placement| placement.2 == ids[one] || placement.2 == ids[other]));
    // The account of both is what lies on their disks: placements, and surplus while there is room for it.
    for position in [one, other] {
        let held = before.iter().filter(|placement| placement.2 == ids[position]).count() as u64;
        let files = shard_files(&local.role(&role(position)).join("shards"));
        assert!(files >= held * shard_bytes, "{files}");
        wait_for("the account is what lies on the disk", || {
            let nodes = local.json(&["node", "list"]);
            let listed = nodes.as_array().unwrap().iter().find(|node| node["node"] == *ids[position]);
            (listed.unwrap()["assigned"] == files).then_some(())
        });
    }
    local.firn(&["verify", "--all"]).success();
}
