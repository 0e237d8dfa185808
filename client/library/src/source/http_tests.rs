//! Servers that misbehave, and what a publish reads from them.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use firn_client_logic::RetrySchedule;

use super::http::HttpSource;
use super::{SourceError, SourceOptions};

/// What a server does with one request: which headers it sends, which body, and whether it says the truth about lengths.
type Answer = Box<dyn FnMut(&Request) -> Vec<u8> + Send>;

#[derive(Debug, Clone, Default)]
struct Request {
    line: String,
    headers: Vec<(String, String)>,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    /// The first byte that is asked for.
    fn first(&self) -> usize {
        let range = self.header("range").and_then(|range| range.strip_prefix("bytes="));
        range.and_then(|range| range.strip_suffix('-')).map_or(0, |first| first.parse().unwrap())
    }
}

/// A server that gives these answers, one to each connection, and the last one for ever.
struct Server {
    address: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    fn with(answers: Vec<Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (seen, mut answers) = (Arc::clone(&requests), VecDeque::from(answers));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let Some(request) = read_request(&mut BufReader::new(&stream)) else { continue };
                seen.lock().unwrap().push(request.clone());
                let answer = if answers.len() > 1 {
                    answers.pop_front().unwrap()(&request)
                } else {
                    answers[0](&request)
                };
                // The client may have gone away: that is its right.
                let _ = stream.write_all(&answer);
            }
        });
        Self { address, requests }
    }

    fn source(&self) -> Arc<HttpSource> {
        let source = HttpSource::new(&self.address, &SourceOptions::default()).unwrap();
        Arc::new(source.impatient(RetrySchedule { tries_max: 4, ..RetrySchedule::default() }))
    }

    fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

fn read_request(reader: &mut impl BufRead) -> Option<Request> {
    let mut lines = reader.lines();
    let mut request = Request { line: lines.next()?.ok()?, headers: Vec::new() };
    for line in lines {
        match line.ok()?.split_once(": ") {
            Some((name, value)) => request.headers.push((name.to_ascii_lowercase(), value.to_owned())),
            None => break,
        }
    }
    Some(request)
}

/// An answer whose length is not that of its body, if need be.
fn answer(status: &str, headers: &str, length: usize, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n");
    [head.as_bytes(), body].concat()
}

fn always(bytes: Vec<u8>) -> Answer {
    Box::new(move |_| bytes.clone())
}

