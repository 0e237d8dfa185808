//! Requests as Nix and curl sent them when they were recorded, and such as no ordinary client makes, over real sockets: each
//! gets one answer, and what is refused one sentence.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::support::{ArchiveMaker, MemoryArchive, compressing_router, hash_part, nar_of, path_info};
use firn_base::{KeyKind, ObjectKey};
use firn_gateway::{BoundPort, NarCompression, RunningServer, ServerLimits, ServerOptions, WhenUnreadable};
use firn_nix_format::{Compression, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const NAR_BYTES: usize = 3 << 20;
const LOG: &[u8] = b"building\nbuilt\n";
const REALISATION: &[u8] = b"{}";

fn realisation() -> String {
    format!("sha256:{}!out", "0a".repeat(32))
}

/// Path 1 with a large NAR, log 11 and a realisation.
fn archive() -> Arc<MemoryArchive> {
    let mut maker = ArchiveMaker::default();
    maker.path(&path_info(1, &nar_of(NAR_BYTES)), &nar_of(NAR_BYTES));
    maker.log([11; 20], LOG, Compression::None, LOG);
    let url = format!("realisations/{}.doi", realisation());
    maker.blob(ObjectKey::named(KeyKind::Realisation, &url), &url, REALISATION);
    maker.seal();
    Arc::new(maker.finish())
}

fn serve() -> RunningServer {
    serve_from(&archive(), ServerOptions::default())
}

fn serve_from(archive: &Arc<MemoryArchive>, options: ServerOptions) -> RunningServer {
    let router = compressing_router(archive, WhenUnreadable::Retry, NarCompression::Zstd);
    BoundPort::bind(ANY_PORT).unwrap().serve(router, options).unwrap()
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
    for body in [
        "Content-Length: 5\r\n\r\nhello",
        // Nobody asks for it.
        "Content-Length: 5\r\nExpect: 100-continue\r\n",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
    ] {
        assert_eq!(ask(&server, &format!("GET /{}", narinfo()), body).await, plain, "{body}");
    }
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

/// A request as a client sent it.
struct Recorded {
    /// What was run.
    client: &'static str,
    status: &'static str,
    method: &'static str,
    target: &'static str,
    version: &'static str,
    /// Each with its end.
    header_lines: String,
}

fn recorded() -> Vec<Recorded> {
    let blocks = include_str!("recorded_requests.txt").split("\n\n").skip(1);
    let recorded = blocks.map(|block| {
        let mut lines = block.lines();
        let told = lines.next().and_then(|line| line.strip_prefix("> ")?.split_once(' '));
        let (status, client) = told.unwrap_or_else(|| panic!("nothing is told of {block}"));
        let words: Vec<&str> = lines.next().unwrap().split(' ').collect();
        let [method, target, version] = words[..] else { panic!("{block}") };
        let header_lines = lines.map(|line| format!("{line}\r\n")).collect();
        Recorded { client, status, method, target, version, header_lines }
    });
    recorded.collect()
}

/// The text of a recording, of what is here.
fn filled(text: &str, server: &RunningServer) -> String {
    let nar = nar_path();
    let nar = nar.strip_prefix("/nar/").and_then(|nar| nar.strip_suffix(".nar")).unwrap();
    let filled = text
        .replace("{host}", &server.address().to_string())
        .replace("{path}", &hash_part(1))
        .replace("{absent}", &hash_part(9))
        .replace("{nar}", nar)
        .replace("{log}", &format!("{}-hello.drv", hash_part(11)))
        .replace("{realisation}", &realisation())
        .replace("{old}", &Sha256::of(b"an old file").to_base32());
    assert!(!filled.contains(['{', '}']), "{filled}");
    filled
}

#[tokio::test]
async fn what_nix_and_curl_were_recorded_to_send_is_answered_as_they_expect() {
    let (archive, nar, recorded) = (archive(), nar_of(NAR_BYTES), recorded());
    let server = serve_from(&archive, ServerOptions::default());
    let asked = || [&archive.reads, &archive.lookups].map(|count| count.load(Ordering::Relaxed));
    let mut asked_before = [0, 0];
    let narinfo_start = format!("StorePath: /nix/store/{}-", hash_part(1));
    assert_eq!(recorded.len(), 24);
    // From nodes, then from memory.
    for round in 0..2 {
        for Recorded { client, status, method, target, version, header_lines } in &recorded {
            let request = filled(&format!("{method} {target} {version}\r\n{header_lines}\r\n"), &server);
            let mut stream = TcpStream::connect(server.address()).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            // Bodies are not sent: nobody waits for them.
            let (head, body) = next_answer(&mut stream, *method == "HEAD").await;
            let name = format!("{client}, {method} {target}, round {round}");
            assert_eq!(head.split(' ').nth(1), Some(*status), "{name}: {head}");
            assert!(head.starts_with("HTTP/1."), "{name}: {head}");
            let is_nar = target.starts_with("/nar/") && *method == "GET";
            if is_nar {
                // What a client needs to go on where a transfer broke.
                assert!(
                    head.contains("accept-ranges: bytes\r\n") && !head.contains("content-encoding"),
                    "{head}"
                );
            }
            if *status == "206" {
                let range = header_lines.lines().find_map(|line| line.strip_prefix("Range: bytes=")).unwrap();
                let (first, last) = range.split_once('-').unwrap();
                let first: usize = first.parse().unwrap();
                let end = last.parse::<usize>().map_or(nar.len(), |last| last + 1);
                assert!(body == nar[first..end], "{name}");
                assert!(
                    head.contains(&format!("content-range: bytes {first}-{}/{}", end - 1, nar.len())),
                    "{head}"
                );
            } else if *status == "200" && *method == "GET" {
                let expected = match *target {
                    "/nix-cache-info" => body.starts_with(b"StoreDir: /nix/store\n"),
                    "/{path}.narinfo" => body.starts_with(narinfo_start.as_bytes()),
                    "/log/{log}" => body == LOG,
                    "/realisations/{realisation}.doi" => body == REALISATION,
                    "/nar/{nar}.nar" => body == nar,
                    other => panic!("{other}"),
                };
                assert!(expected, "{name}");
            } else if *status != "200" && *method != "HEAD" {
                let sentence = String::from_utf8(body).unwrap();
                assert!(!sentence.is_empty() && sentence.lines().count() == 1, "{name}: {sentence}");
            }
        }
        let asked = asked();
        assert!(asked[0] > 0 && (round == 0 || asked == asked_before), "{asked:?}, then {asked_before:?}");
        asked_before = asked;
    }
}

/// Header lines that nobody recorded: written by hand, for what other versions, proxies and strangers may send.
const WRITTEN: [(&str, &str); 5] = [
    (
        "Nix that offers to decompress transfers",
        "Host: {host}\r\nUser-Agent: curl/8.9.1 Nix/2.24.10\r\nAccept: */*\r\n\
         Accept-Encoding: deflate, gzip, br, zstd\r\n",
    ),
    (
        "Nix whose libcurl would rather speak HTTP/2",
        "Host: {host}\r\nUser-Agent: curl/7.64.0 Nix/2.3.16\r\nAccept: */*\r\nConnection: Upgrade, HTTP2-Settings\r\n\
         Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n",
    ),
    ("a proxy", "host: {host}\r\nvia: 1.1 proxy\r\nx-forwarded-for: 192.0.2.1\r\nconnection: keep-alive\r\n"),
    ("two hosts", "Host: {host}\r\nHost: elsewhere\r\n"),
    ("no host", "User-Agent: x\r\n"),
];

/// The header lines that change no answer, each once: of recorded clients, and of others.
fn header_lines_without_meaning() -> Vec<(&'static str, String)> {
    let mut all: Vec<(&str, String)> = Vec::new();
    for Recorded { client, method, version, header_lines, .. } in recorded() {
        let is_plain = matches!(method, "GET" | "HEAD")
            && version == "HTTP/1.1"
            && !["Range: ", "If-"].iter().any(|meant| header_lines.contains(meant));
        if is_plain && all.iter().all(|(_, known)| *known != header_lines) {
            all.push((client, header_lines));
        }
    }
    assert_eq!(all.len(), 4, "Nix, and curl in three ways");
    all.extend(WRITTEN.map(|(client, lines)| (client, lines.to_owned())));
    all
}

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
        for (client, lines) in header_lines_without_meaning() {
            let lines = filled(&lines, &server);
            for path in
                ["/nix-cache-info", &format!("/{}", narinfo()), &absent, &nar, "/nar/x", "/index.html"]
            {
                for method in ["GET", "HEAD"] {
                    let request = format!("{method} {path} HTTP/1.1\r\n{lines}\r\n");
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
    for bytes in [33_000, 40_000] {
        let path = format!("GET /{}.narinfo", "0".repeat(bytes));
        let (status, sentence) = ask(&server, &path, "").await;
        assert!(status == 431 && sentence.len() < 1000, "{bytes}: {status} {sentence}");
    }
    assert_eq!(ask(&server, &format!("GET /{}", narinfo()), "").await.0, 200, "others are served");
}

#[tokio::test]
async fn a_head_without_an_end_is_refused_while_it_still_comes() {
    const LONG: Duration = Duration::from_secs(120);
    // The time for a head ends nothing here.
    let limits = ServerLimits { header_wait: LONG * 100, ..ServerLimits::default() };
    let server = serve_from(&archive(), limits.into());
    for begin in ["GET /", "GET /nix-cache-info HTTP/1.1\r\nHost: cache\r\nX: "] {
        let stream = TcpStream::connect(server.address()).await.unwrap();
        let (mut reads, mut writes) = stream.into_split();
        let writing = tokio::spawn(async move {
            writes.write_all(begin.as_bytes()).await.unwrap();
            while writes.write_all(&[b'0'; 16 << 10]).await.is_ok() {}
        });
        let mut refused = Vec::new();
        drop(timeout(LONG, reads.read_to_end(&mut refused)).await.expect("it is refused, not collected"));
        assert_eq!(parts(&refused).0, 431, "{begin}");
        timeout(LONG, writing).await.expect("nobody goes on reading").unwrap();
    }
    assert_eq!(ask(&server, &format!("GET /{}", narinfo()), "").await.0, 200, "others are served");
}

#[tokio::test]
async fn what_two_readers_could_take_for_different_requests_is_refused_and_is_the_last_of_its_connection() {
    let server = serve();
    let smuggled = "GET /nix-cache-info HTTP/1.1\r\nHost: cache\r\n\r\n";
    for lines in [
        "Content-Length: 5\r\nContent-Length: 50",
        "Content-Length: +5",
        "Content-Length: 5, 6",
        "Content-Length: -1",
        "Content-Length: 99999999999999999999999",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: chunked, gzip",
        "Transfer-Encoding : chunked",
        "X: folded\r\n header",
        "X: \0",
        "X\0: x",
        ": no name",
    ] {
        let request = format!("GET /{} HTTP/1.1\r\nHost: cache\r\n{lines}\r\n\r\n{smuggled}", narinfo());
        let answers = answer(&server, request.as_bytes()).await;
        assert_eq!(parts(&answers).0, 400, "{lines}: {}", String::from_utf8_lossy(&answers));
        let heads = answers.windows(9).filter(|window| window == b"HTTP/1.1 ").count();
        assert_eq!(heads, 1, "{lines}: {}", String::from_utf8_lossy(&answers));
    }
}

#[tokio::test]
async fn other_protocols_are_refused_on_a_port_that_does_not_speak_them() {
    let server = serve();
    for request in [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"[..],
        b"GET /nix-cache-info HTTP/9.9\r\nHost: cache\r\n\r\n",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03 a hello of TLS \r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"GET /nix-cache-info\r\n\r\n",
        b"GET /\xff\xfe.narinfo HTTP/1.1\r\nHost: cache\r\n\r\n",
    ] {
        let refused = answer(&server, request).await;
        // What begins as HTTP/2 does is not answered in words that it would not read.
        let is_refused = refused.is_empty() || (400..600).contains(&parts(&refused).0);
        let [asked, answered] = [request, &refused].map(String::from_utf8_lossy);
        assert!(is_refused && refused.is_empty() == request.starts_with(b"PRI "), "{asked}: {answered}");
    }
    assert_eq!(ask(&server, &format!("GET /{}", narinfo()), "").await.0, 200, "others are served");
}
