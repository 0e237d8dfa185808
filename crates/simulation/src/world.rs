//! One run of the simulated world: the real programs on simulated machines, from a seed.
//!
//! Owns: the network, the loop over time, fulfilling the clients' wishes, and what comes of a run. Always holds:
//! a run on a thread of a fresh process is a function of its seed.
//! Leaves to others: what happens (`scenario`, `faults`), what must hold (`oracle`).

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use turmoil::Sim;

use crate::cache::Cache;
use crate::cast::{Cast, Story};
use crate::disaster::direct_disaster;
use crate::entropy::{seal, unseal};
use crate::faults::{CLIENTS, Faults};
use crate::growth::direct_growth;
use crate::machines::{Machine, Machines};
use crate::oracle::{Replicas, agreed, check_durable, check_time, compare_books, files_in_trash};
use crate::scenario::{WAVES, direct, read_meanwhile};
use crate::stage::{Stage, Wish};
use crate::trace::{self, TraceSum};

/// How a run is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunOptions {
    /// Everything follows from it.
    pub seed: u64,
    /// What it is about.
    pub story: Story,
    /// Plants a bug: the disks of coordinators say that they synced, and did not.
    pub lying_disks: bool,
}

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What happened, as one number.
    pub trace: TraceSum,
    /// Time that passed in the simulated world.
    pub simulated: Duration,
    /// Nodes that took part.
    pub nodes: usize,
    /// Paths that the publisher was told are committed.
    pub committed: usize,
    /// Faults, by what they are called.
    pub faults: BTreeMap<&'static str, u64>,
    /// The last term of the consensus.
    pub term: u64,
    /// Positions of the log at which states were compared.
    pub positions: usize,
    /// Paths read rightly while things went wrong.
    pub reads: u64,
    /// Paths that could not be had at that moment.
    pub reads_put_off: u64,
    /// Bytes that repair read and sent, as far as leaders lived to tell.
    pub repaired_bytes: u64,
    /// Files in trash at the end, on all nodes.
    pub trashed: usize,
    /// Bundles that were packed anew for a purge.
    pub purged: usize,
    /// Bundles that came back after a disaster.
    pub restored: u64,
    /// Who was away while they did, in a few words.
    pub away: &'static str,
    /// What must never happen and did.
    pub violations: Vec<String>,
}

// Half of it would double the cost of a run; twice as much makes every message wait for its turn.
const TICK: Duration = Duration::from_millis(5);
const LATENCY_MIN: Duration = Duration::from_millis(2);
const LATENCY_MAX: Duration = Duration::from_millis(30);

/// No scenario takes longer, even if all its waits run out.
const SIMULATED_MAX: Duration = Duration::from_secs(6000);

/// What is left to settle after the last client has gone. A node that would not delete all that was left behind there is
/// asked again after ten minutes; nothing else takes as long.
const SETTLE_MAX: Duration = Duration::from_secs(700);

const LOOK_EVERY_MILLIS: u64 = 1000;

// So close to each other that most nodes show their inventories while the others are not proved yet.
const RESTART_EVERY_MILLIS: u64 = 300;

// Futures of real programs are deep.
const STACK_BYTES: usize = 32 << 20;

static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Runs the world once, on a thread of its own. The second run of a process differs in what tokio draws: give
/// every run a process.
pub fn run(options: RunOptions) -> Outcome {
    // tokio keeps a task's panic to itself.
    std::panic::set_hook(Box::new(|panic| {
        PANICS.lock().unwrap_or_else(PoisonError::into_inner).push(panic.to_string());
    }));
    let running = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
        seal(options.seed);
        trace::begin();
        let outcome = World::new(options).map(World::run);
        unseal();
        outcome
    });
    let outcome = running
        .map_err(|error| error.to_string())
        .and_then(|thread| thread.join().unwrap_or_else(|_| Err("the run ended in a panic".to_owned())));
    let mut outcome = outcome.unwrap_or_else(Outcome::failed);
    outcome.violations.append(&mut PANICS.lock().unwrap_or_else(PoisonError::into_inner));
    outcome
}

