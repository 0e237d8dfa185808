//! TLS and HTTP/2 over real sockets.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::{ArchiveMaker, MemoryArchive, hash_part, nar_of, nar_path, one_path, path_info, router};
use firn_gateway::{
    BoundPort, Certificate, CertificateFiles, RunningServer, ServerLimits, ServerOptions, WhenUnreadable,
};
use firn_nix_format::{NarNode, nar};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http2::{self, SendRequest};
use hyper::{Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const LONG: Duration = Duration::from_secs(120);

/// A server with a certificate of its own.
struct Place {
    directory: tempfile::TempDir,
    root: CertificateDer<'static>,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = renew(directory.path());
        Self { directory, root }
    }

    fn serve(&self, archive: &Arc<MemoryArchive>, limits: ServerLimits) -> RunningServer {
        let certificate = Some(Arc::new(Certificate::open(files(self.directory.path())).unwrap()));
        let options = ServerOptions { certificate, ..limits.into() };
        BoundPort::bind(ANY_PORT).unwrap().serve(router(archive, WhenUnreadable::Retry), options).unwrap()
    }

    async fn connect(&self, server: &RunningServer, protocol: &str) -> TlsStream<TcpStream> {
        connect(server.address(), &self.root, protocol).await.unwrap()
    }
}

fn files(directory: &Path) -> CertificateFiles {
    CertificateFiles { certificate: directory.join("certificate.pem"), key: directory.join("key.pem") }
}

/// Writes another certificate, and gives it.
fn renew(directory: &Path) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(files(directory).certificate, made.cert.pem()).unwrap();
    fs::write(files(directory).key, made.signing_key.serialize_pem()).unwrap();
    made.cert.der().clone()
}

async fn connect(
    address: SocketAddr,
    root: &CertificateDer<'static>,
    protocol: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), stream).await
}

type Sender = SendRequest<Empty<Bytes>>;

async fn http_2(stream: TlsStream<TcpStream>) -> Sender {
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(64 << 20)
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    sender
}

async fn ask(sender: &mut Sender, path: &str) -> hyper::Result<Response<Incoming>> {
    let request = Request::get(format!("https://localhost{path}")).body(Empty::new()).unwrap();
    sender.ready().await?;
    sender.send_request(request).await
}

#[tokio::test]
async fn http_1_is_spoken_over_tls_with_whoever_asks_for_it() {
    let (place, (archive, _)) = (Place::new(), one_path(1000));
    let server = place.serve(&archive, ServerLimits::default());
    let mut stream = place.connect(&server, "http/1.1").await;
    stream
        .write_all(b"GET /nix-cache-info HTTP/1.1\r\nHost: cache\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("Priority: 45\n"), "{answer}");
}

#[tokio::test]
async fn http_2_answers_many_requests_at_once() {
    let (place, (archive, _)) = (Place::new(), one_path(2 << 20));
    let server = place.serve(&archive, ServerLimits::default());
    let sender = http_2(place.connect(&server, "h2").await).await;
    let nar = nar_of(2 << 20);
    let answers = (0..150).map(|number| {
        let (mut sender, nar) = (sender.clone(), nar.clone());
        tokio::spawn(async move {
            let is_nar = number % 50 == 0;
            let path = if is_nar { nar_path(&nar) } else { format!("/{}.narinfo", hash_part(1)) };
            let answer = ask(&mut sender, &path).await.unwrap();
            assert_eq!((answer.status().as_u16(), answer.version()), (200, Version::HTTP_2));
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            assert!(!is_nar || body == nar);
        })
    });
    for answer in answers.collect::<Vec<_>>() {
        answer.await.unwrap();
    }
    server.shutdown().await;
}

#[tokio::test]
async fn a_path_longer_than_a_head_may_be_is_refused_and_its_connection_goes_on() {
    let (place, (archive, _)) = (Place::new(), one_path(1000));
    let server = place.serve(&archive, ServerLimits::default());
    let mut sender = http_2(place.connect(&server, "h2").await).await;
    let refused = ask(&mut sender, &format!("/{}.narinfo", "0".repeat(40_000))).await.unwrap();
    assert_eq!(refused.status(), 431);
    assert_eq!(ask(&mut sender, "/nix-cache-info").await.unwrap().status(), 200);
}

#[tokio::test]
async fn the_page_names_the_secure_address_in_both_protocols() {
    let (place, (archive, _)) = (Place::new(), one_path(1000));
    let server = place.serve(&archive, ServerLimits::default());
    let mut sender = http_2(place.connect(&server, "h2").await).await;
    let page = ask(&mut sender, "/").await.unwrap().into_body().collect().await.unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&page).contains(" copy --from https://localhost /nix/store/"));
    let mut stream = place.connect(&server, "http/1.1").await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: cache:443\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).await.unwrap();
    assert!(page.contains(" copy --from https://cache:443 /nix/store/"), "{page}");
}

