//! The servers that are measured, each on the core that it is given.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use firn_benches::process::{Failure, Process, free_address, output, programs};

const FILTERS_WITHIN: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(100);

/// A server that runs.
pub(crate) struct Server {
    /// Where it serves.
    pub(crate) address: SocketAddr,
    /// Its process.
    pub(crate) process: Process,
}

impl Server {
    /// Waits until a gateway has the filters up to a position of the feed.
    pub(crate) fn wait_for_filters(&self, position: u64) -> Result<(), Failure> {
        let line = format!("firn_gateway_filter_position {position}\n");
        let since = Instant::now();
        loop {
            let metrics =
                ureq::get(format!("http://{}/metrics", self.address)).call()?.body_mut().read_to_string()?;
            if metrics.contains(&line) {
                return Ok(());
            }
            if since.elapsed() > FILTERS_WITHIN {
                return Err("the gateway did not fetch the filters: see its log".into());
            }
            std::thread::sleep(PAUSE);
        }
    }
}

/// `program` on these cores, as `taskset` names them.
fn on_cores(cores: &str, program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", cores]).arg(program);
    command
}

/// Puts this program on these cores.
pub(crate) fn move_to(cores: &str) -> Result<(), Failure> {
    output(Command::new("taskset").args(["-a", "-c", "-p", cores, &std::process::id().to_string()])).map(drop)
}

/// A gateway of the archive that this file describes, on these cores, with an empty cache.
pub(crate) fn gateway(descriptor: &Path, cores: &str, log: &Path) -> Result<Server, Failure> {
    let address = free_address()?;
    let mut command = on_cores(cores, &programs()?.join("firn"));
    command.args(["gateway", "--listen", &address, "--archive"]).arg(descriptor);
    let mut process = Process::start(command, log)?;
    let ready = || ureq::get(format!("http://{address}/readyz")).call().is_ok();
    process.wait_for("the gateway", ready)?;
    Ok(Server { address: address.parse()?, process })
}

/// nginx on these cores, with one worker, serving what lies in `served`.
pub(crate) fn nginx(program: &Path, served: &Path, cores: &str, directory: &Path) -> Result<Server, Failure> {
    let address = free_address()?;
    fs::create_dir_all(directory)?;
    let root = served.display();
    let own = directory.display();
    // As fast as it can be made: no log, sendfile, open files kept, connections without end.
    let configuration = format!(
        "daemon off; worker_processes 1; worker_rlimit_nofile 8192; pid {own}/pid; error_log {own}/error.log;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000;\n\
         open_file_cache max=10000; open_file_cache_valid 600s; open_file_cache_errors on;\n\
         client_body_temp_path {own}/1; proxy_temp_path {own}/2; fastcgi_temp_path {own}/3;\n\
         uwsgi_temp_path {own}/4; scgi_temp_path {own}/5;\n\
         server {{ listen {address} backlog=4096; root {root}; }} }}\n"
    );
    fs::write(directory.join("nginx.conf"), configuration)?;
    let mut command = on_cores(cores, program);
    command.arg("-c").arg(directory.join("nginx.conf")).arg("-e").arg(directory.join("error.log"));
    // Started by root it would else give its worker to a user who may not read what it serves.
    command.args(["-g", "user root;"]);
    let mut process = Process::start(command, &directory.join("log"))?;
    let ready = || ureq::get(format!("http://{address}/nix-cache-info")).call().is_ok();
    process.wait_for("nginx", ready)?;
    Ok(Server { address: address.parse()?, process })
}

/// Copies what the gateway serves into a directory, for nginx to serve the same.
pub(crate) fn mirror(gateway: &Server, hashes: &[String], served: &Path) -> Result<(), Failure> {
    fs::create_dir_all(served.join("nar"))?;
    let fetch = |name: &str| -> Result<Vec<u8>, Failure> {
        let mut answer = ureq::get(format!("http://{}/{name}", gateway.address)).call()?;
        Ok(answer.body_mut().with_config().limit(u64::MAX).read_to_vec()?)
    };
    fs::write(served.join("nix-cache-info"), fetch("nix-cache-info")?)?;
    for hash in hashes {
        let name = format!("{hash}.narinfo");
        let text = fetch(&name)?;
        let url = firn_nix_format::PathInfo::parse(&text)?.url;
        fs::write(served.join(name), text)?;
        fs::write(served.join(&url), fetch(&url)?)?;
    }
    Ok(())
}
