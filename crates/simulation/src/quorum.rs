//! Coordinators alone and one trouble, looked at closely: how long until writes go on, in the time of the simulated world.
//!
//! Owns: the trouble of a leader among three or five coordinators, whose links are as long as asked for. Always holds:
//! what a writer was told is done is on every coordinator in the end, no coordinator has stopped, and the archive's
//! time is right.
//! Leaves to others: storms (`faults`), coordinators as processes (the end-to-end tests).

use std::collections::BTreeSet;
use std::time::Duration;

use firn_coordinator::Timing;

use crate::cast;
use crate::council::{Council, CouncilOptions, run_apart};
use crate::oracle::check_time;

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
    /// The same, and of five another one is cut off from all: whoever leads next needs the vote of the bridge.
    BehindBridgeOneAway,
    /// Of five, it and another hear each other and the third, the last two each other and the third.
    OnOneSide,
    /// Its clock is a year ahead.
    ClockAhead,
    /// Its clock is a year behind.
    ClockBehind,
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
    /// How long after the trouble began another coordinator took itself for the leader; none if none did.
    pub another_leads_after: Option<Duration>,
    /// Terms that began meanwhile.
    pub terms: u64,
    /// What must never happen and did.
    pub violations: Vec<String>,
}

const CALM: Duration = Duration::from_secs(5);
const TROUBLE_LASTS: Duration = Duration::from_secs(30);
const YEAR_MILLIS: i64 = 365 * 86_400_000;

/// Runs such a world on a thread of its own.
pub fn run_quorum(options: QuorumOptions) -> QuorumOutcome {
    run_apart(options.seed, move || Quorum::new(options).run()).unwrap_or_else(|why| QuorumOutcome {
        acknowledged: 0,
        longest_gap: Duration::ZERO,
        another_leads_after: None,
        terms: 0,
        violations: vec![why],
    })
}

struct Quorum {
    council: Council,
    options: QuorumOptions,
}

impl Quorum {
    fn new(options: QuorumOptions) -> Self {
        let QuorumOptions { seed, coordinators, round_trip, timing, trouble: _ } = options;
        let council =
            Council::new(CouncilOptions { seed, founders: coordinators, newcomers: 0, round_trip, timing });
        Self { council, options }
    }

    fn run(mut self) -> Result<QuorumOutcome, String> {
        self.council.until("the first acts are acknowledged", |council| council.done.borrow().len() > 5)?;
        self.council.run_for(CALM)?;
        let leader = self.council.leader().ok_or("nobody leads though nothing has happened")?;
        let (begun, term) = (self.council.sim.elapsed(), self.council.term());
        self.befall(leader);
        let mut another_leads_after = None;
        while self.council.sim.elapsed() < begun + TROUBLE_LASTS {
            self.council.step()?;
            if another_leads_after.is_none() && self.council.leads_beside(leader) {
                another_leads_after = Some(self.council.sim.elapsed() - begun);
            }
        }
        let (ended, terms) = (self.council.sim.elapsed(), self.council.term() - term);
        self.heal(leader);
        self.council.run_for(CALM)?;
        let mut violations = Vec::new();
        let everybody: Vec<usize> = (0..self.options.coordinators).collect();
        let all = |council: &Council| council.have_all(&everybody);
        if let Err(why) = self.council.until("all coordinators have what was acknowledged", all) {
            violations.push(why);
        }
        let Council { sim, cast, stores, done, .. } = &self.council;
        let stopped = self.council.stopped().into_iter();
        violations.extend(stopped.map(|(number, why)| format!("coordinator {number} stopped: {why}")));
        let states = stores.iter().map(|(_, state)| state);
        violations.extend(check_time(states, cast.time(sim.elapsed())));
        let times = done.borrow().iter().map(|(_, at)| *at).collect::<Vec<_>>();
        let within = times.iter().copied().filter(|at| *at > begun && *at < ended);
        let all: Vec<_> = std::iter::once(begun).chain(within).chain([ended]).collect();
        let longest_gap =
            all.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).max().unwrap_or_default();
        let acknowledged = times.len();
        Ok(QuorumOutcome { acknowledged, longest_gap, another_leads_after, terms, violations })
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
            QuorumTrouble::Killed => self.council.crash(leader),
            QuorumTrouble::CutOff => self.part([leader].into(), others.into_iter().collect()),
            QuorumTrouble::Mute => {
                others.iter().for_each(|other| self.council.sim.partition_oneway(host(leader), host(*other)));
            }
            QuorumTrouble::Deaf => {
                others.iter().for_each(|other| self.council.sim.partition_oneway(host(*other), host(leader)));
            }
            QuorumTrouble::BehindBridge => {
                self.part([leader].into(), others.into_iter().skip(1).collect());
            }
            QuorumTrouble::BehindBridgeOneAway => {
                let (bridge, away) = (others[0], others[1]);
                let rest = others.iter().copied().filter(|other| *other != away && *other != bridge);
                self.part([leader].into(), rest.collect());
                self.part([away].into(), (0..self.options.coordinators).filter(|it| *it != away).collect());
            }
            QuorumTrouble::OnOneSide => {
                self.part([leader, others[0]].into(), others.into_iter().skip(2).collect());
            }
            QuorumTrouble::ClockAhead => self.council.cast.put_clock_off(&host(leader), YEAR_MILLIS),
            QuorumTrouble::ClockBehind => self.council.cast.put_clock_off(&host(leader), -YEAR_MILLIS),
        }
    }

    fn part(&self, one_side: BTreeSet<usize>, other_side: BTreeSet<usize>) {
        for one in &one_side {
            for other in &other_side {
                self.council.sim.partition(cast::coordinator(*one), cast::coordinator(*other));
            }
        }
    }

    fn heal(&mut self, leader: usize) {
        if self.options.trouble == QuorumTrouble::Killed {
            self.council.sim.bounce(cast::coordinator(leader));
        }
        self.council.cast.put_clock_off(&cast::coordinator(leader), 0);
        for one in 0..self.options.coordinators {
            for other in (0..self.options.coordinators).filter(|other| *other != one) {
                self.council.sim.repair(cast::coordinator(one), cast::coordinator(other));
            }
        }
    }
}
