//! What the node did in each hour of the last week, counted and kept.
//!
//! Always holds: what the file says is a week at most; a file that is damaged or cannot be read, or a disk that does not write,
//! costs graphs and nothing else.
//! Leaves to others: what is due when (`storage-node/logic`), drawing (`page`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use firn_base::Timestamp;
use firn_storage_node_logic::{HourCounts, WeekBook};
use tokio::time::{sleep, timeout};

use crate::shared::Shared;
use crate::store::{Disk, read_small, replace_small};

const WEEK_FILE: &str = "week";
// 168 lines of five numbers.
const WEEK_BYTES_MAX: u64 = 1 << 15;

const LOOK_EVERY: Duration = Duration::from_secs(60);
// A disk that hangs is not waited for.
const CLOSE_MOST: Duration = Duration::from_secs(5);

/// The last week.
#[derive(Debug)]
pub(crate) struct Week {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    book: WeekBook,
    // What the counters of this run had reached at the last look.
    counted: Counted,
}

/// Counters of this run.
#[derive(Debug, Clone, Copy, Default)]
struct Counted {
    sent_bytes: u64,
    received_bytes: u64,
    reads_helped: u64,
    // Whatever the disk was used for.
    disk_uses: u64,
}

impl Week {
    /// Goes on with what the disk says.
    pub(crate) fn open(disk: &dyn Disk) -> Self {
        let kept = read_small(disk, WEEK_FILE, WEEK_BYTES_MAX).unwrap_or_else(|error| {
            // No reason to stay away from the archive.
            tracing::warn!(%error, "the counts of the last week cannot be read: they begin anew");
            None
        });
        let parsed = kept.as_deref().map(|bytes| std::str::from_utf8(bytes).ok()?.parse::<WeekBook>().ok());
        if parsed == Some(None) {
            tracing::warn!("the counts of the last week are damaged: they begin anew");
        }
        let book = parsed.flatten().unwrap_or_default();
        Self { state: Mutex::new(State { book, counted: Counted::default() }) }
    }

    /// Ranges served to readers in the last week.
    pub(crate) fn reads_helped(&self, now: Timestamp) -> u64 {
        self.state().book.reads_helped(now)
    }

    /// The last week, hour by hour.
    pub(crate) fn last_week(&self, now: Timestamp) -> Vec<Option<HourCounts>> {
        self.state().book.last_week(now)
    }

    /// When a coordinator last answered, in this run or one before.
    pub(crate) fn heard(&self) -> Option<Timestamp> {
        self.state().book.heard()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts for as long as the node runs.
pub(crate) async fn keep_week(shared: Arc<Shared>) {
    loop {
        look(&shared);
        let now = shared.local_time();
        if shared.week.state().book.is_due(now) {
            write(&shared).await;
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Writes what was counted, when nothing more is.
pub(crate) async fn close(shared: &Shared) {
    look(shared);
    if timeout(CLOSE_MOST, write(shared)).await.is_err() {
        tracing::warn!("the counts of the last week cannot be written: the disk does not answer");
    }
}

/// Adds what has come since the last look.
fn look(shared: &Shared) {
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let (line, counters) = (&shared.lent.line, &shared.counters);
    let found = Counted {
        sent_bytes: line.sent_bytes(),
        received_bytes: line.received_bytes(),
        reads_helped: read(&counters.reads_helped),
        disk_uses: read(&counters.ranges_served)
            .wrapping_add(read(&counters.shards_stored))
            .wrapping_add(read(&counters.shards_trashed))
            .wrapping_add(shared.scrub.counts().whole),
    };
    let (used_bytes, heard, now) = (shared.store.used().0, shared.heard(), shared.local_time());
    let mut state = shared.week.state();
    let before = std::mem::replace(&mut state.counted, found);
    let counts = HourCounts {
        uploaded_bytes: found.sent_bytes.saturating_sub(before.sent_bytes),
        downloaded_bytes: found.received_bytes.saturating_sub(before.received_bytes),
        reads_helped: found.reads_helped.saturating_sub(before.reads_helped),
        used_bytes,
    };
    state.book.add(counts, found.disk_uses != before.disk_uses, heard, now);
}

async fn write(shared: &Shared) {
    let (text, now) = {
        let mut state = shared.week.state();
        let now = shared.local_time();
        // Also if it cannot be written: it is tried again with the next hour.
        state.book.written(now);
        (state.book.to_text(), now)
    };
    let disk = Arc::clone(&shared.disk);
    let written = shared.environment.blocking(move || {
        // Where the disk was nothing is written.
        disk.check_presence()?;
        replace_small(disk.as_ref(), "", WEEK_FILE, text.as_bytes())
    });
    if let Err(error) = written.await {
        tracing::warn!(%error, %now, "the counts of the last week cannot be written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{DiskFaults, MemoryDisk};

    #[test]
    fn counts_that_are_damaged_or_too_long_or_cannot_be_read_begin_anew() {
        let disk = MemoryDisk::new();
        let now = Timestamp::from_millis(1_795_383_909_000);
        let hours = |disk: &MemoryDisk| Week::open(disk).last_week(now).iter().flatten().count();
        assert_eq!(hours(&disk), 0);
        replace_small(&disk, "", WEEK_FILE, b"firn-week 1\nhour 498717 1 2 3 4\n").unwrap();
        assert_eq!(hours(&disk), 1);
        for damaged in [&b"\xff"[..], b"firn-week 1\nhour x\n", &vec![b'7'; 1 << 16]] {
            replace_small(&disk, "", WEEK_FILE, damaged).unwrap();
            assert_eq!(hours(&disk), 0);
        }
        replace_small(&disk, "", WEEK_FILE, b"firn-week 1\nhour 498717 1 2 3 4\n").unwrap();
        disk.set_faults(DiskFaults { read_errors_per_million: 1_000_000, ..DiskFaults::default() });
        assert_eq!(hours(&disk), 0);
        disk.set_faults(DiskFaults::default());
        assert_eq!(hours(&disk), 1);
    }
}