#[tokio::test]
async fn a_damaged_nar_resets_its_stream_and_no_other() {
    let (place, (archive, bundle)) = (Place::new(), one_path(2 << 20));
    archive.damage_last_frame(bundle);
    let server = place.serve(&archive, ServerLimits::default());
    let mut sender = http_2(place.connect(&server, "h2").await).await;
    let answer = ask(&mut sender, &nar_path(&nar_of(2 << 20))).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(answer.into_body().collect().await.is_err());
    assert_eq!(ask(&mut sender, "/nix-cache-info").await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_shutdown_lets_http_2_transfers_end_and_takes_no_more() {
    let (place, (archive, _)) = (Place::new(), one_path(8 << 20));
    let server = place.serve(&archive, ServerLimits::default());
    let mut sender = http_2(place.connect(&server, "h2").await).await;
    let nar = nar_of(8 << 20);
    let answer = ask(&mut sender, &nar_path(&nar)).await.unwrap();
    let shutdown = tokio::spawn(server.shutdown());
    // It is told with GOAWAY while the transfer goes on.
    timeout(LONG, async { while ask(&mut sender, "/nix-cache-info").await.is_ok() {} }).await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), nar);
    shutdown.await.unwrap();
}

#[tokio::test]
async fn a_stream_that_is_left_untouched_ends_its_connection() {
    let (place, (archive, _)) = (Place::new(), one_path(20 << 20));
    let limits = ServerLimits { stall_max: Duration::from_millis(500), ..ServerLimits::default() };
    let server = place.serve(&archive, limits);
    let mut sender = http_2(place.connect(&server, "h2").await).await;
    // The connection itself stays alive: it is the window of the stream that is full.
    let untouched = ask(&mut sender, &nar_path(&nar_of(20 << 20))).await.unwrap();
    timeout(LONG, async { while ask(&mut sender, "/nix-cache-info").await.is_ok() {} }).await.unwrap();
    assert!(untouched.into_body().collect().await.is_err());
}

