//! Nodes that join empty: shards move to them until all are about equally full, while everything stays readable; an
//! archive that is nearly empty moves nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::support::cache::{Cache, noise};
use crate::support::fetch::{assert_served, path_infos};
use crate::support::local::Local;
use crate::support::reading::while_reading;
use crate::support::wait_for;
use serde_json::Value;

// At 4/12 twelve nodes hold a shard of every bundle each: about two fifths of their quotas. Four more make room.
const NODES: u64 = 12;
const NODES_MORE: u64 = 4;
const QUOTA_BYTES: u64 = 8_000_000;
const PATHS: u64 = 24;
const PATH_BYTES: usize = 500_000;

/// How far a node's used share may be from the fleet's, in hundredths.
const TOLERANCE: u64 = 5;

fn json(local: &Local, arguments: &[&str]) -> Value {
    serde_json::from_str(&local.firn(&[arguments, &["--json"]].concat()).success()).unwrap()
}

/// Roles of the nodes that are heard and proved, by node.
fn online(local: &Local) -> BTreeMap<String, String> {
    let nodes = json(local, &["node", "list"]);
    let online =
        nodes.as_array().unwrap().iter().filter(|node| node["online"] == true && node["proved"] == true);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    online.map(|node| (text(&node["node"]), text(&node["failure_domain"]))).collect()
}

/// Every copy that counts: coding, index, node.
fn placements(local: &Local) -> BTreeSet<(String, u64, String)> {
    let mut placements = BTreeSet::new();
    for bundle in json(local, &["bundle", "list"]).as_array().unwrap() {
        for placement in bundle["placements"].as_array().unwrap() {
            for node in placement["nodes"].as_array().unwrap() {
                let index = placement["index"].as_u64().unwrap();
                placements.insert((bundle["coding"].to_string(), index, node.as_str().unwrap().to_owned()));
            }
        }
    }
    placements
}

/// Bytes that each node keeps, by the lengths of the files that its placements are.
fn kept_bytes(local: &Local, roles: &BTreeMap<String, String>) -> BTreeMap<String, u64> {
    let mut kept: BTreeMap<String, u64> = roles.keys().map(|node| (node.clone(), 0)).collect();
    for (coding, index, node) in placements(local) {
        let coding = coding.trim_matches('"');
        let shards = local.role(&roles[&node]).join("shards");
        let file = shards.join(&coding[..2]).join(format!("{coding}.{index}.shard"));
        *kept.get_mut(&node).unwrap() += std::fs::metadata(file).unwrap().len();
    }
    kept
}

fn add_nodes(local: &Local, count: u64) {
    for _ in 0..count {
        local.control("add", "storage-node").success();
    }
}

/// A cache whose paths fill about a dozen bundles, so that there is something to move.
fn noise_cache(place: &Path) -> Cache {
    let cache = Cache::new(place.join("cache"));
    for seed in 0..PATHS {
        cache.add(cache.entry(&format!("part-{seed}"), &noise(PATH_BYTES, seed)));
    }
    cache
}

/// Publishes it, and waits until every shard is there.
fn publish(local: &Local, cache: &Cache) {
    local.firn(&["publish", cache.path().to_str().unwrap(), "--bundle-size", "1MiB"]).success();
    local.firn(&["status", "--until", "full"]).success();
}

#[test]
fn empty_nodes_are_filled_until_all_are_about_equally_full_while_everything_is_read() {
    let place = tempfile::tempdir().unwrap();
    let cache = noise_cache(place.path());
    let (key, nodes, quota) = (cache.publisher(), NODES.to_string(), QUOTA_BYTES.to_string());
    let options = ["--coordinators", "1", "--storage-nodes", &nodes, "--quota", &quota, "--publisher", &key];
    let local = Local::up(&options);
    publish(&local, &cache);
    let before = placements(&local);

    let wanted = path_infos(cache.path());
    let (mut gateway, url) = local.forgetful_gateway(&wanted);
    let read = || assert_served(&url, &wanted, &key);
    let rounds = while_reading(read, |reading| {
        add_nodes(&local, NODES_MORE);
        let all = usize::try_from(NODES + NODES_MORE).unwrap();
        let roles =
            wait_for("the new nodes are proved", || Some(online(&local)).filter(|roles| roles.len() == all));
        wait_for("all are about equally full and nothing is left to move", || {
            let status = json(&local, &["status"]);
            let at_rest = status["move_backlog"] == 0 && status["repair_backlog"] == 0;
            let kept = kept_bytes(&local, &roles);
            let fleet = kept.values().sum::<u64>() / (NODES + NODES_MORE);
            let is_even = |kept: &u64| kept.abs_diff(fleet) * 100 <= TOLERANCE * QUOTA_BYTES;
            reading.assert_goes_on();
            (at_rest && kept.values().all(is_even)).then_some(())
        });
    });
    assert!(rounds > 0);
    gateway.assert_alive();
    let after = placements(&local);
    // No shard was made or lost; what is elsewhere now came to the new nodes, and was sent once.
    let moved: BTreeSet<_> = after.difference(&before).collect();
    let holders: BTreeSet<_> = before.iter().map(|(_, _, node)| node).collect();
    assert!(!moved.is_empty() && moved.iter().all(|(_, _, node)| !holders.contains(node)), "{moved:?}");
    assert_eq!(after.len(), before.len());
    let shard_bytes = json(&local, &["bundle", "list"])
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["shard_bytes"].as_u64().unwrap())
        .max();
    let traffic = json(&local, &["status"])["repair_traffic"].as_u64().unwrap();
    assert!(
        traffic * 10 <= moved.len() as u64 * shard_bytes.unwrap() * 11,
        "{traffic} for {} shards",
        moved.len()
    );
    local.firn(&["verify", "--all"]).success();
}

#[test]
fn nothing_moves_to_empty_nodes_while_all_are_nearly_empty() {
    let place = tempfile::tempdir().unwrap();
    let cache = noise_cache(place.path());
    let nodes = NODES.to_string();
    // With quotas of 10 GB.
    let local =
        Local::up(&["--coordinators", "1", "--storage-nodes", &nodes, "--publisher", &cache.publisher()]);
    publish(&local, &cache);
    let before = placements(&local);
    add_nodes(&local, NODES_MORE);
    local.firn(&["status", "--until-nodes", &(NODES + NODES_MORE).to_string()]).success();
    // Several looks, between which the leader has planned with the new nodes.
    for _ in 0..2 {
        local.firn(&["status", "--until", "full"]).success();
    }
    assert_eq!(json(&local, &["status"])["repair_traffic"], 0);
    assert_eq!(placements(&local), before);
}
