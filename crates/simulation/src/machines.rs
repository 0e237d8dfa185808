//! The machines: hosts of the simulated world that run the real programs, and disks that outlive them.
//!
//! Owns: starting coordinators and nodes, and what a loss of power does to their disks. Leaves to others: when
//! (`faults`).

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use firn_base::ByteCount;
use firn_coordinator::storage::{KeyValue, Memory, StoreKind};
use firn_coordinator::{
    Administration, ConsensusStatus, ConsensusWatch, Coordinator, CoordinatorError, CoordinatorOptions,
    FilterOptions, Joined, StandingError, Timing, ask_peers,
};
use firn_storage_node::{
    DeletionLimits, DiskFaults, LineTerms, MemoryDisk, ScrubPlan, StartNodeError, StorageNode,
    StorageNodeOptions,
};
use firn_transport::{Endpoint, EndpointOptions};
use firn_wire::{AdminReply, AdminRequest, LedgerAct, RefusalKind, RefusedRequest};
use turmoil::Sim;

use crate::cast::{self, COORDINATORS, Cast, PORT, Story};
use crate::chance::Chance;
use crate::lying_disk::LyingDisk;
use crate::successors::succeed;

/// One machine that can lose its power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Machine {
    /// A coordinator by number.
    Coordinator(usize),
    /// A storage node by number.
    Node(usize),
}

/// The disks of all machines, and what can be seen of the coordinators from outside.
#[derive(Debug)]
pub(crate) struct Machines {
    cast: Rc<Cast>,
    /// Log and state of each coordinator.
    pub(crate) stores: Vec<(Memory, Memory)>,
    /// The disk of each node.
    pub(crate) disks: Vec<MemoryDisk>,
    watches: Rc<RefCell<BTreeMap<usize, ConsensusWatch>>>,
    lying_disks: bool,
    chance: Chance,
}

pub(crate) const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), PORT);

// Room for every shard of the small caches many times over.
const QUOTA: ByteCount = ByteCount(256 << 20);

// A shard file of these caches: nodes of so few bytes could delete everything else.
const FLOOR_BYTES: u64 = 100 << 10;

// Room for a shard file of any size, as the floor of every node is. Of what is left behind of a coding that was replaced
// or given up the leader does not know k any more: it reckons with the most that a file of the payload may have, which
// is 450 kB for all that these caches hold, and a node that deletes less would keep such a file for ever.
const FLOOR_BYTES_GROWTH: u64 = 512 << 10;

// Small enough that every run cuts its logs, and that a coordinator that was away gets a snapshot.
const SNAPSHOT_EVERY: u64 = 40;
const ENTRIES_KEPT: u64 = 10;

// The owner of each node has every shard read so often: this and a repair are over before an archive has to have settled.
const READ_AGAIN_EVERY: Duration = Duration::from_secs(60);

/// How much a node deletes within a day: as ever, but with another floor.
pub(crate) const fn deletion_limits(story: Story) -> DeletionLimits {
    let floor_bytes = match story {
        // The codings of a bundle change in a fleet that grows alone.
        Story::Growth => FLOOR_BYTES_GROWTH,
        Story::Losses | Story::Disaster => FLOOR_BYTES,
    };
    DeletionLimits { floor_bytes, ..DeletionLimits::STANDARD }
}

impl Machine {
    /// The name of its host.
    pub(crate) fn host(self) -> String {
        match self {
            Self::Coordinator(number) => cast::coordinator(number),
            Self::Node(number) => cast::node(number),
        }
    }
}

impl Machines {
    /// Machines that were never switched on. With `lying_disks`, coordinators' disks say that they synced, and
    /// did not.
    pub(crate) fn new(cast: Rc<Cast>, lying_disks: bool) -> Self {
        let store = || (Memory::new(StoreKind::Log), Memory::new(StoreKind::State));
        let coordinators = match cast.story {
            Story::Losses | Story::Growth => COORDINATORS,
            Story::Disaster => 2 * COORDINATORS,
        };
        Self {
            stores: (0..coordinators).map(|_| store()).collect(),
            disks: (0..cast.nodes).map(|_| MemoryDisk::new()).collect(),
            watches: Rc::default(),
            lying_disks,
            chance: cast.chance("losses of power"),
            cast,
        }
    }

