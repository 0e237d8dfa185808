//! What the node is lent of its owner's line, kept to: counting, hours, pauses.
//!
//! Always holds: the disk counts for more than has gone, but for what goes between two looks, and while it cannot be
//! written; a pause is on the disk before it is said to be, and until it is ended or another begins; what coordinators and
//! peers are told is what the last look found, at most a second ago.
//! Leaves to others: when to rest and what is due (`storage-node/logic`), keeping to rates (`transport`).

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use firn_base::{ByteCount, Timestamp};
use firn_storage_node_logic::{
    KeptTraffic, LineTerms, LocalTime, TrafficBook, rest, rest_until, upload_rate,
};
use firn_transport::{Environment, Line, LineRates};
use firn_wire::NodeRest;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::line_part::LinePart;
use crate::shared::Shared;
use crate::store::{Disk, read_small, replace_small};

const TRAFFIC_FILE: &str = "traffic";
const PAUSE_FILE: &str = "paused";
const PAUSE_MAGIC: &str = "firn-pause 1";
const FILE_BYTES_MAX: u64 = 4096;

const LOOK_EVERY: Duration = Duration::from_secs(1);
// A disk that does not write now may in a while; meanwhile the count goes on in memory.
const WRITE_AGAIN_AFTER: Duration = Duration::from_secs(60);
// A write takes milliseconds, on a busy disk a second.
const CLOSE_MOST: Duration = Duration::from_secs(10);

/// What the node is lent.
#[derive(Debug)]
pub(crate) struct Lent {
    pub(crate) terms: LineTerms,
    pub(crate) line: Arc<Line>,
    // What goes out to readers that the archive does not know.
    pub(crate) strangers: LinePart,
    state: Mutex<State>,
    // Held while the count or a pause is written, with the number of the count that was written last: whoever gives up waiting for a
    // write does not end it.
    written: Arc<Mutex<u64>>,
}

#[derive(Debug)]
struct State {
    book: TrafficBook,
    // Of what the line counts, what is in the book.
    counted_bytes: u64,
    // Of what went to strangers, likewise.
    counted_stranger_bytes: u64,
    // As it was told. Whether the node is paused each look finds anew: the clock may have been wrong.
    paused_until: Option<Timestamp>,
    rest: Option<NodeRest>,
    // Counts that were to be written.
    writes: u64,
}

/// How much has gone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LentFigures {
    pub(crate) today: ByteCount,
    pub(crate) this_month: ByteCount,
    pub(crate) strangers_this_month: ByteCount,
    pub(crate) month_left: Option<ByteCount>,
    pub(crate) rest_until: Option<Timestamp>,
    pub(crate) paused_until: Option<Timestamp>,
    pub(crate) rest: Option<NodeRest>,
}

impl Lent {
    /// Goes on with what the disk says of traffic and pause.
    pub(crate) fn open(disk: &dyn Disk, environment: &Environment, terms: LineTerms) -> io::Result<Self> {
        Self::open_at(disk, times(environment), terms)
    }

    fn open_at(disk: &dyn Disk, (now, local): (Timestamp, LocalTime), terms: LineTerms) -> io::Result<Self> {
        let text = |name| -> io::Result<Option<String>> {
            let bytes = read_small(disk, name, FILE_BYTES_MAX)?;
            Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
        };
        let kept = text(TRAFFIC_FILE)?;
        let parsed: Option<KeptTraffic> = kept.as_deref().and_then(|text| text.parse().ok());
        if kept.is_some() && parsed.is_none() {
            tracing::warn!("the count of this month's traffic is damaged: it begins anew");
        }
        let pause = text(PAUSE_FILE)?;
        let paused_until = pause.as_deref().and_then(parse_pause);
        if pause.is_some() && paused_until.is_none() {
            tracing::warn!("the file that says how long the node is paused is damaged: it is not paused");
        }
        let book = TrafficBook::open(parsed, local.date);
        let rest = rest(&terms, &book, paused_until, now, local);
        let rates = LineRates { upload: upload_rate(&terms, rest), download: terms.max_download };
        let state =
            State { book, counted_bytes: 0, counted_stranger_bytes: 0, paused_until, rest, writes: 0 };
        let (line, state) = (Arc::new(Line::new(rates)), Mutex::new(state));
        let strangers = LinePart::of_strangers(terms.max_upload);
        Ok(Self { terms, line, strangers, state, written: Arc::default() })
    }

    /// Why the node rests, if it does.
    pub(crate) fn rest(&self) -> Option<NodeRest> {
        self.state().rest
    }

    /// Whether strangers have had their part of the month.
    pub(crate) fn strangers_have_spent(&self) -> bool {
        let Some(limit) = self.terms.monthly_traffic else { return false };
        let state = self.state();
        let since_the_look = self.strangers.sent_bytes().saturating_sub(state.counted_stranger_bytes);
        state.book.strangers_have_spent(limit, since_the_look)
    }

