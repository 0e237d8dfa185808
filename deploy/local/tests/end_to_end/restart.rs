//! A gateway that is started again and again while clients read through it, at a port that a service manager holds.
//!
//! `FIRN_TEST_RESTART_RUNS` says how often.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::fetch::path_infos;
use crate::support::fleet::Fleet;
use crate::support::reading::EndsWhenDropped;
use crate::support::{DEADLINE, Running, demo_cache, demo_key, nix, program, wait_for};
use firn_nix_format::PathInfo;

const RUNS: usize = 3;
// As long as a restart may take: whoever waits for longer has found a gateway that does not answer.
const READ_WAIT: Duration = DEADLINE;
// A gateway that ends waits for the first request of a connection for two seconds. A client of ours that got no turn for
// so long between connecting and writing is late itself.
const LATE_AFTER: Duration = Duration::from_secs(1);

#[test]
fn clients_notice_nothing_of_a_gateway_that_is_started_again() {
    let runs = std::env::var("FIRN_TEST_RESTART_RUNS").map_or(RUNS, |runs| runs.parse().unwrap());
    let fleet = Fleet::new();
    let published = path_infos(&demo_cache().join("cache"));
    assert_eq!(fleet.publish()["paths_published"], published.len());
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = port.local_addr().unwrap();

    // As fast as they can, as slowly as a person, and one that comes anew for each request.
    let clients = [
        Client { pause: Duration::ZERO, keeps_alive: true },
        Client { pause: Duration::ZERO, keeps_alive: true },
        Client { pause: Duration::from_millis(30), keeps_alive: true },
        Client { pause: Duration::from_millis(700), keeps_alive: true },
        Client { pause: Duration::from_millis(5), keeps_alive: false },
    ];
    let answered: Vec<AtomicUsize> = clients.iter().map(|_| AtomicUsize::new(0)).collect();
    let (copied, again) = (AtomicUsize::new(0), AskedAgain::default());
    let failures = Mutex::new(Vec::new());
    let ended = AtomicBool::new(false);
    let mut last = None;
    thread::scope(|scope| {
        // Whatever fails below: the threads end, and the scope with them.
        let ending = EndsWhenDropped(&ended);
        for (client, answered) in clients.iter().zip(&answered) {
            let (published, failures, again, ended) = (&published, &failures, &again, &ended);
            scope.spawn(move || {
                while !ended.load(Ordering::Relaxed) {
                    if let Err(error) = client.read_on(address, published, answered, again, ended) {
                        failures.lock().unwrap().push(format!("{client:?}: {error}"));
                    }
                }
            });
        }
        if nix::is_there() {
            scope.spawn(|| copy_on(&fleet, address, &published, &copied, &ended));
        }
        for run in 0..runs {
            let before = counts(&answered);
            let mut gateway = start(&fleet, &port);
            wait_for("every client is answered by the gateway of this run", || {
                gateway.assert_alive();
                counts(&answered).iter().zip(&before).all(|(now, before)| now > before).then_some(())
            });
            assert_eq!(gateway.terminate(), Some(0), "run {run}");
        }
        let before = copied.load(Ordering::Relaxed);
        // It outlives the clients.
        last = Some(start(&fleet, &port));
        if nix::is_there() {
            wait_for("Nix has copied everything", || (copied.load(Ordering::Relaxed) > before).then_some(()));
        }
        drop(ending);
    });
    let requests: usize = counts(&answered).iter().sum();
    let failures = failures.into_inner().unwrap();
    let [copied, reused, late] = [copied, again.reused, again.late].map(AtomicUsize::into_inner);
    println!(
        "{runs} restarts, {requests} requests, {reused} of them on a second connection and {late} by clients that were \
         late, {copied} copies by Nix"
    );
    assert!(failures.is_empty(), "{} of {requests} requests failed: {failures:#?}", failures.len());
    assert_eq!(last.unwrap().terminate(), Some(0));
}

/// Starts a gateway at a port that we hold, as a service manager does: the socket is file descriptor 3.
fn start(fleet: &Fleet, port: &TcpListener) -> Running {
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"", "sh"]);
    shell.arg(program("firn")).args(["gateway", "--archive", &fleet.descriptor_url(), "--cache-dir"]);
    shell.arg(fleet.home().join("gateway-cache")).env("HOME", fleet.home());
    shell.stdin(OwnedFd::from(port.try_clone().unwrap()));
    Running::start(&mut shell, &fleet.home().join("gateway.log"))
}

fn copy_on(
    fleet: &Fleet,
    address: SocketAddr,
    published: &BTreeMap<String, PathInfo>,
    copied: &AtomicUsize,
    ended: &AtomicBool,
) {
    let paths: Vec<String> = published.values().map(|info| info.store_path.to_string()).collect();
    while !ended.load(Ordering::Relaxed) {
        let root = fleet.home().join("nix").join(copied.load(Ordering::Relaxed).to_string());
        nix::copy(&format!("http://{address}"), &demo_key(), &paths, &root);
        std::fs::remove_dir_all(root).unwrap();
        copied.fetch_add(1, Ordering::Relaxed);
    }
}

