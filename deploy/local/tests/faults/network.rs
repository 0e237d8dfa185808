//! A network of this test's own: a bridge, and a namespace for each host, in which only what is started there is heard.
//!
//! Always holds: the network goes with its value, also on a panic; names carry the process's number, so that tests side
//! by side do not meet. A way is cut by giving the sender a hardware address that nobody has: its packets get lost
//! behind it, as in a real network, and no packet filter has to be there.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::{self, program};

/// Hosts on one bridge.
pub(crate) struct Network {
    prefix: String,
    hosts: usize,
    cut: BTreeSet<(usize, usize)>,
}

const NOBODY: &str = "02:f1:00:00:ff:ff";

impl Network {
    /// A network of `hosts`, all of which reach each other. The error says what this machine or user lacks.
    pub(crate) fn make(hosts: usize) -> Result<Self, String> {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let prefix = format!("f{}x{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let mut network = Self { prefix, hosts, cut: BTreeSet::new() };
        network.set_up().map(|()| network)
    }

    fn set_up(&mut self) -> Result<(), String> {
        let bridge = format!("{}b", self.prefix);
        ip(&["link", "add", &bridge, "type", "bridge"])?;
        ip(&["link", "set", &bridge, "up"])?;
        for host in 0..self.hosts {
            let (space, outer) = (self.namespace(host), format!("{}v{host}", self.prefix));
            ip(&["netns", "add", &space])?;
            let (peer, hardware) = (["peer", "name", "eth0", "address"], hardware(host));
            ip(&[&["link", "add", &outer, "type", "veth"], &peer[..], &[&hardware, "netns", &space]]
                .concat())?;
            ip(&["link", "set", &outer, "master", &bridge, "up"])?;
            let mut inside = vec![
                "link set lo up".to_owned(),
                format!("address add {}/24 dev eth0", address(host)),
                "link set eth0 up".to_owned(),
            ];
            inside.extend((0..self.hosts).filter(|other| *other != host).map(|other| way(other, false)));
            self.inside(host, &inside)?;
        }
        Ok(())
    }

    fn namespace(&self, host: usize) -> String {
        format!("{}n{host}", self.prefix)
    }

    fn inside(&self, host: usize, lines: &[String]) -> Result<(), String> {
        let mut child = Command::new("ip")
            .args(["-n", &self.namespace(host), "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| format!("`ip`: {error}"))?;
        let mut input = child.stdin.take().expect("it was asked for");
        input.write_all(lines.join("\n").as_bytes()).map_err(|error| error.to_string())?;
        drop(input);
        match child.wait().is_ok_and(|status| status.success()) {
            true => Ok(()),
            false => Err(format!("`ip -batch` failed: {lines:?}")),
        }
    }

    /// A command that runs one of our programs on `host`.
    pub(crate) fn command(&self, host: usize, name: &str, home: &Path) -> Command {
        self.host(host).command(&program(name), home)
    }

    /// Where programs are started on `host`.
    pub(crate) fn host(&self, host: usize) -> Host {
        Host { namespace: self.namespace(host) }
    }

    /// Cuts exactly these ways, each from its first host to its second; all others are open.
    pub(crate) fn cut_exactly(&mut self, ways: &BTreeSet<(usize, usize)>) {
        for from in 0..self.hosts {
            let others = (0..self.hosts).filter(|to| *to != from);
            let changed = others.filter(|to| ways.contains(&(from, *to)) != self.cut.contains(&(from, *to)));
            let lines: Vec<String> = changed.map(|to| way(to, ways.contains(&(from, to)))).collect();
            if !lines.is_empty() {
                self.inside(from, &lines).unwrap();
            }
        }
        self.cut = ways.clone();
    }
}

/// A host, for whoever starts programs there while ways are cut.
#[derive(Clone)]
pub(crate) struct Host {
    namespace: String,
}

impl Host {
    /// A command that runs the program in this file, with nothing of the caller's configuration.
    pub(crate) fn command(&self, program: &Path, home: &Path) -> Command {
        let mut command = Command::new("nsenter");
        support::without_configuration(&mut command, home);
        // It becomes the program: signals reach that one.
        command.arg(format!("--net=/run/netns/{}", self.namespace)).arg(program);
        command
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in 0..self.hosts {
            drop(ip(&["netns", "delete", &self.namespace(host)]));
        }
        drop(ip(&["link", "delete", &format!("{}b", self.prefix)]));
    }
}

/// Where a host is.
pub(crate) fn address(host: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 86, 0, u8::try_from(host + 1).expect("there are few hosts"))
}

fn hardware(host: usize) -> String {
    format!("02:f1:00:00:00:{:02x}", host + 1)
}

fn way(to: usize, is_cut: bool) -> String {
    let hardware = if is_cut { NOBODY.to_owned() } else { hardware(to) };
    format!("neighbour replace {} lladdr {hardware} dev eth0 nud permanent", address(to))
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(arguments).output().map_err(|error| format!("`ip`: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            Err(format!("`ip {}`: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
        }
    }
}
