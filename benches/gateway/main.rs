//! A gateway beside nginx serving the same files: requests, bytes, the real Nix client, memory.
//!
//! `cargo build --release --bins --workspace`, then `cargo run --release -p firn-benches --example gateway -- DIR` prints
//! the table that RESULTS.md records. Needs nginx (Debian: nginx-light), Nix and taskset. An archive of 3 coordinators
//! and 16 nodes runs beside on the same machine; servers have the first core and clients the second one, but for NARs
//! from nodes and `nix copy`, where every program takes what it gets.
//!
//! Always holds: both servers are measured in one run, in turns, with the same requests over as many connections; of
//! requests and copies the turn in the middle counts; an answer that is not as expected ends the run. Leaves to others:
//! whether what is served is right (end-to-end tests).

mod closure;
mod compression;
mod delay;
mod existing;
mod far_archive;
#[path = "../filters/feed.rs"]
mod feed;
mod load;
mod many_keys;
mod nix;
mod servers;
mod slow;
mod stream;

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::{Parser, ValueEnum};
use firn_benches::process::{Failure, Process, free_address, output, programs};
use firn_nix_format::{PathInfo, nixbase32};

use crate::closure::Closure;
use crate::existing::ExistingCache;
use crate::far_archive::FarArchive;
use crate::load::{Load, Seen};
use crate::servers::{Server, gateway, mirror, move_to, nginx};

/// Measures a gateway beside nginx.
#[derive(Debug, Parser)]
struct Options {
    /// An empty directory for the archive, caches and stores: about 3 GB, and 12 GB more for slow readers
    dir: PathBuf,
    /// Measure these alone
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// How long each kind of request is sent in each of five turns, in seconds
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Paths of the closure
    #[arg(long, default_value_t = 500)]
    paths: usize,
    /// Keys that filters are made of
    #[arg(long, default_value_t = 10_000_000)]
    keys: u64,
    /// A binary cache in a directory, made by Nix: `nix copy` of all its paths is measured too
    #[arg(long, requires = "cache_key")]
    cache: Option<PathBuf>,
    /// The file of the public key that it is signed with
    #[arg(long, requires = "cache")]
    cache_key: Option<PathBuf>,
    /// The program of nginx
    #[arg(long, default_value = "nginx")]
    nginx: PathBuf,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// narinfo hits and misses.
    Requests,
    /// NARs from the gateway's memory and from nodes, and a stampede.
    Nars,
    /// Memory with many readers that take little.
    Slow,
    /// `nix copy`.
    Copies,
    /// Memory with the filters of many keys, and misses with them.
    Filters,
}

const SERVER: &str = "0";
const CLIENT: &str = "1";
const ANYWHERE: &str = "0,1";

/// As Nix opens by default, rounded up.
const CONNECTIONS: usize = 32;
const CLIENTS_MANY: usize = 500;
/// What a gateway compresses at once.
const ENCODERS_MAX: usize = 256;
const ABSENT_PATHS: u64 = 10_000;
const SLOW_FOR: Duration = Duration::from_secs(20);
/// An odd number: the one in the middle counts.
const COPY_ROUNDS: usize = 7;
/// An odd number, too.
const REQUEST_ROUNDS: usize = 5;
const ROUND_TRIP: Duration = Duration::from_millis(40);

/// What `nix copy` is to copy: the closures of `paths`.
struct Copied<'a> {
    name: String,
    publisher: &'a str,
    paths: Vec<String>,
}

/// What is there while it is measured.
struct Bench<'a> {
    options: &'a Options,
    closure: Closure,
    existing: Option<ExistingCache>,
    descriptor: PathBuf,
    served: PathBuf,
    _archive: Process,
}

fn main() -> ExitCode {
    let mut options = Options::parse();
    // nginx takes a relative name for one below its own directory.
    options.dir = std::path::absolute(&options.dir).unwrap_or(options.dir);
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), Failure> {
    if Command::new(&options.nginx).arg("-v").output().is_err() {
        return Err("there is no nginx here to compare with: install it (Debian: nginx-light), or name it with --nginx".into());
    }
    let bench = Bench::begin(options)?;
    println!("{}", machine()?);
    row(&["what", "gateway", "beside", "ratio"]);
    row(&["---"; 4]);
    if options.wants(Part::Requests) {
        bench.requests()?;
    }
    if options.wants(Part::Nars) {
        bench.nars()?;
    }
    if options.wants(Part::Slow) {
        bench.slow_readers()?;
    }
    if options.wants(Part::Copies) {
        bench.copies()?;
    }
    if options.wants(Part::Filters) {
        bench.filters()?;
    }
    Ok(())
}

