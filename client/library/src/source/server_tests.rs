//! Servers that are away, that limit rates, and that hide what they lack; connections to them.

use std::io::{BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use firn_client_logic::RetrySchedule;

use super::http::{Expected, HttpSource, Place};
use super::patience::Patience;
use super::test_server::{
    Answer, Server, TestClock, always, answer, read, read_expected, read_request, source_at,
};
use super::{Source, SourceOptions};
use crate::http_client::Waits;

fn options() -> SourceOptions {
    SourceOptions::default()
}

/// Answers by name.
fn by_name(status: impl Fn(&str) -> &'static str + Send + 'static) -> Answer {
    Box::new(move |request| {
        let name = request.line.split(' ').nth(1).unwrap().trim_start_matches('/');
        answer(status(name), "", 2, b"ok")
    })
}

#[test]
fn a_server_that_is_away_is_found_out_once_and_not_by_each_file() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let (source, clock) = source_at(&url, &options(), 8);
    let source = Arc::new(source);
    let error = source.greet().unwrap_err();
    assert!(error.is_away(), "{error}");
    assert!(error.to_string().contains("running the same again goes on"), "{error}");
    assert_eq!(clock.pauses().len(), 7);
    for _ in 0..1000 {
        assert!(source.has("x.narinfo").unwrap_err().is_away());
    }
    assert_eq!(clock.pauses().len(), 7, "nothing was asked or waited for any more");
    assert!(source.greet().unwrap_err().is_away());
    assert_eq!(clock.pauses().len(), 14, "whoever begins anew asks anew");
}

#[test]
fn a_file_that_always_fails_is_not_taken_for_a_server_that_is_away() {
    let server = Server::with(vec![by_name(|name| match name {
        "nar/x" => "503 Busy",
        "nix-cache-info" => "200 OK",
        _ => "404 Not Found",
    })]);
    let source = server.source();
    for _ in 0..3 {
        assert!(read(&source).unwrap_err().contains("could not be fetched: the server answers 503"));
    }
    assert!(!source.has("y.narinfo").unwrap());
}

#[test]
fn a_host_that_nobody_knows_is_asked_for_once() {
    // RFC 6761: no resolver may know it.
    let (source, clock) = source_at("http://cache.invalid", &options(), 8);
    let error = source.greet().unwrap_err();
    assert!(
        error.is_away() && error.to_string().contains("no address is known for cache.invalid"),
        "{error}"
    );
    assert!(clock.pauses().is_empty());
}

#[test]
fn what_speaks_no_tls_is_not_asked_again() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
            // It stays open until the client goes: a reset might overtake the answer.
            let _ = stream.read_to_end(&mut Vec::new());
        }
    });
    let (source, clock) = source_at(&url, &options(), 8);
    assert!(source.greet().unwrap_err().is_away());
    assert!(clock.pauses().is_empty());
}

#[test]
fn a_server_that_says_nothing_is_given_up() {
    // It takes connections, as the kernel does for it, and reads nothing.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let schedule = RetrySchedule { tries_max: 2, ..RetrySchedule::default() };
    let patience = Patience::with(schedule, Arc::new(TestClock::default()), 7);
    let waits = Waits { response: Duration::from_millis(50), ..Waits::default() };
    let place = Place::parse(&url, &options()).unwrap();
    let source = HttpSource::with(place, &options(), waits, patience);
    let error = source.greet().unwrap_err();
    assert!(error.is_away() && error.to_string().contains("timeout"), "{error}");
}

#[test]
fn a_server_that_limits_rates_by_403_lacks_nothing() {
    let server = Server::with(vec![by_name(|name| match name {
        "nix-cache-info" => "200 OK",
        "00000000000000000000000000000000.narinfo" => "404 Not Found",
        _ => "403 Forbidden",
    })]);
    let source = server.source();
    source.greet().unwrap();
    assert!(source.has("x.narinfo").unwrap_err().to_string().contains("403"));
    assert!(read(&source).unwrap_err().contains("403"));
}

#[test]
fn a_server_that_refuses_everything_says_nothing_of_what_it_lacks() {
    let server = Server::with(vec![by_name(|_| "403 Forbidden")]);
    let error = server.source().has("x.narinfo").unwrap_err();
    assert!(error.is_away() && error.to_string().contains("403"), "{error}");
}

