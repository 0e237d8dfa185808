//! A fleet that grows from 6 nodes to 24: its bundles are coded anew from k = 4 to k = 8 while they are read, and while
//! the coordinator that leads is killed.

use crate::support::cache::{Cache, noise};
use crate::support::fetch::{assert_recovered, assert_served, path_infos};
use crate::support::local::Local;
use crate::support::reading::while_reading;
use crate::support::wait_for;
use serde_json::Value;

fn json(local: &Local, arguments: &[&str]) -> Value {
    serde_json::from_str(&local.firn(arguments).success()).unwrap()
}

#[test]
fn bundles_of_a_fleet_that_grows_are_coded_anew_and_read_all_the_while() {
    let place = tempfile::tempdir().unwrap();
    let cache = Cache::new(place.path().join("cache"));
    for seed in 0..6 {
        let contents = noise(1_500_000, seed);
        cache.add(cache.entry(&format!("recode-{seed}"), &contents));
    }
    let (key, published) = (cache.publisher(), path_infos(cache.path()));
    let nodes = ["--coordinators", "3", "--storage-nodes", "6", "--recode-after", "3s"];
    let mut local = Local::up(&[&nodes[..], &["--publisher", &key, "--quota", "200MB"]].concat());
    local.firn(&["publish", cache.path().to_str().unwrap(), "--bundle-size", "1MiB"]).success();
    let bundles = json(&local, &["bundle", "list", "--json"]);
    let schemes = |bundles: &Value| -> Vec<Value> {
        bundles.as_array().unwrap().iter().map(|bundle| bundle["scheme"]["k"].clone()).collect()
    };
    assert!(schemes(&bundles).iter().all(|k| *k == 4), "{bundles}");

    // `verify` reads everything from nodes in each round; the gateway what it does not remember, by facts that grow old.
    let read = || {
        local.firn(&["verify", "--all"]).success();
        assert_served(&local.url, &published, &key);
    };
    let rounds = while_reading(read, |reading| {
        for _ in 6..24 {
            local.control("add", "storage-node").success();
        }
        wait_for("the first bundle is coded for 8", || {
            let bundles = json(&local, &["bundle", "list", "--json"]);
            schemes(&bundles).contains(&8.into()).then_some(())
        });
        // Another leader goes on from what is committed, whatever the one before had under way.
        let leader = local.leader();
        local.control("stop", &leader).success();
        wait_for("another coordinator leads", || (local.leader() != leader).then_some(()));
        wait_for("every bundle is coded for 8", || {
            reading.assert_goes_on();
            let all_are = schemes(&json(&local, &["bundle", "list", "--json"])).iter().all(|k| *k == 8);
            let status = json(&local, &["status", "--json"]);
            (all_are && status["recoding"]["older"] == 0 && status["recoding"]["under_way"] == 0)
                .then_some(())
        });
    });
    assert!(rounds > 1, "{rounds} rounds of reading");
    assert!(json(&local, &["bundle", "show", "0", "--json"])["second"].is_null());

    // Nothing comes from the gateway's memory, and some nodes are away.
    assert_served(&local.url, &published, &key);
    for role in ["gateway", "storage-node-2", "storage-node-5"] {
        local.control("stop", role).success();
    }
    local.control("start", "gateway").success();
    assert_served(&local.url, &published, &key);
    for role in ["storage-node-2", "storage-node-5"] {
        local.control("start", role).success();
    }
    local.firn(&["status", "--until-nodes", "24"]).success();
    local.firn(&["verify", "--all"]).success();
    assert_eq!(local.terminate(), Some(0));

    // Shard files of both codings lie side by side; 8 nodes, of which some hold the old one too, restore everything.
    let recovered = local.home().join("recovered");
    let shards: Vec<String> = [1, 2, 9, 11, 14, 17, 20, 23]
        .map(|node| local.role(&format!("storage-node-{node}")).join("shards").to_str().unwrap().to_owned())
        .into();
    let mut arguments = vec!["recover", "--output", recovered.to_str().unwrap()];
    arguments.extend(shards.iter().map(String::as_str));
    local.firn(&arguments).success();
    assert_recovered(&recovered, &published);
}
