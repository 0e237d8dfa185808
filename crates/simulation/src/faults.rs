//! What goes wrong, and when: drawn from the seed.
//!
//! Owns: crashes with loss of unsynced writes, partitions in one or both directions and of all into two groups,
//! machines of which everything comes late, cutting the power of all coordinators at once and of one after the other,
//! disks that fail, are full, slow or stand still, shards that rot, clocks that are put wrong, and the end of each. Always holds:
//! whatever stands in [`DRAWN`] is drawn; at most one clock of a coordinator is wrong at a time, so that a majority is
//! right; at most [`NODES_DOWN_MAX`] nodes are down by accident, so that nothing is lost for good; every fault drawn
//! ends, but for rot, which nodes find and repair makes good. Leaves to others: how machines crash (`machines`), how a disk
//! is slow (`slow_disk`), which shards may rot (`rot`), faults that a scenario wishes for (`world`).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use firn_coordinator::storage::Fault;
use firn_storage_node::DiskFaults;
use turmoil::Sim;

use crate::cast::{COORDINATORS, Cast, Story};
use crate::chance::Chance;
use crate::machines::{Machine, Machines};
use crate::rot::Rot;
use crate::slow_disk::Pace;
use crate::trace;

/// Nodes that are down by accident at a time.
const NODES_DOWN_MAX: usize = 2;

/// A fault may be drawn this often.
const DRAW_EVERY_MILLIS: u64 = 500;

/// By how much clocks are put off.
const CLOCKS_OFF_SECONDS: [i64; 5] = [365 * 86_400, -365 * 86_400, 3_600, -3_600, 540];

/// What a disk takes for everything while it is slow.
const SLOW_MILLIS: Range<u64> = 10..400;

/// What others leave of a node's disk is less than this: small files may still find room, a shard never does.
const ROOM_LEFT_BYTES: u64 = 16 << 10;

/// What may be drawn.
#[derive(Debug, Clone, Copy)]
enum Drawn {
    Partition,
    PartitionOneWay,
    Isolation,
    Split,
    Hold,
    NodeCrash,
    LeaderCrash,
    RollingRestart,
    PowerCut,
    BadDisk,
    FullDisk,
    Rot,
    BadStore,
    SlowDisk,
    StillDisk,
    WrongClock,
}

/// Each as often as it stands here.
const DRAWN: [Drawn; 27] = [
    Drawn::Partition,
    Drawn::Partition,
    Drawn::PartitionOneWay,
    Drawn::Isolation,
    Drawn::Isolation,
    Drawn::Split,
    Drawn::Split,
    Drawn::Hold,
    Drawn::Hold,
    Drawn::NodeCrash,
    Drawn::NodeCrash,
    Drawn::NodeCrash,
    Drawn::LeaderCrash,
    Drawn::LeaderCrash,
    Drawn::RollingRestart,
    Drawn::PowerCut,
    Drawn::BadDisk,
    Drawn::BadDisk,
    Drawn::FullDisk,
    Drawn::FullDisk,
    Drawn::Rot,
    Drawn::Rot,
    Drawn::BadStore,
    Drawn::SlowDisk,
    Drawn::StillDisk,
    Drawn::StillDisk,
    Drawn::WrongClock,
];

/// The hosts of the clients: they have partitions too.
pub(crate) const CLIENTS: [&str; 2] = ["publisher", "reader"];

/// What ends a fault. Of faults of the same way between two hosts, or of the same disk's pace or room, the first that ends ends
/// all.
#[derive(Debug, Clone)]
enum Mending {
    Start(Machine),
    /// What takes the power from the next one in turn is over when all had theirs taken.
    RestartNext(Machine),
    Join(String, String),
    Release(String, String),
    HealDisk(usize),
    MakeRoom(usize),
    Quicken(Machine),
    SetClockRight(usize),
}

/// The faults of one run.
#[derive(Debug)]
pub(crate) struct Faults {
    chance: Chance,
    hosts: Vec<String>,
    first_nodes: usize,
    /// Those in force; others are gone for good.
    coordinators: Range<usize>,
    rages_until: u64,
    drawn_at: u64,
    due: BTreeMap<u64, Vec<Mending>>,
    down: BTreeSet<Machine>,
    has_wrong_clock: bool,
    // None where the story explains every shard that is missing by who is away.
    rot: Option<Rot>,
    /// Faults so far, by what they are called.
    pub(crate) counts: BTreeMap<&'static str, u64>,
}

