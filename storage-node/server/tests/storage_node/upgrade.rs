//! Upgrade in place: a data directory that an earlier program has left is opened by this one as it is.
//!
//! `tests/golden/data-directory.txt` is one that a node wrote in formats of version 1, with all that it keeps. It stays for as long
//! as such directories are to be opened. `FIRN_TEST_WRITE_GOLDEN=1 cargo test --release -p firn-storage-node --test storage_node
//! upgrade` lets a node of today write it anew.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::CodedBundle;
use crate::support::golden_directory::{Files, from_text, lay_out, read_files, to_text};
use crate::support::world::{LOOPBACK, World, later, read};
use firn_base::{ShardIndex, Timestamp};
use firn_storage_node::{
    DataDirectory, OpenDataError, OwnerNotifier, StorageNode, StorageNodeOptions, kept_descriptor,
};
use firn_transport::{
    Blocking, Clock, ConnectionPool, DataDirError, Endpoint, EndpointOptions, Entropy, Environment,
};
use firn_wire::{
    CONTROL_BYTES_MAX, CoordinatorEntry, DeleteOrder, DeleteReason, Descriptor, Identity, NodeReply,
    NodeRequest, NodeState, OrderRank, Pass, PassPurpose, Roster, Signed,
};
use tokio::sync::OnceCell;

// Noon of 2026-11-20, UTC, by the node that wrote the directory.
const WRITTEN_AT: Timestamp = Timestamp::from_millis(1_795_176_000_000);
const HOUR: Duration = Duration::from_secs(3_600);
const PAUSE: Duration = HOUR;

const PROGRAM: &str = env!("CARGO_BIN_EXE_firn-storage-node");

/// It stands still.
#[derive(Debug)]
struct FixedClock(Timestamp);

impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        self.0
    }
}

/// Alike in every run.
#[derive(Debug, Default)]
struct Seeded(Mutex<u64>);

impl Entropy for Seeded {
    fn fill(&self, bytes: &mut [u8]) {
        let mut count = self.0.lock().unwrap();
        *count += 1;
        blake3::Hasher::new().update(&count.to_le_bytes()).finalize_xof().fill(bytes);
    }
}

fn at(now: Timestamp) -> Environment {
    let sockets = Arc::clone(Environment::real().sockets());
    Environment::new(Arc::new(FixedClock(now)), sockets, Arc::new(Seeded::default()), Blocking::Threads)
}

/// What the node holds, and what it has in trash. Mostly zeros: a shard has 64 KiB at least.
fn bundles() -> [CodedBundle; 2] {
    [21, 22].map(|seed| CodedBundle::new(seed, 200, 1))
}

/// A roster of the world's archive: of its coordinator, or of where nobody answers.
fn descriptor(world: &World, generation: u64, address: &str) -> Descriptor {
    let (archive, key) = (world.archive, Identity::from_seed(&[101; 32]));
    let entry = CoordinatorEntry { id: world.coordinator.node_id(), raft_id: 1, address: address.to_owned() };
    let (issued, coordinators) = (WRITTEN_AT, vec![entry]);
    let roster = Roster { archive, generation, issued, coordinators, retired: Vec::new() };
    Descriptor { archive, roster: Signed::seal(&key, archive, &roster) }
}

/// The files that a node of version 1 has left.
async fn golden() -> Files {
    static WRITTEN: OnceCell<()> = OnceCell::const_new();
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let path = directory.join("data-directory.txt");
    if std::env::var_os("FIRN_TEST_WRITE_GOLDEN").is_some() {
        let written = async || {
            let text = to_text(&write().await);
            std::fs::create_dir_all(&directory).unwrap();
            std::fs::write(&path, text).unwrap();
        };
        WRITTEN.get_or_init(written).await;
    }
    from_text(&std::fs::read_to_string(path).expect("the golden file is there"))
}

