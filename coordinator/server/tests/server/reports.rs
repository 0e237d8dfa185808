//! What becomes of a reader's word that a node lied: the leader asks that node itself, over real connections on loopback.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::archive::{Archive, empty_node, endpoint, join_node, until};
use firn_base::{
    CodingId, ManifestRoot, NodeId, ObjectKey, PayloadRoot, PublicKey, ReservationId, ShardIndex, Timestamp,
    shard_bytes,
};
use firn_bundle::{BundleRole, CodingHeader, ContentHeader, ShardTree, encode_range};
use firn_coordinator_logic::Facts;
use firn_transport::{Connection, Endpoint};
use firn_wire::{
    BundleCommit, CONTROL_BYTES_MAX, Command, CoordinatorReply, CoordinatorRequest, Identity, IndexEntry,
    NodeReply, NodeRequest, NodeStatus, ShardReport,
};

/// A plain copy on each of three nodes.
pub(crate) const COPIES: u8 = 3;
pub(crate) const LIAR: u8 = 1;
pub(crate) const NOW: Timestamp = Timestamp::from_millis(1_000_000);
pub(crate) const WITHIN: Duration = Duration::from_secs(60);

/// What every node was given, and how often each was asked for some of it.
pub(crate) struct Shard {
    bytes: Vec<u8>,
    tree: ShardTree,
    asked: [AtomicUsize; COPIES as usize],
    /// How often a node was told to build something.
    pub(crate) built: AtomicUsize,
}

fn node_identity(node: u8) -> Identity {
    Identity::from_seed(&[node + 10; 32])
}

pub(crate) fn node_id(node: u8) -> NodeId {
    node_identity(node).node_id()
}

pub(crate) fn shard() -> Arc<Shard> {
    let length = usize::try_from(shard_bytes(1 << 20, 1)).unwrap();
    let bytes: Vec<u8> = (0..length).map(|at| u8::try_from(at % 251).unwrap()).collect();
    Arc::new(Shard {
        tree: ShardTree::of(&bytes),
        bytes,
        asked: Default::default(),
        built: AtomicUsize::new(0),
    })
}

/// Commits a bundle of one shard, which all nodes hold.
pub(crate) async fn publish(archive: &Archive, shard: &Shard) -> CodingId {
    for node in 0..COPIES {
        archive.apply(NOW, join_node(node, node_id(node))).await;
    }
    let (payload, manifest) =
        ((1 << 20, PayloadRoot::from_bytes([1; 32])), (1000, ManifestRoot::from_bytes([1; 32])));
    let content = ContentHeader::new(BundleRole::Ordinary, payload, manifest, Vec::new()).unwrap();
    let roots = vec![shard.tree.root; COPIES.into()];
    let coding = CodingHeader::new(content.bundle_id(), 1, shard.bytes.len() as u64, roots).unwrap();
    let homes: Vec<_> = (0..COPIES).map(|node| (ShardIndex(node), node_id(node))).collect();
    let reservation = ReservationId::from_bytes([1; 32]);
    let reserve = Command::Reserve {
        reservation,
        uploader: PublicKey::from_bytes([7; 32]),
        content_header: content.to_bytes(),
        coding_header: coding.to_bytes(),
        n: COPIES,
        assignments: homes.clone(),
        expires: Timestamp::from_millis(2_000_000),
    };
    archive.apply(NOW, reserve).await;
    let entry = IndexEntry { key: ObjectKey::store_path([1; 20]), block: 0, entry: 0, waits: Vec::new() };
    let bundle = BundleCommit { reservation, receipts: homes, entries: vec![entry] };
    archive.apply(NOW, Command::Commit { bundles: vec![bundle], externals: Vec::new() }).await;
    coding.coding_id()
}

