//! An archive run by `firn-local`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use firn_nix_format::PathInfo;

use super::fetch::try_get;
use super::{Ended, Running, command, run, tcp_port, wait_for};

/// A directory with an archive that runs in it.
pub struct Local {
    place: PathBuf,
    // Removes the place, unless it is the test's own.
    _temporary: Option<tempfile::TempDir>,
    pub url: String,
    pub process: Option<Running>,
    options: Vec<String>,
}

impl Local {
    /// Starts an archive with these options besides `--dir` and `--gateway`, and waits until it is ready.
    #[track_caller]
    pub fn up(options: &[&str]) -> Self {
        let place = tempfile::tempdir().expect("there is room for temporary files");
        let mut local = Self::new(place.path(), options);
        local._temporary = Some(place);
        local.start();
        local
    }

    /// An archive in `place` that is not started yet.
    pub fn new(place: &Path, options: &[&str]) -> Self {
        let gateway = format!("127.0.0.1:{}", tcp_port());
        let mut own = vec!["up".to_owned(), "--gateway".to_owned(), gateway.clone()];
        own.extend(options.iter().map(|option| (*option).to_owned()));
        let url = format!("http://{gateway}");
        Self { place: place.to_owned(), _temporary: None, url, process: None, options: own }
    }

    /// Starts it, again if it ran before, and waits until it is ready.
    #[track_caller]
    pub fn start(&mut self) {
        let mut command = command("firn-local", self.home());
        command.args(&self.options).arg("--dir").arg(self.dir());
        let mut process = Running::start(&mut command, &self.home().join("local.log"));
        wait_for("the archive is ready", || {
            process.assert_alive();
            self.dir().join("ready").exists().then_some(())
        });
        self.process = Some(process);
    }

    /// SIGTERM; gives the exit code.
    #[track_caller]
    pub fn terminate(&mut self) -> Option<i32> {
        self.process.take().and_then(Running::terminate)
    }

    /// Where programs keep what is their user's.
    pub fn home(&self) -> &Path {
        &self.place
    }

    /// The archive's directory.
    pub fn dir(&self) -> PathBuf {
        self.home().join("archive")
    }

    /// The data directory of a role.
    pub fn role(&self, role: &str) -> PathBuf {
        self.dir().join(role)
    }

    /// `firn`, with the configuration that the archive wrote.
    #[track_caller]
    pub fn firn(&self, arguments: &[&str]) -> Ended {
        let config = self.dir().join("firn.toml");
        super::finish(command("firn", self.home()).arg("--config").arg(config).args(arguments))
    }

    /// `firn-local VERB ROLE`.
    #[track_caller]
    pub fn control(&self, verb: &str, role: &str) -> Ended {
        let dir = self.dir();
        run(self.home(), "firn-local", [verb.as_ref(), role.as_ref(), "--dir".as_ref(), dir.as_os_str()])
    }

    /// What `firn` says in JSON.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let said = self.firn(&[arguments, &["--json"]].concat()).success();
        serde_json::from_str(&said).expect("it is JSON")
    }

    /// A gateway that remembers next to nothing, so that reads come from nodes, and its URL; it knows of all that is `wanted`.
    #[track_caller]
    pub fn forgetful_gateway(&self, wanted: &BTreeMap<String, PathInfo>) -> (Running, String) {
        let listen = format!("127.0.0.1:{}", tcp_port());
        let mut gateway = command("firn", self.home());
        gateway.arg("--config").arg(self.dir().join("firn.toml"));
        gateway.args(["gateway", "--memory-cache", "1MB", "--listen", &listen]);
        let gateway = Running::start(&mut gateway, &self.home().join("gateway.log"));
        let url = format!("http://{listen}");
        let is_served =
            |hash: &String| try_get(&format!("{url}/{hash}.narinfo")).is_ok_and(|it| it.status == 200);
        wait_for("the gateway knows everything", || wanted.keys().all(is_served).then_some(()));
        (gateway, url)
    }

    /// Makes and starts one more storage node, which uploads at `rate`.
    #[track_caller]
    pub fn add_node(&self, rate: &str) {
        let dir = self.dir();
        let words = ["add", "storage-node", "--max-upload", rate, "--dir"].map(AsRef::as_ref);
        run(self.home(), "firn-local", words.into_iter().chain([dir.as_os_str()])).success();
    }

    /// The identity of a storage node.
    #[track_caller]
    pub fn node_id(&self, role: &str) -> String {
        let words = ["id".into(), "--data-dir".into(), self.role(role).into_os_string()];
        run(self.home(), "firn-storage-node", words).success().trim().to_owned()
    }

    /// Shard files on its first `nodes` nodes, without what is in trash.
    pub fn shard_files(&self, nodes: usize) -> usize {
        let mut files = 0;
        for node in 1..=nodes {
            let shards = self.role(&format!("storage-node-{node}")).join("shards");
            for fan in std::fs::read_dir(shards).expect("nodes have shards").map(Result::unwrap) {
                if fan.file_type().expect("it is there").is_dir() && fan.file_name().len() == 2 {
                    files += std::fs::read_dir(fan.path()).expect("it is there").count();
                }
            }
        }
        files
    }

    /// Declares a storage node lost for good.
    #[track_caller]
    pub fn declare_lost(&self, role: &str) {
        let mut command = command("firn-coordinator", self.home());
        command.args(["node", "remove", "--lost", &self.node_id(role), "--data-dir"]);
        super::finish(command.arg(self.role("coordinator-1"))).success();
    }

    /// What a storage node says of itself, asked without a process of its own.
    #[track_caller]
    pub fn report(&self, role: &str) -> serde_json::Value {
        let mut socket = UnixStream::connect(self.role(role).join("control.sock")).expect("the node runs");
        socket.write_all(b"{\"command\":\"status\"}\n").expect("it listens");
        let mut line = String::new();
        BufReader::new(socket).read_line(&mut line).expect("it answers");
        let mut reply: serde_json::Value = serde_json::from_str(&line).expect("it is JSON");
        reply["status"].take()
    }

    /// The coordinator that leads.
    #[track_caller]
    pub fn leader(&self) -> String {
        wait_for("a coordinator leads", || {
            let status: serde_json::Value =
                serde_json::from_str(&self.firn(&["status", "--json"]).success()).ok()?;
            let position = status["coordinators"].as_array()?.iter().position(|one| one["leader"] == true)?;
            Some(format!("coordinator-{}", position + 1))
        })
    }
}
