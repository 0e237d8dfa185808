//! Ending without breaking anything off.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::{MemoryArchive, hash_part, nar_of, nar_path, one_path, router};
use firn_gateway::{BoundPort, RunningServer, ServerLimits, WhenUnreadable};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const LONG: Duration = Duration::from_secs(120);

fn serve(archive: &Arc<MemoryArchive>, linger: Duration) -> RunningServer {
    let limits = ServerLimits { linger, drain_wait: LONG, ..ServerLimits::default() };
    BoundPort::bind(ANY_PORT).unwrap().serve(router(archive, WhenUnreadable::Retry), limits.into()).unwrap()
}

async fn ask(stream: &mut TcpStream, path: &str) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: cache\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
}

/// Reads the head of an answer.
async fn head_of(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

async fn body_of(stream: &mut TcpStream, head: &str) -> Vec<u8> {
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).await.unwrap();
    body
}

/// Waits until the port takes nobody any more: the shutdown has begun.
async fn closed(address: SocketAddr) {
    let refused = async {
        while TcpStream::connect(address).await.is_ok() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONG, refused).await.unwrap();
}

#[tokio::test]
async fn a_transfer_ends_whole_and_its_connection_takes_one_more_request() {
    let (archive, _) = one_path(20 << 20);
    let server = serve(&archive, LONG);
    let (nar, address) = (nar_of(20 << 20), server.address());
    let mut stream = TcpStream::connect(address).await.unwrap();
    ask(&mut stream, &nar_path(&nar)).await;
    let head = head_of(&mut stream).await;
    let shutdown = tokio::spawn(server.shutdown());
    closed(address).await;
    assert!(!head.contains("connection: close"), "nobody knew it then: {head}");
    assert!(body_of(&mut stream, &head).await == nar);
    // So the client may well send this.
    ask(&mut stream, "/nix-cache-info").await;
    let head = head_of(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("connection: close\r\n"), "{head}");
    body_of(&mut stream, &head).await;
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0, "that was the last one");
    shutdown.await.unwrap();
}

#[tokio::test]
async fn who_is_answered_from_memory_is_told_of_the_last_time_like_everybody() {
    let (archive, _) = one_path(1000);
    let server = serve(&archive, LONG);
    let address = server.address();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let absent = format!("/{}.narinfo", hash_part(9));
    ask(&mut stream, &absent).await;
    let head = head_of(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 404 Not Found\r\n") && !head.contains("connection: close"), "{head}");
    body_of(&mut stream, &head).await;
    let shutdown = tokio::spawn(server.shutdown());
    closed(address).await;
    ask(&mut stream, &absent).await;
    let head = head_of(&mut stream).await;
    assert!(
        head.starts_with("HTTP/1.1 404 Not Found\r\n") && head.contains("connection: close\r\n"),
        "{head}"
    );
    body_of(&mut stream, &head).await;
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0, "that was the last one");
    shutdown.await.unwrap();
}

#[tokio::test]
async fn whoever_was_let_in_is_answered_once_and_told_that_it_was_the_last_time() {
    let (archive, _) = one_path(1000);
    let server = serve(&archive, LONG);
    let address = server.address();
    let (mut used, mut fresh) =
        (TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap());
    ask(&mut used, "/nix-cache-info").await;
    let head = head_of(&mut used).await;
    body_of(&mut used, &head).await;
    let shutdown = tokio::spawn(server.shutdown());
    closed(address).await;
    for stream in [&mut used, &mut fresh] {
        ask(stream, "/nix-cache-info").await;
        let head = head_of(stream).await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("connection: close\r\n"), "{head}");
        body_of(stream, &head).await;
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
    }
    shutdown.await.unwrap();
}

