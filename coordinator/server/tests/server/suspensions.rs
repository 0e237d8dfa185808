//! Suspensions that are announced to a node's owner, by real requests to coordinators on loopback.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::archive::{Archive, endpoint, join_node, until};
use firn_base::{NodeId, Timestamp};
use firn_coordinator_logic::{Facts, SUSPENSION_NOTICE, Scan};
use firn_transport::{Connection, Endpoint};
use firn_wire::{
    Actor, AdminReply, AdminRequest, AnnouncedSuspension, CONTROL_BYTES_MAX, CoordinatorReply,
    CoordinatorRequest, FEATURE_LEVEL, Identity, LedgerAct, LedgerEntry, NodeState, RefusalKind,
    RefusedRequest, SuspensionNotice,
};

const WITHIN: Duration = Duration::from_secs(60);

fn node() -> Identity {
    Identity::from_seed(&[60; 32])
}

fn id() -> NodeId {
    node().node_id()
}

/// An archive of so many coordinators, which all know all commands, with one node.
async fn archive(coordinators: u8) -> Archive {
    let archive = Archive::found(coordinators).await;
    let now = firn_transport::Environment::real().now();
    Box::pin(archive.apply(now, join_node(1, id()))).await;
    until("all agree on what all know", async || {
        let level =
            |number| archive.coordinator(number).consensus().facts().counters().unwrap().feature_level;
        (1..=coordinators).all(|number| level(number) == FEATURE_LEVEL).then_some(())
    })
    .await;
    archive
}

async fn connect(archive: &Archive, number: u8, identity: &Identity) -> (Endpoint, Connection) {
    let own = endpoint(identity, (Ipv4Addr::LOCALHOST, 0).into()).await;
    let address = archive.machines[&number].address.to_string();
    let connection = own.connect(archive.id(number), &address).await.unwrap();
    (own, connection)
}

/// What the node hears by a connection.
async fn hear(connection: &Connection) -> Option<SuspensionNotice> {
    let asked = &CoordinatorRequest::GetSuspension;
    match connection.call(asked, CONTROL_BYTES_MAX, WITHIN).await.unwrap() {
        CoordinatorReply::Suspension(notice) => notice,
        other => panic!("{other:?}"),
    }
}

async fn announce(archive: &Archive, reason: &str) -> Result<Timestamp, RefusedRequest> {
    let request = AdminRequest::AnnounceSuspension { node: id(), reason: reason.into() };
    match archive.ask(request).await {
        Ok(AdminReply::SuspensionAnnounced { at }) => Ok(at),
        Ok(other) => panic!("{other:?}"),
        // It asks again where it may have been done: then it was, and is refused as told already.
        Err(refused) => match announced(archive).await.pop() {
            Some(done) if done.reason == reason => Ok(done.at),
            _ => Err(refused),
        },
    }
}

async fn announced(archive: &Archive) -> Vec<AnnouncedSuspension> {
    match archive.ask(AdminRequest::AnnouncedSuspensions).await {
        Ok(AdminReply::AnnouncedSuspensions(listed)) => listed,
        other => panic!("{other:?}"),
    }
}

async fn set_state(archive: &Archive, state: NodeState) {
    let done = archive.ask(AdminRequest::SetNodeState { node: id(), state }).await;
    assert_eq!(done, Ok(AdminReply::Done));
}

fn state(archive: &Archive, number: u8) -> NodeState {
    archive.coordinator(number).consensus().facts().node_by_id(id()).unwrap().unwrap().state
}

