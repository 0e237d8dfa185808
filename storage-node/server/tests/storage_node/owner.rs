//! What the owner sees and is told: the sentence, the page, the week, and the command.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use crate::support::CodedBundle;
use crate::support::world::{World, read};
use firn_base::Timestamp;
use firn_storage_node::{MemoryDisk, NodeHandle, OwnerNotifier, serve_monitoring};
use firn_transport::Environment;
use firn_wire::{NodeState, RefusalKind, RefusedRequest, SuspensionNotice};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// The head and body that are answered to a GET.
async fn get(address: std::net::SocketAddr, path: &str) -> std::io::Result<(String, String)> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    Ok((head.to_lowercase(), body.to_owned()))
}

/// What a command was told, line by line.
fn told(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn causes(file: &Path) -> Vec<String> {
    told(file).iter().map(|event| event["cause"].as_str().unwrap().to_owned()).collect()
}

async fn until(world: &World, node: &NodeHandle, state: NodeState, concerns: usize) {
    world.heard.lock().unwrap().states.insert(node.report().node.parse().unwrap(), state);
    // One concern may follow another: their number says nothing yet.
    let hears = |_: &World| {
        node.report().state.as_deref() == Some(&*state.to_string()) && node.concerns().len() == concerns
    };
    world.wait("the node hears of its state", hears).await;
}

#[tokio::test]
async fn reads_of_a_week_are_counted_across_restarts_and_shown_on_a_page_without_scripts() {
    let world = World::new().await;
    let (disk, bundle) = (MemoryDisk::new(), CodedBundle::new(1, 300_000, 4));
    let node = world.start(1, Arc::new(disk.clone())).await;
    assert_eq!(node.handle().report().dialled_seconds_ago, None);
    world.bring(&node, &bundle, 0).await.unwrap();
    let pass = world.pass(world.client.public());
    for _ in 0..3 {
        read(&world, &node, &bundle, 0, Some(&pass)).await.unwrap();
    }
    assert!(node.handle().report().dialled_seconds_ago.is_some());
    node.shutdown().await;
    let node = world.start(1, Arc::new(disk.clone())).await;
    let report = node.handle().report();
    assert_eq!((report.reads_helped_in_week, report.done.reads_helped), (3, 0));
    assert!(report.sentence().contains("helped 3 reads within a week"), "{}", report.sentence());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let looked = watch::Sender::new(Some(node.handle()));
    let serving = tokio::spawn(serve_monitoring(listener, looked.subscribe()));
    let (head, body) = get(address, "/").await.unwrap();
    assert!(head.starts_with("http/1.1 200") && head.contains("default-src 'none'"), "{head}");
    let sentence = report.sentence();
    let beginning = sentence.split(':').next().unwrap();
    assert!(body.contains(beginning) && body.contains("helped 3 reads"), "{body}");
    assert_eq!(body.matches("<svg").count(), 4);
    assert!(body.contains("<rect") && !body.contains("<script"), "{body}");
    let (_, metrics) = get(address, "/metrics").await.unwrap();
    assert!(
        metrics.contains("firn_node_needs_attention 0\n")
            && metrics.contains("firn_node_reads_helped_total 0\n")
    );
    looked.send_replace(None);
    let (head, body) = get(address, "/").await.unwrap();
    assert!(head.starts_with("http/1.1 503") && body.contains("the node is offline"), "{head}");
    serving.abort();
}

#[tokio::test]
async fn the_owner_is_told_each_cause_once_also_across_a_kill() {
    let world = World::new().await;
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("told");
    let command = format!("cat >> '{}'", file.display());
    let notifier = || OwnerNotifier::new(Environment::real(), command.clone());
    let disk = MemoryDisk::new();
    let node = world.start(1, Arc::new(disk.clone())).await;
    let mut first = notifier();
    first.look(Some(&node.handle())).await;
    assert_eq!(told(&file), Vec::<Value>::new());
    until(&world, &node.handle(), NodeState::Suspended, 1).await;
    for _ in 0..3 {
        first.look(Some(&node.handle())).await;
    }
    let events = told(&file);
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(
        (events[0]["event"].as_str(), events[0]["node"].as_str()),
        (Some("suspended"), Some(&*node.id().to_string()))
    );
    // Killed, with what it had written.
    drop((first, node));
    let node = world.start(1, Arc::new(disk.clone())).await;
    let mut second = notifier();
    until(&world, &node.handle(), NodeState::Suspended, 1).await;
    second.look(Some(&node.handle())).await;
    assert_eq!(causes(&file), ["suspended"]);
    until(&world, &node.handle(), NodeState::Lost, 1).await;
    second.look(Some(&node.handle())).await;
    second.look(None).await;
    second.look(None).await;
    assert_eq!(causes(&file), ["suspended", "removed", "disk-gone"]);
    // What keeps a node from being heard says when it counts as lost.
    let events = told(&file);
    assert!(events[2]["consequence_at"].is_string() && events[1]["consequence_at"].is_null(), "{events:?}");
    second.tell_drained(&node.handle()).await;
    second.tell_drained(&node.handle()).await;
    assert_eq!(causes(&file), ["suspended", "removed", "disk-gone", "drained"]);
}

#[tokio::test]
async fn the_owner_is_told_of_a_suspension_when_it_is_announced_and_of_the_next_one_again() {
    let world = World::new().await;
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("told");
    let notifier = || OwnerNotifier::new(Environment::real(), format!("cat >> '{}'", file.display()));
    let announce = |millis, reason: &str| {
        let notice = SuspensionNotice { at: Timestamp::from_millis(millis), reason: reason.to_owned() };
        world.heard.lock().unwrap().suspension = Ok(Some(notice));
    };
    // Two announcements, each across a kill; the first was taken back between.
    let disk = MemoryDisk::new();
    for (millis, reason, times) in [
        (4_102_444_800_000, "new disks", 1),
        (4_102_444_800_000, "new disks", 1),
        (4_102_444_801_000, "a move", 2),
    ] {
        announce(millis, reason);
        let node = world.start(1, Arc::new(disk.clone())).await;
        let handle = node.handle();
        world.wait("the node hears what is announced", |_| handle.concerns().len() == 1).await;
        notifier().look(Some(&handle)).await;
        let events = told(&file);
        assert_eq!(events.len(), times, "{events:?}");
        let last = events.last().unwrap();
        assert_eq!((&last["event"], &last["cause"]), (&json!("suspended"), &json!("suspension-announced")));
        assert_eq!(last["consequence_at"], Timestamp::from_millis(millis).to_string());
        assert!(last["sentence"].as_str().unwrap().contains(reason), "{last}");
        let report = handle.report();
        assert!(report.sentence().starts_with("This node needs attention: "), "{}", report.sentence());
        assert_eq!(report.attention[0].consequence_millis, Some(millis));
    }
}

#[tokio::test]
async fn a_suspension_whose_time_has_passed_is_no_more_told_as_to_come() {
    let world = World::new().await;
    // As a coordinator says that was down since.
    let notice =
        SuspensionNotice { at: Timestamp::from_millis(1_795_383_909_000), reason: "new disks".into() };
    world.heard.lock().unwrap().suspension = Ok(Some(notice));
    let node = world.start(1, Arc::new(MemoryDisk::new())).await;
    // That is taken when both were answered.
    let handle = node.handle();
    world.wait("it hears where it stands", |_| handle.report().absence_left_millis.is_some()).await;
    assert_eq!(handle.concerns(), []);
}

#[tokio::test]
async fn coordinators_that_know_of_no_suspensions_announce_none() {
    let world = World::new().await;
    let refused = RefusedRequest::new(RefusalKind::Malformed, "what is that?");
    world.heard.lock().unwrap().suspension = Err(refused);
    let node = world.start(1, Arc::new(MemoryDisk::new())).await;
    // That is taken when both were answered.
    let handle = node.handle();
    world.wait("it hears where it stands", |_| handle.report().absence_left_millis.is_some()).await;
    assert_eq!(handle.concerns(), []);
}

#[tokio::test]
async fn a_drain_is_told_to_an_owner_who_did_not_ask_for_it() {
    let world = World::new().await;
    let node = world.start(1, Arc::new(MemoryDisk::new())).await;
    until(&world, &node.handle(), NodeState::Draining, 1).await;
    let attention = node.handle().report().attention;
    assert_eq!(attention[0].cause, "draining");
    assert!(attention[0].sentence.contains("operators have what this node holds moved"), "{attention:?}");
}

#[tokio::test]
async fn a_command_that_fails_costs_nothing_but_a_line_in_the_log() {
    let world = World::new().await;
    let node = world.start(1, Arc::new(MemoryDisk::new())).await;
    let mut notifier = OwnerNotifier::new(Environment::real(), "exit 7".to_owned());
    until(&world, &node.handle(), NodeState::Suspended, 1).await;
    notifier.look(Some(&node.handle())).await;
    notifier.look(Some(&node.handle())).await;
    assert!(node.handle().is_connected());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_tells_its_owner_by_command_and_page() {
    let world = World::new().await;
    let place = tempfile::tempdir().unwrap();
    let data = place.path().join("data");
    std::fs::write(place.path().join("archive.firn"), world.descriptor.to_string()).unwrap();
    let token = world.options(1, Arc::new(MemoryDisk::new())).token.unwrap();
    std::fs::write(place.path().join("token"), token.to_text()).unwrap();
    let page = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let file = place.path().join("told");
    let mut child = Command::new(env!("CARGO_BIN_EXE_firn-storage-node"))
        .args(["--data-dir", data.to_str().unwrap()])
        .args(["--archive", place.path().join("archive.firn").to_str().unwrap()])
        .args(["--token-file", place.path().join("token").to_str().unwrap()])
        .args(["--listen", "127.0.0.1:0", "--quota", "1GB", "--http", &page.to_string()])
        .args(["--notify-command", &format!("cat >> '{}'", file.display())])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    world.wait("the node joins", |world| !world.heard.lock().unwrap().joins.is_empty()).await;
    let node = world.heard.lock().unwrap().joins[0].0;
    world.heard.lock().unwrap().states.insert(node, NodeState::Suspended);
    world.wait("the owner is told", |_| causes(&file) == ["suspended"]).await;
    let (_, body) = get(page, "/").await.unwrap();
    assert!(body.contains("This node needs attention") && body.contains("suspended this node"), "{body}");
    let status = Command::new(env!("CARGO_BIN_EXE_firn-storage-node"))
        .args(["status", "--data-dir", data.to_str().unwrap()])
        .output()
        .unwrap();
    assert_eq!(status.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&status.stdout).starts_with("This node needs attention"));
    // A look comes every few seconds; a kill between writing down and telling is what costs a notice, never another one.
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(std::fs::read_to_string(data.join("notices")).unwrap().contains("told suspended 0\n"));
}
