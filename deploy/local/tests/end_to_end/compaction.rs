//! Many small publishes leave many small bundles; `firn compact` packs them together, killed midway as well, while everything is
//! read; the small ones go from every disk.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::cache::{Cache, noise, store_path};
use crate::support::fetch::{assert_recovered, assert_served, path_infos};
use crate::support::local::Local;
use crate::support::{Running, command, run, wait_for};
use serde_json::Value;

const NODES: usize = 12;
const PUBLISHES: u64 = 14;

fn bundles(local: &Local) -> usize {
    local.json(&["bundle", "list"]).as_array().unwrap().len()
}

/// How many bundles are small, and the share of the payload in them, in per cent.
fn small(local: &Local) -> (u64, f64) {
    let fill = &local.json(&["status"])["fill"];
    let figure = |name: &str| fill[name].as_u64().unwrap();
    (figure("small_bundles"), figure("small_payload") as f64 * 100.0 / figure("payload") as f64)
}

fn compact(local: &Local) -> Option<Value> {
    let ended = local.firn(&["compact", "--older-than", "0s", "--json"]);
    (ended.code == Some(0)).then(|| serde_json::from_str(&ended.stdout).unwrap())
}

#[test]
fn many_small_publishes_come_together_in_a_full_bundle_and_go_from_every_disk() {
    let place = tempfile::tempdir().unwrap();
    let cache = Cache::new(place.path().join("cache"));
    let key = cache.publisher();
    let nodes = NODES.to_string();
    let options =
        ["--coordinators", "3", "--storage-nodes", &nodes, "--erase-after", "10s", "--publisher", &key];
    let mut local = Local::up(&options);
    // Together more than a quarter of a bundle, each a fourteenth of that; each refers to the one before.
    for number in 0..PUBLISHES {
        let mut entry = cache.entry(&format!("path-{number}"), &noise(5_000_000, number));
        if let Some(before) = number.checked_sub(1) {
            entry.info.references.push(store_path(&format!("path-{before}")));
        }
        cache.add(entry);
        local.firn(&["publish", cache.path().to_str().unwrap()]).success();
    }
    let published = path_infos(cache.path());
    assert_eq!(small(&local), (PUBLISHES, 100.0));
    let dry = local.json(&["compact", "--older-than", "0s", "--dry-run"]);
    assert_eq!(dry["groups"].as_array().unwrap().len(), 1, "{dry}");
    assert_eq!(dry["groups"][0]["from"].as_array().unwrap().len() as u64, PUBLISHES, "{dry}");
    let young = local.json(&["compact", "--dry-run"]);
    assert!(
        young["groups"].as_array().unwrap().is_empty(),
        "whoever uploads them may still be at it: {young}"
    );

    let ended = AtomicBool::new(false);
    let rounds = std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let mut rounds = 0;
            while !ended.load(Ordering::Acquire) {
                local.firn(&["verify", "--all"]).success();
                assert_served(&local.url, &published, &key);
                rounds += 1;
            }
            rounds
        });
        // One that is killed while it sends leaves everything as it was.
        let before = local.shard_files(NODES);
        let mut program = command("firn", local.home());
        program.arg("--config").arg(local.dir().join("firn.toml"));
        program.args(["compact", "--older-than", "0s"]);
        let mut first = Running::start(&mut program, &local.home().join("compact.log"));
        wait_for("something is sent", || {
            (local.shard_files(NODES) > before || first.ended().is_some()).then_some(())
        });
        first.kill();
        let compacted = wait_for("the small bundles are packed together", || compact(&local));
        if let Some(report) = compacted["groups"].get(0) {
            assert_eq!(report["objects"], PUBLISHES, "{compacted}");
            assert_eq!(report["bundles"], 1, "{compacted}");
        }
        assert_eq!(small(&local), (0, 0.0), "{compacted}");
        wait_for("the small ones are erased", || {
            assert!(!reading.is_finished(), "a reader failed");
            (bundles(&local) == 1 && local.shard_files(NODES) == NODES).then_some(())
        });
        ended.store(true, Ordering::Release);
        reading.join().unwrap()
    });
    assert!(rounds > 0, "{rounds} rounds of reading");

    // What comes later is small, and too little to be packed anew.
    for number in PUBLISHES..PUBLISHES + 2 {
        cache.add(cache.entry(&format!("path-{number}"), &noise(100_000, number)));
        local.firn(&["publish", cache.path().to_str().unwrap()]).success();
    }
    let published = path_infos(cache.path());
    let (count, share) = small(&local);
    assert!(count == 2 && share > 0.0 && share <= 5.0, "{count} with {share} %");
    assert!(compact(&local).unwrap()["groups"].as_array().unwrap().is_empty());
    let status = local.firn(&["status"]).success();
    assert!(status.contains("2 of 3 bundles under a quarter full"), "{status}");

    // Nothing comes from anybody's memory.
    for verb in ["stop", "start"] {
        local.control(verb, "gateway").success();
    }
    assert_served(&local.url, &published, &key);
    let directory = local.role("coordinator-1");
    let log =
        run(local.home(), "firn-coordinator", ["log".as_ref(), "--data-dir".as_ref(), directory.as_os_str()]);
    let log = log.success();
    assert_eq!(log.matches(" packed anew").count() as u64, PUBLISHES, "{log}");
    assert_eq!(log.matches(" erased").count() as u64, PUBLISHES, "{log}");
    assert_eq!(local.terminate(), Some(0));
    let recovered = place.path().join("recovered");
    let mut words = vec!["recover", "--output", recovered.to_str().unwrap()];
    let roles: Vec<_> = (1..=NODES).map(|node| local.role(&format!("storage-node-{node}"))).collect();
    words.extend(roles.iter().map(|role| role.to_str().unwrap()));
    run(local.home(), "firn", words).success();
    assert_recovered(&recovered, &published);
}