    /// How much has gone.
    pub(crate) fn figures(&self, environment: &Environment) -> LentFigures {
        self.figures_at(times(environment))
    }

    fn figures_at(&self, (now, local): (Timestamp, LocalTime)) -> LentFigures {
        let state = self.state();
        let until = |rest| rest_until(rest, &self.terms, state.paused_until, now, local);
        LentFigures {
            strangers_this_month: state.book.strangers_this_month(),
            month_left: self.terms.monthly_traffic.map(|limit| state.book.left(limit)),
            rest_until: state.rest.and_then(until),
            today: state.book.today(),
            this_month: state.book.this_month(),
            paused_until: state.paused_until.filter(|_| state.rest == Some(NodeRest::Paused)),
            rest: state.rest,
        }
    }

    /// Pauses the node, or lets it go on.
    pub(crate) async fn pause(
        &self,
        disk: &Arc<dyn Disk>,
        environment: &Environment,
        until: Option<Timestamp>,
    ) -> io::Result<()> {
        let on = Arc::clone(disk);
        let text = format!("{PAUSE_MAGIC}\nuntil {}\n", until.unwrap_or_default().as_millis());
        let one_at_a_time = Arc::clone(&self.written);
        let written = environment.blocking(move || {
            let _held = one_at_a_time.lock().unwrap_or_else(PoisonError::into_inner);
            // Where the disk was nothing is written.
            on.check_presence()?;
            replace_small(on.as_ref(), "", PAUSE_FILE, text.as_bytes())
        });
        written.await?;
        self.state().paused_until = until;
        self.look(environment);
        Ok(())
    }

    /// Counts what has gone, and rests or works from now on as terms and time say. Gives what is to be written.
    fn look(&self, environment: &Environment) -> Option<KeptTraffic> {
        self.look_at(times(environment))
    }

