//! What the machine says: memory, CPU time, files, page cache.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::Failure;

/// This process's resident memory and its peak so far.
pub(crate) fn resident_megabytes() -> Result<String, Failure> {
    let status = fs::read_to_string("/proc/self/status")?;
    let field = |name: &str| -> Option<u64> {
        let line = status.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    let megabytes = |name: &str| field(name).map_or(0, |kilobytes| kilobytes * 1024 / 1_000_000);
    Ok(format!("{} (peak {})", megabytes("VmRSS:"), megabytes("VmHWM:")))
}

/// CPU seconds of this process so far.
pub(crate) fn cpu_seconds() -> Result<f64, Failure> {
    // Fields 14 and 15, behind the name in brackets; in ticks of 10 ms.
    let stat = fs::read_to_string("/proc/self/stat")?;
    let behind = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 =
        behind.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(ticks as f64 / 100.0)
}

/// Bytes of all files below a directory.
pub(crate) fn directory_bytes(path: &Path) -> Result<u64, Failure> {
    let mut bytes = 0;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { directory_bytes(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}

/// Has the kernel forget what it caches of the files below a directory (`posix_fadvise`, as `dd` asks for it).
pub(crate) fn forget_cached(path: &Path) -> Result<(), Failure> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.metadata()?.is_dir() {
            forget_cached(&entry.path())?;
            continue;
        }
        let mut dd = Command::new("dd");
        dd.arg(format!("if={}", entry.path().display())).args(["iflag=nocache", "count=0"]);
        if !dd.stderr(Stdio::null()).status()?.success() {
            return Err(format!("dd could not drop {} from the page cache", entry.path().display()).into());
        }
    }
    Ok(())
}
