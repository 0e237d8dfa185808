//! Reading the node's own shards again, to find damage before somebody needs them.
//!
//! Owns: the pace, and how far a round has come, which it keeps on disk. Always holds: what is found damaged is set aside
//! and told as whenever a reader finds it, at no penalty; a round that is interrupted goes on; reading takes at most a tenth
//! of the time, so that readers and the other work of the machine come first. Leaves to others: what is due when
//! (`storage-node/logic`), what becomes of damage (`store`).

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use firn_base::Timestamp;
use firn_storage_node_logic::{ScrubGoal, ScrubPlan};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use crate::shared::Shared;
use crate::store::{Disk, ReadShardError, ShardName, read_small, replace_small};

const SCRUB_FILE: &str = "scrub";
const SCRUB_MAGIC: &str = "firn-scrub 1";
const SCRUB_FILE_BYTES_MAX: u64 = 4096;

// For each time that a read takes: a tenth of the time is spent reading.
const RESTS_IN_THE_BACKGROUND: u32 = 9;
// The owner waits for it, and readers go on.
const RESTS_WHEN_ASKED: u32 = 1;

// Of a disk that gives fewer nobody has to know how many more.
const UNREAD_MOST: usize = 4096;

// Names are looked up, and the place kept, for so many shards at once.
const PAGE: usize = 64;

/// How far the shards of a node were read again.
#[derive(Debug)]
pub(crate) struct Scrub {
    plan: ScrubPlan,
    state: Mutex<ScrubState>,
    // Shards that the disk did not give when they were read last, in this run.
    unread: Mutex<BTreeSet<ShardName>>,
    // What the file says, where that is known: it is not written again.
    kept: Mutex<Option<String>>,
    asked: Notify,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ScrubState {
    began: Timestamp,
    /// The last shard that was read.
    place: Option<ShardName>,
    /// When the last whole round ended.
    ended: Option<Timestamp>,
    counts: ScrubCounts,
}

/// What was read since the program began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ScrubCounts {
    /// Shards that were whole.
    pub(crate) whole: u64,
    /// Shards that were damaged.
    pub(crate) damaged: u64,
    /// Shards that the disk did not give.
    pub(crate) unread: u64,
}

impl Scrub {
    /// Goes on with what the disk says of the last round.
    pub(crate) fn open(disk: &dyn Disk, plan: ScrubPlan, now: Timestamp) -> io::Result<Self> {
        let kept = read_small(disk, SCRUB_FILE, SCRUB_FILE_BYTES_MAX)?;
        let kept = kept.and_then(|bytes| String::from_utf8(bytes).ok());
        // Without it, or with one that rotted, a round begins: nothing but time is lost.
        let (began, place, ended) = kept.as_deref().and_then(parse).unwrap_or((now, None, None));
        // A clock that was set back must not put the next round off for years.
        let began = began.min(now.after(plan.period));
        let state = ScrubState { began, place, ended, counts: ScrubCounts::default() };
        let (state, kept, unread) = (Mutex::new(state), Mutex::new(kept), Mutex::default());
        Ok(Self { plan, state, unread, kept, asked: Notify::new() })
    }

    /// What was read since the program began.
    pub(crate) fn counts(&self) -> ScrubCounts {
        self.state().counts
    }

    /// How many of the shards that are here the disk did not give when they were read last.
    pub(crate) fn unread_shards(&self, is_here: impl Fn(ShardName) -> bool) -> u64 {
        self.unread().iter().filter(|name| is_here(**name)).count() as u64
    }

    /// A shard was read: the disk gave it, or did not.
    fn note(&self, name: ShardName, was_given: bool) {
        let mut unread = self.unread();
        if was_given {
            unread.remove(&name);
        } else if unread.len() < UNREAD_MOST {
            unread.insert(name);
        }
    }

    fn kept(&self) -> MutexGuard<'_, Option<String>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unread(&self) -> MutexGuard<'_, BTreeSet<ShardName>> {
        self.unread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the last whole round ended.
    pub(crate) fn ended(&self) -> Option<Timestamp> {
        self.state().ended
    }

    /// Every shard is to be read now.
    pub(crate) fn ask(&self) {
        self.asked.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, ScrubState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut ScrubState)) {
        change(&mut self.state());
    }
}

/// Reads shards again for as long as the node runs.
pub(crate) async fn keep_scrubbing(shared: Arc<Shared>) {
    loop {
        let (now, scrub) = (shared.local_time(), &shared.scrub);
        let ScrubState { began, place, .. } = *scrub.state();
        let rest = if now < began {
            began.since(now)
        } else {
            let goal = scrub.plan.goal(began, now);
            read_on(&shared, place, goal).await;
            let now = shared.local_time();
            if goal.is_all() {
                let next = scrub.plan.next_round(began, now);
                scrub.change(|state| (state.began, state.place, state.ended) = (next, None, Some(now)));
                keep(&shared).await;
            }
            scrub.plan.next_window(now)
        };
        if timeout(rest, scrub.asked.notified()).await.is_ok() {
            let before = scrub.counts();
            read_all(&shared).await;
            let after = scrub.counts();
            tracing::info!(
                whole = after.whole - before.whole,
                damaged = after.damaged - before.damaged,
                unread = after.unread - before.unread,
                "every shard was read, as the owner asked"
            );
        }
    }
}

/// Reads shards behind `place` as far as they are due.
async fn read_on(shared: &Arc<Shared>, mut place: Option<ShardName>, goal: ScrubGoal) {
    loop {
        let (page, more) = shared.store.inventory(place, PAGE);
        for name in &page {
            if !goal.includes(name.coding) {
                return keep(shared).await;
            }
            read(shared, *name, RESTS_IN_THE_BACKGROUND).await;
            shared.scrub.change(|state| state.place = Some(*name));
        }
        place = page.last().copied().or(place);
        keep(shared).await;
        if !more {
            return;
        }
    }
}

