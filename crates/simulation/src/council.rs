//! Coordinators alone, with somebody who writes all the time: what worlds without nodes have in common.
//!
//! Owns: their machines, among them those of coordinators that come later, the writer, and the passing of time. Leaves to
//! others: what happens (`quorum`, `succession`).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use firn_base::PublicKey;
use firn_coordinator::storage::{Memory, StoreKind};
use firn_coordinator::{ConsensusWatch, StateFacts, Timing};
use firn_coordinator_logic::Scan;
use firn_wire::{AdminReply, AdminRequest, CoordinatorReply, CoordinatorRequest, LedgerAct};
use tokio::time::{sleep, timeout};
use turmoil::Sim;

use crate::cast::{self, Cast, Story};
use crate::entropy::{seal, unseal};
use crate::machines::{KnownArchive, coordinate, founder};
use crate::scenario::open;
use crate::trace;

/// How such a world is to be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CouncilOptions {
    /// Everything follows from it.
    pub(crate) seed: u64,
    /// Coordinators that found the archive.
    pub(crate) founders: usize,
    /// Coordinators that wait to be taken in.
    pub(crate) newcomers: usize,
    /// How long a datagram and its answer are under way.
    pub(crate) round_trip: Duration,
    /// How patient the coordinators are.
    pub(crate) timing: Timing,
}

/// Acts that were acknowledged, and when.
type Done = Rc<RefCell<Vec<(PublicKey, Duration)>>>;

/// Such a world.
pub(crate) struct Council {
    pub(crate) sim: Sim<'static>,
    pub(crate) cast: Rc<Cast>,
    pub(crate) stores: Vec<(Memory, Memory)>,
    pub(crate) watches: Rc<RefCell<BTreeMap<usize, ConsensusWatch>>>,
    pub(crate) done: Done,
    seed: u64,
}

const WRITER: &str = "writer";
const TICK: Duration = Duration::from_millis(5);
const SETTLES_WITHIN: Duration = Duration::from_secs(120);
// Beside four round trips: the way to the leader and from there to the others.
const ACT_WITHIN: Duration = Duration::from_millis(250);

/// How long the writer waits for one coordinator at most, and as long again to learn who the coordinators are, before
/// it asks the next one.
pub const fn writer_waits(round_trip: Duration) -> Duration {
    ACT_WITHIN.saturating_add(round_trip.saturating_mul(4))
}
const STACK_BYTES: usize = 32 << 20;

/// Runs such a world on a thread of its own. A panic is an error.
pub(crate) fn run_apart<T: Send + 'static>(
    seed: u64,
    run: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let running = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
        seal(seed);
        trace::begin();
        let outcome = run();
        unseal();
        outcome
    });
    running
        .map_err(|error| error.to_string())
        .and_then(|thread| thread.join().unwrap_or_else(|_| Err("the run ended in a panic".to_owned())))
}

impl Council {
    pub(crate) fn new(options: CouncilOptions) -> Self {
        let CouncilOptions { seed, founders, newcomers, round_trip, timing } = options;
        let cast = Rc::new(Cast::with_coordinators(seed, Story::Losses, founders));
        let one_way = round_trip / 2;
        let mut sim = turmoil::Builder::new()
            .simulation_duration(Duration::from_secs(1000))
            .tick_duration(TICK)
            .min_message_latency(one_way.mul_f64(0.9))
            .max_message_latency(one_way)
            .udp_capacity(1 << 16)
            .enable_random_order()
            .rng_seed(seed)
            .build();
        let store = || (Memory::new(StoreKind::Log), Memory::new(StoreKind::State));
        let stores: Vec<_> = (0..founders + newcomers).map(|_| store()).collect();
        let watches = Rc::default();
        for (number, (log, state)) in stores.iter().enumerate() {
            let (cast, watches) = (Rc::clone(&cast), Rc::clone(&watches));
            let (log, state) = (log.clone(), state.clone());
            let known = if number < founders { founder(&cast) } else { KnownArchive::default() };
            sim.host(cast::coordinator(number), move || {
                let (cast, watches, known) = (Rc::clone(&cast), Rc::clone(&watches), Rc::clone(&known));
                let (log, state) = (Arc::new(log.clone()), Arc::new(state.clone()));
                coordinate(cast, number, log, state, watches, timing, known)
            });
        }
        let done = Done::default();
        sim.client(WRITER, write(Rc::clone(&cast), Rc::clone(&done), round_trip));
        Self { sim, cast, stores, watches, done, seed }
    }

