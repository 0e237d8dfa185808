//! Coding bundles anew over real QUIC: roots, shards and decoding, by honest nodes and from false shards.

use std::time::Duration;

use crate::support::CodedBundle;
use crate::support::fleet::{Fleet, fleet};
use firn_base::ShardRoot;
use firn_bundle::CodingHeader;
use firn_wire::{
    BuildSource, CONTROL_BYTES_MAX, DecodeOrder, DecodeReport, NodeReply, NodeRequest, OrderRank,
    RecodeOrder, RecodeReport, RefusalKind, RefusedRequest,
};

const RANK: OrderRank = OrderRank { generation: 1, epoch: 5 };

impl Fleet {
    /// Brings each of `indexes` to one of the nodes in turn; gives the sources.
    async fn spread(&self, bundle: &CodedBundle, indexes: impl IntoIterator<Item = u8>) -> Vec<BuildSource> {
        let mut sources = Vec::new();
        for (index, node) in indexes.into_iter().zip((0..self.nodes.len()).cycle()) {
            self.world.bring(&self.nodes[node], bundle, index).await.unwrap();
            sources.push(self.source(index, node));
        }
        sources
    }

    fn recode_order(
        &self,
        bundle: &CodedBundle,
        worker: usize,
        k: u8,
        sources: Vec<BuildSource>,
    ) -> RecodeOrder {
        RecodeOrder {
            content_header: bundle.content.to_bytes(),
            coding_header: bundle.coding.to_bytes(),
            k,
            sources,
            pass: self.world.pass(self.nodes[worker].id().into()),
            rank: RANK,
        }
    }

    async fn recode(&self, worker: usize, order: RecodeOrder) -> Result<RecodeReport, RefusedRequest> {
        match self.world.order(self.nodes[worker].id(), &NodeRequest::Recode(order)).await {
            NodeReply::Recoded(report) => Ok(report),
            NodeReply::Refused(refused) => Err(refused),
            other => panic!("no answer to this order: {other:?}"),
        }
    }

    fn decode_order(&self, bundle: &CodedBundle, worker: usize, sources: Vec<BuildSource>) -> DecodeOrder {
        DecodeOrder {
            content_header: bundle.content.to_bytes(),
            coding_header: bundle.coding.to_bytes(),
            sources,
            pass: self.world.pass(self.nodes[worker].id().into()),
            rank: RANK,
        }
    }

    async fn decode(&self, worker: usize, order: DecodeOrder) -> Result<DecodeReport, RefusedRequest> {
        match self.world.order(self.nodes[worker].id(), &NodeRequest::Decode(order)).await {
            NodeReply::Decoded(report) => Ok(report),
            NodeReply::Refused(refused) => Err(refused),
            other => panic!("no answer to this order: {other:?}"),
        }
    }
}

/// Shards of another payload under this bundle's content header: true to themselves, and false.
fn false_bundle(seed: u8, payload_bytes: usize, k: u8) -> CodedBundle {
    let (truth, other) =
        (CodedBundle::new(seed, payload_bytes, k), CodedBundle::new(seed + 1, payload_bytes, k));
    let roots = other.coding.roots().to_vec();
    let coding = CodingHeader::new(truth.content.bundle_id(), k, truth.coding.shard_bytes(), roots).unwrap();
    CodedBundle { content: truth.content, coding, shards: other.shards }
}

#[tokio::test]
async fn the_roots_for_a_larger_k_are_those_that_a_publisher_would_have_computed() {
    let fleet = fleet(4).await;
    for (seed, payload_bytes, k, new_k) in [
        (1, 5_000_001, 4, 8),
        (2, 5_000_001, 4, 16),
        (3, 9_000_000, 2, 16),
        (4, 100_000, 4, 8),
        (5, 16_384, 2, 4),
        (6, 200_000, 1, 2),
    ] {
        let bundle = CodedBundle::new(seed, payload_bytes, k);
        let sources = fleet.spread(&bundle, 0..k).await;
        let report = fleet.recode(3, fleet.recode_order(&bundle, 3, new_k, sources)).await.unwrap();
        let expected = CodedBundle::new(seed, payload_bytes, new_k).coding;
        assert_eq!(CodingHeader::parse(&report.coding_header), Ok(expected), "{payload_bytes} {k} {new_k}");
        assert!(report.read.0 < payload_bytes as u64 * 102 / 100 + 65_536, "it is read once: {report:?}");
    }
}

#[tokio::test]
async fn a_worker_reads_around_shards_that_are_away_or_rotten() {
    let fleet = fleet(4).await;
    let bundle = CodedBundle::new(7, 5_000_001, 4);
    let mut sources = fleet.spread(&bundle, [0, 2, 3, 6, 7]).await;
    // Rot in shard 2, which is found in the middle of the work; shard 1 is nowhere.
    let id = bundle.id().to_string();
    assert!(fleet.disks[1].flip(&format!("shards/{}/{id}.2.shard", &id[..2]), 4096 + 700_000, 1));
    let report = fleet.recode(2, fleet.recode_order(&bundle, 2, 8, sources.clone())).await.unwrap();
    assert_eq!(CodingHeader::parse(&report.coding_header), Ok(CodedBundle::new(7, 5_000_001, 8).coding));
    // Of 3 shards that are left nothing can be made.
    sources.truncate(4);
    let refused = fleet.recode(2, fleet.recode_order(&bundle, 2, 8, sources)).await.unwrap_err();
    assert_eq!(refused.kind, RefusalKind::Unavailable, "{refused:?}");
}

