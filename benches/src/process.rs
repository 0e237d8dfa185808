//! Programs that a benchmark runs.
//!
//! Always holds: a program that was started is ended when its [`Process`] is dropped, by its id; one that does not come
//! up ends the benchmark with a sentence.

use std::error::Error;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Whatever stops a benchmark.
pub type Failure = Box<dyn Error + Send + Sync>;

/// A program that runs until this is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

const UP_WITHIN: Duration = Duration::from_secs(120);
const END_WITHIN: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(100);

// What Linux counts processor time by, whatever the kernel's own ticks are, and where in the figures behind a program's
// name.
const TICK: Duration = Duration::from_millis(10);
const CPU_TIME_BEGINS: usize = 11;

impl Process {
    /// Starts `command`; what it says goes to the file `log`.
    pub fn start(mut command: Command, log: &Path) -> Result<Self, Failure> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(log)?).spawn();
        Ok(Self { child: child.map_err(|error| format!("{command:?}: {error}"))? })
    }

    /// Waits until it is `ready`.
    pub fn wait_for(&mut self, what: &str, ready: impl Fn() -> bool) -> Result<(), Failure> {
        let since = Instant::now();
        while !ready() {
            if self.child.try_wait()?.is_some() || since.elapsed() > UP_WITHIN {
                return Err(format!("{what} did not start: see its log").into());
            }
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Processor time that it and its children have taken so far, to a hundredth of a second.
    pub fn cpu_time(&self) -> Result<Duration, Failure> {
        let id = self.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"))?;
        let ids = std::iter::once(Ok(id)).chain(children.split_whitespace().map(str::parse));
        ids.map(|id| cpu_time(id?)).sum()
    }

    /// A figure of its `/proc/PID/status` in KiB, such as `VmRSS` and `VmHWM`.
    pub fn memory_kib(&self, name: &str) -> Result<u64, Failure> {
        memory_kib(&self.id().to_string(), name)
    }
}

/// A figure of this process's own status in KiB: see [`Process::memory_kib`].
pub fn own_memory_kib(name: &str) -> Result<u64, Failure> {
    memory_kib("self", name)
}

/// Has the kernel count this process's peak, `VmHWM`, from now on.
pub fn reset_own_peak() -> Result<(), Failure> {
    Ok(fs::write("/proc/self/clear_refs", "5")?)
}

fn memory_kib(process: &str, name: &str) -> Result<u64, Failure> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let figure = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    figure.ok_or_else(|| format!("no {name} in /proc/{process}/status").into())
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status());
        let since = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && since.elapsed() < END_WITHIN {
            std::thread::sleep(PAUSE);
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Processor time that process `id` has taken so far, to a hundredth of a second.
pub fn cpu_time(id: u32) -> Result<Duration, Failure> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat"))?;
    // The name of the program may hold anything; what is counted from it on may not.
    let (_, figures) = stat.rsplit_once(')').ok_or("a process without a name")?;
    let ticks = figures.split_whitespace().skip(CPU_TIME_BEGINS).take(2);
    Ok(TICK * ticks.map(str::parse::<u32>).sum::<Result<u32, _>>()?)
}

/// How long this thread has run so far, without what it waited: others may use the machine meanwhile.
pub fn thread_time() -> Result<Duration, Failure> {
    let schedstat = fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanos = schedstat.split_whitespace().next().ok_or("the kernel keeps no times of threads")?;
    Ok(Duration::from_nanos(nanos.parse()?))
}

/// Runs `command` to its end, which must be a good one; gives its output.
pub fn output(command: &mut Command) -> Result<String, Failure> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{command:?}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// An address on loopback whose port nobody has now.
pub fn free_address() -> Result<String, Failure> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

/// Where the programs lie that are measured: beside the directory of the benchmark's own.
pub fn programs() -> Result<PathBuf, Failure> {
    let own = std::env::current_exe()?;
    let directory = own.parent().and_then(Path::parent);
    Ok(directory.ok_or("this program lies in no target directory")?.to_owned())
}
