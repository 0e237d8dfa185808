//! Requests as no ordinary client makes them, over real sockets: each gets one answer with one sentence.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use crate::support::{ArchiveMaker, compressing_router, hash_part, nar_of, path_info};
use firn_gateway::{BoundPort, NarCompression, RunningServer, ServerOptions, WhenUnreadable};
use firn_nix_format::Sha256;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const NAR_BYTES: usize = 3 << 20;

fn serve() -> RunningServer {
    let mut maker = ArchiveMaker::default();
    maker.path(&path_info(1, &nar_of(NAR_BYTES)), &nar_of(NAR_BYTES));
    maker.seal();
    let router = compressing_router(&Arc::new(maker.finish()), WhenUnreadable::Retry, NarCompression::Zstd);
    BoundPort::bind(ANY_PORT).unwrap().serve(router, ServerOptions::default()).unwrap()
}

/// All that a server answers to `request`, after which it closes the connection.
async fn answer(server: &RunningServer, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    let mut received = Vec::new();
    // A server may close before it was told everything.
    drop(stream.write_all(request).await);
    drop(stream.read_to_end(&mut received).await);
    received
}

/// The status and the body of an answer with a length.
fn parts(answer: &[u8]) -> (u16, String) {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("no answer but {text:?}")), body.to_owned())
}

async fn ask(server: &RunningServer, line: &str, more: &str) -> (u16, String) {
    parts(
        &answer(
            server,
            format!("{line} HTTP/1.1\r\nHost: cache\r\nConnection: close\r\n{more}\r\n").as_bytes(),
        )
        .await,
    )
}

fn narinfo() -> String {
    format!("{}.narinfo", hash_part(1))
}

fn nar_path() -> String {
    format!("/nar/{}-{}.nar", hash_part(1), Sha256::of(&nar_of(NAR_BYTES)).to_base32())
}

#[tokio::test]
async fn a_path_that_is_no_key_is_400_in_whatever_way_it_is_bent() {
    let server = serve();
    let hash = hash_part(1);
    for path in [
        format!("//{}", narinfo()),
        format!("/./{}", narinfo()),
        format!("/nar/../{}", narinfo()),
        format!("/%2e%2e/{}", narinfo()),
        format!("/%2F{}", narinfo()),
        format!("/nar%2F{hash}.narinfo"),
        format!("/{}", narinfo().to_uppercase().replace("NARINFO", "narinfo")),
        format!("/{hash}%2Enarinfo.narinfo"),
        format!("/nar/{hash}-{hash}.nar.zst"),
        format!("/plain//{}", narinfo()),
        format!("/{}.narinfo", "0".repeat(20_000)),
        "/log/../../etc/passwd".to_owned(),
        "/nar/%00.nar".to_owned(),
        "/realisations/../nix-cache-info.doi".to_owned(),
    ] {
        let (status, sentence) = ask(&server, &format!("GET {path}"), "").await;
        assert_eq!(status, 400, "{path}");
        assert!(!sentence.is_empty() && sentence.lines().count() == 1, "{path}: {sentence}");
    }
}

#[tokio::test]
async fn a_path_that_names_nothing_is_404_with_a_sentence() {
    let server = serve();
    for path in
        ["//", "/plain/plain/nix-cache-info", "/.well-known/x", "/nix-cache-info/", "/NIX-CACHE-INFO", "/%"]
    {
        let (status, sentence) = ask(&server, &format!("GET {path}"), "").await;
        assert_eq!(status, 404, "{path}");
        assert!(sentence.starts_with("there is nothing here"), "{path}: {sentence}");
    }
}

