//! A publisher is removed whose key is not to be trusted since some moment: what it alone vouches for goes, the rest stays.

use std::collections::BTreeMap;

use crate::support::cache::{Cache, noise, store_path};
use crate::support::fetch::{assert_served, get, path_infos};
use crate::support::local::Local;
use crate::support::{Ended, run, wait_for};
use firn_nix_format::PublisherSecretKey;

fn coordinator(local: &Local, words: &[&str]) -> Ended {
    let directory = local.role("coordinator-1");
    let words = words.iter().copied().chain(["--data-dir", directory.to_str().unwrap()]);
    run(local.home(), "firn-coordinator", words)
}

#[test]
fn what_a_removed_publisher_alone_has_signed_since_a_moment_is_withdrawn() {
    let place = tempfile::tempdir().unwrap();
    let cache = Cache::new(place.path().join("cache"));
    let (key, other) = (cache.publisher(), PublisherSecretKey::from_seed("other-1", &[8; 32]).unwrap());
    cache.add(cache.entry("before", &noise(50_000, 1)));
    let options = ["--coordinators", "1", "--storage-nodes", "4", "--publisher", &key];
    let mut local = Local::up(&options);
    let publish = |local: &Local| local.firn(&["publish", cache.path().to_str().unwrap()]).success();
    publish(&local);

    coordinator(&local, &["publisher", "add", &other.public_key().to_string()]).success();
    let log = coordinator(&local, &["log"]).success();
    let position = log.lines().last().unwrap().split_whitespace().next().unwrap().to_owned();
    cache.add(cache.entry("since", &noise(50_000, 2)));
    let mut both = cache.entry("both", &noise(50_000, 3));
    both.info.signatures.push(other.sign(&both.info));
    cache.add(both);
    publish(&local);
    let published = path_infos(cache.path());
    assert_served(&local.url, &published, &key);

    let remove = ["publisher", "remove", "test-1", "--since", &position];
    let refused = coordinator(&local, &["publisher", "remove", "test-1", "--since", "999999"]).failure(1);
    assert!(refused.contains("no entry of this position"), "{refused}");
    let would = coordinator(&local, &[&remove[..], &["--dry-run"]].concat()).success();
    assert_eq!(would, "would withdraw 1 paths that nobody else vouches for\n");
    assert!(coordinator(&local, &["publisher", "list"]).success().contains("test-1"));
    // Coordinators first tell each other that they all can.
    let done = wait_for("it is removed", || {
        let ended = coordinator(&local, &remove);
        (ended.code == Some(0)).then_some(ended.stdout)
    });
    assert_eq!(done, "withdrew 1 paths that nobody else vouches for\n");
    assert!(!coordinator(&local, &["publisher", "list"]).success().contains("test-1"));

    let gone = store_path("since").hash_part().to_owned();
    wait_for("the gateway serves it no more", || {
        (get(&format!("{}/{gone}.narinfo", local.url)).status == 404).then_some(())
    });
    let kept: BTreeMap<_, _> = published.into_iter().filter(|(hash, _)| *hash != gone).collect();
    assert_served(&local.url, &kept, &key);
    // What is done is done: once more changes nothing, and a path can be had back.
    assert_eq!(coordinator(&local, &remove).success(), "withdrew 0 paths that nobody else vouches for\n");
    let path = store_path("since").to_string();
    coordinator(&local, &["path", "reinstate", &path, "--reason", "it was looked at"]).success();
    wait_for("it is served again", || {
        (get(&format!("{}/{gone}.narinfo", local.url)).status == 200).then_some(())
    });
    assert_eq!(local.terminate(), Some(0));
}
