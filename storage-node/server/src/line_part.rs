//! The part of the node's line that repair has: what goes to the targets of its builds, and what it serves to others'.
//!
//! Always holds: both together keep to that part, so that readers have the rest; every order has its turn soon, however
//! many targets another has; a node that is being drained gives its whole line, for it is done the sooner.
//! Leaves to others: the bound of the whole line (`transport`), how much is ordered (the leader).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use firn_base::BitRate;
use firn_transport::{Pace, Stream, StreamError};
use firn_wire::REPAIR_PER_CENT;
use tokio::sync::Mutex;
use tokio::time::error::Elapsed;
use tokio::time::timeout;

// A peer that takes nothing of a piece for so long has gone, or has no line to speak of.
const PEER_STALL_MAX: Duration = Duration::from_secs(60);

/// The part of the line that repair has. Shared by all orders.
#[derive(Debug)]
pub(crate) struct BuildLine {
    pace: Pace,
    is_whole: AtomicBool,
    sent: AtomicU64,
}

/// One order's place on the line: its streams take turns among themselves.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    turn: Mutex<()>,
}

impl BuildLine {
    /// The part of a line that uploads `max_upload` at most.
    pub(crate) fn new(max_upload: Option<BitRate>) -> Self {
        let part = |bytes_per_second: u64| u128::from(bytes_per_second) * u128::from(REPAIR_PER_CENT) / 100;
        let rate = max_upload.map(|rate| {
            let bytes_per_second = u64::try_from(part(rate.bytes_per_second)).unwrap_or(u64::MAX);
            BitRate { bytes_per_second }
        });
        Self { pace: Pace::new(rate), is_whole: AtomicBool::new(false), sent: AtomicU64::new(0) }
    }

    /// Says whether repair has the whole line from now on.
    pub(crate) fn give_whole(&self, whole: bool) {
        self.is_whole.store(whole, Ordering::Relaxed);
    }

    /// Bytes that went out for orders so far.
    pub(crate) fn sent_bytes(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Sends `bytes` for an order, in pieces, each when its turn has come. What takes too long is the peer's doing, not
    /// the waiting.
    pub(crate) async fn send(
        &self,
        lane: &Lane,
        stream: &mut Stream,
        mut bytes: Bytes,
    ) -> Result<Result<(), StreamError>, Elapsed> {
        while !bytes.is_empty() {
            let is_bounded = self.pace.rate().is_some() && !self.is_whole.load(Ordering::Relaxed);
            let pace = is_bounded.then_some(&self.pace);
            let piece = bytes.split_to(pace.map_or(bytes.len(), Pace::piece).min(bytes.len()));
            if let Some(pace) = pace {
                let _turn = lane.turn.lock().await;
                pace.take(piece.len() as u64).await;
            }
            self.sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
            if let Err(error) = timeout(PEER_STALL_MAX, stream.send_bytes(piece)).await? {
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    }
}