impl Faults {
    pub(crate) fn new(cast: &Cast) -> Self {
        let coordinators = (0..COORDINATORS).map(Machine::Coordinator);
        let machines = coordinators.chain((0..cast.nodes).map(Machine::Node));
        let clients = CLIENTS.iter().map(|client| (*client).to_owned());
        Self {
            chance: cast.chance("faults"),
            hosts: machines.map(Machine::host).chain(clients).collect(),
            first_nodes: cast.first_nodes,
            coordinators: cast.coordinators_in_force(),
            rages_until: 0,
            drawn_at: 0,
            due: BTreeMap::new(),
            down: BTreeSet::new(),
            has_wrong_clock: false,
            rot: (cast.story == Story::Losses).then(Rot::default),
            counts: BTreeMap::new(),
        }
    }

    /// Takes every coordinator for good; from here on things happen to those that follow on them.
    pub(crate) fn lose_coordinators(
        &mut self,
        sim: &mut Sim<'_>,
        machines: &mut Machines,
        next: Range<usize>,
    ) {
        for number in std::mem::replace(&mut self.coordinators, next.clone()) {
            let lost = Machine::Coordinator(number);
            self.crash(sim, machines, lost, None);
            self.hosts.retain(|host| *host != lost.host());
        }
        self.hosts.extend(next.map(|number| Machine::Coordinator(number).host()));
    }

    /// Draws faults until `until`.
    pub(crate) const fn rage(&mut self, until: u64) {
        self.rages_until = until;
    }

    /// Whether no fault is on or can come by itself.
    pub(crate) fn are_over(&self, now: u64) -> bool {
        now >= self.rages_until && self.due.is_empty()
    }

    /// Ends what is due and draws what comes, at `now` milliseconds.
    pub(crate) fn tick(&mut self, sim: &mut Sim<'_>, machines: &mut Machines, cast: &Cast, now: u64) {
        while let Some(entry) = self.due.first_entry().filter(|entry| *entry.key() <= now) {
            for mending in entry.remove() {
                match mending {
                    Mending::Start(machine) => self.restart(sim, machines, machine),
                    Mending::RestartNext(machine) => self.restart_next(sim, machines, machine, now),
                    Mending::Join(one, other) => sim.repair(one, other),
                    Mending::Release(one, other) => sim.release(one, other),
                    Mending::HealDisk(node) => machines.disks[node].set_faults(DiskFaults::default()),
                    Mending::MakeRoom(node) => machines.disks[node].set_capacity(None),
                    Mending::Quicken(machine) => cast.disk(&machine.host()).set(Pace::Quick),
                    Mending::SetClockRight(coordinator) => {
                        cast.put_clock_off(&Machine::Coordinator(coordinator).host(), 0);
                        self.has_wrong_clock = false;
                    }
                }
            }
        }
        if now < self.rages_until && now >= self.drawn_at + DRAW_EVERY_MILLIS {
            self.drawn_at = now;
            if self.chance.per_mille(400) {
                self.draw(sim, machines, cast, now);
            }
        }
    }

    /// Takes the power from a machine, for so many milliseconds or for good.
    pub(crate) fn crash(
        &mut self,
        sim: &mut Sim<'_>,
        machines: &mut Machines,
        machine: Machine,
        back_at: Option<u64>,
    ) {
        if !self.down.insert(machine) {
            return;
        }
        self.note("crash", &machine.host());
        machines.crash(sim, machine);
        if let Some(at) = back_at {
            self.due.entry(at).or_default().push(Mending::Start(machine));
        }
    }

    /// Takes the power from the leader, if there is one and a majority would be left.
    pub(crate) fn crash_leader(&mut self, sim: &mut Sim<'_>, machines: &mut Machines, now: u64) {
        if let Some(leader) = machines.leader().filter(|_| self.coordinators_down() == 0) {
            let back_at = now + 500 + self.chance.below(8000);
            self.crash(sim, machines, Machine::Coordinator(leader), Some(back_at));
        }
    }

    /// Takes the power from a machine for a moment at `at`, unless it has been without for good.
    pub(crate) fn restart_at(&mut self, machine: Machine, at: u64) {
        if self.down.insert(machine) {
            self.due.entry(at).or_default().push(Mending::Start(machine));
        }
    }

    /// Gives a machine its power back, if it is without.
    pub(crate) fn restart(&mut self, sim: &mut Sim<'_>, machines: &mut Machines, machine: Machine) {
        if self.down.remove(&machine) {
            trace::note("start", machine.host().as_bytes());
            machines.restart(sim, machine);
        }
    }