fn contents(seed: u8) -> Vec<u8> {
    let mut bytes = vec![0; 300_000];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

/// A server of `whole` that honours ranges and cuts each body after `most` bytes.
fn cutting(whole: &[u8], most: usize, tag: &'static str) -> Answer {
    let whole = whole.to_vec();
    Box::new(move |request| {
        let tag_line = format!("ETag: {tag}\r\n");
        let first = if request.header("if-range") == Some(tag) { request.first() } else { 0 };
        let rest = &whole[first..];
        let body = &rest[..rest.len().min(most)];
        if first == 0 {
            return answer("200 OK", &tag_line, rest.len(), body);
        }
        let range = format!("{tag_line}Content-Range: bytes {first}-{}/{}\r\n", whole.len() - 1, whole.len());
        answer("206 Partial Content", &range, rest.len(), body)
    })
}

fn read(source: &Arc<HttpSource>) -> Result<Vec<u8>, String> {
    let file = source.open_file("nar/x").map_err(|error| error.to_string())?.ok_or("nothing is there")?;
    let (mut reader, mut bytes) = (file.reader, Vec::new());
    reader.read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    Ok(bytes)
}

#[test]
fn a_body_that_is_cut_goes_on_where_it_ended() {
    let whole = contents(1);
    let server = Server::with(vec![cutting(&whole, 120_000, "\"a\"")]);
    assert!(read(&server.source()).unwrap() == whole);
    let firsts: Vec<usize> = server.requests().iter().map(Request::first).collect();
    assert_eq!(firsts, [0, 120_000, 240_000], "nothing is fetched twice");
}

#[test]
fn a_file_that_changed_is_never_spliced() {
    let (old, new) = (contents(1), contents(2));
    let server = Server::with(vec![cutting(&old, 120_000, "\"a\""), cutting(&new, 400_000, "\"b\"")]);
    assert_eq!(read(&server.source()).unwrap_err(), "the file changed while it was read");
}

#[test]
fn a_file_whose_length_changed_is_fetched_anew_and_compared() {
    let old = contents(1);
    let longer = [&old[..], b"more"].concat();
    let part = move |_: &Request| {
        answer(
            "206 Partial Content",
            "ETag: \"a\"\r\nContent-Range: bytes 120000-300003/300004\r\n",
            4,
            b"rest",
        )
    };
    let server = Server::with(vec![
        cutting(&old, 120_000, "\"a\""),
        Box::new(part),
        always(answer("200 OK", "", longer.len(), &longer)),
    ]);
    assert!(read(&server.source()).unwrap() == longer, "it begins as what was read, so it is one version");
}

#[test]
fn without_ranges_or_tags_the_file_is_fetched_anew_and_compared() {
    let whole = contents(1);
    for tag in ["", "ETag: W/\"a\"\r\n", "ETag: \"a\"\r\n"] {
        let server = Server::with(vec![
            always(answer("200 OK", tag, whole.len(), &whole[..200_000])),
            always(answer("200 OK", tag, whole.len(), &whole[..100_000])),
            always(answer("200 OK", tag, whole.len(), &whole)),
        ]);
        assert!(read(&server.source()).unwrap() == whole, "{tag}");
    }
}

#[test]
fn a_part_that_was_not_asked_for_is_not_taken() {
    let whole = contents(1);
    let wrong = |_: &Request| {
        answer("206 Partial Content", "ETag: \"a\"\r\nContent-Range: bytes 0-299999/300000\r\n", 5, b"wrong")
    };
    let server = Server::with(vec![
        cutting(&whole, 100_000, "\"a\""),
        Box::new(wrong),
        always(answer("200 OK", "ETag: \"a\"\r\n", whole.len(), &whole)),
    ]);
    assert!(read(&server.source()).unwrap() == whole);
}

#[test]
fn a_body_that_never_gets_on_is_given_up() {
    let whole = contents(1);
    let server = Server::with(vec![always(answer("200 OK", "", whole.len(), &whole[..1000]))]);
    assert!(read(&server.source()).is_err());
    assert_eq!(server.requests().len(), 4, "as often as the schedule says");
}

#[test]
fn busy_servers_are_asked_again_and_obeyed() {
    let busy = |status: &str| always(answer(status, "Retry-After: 7\r\n", 0, b""));
    let server = Server::with(vec![
        busy("503 Busy"),
        busy("429 Too Many"),
        busy("500 Oops"),
        always(answer("200 OK", "", 2, b"ok")),
    ]);
    assert_eq!(read(&server.source()).unwrap(), b"ok");
    let server = Server::with(vec![busy("503 Busy")]);
    let error = read(&server.source()).unwrap_err();
    assert!(error.contains("503") && server.requests().len() == 4, "{error}");
}

#[test]
fn what_will_not_be_otherwise_is_asked_once() {
    for status in ["400 Bad", "401 Who", "501 Not"] {
        let server = Server::with(vec![always(answer(status, "", 0, b""))]);
        assert!(read(&server.source()).is_err());
        assert_eq!(server.requests().len(), 1, "{status}");
    }
    let server = Server::with(vec![always(answer("404 Not Found", "", 0, b""))]);
    assert_eq!(read(&server.source()).unwrap_err(), "nothing is there");
    assert!(!server.source().has("x").unwrap());
}

#[test]
fn connections_that_die_before_an_answer_are_tried_again() {
    let server = Server::with(vec![
        always(Vec::new()),
        always(b"HTTP/1.1 200 OK\r\nContent-".to_vec()),
        always(answer("200 OK", "", 2, b"ok")),
    ]);
    assert_eq!(read(&server.source()).unwrap(), b"ok");
}

#[test]
fn redirects_lead_nowhere_else() {
    let other = Server::with(vec![always(answer("200 OK", "", 6, b"secret"))]);
    let away = format!("Location: {}/secret\r\n", other.address);
    let server = Server::with(vec![always(answer("302 Found", &away, 0, b""))]);
    let error = read(&server.source()).unwrap_err();
    assert!(error.contains("leads to http://127.0.0.1:"), "{error}");
    assert!(other.requests().is_empty(), "nobody was asked there");
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn redirects_within_the_source_are_followed_and_circles_are_not() {
    let server = Server::with(vec![
        always(answer("307 Moved", "Location: /elsewhere\r\n", 0, b"")),
        always(answer("200 OK", "", 2, b"ok")),
    ]);
    assert_eq!(read(&server.source()).unwrap(), b"ok");
    assert_eq!(server.requests()[1].line, "GET /elsewhere HTTP/1.1");
    let server = Server::with(vec![always(answer("302 Found", "Location: x\r\n", 0, b""))]);
    assert!(read(&server.source()).unwrap_err().contains("circles"));
}

#[test]
fn a_name_that_means_this_machine_is_no_public_source() {
    let server = Server::with(vec![always(answer("200 OK", "", 2, b"ok"))]);
    let port = server.address.rsplit(':').next().unwrap();
    // Resolvers take the number for 127.0.0.1.
    let url = format!("http://2130706433:{port}");
    let open = |private| {
        let options = SourceOptions { private, ..SourceOptions::default() };
        Arc::new(HttpSource::new(&url, &options).unwrap().impatient(RetrySchedule::default()))
    };
    let error = read(&open(false)).unwrap_err();
    assert!(error.contains("--private-source"), "{error}");
    assert!(server.requests().is_empty(), "nobody was connected to");
    assert_eq!(read(&open(true)).unwrap(), b"ok");
}

#[test]
fn pauses_are_those_of_the_schedule_and_of_the_server() {
    static PAUSES: Mutex<Vec<Duration>> = Mutex::new(Vec::new());
    let busy = answer("503 Busy", "Retry-After: 77\r\n", 0, b"");
    let server = Server::with(vec![always(busy), always(Vec::new()), always(answer("200 OK", "", 2, b"ok"))]);
    let source = HttpSource::new(&server.address, &SourceOptions::default()).unwrap();
    let source = Arc::new(source.pausing(|pause| PAUSES.lock().unwrap().push(pause)));
    assert_eq!(read(&source).unwrap(), b"ok");
    let pauses = PAUSES.lock().unwrap();
    assert_eq!((pauses.len(), pauses[0]), (2, Duration::from_secs(77)));
    assert!((Duration::from_secs(1)..=Duration::from_secs(2)).contains(&pauses[1]), "{:?}", pauses[1]);
}

#[test]
fn an_address_that_is_none_is_refused_at_once() {
    let refused = HttpSource::new("http://", &SourceOptions::default()).unwrap_err();
    assert!(matches!(refused, SourceError::NoUrl(_)), "{refused}");
}
