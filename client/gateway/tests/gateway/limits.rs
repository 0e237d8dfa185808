//! Clients that take too much.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::support::{
    ArchiveMaker, MemoryArchive, body, forgetful_router, get, hash_part, header, nar_of, nar_path, one_path,
    path_info, path_info_of, router,
};
use firn_base::{KeyKind, ObjectKey};
use firn_bundle::{Blob, Encoding, NewRecord};
use firn_gateway::{
    BoundPort, LogDestination, LogDetail, RequestLog, Router, RunningServer, ServerLimits, ServerOptions,
    WhenUnreadable,
};
use firn_nix_format::{BuildId, Compression, DebugInfoLink, Sha256, StorePath};
use firn_transport::Environment;
use http_body_util::BodyExt;
use hyper::{Request, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Barrier;
use tokio::time::timeout;

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const LONG: Duration = Duration::from_secs(120);

fn serve(archive: &Arc<MemoryArchive>, address: IpAddr, options: ServerOptions) -> RunningServer {
    let port = BoundPort::bind((address, 0).into()).unwrap();
    port.serve(router(archive, WhenUnreadable::Retry), options).unwrap()
}

/// One request on a connection of its own: the head and the body of the answer.
async fn ask(address: SocketAddr, path: &str, more: &str) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    ask_on(&mut stream, path, &format!("{more}Connection: close\r\n")).await
}

async fn ask_on(stream: &mut TcpStream, path: &str, more: &str) -> (String, Vec<u8>) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: cache\r\n{more}\r\n");
    // Whoever refuses may have closed already.
    drop(stream.write_all(request.as_bytes()).await);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(LONG, stream.read_u8()).await.unwrap().unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).await.unwrap();
    (head, body)
}

/// An address of this machine that is not loopback, if it has one. Nothing is sent.
#[track_caller]
fn address_beside_loopback() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    let address = socket.connect("192.0.2.1:9").and_then(|()| socket.local_addr());
    let address = address.ok().map(|address| address.ip()).filter(|ip| !ip.is_loopback());
    if address.is_none() {
        // Not by a macro: of a test that does not fail nobody would see it.
        let place = std::panic::Location::caller();
        let said = writeln!(
            io::stderr(),
            "NOT TESTED: {place} needs an address of this machine that is not loopback"
        );
        said.unwrap();
    }
    address
}

fn status(answer: &(String, Vec<u8>)) -> &str {
    answer.0.split(' ').nth(1).unwrap()
}

#[tokio::test]
async fn a_client_that_asks_too_often_is_told_when_to_come_back_and_nobody_else() {
    let (archive, _) = one_path(1000);
    let limits = ServerLimits { client_requests_per_second: NonZeroU32::new(1), ..ServerLimits::default() };
    let trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    let server = serve(&archive, LOCAL, ServerOptions { trusted_proxies, ..limits.into() });
    let mut proxy = TcpStream::connect(server.address()).await.unwrap();
    let busy = "X-Forwarded-For: 203.0.113.77, 198.51.100.1\r\n";
    // The store of a minute, and what comes into it meanwhile.
    let refused = timeout(LONG, async {
        loop {
            let answer = ask_on(&mut proxy, "/nix-cache-info", busy).await;
            if status(&answer) != "200" {
                return answer;
            }
        }
    });
    let refused = refused.await.unwrap();
    assert_eq!(status(&refused), "429");
    let wait: u64 =
        refused.0.lines().find_map(|line| line.strip_prefix("retry-after: ")).unwrap().parse().unwrap();
    assert!((1..=2).contains(&wait), "{}", refused.0);
    let sentence = String::from_utf8(refused.1).unwrap();
    assert_eq!(sentence, format!("too many requests come from your address: try again in {wait} s"));
    // What it invents of others helps it as little as another connection does.
    let other = "X-Forwarded-For: 203.0.113.78, 198.51.100.1\r\n";
    let mut second = TcpStream::connect(server.address()).await.unwrap();
    // A store of its own would be sixty.
    let answered = timeout(LONG, async {
        let mut answered = 0;
        while status(&ask_on(&mut second, "/nix-cache-info", other).await) == "200" {
            answered += 1;
        }
        answered
    });
    let answered = answered.await.unwrap();
    assert!(answered < 30, "{answered} were answered");
    // Nor does what its proxy does not look at, though that proxy is on this machine.
    for unclear in ["Forwarded: for=198.51.100.9\r\n", "Forwarded: for=127.0.0.1\r\n"] {
        let both = format!("{busy}{unclear}");
        let refused = timeout(LONG, async {
            while status(&ask_on(&mut second, "/nix-cache-info", &both).await) == "200" {}
        });
        refused.await.expect("it is refused at last");
    }
    let another = "X-Forwarded-For: 198.51.100.2\r\n";
    assert_eq!(status(&ask_on(&mut proxy, "/nix-cache-info", another).await), "200");
    for _ in 0..200 {
        assert_eq!(status(&ask_on(&mut proxy, "/nix-cache-info", "").await), "200", "this machine");
    }
    let (_, metrics) = ask_on(&mut proxy, "/metrics", "").await;
    let metrics = String::from_utf8(metrics).unwrap();
    assert!(metrics.contains("requests_total{route=\"other\",status=\"429\"}"), "{metrics}");
}

