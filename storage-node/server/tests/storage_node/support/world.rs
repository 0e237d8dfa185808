//! A small archive: a coordinator that is played by the test, real nodes, a client.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use firn_base::{
    ArchiveId, ByteCount, CodingId, NodeId, PublicKey, ReservationId, ShardIndex, Timestamp, TokenId,
};
use firn_retrieval::{ReadRangeError, read_range};
use firn_storage_node::{DeletionLimits, Disk, LineTerms, ScrubPlan, StorageNode, StorageNodeOptions};
use firn_transport::{
    Connection, ConnectionPool, Endpoint, EndpointOptions, Environment, Handler, Stream, StreamError,
    serve_connection,
};
use firn_wire::{
    Actor, CONTROL_BYTES_MAX, Certificate, CoordinatorEntry, CoordinatorReply, CoordinatorRequest,
    Descriptor, HeartbeatReply, Identity, InventoryComparison, InventoryRange, JoinRequest, JoinToken,
    LedgerAct, LedgerEntry, LedgerHead, LedgerPage, NodeReply, NodeRequest, NodeStanding, NodeState,
    NodeStatus, NodeTerms, OrderRank, Pass, PassPurpose, RangeContent, Receipt, RefusalKind, RefusedRequest,
    Roster, Signed, StoreRequest, SuspensionNotice, Ticket,
};

use super::CodedBundle;

pub(crate) const LOOPBACK: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// What the coordinator has heard, and what it answers.
#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) joins: Vec<(NodeId, JoinRequest)>,
    pub(crate) status: BTreeMap<NodeId, NodeStatus>,
    pub(crate) states: BTreeMap<NodeId, NodeState>,
    pub(crate) inventories: BTreeMap<NodeId, Vec<Vec<(CodingId, ShardIndex)>>>,
    pub(crate) connections: BTreeMap<NodeId, Connection>,
    pub(crate) epoch: u64,
    pub(crate) ledger: Vec<LedgerEntry>,
    pub(crate) terms: BTreeMap<NodeId, NodeTerms>,
    pub(crate) standing: NodeStanding,
    /// What is announced to every node. One of an older version does not know what that is.
    pub(crate) suspension: Result<Option<SuspensionNotice>, RefusedRequest>,
    /// Whether it knows how to compare inventories. It expects nothing.
    pub(crate) compares: bool,
    pub(crate) steps: usize,
    listed: BTreeMap<NodeId, (usize, Vec<(CodingId, ShardIndex)>)>,
    runs: BTreeMap<NodeId, u64>,
}

impl Heard {
    /// Whatever is not nothing differs.
    fn take_step(&mut self, node: NodeId, step: &InventoryComparison) -> Vec<InventoryRange> {
        self.steps += 1;
        let (pending, listed) = self.listed.entry(node).or_default();
        if step.begins() {
            (*pending, *listed) = (1, Vec::new());
        }
        *pending -= step.ranges.len();
        let mut differing = Vec::new();
        for (range, content) in &step.ranges {
            match content {
                RangeContent::Whole(digest) => differing.extend((digest.shards > 0).then_some(*range)),
                RangeContent::Parts(digests) => {
                    let parts = range.parts().unwrap().into_iter().zip(digests);
                    differing.extend(parts.filter(|(_, digest)| digest.shards > 0).map(|(part, _)| part));
                }
                RangeContent::Listed(shards) => listed.extend(shards),
            }
        }
        *pending += differing.len();
        if *pending == 0 {
            let mut shards = std::mem::take(listed);
            shards.sort_unstable();
            let run = self.status.get(&node).map_or(0, |status| status.run);
            self.runs.insert(node, run);
            self.inventories.entry(node).or_default().push(shards);
        }
        differing
    }
}

pub(crate) struct World {
    pub(crate) archive: ArchiveId,
    pub(crate) coordinator: Identity,
    pub(crate) descriptor: Descriptor,
    pub(crate) client: Identity,
    pub(crate) pool: ConnectionPool,
    pub(crate) heard: Arc<Mutex<Heard>>,
}

struct Coordinator {
    archive: ArchiveId,
    identity: Identity,
    descriptor: Descriptor,
    heard: Arc<Mutex<Heard>>,
}

