//! What a node says of itself beside its heartbeats, to real coordinators on loopback: its terms, and that it will be away.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::archive::{Archive, empty_node, endpoint, join_node, until};
use firn_base::ByteCount;
use firn_coordinator_logic::Facts;
use firn_transport::Connection;
use firn_wire::{
    CONTROL_BYTES_MAX, CoordinatorReply, CoordinatorRequest, FEATURE_LEVEL, Identity, NodeRest, NodeStanding,
    NodeStatus, NodeTerms, RefusalKind, RestCause, RestingNode,
};

const WITHIN: Duration = Duration::from_secs(60);
const DAY_MILLIS: u64 = 86_400_000;

fn node() -> Identity {
    Identity::from_seed(&[60; 32])
}

async fn join(archive: &Archive) {
    let now = firn_transport::Environment::real().now();
    archive.apply(now, join_node(1, node().node_id())).await;
}

async fn call(connection: &Connection, request: CoordinatorRequest) -> CoordinatorReply {
    connection.call(&request, CONTROL_BYTES_MAX, WITHIN).await.unwrap()
}

fn standing(reply: CoordinatorReply) -> NodeStanding {
    match reply {
        CoordinatorReply::Standing(standing) => standing,
        other => panic!("{other:?}"),
    }
}

fn resting(reply: CoordinatorReply) -> Vec<RestingNode> {
    match reply {
        CoordinatorReply::Resting(nodes) => nodes,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_absence_that_is_declared_to_any_coordinator_is_known_to_whoever_leads_next() {
    let mut archive = Archive::found(3).await;
    Box::pin(join(&archive)).await;
    until("all agree on what all know", async || {
        let level =
            |number| archive.coordinator(number).consensus().facts().counters().unwrap().feature_level;
        (1..=3).all(|number| level(number) == FEATURE_LEVEL).then_some(())
    })
    .await;
    let leader = archive.leader().await;
    let follower = (1..=3).find(|number| *number != leader).unwrap();
    let own = endpoint(&node(), (Ipv4Addr::LOCALHOST, 0).into()).await;
    let (id, address) = (archive.id(follower), archive.machines[&follower].address.to_string());
    let connection = own.connect(id, &address).await.unwrap();
    let declare = |for_millis| CoordinatorRequest::DeclareAbsence { for_millis };
    let refused = call(&connection, declare(15 * DAY_MILLIS)).await;
    assert!(
        matches!(&refused, CoordinatorReply::Refused(refused) if refused.kind == RefusalKind::NotAllowed
            && refused.sentence.starts_with("an absence lasts 14 days at most")),
        "{refused:?}"
    );
    let away = standing(call(&connection, declare(10 * DAY_MILLIS)).await);
    let end = away.absent_until.unwrap();
    assert!((3 * DAY_MILLIS..5 * DAY_MILLIS).contains(&away.absence_left_millis), "{away:?}");
    archive.kill(leader);
    let nodes = until("another leads and knows it", async || {
        let reply = call(&connection, CoordinatorRequest::ListResting).await;
        let CoordinatorReply::Resting(nodes) = reply else { return None };
        (!nodes.is_empty()).then_some(nodes)
    })
    .await;
    let expected = RestingNode { node: node().node_id(), cause: RestCause::Absent, until: Some(end) };
    assert_eq!(nodes, [expected]);
    let ended = until("it ends", async || match call(&connection, declare(0)).await {
        CoordinatorReply::Standing(standing) => Some(standing),
        _ => None,
    })
    .await;
    assert_eq!(ended.absent_until, None);
    assert!(ended.absence_left_millis > 13 * DAY_MILLIS, "{ended:?}");
    // A stranger's word is none.
    let stranger = endpoint(&Identity::from_seed(&[61; 32]), (Ipv4Addr::LOCALHOST, 0).into()).await;
    let connection = stranger.connect(id, &address).await.unwrap();
    for request in [declare(DAY_MILLIS), CoordinatorRequest::TellTerms(NodeTerms::default())] {
        let reply = call(&connection, request).await;
        assert!(matches!(reply, CoordinatorReply::Refused(_)), "{reply:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_rests_is_listed_with_the_end_that_it_tells() {
    let archive = Archive::found(1).await;
    Box::pin(join(&archive)).await;
    let own = endpoint(&node(), (Ipv4Addr::LOCALHOST, 0).into()).await;
    let machine = &archive.machines[&1];
    let connection = own.connect(machine.identity.node_id(), &machine.address.to_string()).await.unwrap();
    let heartbeat = |rest| CoordinatorRequest::Heartbeat(NodeStatus { rest, ..empty_node() });
    let list = async || resting(call(&connection, CoordinatorRequest::ListResting).await);
    call(&connection, heartbeat(None)).await;
    assert_eq!(list().await, []);
    call(&connection, heartbeat(Some(NodeRest::TrafficSpent))).await;
    let rest_until = Some(firn_base::Timestamp::from_millis(1_800_000_000_000));
    let node = node().node_id();
    let expected = |until| RestingNode { node, cause: RestCause::TrafficSpent, until };
    assert_eq!(list().await, [expected(None)]);
    let terms = NodeTerms { rest_until, month_left: Some(ByteCount(0)) };
    standing(call(&connection, CoordinatorRequest::TellTerms(terms)).await);
    assert_eq!(list().await, [expected(rest_until)]);
    // Nothing is written of the end of an absence that was never declared.
    let ended = standing(call(&connection, CoordinatorRequest::DeclareAbsence { for_millis: 0 }).await);
    assert_eq!(ended.absent_until, None);
    let record = archive.coordinator(1).consensus().facts().node_by_id(node).unwrap().unwrap();
    assert!(!record.absence.is_declared());
}
