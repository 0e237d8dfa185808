//! Members of a consensus over real connections on loopback.

#![expect(clippy::unwrap_used, reason = "a test stops at whatever surprises it")]

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use firn_base::{Digest, NodeId, PublicKey, Timestamp};
use firn_coordinator::storage::{Fault, KeyValue, Memory, StoreKind};
use firn_coordinator::{Consensus, ConsensusOptions, ConsensusStatus, ProposeError, Timing};
use firn_coordinator_logic::{Facts, Scan};
use firn_transport::{
    Connection, ConnectionPool, Endpoint, EndpointOptions, Environment, Handler, Stream, serve,
};
use firn_wire::{
    COMMIT_BYTES_MAX, Command, CommandOutcome, CoordinatorReply, CoordinatorRequest, Identity, LedgerAct,
    TimedCommand,
};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(20);

fn timing() -> Timing {
    Timing {
        heartbeat: Duration::from_millis(100),
        election_min: Duration::from_millis(300),
        election_max: Duration::from_millis(600),
        ..Timing::default()
    }
}

struct Answer(Consensus);

impl Handler for Answer {
    async fn handle(&self, connection: &Connection, mut stream: Stream) {
        let Ok(CoordinatorRequest::Raft(message)) = stream.receive(COMMIT_BYTES_MAX).await else { return };
        let reply = self.0.handle_raft(connection.peer(), &message).await;
        if stream.send(&CoordinatorReply::Raft(reply)).await.is_ok() {
            stream.finish();
        }
    }
}

/// One member: its disks and address outlive its program.
struct Machine {
    identity: Identity,
    address: SocketAddr,
    log: Memory,
    state: Memory,
    running: Option<Running>,
}

struct Running {
    consensus: Consensus,
    endpoint: Endpoint,
    serving: JoinHandle<()>,
}

struct Cluster {
    machines: BTreeMap<u64, Machine>,
    timing: Timing,
}

