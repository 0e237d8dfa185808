//! What is like an archived object, as an uploader is told of it by a coordinator that took a real manifest.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::archive::{Archive, PATIENCE, endpoint, timing, until};
use firn_base::{Feature, NodeId, ObjectKey, ReservationId, ShardIndex, Timestamp, TokenId};
use firn_bundle::{
    BuilderOptions, BundleBuilder, CodingHeader, Encoding, FeatureSampler, NewRecord, SealedBundle,
    name_feature,
};
use firn_coordinator::{Joined, Timing};
use firn_coordinator_logic::Facts;
use firn_nix_format::{Compression, PathInfo, PublisherSecretKey, Sha256, StorePath};
use firn_transport::{AskError, ConnectionPool, CoordinatorClient};
use firn_wire::{
    Command, CommandOutcome, CommitRequest, CoordinatorReply, CoordinatorRequest, FEATURE_LEVEL,
    FEATURES_PER_REQUEST_MAX, Identity, LedgerAct, OrderRank, PublisherEntry, Receipt, RecordPlace,
    RefusalKind, Signed, SimilarRecord, TimedCommand, UploadedBundle,
};

/// A plain copy on each of three nodes.
const COPIES: u8 = 3;
const CHUNKS: u8 = 40;

/// Longer than a question and its answer are under way on loopback, and shorter than a follower is waited for.
const SLOWNESS: Duration = Duration::from_millis(400);
/// For so long a follower is waited for.
const WAITED_FOR: Duration = Duration::from_secs(2);
const TRIES: u8 = 20;

fn node(index: u8) -> Identity {
    Identity::from_seed(&[100 + index; 32])
}

fn uploader() -> Identity {
    Identity::from_seed(&[50; 32])
}

fn publisher() -> PublisherSecretKey {
    PublisherSecretKey::from_seed("test-1", &[7; 32]).unwrap()
}

/// The chunks of the package, of which the first one is this version's own.
fn chunks(version: u8) -> impl Iterator<Item = Vec<u8>> {
    (0..CHUNKS).map(move |number| vec![if number == 0 { 100 + version } else { number }; 1000])
}

fn path(version: u8) -> StorePath {
    StorePath::from_parts([version; 20], &format!("package-{version}")).unwrap()
}

/// By what the package is found: its name, and a chunk.
fn features(version: u8) -> Vec<Feature> {
    let mut sampler = FeatureSampler::default();
    chunks(version)
        .for_each(|chunk| sampler.push(firn_base::Digest::from_bytes(*blake3::hash(&chunk).as_bytes())));
    [vec![name_feature(&path(version))], sampler.finish()].concat()
}

/// A bundle of one version of the package, with its payload.
fn packed(version: u8) -> (SealedBundle, Vec<u8>) {
    packed_with(version, version)
}

/// The same, with the contents of another version.
fn packed_with(version: u8, contents: u8) -> (SealedBundle, Vec<u8>) {
    let mut info = PathInfo {
        store_path: path(version),
        url: "nar/package.nar".to_owned(),
        compression: Compression::None,
        file_hash: None,
        file_size: None,
        nar_hash: Sha256::from_bytes([contents; 32]),
        nar_size: 1000 * u64::from(CHUNKS),
        references: Vec::new(),
        deriver: None,
        signatures: Vec::new(),
        ca: None,
        extra: Vec::new(),
    };
    info.signatures.push(publisher().sign(&info));
    let mut builder = BundleBuilder::new(BuilderOptions::default());
    builder.begin_object();
    for chunk in chunks(contents) {
        builder.push_chunk(&chunk).unwrap();
    }
    builder.finish_object(NewRecord::store_path(info, Encoding::Chunked)).unwrap();
    let mut payload = Vec::new();
    (builder.seal(&mut payload).unwrap(), payload)
}

async fn apply(archive: &Archive, command: Command) {
    let timed = TimedCommand::of_coordinators(Timestamp::from_millis(1_000_000), command);
    let outcome = until("the leader takes the command", async || {
        archive.coordinator(archive.leader().await).consensus().propose(timed.clone()).await.ok()
    })
    .await;
    assert!(!matches!(outcome, CommandOutcome::Rejected(_)), "{outcome:?}");
}

