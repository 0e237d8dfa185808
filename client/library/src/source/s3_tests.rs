//! A cache in a bucket: signatures as S3 checks them, who pays, what refusals say, bodies that break.
//!
//! The server's side of the signature is written from the published algorithm (Signature Version 4, in the query), not with
//! the crate that signs.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use super::http::{Expected, HttpSource, Place};
use super::s3_bucket::S3Bucket;
use super::test_server::{Answer, Request, Server, answer, read, read_expected, source_of};
use super::{AwsEnvironment, S3Options, SourceOptions};

const KEY: &str = "AKIAIOSFODNN7EXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";

// 2026-01-02T03:04:05Z.
const NOW: i64 = 1_767_323_045;

fn noon() -> Timestamp {
    Timestamp::from_second(NOW).unwrap()
}

fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut block = [0; 64];
    block[..key.len()].copy_from_slice(key);
    let pad = |with: u8| block.map(|byte| byte ^ with);
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The parts of a request's query, as they were sent.
fn query(request: &Request) -> Vec<(&str, &str)> {
    let query = request.line.split(' ').nth(1).unwrap().split_once('?').map_or("", |(_, query)| query);
    query.split('&').filter_map(|pair| pair.split_once('=')).collect()
}

fn said<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
    query(request).into_iter().find(|(own, _)| *own == name).map(|(_, value)| value)
}

/// The signature that a request ought to have.
fn signature(request: &Request, secret: &str) -> Option<String> {
    let decoded = |name| said(request, name).map(|value| value.replace("%2F", "/").replace("%3B", ";"));
    let (date, scope) = (decoded("X-Amz-Date")?, decoded("X-Amz-Credential")?.split_once('/')?.1.to_owned());
    let path = request.line.split(' ').nth(1)?.split('?').next()?;
    let mut pairs = query(request);
    pairs.retain(|(name, _)| *name != "X-Amz-Signature");
    pairs.sort_unstable();
    let pairs: Vec<String> = pairs.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    let names = decoded("X-Amz-SignedHeaders")?;
    let headers: Option<String> =
        names.split(';').map(|name| Some(format!("{name}:{}\n", request.header(name)?.trim()))).collect();
    let canonical = format!("GET\n{path}\n{}\n{}\n{names}\nUNSIGNED-PAYLOAD", pairs.join("&"), headers?);
    let to_sign =
        format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hex(&Sha256::digest(canonical.as_bytes())));
    let first = hmac(format!("AWS4{secret}").as_bytes(), scope.split('/').next()?.as_bytes());
    let key = scope.split('/').skip(1).fold(first, |key, part| hmac(&key, part.as_bytes()));
    Some(hex(&hmac(&key, to_sign.as_bytes())))
}

/// Whether S3 takes a request as one of `KEY`'s: every header of its own is signed too.
fn is_signed(request: &Request) -> bool {
    let names = said(request, "X-Amz-SignedHeaders").unwrap_or_default();
    let payer = request.header("x-amz-request-payer").is_none() || names.contains("x-amz-request-payer");
    let key = said(request, "X-Amz-Credential").is_some_and(|own| own.starts_with(KEY));
    payer && key && signature(request, SECRET).as_deref() == said(request, "X-Amz-Signature")
}

fn refusal(status: &str, code: &str, headers: &str, more: &str) -> Vec<u8> {
    let body = format!(
        "<Error><Code>{code}</Code><Message>Why</Message>{more}<SignatureProvided>s</SignatureProvided></Error>"
    );
    answer(status, headers, body.len(), body.as_bytes())
}

fn lacks() -> Vec<u8> {
    refusal("404 Not Found", "NoSuchKey", "", "")
}

