//! An owner says that a node will be away, pauses it, says that it is back, and lets it leave: real coordinators take his word for it.
//! Operators announce that they will suspend it, and he is told.

use crate::support::local::Local;
use crate::support::{Ended, demo_cache, demo_key, run, wait_for};
use serde_json::Value;

const DAY_MILLIS: u64 = 86_400_000;
const ROLE: &str = "storage-node-2";

/// What the owner of the node says to it.
fn owner(local: &Local, words: &[&str]) -> Ended {
    let all = words.iter().map(Into::into).chain(["--data-dir".into(), local.role(ROLE).into_os_string()]);
    run(local.home(), "firn-storage-node", all)
}

/// What everybody is told of the node.
fn listed(local: &Local, node: &str) -> Value {
    let nodes = local.json(&["node", "list"]);
    nodes.as_array().unwrap().iter().find(|listed| listed["node"] == node).unwrap().clone()
}

/// Why the node rests, as everybody is told.
fn rest(local: &Local, node: &str) -> Value {
    listed(local, node)["rest"]["cause"].clone()
}

#[test]
fn a_node_that_resumes_is_one_that_is_there_and_has_its_days_back() {
    let local = Local::up(&["--coordinators", "3", "--storage-nodes", "3"]);
    let node = local.node_id(ROLE);
    assert_eq!(rest(&local, &node), Value::Null);
    owner(&local, &["absent", "10d"]).success();
    wait_for("the leader knows it", || (rest(&local, &node) == "declared away").then_some(()));
    let left = |report: &Value| report["absence_left_millis"].as_u64().unwrap();
    assert!(left(&local.report(ROLE)) < 5 * DAY_MILLIS);
    owner(&local, &["pause", "1d"]).success();
    wait_for("it is at rest", || (!local.report(ROLE)["rest"].is_null()).then_some(()));

    owner(&local, &["resume"]).success();
    let report = local.report(ROLE);
    assert!(report["rest"].is_null() && report["absent_until_millis"].is_null(), "{report}");
    assert!(left(&report) > 13 * DAY_MILLIS, "{report}");
    wait_for("everybody knows it", || rest(&local, &node).is_null().then_some(()));
    // Once more ends nothing, and is no failure.
    owner(&local, &["resume"]).success();
}

#[test]
fn an_owner_is_told_of_a_suspension_before_it_comes() {
    let local = Local::up(&["--coordinators", "3", "--storage-nodes", "3"]);
    let node = local.node_id(ROLE);
    let directory = local.role("coordinator-2");
    let operator = |words: &[&str]| {
        let all = [words, &["--data-dir", directory.to_str().unwrap()]].concat();
        run(local.home(), "firn-coordinator", all)
    };
    let announced = || {
        let listed = operator(&["node", "list", "--json"]).success();
        let nodes = listed.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        nodes.into_iter().find(|listed| listed["node"] == node.as_str()).unwrap()
    };
    // Whoever changes what it lends tells that at once, and asks what there is to know of it: else it asks each minute.
    let asked_of_him = |change: &[&str]| {
        owner(&local, change).success();
        owner(&local, &["status"])
    };
    let said =
        operator(&["node", "suspend", &node, "--reason", "its disks are older than they say"]).success();
    assert!(said.contains("will be suspended at 20") && said.contains("node resume"), "{said}");
    let listed = announced();
    assert_eq!(listed["state"], "active");
    assert_eq!(listed["suspension"]["reason"], "its disks are older than they say", "{listed}");
    let told = wait_for("the owner is told", || {
        let told = asked_of_him(&["pause", "1d"]);
        told.stdout.contains("will suspend this node at 20").then_some(told)
    });
    assert!(told.code == Some(1) && told.stdout.contains("its disks are older"), "{}", told.stdout);

    operator(&["node", "resume", &node]).success();
    assert_eq!(announced()["suspension"], Value::Null);
    wait_for("he is told that too", || (asked_of_him(&["resume"]).code == Some(0)).then_some(()));

    operator(&["node", "suspend", &node, "--now"]).success();
    assert_eq!(announced()["state"], "suspended");
    wait_for("he is told it is done", || {
        (owner(&local, &["status"]).stdout.contains("it is suspended and is given nothing new")).then_some(())
    });
}

#[test]
fn a_node_whose_owner_lets_it_leave_is_missed_by_nobody_and_its_directory_may_go() {
    let key = demo_key();
    let local = Local::up(&["--coordinators", "1", "--storage-nodes", "4", "--publisher", key.trim()]);
    local.firn(&["publish", demo_cache().join("cache").to_str().unwrap()]).success();
    let node = local.node_id(ROLE);
    assert!(listed(&local, &node)["shards"].as_u64() > Some(0));
    // Nobody but its owner says that it is to go. Each of the four holds a shard of every bundle: only a fifth can have those of
    // one that leaves, and it comes when that one is leaving already, or bundles would be coded anew for five.
    let told = std::thread::scope(|scope| {
        let leaving = scope.spawn(|| owner(&local, &["leave", "--wait"]).success());
        wait_for("it leaves", || (listed(&local, &node)["state"] == "draining").then_some(()));
        local.control("add", "storage-node").success();
        leaving.join().unwrap()
    });
    assert!(told.starts_with("the node leaves: "), "{told}");
    let directory = local.role(ROLE);
    let end = format!("the node has left: {} is yours to delete\n", directory.display());
    assert!(told.ends_with(&end), "{told}");
    let left = listed(&local, &node);
    assert_eq!((&left["state"], &left["shards"]), (&"gone".into(), &0.into()), "{left}");
    // As its owner was told; the program may be writing its last.
    wait_for("the directory goes", || std::fs::remove_dir_all(&directory).ok());
    local.firn(&["verify", "--all"]).success();
}
