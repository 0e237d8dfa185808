//! A path is purged that shares its bundle with others: they are read all the while, its bytes go from every disk, also
//! from one that was away, and a leader that is killed midway changes nothing.

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use crate::support::cache::{Cache, noise, store_path};
use crate::support::fetch::{assert_recovered, assert_served, get, path_infos};
use crate::support::local::Local;
use crate::support::reading::while_reading;
use crate::support::{Ended, Running, command, run, wait_for};
use serde_json::Value;

const NODES: usize = 12;

/// `firn-coordinator` at any that runs: one that does not lead asks the one that does.
fn coordinator(local: &Local, words: &[&str]) -> Ended {
    let directories = (1..=3).map(|number| local.role(&format!("coordinator-{number}")));
    let runs = |directory: &PathBuf| UnixStream::connect(directory.join("control.sock")).is_ok();
    let directory = directories.into_iter().find(runs).unwrap();
    let words = words.iter().map(AsRef::as_ref).chain(["--data-dir".as_ref(), directory.as_os_str()]);
    run(local.home(), "firn-coordinator", words)
}

fn path(local: &Local, verb: &str, name: &str) -> Ended {
    coordinator(local, &["path", verb, &store_path(name).to_string(), "--reason", "a court said so"])
}

fn progress(local: &Local) -> Option<Value> {
    let said = coordinator(local, &["path", "purges", "--json"]);
    (said.code == Some(0)).then(|| serde_json::from_str(said.stdout.lines().next().unwrap()).unwrap())
}

/// Files below `directory` that hold `bytes`.
fn files_with(directory: &Path, bytes: &[u8]) -> usize {
    let mut found = 0;
    for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            found += files_with(&entry.path(), bytes);
        } else if let Ok(content) = std::fs::read(entry.path()) {
            found += usize::from(content.windows(bytes.len()).any(|window| window == bytes));
        }
    }
    found
}

