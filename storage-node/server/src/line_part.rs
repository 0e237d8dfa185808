//! A part of the node's line: that of repair, what goes to the targets of its builds and what it serves to others'; and that of
//! strangers.
//!
//! Always holds: what goes out for it keeps to that part, so that known readers have the rest; every order, and every stranger, has
//! his turn soon, however much another asks for; repair takes half of its part while a known reader is being sent to; a node that
//! is being drained gives repair its whole line, for it is done the sooner.
//! Leaves to others: the bound of the whole line (`transport`), how much is ordered (the leader), who is a stranger
//! (`storage-node/logic`).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use firn_base::{BitRate, PublicKey};
use firn_storage_node_logic::{on_the_line, part_of_rate, strangers_rate};
use firn_transport::{Pace, Stream, StreamError};
use firn_wire::REPAIR_PER_CENT;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::error::Elapsed;
use tokio::time::timeout;

// A peer that takes nothing of a piece for so long has gone, or has no line to speak of.
const PEER_STALL_MAX: Duration = Duration::from_secs(60);

// A stranger who takes nothing keeps other strangers from their turns.
const STRANGER_STALL_MAX: Duration = Duration::from_secs(10);

// A leader waits three times as long for a build as the lines take that repair is given of them.
const GIVING_WAY: u64 = 2;

/// A part of the line. Shared by all who send on it.
#[derive(Debug)]
pub(crate) struct LinePart {
    pace: Pace,
    gives_way_to: Option<Arc<Sending>>,
    // Then headers count, and whoever has gone is told from whoever is slow.
    is_of_strangers: bool,
    stall_max: Duration,
    is_whole: AtomicBool,
    sent: AtomicU64,
    // By stranger, those who are being sent to.
    lanes: Mutex<BTreeMap<PublicKey, Weak<Lane>>>,
}

/// One order's or reader's place on the line: its streams take turns among themselves.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    turn: AsyncMutex<()>,
}

/// How many ranges are being sent to known readers.
#[derive(Debug, Default)]
pub(crate) struct Sending(AtomicUsize);

/// One of them, until this is dropped.
#[derive(Debug)]
pub(crate) struct SendingOne(Arc<Sending>);

impl Sending {
    /// One more.
    pub(crate) fn begin(self: &Arc<Self>) -> SendingOne {
        self.0.fetch_add(1, Ordering::Relaxed);
        SendingOne(Arc::clone(self))
    }

    fn any(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

impl Drop for SendingOne {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl LinePart {
    /// What repair has of a line that uploads `max_upload` at most.
    pub(crate) fn of_repair(max_upload: Option<BitRate>, readers: Arc<Sending>) -> Self {
        let rate = max_upload.map(|rate| part_of_rate(rate, REPAIR_PER_CENT));
        Self { gives_way_to: Some(readers), ..Self::new(rate) }
    }

    /// What strangers have of it.
    pub(crate) fn of_strangers(max_upload: Option<BitRate>) -> Self {
        Self { is_of_strangers: true, stall_max: STRANGER_STALL_MAX, ..Self::new(strangers_rate(max_upload)) }
    }

    fn new(rate: Option<BitRate>) -> Self {
        Self {
            pace: Pace::new(rate),
            gives_way_to: None,
            is_of_strangers: false,
            stall_max: PEER_STALL_MAX,
            is_whole: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            lanes: Mutex::default(),
        }
    }

    /// Says whether the part is the whole line from now on.
    pub(crate) fn give_whole(&self, whole: bool) {
        self.is_whole.store(whole, Ordering::Relaxed);
    }

    /// Bytes that went out so far.
    pub(crate) fn sent_bytes(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// The lane of a reader, one for all his streams.
    pub(crate) fn lane_of(&self, reader: PublicKey) -> Arc<Lane> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lane) = lanes.get(&reader).and_then(Weak::upgrade) {
            return lane;
        }
        // No more than are being sent to, which the turns bound.
        lanes.retain(|_, lane| lane.strong_count() > 0);
        let lane = Arc::new(Lane::default());
        lanes.insert(reader, Arc::downgrade(&lane));
        lane
    }

    /// Sends `bytes` in pieces, each when its turn has come. What takes too long is the peer's doing, not the waiting.
    pub(crate) async fn send(
        &self,
        lane: &Lane,
        stream: &mut Stream,
        mut bytes: Bytes,
    ) -> Result<Result<(), StreamError>, Elapsed> {
        while !bytes.is_empty() {
            let is_bounded = self.pace.rate().is_some() && !self.is_whole.load(Ordering::Relaxed);
            let pace = is_bounded.then_some(&self.pace);
            // A stranger on a slow line takes a whole range too slowly to be told from one who has gone.
            let in_pieces = is_bounded || self.is_of_strangers;
            let piece =
                bytes.split_to(if in_pieces { self.pace.piece().min(bytes.len()) } else { bytes.len() });
            let counted = self.counted(piece.len() as u64);
            if let Some(pace) = pace {
                let _turn = lane.turn.lock().await;
                pace.take(counted.saturating_mul(self.times())).await;
            }
            self.sent.fetch_add(counted, Ordering::Relaxed);
            if let Err(error) = timeout(self.stall_max, stream.send_bytes(piece)).await? {
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    }

    fn counted(&self, bytes: u64) -> u64 {
        if self.is_of_strangers { on_the_line(bytes) } else { bytes }
    }

    /// How often a piece counts now.
    fn times(&self) -> u64 {
        if self.gives_way_to.as_ref().is_some_and(|readers| readers.any()) { GIVING_WAY } else { 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repair_gives_way_for_as_long_as_a_reader_is_sent_to() {
        let readers = Arc::new(Sending::default());
        let rate = Some(BitRate { bytes_per_second: 1_000_000 });
        let (repair, strangers) =
            (LinePart::of_repair(rate, Arc::clone(&readers)), LinePart::of_strangers(rate));
        let of = |part: &LinePart| (part.pace.rate().unwrap().bytes_per_second, part.times());
        assert_eq!((of(&repair), of(&strangers)), ((300_000, 1), (100_000, 1)));
        let (one, other) = (readers.begin(), readers.begin());
        assert_eq!((of(&repair), of(&strangers)), ((300_000, 2), (100_000, 1)));
        drop(one);
        assert_eq!(repair.times(), 2);
        drop(other);
        assert_eq!(repair.times(), 1);
    }

    #[test]
    fn all_streams_of_a_stranger_share_a_lane_and_those_who_have_gone_leave_none() {
        let strangers = LinePart::of_strangers(None);
        let key = |byte| PublicKey::from_bytes([byte; 32]);
        let first = strangers.lane_of(key(1));
        assert!(Arc::ptr_eq(&first, &strangers.lane_of(key(1))));
        assert!(!Arc::ptr_eq(&first, &strangers.lane_of(key(2))));
        for byte in 3..99 {
            strangers.lane_of(key(byte));
        }
        assert!(strangers.lanes.lock().unwrap().len() <= 2);
    }
}