#[tokio::test]
async fn no_roots_are_answered_for_another_payload_than_the_content_header_names() {
    let fleet = fleet(4).await;
    let bundle = false_bundle(8, 3_000_000, 4);
    let sources = fleet.spread(&bundle, 0..4).await;
    let refused = fleet.recode(0, fleet.recode_order(&bundle, 0, 8, sources)).await.unwrap_err();
    assert_eq!(refused.kind, RefusalKind::Malformed, "{refused:?}");
}

#[tokio::test]
async fn shards_of_the_new_coding_are_made_of_the_old_ones_and_brought_home() {
    let fleet = fleet(5).await;
    let (old, new) = (CodedBundle::new(9, 5_000_001, 4), CodedBundle::new(9, 5_000_001, 8));
    let sources = fleet.spread(&old, [0, 1, 3, 5]).await;
    let homes = [(0, 3), (3, 4), (7, 0), (8, 1), (23, 2)];
    let targets = homes.map(|(index, node)| fleet.target(&new, 4, index, node)).to_vec();
    let mut order = fleet.order(&new, 4, sources, targets);
    order.source_coding_header = Some(old.coding.to_bytes());
    let report = fleet.build(4, order.clone()).await;
    assert_eq!(report.failures, Vec::<String>::new());
    assert_eq!(report.receipts.len(), 5);
    for (index, node) in homes {
        fleet.check(&new, index, node).await;
    }
    // Sources of another bundle make no shards of this one.
    order.source_coding_header = Some(CodedBundle::new(10, 5_000_001, 4).coding.to_bytes());
    let reply = fleet.world.order(fleet.nodes[4].id(), &NodeRequest::Build(order)).await;
    assert!(matches!(reply, NodeReply::Refused(refused) if refused.kind == RefusalKind::Malformed));
}

#[tokio::test]
async fn a_payload_is_decoded_from_parity_and_from_nothing_else() {
    let fleet = fleet(4).await;
    for (seed, payload_bytes, k) in [(11, 5_000_001, 8), (12, 100_000, 4), (13, 1_000_000, 16)] {
        let bundle = CodedBundle::new(seed, payload_bytes, k);
        let sources = fleet.spread(&bundle, k..2 * k + 1).await;
        let report = fleet.decode(1, fleet.decode_order(&bundle, 1, sources.clone())).await.unwrap();
        assert_eq!(report.differs, None);
        // With too little parity, data shards that are there help nothing.
        let mut few = fleet.spread(&bundle, 0..k).await;
        few.extend_from_slice(&sources[..usize::from(k) - 1]);
        let refused = fleet.decode(1, fleet.decode_order(&bundle, 1, few)).await.unwrap_err();
        assert_eq!(refused.kind, RefusalKind::Unavailable, "{refused:?}");
    }
}

#[tokio::test]
async fn a_decoder_tells_what_does_not_fit() {
    let fleet = fleet(4).await;
    let payload = false_bundle(14, 2_000_000, 8);
    let sources = fleet.spread(&payload, 8..16).await;
    let report = fleet.decode(2, fleet.decode_order(&payload, 2, sources)).await.unwrap();
    assert_eq!(report.differs.as_deref(), Some("the decoded payload has another root"));

    let truth = CodedBundle::new(15, 2_000_000, 8);
    let mut roots = truth.coding.roots().to_vec();
    roots[3] = ShardRoot::from_bytes([0; 32]);
    let coding = CodingHeader::new(truth.content.bundle_id(), 8, truth.coding.shard_bytes(), roots).unwrap();
    let lie = CodedBundle { coding, ..truth };
    let sources = fleet.spread(&lie, 8..16).await;
    let report = fleet.decode(2, fleet.decode_order(&lie, 2, sources)).await.unwrap();
    assert_eq!(report.differs.as_deref(), Some("data shard 3, decoded from parity, has another root"));
}

#[tokio::test]
async fn only_a_coordinator_has_bundles_coded_anew() {
    let fleet = fleet(1).await;
    let bundle = CodedBundle::new(16, 100_000, 4);
    let connection = fleet.world.connect(&fleet.nodes[0]).await;
    let recode = NodeRequest::Recode(fleet.recode_order(&bundle, 0, 8, Vec::new()));
    let decode = NodeRequest::Decode(fleet.decode_order(&bundle, 0, Vec::new()));
    for request in [recode, decode] {
        let reply: NodeReply =
            connection.call(&request, CONTROL_BYTES_MAX, Duration::from_secs(60)).await.unwrap();
        assert!(matches!(reply, NodeReply::Refused(refused) if refused.kind == RefusalKind::NotAllowed));
    }
    // A coordinator's order for a k that there is not is refused without reading anything.
    let refused = fleet.recode(0, fleet.recode_order(&bundle, 0, 3, Vec::new())).await.unwrap_err();
    assert_eq!(refused.kind, RefusalKind::Malformed);
}
