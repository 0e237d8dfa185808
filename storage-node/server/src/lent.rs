//! What the node is lent of its owner's line, kept to: counting, hours, pauses.
//!
//! Always holds: the disk counts for more than has gone, but for what goes between two looks; a pause is on the disk before it is
//! said to be; what coordinators and peers are told is what the last look found, at most a second ago.
//! Leaves to others: when to rest and what is due (`storage-node/logic`), keeping to rates (`transport`).

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use firn_base::{ByteCount, Timestamp};
use firn_storage_node_logic::{
    KeptTraffic, LineTerms, LocalTime, PAUSE_MOST, TrafficBook, rest, upload_rate,
};
use firn_transport::{Environment, Line, LineRates};
use firn_wire::NodeRest;
use tokio::time::{Instant, sleep};

use crate::shared::Shared;
use crate::store::{Disk, read_small, replace_small};

const TRAFFIC_FILE: &str = "traffic";
const PAUSE_FILE: &str = "paused";
const PAUSE_MAGIC: &str = "firn-pause 1";
const FILE_BYTES_MAX: u64 = 4096;

const LOOK_EVERY: Duration = Duration::from_secs(1);
// A disk that does not write now may in a while; meanwhile the count goes on in memory.
const WRITE_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// What the node is lent.
#[derive(Debug)]
pub(crate) struct Lent {
    pub(crate) terms: LineTerms,
    pub(crate) line: Arc<Line>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    book: TrafficBook,
    // Of what the line counts, what is in the book.
    counted_bytes: u64,
    paused_until: Option<Timestamp>,
    rest: Option<NodeRest>,
}

/// How much has gone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LentFigures {
    pub(crate) today: ByteCount,
    pub(crate) this_month: ByteCount,
    pub(crate) paused_until: Option<Timestamp>,
    pub(crate) rest: Option<NodeRest>,
}

impl Lent {
    /// Goes on with what the disk says of traffic and pause.
    pub(crate) fn open(disk: &dyn Disk, environment: &Environment, terms: LineTerms) -> io::Result<Self> {
        let (now, local) = times(environment);
        let text = |name| -> io::Result<Option<String>> {
            let bytes = read_small(disk, name, FILE_BYTES_MAX)?;
            Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
        };
        let kept = text(TRAFFIC_FILE)?;
        let parsed: Option<KeptTraffic> = kept.as_deref().and_then(|text| text.parse().ok());
        if kept.is_some() && parsed.is_none() {
            tracing::warn!("the count of this month's traffic is damaged: it begins anew");
        }
        // A clock that was set back must not make a pause last for years.
        let paused_until = text(PAUSE_FILE)?
            .and_then(|text| parse_pause(&text))
            .map(|until| until.min(now.after(PAUSE_MOST)));
        let book = TrafficBook::open(parsed, local.date);
        let rest = rest(&terms, &book, paused_until, now, local);
        let rates = LineRates { upload: upload_rate(&terms, rest), download: terms.max_download };
        let state = State { book, counted_bytes: 0, paused_until, rest };
        Ok(Self { terms, line: Arc::new(Line::new(rates)), state: Mutex::new(state) })
    }

    /// Why the node rests, if it does.
    pub(crate) fn rest(&self) -> Option<NodeRest> {
        self.state().rest
    }

    /// How much has gone.
    pub(crate) fn figures(&self) -> LentFigures {
        let state = self.state();
        LentFigures {
            today: state.book.today(),
            this_month: state.book.this_month(),
            paused_until: state.paused_until,
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
        let written =
            environment.blocking(move || replace_small(on.as_ref(), "", PAUSE_FILE, text.as_bytes()));
        written.await?;
        self.state().paused_until = until;
        self.look(environment);
        Ok(())
    }

    /// Counts what has gone, and rests or works from now on as terms and time say. Gives what is to be written.
    fn look(&self, environment: &Environment) -> Option<KeptTraffic> {
        let (now, local) = times(environment);
        let mut state = self.state();
        let counted_bytes = self.line.sent_bytes().saturating_add(self.line.received_bytes());
        let bytes = counted_bytes.saturating_sub(state.counted_bytes);
        state.counted_bytes = counted_bytes;
        state.book.add(bytes, local.date);
        state.paused_until = state.paused_until.filter(|until| now < *until);
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
    loop {
        if let Some(kept) = shared.lent.look(&shared.environment)
            && not_before <= Instant::now()
            && let Err(error) = write(&shared, kept).await
        {
            tracing::error!(%error, "the count of this month's traffic cannot be written");
            not_before = Instant::now() + WRITE_AGAIN_AFTER;
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Writes how much has gone, when nothing more goes.
pub(crate) async fn close(shared: &Shared) {
    shared.lent.look(&shared.environment);
    let exact = shared.lent.state().book.exact();
    if let Err(error) = write(shared, exact).await {
        tracing::error!(%error, "the count of this month's traffic cannot be written");
    }
}

async fn write(shared: &Shared, kept: KeptTraffic) -> io::Result<()> {
    let disk = Arc::clone(&shared.disk);
    let text = kept.to_text();
    let written = shared.environment.blocking(move || {
        // Where the disk was nothing is written.
        disk.check_presence()?;
        replace_small(disk.as_ref(), "", TRAFFIC_FILE, text.as_bytes())
    });
    written.await?;
    shared.lent.state().book.written(&kept);
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
        let lent = Lent::open(&disk, &Environment::real(), LineTerms::default()).unwrap();
        assert_eq!((lent.rest(), lent.figures().this_month), (None, ByteCount(0)));
    }

    #[test]
    fn no_clock_makes_a_pause_last_longer_than_the_longest() {
        let disk = MemoryDisk::new();
        let environment = Environment::real();
        replace_small(&disk, "", PAUSE_FILE, b"firn-pause 1\nuntil 18446744073709551615\n").unwrap();
        let lent = Lent::open(&disk, &environment, LineTerms::default()).unwrap();
        assert_eq!(lent.rest(), Some(NodeRest::Paused));
        assert!(lent.figures().paused_until.unwrap() <= environment.now().after(PAUSE_MOST));
    }
}
