//! The program itself: flags, exit codes, signals, kill -9.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use crate::support::CodedBundle;
use crate::support::world::World;
use firn_base::{NodeId, ShardIndex};
use firn_retrieval::read_range;
use firn_storage_node::{DataDirectory, NodeReport};
use firn_wire::{DrainBacklog, NodeReply, NodeState};

const PROGRAM: &str = env!("CARGO_BIN_EXE_firn-storage-node");

fn run(arguments: &[&str]) -> Output {
    Command::new(PROGRAM).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A place with the descriptor and a token, as an owner has them.
fn prepare(world: &World) -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("archive.firn"), world.descriptor.to_string()).unwrap();
    let token = world.options(1, std::sync::Arc::new(firn_storage_node::MemoryDisk::new())).token.unwrap();
    std::fs::write(place.path().join("token"), format!("# for ada\n{}\n", token.to_text())).unwrap();
    place
}

fn spawn(place: &Path) -> Child {
    spawn_telling(place, Stdio::null())
}

/// The same, with the log to be read.
fn spawn_telling(place: &Path, log: Stdio) -> Child {
    let child = Command::new(PROGRAM)
        .args(["--data-dir", place.join("data").to_str().unwrap()])
        .args(["--archive", place.join("archive.firn").to_str().unwrap()])
        .args(["--token-file", place.join("token").to_str().unwrap()])
        .args(["--listen", "0.0.0.0:0", "--quota", "1GB", "--failure-domain", "shelf"])
        .stderr(log)
        .spawn();
    child.unwrap()
}

