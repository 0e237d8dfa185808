//! NARs as zstd frames: lengths, ranges, and what breaks off.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::support::{
    ArchiveMaker, ask, body, get, hash_part, header, nar_of, nar_path, one_path, path_info, router,
};
use firn_gateway::{Router, WhenUnreadable};
use firn_nix_format::Sha256;
use futures::future::{join_all, select_all};
use http_body_util::BodyExt;
use hyper::{Response, StatusCode};

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
    for at in [1, 20_000_000] {
        let (router, path, nar) = served(LARGE);
        let answer = get(&router, &path).await;
        assert_eq!((answer.status(), header(&answer, "content-length")), (StatusCode::OK, String::new()));
        let mut received = beginning(answer, at).await;
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
async fn the_last_bytes_of_what_nobody_made_yet_are_answered_with_all_of_it() {
    let (router, path, nar) = served(1000);
    let answer = part(&router, &path, "bytes=-5").await;
    assert_eq!((answer.status(), header(&answer, "content-length")), (StatusCode::OK, String::new()));
    let whole = body(answer).await;
    assert!(zstd::stream::decode_all(&whole[..]).unwrap() == nar);
    let answer = part(&router, &path, "bytes=-5").await;
    assert_eq!(answer.status(), StatusCode::PARTIAL_CONTENT);
    assert!(body(answer).await == whole[whole.len() - 5..]);
}

/// What a client has who reads to the end, if it comes.
async fn ended_cleanly(answer: Response<Body>) -> Option<Vec<u8>> {
    let body = answer.into_body().collect().await.ok()?;
    Some(body.to_bytes().to_vec())
}

/// The same NAR but for one byte of its third frame, whose length does not change by that.
fn wrong(nar: &[u8]) -> Vec<u8> {
    let mut wrong = nar.to_vec();
    wrong[34 << 20] ^= 1;
    wrong
}

#[tokio::test]
async fn a_path_with_another_nar_than_its_hash_says_tells_nothing_of_the_path_with_the_right_one() {
    let nar = nar_of(LARGE);
    let mut larger = path_info(3, &nar);
    larger.nar_size += 20 << 20;
    let mut maker = ArchiveMaker::default();
    maker.path(&path_info(1, &nar), &nar);
    maker.path(&path_info(2, &nar), &nar_of(LARGE + 1)[..nar.len()]);
    maker.path(&larger, &[&nar[..], &vec![7; 20 << 20]].concat());
    maker.seal();
    let archive = Arc::new(maker.finish());
    let router = crate::support::router(&archive, WhenUnreadable::Retry);
    let path = |number| format!("/nar/{}-{}.nar.zst", hash_part(number), Sha256::of(&nar).to_base32());
    for wrong in [2, 3] {
        assert_eq!(ended_cleanly(get(&router, &path(wrong)).await).await, None);
        let refused = part(&router, &path(wrong), "bytes=9-").await;
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
    let first = beginning(get(&router, &path(1)).await, 20_000_000).await;
    let rest = body(part(&router, &path(1), "bytes=20000000-").await).await;
    assert!(zstd::stream::decode_all(&[&first[..], &rest].concat()[..]).unwrap() == nar);
}

#[tokio::test]
async fn a_part_of_another_nar_under_the_right_name_never_comes_to_its_end() {
    let nar = nar_of(LARGE);
    let mut maker = ArchiveMaker::default();
    maker.path(&path_info(1, &nar), &nar);
    let right = maker.seal();
    maker.path(&path_info(1, &nar), &wrong(&nar));
    let wrong = maker.seal();
    let archive = Arc::new(maker.finish());
    archive.erase(wrong);
    let router = crate::support::forgetful_router(&archive);
    let path = format!("{}.zst", nar_path(&nar));
    let whole = body(get(&router, &path).await).await;
    archive.erase(right);
    let answer = part(&router, &path, "bytes=20000000-").await;
    assert_eq!(answer.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(ended_cleanly(answer).await, None, "a byte of it is another");
    // What is there is not the right one, so nobody learns how long that is.
    let answer = part(&router, &path, "bytes=20000000-").await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    archive.erase(wrong);
    let answer = part(&router, &path, "bytes=20000000-").await;
    assert!(body(answer).await == whole[20_000_000..]);
}

#[tokio::test]
async fn the_beginning_of_a_longer_nar_is_not_taken_for_one_whose_hash_it_claims() {
    let nar = nar_of(1000);
    let longer = nar_of(100_000);
    let mut claim = path_info(1, &longer);
    claim.nar_hash = Sha256::of(&nar);
    let mut maker = ArchiveMaker::default();
    maker.path(&path_info(1, &nar), &nar);
    let right = maker.seal();
    maker.path(&claim, &longer);
    let wrong = maker.seal();
    let archive = Arc::new(maker.finish());
    for form in ["", ".zst"] {
        let router = crate::support::forgetful_router(&archive);
        let path = format!("{}{form}", nar_path(&nar));
        archive.erase(wrong);
        let whole = body(get(&router, &path).await).await;
        archive.erase(right);
        let answer = get(&router, &path).await;
        let sent = if answer.status().is_success() { ended_cleanly(answer).await } else { None };
        assert!(sent.is_none(), "{form}");
        archive.erase(wrong);
        // Refused once more: the right one has another length than what was found before.
        assert_eq!(get(&router, &path).await.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(ended_cleanly(get(&router, &path).await).await.unwrap() == whole, "{form}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_a_part_of_a_large_nar_while_four_others_are_measured_is_told_when_to_come_again() {
    let nar = nar_of(17 << 20);
    let mut maker = ArchiveMaker::default();
    (1..6).for_each(|number| maker.path(&path_info(number, &nar), &nar));
    maker.seal();
    let archive = Arc::new(maker.finish());
    let router = crate::support::router(&archive, WhenUnreadable::Miss);
    let path = |number| format!("/nar/{}-{}.nar.zst", hash_part(number), Sha256::of(&nar).to_base32());
    for number in 1..6 {
        assert_eq!(ask(&router, "HEAD", &path(number), &[]).await.status(), StatusCode::OK);
    }
    archive.nodes_silent.store(true, Ordering::Relaxed);
    let asked = (1..6).map(|number| {
        let (router, path) = (router.clone(), path(number));
        Box::pin(async move { part(&router, &path, "bytes=9-").await })
    });
    let (answer, _, others) = select_all(asked).await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(header(&answer, "retry-after"), "10");
    archive.nodes_silent.store(false, Ordering::Relaxed);
    // They leave, and their places are free.
    drop(others);
    for number in 1..6 {
        let answer = part(&router, &path(number), "bytes=9-").await;
        assert_eq!(answer.status(), StatusCode::PARTIAL_CONTENT);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stampede_on_a_cold_compressed_nar_reads_it_once() {
    const CLIENTS: usize = 500;
    let (archive, _) = one_path(1 << 20);
    let nar = nar_of(1 << 20);
    let path = format!("{}.zst", nar_path(&nar));
    let made = body(get(&router(&archive, WhenUnreadable::Retry), &path).await).await;
    assert!(zstd::stream::decode_all(&made[..]).unwrap() == nar);
    let alone = archive.reads.load(Ordering::Relaxed);
    let (archive, _) = one_path(1 << 20);
    let router = router(&archive, WhenUnreadable::Retry);
    let bodies = join_all((0..CLIENTS).map(|_| async { body(get(&router, &path).await).await })).await;
    assert!(bodies.iter().all(|one| *one == made));
    assert_eq!(archive.reads.load(Ordering::Relaxed), alone, "as many reads as for one client");
}

#[tokio::test(start_paused = true)]
async fn clients_that_take_nothing_hold_so_many_encoders_and_who_finds_none_is_told_to_come_again() {
    let (archive, _) = one_path(2 << 20);
    let nar = nar_of(2 << 20);
    let router = router(&archive, WhenUnreadable::Miss);
    let path = format!("{}.zst", nar_path(&nar));
    let mut held = Vec::new();
    let refused = loop {
        let answer = get(&router, &path).await;
        if answer.status() != StatusCode::OK {
            break answer;
        }
        held.push(answer);
        assert!(held.len() <= 256, "they are bounded");
    };
    assert_eq!((held.len(), refused.status()), (256, StatusCode::SERVICE_UNAVAILABLE));
    assert_eq!(
        (header(&refused, "retry-after"), header(&refused, "cache-control")),
        ("10".into(), "no-store".into())
    );
    // Nor for its length alone.
    assert_eq!(part(&router, &path, "bytes=9-").await.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(body(get(&router, &nar_path(&nar)).await).await, nar, "what is not compressed needs none");
    // One leaves in the middle of it, another one has its place.
    drop(beginning(held.pop().unwrap(), 100_000).await);
    let made = body(get(&router, &path).await).await;
    assert!(zstd::stream::decode_all(&made[..]).unwrap() == nar);
    drop(held);
    let metrics = body(get(&router, "/metrics").await).await;
    assert!(String::from_utf8_lossy(&metrics).contains("firn_gateway_encoders 0\n"));
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
    let router = crate::support::router(&archive, WhenUnreadable::Retry);
    get(&router, &path).await;
    archive.nodes_away.store(true, Ordering::Relaxed);
    let last = format!("bytes={}-", whole.len() - 9);
    assert_eq!(part(&router, &path, &last).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    archive.nodes_away.store(false, Ordering::Relaxed);
    assert!(body(part(&router, &path, &last).await).await == whole[whole.len() - 9..]);
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
    let metrics = crate::support::body(get(&router, "/metrics").await).await;
    assert!(String::from_utf8_lossy(&metrics).contains("firn_gateway_broken_off_total 1\n"));
}