impl Cluster {
    async fn start(count: u8, timing: Timing) -> Self {
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

    async fn run(&mut self, number: u64) {
        let members: BTreeMap<_, _> = self
            .machines
            .iter()
            .map(|(number, machine)| (*number, (machine.identity.node_id(), machine.address.to_string())))
            .collect();
        let timing = self.timing;
        let machine = self.machines.get_mut(&number).unwrap();
        let endpoint = endpoint(&machine.identity, machine.address).await;
        let options = ConsensusOptions {
            raft_id: number,
            members,
            bootstrap: number == 1,
            log: Arc::new(machine.log.clone()),
            state: Arc::new(machine.state.clone()),
            environment: Environment::real(),
            pool: ConnectionPool::new(endpoint.clone()),
            timing,
        };
        let consensus = Consensus::start(options).await.unwrap();
        let (serving_endpoint, handler) = (endpoint.clone(), Arc::new(Answer(consensus.clone())));
        let serving = tokio::spawn(async move { serve(&serving_endpoint, handler).await });
        machine.running = Some(Running { consensus, endpoint, serving });
    }

    /// Ends a member; with `power`, its disks lose what was not synced.
    async fn kill(&mut self, number: u64, power: bool) {
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

    fn consensus(&self, number: u64) -> &Consensus {
        &self.machines[&number].running.as_ref().unwrap().consensus
    }

    fn running(&self) -> Vec<u64> {
        self.machines
            .iter()
            .filter(|(_, machine)| machine.running.is_some())
            .map(|(number, _)| *number)
            .collect()
    }

    fn number_of(&self, id: NodeId) -> u64 {
        *self.machines.iter().find(|(_, machine)| machine.identity.node_id() == id).unwrap().0
    }

    /// The one that all running members take for their leader and that may write.
    async fn leader(&self) -> u64 {
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
    async fn write(&self, command: TimedCommand) -> CommandOutcome {
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

    async fn wait(&self, number: u64, condition: impl FnMut(&ConsensusStatus) -> bool) {
        let mut watch = self.consensus(number).watch();
        assert!(timeout(PATIENCE, watch.wait_for(condition)).await.expect("the condition comes about"));
    }

    /// Waits until all running members have applied the same, and gives the one digest of their states.
    async fn settled(&self) -> Digest {
        let leader = self.leader().await;
        let applied = self.consensus(leader).ensure_linearizable().await.unwrap();
        for number in self.running() {
            self.consensus(number).wait_applied(applied, PATIENCE).await.unwrap();
        }
        let digests: Vec<_> = self
            .running()
            .iter()
            .map(|number| {
                let consensus = self.consensus(*number);
                assert_eq!(consensus.applied(), applied, "nothing is written meanwhile");
                consensus.facts().digest().unwrap()
            })
            .collect();
        assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
        digests[0]
    }

    async fn stop(mut self) {
        for number in self.running() {
            self.kill(number, false).await;
        }
    }
}

async fn endpoint(identity: &Identity, address: SocketAddr) -> Endpoint {
    let environment = Environment::real();
    let bound = async {
        loop {
            // The tasks of the endpoint before end soon after it was closed; the port is free then.
            match Endpoint::bind(&environment, identity, address, EndpointOptions::default()).await {
                Ok(endpoint) => return endpoint,
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
        }
    };
    timeout(PATIENCE, bound).await.expect("the port becomes free")
}

fn add_uploader(number: u64) -> TimedCommand {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&number.to_le_bytes());
    let act = LedgerAct::AddUploader { key: PublicKey::from_bytes(key), name: format!("uploader {number}") };
    TimedCommand { at: Timestamp::from_millis(number), command: Command::Govern(act) }
}

fn uploaders(consensus: &Consensus) -> usize {
    consensus.facts().ledger_state().unwrap().uploaders.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_member_alone_leads_and_writes() {
    let mut cluster = Cluster::start(1, timing()).await;
    assert_eq!(cluster.write(add_uploader(1)).await, CommandOutcome::Applied);
    assert_eq!(uploaders(cluster.consensus(1)), 1);
    cluster.kill(1, true).await;
    cluster.run(1).await;
    cluster.settled().await;
    assert_eq!(uploaders(cluster.consensus(1)), 1);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_agree_and_outlive_their_leader() {
    let mut cluster = Cluster::start(3, timing()).await;
    for number in 1..=20 {
        assert_eq!(cluster.write(add_uploader(number)).await, CommandOutcome::Applied);
    }
    cluster.settled().await;
    let first = cluster.leader().await;
    let watched = cluster.consensus(first).clone();
    cluster
        .wait(first, |_| {
            let status = watched.members_status();
            assert_eq!(status.len(), 3);
            assert_eq!(status.iter().filter(|member| member.leader).count(), 1);
            status.iter().all(|member| member.online && member.lag == Some(0))
        })
        .await;
    drop(watched);
    let follower = cluster.running().into_iter().find(|number| *number != first).unwrap();
    let refused = cluster.consensus(follower).propose(add_uploader(99)).await;
    let leader = Some(cluster.machines[&first].identity.node_id());
    assert_eq!(refused, Err(ProposeError::NotLeader { leader }));

    cluster.kill(first, true).await;
    for number in 21..=40 {
        assert_eq!(cluster.write(add_uploader(number)).await, CommandOutcome::Applied);
    }
    let second = cluster.leader().await;
    assert_ne!(second, first);
    cluster.run(first).await;
    cluster.settled().await;
    assert_eq!(uploaders(cluster.consensus(first)), 40);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_a_loss_of_power_of_all_members_at_once() {
    let mut cluster = Cluster::start(3, timing()).await;
    for number in 1..=15 {
        cluster.write(add_uploader(number)).await;
    }
    for number in cluster.running() {
        cluster.kill(number, true).await;
    }
    for number in 1..=3 {
        cluster.run(number).await;
    }
    cluster.write(add_uploader(16)).await;
    cluster.settled().await;
    assert_eq!(uploaders(cluster.consensus(2)), 16);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_lags_behind_the_log_gets_a_snapshot() {
    let timing = Timing { snapshot_every: 20, entries_kept: 5, ..timing() };
    let mut cluster = Cluster::start(3, timing).await;
    let leader = cluster.leader().await;
    let lagging = cluster.running().into_iter().find(|number| *number != leader).unwrap();
    cluster.kill(lagging, false).await;
    for number in 1..=80 {
        cluster.write(add_uploader(number)).await;
    }
    // The log no longer begins where the lagging member ended.
    cluster.run(lagging).await;
    cluster.wait(lagging, |status| status.applied >= 80).await;
    cluster.settled().await;
    assert_eq!(uploaders(cluster.consensus(lagging)), 80);
    cluster.kill(lagging, true).await;
    cluster.run(lagging).await;
    cluster.settled().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_without_a_majority_refuses_writes_and_a_majority_goes_on() {
    let mut cluster = Cluster::start(3, timing()).await;
    cluster.write(add_uploader(1)).await;
    let leader = cluster.leader().await;
    let others: Vec<_> = cluster.running().into_iter().filter(|number| *number != leader).collect();
    for number in &others {
        cluster.kill(*number, false).await;
    }
    let alone = cluster.consensus(leader).clone();
    cluster.wait(leader, |_| !alone.may_write()).await;
    let refused = alone.propose(add_uploader(2)).await;
    assert!(
        matches!(refused, Err(ProposeError::Unavailable | ProposeError::NotLeader { .. })),
        "{refused:?}"
    );
    assert!(alone.ensure_linearizable().await.is_err());
    cluster.run(others[0]).await;
    assert_eq!(cluster.write(add_uploader(3)).await, CommandOutcome::Applied);
    drop(alone);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_disk_fails_stops_and_the_others_go_on() {
    let mut cluster = Cluster::start(3, timing()).await;
    cluster.write(add_uploader(1)).await;
    let leader = cluster.leader().await;
    cluster.machines[&leader].log.inject(Fault::Full, 0);
    let failed = cluster.consensus(leader).propose(add_uploader(2)).await;
    assert!(failed.is_err(), "{failed:?}");
    cluster.wait(leader, |status| status.failure.is_some()).await;
    cluster.kill(leader, true).await;
    assert_eq!(cluster.write(add_uploader(3)).await, CommandOutcome::Applied);
    cluster.run(leader).await;
    cluster.settled().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_takes_longer_than_a_heartbeat_reaches_all_members() {
    let cluster = Cluster::start(3, Timing::default()).await;
    let act = LedgerAct::RemovePublisher { name: "x".repeat(20 << 20) };
    let command = TimedCommand { at: Timestamp::from_millis(1), command: Command::Govern(act) };
    cluster.write(command).await;
    cluster.write(add_uploader(1)).await;
    cluster.settled().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_not_listened_to() {
    let cluster = Cluster::start(1, timing()).await;
    cluster.write(add_uploader(1)).await;
    let consensus = cluster.consensus(1);
    let before = consensus.status();
    let stranger = Identity::from_seed(&[99; 32]).public();
    // A request for a vote in a far term: version, kind, vote (term 1000, member 1, not committed), no log.
    let request = [1, 0, 1, 0xe8, 0x07, 1, 0, 0];
    for message in [&request[..], &[], &[1, 0], &[1, 0, 200], &[0xff; 64]] {
        consensus.handle_raft(stranger, message).await;
    }
    assert_eq!(consensus.status(), before);
    assert!(consensus.facts().counters().unwrap().ledger.entries == 1);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flushed_state_needs_no_log() {
    // The state without the log that made it is what a purge leaves.
    let mut cluster = Cluster::start(1, Timing { snapshot_every: 10, entries_kept: 0, ..timing() }).await;
    for number in 1..=30 {
        cluster.write(add_uploader(number)).await;
    }
    cluster.machines[&1].state.flush().unwrap();
    cluster.kill(1, true).await;
    cluster.run(1).await;
    cluster.wait(1, |status| status.applied >= 30).await;
    assert_eq!(uploaders(cluster.consensus(1)), 30);
    cluster.stop().await;
}