async fn status(place: &Path) -> NodeReport {
    let data = place.join("data");
    for _ in 0..1200 {
        let output = run(&["status", "--json", "--data-dir", data.to_str().unwrap()]);
        let report = serde_json::from_slice::<NodeReport>(&output.stdout).ok();
        if let Some(report) = report.filter(NodeReport::is_ready) {
            return report;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the node does not get ready");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_runs_tells_its_status_and_ends_on_sigterm() {
    let world = World::new().await;
    let place = prepare(&world);
    let data = place.path().join("data");
    let mut child = spawn(place.path());
    let report = status(place.path()).await;
    assert_eq!((report.shards, report.quota_bytes), (0, 1_000_000_000));
    assert_eq!(report.failure_domain, "shelf");
    let id = run(&["id", "--data-dir", data.to_str().unwrap()]);
    assert_eq!(text(&id.stdout).trim(), report.node);
    let shown = run(&["--data-dir", data.to_str().unwrap(), "status"]);
    assert!(text(&shown.stdout).contains("state       active"), "{}", text(&shown.stdout));
    let dry = run(&["leave", "--dry-run", "--data-dir", data.to_str().unwrap()]);
    assert!(dry.status.success() && !data.join("leaving").exists());
    let second = Command::new(PROGRAM).args(["--listen", "127.0.0.1:0", "--data-dir"]).arg(&data).output();
    assert!(text(&second.unwrap().stderr).contains("in use by another process"));
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let ended = run(&["status", "--data-dir", data.to_str().unwrap()]);
    assert_eq!(ended.status.code(), Some(1));
    assert!(text(&ended.stderr).contains("no storage node runs in"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_there_after_kill_9() {
    let world = World::new().await;
    let place = prepare(&world);
    let bundles: Vec<CodedBundle> = (0..8).map(|seed| CodedBundle::new(seed, 2_000_000, 4)).collect();
    let mut acknowledged = BTreeSet::new();
    let mut child = spawn(place.path());
    let report = status(place.path()).await;
    let node = report.node.parse().unwrap();
    let connection = world.pool.get(node, &report.address).await.unwrap();
    let mut killer = Box::pin(tokio::time::sleep(Duration::from_millis(150)));
    'bringing: for index in 0..12 {
        for bundle in &bundles {
            let ticket = world.ticket(node, world.client.public(), bundle, index);
            let stream = connection.open().await.unwrap();
            let brought = world.bring_on(stream, &ticket, bundle, bundle.shard(index));
            tokio::select! {
                reply = brought => {
                    assert!(matches!(reply.unwrap(), NodeReply::Stored(_)));
                    acknowledged.insert((bundle.id(), ShardIndex(index)));
                }
                () = &mut killer => {
                    child.kill().unwrap();
                    child.wait().unwrap();
                    break 'bringing;
                }
            }
        }
    }
    assert!(!acknowledged.is_empty() && acknowledged.len() < 96, "{} were taken", acknowledged.len());
    let before = world.inventories(node);
    let mut child = spawn(place.path());
    world.wait("the node is back", |world| world.inventories(node) > before).await;
    let listed: BTreeSet<_> =
        world.heard.lock().unwrap().inventories[&node].last().unwrap().iter().copied().collect();
    assert!(listed.is_superset(&acknowledged));
    assert_eq!(std::fs::read_dir(place.path().join("data/shards/temp")).unwrap().count(), 0);
    for (coding, index) in &listed {
        let name = format!("data/shards/{:02x}/{coding}.{index}.shard", coding.as_bytes()[0]);
        let path = place.path().join(name);
        let inspected = run(&["inspect", "--json", path.to_str().unwrap()]);
        assert!(inspected.status.success(), "{}", text(&inspected.stderr));
        let found: serde_json::Value = serde_json::from_slice(&inspected.stdout).unwrap();
        // What the last slice ends with is noise, and no manifest.
        let kind = ["slice", "slice", "slice", "unreadable"].get(usize::from(index.0)).unwrap_or(&"parity");
        assert_eq!(found["contents"]["kind"], *kind);
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn while_its_disk_is_gone_a_node_is_offline_and_then_it_is_back_with_all_shards() {
    let world = World::new().await;
    let place = prepare(&world);
    let mut child = spawn(place.path());
    let report = status(place.path()).await;
    let node = report.node.parse().unwrap();
    let connection = world.pool.get(node, &report.address).await.unwrap();
    let bundle = CodedBundle::new(1, 2_000_000, 4);
    for index in 0..3 {
        let ticket = world.ticket(node, world.client.public(), &bundle, index);
        let stream = connection.open().await.unwrap();
        let reply = world.bring_on(stream, &ticket, &bundle, bundle.shard(index)).await;
        assert!(matches!(reply.unwrap(), NodeReply::Stored(_)));
    }
    let (mounted, unmounted) = (place.path().join("data/shards"), place.path().join("unmounted"));
    std::fs::rename(&mounted, &unmounted).unwrap();
    std::fs::create_dir(&mounted).unwrap();
    let pass = world.pass(world.client.public());
    let bytes = bundle.coding.shard_bytes();
    let read = read_range(&connection, Some(&pass), &bundle.coding, ShardIndex(0), 0, bytes).await;
    assert!(read.is_err(), "it is not there");
    connection.closed().await;
    let told = run(&["status", "--data-dir", place.path().join("data").to_str().unwrap()]);
    assert!(text(&told.stderr).contains("no storage node runs in"), "{}", text(&told.stderr));
    assert!(child.try_wait().unwrap().is_none(), "it waits for its disk");
    assert_eq!(std::fs::read_dir(&mounted).unwrap().count(), 0, "nothing is written where the disk was");
    std::fs::remove_dir(&mounted).unwrap();
    let before = world.inventories(node);
    std::fs::rename(&unmounted, &mounted).unwrap();
    world.wait("the node is back", |world| world.inventories(node) > before).await;
    let report = status(place.path()).await;
    assert_eq!((report.shards, report.damaged), (3, 0));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_began_where_no_disk_was_mounted_ends_when_the_right_one_is_there() {
    let world = World::new().await;
    let place = prepare(&world);
    let (data, disk) = (place.path().join("data"), place.path().join("disk"));
    let environment = firn_transport::Environment::real();
    let right = DataDirectory::open(&disk, &environment).unwrap().identity().node_id();
    // The empty directory on which the disk is to be mounted: a new node begins.
    let child = spawn_telling(place.path(), Stdio::piped());
    let report = status(place.path()).await;
    let node = report.node.parse::<NodeId>().unwrap();
    assert_ne!(node, right);
    let connection = world.pool.get(node, &report.address).await.unwrap();
    let bundle = CodedBundle::new(1, 300_000, 4);
    let ticket = world.ticket(node, world.client.public(), &bundle, 0);
    let brought = world.bring_on(connection.open().await.unwrap(), &ticket, &bundle, bundle.shard(0)).await;
    assert!(matches!(brought.unwrap(), NodeReply::Stored(_)));
    std::fs::rename(&data, place.path().join("hidden")).unwrap();
    std::fs::rename(&disk, &data).unwrap();
    // What it does not find lets it look at its disk.
    let pass = world.pass(world.client.public());
    let bytes = bundle.coding.shard_bytes();
    read_range(&connection, Some(&pass), &bundle.coding, ShardIndex(0), 0, bytes).await.unwrap_err();
    let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains(&format!("is now the data directory of node {right}, and no longer")), "{told}");
    assert_eq!(run(&["id", "--data-dir", data.to_str().unwrap()]).stdout, format!("{right}\n").into_bytes());
    let mut child = spawn(place.path());
    assert_eq!(status(place.path()).await.node, right.to_string());
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_pauses_a_node_and_lets_it_go_on() {
    let world = World::new().await;
    let place = prepare(&world);
    let mut child = spawn(place.path());
    status(place.path()).await;
    let data = place.path().join("data");
    let ask = |words: &[&str]| run(&[words, &["--data-dir", data.to_str().unwrap()]].concat());
    let first_line = || text(&ask(&["status"]).stdout).lines().next().unwrap().to_owned();
    assert!(first_line().starts_with("This node is well: it holds 0 shards"), "{}", first_line());
    assert_eq!(ask(&["pause", "soon"]).status.code(), Some(2));
    let too_long = ask(&["pause", "15d"]);
    assert_eq!(too_long.status.code(), Some(1));
    assert!(text(&too_long.stderr).contains("14 days at most"), "{}", text(&too_long.stderr));
    let paused = ask(&["pause", "10d"]);
    assert!(paused.status.success() && text(&paused.stdout).starts_with("the node is paused until 2"));
    assert!(first_line().starts_with("This node rests (paused): "), "{}", first_line());
    assert_eq!(text(&ask(&["resume"]).stdout), "the node is not paused, and expected to be here\n");
    let absent = ask(&["absent", "10d"]);
    assert!(
        absent.status.success() && text(&absent.stdout).starts_with("the node may be away until 2"),
        "{}",
        text(&absent.stderr)
    );
    assert!(text(&ask(&["status"]).stdout).contains("\nabsent      declared until 2"));
    assert!(ask(&["resume"]).status.success());
    assert!(!text(&ask(&["status"]).stdout).contains("\nabsent "));
    assert!(first_line().starts_with("This node is well"), "{}", first_line());
    assert!(ask(&["status"]).status.success());
    // A coordinator says that the archive counts on nothing here.
    let node = status(place.path()).await.node.parse().unwrap();
    world.heard.lock().unwrap().states.insert(node, firn_wire::NodeState::Lost);
    world.wait("its owner is told", |_| ask(&["status"]).status.code() == Some(1)).await;
    assert!(first_line().starts_with("This node needs attention"), "{}", first_line());
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_leaves_says_how_it_gets_on_and_what_may_be_deleted() {
    let world = World::new().await;
    let place = prepare(&world);
    let mut child = spawn(place.path());
    let node = status(place.path()).await.node.parse().unwrap();
    let data = place.path().join("data");
    let leave = Command::new(PROGRAM)
        .args(["leave", "--wait", "--data-dir", data.to_str().unwrap()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let asked = |world: &World| world.heard.lock().unwrap().status.get(&node).is_some_and(|it| it.leaving);
    world.wait("the coordinators know its wish", asked).await;
    {
        let mut heard = world.heard.lock().unwrap();
        heard.states.insert(node, NodeState::Draining);
        heard.standing.drain = Some(DrainBacklog { to_move: 3, ..DrainBacklog::default() });
    }
    let shown = || text(&run(&["status", "--data-dir", data.to_str().unwrap()]).stdout);
    world
        .wait("it says what is left", |_| shown().contains("\nleaving     0 shards moved, 3 shards to move"))
        .await;
    world.heard.lock().unwrap().states.insert(node, NodeState::Gone);
    let output = tokio::task::spawn_blocking(move || leave.wait_with_output().unwrap()).await.unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let told = text(&output.stdout);
    assert!(output.status.success() && told.starts_with("the node leaves: 0 shards"), "{told}");
    assert!(told.ends_with(&format!("the node has left: {} is yours to delete\n", data.display())), "{told}");
}

#[test]
fn wrong_usage_and_failures_have_their_exit_codes() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path().join("data");
    assert_eq!(run(&["--no-such-flag"]).status.code(), Some(2));
    assert_eq!(run(&[]).status.code(), Some(2));
    let data_dir = ["--data-dir", data.to_str().unwrap()];
    let wrong_quota = run(&[&data_dir[..], &["--quota", "lots"]].concat());
    assert_eq!(wrong_quota.status.code(), Some(2));
    assert!(text(&wrong_quota.stderr).contains("`lots` is not a size"));
    let missing = run(&["inspect", place.path().join("none.shard").to_str().unwrap()]);
    assert_eq!(missing.status.code(), Some(1));
    std::fs::write(place.path().join("noise.shard"), [7; 9000]).unwrap();
    let noise = run(&["inspect", place.path().join("noise.shard").to_str().unwrap()]);
    assert_eq!(noise.status.code(), Some(1));
    assert!(text(&noise.stderr).contains("the magic does not match"), "{}", text(&noise.stderr));
    assert_eq!(run(&["--help"]).status.code(), Some(0));
    assert_eq!(run(&["-V"]).status.code(), Some(0));
}

#[test]
fn a_disk_that_is_not_mounted_is_noticed() {
    let place = tempfile::tempdir().unwrap();
    let environment = firn_transport::Environment::real();
    let node = DataDirectory::open(place.path(), &environment).unwrap().identity().node_id();
    std::fs::remove_dir_all(place.path().join("shards")).unwrap();
    let output = run(&["--data-dir", place.path().to_str().unwrap(), "--archive", "nowhere"]);
    assert_eq!(output.status.code(), Some(1));
    let expected = format!("is not the one of node {node}: is the disk mounted?");
    assert!(text(&output.stderr).contains(&expected), "{}", text(&output.stderr));
}