#[tokio::test]
async fn connections_without_requests_do_not_hold_up_the_end() {
    let (archive, _) = one_path(1000);
    let server = serve(&archive, Duration::from_millis(50));
    let mut idle = TcpStream::connect(server.address()).await.unwrap();
    ask(&mut idle, "/nix-cache-info").await;
    let head = head_of(&mut idle).await;
    body_of(&mut idle, &head).await;
    // The drain alone would last as long as the bound.
    timeout(LONG / 2, server.shutdown()).await.expect("it ends by itself");
    assert_eq!(idle.read(&mut [0; 1]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_port_that_was_handed_over_keeps_its_clients_waiting_for_the_next_server() {
    let (archive, _) = one_path(1000);
    let holder = std::net::TcpListener::bind(ANY_PORT).unwrap();
    let address = holder.local_addr().unwrap();
    for _ in 0..3 {
        let port = BoundPort::handed_over(holder.try_clone().unwrap()).unwrap();
        assert_eq!(port.address(), address);
        // Between two servers.
        let mut waiting = TcpStream::connect(address).await.unwrap();
        ask(&mut waiting, "/nix-cache-info").await;
        let server =
            port.serve(router(&archive, WhenUnreadable::Retry), ServerLimits::default().into()).unwrap();
        let head = timeout(LONG, head_of(&mut waiting)).await.unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        drop(waiting);
        server.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_while_servers_come_and_go() {
    // `FIRN_TEST_RESTART_RUNS` says how often.
    let runs = std::env::var("FIRN_TEST_RESTART_RUNS").map_or(10, |runs| runs.parse().unwrap());
    let (archive, _) = one_path(1 << 20);
    let nar = Arc::new(nar_of(1 << 20));
    let holder = std::net::TcpListener::bind(ANY_PORT).unwrap();
    let (address, ended) = (holder.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
    // Connections that go on, with and without pauses, and one for each request.
    let clients = [(0, true), (0, true), (5, true), (40, true), (0, false)].map(|(pause, keeps_alive)| {
        let (nar, ended, answered) = (Arc::clone(&nar), Arc::clone(&ended), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&answered);
        let client = tokio::spawn(async move {
            let mut connection = None;
            for wanted in ["/nix-cache-info".to_owned(), nar_path(&nar), "/absent".to_owned()].iter().cycle()
            {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                let mut stream = match connection.take() {
                    Some(stream) => stream,
                    None => TcpStream::connect(address).await.expect("nobody is refused"),
                };
                ask(&mut stream, wanted).await;
                let head = head_of(&mut stream).await;
                let body = body_of(&mut stream, &head).await;
                assert!(!wanted.starts_with("/nar") || body == *nar, "a NAR is not whole");
                assert!(head.starts_with("HTTP/1.1 200 ") || wanted == "/absent", "{head}");
                count.fetch_add(1, Ordering::Relaxed);
                if keeps_alive && !head.contains("connection: close\r\n") {
                    connection = Some(stream);
                }
                sleep(Duration::from_millis(pause)).await;
            }
        });
        (client, answered)
    });
    // It ends when each client has been told of it: a client without a next request would hold it up.
    let limits = ServerLimits { linger: LONG, drain_wait: LONG, ..ServerLimits::default() };
    for run in 0..=runs {
        let port = BoundPort::handed_over(holder.try_clone().unwrap()).unwrap();
        let server = port.serve(router(&archive, WhenUnreadable::Retry), limits.into()).unwrap();
        let before = clients.each_ref().map(|(_, answered)| answered.load(Ordering::Relaxed));
        let all_answered = async {
            for ((client, answered), before) in clients.iter().zip(before) {
                while answered.load(Ordering::Relaxed) == before {
                    assert!(!client.is_finished(), "a client failed in run {run}");
                    sleep(Duration::from_millis(1)).await;
                }
            }
        };
        timeout(LONG, all_answered).await.expect("every client is answered in every run");
        if run == runs {
            ended.store(true, Ordering::Relaxed);
        }
        timeout(LONG, server.shutdown()).await.expect("it ends when all were told");
    }
    let mut requests = 0;
    for (client, answered) in clients {
        client.await.expect("no request failed");
        requests += answered.load(Ordering::Relaxed);
    }
    println!("{runs} restarts, {requests} requests, none failed");
}