impl Outcome {
    fn failed(why: String) -> Self {
        Self {
            trace: TraceSum { hash: [0; 32], datagrams: 0, bytes: 0 },
            simulated: Duration::ZERO,
            nodes: 0,
            committed: 0,
            faults: BTreeMap::new(),
            term: 0,
            positions: 0,
            reads: 0,
            reads_put_off: 0,
            repaired_bytes: 0,
            trashed: 0,
            purged: 0,
            restored: 0,
            away: "",
            violations: vec![why],
        }
    }
}

struct World {
    sim: Sim<'static>,
    cast: Rc<Cast>,
    stage: Rc<Stage>,
    machines: Machines,
    faults: Faults,
    replicas: Replicas,
    looked_at: u64,
    term: u64,
}

impl World {
    fn new(options: RunOptions) -> Result<Self, String> {
        let cast = Rc::new(Cast::new(options.seed, options.story));
        let stage = Rc::new(Stage::default());
        let cache = write_cache(&cast).map_err(|error| format!("the cache cannot be written: {error}"))?;
        let cache = Rc::new(cache);
        let mut sim = turmoil::Builder::new()
            .simulation_duration(SIMULATED_MAX)
            .tick_duration(TICK)
            .min_message_latency(LATENCY_MIN)
            .max_message_latency(LATENCY_MAX)
            .udp_capacity(1 << 16)
            .enable_random_order()
            .rng_seed(options.seed)
            .build();
        let machines = Machines::new(Rc::clone(&cast), options.lying_disks);
        machines.start(&mut sim, &stage.joining);
        stage.disks.borrow_mut().clone_from(&machines.disks);
        *stage.states.borrow_mut() = machines.stores.iter().map(|(_, state)| state.clone()).collect();
        match options.story {
            Story::Losses => sim.client(CLIENTS[0], direct(Rc::clone(&cast), Rc::clone(&stage), cache)),
            Story::Growth => {
                sim.client(CLIENTS[0], direct_growth(Rc::clone(&cast), Rc::clone(&stage), cache))
            }
            Story::Disaster => {
                sim.client(CLIENTS[0], direct_disaster(Rc::clone(&cast), Rc::clone(&stage), cache))
            }
        }
        sim.client(CLIENTS[1], read_meanwhile(Rc::clone(&cast), Rc::clone(&stage)));
        let faults = Faults::new(&cast);
        Ok(Self { sim, cast, stage, machines, faults, replicas: Replicas::default(), looked_at: 0, term: 0 })
    }

    fn run(mut self) -> Outcome {
        while self.stage.violations.borrow().is_empty() && self.step() == Some(false) {}
        let simulated = self.sim.elapsed();
        if self.stage.violations.borrow().is_empty() {
            self.settle();
        }
        for (_, state) in &self.machines.stores {
            let digest = firn_coordinator::StateFacts::new(std::sync::Arc::new(state.clone())).digest();
            trace::note("final state", digest.map_or([0; 32], |digest| *digest.as_bytes()).as_slice());
        }
        let stage = &self.stage;
        let outcome = Outcome {
            trace: trace::sum(),
            simulated,
            nodes: self.cast.nodes,
            committed: stage.committed.borrow().len(),
            faults: self.faults.counts.clone(),
            term: self.term,
            positions: self.replicas.positions(),
            reads: stage.reads.get(),
            reads_put_off: stage.reads_put_off.get(),
            repaired_bytes: stage.repaired_bytes.get(),
            trashed: files_in_trash(&self.machines),
            purged: stage.purged.get(),
            restored: stage.restored.get(),
            away: stage.away.get(),
            violations: stage.violations.borrow().clone(),
        };
        drop(self);
        outcome
    }