#[tokio::test]
async fn an_idle_http_2_connection_is_let_go() {
    let (place, (archive, _)) = (Place::new(), one_path(1000));
    // It bounds the handshakes too, of which both have to end.
    let limits = ServerLimits { header_wait: Duration::from_secs(10), ..ServerLimits::default() };
    let server = place.serve(&archive, limits);
    // It never even begins.
    let mut idle = place.connect(&server, "h2").await;
    let mut sender = http_2(place.connect(&server, "h2").await).await;
    assert_eq!(ask(&mut sender, "/nix-cache-info").await.unwrap().status(), 200);
    let mut received = Vec::new();
    drop(timeout(LONG, idle.read_to_end(&mut received)).await.expect("the connection is closed"));
    timeout(LONG, async {
        while !sender.is_closed() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn whoever_does_not_finish_the_handshake_is_let_go() {
    let (place, (archive, _)) = (Place::new(), one_path(1000));
    let limits = ServerLimits { header_wait: Duration::from_millis(200), ..ServerLimits::default() };
    let server = place.serve(&archive, limits);
    for beginning in [&b""[..], &[22, 3, 1]] {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        stream.write_all(beginning).await.unwrap();
        let mut received = Vec::new();
        drop(timeout(LONG, stream.read_to_end(&mut received)).await.expect("the connection is closed"));
    }
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_to_whoever_comes_next() {
    let (mut place, (archive, _)) = (Place::new(), one_path(1000));
    let server = place.serve(&archive, ServerLimits::default());
    let mut before = http_2(place.connect(&server, "h2").await).await;
    let old = place.root.clone();
    place.root = renew(place.directory.path());
    assert!(connect(server.address(), &place.root, "h2").await.is_err(), "it is not looked at yet");
    server.reload().await;
    assert!(connect(server.address(), &old, "h2").await.is_err());
    drop(place.connect(&server, "h2").await);
    assert_eq!(ask(&mut before, "/nix-cache-info").await.unwrap().status(), 200, "who was there stays");

    fs::write(files(place.directory.path()).key, "no key").unwrap();
    server.reload().await;
    drop(place.connect(&server, "h2").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_http_2_request_fails_while_servers_come_and_go() {
    // `FIRN_TEST_RESTART_RUNS` says how often.
    let runs = std::env::var("FIRN_TEST_RESTART_RUNS").map_or(5, |runs| runs.parse().unwrap());
    let (place, (archive, _)) = (Place::new(), one_path(1 << 20));
    let holder = std::net::TcpListener::bind(ANY_PORT).unwrap();
    let address = holder.local_addr().unwrap();
    let (answered, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let (count, told, root) = (Arc::clone(&answered), Arc::clone(&ended), place.root.clone());
    let client = tokio::spawn(async move {
        let nar = nar_of(1 << 20);
        while !told.load(Ordering::Relaxed) {
            let mut sender = http_2(connect(address, &root, "h2").await.expect("nobody is refused")).await;
            // Until GOAWAY: what was sent before it came is answered.
            while sender.ready().await.is_ok() && !told.load(Ordering::Relaxed) {
                match ask(&mut sender, &nar_path(&nar)).await {
                    Ok(answer) => assert!(answer.into_body().collect().await.unwrap().to_bytes() == nar),
                    // It did not even leave the client, or crossed with GOAWAY, which says that nobody looked at it:
                    // RFC 9113, 6.8. Any client asks again.
                    Err(error) => {
                        let crossed = format!("{error:?}").contains("GoAway(b\"\", NO_ERROR, Remote)");
                        assert!(crossed || error.is_canceled() || error.is_closed(), "{error:?}");
                    }
                }
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    for run in 0..=runs {
        let certificate = Some(Arc::new(Certificate::open(files(place.directory.path())).unwrap()));
        let options = ServerOptions { certificate, ..ServerOptions::default() };
        let port = BoundPort::handed_over(holder.try_clone().unwrap()).unwrap();
        let server = port.serve(router(&archive, WhenUnreadable::Retry), options).unwrap();
        let before = answered.load(Ordering::Relaxed);
        timeout(LONG, async {
            while answered.load(Ordering::Relaxed) == before {
                assert!(!client.is_finished(), "the client failed in run {run}");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .unwrap();
        ended.store(run == runs, Ordering::Relaxed);
        server.shutdown().await;
    }
    client.await.expect("no request failed");
}

#[tokio::test]
async fn downloads_of_one_connection_take_turns() {
    let mut maker = ArchiveMaker::default();
    // Whoever waits asks for what nobody has read.
    let nars = [nar_of(4 << 20), nar_of(5 << 20)];
    for (number, nar) in [1, 2].into_iter().zip(&nars) {
        maker.path(&path_info(number, nar), nar);
        maker.seal();
    }
    let (place, archive) = (Place::new(), Arc::new(maker.finish()));
    let limits = ServerLimits { stall_max: LONG, header_wait: LONG, ..ServerLimits::default() };
    let server = place.serve(&archive, limits);
    let mut sender = http_2(place.connect(&server, "h2").await).await;
    let nar = nar_path(&nars[0]);
    let other = nar_path(&nars[1]).replace(&hash_part(1), &hash_part(2));
    // Its record and its manifest are read without a turn.
    let head = Request::head(format!("https://localhost{other}")).body(Empty::new()).unwrap();
    assert_eq!(sender.send_request(head).await.unwrap().status(), 200);
    let mut untouched = Vec::new();
    for _ in 0..16 {
        untouched.push(ask(&mut sender, &nar).await.unwrap());
    }
    // What they read ahead is read when the reads stay as they are while a hundred requests are answered.
    let mut quiet = 0;
    let mut read = archive.reads.load(Ordering::Relaxed);
    timeout(LONG, async {
        while quiet < 100 {
            assert_eq!(ask(&mut sender, "/nix-cache-info").await.unwrap().status(), 200);
            let before = std::mem::replace(&mut read, archive.reads.load(Ordering::Relaxed));
            quiet = if read == before { quiet + 1 } else { 0 };
        }
    })
    .await
    .unwrap();
    let mut next = sender.clone();
    let waiting = tokio::spawn(async move { ask(&mut next, &other).await.unwrap().status() });
    for _ in 0..100 {
        assert_eq!(ask(&mut sender, "/nix-cache-info").await.unwrap().status(), 200);
    }
    assert!(!waiting.is_finished(), "it has its turn when another has ended");
    assert_eq!(archive.reads.load(Ordering::Relaxed), read, "nothing is read for whoever waits");
    untouched.pop().unwrap().into_body().collect().await.unwrap();
    assert_eq!(timeout(LONG, waiting).await.unwrap().unwrap(), 200);
}

#[tokio::test]
async fn a_large_whole_body_is_given_to_a_slow_client_to_its_end() {
    let name = |number: usize| format!("{number:0>150}").into_bytes();
    let file = || NarNode::Regular { contents: Vec::new(), executable: false };
    let files = (0..16_000).map(|number| (name(number), file())).collect();
    let nar = nar::encode(&NarNode::Directory(files)).unwrap();
    let mut maker = ArchiveMaker::default();
    maker.path(&path_info(1, &nar), &nar);
    maker.seal();
    let (place, linger) = (Place::new(), Duration::from_millis(50));
    let limits = ServerLimits { linger, drain_wait: LONG, ..ServerLimits::default() };
    let server = place.serve(&Arc::new(maker.finish()), limits);
    let mut sender = http_2(place.connect(&server, "h2").await).await;
    let answer = ask(&mut sender, &format!("/{}.ls", hash_part(1))).await.unwrap();
    assert_eq!(answer.status(), 200);
    let bytes = answer.headers()["content-length"].to_str().unwrap().parse::<usize>().unwrap();
    assert!(bytes > 2 << 20, "more than what waits at both ends: {bytes}");
    let shutdown = tokio::spawn(server.shutdown());
    // Many times as long as a connection on which nothing is answered lasts now.
    tokio::time::sleep(20 * linger).await;
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes().len(), bytes);
    timeout(LONG, shutdown).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_stream_that_its_client_resets_ends_what_is_read_for_it_and_nothing_else() {
    let plain = nar_path(&nar_of(20 << 20));
    for path in [plain.clone(), format!("{plain}.zst")] {
        let (place, (archive, _)) = (Place::new(), one_path(20 << 20));
        let server = place.serve(&archive, ServerLimits::default());
        let mut sender = http_2(place.connect(&server, "h2").await).await;
        let mut open = archive.open_reads.subscribe();
        // In the middle of a body, of which some came.
        let mut answer = ask(&mut sender, &path).await.unwrap();
        assert!(!answer.body_mut().frame().await.unwrap().unwrap().into_data().unwrap().is_empty());
        archive.nodes_silent.store(true, Ordering::Relaxed);
        // Another stream of the same connection, before its first byte.
        let request = Request::get(format!("https://localhost{path}")).header("range", "bytes=19000000-");
        let waiting = sender.send_request(request.body(Empty::new()).unwrap());
        let waiting = tokio::spawn(waiting);
        timeout(LONG, open.wait_for(|open| *open > 0)).await.unwrap().unwrap();
        waiting.abort();
        drop(answer);
        timeout(LONG, open.wait_for(|open| *open == 0)).await.expect("the reads end").unwrap();
        // What is compressed at this moment ends on its thread.
        let freed = async {
            loop {
                let metrics =
                    ask(&mut sender, "/metrics").await.unwrap().into_body().collect().await.unwrap();
                if String::from_utf8_lossy(&metrics.to_bytes()).contains("firn_gateway_encoders 0\n") {
                    break;
                }
            }
        };
        timeout(LONG, freed).await.expect("nothing is compressed for nobody");
    }
}
