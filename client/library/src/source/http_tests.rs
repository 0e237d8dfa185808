//! Bodies that break, redirects and pauses: what a publish reads from servers that misbehave.

use std::sync::Arc;
use std::time::Duration;

use firn_client_logic::RateFloor;

use super::http::{Expected, HttpSource};
use super::test_server::{Answer, Request, Server, always, answer, read, read_expected, source_at};
use super::{SourceError, SourceOptions};

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
    assert_eq!(server.requests().len(), 4, "as often as the schedule says, for requests and breaks together");
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
    assert!(error.contains("is given up: the server answers 503"), "{error}");
    assert_eq!(server.requests().len(), 5, "four tries, and whether the server answers at all");
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
    let server = Server::with(vec![always(answer("302 Found", "", 0, b""))]);
    assert!(read(&server.source()).unwrap_err().contains("does not say where"));
    assert_eq!(server.requests().len(), 1);
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
        Arc::new(source_at(&url, &options, 4).0)
    };
    let error = read(&open(false)).unwrap_err();
    assert!(error.contains("is given up") && error.contains("--private-source"), "{error}");
    assert!(server.requests().is_empty(), "nobody was connected to");
    assert_eq!(read(&open(true)).unwrap(), b"ok");
}

#[test]
fn pauses_are_those_of_the_schedule_and_of_the_server() {
    let busy = answer("503 Busy", "Retry-After: 77\r\n", 0, b"");
    let server = Server::with(vec![always(busy), always(Vec::new()), always(answer("200 OK", "", 2, b"ok"))]);
    let (source, clock) = source_at(&server.address, &SourceOptions::default(), 4);
    assert_eq!(read(&Arc::new(source)).unwrap(), b"ok");
    let [first, second] = clock.pauses()[..] else { panic!("{:?}", clock.pauses()) };
    let between = |least, most| Duration::from_millis(least)..=Duration::from_millis(most);
    assert!(between(77_500, 78_000).contains(&first), "{first:?}");
    assert!(between(1_000, 2_000).contains(&second), "{second:?}");
}

#[test]
fn an_address_that_is_none_is_refused_at_once() {
    let refused = HttpSource::new("http://", &SourceOptions::default()).unwrap_err();
    assert!(matches!(refused, SourceError::NoUrl(_)), "{refused}");
}

#[test]
fn a_body_that_looks_whole_when_it_breaks_is_taken_only_where_a_hash_tells() {
    let endless = |headers: &str, body: &[u8]| {
        let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\n{headers}\r\n");
        always([head.as_bytes(), body].concat())
    };
    let source = || Server::with(vec![endless("", b"half of a log")]).source();
    assert!(read(&source()).unwrap_err().contains("neither its length nor its end"));
    let hashed = |bytes| Expected { bytes, hashed: true, small: false };
    assert_eq!(read_expected(&source(), "nar/x", hashed(None)).unwrap(), b"half of a log");
    // The narinfo's FileSize tells that it broke, and that the next one is whole.
    let server = Server::with(vec![endless("", b"half"), endless("", b"half and half")]);
    assert_eq!(read_expected(&server.source(), "nar/x", hashed(Some(13))).unwrap(), b"half and half");
    let chunks = |body: &[u8]| endless("Transfer-Encoding: chunked\r\n", body);
    let server = Server::with(vec![chunks(b"4\r\nhalf\r\n"), chunks(b"4\r\nhalf\r\n4\r\nmore\r\n0\r\n\r\n")]);
    assert_eq!(read(&server.source()).unwrap(), b"halfmore", "chunks say where they end");
}

#[test]
fn requests_and_breaks_are_counted_together() {
    let busy = || always(answer("503 Busy", "Retry-After: 300\r\n", 0, b""));
    let nothing = || always(answer("200 OK", "", 100, b""));
    let server = Server::with(vec![nothing(), busy(), busy(), nothing(), busy()]);
    let (source, clock) = source_at(&server.address, &SourceOptions::default(), 4);
    assert!(read(&Arc::new(source)).is_err());
    assert_eq!((server.requests().len(), clock.pauses().len()), (4, 3), "{:?}", clock.pauses());
}

#[test]
fn a_server_that_begins_anew_each_time_is_not_asked_for_ever() {
    let whole = [contents(1), contents(2), contents(3), contents(4)].concat();
    let mut most = 0;
    // A tag, and no ranges; 100 kB more each time.
    let growing: Answer = {
        let whole = whole.clone();
        Box::new(move |_| {
            most += 100_000;
            answer("200 OK", "ETag: \"a\"\r\n", whole.len(), &whole[..most.min(whole.len())])
        })
    };
    let server = Server::with(vec![growing]);
    let (source, _) = source_at(&server.address, &SourceOptions::default(), u32::MAX);
    assert!(read(&Arc::new(source)).unwrap_err().contains("begins anew each time"));
    // 100 + 200 + 300 … kB up to twice the file.
    assert!(server.requests().len() <= 8, "{}", server.requests().len());
}

#[test]
fn a_mebibyte_that_came_begins_the_count_anew_only_where_the_rest_can_be_asked_for() {
    let mut whole = vec![0; 5 << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut whole);
    let tries = |tag: &'static str| {
        let server = Server::with(vec![cutting(&whole, 1 << 20, tag)]);
        let (source, _) = source_at(&server.address, &SourceOptions::default(), 3);
        (read(&Arc::new(source)).map(|bytes| bytes == whole), server.requests().len())
    };
    assert_eq!(tries("\"a\""), (Ok(true), 5));
    assert!(matches!(tries("W/\"a\""), (Err(_), 3)));
}

#[test]
fn a_body_that_comes_too_slowly_is_one_that_broke() {
    let server = Server::with(vec![always(answer("200 OK", "", 2, b"ok"))]);
    let (source, clock) = source_at(&server.address, &SourceOptions::default(), 4);
    // Whatever comes is less than may come at once.
    let source = source.with_floor(RateFloor::new(1 << 40, Duration::ZERO));
    let error = read(&Arc::new(source)).unwrap_err();
    assert!(error.contains("too slowly") && clock.pauses().len() == 3, "{error}");
}