/// Entries of the ledger about the node's state.
fn entered(archive: &Archive, number: u8) -> Vec<LedgerEntry> {
    let mut entries = archive.coordinator(number).consensus().facts().ledger_from(0, usize::MAX).unwrap();
    entries.retain(|entry| matches!(entry.act, LedgerAct::SetNodeState { .. }));
    entries
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_hears_that_it_will_be_suspended_and_is_48_hours_later_and_not_before() {
    let archive = archive(1).await;
    let (_own, connection) = connect(&archive, 1, &node()).await;
    assert_eq!(hear(&connection).await, None);
    let clock = &archive.machines[&1].clock;
    let before = firn_transport::Environment::real().now();
    let at = announce(&archive, "new disks").await.unwrap();
    let after = firn_transport::Environment::real().now();
    assert!((before.after(SUSPENSION_NOTICE)..=after.after(SUSPENSION_NOTICE)).contains(&at), "{at}");
    assert_eq!(hear(&connection).await, Some(SuspensionNotice { at, reason: "new disks".into() }));
    let by = Actor::Socket { coordinator: archive.id(1) };
    let expected = AnnouncedSuspension { node: id(), at, by: by.clone(), reason: "new disks".into() };
    assert_eq!(announced(&archive).await, [expected]);
    // A stranger hears nothing of it, and a second one is refused with the first.
    let (_strange, stranger) = connect(&archive, 1, &Identity::from_seed(&[61; 32])).await;
    let asked = &CoordinatorRequest::GetSuspension;
    let refused = stranger.call(asked, CONTROL_BYTES_MAX, WITHIN).await.unwrap();
    assert!(matches!(refused, CoordinatorReply::Refused(_)), "{refused:?}");
    let refused = announce(&archive, "other disks").await.unwrap_err();
    assert_eq!(refused.kind, RefusalKind::NotAllowed);
    assert!(refused.sentence.contains(&format!("will be suspended at {at}: ")), "{refused}");
    let hour = 3_600_000;
    let notice = i64::try_from(SUSPENSION_NOTICE.as_millis()).unwrap();
    clock.set(notice - hour);
    // Whatever the leader does by itself, it has done since: it commits how nodes were heard every ten minutes.
    until("the leader plans by the new time", async || {
        let time = archive.coordinator(1).consensus().facts().counters().unwrap().time;
        (time.after(Duration::from_secs(7200)) > at).then_some(())
    })
    .await;
    assert_eq!((state(&archive, 1), entered(&archive, 1).len()), (NodeState::Active, 0));
    clock.set(notice + hour);
    until("it is suspended", async || (state(&archive, 1) == NodeState::Suspended).then_some(())).await;
    assert_eq!((hear(&connection).await, announced(&archive).await), (None, Vec::new()));
    let entries = entered(&archive, 1);
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].by, by);
    assert!(entries[0].at >= at);
    // It is not suspended again once it is resumed.
    set_state(&archive, NodeState::Active).await;
    clock.set(2 * notice);
    until("the leader plans by the new time", async || {
        let time = archive.coordinator(1).consensus().facts().counters().unwrap().time;
        (time > at.after(SUSPENSION_NOTICE / 2)).then_some(())
    })
    .await;
    assert_eq!((state(&archive, 1), entered(&archive, 1).len()), (NodeState::Active, 2));
    set_state(&archive, NodeState::Suspended).await;
    let refused = announce(&archive, "new disks").await.unwrap_err();
    assert!(refused.sentence.starts_with("this node is suspended already"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_leads_next_knows_what_was_announced_and_takes_it_back() {
    let mut archive = archive(3).await;
    let leader = archive.leader().await;
    let at = announce(&archive, "new disks").await.unwrap();
    let notice = Some(SuspensionNotice { at, reason: "new disks".into() });
    let follower = (1..=3).find(|number| *number != leader).unwrap();
    let (_own, connection) = connect(&archive, follower, &node()).await;
    until("a follower tells it, too", async || (hear(&connection).await == notice).then_some(())).await;
    archive.kill(leader);
    let listed = until("another leads and knows it", async || {
        let listed = announced(&archive).await;
        (!listed.is_empty()).then_some(listed)
    })
    .await;
    assert_eq!((listed[0].node, listed[0].at), (id(), at));
    set_state(&archive, NodeState::Active).await;
    assert_eq!(announced(&archive).await, []);
    until("the node hears that, too", async || hear(&connection).await.is_none().then_some(())).await;
    let later = announce(&archive, "a move").await.unwrap();
    assert!(later > at);
    let notice = Some(SuspensionNotice { at: later, reason: "a move".into() });
    until("the node hears of the next one", async || (hear(&connection).await == notice).then_some(())).await;
}