/// A node that keeps a connection to the coordinator and answers for ranges on it; wrongly, if it is the liar. What it is told to
/// build it does not.
pub(crate) async fn connect(archive: &Archive, node: u8, shard: &Arc<Shard>) -> (Endpoint, Connection) {
    let own = endpoint(&node_identity(node), (Ipv4Addr::LOCALHOST, 0).into()).await;
    let machine = &archive.machines[&1];
    let connection = own.connect(machine.identity.node_id(), &machine.address.to_string()).await.unwrap();
    beat(&connection).await;
    tokio::spawn(answer(connection.clone(), node, Arc::clone(shard)));
    (own, connection)
}

pub(crate) async fn beat(connection: &Connection) {
    let heartbeat = CoordinatorRequest::Heartbeat(NodeStatus { shards: 1, ..empty_node() });
    let heard: CoordinatorReply = connection.call(&heartbeat, CONTROL_BYTES_MAX, WITHIN).await.unwrap();
    assert!(matches!(heard, CoordinatorReply::Heartbeat(_)), "{heard:?}");
}

async fn answer(connection: Connection, node: u8, shard: Arc<Shard>) {
    while let Ok(mut stream) = connection.accept().await {
        let asked = match stream.receive(CONTROL_BYTES_MAX).await {
            Ok(NodeRequest::ReadRange(asked)) => asked,
            Ok(NodeRequest::Build(_)) => {
                shard.built.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            _ => continue,
        };
        let (bytes, range) = (&shard.bytes, asked.offset..asked.offset + asked.bytes);
        let (outboard, root, mut encoded) = (shard.tree.outboard.as_slice(), shard.tree.root, Vec::new());
        encode_range(bytes.as_slice(), outboard, root, bytes.len() as u64, &range, &mut encoded).unwrap();
        shard.asked[usize::from(node)].fetch_add(1, Ordering::Relaxed);
        if node == LIAR {
            *encoded.last_mut().unwrap() ^= 1;
        }
        stream.send(&NodeReply::Range { encoded_bytes: encoded.len() as u64 }).await.unwrap();
        stream.send_bytes(encoded.into()).await.unwrap();
        stream.finish();
    }
}

/// The nodes that the archive counts for a shard.
pub(crate) fn holders(archive: &Archive, coding: CodingId, index: u8) -> usize {
    let facts = archive.coordinator(1).consensus().facts();
    let bundle = facts.bundle(facts.coding_bundle(coding).unwrap().unwrap()).unwrap().unwrap();
    let record = bundle.codings.into_iter().find(|record| record.id == coding).unwrap();
    record.placements.iter().filter(|(placed, _)| *placed == ShardIndex(index)).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_of_a_liar_counts_as_missing_once_a_reader_says_so_and_an_honest_nodes_does_not() {
    let archive = Archive::found(1).await;
    archive.leader().await;
    let shard = shard();
    let coding = publish(&archive, &shard).await;
    let mut nodes = Vec::new();
    for node in 0..COPIES {
        nodes.push(connect(&archive, node, &shard).await);
    }
    assert_eq!([0, 1, 2].map(|index| holders(&archive, coding, index)), [1, 1, 1]);
    let reader = endpoint(&Identity::from_seed(&[50; 32]), (Ipv4Addr::LOCALHOST, 0).into()).await;
    let machine = &archive.machines[&1];
    let said = reader.connect(machine.identity.node_id(), &machine.address.to_string()).await.unwrap();
    // A reader that says so of everybody moves no more than is true.
    for node in 0..COPIES {
        let report =
            ShardReport { node: node_id(node), coding, index: ShardIndex(node), offset: 70_000, bytes: 5000 };
        let request = CoordinatorRequest::ReportShard(report);
        // However much is said, few are asked in a second.
        until("the leader asks the node itself", async || {
            let taken: CoordinatorReply = said.call(&request, CONTROL_BYTES_MAX, WITHIN).await.unwrap();
            assert!(matches!(taken, CoordinatorReply::ReportTaken), "{taken:?}");
            (shard.asked[usize::from(node)].load(Ordering::Relaxed) > 0).then_some(())
        })
        .await;
        let missing = usize::from(node >= LIAR);
        assert_eq!([0, 1, 2].map(|index| holders(&archive, coding, index)), [1, 1 - missing, 1]);
    }
}
