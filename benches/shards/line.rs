//! A storage node over QUIC on loopback, beside a bare stream of the same endpoints into and from plain files.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use firn_base::{ArchiveId, Digest, ReservationId, ShardIndex, Timestamp};
use firn_retrieval::read_range;
use firn_storage_node::{DeletionLimits, FileDisk, LineTerms, ScrubPlan, StorageNode, StorageNodeOptions};
use firn_transport::{
    Connection, Endpoint, EndpointOptions, Environment, Handler, Stream, VerifiedLedger, serve,
};
use firn_wire::{
    Actor, CONTROL_BYTES_MAX, CoordinatorEntry, Descriptor, Identity, LedgerAct, LedgerEntry, LedgerHead,
    LedgerState, NodeReply, NodeRequest, OrderRank, Pass, PassPurpose, Roster, Signed, StoreRequest, Ticket,
};
use futures::future::try_join_all;

use crate::{Failure, MadeUp, QUOTA, cpu_time, per_second, row, to_f64, write_plainly};

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const PIECE_BYTES: usize = 256 << 10;

/// Who is on the line.
struct Parties {
    key: Identity,
    coordinator: Identity,
    node: Identity,
    client: Identity,
}

impl Parties {
    fn new() -> Self {
        let [key, coordinator, node, client] = [1, 2, 3, 4].map(|seed| Identity::from_seed(&[seed; 32]));
        Self { key, coordinator, node, client }
    }

    fn archive(&self) -> ArchiveId {
        ArchiveId::from(self.key.public())
    }

    fn later() -> Timestamp {
        Environment::real().now().after(Duration::from_secs(86_400))
    }

    /// The only coordinator is never reached: the client shows what it would have signed.
    fn options(&self, directory: &Path) -> StorageNodeOptions {
        let coordinator = CoordinatorEntry {
            id: self.coordinator.node_id(),
            raft_id: 1,
            address: "127.0.0.1:9".to_owned(),
        };
        let roster = Roster {
            archive: self.archive(),
            generation: 1,
            issued: Environment::real().now(),
            coordinators: vec![coordinator],
            retired: Vec::new(),
        };
        let roster = Signed::seal(&self.key, self.archive(), &roster);
        StorageNodeOptions {
            identity: self.node.clone(),
            disk: Arc::new(FileDisk::new(directory)),
            descriptor: Descriptor { archive: self.archive(), roster },
            token: None,
            quota: Some(QUOTA),
            terms: LineTerms::default(),
            deletion_limits: DeletionLimits::STANDARD,
            scrub: ScrubPlan::STANDARD,
            failure_domain: "bench".to_owned(),
            listen: LOOPBACK,
            advertise: None,
            own_address: None,
        }
    }

    /// The ledger that the node has kept: it knows the client, who is no stranger then and has more than a tenth of the line.
    fn ledger(&self) -> VerifiedLedger {
        let entries = vec![LedgerEntry {
            position: 0,
            previous: Digest::from_bytes([0; 32]),
            at: Timestamp::from_millis(1),
            by: Actor::Coordinators,
            act: LedgerAct::AddUploader { key: self.client.public(), name: "bench".to_owned() },
        }];
        let digest = entries.last().map_or(Digest::from_bytes([0; 32]), LedgerEntry::digest);
        let head = LedgerHead { entries: entries.len() as u64, digest };
        let heads = vec![Signed::seal(&self.coordinator, self.archive(), &head)];
        VerifiedLedger { state: LedgerState::read(&entries), entries, heads }
    }

    fn pass(&self) -> Signed<Pass> {
        let pass =
            Pass { reader: self.client.public(), expires: Self::later(), purpose: PassPurpose::Reading };
        Signed::seal(&self.coordinator, self.archive(), &pass)
    }

    fn order(&self, shard: &MadeUp) -> Result<StoreRequest, Failure> {
        let coding = shard.header.coding();
        let ticket = Ticket {
            node: self.node.node_id(),
            bearer: self.client.public(),
            reservation: ReservationId::from_bytes([9; 32]),
            coding: coding.coding_id(),
            index: ShardIndex(0),
            shard_bytes: coding.shard_bytes(),
            root: coding.root(ShardIndex(0)).ok_or("a shard of the coding")?,
            expires: Self::later(),
            rank: OrderRank { generation: 1, epoch: 1 },
        };
        Ok(StoreRequest {
            ticket: Signed::seal(&self.coordinator, self.archive(), &ticket),
            content_header: shard.header.content().to_bytes(),
            coding_header: coding.to_bytes(),
        })
    }
}

/// Takes and gives files as they are.
struct PlainFiles(PathBuf);

/// What is wanted of them: whether bytes come, the name, how many.
type PlainRequest = (bool, u64, u64);

impl PlainFiles {
    async fn answer(&self, stream: &mut Stream) -> Result<(), Failure> {
        let (comes, number, bytes) = stream.receive::<PlainRequest>(64).await?;
        let directory = self.0.clone();
        if comes {
            let mut content = vec![0; usize::try_from(bytes)?];
            stream.receive_exact(&mut content).await?;
            let written =
                tokio::task::spawn_blocking(move || write_plainly(&directory, &number.to_string(), &content));
            written.await??;
            stream.send(&true).await?;
        } else {
            let read = tokio::task::spawn_blocking(move || fs::read(directory.join(number.to_string())));
            stream.send_bytes(Bytes::from(read.await??)).await?;
        }
        Ok(())
    }
}

