//! A laptop in a train: no network, the gateway was just started again, and Nix builds something private.
//!
//! Coordinators are refused by the machine itself where they ended, or nothing comes back at all, as where packets are
//! dropped: then nobody tells the gateway that it waits in vain.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::net::UdpSocket;
use std::path::Path;
use std::time::{Duration, Instant};

use firn_wire::Descriptor;
use support::cache::{Cache, noise};
use support::fetch::{get, try_get};
use support::local::Local;
use support::{Running, command, nix, tcp_port, wait_for};

/// A build that takes so much longer than several without any gateway waits for a network. What it does take is printed,
/// and at most 5 s are promised: on a machine that does nothing else.
const SLOWER_MAX: Duration = Duration::from_secs(60);
/// A machine that is busy with other things needs so many times as long from one build to the next.
const BUSY_TIMES: u32 = 4;

/// An archive that was there once, and a gateway's cache directory from that time.
fn left_behind() -> (tempfile::TempDir, Local) {
    let place = tempfile::tempdir().unwrap();
    let cache = Cache::new(place.path().join("source"));
    (0..40).for_each(|number| cache.add(cache.entry(&format!("public-{number}"), &noise(100, number))));
    let publisher = cache.publisher();
    let options = ["--coordinators", "3", "--storage-nodes", "4", "--publisher", &publisher];
    let mut local =
        Local::new(&place.path().join("archive"), &[&options[..], &["--filter-unit", "16"]].concat());
    std::fs::create_dir(local.home()).unwrap();
    local.start();
    local.firn(&["publish", cache.path().to_str().unwrap()]).success();
    let (gateway, address) = gateway(&local, &["--cache-dir", place.path().join("kept").to_str().unwrap()]);
    wait_for("the gateway has filters", || {
        let metrics = String::from_utf8(get(&format!("http://{address}/metrics")).body).unwrap();
        metrics.contains("firn_gateway_filter_position 32\n").then_some(())
    });
    assert_eq!(gateway.terminate(), Some(0));
    assert_eq!(local.terminate(), Some(0));
    (place, local)
}

fn gateway(local: &Local, options: &[&str]) -> (Running, String) {
    let address = format!("127.0.0.1:{}", tcp_port());
    let mut program = command("firn", local.home());
    program.arg("gateway").arg("--archive").arg(local.dir().join("archive.firn"));
    program.args(["--listen", &address]).args(options);
    let gateway = Running::start(&mut program, &local.home().join("gateway.log"));
    wait_for("the gateway listens", || try_get(&format!("http://{address}/nix-cache-info")).ok());
    (gateway, address)
}

/// The sockets of coordinators that take everything and answer nothing.
fn black_holes(local: &Local) -> Vec<UdpSocket> {
    let text = std::fs::read_to_string(local.dir().join("archive.firn")).unwrap();
    let descriptor: Descriptor = text.parse().unwrap();
    let roster = descriptor.verify().unwrap();
    let coordinators = &roster.roster().coordinators;
    coordinators.iter().map(|entry| UdpSocket::bind(&entry.address).unwrap()).collect()
}

/// How long Nix takes to build a private derivation, from the moment when the gateway's program is started.
fn builds_in(name: &str, place: &Path, gateway: impl FnOnce() -> Option<(Running, String)>) -> Duration {
    let began = Instant::now();
    let gateway = gateway();
    let url = gateway.as_ref().map(|(_, address)| format!("http://{address}"));
    nix::build(name, url.as_deref(), &place.join(name));
    began.elapsed()
}

#[test]
fn private_builds_go_on_where_no_coordinator_is_reached() {
    if !nix::is_there() {
        eprintln!("there is no Nix here: nothing is tested");
        return;
    }
    let (place, local) = left_behind();
    let kept = place.path().join("kept");
    let with_filters = ["--cache-dir", kept.to_str().unwrap()];
    let ways: [(&str, &[&str]); 3] =
        [("filters", &with_filters), ("nothing", &[]), ("none", &["--filter", "none"])];

    let alone = builds_in("alone", place.path(), || None);
    for dropped in [false, true] {
        let _holes = dropped.then(|| black_holes(&local));
        for (kind, options) in ways {
            let name = format!("{kind}-{dropped}");
            let with = builds_in(&name, place.path(), || Some(gateway(&local, options)));
            eprintln!("{name}: {with:?}, alone: {alone:?}");
            assert!(with <= alone * BUSY_TIMES + SLOWER_MAX, "{name}: {with:?} instead of {alone:?}");
        }
    }
}
