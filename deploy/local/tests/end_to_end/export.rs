//! Caches that `firn get` and `firn export` write: what Nix makes of them, and what becomes of damage, gaps and signals.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::support::cache::{Cache, noise, store_path};
use crate::support::fetch::{assert_recovered, path_infos};
use crate::support::local::Local;
use crate::support::{Ended, Running, command, demo_cache, demo_key, nix, run, signal_process, wait_for};
use firn_nix_format::PathInfo;
use serde_json::Value;

fn summary(ended: Ended) -> Value {
    serde_json::from_str(&ended.success()).unwrap()
}

/// An archive of the demo's cache, which real Nix made.
fn demo_archive() -> Local {
    let local = Local::up(&["--coordinators", "3", "--storage-nodes", "6", "--publisher", demo_key().trim()]);
    local.firn(&["publish", demo_cache().join("cache").to_str().unwrap()]).success();
    local
}

fn lines(name: &str) -> Vec<String> {
    fs::read_to_string(demo_cache().join(name)).unwrap().lines().map(str::to_owned).collect()
}

/// Every file below a directory with its inode: a file that was written anew has another one.
fn files(directory: &Path) -> BTreeMap<PathBuf, u64> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            files.append(&mut self::files(&entry.path()));
        } else {
            files.insert(entry.path(), entry.metadata().unwrap().ino());
        }
    }
    files
}

#[test]
fn nix_reads_what_was_exported_in_every_compression() {
    let (local, key) = (demo_archive(), demo_key());
    let published = path_infos(&demo_cache().join("cache"));
    let own_log = fs::read_dir(demo_cache().join("cache/log")).unwrap().next().unwrap().unwrap();
    for compression in [None, Some("none"), Some("zstd"), Some("xz")] {
        let name = compression.unwrap_or("as-archived");
        let output = local.home().join(name);
        let mut words = vec!["export", "--all", "--listings", "--json", "--to", output.to_str().unwrap()];
        words.extend(compression.iter().flat_map(|name| ["--compression", name]));
        let said = summary(local.firn(&words));
        assert_eq!((&said["paths"], &said["missing_total"]), (&published.len().into(), &0.into()), "{said}");
        assert_recovered(&output, &published);
        for (hash, info) in path_infos(&output) {
            assert_eq!(info.compression.name(), compression.unwrap_or("none"));
            assert_eq!(info.signatures, published[&hash].signatures);
            let file = fs::read(output.join(&info.url)).unwrap();
            assert_eq!(
                (info.file_size, info.file_hash),
                (Some(file.len() as u64), Some(firn_nix_format::Sha256::of(&file)))
            );
            let listing = |cache: &Path| -> Value {
                serde_json::from_slice(&fs::read(cache.join(format!("{hash}.ls"))).unwrap()).unwrap()
            };
            assert_eq!(listing(&output), listing(&demo_cache().join("cache")), "as Nix made it");
        }
        let log = output.join("log").join(own_log.file_name());
        assert_eq!(fs::read(log).unwrap(), fs::read(own_log.path()).unwrap());
        if nix::is_there() {
            let url = format!("file://{}", output.display());
            nix::copy(&url, &key, &lines("roots.txt"), &local.home().join(format!("{name}-store")));
            nix::verify(&url, &key, &lines("paths.txt"), &local.home().join(format!("{name}-home")));
        }
    }
}

#[test]
fn a_closure_is_got_whole_and_nix_copies_from_it() {
    let (local, key) = (demo_archive(), demo_key());
    let output = local.home().join("closure");
    let roots = lines("roots.txt");
    let mut words = vec!["get", "--closure", "--json", "--output", output.to_str().unwrap()];
    words.extend(roots.iter().map(String::as_str));
    // Exit code 0, too.
    let said = summary(local.firn(&words));
    assert_eq!(said["missing_total"], 0, "{said}");
    assert_eq!(said["paths"], path_infos(&output).len());
    if nix::is_there() {
        // Nix copies a path with all that it needs, or not at all.
        let url = format!("file://{}", output.display());
        nix::copy(&url, &key, &roots, &local.home().join("closure-store"));
    }
}