/// Lets a node do a little of everything.
async fn write() -> Files {
    let world = World::new().await;
    let place = tempfile::tempdir().unwrap();
    let environment = at(WRITTEN_AT);
    let directory = DataDirectory::open(place.path(), &environment).unwrap();
    let identity = directory.identity().clone();
    let options = StorageNodeOptions { identity, ..world.options(1, directory.disk()) };
    let node = StorageNode::start(environment.clone(), options).await.unwrap();
    let (id, handle) = (node.id(), node.handle());
    world.wait("the node is admitted", |world| world.inventories(id) > 0).await;
    let [kept, trashed] = bundles();
    for bundle in [&kept, &trashed] {
        world.bring(&node, bundle, 0).await.unwrap();
        let fan = place.path().join(format!("certificates/{:02x}", bundle.id().as_bytes()[0]));
        world.wait("its certificate is kept", |_| fan.exists()).await;
    }
    let order = DeleteOrder {
        node: id,
        coding: trashed.id(),
        index: ShardIndex(0),
        reason: DeleteReason::Surplus,
        expires: later(),
        rank: OrderRank { generation: 1, epoch: 5 },
    };
    assert_eq!(world.order(id, &NodeRequest::Delete(world.seal(&order))).await, NodeReply::Deleted);
    let pass = world.pass(world.client.public());
    // By a stranger first.
    read(&world, &node, &kept, 0, Some(&pass)).await.unwrap();
    world.make_known(world.client.public(), &node).await;
    read(&world, &node, &kept, 0, Some(&pass)).await.unwrap();
    hear(&world, &node, NodeState::Suspended).await;
    OwnerNotifier::new(environment, "true".to_owned()).look(Some(&handle)).await;
    handle.pause(PAUSE).await.unwrap();
    assert!(handle.offer_descriptor(descriptor(&world, 2, "127.0.0.1:9")).await.unwrap());
    node.shutdown().await;
    drop((handle, directory));
    let mut files = read_files(place.path());
    // It says which process was there.
    files.remove("lock");
    files
}

/// Has the node hear that it is in `state`.
async fn hear(world: &World, node: &StorageNode, state: NodeState) {
    world.heard.lock().unwrap().states.insert(node.id(), state);
    let handle = node.handle();
    let is_told = |_: &World| handle.report().state == Some(state.to_string());
    world.wait("the node hears its state", is_told).await;
}

/// A directory with what the golden one has.
async fn laid_out() -> (tempfile::TempDir, Files) {
    let (place, files) = (tempfile::tempdir().unwrap(), golden().await);
    lay_out(&files, place.path());
    (place, files)
}

/// Opens it as the program does, at `now`.
async fn open(world: &World, path: &Path, now: Timestamp, given: Option<Descriptor>) -> StorageNode {
    let environment = at(now);
    let mut opened = Err(None);
    world
        .wait("the node before has let go of its directory", |_| {
            opened = match DataDirectory::open(path, &environment) {
                Err(OpenDataError::Directory(DataDirError::InUse { .. })) => Err(None),
                opened => opened.map_err(Some),
            };
            !matches!(opened, Err(None))
        })
        .await;
    let directory = opened.unwrap();
    let kept = kept_descriptor(directory.disk().as_ref()).unwrap().unwrap();
    let options = StorageNodeOptions {
        identity: directory.identity().clone(),
        descriptor: given.unwrap_or(kept),
        token: None,
        ..world.options(1, directory.disk())
    };
    StorageNode::start(environment, options).await.unwrap()
}

/// Which file each is: one that is written anew is another.
fn inodes(directory: &Path, files: &Files) -> BTreeMap<String, u64> {
    let inode = |path: &String| std::fs::metadata(directory.join(path)).unwrap().ino();
    files.keys().map(|path| (path.clone(), inode(path))).collect()
}