    /// Switches all of them on. Nodes behind the first join when `joining` says
    /// how many of them may.
    pub(crate) fn start(&self, sim: &mut Sim<'_>, joining: &Rc<Cell<usize>>) {
        for number in 0..self.stores.len() {
            let (cast, watches) = (Rc::clone(&self.cast), Rc::clone(&self.watches));
            let (log, state) = self.stores[number].clone();
            let (log, state) = (self.as_seen(log), self.as_seen(state));
            sim.host(cast::coordinator(number), move || {
                let (cast, watches) = (Rc::clone(&cast), Rc::clone(&watches));
                let (log, state) = (Arc::clone(&log), Arc::clone(&state));
                async move {
                    if number < COORDINATORS {
                        let joined = founder(&cast);
                        return coordinate(cast, number, log, state, watches, timing(), joined).await;
                    }
                    succeed(cast, number, log, state, watches).await
                }
            });
        }
        for (number, disk) in self.disks.iter().enumerate() {
            let (cast, disk, joining) = (Rc::clone(&self.cast), disk.clone(), Rc::clone(joining));
            let later = (number + 1).saturating_sub(self.cast.first_nodes);
            sim.host(cast::node(number), move || {
                let (cast, disk, joining) = (Rc::clone(&cast), disk.clone(), Rc::clone(&joining));
                async move {
                    while later > joining.get() {
                        tokio::time::sleep(Duration::from_millis(250)).await;
                    }
                    store(cast, number, disk).await
                }
            });
        }
    }

    /// Takes the power from a machine: what was not synced may be gone.
    pub(crate) fn crash(&mut self, sim: &mut Sim<'_>, machine: Machine) {
        sim.crash(machine.host());
        match machine {
            Machine::Coordinator(number) => {
                self.watches.borrow_mut().remove(&number);
                let (log, state) = &self.stores[number];
                log.crash(self.chance.number());
                state.crash(self.chance.number());
            }
            Machine::Node(number) => {
                self.disks[number].set_faults(DiskFaults::default());
                self.disks[number].crash(self.chance.number());
            }
        }
    }

    /// Gives a machine its power back. One that had not lost it, as a coordinator that stopped, loses it first.
    pub(crate) fn restart(&mut self, sim: &mut Sim<'_>, machine: Machine) {
        if sim.is_host_running(machine.host()) {
            self.crash(sim, machine);
        }
        sim.bounce(machine.host());
    }

    /// The coordinator that leads, as it sees it itself; the one of the latest term if there are several.
    pub(crate) fn leader(&self) -> Option<usize> {
        let statuses = self.statuses();
        let leaders = statuses.iter().filter(|(_, status)| status.is_leader);
        leaders.max_by_key(|(_, status)| status.term).map(|(number, _)| *number)
    }

    /// The states of the coordinators in force.
    pub(crate) fn states(&self) -> impl Iterator<Item = &Memory> {
        self.stores[self.cast.coordinators_in_force()].iter().map(|(_, state)| state)
    }

    /// How the consensus stands on each coordinator that runs.
    pub(crate) fn statuses(&self) -> BTreeMap<usize, ConsensusStatus> {
        self.watches.borrow().iter().map(|(number, watch)| (*number, watch.status())).collect()
    }

    fn as_seen(&self, store: Memory) -> Arc<dyn KeyValue> {
        if self.lying_disks { Arc::new(LyingDisk(store)) } else { Arc::new(store) }
    }
}

/// What a coordinator knows of its archive; none before it has taken it in. Outlives the program, as files do.
pub(crate) type KnownArchive = Rc<RefCell<Option<Joined>>>;

/// What a founder knows.
pub(crate) fn founder(cast: &Cast) -> KnownArchive {
    Rc::new(RefCell::new(Some(Joined { descriptor: cast.descriptor.clone(), named_since: None })))
}

/// Patience as ever, and short logs.
pub(crate) fn timing() -> Timing {
    Timing { snapshot_every: SNAPSHOT_EVERY, entries_kept: ENTRIES_KEPT, ..Timing::default() }
}

