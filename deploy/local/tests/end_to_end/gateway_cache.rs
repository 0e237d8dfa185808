//! What a gateway keeps on disk: after a kill, while everything else of the archive is gone, and without room.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::support::cache::{Cache, noise};
use crate::support::fetch::{assert_served, get, path_infos, try_get};
use crate::support::local::Local;
use crate::support::{Running, command, quietly, tcp_port, wait_for};
use firn_nix_format::PathInfo;

/// A gateway that keeps what it reads in `kept`, with these flags.
fn gateway(local: &Local, kept: &Path, flags: &[&str]) -> (Running, String) {
    let address = format!("127.0.0.1:{}", tcp_port());
    let mut program = command("firn", local.home());
    program.arg("gateway").arg("--archive").arg(local.dir().join("archive.firn"));
    program.args(["--listen", &address, "--cache-dir"]).arg(kept).args(["--cache-size", "100MB"]).args(flags);
    let gateway = Running::start(&mut program, &local.home().join("gateway.log"));
    wait_for("the gateway listens", || try_get(&format!("http://{address}/nix-cache-info")).ok());
    (gateway, format!("http://{address}"))
}

fn metric(url: &str, name: &str) -> u64 {
    let text = String::from_utf8(get(&format!("{url}/metrics")).body).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("firn_gateway_{name} ")));
    line.unwrap_or_else(|| panic!("no metric {name} in {text}")).parse().unwrap()
}

/// An archive that holds paths of 100 kB that nothing compresses, the path infos, and the publisher.
fn published(place: &Path) -> (Local, BTreeMap<String, PathInfo>, String) {
    let cache = Cache::new(place.join("source"));
    (0..20).for_each(|number| cache.add(cache.entry(&format!("path-{number}"), &noise(100_000, number))));
    let publisher = cache.publisher();
    let options = ["--coordinators", "3", "--storage-nodes", "6", "--publisher", &publisher];
    let mut local = Local::new(&place.join("archive"), &options);
    std::fs::create_dir(local.home()).unwrap();
    local.start();
    local.firn(&["publish", cache.path().to_str().unwrap()]).success();
    let wanted = path_infos(cache.path());
    (local, wanted, publisher)
}

#[test]
fn what_was_served_once_is_served_after_a_kill_with_every_coordinator_and_node_away() {
    let place = tempfile::tempdir().unwrap();
    let (mut local, wanted, publisher) = published(place.path());
    // As on loopback, as on a public listener, and where the tail of the feed is all that is known of keys.
    let ways: [&[&str]; 3] = [&[], &["--when-unreadable", "retry"], &["--filter", "none"]];
    let kept = |way: &[&str]| place.path().join(format!("kept{}", way.concat()));
    for way in ways {
        // What it knows of keys is saved now and then, and when it ends: this is about what it reads.
        let (first, _) = gateway(&local, &kept(way), way);
        assert_eq!(first.terminate(), Some(0));
        let (served, url) = gateway(&local, &kept(way), way);
        assert_served(&url, &wanted, &publisher);
        let waiting = || metric(&url, "disk_cache_waiting_bytes");
        wait_for("all of it lies on the disk", || (waiting() == 0).then_some(()));
        served.kill();
    }
    assert_eq!(local.terminate(), Some(0));

    for way in ways {
        let began = Instant::now();
        let (again, url) = gateway(&local, &kept(way), way);
        let (hash, _) = wanted.iter().next().unwrap();
        wait_for("a narinfo is served", || {
            try_get(&format!("{url}/{hash}.narinfo")).ok().filter(|answer| answer.status == 200).map(drop)
        });
        eprintln!("{way:?}: serves {:?} after its start, with nobody to ask", began.elapsed());
        // It waited for no coordinator: that they are away takes longer to find out.
        assert!(!again.messages().contains("cannot be followed"), "{}", again.messages());
        assert_served(&url, &wanted, &publisher);
        assert_eq!(metric(&url, "ranges_asked_total"), 0, "no question waited for a coordinator");
        assert!(metric(&url, "disk_cache_hits_total") > 0 && metric(&url, "disk_cache_damaged_total") == 0);
        assert_eq!(again.terminate(), Some(0));
    }
}

/// A file system in memory that is full soon. Gone when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// None where this user may not mount anything.
    fn mount(place: &Path) -> Option<Self> {
        std::fs::create_dir_all(place).unwrap();
        let mount = ["-t", "tmpfs", "-o", "size=1m", "tmpfs"].map(Path::new);
        quietly("mount", &[&mount[..], &[place]].concat()).then(|| Self(place.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        quietly("umount", &[&self.0]);
    }
}

#[test]
fn a_full_disk_is_said_once_and_everything_is_served() {
    let place = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(&place.path().join("small")) else {
        // Not by a macro: of a test that does not fail nobody would see it.
        let said = writeln!(
            io::stderr(),
            "NOT TESTED: a_full_disk_is_said_once_and_everything_is_served needs to mount a file system of 1 MB, which this \
             user may not: run it as root"
        );
        return said.unwrap();
    };
    let (local, wanted, publisher) = published(place.path());
    let (served, url) = gateway(&local, &disk.0, &[]);
    assert_served(&url, &wanted, &publisher);
    wait_for("an entry is not taken", || (metric(&url, "disk_cache_failed_writes_total") > 0).then_some(()));
    assert_served(&url, &wanted, &publisher);
    let said = served.messages().matches("nothing more is cached until the disk takes it").count();
    assert_eq!(said, 1, "{}", served.messages());
    assert_eq!(served.terminate(), Some(0));
}
