//! Running the command that an owner wants to be told by.
//!
//! Always holds: it gets one line on its standard input, has [`COMMAND_MOST`], and is killed with all that it started when that
//! is over while the node runs. What it prints goes where the node's log goes.
//! Leaves to others: what it leaves behind when it ends by itself, and when the node ends (the service manager).

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

/// How long a command may take: a mail is sent by then.
pub(crate) const COMMAND_MOST: Duration = Duration::from_secs(30);

// A pipe has no other end that could be waited for with a limit.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Why a command did not do what it should.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotifyCommandError {
    /// It was not started.
    #[error("the command of --notify-command cannot be started: {0}")]
    Start(io::Error),
    /// It failed.
    #[error("the command of --notify-command failed: {0}")]
    Failed(ExitStatus),
    /// It took too long.
    #[error("the command of --notify-command took more than {} s and was killed", after.as_secs())]
    TooLong {
        /// How long it had.
        after: Duration,
    },
    /// It cannot be waited for.
    #[error("the command of --notify-command cannot be waited for: {0}")]
    Wait(io::Error),
}

/// Lets the shell run `command` with `line` on its standard input. Blocks for as long as that takes.
pub(crate) fn run_notify_command(command: &str, line: &[u8]) -> Result<(), NotifyCommandError> {
    run_within(command, line, COMMAND_MOST)
}

fn run_within(command: &str, line: &[u8], most: Duration) -> Result<(), NotifyCommandError> {
    let mut shell = Command::new("/bin/sh");
    // What the node itself prints on its standard output is for programs.
    let log = Stdio::from(io::stderr());
    shell.arg("-c").arg(command).stdin(Stdio::piped()).stdout(log).process_group(0);
    let mut child = shell.spawn().map_err(NotifyCommandError::Start)?;
    if let Some(mut input) = child.stdin.take() {
        // A line is shorter than what a pipe holds, so nobody is waited for; a command that reads nothing is fine too.
        let _ = input.write_all(line);
    }
    let begun = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(NotifyCommandError::Failed(status)),
            Ok(None) if begun.elapsed() < most => std::thread::sleep(LOOK_EVERY),
            Ok(None) => {
                kill(&mut child);
                return Err(NotifyCommandError::TooLong { after: most });
            }
            Err(error) => {
                kill(&mut child);
                return Err(NotifyCommandError::Wait(error));
            }
        }
    }
}

/// Kills the shell and what it started, and waits for the shell.
fn kill(child: &mut Child) {
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let Some(group) = group {
        // Whoever is gone already needs no signal.
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = child.kill();
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_gets_the_line_and_a_failure_is_an_error() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("told");
        let command = format!("cat >> '{}'", file.display());
        run_notify_command(&command, b"{\"event\":1}\n").unwrap();
        run_notify_command(&command, b"{\"event\":2}\n").unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "{\"event\":1}\n{\"event\":2}\n");
        // One that does not read.
        run_notify_command("true", &[b'x'; 4000]).unwrap();
        assert!(matches!(run_notify_command("exit 3", b"").unwrap_err(), NotifyCommandError::Failed(_)));
        assert!(matches!(run_notify_command("/no/such/program", b""), Err(NotifyCommandError::Failed(_))));
    }

    #[test]
    fn a_command_that_hangs_is_killed_with_what_it_started() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("pid");
        let command = format!("sleep 600 & echo $! > '{}'; wait", file.display());
        // Long enough that the shell has begun, wherever this runs.
        let mut most = Duration::from_millis(200);
        loop {
            let ran = run_within(&command, b"", most);
            assert!(matches!(ran, Err(NotifyCommandError::TooLong { .. })), "{ran:?}");
            if std::fs::read_to_string(&file).is_ok_and(|text| text.ends_with('\n')) {
                break;
            }
            most *= 2;
        }
        let pid = std::fs::read_to_string(&file).unwrap();
        // Killed; whoever adopted it may not have looked at it yet.
        let is_gone = || {
            let state = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
            state.map_or(true, |state| state.contains(") Z "))
        };
        assert!((0..2400).any(|_| is_gone() || {
            std::thread::sleep(LOOK_EVERY);
            false
        }));
    }
}
