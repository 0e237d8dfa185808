//! Filters, index ranges and pages of the feed as readers get them from three coordinators on loopback.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use crate::archive::{PATIENCE, endpoint, join_node, policy, until};
use firn_base::{
    FilterId, KeyPrefix, ManifestRoot, NodeId, ObjectKey, PayloadRoot, PublicKey, ReservationId, ShardIndex,
    ShardRoot, Timestamp, shard_bytes,
};
use firn_bundle::{BundleRole, CodingHeader, ContentHeader};
use firn_coordinator::storage::{Memory, StoreKind};
use firn_coordinator::{
    Coordinator, CoordinatorOptions, FilterOptions, Peer, RECODE_AFTER, Timing, bind_http, found_archive,
    serve_http,
};
use firn_filter::MembershipFilter;
use firn_transport::{AskError, ConnectionPool, CoordinatorClient, Endpoint, Environment};
use firn_wire::{
    BundleCommit, Command, CommandOutcome, CoordinatorReply, CoordinatorRequest, Descriptor, FilterEntry,
    FilterList, INDEX_RANGE_KEYS_MAX, Identity, IndexEntry, IndexRangePage, IndexRangeRequest, LedgerAct,
    RefusalKind, TimedCommand,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const WITHIN: Duration = Duration::from_secs(10);
const UNIT: u64 = 16;
/// A plain copy on each of three nodes.
const COPIES: u8 = 3;

/// One coordinator: its stores outlive its program.
struct Machine {
    identity: Identity,
    log: Memory,
    state: Memory,
    filters: FilterOptions,
    running: Option<Coordinator>,
}

struct Archive {
    descriptor: Descriptor,
    machines: Vec<Machine>,
    client: CoordinatorClient,
    bundles: u8,
}

fn key(number: u16) -> ObjectKey {
    let mut name = [0; 20];
    name[..2].copy_from_slice(&number.to_be_bytes());
    ObjectKey::store_path(name)
}

fn node_id(node: u8) -> NodeId {
    NodeId::from_bytes([node + 10; 32])
}

impl Archive {
    async fn found() -> Self {
        let identities = [1, 2, 3].map(|number| Identity::from_seed(&[number; 32]));
        let mut bound = Vec::new();
        for identity in &identities {
            bound.push(endpoint(identity, (Ipv4Addr::LOCALHOST, 0).into()).await);
        }
        let mut peers: Vec<_> = identities
            .iter()
            .zip(&bound)
            .map(|(identity, endpoint)| Peer {
                id: identity.node_id(),
                address: endpoint.local_address().to_string(),
            })
            .collect();
        let own = peers.remove(0);
        let key = Identity::from_seed(&[99; 32]);
        let descriptor = found_archive(&key, own, &peers, Timestamp::from_millis(1));
        let mut machines = Vec::new();
        for (number, (identity, endpoint)) in identities.into_iter().zip(bound).enumerate() {
            let filters = FilterOptions::in_memory().unit(UNIT);
            let (log, state) = (Memory::new(StoreKind::Log), Memory::new(StoreKind::State));
            let mut machine = Machine { identity, log, state, filters, running: None };
            machine.start(&descriptor, endpoint, number == 0).await;
            machines.push(machine);
        }
        let reader = endpoint(&Identity::from_seed(&[50; 32]), (Ipv4Addr::LOCALHOST, 0).into()).await;
        let client = CoordinatorClient::new(ConnectionPool::new(reader), descriptor.verify().unwrap());
        let archive = Self { descriptor, machines, client, bundles: 0 };
        for node in 0..COPIES {
            archive.commit(join_node(node, node_id(node))).await;
        }
        archive
    }

    /// Has a command applied everywhere.
    async fn commit(&self, command: Command) -> CommandOutcome {
        let timed = TimedCommand::of_coordinators(Timestamp::from_millis(1_000_000), command);
        let outcome = until("a leader takes the command", async || {
            let running = self.machines.iter().filter_map(|machine| machine.running.as_ref());
            let leader = running.map(Coordinator::consensus).find(|consensus| consensus.is_leader())?;
            leader.propose(timed.clone()).await.ok()
        })
        .await;
        assert!(!matches!(outcome, CommandOutcome::Rejected(_)), "{outcome:?}");
        self.settle().await;
        outcome
    }

    /// Waits until all that run have applied the same.
    async fn settle(&self) {
        let running: Vec<_> = self.machines.iter().filter_map(|machine| machine.running.as_ref()).collect();
        let applied = until("a leader is confirmed", async || {
            let leader = running.iter().map(|running| running.consensus()).find(|one| one.is_leader())?;
            leader.ensure_linearizable().await.ok()
        })
        .await;
        for running in running {
            running.consensus().wait_applied(applied, PATIENCE).await.unwrap();
        }
    }

    /// Makes keys visible, all of one bundle.
    async fn show(&mut self, keys: &[ObjectKey]) {
        self.bundles += 1;
        let number = self.bundles;
        let payload = (1 << 20, PayloadRoot::from_bytes([number; 32]));
        let manifest = (1000, ManifestRoot::from_bytes([number; 32]));
        let content = ContentHeader::new(BundleRole::Ordinary, payload, manifest, Vec::new()).unwrap();
        let shard = shard_bytes(content.payload_bytes(), 1);
        let roots = vec![ShardRoot::from_bytes([number; 32]); COPIES.into()];
        let coding = CodingHeader::new(content.bundle_id(), 1, shard, roots).unwrap();
        let homes: Vec<_> = (0..COPIES).map(|node| (ShardIndex(node), node_id(node))).collect();
        let reservation = ReservationId::from_bytes([number; 32]);
        self.commit(Command::Reserve {
            reservation,
            uploader: PublicKey::from_bytes([7; 32]),
            content_header: content.to_bytes(),
            coding_header: coding.to_bytes(),
            n: COPIES,
            assignments: homes.clone(),
            expires: Timestamp::from_millis(2_000_000),
        })
        .await;
        let entries =
            (0..).zip(keys).map(|(entry, key)| IndexEntry { key: *key, block: 0, entry, waits: Vec::new() });
        let bundle = BundleCommit { reservation, receipts: homes, entries: entries.collect() };
        self.commit(Command::Commit { bundles: vec![bundle], externals: Vec::new() }).await;
    }

    async fn withdraw(&self, key: ObjectKey) {
        self.commit(Command::Govern(LedgerAct::Withdraw { key, reason: "a test".into() })).await;
    }

    async fn ask(&self, machine: usize, request: CoordinatorRequest) -> Result<CoordinatorReply, AskError> {
        self.client.ask_coordinator(self.machines[machine].identity.node_id(), &request, WITHIN).await
    }

    /// What one coordinator lists once its filters end at `covered`.
    async fn list(&self, machine: usize, covered: u64) -> FilterList {
        until("the filters are made", async || {
            let CoordinatorReply::Filters(list) =
                self.ask(machine, CoordinatorRequest::ListFilters).await.unwrap()
            else {
                panic!("a list was asked for");
            };
            let list = list.peek().unwrap();
            (list.covered() == covered).then_some(list)
        })
        .await
    }

    async fn fetch(&self, machine: usize, entry: &FilterEntry) -> MembershipFilter<Vec<u8>> {
        let mut bytes = Vec::new();
        loop {
            let request =
                CoordinatorRequest::FilterPiece { filter: entry.id, offset: bytes.len().try_into().unwrap() };
            match self.ask(machine, request).await.unwrap() {
                CoordinatorReply::FilterPiece(piece) if piece.is_empty() => break,
                CoordinatorReply::FilterPiece(piece) => bytes.extend(piece),
                reply => panic!("{reply:?}"),
            }
        }
        assert_eq!(bytes.len() as u64, entry.bytes);
        assert_eq!(*blake3::hash(&bytes).as_bytes(), *entry.id.as_bytes());
        MembershipFilter::open(bytes).unwrap()
    }

    async fn index_range(&self, machine: usize, key: ObjectKey, after: Option<ObjectKey>) -> IndexRangePage {
        let request = IndexRangeRequest { prefix: KeyPrefix::of(&key, 20).unwrap(), after };
        match self.ask(machine, CoordinatorRequest::IndexRange(request)).await.unwrap() {
            CoordinatorReply::IndexRange(page) => page,
            reply => panic!("{reply:?}"),
        }
    }

    /// Ends one without its shutdown code; its disks lose what was not synced.
    fn kill(&mut self, machine: usize) {
        let machine = &mut self.machines[machine];
        drop(machine.running.take());
        machine.log.crash(1);
        machine.state.crash(1);
    }

    async fn start_again(&mut self, machine: usize) {
        let roster = self.descriptor.verify().unwrap();
        let id = self.machines[machine].identity.node_id();
        let address = roster.entry(id).unwrap().address.parse().unwrap();
        let endpoint = endpoint(&self.machines[machine].identity, address).await;
        self.machines[machine].start(&self.descriptor, endpoint, false).await;
    }
}

impl Machine {
    async fn start(&mut self, descriptor: &Descriptor, endpoint: Endpoint, founding: bool) {
        let options = CoordinatorOptions {
            identity: self.identity.clone(),
            descriptor: descriptor.clone(),
            named_since: None,
            endpoint,
            log: Arc::new(self.log.opened()),
            state: Arc::new(self.state.opened()),
            founding: founding.then(policy),
            timing: Timing::default(),
            recode_after: RECODE_AFTER,
            address_table: None,
            filters: self.filters.clone(),
            rebuild: firn_coordinator::RebuildOptions::default(),
            erase_after: firn_coordinator::ERASE_AFTER,
            disk_windows: None,
            environment: Environment::real(),
        };
        self.running = Some(Coordinator::start(options).await.unwrap());
    }
}

fn ids(list: &FilterList) -> Vec<FilterId> {
    list.filters.iter().map(|filter| filter.id).collect()
}

fn keys(numbers: std::ops::Range<u16>) -> Vec<ObjectKey> {
    numbers.map(key).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_coordinators_make_the_same_filters_and_keep_them() {
    let mut archive = Archive::found().await;
    archive.show(&keys(0..100)).await;
    archive.withdraw(key(5)).await;
    // 101 events: 64 + 32 are covered, and 5 are read from the feed.
    let list = archive.list(0, 96).await;
    assert_eq!((list.filters.len(), list.head), (2, 101));
    for machine in [1, 2] {
        assert_eq!(archive.list(machine, 96).await.filters, list.filters);
    }
    // The list of one, the bytes of another: every key is there, the one that was withdrawn since too.
    let first = archive.fetch(1, &list.filters[0]).await;
    let second = archive.fetch(2, &list.filters[1]).await;
    assert!(keys(0..64).iter().all(|key| first.may_contain(key)));
    assert!(keys(64..96).iter().all(|key| second.may_contain(key)));
    assert!(keys(1000..2000).iter().filter(|key| first.may_contain(key)).count() < 40);
    let refused = archive
        .ask(0, CoordinatorRequest::FilterPiece { filter: FilterId::from_bytes([1; 32]), offset: 0 })
        .await
        .unwrap_err();
    assert!(matches!(refused, AskError::Refused(refusal) if refusal.kind == RefusalKind::NotFound));
    // One that comes back has what it had; what it missed joins the others' names.
    archive.kill(2);
    archive.show(&keys(100..128)).await;
    let joined = archive.list(0, 128).await;
    assert_eq!(joined.filters.len(), 1, "two and what came since are one");
    archive.start_again(2).await;
    archive.settle().await;
    assert_eq!(ids(&archive.list(2, 128).await), ids(&joined));
    let whole = archive.fetch(2, &joined.filters[0]).await;
    assert!(keys(0..100).iter().all(|key| whole.may_contain(key)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_of_another_feed_are_not_served() {
    let mut other = Archive::found().await;
    other.show(&keys(500..540)).await;
    let theirs = other.list(0, 32).await;
    let mut archive = Archive::found().await;
    archive.show(&keys(0..40)).await;
    let ours = archive.list(2, 32).await;
    assert_ne!(ids(&ours), ids(&theirs), "the keys are others");
    archive.kill(2);
    // Same archive key, same lengths: only the feed's digest tells them apart.
    archive.machines[2].filters = other.machines[0].filters.clone();
    archive.start_again(2).await;
    archive.settle().await;
    assert_eq!(ids(&archive.list(2, 32).await), ids(&ours));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_coordinator_tells_all_keys_that_begin_alike() {
    let mut archive = Archive::found().await;
    // They share two bytes and a half, and most of them five: as an uploader may name logs.
    let crowded: Vec<_> = (0..6000_u16)
        .map(|number| {
            let mut name = [9; 20];
            name[18..].copy_from_slice(&number.to_be_bytes());
            name[2] = if number % 100 == 0 { 0x0a } else { 9 };
            ObjectKey::build_log(name)
        })
        .collect();
    // The last come first: the index lists the first eight of a short name together, and the others in order.
    archive.show(&crowded.iter().rev().copied().collect::<Vec<_>>()).await;
    archive.show(&keys(0..20)).await;
    archive.withdraw(crowded[70]).await;
    let mut expected: Vec<_> = crowded.iter().copied().filter(|key| *key != crowded[70]).collect();
    expected.sort_unstable();
    for machine in 0..3 {
        let (mut found, mut after, mut pages) = (Vec::new(), None, 0);
        loop {
            let page = archive.index_range(machine, crowded[0], after).await;
            assert!(page.position >= 6021, "as of all that was committed");
            assert!(page.keys.iter().all(|entry| entry.locations.len() == 1));
            found.extend(page.keys.iter().map(|entry| entry.key));
            (after, pages) = (found.last().copied(), pages + 1);
            if !page.more {
                break;
            }
        }
        assert_eq!((found == expected, pages), (true, expected.len().div_ceil(INDEX_RANGE_KEYS_MAX)));
        // A stranger's prefix has nobody, and one of a path no logs.
        assert_eq!(archive.index_range(machine, key(60_000), None).await.keys, []);
        assert_eq!(
            archive.index_range(machine, ObjectKey::store_path(*crowded[0].name()), None).await.keys,
            []
        );
        let one = archive.index_range(machine, key(7), None).await;
        assert_eq!(one.keys.iter().map(|entry| entry.key).collect::<Vec<_>>(), [key(7)]);
    }
    let elsewhere =
        IndexRangeRequest { prefix: KeyPrefix::of(&key(7), 24).unwrap(), after: Some(crowded[0]) };
    let refused = archive.ask(0, CoordinatorRequest::IndexRange(elsewhere)).await.unwrap_err();
    assert!(matches!(refused, AskError::Refused(refusal) if refusal.kind == RefusalKind::Malformed));
}

async fn get(address: std::net::SocketAddr, path: &str) -> (u16, serde_json::Value) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mirrors_read_the_feed_by_http_page_by_page() {
    let mut archive = Archive::found().await;
    archive.show(&keys(0..25)).await;
    archive.withdraw(key(3)).await;
    let listener = bind_http((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let administration = archive.machines[1].running.as_ref().unwrap().administration();
    let serving = tokio::spawn(serve_http(listener, administration));
    let (mut after, mut seen) = (0, Vec::new());
    loop {
        let (status, page) = get(address, &format!("/api/v1/paths?after={after}&limit=10")).await;
        assert_eq!(status, 200);
        let paths = page["paths"].as_array().unwrap().clone();
        assert!(paths.len() <= 10);
        seen.extend(paths);
        after = page["next"].as_u64().unwrap();
        if after == page["head"].as_u64().unwrap() {
            break;
        }
    }
    assert_eq!((after, seen.len()), (26, 26));
    assert_eq!(seen.iter().filter(|path| path["withdrawn"] == true).count(), 1);
    assert_eq!(seen[25]["hash"], seen[3]["hash"], "what was withdrawn is named as it was when it came");
    assert_eq!(get(address, "/api/v1/paths?after=26").await.1["paths"], serde_json::json!([]));
    assert_eq!(get(address, "/api/v1/paths?after=1000").await.1["next"], 1000, "a replica may lag");
    assert_eq!(get(address, "/api/v1/paths?limit=0").await.0, 400);
    serving.abort();
}
