//! Coordinators of which one knows fewer commands than the others, as in an archive that is upgraded one by one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::archive::{Archive, Machine, endpoint, machine, timing, until};
use firn_base::{ObjectKey, PublicKey, Timestamp};
use firn_coordinator::{Consensus, ConsensusOptions, Joined, Peer, Timing, found_archive};
use firn_coordinator_logic::Facts;
use firn_transport::{Connection, ConnectionPool, Endpoint, Environment, Handler, Stream, serve};
use firn_wire::{
    AdminReply, AdminRequest, COMMIT_BYTES_MAX, Command, CoordinatorReply, CoordinatorRequest, FEATURE_LEVEL,
    Identity, LedgerAct, RefusalKind, RefusedRequest,
};
use tokio::task::JoinHandle;

const OLDER: u8 = 3;

/// The level before purges.
const OLDER_LEVEL: u16 = 1;

/// A member that takes part in the consensus and says that it knows fewer commands.
struct Older {
    consensus: Consensus,
    endpoint: Endpoint,
    serving: JoinHandle<()>,
    answers: Arc<Answers>,
}

struct Answers {
    consensus: Consensus,
    /// How often each of the others has asked what it knows.
    asked: BTreeMap<PublicKey, AtomicUsize>,
}

impl Handler for Answers {
    async fn handle(&self, connection: &Connection, mut stream: Stream) {
        let Ok(request) = stream.receive(COMMIT_BYTES_MAX).await else { return };
        let reply = match request {
            CoordinatorRequest::Raft(message) => {
                CoordinatorReply::Raft(self.consensus.handle_raft(connection.peer(), &message).await)
            }
            CoordinatorRequest::StateDigests => {
                self.asked[&connection.peer()].fetch_add(1, Ordering::Relaxed);
                CoordinatorReply::StateDigests {
                    digests: self.consensus.late_digests(),
                    feature_level: OLDER_LEVEL,
                    clock: Environment::real().now(),
                }
            }
            _ => CoordinatorReply::Refused(RefusedRequest::new(RefusalKind::Unavailable, "ask another one")),
        };
        if stream.send(&reply).await.is_ok() {
            stream.finish();
        }
    }
}

impl Older {
    async fn start(archive: &Archive) -> Self {
        let machine = &archive.machines[&OLDER];
        let roster = archive.descriptor.verify().unwrap();
        let entries = &roster.roster().coordinators;
        let members =
            entries.iter().map(|entry| (entry.raft_id, (entry.id, entry.address.clone()))).collect();
        let endpoint = endpoint(&machine.identity, machine.address).await;
        let options = ConsensusOptions {
            raft_id: roster.entry(machine.identity.node_id()).unwrap().raft_id,
            members,
            bootstrap: false,
            log: Arc::new(machine.log.opened()),
            state: Arc::new(machine.state.opened()),
            environment: Environment::real(),
            pool: ConnectionPool::new(endpoint.clone()),
            // It never asks for votes: what this is about is what a leader makes of its answers.
            timing: Timing {
                election_min: Duration::from_secs(3600),
                election_max: Duration::from_secs(7200),
                ..timing()
            },
        };
        let consensus = Consensus::start(options).await.unwrap();
        let others = archive.machines.values().map(|machine| machine.identity.public());
        let asked = others.map(|other| (other, AtomicUsize::new(0))).collect();
        let answers = Arc::new(Answers { consensus: consensus.clone(), asked });
        let (serving_endpoint, handler) = (endpoint.clone(), Arc::clone(&answers));
        let serving = tokio::spawn(async move { serve(&serving_endpoint, handler).await });
        Self { consensus, endpoint, serving, answers }
    }

    /// How often one of the others has asked what it knows.
    fn asked_by(&self, other: &Machine) -> usize {
        self.answers.asked[&other.identity.public()].load(Ordering::Relaxed)
    }

    async fn end(self) {
        self.serving.abort();
        self.consensus.shutdown().await;
        self.endpoint.close().await;
    }
}

/// An archive of three, of which those that know all commands run.
async fn without_the_older() -> Archive {
    let mut machines = BTreeMap::new();
    for number in 1..=OLDER {
        machines.insert(number, machine(number).await);
    }
    let peer =
        |machine: &Machine| Peer { id: machine.identity.node_id(), address: machine.address.to_string() };
    let peers: Vec<_> = machines.values().skip(1).map(peer).collect();
    let key = Identity::from_seed(&[200; 32]);
    let descriptor = found_archive(&key, peer(&machines[&1]), &peers, Timestamp::from_millis(1));
    let mut archive = Archive { key, descriptor, machines, timing: timing() };
    for number in 1..OLDER {
        start(&mut archive, number).await;
    }
    archive
}