impl Handler for Coordinator {
    async fn handle(&self, connection: &Connection, mut stream: Stream) {
        let Ok(request) = stream.receive(CONTROL_BYTES_MAX).await else { return };
        let reply = self.answer(connection, request);
        let _ = stream.send(&reply).await;
        stream.finish();
    }
}

impl Coordinator {
    fn answer(&self, connection: &Connection, request: CoordinatorRequest) -> CoordinatorReply {
        let node = connection.peer_node();
        let mut heard = self.heard.lock().unwrap();
        heard.connections.insert(node, connection.clone());
        match request {
            CoordinatorRequest::Join(request) => {
                heard.joins.push((node, request));
                heard.states.entry(node).or_insert(NodeState::Active);
                CoordinatorReply::Joined
            }
            CoordinatorRequest::Heartbeat(status) => {
                let known = heard.runs.get(&node) == Some(&status.run);
                let reply = HeartbeatReply {
                    now: Environment::real().now(),
                    leader: Some(self.identity.node_id()),
                    generation: 1,
                    epoch: heard.epoch,
                    ledger_entries: heard.ledger.len() as u64,
                    inventory_wanted: !known && heard.states.contains_key(&node),
                    state: heard.states.get(&node).copied(),
                };
                heard.status.insert(node, status);
                CoordinatorReply::Heartbeat(reply)
            }
            CoordinatorRequest::CompareInventory(step) if heard.compares => {
                let differing = heard.take_step(node, &step);
                CoordinatorReply::InventoryCompared { differing }
            }
            // One of the version before: whoever compares sends pages to it.
            CoordinatorRequest::CompareInventory(_) => {
                CoordinatorReply::Refused(RefusedRequest::new(RefusalKind::Malformed, "what is that?"))
            }
            CoordinatorRequest::Inventory { shards, .. } => {
                let run = heard.status.get(&node).map_or(0, |status| status.run);
                heard.runs.insert(node, run);
                heard.inventories.entry(node).or_default().push(shards);
                CoordinatorReply::InventoryTaken
            }
            CoordinatorRequest::GetDescriptor => CoordinatorReply::Descriptor(self.descriptor.clone()),
            CoordinatorRequest::GetLedger { from } => {
                let ledger = &heard.ledger;
                let head = LedgerHead { entries: ledger.len() as u64, digest: last_digest(ledger) };
                let signed_head = Signed::seal(&self.identity, self.archive, &head);
                let from = usize::try_from(from).unwrap();
                CoordinatorReply::Ledger(LedgerPage { entries: ledger[from..].to_vec(), signed_head })
            }
            CoordinatorRequest::TellTerms(terms) => {
                heard.terms.insert(node, terms);
                CoordinatorReply::Standing(heard.standing)
            }
            CoordinatorRequest::GetSuspension => {
                heard.suspension.clone().map_or_else(CoordinatorReply::Refused, CoordinatorReply::Suspension)
            }
            CoordinatorRequest::DeclareAbsence { for_millis } => {
                let now = Environment::real().now();
                let until = now.after(Duration::from_millis(for_millis));
                heard.standing.absent_until = Some(until).filter(|until| *until > now);
                CoordinatorReply::Standing(heard.standing)
            }
            // All that is here is committed.
            CoordinatorRequest::GetCertificates(codings) => {
                let certificate = |coding| {
                    let statement = Certificate {
                        bundle: firn_base::BundleId::from_bytes([3; 32]),
                        coding,
                        n: 6,
                        number: firn_base::BundleNumber(7),
                        uploader: PublicKey::from_bytes([8; 32]),
                        committed_at: Timestamp::from_millis(9),
                        ledger_entries: 10,
                        externals: Vec::new(),
                    };
                    Some(Signed::seal(&self.identity, self.archive, &statement))
                };
                CoordinatorReply::Certificates(codings.into_iter().map(certificate).collect())
            }
            other => panic!("a node never asks {other:?}"),
        }
    }
}

