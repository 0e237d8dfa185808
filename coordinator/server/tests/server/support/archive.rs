//! Coordinators of an archive over real connections on loopback: their disks, addresses and clocks outlive their programs.

#![allow(unreachable_pub, reason = "a module of a test program")]

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use firn_base::{ArchiveId, ByteCount, DiskWindows, NodeId, PublicKey, Timestamp, TokenId};
use firn_coordinator::storage::{KeyValue, Memory, StoreKind};
use firn_coordinator::{
    Administration, Coordinator, CoordinatorError, CoordinatorOptions, ERASE_AFTER, FilterOptions, Joined,
    Peer, RECODE_AFTER, Timing, ask_back, ask_peers, found_archive,
};
use firn_coordinator_logic::Scan;
use firn_transport::{Blocking, Clock, Endpoint, EndpointOptions, Entropy, Environment};
use firn_wire::{
    AdminReply, AdminRequest, Command, CommandOutcome, CoordinatorStatus, DeletionRoom, Descriptor,
    DomainRule, Identity, LedgerAct, MemberChange, MemberList, MemberStep, NodeStatus, Policy, RefusalKind,
    RefusedRequest, Roster, Signed, TimedCommand,
};
use tokio::time::{sleep, timeout};

use crate::slow_disk::SlowDisk;

pub const PATIENCE: Duration = Duration::from_secs(180);
pub const PAUSE: Duration = Duration::from_millis(20);

/// Of each node.
const QUOTA_BYTES: u64 = 1 << 40;

/// One coordinator: its disks and address outlive its program.
pub struct Machine {
    pub identity: Identity,
    pub address: SocketAddr,
    pub log: Memory,
    pub state: Memory,
    pub clock: Arc<SetClock>,
    pub running: Option<Coordinator>,
    /// How long each write to its state takes.
    pub slowness: Option<Duration>,
    /// In which windows disks work for what can wait.
    pub disk_windows: Option<DiskWindows>,
}

/// The machine's clock, put off by so many milliseconds.
#[derive(Debug)]
pub struct SetClock {
    real: Environment,
    ahead_millis: AtomicI64,
}

impl SetClock {
    pub fn set(&self, ahead_millis: i64) {
        self.ahead_millis.store(ahead_millis, Ordering::Relaxed);
    }

    pub fn advance(&self, millis: i64) {
        self.ahead_millis.fetch_add(millis, Ordering::Relaxed);
    }
}

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        let ahead = self.ahead_millis.load(Ordering::Relaxed);
        Timestamp::from_millis(self.real.now().as_millis().saturating_add_signed(ahead))
    }
}

pub struct Archive {
    pub key: Identity,
    pub descriptor: Descriptor,
    pub machines: BTreeMap<u8, Machine>,
    pub timing: Timing,
}

pub fn timing() -> Timing {
    Timing {
        heartbeat: Duration::from_millis(100),
        election_min: Duration::from_millis(300),
        election_max: Duration::from_millis(600),
        append_gate: Duration::from_millis(1200),
        // New ones catch up by snapshot as well as by log.
        snapshot_every: 50,
        entries_kept: 20,
        ..Timing::default()
    }
}

impl Entropy for SetClock {
    fn fill(&self, bytes: &mut [u8]) {
        self.real.fill(bytes);
    }
}

/// The real world, but for the clock.
fn environment(clock: &Arc<SetClock>) -> Environment {
    let (sockets, entropy) = (Arc::clone(clock.real.sockets()), Arc::clone(clock) as Arc<dyn Entropy>);
    Environment::new(Arc::clone(clock) as Arc<dyn Clock>, sockets, entropy, Blocking::Threads)
}

pub fn policy() -> Policy {
    Policy {
        domains: DomainRule::Named,
        repair_at: None,
        repair_at_full: false,
        count_lost_after_millis: 72 * 3_600_000,
        brake: true,
        trust_declared_domains: false,
    }
}

pub async fn endpoint(identity: &Identity, address: SocketAddr) -> Endpoint {
    let environment = Environment::real();
    let bound = async {
        loop {
            match Endpoint::bind(&environment, identity, address, EndpointOptions::default()).await {
                Ok(endpoint) => return endpoint,
                // The tasks of the endpoint before end soon after it was closed; the port is free then.
                Err(_) => sleep(PAUSE).await,
            }
        }
    };
    timeout(PATIENCE, bound).await.expect("the port becomes free")
}

