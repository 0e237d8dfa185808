//! One range from one node over real QUIC on loopback.

use std::sync::{Arc, Mutex};

use crate::common::{Coded, FakeDirectory, code, nar_record, node, noise, pack};
use bytes::Bytes;
use firn_base::{NodeId, ShardIndex};
use firn_bundle::encode_range;
use firn_retrieval::{NodeSource, PayloadReader, ReadRangeError, SwarmOptions, SwarmReader, read_range};
use firn_transport::{
    Connection, ConnectionPool, Endpoint, EndpointOptions, Environment, Handler, Stream, serve,
};
use firn_wire::{
    CONTROL_BYTES_MAX, Identity, NodeReply, NodeRequest, RANGE_BYTES_MAX, RefusalKind, RefusedRequest,
};

/// How the node answers.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Answers {
    Rightly,
    WithAFlippedByte,
    WithAnotherLength,
    Halfway,
    WithARefusal,
    WithSomethingElse,
}

struct Store {
    coded: Coded,
    answers: Mutex<Answers>,
    requests: Mutex<Vec<u64>>,
}

impl Handler for Store {
    async fn handle(&self, _connection: &Connection, mut stream: Stream) {
        let Ok(NodeRequest::ReadRange(request)) = stream.receive(CONTROL_BYTES_MAX).await else { return };
        self.requests.lock().unwrap().push(request.bytes);
        assert_eq!(request.coding, self.coded.coding.coding_id());
        let position = request.index.position();
        let (shard, tree) = (&self.coded.shards[position], &self.coded.trees[position]);
        let mut encoded = Vec::new();
        let range = request.offset..request.offset + request.bytes;
        let length = shard.len() as u64;
        encode_range(shard.as_slice(), tree.outboard.as_slice(), tree.root, length, &range, &mut encoded)
            .unwrap();
        let mut reply = NodeReply::Range { encoded_bytes: encoded.len() as u64 };
        let answers = *self.answers.lock().unwrap();
        match answers {
            Answers::Rightly => {}
            Answers::WithAFlippedByte => *encoded.last_mut().unwrap() ^= 1,
            Answers::WithAnotherLength => reply = NodeReply::Range { encoded_bytes: u64::MAX },
            Answers::Halfway => encoded.truncate(encoded.len() / 2),
            Answers::WithARefusal => {
                reply = NodeReply::Refused(RefusedRequest::new(RefusalKind::NotFound, "no such shard"));
            }
            Answers::WithSomethingElse => reply = NodeReply::Deleted,
        }
        let _ = stream.send(&reply).await;
        if matches!(reply, NodeReply::Range { .. }) {
            let _ = stream.send_bytes(Bytes::from(encoded)).await;
        }
        stream.finish();
    }
}

struct World {
    store: Arc<Store>,
    node: NodeId,
    address: String,
    pool: ConnectionPool,
    connection: Connection,
    _server: tokio::task::JoinHandle<()>,
}

async fn world(bytes: usize, k: u8) -> World {
    let nar = noise(bytes, 3);
    let coded = code(&pack(&[(nar_record(1, &nar), nar)]), k);
    let environment = Environment::real();
    let (server, client) = (Identity::from_seed(&[1; 32]), Identity::from_seed(&[2; 32]));
    let any = "127.0.0.1:0".parse().unwrap();
    let endpoint = Endpoint::bind(&environment, &server, any, EndpointOptions::default()).await.unwrap();
    let address = endpoint.local_address().to_string();
    let store = Arc::new(Store { coded, answers: Mutex::new(Answers::Rightly), requests: Mutex::default() });
    let handler = Arc::clone(&store);
    let server_task = tokio::spawn(async move { serve(&endpoint, handler).await });
    let client = Endpoint::bind(&environment, &client, any, EndpointOptions::default()).await.unwrap();
    let node = NodeId::from(server.public());
    let pool = ConnectionPool::new(client);
    let connection = pool.get(node, &address).await.unwrap();
    World { store, node, address, pool, connection, _server: server_task }
}

