//! A gateway that was killed and started again while everything else of the archive is gone.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::time::Instant;

use support::cache::{Cache, noise};
use support::fetch::{assert_served, get, path_infos, try_get};
use support::local::Local;
use support::{Running, command, tcp_port, wait_for};

fn gateway(local: &Local, kept: &std::path::Path) -> (Running, String) {
    let address = format!("127.0.0.1:{}", tcp_port());
    let mut program = command("firn", local.home());
    program.arg("gateway").arg("--archive").arg(local.dir().join("archive.firn"));
    program.args(["--listen", &address, "--cache-dir"]).arg(kept).args(["--cache-size", "100MB"]);
    let gateway = Running::start(&mut program, &local.home().join("gateway.log"));
    wait_for("the gateway listens", || try_get(&format!("http://{address}/nix-cache-info")).ok());
    (gateway, format!("http://{address}"))
}

fn metric(url: &str, name: &str) -> u64 {
    let text = String::from_utf8(get(&format!("{url}/metrics")).body).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("firn_gateway_{name} ")));
    line.unwrap_or_else(|| panic!("no metric {name} in {text}")).parse().unwrap()
}

#[test]
fn what_was_served_once_is_served_after_a_kill_with_every_coordinator_and_node_away() {
    let place = tempfile::tempdir().unwrap();
    let cache = Cache::new(place.path().join("source"));
    (0..20).for_each(|number| cache.add(cache.entry(&format!("path-{number}"), &noise(100_000, number))));
    let publisher = cache.publisher();
    let options = ["--coordinators", "3", "--storage-nodes", "6", "--publisher", &publisher];
    let mut local = Local::new(&place.path().join("archive"), &options);
    std::fs::create_dir(local.home()).unwrap();
    local.start();
    local.firn(&["publish", cache.path().to_str().unwrap()]).success();

    let kept = place.path().join("kept");
    let wanted = path_infos(cache.path());
    // What it knows of keys is saved now and then, and when it ends: this is about what it reads.
    let (first, _) = gateway(&local, &kept);
    assert_eq!(first.terminate(), Some(0));
    let (served, url) = gateway(&local, &kept);
    assert_served(&url, &wanted, &publisher);
    wait_for("all of it lies on the disk", || (metric(&url, "disk_cache_waiting_bytes") == 0).then_some(()));
    served.kill();
    assert_eq!(local.terminate(), Some(0));

    let began = Instant::now();
    let (again, url) = gateway(&local, &kept);
    let (hash, _) = wanted.iter().next().unwrap();
    wait_for("a narinfo is served", || {
        try_get(&format!("{url}/{hash}.narinfo")).ok().filter(|answer| answer.status == 200).map(drop)
    });
    eprintln!("serves {:?} after its start, with nobody to ask", began.elapsed());
    assert_served(&url, &wanted, &publisher);
    assert!(metric(&url, "disk_cache_hits_total") > 0 && metric(&url, "disk_cache_damaged_total") == 0);
    assert_eq!(again.terminate(), Some(0));
}