/// Commits a version of the package as an uploader does whose shards lie on the nodes.
async fn committed(archive: &Archive, client: &CoordinatorClient, version: u8) -> SealedBundle {
    let (sealed, payload) = packed(version);
    let request = uploaded(archive, &sealed, &payload).await;
    let reply = client.ask(&request).await.unwrap();
    assert!(matches!(reply, CoordinatorReply::Committed { visible: 1, .. }), "{reply:?}");
    sealed
}

/// What an uploader says whose shards of a bundle lie on the nodes.
async fn uploaded(archive: &Archive, sealed: &SealedBundle, payload: &[u8]) -> CoordinatorRequest {
    let content = &sealed.content;
    let root = firn_base::ShardRoot::from_bytes(*content.bundle_id().as_bytes());
    let shard = firn_base::shard_bytes(content.payload_bytes(), 1);
    let coding = CodingHeader::new(content.bundle_id(), 1, shard, vec![root; COPIES.into()]).unwrap();
    let reservation = ReservationId::from_bytes(*content.bundle_id().as_bytes());
    apply(
        archive,
        Command::Reserve {
            reservation,
            uploader: uploader().public(),
            content_header: content.to_bytes(),
            coding_header: coding.to_bytes(),
            n: COPIES,
            assignments: (0..COPIES).map(|index| (ShardIndex(index), node(index).node_id())).collect(),
            expires: Timestamp::from_millis(u64::MAX),
        },
    )
    .await;
    let receipt = |index: u8| {
        let receipt = Receipt {
            node: node(index).node_id(),
            reservation,
            coding: coding.coding_id(),
            index: ShardIndex(index),
            root,
            rank: OrderRank { generation: 1, epoch: 1 },
        };
        Signed::seal(&node(index), archive.descriptor.archive, &receipt)
    };
    let extent = content.manifest_extent();
    let manifest = payload[usize::try_from(extent.start).unwrap()..].to_vec();
    CoordinatorRequest::Commit(CommitRequest {
        bundles: vec![UploadedBundle { reservation, manifest, receipts: (0..COPIES).map(receipt).collect() }],
        externals: Vec::new(),
        replaces: None,
    })
}