impl World {
    async fn read(&self, index: u8, offset: u64, bytes: u64) -> Result<Bytes, ReadRangeError> {
        let coding = &self.store.coded.coding;
        read_range(&self.connection, None, coding, ShardIndex(index), offset, bytes).await
    }
}

#[tokio::test]
async fn ranges_of_data_and_parity_are_read() {
    let world = world(300_000, 2).await;
    for (index, offset, bytes) in
        [(0u8, 0usize, 1usize), (0, 16_383, 2), (1, 5, 100_000), (5, 70_000, 30_000)]
    {
        let read = world.read(index, offset as u64, bytes as u64).await.unwrap();
        assert!(read == world.store.coded.shards[usize::from(index)][offset..offset + bytes]);
    }
}

#[tokio::test]
async fn long_ranges_are_several_requests() {
    let world = world(9_500_000, 1).await;
    let shard = &world.store.coded.shards[0];
    let read = world.read(0, 100, shard.len() as u64 - 100).await.unwrap();
    assert!(read == shard[100..]);
    let requests = std::mem::take(&mut *world.store.requests.lock().unwrap());
    assert_eq!(requests.len(), 3);
    assert!(requests.iter().all(|bytes| *bytes <= RANGE_BYTES_MAX));
}

#[tokio::test]
async fn whose_fault_it_is_is_told() {
    let world = world(300_000, 2).await;
    let node = world.node;
    for (answers, is_lie) in [
        (Answers::WithAFlippedByte, true),
        (Answers::WithAnotherLength, true),
        (Answers::WithSomethingElse, true),
        (Answers::Halfway, false),
        (Answers::WithARefusal, false),
    ] {
        *world.store.answers.lock().unwrap() = answers;
        let error = world.read(0, 20_000, 50_000).await.unwrap_err();
        assert_eq!(error.node(), Some(node));
        assert_eq!(matches!(error, ReadRangeError::Lied { .. }), is_lie, "{answers:?}: {error}");
        if answers == Answers::WithARefusal {
            assert!(matches!(
                error,
                ReadRangeError::Refused { refused: RefusedRequest { kind: RefusalKind::NotFound, .. }, .. }
            ));
        }
    }
}

#[tokio::test]
async fn a_range_that_does_not_exist_is_not_asked_for() {
    let world = world(300_000, 2).await;
    let length = world.store.coded.coding.shard_bytes();
    for (index, offset, bytes) in [(0, 0, 0), (0, length, 1), (6, 0, 1), (0, u64::MAX, 2)] {
        let error = world.read(index, offset, bytes).await.unwrap_err();
        assert!(matches!(error, ReadRangeError::OutOfRange { .. }), "{error}");
    }
    assert_eq!(world.store.requests.lock().unwrap().len(), 0);
}

#[tokio::test]
async fn a_swarm_is_read_over_the_network() {
    let world = world(2_000_000, 2).await;
    let directory = FakeDirectory::new(&world.store.coded, 2);
    // One machine holds both shards, as in a small archive.
    let mut facts = firn_retrieval::BundleFacts::clone(&directory.facts.lock().unwrap());
    facts.holders[0] = vec![world.node];
    facts.holders[1] = vec![node(40), world.node];
    *directory.facts.lock().unwrap() = Arc::new(facts);
    let mut book = firn_retrieval::NodeBook::clone(&directory.book.lock().unwrap());
    let address = world.address.clone();
    book.insert(world.node, firn_wire::NodeAddress { node: world.node, address, online: true });
    *directory.book.lock().unwrap() = Arc::new(book);
    let source = NodeSource::new(world.pool.clone());
    let reader = SwarmReader::new(directory, Arc::new(source), SwarmOptions::default());
    let whole = 0..world.store.coded.content.payload_bytes();
    let read = reader.read(world.store.coded.content.bundle_id(), whole).await.unwrap();
    assert!(read == world.store.coded.payload);
}
