//! NARs as zstd frames: lengths, ranges, and what breaks off.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use firn_gateway::{Router, WhenUnreadable};
use http_body_util::BodyExt;
use hyper::{Response, StatusCode};
use support::{ArchiveMaker, ask, body, get, header, nar_of, nar_path, one_path, path_info, router};

type Body = firn_gateway::GatewayBody;

// Frames have 16 MiB of NAR: these are two and a bit.
const LARGE: usize = 35 << 20;

/// A gateway with one NAR of `bytes` bytes and a bit, and where its compressed form is.
fn served(bytes: usize) -> (Router, String, Vec<u8>) {
    let (archive, _) = one_path(bytes);
    let nar = nar_of(bytes);
    (router(&archive, WhenUnreadable::Retry), format!("{}.zst", nar_path(&nar)), nar)
}

async fn part(router: &Router, path: &str, range: &str) -> Response<Body> {
    ask(router, "GET", path, &[("range", range)]).await
}

/// The first `bytes` bytes of an answer, whose client then leaves.
async fn beginning(answer: Response<Body>, bytes: usize) -> Vec<u8> {
    let (mut body, mut received) = (answer.into_body(), Vec::new());
    while received.len() < bytes {
        received.extend_from_slice(&body.frame().await.unwrap().unwrap().into_data().unwrap());
    }
    received.truncate(bytes);
    received
}

#[tokio::test]
async fn a_compressed_nar_has_a_length_once_it_was_made() {
    let (router, path, nar) = served(5 << 20);
    for made_before in [false, true] {
        let head = ask(&router, "HEAD", &path, &[]).await;
        let answer = get(&router, &path).await;
        assert_eq!((answer.status(), answer.headers()), (head.status(), head.headers()));
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(header(&answer, "content-type"), "application/zstd");
        assert_eq!(header(&answer, "accept-ranges"), "bytes");
        assert_eq!(header(&answer, "content-encoding"), "");
        assert!(header(&answer, "cache-control").contains("immutable"));
        let etag = header(&answer, "etag");
        assert_ne!(etag, header(&get(&router, &nar_path(&nar)).await, "etag"));
        let again = ask(&router, "GET", &path, &[("if-none-match", &etag)]).await;
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
        let announced =
            (header(&answer, "content-length"), http_body::Body::size_hint(answer.body()).exact());
        let made = body(answer).await;
        assert!(zstd::stream::decode_all(&made[..]).unwrap() == nar);
        let length = (made.len().to_string(), Some(made.len() as u64));
        assert_eq!(announced, if made_before { length } else { Default::default() });
        assert!(body(head).await.is_empty());
    }
}