#[tokio::test]
async fn queries_absolute_targets_and_bodies_change_nothing() {
    let server = serve();
    let plain = ask(&server, &format!("GET /{}", narinfo()), "").await;
    assert_eq!(plain.0, 200);
    for (line, more) in [
        (format!("GET /{}?x=%2F..&y", narinfo()), ""),
        (format!("GET http://elsewhere:1234/{}", narinfo()), ""),
        (format!("GET /{}", narinfo()), "Accept-Encoding: gzip, br, zstd\r\n"),
        (format!("GET /{}", narinfo()), "Range: bytes=0-1\r\nIf-Match: \"x\"\r\n"),
    ] {
        assert_eq!(ask(&server, &line, more).await, plain, "{line} {more}");
    }
    assert_eq!(ask(&server, &format!("GET /{}", narinfo()), "Content-Length: 5\r\n\r\nhello").await, plain);
    let old = format!("GET /{} HTTP/1.0\r\n\r\n", narinfo());
    assert_eq!(parts(&answer(&server, old.as_bytes()).await), plain);
}

#[tokio::test]
async fn other_methods_are_405_and_what_is_no_http_is_400() {
    let server = serve();
    for line in ["BREW /coffee", "PUT /x.narinfo", "OPTIONS *", "CONNECT cache:80", "TRACE /", "PROPFIND /"] {
        let (status, sentence) = ask(&server, line, "Content-Length: 0\r\n").await;
        assert_eq!((status, sentence.as_str()), (405, "only GET and HEAD are answered here"), "{line}");
    }
    for request in ["hello\r\n\r\n", "GET  HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nno colon\r\n\r\n"] {
        assert_eq!(parts(&answer(&server, request.as_bytes()).await).0, 400, "{request}");
    }
    let (status, _) = ask(&server, "GET /", &"X: x\r\n".repeat(200)).await;
    assert_eq!(status, 431);
    // A head may be long, not endless. Of the refusal nothing may be left where the rest comes too late to be read.
    let endless = format!("GET / HTTP/1.1\r\nHost: cache\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    let refused = answer(&server, endless.as_bytes()).await;
    assert!(refused.is_empty() || parts(&refused).0 == 431);
    assert_eq!(ask(&server, "GET /nix-cache-info", "").await.0, 200, "others are served");
}

#[tokio::test]
async fn head_of_a_compressed_nar_promises_no_length_and_the_connection_goes_on() {
    let server = serve();
    let requests = format!(
        "HEAD {0}.zst HTTP/1.1\r\nHost: cache\r\n\r\nGET /nix-cache-info HTTP/1.1\r\nHost: cache\r\nConnection: close\r\n\r\n",
        nar_path()
    );
    let answers = String::from_utf8(answer(&server, requests.as_bytes()).await).unwrap();
    let (head, rest) = answers.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && !head.contains("content-length"), "{head}");
    assert!(rest.starts_with("HTTP/1.1 200 OK\r\n") && rest.ends_with("Priority: 45\n"), "{rest}");
}

#[tokio::test]
async fn a_compressed_nar_comes_in_pieces_to_new_clients_and_to_the_end_to_old_ones() {
    let server = serve();
    let new = answer(
        &server,
        format!("GET {}.zst HTTP/1.1\r\nHost: cache\r\nConnection: close\r\n\r\n", nar_path()).as_bytes(),
    )
    .await;
    let text = String::from_utf8_lossy(&new);
    assert!(text.split("\r\n\r\n").next().unwrap().contains("transfer-encoding: chunked"));
    assert!(new.ends_with(b"0\r\n\r\n"), "it ends cleanly");
    let old = answer(&server, format!("GET {}.zst HTTP/1.0\r\n\r\n", nar_path()).as_bytes()).await;
    let head = old.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    assert!(zstd::stream::decode_all(&old[head..]).unwrap() == nar_of(NAR_BYTES));
}

