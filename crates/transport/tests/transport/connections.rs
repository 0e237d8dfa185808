//! Connections and streams between endpoints on loopback.

use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use firn_base::BitRate;
use firn_transport::{
    BindError, ConnectError, Connection, Endpoint, EndpointOptions, Environment, Handler, Line, LineRates,
    Stream, StreamError, serve_connection,
};
use tokio::time::{Instant, timeout};

use crate::world::{Doubler, LOOPBACK, SOON, address, endpoint, endpoint_at, identity, node, spawn_doubler};

async fn pair() -> (Endpoint, Endpoint, Connection, Connection) {
    let (one, two) = (endpoint(1).await, endpoint(2).await);
    let to = address(&two);
    let (dialled, accepted) = tokio::join!(one.connect(node(2), &to), two.accept());
    (one, two, dialled.unwrap(), accepted.unwrap())
}

#[tokio::test]
async fn two_peers_know_each_other_and_exchange_messages_and_bytes() {
    let (_one, _two, dialled, accepted) = pair().await;
    assert_eq!(dialled.peer(), identity(2).public());
    assert_eq!(accepted.peer(), identity(1).public());
    assert!(accepted.remote_address().ip().is_loopback());

    let mut ours = dialled.open().await.unwrap();
    ours.send(&"question".to_owned()).await.unwrap();
    ours.send_bytes(Bytes::from(vec![7; 100_000])).await.unwrap();
    ours.finish();
    let mut theirs = accepted.accept().await.unwrap();
    assert_eq!(theirs.receive::<String>(100).await.unwrap(), "question");
    let mut first = [0; 60_000];
    theirs.receive_exact(&mut first).await.unwrap();
    assert!(first.iter().all(|byte| *byte == 7));
    let mut rest = 0;
    while let Some(piece) = theirs.receive_bytes(9_000).await.unwrap() {
        assert!(!piece.is_empty() && piece.len() <= 9_000);
        rest += piece.len();
    }
    assert_eq!(rest, 40_000);
    theirs.send(&"answer".to_owned()).await.unwrap();
    theirs.finish();
    assert_eq!(ours.receive::<String>(100).await.unwrap(), "answer");
}

#[tokio::test]
async fn both_sides_may_ask_on_one_connection() {
    let (_one, _two, dialled, accepted) = pair().await;
    let serving = [
        tokio::spawn(serve_connection(dialled.clone(), Arc::new(Doubler))),
        tokio::spawn(serve_connection(accepted.clone(), Arc::new(Doubler))),
    ];
    assert_eq!(dialled.call::<u64, u64>(&21, 100, SOON).await.unwrap(), 42);
    assert_eq!(accepted.call::<u64, u64>(&4, 100, SOON).await.unwrap(), 8);
    dialled.close();
    for served in serving {
        timeout(SOON, served).await.unwrap().unwrap();
    }
    assert!(accepted.is_closed());
}

