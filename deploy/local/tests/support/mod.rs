//! Running the real programs: found beside the tests, killed when a test ends, waited for with a deadline.

#![allow(dead_code, unreachable_pub, reason = "each test uses what it needs")]

pub mod cache;
pub mod fetch;
pub mod fleet;
pub mod local;
pub mod nix;
pub mod pipeline;
pub mod reading;

use std::ffi::OsStr;
use std::fs::File;
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Within this anything that a test waits for has happened, also on a slow machine that is busy with other tests.
pub const DEADLINE: Duration = Duration::from_secs(180);

const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Waits until `look` gives something.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < DEADLINE, "{what}: not within {} s", DEADLINE.as_secs());
        std::thread::sleep(LOOK_EVERY);
    }
}

/// The file of a program of ours.
pub fn program(name: &str) -> PathBuf {
    if name == "firn-local" {
        return env!("CARGO_BIN_EXE_firn-local").into();
    }
    let test = std::env::current_exe().expect("a running program has a file");
    let directory = test.parent().and_then(Path::parent).expect("tests lie in target/PROFILE/deps");
    let program = directory.join(name);
    assert!(
        program.exists(),
        "{} is missing: run `cargo build --release --bins --workspace` first",
        program.display()
    );
    program
}

/// A program of ours with nothing of the caller's configuration; what it keeps for its user lies in `home`.
pub fn command(name: &str, home: &Path) -> Command {
    let mut command = Command::new(program(name));
    without_configuration(&mut command, home);
    command
}

/// Takes the caller's configuration away from a command.
pub fn without_configuration(command: &mut Command, home: &Path) {
    for (variable, _) in std::env::vars_os() {
        if variable.to_string_lossy().starts_with("FIRN_") {
            command.env_remove(variable);
        }
    }
    command.env("HOME", home).env_remove("XDG_STATE_HOME").stdin(Stdio::null());
}

/// Whether a command of the system succeeds; what it says is nobody's concern.
pub fn quietly(program: &str, arguments: &[&Path]) -> bool {
    let status = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// What a program came to that ran to its end.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

impl Ended {
    /// Its output, if all went well.
    #[track_caller]
    pub fn success(self) -> String {
        assert_eq!(self.code, Some(0), "{}{}", self.stdout, self.stderr);
        self.stdout
    }

    /// Its sentence, if it failed with `code`. There is one, and nothing like a stack trace.
    #[track_caller]
    pub fn failure(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{}{}", self.stdout, self.stderr);
        sentence(&self.stderr)
    }
}

/// The one error in a program's messages.
#[track_caller]
pub fn sentence(messages: &str) -> String {
    let errors: Vec<&str> = messages.lines().filter(|line| line.starts_with("error: ")).collect();
    let [error] = errors[..] else { panic!("one sentence is expected:\n{messages}") };
    assert!(!messages.contains("panicked"), "{messages}");
    error["error: ".len()..].to_owned()
}

/// Runs a program to its end; it is killed when it takes too long.
#[track_caller]
pub fn run<S: AsRef<OsStr>>(home: &Path, name: &str, arguments: impl IntoIterator<Item = S>) -> Ended {
    finish(command(name, home).args(arguments))
}

/// Runs a command to its end.
#[track_caller]
pub fn finish(command: &mut Command) -> Ended {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
    let id = child.id();
    let (say, ended) = std::sync::mpsc::channel();
    // Its pipes are read while it runs: else it could wait for us.
    std::thread::spawn(move || say.send(child.wait_with_output()));
    match ended.recv_timeout(DEADLINE * 2) {
        Ok(output) => output.expect("its output can be read").into(),
        Err(_) => {
            signal_process(id, "-KILL");
            panic!("{command:?} did not end")
        }
    }
}

/// Sends a signal to a process of ours.
pub fn signal_process(id: u32, signal: &str) {
    let id = id.to_string();
    assert!(Command::new("kill").args([signal, &id]).status().expect("there is `kill`").success());
}

/// A program that runs until it is stopped. Killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts `command`; its messages go to the file `log`.
    #[track_caller]
    pub fn start(command: &mut Command, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).expect("the log can be written");
        let child = command.stdout(Stdio::null()).stderr(file).spawn().expect("the program starts");
        Self { child, log: log.to_owned() }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its messages so far, and those of its runs before.
    pub fn messages(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// kill -9.
    pub fn kill(mut self) {
        self.child.kill().expect("our own child can be killed");
        self.child.wait().expect("our own child can be waited for");
    }

    /// SIGTERM; gives the exit code.
    #[track_caller]
    pub fn terminate(mut self) -> Option<i32> {
        signal_process(self.child.id(), "-TERM");
        let ended = wait_for("a program ends on SIGTERM", || self.child.try_wait().expect("it is our child"));
        ended.code()
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it is our child")
    }

    /// Waits until it has ended by itself.
    #[track_caller]
    pub fn failure(mut self, code: i32) -> String {
        let status = wait_for("a program ends", || self.ended());
        assert_eq!(status.code(), Some(code), "{}", self.messages());
        sentence(&self.messages())
    }

    /// Waits until its messages hold `text`, and gives the line.
    #[track_caller]
    pub fn says(&self, text: &str) -> String {
        wait_for(text, || self.messages().lines().find(|line| line.contains(text)).map(str::to_owned))
    }

    /// Asserts that it still runs and nothing in it broke.
    #[track_caller]
    pub fn assert_alive(&mut self) {
        assert_eq!(self.ended(), None, "{}", self.messages());
        assert!(!self.messages().contains("panicked"), "{}", self.messages());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            let messages = self.messages();
            let lines: Vec<&str> = messages.lines().collect();
            eprintln!("--- {}\n{}", self.log.display(), lines[lines.len().saturating_sub(25)..].join("\n"));
        }
    }
}

/// A TCP port of 127.0.0.1 that nobody has now, and no other test of this program gets.
pub fn tcp_port() -> u16 {
    port_that(|port| TcpListener::bind(("127.0.0.1", port)).is_ok())
}

/// UDP ports of 127.0.0.1 that nobody has now, and no other test of this program gets.
pub fn udp_ports(count: usize) -> Vec<u16> {
    (0..count).map(|_| port_that(|port| UdpSocket::bind(("127.0.0.1", port)).is_ok())).collect()
}

/// The next free port below those that the kernel gives to clients; each is given once, for what was killed and is to
/// come back on its port must find it free.
fn port_that(is_free: impl Fn(u16) -> bool) -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    const FIRST: u32 = 11_000;
    const COUNT: u32 = 20_000;
    for _ in 0..COUNT {
        // Programs of tests that run at the same time begin apart.
        let place = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(std::process::id().wrapping_mul(997));
        let port = u16::try_from(FIRST + place % COUNT).expect("it is below 31,000");
        if is_free(port) {
            return port;
        }
    }
    panic!("there is no free port between {FIRST} and {}", FIRST + COUNT);
}

/// The small signed cache that the demo falls back to.
pub fn demo_cache() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo/fallback-cache")
}

/// The key of [`demo_cache`].
pub fn demo_key() -> String {
    std::fs::read_to_string(demo_cache().join("key.pub")).expect("the key lies in the repository")
}
