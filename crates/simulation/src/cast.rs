//! Who takes part in a run: names, keys, addresses, and the world that each program is given.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use firn_base::{BitRate, NodeId, Timestamp, TokenId};
use firn_coordinator::{Peer, next_descriptor};
use firn_nix_format::PublisherSecretKey;
use firn_transport::{Blocking, Environment};
use firn_wire::{
    CoordinatorEntry, Descriptor, DomainRule, Identity, JoinToken, Policy, PublisherEntry, Roster, Signed,
};

use crate::chance::{Chance, SeededEntropy};
use crate::clock::SimulatedClock;
use crate::slow_disk::SlowDisk;
use crate::sockets::SimulatedSockets;

/// Coordinators of the archive.
pub(crate) const COORDINATORS: usize = 3;

/// The port of every program that is dialled.
pub(crate) const PORT: u16 = 4433;

/// In a fleet that grows a silent node counts as lost after this: longer than storms keep a node away.
pub(crate) const COUNT_LOST_AFTER: Duration = Duration::from_secs(60);

/// Where every coordinator is lost: longer than all sleep at a time, and an emptied bundle goes after two such sleeps.
const LOST_AFTER_DISASTER: Duration = Duration::from_secs(15 * 86_400);

const GROWN_NODES: usize = 27;

// Clocks of volunteers' machines are set by NTP, more or less.
const CLOCK_AHEAD_MILLIS_MAX: u64 = 1500;

/// What a run is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Story {
    /// Storms, uploads that are abandoned, nodes that are lost for good and one that is drained.
    Losses,
    /// A fleet on lines of all kinds that grows until its bundles are coded anew, while nodes fall silent for longer
    /// than the archive waits for them, and return.
    Growth,
    /// Paths are withdrawn, and one is purged that shares its bundle with others, whose chunks others use. Then every
    /// coordinator is lost with its disks, and the archive comes back from its nodes, while some of them are away or one
    /// of the new coordinators is.
    Disaster,
}

/// Everybody in a run. All of it follows from the seed.
#[derive(Debug)]
pub(crate) struct Cast {
    seed: u64,
    /// Nodes that are there from the beginning, the others join later.
    pub(crate) first_nodes: usize,
    /// All nodes.
    pub(crate) nodes: usize,
    /// The archive.
    pub(crate) descriptor: Descriptor,
    /// What the run is about.
    pub(crate) story: Story,
    /// Of a thousand datagrams so many are lost.
    pub(crate) loss_per_mille: u64,
    // Each run of a program has another world.
    runs: Cell<u64>,
    slept_millis: Arc<AtomicU64>,
    // Of each machine.
    put_off_millis: RefCell<BTreeMap<String, Arc<AtomicI64>>>,
    disks: RefCell<BTreeMap<String, Arc<SlowDisk>>>,
    // The archive under the coordinators that came after those that were lost.
    succeeded: RefCell<Option<Descriptor>>,
}

impl Cast {
    pub(crate) fn new(seed: u64, story: Story) -> Self {
        Self::with_coordinators(seed, story, COORDINATORS)
    }

    /// Everybody, of whom so many are coordinators.
    pub(crate) fn with_coordinators(seed: u64, story: Story, coordinators: usize) -> Self {
        let mut chance = Chance::new(seed, "cast");
        let first_nodes = 8 + chance.position(3);
        let later_nodes = match story {
            // Two make up for those that are lost, one for the one that is drained.
            Story::Losses => 3 + chance.position(2),
            Story::Disaster => 0,
            // Wide enough for 8/24 with two nodes away and two in one house.
            Story::Growth => GROWN_NODES - first_nodes,
        };
        let key = identity(seed, "archive");
        let archive = key.public().into();
        let coordinators = (0..coordinators)
            .zip(1..)
            .map(|(number, raft_id)| CoordinatorEntry {
                id: identity(seed, &coordinator(number)).node_id(),
                raft_id,
                address: address(&coordinator(number)),
            })
            .collect();
        let issued = SimulatedClock::beginning();
        let roster = Roster { archive, generation: 1, issued, coordinators, retired: Vec::new() };
        Self {
            seed,
            story,
            first_nodes,
            nodes: first_nodes + later_nodes,
            descriptor: Descriptor { archive, roster: Signed::seal(&key, archive, &roster) },
            loss_per_mille: chance.below(4),
            runs: Cell::new(0),
            slept_millis: Arc::default(),
            put_off_millis: RefCell::default(),
            disks: RefCell::default(),
            succeeded: RefCell::default(),
        }
    }