    pub(crate) fn run_for(&mut self, time: Duration) -> Result<(), String> {
        let until = self.sim.elapsed() + time;
        while self.sim.elapsed() < until {
            self.step()?;
        }
        Ok(())
    }

    pub(crate) fn step(&mut self) -> Result<(), String> {
        self.sim.step().map(drop).map_err(|error| format!("a program ended: {error}"))
    }

    pub(crate) fn until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) -> Result<(), String> {
        let until = self.sim.elapsed() + SETTLES_WITHIN;
        while !condition(self) {
            if self.sim.elapsed() > until {
                return Err(format!("it does not come about that {what}"));
            }
            self.step()?;
        }
        Ok(())
    }

    pub(crate) fn leader(&self) -> Option<usize> {
        let watches = self.watches.borrow();
        watches.iter().find(|(_, watch)| watch.status().is_leader).map(|(number, _)| *number)
    }

    /// Whether one leads beside `number`, as it says itself.
    pub(crate) fn leads_beside(&self, number: usize) -> bool {
        let watches = self.watches.borrow();
        watches.iter().any(|(other, watch)| *other != number && watch.status().is_leader)
    }

    pub(crate) fn term(&self) -> u64 {
        self.watches.borrow().values().map(|watch| watch.status().term).max().unwrap_or(0)
    }

    /// Takes the power from a coordinator: what was not synced may be gone.
    pub(crate) fn crash(&mut self, number: usize) {
        self.sim.crash(cast::coordinator(number));
        self.watches.borrow_mut().remove(&number);
        let (log, state) = &self.stores[number];
        log.crash(self.seed);
        state.crash(self.seed);
    }

    /// Whether coordinators `numbers` have everything that was acknowledged.
    pub(crate) fn have_all(&self, numbers: &[usize]) -> bool {
        numbers.iter().all(|number| {
            let ledger = StateFacts::new(Arc::new(self.stores[*number].1.clone())).ledger_state();
            ledger.is_ok_and(|ledger| {
                self.done.borrow().iter().all(|(key, _)| ledger.uploaders.contains_key(key))
            })
        })
    }

    /// Those that have stopped, with the reason.
    pub(crate) fn stopped(&self) -> Vec<(usize, String)> {
        let watches = self.watches.borrow();
        watches.iter().filter_map(|(number, watch)| Some((*number, watch.status().failure?))).collect()
    }
}

/// Writes until the world ends, by whichever coordinator answers: what is looked at is when one can.
async fn write(cast: Rc<Cast>, done: Done, round_trip: Duration) -> turmoil::Result {
    let archive = open(&cast, WRITER, "operator").await?;
    let within = writer_waits(round_trip);
    let mut target = 0;
    for number in 0_u64.. {
        let mut key = [0xfa; 32];
        key[..8].copy_from_slice(&number.to_le_bytes());
        let key = PublicKey::from_bytes(key);
        let act = AdminRequest::Govern(LedgerAct::AddUploader { key, name: "load".to_owned() });
        let roster = archive.coordinators().roster();
        let coordinators = &roster.roster().coordinators;
        let (id, request) = (coordinators[target % coordinators.len()].id, CoordinatorRequest::Admin(act));
        let asked = archive.coordinators().ask_coordinator(id, &request, within);
        match timeout(within, asked).await {
            Ok(Ok(CoordinatorReply::Admin(AdminReply::Done))) => {
                done.borrow_mut().push((key, turmoil::sim_elapsed().unwrap_or_default()));
            }
            _ => {
                target += 1;
                // Those of before may all have gone.
                let _ = timeout(within, archive.coordinators().refresh_roster()).await;
            }
        }
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
