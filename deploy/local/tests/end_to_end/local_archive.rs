//! `firn-local` from the first start to recovery from bare shard files, with real data and losses on the way.

use crate::support::fetch::{assert_recovered, assert_served, get, path_infos};
use crate::support::local::Local;
use crate::support::{demo_cache, demo_key, run};

#[test]
fn an_archive_in_one_process_survives_what_is_done_to_it() {
    let key = demo_key();
    let mut local = Local::up(&["--coordinators", "3", "--storage-nodes", "6", "--publisher", key.trim()]);
    let cache = demo_cache().join("cache");
    let published = path_infos(&cache);

    let summary = local.firn(&["publish", cache.to_str().unwrap(), "--json"]).success();
    let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
    assert_eq!(summary["paths_published"], published.len());
    assert_served(&local.url, &published, &key);
    assert_eq!(get(&format!("{}/00000000000000000000000000000000.narinfo", local.url)).status, 404);

    // Any 4 of 6 shards restore a bundle, and two of three coordinators are a majority. The gateway is started
    // anew, so that nothing comes from its memory.
    let leader = local.leader();
    let lost = [leader.as_str(), "storage-node-2", "storage-node-5", "gateway"];
    for role in lost {
        assert_eq!(local.control("stop", role).success(), format!("{role} was killed\n"));
    }
    assert_eq!(local.control("stop", &leader).failure(1), format!("{leader} is not running"));
    local.control("start", "gateway").success();
    assert_served(&local.url, &published, &key);

    for role in &lost[..3] {
        assert_eq!(local.control("start", role).success(), format!("{role} runs\n"));
    }
    assert_eq!(local.control("start", &leader).failure(1), format!("{leader} is running already"));
    local.firn(&["status", "--until-nodes", "6"]).success();

    // A node more, and one less; numbers are not given twice.
    assert_eq!(local.control("add", "storage-node").success(), "storage-node-7 runs\n");
    local.firn(&["status", "--until-nodes", "7"]).success();
    assert!(local.control("remove", "coordinator-1").failure(1).contains("cannot be removed"));
    local.control("remove", "storage-node-7").success();
    assert!(local.control("start", "storage-node-7").failure(1).contains("has no storage-node-7"));

    // A second process keeps away.
    let dir = local.dir();
    let second = run(local.home(), "firn-local", ["up".as_ref(), "--dir".as_ref(), dir.as_os_str()]);
    assert!(second.failure(1).contains("is in use by another process"));
    assert!(local.control("start", "gateway-2").failure(1).contains("is not a role"));

    assert_eq!(local.terminate(), Some(0));
    assert!(!dir.join("ready").exists());
    assert!(local.control("stop", "gateway").failure(1).starts_with("no archive runs in "));

    // All roles start again on their ports with what they had.
    local.start();
    assert_served(&local.url, &published, &key);
    let again = local.firn(&["publish", cache.to_str().unwrap(), "--json"]).success();
    let again: serde_json::Value = serde_json::from_str(&again).unwrap();
    assert_eq!((&again["paths_published"], &again["paths_skipped"]), (&0.into(), &published.len().into()));
    assert_eq!(local.firn(&["verify", "--all"]).code, Some(0));
    assert_eq!(local.terminate(), Some(0));

    // Bare shard files of any four nodes are enough.
    let shards: Vec<String> = [1, 3, 4, 6]
        .map(|node| local.role(&format!("storage-node-{node}")).join("shards").to_str().unwrap().to_owned())
        .into();
    let recovered = local.home().join("recovered");
    let mut arguments = vec!["recover", "--output", recovered.to_str().unwrap()];
    arguments.extend(shards.iter().map(String::as_str));
    local.firn(&arguments).success();
    assert_recovered(&recovered, &published);
}
