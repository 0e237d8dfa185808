//! How far a command is: a bar on a terminal, a line now and then elsewhere, always on stderr.
//!
//! Always holds: what is printed goes above the bar; without a terminal at most one line in five seconds says
//! how far it is.

use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use firn_base::ByteCount;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

const LINE_EVERY: Duration = Duration::from_secs(5);
const REDRAWS_PER_SECOND: u8 = 8;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Things, by their plural.
    Things(&'static str),
    /// Bytes.
    Bytes,
}

/// The progress of one piece of work. Threads may share it.
#[derive(Debug)]
pub(crate) struct Progress {
    what: &'static str,
    unit: Unit,
    // None where stderr is no terminal.
    bar: Option<ProgressBar>,
    count: Mutex<Count>,
}

#[derive(Debug)]
struct Count {
    done: u64,
    total: u64,
    printed: Instant,
}

impl Progress {
    /// The progress of `what` (as in "checking") towards `total`, which may be 0 as long as it is not known.
    pub(crate) fn new(what: &'static str, unit: Unit, total: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let target = ProgressDrawTarget::stderr_with_hz(REDRAWS_PER_SECOND);
            let bar = ProgressBar::with_draw_target(Some(total), target).with_prefix(what);
            bar.set_style(style(unit));
            bar
        });
        Self { what, unit, bar, count: Mutex::new(Count { done: 0, total, printed: Instant::now() }) }
    }

    /// More is to be done.
    pub(crate) fn expect(&self, more: u64) {
        self.change(|count| count.total = count.total.saturating_add(more));
    }

    /// More is done.
    pub(crate) fn add(&self, more: u64) {
        self.change(|count| count.done = count.done.saturating_add(more));
    }

    /// So much is done of so much.
    pub(crate) fn set(&self, done: u64, total: u64) {
        self.change(|count| (count.done, count.total) = (done, total));
    }

    fn change(&self, change: impl FnOnce(&mut Count)) {
        let (done, total, line_due) = {
            let mut count = self.count();
            change(&mut count);
            let due = self.bar.is_none() && count.printed.elapsed() >= LINE_EVERY;
            if due {
                count.printed = Instant::now();
            }
            (count.done, count.total, due)
        };
        if let Some(bar) = &self.bar {
            bar.set_length(total.max(done));
            bar.set_position(done);
        }
        if line_due {
            eprintln!("{}", line(self.what, self.unit, done, total));
        }
    }

    /// A word about what is going on, behind the bar.
    pub(crate) fn say(&self, message: String) {
        if let Some(bar) = &self.bar {
            bar.set_message(message);
        }
    }

    /// A line that stays.
    pub(crate) fn note(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }

    fn count(&self) -> std::sync::MutexGuard<'_, Count> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn style(unit: Unit) -> ProgressStyle {
    let template = match unit {
        Unit::Things(things) => format!("{{prefix}} {{wide_bar}} {{pos}} of {{len}} {things} {{msg}}"),
        Unit::Bytes => "{prefix} {wide_bar} {bytes} of {total_bytes}, {bytes_per_sec} {msg}".to_owned(),
    };
    ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn line(what: &str, unit: Unit, done: u64, total: u64) -> String {
    match unit {
        Unit::Things(things) => format!("{what}: {done} of {total} {things}"),
        Unit::Bytes => format!("{what}: {} of {}", ByteCount(done), ByteCount(total)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_line_says_how_far_it_is() {
        assert_eq!(line("checking", Unit::Things("objects"), 3, 7), "checking: 3 of 7 objects");
        assert_eq!(line("sending", Unit::Bytes, 1_500_000, 3_000_000), "sending: 1.5 MB of 3.0 MB");
    }

    #[test]
    fn counts_add_up() {
        let progress = Progress::new("checking", Unit::Things("objects"), 0);
        progress.expect(5);
        progress.add(2);
        progress.add(1);
        let count = progress.count();
        assert_eq!((count.done, count.total), (3, 5));
    }
}
