//! An archive of separate processes on loopback ports.

use std::path::{Path, PathBuf};

use super::fetch::try_get;
use super::{Ended, Running, command, demo_cache, demo_key, finish, run, tcp_port, udp_ports, wait_for};

pub const COORDINATORS: usize = 3;
pub const NODES: usize = 6;

/// An archive of separate processes.
pub struct Fleet {
    pub place: tempfile::TempDir,
    pub ports: Vec<u16>,
    pub http: u16,
    pub ids: Vec<String>,
    pub coordinators: Vec<Option<Running>>,
    pub nodes: Vec<Option<Running>>,
}

impl Fleet {
    /// Founds an archive and starts everything, as an operator would by hand.
    pub fn new() -> Self {
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
        fleet.firn(&["status", "--until-nodes", &nodes, "--timeout", "180s"]).success();
        fleet
    }

    pub fn home(&self) -> &Path {
        self.place.path()
    }

    pub fn coordinator(&self, number: usize) -> PathBuf {
        self.home().join(format!("coordinator-{number}"))
    }

    pub fn node(&self, number: usize) -> PathBuf {
        self.home().join(format!("node-{number}"))
    }

    pub fn uploader_key(&self) -> PathBuf {
        self.home().join("uploader.key")
    }

    /// By HTTP from a coordinator, as volunteers get it.
    pub fn descriptor_url(&self) -> String {
        format!("http://127.0.0.1:{}/archive", self.http)
    }

    pub fn address(&self, number: usize) -> String {
        format!("127.0.0.1:{}", self.ports[number])
    }

    pub fn start_coordinator(&self, number: usize, bootstrap: bool) -> Running {
        let mut program = command("firn-coordinator", self.home());
        program.arg("--data-dir").arg(self.coordinator(number)).args(["--listen", &self.address(number)]);
        for peer in (0..COORDINATORS).filter(|peer| *peer != number) {
            program.args(["--peer", &format!("{}@{}", self.ids[peer], self.address(peer))]);
        }
        // What is purged goes while a test waits.
        program.args(["--erase-after", "2s"]);
        if bootstrap {
            program.arg("--bootstrap");
        }
        if number == 0 {
            program.args(["--http", &format!("127.0.0.1:{}", self.http)]);
        }
        Running::start(&mut program, &self.home().join(format!("coordinator-{number}.log")))
    }

    pub fn start_node(&self, number: usize) -> Running {
        let mut program = command("firn-storage-node", self.home());
        program
            .arg("--data-dir")
            .arg(self.node(number))
            .args(["--listen", &self.address(COORDINATORS + number)]);
        // A frame of 1 MiB is a second of the line that a node lends by default: who reads where would decide what reads take.
        program.args(["--archive", &self.descriptor_url(), "--quota", "1GB", "--max-upload", "100Mbit/s"]);
        program.args(["--failure-domain", &format!("shelf-{number}")]);
        program.arg("--token-file").arg(self.home().join(format!("token-{number}")));
        Running::start(&mut program, &self.home().join(format!("node-{number}.log")))
    }

    /// A gateway that has nothing in its memory, and its URL.
    pub fn start_gateway(&self, name: &str) -> (Running, String) {
        self.start_gateway_with(name, &[])
    }

    /// The same with these flags.
    pub fn start_gateway_with(&self, name: &str, flags: &[&str]) -> (Running, String) {
        let address = format!("127.0.0.1:{}", tcp_port());
        let mut program = command("firn", self.home());
        // The kept descriptor serves where the coordinator with the HTTP port is away. As a stranger it would have a tenth of
        // what nodes lend.
        program.args(["gateway", "--archive", &self.descriptor_url(), "--listen", &address]);
        program.arg("--reader-key").arg(self.uploader_key()).args(flags);
        let mut gateway = Running::start(&mut program, &self.home().join(format!("{name}.log")));
        let url = format!("http://{address}");
        wait_for("the gateway is ready", || {
            gateway.assert_alive();
            (try_get(&format!("{url}/readyz")).ok()?.status == 200).then_some(())
        });
        (gateway, url)
    }

    pub fn administer(&self, number: usize, arguments: &[&str]) -> Ended {
        let mut program = command("firn-coordinator", self.home());
        finish(program.args(arguments).arg("--data-dir").arg(self.coordinator(number)))
    }

    pub fn firn(&self, arguments: &[&str]) -> Ended {
        let mut program = command("firn", self.home());
        program.args(["--archive", &self.descriptor_url()]).args(arguments);
        finish(&mut program)
    }

    pub fn publish(&self) -> serde_json::Value {
        let (cache, key) = (demo_cache().join("cache"), self.uploader_key());
        let published = self.firn(&["publish", text(&cache), "--uploader-key", text(&key), "--json"]);
        serde_json::from_str(&published.success()).unwrap()
    }

    pub fn leader(&self) -> usize {
        wait_for("a coordinator leads", || {
            let status = self.firn(&["status", "--json"]).success();
            let status: serde_json::Value = serde_json::from_str(&status).ok()?;
            let leader =
                status["coordinators"].as_array()?.iter().find(|one| one["leader"] == true)?["id"].clone();
            self.ids.iter().position(|id| leader == id.as_str())
        })
    }
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