    /// One tick of all machines. Says whether all clients are done; none if the world has ended.
    fn step(&mut self) -> Option<bool> {
        let now = millis(self.sim.elapsed());
        self.faults.tick(&mut self.sim, &mut self.machines, &self.cast, now);
        let wishes = std::mem::take(&mut *self.stage.wishes.borrow_mut());
        for wish in wishes {
            self.fulfil(wish, now);
        }
        self.stage.calm.set(self.faults.are_over(now));
        if now >= self.looked_at + LOOK_EVERY_MILLIS {
            self.looked_at = now;
            self.look();
        }
        match self.sim.step() {
            Ok(done) => Some(done),
            Err(error) => {
                self.stage.violated(format!("a program ended: {error}"));
                None
            }
        }
    }

    fn fulfil(&mut self, wish: Wish, now: u64) {
        match wish {
            Wish::Rage(time) => self.faults.rage(now + millis(time)),
            Wish::CrashLeader => self.faults.crash_leader(&mut self.sim, &mut self.machines, now),
            Wish::CrashForGood(machine) => {
                self.faults.crash(&mut self.sim, &mut self.machines, machine, None);
            }
            Wish::CrashFor(machine, time) => {
                self.faults.crash(&mut self.sim, &mut self.machines, machine, Some(now + millis(time)));
            }
            Wish::Return(machine) => self.faults.restart(&mut self.sim, &mut self.machines, machine),
            Wish::Sleep(time) => self.cast.sleep(millis(time)),
            Wish::LoseCoordinators => {
                if let Err(error) = self.cast.succeed(self.cast.time(self.sim.elapsed())) {
                    self.stage.violated(error);
                }
                let next = self.cast.coordinators_in_force();
                self.faults.lose_coordinators(&mut self.sim, &mut self.machines, next);
            }
            Wish::RestartNodes => {
                for number in 0..self.cast.nodes {
                    let at = now + RESTART_EVERY_MILLIS * number as u64;
                    self.faults.restart_at(Machine::Node(number), at);
                }
            }
        }
    }

    fn look(&mut self) {
        for fault in self.replicas.look(self.machines.states()) {
            self.stage.violated(fault);
        }
        for fault in check_durable(&self.machines) {
            self.stage.violated(fault);
        }
        if let Some(fault) = check_time(self.machines.states(), self.cast.time(self.sim.elapsed())) {
            self.stage.violated(fault);
        }
        for (number, status) in self.machines.statuses() {
            self.term = self.term.max(status.term);
            if let Some(failure) = status.failure.filter(|_| !self.faults.excuse(number)) {
                self.stage.violated(format!("coordinator {number} has stopped: {failure}"));
            }
        }
    }

    /// Lets the archive come to rest, then opens the books.
    fn settle(&mut self) {
        let until = self.sim.elapsed() + SETTLE_MAX;
        let mut faults = vec!["the coordinators do not come to the same state".to_owned()];
        while self.sim.elapsed() < until {
            if agreed(&self.machines).is_some() {
                faults = compare_books(&self.cast, &self.machines);
                if faults.is_empty() {
                    break;
                }
            }
            for _ in 0..200 {
                if self.step().is_none() {
                    return;
                }
            }
        }
        // What is erased goes from trash, too.
        if self.cast.story != Story::Disaster && files_in_trash(&self.machines) == 0 {
            faults.push("nothing was deleted, though uploads were abandoned or codings replaced".to_owned());
        }
        self.stage.violations.borrow_mut().append(&mut faults);
    }
}

fn write_cache(cast: &Cast) -> Result<Cache, Box<dyn std::error::Error>> {
    let mut cache = Cache::write(&cast.publisher_key(), &mut cast.chance("cache"), WAVES + 1)?;
    if cast.story == Story::Disaster {
        cache.add_builds(&cast.publisher_key(), &mut cast.chance("builds"))?;
    }
    Ok(cache)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
