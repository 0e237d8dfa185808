//! Operators and their roles, over real connections on loopback.

use std::time::Duration;

use crate::archive::{Archive, PATIENCE, until};
use firn_base::{NodeId, ObjectKey};
use firn_coordinator_logic::Scan;
use firn_transport::{
    AskError, Connection, ConnectionPool, CoordinatorClient, Endpoint, EndpointOptions, Environment,
};
use firn_wire::{
    Actor, AdminReply, AdminRequest, CONTROL_BYTES_MAX, CoordinatorReply, CoordinatorRequest, Identity,
    LedgerAct, LedgerEntry, OperatorRole, RefusalKind, RefusedRequest, encode,
};

fn withdraw(name: u8) -> AdminRequest {
    let (key, reason) = (ObjectKey::store_path([name; 20]), "asked to".to_owned());
    AdminRequest::Govern(LedgerAct::Withdraw { key, reason })
}

fn token() -> AdminRequest {
    AdminRequest::CreateToken { operator: "grace".into(), failure_domain: None, valid_millis: 60_000 }
}

async fn endpoint(identity: &Identity) -> Endpoint {
    Endpoint::bind_client(&Environment::real(), identity, EndpointOptions::default()).await.unwrap()
}

/// An operator far away, whose connections stay open.
async fn operator(archive: &Archive, identity: &Identity) -> CoordinatorClient {
    let pool = ConnectionPool::new(endpoint(identity).await);
    CoordinatorClient::new(pool, archive.descriptor.verify().unwrap())
}

async fn give(archive: &Archive, identity: &Identity, role: OperatorRole) {
    let act = LedgerAct::AddOperator { key: identity.public(), name: "ada".into(), role };
    assert_eq!(archive.ask(AdminRequest::Govern(act)).await, Ok(AdminReply::Done));
}

fn refusal(answer: Result<AdminReply, AskError>) -> RefusedRequest {
    match answer {
        Err(AskError::Refused(refused)) => refused,
        other => panic!("{other:?}"),
    }
}

/// As the leader has it: others are a moment behind.
async fn ledger(archive: &Archive) -> Vec<LedgerEntry> {
    let leader = archive.leader().await;
    let consensus = archive.coordinator(leader).consensus();
    consensus.ensure_linearizable().await.unwrap();
    consensus.facts().ledger_from(0, 100).unwrap()
}

async fn connect(archive: &Archive, identity: &Identity, to: u8) -> (Endpoint, Connection) {
    let endpoint = endpoint(identity).await;
    let address = archive.machines[&to].address.to_string();
    let connection = endpoint.connect(archive.id(to), &address).await.unwrap();
    (endpoint, connection)
}