impl Options {
    fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }
}

impl<'a> Bench<'a> {
    /// Founds an archive, publishes, and copies what a gateway serves of it for nginx.
    fn begin(options: &'a Options) -> Result<Self, Failure> {
        let dir = &options.dir;
        fs::create_dir_all(dir)?;
        let slow = if options.wants(Part::Slow) { CLIENTS_MANY } else { 0 };
        let closure = Closure::make(dir, options.paths, slow)?;
        let existing = options.cache.as_deref().zip(options.cache_key.as_deref());
        let existing = existing.map(|(cache, key)| ExistingCache::read(cache, key)).transpose()?;
        let (home, programs) = (dir.join("archive"), programs()?);
        let mut command = Command::new(programs.join("firn-local"));
        command.args(["up", "--coordinators", "3", "--storage-nodes", "16", "--gateway", &free_address()?]);
        for publisher in existing.iter().map(|cache| &cache.publisher).chain([&closure.publisher]) {
            command.args(["--publisher", publisher]);
        }
        command.arg("--dir").arg(&home);
        let mut archive = Process::start(command, &dir.join("archive.log"))?;
        archive.wait_for("the archive", || home.join("ready").exists())?;
        for cache in existing.iter().map(|cache| &cache.directory).chain([&closure.cache]) {
            let mut publish = Command::new(programs.join("firn"));
            output(publish.arg("--config").arg(home.join("firn.toml")).arg("publish").arg(cache))?;
        }
        // What the archive serves is what is measured from now on.
        fs::remove_dir_all(&closure.cache)?;
        let (descriptor, served) = (home.join("archive.firn"), dir.join("served"));
        let made_up = closure.paths.iter().chain(&closure.slow).map(|info| &info.store_path);
        let all = existing.iter().flat_map(|cache| &cache.paths).chain(made_up);
        let hashes: Vec<String> = all.map(|path| path.hash_part().to_owned()).collect();
        mirror(&gateway(&descriptor, ANYWHERE, &dir.join("mirror.log"))?, &hashes, &served)?;
        Ok(Self { options, closure, existing, descriptor, served, _archive: archive })
    }

    fn gateway(&self, cores: &str) -> Result<Server, Failure> {
        gateway(&self.descriptor, cores, &self.options.dir.join("gateway.log"))
    }

    fn nginx(&self, cores: &str) -> Result<Server, Failure> {
        nginx(&self.options.nginx, &self.served, cores, &self.options.dir.join("nginx"))
    }

    fn narinfos(&self) -> Vec<String> {
        let closure = self.closure.paths.iter().take(self.options.paths);
        closure.map(|info| format!("/{}.narinfo", info.store_path.hash_part())).collect()
    }

    /// Where the large NAR is served.
    fn large(&self) -> Result<String, Failure> {
        self.url(self.closure.paths.last().ok_or("there are no paths")?)
    }

    /// Where the NAR of a path is served.
    fn url(&self, info: &PathInfo) -> Result<String, Failure> {
        let text = fs::read(self.served.join(format!("{}.narinfo", info.store_path.hash_part())))?;
        Ok(format!("/{}", PathInfo::parse(&text)?.url))
    }

    fn requests(&self) -> Result<(), Failure> {
        let (gateway, nginx) = (self.gateway(SERVER)?, self.nginx(SERVER)?);
        move_to(CLIENT)?;
        let hits = self.narinfos();
        // From now on everything comes from memory.
        warm_up(&hits, gateway.address, 200)?;
        let absent = absent();
        let kinds = [("narinfo hits", &hits, 200), ("narinfo misses", &absent, 404)];
        for (what, paths, status) in kinds {
            for connections in [CONNECTIONS, CLIENTS_MANY] {
                let load = |server: &Server| Load {
                    address: server.address,
                    paths,
                    status,
                    connections,
                    lasts: Duration::from_secs(self.options.seconds),
                };
                let (mut ours, mut theirs) = (Vec::new(), Vec::new());
                for round in 0..REQUEST_ROUNDS {
                    let mut turns = [(&gateway, &mut ours), (&nginx, &mut theirs)];
                    // Neither always has the quieter turn.
                    if round % 2 == 1 {
                        turns.reverse();
                    }
                    for (server, rounds) in turns {
                        rounds.push(Round::of(measured(server, &load(server))?));
                    }
                }
                let name = format!("{what}, {connections} connections");
                let figures = [
                    ("per second", 0),
                    ("per CPU second of the server", 0),
                    ("p50, ms", 2),
                    ("p99, ms", 2),
                    ("p99.9, ms", 2),
                ];
                for (number, (figure, digits)) in figures.into_iter().enumerate() {
                    let middle =
                        |rounds: &[Round]| median(rounds.iter().map(|round| round.0[number]).collect());
                    compared(&format!("{name}, {figure}"), middle(&ours), middle(&theirs), digits);
                }
            }
        }
        let kib = gateway.process.memory_kib("VmHWM")?;
        row(&["gateway's peak memory after it, MiB", &(kib >> 10).to_string(), "", ""]);
        move_to(ANYWHERE)
    }

