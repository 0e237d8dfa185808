//! A rebuild of what is archived uses the chunks that are there: it takes few bytes, and is read by a gateway, by `firn get`
//! and from bare shard files as everything else is, also when a path of what it shares its chunks with is purged.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::support::cache::{Cache, noise, store_path};
use crate::support::fetch::{assert_recovered, assert_served, path_infos};
use crate::support::local::Local;
use crate::support::{Ended, run, wait_for};
use serde_json::Value;

const NODES: usize = 4;

/// Builds of eight packages, of which the first is new each time, and of one more that is new with the second.
fn generation(place: &Path, number: u64) -> Cache {
    let cache = update(place, number);
    for package in 0..7 {
        let name = format!("package-{}-1.{number}", char::from(b'a' + package));
        cache.add(cache.entry(&name, &noise(400_000, 100 + u64::from(package))));
    }
    cache
}

/// What is new with a generation, and the package that came with the second.
fn update(place: &Path, number: u64) -> Cache {
    let cache = Cache::new(place.join(format!("generation-{number}")));
    cache.add(cache.entry(&format!("news-{number}"), &noise(50_000, number)));
    if number > 1 {
        cache.add(cache.entry(&format!("late-1.{number}"), &noise(400_000, 200)));
    }
    cache
}

fn publish(local: &Local, cache: &Cache) -> Value {
    // As few bytes as a test has never fill a quarter of a bundle.
    local.json(&["publish", "--reuse-small-bundles", cache.path().to_str().unwrap()])
}

fn path(local: &Local, verb: &str, name: &str) -> Ended {
    let (path, directory) = (store_path(name).to_string(), local.role("coordinator-1"));
    let act = ["path", verb, &path, "--reason", "a court said so", "--data-dir", directory.to_str().unwrap()];
    run(local.home(), "firn-coordinator", act)
}

/// How far every purge has come.
fn purges(local: &Local) -> Vec<Value> {
    let directory = local.role("coordinator-1");
    let words = ["path", "purges", "--json", "--data-dir", directory.to_str().unwrap()];
    let said = run(local.home(), "firn-coordinator", words).success();
    said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Purges a path, packs anew what that needs, and waits until nothing is left of it.
fn purge(local: &Local, name: &str) -> Value {
    path(local, "withdraw", name).success();
    path(local, "purge", name).success();
    let repacked = local.json(&["repack"]);
    let failed = |report: &Value| !report["failure"].is_null();
    assert!(!repacked.as_array().unwrap().iter().any(failed), "{repacked}");
    wait_for("nothing is left of what is purged", || {
        purges(local).iter().all(|purge| purge["done"] == true).then_some(())
    });
    repacked
}

/// The bundles that each bundle depends on.
fn dependencies(local: &Local) -> BTreeMap<String, Vec<String>> {
    let bundles = local.json(&["bundle", "list"]);
    let ids = bundles.as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned());
    ids.map(|id| {
        let shown = local.json(&["bundle", "show", &id]);
        let named = shown["dependencies"].as_array().unwrap().iter();
        (id, named.map(|one| one.as_str().unwrap().to_owned()).collect())
    })
    .collect()
}

/// The only bundle that depends on exactly these.
fn dependent_of(local: &Local, bundles: &[&str]) -> String {
    let all = dependencies(local);
    let found: Vec<&String> = all.iter().filter(|(_, named)| *named == bundles).map(|(id, _)| id).collect();
    let [one] = found[..] else { panic!("{all:?}") };
    one.clone()
}

fn coding_of(local: &Local, bundle: &str) -> String {
    local.json(&["bundle", "show", bundle])["coding"].as_str().unwrap().to_owned()
}

fn nodes(local: &Local) -> Vec<PathBuf> {
    (1..=NODES).map(|node| local.role(&format!("storage-node-{node}"))).collect()
}

/// The shard files of a coding on these nodes.
fn shard_files(nodes: &[PathBuf], coding: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for node in nodes {
        let Ok(fan) = std::fs::read_dir(node.join("shards").join(&coding[..2])) else { continue };
        let own = fan.map(|file| file.unwrap().path());
        files.extend(own.filter(|file| file.file_name().unwrap().to_str().unwrap().starts_with(coding)));
    }
    files
}

fn recover(local: &Local, output: &Path, from: &[PathBuf]) -> Ended {
    let mut words = vec!["recover", "--output", output.to_str().unwrap()];
    words.extend(from.iter().map(|place| place.to_str().unwrap()));
    run(local.home(), "firn", words)
}

/// Moves the shard files of a coding out of the nodes' directories.
fn hide_shards(nodes: &[PathBuf], coding: &str, place: &Path) {
    std::fs::create_dir_all(place).unwrap();
    for file in shard_files(nodes, coding) {
        std::fs::rename(&file, place.join(file.file_name().unwrap())).unwrap();
    }
}

/// An archive that takes this publisher's paths, and purges them.
pub(crate) fn up(key: &str) -> Local {
    // One coordinator: whoever asks another than the one that took a commit may ask before it is there, and is told less.
    let local = Local::up(&[
        "--coordinators",
        "1",
        "--storage-nodes",
        &NODES.to_string(),
        "--erase-after",
        "2s",
        "--publisher",
        key,
    ]);
    // Before it has agreed with itself on what it knows, a coordinator neither purges nor remembers what is like what.
    wait_for("a purge is refused for its own reason", || {
        path(&local, "purge", "package-a-1.1").stderr.contains("the path is not withdrawn").then_some(())
    });
    local
}