#[tokio::test]
async fn a_peer_with_another_identity_than_the_one_dialled_is_refused_by_name() {
    let (one, two) = (endpoint(1).await, endpoint(2).await);
    let error = one.connect(node(3), &address(&two)).await.unwrap_err();
    let ConnectError::WrongIdentity { peer, found, .. } = &error else { panic!("{error}") };
    assert_eq!((*peer, *found), (node(3), identity(2).public()));
    let text = error.to_string();
    assert!(text.contains(&node(3).to_string()) && text.contains(&node(2).to_string()), "{text}");
    assert!(timeout(Duration::from_millis(300), two.accept()).await.is_err(), "the connection was accepted");
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused_before_it_is_read() {
    let (_one, _two, dialled, accepted) = pair().await;
    let mut ours = dialled.open().await.unwrap();
    // The length of a message of 4 GiB, and nothing of it.
    ours.send_bytes(Bytes::from_static(&[0xff; 4])).await.unwrap();
    let mut theirs = accepted.accept().await.unwrap();
    let error = theirs.receive::<Vec<u8>>(1000).await.unwrap_err();
    assert!(matches!(error, StreamError::TooLarge { bytes: 0xffff_ffff, bytes_max: 1000, .. }), "{error}");
    assert!(error.to_string().contains("4294967295 bytes, 1000 are allowed"));
}

#[tokio::test]
async fn a_message_that_ends_early_or_makes_no_sense_is_an_error() {
    let (_one, _two, dialled, accepted) = pair().await;
    let mut ours = dialled.open().await.unwrap();
    ours.send_bytes(Bytes::from_static(&[9, 0, 0, 0, 1, 0])).await.unwrap();
    ours.finish();
    let mut theirs = accepted.accept().await.unwrap();
    assert!(matches!(theirs.receive::<String>(100).await, Err(StreamError::Ended { .. })));

    let mut ours = dialled.open().await.unwrap();
    ours.send_bytes(Bytes::from_static(&[3, 0, 0, 0, 2, 0, 5])).await.unwrap();
    let mut theirs = accepted.accept().await.unwrap();
    let error = theirs.receive::<u64>(100).await.unwrap_err().to_string();
    assert!(error.contains("the message has version 2, this program knows 1"), "{error}");
}

#[tokio::test]
async fn an_exchange_that_is_broken_off_or_too_slow_is_an_error_on_the_other_side() {
    let (_one, _two, dialled, accepted) = pair().await;
    let mut ours = dialled.open().await.unwrap();
    ours.send(&1_u64).await.unwrap();
    let mut theirs = accepted.accept().await.unwrap();
    assert_eq!(theirs.receive::<u64>(100).await.unwrap(), 1);
    theirs.abort();
    assert!(matches!(ours.receive::<u64>(100).await, Err(StreamError::BrokenOff { .. })));

    let error = dialled.call::<u64, u64>(&1, 100, Duration::from_millis(100)).await.unwrap_err();
    assert!(matches!(error, StreamError::TimedOut { .. }), "{error}");
    accepted.close();
    dialled.closed().await;
    assert_eq!(dialled.close_reason().unwrap(), "it closed the connection");
    assert!(matches!(dialled.open().await, Err(StreamError::Lost { .. })));
}

#[tokio::test]
async fn a_receiver_gets_what_was_sent_before_the_sender_let_go() {
    let (_one, _two, dialled, accepted) = pair().await;
    let mut ours = dialled.open().await.unwrap();
    ours.send_bytes(Bytes::from(vec![1; 3_000_000])).await.unwrap();
    drop(ours);
    let mut theirs = accepted.accept().await.unwrap();
    let mut all = vec![0; 3_000_000];
    theirs.receive_exact(&mut all).await.unwrap();
    assert!(theirs.receive_bytes(10).await.unwrap().is_none());
}

#[tokio::test]
async fn garbage_on_the_port_disturbs_nobody() {
    let (one, two) = (endpoint(1).await, endpoint(2).await);
    let _serving = spawn_doubler(&two);
    let connection = one.connect(node(2), &address(&two)).await.unwrap();
    let stranger = UdpSocket::bind(LOOPBACK).unwrap();
    let mut state = 12345_u64;
    for length in 0..1500_usize {
        let datagram: Vec<u8> = (0..length)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                state.to_be_bytes()[0]
            })
            .collect();
        stranger.send_to(&datagram, two.local_address()).unwrap();
        // Long headers of version 1, and of no version at all.
        if let Some(rest) = datagram.get(5..) {
            for head in [[0xc0, 0, 0, 0, 1], [0xff, 0, 0, 0, 0]] {
                stranger.send_to(&[&head, rest].concat(), two.local_address()).unwrap();
            }
        }
    }
    assert_eq!(connection.call::<u64, u64>(&3, 100, SOON).await.unwrap(), 6);
    let again = one.connect(node(2), &address(&two)).await.unwrap();
    assert_eq!(again.call::<u64, u64>(&5, 100, SOON).await.unwrap(), 10);
}