impl World {
    pub(crate) async fn new() -> Self {
        let environment = Environment::real();
        let [key, coordinator, client] = [101, 102, 103].map(|seed| Identity::from_seed(&[seed; 32]));
        let archive = ArchiveId::from(key.public());
        let bind = |identity: Identity| {
            let environment = environment.clone();
            async move {
                Endpoint::bind(&environment, &identity, LOOPBACK, EndpointOptions::default()).await.unwrap()
            }
        };
        let endpoint = bind(coordinator.clone()).await;
        let entry = CoordinatorEntry {
            id: coordinator.node_id(),
            raft_id: 1,
            address: endpoint.local_address().to_string(),
        };
        let roster = Roster {
            archive,
            generation: 1,
            issued: environment.now(),
            coordinators: vec![entry],
            retired: vec![],
        };
        let descriptor = Descriptor { archive, roster: Signed::seal(&key, archive, &roster) };
        let heard = Arc::new(Mutex::new(Heard {
            joins: Vec::new(),
            status: BTreeMap::new(),
            states: BTreeMap::new(),
            inventories: BTreeMap::new(),
            connections: BTreeMap::new(),
            epoch: 5,
            ledger: Vec::new(),
            terms: BTreeMap::new(),
            standing: NodeStanding::default(),
            suspension: Ok(None),
            compares: false,
            steps: 0,
            listed: BTreeMap::new(),
            runs: BTreeMap::new(),
        }));
        let handler = Arc::new(Coordinator {
            archive,
            identity: coordinator.clone(),
            descriptor: descriptor.clone(),
            heard: Arc::clone(&heard),
        });
        tokio::spawn(async move {
            while let Some(connection) = endpoint.accept().await {
                tokio::spawn(serve_connection(connection, Arc::clone(&handler)));
            }
        });
        let pool = ConnectionPool::new(bind(client.clone()).await);
        Self { archive, coordinator, descriptor, client, pool, heard }
    }

    pub(crate) fn options(&self, seed: u8, disk: Arc<dyn Disk>) -> StorageNodeOptions {
        let token = JoinToken {
            token: TokenId::from_bytes([seed; 32]),
            operator: "ada".to_owned(),
            expires: later(),
            failure_domain: None,
        };
        StorageNodeOptions {
            identity: Identity::from_seed(&[seed; 32]),
            disk,
            descriptor: self.descriptor.clone(),
            token: Some(Signed::seal(&self.coordinator, self.archive, &token)),
            quota: Some(ByteCount(1 << 30)),
            terms: LineTerms::default(),
            deletion_limits: DeletionLimits::STANDARD,
            scrub: ScrubPlan::STANDARD,
            failure_domain: format!("host-{seed}"),
            listen: LOOPBACK,
            advertise: None,
            own_address: None,
        }
    }

    /// Starts a node and waits until the coordinator has its inventory.
    pub(crate) async fn start(&self, seed: u8, disk: Arc<dyn Disk>) -> StorageNode {
        self.start_with(self.options(seed, disk)).await
    }

    pub(crate) async fn start_with(&self, options: StorageNodeOptions) -> StorageNode {
        let node = StorageNode::start(Environment::real(), options).await.unwrap();
        let id = node.id();
        let before = self.inventories(id);
        self.wait("the node sends its inventory", |_| self.inventories(id) > before).await;
        node
    }

    pub(crate) fn inventories(&self, node: NodeId) -> usize {
        self.heard.lock().unwrap().inventories.get(&node).map_or(0, Vec::len)
    }