    fn draw(&mut self, sim: &mut Sim<'_>, machines: &mut Machines, cast: &Cast, now: u64) {
        let until = now + 200 + self.chance.below(9000);
        match DRAWN[self.chance.position(DRAWN.len())] {
            Drawn::Partition => {
                let (one, other) = self.two_hosts();
                self.note("partition", &format!("{one} {other}"));
                sim.partition(one.as_str(), other.as_str());
                self.due.entry(until).or_default().push(Mending::Join(one, other));
            }
            Drawn::PartitionOneWay => {
                let (one, other) = self.two_hosts();
                self.note("partition one way", &format!("{one} {other}"));
                sim.partition_oneway(one.as_str(), other.as_str());
                self.due.entry(until).or_default().push(Mending::Join(one, other));
            }
            Drawn::Isolation => self.isolate(sim, until),
            Drawn::Split => self.split(sim, until),
            Drawn::Hold => self.hold(sim, until),
            Drawn::NodeCrash => {
                let machine = Machine::Node(self.chance.position(self.first_nodes));
                if self.nodes_down() < NODES_DOWN_MAX {
                    self.crash(sim, machines, machine, Some(until));
                }
            }
            Drawn::LeaderCrash => self.crash_leader(sim, machines, now),
            Drawn::RollingRestart => {
                self.note("rolling restart", "");
                let first = Machine::Coordinator(self.coordinators.start);
                self.restart_next(sim, machines, first, now);
            }
            Drawn::PowerCut => self.cut_power(sim, machines, now),
            Drawn::BadDisk => self.spoil_disk(machines, until),
            Drawn::FullDisk => self.fill_disk(machines, until),
            Drawn::Rot => self.let_rot(machines),
            Drawn::BadStore => self.spoil_store(machines, until),
            Drawn::SlowDisk => {
                let takes = SLOW_MILLIS.start + self.chance.below(SLOW_MILLIS.end - SLOW_MILLIS.start);
                self.slow_down(cast, "slow disk", Pace::Slow(Duration::from_millis(takes)), until);
            }
            Drawn::StillDisk => self.slow_down(cast, "still disk", Pace::Still, until),
            Drawn::WrongClock => self.put_clock_off(machines, cast, until),
        }
    }

    /// Cuts one machine off from everybody.
    fn isolate(&mut self, sim: &Sim<'_>, until: u64) {
        let one = self.hosts[self.chance.position(self.hosts.len())].clone();
        self.note("isolation", &one);
        for other in self.hosts.iter().filter(|other| **other != one) {
            sim.partition(one.as_str(), other.as_str());
            self.due.entry(until).or_default().push(Mending::Join(one.clone(), other.clone()));
        }
    }

    /// Parts everybody into two groups, of which one has a coordinator, the other the rest.
    fn split(&mut self, sim: &Sim<'_>, until: u64) {
        let few = Machine::Coordinator(self.coordinators.start + self.chance.position(COORDINATORS)).host();
        let (mut minority, mut majority) = (vec![few.clone()], Vec::new());
        for host in &self.hosts {
            let is_coordinator = self.coordinators.clone().any(|it| Machine::Coordinator(it).host() == *host);
            if *host == few {
                continue;
            }
            let with_few = !is_coordinator && self.chance.per_mille(500);
            if with_few { minority.push(host.clone()) } else { majority.push(host.clone()) }
        }
        self.note("split", &minority.join(" "));
        for one in &minority {
            for other in &majority {
                sim.partition(one.as_str(), other.as_str());
                self.due.entry(until).or_default().push(Mending::Join(one.clone(), other.clone()));
            }
        }
    }

    /// Keeps back all that one machine sends and is sent; then all of it comes at once, as when a machine stood still.
    fn hold(&mut self, sim: &Sim<'_>, until: u64) {
        let one = self.hosts[self.chance.position(self.hosts.len())].clone();
        self.note("hold", &one);
        for other in self.hosts.iter().filter(|other| **other != one) {
            sim.hold(one.as_str(), other.as_str());
            self.due.entry(until).or_default().push(Mending::Release(one.clone(), other.clone()));
        }
    }

    /// Takes the power from a coordinator for a moment, and after it has come back from the next one.
    fn restart_next(&mut self, sim: &mut Sim<'_>, machines: &mut Machines, machine: Machine, now: u64) {
        let Machine::Coordinator(number) = machine else { return };
        let back_at = now + 300 + self.chance.below(1000);
        // Where one is down already, a majority could be missing.
        if self.coordinators_down() == 0 {
            self.crash(sim, machines, machine, Some(back_at));
        }
        if self.coordinators.contains(&(number + 1)) {
            let next_at = back_at + 1500 + self.chance.below(2500);
            let next = Mending::RestartNext(Machine::Coordinator(number + 1));
            self.due.entry(next_at).or_default().push(next);
        }
    }

    /// Takes the power from all coordinators at once: single crashes do not find lost votes.
    fn cut_power(&mut self, sim: &mut Sim<'_>, machines: &mut Machines, now: u64) {
        if self.coordinators_down() > 0 {
            return;
        }
        self.note("power cut", "");
        let back_at = now + 300 + self.chance.below(1500);
        for number in self.coordinators.clone() {
            let back_at = back_at + self.chance.below(800);
            self.crash(sim, machines, Machine::Coordinator(number), Some(back_at));
        }
    }