async fn call(connection: &Connection, request: &CoordinatorRequest) -> CoordinatorReply {
    connection.call(request, CONTROL_BYTES_MAX, Duration::from_secs(20)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_counts_at_once_on_open_connections_and_what_it_does_not_allow_is_in_the_ledger() {
    let archive = Archive::found(3).await;
    archive.leader().await;
    let ada = Identity::from_seed(&[100; 32]);
    let client = operator(&archive, &ada).await;
    let by_ada = Actor::Operator { key: ada.public(), name: "ada".into() };
    let stranger = refusal(client.administer(AdminRequest::Nodes).await);
    assert_eq!(stranger.kind, RefusalKind::NotAllowed);
    assert!(stranger.sentence.contains("operator add"), "{stranger}");

    give(&archive, &ada, OperatorRole::Nodes).await;
    assert!(matches!(client.administer(token()).await, Ok(AdminReply::Token(_))));
    let made = ledger(&archive).await.pop().unwrap();
    assert!(matches!(made.act, LedgerAct::CreateToken { .. }) && made.by == by_ada, "{made:?}");
    for _ in 0..2 {
        let refused = refusal(client.administer(withdraw(1)).await);
        assert_eq!(refused.kind, RefusalKind::NotAllowed);
        assert!(refused.sentence.contains("has the role `nodes`, and this needs `content`"), "{refused}");
    }
    let entries = ledger(&archive).await;
    let [.., before, last] = entries.as_slice() else { panic!("{entries:?}") };
    assert_eq!(before, &made, "two refusals at once are one entry");
    assert_eq!(last.by, Actor::Coordinators);
    let LedgerAct::Refuse { operator, needed: OperatorRole::Content, times: 1, what, .. } = &last.act else {
        panic!("{last:?}")
    };
    assert!(*operator == ada.public() && what.contains("withdrawn"), "{what}");

    give(&archive, &ada, OperatorRole::Content).await;
    assert!(matches!(client.administer(withdraw(1)).await, Ok(AdminReply::Done)));
    assert_eq!(ledger(&archive).await.pop().unwrap().by, by_ada);
    assert!(refusal(client.administer(token()).await).sentence.contains("needs `nodes`"));
    let more = LedgerAct::AddOperator { key: ada.public(), name: "ada".into(), role: OperatorRole::Admin };
    let refused = refusal(client.administer(AdminRequest::Govern(more)).await);
    assert!(refused.sentence.contains("needs `admin`"), "nobody lifts themselves: {refused}");

    let removed = LedgerAct::RemoveOperator { key: ada.public() };
    archive.ask(AdminRequest::Govern(removed)).await.unwrap();
    assert_eq!(refusal(client.administer(AdminRequest::Nodes).await).kind, RefusalKind::NotAllowed);

    // A stranger leaves no trace, and the ledger is alike on every coordinator.
    let entries = ledger(&archive).await;
    let of_stranger =
        |entry: &LedgerEntry| matches!(entry.act, LedgerAct::Refuse { needed: OperatorRole::Observer, .. });
    assert!(!entries.iter().any(of_stranger), "{entries:?}");
    archive.check(0).await;
    until("all have the same ledger", async || {
        let of = |number| archive.coordinator(number).consensus().facts().ledger_from(0, 100).unwrap();
        let ledgers: Vec<_> = archive.running().into_iter().map(of).collect();
        ledgers.iter().all(|one| *one == ledgers[0] && one.starts_with(&entries)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_speaks_for_its_own_socket_and_for_no_operator() {
    let archive = Archive::found(3).await;
    let leader = archive.leader().await;
    let follower = archive.running().into_iter().find(|number| *number != leader).unwrap();
    let ada = Identity::from_seed(&[100; 32]);
    give(&archive, &ada, OperatorRole::Admin).await;

    let identity = archive.machines[&follower].identity.clone();
    let (_own, connection) = connect(&archive, &identity, leader).await;
    let forward = |client| CoordinatorRequest::Forward {
        client,
        seen_at: None,
        request: encode(&CoordinatorRequest::Admin(withdraw(1))),
    };
    let before = ledger(&archive).await.len();
    match call(&connection, &forward(ada.public())).await {
        CoordinatorReply::Refused(refused) => assert_eq!(refused.kind, RefusalKind::NotAllowed),
        other => panic!("{other:?}"),
    }
    assert_eq!(ledger(&archive).await.len(), before);
    assert!(matches!(call(&connection, &forward(identity.public())).await, CoordinatorReply::Admin(_)));
    let last = ledger(&archive).await.pop().unwrap();
    assert_eq!(last.by, Actor::Socket { coordinator: NodeId::from(identity.public()) });

    // Who does not lead hands nothing on, and says who leads.
    let (_own, connection) = connect(&archive, &ada, follower).await;
    match call(&connection, &CoordinatorRequest::Admin(withdraw(2))).await {
        CoordinatorReply::Refused(refused) => {
            assert_eq!(refused.kind, RefusalKind::Unavailable);
            assert!(refused.sentence.contains(&archive.id(leader).short()), "{refused}");
        }
        other => panic!("{other:?}"),
    }
    let client = operator(&archive, &ada).await;
    let done = tokio::time::timeout(PATIENCE, client.administer(withdraw(2))).await.unwrap();
    assert!(matches!(done, Ok(AdminReply::Done)), "{done:?}");
}