/// A number that the text of file `name` says behind `key`.
fn number(files: &Files, name: &str, key: &str) -> u64 {
    let text = std::str::from_utf8(&files[name]).unwrap();
    let found = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    found.unwrap().split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn a_directory_comes_back_from_its_text() {
    let shard = [vec![0; 70], b"x".to_vec(), vec![0; 100]].concat();
    let files = Files::from([
        ("a/text".to_owned(), b"firn 1\nx y\n\n z\n".to_vec()),
        ("a/no-line-end".to_owned(), b"x".to_vec()),
        ("nothing".to_owned(), Vec::new()),
        ("shard".to_owned(), shard),
    ]);
    assert_eq!(from_text(&to_text(&files)), files);
}

#[tokio::test]
async fn a_directory_of_version_1_is_opened_with_its_counts_and_nothing_of_it_is_written_that_need_not_be() {
    let world = World::new().await;
    let (place, files) = laid_out().await;
    let before = inodes(place.path(), &files);
    let [kept, trashed] = bundles();
    let file_bytes: u64 = kept.header(0).layout().file_bytes;
    // Its pause goes on.
    let node = open(&world, place.path(), WRITTEN_AT.after(HOUR / 2), None).await;
    let report = node.handle().report();
    assert_eq!(report.paused_until_millis, Some(WRITTEN_AT.after(PAUSE).as_millis()));
    node.shutdown().await;
    let counted = read_files(place.path());
    // It is over.
    let node = open(&world, place.path(), WRITTEN_AT.after(2 * HOUR), None).await;
    assert_eq!(node.scan().headers_read, 0, "its index is believed");
    let report = node.handle().report();
    assert_eq!((report.rest.as_deref(), report.damaged, report.shards), (None, 0, 1));
    assert_eq!((report.generation, report.ledger_entries), (2, 1));
    // As the disk gives it, in whole blocks.
    let of_one = file_bytes..2 * file_bytes;
    assert!(of_one.contains(&report.trash_bytes) && of_one.contains(&report.deleted_bytes), "{report:?}");
    let since = report.uploaded_bytes + report.downloaded_bytes;
    for (key, found) in [("day", report.traffic_today_bytes), ("month", report.traffic_month_bytes)] {
        let written = number(&files, "traffic", key);
        assert!(written > 2 * file_bytes && found >= written, "{key}: {written}, {found}");
        let written = number(&counted, "traffic", key);
        assert!((written..=written + since).contains(&found), "{key}: {written}, {found}");
    }
    let strangers = number(&files, "traffic", "strangers");
    assert!(strangers > 0 && report.traffic_month_strangers_bytes == strangers);
    let helped = node.handle().last_week().into_iter().flatten().map(|hour| hour.reads_helped).sum::<u64>();
    assert!(helped > 0 && helped == report.reads_helped_in_week);
    assert!(files.contains_key("notices") && files.contains_key("orders") && files.contains_key("scrub"));

    let (reader, expires) = (world.client.public(), WRITTEN_AT.after(24 * HOUR));
    let pass = world.seal(&Pass { reader, expires, purpose: PassPurpose::Reading });
    assert_eq!(read(&world, &node, &kept, 0, Some(&pass)).await.unwrap(), kept.shard(0));
    let done = node.handle().report().done;
    assert_eq!(
        (done.ranges_served > 0, done.stranger_bytes_served),
        (true, 0),
        "its ledger knows the reader"
    );
    let shown =
        ask_as_coordinator(&world, &node, &NodeRequest::ShowBundles { codings: vec![kept.id()] }).await;
    let NodeReply::Bundles { bundles, .. } = shown else { panic!("{shown:?}") };
    assert_eq!((bundles.len(), bundles[0].certificate.len()), (1, 1));
    let shown = ask_as_coordinator(&world, &node, &NodeRequest::ShowGovernance { from: 0 }).await;
    let NodeReply::Governance(governance) = shown else { panic!("{shown:?}") };
    assert_eq!((governance.rosters.len(), governance.entries.len()), (2, 1));
    node.shutdown().await;

    let mut after = read_files(place.path());
    after.remove("lock");
    let is_of_the_trashed = |path: &String| path.contains(&trashed.id().to_string());
    assert_eq!(after.keys().filter(|path| is_of_the_trashed(path)).count(), 1, "trash stays for its time");
    assert_eq!(after.keys().collect::<Vec<_>>(), files.keys().collect::<Vec<_>>(), "no file comes or goes");
    let is_counted = |path: &str| ["traffic", "week"].contains(&path);
    for (path, inode) in inodes(place.path(), &files).into_iter().filter(|(path, _)| !is_counted(path)) {
        assert!(before[&path] == inode && after[&path] == files[&path], "{path} was written anew");
    }
}

async fn ask_as_coordinator(world: &World, node: &StorageNode, request: &NodeRequest) -> NodeReply {
    let options = EndpointOptions::default();
    let endpoint = Endpoint::bind(&Environment::real(), &world.coordinator, LOOPBACK, options).await.unwrap();
    let pool = ConnectionPool::new(endpoint);
    let connection = pool.get(node.id(), &node.local_address().to_string()).await.unwrap();
    connection.call(request, CONTROL_BYTES_MAX, Duration::from_secs(20)).await.unwrap()
}

#[tokio::test]
async fn what_the_owner_was_told_before_an_upgrade_is_not_told_again() {
    let world = World::new().await;
    let (place, _) = laid_out().await;
    let path = place.path();
    let id = DataDirectory::read_identity(path).unwrap().node_id();
    world.heard.lock().unwrap().states.insert(id, NodeState::Suspended);
    let address = world.descriptor.verify().unwrap().roster().coordinators[0].address.clone();
    let now = WRITTEN_AT.after(2 * HOUR);
    let node = open(&world, path, now, Some(descriptor(&world, 3, &address))).await;
    hear(&world, &node, NodeState::Suspended).await;
    world.wait("the coordinator has its inventory", |world| world.inventories(id) > 0).await;
    let listed = world.heard.lock().unwrap().inventories[&id].last().cloned();
    assert_eq!(listed, Some(vec![(bundles()[0].id(), ShardIndex(0))]));
    let told = path.join("told");
    let mut notifier = OwnerNotifier::new(at(now), format!("cat >> '{}'", told.display()));
    notifier.look(Some(&node.handle())).await;
    assert!(!told.exists());
    hear(&world, &node, NodeState::Draining).await;
    notifier.look(Some(&node.handle())).await;
    let told = std::fs::read_to_string(told).unwrap();
    assert!(told.lines().count() == 1 && told.contains("\"cause\":\"draining\""), "{told}");
    node.shutdown().await;
}

#[tokio::test]
async fn a_directory_of_a_later_version_is_refused_with_a_sentence_and_left_alone() {
    for (file, version_1, later, told) in [
        ("format", "firn-storage-node 1", "firn-storage-node 2", "update the program"),
        ("shards/marker", "firn-storage-node 1", "firn-storage-node 2", "then update the program"),
        ("archive", "firn-archive 1", "firn-archive 2", "does not begin with `firn-archive 1`"),
    ] {
        let (place, mut files) = laid_out().await;
        let text = String::from_utf8(files[file].clone()).unwrap();
        assert!(text.contains(version_1), "{file}: {text}");
        files.insert(file.to_owned(), text.replacen(version_1, later, 1).into_bytes());
        lay_out(&files, place.path());
        let before = inodes(place.path(), &files);
        let mut program = Command::new(PROGRAM);
        let ran = program.args(["--listen", "127.0.0.1:0", "--data-dir"]).arg(place.path()).output().unwrap();
        let sentence = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.code() == Some(1) && sentence.contains(told), "{file}: {sentence}");
        let mut after = read_files(place.path());
        after.remove("lock");
        assert_eq!(after, files, "{file}");
        assert_eq!(inodes(place.path(), &files), before, "{file}");
    }
}