#[tokio::test]
async fn a_port_in_use_is_said_in_one_sentence() {
    let one = endpoint(1).await;
    let listen = one.local_address();
    let second = Endpoint::bind(&Environment::real(), &identity(2), listen, EndpointOptions::default()).await;
    let error = second.unwrap_err();
    assert!(matches!(error, BindError::InUse { .. }));
    let text = format!("UDP port {} of 127.0.0.1 is in use already", listen.port());
    assert!(error.to_string().starts_with(&text), "{error}");

    let elsewhere = "198.51.100.1:0".parse().unwrap();
    let foreign =
        Endpoint::bind(&Environment::real(), &identity(2), elsewhere, EndpointOptions::default()).await;
    assert!(foreign.unwrap_err().to_string().contains("this machine has no address 198.51.100.1"));
}

#[tokio::test]
async fn an_address_that_leads_nowhere_is_said_in_one_sentence() {
    let one = endpoint(1).await;
    let error = one.connect(node(2), "no port").await.unwrap_err();
    assert!(error.to_string().starts_with("cannot find the address `no port`"), "{error}");
    let silent = UdpSocket::bind(LOOPBACK).unwrap();
    let error = one.connect(node(2), &silent.local_addr().unwrap().to_string()).await.unwrap_err();
    assert!(error.to_string().contains("does not answer at 127.0.0.1"), "{error}");
}

#[tokio::test]
async fn a_program_that_only_dials_reaches_others_and_is_not_reached() {
    let server = endpoint(1).await;
    let _serving = spawn_doubler(&server);
    let environment = Environment::real();
    let client = Endpoint::bind_client(&environment, &identity(2), EndpointOptions::default()).await.unwrap();
    let name = format!("localhost:{}", server.local_address().port());
    let connection = client.connect(node(1), &name).await.unwrap();
    assert_eq!(connection.call::<u64, u64>(&3, 100, SOON).await.unwrap(), 6);
    let there = format!("127.0.0.1:{}", client.local_address().port());
    assert!(server.connect(node(2), &there).await.is_err());
}

#[tokio::test]
async fn newcomers_beyond_the_limit_of_connections_are_refused() {
    let options = EndpointOptions { connections_max: 1, ..Default::default() };
    let server = endpoint_at(1, LOOPBACK, options).await;
    let _serving = spawn_doubler(&server);
    let (two, three) = (endpoint(2).await, endpoint(3).await);
    let first = two.connect(node(1), &address(&server)).await.unwrap();
    assert!(three.connect(node(1), &address(&server)).await.is_err());
    assert_eq!(first.call::<u64, u64>(&3, 100, SOON).await.unwrap(), 6);
}

#[tokio::test]
async fn newcomers_under_load_show_that_they_own_their_address() {
    // From no handshake in flight on, everybody is sent away once to come back with a token.
    let options = EndpointOptions { handshakes_max: 3, ..Default::default() };
    let server = endpoint_at(1, LOOPBACK, options).await;
    let _serving = spawn_doubler(&server);
    let two = endpoint(2).await;
    let connection = two.connect(node(1), &address(&server)).await.unwrap();
    assert_eq!(connection.call::<u64, u64>(&3, 100, SOON).await.unwrap(), 6);
}

#[tokio::test]
async fn a_peer_that_breaks_off_its_streams_does_not_get_more_handlers() {
    struct Slow(std::sync::atomic::AtomicUsize);
    impl Handler for Slow {
        async fn handle(&self, _connection: &Connection, stream: Stream) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            std::future::pending::<()>().await;
            drop(stream);
        }
    }
    let options = EndpointOptions { bidi_streams_max: 4, ..Default::default() };
    let server = endpoint_at(1, LOOPBACK, options).await;
    let client = endpoint(2).await;
    let slow = Arc::new(Slow(0.into()));
    let to = address(&server);
    let (dialled, accepted) = tokio::join!(client.connect(node(1), &to), server.accept());
    let dialled = dialled.unwrap();
    let serving = tokio::spawn(serve_connection(accepted.unwrap(), slow.clone()));
    let _ = timeout(Duration::from_millis(500), async {
        for _ in 0..50 {
            let mut stream = dialled.open().await.unwrap();
            stream.send(&1_u64).await.unwrap();
            stream.abort();
        }
    })
    .await;
    assert!(slow.0.load(std::sync::atomic::Ordering::SeqCst) <= 4);
    serving.abort();
}

