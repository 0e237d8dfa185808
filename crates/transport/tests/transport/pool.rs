//! The pool's connections: shared, dialled anew, left alone after a failure.

use std::time::Duration;

use firn_transport::{ConnectError, ConnectionPool, EndpointOptions};
use tokio::time::Instant;

use crate::world::{CountedWay, SOON, address, endpoint, endpoint_at, node, spawn_doubler};

/// Long enough for any machine: what is awaited comes, or does not come at all.
const AT_LAST: Duration = Duration::from_secs(120);

#[tokio::test]
async fn everybody_who_asks_at_once_gets_the_same_connection() {
    let (server, client) = (endpoint(1).await, endpoint(2).await);
    let _serving = spawn_doubler(&server);
    let (pool, way) = (ConnectionPool::new(client), CountedWay::to(&server).await);
    let to = &way.address;
    let all = futures::future::join_all((0..20).map(|_| pool.get(node(1), to))).await;
    let mut numbers: Vec<_> = all.into_iter().map(|connection| connection.unwrap().number()).collect();
    numbers.dedup();
    assert_eq!((numbers.len(), way.dials()), (1, 1));
    assert_eq!(pool.existing(node(1)).unwrap().number(), numbers[0]);
    pool.forget(node(1));
    assert!(pool.existing(node(1)).is_none());
}

#[tokio::test]
async fn a_dial_goes_on_when_its_caller_gives_up() {
    let (server, client) = (endpoint(1).await, endpoint(2).await);
    let _serving = spawn_doubler(&server);
    let (pool, way) = (ConnectionPool::new(client), CountedWay::to(&server).await);
    tokio::select! {
        biased;
        _ = pool.get(node(1), &way.address) => panic!("a dial takes time"),
        () = std::future::ready(()) => {}
    }
    let begun = Instant::now();
    while pool.existing(node(1)).is_none() {
        assert!(begun.elapsed() < AT_LAST);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    pool.get(node(1), &way.address).await.unwrap();
    assert_eq!(way.dials(), 1);
}

#[tokio::test]
async fn a_peer_that_was_killed_and_started_again_is_dialled_again_at_once() {
    let client = endpoint(2).await;
    let pool = ConnectionPool::new(client);
    // A runtime of its own dies with everything in it, as a killed process does.
    let (told, address) = tokio::sync::oneshot::channel();
    let (kill, killed) = tokio::sync::oneshot::channel::<()>();
    let victim = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let server = endpoint(1).await;
            let _serving = spawn_doubler(&server);
            told.send(server.local_address()).unwrap();
            let _ = killed.await;
            // No word to anybody: whoever would send it is never run again.
        });
        runtime.shutdown_background();
    });
    let listen = address.await.unwrap();
    let connection = pool.get(node(1), &listen.to_string()).await.unwrap();
    assert_eq!(connection.call::<u64, u64>(&1, 100, SOON).await.unwrap(), 2);
    kill.send(()).unwrap();
    victim.join().unwrap();

    let again = loop {
        // The port is free once the old socket is closed.
        let environment = firn_transport::Environment::real();
        let options = EndpointOptions::default();
        match firn_transport::Endpoint::bind(&environment, &crate::world::identity(1), listen, options).await
        {
            Ok(endpoint) => break endpoint,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    let _serving = spawn_doubler(&again);
    // It is told by the one that was started: nobody waits until the old one has been silent for long enough.
    let error = connection.call::<u64, u64>(&1, 100, AT_LAST).await.unwrap_err();
    assert!(error.to_string().ends_with("it was restarted"), "{error}");
    let redialled = pool.get(node(1), &listen.to_string()).await.unwrap();
    assert_eq!(redialled.call::<u64, u64>(&2, 100, SOON).await.unwrap(), 4);
}

#[tokio::test]
async fn a_peer_that_does_not_answer_is_left_alone_for_a_while() {
    let client = endpoint(2).await;
    let pool = ConnectionPool::new(client);
    let server = endpoint(1).await;
    let way = CountedWay::to(&server).await;
    // Somebody else answers there: an error that comes quickly.
    let begun = Instant::now();
    for _ in 0..50 {
        let error = pool.get(node(3), &way.address).await.unwrap_err();
        assert!(matches!(error, ConnectError::WrongIdentity { .. }));
    }
    // It is dialled at once and after each pause, of which a slow machine may see many.
    let pauses =
        (0..).map(|doubled| Duration::from_millis(100 << doubled.min(5)).min(Duration::from_secs(2)));
    let ends = pauses.scan(Duration::ZERO, |end, pause| {
        *end += pause;
        Some(*end)
    });
    let allowed = 1 + ends.take_while(|end| *end <= begun.elapsed()).count();
    assert!((1..=allowed).contains(&way.dials()), "{} dials, {allowed} are allowed", way.dials());
    // Another address is another chance.
    let third = endpoint_at(3, crate::world::LOOPBACK, EndpointOptions::default()).await;
    let connection = pool.get(node(3), &address(&third)).await.unwrap();
    assert_eq!(connection.peer_node(), node(3));
}
