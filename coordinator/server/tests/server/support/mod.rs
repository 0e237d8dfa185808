//! Members of a consensus over real connections on loopback, that can be killed and hindered.

#![allow(unreachable_pub, reason = "a module of a test program")]

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

pub use crate::archive::{PATIENCE, endpoint};
use firn_base::{Digest, NodeId, PublicKey, Timestamp};
use firn_coordinator::storage::{KeyValue, Memory, RocksDb, StorageError, StoreKind};
use firn_coordinator::{Consensus, ConsensusOptions, ConsensusStatus, ProposeError, Timing};
use firn_coordinator_logic::Scan;
use firn_transport::{Connection, ConnectionPool, Endpoint, Environment, Handler, Stream, serve};
use firn_wire::{
    COMMIT_BYTES_MAX, Command, CommandOutcome, CoordinatorReply, CoordinatorRequest, Identity, LedgerAct,
    TimedCommand,
};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

pub fn timing() -> Timing {
    Timing {
        heartbeat: Duration::from_millis(100),
        election_min: Duration::from_millis(300),
        election_max: Duration::from_millis(600),
        append_gate: Duration::from_millis(1200),
        ..Timing::default()
    }
}

/// What arrives of a snapshot at one member, and how it is hindered.
#[derive(Debug)]
pub struct Valve {
    /// Bytes of parts of snapshots that were let through.
    pub passed: AtomicU64,
    /// What comes behind so many bytes is not answered, until this is set to more.
    pub cut_at: AtomicU64,
    /// The last byte of the next part is another one.
    pub flip: AtomicBool,
}

impl Default for Valve {
    fn default() -> Self {
        Self { passed: AtomicU64::new(0), cut_at: AtomicU64::new(u64::MAX), flip: AtomicBool::new(false) }
    }
}

/// Where a message says what it is, and what a part of a snapshot says there.
const KIND: (usize, u8) = (2, 4);

impl Valve {
    /// Whether a message gets through, and how it looks then.
    fn pass(&self, message: &mut [u8]) -> bool {
        if message.get(KIND.0) != Some(&KIND.1) {
            return true;
        }
        let passed = self.passed.load(Ordering::Relaxed);
        if passed >= self.cut_at.load(Ordering::Relaxed) {
            return false;
        }
        self.passed.fetch_add(message.len().try_into().unwrap(), Ordering::Relaxed);
        if self.flip.swap(false, Ordering::Relaxed) {
            *message.last_mut().unwrap() ^= 1;
        }
        true
    }
}

struct Answer {
    consensus: Consensus,
    valve: Arc<Valve>,
}

impl Handler for Answer {
    async fn handle(&self, connection: &Connection, mut stream: Stream) {
        let Ok(CoordinatorRequest::Raft(mut message)) = stream.receive(COMMIT_BYTES_MAX).await else {
            return;
        };
        if !self.valve.pass(&mut message) {
            return stream.abort();
        }
        let reply = self.consensus.handle_raft(connection.peer(), &message).await;
        if stream.send(&CoordinatorReply::Raft(reply)).await.is_ok() {
            stream.finish();
        }
    }
}

/// One member: its disks and address outlive its program.
pub struct Machine {
    pub identity: Identity,
    address: SocketAddr,
    pub log: Memory,
    pub state: Memory,
    /// Where its stores lie, if not in memory.
    pub files: Option<tempfile::TempDir>,
    pub valve: Arc<Valve>,
    running: Option<Running>,
}

impl Machine {
    async fn stores(&self) -> (Arc<dyn KeyValue>, Arc<dyn KeyValue>) {
        match &self.files {
            None => (Arc::new(self.log.opened()), Arc::new(self.state.opened())),
            Some(files) => {
                let log = open(&files.path().join("log"), StoreKind::Log).await;
                (log, open(&files.path().join("state"), StoreKind::State).await)
            }
        }
    }
}

/// Opens a store once whoever had it open has let go of it.
async fn open(path: &Path, kind: StoreKind) -> Arc<dyn KeyValue> {
    let opened = async {
        loop {
            match RocksDb::open(path, kind) {
                Err(StorageError::Locked(_)) => sleep(Duration::from_millis(20)).await,
                opened => return opened.unwrap(),
            }
        }
    };
    Arc::new(timeout(PATIENCE, opened).await.expect("the store is let go of"))
}

struct Running {
    consensus: Consensus,
    endpoint: Endpoint,
    serving: JoinHandle<()>,
}

pub struct Cluster {
    pub machines: BTreeMap<u64, Machine>,
    timing: Timing,
}

impl Cluster {
    pub async fn start(count: u8, timing: Timing) -> Self {
        Self::start_with(count, timing, false).await
    }

    /// With RocksDB in temporary directories.
    pub async fn start_on_disk(count: u8, timing: Timing) -> Self {
        Self::start_with(count, timing, true).await
    }

    async fn start_with(count: u8, timing: Timing, on_disk: bool) -> Self {
        let mut machines = BTreeMap::new();
        for number in 1..=count {
            let identity = Identity::from_seed(&[number; 32]);
            // Holds the port until the member is started.
            let endpoint = endpoint(&identity, (Ipv4Addr::LOCALHOST, 0).into()).await;
            let machine = Machine {
                identity,
                address: endpoint.local_address(),
                log: Memory::new(StoreKind::Log),
                state: Memory::new(StoreKind::State),
                files: on_disk.then(|| tempfile::tempdir().unwrap()),
                valve: Arc::default(),
                running: None,
            };
            endpoint.close().await;
            machines.insert(u64::from(number), machine);
        }
        let mut cluster = Self { machines, timing };
        for number in 1..=u64::from(count) {
            cluster.run(number).await;
        }
        cluster
    }

