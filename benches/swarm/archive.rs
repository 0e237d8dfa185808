//! The programs: started, asked, and ended by process id.

use std::path::{Path, PathBuf};
use std::process::Command;

use firn_base::ByteCount;
use firn_benches::process::{Process, free_address, output, programs};
use serde_json::Value;

use crate::Failure;

/// An archive that runs.
pub(crate) struct Archive {
    directory: PathBuf,
    programs: PathBuf,
    _process: Process,
}

/// A gateway of its own process.
pub(crate) struct Gateway {
    /// Where it serves.
    pub(crate) url: String,
    _process: Process,
}

/// What an archive is founded with.
pub(crate) struct Founding<'a> {
    /// Storage nodes.
    pub(crate) nodes: u64,
    /// The quota of each.
    pub(crate) quota: ByteCount,
    /// How fast each uploads at most; none: as fast as it can.
    pub(crate) max_upload: Option<&'a str>,
    /// Whose paths it accepts.
    pub(crate) publisher: &'a str,
}

// As soon as one sees that the fleet is wider: an hour is for real fleets.
const RECODE_AFTER: &str = "10s";

impl Archive {
    /// Founds an archive below `directory` that repairs at any loss, and waits until it is up.
    pub(crate) fn up(directory: &Path, founding: &Founding<'_>) -> Result<Self, Failure> {
        let programs = programs()?;
        let home = directory.join("archive");
        let mut command = Command::new(programs.join("firn-local"));
        command
            .args(["up", "--coordinators", "3", "--repair-at", "full", "--recode-after", RECODE_AFTER])
            .args(["--publisher", founding.publisher, "--dir"])
            .arg(&home);
        let (nodes, quota) = (founding.nodes.to_string(), founding.quota.0.to_string());
        command.args(["--storage-nodes", &nodes, "--quota", &quota]);
        command.args(founding.max_upload.iter().flat_map(|rate| ["--max-upload", rate]));
        command.args(["--gateway", &free_address()?]);
        let mut process = Process::start(command, &directory.join("archive.log"))?;
        process.wait_for("the archive", || home.join("ready").exists())?;
        Ok(Self { directory: home, programs, _process: process })
    }

    /// What `firn` says with these arguments.
    pub(crate) fn firn(&self, arguments: &[&str]) -> Result<String, Failure> {
        let mut command = Command::new(self.programs.join("firn"));
        output(command.arg("--config").arg(self.directory.join("firn.toml")).args(arguments))
    }

    /// `firn-local VERB WHAT`.
    pub(crate) fn control(&self, verb: &str, what: &str) -> Result<(), Failure> {
        let mut command = Command::new(self.programs.join("firn-local"));
        output(command.args([verb, what, "--dir"]).arg(&self.directory)).map(drop)
    }

    /// Makes and starts one more storage node, which uploads at `rate`.
    pub(crate) fn add_node(&self, rate: &str) -> Result<(), Failure> {
        let mut command = Command::new(self.programs.join("firn-local"));
        output(command.args(["add", "storage-node", "--max-upload", rate, "--dir"]).arg(&self.directory))
            .map(drop)
    }

    /// Declares a node lost for good.
    pub(crate) fn remove_lost(&self, role: &str) -> Result<(), Failure> {
        let mut id = Command::new(self.programs.join("firn-storage-node"));
        let id = output(id.args(["id", "--data-dir"]).arg(self.directory.join(role)))?;
        let mut command = Command::new(self.programs.join("firn-coordinator"));
        command.args(["node", "remove", "--lost", id.trim(), "--data-dir"]);
        output(command.arg(self.directory.join("coordinator-1"))).map(drop)
    }

    /// The directory of a node's shards.
    pub(crate) fn shards(&self, role: &str) -> PathBuf {
        self.directory.join(role).join("shards")
    }

    /// Bytes that all nodes but those `absent` say they read and sent for builds.
    pub(crate) fn build_bytes(&self, absent: &[String]) -> Result<u64, Failure> {
        self.sum_reports(absent, |report| {
            Some(report["done"]["build_bytes_read"].as_u64()? + report["done"]["build_bytes_sent"].as_u64()?)
        })
    }

    /// Bytes that all nodes but those `absent` say they use of their quotas.
    pub(crate) fn used_bytes(&self, absent: &[String]) -> Result<u64, Failure> {
        self.sum_reports(absent, |report| report["used_bytes"].as_u64())
    }

    fn sum_reports(&self, absent: &[String], figure: impl Fn(&Value) -> Option<u64>) -> Result<u64, Failure> {
        let mut sum = 0;
        for entry in std::fs::read_dir(&self.directory)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.starts_with("storage-node-") && !absent.contains(&name) {
                sum += figure(&self.report(&name)?).ok_or("a node's report lacks a figure")?;
            }
        }
        Ok(sum)
    }

    /// What a node says of itself.
    pub(crate) fn report(&self, role: &str) -> Result<Value, Failure> {
        let mut command = Command::new(self.programs.join("firn-storage-node"));
        // Code 1 says that its owner has to see to something: it has reported all the same.
        let report =
            command.args(["status", "--json", "--data-dir"]).arg(self.directory.join(role)).output()?;
        let refused = || String::from_utf8_lossy(&report.stderr).into_owned();
        serde_json::from_slice(&report.stdout).map_err(|_| refused().into())
    }
}

impl Gateway {
    /// Starts one with `cache` of memory, and waits until it answers.
    pub(crate) fn start(archive: &Archive, cache: ByteCount) -> Result<Self, Failure> {
        let address = free_address()?;
        let mut command = Command::new(archive.programs.join("firn"));
        command.arg("--config").arg(archive.directory.join("firn.toml"));
        command.args(["gateway", "--listen", &address, "--memory-cache", &cache.0.to_string()]);
        let mut process = Process::start(command, &archive.directory.with_file_name("gateway.log"))?;
        let url = format!("http://{address}");
        process.wait_for("the gateway", || ureq::get(format!("{url}/readyz")).call().is_ok())?;
        Ok(Self { url, _process: process })
    }
}