#[test]
fn what_is_right_stays_and_what_is_damaged_is_replaced() {
    let local = demo_archive();
    let published = path_infos(&demo_cache().join("cache"));
    let output = local.home().join("out");
    let words = ["export", "--all", "--json", "--to", output.to_str().unwrap()];
    let first = summary(local.firn(&words));
    assert_eq!(first["paths"], published.len());
    let before = files(&output);

    let again = summary(local.firn(&words));
    assert_eq!(
        (&again["kept"], &again["paths"], &again["bytes"]),
        (&published.len().into(), &0.into(), &0.into())
    );
    assert_eq!(files(&output), before, "nothing was written anew");

    // A flipped bit, a NAR cut short, one that is gone, a narinfo that is none, one that lies about its contents.
    let mut infos: Vec<PathInfo> = path_infos(&output).into_values().collect();
    infos.sort_by_key(|info| std::cmp::Reverse(info.nar_size));
    let nar = |info: &PathInfo| output.join(&info.url);
    let narinfo = |info: &PathInfo| output.join(format!("{}.narinfo", info.store_path.hash_part()));
    let mut bytes = fs::read(nar(&infos[0])).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(nar(&infos[0]), bytes).unwrap();
    fs::write(nar(&infos[1]), &fs::read(nar(&infos[1])).unwrap()[..1_000]).unwrap();
    fs::remove_file(nar(&infos[2])).unwrap();
    fs::write(narinfo(&infos[3]), "StorePath: what?\n").unwrap();
    let lying = infos[4].to_string().replace(&infos[4].nar_hash.to_string(), &infos[5].nar_hash.to_string());
    fs::write(narinfo(&infos[4]), lying).unwrap();
    let log = fs::read_dir(output.join("log")).unwrap().next().unwrap().unwrap().path();
    fs::write(&log, "something else").unwrap();
    let left_behind = output.join("nar/.firn-123456.partial");
    fs::write(&left_behind, "half of it").unwrap();

    let mended = summary(local.firn(&words));
    assert_eq!((&mended["replaced"], &mended["paths"]), (&5.into(), &5.into()), "{mended}");
    assert_eq!((&mended["kept"], &mended["others"]), (&(published.len() - 5).into(), &1.into()), "{mended}");
    assert_recovered(&output, &published);
    assert!(!left_behind.exists());
    assert_eq!(files(&output).into_keys().collect::<Vec<_>>(), before.into_keys().collect::<Vec<_>>());
    let name = log.file_name().unwrap();
    assert_eq!(fs::read(&log).unwrap(), fs::read(demo_cache().join("cache/log").join(name)).unwrap());

    // What was exported without listings gets them, from the NARs that lie there.
    let listed = summary(local.firn(&[&words[..], &["--listings"]].concat()));
    assert_eq!((&listed["kept"], &listed["paths"]), (&published.len().into(), &0.into()), "{listed}");
    for hash in published.keys() {
        let listing = |cache: &Path| -> Value {
            serde_json::from_slice(&fs::read(cache.join(format!("{hash}.ls"))).unwrap()).unwrap()
        };
        assert_eq!(listing(&output), listing(&demo_cache().join("cache")), "as Nix made it");
    }
}

/// An archive of a closure: `top` refers to `middle`, that to `base` and to a path that nobody has.
fn closure_archive(place: &Path) -> (Local, Cache) {
    let cache = Cache::new(place.join("cache"));
    let entry = |number: u64, name: &str, references: &[&str]| {
        let mut entry = cache.entry(name, &noise(60_000, number));
        entry.info.references = references.iter().map(|name| store_path(name)).collect();
        entry
    };
    cache.add(entry(1, "base", &["base"]));
    cache.add(entry(2, "middle", &["base", "nowhere"]));
    cache.add(entry(3, "top", &["middle"]));
    cache.add(entry(4, "alone", &[]));
    let publisher = cache.publisher();
    let local = Local::up(&["--coordinators", "3", "--storage-nodes", "4", "--publisher", &publisher]);
    local.firn(&["publish", cache.path().to_str().unwrap()]).success();
    (local, cache)
}

fn names(cache: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        path_infos(cache).into_values().map(|info| info.store_path.name().to_owned()).collect();
    names.sort();
    names
}

#[test]
fn what_is_missing_is_named_with_its_reason() {
    let place = tempfile::tempdir().unwrap();
    let (local, _cache) = closure_archive(place.path());
    let output = local.home().join("out");
    let to = output.to_str().unwrap();
    let top = store_path("top").to_string();

    let alone = summary(local.firn(&["get", &store_path("alone").to_string(), "--output", to, "--json"]));
    assert_eq!((&alone["paths"], names(&output)), (&1.into(), vec!["alone".to_owned()]));

    // A reference that nobody has makes a closure incomplete, and the rest is there.
    let dangling = local.firn(&["get", &top, "--closure", "--output", to]).failure(1);
    let nowhere = store_path("nowhere");
    assert_eq!(dangling, format!("{nowhere}: it is not archived; {} refers to it", store_path("middle")));
    assert_eq!(names(&output), ["alone", "base", "middle", "top"]);

    let list = local.home().join("list");
    fs::write(&list, format!("{}\n{}\n", store_path("base"), store_path("stranger").hash_part())).unwrap();
    let mixed = local.firn(&["export", "--paths", list.to_str().unwrap(), "--to", to, "--json"]);
    let said: Value = serde_json::from_str(&mixed.stdout).unwrap();
    assert_eq!((mixed.code, &said["kept"]), (Some(1), &1.into()));
    assert_eq!(said["missing"][0]["state"], "not-archived");

    let directory = local.role("coordinator-1");
    let words = ["path", "withdraw", &top, "--reason", "asked by its author", "--data-dir"];
    run(local.home(), "firn-coordinator", [&words[..], &[directory.to_str().unwrap()]].concat()).success();
    let elsewhere = local.home().join("elsewhere");
    let withdrawn = wait_for("every replica knows of it", || {
        let ended = local.firn(&["get", &top, "--output", elsewhere.to_str().unwrap(), "--json"]);
        (ended.code == Some(1)).then_some(ended)
    });
    let said: Value = serde_json::from_str(&withdrawn.stdout).unwrap();
    assert_eq!(said["missing"][0]["state"], "withdrawn", "{said}");
    assert_eq!(withdrawn.failure(1), format!("{top}: it was withdrawn: asked by its author"));

    // Nobody's signature that is trusted here; and all nodes are away.
    let key = demo_key();
    let base = store_path("base").to_string();
    let to = local.home().join("other");
    let to = to.to_str().unwrap();
    let untrusted = local.firn(&["get", &base, "--output", to, "--trusted-public-keys", key.trim()]);
    assert!(untrusted.failure(1).contains("no key that is trusted here has signed it"));
    for node in 1..=4 {
        local.control("stop", &format!("storage-node-{node}")).success();
    }
    let unreadable = local.firn(&["get", &base, "--output", to]).failure(1);
    assert!(unreadable.contains("it is archived and cannot be read now"), "{unreadable}");
}