    fn look_at(&self, (now, local): (Timestamp, LocalTime)) -> Option<KeptTraffic> {
        let mut state = self.state();
        let counted_bytes = self.line.sent_bytes().saturating_add(self.line.received_bytes());
        let bytes = counted_bytes.saturating_sub(state.counted_bytes);
        state.counted_bytes = counted_bytes;
        state.book.add(bytes, local.date);
        let to_strangers = self.strangers.sent_bytes();
        let bytes = to_strangers.saturating_sub(state.counted_stranger_bytes);
        state.counted_stranger_bytes = to_strangers;
        state.book.add_to_strangers(bytes);
        let found = rest(&self.terms, &state.book, state.paused_until, now, local);
        if state.rest != found {
            state.rest = found;
            match found {
                Some(rest) => tracing::info!("the node rests: {rest}"),
                None => tracing::info!("the node works again"),
            }
            let rates =
                LineRates { upload: upload_rate(&self.terms, found), download: self.terms.max_download };
            self.line.set_rates(rates);
        }
        state.book.due()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps to the terms for as long as the node runs.
pub(crate) async fn keep_to_terms(shared: Arc<Shared>) {
    let mut not_before = Instant::now();
    // At most one. A disk that takes long keeps nobody from looking.
    let mut writes = JoinSet::new();
    loop {
        let due = shared.lent.look(&shared.environment);
        if let Some(Ok(Err(error))) = writes.try_join_next() {
            not_written(&error);
            not_before = Instant::now() + WRITE_AGAIN_AFTER;
        }
        if let Some(kept) = due
            && writes.is_empty()
            && not_before <= Instant::now()
        {
            let shared = Arc::clone(&shared);
            writes.spawn(async move { write(&shared, kept).await });
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Writes how much has gone, when nothing more goes. A disk that hangs is not waited for: it counts ahead.
pub(crate) async fn close(shared: &Shared) {
    shared.lent.look(&shared.environment);
    let exact = shared.lent.state().book.exact();
    match timeout(CLOSE_MOST, write(shared, exact)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => not_written(&error),
        Err(_) => not_written(&io::ErrorKind::TimedOut.into()),
    }
}

fn not_written(error: &io::Error) {
    tracing::error!(%error, "the count of this month's traffic cannot be written");
}

async fn write(shared: &Shared, kept: KeptTraffic) -> io::Result<()> {
    let disk = Arc::clone(&shared.disk);
    let text = kept.to_text();
    let number = {
        let mut state = shared.lent.state();
        state.writes += 1;
        state.writes
    };
    let last = Arc::clone(&shared.lent.written);
    let written = shared.environment.blocking(move || replace_count(disk.as_ref(), &last, number, &text));
    written.await?;
    shared.lent.state().book.written(&kept);
    Ok(())
}

/// Writes a count, one at a time, and none in place of a later one.
fn replace_count(disk: &dyn Disk, last: &Mutex<u64>, number: u64, text: &str) -> io::Result<()> {
    let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
    if number < *last {
        return Ok(());
    }
    // Where the disk was nothing is written.
    disk.check_presence()?;
    replace_small(disk, "", TRAFFIC_FILE, text.as_bytes())?;
    *last = number;
    Ok(())
}

fn times(environment: &Environment) -> (Timestamp, LocalTime) {
    let now = environment.now();
    (now, LocalTime::new(now, environment.clock().utc_offset_seconds(now)))
}

fn parse_pause(text: &str) -> Option<Timestamp> {
    let until = text.strip_prefix(PAUSE_MAGIC)?.strip_prefix("\nuntil ")?.strip_suffix('\n')?;
    until.parse().ok().map(Timestamp::from_millis)
}

#[cfg(test)]
mod tests {
    use firn_storage_node_logic::PAUSE_MOST;

    use super::*;
    use crate::store::MemoryDisk;

    #[test]
    fn a_damaged_pause_or_count_is_none() {
        let until = Timestamp::from_millis(12);
        assert_eq!(parse_pause("firn-pause 1\nuntil 12\n"), Some(until));
        for wrong in ["", "firn-pause 2\nuntil 12\n", "firn-pause 1\nuntil 12", "firn-pause 1\nuntil x\n"] {
            assert_eq!(parse_pause(wrong), None);
        }
        let disk = MemoryDisk::new();
        replace_small(&disk, "", TRAFFIC_FILE, b"\xff").unwrap();
        replace_small(&disk, "", PAUSE_FILE, b"\xff").unwrap();
        let environment = Environment::real();
        let lent = Lent::open(&disk, &environment, LineTerms::default()).unwrap();
        assert_eq!((lent.rest(), lent.figures(&environment).this_month), (None, ByteCount(0)));
    }

    #[test]
    fn an_end_that_only_a_wrong_clock_can_have_given_is_no_pause() {
        let disk = MemoryDisk::new();
        replace_small(&disk, "", PAUSE_FILE, b"firn-pause 1\nuntil 18446744073709551615\n").unwrap();
        let environment = Environment::real();
        let lent = Lent::open(&disk, &environment, LineTerms::default()).unwrap();
        assert_eq!((lent.rest(), lent.figures(&environment).paused_until), (None, None));
    }

    #[test]
    fn a_pause_goes_on_when_a_wrong_clock_is_right_again() {
        let disk = MemoryDisk::new();
        let right = Timestamp::from_millis(1_795_383_909_000);
        let until = right.after(PAUSE_MOST);
        let text = format!("firn-pause 1\nuntil {}\n", until.as_millis());
        replace_small(&disk, "", PAUSE_FILE, text.as_bytes()).unwrap();
        let times = |now| (now, LocalTime::new(now, 0));
        for wrong in [Timestamp::from_millis(0), until, right.after(PAUSE_MOST * 99)] {
            let lent = Lent::open_at(&disk, times(wrong), LineTerms::default()).unwrap();
            for _ in 0..2 {
                assert_eq!((lent.rest(), lent.figures_at(times(wrong)).paused_until), (None, None));
                lent.look_at(times(right));
                assert_eq!(
                    (lent.rest(), lent.figures_at(times(right)).paused_until),
                    (Some(NodeRest::Paused), Some(until))
                );
                lent.look_at(times(wrong));
            }
        }
    }

    #[tokio::test]
    async fn a_pause_that_cannot_be_written_is_none() {
        let memory = MemoryDisk::new();
        let disk: Arc<dyn Disk> = Arc::new(memory.clone());
        let environment = Environment::real();
        let lent = Lent::open(&memory, &environment, LineTerms::default()).unwrap();
        memory.set_mounted(false);
        let until = Some(environment.now().after(Duration::from_secs(3600)));
        assert!(lent.pause(&disk, &environment, until).await.is_err());
        assert_eq!(lent.rest(), None);
        memory.set_mounted(true);
        assert_eq!(read_small(&memory, PAUSE_FILE, FILE_BYTES_MAX).unwrap(), None);
    }

    #[test]
    fn a_count_that_is_late_does_not_replace_a_later_one_nor_is_any_written_where_the_disk_was() {
        let (disk, last) = (MemoryDisk::new(), Mutex::new(0));
        let found = || read_small(&disk, TRAFFIC_FILE, FILE_BYTES_MAX).unwrap();
        replace_count(&disk, &last, 2, "later").unwrap();
        replace_count(&disk, &last, 1, "late").unwrap();
        assert_eq!(found().as_deref(), Some(b"later".as_slice()));
        disk.set_mounted(false);
        assert!(replace_count(&disk, &last, 3, "nowhere").is_err());
        disk.set_mounted(true);
        assert_eq!(found().as_deref(), Some(b"later".as_slice()));
    }
}
