//! A path is withdrawn and reinstated: what the gateway, publishers and a recovery make of it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use crate::support::cache::{Cache, noise};
use crate::support::fetch::{assert_recovered, assert_served, get, path_infos};
use crate::support::local::Local;
use crate::support::{run, wait_for};
use serde_json::Value;

/// `firn-coordinator path VERB` for the path called `name`.
#[track_caller]
fn path(local: &Local, verb: &str, name: &str) -> crate::support::Ended {
    let path = crate::support::cache::store_path(name).to_string();
    let directory = local.role("coordinator-2");
    let act =
        ["path", verb, &path, "--reason", "asked by its author", "--data-dir", directory.to_str().unwrap()];
    run(local.home(), "firn-coordinator", act)
}

/// Waits until the gateway answers `narinfo` with `status`, and prints how long that took since an act was acknowledged: no
/// bound, for a machine that is busy with other tests says little of one that is not.
#[track_caller]
fn wait_for_answer(narinfo: &str, status: u16, act: &str) {
    let acknowledged = Instant::now();
    wait_for(act, || (get(narinfo).status == status).then_some(()));
    println!("the gateway answers {status} {:.2} s after {act}", acknowledged.elapsed().as_secs_f64());
}

/// What `firn recover` makes of the nodes' disks.
fn recover(local: &Local, output: &Path, options: &[&str]) -> Value {
    let nodes: Vec<_> = (1..=4).map(|node| local.role(&format!("storage-node-{node}"))).collect();
    let mut arguments: Vec<&str> = vec!["recover", "--json", "--output", output.to_str().unwrap()];
    arguments.extend(nodes.iter().map(|node| node.to_str().unwrap()));
    arguments.extend(options);
    serde_json::from_str(&run(local.home(), "firn", arguments).success()).unwrap()
}

#[test]
fn a_withdrawn_path_is_served_and_recovered_no_more_until_it_is_reinstated() {
    let place = tempfile::tempdir().unwrap();
    let cache = Cache::new(place.path().join("cache"));
    for (number, name) in (0..).zip(["kept", "gone"]) {
        cache.add(cache.entry(name, &noise(50_000, number)));
    }
    let publisher = cache.publisher();
    let mut local = Local::up(&["--coordinators", "3", "--storage-nodes", "4", "--publisher", &publisher]);
    local.firn(&["publish", cache.path().to_str().unwrap()]).success();
    let published = path_infos(cache.path());
    assert_served(&local.url, &published, &publisher);

    assert!(path(&local, "reinstate", "gone").failure(1).ends_with("the path is not withdrawn"));
    path(&local, "withdraw", "gone").success();
    let gone = crate::support::cache::store_path("gone").hash_part().to_owned();
    let narinfo = format!("{}/{gone}.narinfo", local.url);
    wait_for_answer(&narinfo, 404, "a withdrawal");
    let kept: BTreeMap<_, _> = published.clone().into_iter().filter(|(hash, _)| *hash != gone).collect();
    assert_served(&local.url, &kept, &publisher);
    let again = local.firn(&["publish", cache.path().to_str().unwrap(), "--json"]).success();
    let again: Value = serde_json::from_str(&again).unwrap();
    assert_eq!((&again["paths_published"], &again["paths_skipped"]), (&0.into(), &2.into()));
    let log = run(
        local.home(),
        "firn-coordinator",
        ["log", "--data-dir", local.role("coordinator-1").to_str().unwrap()],
    );
    assert!(log.success().contains("asked by its author"));

    // Nodes hear of it within seconds, and keep the ledger beside their shards.
    wait_for("a node keeps the ledger", || {
        let bytes = std::fs::read(local.role("storage-node-1").join("ledger")).ok()?;
        bytes.windows(19).any(|window| window == b"asked by its author").then_some(())
    });
    assert_eq!(local.terminate(), Some(0));
    let output = place.path().join("recovered");
    let summary = recover(&local, &output, &[]);
    assert_eq!(summary["withdrawn_objects"][0]["reason"], "asked by its author", "{summary}");
    assert_recovered(&output, &kept);
    let output = place.path().join("recovered-all");
    recover(&local, &output, &["--include-withdrawn"]);
    assert_recovered(&output, &published);

    local.start();
    // It may have forgotten; once it has answered so, it remembers that too.
    wait_for("a gateway that has just started does not serve it", || {
        (get(&narinfo).status == 404).then_some(())
    });
    path(&local, "reinstate", "gone").success();
    wait_for_answer(&narinfo, 200, "a reinstatement");
    assert_served(&local.url, &published, &publisher);
}