#[test]
fn a_rebuild_takes_few_bytes_is_read_by_all_ways_and_what_it_uses_can_be_purged() {
    let place = tempfile::tempdir().unwrap();
    let (first, second) = (generation(place.path(), 1), generation(place.path(), 2));
    let key = first.publisher();
    let mut local = up(&key);
    publish(&local, &first);
    let said = publish(&local, &second);
    assert_eq!(said["paths_published"], 9, "{said}");
    let payload = said["payload"].as_u64().unwrap();
    assert!(payload < 480_000, "450 kB of 3.25 MB are new: {said}");
    let one = dependent_of(&local, &[]);
    let other = dependent_of(&local, &[&one]);
    let mut published: BTreeMap<_, _> =
        path_infos(first.path()).into_iter().chain(path_infos(second.path())).collect();
    assert_served(&local.url, &published, &key);
    local.firn(&["verify", "--all"]).success();
    let got = place.path().join("got");
    local
        .firn(&["get", &store_path("package-c-1.2").to_string(), "--output", got.to_str().unwrap()])
        .success();

    // What is purged of the first bundle has both packed anew, and the second goes on to use chunks of the first.
    let codings = [&one, &other].map(|bundle| coding_of(&local, bundle));
    for coding in &codings {
        assert_eq!(shard_files(&nodes(&local), coding).len(), NODES, "else the search below says nothing");
    }
    let repacked = purge(&local, "package-a-1.1");
    let said: Vec<_> = repacked.as_array().unwrap().iter().map(|report| &report["bundle"]).collect();
    assert_eq!(said, [one.as_str(), other.as_str()], "what holds it first: {repacked}");
    assert_eq!((&repacked[0]["left_out"], &repacked[1]["left_out"]), (&1.into(), &0.into()));
    let payload = repacked[1]["payload_bytes"].as_u64().unwrap();
    // The purged contents lay in the first bundle alone, and the second still has them under another name.
    assert!(payload < 900_000, "{repacked}");
    wait_for("the second has gone as well", || {
        codings.iter().all(|coding| shard_files(&nodes(&local), coding).is_empty()).then_some(())
    });
    published.remove(store_path("package-a-1.1").hash_part());
    let base = dependent_of(&local, &[]);
    let user = dependent_of(&local, &[&base]);
    for verb in ["stop", "start"] {
        local.control(verb, "gateway").success();
    }
    assert_served(&local.url, &published, &key);

    // What uses chunks of what is packed anew for the sake of others stays as it is, and so do those chunks.
    let third = update(place.path(), 3);
    publish(&local, &third);
    published.extend(path_infos(third.path()));
    let last = dependent_of(&local, &[&user]);
    let codings = [&base, &user, &last].map(|bundle| coding_of(&local, bundle));
    purge(&local, "package-b-1.1");
    published.remove(store_path("package-b-1.1").hash_part());
    let left = codings.clone().map(|coding| shard_files(&nodes(&local), &coding).len());
    assert_eq!(left, [0, NODES, NODES]);
    assert_eq!(dependent_of(&local, &[&user]), last);
    for verb in ["stop", "start"] {
        local.control(verb, "gateway").success();
    }
    assert_served(&local.url, &published, &key);
    local.firn(&["verify", "--all"]).success();

    let mut places = nodes(&local);
    wait_for("the nodes keep a ledger that says what is withdrawn and purged", || {
        let says = |place: &PathBuf| {
            let bytes = std::fs::read(place.join("ledger")).ok()?;
            (bytes.windows(15).filter(|window| window == b"a court said so").count() >= 4).then_some(())
        };
        places.iter().try_for_each(says)
    });
    assert_eq!(local.terminate(), Some(0));
    // Without the bundle that it uses, the last one says what it lacks.
    let hidden = place.path().join("hidden");
    hide_shards(&places, &codings[1], &hidden);
    let lacking = recover(&local, &place.path().join("lacking"), &places);
    assert_eq!(lacking.code, Some(1));
    let needed = format!("no shard file was found of bundle {}, whose chunks it uses", &user[..10]);
    assert!(lacking.stdout.contains(&needed), "{}", lacking.stdout);
    places.push(hidden);
    let recovered = place.path().join("recovered");
    recover(&local, &recovered, &places).success();
    assert_recovered(&recovered, &published);
}

#[test]
fn what_uses_chunks_of_a_bundle_that_was_packed_anew_can_be_purged_too_and_then_that_goes() {
    let place = tempfile::tempdir().unwrap();
    let caches = [generation(place.path(), 1), generation(place.path(), 2), update(place.path(), 3)];
    let key = caches[0].publisher();
    let local = up(&key);
    let mut published = BTreeMap::new();
    for cache in &caches {
        publish(&local, cache);
        published.extend(path_infos(cache.path()));
    }
    let one = dependent_of(&local, &[]);
    let other = dependent_of(&local, &[&one]);
    let last = dependent_of(&local, &[&other]);
    let codings = [&one, &other, &last].map(|bundle| coding_of(&local, bundle));
    let left = || codings.clone().map(|coding| shard_files(&nodes(&local), &coding).len());
    purge(&local, "package-a-1.1");
    assert_eq!(left(), [0, NODES, NODES], "the second stays for the third alone");
    // Nobody may come to use chunks of what stays so: the third is packed without, and nothing keeps the second any more.
    let repacked = purge(&local, "news-3");
    let said: Vec<_> = repacked.as_array().unwrap().iter().map(|report| &report["bundle"]).collect();
    assert_eq!(said, [last.as_str()], "{repacked}");
    wait_for("what stayed has gone", || (left() == [0; 3]).then_some(()));
    for name in ["package-a-1.1", "news-3"] {
        published.remove(store_path(name).hash_part());
    }
    assert_served(&local.url, &published, &key);
    local.firn(&["verify", "--all"]).success();
}
