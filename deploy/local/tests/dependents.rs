//! A rebuild of what is archived uses the chunks that are there: it takes few bytes, and is read by a gateway, by `firn get`
//! and from bare shard files as everything else is, also when what it shares its chunks with is purged.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use support::cache::{Cache, noise, store_path};
use support::fetch::{assert_recovered, assert_served, path_infos};
use support::local::Local;
use support::{Ended, run, wait_for};

const NODES: usize = 4;

/// Builds of eight packages, of which the first is new each time.
fn generation(place: &Path, number: u64) -> Cache {
    let cache = Cache::new(place.join(format!("generation-{number}")));
    cache.add(cache.entry(&format!("news-{number}"), &noise(50_000, number)));
    for package in 0..7 {
        let name = format!("package-{}-1.{number}", char::from(b'a' + package));
        cache.add(cache.entry(&name, &noise(400_000, 100 + u64::from(package))));
    }
    cache
}

fn publish(local: &Local, cache: &Cache) -> Value {
    local.json(&["publish", "--reuse-chunks", cache.path().to_str().unwrap()])
}

fn path(local: &Local, verb: &str, name: &str) -> Ended {
    let (path, directory) = (store_path(name).to_string(), local.role("coordinator-1"));
    let act = ["path", verb, &path, "--reason", "a court said so", "--data-dir", directory.to_str().unwrap()];
    run(local.home(), "firn-coordinator", act)
}

fn progress(local: &Local) -> Value {
    let directory = local.role("coordinator-1");
    let words = ["path", "purges", "--json", "--data-dir", directory.to_str().unwrap()];
    let said = run(local.home(), "firn-coordinator", words).success();
    serde_json::from_str(said.lines().next().unwrap()).unwrap()
}

fn recover(local: &Local, output: &Path, from: &[PathBuf]) -> Ended {
    let mut words = vec!["recover", "--output", output.to_str().unwrap()];
    words.extend(from.iter().map(|place| place.to_str().unwrap()));
    run(local.home(), "firn", words)
}

/// Moves the shard files of a coding out of the nodes' directories.
fn hide_shards(nodes: &[PathBuf], coding: &str, place: &Path) {
    std::fs::create_dir_all(place).unwrap();
    for node in nodes {
        for file in std::fs::read_dir(node.join("shards").join(&coding[..2])).unwrap() {
            let file = file.unwrap().path();
            let name = file.file_name().unwrap().to_str().unwrap();
            if name.starts_with(coding) {
                std::fs::rename(&file, place.join(name)).unwrap();
            }
        }
    }
}

#[test]
fn a_rebuild_takes_few_bytes_and_is_read_by_all_ways_and_through_a_purge_of_what_it_uses() {
    let place = tempfile::tempdir().unwrap();
    let (first, second) = (generation(place.path(), 1), generation(place.path(), 2));
    let key = first.publisher();
    // One coordinator: whoever asks another than the one that took a commit may ask before it is there, and is told less.
    let mut local = Local::up(&[
        "--coordinators",
        "1",
        "--storage-nodes",
        &NODES.to_string(),
        "--erase-after",
        "2s",
        "--publisher",
        &key,
    ]);
    // Before it has agreed with itself on what it knows, a coordinator neither purges nor remembers what is like what.
    wait_for("a purge is refused for its own reason", || {
        path(&local, "purge", "package-a-1.1").stderr.contains("the path is not withdrawn").then_some(())
    });
    publish(&local, &first);
    let said = publish(&local, &second);
    assert_eq!(said["paths_published"], 8, "{said}");
    let payload = said["payload"].as_u64().unwrap();
    assert!(payload < 80_000, "50 kB of 2.85 MB are new: {said}");
    let bundles = local.json(&["bundle", "list"]);
    let ids: Vec<&str> = bundles.as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect();
    let [one, other] = ids[..] else { panic!("two bundles: {bundles}") };
    assert_eq!(local.json(&["bundle", "show", other])["dependencies"], serde_json::json!([one]));

    let published: BTreeMap<_, _> =
        path_infos(first.path()).into_iter().chain(path_infos(second.path())).collect();
    assert_served(&local.url, &published, &key);
    local.firn(&["verify", "--all"]).success();
    let got = place.path().join("got");
    local
        .firn(&["get", &store_path("package-c-1.2").to_string(), "--output", got.to_str().unwrap()])
        .success();

    // What is purged of the first bundle takes it out of service, and the second goes on to use its chunks.
    path(&local, "withdraw", "package-a-1.1").success();
    path(&local, "purge", "package-a-1.1").success();
    local.firn(&["repack"]).success();
    let kept = wait_for("the first bundle is kept for the other", || {
        let now = progress(&local);
        (!now["kept"].as_array()?.is_empty()).then_some(now)
    });
    assert_eq!(kept["kept"][0]["dependents"], 1, "{kept}");
    let gone = store_path("package-a-1.1").hash_part().to_owned();
    let readable: BTreeMap<_, _> = published.into_iter().filter(|(hash, _)| *hash != gone).collect();
    for verb in ["stop", "start"] {
        local.control(verb, "gateway").success();
    }
    assert_served(&local.url, &readable, &key);
    // Nothing new comes to depend on it.
    let third = generation(place.path(), 3);
    publish(&local, &third);
    for bundle in local.json(&["bundle", "list"]).as_array().unwrap() {
        let shown = local.json(&["bundle", "show", bundle["id"].as_str().unwrap()]);
        let uses = shown["dependencies"].as_array().unwrap().contains(&one.into());
        assert_eq!(uses, shown["id"] == other, "{shown}");
    }
    let all: BTreeMap<_, _> = readable.into_iter().chain(path_infos(third.path())).collect();
    assert_served(&local.url, &all, &key);

    let coding = local.json(&["bundle", "show", one])["coding"].as_str().unwrap().to_owned();
    let mut places: Vec<PathBuf> =
        (1..=NODES).map(|node| local.role(&format!("storage-node-{node}"))).collect();
    wait_for("the nodes keep a ledger that says what is withdrawn and purged", || {
        let says = |place: &PathBuf| {
            let bytes = std::fs::read(place.join("ledger")).ok()?;
            (bytes.windows(15).filter(|window| window == b"a court said so").count() >= 2).then_some(())
        };
        places.iter().try_for_each(says)
    });
    assert_eq!(local.terminate(), Some(0));
    // Without the bundle that it uses, the second one says what it lacks.
    let hidden = place.path().join("hidden");
    hide_shards(&places, &coding, &hidden);
    let lacking = recover(&local, &place.path().join("lacking"), &places);
    assert_eq!(lacking.code, Some(1));
    let needed = format!("no shard file was found of bundle {}, whose chunks it uses", &one[..10]);
    assert!(lacking.stdout.contains(&needed), "{}", lacking.stdout);
    places.push(hidden);
    let recovered = place.path().join("recovered");
    recover(&local, &recovered, &places).success();
    assert_recovered(&recovered, &all);
}
