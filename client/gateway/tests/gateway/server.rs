//! The router behind real sockets.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::support::{MemoryArchive, hash_part, nar_of, nar_path, one_path, router};
use firn_gateway::{BoundPort, ListenError, RunningServer, ServerLimits, WhenUnreadable};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const LONG: Duration = Duration::from_secs(120);

fn serve(archive: &Arc<MemoryArchive>, limits: ServerLimits) -> RunningServer {
    BoundPort::bind(ANY_PORT).unwrap().serve(router(archive, WhenUnreadable::Retry), limits.into()).unwrap()
}

fn request(path: &str, more: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: cache\r\n{more}\r\n").into_bytes()
}

/// Reads an answer's head and `length` bytes of its body.
async fn read_answer(stream: &mut TcpStream) -> (String, Vec<u8>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).await.unwrap();
    (head, body)
}

#[tokio::test]
async fn several_requests_share_a_connection() {
    let (archive, _) = one_path(2 << 20);
    let server = serve(&archive, ServerLimits::default());
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    let nar = nar_of(2 << 20);
    for path in [format!("/{}.narinfo", hash_part(1)), nar_path(&nar), "/nix-cache-info".to_owned()] {
        stream.write_all(&request(&path, "")).await.unwrap();
        let (head, body) = read_answer(&mut stream).await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(!path.starts_with("/nar") || body == nar);
    }
    server.shutdown().await;
}

/// The head, without its date, and the body of an answer on a connection that stays.
async fn ask_on(stream: &mut TcpStream, request: String) -> (String, Vec<u8>) {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let dates = head.lines().filter(|line| line.starts_with("date: ")).count();
    assert_eq!(dates, 1, "{head}");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let bytes = if request.starts_with("HEAD") { 0 } else { length.unwrap().parse().unwrap() };
    let mut body = vec![0; bytes];
    stream.read_exact(&mut body).await.unwrap();
    (head.lines().filter(|line| !line.starts_with("date: ")).map(|line| format!("{line}\n")).collect(), body)
}

#[tokio::test]
async fn an_answer_from_memory_is_the_one_that_every_other_way_gives_and_is_counted_like_it() {
    for when_unreadable in [WhenUnreadable::Retry, WhenUnreadable::Miss] {
        let (archive, _) = one_path(1000);
        let router = router(&archive, when_unreadable);
        let server =
            BoundPort::bind(ANY_PORT).unwrap().serve(router, ServerLimits::default().into()).unwrap();
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        let mut other = TcpStream::connect(server.address()).await.unwrap();
        let (here, absent) = (format!("/{}.narinfo", hash_part(1)), format!("/{}.narinfo", hash_part(9)));
        // From now on it is in memory.
        ask_on(&mut other, format!("GET {here} HTTP/1.1\r\nHost: cache\r\n\r\n")).await;
        let paths = [here.clone(), format!("/plain{here}"), absent, "/nix-cache-info".to_owned()];
        for path in &paths {
            for method in ["GET", "HEAD"] {
                let plain = format!("{method} {path} HTTP/1.1\r\nHost: cache\r\nAccept: */*\r\n\r\n");
                let unusual = plain.replace("Accept: */*", "X-Unusual: 1");
                let (at_once, otherwise) =
                    (ask_on(&mut stream, plain).await, ask_on(&mut other, unusual).await);
                assert_eq!(at_once, otherwise, "{method} {path}");
            }
        }
        let (_, metrics) =
            ask_on(&mut other, "GET /metrics HTTP/1.1\r\nHost: cache\r\n\r\n".to_owned()).await;
        let metrics = String::from_utf8(metrics).unwrap();
        for line in ["route=\"narinfo\",status=\"200\"} 9\n", "route=\"narinfo\",status=\"404\"} 4\n"] {
            assert!(metrics.contains(line), "{line}{metrics}");
        }
    }
}

#[tokio::test]
async fn a_damaged_nar_cuts_the_connection_short_of_its_length() {
    // A reset takes with it what the kernel had still to send, 4 MiB at most: the good part is many times that.
    let (archive, bundle) = one_path(20 << 20);
    archive.damage_last_frame(bundle);
    let server = serve(&archive, ServerLimits::default());
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    let nar = nar_of(20 << 20);
    stream.write_all(&request(&nar_path(&nar), "")).await.unwrap();
    let mut received = Vec::new();
    drop(stream.read_to_end(&mut received).await);
    let head = received.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    assert!(received.starts_with(b"HTTP/1.1 200 OK\r\n"));
    let body = received.len() - head;
    assert!(body > 1 << 20 && body < nar.len(), "{body} bytes came");
}

#[tokio::test]
async fn a_client_that_sends_no_request_is_let_go() {
    let (archive, _) = one_path(1000);
    let limits = ServerLimits { header_wait: Duration::from_millis(200), ..ServerLimits::default() };
    let server = serve(&archive, limits);
    for beginning in [&b""[..], b"GET / HTTP/1.1\r\nHost: ca"] {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        stream.write_all(beginning).await.unwrap();
        let mut answer = Vec::new();
        let ended = timeout(LONG, stream.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "the connection is closed");
    }
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_let_go_and_frees_its_place() {
    let (archive, _) = one_path(20 << 20);
    let limits =
        ServerLimits { stall_max: Duration::from_millis(300), connections_max: 1, ..ServerLimits::default() };
    let server = serve(&archive, limits);
    let mut stuck = TcpStream::connect(server.address()).await.unwrap();
    stuck.write_all(&request(&nar_path(&nar_of(20 << 20)), "")).await.unwrap();
    let mut next = TcpStream::connect(server.address()).await.unwrap();
    next.write_all(&request("/nix-cache-info", "")).await.unwrap();
    let answer = timeout(LONG, read_answer(&mut next)).await;
    assert!(answer.expect("the stuck client was let go").0.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_client_that_goes_away_ends_the_reads_that_were_made_for_it() {
    let (archive, _) = one_path(20 << 20);
    let server = serve(&archive, ServerLimits::default());
    let mut open = archive.open_reads.subscribe();
    let nar = nar_of(20 << 20);
    // One client leaves before the first byte, the other in the middle of the body.
    let mut reading = TcpStream::connect(server.address()).await.unwrap();
    reading.write_all(&request(&nar_path(&nar), "")).await.unwrap();
    reading.read_u8().await.unwrap();
    archive.nodes_silent.store(true, Ordering::Relaxed);
    let mut waiting = TcpStream::connect(server.address()).await.unwrap();
    waiting.write_all(&request(&nar_path(&nar), "Range: bytes=19000000-\r\n")).await.unwrap();
    timeout(LONG, open.wait_for(|open| *open > 0)).await.unwrap().unwrap();
    drop((reading, waiting));
    timeout(LONG, open.wait_for(|open| *open == 0)).await.expect("the reads end").unwrap();
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let (archive, _) = one_path(1000);
    let server = serve(&archive, ServerLimits::default());
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    let long = format!("X-Long: {}\r\n", "x".repeat(100_000));
    drop(stream.write_all(&request("/nix-cache-info", &long)).await);
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer).await);
    assert!(!answer.starts_with(b"HTTP/1.1 200"));
}

#[tokio::test]
async fn a_port_in_use_is_said_in_a_sentence() {
    let (archive, _) = one_path(1000);
    let server = serve(&archive, ServerLimits::default());
    let error = BoundPort::bind(server.address()).unwrap_err();
    assert!(matches!(error, ListenError::InUse { .. }));
    assert!(error.to_string().contains("is in use already: stop the program that has it"));
}