pub async fn machine(number: u8) -> Machine {
    let identity = Identity::from_seed(&[number; 32]);
    let bound = endpoint(&identity, (Ipv4Addr::LOCALHOST, 0).into()).await;
    let address = bound.local_address();
    bound.close().await;
    let (log, state) = (Memory::new(StoreKind::Log), Memory::new(StoreKind::State));
    let clock = Arc::new(SetClock { real: Environment::real(), ahead_millis: AtomicI64::new(0) });
    Machine { identity, address, log, state, clock, running: None, slowness: None, disk_windows: None }
}

/// Lets a node join, as its operator's only one.
pub fn join_node(number: u8, node: NodeId) -> Command {
    Command::JoinNode {
        node,
        operator: format!("operator-{number}"),
        failure_domain: format!("domain-{number}"),
        vouched: true,
        seen_at: None,
        address: format!("[2001:db8::{number:x}]:7001"),
        quota_bytes: QUOTA_BYTES,
        token: Some(TokenId::from_bytes([number; 32])),
    }
}

/// What a node says of itself that holds nothing.
pub fn empty_node() -> NodeStatus {
    NodeStatus {
        address: "127.0.0.1:1".into(),
        quota: ByteCount(QUOTA_BYTES),
        used: ByteCount(0),
        young_trash: ByteCount(0),
        deletion_room: DeletionRoom { all: ByteCount(0), unique: ByteCount(0) },
        refused_deletions: 0,
        shards: 0,
        max_upload: None,
        rest: None,
        leaving: false,
        run: 1,
        erased_through: 0,
    }
}

/// Waits until `look` finds something.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let found = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            sleep(PAUSE).await;
        }
    };
    timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("it comes about that {what}"))
}

impl Archive {
    pub async fn found(count: u8) -> Self {
        Self::found_with(count, |_| ()).await
    }

    /// The same on machines that are prepared before.
    pub async fn found_with(count: u8, prepare: impl Fn(&mut Machine)) -> Self {
        let mut machines = BTreeMap::new();
        for number in 1..=count {
            let mut bare = machine(number).await;
            prepare(&mut bare);
            machines.insert(number, bare);
        }
        let peer =
            |machine: &Machine| Peer { id: machine.identity.node_id(), address: machine.address.to_string() };
        let peers: Vec<_> = machines.values().skip(1).map(peer).collect();
        let key = Identity::from_seed(&[200; 32]);
        let descriptor = found_archive(&key, peer(&machines[&1]), &peers, Timestamp::from_millis(1));
        let mut archive = Self { key, descriptor, machines, timing: timing() };
        for number in 1..=count {
            let joined = Joined { descriptor: archive.descriptor.clone(), named_since: None };
            archive.start(number, joined, number == 1).await.unwrap();
        }
        archive
    }

    pub async fn start(
        &mut self,
        number: u8,
        joined: Joined,
        founding: bool,
    ) -> Result<(), CoordinatorError> {
        let timing = self.timing;
        let machine = self.machines.get_mut(&number).unwrap();
        let endpoint = endpoint(&machine.identity, machine.address).await;
        let state: Arc<dyn KeyValue> = match machine.slowness {
            Some(takes) => Arc::new(SlowDisk { disk: machine.state.opened(), takes }),
            None => Arc::new(machine.state.opened()),
        };
        let coordinator = Coordinator::start(CoordinatorOptions {
            identity: machine.identity.clone(),
            descriptor: joined.descriptor,
            named_since: joined.named_since,
            endpoint,
            log: Arc::new(machine.log.opened()),
            state,
            founding: founding.then(policy),
            timing,
            recode_after: RECODE_AFTER,
            erase_after: ERASE_AFTER,
            disk_windows: machine.disk_windows,
            address_table: None,
            filters: FilterOptions::in_memory(),
            rebuild: firn_coordinator::RebuildOptions::default(),
            environment: environment(&machine.clock),
        });
        machine.running = Some(coordinator.await?);
        Ok(())
    }

    /// A machine that was not there before, waiting for its archive as the program does. It is added meanwhile.
    pub async fn add(&mut self, number: u8) {
        self.machines.insert(number, machine(number).await);
        let id = self.id(number);
        let address = self.machines[&number].address.to_string();
        let waiting = self.join(number);
        let adding = async {
            let change = MemberChange::Add { id, address };
            assert_eq!(self.change(change).await, Ok(MemberStep::Added));
        };
        let (joined, ()) = tokio::join!(waiting, adding);
        self.start(number, joined, false).await.unwrap();
    }