    /// The archive as everybody is told of it now.
    pub(crate) fn in_force(&self) -> Descriptor {
        self.succeeded.borrow().clone().unwrap_or_else(|| self.descriptor.clone())
    }

    /// The archive under other coordinators; none while those of the beginning are in force.
    pub(crate) fn succeeded(&self) -> Option<Descriptor> {
        self.succeeded.borrow().clone()
    }

    /// The numbers of the coordinators in force.
    pub(crate) fn coordinators_in_force(&self) -> std::ops::Range<usize> {
        match self.succeeded.borrow().is_some() {
            true => COORDINATORS..2 * COORDINATORS,
            false => 0..COORDINATORS,
        }
    }

    /// Lets as many new coordinators follow on those of the beginning, which are lost.
    pub(crate) fn succeed(&self, issued: Timestamp) -> Result<(), String> {
        let before = self.descriptor.verify().map_err(|error| error.to_string())?;
        let peers: Vec<Peer> = (COORDINATORS..2 * COORDINATORS)
            .map(|number| {
                let host = coordinator(number);
                Peer { id: self.identity(&host).node_id(), address: address(&host) }
            })
            .collect();
        let (own, others) = peers.split_first().ok_or("there are coordinators")?;
        let next = next_descriptor(&self.identity("archive"), &before, (own, others), None, issued);
        *self.succeeded.borrow_mut() = Some(next.map_err(|error| error.to_string())?);
        Ok(())
    }

    /// The coordinators of the first roster.
    pub(crate) fn coordinators(&self) -> Vec<NodeId> {
        let roster = self.descriptor.roster.peek();
        roster
            .map_or_else(|_| Vec::new(), |roster| roster.coordinators.iter().map(|entry| entry.id).collect())
    }

    /// The same, as newcomers are told of them.
    pub(crate) fn founders(&self) -> Vec<Peer> {
        let roster = self.descriptor.roster.peek();
        let peer = |entry: &CoordinatorEntry| Peer { id: entry.id, address: entry.address.clone() };
        roster.map_or_else(|_| Vec::new(), |roster| roster.coordinators.iter().map(peer).collect())
    }

    /// `roster`, signed by the archive's key.
    pub(crate) fn sign(&self, roster: &Roster) -> Descriptor {
        let archive = self.descriptor.archive;
        Descriptor { archive, roster: Signed::seal(&self.identity("archive"), archive, roster) }
    }

    /// A stream of chance of its own.
    pub(crate) fn chance(&self, name: &str) -> Chance {
        Chance::new(self.seed, name)
    }

    /// The key of a machine or a person.
    pub(crate) fn identity(&self, name: &str) -> Identity {
        identity(self.seed, name)
    }

    /// The world of one more run of the program on a machine.
    pub(crate) fn environment(&self, name: &str) -> Environment {
        let run = self.runs.get();
        self.runs.set(run + 1);
        let ahead = self.chance(&format!("clock of {name}")).below(CLOCK_AHEAD_MILLIS_MAX);
        let chance = |what: &str| self.chance(&format!("{what} of {name} in run {run}"));
        Environment::new(
            Arc::new(SimulatedClock::new(ahead, self.put_off(name), Arc::clone(&self.slept_millis))),
            Arc::new(SimulatedSockets::new(chance("losses"), self.loss_per_mille)),
            Arc::new(SeededEntropy::new(chance("entropy"))),
            Blocking::Paced(self.disk(name)),
        )
    }

    /// All machines sleep for so long and wake up at once: their clocks go on, and nothing else has happened.
    pub(crate) fn sleep(&self, millis: u64) {
        self.slept_millis.fetch_add(millis, Ordering::Relaxed);
    }

    /// Puts the clock of a machine off by so many milliseconds, until it is put right with zero.
    pub(crate) fn put_clock_off(&self, name: &str, millis: i64) {
        self.put_off(name).store(millis, Ordering::Relaxed);
    }