#[test]
fn a_purged_path_is_gone_from_every_disk_and_all_that_shared_its_bundle_stays_readable() {
    let place = tempfile::tempdir().unwrap();
    let cache = Cache::new(place.path().join("cache"));
    let (shared, own) = (noise(600_000, 100), noise(600_000, 101));
    cache.add(cache.entry("gone", &[shared.as_slice(), &own].concat()));
    cache.add(cache.entry("twin", &[shared.as_slice(), &noise(100_000, 102)].concat()));
    for seed in 0..4 {
        cache.add(cache.entry(&format!("kept-{seed}"), &noise(200_000, seed)));
    }
    let (key, published) = (cache.publisher(), path_infos(cache.path()));
    let nodes = NODES.to_string();
    let options =
        ["--coordinators", "3", "--storage-nodes", &nodes, "--erase-after", "15s", "--publisher", &key];
    let mut local = Local::up(&options);
    local.firn(&["publish", cache.path().to_str().unwrap()]).success();
    assert_eq!(local.json(&["bundle", "list"]).as_array().unwrap().len(), 1, "all share one bundle");
    // It does not compress, so a data shard holds it as it is.
    let secret = &own[300_000..300_064];
    let on_disks = |local: &Local| -> Vec<usize> {
        let shards = |node| local.role(&format!("storage-node-{node}")).join("shards");
        (1..=NODES).map(|node| files_with(&shards(node), secret)).collect()
    };
    assert_eq!(on_disks(&local).iter().sum::<usize>(), 1, "else the search below says nothing");
    let holder = on_disks(&local).iter().position(|found| *found > 0).unwrap() + 1;
    let (away, id) = (format!("storage-node-{holder}"), local.node_id(&format!("storage-node-{holder}")));

    // Coordinators first tell each other that they all can.
    wait_for("a purge is refused for its own reason", || {
        path(&local, "purge", "gone").stderr.contains("the path is not withdrawn").then_some(())
    });
    path(&local, "withdraw", "gone").success();
    local.control("stop", &away).success();
    let asked = path(&local, "purge", "gone").success();
    assert!(asked.contains("firn repack"), "{asked}");
    assert_eq!(progress(&local).unwrap()["to_repack"].as_array().unwrap().len(), 1);
    let refused = path(&local, "reinstate", "gone").failure(1);
    assert!(refused.contains("being purged"), "{refused}");

    let gone = store_path("gone").hash_part().to_owned();
    let kept: BTreeMap<_, _> = published.clone().into_iter().filter(|(hash, _)| *hash != gone).collect();
    let read = || {
        local.firn(&["verify", "--all"]).success();
        assert_served(&local.url, &kept, &key);
    };
    let rounds = while_reading(read, |reading| {
        // One that is killed while it sends leaves everything as it was.
        let before = local.shard_files(NODES);
        let mut program = command("firn", local.home());
        program.arg("--config").arg(local.dir().join("firn.toml")).arg("repack");
        let mut first = Running::start(&mut program, &local.home().join("repack.log"));
        wait_for("something is sent", || {
            (local.shard_files(NODES) > before || first.ended().is_some()).then_some(())
        });
        first.kill();
        let (leader, repacked) = std::thread::scope(|scope| {
            let repacking = scope.spawn(|| {
                wait_for("the bundle is packed anew", || {
                    let ended = local.firn(&["repack", "--json"]);
                    let said: Value = serde_json::from_str(&ended.stdout).ok()?;
                    (ended.code == Some(0) && said[0]["failure"].is_null()).then_some(said)
                })
            });
            let leader = local.leader();
            local.control("stop", &leader).success();
            (leader, repacking.join().unwrap())
        });
        if let Some(report) = repacked.get(0) {
            assert_eq!((&report["kept"], &report["left_out"]), (&5.into(), &1.into()), "{repacked}");
            assert!(
                report["shared_bytes"].as_u64() > Some(300_000),
                "the twin keeps what it shares: {repacked}"
            );
        }
        local.control("start", &leader).success();
        let waiting = wait_for("all but one holder have erased it", || {
            reading.assert_goes_on();
            let now = progress(&local)?;
            (now["holders"] == NODES && now["waiting"].as_array().unwrap().len() == 1).then_some(now)
        });
        assert_eq!(waiting["waiting"][0]["online"], false);
    });
    assert!(rounds > 1, "{rounds} rounds of reading");
    let told = coordinator(&local, &["path", "purges"]).success();
    assert!(told.contains(&format!("gone from {} of {NODES} holders", NODES - 1)), "{told}");
    assert!(told.contains(&format!("waiting for node {id}, away since")), "{told}");
    let found = on_disks(&local);
    assert_eq!((found.iter().sum::<usize>(), found[holder - 1]), (1, 1), "only on the node that is away");

    local.control("start", &away).success();
    wait_for("the node that was away has erased it too", || {
        progress(&local)?["waiting"].as_array().unwrap().is_empty().then_some(())
    });
    assert_eq!(on_disks(&local), [0; NODES]);
    assert!(coordinator(&local, &["path", "purges"]).success().contains("nothing of it is left"));
    let log = coordinator(&local, &["log"]).success();
    assert!(log.contains("to be purged") && log.contains(" erased"), "{log}");

    // Nothing comes from anybody's memory.
    for verb in ["stop", "start"] {
        local.control(verb, "gateway").success();
    }
    assert_served(&local.url, &kept, &key);
    assert_eq!(get(&format!("{}/{gone}.narinfo", local.url)).status, 404);
    let status = local.json(&["status"]);
    assert_eq!(local.json(&["bundle", "list"]).as_array().unwrap().len(), 1, "{status}");

    // It may come back only as anything new does.
    path(&local, "reinstate", "gone").success();
    local.firn(&["publish", cache.path().to_str().unwrap()]).success();
    wait_for("it is served again", || {
        (get(&format!("{}/{gone}.narinfo", local.url)).status == 200).then_some(())
    });
    assert_served(&local.url, &published, &key);
    path(&local, "withdraw", "gone").success();
    path(&local, "purge", "gone").success();
    wait_for("the nodes keep a ledger that says so", || {
        let bytes = std::fs::read(local.role(&away).join("ledger")).ok()?;
        let purges = bytes.windows(15).filter(|window| window == b"a court said so").count();
        (purges >= 5).then_some(())
    });
    assert_eq!(local.terminate(), Some(0));
    let recovered = place.path().join("recovered");
    let mut words = vec!["recover", "--include-withdrawn", "--output", recovered.to_str().unwrap()];
    let roles: Vec<_> = (1..=NODES).map(|node| local.role(&format!("storage-node-{node}"))).collect();
    words.extend(roles.iter().map(|role| role.to_str().unwrap()));
    run(local.home(), "firn", words).success();
    assert_recovered(&recovered, &kept);
}
