//! Status codes, headers and bodies, for every route.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::support::{
    ArchiveMaker, MemoryArchive, ask, body, compressing_router, get, hash_part, header, nar_of, path_info,
    router, secret_key,
};
use firn_gateway::{NarCompression, Router, WhenUnreadable};
use firn_nix_format::{Compression, PathInfo, Sha256, accepted_by};
use http_body_util::BodyExt;
use hyper::StatusCode;

const LOG: &[u8] = b"building\nbuilt\n";

/// Path 1 is small, path 2 has five MiB, logs 11 and 12 are plain and compressed.
fn archive() -> Arc<MemoryArchive> {
    let mut maker = ArchiveMaker::default();
    maker.path(&path_info(1, &nar_of(1000)), &nar_of(1000));
    maker.log([11; 20], LOG, Compression::None, LOG);
    maker.log([12; 20], LOG, Compression::Xz, &liblzma::encode_all(LOG, 6).unwrap());
    maker.seal();
    maker.path(&path_info(2, &nar_of(5 << 20)), &nar_of(5 << 20));
    maker.seal();
    Arc::new(maker.finish())
}

fn served(archive: &Arc<MemoryArchive>) -> Router {
    router(archive, WhenUnreadable::Retry)
}

fn narinfo_path(number: u8) -> String {
    format!("/{}.narinfo", hash_part(number))
}

fn nar_path(number: u8, nar: &[u8]) -> String {
    format!("/nar/{}-{}.nar", hash_part(number), Sha256::of(nar).to_base32())
}

#[tokio::test]
async fn the_cache_info_is_always_answered() {
    let archive = archive();
    archive.coordinators_away.store(true, Ordering::Relaxed);
    archive.nodes_away.store(true, Ordering::Relaxed);
    let response = get(&served(&archive), "/nix-cache-info").await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(body(response).await, "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 45\n");
}

#[tokio::test]
async fn a_narinfo_keeps_what_was_signed_and_names_our_nar() {
    let router = served(&archive());
    let response = get(&router, &narinfo_path(1)).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(header(&response, "content-type"), "text/x-nix-narinfo");
    assert_eq!(header(&response, "cache-control"), "public, max-age=300");
    assert_eq!(header(&response, "firn-feed-position"), "4");
    let length = header(&response, "content-length");
    let text = body(response).await;
    assert_eq!(length, text.len().to_string());
    let (info, published) = (PathInfo::parse(&text).unwrap(), path_info(1, &nar_of(1000)));
    assert_eq!(accepted_by(&info, &[secret_key(1).public_key()]).unwrap().name(), "cache-1");
    assert_eq!(format!("/{}", info.url), nar_path(1, &nar_of(1000)));
    assert_eq!((info.compression, info.file_hash), (Compression::None, Some(info.nar_hash)));
    assert_eq!((info.file_size, info.nar_size), (Some(info.nar_size), published.nar_size));
    assert_eq!(info.references, published.references);
}