    fn nars(&self) -> Result<(), Failure> {
        let large = [self.large()?];
        let once = |address, connections| Load {
            address,
            paths: &large,
            status: 200,
            connections,
            lasts: Duration::ZERO,
        };
        let cold = self.gateway(ANYWHERE)?;
        let (from_nodes, cpu) = measured(&cold, &once(cold.address, 1))?;
        let from_nodes_cpu = from_nodes.bytes as f64 / 1e6 / cpu.as_secs_f64();
        let from_nodes = from_nodes.megabytes_per_second();
        let bare = stream::megabytes_per_second(closure::LARGE_BYTES as u64)?;
        compared("NAR from nodes, MB/s; beside it a bare QUIC stream", from_nodes, bare, 0);
        row(&["NAR from nodes, MB per CPU second of the gateway", &format!("{from_nodes_cpu:.0}"), "", ""]);
        drop(cold);

        let (gateway, nginx) = (self.gateway(SERVER)?, self.nginx(SERVER)?);
        move_to(CLIENT)?;
        run_sound(&once(gateway.address, 1))?;
        for connections in [1, 4] {
            let lasts = Duration::from_secs(self.options.seconds);
            let load = |server: &Server| Load { lasts, ..once(server.address, connections) };
            let [(ours, our_cpu), (theirs, their_cpu)] =
                [measured(&gateway, &load(&gateway))?, measured(&nginx, &load(&nginx))?];
            let name = format!("NAR from memory, {connections} connections, MB");
            compared(&format!("{name}/s"), ours.megabytes_per_second(), theirs.megabytes_per_second(), 0);
            let per_cpu = |seen: &Seen, cpu: Duration| seen.bytes as f64 / 1e6 / cpu.as_secs_f64();
            let (our_rate, their_rate) = (per_cpu(&ours, our_cpu), per_cpu(&theirs, their_cpu));
            compared(&format!("{name} per CPU second of the server"), our_rate, their_rate, 0);
        }
        self.compressed(&gateway, &large)?;
        drop(gateway);
        move_to(ANYWHERE)?;

        // 500 clients at once want a path that nobody had asked for.
        let gateway = self.gateway(ANYWHERE)?;
        let middle =
            self.closure.paths.iter().find(|info| info.nar_size > 1 << 20).ok_or("all paths are small")?;
        let wanted = [self.url(middle)?];
        let load = |server: &Server| Load { paths: &wanted, ..once(server.address, CLIENTS_MANY) };
        let (ours, theirs) = (run_sound(&load(&gateway))?, run_sound(&load(&nginx))?);
        let name =
            format!("{CLIENTS_MANY} clients at once, one NAR of {} kB from nodes", middle.nar_size / 1_000);
        compared(
            &format!("{name}, s until all have it"),
            ours.took.as_secs_f64(),
            theirs.took.as_secs_f64(),
            2,
        );
        let kib = gateway.process.memory_kib("VmHWM")?;
        row(&["gateway's peak memory after it, MiB", &(kib >> 10).to_string(), "", ""]);
        Ok(())
    }