impl Handler for PlainFiles {
    async fn handle(&self, _: &Connection, mut stream: Stream) {
        if self.answer(&mut stream).await.is_ok() {
            stream.finish();
        }
    }
}

async fn bring(connection: &Connection, order: StoreRequest, shard: &MadeUp) -> Result<(), Failure> {
    let mut stream = connection.open().await?;
    stream.send(&NodeRequest::Store(order)).await?;
    stream.send_bytes(Bytes::copy_from_slice(&shard.bytes)).await?;
    stream.finish();
    match stream.receive::<NodeReply>(CONTROL_BYTES_MAX).await? {
        NodeReply::Stored(_) => Ok(()),
        other => Err(format!("the node did not take a shard: {other:?}").into()),
    }
}

async fn send_plainly(connection: &Connection, number: u64, shard: &MadeUp) -> Result<(), Failure> {
    let mut stream = connection.open().await?;
    stream.send::<PlainRequest>(&(true, number, shard.bytes.len() as u64)).await?;
    stream.send_bytes(Bytes::copy_from_slice(&shard.bytes)).await?;
    stream.finish();
    if stream.receive::<bool>(64).await? { Ok(()) } else { Err("a file was not taken".into()) }
}

async fn fetch_plainly(connection: &Connection, number: u64, shard: &MadeUp) -> Result<(), Failure> {
    let mut stream = connection.open().await?;
    stream.send::<PlainRequest>(&(false, number, 0)).await?;
    stream.finish();
    let mut content = Vec::with_capacity(shard.bytes.len());
    while let Some(piece) = stream.receive_bytes(PIECE_BYTES).await? {
        content.extend_from_slice(&piece);
    }
    if content == shard.bytes { Ok(()) } else { Err("a file has other bytes".into()) }
}

/// Does something with each shard, `at_once` of them at a time, and prints what it took of time and processors.
async fn each<'a, F: Future<Output = Result<(), Failure>>>(
    what: &str,
    shards: &'a [MadeUp],
    at_once: usize,
    act: impl Fn(u64, &'a MadeUp) -> F,
) -> Result<(), Failure> {
    let (cpu, begun) = (cpu_time()?, Instant::now());
    let act = &act;
    let lane = |first: usize| async move {
        for (number, shard) in (0..).zip(shards).skip(first).step_by(at_once) {
            act(number, shard).await?;
        }
        Ok::<(), Failure>(())
    };
    try_join_all((0..at_once).map(lane)).await?;
    let took = begun.elapsed();
    let bytes: u64 = shards.iter().map(|shard| shard.bytes.len() as u64).sum();
    row(&format!("{what}, MB/s"), per_second(bytes, took) / 1e6);
    let gigabytes = to_f64(bytes) / 1e9;
    row(
        &format!("{what}, CPU seconds for each GB, both ends"),
        (cpu_time()? - cpu).as_secs_f64() / gigabytes,
    );
    Ok(())
}

/// Brings `shards` to a node and reads them, then does the same without one.
pub(crate) fn measure(directory: &Path, shards: &[MadeUp], at_once: usize) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (held, plain) = (directory.join("line-node"), directory.join("line-plain"));
    fs::create_dir_all(&held)?;
    fs::create_dir_all(&plain)?;
    runtime.block_on(over_the_line(&held, &plain, shards, at_once.max(1)))?;
    fs::remove_dir_all(held)?;
    fs::remove_dir_all(plain)?;
    Ok(())
}

async fn over_the_line(held: &Path, plain: &Path, shards: &[MadeUp], at_once: usize) -> Result<(), Failure> {
    let (environment, parties) = (Environment::real(), Parties::new());
    fs::write(held.join("ledger"), parties.ledger().to_bytes())?;
    let node = StorageNode::start(environment.clone(), parties.options(held)).await?;
    let client = Endpoint::bind_client(&environment, &parties.client, EndpointOptions::default()).await?;
    let connection = client.connect(node.id(), &node.local_address().to_string()).await?;
    let (line, orders) = (&connection, &parties);
    each("brought to the node", shards, at_once, |_, shard| async move {
        bring(line, orders.order(shard)?, shard).await
    })
    .await?;
    let pass = &parties.pass();
    each("read from the node, proved and checked", shards, at_once, |_, shard| async move {
        let (coding, bytes) = (shard.header.coding(), shard.bytes.len() as u64);
        let read = read_range(line, Some(pass), coding, ShardIndex(0), 0, bytes).await?;
        if read == shard.bytes { Ok(()) } else { Err("a shard has other bytes".into()) }
    })
    .await?;
    node.shutdown().await;

    let server = Endpoint::bind(&environment, &parties.node, LOOPBACK, EndpointOptions::default()).await?;
    let address = server.local_address().to_string();
    let files = Arc::new(PlainFiles(plain.to_owned()));
    let serving = tokio::spawn(async move { serve(&server, files).await });
    let connection = client.connect(parties.node.node_id(), &address).await?;
    let line = &connection;
    each(
        "beside it: sent over a bare stream and written, synced and renamed",
        shards,
        at_once,
        |number, shard| send_plainly(line, number, shard),
    )
    .await?;
    each("beside it: read and sent over a bare stream", shards, at_once, |number, shard| {
        fetch_plainly(line, number, shard)
    })
    .await?;
    client.close().await;
    serving.abort();
    Ok(())
}
