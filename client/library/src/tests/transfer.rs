//! One shard to one node, over QUIC on loopback.

use std::sync::Arc;

use firn_base::{ArchiveId, CodingId, ObjectKey, ReservationId, Scheme, ShardIndex, ShardRoot, Timestamp};
use firn_bundle::{Blob, BuilderOptions, CodingHeader, Encoding, NewRecord};
use firn_client_logic::{SendFailure, ShardSend};
use firn_nix_format::{Compression, Sha256};
use firn_transport::{Connection, ConnectionPool, Endpoint, EndpointOptions, Environment};
use firn_wire::{
    CONTROL_BYTES_MAX, Identity, NodeAddress, NodeReply, NodeRequest, OrderRank, Receipt, RefusalKind,
    RefusedRequest, Signed, Ticket,
};

use super::cache::noise;
use crate::code::{CodedBundle, code};
use crate::content::ContentWriter;
use crate::pack::Packer;
use crate::spool::SpoolDir;
use crate::transfer::store_shard;
use crate::verify::VerifiedObject;

const ARCHIVE: ArchiveId = ArchiveId::from_bytes([1; 32]);

/// How a node of these tests answers.
#[derive(Clone, Copy)]
enum Conduct {
    /// It takes the shard and signs.
    Honest,
    /// It signs for another root.
    Liar,
    /// It refuses before it reads the shard.
    Full,
    /// It breaks off.
    Silent,
}

async fn coded() -> Arc<CodedBundle> {
    let (environment, spool) = (Environment::real(), SpoolDir::open(None).unwrap());
    let bytes = noise(9 << 20, 1);
    let mut content = ContentWriter::new(&spool, 0).unwrap();
    content.push(&bytes).unwrap();
    let (url, compression) = ("log/x".to_owned(), Compression::None);
    let blob = Blob { url, compression, bytes: bytes.len() as u64, sha256: Sha256::of(&bytes) };
    let record = NewRecord::blob(ObjectKey::build_log([1; 20]), blob, Encoding::Chunked);
    let mut packer = Packer::new(environment, spool.clone(), BuilderOptions::default(), 2);
    let object = VerifiedObject {
        record,
        content: content.finish().unwrap(),
        source_bytes: 0,
        recipe_tried: false,
        earlier: Vec::new(),
    };
    packer.push(object).await.unwrap();
    let set = packer.finish().await.unwrap().unwrap();
    Arc::new(code(Arc::clone(&set.bundles[0]), Scheme::new(2, 4).unwrap(), &spool).unwrap())
}

async fn answer(connection: Connection, node: Identity, conduct: Conduct) {
    while let Ok(mut stream) = connection.accept().await {
        let NodeRequest::Store(request) = stream.receive(CONTROL_BYTES_MAX).await.unwrap() else { return };
        let ticket = request.ticket.open(ARCHIVE).unwrap().into_statement();
        let coding = CodingHeader::parse(&request.coding_header).unwrap();
        assert_eq!(coding.coding_id(), ticket.coding);
        let root = match conduct {
            Conduct::Silent => return stream.abort(),
            Conduct::Full => {
                let refused = RefusedRequest::new(RefusalKind::Full, "the quota is used up");
                stream.send(&NodeReply::Refused(refused)).await.unwrap();
                stream.finish();
                continue;
            }
            Conduct::Liar => ShardRoot::from_bytes([9; 32]),
            Conduct::Honest => {
                let mut shard = vec![0; usize::try_from(ticket.shard_bytes).unwrap()];
                stream.receive_exact(&mut shard).await.unwrap();
                ShardRoot::from_bytes(*blake3::hash(&shard).as_bytes())
            }
        };
        let receipt = Receipt {
            node: ticket.node,
            reservation: ticket.reservation,
            coding: ticket.coding,
            index: ticket.index,
            root,
            rank: ticket.rank,
        };
        stream.send(&NodeReply::Stored(Signed::seal(&node, ARCHIVE, &receipt))).await.unwrap();
        stream.finish();
    }
}

async fn send(index: u8, conduct: Conduct, coding: Option<CodingId>) -> Result<Signed<Receipt>, SendFailure> {
    let environment = Environment::real();
    let (node, publisher) = (Identity::from_seed(&[2; 32]), Identity::from_seed(&[3; 32]));
    let loopback = "127.0.0.1:0".parse().unwrap();
    let options = EndpointOptions::default();
    let server = Endpoint::bind(&environment, &node, loopback, options.clone()).await.unwrap();
    let address = server.local_address().to_string();
    let identity = node.clone();
    let serving = tokio::spawn(async move {
        while let Some(connection) = server.accept().await {
            answer(connection, identity.clone(), conduct).await;
        }
    });
    let client = Endpoint::bind_client(&environment, &publisher, options).await.unwrap();
    let bundle = coded().await;
    let ticket = Ticket {
        node: node.node_id(),
        bearer: publisher.public(),
        reservation: ReservationId::from_bytes([4; 32]),
        coding: coding.unwrap_or_else(|| bundle.coding().coding_id()),
        index: ShardIndex(index),
        shard_bytes: bundle.coding().shard_bytes(),
        root: bundle.coding().root(ShardIndex(index)).unwrap(),
        expires: Timestamp::from_millis(u64::MAX),
        rank: OrderRank { generation: 1, epoch: 1 },
    };
    let send = ShardSend {
        bundle: 0,
        reservation: ticket.reservation,
        index: ShardIndex(index),
        target: NodeAddress { node: node.node_id(), address, online: true },
        ticket: Signed::seal(&Identity::from_seed(&[5; 32]), ARCHIVE, &ticket),
    };
    let pool = ConnectionPool::new(client.clone());
    let stored = store_shard(&pool, &environment, ARCHIVE, &send, bundle).await;
    client.close().await;
    serving.abort();
    stored
}

#[tokio::test]
async fn data_and_parity_shards_arrive_and_are_receipted() {
    for index in [0, 1, 3] {
        let receipt = send(index, Conduct::Honest, None).await.unwrap().open(ARCHIVE).unwrap();
        assert_eq!(receipt.index, ShardIndex(index));
    }
}

#[tokio::test]
async fn a_refusal_in_the_middle_of_a_shard_is_heard() {
    let failure = send(0, Conduct::Full, None).await.unwrap_err();
    assert!(!failure.retry && failure.sentence.ends_with("the quota is used up"), "{failure:?}");
}

#[tokio::test]
async fn a_receipt_for_another_root_does_not_count() {
    let failure = send(0, Conduct::Liar, None).await.unwrap_err();
    assert!(!failure.retry && failure.sentence.contains("for something else"), "{failure:?}");
}

#[tokio::test]
async fn a_node_that_breaks_off_may_be_asked_again() {
    assert!(send(0, Conduct::Silent, None).await.unwrap_err().retry);
}

#[tokio::test]
async fn a_ticket_for_another_coding_is_not_used() {
    let failure = send(0, Conduct::Honest, Some(CodingId::from_bytes([7; 32]))).await.unwrap_err();
    assert!(failure.sentence.contains("another shard"), "{failure:?}");
}
