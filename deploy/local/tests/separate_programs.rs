//! The programs as separate processes on loopback ports, with the real Nix client, and kill -9.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::path::{Path, PathBuf};

use support::fetch::{assert_served, path_infos, try_get};
use support::{
    Ended, Running, command, demo_cache, demo_key, finish, nix, run, tcp_port, udp_ports, wait_for,
};

const COORDINATORS: usize = 3;
const NODES: usize = 6;

/// An archive of separate processes.
struct Fleet {
    place: tempfile::TempDir,
    ports: Vec<u16>,
    http: u16,
    ids: Vec<String>,
    coordinators: Vec<Option<Running>>,
    nodes: Vec<Option<Running>>,
}

impl Fleet {
    /// Founds an archive and starts everything, as an operator would by hand.
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let ports = udp_ports(COORDINATORS + NODES);
        let mut fleet =
            Self { place, ports, http: tcp_port(), ids: vec![], coordinators: vec![], nodes: vec![] };
        for number in 0..COORDINATORS {
            let directory = fleet.coordinator(number);
            let id = run(fleet.home(), "firn-coordinator", ["id", "--data-dir", text(&directory)]).success();
            fleet.ids.push(id.trim().to_owned());
        }
        for number in 0..COORDINATORS {
            let coordinator = fleet.start_coordinator(number, number == 0);
            fleet.coordinators.push(Some(coordinator));
        }
        for number in 0..COORDINATORS {
            wait_for("a coordinator knows its leader", || {
                let members = fleet.administer(number, &["member", "list"]);
                (members.code == Some(0) && members.stdout.contains("leader")).then_some(())
            });
        }
        let ready = try_get(&fleet.descriptor_url().replace("/archive", "/readyz"));
        assert_eq!(ready.map(|answer| answer.status), Ok(200));
        fleet.administer(1, &["publisher", "add", demo_key().trim()]).success();
        let uploader = run(fleet.home(), "firn", ["key", "generate", text(&fleet.uploader_key())]).success();
        fleet.administer(2, &["uploader", "add", uploader.trim(), "--name", "test"]).success();
        for number in 0..NODES {
            let create = ["token", "create", "--operator", "test"];
            let token = fleet.administer(number % COORDINATORS, &create).success();
            std::fs::write(fleet.home().join(format!("token-{number}")), token).unwrap();
            let node = fleet.start_node(number);
            fleet.nodes.push(Some(node));
        }
        let nodes = NODES.to_string();
        fleet.firn(&["status", "--until-nodes", &nodes]).success();
        fleet
    }

    fn home(&self) -> &Path {
        self.place.path()
    }

    fn coordinator(&self, number: usize) -> PathBuf {
        self.home().join(format!("coordinator-{number}"))
    }

    fn node(&self, number: usize) -> PathBuf {
        self.home().join(format!("node-{number}"))
    }

    fn uploader_key(&self) -> PathBuf {
        self.home().join("uploader.key")
    }

    /// By HTTP from a coordinator, as volunteers get it.
    fn descriptor_url(&self) -> String {
        format!("http://127.0.0.1:{}/archive", self.http)
    }

    fn address(&self, number: usize) -> String {
        format!("127.0.0.1:{}", self.ports[number])
    }

    fn start_coordinator(&self, number: usize, bootstrap: bool) -> Running {
        let mut program = command("firn-coordinator", self.home());
        program.arg("--data-dir").arg(self.coordinator(number)).args(["--listen", &self.address(number)]);
        for peer in (0..COORDINATORS).filter(|peer| *peer != number) {
            program.args(["--peer", &format!("{}@{}", self.ids[peer], self.address(peer))]);
        }
        if bootstrap {
            program.arg("--bootstrap");
        }
        if number == 0 {
            program.args(["--http", &format!("127.0.0.1:{}", self.http)]);
        }
        Running::start(&mut program, &self.home().join(format!("coordinator-{number}.log")))
    }

    fn start_node(&self, number: usize) -> Running {
        let mut program = command("firn-storage-node", self.home());
        program
            .arg("--data-dir")
            .arg(self.node(number))
            .args(["--listen", &self.address(COORDINATORS + number)]);
        program.args(["--archive", &self.descriptor_url(), "--quota", "1GB"]);
        program.args(["--failure-domain", &format!("shelf-{number}")]);
        program.arg("--token-file").arg(self.home().join(format!("token-{number}")));
        Running::start(&mut program, &self.home().join(format!("node-{number}.log")))
    }

    /// A gateway that has nothing in its memory, and its URL.
    fn start_gateway(&self, name: &str) -> (Running, String) {
        let address = format!("127.0.0.1:{}", tcp_port());
        let mut program = command("firn", self.home());
        // The kept descriptor serves where the coordinator with the HTTP port is away.
        program.args(["gateway", "--archive", &self.descriptor_url(), "--listen", &address]);
        let mut gateway = Running::start(&mut program, &self.home().join(format!("{name}.log")));
        let url = format!("http://{address}");
        wait_for("the gateway is ready", || {
            gateway.assert_alive();
            (try_get(&format!("{url}/readyz")).ok()?.status == 200).then_some(())
        });
        (gateway, url)
    }

    fn administer(&self, number: usize, arguments: &[&str]) -> Ended {
        let mut program = command("firn-coordinator", self.home());
        finish(program.args(arguments).arg("--data-dir").arg(self.coordinator(number)))
    }

    fn firn(&self, arguments: &[&str]) -> Ended {
        let mut program = command("firn", self.home());
        program.args(["--archive", &self.descriptor_url()]).args(arguments);
        finish(&mut program)
    }

    fn publish(&self) -> serde_json::Value {
        let (cache, key) = (demo_cache().join("cache"), self.uploader_key());
        let published = self.firn(&["publish", text(&cache), "--uploader-key", text(&key), "--json"]);
        serde_json::from_str(&published.success()).unwrap()
    }

    fn leader(&self) -> usize {
        wait_for("a coordinator leads", || {
            let status = self.firn(&["status", "--json"]).success();
            let status: serde_json::Value = serde_json::from_str(&status).ok()?;
            let leader =
                status["coordinators"].as_array()?.iter().find(|one| one["leader"] == true)?["id"].clone();
            self.ids.iter().position(|id| leader == id.as_str())
        })
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn separate_programs_serve_nix_and_survive_kill_9() {
    let mut fleet = Fleet::new();
    let key = demo_key();
    let published = path_infos(&demo_cache().join("cache"));
    assert_eq!(fleet.publish()["paths_published"], published.len());

    let (gateway, url) = fleet.start_gateway("gateway-1");
    assert_served(&url, &published, &key);
    if nix::is_there() {
        let paths: Vec<String> = published.values().map(|info| info.store_path.to_string()).collect();
        nix::copy(&url, &key, &paths, &fleet.home().join("nix"));
    } else {
        println!("there is no `nix` here: its part is skipped");
    }

    let leader = fleet.leader();
    fleet.coordinators[leader].take().unwrap().kill();
    for node in [1, 4] {
        fleet.nodes[node].take().unwrap().kill();
    }
    assert_served(&url, &published, &key);
    assert_eq!(gateway.terminate(), Some(0));
    // Nothing in its memory: all from four nodes, found through two coordinators.
    let (_gateway, url) = fleet.start_gateway("gateway-2");
    assert_served(&url, &published, &key);

    fleet.coordinators[leader] = Some(fleet.start_coordinator(leader, false));
    for node in [1, 4] {
        fleet.nodes[node] = Some(fleet.start_node(node));
    }
    let nodes = NODES.to_string();
    fleet.firn(&["status", "--until-nodes", &nodes]).success();
    fleet.firn(&["status", "--until", "full"]).success();
    assert_eq!(fleet.publish()["paths_skipped"], published.len());
    fleet.firn(&["verify", "--all"]).success();

    for program in fleet.nodes.iter_mut().chain(&mut fleet.coordinators) {
        let mut program = program.take().unwrap();
        program.assert_alive();
        assert_eq!(program.terminate(), Some(0));
    }
}