#[tokio::test]
async fn a_range_is_exactly_those_bytes_of_all_frames() {
    let (router, path, nar) = served(LARGE);
    let whole = body(get(&router, &path).await).await;
    assert!(zstd::stream::decode_all(&whole[..]).unwrap() == nar);
    let end = whole.len();
    for (range, from, to) in [
        ("bytes=0-0".to_owned(), 0, 1),
        ("bytes=0-".to_owned(), 0, end),
        ("bytes=3000000-".to_owned(), 3_000_000, end),
        ("bytes=17000000-17000009".to_owned(), 17_000_000, 17_000_010),
        ("bytes=10000000-30000000".to_owned(), 10_000_000, 30_000_001),
        ("bytes=-5".to_owned(), end - 5, end),
        (format!("bytes={}-{end}", end - 1), end - 1, end),
    ] {
        let answer = part(&router, &path, &range).await;
        assert_eq!(answer.status(), StatusCode::PARTIAL_CONTENT, "{range}");
        assert_eq!(header(&answer, "content-length"), (to - from).to_string());
        assert_eq!(header(&answer, "content-range"), format!("bytes {from}-{}/{end}", to - 1));
        assert!(body(answer).await == whole[from..to], "{range}");
    }
    let answer = part(&router, &path, &format!("bytes={end}-")).await;
    assert_eq!(answer.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(header(&answer, "content-range"), format!("bytes */{end}"));
}

#[tokio::test]
async fn a_download_that_broke_off_before_the_length_was_known_goes_on_where_it_was() {
    let (router, path, nar) = served(LARGE);
    for at in [1, 20_000_000] {
        let mut received = beginning(get(&router, &path).await, at).await;
        let answer = part(&router, &path, &format!("bytes={at}-")).await;
        assert_eq!(answer.status(), StatusCode::PARTIAL_CONTENT);
        received.extend_from_slice(&body(answer).await);
        assert!(zstd::stream::decode_all(&received[..]).unwrap() == nar, "broken off at {at}");
    }
}

#[tokio::test]
async fn all_from_the_first_byte_on_is_not_made_twice() {
    let (archive, _) = one_path(LARGE);
    let (router, path) =
        (router(&archive, WhenUnreadable::Retry), format!("{}.zst", nar_path(&nar_of(LARGE))));
    let answer = part(&router, &path, "bytes=0-").await;
    assert_eq!((answer.status(), header(&answer, "content-length")), (StatusCode::OK, String::new()));
    body(answer).await;
    let answer = part(&router, &path, "bytes=0-").await;
    assert_eq!(answer.status(), StatusCode::PARTIAL_CONTENT);
}

#[tokio::test]
async fn a_range_reads_no_more_of_the_nar_than_its_frames() {
    let (archive, _) = one_path(LARGE);
    let (router, path) =
        (router(&archive, WhenUnreadable::Retry), format!("{}.zst", nar_path(&nar_of(LARGE))));
    let reads = || archive.reads.load(Ordering::Relaxed);
    let before = reads();
    body(get(&router, &path).await).await;
    let for_all = reads() - before;
    let before = reads();
    body(part(&router, &path, "bytes=-5").await).await;
    // The last of three frames has 3 of 35 MiB; what was fetched ahead of a cut may come on top.
    assert!(reads() - before < for_all / 3, "{} of {for_all}", reads() - before);
}

#[tokio::test]
async fn a_range_of_other_frames_is_all_of_ours() {
    let (router, path, nar) = served(1000);
    let headers = [("range", "bytes=5-"), ("if-range", "\"of another form\"")];
    let answer = ask(&router, "GET", &path, &headers).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert!(zstd::stream::decode_all(&body(answer).await[..]).unwrap() == nar);
}

#[tokio::test]
async fn a_range_of_what_cannot_be_read_is_refused_until_it_can() {
    let (archive, _) = one_path(LARGE);
    let (router, path) =
        (router(&archive, WhenUnreadable::Retry), format!("{}.zst", nar_path(&nar_of(LARGE))));
    let whole = body(get(&router, &path).await).await;
    let router = support::router(&archive, WhenUnreadable::Retry);
    get(&router, &path).await;
    archive.nodes_away.store(true, Ordering::Relaxed);
    assert_eq!(part(&router, &path, "bytes=-9").await.status(), StatusCode::SERVICE_UNAVAILABLE);
    archive.nodes_away.store(false, Ordering::Relaxed);
    assert!(body(part(&router, &path, "bytes=-9").await).await == whole[whole.len() - 9..]);
}

#[tokio::test]
async fn a_compressed_nar_that_is_not_what_was_signed_is_never_whole() {
    let mut maker = ArchiveMaker::default();
    let (nar, mut other) = (nar_of(5 << 20), nar_of(5 << 20));
    other[1 << 20] ^= 1;
    maker.path(&path_info(1, &nar), &other);
    maker.seal();
    let router = router(&Arc::new(maker.finish()), WhenUnreadable::Retry);
    let answer = get(&router, &format!("{}.zst", nar_path(&nar))).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let (mut body, mut received) = (answer.into_body(), Vec::new());
    while let Some(Ok(frame)) = body.frame().await {
        received.extend_from_slice(&frame.into_data().unwrap());
    }
    assert!(!received.is_empty() && zstd::stream::decode_all(&received[..]).is_err());
    let metrics = support::body(get(&router, "/metrics").await).await;
    assert!(String::from_utf8_lossy(&metrics).contains("firn_gateway_broken_off_total 1\n"));
}
