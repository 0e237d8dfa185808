//! A `public` archive of separate programs on loopback, whose nodes are bound to addresses of different prefixes: caps
//! by network and country, as a table of addresses says them, and a node whose address changes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};

use crate::support::cache::{Cache, noise};
use crate::support::{Ended, Running, command, finish, run, tcp_port, udp_ports, wait_for};
use serde_json::Value;

/// Node i is at 127.1.i.1: all of 127.0.0.0/8 is loopback. Two are in each of six networks and countries, six more in
/// the first of them: nobody who does not look at them takes two nodes there for a bundle of twelve shards.
const NODES: usize = 18;
const PAIRS: usize = 6;

struct Fleet {
    place: tempfile::TempDir,
    http: u16,
    coordinator: Running,
    nodes: Vec<Option<Running>>,
}

fn prefix(number: usize) -> String {
    format!("127.1.{number}")
}

/// A free port at an address of this prefix.
fn address(prefix: &str) -> String {
    UdpSocket::bind(format!("{prefix}.1:0")).unwrap().local_addr().unwrap().to_string()
}

fn table() -> String {
    let mut text = String::from("# first\tlast\tnetwork\tcountry\tname\n");
    for number in 0..NODES {
        let pair = if number < 2 * PAIRS { number / 2 } else { 0 };
        let (prefix, country) = (prefix(number), char::from(b'A' + u8::try_from(pair).unwrap()));
        writeln!(text, "{prefix}.0\t{prefix}.255\t{}\tX{country}\tTEST", 64_500 + pair).unwrap();
    }
    text
}

impl Fleet {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join("addresses.tsv"), table()).unwrap();
        let (listen, http) = (format!("127.0.0.1:{}", udp_ports(1)[0]), tcp_port());
        let mut program = command("firn-coordinator", place.path());
        program.arg("--data-dir").arg(place.path().join("coordinator")).args(["--listen", &listen]);
        program.args(["--bootstrap", "--domains", "public", "--http", &format!("127.0.0.1:{http}")]);
        program.arg("--address-table").arg(place.path().join("addresses.tsv"));
        let coordinator = Running::start(&mut program, &place.path().join("coordinator.log"));
        let mut fleet = Self { place, http, coordinator, nodes: Vec::new() };
        wait_for("the coordinator leads", || {
            fleet.coordinator.assert_alive();
            let members = fleet.administer(&["member", "list"]);
            (members.code == Some(0) && members.stdout.contains("leader")).then_some(())
        });
        for number in 0..NODES {
            let operator = format!("operator-{number}");
            let token = fleet.administer(&["token", "create", "--operator", &operator]).success();
            std::fs::write(fleet.home().join(format!("token-{number}")), token).unwrap();
            let node = fleet.start_node(number, &address(&prefix(number)));
            fleet.nodes.push(Some(node));
        }
        fleet.firn(&["status", "--until-nodes", &NODES.to_string()]).success();
        fleet
    }

    fn home(&self) -> &Path {
        self.place.path()
    }

    fn node(&self, number: usize) -> PathBuf {
        self.home().join(format!("node-{number}"))
    }

    fn start_node(&self, number: usize, listen: &str) -> Running {
        let mut program = command("firn-storage-node", self.home());
        program.arg("--data-dir").arg(self.node(number)).args(["--listen", listen]);
        let descriptor = format!("http://127.0.0.1:{}/archive", self.http);
        program.args(["--archive", &descriptor, "--quota", "1GB"]);
        program.args(["--failure-domain", &format!("shelf-{number}")]);
        program.arg("--token-file").arg(self.home().join(format!("token-{number}")));
        Running::start(&mut program, &self.home().join(format!("node-{number}.log")))
    }

    fn administer(&self, arguments: &[&str]) -> Ended {
        let mut program = command("firn-coordinator", self.home());
        finish(program.args(arguments).arg("--data-dir").arg(self.home().join("coordinator")))
    }

    fn firn(&self, arguments: &[&str]) -> Ended {
        let mut program = command("firn", self.home());
        let descriptor = format!("http://127.0.0.1:{}/archive", self.http);
        finish(program.args(["--archive", &descriptor]).args(arguments))
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.firn(&[arguments, &["--json"]].concat()).success()).unwrap()
    }

    /// Which node has which network and country, by its id.
    fn origins(&self) -> BTreeMap<String, (u64, String)> {
        let nodes = self.json(&["node", "list"]);
        let origin = |node: &Value| {
            let country = node["country"].as_str()?.to_owned();
            Some((node["node"].as_str()?.to_owned(), (node["network"].as_u64()?, country)))
        };
        nodes.as_array().unwrap().iter().filter_map(origin).collect()
    }

    fn bundles(&self) -> Vec<Value> {
        self.json(&["bundle", "list"]).as_array().unwrap().clone()
    }
}