#[tokio::test]
async fn a_download_that_broke_off_is_resumed_to_the_same_bytes() {
    let server = serve();
    let nar = nar_of(NAR_BYTES);
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    let request = format!("GET {} HTTP/1.1\r\nHost: cache\r\n\r\n", nar_path());
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut first = vec![0; 1_000_000];
    stream.read_exact(&mut first).await.unwrap();
    drop(stream);
    let head = first.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    let etag = String::from_utf8_lossy(&first[..head])
        .lines()
        .find_map(|line| line.strip_prefix("etag: ").map(str::to_owned));
    let mut received = first[head..].to_vec();

    let request = format!(
        "GET {} HTTP/1.1\r\nHost: cache\r\nRange: bytes={}-\r\nIf-Range: {}\r\nConnection: close\r\n\r\n",
        nar_path(),
        received.len(),
        etag.unwrap()
    );
    let rest = answer(&server, request.as_bytes()).await;
    assert!(rest.starts_with(b"HTTP/1.1 206 Partial Content\r\n"));
    let head = rest.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    received.extend_from_slice(&rest[head..]);
    assert!(received == nar);
}

/// Heads as clients of today and yesterday send them, the last line but the empty one.
const SENT: [(&str, &str); 7] = [
    ("Nix 2.8", "Host: {host}\r\nUser-Agent: curl/7.85.0 Nix/2.8.0\r\nAccept: */*"),
    ("curl", "Host: {host}\r\nUser-Agent: curl/7.88.1\r\nAccept: */*"),
    (
        "Nix with compressed transfers",
        "Host: {host}\r\nUser-Agent: curl/8.9.1 Nix/2.24.10\r\nAccept: */*\r\n\
         Accept-Encoding: deflate, gzip, br, zstd",
    ),
    (
        "a libcurl that would rather speak HTTP/2",
        "Host: {host}\r\nUser-Agent: curl/7.64.0 Nix/2.3.16\r\nAccept: */*\r\nConnection: Upgrade, HTTP2-Settings\r\n\
         Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
    ),
    ("a proxy", "host: {host}\r\nvia: 1.1 proxy\r\nx-forwarded-for: 192.0.2.1\r\nconnection: keep-alive"),
    ("two hosts", "Host: {host}\r\nHost: elsewhere"),
    ("no host", "User-Agent: x"),
];

/// The head and the body of the next answer, of which a HEAD has none.
async fn next_answer(stream: &mut TcpStream, head_alone: bool) -> (String, Vec<u8>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; if head_alone { 0 } else { length.parse().unwrap() }];
    stream.read_exact(&mut body).await.unwrap();
    (head, body)
}

#[tokio::test]
async fn one_connection_takes_heads_of_every_client_in_turn_and_gives_each_the_same() {
    let server = serve();
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    let (absent, nar) = (format!("/{}.narinfo", hash_part(9)), nar_path());
    let mut expected = std::collections::BTreeMap::new();
    for round in 0..2 {
        for (client, lines) in SENT {
            let lines = lines.replace("{host}", &server.address().to_string());
            for path in
                ["/nix-cache-info", &format!("/{}", narinfo()), &absent, &nar, "/nar/x", "/index.html"]
            {
                for method in ["GET", "HEAD"] {
                    let request = format!("{method} {path} HTTP/1.1\r\n{lines}\r\n\r\n");
                    stream.write_all(request.as_bytes()).await.unwrap();
                    let (head, body) = next_answer(&mut stream, method == "HEAD").await;
                    let head: Vec<String> =
                        head.lines().filter(|line| !line.starts_with("date:")).map(str::to_owned).collect();
                    let (first, first_body) =
                        expected.entry(path.to_owned()).or_insert((head.clone(), body.clone()));
                    assert_eq!(&head, first, "{method} {path} of {client}, round {round}");
                    assert!(method == "HEAD" || body == *first_body, "{path} of {client}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_path_longer_than_a_head_may_be_is_refused_and_costs_its_connection_alone() {
    let server = serve();
    let endless = format!("GET /{}.narinfo HTTP/1.1\r\nHost: cache\r\n\r\n", "0".repeat(100_000));
    let refused = answer(&server, endless.as_bytes()).await;
    // Of the refusal nothing may be left where the rest comes too late to be read.
    assert!(refused.is_empty() || [414, 431].contains(&parts(&refused).0));
    assert_eq!(ask(&server, &format!("GET /{}", narinfo()), "").await.0, 200, "others are served");
}