#[tokio::test]
async fn misses_are_limited_like_everything_else() {
    let Some(address) = address_beside_loopback() else { return };
    let (archive, _) = one_path(1000);
    let limits = ServerLimits { client_requests_per_second: NonZeroU32::new(1), ..ServerLimits::default() };
    let server = serve(&archive, address, limits.into());
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    let absent = format!("/{}.narinfo", hash_part(9));
    let mut answers = 0;
    // The store of a minute, and what comes into it meanwhile.
    let refused = timeout(LONG, async {
        loop {
            let answer = ask_on(&mut stream, &absent, "").await;
            if status(&answer) != "404" {
                return answer;
            }
            answers += 1;
        }
    });
    let refused = refused.await.unwrap();
    assert_eq!(status(&refused), "429");
    assert!(answers >= 60, "{answers} were answered");
}

#[tokio::test]
async fn a_client_over_its_budget_is_refused_before_anything_is_done_for_it() {
    let Some(address) = address_beside_loopback() else { return };
    let (archive, _) = one_path(1000);
    let limits = ServerLimits { client_requests_per_second: NonZeroU32::new(1), ..ServerLimits::default() };
    let router = router(&archive, WhenUnreadable::Retry);
    let port = BoundPort::bind((address, 0).into()).unwrap();
    let server = port.serve(router.clone(), limits.into()).unwrap();
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    let path = format!("/{}.narinfo", hash_part(1));
    assert_eq!(status(&ask_on(&mut stream, &path, "").await), "200");
    let before = cache_hits(&router).await;
    let (mut answered, mut refused) = (0, 0);
    while refused < 50 {
        match status(&timeout(LONG, ask_on(&mut stream, &path, "")).await.unwrap()) {
            "200" => answered += 1,
            "429" => refused += 1,
            other => panic!("{other}"),
        }
    }
    assert_eq!(cache_hits(&router).await - before, answered, "{refused} were refused");
}

#[tokio::test]
async fn a_narinfo_too_large_to_be_copied_is_counted_once_all_the_same() {
    let nar = nar_of(1000);
    let references = (0..2000_u32).map(|number| {
        let mut hash = [7; 20];
        hash[..4].copy_from_slice(&number.to_le_bytes());
        StorePath::from_parts(hash, "one-of-very-many").unwrap()
    });
    let store_path = StorePath::from_parts([1; 20], "hello-2.12.1").unwrap();
    let mut maker = ArchiveMaker::default();
    maker.path(&path_info_of(store_path, &nar, references.collect()), &nar);
    maker.seal();
    let router = router(&Arc::new(maker.finish()), WhenUnreadable::Retry);
    let port = BoundPort::bind((LOCAL, 0).into()).unwrap();
    let server = port.serve(router.clone(), ServerOptions::default()).unwrap();
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    let path = format!("/{}.narinfo", hash_part(1));
    for hits in 0..3 {
        let answer = ask_on(&mut stream, &path, "").await;
        assert_eq!(status(&answer), "200");
        assert!(answer.1.len() > 64 << 10);
        assert_eq!(cache_hits(&router).await, hits);
    }
}