/// An archive of so many coordinators that takes the uploader's bundles, and who asks them for it.
async fn archive(coordinators: u8, slow: Option<u8>) -> (Archive, CoordinatorClient) {
    let mut archive = Archive::found(coordinators).await;
    if let Some(slow) = slow {
        archive.end(slow).await;
        // Else it takes itself for the leader that it may have been, when it comes back.
        archive.leader().await;
        archive.machines.get_mut(&slow).unwrap().slowness = Some(SLOWNESS);
        // It never asks for votes: its log is as fast as the others', so it would be elected on a busy machine.
        archive.timing = Timing {
            election_min: Duration::from_secs(3600),
            election_max: Duration::from_secs(7200),
            ..timing()
        };
        let joined = Joined { descriptor: archive.descriptor.clone(), named_since: None };
        archive.start(slow, joined, false).await.unwrap();
        archive.timing = timing();
    }
    let bound = endpoint(&uploader(), (Ipv4Addr::LOCALHOST, 0).into()).await;
    let client = CoordinatorClient::new(ConnectionPool::new(bound), archive.descriptor.verify().unwrap());
    let key = publisher().public_key();
    let key = firn_base::PublicKey::from_bytes(*key.as_bytes());
    for act in [
        LedgerAct::AddUploader { key: uploader().public(), name: "hydra".into() },
        LedgerAct::AddPublisher(PublisherEntry { name: "test-1".into(), key, rank: 1 }),
    ] {
        apply(&archive, Command::Govern(act)).await;
    }
    for index in 0..COPIES {
        let id: NodeId = node(index).node_id();
        apply(
            &archive,
            Command::JoinNode {
                node: id,
                operator: format!("operator-{index}"),
                failure_domain: format!("domain-{index}"),
                vouched: true,
                seen_at: None,
                address: "[2001:db8::1]:7001".to_owned(),
                quota_bytes: 1 << 40,
                token: Some(TokenId::from_bytes([index; 32])),
            },
        )
        .await;
    }
    (archive, client)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_uploader_is_told_of_the_versions_that_were_committed_before_the_latest_first() {
    let (archive, client) = archive(1, None).await;
    let place = RecordPlace { block: 0, entry: 0 };
    let mut expected = Vec::new();
    for version in 1..=2 {
        let sealed = committed(&archive, &client, version).await;
        expected.insert(0, SimilarRecord { bundle: sealed.content.bundle_id(), place });
    }
    let features = features(3);
    assert_eq!(features.len(), 2);
    // More than one request holds, to be split and put together again.
    let unknown = vec![Feature::from_bytes([9; 8]); FEATURES_PER_REQUEST_MAX];
    let asked = [unknown, features].concat();
    let told = client.similar(&asked).await.unwrap();
    assert_eq!(told.len(), asked.len());
    assert!(told[..FEATURES_PER_REQUEST_MAX].iter().all(Vec::is_empty));
    assert_eq!(told[FEATURES_PER_REQUEST_MAX..], [expected.clone(), expected.clone()]);
    let too_many = client.ask(&CoordinatorRequest::Similar(asked)).await;
    assert!(
        matches!(&too_many, Err(AskError::Refused(refused)) if refused.kind == RefusalKind::Malformed),
        "{too_many:?}"
    );
    // What was withdrawn is told no more.
    let key = ObjectKey::store_path(*path(2).hash());
    apply(&archive, Command::Govern(LedgerAct::Withdraw { key, reason: "asked to".into() })).await;
    assert_eq!(client.similar(&[name_feature(&path(3))]).await.unwrap(), [expected[1..].to_vec()]);
    // Nor is it taken again, whatever it is packed into.
    let (sealed, payload) = packed_with(2, 4);
    let refused = client.ask(&uploaded(&archive, &sealed, &payload).await).await;
    let Err(AskError::Refused(refused)) = refused else { panic!("{refused:?}") };
    assert_eq!(refused.kind, RefusalKind::NotAllowed);
    assert!(refused.sentence.contains("was withdrawn from this archive (asked to)"), "{}", refused.sentence);
    assert_eq!(client.lookup(&[key]).await.unwrap(), [Vec::new()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_bundle_of_a_new_archive_is_found_by_what_it_is_like() {
    for coordinators in [1, 3] {
        let (archive, client) = archive(coordinators, None).await;
        let sealed = committed(&archive, &client, 1).await;
        let place = RecordPlace { block: 0, entry: 0 };
        let expected = vec![SimilarRecord { bundle: sealed.content.bundle_id(), place }];
        // An uploader is answered before a follower has it.
        let found = until("it is found", async || {
            let told = client.similar(&features(2)).await.ok()?;
            (!told.iter().any(Vec::is_empty)).then_some(told)
        })
        .await;
        assert_eq!(found, [expected.clone(), expected]);
        let leader = archive.coordinator(archive.leader().await);
        assert_eq!(leader.consensus().facts().counters().unwrap().feature_level, FEATURE_LEVEL);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_commits_by_a_follower_that_lags_finds_there_what_it_has_committed() {
    let (archive, client) = archive(3, Some(3)).await;
    let by = archive.id(3);
    // A machine that is so slow that the follower is not waited for to the end shows nothing.
    for version in 1..=TRIES {
        let (sealed, payload) = packed(version);
        let request = uploaded(&archive, &sealed, &payload).await;
        let before = until("a leader says what is committed", async || {
            archive.coordinator(archive.leader().await).consensus().ensure_linearizable().await.ok()
        })
        .await;
        archive.coordinator(3).consensus().wait_applied(before, PATIENCE).await.unwrap();
        let asked = Instant::now();
        let reply = client.ask_coordinator(by, &request, PATIENCE).await.unwrap();
        assert!(matches!(reply, CoordinatorReply::Committed { visible: 1, .. }), "{reply:?}");
        if asked.elapsed() < WAITED_FOR {
            let presence = CoordinatorRequest::Presence(vec![ObjectKey::store_path(*path(version).hash())]);
            let found = client.ask_coordinator(by, &presence, PATIENCE).await.unwrap();
            assert_eq!(found, CoordinatorReply::Presence(vec![true]));
            return;
        }
    }
    panic!("no follower has answered within {WAITED_FOR:?}");
}
