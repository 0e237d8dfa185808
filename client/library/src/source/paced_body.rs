//! A body that must not come too slowly.
//!
//! Always holds: its connection counts as taken until it is dropped; one that sends a byte now and then ends like one that
//! broke.
//! Leaves to others: how slow is too slow (`firn-client-logic`).

use std::io::{self, Read};
use std::sync::Arc;

use firn_client_logic::RateFloor;

use super::connections::Permit;
use super::patience::Clock;

pub(super) struct PacedBody {
    // Dropped before the permit.
    inner: Box<dyn Read + Send>,
    floor: RateFloor,
    clock: Arc<dyn Clock>,
    _permit: Option<Permit>,
}

impl PacedBody {
    pub(super) fn new(
        inner: Box<dyn Read + Send>,
        floor: RateFloor,
        clock: Arc<dyn Clock>,
        permit: Option<Permit>,
    ) -> Self {
        Self { inner, floor, clock, _permit: permit }
    }
}

impl Read for PacedBody {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let began = self.clock.now();
        let count = self.inner.read(buffer)?;
        let waited = self.clock.now().saturating_sub(began);
        if count > 0 && !self.floor.holds(waited, count as u64) {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the server sends too slowly"));
        }
        Ok(count)
    }
}