/// Who holds the shards of a bundle, one for each.
fn holders(bundle: &Value) -> Vec<String> {
    let placements = bundle["placements"].as_array().unwrap().iter();
    placements.map(|placement| placement["nodes"][0].as_str().unwrap().to_owned()).collect()
}

#[test]
fn placement_keeps_the_caps_by_observed_addresses_and_a_changed_address_moves_nothing_at_once() {
    let mut fleet = Fleet::new();
    let cache = Cache::new(fleet.home().join("cache"));
    for number in 0..8_u64 {
        cache.add(cache.entry(&format!("path-{number}"), &noise(200_000, number)));
    }
    fleet.administer(&["publisher", "add", &cache.publisher()]).success();
    let key = fleet.home().join("uploader.key");
    let uploader = run(fleet.home(), "firn", ["key", "generate", key.to_str().unwrap()]).success();
    fleet.administer(&["uploader", "add", uploader.trim(), "--name", "test"]).success();

    // What the nodes advertise and declare says nothing of networks and countries: they were seen.
    let origins = fleet.origins();
    let networks: BTreeSet<_> = origins.values().map(|(network, _)| *network).collect();
    assert_eq!((origins.len(), networks.len()), (NODES, PAIRS));
    let status = wait_for("the leader has measured how wide the fleet is", || {
        Some(fleet.json(&["status"])).filter(|status| status["caps"]["width"] == 12)
    });
    let caps = &status["caps"];
    assert_eq!(
        (&caps["public"], &caps["per_network"], &caps["countries"]),
        (&true.into(), &2.into(), &6.into())
    );
    // Of twelve shards two may lie in each of six networks and countries, whatever their nodes.
    assert_eq!(caps["unknown"], 0);
    assert_eq!(status["scheme"], serde_json::json!({"k": 4, "n": 12}));

    let source = cache.path().to_str().unwrap();
    let key = key.to_str().unwrap();
    fleet.firn(&["publish", source, "--uploader-key", key]).success();
    let before = fleet.bundles();
    assert!(!before.is_empty());
    for bundle in &before {
        let mut in_country: BTreeMap<&str, usize> = BTreeMap::new();
        let mut in_network: BTreeMap<u64, usize> = BTreeMap::new();
        let holders = holders(bundle);
        for holder in &holders {
            let (network, country) = &origins[holder];
            *in_country.entry(country).or_default() += 1;
            *in_network.entry(*network).or_default() += 1;
        }
        assert_eq!(holders.len(), 12, "{bundle}");
        assert!(in_country.values().chain(in_network.values()).all(|shards| *shards <= 2), "{bundle}");
        assert!(bundle["at_risk_by"].is_null() && bundle["together_since"].is_null(), "{bundle}");
    }

    // Node 0 goes to the prefix of node 11: it is heard there, and counts for where it was.
    drop(fleet.nodes[0].take());
    fleet.nodes[0] = Some(fleet.start_node(0, &address(&prefix(11))));
    let moved = format!("{}.1:", prefix(11));
    wait_for("node 0 is back at its new address", || {
        let nodes = fleet.json(&["node", "list"]);
        let there = |node: &&Value| node["address"].as_str().is_some_and(|at| at.starts_with(&moved));
        let there: Vec<_> = nodes.as_array()?.iter().filter(there).collect();
        (there.len() == 2 && there.iter().all(|node| node["proved"] == true)).then_some(())
    });
    assert_eq!(fleet.origins(), origins);
    fleet.firn(&["status", "--until", "full"]).success();
    let status = fleet.json(&["status"]);
    assert_eq!(status["caps"]["breaches"], serde_json::json!({"bundles": 0, "due": 0, "next_due": null}));
    assert_eq!(status["move_backlog"], 0);
    let places =
        |bundles: &[Value]| bundles.iter().map(|bundle| bundle["placements"].clone()).collect::<Vec<_>>();
    assert_eq!(places(&fleet.bundles()), places(&before));
}

#[test]
fn a_file_that_is_no_table_is_refused_before_anything_starts() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("addresses.tsv");
    std::fs::write(&file, "10.0.0.0\t10.0.0.255\t7\tCH\tname\n10.0.0.9\t10.0.1.0\t8\tCH\tname\n").unwrap();
    let mut program = command("firn-coordinator", place.path());
    program.arg("--data-dir").arg(place.path().join("coordinator")).arg("--bootstrap");
    let ended = finish(program.args(["--listen", "127.0.0.1:0"]).arg("--address-table").arg(&file));
    assert_eq!(ended.code, Some(1));
    let sentence =
        "is no address table: line 2: the range begins before the one in the line before has ended";
    assert!(ended.stderr.contains(sentence), "{}", ended.stderr);
    assert!(!place.path().join("coordinator").exists());
}