#[tokio::test]
async fn a_narinfo_that_the_client_has_is_not_sent_again() {
    let router = served(&archive());
    let etag = header(&get(&router, &narinfo_path(1)).await, "etag");
    for known in [etag.clone(), format!("\"other\", W/{etag}"), "*".to_owned()] {
        let response = ask(&router, "GET", &narinfo_path(1), &[("if-none-match", &known)]).await;
        assert_eq!(response.status(), StatusCode::NOT_MODIFIED, "{known}");
        assert_eq!(header(&response, "etag"), etag);
        assert!(body(response).await.is_empty());
    }
    let response = ask(&router, "GET", &narinfo_path(1), &[("if-none-match", "\"other\"")]).await;
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_miss_is_404_with_the_feed_position_and_never_asks_a_coordinator() {
    let archive = archive();
    let router = served(&archive);
    for path in [
        narinfo_path(9),
        nar_path(9, b""),
        format!("/{}.ls", hash_part(9)),
        format!("/log/{}-hello.drv", hash_part(9)),
        format!("/log/{}-hello.drv", hash_part(1)),
    ] {
        let response = get(&router, &path).await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND, "{path}");
        assert_eq!(header(&response, "firn-feed-position"), "4");
        assert_eq!(header(&response, "firn-unreadable"), "");
        assert!(header(&response, "cache-control").contains("max-age=10"));
        let sentence = body(response).await;
        assert!(sentence.ends_with(b" archived") || sentence.ends_with(b" is archived"), "{sentence:?}");
    }
    assert_eq!(archive.lookups.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_warm_narinfo_needs_neither_coordinators_nor_nodes() {
    let archive = archive();
    let router = served(&archive);
    assert_eq!(get(&router, &narinfo_path(1)).await.status(), StatusCode::OK);
    archive.coordinators_away.store(true, Ordering::Relaxed);
    archive.nodes_away.store(true, Ordering::Relaxed);
    assert_eq!(get(&router, &narinfo_path(1)).await.status(), StatusCode::OK);
    assert_eq!(archive.lookups.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_nar_is_served_whole_with_its_size_and_for_ever() {
    let router = served(&archive());
    for (number, nar) in [(1, nar_of(1000)), (2, nar_of(5 << 20))] {
        let response = get(&router, &nar_path(number, &nar)).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(header(&response, "content-length"), nar.len().to_string());
        assert_eq!(header(&response, "content-type"), "application/x-nix-nar");
        assert_eq!(header(&response, "accept-ranges"), "bytes");
        assert_eq!(header(&response, "content-encoding"), "");
        assert_eq!(header(&response, "etag"), format!("\"{}\"", Sha256::of(&nar).to_base32()));
        assert!(header(&response, "cache-control").contains("immutable"));
        assert!(body(response).await == nar);
    }
}

#[tokio::test]
async fn a_nar_whose_bundle_was_erased_meanwhile_is_found_where_it_lies_now() {
    let nar = nar_of(300_000);
    let mut maker = ArchiveMaker::default();
    maker.path(&path_info(1, &nar), &nar);
    let old = maker.seal();
    // The same path beside another, as if its bundle had been packed anew.
    let other = nar_of(20_000);
    maker.path(&path_info(2, &other), &other);
    maker.path(&path_info(1, &nar), &nar);
    let new = maker.seal();
    let archive = Arc::new(maker.finish());
    let router = served(&archive);
    archive.erase(new);
    assert_eq!(get(&router, &narinfo_path(1)).await.status(), StatusCode::OK);
    archive.erase(old);
    let answer = get(&router, &nar_path(1, &nar)).await;
    assert_eq!((answer.status(), body(answer).await.len()), (StatusCode::OK, nar.len()));
}

#[tokio::test]
async fn a_nar_of_another_hash_is_not_archived() {
    let response = get(&served(&archive()), &nar_path(1, b"another")).await;
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_range_of_a_nar_is_exactly_those_bytes() {
    let router = served(&archive());
    let nar = nar_of(5 << 20);
    for (range, from, to) in [
        ("bytes=0-0".to_owned(), 0, 1),
        ("bytes=3000000-".to_owned(), 3_000_000, nar.len()),
        ("bytes=-5".to_owned(), nar.len() - 5, nar.len()),
        ("bytes=1048570-1048585".to_owned(), 1_048_570, 1_048_586),
        (format!("bytes=0-{}", nar.len()), 0, nar.len()),
    ] {
        let response = ask(&router, "GET", &nar_path(2, &nar), &[("range", &range)]).await;
        assert_eq!(response.status(), StatusCode::PARTIAL_CONTENT, "{range}");
        assert_eq!(header(&response, "content-length"), (to - from).to_string());
        let expected = format!("bytes {from}-{}/{}", to - 1, nar.len());
        assert_eq!(header(&response, "content-range"), expected);
        assert!(body(response).await == nar[from..to], "{range}");
    }
}

#[tokio::test]
async fn a_range_behind_the_end_is_416_and_says_how_long_the_nar_is() {
    let nar = nar_of(1000);
    let range = format!("bytes={}-", nar.len());
    let response = ask(&served(&archive()), "GET", &nar_path(1, &nar), &[("range", &range)]).await;
    assert_eq!(response.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(header(&response, "content-range"), format!("bytes */{}", nar.len()));
}

#[tokio::test]
async fn a_range_counts_only_for_the_version_that_the_client_has() {
    let (router, nar) = (served(&archive()), nar_of(1000));
    let path = nar_path(1, &nar);
    let etag = header(&get(&router, &path).await, "etag");
    let same = ask(&router, "GET", &path, &[("range", "bytes=5-"), ("if-range", &etag)]).await;
    assert_eq!(same.status(), StatusCode::PARTIAL_CONTENT);
    let other = ask(&router, "GET", &path, &[("range", "bytes=5-"), ("if-range", "\"other\"")]).await;
    assert_eq!(other.status(), StatusCode::OK);
    assert!(body(other).await == nar);
    let several = ask(&router, "GET", &path, &[("range", "bytes=0-1,5-6")]).await;
    assert_eq!(several.status(), StatusCode::OK);
}

#[tokio::test]
async fn head_has_the_headers_of_get_and_no_body() {
    let router = served(&archive());
    for path in [
        "/nix-cache-info".to_owned(),
        narinfo_path(1),
        narinfo_path(9),
        nar_path(1, &nar_of(1000)),
        nar_path(2, &nar_of(5 << 20)),
        nar_path(2, b"another"),
        format!("/{}.ls", hash_part(1)),
        format!("/log/{}-hello.drv", hash_part(11)),
        format!("/log/{}-hello.drv", hash_part(12)),
        "/hello.narinfo".to_owned(),
        "/nothing".to_owned(),
        "/readyz".to_owned(),
    ] {
        let (got, head) = (get(&router, &path).await, ask(&router, "HEAD", &path, &[]).await);
        assert_eq!((got.status(), got.headers()), (head.status(), head.headers()), "{path}");
        assert_ne!(header(&head, "content-length"), "", "{path}");
        assert!(body(head).await.is_empty());
        let announced = header(&got, "content-length");
        assert_eq!(announced, body(got).await.len().to_string(), "{path}");
    }
}

#[tokio::test]
async fn a_listing_is_made_from_the_nar_once() {
    let archive = archive();
    let router = served(&archive);
    let path = format!("/{}.ls", hash_part(1));
    let response = get(&router, &path).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(header(&response, "content-type"), "application/json");
    let etag = header(&response, "etag");
    let listing = String::from_utf8(body(response).await.to_vec()).unwrap();
    assert!(
        listing.starts_with(r#"{"version":1,"root":{"type":"directory","entries":{"hello":"#),
        "{listing}"
    );
    assert!(listing.contains(r#""link":{"type":"symlink","target":"hello"}"#));
    archive.nodes_away.store(true, Ordering::Relaxed);
    let again = ask(&router, "GET", &path, &[("if-none-match", &etag)]).await;
    assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
}

#[tokio::test]
async fn a_log_is_served_decompressed_however_it_was_archived() {
    let router = served(&archive());
    for number in [11, 12] {
        let response = get(&router, &format!("/log/{}-hello-2.12.1.drv", hash_part(number))).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(header(&response, "content-type"), "text/plain; charset=utf-8");
        assert_eq!(header(&response, "content-encoding"), "");
        assert_eq!(header(&response, "content-length"), LOG.len().to_string());
        assert_eq!(body(response).await, LOG);
    }
}

#[tokio::test]
async fn a_malformed_key_is_400_with_a_sentence() {
    let router = served(&archive());
    for path in ["/hello.narinfo", "/hello.ls", "/nar/hello.nar", "/log/hello.drv"] {
        let response = get(&router, path).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{path}");
        assert!(!body(response).await.is_empty());
    }
}

#[tokio::test]
async fn urls_of_other_caches_are_404() {
    let router = served(&archive());
    let published = format!("/nar/{}.nar.xz", Sha256::of(b"file").to_base32());
    for path in [published.as_str(), "/index.html", "/plain", "/plain/metrics"] {
        assert_eq!(get(&router, path).await.status(), StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn other_methods_are_405() {
    let router = served(&archive());
    for method in ["PUT", "POST", "DELETE", "OPTIONS"] {
        let response = ask(&router, method, &narinfo_path(1), &[]).await;
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(header(&response, "allow"), "GET, HEAD");
    }
}

#[tokio::test]
async fn what_is_archived_and_cannot_be_read_is_503_with_retry_after() {
    let archive = archive();
    archive.nodes_away.store(true, Ordering::Relaxed);
    let router = served(&archive);
    for path in [narinfo_path(1), nar_path(1, &nar_of(1000)), format!("/{}.ls", hash_part(1))] {
        let response = get(&router, &path).await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE, "{path}");
        assert_eq!(header(&response, "retry-after"), "10");
        assert_eq!(header(&response, "cache-control"), "no-store");
        assert!(body(response).await.starts_with(b"this is archived but cannot be read now: bundle "));
    }
    archive.nodes_away.store(false, Ordering::Relaxed);
    assert_eq!(get(&router, &narinfo_path(1)).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn with_misses_allowed_the_unreadable_is_404_that_says_so_and_is_not_cached() {
    let archive = archive();
    archive.coordinators_away.store(true, Ordering::Relaxed);
    let response = get(&router(&archive, WhenUnreadable::Miss), &narinfo_path(1)).await;
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    assert_eq!(header(&response, "firn-unreadable"), "1");
    assert_eq!(header(&response, "cache-control"), "no-store");
    assert!(body(response).await.ends_with(b"all are away"));
}

#[tokio::test]
async fn a_nar_that_is_damaged_further_on_is_broken_off_before_its_end() {
    let mut maker = ArchiveMaker::default();
    let nar = nar_of(5 << 20);
    maker.path(&path_info(2, &nar), &nar);
    let bundle = maker.seal();
    let archive = Arc::new(maker.finish());
    archive.damage_last_frame(bundle);
    let router = served(&archive);
    let response = get(&router, &nar_path(2, &nar)).await;
    assert_eq!(response.status(), StatusCode::OK);
    let (mut body, mut received) = (response.into_body(), 0);
    let error = loop {
        match body.frame().await.expect("an error comes before the end") {
            Ok(frame) => received += frame.into_data().unwrap().len(),
            Err(error) => break error,
        }
    };
    assert!(received > 0 && received < nar.len());
    assert!(error.to_string().contains("broken off"), "{error}");
    let metrics = crate::support::body(get(&router, "/metrics").await).await;
    assert!(String::from_utf8_lossy(&metrics).contains("firn_gateway_broken_off_total 1\n"));
}

#[tokio::test]
async fn a_nar_that_is_not_what_was_signed_never_ends_cleanly() {
    let mut maker = ArchiveMaker::default();
    let (nar, mut other) = (nar_of(5 << 20), nar_of(5 << 20));
    other[1 << 20] ^= 1;
    maker.path(&path_info(2, &nar), &other);
    maker.path(&path_info(1, &nar_of(1000)), &{
        let mut other = nar_of(1000);
        other[500] ^= 1;
        other
    });
    maker.seal();
    let router = served(&Arc::new(maker.finish()));
    let large = get(&router, &nar_path(2, &nar)).await;
    assert!(large.into_body().collect().await.is_err());
    let small = get(&router, &nar_path(1, &nar_of(1000))).await;
    assert_eq!(small.status(), StatusCode::SERVICE_UNAVAILABLE, "nothing of it can be shown");
}

#[tokio::test]
async fn two_publishers_of_one_path_are_served_with_both_signatures() {
    let nar = nar_of(1000);
    let mut second = path_info(1, &nar);
    second.signatures = vec![secret_key(2).sign(&second)];
    let mut maker = ArchiveMaker::default();
    maker.path(&path_info(1, &nar), &nar);
    let first_bundle = maker.seal();
    maker.path(&second, &nar);
    maker.seal();
    let archive = Arc::new(maker.finish());
    let router = served(&archive);
    let text = body(get(&router, &narinfo_path(1)).await).await;
    let info = PathInfo::parse(&text).unwrap();
    let names: Vec<_> = info.signatures.iter().map(|signature| signature.key_name.as_str()).collect();
    assert_eq!(names, ["cache-1", "cache-2"]);
    archive.damage_last_frame(first_bundle);
    let response = get(&router, &nar_path(1, &nar)).await;
    assert!(body(response).await == nar, "the other bundle has the same NAR");
}

#[tokio::test]
async fn health_readiness_and_metrics_are_told() {
    let router = served(&archive());
    assert_eq!(get(&router, "/healthz").await.status(), StatusCode::OK);
    let ready = get(&router, "/readyz").await;
    assert_eq!(ready.status(), StatusCode::SERVICE_UNAVAILABLE, "no coordinator has answered yet");
    get(&router, &narinfo_path(1)).await;
    get(&router, &narinfo_path(1)).await;
    get(&router, &narinfo_path(9)).await;
    let text = String::from_utf8(body(get(&router, "/metrics").await).await.to_vec()).unwrap();
    for line in [
        "firn_gateway_requests_total{route=\"narinfo\",status=\"200\"} 2",
        "firn_gateway_requests_total{route=\"narinfo\",status=\"404\"} 1",
        "firn_gateway_misses_total 1",
        "firn_gateway_cache_hits_total 1",
        "firn_gateway_tail_keys 4",
        "firn_gateway_feed_position 4",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
    }
}

#[tokio::test]
async fn a_narinfo_names_the_compressed_nar_and_below_plain_the_nar_itself() {
    let archive = archive();
    let router = compressing_router(&archive, WhenUnreadable::Retry, NarCompression::Zstd);
    let nar = nar_of(1000);
    let compressed = get(&router, &narinfo_path(1)).await;
    let plain = get(&router, &format!("/plain{}", narinfo_path(1))).await;
    assert_ne!(header(&compressed, "etag"), header(&plain, "etag"));
    let [compressed, plain] =
        [body(compressed).await, body(plain).await].map(|text| PathInfo::parse(&text).unwrap());
    assert_eq!(format!("/{}", compressed.url), format!("{}.zst", nar_path(1, &nar)));
    assert_eq!(compressed.compression, Compression::Zstd);
    assert_eq!((compressed.file_hash, compressed.file_size), (None, None));
    assert_eq!(format!("/{}", plain.url), nar_path(1, &nar));
    assert_eq!((plain.compression, plain.file_size), (Compression::None, Some(plain.nar_size)));
    for info in [&compressed, &plain] {
        assert!(accepted_by(info, &[secret_key(1).public_key()]).is_some());
    }
    assert_eq!(archive.lookups.load(Ordering::Relaxed), 1, "both come from one record");
}

#[tokio::test]
async fn both_forms_of_a_nar_are_served_below_both_bases_whatever_narinfos_say() {
    let nar = nar_of(5 << 20);
    for compression in [NarCompression::Zstd, NarCompression::None] {
        let router = compressing_router(&archive(), WhenUnreadable::Retry, compression);
        for base in ["", "/plain"] {
            let plain = get(&router, &format!("{base}{}", nar_path(2, &nar))).await;
            assert!(body(plain).await == nar);
            let frame = get(&router, &format!("{base}{}.zst", nar_path(2, &nar))).await;
            assert_eq!(frame.status(), StatusCode::OK);
            assert!(zstd::stream::decode_all(&body(frame).await[..]).unwrap() == nar);
        }
    }
}
