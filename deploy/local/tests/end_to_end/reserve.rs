//! An archive that fills up: publishing stops before repairs lack room, and goes on when nodes are added.

use crate::support::cache::{Cache, noise};
use crate::support::fetch::{assert_served, get, path_infos};
use crate::support::local::Local;
use crate::support::wait_for;
use serde_json::Value;

// At 4/12 twelve nodes of 3 MB have room for 10 MB of payload beside what is kept. Eight new ones are enough for a
// commit, even where the others are full.
const NODES: u16 = 12;
const NODES_MORE: u16 = 8;
const QUOTA: &str = "3MB";
const PATHS: u64 = 24;
const PATH_BYTES: usize = 500_000;

fn status(local: &Local) -> Value {
    serde_json::from_str(&local.firn(&["status", "--json"]).success()).unwrap()
}

/// What status says of the reserve, once the leader has measured it.
fn measured_reserve(local: &Local) -> Value {
    wait_for("the leader has measured the reserve", || {
        Some(status(local)["reserve"].clone()).filter(|reserve| !reserve.is_null())
    })
}

#[test]
fn a_full_archive_says_what_is_missing_and_takes_more_when_nodes_are_added() {
    let place = tempfile::tempdir().unwrap();
    let cache = Cache::new(place.path().join("cache"));
    for seed in 0..PATHS {
        cache.add(cache.entry(&format!("part-{seed}"), &noise(PATH_BYTES, seed)));
    }
    let (key, nodes) = (cache.publisher(), NODES.to_string());
    let options = ["--coordinators", "1", "--storage-nodes", &nodes, "--quota", QUOTA, "--publisher", &key];
    let local = Local::up(&options);
    let reserve = measured_reserve(&local);
    assert_eq!((&reserve["level"], &reserve["warning"]), (&"enough".into(), &Value::Null));

    let publish = ["publish", cache.path().to_str().unwrap(), "--bundle-size", "1MiB"];
    let stopped = local.firn(&publish);
    assert!(!stopped.stdout.contains("of space free"), "what was done is summed up, not why it stopped");
    let sentence = stopped.failure(1);
    assert!(sentence.contains("of space free"), "{sentence}");
    assert!(sentence.contains("for repairs, in case its two largest failure domains vanish"), "{sentence}");
    assert!(sentence.contains("of quota on storage nodes in other failure domains"), "{sentence}");

    // What was published before is there, and status says how things stand.
    let full = status(&local);
    let readable = full["visible_keys"].as_u64().unwrap();
    assert!((1..PATHS).contains(&readable), "{readable} of {PATHS} paths");
    let (free, kept) = (full["reserve"]["free"].as_u64().unwrap(), full["reserve"]["kept"].as_u64().unwrap());
    assert!(kept >= full["reserve"]["capacity"].as_u64().unwrap() / 10, "{full}");
    assert!(free < kept + 4_000_000, "what is left would not hold one bundle more: {full}");
    let warning = full["reserve"]["warning"].as_str().unwrap();
    let is_warning = |text: &str| text.contains("room is low: ") || text.contains("publishing has stopped: ");
    assert!(is_warning(warning) && is_warning(&local.firn(&["status"]).success()), "{warning}");
    local.firn(&["verify", "--all"]).success();

    for _ in 0..NODES_MORE {
        local.control("add", "storage-node").success();
    }
    let all = (NODES + NODES_MORE).to_string();
    local.firn(&["status", "--until-nodes", &all]).success();
    wait_for("there is room again", || {
        let free = status(&local)["reserve"]["free"].as_u64()?;
        (free > kept + 9_000_000).then_some(())
    });
    local.firn(&publish).success();
    assert_eq!(status(&local)["visible_keys"], PATHS);
    let wanted = path_infos(cache.path());
    wait_for("the gateway has heard of the last path", || {
        let narinfo = |hash: &String| get(&format!("{}/{hash}.narinfo", local.url));
        wanted.keys().all(|hash| narinfo(hash).status == 200).then_some(())
    });
    assert_served(&local.url, &wanted, &key);
}