    pub async fn join(&self, number: u8) -> Joined {
        let identity = &self.machines[&number].identity;
        let endpoint = endpoint(identity, (Ipv4Addr::LOCALHOST, 0).into()).await;
        let joined = timeout(PATIENCE, ask_peers(&endpoint, &self.peers(), None)).await.unwrap().unwrap();
        endpoint.close().await;
        joined
    }

    pub fn id(&self, number: u8) -> NodeId {
        self.machines[&number].identity.node_id()
    }

    /// A coordinator whose disks were wiped has the others take it back, and begins again without a vote.
    pub async fn readmit(&mut self, number: u8) {
        let machine = self.machines.get_mut(&number).unwrap();
        (machine.log, machine.state) = (Memory::new(StoreKind::Log), Memory::new(StoreKind::State));
        let endpoint = endpoint(&machine.identity, machine.address).await;
        let peers = self.peers();
        let joined = timeout(PATIENCE, ask_back(&endpoint, &peers)).await.unwrap().unwrap();
        endpoint.close().await;
        // It holds the port.
        drop(endpoint);
        self.start(number, joined, false).await.unwrap();
    }

    /// Those that run.
    fn peers(&self) -> Vec<Peer> {
        let running = self.machines.values().filter(|machine| machine.running.is_some());
        running
            .map(|machine| Peer { id: machine.identity.node_id(), address: machine.address.to_string() })
            .collect()
    }

    /// Ends one without its shutdown code; its disks lose what was not synced, and nothing that is left of it (tasks of the
    /// consensus live until their last handle goes) reads or writes them any more.
    pub fn kill(&mut self, number: u8) {
        let machine = self.machines.get_mut(&number).unwrap();
        drop(machine.running.take());
        machine.log.crash(number.into());
        machine.state.crash(number.into());
    }

    /// Ends one in order: nothing of it writes any more.
    pub async fn end(&mut self, number: u8) {
        let running = self.machines.get_mut(&number).unwrap().running.take();
        running.unwrap().shutdown().await;
    }

    pub fn running(&self) -> Vec<u8> {
        let running = self.machines.iter().filter(|(_, machine)| {
            machine.running.as_ref().is_some_and(|running| running.consensus().status().failure.is_none())
        });
        running.map(|(number, _)| *number).collect()
    }

    pub fn coordinator(&self, number: u8) -> &Coordinator {
        self.machines[&number].running.as_ref().unwrap()
    }

    pub fn any(&self) -> Administration {
        self.coordinator(self.running()[0]).administration()
    }

    /// Asks any of them until one can answer.
    pub async fn ask(&self, request: AdminRequest) -> Result<AdminReply, RefusedRequest> {
        until("a coordinator answers", async || match self.any().administer(request.clone()).await {
            Err(refused) if matches!(refused.kind, RefusalKind::Unavailable | RefusalKind::Uncertain) => None,
            answer => Some(answer),
        })
        .await
    }

    pub async fn change(&self, change: MemberChange) -> Result<MemberStep, String> {
        match self.ask(AdminRequest::ChangeMember(change)).await {
            Ok(AdminReply::MemberChanged(step)) => Ok(step),
            Ok(other) => panic!("{other:?}"),
            Err(refused) => Err(refused.sentence),
        }
    }

    pub async fn list(&self) -> MemberList {
        match self.ask(AdminRequest::Members).await {
            Ok(AdminReply::Members(list)) => list,
            other => panic!("{other:?}"),
        }
    }

    pub async fn until_listed(&self, what: &str, condition: impl Fn(&[CoordinatorStatus]) -> bool) {
        until(what, async || condition(&self.list().await.members).then_some(())).await;
    }

    pub async fn promote(&self, number: u8) {
        let id = self.id(number);
        self.until_listed("a learner catches up", |members| {
            members.iter().any(|member| member.id == id && member.lag.is_some_and(|lag| lag < 100))
        })
        .await;
        assert_eq!(self.change(MemberChange::Promote { id }).await, Ok(MemberStep::Promoted));
    }

    /// Signs the roster that names the members in force, and waits until all that run have it.
    pub async fn sign(&mut self) {
        let Ok(AdminReply::RosterDraft(roster)) = self.ask(AdminRequest::DraftRoster).await else {
            panic!("no draft")
        };
        self.descriptor = self.seal(&roster);
        let adopted = self.ask(AdminRequest::AdoptRoster(self.descriptor.clone())).await;
        assert!(matches!(adopted, Ok(AdminReply::RosterAdopted { .. })), "{adopted:?}");
        let generation = roster.generation;
        until("all have the roster", async || {
            let has = |number: &u8| self.coordinator(*number).descriptor().roster.peek().unwrap().generation;
            self.running().iter().all(|number| has(number) == generation).then_some(())
        })
        .await;
        assert!(self.list().await.gap.is_closed());
    }