fn part(request: &Request, whole: &[u8], most: usize) -> Vec<u8> {
    let tag = "ETag: \"a\"\r\n";
    let Some(range) = request.header("range") else {
        return answer("200 OK", tag, whole.len(), &whole[..whole.len().min(most)]);
    };
    let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    let first: usize = first.parse().unwrap();
    let last = last.parse().unwrap_or(whole.len() - 1);
    let range = format!("{tag}Content-Range: bytes {first}-{last}/{}\r\n", whole.len());
    let body = &whole[first..=last];
    answer("206 Partial Content", &range, body.len(), &body[..body.len().min(most)])
}

fn path(request: &Request) -> &str {
    request.line.split(' ').nth(1).unwrap().split('?').next().unwrap()
}

/// A bucket `cache` with `nar/x` in its folder `c`, whose bodies are cut behind `most` bytes.
fn bucket(most: usize, may: impl Fn(&Request) -> bool + Send + 'static) -> Answer {
    Box::new(move |request| match path(request) {
        _ if !may(request) => refusal("403 Forbidden", "AccessDenied", "", ""),
        "/cache/c/nar/x" => part(request, &contents(), most),
        "/cache/c/nix-cache-info" => part(request, b"StoreDir: /nix/store\n", 100),
        _ => lacks(),
    })
}