#[test]
fn paths_are_unpacked_where_that_is_asked_for() {
    let place = tempfile::tempdir().unwrap();
    let (local, _cache) = closure_archive(place.path());
    let output = local.home().join("trees");
    let base = store_path("base");
    let words = ["get", &base.to_string(), "--unpack", "--output", output.to_str().unwrap()];
    local.firn(&words).success();
    assert_eq!(fs::read(output.join(base.base_name()).join("file")).unwrap(), noise(60_000, 1));
    assert!(local.firn(&words).success().contains("was there already"));
}

#[test]
fn an_export_that_is_interrupted_leaves_a_valid_cache_and_goes_on_later() {
    const PATHS: usize = 48;
    let place = tempfile::tempdir().unwrap();
    let cache = Cache::new(place.path().join("cache"));
    for number in 0..PATHS {
        cache.add(cache.entry(&format!("path-{number}"), &noise(200_000, number as u64)));
    }
    let publisher = cache.publisher();
    let local = Local::up(&["--coordinators", "1", "--storage-nodes", "4", "--publisher", &publisher]);
    local.firn(&["publish", cache.path().to_str().unwrap()]).success();
    let published = path_infos(cache.path());
    let output = local.home().join("out");
    // xz makes it slow enough to be stopped midway.
    let words = ["export", "--publisher", "test-1", "--compression", "xz", "--to", output.to_str().unwrap()];
    let begin = |log: &str| {
        let mut program = command("firn", local.home());
        program.arg("--config").arg(local.dir().join("firn.toml")).args(words);
        Running::start(&mut program, &local.home().join(log))
    };
    let written = || {
        let entries = fs::read_dir(&output).into_iter().flatten().flatten();
        entries.filter(|entry| entry.path().extension().is_some_and(|end| end == "narinfo")).count()
    };
    let valid = || {
        let found = path_infos(&output);
        let wanted = published.clone().into_iter().filter(|(hash, _)| found.contains_key(hash)).collect();
        assert_recovered(&output, &wanted);
        found.len()
    };

    // An export that has written some, less than three quarters of all, and stands still. One that was further before it
    // could be stopped is undone.
    let stopped = |log: &str| {
        wait_for("an export is stopped midway", || {
            let before = written();
            let mut export = begin(log);
            wait_for("a path more is there", || {
                (written() > before || export.ended().is_some()).then_some(())
            });
            if export.ended().is_none() {
                signal_process(export.id(), "-STOP");
                if export.ended().is_none() && written() < PATHS * 3 / 4 {
                    return Some(export);
                }
            }
            export.kill();
            fs::remove_dir_all(&output).unwrap();
            None
        })
    };

    let first = stopped("first.log");
    signal_process(first.id(), "-INT");
    signal_process(first.id(), "-CONT");
    assert_eq!(first.failure(1), "stopped before it was done; run it again to go on");
    let after_first = valid();
    assert!((1..published.len()).contains(&after_first), "{after_first} of {}", published.len());
    assert!(files(&output).keys().all(|path| !path.to_str().unwrap().ends_with(".partial")));

    // A second one at the same time is refused; kill -9 does no more harm than a signal.
    let second = stopped("second.log");
    assert!(local.firn(&words).failure(1).contains("another program writes into"));
    second.kill();
    let after_second = valid();
    assert!(after_second > 0);

    let said = summary(local.firn(&[&words[..], &["--json"]].concat()));
    assert_eq!(said["kept"].as_u64().unwrap() + said["paths"].as_u64().unwrap(), PATHS as u64, "{said}");
    assert!(said["kept"].as_u64().unwrap() >= after_second as u64, "{said}");
    assert_recovered(&output, &published);
}