    pub fn seal(&self, roster: &Roster) -> Descriptor {
        let archive: ArchiveId = self.key.public().into();
        Descriptor { archive, roster: Signed::seal(&self.key, archive, roster) }
    }

    pub async fn leader(&self) -> u8 {
        until("one leads", async || {
            let leader = self.list().await.members.into_iter().find(|member| member.leader)?.id;
            self.running().into_iter().find(|number| {
                self.id(*number) == leader && self.coordinator(*number).consensus().may_write()
            })
        })
        .await
    }

    /// Has the leader apply a command as of a time.
    pub async fn apply(&self, at: Timestamp, command: Command) {
        let timed = TimedCommand::of_coordinators(at, command);
        let outcome = until("the leader takes the command", async || {
            let leader = self.leader().await;
            // On the heap: the compiler bounds how deep futures lie in each other.
            Box::pin(self.coordinator(leader).consensus().propose(timed.clone())).await.ok()
        })
        .await;
        assert!(!matches!(outcome, CommandOutcome::Rejected(_)), "{outcome:?}");
    }

    /// Writes as a client does that goes from one to the next, until it is told to stop. Gives what was acknowledged.
    pub fn writer(&self) -> Writer {
        let stop = Arc::new(AtomicBool::new(false));
        let everyone = Arc::new(std::sync::Mutex::new(Vec::new()));
        let written = Arc::new(AtomicU64::new(0));
        let (stopped, targets, count) = (Arc::clone(&stop), Arc::clone(&everyone), Arc::clone(&written));
        let task = tokio::spawn(async move {
            let mut next = 0;
            while !stopped.load(Ordering::Relaxed) {
                let targets: Vec<Administration> = targets.lock().unwrap().clone();
                let Some(target) = targets.get(next % targets.len().max(1)) else {
                    sleep(PAUSE).await;
                    continue;
                };
                match target
                    .administer(AdminRequest::Govern(add_uploader(count.load(Ordering::Relaxed))))
                    .await
                {
                    Ok(_) => {
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(_) => {
                        next += 1;
                        sleep(PAUSE).await;
                    }
                }
            }
        });
        let writer = Writer { stop, everyone, written, task };
        writer.use_all_of(self);
        writer
    }

    /// All that run have the same state, and in it everything that was acknowledged.
    pub async fn check(&self, written: u64) {
        let leader = self.leader().await;
        let applied = self.coordinator(leader).consensus().ensure_linearizable().await.unwrap();
        for number in self.running() {
            let consensus = self.coordinator(number).consensus();
            consensus.wait_applied(applied, PATIENCE).await.unwrap();
            let uploaders = consensus.facts().ledger_state().unwrap().uploaders;
            for one in 0..written {
                assert!(
                    uploaders.contains_key(&uploader(one)),
                    "coordinator {number} lost write {one} of {written}"
                );
            }
        }
        // A leader proposes by itself now and then: what one has applied another may be about to.
        until("all have the same state", async || {
            let digest = |number| self.coordinator(number).consensus().facts().digest().unwrap();
            let digests: Vec<_> = self.running().into_iter().map(digest).collect();
            digests.iter().all(|digest| *digest == digests[0]).then_some(())
        })
        .await;
    }
}

pub struct Writer {
    pub stop: Arc<AtomicBool>,
    pub everyone: Arc<std::sync::Mutex<Vec<Administration>>>,
    pub written: Arc<AtomicU64>,
    pub task: tokio::task::JoinHandle<()>,
}

impl Writer {
    pub fn use_all_of(&self, archive: &Archive) {
        let all = archive.running().into_iter().map(|number| archive.coordinator(number).administration());
        *self.everyone.lock().unwrap() = all.collect();
    }

    /// Writes go on.
    pub async fn goes_on(&self) {
        let before = self.written.load(Ordering::Relaxed);
        until("writes go on", async || (self.written.load(Ordering::Relaxed) > before + 5).then_some(()))
            .await;
    }

    pub async fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
        self.written.load(Ordering::Relaxed)
    }
}

pub fn uploader(number: u64) -> PublicKey {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&number.to_le_bytes());
    PublicKey::from_bytes(key)
}

pub fn add_uploader(number: u64) -> LedgerAct {
    LedgerAct::AddUploader { key: uploader(number), name: format!("uploader {number}") }
}