fn contents() -> Vec<u8> {
    let mut bytes = vec![0; 300_000];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

fn options(secret: Option<&str>, requester_pays: bool) -> SourceOptions {
    let environment = AwsEnvironment::read(|name| match name {
        "AWS_ACCESS_KEY_ID" => secret.map(|_| KEY.into()),
        "AWS_SECRET_ACCESS_KEY" => secret.map(Into::into),
        _ => None,
    });
    SourceOptions { s3: S3Options { requester_pays, environment }, ..SourceOptions::default() }
}

fn source_with(server: &Server, options: &SourceOptions, now: fn() -> Timestamp) -> Arc<HttpSource> {
    let url = format!("s3://cache/c?region=eu-west-1&endpoint={}", server.address);
    let bucket = S3Bucket::with(&url, &options.s3, now).unwrap();
    Arc::new(source_of(Place::Bucket(Box::new(bucket)), options, 4).0)
}

fn source(server: &Server) -> Arc<HttpSource> {
    source_with(server, &options(Some(SECRET), false), noon)
}

#[test]
fn the_tests_own_signature_is_that_of_the_published_example() {
    let line = "GET /test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524\
                %2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400\
                &X-Amz-SignedHeaders=host&X-Amz-Signature=x HTTP/1.1";
    let request = Request::of(line, "examplebucket.s3.amazonaws.com");
    let published = "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404";
    assert_eq!(signature(&request, SECRET).as_deref(), Some(published));
}

#[test]
fn a_body_that_is_cut_goes_on_under_a_signature_of_its_own() {
    static CLOCK: AtomicI64 = AtomicI64::new(NOW);
    fn next() -> Timestamp {
        Timestamp::from_second(CLOCK.fetch_add(60, Ordering::SeqCst)).unwrap()
    }
    let server = Server::with(vec![bucket(120_000, is_signed)]);
    let source = source_with(&server, &options(Some(SECRET), false), next);
    assert!(read(&source).unwrap() == contents());
    let requests = server.requests();
    assert_eq!(requests.iter().map(Request::first).collect::<Vec<_>>(), [0, 120_000, 240_000]);
    let dates: Vec<_> = requests.iter().map(|request| said(request, "X-Amz-Date").unwrap()).collect();
    assert_eq!(dates, ["20260102T030405Z", "20260102T030505Z", "20260102T030605Z"]);
}

#[test]
fn names_are_signed_as_they_are_sent() {
    let server = Server::with(vec![Box::new(|request: &Request| {
        if is_signed(request) && path(request) == "/cache/c/log/a%2Bb%3Fc%25d.drv" {
            answer("200 OK", "", 2, b"ok")
        } else {
            refusal("403 Forbidden", "SignatureDoesNotMatch", "", "")
        }
    })]);
    assert_eq!(read_expected(&source(&server), "log/a+b?c%d.drv", Expected::default()).unwrap(), b"ok");
}

#[test]
fn a_wrong_secret_ends_the_publish_at_once_and_shows_no_signature() {
    let server = Server::with(vec![Box::new(|request: &Request| {
        assert!(!is_signed(request));
        refusal("403 Forbidden", "SignatureDoesNotMatch", "", "")
    })]);
    let source = source_with(&server, &options(Some("other"), false), noon);
    let error = source.greet().unwrap_err();
    assert!(error.is_away() && error.to_string().contains("SignatureDoesNotMatch"), "{error}");
    assert!(error.to_string().contains("s3://cache/c is given up"), "{error}");
    assert_eq!(server.requests().len(), 1);
    for shown in [error.to_string(), format!("{source:?}"), source.to_string()] {
        assert!(!shown.contains("X-Amz") && !shown.contains(KEY) && !shown.contains("other"), "{shown}");
    }
}

#[test]
fn whoever_pays_says_so_in_a_signed_header() {
    let pays = || {
        bucket(1 << 20, |request| {
            is_signed(request) && request.header("x-amz-request-payer") == Some("requester")
        })
    };
    let server = Server::with(vec![pays()]);
    let error = source(&server).greet().unwrap_err().to_string();
    assert!(error.contains("--requester-pays"), "{error}");
    assert_eq!(server.requests().len(), 3, "the file, and whether the bucket hides what it lacks");
    let server = Server::with(vec![pays()]);
    let source = source_with(&server, &options(Some(SECRET), true), noon);
    source.greet().unwrap();
    assert!(read(&source).unwrap() == contents());
    assert!(source.has("nar/x").unwrap() && !source.has("nar/y").unwrap());
}

#[test]
fn without_credentials_nothing_is_signed_and_a_refusal_says_so() {
    let server = Server::with(vec![bucket(1 << 20, |request| !request.line.contains("X-Amz"))]);
    let anonymous = options(None, false);
    assert!(read(&source_with(&server, &anonymous, noon)).unwrap() == contents());
    let server = Server::with(vec![bucket(1 << 20, is_signed)]);
    let error = source_with(&server, &anonymous, noon).greet().unwrap_err().to_string();
    assert!(error.contains("asked without credentials") && error.contains("AWS_ACCESS_KEY_ID"), "{error}");
}

#[test]
fn another_region_is_named_and_not_gone_to() {
    let by_header =
        || refusal("301 Moved Permanently", "PermanentRedirect", "x-amz-bucket-region: us-west-2\r\n", "");
    let by_body =
        || refusal("400 Bad", "AuthorizationQueryParametersError", "", "<Region>us-west-2</Region>");
    let moved = || refusal("307 Moved", "TemporaryRedirect", "Location: http://127.0.0.1:1/\r\n", "");
    type Answer = fn() -> Vec<u8>;
    let answers: [(Answer, &str); 3] =
        [(by_header, "say region=us-west-2"), (by_body, "say region=us-west-2"), (moved, "lies elsewhere")];
    for (answer, sentence) in answers {
        let server = Server::with(vec![Box::new(move |_: &Request| answer())]);
        let source = source(&server);
        let error = source.has("x.narinfo").unwrap_err();
        assert!(error.is_away() && error.to_string().contains(sentence), "{error}");
        assert!(read(&source).is_err());
        assert_eq!(server.requests().len(), 1);
    }
}

#[test]
fn a_clock_that_is_wrong_is_said_to_be_wrong() {
    fn late() -> Timestamp {
        Timestamp::from_second(NOW - 7200).unwrap()
    }
    let server = Server::with(vec![Box::new(|_: &Request| {
        refusal("403 Forbidden", "AccessDenied", "Date: Fri, 02 Jan 2026 03:04:05 GMT\r\n", "")
    })]);
    let error = source_with(&server, &options(Some(SECRET), false), late).greet().unwrap_err();
    assert!(error.is_away() && error.to_string().contains("120 minutes behind the server's"), "{error}");
}

#[test]
fn a_bucket_that_may_not_be_listed_hides_what_it_lacks_and_one_that_is_not_there_lacks_nothing() {
    let hiding: Answer = Box::new(|request| match path(request) {
        "/cache/c/nix-cache-info" => part(request, b"StoreDir: /nix/store\n", 100),
        _ => refusal("403 Forbidden", "AccessDenied", "", ""),
    });
    let server = Server::with(vec![hiding]);
    let hiding = source(&server);
    hiding.greet().unwrap();
    assert!(!hiding.has("x.narinfo").unwrap());
    assert_eq!(read(&hiding).unwrap_err(), "nothing is there");
    let server = Server::with(vec![Box::new(|_: &Request| refusal("404 Not Found", "NoSuchBucket", "", ""))]);
    let error = source(&server).has("x.narinfo").unwrap_err();
    assert!(error.is_away() && error.to_string().contains("no such bucket"), "{error}");
}

#[test]
fn credentials_that_run_out_on_the_way_are_no_absence_in_a_bucket_that_hides_what_it_lacks() {
    let server = Server::with(vec![
        Box::new(|request: &Request| part(request, b"StoreDir: /nix/store\n", 100)),
        Box::new(|request: &Request| part(request, b"StoreDir: /nix/store\n", 100)),
        Box::new(|_: &Request| refusal("403 Forbidden", "AccessDenied", "", "")),
        Box::new(|_: &Request| refusal("403 Forbidden", "InvalidAccessKeyId", "", "")),
    ]);
    let source = source(&server);
    source.greet().unwrap();
    assert!(source.has("x.narinfo").unwrap_err().is_away());
}

#[test]
fn busy_buckets_are_asked_again() {
    let server = Server::with(vec![
        Box::new(|_: &Request| refusal("503 Slow Down", "SlowDown", "", "")),
        bucket(1 << 20, is_signed),
    ]);
    assert!(read(&source(&server)).unwrap() == contents());
}

#[test]
fn the_guard_of_addresses_judges_the_host_that_is_asked() {
    let host = |url: &str| S3Bucket::with(url, &S3Options::default(), noon).unwrap().host().to_owned();
    assert_eq!(host("s3://cache?region=eu-west-1"), "cache.s3.eu-west-1.amazonaws.com");
    assert_eq!(host("s3://cache?endpoint=Minio.example:9000"), "minio.example");
    assert_eq!(host("s3://cache?endpoint=http://[::1]:9000"), "[::1]");
    // What URLs take for an address is one: the user named it, and it is read there and nowhere else.
    assert_eq!(host("s3://cache?endpoint=http://2130706433"), "127.0.0.1");
}

#[test]
fn credentials_of_a_file_that_are_made_anew_are_used_within_a_minute() {
    static CLOCK: AtomicI64 = AtomicI64::new(NOW);
    fn now() -> Timestamp {
        Timestamp::from_second(CLOCK.load(Ordering::SeqCst)).unwrap()
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("credentials");
    let write = |key: &str| {
        let text = format!("[default]\naws_access_key_id = {key}\naws_secret_access_key = x\n");
        std::fs::write(&path, text).unwrap();
    };
    write("OLD");
    let environment = AwsEnvironment::read(|name| {
        (name == "AWS_SHARED_CREDENTIALS_FILE").then(|| path.as_os_str().to_owned())
    });
    let options = S3Options { requester_pays: false, environment };
    let bucket = S3Bucket::with("s3://cache/c?region=eu-west-1", &options, now).unwrap();
    let signed_by = |key: &str| bucket.signed_url("nar/x").contains(&format!("X-Amz-Credential={key}%2F"));
    assert!(signed_by("OLD"));
    write("NEW");
    assert!(signed_by("OLD"));
    CLOCK.fetch_add(60, Ordering::SeqCst);
    assert!(signed_by("NEW"));
    // What cannot be read any more is no reason to ask without.
    std::fs::remove_file(&path).unwrap();
    CLOCK.fetch_add(60, Ordering::SeqCst);
    assert!(signed_by("NEW"));
}