    /// Lets some calls to a node's disk fail.
    fn spoil_disk(&mut self, machines: &Machines, until: u64) {
        let node = self.chance.position(self.first_nodes);
        let share = u32::try_from(1000 + self.chance.below(50_000)).unwrap_or(u32::MAX);
        // A program that cannot read its disk at its start rightly ends.
        if self.down.contains(&Machine::Node(node)) {
            return;
        }
        self.note("bad disk", &Machine::Node(node).host());
        let seed = self.chance.number();
        let faults = DiskFaults { read_errors_per_million: share, write_errors_per_million: share, seed };
        machines.disks[node].set_faults(faults);
        self.due.entry(until).or_default().push(Mending::HealDisk(node));
    }

    /// Lets others fill a node's disk, whether it runs, starts meanwhile or is down.
    fn fill_disk(&mut self, machines: &Machines, until: u64) {
        let node = self.chance.position(self.first_nodes);
        let left = self.chance.below(ROOM_LEFT_BYTES);
        self.note("full disk", &Machine::Node(node).host());
        let disk = &machines.disks[node];
        disk.set_capacity(Some(disk.used_bytes() + left));
        self.due.entry(until).or_default().push(Mending::MakeRoom(node));
    }

    /// Flips a bit of a shard of a node, whether the node runs or is down.
    fn let_rot(&mut self, machines: &Machines) {
        let node = self.chance.position(self.first_nodes);
        let Some(rot) = &mut self.rot else { return };
        if let Some(path) = rot.flip(machines, node, &mut self.chance) {
            self.note("rot", &format!("{} {path}", Machine::Node(node).host()));
        }
    }

    /// Lets writes to a coordinator's disk fail, upon which it stops, until it gets a good one.
    fn spoil_store(&mut self, machines: &Machines, until: u64) {
        let number = self.coordinators.start + self.chance.position(COORDINATORS);
        if self.coordinators_down() > 0 {
            return;
        }
        let fault = if self.chance.per_mille(500) { Fault::Full } else { Fault::Write };
        let machine = Machine::Coordinator(number);
        self.note("bad store", &machine.host());
        let (log, state) = &machines.stores[number];
        let store = if self.chance.per_mille(700) { log } else { state };
        store.inject(fault, 0);
        self.down.insert(machine);
        self.due.entry(until).or_default().push(Mending::Start(machine));
    }

    /// Lets everything that may block on a machine's disk wait: on that of a coordinator, as likely as not.
    fn slow_down(&mut self, cast: &Cast, fault: &'static str, pace: Pace, until: u64) {
        let machine = match self.chance.per_mille(500) {
            true => Machine::Coordinator(self.coordinators.start + self.chance.position(COORDINATORS)),
            false => Machine::Node(self.chance.position(self.first_nodes)),
        };
        self.note(fault, &machine.host());
        cast.disk(&machine.host()).set(pace);
        self.due.entry(until).or_default().push(Mending::Quicken(machine));
    }

    /// Puts the clock of a coordinator off by up to a year, as likely as not that of the leader.
    fn put_clock_off(&mut self, machines: &Machines, cast: &Cast, until: u64) {
        let drawn = self.coordinators.start + self.chance.position(COORDINATORS);
        let leads = machines.leader().filter(|_| self.chance.per_mille(500));
        if std::mem::replace(&mut self.has_wrong_clock, true) {
            return;
        }
        let (number, choice) = (leads.unwrap_or(drawn), self.chance.position(CLOCKS_OFF_SECONDS.len()));
        let host = Machine::Coordinator(number).host();
        self.note("wrong clock", &host);
        cast.put_clock_off(&host, CLOCKS_OFF_SECONDS[choice] * 1000);
        self.due.entry(until).or_default().push(Mending::SetClockRight(number));
    }

    /// Whether a coordinator has a reason to have stopped.
    pub(crate) fn excuse(&self, coordinator: usize) -> bool {
        self.down.contains(&Machine::Coordinator(coordinator))
    }

    fn two_hosts(&mut self) -> (String, String) {
        let one = self.chance.position(self.hosts.len());
        let other = (one + 1 + self.chance.position(self.hosts.len() - 1)) % self.hosts.len();
        (self.hosts[one].clone(), self.hosts[other].clone())
    }

    fn coordinators_down(&self) -> usize {
        let in_force = |machine: &&Machine| match machine {
            Machine::Coordinator(number) => self.coordinators.contains(number),
            Machine::Node(_) => false,
        };
        self.down.iter().filter(in_force).count()
    }

    fn nodes_down(&self) -> usize {
        self.down.iter().filter(|machine| matches!(machine, Machine::Node(_))).count()
    }

    fn note(&mut self, fault: &'static str, of: &str) {
        *self.counts.entry(fault).or_default() += 1;
        trace::note(fault, of.as_bytes());
    }
}