    /// How fast the disk of a machine is.
    pub(crate) fn disk(&self, name: &str) -> Arc<SlowDisk> {
        Arc::clone(self.disks.borrow_mut().entry(name.to_owned()).or_default())
    }

    fn put_off(&self, name: &str) -> Arc<AtomicI64> {
        Arc::clone(self.put_off_millis.borrow_mut().entry(name.to_owned()).or_default())
    }

    /// What a clock shows that is right, when the simulation has gone on for `elapsed`.
    pub(crate) fn time(&self, elapsed: Duration) -> Timestamp {
        let slept = Duration::from_millis(self.slept_millis.load(Ordering::Relaxed));
        SimulatedClock::beginning().after(slept + elapsed)
    }

    /// The key that signs paths.
    pub(crate) fn publisher_key(&self) -> PublisherSecretKey {
        let seed = identity(self.seed, "publisher").seed();
        PublisherSecretKey::from_seed("simulated-1", &seed).expect("a name and 32 bytes make a key")
    }

    /// The entry of that key in the ledger.
    pub(crate) fn publisher_entry(&self) -> PublisherEntry {
        let key = self.publisher_key().public_key();
        let bytes = firn_base::PublicKey::from_bytes(*key.as_bytes());
        PublisherEntry { name: key.name().to_owned(), key: bytes, rank: 0 }
    }

    /// The invitation of a node.
    pub(crate) fn token(&self, number: usize) -> Signed<JoinToken> {
        let token = JoinToken {
            token: TokenId::from_bytes(identity(self.seed, &format!("token {number}")).seed()),
            operator: format!("operator-{number}"),
            expires: SimulatedClock::beginning().after(Duration::from_secs(24 * 3600)),
            failure_domain: None,
        };
        Signed::seal(&self.identity(&coordinator(0)), self.descriptor.archive, &token)
    }

    /// How fast a node uploads at most; none: as fast as it can.
    pub(crate) fn max_upload(&self, number: usize) -> Option<BitRate> {
        let kind = self.chance(&format!("line of node {number}")).below(10);
        let bytes_per_second = match (self.story, kind) {
            (Story::Losses | Story::Disaster, _) | (Story::Growth, 0..5) => return None,
            (Story::Growth, 5..8) => 1_250_000,
            (Story::Growth, _) => 125_000,
        };
        Some(BitRate { bytes_per_second })
    }

    /// How long the fleet has to be wide enough for a larger k before bundles are coded anew for it.
    pub(crate) const fn recode_after(&self) -> Duration {
        match self.story {
            Story::Losses | Story::Disaster => firn_coordinator::RECODE_AFTER,
            Story::Growth => Duration::from_secs(20),
        }
    }

    /// The policy of the archive: the brake is off, because in these small fleets every fault is much.
    pub(crate) fn policy(&self) -> Policy {
        let count_lost_after = match self.story {
            Story::Losses => Duration::from_secs(72 * 3600),
            Story::Disaster => LOST_AFTER_DISASTER,
            Story::Growth => COUNT_LOST_AFTER,
        };
        Policy {
            domains: DomainRule::Named,
            repair_at: None,
            repair_at_full: false,
            count_lost_after_millis: u64::try_from(count_lost_after.as_millis()).unwrap_or(u64::MAX),
            brake: false,
            trust_declared_domains: false,
        }
    }

    /// What a node can vanish together with: the first two nodes stand in one house.
    pub(crate) fn failure_domain(number: usize) -> String {
        format!("house-{}", number.max(1))
    }
}

/// A coordinator's host.
pub(crate) fn coordinator(number: usize) -> String {
    format!("coordinator-{number}")
}

/// A node's host.
pub(crate) fn node(number: usize) -> String {
    format!("node-{number}")
}

/// Where a host's program is dialled.
pub(crate) fn address(host: &str) -> String {
    format!("{host}:{PORT}")
}

fn identity(seed: u64, name: &str) -> Identity {
    let mut hasher = blake3::Hasher::new_derive_key("firn-simulation 2026 identity");
    hasher.update(&seed.to_le_bytes()).update(name.as_bytes());
    Identity::from_seed(hasher.finalize().as_bytes())
}