fn counts(answered: &[AtomicUsize]) -> Vec<usize> {
    answered.iter().map(|count| count.load(Ordering::Relaxed)).collect()
}

/// Requests that were sent on another connection because theirs ended before the first byte of an answer.
#[derive(Debug, Default)]
struct AskedAgain {
    /// It had been used before.
    reused: AtomicUsize,
    /// It was new, and the client late.
    late: AtomicUsize,
}

/// A client that tries next to nothing twice: it goes on using its connection until an answer says that it was the last one.
///
/// Only a connection that was used before and ends before the first byte of an answer is replaced, as HTTP/1.1 has it and
/// every client does: a server may close what has been idle, and the request may be on its way then. So it may close a new
/// one on which nothing comes for long, for which a machine must be too busy to let a client write.
#[derive(Debug)]
struct Client {
    pause: Duration,
    keeps_alive: bool,
}

impl Client {
    /// Reads narinfos, NARs and what is not there until `ended`.
    fn read_on(
        &self,
        address: SocketAddr,
        published: &BTreeMap<String, PathInfo>,
        answered: &AtomicUsize,
        again: &AskedAgain,
        ended: &AtomicBool,
    ) -> Result<(), Failure> {
        let mut connection: Option<Connection> = None;
        for (hash, info) in published.iter().cycle() {
            let nar = format!("/nar/{hash}-{}.nar", info.nar_hash.to_base32());
            let absent: String = hash.chars().rev().collect();
            let wanted = [(format!("/{hash}.narinfo"), 200), (nar, 200), (format!("/{absent}.narinfo"), 404)];
            for (path, status) in wanted {
                if ended.load(Ordering::Relaxed) {
                    return Ok(());
                }
                let goes_on = loop {
                    let mut asked = match connection.take() {
                        Some(connection) => connection,
                        None => Connection::open(address)?,
                    };
                    let reused = asked.is_used;
                    let counter = match asked.ask(&path, status) {
                        Ok(true) if self.keeps_alive => break Some(asked),
                        Ok(_) => break None,
                        Err(Failure::Unanswered { .. }) if reused => &again.reused,
                        Err(Failure::Unanswered { after, .. }) if after > LATE_AFTER => &again.late,
                        Err(failure) => return Err(failure),
                    };
                    counter.fetch_add(1, Ordering::Relaxed);
                };
                connection = goes_on;
                answered.fetch_add(1, Ordering::Relaxed);
                thread::sleep(self.pause);
            }
        }
        Ok(())
    }
}

/// A connection to the gateway.
struct Connection {
    stream: BufReader<TcpStream>,
    opened: Instant,
    is_used: bool,
}

/// Why a request was not answered as it should have been.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The connection ended before the first byte.
    #[error("there was no answer: {error} (it was asked {after:?} after the connection was opened)")]
    Unanswered { error: io::Error, after: Duration },
    /// Anything else, as a sentence.
    #[error("{0}")]
    Wrong(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Wrong(error.to_string())
    }
}

impl Connection {
    fn open(address: SocketAddr) -> io::Result<Self> {
        let opened = Instant::now();
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(READ_WAIT))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream), opened, is_used: false })
    }

    /// One request, whose answer has `status` and comes whole; whether the connection takes another one.
    fn ask(&mut self, path: &str, status: u16) -> Result<bool, Failure> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: cache\r\n\r\n");
        let written = self.stream.get_mut().write_all(request.as_bytes());
        let after = self.opened.elapsed();
        let unanswered = |error: io::Error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Failure::from(error),
            _ => Failure::Unanswered { error, after },
        };
        written.map_err(unanswered)?;
        self.is_used = true;
        if self.stream.fill_buf().map_err(unanswered)?.is_empty() {
            return Err(unanswered(io::ErrorKind::UnexpectedEof.into()));
        }
        let (mut head, mut bytes, mut goes_on) = (String::new(), 0, true);
        while !head.ends_with("\r\n\r\n") {
            let begin = head.len();
            if self.stream.read_line(&mut head)? == 0 {
                return Err(Failure::Wrong(format!("{path}: the connection ended after {head:?}")));
            }
            match head[begin..].trim_end().split_once(": ") {
                Some(("content-length", length)) => {
                    bytes = length.parse().map_err(|_| Failure::Wrong(format!("{path}: {head}")))?;
                }
                Some(("connection", "close")) => goes_on = false,
                _ => {}
            }
        }
        if !head.starts_with(&format!("HTTP/1.1 {status} ")) {
            return Err(Failure::Wrong(format!("{path}: {head}")));
        }
        let came = io::copy(&mut (&mut self.stream).take(bytes), &mut io::sink())?;
        if came < bytes {
            return Err(Failure::Wrong(format!("{path}: {came} of {bytes} bytes came")));
        }
        Ok(goes_on)
    }
}
