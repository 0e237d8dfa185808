//! Coordinators alone and one trouble, looked at closely: how long until writes go on, in the time of the simulated world.
//!
//! Owns: worlds of three or five coordinators without nodes, whose links are as long as asked for. Always holds: what a
//! writer was told is done is on every coordinator in the end, and no coordinator has stopped. Leaves to others: storms
//! (`faults`), coordinators as processes (the end-to-end tests).

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
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
use crate::machines::coordinate;
use crate::scenario::open;
use crate::trace;

/// What befalls the leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuorumTrouble {
    /// Nothing.
    None,
    /// It loses its power.
    Killed,
    /// Nobody hears it, and it hears nobody.
    CutOff,
    /// Nobody hears it.
    Mute,
    /// It hears nobody.
    Deaf,
    /// It and one other coordinator hear each other, and that one all others, who do not hear the leader.
    BehindBridge,
    /// Of five, it and another hear each other and the third, the last two each other and the third.
    OnOneSide,
}

/// How a run is to be.
#[derive(Debug, Clone, Copy)]
pub struct QuorumOptions {
    /// Everything follows from it.
    pub seed: u64,
    /// Coordinators.
    pub coordinators: usize,
    /// How long a datagram and its answer are under way.
    pub round_trip: Duration,
    /// How patient the coordinators are.
    pub timing: Timing,
    /// What goes wrong.
    pub trouble: QuorumTrouble,
}

/// What came of a run.
#[derive(Debug, Clone)]
pub struct QuorumOutcome {
    /// Acts that were acknowledged.
    pub acknowledged: usize,
    /// The longest time without one while the trouble lasted.
    pub longest_gap: Duration,
    /// Terms that began meanwhile.
    pub terms: u64,
    /// What must never happen and did.
    pub violations: Vec<String>,
}

const WRITER: &str = "writer";
const TICK: Duration = Duration::from_millis(5);
const SETTLES_WITHIN: Duration = Duration::from_secs(120);
const CALM: Duration = Duration::from_secs(5);
const TROUBLE_LASTS: Duration = Duration::from_secs(30);
// Beside four round trips: the way to the leader and from there to the others.
const ACT_WITHIN: Duration = Duration::from_millis(250);
const STACK_BYTES: usize = 32 << 20;

/// Runs such a world on a thread of its own.
pub fn run_quorum(options: QuorumOptions) -> QuorumOutcome {
    let running = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
        seal(options.seed);
        trace::begin();
        let outcome = Quorum::new(options).run();
        unseal();
        outcome
    });
    let joined = running
        .map_err(|error| error.to_string())
        .and_then(|thread| thread.join().unwrap_or_else(|_| Err("the run ended in a panic".to_owned())));
    joined.unwrap_or_else(|why| QuorumOutcome {
        acknowledged: 0,
        longest_gap: Duration::ZERO,
        terms: 0,
        violations: vec![why],
    })
}

/// Acts that were acknowledged, and when.
type Done = Rc<RefCell<Vec<(PublicKey, Duration)>>>;

struct Quorum {
    sim: Sim<'static>,
    options: QuorumOptions,
    stores: Vec<(Memory, Memory)>,
    watches: Rc<RefCell<BTreeMap<usize, ConsensusWatch>>>,
    done: Done,
}

impl Quorum {
    fn new(options: QuorumOptions) -> Self {
        let cast = Rc::new(Cast::with_coordinators(options.seed, Story::Losses, options.coordinators));
        let one_way = options.round_trip / 2;
        let mut sim = turmoil::Builder::new()
            .simulation_duration(Duration::from_secs(1000))
            .tick_duration(TICK)
            .min_message_latency(one_way.mul_f64(0.9))
            .max_message_latency(one_way)
            .udp_capacity(1 << 16)
            .enable_random_order()
            .rng_seed(options.seed)
            .build();
        let store = || (Memory::new(StoreKind::Log), Memory::new(StoreKind::State));
        let stores: Vec<_> = (0..options.coordinators).map(|_| store()).collect();
        let watches = Rc::default();
        for (number, (log, state)) in stores.iter().enumerate() {
            let (cast, watches, timing) = (Rc::clone(&cast), Rc::clone(&watches), options.timing);
            let (log, state) = (log.clone(), state.clone());
            sim.host(cast::coordinator(number), move || {
                let (cast, watches) = (Rc::clone(&cast), Rc::clone(&watches));
                coordinate(cast, number, Arc::new(log.clone()), Arc::new(state.clone()), watches, timing)
            });
        }
        let done = Done::default();
        sim.client(WRITER, write(Rc::clone(&cast), Rc::clone(&done), options.round_trip));
        Self { sim, options, stores, watches, done }
    }