    /// The same NAR as zstd, which a gateway makes anew for each download.
    fn compressed(&self, gateway: &Server, large: &[String; 1]) -> Result<(), Failure> {
        let path = [format!("{}.zst", large[0])];
        // How long it is is known once it was made: these clients do not read what has no length.
        let made = ureq::get(format!("http://{}{}", gateway.address, path[0])).call()?;
        std::io::copy(&mut made.into_body().into_reader(), &mut std::io::sink())?;
        let nar = fs::read(self.served.join(&large[0][1..]))?;
        let alone = compression::megabytes_per_cpu_second(&nar)?;
        for connections in [1, 4] {
            let lasts = Duration::from_secs(self.options.seconds);
            let load = Load { address: gateway.address, paths: &path, status: 200, connections, lasts };
            let (seen, cpu) = measured(gateway, &load)?;
            let megabytes = seen.answers as f64 * nar.len() as f64 / 1e6;
            let name = format!("NAR as zstd from memory, {connections} connections, MB of NAR");
            row(&[&format!("{name}/s"), &format!("{:.0}", megabytes / seen.took.as_secs_f64()), "", ""]);
            let name = format!("{name} per CPU second; beside it zstd alone");
            compared(&name, megabytes / cpu.as_secs_f64(), alone, 0);
        }
        Ok(())
    }

    /// What is fetched ahead for each of them, and what is compressed for each, is what a gateway's memory goes to.
    fn slow_readers(&self) -> Result<(), Failure> {
        let plain = self.closure.slow.iter().map(|info| self.url(info)).collect::<Result<Vec<_>, _>>()?;
        let compressed: Vec<String> = plain.iter().map(|path| format!("{path}.zst")).collect();
        let mib = |server: &Server, paths: &[String]| -> Result<String, Failure> {
            Ok((slow::memory_kib(server, paths, SLOW_FOR)? >> 10).to_string())
        };
        let name =
            format!("memory with {} readers of 16 KiB/s, each of a NAR of its own from nodes", plain.len());
        let theirs = mib(&self.nginx(ANYWHERE)?, &plain)?;
        row(&[&format!("{name}, MiB"), &mib(&self.gateway(ANYWHERE)?, &plain)?, &theirs, ""]);
        // As many as may be are compressed at once; all others would be refused.
        let some = &compressed[..ENCODERS_MAX.min(compressed.len())];
        let name = format!("memory with {} such readers, as zstd, MiB", some.len());
        row(&[&name, &mib(&self.gateway(ANYWHERE)?, some)?, "", ""]);
        Ok(())
    }

    fn copies(&self) -> Result<(), Failure> {
        let root = self.closure.paths.first().ok_or("there are no paths")?.store_path.to_string();
        let made_up = Copied {
            name: format!(
                "`nix copy` of {} paths, {} MB",
                self.options.paths,
                self.closure.nar_bytes / 1_000_000
            ),
            publisher: &self.closure.publisher,
            paths: vec![root],
        };
        let (nginx, gateway) = self.copies_beside(&made_up)?;
        let far = |server: &Server| self.copy(delay::behind(server.address, ROUND_TRIP)?, &made_up);
        let (ours, theirs) = (far(&gateway)?, far(&nginx)?);
        let name = &made_up.name;
        compared(&format!("{name}, s, server 40 ms away, from memory"), ours, theirs, 2);
        drop(gateway);
        let ours = far(&self.gateway(ANYWHERE)?)?;
        compared(&format!("{name}, s, server 40 ms away, from nodes beside it"), ours, theirs, 2);
        let beside = FarArchive::serve(&self.descriptor, ROUND_TRIP)?;
        let ours = self.copy(beside.address, &made_up)?;
        drop(beside);
        let what = "gateway here and its archive 40 ms away, nothing in memory; beside it nginx 40 ms away";
        compared(&format!("{name}, s, {what}"), ours, theirs, 2);
        drop(nginx);
        if let Some(cache) = &self.existing {
            let (paths, megabytes) = (cache.paths.len(), cache.nar_bytes / 1_000_000);
            self.copies_beside(&Copied {
                name: format!("`nix copy` of {paths} paths made by Nix, {megabytes} MB"),
                publisher: &cache.publisher,
                paths: cache.paths.iter().map(ToString::to_string).collect(),
            })?;
        }
        Ok(())
    }

