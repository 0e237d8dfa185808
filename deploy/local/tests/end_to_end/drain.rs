//! A drain in a fleet without a spare failure domain: it waits, says what for, and ends when a node is added.

use std::path::Path;

use crate::support::local::Local;
use crate::support::{demo_cache, demo_key, finish, run, wait_for};
use serde_json::Value;

const NODES: &str = "4";
const REASON: &str = "no other home, because every failure domain with an active node holds a shard";

/// What the list says of a node.
fn listed(local: &Local, node: &str) -> Value {
    let nodes: Vec<Value> = serde_json::from_str(&local.firn(&["node", "list", "--json"]).success()).unwrap();
    nodes.into_iter().find(|listed| listed["node"] == node).unwrap()
}

/// The names and bytes of all files below a directory.
fn files_under(directory: &Path) -> Vec<(String, u64)> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            files.extend(files_under(&entry.path()));
        } else {
            files.push((entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len()));
        }
    }
    files
}

/// On every active node, the files of shards have the bytes that the coordinators charge it.
fn the_books_are_what_lies_on_disk(local: &Local) {
    for number in (1..).take_while(|number| local.role(&format!("storage-node-{number}")).exists()) {
        let role = local.role(&format!("storage-node-{number}"));
        let id = ["id".into(), "--data-dir".into(), role.clone().into_os_string()];
        let node = run(local.home(), "firn-storage-node", id).success().trim().to_owned();
        wait_for("the books are what lies on disk", || {
            let listed = listed(local, &node);
            let files = files_under(&role.join("shards"));
            let shards = files.iter().filter(|(name, _)| name.ends_with(".shard"));
            let bytes: u64 = shards.map(|(_, bytes)| bytes).sum();
            (listed["state"] == "gone" || (bytes > 0 && listed["assigned"] == bytes)).then_some(())
        });
    }
}

#[test]
fn a_drain_without_a_home_for_its_shards_says_so_and_ends_when_a_node_is_added() {
    let key = demo_key();
    let local = Local::up(&["--coordinators", "1", "--storage-nodes", NODES, "--publisher", key.trim()]);
    let cache = demo_cache().join("cache");
    local.firn(&["publish", cache.to_str().unwrap()]).success();

    let id = ["id".into(), "--data-dir".into(), local.role("storage-node-2").into_os_string()];
    let node = run(local.home(), "firn-storage-node", id).success().trim().to_owned();
    let shards = listed(&local, &node)["shards"].clone();
    assert!(shards.as_u64() > Some(0), "{shards}");

    let mut drain = crate::support::command("firn-coordinator", local.home());
    drain.args(["node", "drain", &node]).arg("--data-dir").arg(local.role("coordinator-1"));
    let answer = finish(&mut drain).success();
    assert!(answer.contains("is draining: ") && answer.contains(REASON), "{answer}");

    wait_for("the leader has measured the drain", || {
        let drain = listed(&local, &node)["drain"].clone();
        (drain["to_move"] == shards && drain["without_home"] == shards).then_some(())
    });
    for arguments in [&["node", "list"][..], &["status"]] {
        let said = local.firn(arguments).success();
        assert!(said.contains(REASON), "{said}");
    }
    let waited = local.firn(&["status", "--until", "drained", "--timeout", "1s"]).failure(1);
    assert!(waited.contains(REASON), "{waited}");
    assert_eq!(listed(&local, &node)["shards"], shards);

    local.control("add", "storage-node").success();
    local.firn(&["status", "--until", "drained"]).success();
    let drained = listed(&local, &node);
    assert_eq!((&drained["state"], &drained["shards"]), (&"gone".into(), &0.into()));
    assert!(drained["drain"].is_null());
    // It was not asked to delete anything: what lies on it counts for nobody, and is its owner's.
    let left = files_under(&local.role("storage-node-2").join("shards"));
    assert_eq!(
        left.iter().filter(|(name, _)| name.ends_with(".shard")).count() as u64,
        shards.as_u64().unwrap()
    );
    wait_for("what lies on it is forgotten", || (listed(&local, &node)["assigned"] == 0).then_some(()));
    let data_dir = ["--data-dir".into(), local.role("storage-node-2").into_os_string()];
    wait_for("its owner is told", || {
        let status = ["status".into()].into_iter().chain(data_dir.clone());
        let said = run(local.home(), "firn-storage-node", status);
        let is_told = said.stdout.contains("\nattention   ") && said.stdout.contains("are yours to delete");
        // Whoever asks by a timer hears it by the code: first that it is drained, which its owner has not asked for.
        assert_eq!(said.code, Some(1), "{}{}", said.stdout, said.stderr);
        is_told.then_some(())
    });
    the_books_are_what_lies_on_disk(&local);
    local.firn(&["verify", "--all"]).success();
}