    fn run(mut self) -> Result<QuorumOutcome, String> {
        let done = Rc::clone(&self.done);
        self.until("the first acts are acknowledged", |_| done.borrow().len() > 5)?;
        self.run_for(CALM)?;
        let leader = self.leader().ok_or("nobody leads though nothing has happened")?;
        let (begun, term) = (self.sim.elapsed(), self.term());
        self.befall(leader);
        self.run_for(TROUBLE_LASTS)?;
        let (ended, terms) = (self.sim.elapsed(), self.term() - term);
        self.heal(leader);
        self.run_for(CALM)?;
        let mut violations = Vec::new();
        if let Err(why) = self.until("all coordinators have what was acknowledged", Self::has_all) {
            violations.push(why);
        }
        for (number, watch) in &*self.watches.borrow() {
            violations
                .extend(watch.status().failure.map(|why| format!("coordinator {number} stopped: {why}")));
        }
        let times = self.done.borrow().iter().map(|(_, at)| *at).collect::<Vec<_>>();
        let within = times.iter().copied().filter(|at| *at > begun && *at < ended);
        let all: Vec<_> = std::iter::once(begun).chain(within).chain([ended]).collect();
        let longest_gap =
            all.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).max().unwrap_or_default();
        Ok(QuorumOutcome { acknowledged: times.len(), longest_gap, terms, violations })
    }

    fn run_for(&mut self, time: Duration) -> Result<(), String> {
        let until = self.sim.elapsed() + time;
        while self.sim.elapsed() < until {
            self.sim.step().map_err(|error| format!("a program ended: {error}"))?;
        }
        Ok(())
    }

    fn until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) -> Result<(), String> {
        let until = self.sim.elapsed() + SETTLES_WITHIN;
        while !condition(self) {
            if self.sim.elapsed() > until {
                return Err(format!("it does not come about that {what}"));
            }
            self.sim.step().map_err(|error| format!("a program ended: {error}"))?;
        }
        Ok(())
    }

    fn leader(&self) -> Option<usize> {
        let watches = self.watches.borrow();
        watches.iter().find(|(_, watch)| watch.status().is_leader).map(|(number, _)| *number)
    }

    fn term(&self) -> u64 {
        self.watches.borrow().values().map(|watch| watch.status().term).max().unwrap_or(0)
    }

    /// The others, in an order that follows from the seed.
    fn others(&self, leader: usize) -> Vec<usize> {
        let count = self.options.coordinators;
        let shift = usize::try_from(self.options.seed % 97).unwrap_or(0);
        let others: Vec<_> = (0..count).filter(|number| *number != leader).collect();
        (0..others.len()).map(|place| others[(place + shift) % others.len()]).collect()
    }

    fn befall(&mut self, leader: usize) {
        let others = self.others(leader);
        let host = cast::coordinator;
        match self.options.trouble {
            QuorumTrouble::None => {}
            QuorumTrouble::Killed => {
                self.sim.crash(host(leader));
                self.watches.borrow_mut().remove(&leader);
                let (log, state) = &self.stores[leader];
                log.crash(self.options.seed);
                state.crash(self.options.seed);
            }
            QuorumTrouble::CutOff => self.part([leader].into(), others.into_iter().collect()),
            QuorumTrouble::Mute => {
                others.iter().for_each(|other| self.sim.partition_oneway(host(leader), host(*other)));
            }
            QuorumTrouble::Deaf => {
                others.iter().for_each(|other| self.sim.partition_oneway(host(*other), host(leader)));
            }
            QuorumTrouble::BehindBridge => {
                self.part([leader].into(), others.into_iter().skip(1).collect());
            }
            QuorumTrouble::OnOneSide => {
                self.part([leader, others[0]].into(), others.into_iter().skip(2).collect());
            }
        }
    }

    fn part(&self, one_side: BTreeSet<usize>, other_side: BTreeSet<usize>) {
        for one in &one_side {
            for other in &other_side {
                self.sim.partition(cast::coordinator(*one), cast::coordinator(*other));
            }
        }
    }

    fn heal(&mut self, leader: usize) {
        if self.options.trouble == QuorumTrouble::Killed {
            self.sim.bounce(cast::coordinator(leader));
        }
        for one in 0..self.options.coordinators {
            for other in (0..self.options.coordinators).filter(|other| *other != one) {
                self.sim.repair(cast::coordinator(one), cast::coordinator(other));
            }
        }
    }

    fn has_all(&self) -> bool {
        self.stores.iter().all(|(_, state)| {
            let ledger = StateFacts::new(Arc::new(state.clone())).ledger_state();
            ledger.is_ok_and(|ledger| {
                self.done.borrow().iter().all(|(key, _)| ledger.uploaders.contains_key(key))
            })
        })
    }
}

/// Writes until the world ends, by whichever coordinator answers: what is looked at is when one can.
async fn write(cast: Rc<Cast>, done: Done, round_trip: Duration) -> turmoil::Result {
    let archive = open(&cast, WRITER, "operator").await?;
    let within = ACT_WITHIN + 4 * round_trip;
    let coordinators = cast.coordinators();
    let mut target = 0;
    for number in 0_u64.. {
        let mut key = [0xfa; 32];
        key[..8].copy_from_slice(&number.to_le_bytes());
        let key = PublicKey::from_bytes(key);
        let act = AdminRequest::Govern(LedgerAct::AddUploader { key, name: "load".to_owned() });
        let (id, request) = (coordinators[target % coordinators.len()], CoordinatorRequest::Admin(act));
        let asked = archive.coordinators().ask_coordinator(id, &request, within);
        match timeout(within, asked).await {
            Ok(Ok(CoordinatorReply::Admin(AdminReply::Done))) => {
                done.borrow_mut().push((key, turmoil::sim_elapsed().unwrap_or_default()));
            }
            _ => target += 1,
        }
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