/// Narinfos that the router's core has answered from memory.
async fn cache_hits(router: &Router) -> u64 {
    let metrics = crate::support::body(get(router, "/metrics").await).await;
    let metrics = String::from_utf8(metrics.to_vec()).unwrap();
    let hits = metrics.lines().find_map(|line| line.strip_prefix("firn_gateway_cache_hits_total "));
    hits.unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_client_with_too_many_connections_is_refused_until_one_of_them_ends() {
    let Some(address) = address_beside_loopback() else { return };
    let (archive, _) = one_path(1000);
    let limits = ServerLimits { client_connections_max: 2, ..ServerLimits::default() };
    let server = serve(&archive, address, limits.into());
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        assert_eq!(status(&ask_on(&mut stream, "/nix-cache-info", "").await), "200");
        held.push(stream);
    }
    let mut third = TcpStream::connect(server.address()).await.unwrap();
    let refused = ask_on(&mut third, "/nix-cache-info", "").await;
    assert_eq!(status(&refused), "429");
    assert!(
        refused.0.contains("connection: close\r\n") && refused.0.contains("retry-after: "),
        "{}",
        refused.0
    );
    assert_eq!(refused.1, b"your address has 2 connections already: use those");
    assert_eq!(third.read(&mut [0; 1]).await.unwrap(), 0);
    assert_eq!(status(&ask_on(&mut held[0], "/nix-cache-info", "").await), "200");
    held.pop();
    let let_in = async { while status(&ask(server.address(), "/nix-cache-info", "").await) != "200" {} };
    timeout(LONG, let_in).await.expect("there is a place again");
}

