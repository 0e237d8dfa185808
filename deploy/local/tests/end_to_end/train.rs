//! A laptop in a train: no network, the gateway was just started again, and Nix builds something private.
//!
//! Coordinators are refused by the machine itself where they ended, or nothing comes back at all, as where packets are
//! dropped: then nobody tells the gateway that it waits in vain.

use std::io::ErrorKind;
use std::net::{TcpStream, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::cache::{Cache, noise, store_path};
use crate::support::fetch::{get, try_get};
use crate::support::local::Local;
use crate::support::{Running, command, nix, tcp_port, wait_for};
use firn_nix_format::nixbase32;
use firn_wire::Descriptor;

/// So much longer a private build may take than without a gateway, on a machine that does nothing else.
const LONGER_MAX: Duration = Duration::from_secs(5);

/// A machine that is busy needs longer: this many times what the build takes alone.
const SLACK: u32 = 8;

/// An archive that is there, and a gateway's cache directory from an earlier time.
fn published() -> (tempfile::TempDir, Local) {
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
    (place, local)
}

/// How many ranges of the index a gateway has asked its coordinators for.
fn ranges_asked(address: &str) -> u64 {
    let metrics = String::from_utf8(get(&format!("http://{address}/metrics")).body).unwrap();
    let asked = metrics.lines().find_map(|line| line.strip_prefix("firn_gateway_ranges_asked_total "));
    asked.unwrap_or_else(|| panic!("it is not told in {metrics}")).parse().unwrap()
}

fn gateway(local: &Local, options: &[&str]) -> (Running, String) {
    let (gateway, address) = starting_gateway(local, options);
    wait_for("the gateway listens", || try_get(&format!("http://{address}/nix-cache-info")).ok());
    (gateway, address)
}

/// A gateway that may not listen yet.
fn starting_gateway(local: &Local, options: &[&str]) -> (Running, String) {
    let address = format!("127.0.0.1:{}", tcp_port());
    let mut program = command("firn", local.home());
    program.arg("gateway").arg("--archive").arg(local.dir().join("archive.firn"));
    program.args(["--listen", &address]).args(options);
    (Running::start(&mut program, &local.home().join("gateway.log")), address)
}

/// The sockets of coordinators that take everything and answer nothing.
fn black_holes(local: &Local) -> Vec<UdpSocket> {
    let text = std::fs::read_to_string(local.dir().join("archive.firn")).unwrap();
    let descriptor: Descriptor = text.parse().unwrap();
    let roster = descriptor.verify().unwrap();
    let coordinators = &roster.roster().coordinators;
    coordinators.iter().map(|entry| UdpSocket::bind(&entry.address).unwrap()).collect()
}

/// Nix builds a private derivation; how long it takes from now on.
fn build(name: &str, place: &Path, gateway: Option<&str>) -> Duration {
    let (began, url) = (Instant::now(), gateway.map(|address| format!("http://{address}")));
    nix::build(name, url.as_deref(), &place.join(name));
    began.elapsed()
}

#[test]
fn private_builds_go_on_where_no_coordinator_is_reached() {
    if !nix::is_there() {
        return;
    }
    let (place, mut local) = published();
    assert_eq!(local.terminate(), Some(0));
    let kept = place.path().join("kept");
    let with_filters = ["--cache-dir", kept.to_str().unwrap()];
    let ways: [(&str, &[&str]); 3] =
        [("filters", &with_filters), ("nothing", &[]), ("none", &["--filter", "none"])];

    let alone = ["alone-1", "alone-2"].map(|name| build(name, place.path(), None)).into_iter().min().unwrap();
    for dropped in [false, true] {
        let _holes = dropped.then(|| black_holes(&local));
        for (kind, options) in ways {
            let (name, began) = (format!("{kind}-{dropped}"), Instant::now());
            let (running, address) = gateway(&local, options);
            let opened = began.elapsed();
            let built = build(&name, place.path(), Some(&address));
            eprintln!("{name}: opens after {opened:?}, builds in {built:?}, alone: {alone:?}");
            let longer = (opened + built).saturating_sub(alone);
            assert!(longer <= LONGER_MAX + alone * SLACK, "{name}: {longer:?} longer than without a gateway");
            assert_eq!(ranges_asked(&address), 0, "{name}: no answer waited for a coordinator");
            // It gives up a first call after 5 s at the soonest, and says so.
            let said = wait_for("the feed's follower has given up", || {
                let said = running.messages();
                said.contains("the archive's feed cannot be followed").then_some(said)
            });
            let [opens, gives_up] = ["gateway listens on", "the archive's feed cannot be followed"]
                .map(|sentence| said.find(sentence).unwrap());
            assert!(opens < gives_up, "{name}: the port opens before the patience of a call is over: {said}");
        }
    }
}

#[test]
fn a_gateway_that_answers_with_retries_opens_its_port_with_the_feed_and_not_before() {
    let (_place, mut local) = published();
    assert_eq!(local.terminate(), Some(0));
    let (mut running, address) = starting_gateway(&local, &["--when-unreadable", "retry"]);
    // It has no cache directory, and so nothing that it could answer from.
    wait_for("the feed's follower has given up once", || {
        running.assert_alive();
        running.messages().contains("the archive's feed cannot be followed").then_some(())
    });
    let refused = TcpStream::connect(&address).expect_err("nobody listens");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{}", running.messages());

    local.start();
    wait_for("the gateway listens", || try_get(&format!("http://{address}/nix-cache-info")).ok());
    // From its first answer on it knows what is archived and what is not.
    assert_eq!(get(&format!("http://{address}/{}.narinfo", "0".repeat(32))).status, 404);
    let path = store_path("public-1");
    wait_for("a path is served", || {
        (get(&format!("http://{address}/{}.narinfo", path.hash_part())).status == 200).then_some(())
    });
    assert_eq!(running.terminate(), Some(0));
}

#[test]
fn a_gateway_whose_network_goes_asks_nobody_for_each_path_of_a_build() {
    let (_place, mut local) = published();
    let (running, address) = gateway(&local, &["--filter", "none"]);
    wait_for("the feed is followed", || {
        (get(&format!("http://{address}/readyz")).status == 200).then_some(())
    });
    assert_eq!(local.terminate(), Some(0));
    let _holes = black_holes(&local);
    let absent = |number: u32| {
        let hash = nixbase32::encode(&blake3::hash(&number.to_le_bytes()).as_bytes()[..20]);
        get(&format!("http://{address}/{hash}.narinfo")).status
    };
    // Nobody knows yet that they are away: somebody waits for it, for 3 s.
    assert_eq!(absent(0), 404);
    let asked = ranges_asked(&address);
    // A build of many steps, for as long as the feed's follower tries every coordinator again and again.
    let mut answered = 0;
    wait_for("the feed's follower has given up", || {
        answered += 1;
        assert_eq!(absent(answered), 404);
        running.messages().contains("the archive's feed cannot be followed").then_some(())
    });
    assert_eq!(ranges_asked(&address), asked, "none of {answered} answers waited for a coordinator");
}