async fn start(archive: &mut Archive, number: u8) {
    let joined = Joined { descriptor: archive.descriptor.clone(), named_since: None };
    archive.start(number, joined, number == 1).await.unwrap();
}

/// The level that the state of one has.
fn level(archive: &Archive, number: u8) -> u16 {
    archive.coordinator(number).consensus().facts().counters().unwrap().feature_level
}

fn key() -> ObjectKey {
    ObjectKey::store_path([7; 20])
}

/// Asks the leader for a purge, which is of a later level than the older one knows.
async fn purge(archive: &Archive) -> Result<AdminReply, RefusedRequest> {
    let act = LedgerAct::Purge { key: key(), reason: "a court said so".into() };
    assert!(Command::Govern(act.clone()).level() > OLDER_LEVEL);
    let leader = archive.leader().await;
    archive.coordinator(leader).administration().administer(AdminRequest::Govern(act)).await
}

/// The sentence of a refusal that says which levels do not fit.
async fn purge_refused(archive: &Archive, committed: u16) -> String {
    until("the leader knows what keeps it from a purge", async || {
        let refused = purge(archive).await.expect_err("not all know of purges");
        assert_eq!(refused.kind, RefusalKind::Unavailable, "{refused}");
        let levels = format!(
            "this takes commands of level {}, and the coordinators have agreed on level {committed}: ",
            OLDER_LEVEL + 1
        );
        let waiting = refused.sentence.strip_prefix(&levels).map(str::to_owned);
        // That is said until it has heard of the others, or has not.
        waiting.filter(|waiting| !waiting.contains("are about to agree"))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_wait_for_the_last_coordinator_that_does_not_know_them_and_everything_else_goes_on() {
    let mut archive = without_the_older().await;
    let short = archive.id(OLDER).short().to_string();
    let writer = archive.writer();
    writer.goes_on().await;
    // Nobody knows what one that is away knows.
    let waiting = purge_refused(&archive, 0).await;
    assert_eq!(waiting, format!("start {short}, which does not say what it knows"));

    let older = Older::start(&archive).await;
    until("they agree on what the older one knows", async || {
        (1..OLDER).all(|number| level(&archive, number) == OLDER_LEVEL).then_some(())
    })
    .await;
    writer.goes_on().await;
    let waiting = purge_refused(&archive, OLDER_LEVEL).await;
    assert_eq!(waiting, format!("upgrade {short}, which knows level {OLDER_LEVEL}"));
    // Whoever leads asks again, and nothing comes of it.
    let leading = &archive.machines[&archive.leader().await];
    let before = older.asked_by(leading);
    until("the leader asks it again", async || (older.asked_by(leading) > before + 1).then_some(())).await;
    assert_eq!(older.consensus.facts().counters().unwrap().feature_level, OLDER_LEVEL);
    purge_refused(&archive, OLDER_LEVEL).await;
    writer.goes_on().await;
    // Of a suspension the operator hears what else there is.
    let node = firn_base::NodeId::from_bytes([7; 32]);
    let announce = AdminRequest::AnnounceSuspension { node, reason: "new disks".into() };
    let leader = archive.leader().await;
    let refused = archive.coordinator(leader).administration().administer(announce).await.unwrap_err();
    let or = format!(
        "upgrade {short}, which knows level {OLDER_LEVEL}; a node that does harm can be suspended at once with --now"
    );
    assert!(refused.sentence.ends_with(&or), "{refused}");

    older.end().await;
    start(&mut archive, OLDER).await;
    until("all agree on what all know", async || {
        (1..=OLDER).all(|number| level(&archive, number) == FEATURE_LEVEL).then_some(())
    })
    .await;
    let refused = purge(&archive).await.expect_err("it is not withdrawn");
    assert_eq!(refused.sentence, "the path is not withdrawn");
    let withdraw = LedgerAct::Withdraw { key: key(), reason: "a court said so".into() };
    archive.ask(AdminRequest::Govern(withdraw)).await.unwrap();
    assert_eq!(purge(&archive).await, Ok(AdminReply::Done));
    writer.goes_on().await;
    let written = writer.stop().await;
    archive.check(written).await;
}