#[tokio::test]
async fn an_endpoint_with_a_bound_sends_all_of_it_and_no_faster() {
    let upload = Some(BitRate { bytes_per_second: 4_000_000 });
    let line = Arc::new(Line::new(LineRates { upload, download: None }));
    let bound = EndpointOptions { line: Some(Arc::clone(&line)), ..EndpointOptions::default() };
    let one = Endpoint::bind(&Environment::real(), &identity(1), LOOPBACK, bound).await.unwrap();
    let two = endpoint(2).await;
    let to = address(&two);
    let (dialled, accepted) = tokio::join!(one.connect(node(2), &to), two.accept());
    let (dialled, accepted) = (dialled.unwrap(), accepted.unwrap());
    let began = Instant::now();
    let mut sending = Vec::new();
    for _ in 0..4 {
        let mut stream = dialled.open().await.unwrap();
        sending.push(tokio::spawn(async move {
            stream.send_bytes(Bytes::from(vec![7; 500_000])).await.unwrap();
            stream.finish();
            stream
        }));
    }
    let mut received = 0;
    for _ in 0..4 {
        let mut stream = accepted.accept().await.unwrap();
        while let Some(piece) = stream.receive_bytes(64 << 10).await.unwrap() {
            received += piece.len();
        }
    }
    assert_eq!(received, 2_000_000);
    assert!(line.sent_bytes() > 2_000_000 && line.received_bytes() > 0);
    // Headers come on top, and 10 ms of it may have been saved up.
    assert!(began.elapsed() >= Duration::from_millis(490), "{:?}", began.elapsed());
    for sent in sending {
        drop(sent.await.unwrap());
    }
}

#[tokio::test]
async fn an_endpoint_with_a_bound_on_downloading_takes_no_faster_and_all_of_it() {
    let download = Some(BitRate { bytes_per_second: 4_000_000 });
    let line = Arc::new(Line::new(LineRates { upload: None, download }));
    let bound = EndpointOptions { line: Some(Arc::clone(&line)), ..EndpointOptions::default() };
    let one = Endpoint::bind(&Environment::real(), &identity(1), LOOPBACK, bound).await.unwrap();
    let two = endpoint(2).await;
    let to = address(&two);
    let (dialled, accepted) = tokio::join!(one.connect(node(2), &to), two.accept());
    let (dialled, accepted) = (dialled.unwrap(), accepted.unwrap());
    let began = Instant::now();
    let sending = (0..4).map(|_| {
        let accepted = accepted.clone();
        tokio::spawn(async move {
            let mut stream = accepted.open().await.unwrap();
            stream.send_bytes(Bytes::from(vec![7; 500_000])).await.unwrap();
            stream.finish();
            stream
        })
    });
    let sending: Vec<_> = sending.collect();
    let mut received = 0;
    for _ in 0..4 {
        let mut stream = dialled.accept().await.unwrap();
        while let Some(piece) = stream.receive_bytes(64 << 10).await.unwrap() {
            received += piece.len();
        }
    }
    assert_eq!(received, 2_000_000);
    assert!(line.received_bytes() > 2_000_000 && line.sent_bytes() > 0);
    // Headers come on top, and 10 ms of it may have been saved up.
    assert!(began.elapsed() >= Duration::from_millis(490), "{:?}", began.elapsed());
    for sent in sending {
        drop(sent.await.unwrap());
    }
}