    pub(crate) async fn wait(&self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        for _ in 0..2400 {
            if done(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("waited for a minute in vain: {what}");
    }

    /// Makes `key` an uploader's, and waits until a node has heard of it.
    pub(crate) async fn make_known(&self, key: PublicKey, node: &StorageNode) {
        self.enter(LedgerAct::AddUploader { key, name: "ada".to_owned() }, node).await;
    }

    /// Enters an act into the ledger, and waits until a node has it. Gives the entries of the ledger.
    pub(crate) async fn enter(&self, act: LedgerAct, node: &StorageNode) -> u64 {
        let entries = {
            let ledger = &mut self.heard.lock().unwrap().ledger;
            ledger.push(LedgerEntry {
                position: ledger.len() as u64,
                previous: last_digest(ledger),
                at: Timestamp::from_millis(1),
                by: Actor::Coordinators,
                act,
            });
            ledger.len() as u64
        };
        let handle = node.handle();
        self.wait("the node has the ledger", |_| handle.report().ledger_entries == entries).await;
        entries
    }

    pub(crate) fn ticket(&self, node: NodeId, bearer: PublicKey, bundle: &CodedBundle, index: u8) -> Ticket {
        Ticket {
            node,
            bearer,
            reservation: ReservationId::from_bytes([9; 32]),
            coding: bundle.id(),
            index: ShardIndex(index),
            shard_bytes: bundle.coding.shard_bytes(),
            root: bundle.header(index).root(),
            expires: later(),
            rank: OrderRank { generation: 1, epoch: 5 },
        }
    }

    pub(crate) fn seal<T: firn_wire::Statement>(&self, statement: &T) -> Signed<T> {
        Signed::seal(&self.coordinator, self.archive, statement)
    }

    pub(crate) fn pass(&self, reader: PublicKey) -> Signed<Pass> {
        self.pass_for(reader, PassPurpose::Reading)
    }

    pub(crate) fn pass_for(&self, reader: PublicKey, purpose: PassPurpose) -> Signed<Pass> {
        self.seal(&Pass { reader, expires: later(), purpose })
    }

    pub(crate) async fn connect(&self, node: &StorageNode) -> Connection {
        self.pool.get(node.id(), &node.local_address().to_string()).await.unwrap()
    }

    /// Brings a shard to a node as the client does.
    pub(crate) async fn bring(
        &self,
        node: &StorageNode,
        bundle: &CodedBundle,
        index: u8,
    ) -> Result<Receipt, RefusedRequest> {
        let ticket = self.ticket(node.id(), self.client.public(), bundle, index);
        self.bring_with(node, &ticket, bundle, bundle.shard(index)).await
    }

    pub(crate) async fn bring_with(
        &self,
        node: &StorageNode,
        ticket: &Ticket,
        bundle: &CodedBundle,
        bytes: &[u8],
    ) -> Result<Receipt, RefusedRequest> {
        let stream = self.connect(node).await.open().await.unwrap();
        match self.bring_on(stream, ticket, bundle, bytes).await.unwrap() {
            NodeReply::Stored(receipt) => {
                let receipt = receipt.open(self.archive).unwrap();
                assert_eq!(receipt.signer(), PublicKey::from(node.id()));
                Ok(receipt.into_statement())
            }
            NodeReply::Refused(refused) => Err(refused),
            other => panic!("a node never answers {other:?}"),
        }
    }

    pub(crate) async fn bring_on(
        &self,
        mut stream: Stream,
        ticket: &Ticket,
        bundle: &CodedBundle,
        bytes: &[u8],
    ) -> Result<NodeReply, StreamError> {
        let request = StoreRequest {
            ticket: self.seal(ticket),
            content_header: bundle.content.to_bytes(),
            coding_header: bundle.coding.to_bytes(),
        };
        stream.send(&NodeRequest::Store(request)).await?;
        // A node that refuses stops reading.
        let _ = stream.send_bytes(Bytes::copy_from_slice(bytes)).await;
        stream.finish();
        stream.receive(CONTROL_BYTES_MAX).await
    }

    /// Asks a node as the coordinator does: on the connection that the node has dialled.
    pub(crate) async fn order(&self, node: NodeId, request: &NodeRequest) -> NodeReply {
        let connection = self.heard.lock().unwrap().connections.get(&node).cloned().unwrap();
        connection.call(request, CONTROL_BYTES_MAX, Duration::from_secs(20)).await.unwrap()
    }
}

fn last_digest(ledger: &[LedgerEntry]) -> firn_base::Digest {
    ledger.last().map_or(firn_base::Digest::from_bytes([0; 32]), LedgerEntry::digest)
}

pub(crate) fn later() -> Timestamp {
    Environment::real().now().after(Duration::from_secs(600))
}

/// Reads a shard as readers do.
pub(crate) async fn read(
    world: &World,
    node: &StorageNode,
    bundle: &CodedBundle,
    index: u8,
    pass: Option<&Signed<Pass>>,
) -> Result<Bytes, ReadRangeError> {
    let connection = world.connect(node).await;
    let bytes = bundle.coding.shard_bytes();
    read_range(&connection, pass, &bundle.coding, ShardIndex(index), 0, bytes).await
}

/// Why a read was refused.
pub(crate) fn refusal<T: std::fmt::Debug>(result: Result<T, ReadRangeError>) -> RefusalKind {
    match result.unwrap_err() {
        ReadRangeError::Refused { refused, .. } => refused.kind,
        other => panic!("not refused: {other}"),
    }
}
