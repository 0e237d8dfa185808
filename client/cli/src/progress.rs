//! How far a command is: a bar on a terminal, a line now and then elsewhere, always on stderr.
//!
//! Always holds: what is printed goes above the bar; without a terminal at most one line in five seconds says
//! how far it is, how fast that was on average, and how long the rest takes at this rate.

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
    began: Instant,
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
        let began = Instant::now();
        Self { what, unit, bar, began, count: Mutex::new(Count { done: 0, total, printed: began }) }
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
            eprintln!("{}", line(self.what, self.unit, done, total, self.began.elapsed()));
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
        Unit::Things(things) => {
            format!("{{prefix}} {{wide_bar}} {{pos}} of {{len}} {things}, {{eta}} left {{msg}}")
        }
        Unit::Bytes => {
            "{prefix} {wide_bar} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left {msg}".to_owned()
        }
    };
    ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn line(what: &str, unit: Unit, done: u64, total: u64, took: Duration) -> String {
    let so_far = match unit {
        Unit::Things(things) => format!("{what}: {done} of {total} {things}"),
        Unit::Bytes => format!("{what}: {} of {}", ByteCount(done), ByteCount(total)),
    };
    let millis = took.as_millis().max(1);
    let per_second = u64::try_from(u128::from(done) * 1_000 / millis).unwrap_or(u64::MAX);
    let left = total.saturating_sub(done);
    // Slower than one a second, or done with what is known: no rate to go by.
    if per_second == 0 || left == 0 {
        return so_far;
    }
    let rate = match unit {
        Unit::Things(_) => format!("{per_second}/s"),
        Unit::Bytes => format!("{}/s", ByteCount(per_second)),
    };
    format!("{so_far}, {rate}, {} s left", left.div_ceil(per_second))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_line_says_how_far_it_is() {
        let things = |done, took| line("checking", Unit::Things("objects"), done, 7, took);
        assert_eq!(
            things(3, Duration::from_secs(60)),
            "checking: 3 of 7 objects",
            "slower than one a second"
        );
        assert_eq!(things(4, Duration::from_millis(500)), "checking: 4 of 7 objects, 8/s, 1 s left");
        assert_eq!(things(7, Duration::from_millis(500)), "checking: 7 of 7 objects");
        let bytes = |done, took| line("sending", Unit::Bytes, done, 3_000_000, took);
        assert_eq!(
            bytes(1_500_000, Duration::from_secs(3)),
            "sending: 1.5 MB of 3.0 MB, 500.0 kB/s, 3 s left"
        );
        assert_eq!(bytes(0, Duration::ZERO), "sending: 0 B of 3.0 MB");
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