async fn read_all(shared: &Arc<Shared>) {
    let mut place = None;
    loop {
        let (page, more) = shared.store.inventory(place, PAGE);
        for name in &page {
            read(shared, *name, RESTS_WHEN_ASKED).await;
        }
        place = page.last().copied();
        if !more {
            return;
        }
    }
}

async fn read(shared: &Arc<Shared>, name: ShardName, rests: u32) {
    let (begun, now) = (Instant::now(), shared.local_time());
    let verified = shared.with_store(move |store| store.verify(name, now)).await;
    let was_given = !matches!(verified, Err(ReadShardError::Disk(_) | ReadShardError::Range(_)));
    shared.scrub.note(name, was_given);
    shared.scrub.change(|state| match verified {
        Ok(()) => state.counts.whole += 1,
        Err(ReadShardError::Damaged) => state.counts.damaged += 1,
        // It went meanwhile.
        Err(ReadShardError::NotHere) => {}
        Err(ReadShardError::Disk(_) | ReadShardError::Range(_)) => state.counts.unread += 1,
    });
    sleep(begun.elapsed() * rests).await;
}

async fn keep(shared: &Arc<Shared>) {
    let text = text(&shared.scrub.state());
    if shared.scrub.kept().as_ref() == Some(&text) {
        return;
    }
    let (disk, written) = (Arc::clone(&shared.disk), text.clone());
    let kept = shared.environment.blocking(move || {
        // A failing disk costs a round begun anew, nothing more.
        replace_small(disk.as_ref(), "", SCRUB_FILE, written.as_bytes())
    });
    let kept = kept.await;
    *shared.scrub.kept() = kept.is_ok().then_some(text);
    if let Err(error) = kept {
        tracing::debug!(%error, "how far the shards were read again cannot be written down");
    }
}

fn text(state: &ScrubState) -> String {
    let place = state.place.map_or_else(|| "-".to_owned(), |name| name.to_string());
    let ended = state.ended.map_or_else(|| "-".to_owned(), |ended| ended.as_millis().to_string());
    format!("{SCRUB_MAGIC}\nbegan {}\nplace {place}\nended {ended}\n", state.began.as_millis())
}

fn parse(text: &str) -> Option<(Timestamp, Option<ShardName>, Option<Timestamp>)> {
    let mut lines = text.lines();
    lines.next().filter(|magic| *magic == SCRUB_MAGIC)?;
    let mut value = |key: &str| lines.next()?.strip_prefix(key)?.strip_prefix(' ');
    let began = Timestamp::from_millis(value("began")?.parse().ok()?);
    let place = match value("place")? {
        "-" => None,
        place => Some(ShardName::parse(place)?),
    };
    let ended = match value("ended")? {
        "-" => None,
        ended => Some(Timestamp::from_millis(ended.parse().ok()?)),
    };
    Some((began, place, ended))
}

#[cfg(test)]
mod tests {
    use firn_base::{CodingId, ShardIndex};

    use super::*;
    use crate::store::MemoryDisk;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000_000_000);

    fn open(disk: &MemoryDisk) -> ScrubState {
        *Scrub::open(disk, ScrubPlan::STANDARD, NOW).unwrap().state()
    }

    #[test]
    fn how_far_a_round_has_come_is_read_back_as_it_was_written() {
        let place = ShardName::new(CodingId::from_bytes([7; 32]), ShardIndex(3));
        for (place, ended) in [(None, None), (Some(place), Some(Timestamp::from_millis(5)))] {
            let (began, counts) = (Timestamp::from_millis(900_000_000_000), ScrubCounts::default());
            let state = ScrubState { began, place, ended, counts };
            let disk = MemoryDisk::new();
            replace_small(&disk, "", SCRUB_FILE, text(&state).as_bytes()).unwrap();
            assert_eq!(open(&disk), state);
        }
        let golden = "firn-scrub 1\nbegan 1000000000000\nplace -\nended -\n";
        assert_eq!(text(&open(&MemoryDisk::new())), golden);
    }

    #[test]
    fn a_shard_is_unread_until_it_is_read_again_or_gone() {
        let scrub = Scrub::open(&MemoryDisk::new(), ScrubPlan::STANDARD, NOW).unwrap();
        let name = |index| ShardName::new(CodingId::from_bytes([7; 32]), ShardIndex(index));
        for (index, was_given) in [(1, false), (1, false), (2, false), (3, true)] {
            scrub.note(name(index), was_given);
        }
        assert_eq!(scrub.unread_shards(|_| true), 2);
        assert_eq!(scrub.unread_shards(|here| here != name(2)), 1);
        scrub.note(name(1), true);
        assert_eq!(scrub.unread_shards(|_| true), 1);
    }

    #[test]
    fn without_a_usable_file_a_round_begins() {
        for wrong in
            ["", "firn-scrub 2\n", "firn-scrub 1\nbegan x\nplace -\nended -\n", "firn-scrub 1\nbegan 1\n"]
        {
            let disk = MemoryDisk::new();
            replace_small(&disk, "", SCRUB_FILE, wrong.as_bytes()).unwrap();
            assert_eq!((open(&disk).began, open(&disk).place), (NOW, None));
        }
    }

    #[test]
    fn a_clock_that_was_ahead_puts_no_round_off_for_years() {
        let disk = MemoryDisk::new();
        let far = "firn-scrub 1\nbegan 9000000000000\nplace -\nended -\n";
        replace_small(&disk, "", SCRUB_FILE, far.as_bytes()).unwrap();
        assert_eq!(open(&disk).began, NOW.after(ScrubPlan::STANDARD.period));
    }
}