/// Runs a coordinator until its host ends.
pub(crate) async fn coordinate(
    cast: Rc<Cast>,
    number: usize,
    log: Arc<dyn KeyValue>,
    state: Arc<dyn KeyValue>,
    watches: Rc<RefCell<BTreeMap<usize, ConsensusWatch>>>,
    timing: Timing,
    known: KnownArchive,
) -> turmoil::Result {
    let host = cast::coordinator(number);
    let environment = cast.environment(&host);
    let identity = cast.identity(&host);
    let endpoint = Endpoint::bind(&environment, &identity, ANY, EndpointOptions::default()).await?;
    let joined = known.borrow().clone();
    let joined = match joined {
        Some(joined) => joined,
        None => ask_peers(&endpoint, &cast.founders(), None).await?,
    };
    *known.borrow_mut() = Some(joined.clone());
    let started = Coordinator::start(CoordinatorOptions {
        identity,
        descriptor: joined.descriptor,
        named_since: joined.named_since,
        endpoint,
        log,
        state,
        founding: (number == 0).then(|| cast.policy()),
        recode_after: cast.recode_after(),
        erase_after: firn_coordinator::ERASE_AFTER,
        disk_windows: None,
        address_table: None,
        filters: FilterOptions::in_memory(),
        rebuild: firn_coordinator::RebuildOptions::default(),
        timing,
        environment,
    })
    .await;
    let coordinator = match started {
        // It has nothing to do any more.
        Err(CoordinatorError::Standing(StandingError::Removed)) => std::future::pending().await,
        started => started?,
    };
    watches.borrow_mut().insert(number, coordinator.consensus().watch());
    if number == 0 {
        govern(&cast, &coordinator.administration()).await;
    }
    std::future::pending::<()>().await;
    drop(coordinator);
    Ok(())
}

/// What the founder does on the first day; done twice it changes nothing.
async fn govern(cast: &Cast, administration: &Administration) {
    let acts = [
        LedgerAct::AddPublisher(cast.publisher_entry()),
        LedgerAct::AddUploader { key: cast.identity("uploader").public(), name: "uploader".to_owned() },
        LedgerAct::AddOperator {
            key: cast.identity("operator").public(),
            name: "operator".to_owned(),
            role: firn_wire::OperatorRole::Admin,
        },
    ];
    for act in acts {
        while !is_done(administration.administer(AdminRequest::Govern(act.clone())).await) {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

fn is_done(result: Result<AdminReply, RefusedRequest>) -> bool {
    // A refusal that is not about this moment says that it was done in an earlier run.
    !matches!(result, Err(refused) if matches!(refused.kind, RefusalKind::Unavailable | RefusalKind::Uncertain))
}

async fn store(cast: Rc<Cast>, number: usize, disk: MemoryDisk) -> turmoil::Result {
    let host = cast::node(number);
    // What watches over a program starts it again when it finds its disk failing.
    let node = loop {
        match StorageNode::start(cast.environment(&host), options(&cast, number, &disk)).await {
            Ok(node) => break node,
            Err(StartNodeError::Disk(_) | StartNodeError::Archive(_)) => {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Err(error) => return Err(error.into()),
        }
    };
    // Rot that nobody comes upon would still be there at the final look.
    loop {
        node.handle().scrub();
        tokio::time::sleep(READ_AGAIN_EVERY).await;
    }
}

fn options(cast: &Cast, number: usize, disk: &MemoryDisk) -> StorageNodeOptions {
    let host = cast::node(number);
    StorageNodeOptions {
        identity: cast.identity(&host),
        disk: Arc::new(disk.clone()),
        descriptor: cast.in_force(),
        // Those who come later know it from the ledger.
        token: cast.succeeded().is_none().then(|| cast.token(number)),
        quota: Some(QUOTA),
        terms: LineTerms { max_upload: cast.max_upload(number), ..LineTerms::default() },
        deletion_limits: deletion_limits(cast.story),
        // Every shard within ten minutes, for the world is an hour old at most.
        scrub: ScrubPlan { period: Duration::from_secs(600), windows_per_day: 288 },
        failure_domain: Cast::failure_domain(number),
        listen: ANY,
        advertise: Some(cast::address(&host)),
        own_address: None,
    }
}