#[tokio::test]
async fn a_head_of_too_many_lines_is_refused() {
    let (archive, _) = one_path(1000);
    let server = serve(&archive, LOCAL, ServerOptions::default());
    let many: String = (0..1000).map(|number| format!("X-{number}: 1\r\n")).collect();
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    let request = format!("GET /nix-cache-info HTTP/1.1\r\nHost: cache\r\n{many}\r\n");
    drop(stream.write_all(request.as_bytes()).await);
    let mut answer = Vec::new();
    drop(timeout(LONG, stream.read_to_end(&mut answer)).await.expect("the connection ends"));
    assert!(!answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test]
async fn a_request_with_a_body_is_answered_without_reading_it() {
    let (archive, _) = one_path(1000);
    let server = serve(&archive, LOCAL, ServerOptions::default());
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    // It never comes.
    let endless = "Content-Length: 1000000000000\r\n";
    assert_eq!(status(&ask_on(&mut stream, "/nix-cache-info", endless).await), "200");
    let mut rest = Vec::new();
    drop(timeout(LONG, stream.read_to_end(&mut rest)).await.expect("the connection ends"));
}

#[tokio::test(start_paused = true)]
async fn clients_that_take_nothing_hold_so_many_downloads_and_who_finds_no_place_is_told_to_come_again() {
    let mut maker = ArchiveMaker::default();
    for (number, bytes) in [(1, 2 << 20), (2, 60_000)] {
        maker.path(&path_info(number, &nar_of(bytes)), &nar_of(bytes));
    }
    maker.seal();
    let router = router(&Arc::new(maker.finish()), WhenUnreadable::Miss);
    let (large, mut held) = (nar_path(&nar_of(2 << 20)), Vec::new());
    let refused = loop {
        let answer = get(&router, &large).await;
        if answer.status() != StatusCode::OK {
            break answer;
        }
        held.push(answer);
        assert!(held.len() <= 1024, "they are bounded");
    };
    assert_eq!((held.len(), refused.status()), (1024, StatusCode::SERVICE_UNAVAILABLE));
    assert_eq!(header(&refused, "retry-after"), "10");
    // What is short needs none, nor does who only wants to know of it.
    let small = nar_path(&nar_of(60_000)).replace(&hash_part(1), &hash_part(2));
    assert!(body(get(&router, &small).await).await == nar_of(60_000));
    let head = router.respond(Request::head(&large).body(()).unwrap()).await;
    assert_eq!(head.status(), StatusCode::OK);
    let taken = async || {
        let metrics = body(get(&router, "/metrics").await).await;
        let metrics = String::from_utf8_lossy(&metrics).into_owned();
        let line = metrics.lines().find_map(|line| line.strip_prefix("firn_gateway_plain_downloads "));
        line.unwrap().parse::<usize>().unwrap()
    };
    assert_eq!(taken().await, 1024);
    // One leaves, another one has its place, which it gives back when it has read to the end.
    drop(held.pop());
    let mut answer = get(&router, &large).await;
    assert_eq!((answer.status(), taken().await), (StatusCode::OK, 1024));
    let mut read = Vec::new();
    while let Some(frame) = answer.body_mut().frame().await {
        read.extend_from_slice(&frame.unwrap().into_data().unwrap());
    }
    assert!(read == nar_of(2 << 20));
    assert_eq!(taken().await, 1023);
}

/// What the gauge says at the moment.
async fn gauge(router: &Router, name: &str) -> usize {
    let metrics = body(get(router, "/metrics").await).await;
    let metrics = String::from_utf8_lossy(&metrics).into_owned();
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap().parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn whoever_archives_the_published_file_of_a_path_too_makes_nobody_wait_for_a_decoder() {
    let nar = nar_of(60_000);
    let mut maker = ArchiveMaker::default();
    maker.published_path(path_info(1, &nar), &nar);
    maker.seal();
    maker.path(&path_info(1, &nar), &nar);
    let sent_as_it_is = maker.seal();
    let archive = Arc::new(maker.finish());
    let router = forgetful_router(&archive);
    let mut held = Vec::new();
    for _ in 0..600 {
        held.push(get(&router, &nar_path(&nar)).await);
    }
    assert!(held.iter().all(|answer| answer.status() == StatusCode::OK));
    assert_eq!(gauge(&router, "firn_gateway_decoders").await, 0);
    drop(held);
    // Where there is nothing else any more it is decompressed, in a place for that.
    archive.erase(sent_as_it_is);
    for form in ["", ".zst"] {
        let answer = get(&router, &format!("{}{form}", nar_path(&nar))).await;
        assert_eq!(answer.status(), StatusCode::OK, "{form}");
        assert_eq!(gauge(&router, "firn_gateway_decoders").await, 1, "{form}");
        assert_eq!(gauge(&router, "firn_gateway_encoders").await, 0, "{form}");
        let sent = body(answer).await;
        let whole =
            if form.is_empty() { sent.to_vec() } else { zstd::stream::decode_all(&sent[..]).unwrap() };
        assert!(whole == nar, "{form}");
        assert_eq!(gauge(&router, "firn_gateway_decoders").await, 0, "{form}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_lies_only_as_its_published_file_when_it_is_found_anew_is_decompressed_in_a_place_for_that() {
    for form in ["", ".zst"] {
        let nar = nar_of(60_000);
        let mut maker = ArchiveMaker::default();
        maker.path(&path_info(1, &nar), &nar);
        let before = maker.seal();
        maker.published_path(path_info(1, &nar), &nar);
        let now = maker.seal();
        let archive = Arc::new(maker.finish());
        let router = forgetful_router(&archive);
        let path = format!("{}{form}", nar_path(&nar));
        archive.erase(now);
        let first = get(&router, &path).await;
        assert_eq!(gauge(&router, "firn_gateway_decoders").await, 0, "{form}");
        let whole = body(first).await;
        archive.erase(before);
        let answer = get(&router, &path).await;
        assert_eq!(answer.status(), StatusCode::OK, "{form}");
        assert_eq!(gauge(&router, "firn_gateway_decoders").await, 1, "{form}");
        assert!(body(answer).await == whole, "{form}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_archived_as_its_published_file_is_decompressed_for_so_many_at_once_in_either_form() {
    let nar = nar_of(60_000);
    let mut maker = ArchiveMaker::default();
    maker.published_path(path_info(1, &nar), &nar);
    maker.seal();
    let archive = Arc::new(maker.finish());
    for form in ["", ".zst"] {
        let router = router(&archive, WhenUnreadable::Miss);
        let path = format!("{}{form}", nar_path(&nar));
        // A byte of it costs as much as all of it. A part of what is compressed is not answered before all was made once.
        let range = if form.is_empty() { "bytes=-1" } else { "bytes=0-" };
        let mut held = Vec::new();
        let refused = loop {
            let answer = crate::support::ask(&router, "GET", &path, &[("range", range)]).await;
            if !answer.status().is_success() {
                break answer;
            }
            held.push(answer);
            assert!(held.len() < 1024, "they are bounded");
        };
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE, "{form}");
        assert_eq!(header(&refused, "retry-after"), "10");
        assert_eq!(gauge(&router, "firn_gateway_decoders").await, held.len(), "{form}");
        for others in ["firn_gateway_encoders", "firn_gateway_plain_downloads"] {
            assert_eq!(gauge(&router, others).await, 0, "{form}");
        }
        // One leaves, another one has its place.
        let before = held.len();
        drop(held.pop());
        let answer = crate::support::ask(&router, "GET", &path, &[("range", range)]).await;
        assert!(answer.status().is_success(), "{form}");
        assert_eq!(gauge(&router, "firn_gateway_decoders").await, before, "{form}");
        drop((answer, held));
        assert_eq!(gauge(&router, "firn_gateway_decoders").await, 0, "{form}");
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_is_looked_at_for_an_answer_is_decompressed_in_a_place_for_that() {
    let (nar, id) = (nar_of(60_000), BuildId([21; 20]));
    let owner = StorePath::from_parts([1; 20], "hello-2.12.1").unwrap();
    let link = DebugInfoLink {
        archive: "../nar/original.nar.xz".to_owned(),
        member: "x".to_owned(),
        store_path: Some(owner),
    };
    let link = link.to_json().into_bytes();
    let blob = Blob {
        url: id.urls()[0].clone(),
        compression: Compression::Zstd,
        bytes: link.len() as u64,
        sha256: Sha256::of(&link),
    };
    let mut maker = ArchiveMaker::default();
    maker.published_path(path_info(1, &nar), &nar);
    let record = NewRecord::blob(ObjectKey::new(KeyKind::DebugInfo, id.0), blob, Encoding::Verbatim);
    maker.object(record, &zstd::stream::encode_all(&link[..], 3).unwrap());
    maker.seal();
    let router = router(&Arc::new(maker.finish()), WhenUnreadable::Miss);
    let why = async || {
        let answer = get(&router, &format!("/why/{}", hash_part(1))).await;
        assert_eq!(answer.status(), StatusCode::OK);
        String::from_utf8(body(answer).await.to_vec()).unwrap()
    };
    let link = format!("/{}", id.urls()[0]);
    assert!(!why().await.contains("cannot be read"));
    assert_eq!(get(&router, &link).await.status(), StatusCode::OK);
    assert_eq!(gauge(&router, "firn_gateway_decoders").await, 0, "they gave their places back");
    let mut held = Vec::new();
    while held.last().is_none_or(|answer: &hyper::Response<_>| answer.status() == StatusCode::OK) {
        held.push(get(&router, &nar_path(&nar)).await);
        assert!(held.len() < 1024, "they are bounded");
    }
    held.pop();
    let sentence = why().await;
    let busy = "; it cannot be read now: as many downloads as may be are decompressed now: ask again";
    assert!(sentence.ends_with(busy), "{sentence}");
    let refused = get(&router, &link).await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(header(&refused, "retry-after"), "10");
    assert_eq!(gauge(&router, "firn_gateway_decoders").await, held.len());
    held.pop();
    assert!(!why().await.contains("cannot be read"));
    assert_eq!(get(&router, &link).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn one_client_has_a_part_of_the_places_and_its_short_downloads_need_none() {
    let mut maker = ArchiveMaker::default();
    let (large, short) = (nar_of(8 << 20), nar_of(60_000));
    maker.path(&path_info(1, &large), &large);
    maker.path(&path_info(2, &short), &short);
    maker.seal();
    // However long it takes to open them all, none is cut because nobody takes from it.
    let limits = ServerLimits { stall_max: Duration::from_secs(3600), ..ServerLimits::default() };
    // Who asks through a proxy on this machine is limited like anybody from elsewhere.
    let trusted_proxies = vec!["127.0.0.1".parse().unwrap()];
    let options = ServerOptions { trusted_proxies, ..limits.into() };
    let server = serve(&Arc::new(maker.finish()), LOCAL, options);
    let (large, short) = (nar_path(&large), nar_path(&short).replace(&hash_part(1), &hash_part(2)));
    let head = async |client: &str, path: &str| {
        // What the kernel takes for a client that takes nothing is less than the download.
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut stream = socket.connect(server.address()).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: cache\r\nX-Forwarded-For: {client}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = vec![0; 12];
        timeout(LONG, stream.read_exact(&mut head)).await.unwrap().unwrap();
        (String::from_utf8(head).unwrap(), stream)
    };
    let mut untouched = Vec::new();
    for _ in 0..64 {
        let (status, stream) = head("192.0.2.1", &large).await;
        assert_eq!(status, "HTTP/1.1 200");
        untouched.push(stream);
    }
    assert_eq!(head("192.0.2.1", &large).await.0, "HTTP/1.1 503");
    assert_eq!(head("192.0.2.1", &short).await.0, "HTTP/1.1 200");
    assert_eq!(head("192.0.2.2", &large).await.0, "HTTP/1.1 200", "another one has places of its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stampede_on_a_cold_path_reads_it_once() {
    const CLIENTS: usize = 500;
    crate::support::raise_file_limit();
    let nar = Arc::new(nar_of(1 << 20));
    let alone = {
        let (archive, _) = one_path(1 << 20);
        let server = serve(&archive, LOCAL, ServerOptions::default());
        ask(server.address(), &format!("/{}.narinfo", hash_part(1)), "").await;
        assert!(ask(server.address(), &nar_path(&nar), "").await.1 == *nar);
        archive.reads.load(Ordering::Relaxed)
    };
    assert!(alone > 0);
    let (archive, _) = one_path(1 << 20);
    let server = serve(&archive, LOCAL, ServerOptions::default());
    let (address, together) = (server.address(), Arc::new(Barrier::new(CLIENTS)));
    let clients = (0..CLIENTS).map(|_| {
        let (nar, together) = (Arc::clone(&nar), Arc::clone(&together));
        tokio::spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            together.wait().await;
            let narinfo = ask_on(&mut stream, &format!("/{}.narinfo", hash_part(1)), "").await;
            assert_eq!(status(&narinfo), "200");
            assert!(ask_on(&mut stream, &nar_path(&nar), "").await.1 == *nar);
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    assert_eq!(archive.reads.load(Ordering::Relaxed), alone, "as many reads as for one client");
}

#[tokio::test]
async fn each_answer_is_a_line_of_the_request_log_and_names_nobody() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("requests.log");
    let (archive, _) = one_path(1000);
    let destination = LogDestination::File(file.clone());
    let log = RequestLog::open(destination, LogDetail::default(), Environment::real()).unwrap();
    let options = ServerOptions { request_log: Some(Arc::new(log)), ..ServerOptions::default() };
    let server = serve(&archive, LOCAL, options);
    let nar = nar_of(1000);
    for path in [format!("/{}.narinfo", hash_part(1)), nar_path(&nar), "/elsewhere".to_owned()] {
        ask(server.address(), &path, "").await;
    }
    server.shutdown().await;
    let lines = timeout(LONG, async {
        loop {
            let text = std::fs::read_to_string(&file).unwrap();
            if text.lines().count() == 3 {
                return text;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let text = lines.await.unwrap();
    let lines: Vec<&str> = text.lines().collect();
    for (line, (kind, status)) in lines.iter().zip([("narinfo", 200), ("nar", 200), ("other", 404)]) {
        let expected =
            format!("\"method\":\"GET\",\"version\":\"HTTP/1.1\",\"kind\":\"{kind}\",\"status\":{status},");
        assert!(line.contains(&expected) && line.ends_with("\"broken_off\":false}"), "{line}");
    }
    assert!(lines[1].contains(&format!("\"bytes\":{},", nar.len())), "{}", lines[1]);
    assert!(!text.contains(&hash_part(1)) && !text.contains("127.0.0.1"), "{text}");
}