#[test]
fn a_bucket_that_may_not_be_listed_lacks_what_it_answers_403_to() {
    let bucket = || {
        Server::with(vec![by_name(|name| match name {
            "nix-cache-info" | "nar/x" => "200 OK",
            _ => "403 Forbidden",
        })])
    };
    let server = bucket();
    let source = server.source();
    source.greet().unwrap();
    let asked = server.requests().len();
    for name in ["x.narinfo", "y.narinfo"] {
        assert!(!source.has(name).unwrap());
    }
    assert_eq!(server.requests().len(), asked + 2, "that was found out when the publish began");
    assert!(!bucket().source().has("x.narinfo").unwrap(), "or when it matters");
    assert_eq!(read(&source).unwrap(), b"ok");
}

#[test]
fn a_pause_that_a_server_asks_for_holds_for_all_files() {
    let busy = answer("429 Too Many", "Retry-After: 100\r\n", 0, b"");
    let server = Server::with(vec![always(busy), always(answer("200 OK", "", 2, b"ok"))]);
    let (source, clock) = source_at(&server.address, &options(), 1);
    let source = Arc::new(source);
    // It has no second try; others wait nevertheless.
    assert!(read(&source).is_err());
    assert!(clock.pauses().is_empty());
    assert_eq!(read(&source).unwrap(), b"ok");
    let [held] = clock.pauses()[..] else { panic!("{:?}", clock.pauses()) };
    assert!((Duration::from_secs(100)..=Duration::from_secs(101)).contains(&held), "{held:?}");
}

/// A server that keeps its connections, and counts them: all of them, those that are open, and the most that were.
#[derive(Default)]
struct Counts {
    all: AtomicUsize,
    open: AtomicUsize,
    most: AtomicUsize,
}

fn keeping(answer_to: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> (String, Arc<Counts>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (counts, answer_to) = (Arc::new(Counts::default()), Arc::new(answer_to));
    let counted = Arc::clone(&counts);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, counts, answer_to) =
                (stream.unwrap(), Arc::clone(&counted), Arc::clone(&answer_to));
            counts.all.fetch_add(1, Ordering::SeqCst);
            let open = counts.open.fetch_add(1, Ordering::SeqCst) + 1;
            counts.most.fetch_max(open, Ordering::SeqCst);
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                while let Some(request) = read_request(&mut reader) {
                    let body = answer_to(&request.line);
                    let status = if request.line.contains("missing") { "404 Not Found" } else { "200 OK" };
                    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len());
                    if stream.write_all(&[head.as_bytes(), &body].concat()).is_err() {
                        break;
                    }
                }
                counts.open.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    (address, counts)
}

#[test]
fn answers_that_nobody_reads_leave_their_connection_for_the_next_request() {
    let (url, counts) = keeping(|_| b"not found, and why".to_vec());
    let (source, _) = source_at(&url, &options(), 1);
    let source = Arc::new(source);
    for _ in 0..10 {
        assert_eq!(read_expected(&source, "missing", Expected::default()).unwrap_err(), "nothing is there");
        assert_eq!(read(&source).unwrap(), b"not found, and why");
    }
    assert_eq!(counts.all.load(Ordering::SeqCst), 1);
}

#[test]
fn there_are_never_more_connections_than_permitted_and_no_fewer_where_there_is_work() {
    const CONNECTIONS: usize = 4;
    // No answer comes before all connections have a request.
    let together = Barrier::new(CONNECTIONS);
    let (url, counts) = keeping(move |_| {
        together.wait();
        vec![7; 300_000]
    });
    let (source, _) = source_at(&url, &SourceOptions { connections: CONNECTIONS, ..options() }, 1);
    let source = Arc::new(source);
    std::thread::scope(|scope| {
        for _ in 0..8 * CONNECTIONS {
            scope.spawn(|| assert_eq!(read(&source).unwrap().len(), 300_000));
        }
    });
    assert_eq!(counts.most.load(Ordering::SeqCst), CONNECTIONS);
    assert_eq!(counts.all.load(Ordering::SeqCst), CONNECTIONS, "and they are kept");
}

#[test]
fn a_body_that_is_not_read_to_its_end_gives_its_connection_back() {
    let (url, _) = keeping(|_| vec![7; 10_000_000]);
    let (source, _) = source_at(&url, &SourceOptions { connections: 1, ..options() }, 1);
    let source = Arc::new(source);
    for _ in 0..3 {
        let mut file = source.open_file("nar/x", Expected::default()).unwrap().unwrap();
        file.reader.read_exact(&mut [0; 10]).unwrap();
    }
}

#[test]
fn a_source_has_no_more_connections_than_threads() {
    let connections = |connections| {
        Source::open_with("http://a", &SourceOptions { connections, ..options() }).unwrap().side_by_side(2)
    };
    assert_eq!([0, 1, 256, 65_535].map(connections), [1, 1, 256, 256]);
}