    /// Compares copies in turns. Gives both servers back, the gateway with everything in memory.
    fn copies_beside(&self, what: &Copied<'_>) -> Result<(Server, Server), Failure> {
        let (nginx, mut gateway) = (self.nginx(ANYWHERE)?, self.gateway(ANYWHERE)?);
        // The first one pays for what the machine has not read yet.
        self.copy(nginx.address, what)?;
        let (mut cold, mut warm, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..COPY_ROUNDS {
            if round > 0 {
                gateway = self.gateway(ANYWHERE)?;
            }
            cold.push(self.copy(gateway.address, what)?);
            theirs.push(self.copy(nginx.address, what)?);
            warm.push(self.copy(gateway.address, what)?);
        }
        let (name, theirs) = (&what.name, median(theirs));
        compared(&format!("{name}, s, from nodes"), median(cold), theirs, 2);
        compared(&format!("{name}, s, from memory"), median(warm), theirs, 2);
        Ok((nginx, gateway))
    }

    fn filters(&self) -> Result<(), Failure> {
        let empty = self.gateway(ANYWHERE)?;
        let before = empty.process.memory_kib("VmRSS")? >> 10;
        drop(empty);
        let directory = self.options.dir.join("many-keys");
        let many = many_keys::serve_many_keys(&directory, self.options.keys)?;
        let gateway = gateway(&many.descriptor, SERVER, &self.options.dir.join("many-keys.log"))?;
        gateway.wait_for_filters(many.covered)?;
        let after = gateway.process.memory_kib("VmRSS")? >> 10;
        let (name, before) = (
            format!("gateway's memory with filters of {} keys, MiB; beside it with none", self.options.keys),
            before.to_string(),
        );
        row(&[&name, &after.to_string(), &before, ""]);
        let nginx = self.nginx(SERVER)?;
        move_to(CLIENT)?;
        let absent = absent();
        let load = |server: &Server| Load {
            address: server.address,
            paths: &absent,
            status: 404,
            connections: CONNECTIONS,
            lasts: Duration::from_secs(self.options.seconds),
        };
        // What filters hold wrongly was settled once.
        warm_up(&absent, gateway.address, 404)?;
        let (ours, theirs) = (run_sound(&load(&gateway))?, run_sound(&load(&nginx))?);
        compared("narinfo misses with these filters, per second", ours.per_second(), theirs.per_second(), 0);
        move_to(ANYWHERE)
    }

    fn copy(&self, from: SocketAddr, what: &Copied<'_>) -> Result<f64, Failure> {
        let took = nix::copy(from, what.publisher, &what.paths, &self.options.dir.join("nix"))?;
        Ok(took.as_secs_f64())
    }
}

/// What one turn of requests gave: answers per second and per CPU second of the server; p50, p99 and p99.9 in ms.
struct Round([f64; 5]);

impl Round {
    fn of((seen, cpu): (Seen, Duration)) -> Self {
        let millis = |per_mille| seen.within(per_mille).as_secs_f64() * 1e3;
        let per_cpu_second = seen.answers as f64 / cpu.as_secs_f64();
        Self([seen.per_second(), per_cpu_second, millis(500), millis(990), millis(999)])
    }
}

/// The one in the middle.
fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// Narinfos that nobody has archived.
fn absent() -> Vec<String> {
    let narinfo = |number| format!("/{}.narinfo", nixbase32::encode(feed::stranger(number).name()));
    (0..ABSENT_PATHS).map(narinfo).collect()
}

/// Asks for these paths until each was asked for, on all but the slowest machines.
fn warm_up(paths: &[String], address: SocketAddr, status: u16) -> Result<(), Failure> {
    let load = Load { address, paths, status, connections: CONNECTIONS, lasts: Duration::from_secs(2) };
    run_sound(&load).map(drop)
}

/// Puts `load` on its server; an answer that is not as expected is a failure.
fn run_sound(load: &Load<'_>) -> Result<Seen, Failure> {
    let seen = load.run()?;
    match seen.failed {
        0 => Ok(seen),
        failed => {
            Err(format!("{failed} of {} answers of {} were wrong", failed + seen.answers, load.address)
                .into())
        }
    }
}

/// [`run_sound`], and the processor time that the server took for it: what it could do if its clients, who share one core,
/// were faster.
fn measured(server: &Server, load: &Load<'_>) -> Result<(Seen, Duration), Failure> {
    let before = server.process.cpu_time()?;
    let seen = run_sound(load)?;
    Ok((seen, server.process.cpu_time()?.saturating_sub(before)))
}

fn compared(what: &str, ours: f64, theirs: f64, digits: usize) {
    let figure = |figure: f64| format!("{figure:.digits$}");
    row(&[what, &figure(ours), &figure(theirs), &format!("{:.2}", ours / theirs)]);
}

fn row(cells: &[&str; 4]) {
    println!("| {} |", cells.join(" | "));
}

/// What the figures were measured on.
fn machine() -> Result<String, Failure> {
    let cpus = fs::read_to_string("/proc/cpuinfo")?;
    let name = cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg")?;
    let load: Vec<&str> = load.split(' ').take(3).collect();
    let name = name.trim_start_matches(['\t', ':', ' ']);
    Ok(format!("{name}, load {} before it began", load.join(" ")))
}
