//! The pool's connections: shared, dialled anew, left alone after a failure.
#![allow(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod world;

use std::time::Duration;

use firn_transport::{ConnectError, ConnectionPool, EndpointOptions};
use tokio::time::Instant;

use world::{SOON, address, endpoint, endpoint_at, node, spawn_doubler};

#[tokio::test]
async fn everybody_who_asks_at_once_gets_the_same_connection() {
    let (server, client) = (endpoint(1).await, endpoint(2).await);
    let _serving = spawn_doubler(&server);
    let (pool, to) = (ConnectionPool::new(client), address(&server));
    let all = futures::future::join_all((0..20).map(|_| pool.get(node(1), &to))).await;
    let mut numbers: Vec<_> = all.into_iter().map(|connection| connection.unwrap().number()).collect();
    numbers.dedup();
    assert_eq!(numbers.len(), 1);
    assert_eq!(pool.existing(node(1)).unwrap().number(), numbers[0]);
    pool.forget(node(1));
    assert!(pool.existing(node(1)).is_none());
}

#[tokio::test]
async fn a_dial_goes_on_when_its_caller_gives_up() {
    let (server, client) = (endpoint(1).await, endpoint(2).await);
    let _serving = spawn_doubler(&server);
    let (pool, to) = (ConnectionPool::new(client), address(&server));
    tokio::select! {
        biased;
        _ = pool.get(node(1), &to) => panic!("a dial takes time"),
        () = std::future::ready(()) => {}
    }
    let begun = Instant::now();
    while pool.existing(node(1)).is_none() {
        assert!(begun.elapsed() < SOON);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
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
        match firn_transport::Endpoint::bind(&environment, &world::identity(1), listen, options).await {
            Ok(endpoint) => break endpoint,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    let _serving = spawn_doubler(&again);
    let begun = Instant::now();
    let error = connection.call::<u64, u64>(&1, 100, SOON).await.unwrap_err();
    assert!(begun.elapsed() < SOON, "{error} after {:?}", begun.elapsed());
    let redialled = pool.get(node(1), &listen.to_string()).await.unwrap();
    assert_eq!(redialled.call::<u64, u64>(&2, 100, SOON).await.unwrap(), 4);
}

#[tokio::test]
async fn a_peer_that_does_not_answer_is_left_alone_for_a_while() {
    let client = endpoint(2).await;
    let pool = ConnectionPool::new(client);
    let server = endpoint(1).await;
    let to = address(&server);
    // Somebody else answers there: an error that comes quickly.
    let error = pool.get(node(3), &to).await.unwrap_err();
    assert!(matches!(error, ConnectError::WrongIdentity { .. }));
    let begun = Instant::now();
    let error = pool.get(node(3), &to).await.unwrap_err();
    assert!(matches!(error, ConnectError::WrongIdentity { .. }));
    assert!(begun.elapsed() < Duration::from_secs(1));
    // Another address is another chance.
    let third = endpoint_at(3, world::LOOPBACK, EndpointOptions::default()).await;
    let connection = pool.get(node(3), &address(&third)).await.unwrap();
    assert_eq!(connection.peer_node(), node(3));
}
