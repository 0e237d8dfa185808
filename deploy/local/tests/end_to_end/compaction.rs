//! Many small publishes leave many small bundles; `firn compact` packs them together, killed midway as well, while everything is
//! read; the small ones go from every disk.

use crate::dependents::up;
use crate::support::cache::{Cache, Entry, info_of, nar_of, noise, store_path};
use crate::support::fetch::{assert_recovered, assert_served, path_infos};
use crate::support::local::Local;
use crate::support::reading::while_reading;
use crate::support::{Running, command, run, wait_for};
use firn_nix_format::Sha256;
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

    let read = || {
        local.firn(&["verify", "--all"]).success();
        assert_served(&local.url, &published, &key);
    };
    let rounds = while_reading(read, |reading| {
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
            reading.assert_goes_on();
            (bundles(&local) == 1 && local.shard_files(NODES) == NODES).then_some(())
        });
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

const PACKAGES: u64 = 8;

/// Bytes that take as many in an archive.
fn add(cache: &Cache, name: &str, contents: &[u8]) {
    let nar = nar_of(contents);
    let info = info_of(store_path(name), Sha256::of(&nar), nar.len() as u64);
    cache.add(Entry { info, file: Some(nar) });
}

/// A package's first build, and what so many versions after it have added, each 3 MB.
fn contents(package: u64, versions: u64) -> Vec<u8> {
    let added = (1..=versions).map(|version| noise(3_000_000, 1_000 * version + package));
    [noise(4_000_000, package)].into_iter().chain(added).flatten().collect()
}

fn payload(local: &Local) -> u64 {
    local.json(&["status"])["fill"]["payload"].as_u64().unwrap()
}

#[test]
fn small_publishes_of_rebuilds_come_together_whatever_large_publish_came_between_and_store_nothing_twice() {
    let place = tempfile::tempdir().unwrap();
    let cache = Cache::new(place.path().join("cache"));
    let key = cache.publisher();
    let local = up(&key);
    let publish = || local.json(&["publish", cache.path().to_str().unwrap()]);
    for package in 0..PACKAGES {
        add(&cache, &format!("p{package}-1.0"), &contents(package, 0));
        publish();
    }
    // A large one has all of that, too: used, it would keep the small ones where they are for good.
    add(&cache, "big-1.0", &noise(70_000_000, 100));
    for package in 0..PACKAGES {
        add(&cache, &format!("p{package}-1.1"), &contents(package, 0));
    }
    assert_eq!(publish()["bundles"], 1);
    assert_eq!(small(&local).0, PACKAGES, "the large one is not small");
    for round in 0..3 * PACKAGES {
        let (package, version) = (round % PACKAGES, round / PACKAGES + 1);
        add(&cache, &format!("p{package}-2.{version}"), &contents(package, version));
        publish();
    }
    assert_eq!(small(&local).0, 4 * PACKAGES);
    // Each build, the large path, and what each version added, once.
    let once = PACKAGES * 4_000_000 + 70_000_000 + 3 * PACKAGES * 3_000_000;
    let before = payload(&local);
    loop {
        let report = wait_for("small bundles are packed together", || compact(&local));
        if report["groups"].as_array().unwrap().is_empty() {
            break;
        }
    }
    let (count, share) = small(&local);
    assert!(share <= 5.0, "{share} % in {count} small bundles");
    let behind = payload(&local);
    println!("payload before {before}, behind {behind}, each byte once {once}; small {share} %");
    assert!(behind < once + once / 25, "{behind} bytes of payload, {once} if each is stored once");
    for verb in ["stop", "start"] {
        local.control(verb, "gateway").success();
    }
    assert_served(&local.url, &path_infos(cache.path()), &key);
    local.firn(&["verify", "--all"]).success();

    // From now on what came together is used as any full bundle is: of each package the last version is found in it.
    for package in 0..PACKAGES {
        add(&cache, &format!("p{package}-3.0"), &contents(package, 3));
    }
    let said = publish();
    assert_eq!(said["paths_published"], PACKAGES, "{said}");
    assert!(said["payload"].as_u64().unwrap() < 500_000, "{said}");
    let (count, share) = small(&local);
    assert!(count == 1 && share <= 5.0, "{count} with {share} %");
    assert!(compact(&local).unwrap()["groups"].as_array().unwrap().is_empty());
}