    pub async fn run(&mut self, number: u64) {
        let members: BTreeMap<_, _> = self
            .machines
            .iter()
            .map(|(number, machine)| (*number, (machine.identity.node_id(), machine.address.to_string())))
            .collect();
        let timing = self.timing;
        let machine = self.machines.get_mut(&number).unwrap();
        let endpoint = endpoint(&machine.identity, machine.address).await;
        let (log, state) = machine.stores().await;
        let options = ConsensusOptions {
            raft_id: number,
            members,
            bootstrap: number == 1,
            log,
            state,
            environment: Environment::real(),
            pool: ConnectionPool::new(endpoint.clone()),
            timing,
        };
        let consensus = Consensus::start(options).await.unwrap();
        let (serving_endpoint, handler) = (
            endpoint.clone(),
            Arc::new(Answer { consensus: consensus.clone(), valve: Arc::clone(&machine.valve) }),
        );
        let serving = tokio::spawn(async move { serve(&serving_endpoint, handler).await });
        machine.running = Some(Running { consensus, endpoint, serving });
    }

    /// Ends a member; with `power`, its disks lose what was not synced.
    pub async fn kill(&mut self, number: u64, power: bool) {
        let machine = self.machines.get_mut(&number).unwrap();
        let running = machine.running.take().unwrap();
        running.serving.abort();
        running.consensus.shutdown().await;
        running.endpoint.close().await;
        drop(running);
        if power {
            machine.log.crash(number);
            machine.state.crash(number);
        }
    }

    pub fn consensus(&self, number: u64) -> &Consensus {
        &self.machines[&number].running.as_ref().unwrap().consensus
    }

    pub fn running(&self) -> Vec<u64> {
        self.machines
            .iter()
            .filter(|(_, machine)| machine.running.is_some())
            .map(|(number, _)| *number)
            .collect()
    }

    pub fn number_of(&self, id: NodeId) -> u64 {
        *self.machines.iter().find(|(_, machine)| machine.identity.node_id() == id).unwrap().0
    }

    /// The one that all running members take for their leader and that may write.
    pub async fn leader(&self) -> u64 {
        let found = async {
            let first = self.running()[0];
            let mut watch = self.consensus(first).watch();
            loop {
                let leaders: Vec<_> =
                    self.running().iter().map(|number| self.consensus(*number).leader()).collect();
                if let Some(leader) = leaders[0]
                    && leaders.iter().all(|other| *other == Some(leader))
                    && let Some(running) = &self.machines[&self.number_of(leader)].running
                    && running.consensus.may_write()
                {
                    return self.number_of(leader);
                }
                // The first member's view changes with every heartbeat, term and vote.
                let _ = timeout(Duration::from_millis(50), watch.changed()).await;
            }
        };
        timeout(PATIENCE, found).await.expect("the members agree on a leader")
    }

    /// Writes wherever it works, as a client does.
    pub async fn write(&self, command: TimedCommand) -> CommandOutcome {
        let written = async {
            loop {
                let leader = self.leader().await;
                match self.consensus(leader).propose(command.clone()).await {
                    Ok(outcome) => return outcome,
                    Err(ProposeError::NotLeader { .. } | ProposeError::Unavailable) => {
                        sleep(Duration::from_millis(20)).await;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        };
        timeout(PATIENCE, written).await.expect("a majority takes the command")
    }

    pub async fn wait(&self, number: u64, condition: impl FnMut(&ConsensusStatus) -> bool) {
        let mut watch = self.consensus(number).watch();
        assert!(timeout(PATIENCE, watch.wait_for(condition)).await.expect("the condition comes about"));
    }

    /// Waits until all running members have applied the same, and gives the one digest of their states.
    pub async fn settled(&self) -> Digest {
        let same = async {
            loop {
                let leader = self.leader().await;
                // One that leads no longer does not know.
                let Ok(applied) = self.consensus(leader).ensure_linearizable().await else { continue };
                for number in self.running() {
                    self.consensus(number).wait_applied(applied, PATIENCE).await.unwrap();
                }
                let digest_of = |number: &u64| {
                    let consensus = self.consensus(*number);
                    let digest = consensus.facts().digest().unwrap();
                    // Whoever begins to lead on a busy machine writes an entry.
                    (consensus.applied() == applied).then_some(digest)
                };
                if let Some(digests) = self.running().iter().map(digest_of).collect::<Option<Vec<_>>>() {
                    return digests;
                }
            }
        };
        let digests = timeout(PATIENCE, same).await.expect("nothing is written any more");
        assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
        digests[0]
    }

    pub async fn stop(mut self) {
        for number in self.running() {
            self.kill(number, false).await;
        }
    }
}

pub fn add_uploader(number: u64) -> TimedCommand {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&number.to_le_bytes());
    let act = LedgerAct::AddUploader { key: PublicKey::from_bytes(key), name: format!("uploader {number}") };
    TimedCommand::of_coordinators(Timestamp::from_millis(number), Command::Govern(act))
}

pub fn uploaders(consensus: &Consensus) -> usize {
    consensus.facts().ledger_state().unwrap().uploaders.len()
}
