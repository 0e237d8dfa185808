//! Waiting for a source's server.
//!
//! Owns: its state as all requests share it, the clock, the pauses. Always holds: who waits is told to the user, once a
//! minute; a server that is away makes nobody wait.
//! Leaves to others: how long, and what a failure means (`firn-client-logic`).

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use firn_client_logic::{RetrySchedule, ServerState};

use crate::http_client::FetchError;

/// A clock that can be waited for.
pub(super) trait Clock: Send + Sync {
    /// Since any moment.
    fn now(&self) -> Duration;
    fn pause(&self, pause: Duration);
}

/// The one on the wall.
struct WallClock(Instant);

impl Clock for WallClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }

    fn pause(&self, pause: Duration) {
        std::thread::sleep(pause);
    }
}

pub(super) struct Patience {
    schedule: RetrySchedule,
    clock: Arc<dyn Clock>,
    // Grows with each use, so that no two pauses are spread alike.
    seed: AtomicU64,
    state: Mutex<ServerState>,
}

/// What was tried for one file.
#[derive(Debug, Default)]
pub(super) struct Tries {
    /// In a row.
    pub(super) failures: u32,
    /// How often the server had answered before the first of them.
    pub(super) answers: u64,
}

impl Patience {
    pub(super) fn new(seed: u64) -> Self {
        Self::with(RetrySchedule::default(), Arc::new(WallClock(Instant::now())), seed)
    }

    pub(super) fn with(schedule: RetrySchedule, clock: Arc<dyn Clock>, seed: u64) -> Self {
        Self { schedule, clock, seed: AtomicU64::new(seed), state: Mutex::default() }
    }

    pub(super) fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, ServerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for as long as the server wants no requests.
    ///
    /// # Errors
    /// It is away.
    pub(super) fn turn(&self) -> Result<(), FetchError> {
        loop {
            let held = {
                let state = self.state();
                if let Some(reason) = state.away() {
                    return Err(FetchError::Away(reason.to_owned()));
                }
                state.held(self.clock.now())
            };
            if held.is_zero() {
                return Ok(());
            }
            self.clock.pause(self.schedule.held(held, self.next_seed()));
        }
    }

    /// Waits after a failure; false if no further try is due. `what` names source and file.
    pub(super) fn wait(
        &self,
        what: &dyn fmt::Display,
        failures: u32,
        asked: Option<Duration>,
        cause: &dyn fmt::Display,
    ) -> bool {
        let now = self.clock.now();
        if let Some(asked) = self.schedule.asked(asked) {
            self.state().hold(now.saturating_add(asked));
        }
        let Some(pause) = self.schedule.pause(failures, asked, self.next_seed()) else { return false };
        let told = self.state().tells(now);
        if told {
            tracing::warn!("{what}: {cause}; trying again in {pause:.1?}, and others like it in silence");
        } else {
            tracing::info!("{what}: {cause}; trying again in {pause:.1?}");
        }
        self.clock.pause(pause);
        true
    }

    fn next_seed(&self) -> u64 {
        self.seed.fetch_add(1, Ordering::Relaxed)
    }
}
