//! What is asked for by other names than those of paths: realisations, debuginfo, and people's questions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::support::{
    ArchiveMaker, MemoryArchive, ask, body, get, hash_part, header, ignorant_router, nar_of, path_info,
    router, secret_key,
};
use firn_base::{KeyKind, ObjectKey};
use firn_gateway::{Governance, Router, WhenUnreadable};
use firn_nix_format::{BuildId, DebugInfoLink, Sha256, StorePath};
use hyper::StatusCode;
use serde_json::{Value, json};

const REALISATION: &[u8] = br#"{"id":"x","outPath":"y"}"#;

fn realisation_url() -> String {
    format!("realisations/sha256:{}!out.doi", "0a".repeat(32))
}

fn trace_url() -> String {
    format!("build-trace-v2/{}-tree.drv/out.doi", hash_part(3))
}

fn link(owner: Option<u8>) -> Vec<u8> {
    let link = DebugInfoLink {
        archive: "../nar/original.nar.xz".to_owned(),
        member: "lib/debug/x".to_owned(),
        store_path: owner.map(|owner| StorePath::from_parts([owner; 20], "hello-2.12.1").unwrap()),
    };
    link.to_json().into_bytes()
}

/// Path 1, two realisations, and links of the build ids 21 to 24: of path 1, of a path that is not here, of nobody, and
/// something else in the place of one.
fn archive() -> Arc<MemoryArchive> {
    let mut maker = ArchiveMaker::default();
    maker.path(&path_info(1, &nar_of(1000)), &nar_of(1000));
    for url in [realisation_url(), trace_url()] {
        maker.blob(ObjectKey::named(KeyKind::Realisation, &url), &url, REALISATION);
    }
    for (id, contents) in
        [(21, link(Some(1))), (22, link(Some(9))), (23, link(None)), (24, b"no link".to_vec())]
    {
        let id = BuildId([id; 20]);
        maker.blob(ObjectKey::new(KeyKind::DebugInfo, id.0), &id.urls()[0], &contents);
    }
    maker.seal();
    Arc::new(maker.finish())
}

fn served(archive: &Arc<MemoryArchive>) -> Router {
    router(archive, WhenUnreadable::Retry)
}

fn governed(archive: &Arc<MemoryArchive>) -> Router {
    let router = served(archive);
    let withdrawn = BTreeMap::from([(ObjectKey::store_path([8; 20]), "asked by its <author>".to_owned())]);
    let publishers = vec![secret_key(2).public_key(), secret_key(1).public_key()];
    router.core().set_governance(Governance { publishers, withdrawn });
    router
}

async fn text(router: &Router, path: &str) -> (StatusCode, String) {
    let answer = get(router, path).await;
    (answer.status(), String::from_utf8(body(answer).await.to_vec()).unwrap())
}

#[tokio::test]
async fn realisations_and_build_traces_are_served_as_they_were_published() {
    let router = served(&archive());
    let encoded = realisation_url().replace(':', "%3a").replace('!', "%21");
    for url in [realisation_url(), encoded, trace_url()] {
        for base in ["", "/plain"] {
            let path = format!("{base}/{url}");
            let (answer, head) = (get(&router, &path).await, ask(&router, "HEAD", &path, &[]).await);
            assert_eq!((answer.status(), answer.headers()), (StatusCode::OK, head.headers()), "{path}");
            assert_eq!(header(&answer, "content-type"), "application/json");
            assert_eq!(header(&answer, "content-length"), REALISATION.len().to_string());
            let etag = header(&answer, "etag");
            assert_eq!(body(answer).await, REALISATION);
            let again = ask(&router, "GET", &path, &[("if-none-match", &etag)]).await;
            assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
        }
    }
    let absent = trace_url().replace("out", "dev");
    assert_eq!(get(&router, &format!("/{absent}")).await.status(), StatusCode::NOT_FOUND);
    assert_eq!(get(&router, "/realisations/hello.doi").await.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_debuginfo_link_names_the_nar_that_this_cache_serves() {
    let (router, nar) = (served(&archive()), nar_of(1000));
    for url in BuildId([21; 20]).urls() {
        let answer = get(&router, &format!("/{url}")).await;
        assert_eq!(answer.status(), StatusCode::OK);
        let etag = header(&answer, "etag");
        let link: Value = serde_json::from_slice(&body(answer).await).unwrap();
        let ours = format!("../nar/{}-{}.nar", hash_part(1), Sha256::of(&nar).to_base32());
        assert_eq!(link, json!({ "archive": ours, "member": "lib/debug/x" }));
        let target = get(&router, &ours[2..]).await;
        assert!(body(target).await == nar, "the link leads to the NAR");
        let again = ask(&router, "GET", &format!("/{url}"), &[("if-none-match", &etag)]).await;
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
    }
}

#[tokio::test]
async fn a_link_that_leads_nowhere_is_not_archived() {
    let router = served(&archive());
    for id in [22, 23, 24, 25] {
        let (status, sentence) = text(&router, &format!("/{}", BuildId([id; 20]).urls()[0])).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{id}");
        assert_eq!(sentence, "no debuginfo link of this build id is archived");
    }
    assert_eq!(get(&router, "/debuginfo/00ff").await.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn why_says_since_when_by_whom_and_where_a_path_is_archived() {
    let router = governed(&archive());
    let path = format!("/why//nix/store/{}-hello-2.12.1", hash_part(1));
    let answer = get(&router, &path).await;
    assert_eq!(header(&answer, "content-type"), "text/plain; charset=utf-8");
    assert_eq!(header(&answer, "cache-control"), "no-store");
    assert_eq!(header(&answer, "x-content-type-options"), "nosniff");
    assert_eq!(header(&answer, "firn-feed-position"), "7");
    let sentence = String::from_utf8(body(answer).await.to_vec()).unwrap();
    let begin = format!(
        "/nix/store/{}-hello-2.12.1 is archived since 2026-11-22T21:45:09Z, signed by cache-1, in bundle ",
        hash_part(1)
    );
    assert!(sentence.starts_with(&begin), "{sentence}");
    let end = ": nodes hold 6 of its 6 shards, 5 of these are online, and any 4 restore it";
    assert!(sentence.ends_with(end), "{sentence}");

    let json = ask(&router, "GET", &path, &[("accept", "text/html, application/json;q=0.9")]).await;
    assert_eq!(header(&json, "content-type"), "application/json");
    let json: Value = serde_json::from_slice(&body(json).await).unwrap();
    assert_eq!((&json["state"], &json["sentence"]), (&"archived".into(), &sentence.into()));
    assert_eq!(json["publishers"], json!(["cache-1"]));
    assert_eq!(json["shards"], json!({ "needed": 4, "wanted": 6, "held": 6, "online": 5 }));
    assert_eq!(json["bundle"].as_str().unwrap().len(), 64);
}

#[tokio::test]
async fn why_tells_what_was_withdrawn_from_what_never_was_there_and_asks_nobody() {
    let archive = archive();
    let router = governed(&archive);
    let withdrawn = "this store path was withdrawn from the archive for this reason: asked by its <author>";
    assert_eq!(
        text(&router, &format!("/why/{}", hash_part(8))).await,
        (StatusCode::OK, withdrawn.to_owned())
    );
    let absent = "this store path is not archived, as of position 7 of the archive's feed";
    assert_eq!(text(&router, &format!("/why/{}", hash_part(9))).await, (StatusCode::OK, absent.to_owned()));
    let json =
        ask(&router, "GET", &format!("/why/{}", hash_part(9)), &[("accept", "application/json")]).await;
    let json: Value = serde_json::from_slice(&body(json).await).unwrap();
    assert_eq!(json, json!({ "state": "absent", "sentence": absent, "feed_position": 7 }));
    assert_eq!(archive.lookups.load(Ordering::Relaxed), 0, "nobody was asked");
}

#[tokio::test]
async fn why_says_what_keeps_an_archived_path_from_being_read() {
    let archive = archive();
    let router = governed(&archive);
    archive.nodes_away.store(true, Ordering::Relaxed);
    let (status, sentence) = text(&router, &format!("/why/{}", hash_part(1))).await;
    let begin = "this store path is archived, and cannot be read now: bundle ";
    assert!(status == StatusCode::OK && sentence.starts_with(begin), "{sentence}");
    assert!(sentence.ends_with("; try again later"), "{sentence}");

    // The record is remembered, and the NAR still lies with the nodes.
    archive.nodes_away.store(false, Ordering::Relaxed);
    get(&router, &format!("/{}.narinfo", hash_part(1))).await;
    archive.all_away(true);
    let (_, sentence) = text(&router, &format!("/why/{}", hash_part(1))).await;
    assert!(sentence.contains(", signed by cache-1, in bundle "), "{sentence}");
    let said =
        sentence.split_once("; it cannot be read now: bundle ").expect("what stands in the way is told").1;
    assert!(said.ends_with(" are needed; try again later"), "{sentence}");
    let json =
        ask(&router, "GET", &format!("/why/{}", hash_part(1)), &[("accept", "application/json")]).await;
    let json: Value = serde_json::from_slice(&body(json).await).unwrap();
    assert_eq!((&json["state"], &json["shards"]), (&"unreadable".into(), &Value::Null));
}

#[tokio::test]
async fn what_is_no_path_is_400_and_a_form_finds_its_way() {
    let router = governed(&archive());
    for path in ["/why", "/why/", "/why/hello", "/why?path=", "/why?path=%zz"] {
        let (status, sentence) = text(&router, path).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{path}");
        assert!(sentence.starts_with("this is no store path: "), "{sentence}");
    }
    let form = format!("/why?path=+%2Fnix%2Fstore%2F{}-hello-2.12.1%2Fbin", hash_part(1));
    assert!(text(&router, &form).await.1.contains(" is archived since "));
}

#[tokio::test]
async fn the_page_is_one_answer_that_needs_nothing_else() {
    let archive = archive();
    let router = governed(&archive);
    let answer = ask(&router, "GET", "/", &[("host", "cache.example.org:8080")]).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(header(&answer, "content-type"), "text/html; charset=utf-8");
    assert_eq!(header(&answer, "cache-control"), "no-store");
    let policy = header(&answer, "content-security-policy");
    let page = String::from_utf8(body(answer).await.to_vec()).unwrap();
    let style = page.split_once("<style>").unwrap().1.split_once("</style>").unwrap().0;
    let digest = data_encoding::BASE64.encode(Sha256::of(style.as_bytes()).as_bytes());
    assert!(policy.starts_with("default-src 'none'; "), "{policy}");
    assert!(
        policy.contains(&format!("style-src 'sha256-{digest}'")),
        "the policy lets the page's own style through"
    );
    for foreign in ["<script", "src=", "@import", "url(", "javascript:", "style=", "onload", "onclick"] {
        assert!(!page.to_lowercase().contains(foreign), "{foreign}");
    }
    let url = "http://cache.example.org:8080";
    let blocks = page.split("<pre><code>").skip(1).map(|block| block.split_once("</code></pre>").unwrap().0);
    assert_eq!(
        blocks.collect::<Vec<_>>(),
        [
            format!("nix --extra-experimental-features nix-command copy --from {url} /nix/store/…"),
            format!("extra-substituters = {url}"),
            format!("extra-trusted-substituters = {url}"),
            format!("nix-build --option extra-substituters {url} …"),
            format!("export NIX_CONFIG=\"extra-substituters = {url}\""),
        ]
    );
    let words = page.split_whitespace().collect::<Vec<_>>().join(" ");
    for sentence in [
        "This is a gateway to a Firn archive: store paths of Nix, kept on the disks of many volunteers",
        "You add a URL, and no key. Paths carry the signatures of those who published them",
        "Nix takes them only where it trusts one of those keys already. This gateway signs nothing and need not be trusted.",
        "Needs no rights and changes no settings:",
        "Is a store path here?",
    ] {
        assert!(words.contains(sentence), "{sentence}");
    }
    assert!(words.contains(&format!("Nix before 2.4 knows no zstd: give it <code>{url}/plain</code>.")));
    assert!(page.contains("<form action=\"/why\" method=\"get\""));
    assert!(page.contains("(cache-2, cache-1)"), "who publishes is told");
    assert!(page.contains("Not up to date: no coordinator has answered"), "nobody has heard a feed here");
    assert!(!page.split_once("</style>").unwrap().1.contains('{'), "every place is filled");
    assert_eq!(archive.lookups.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn before_the_feed_was_heard_the_page_says_that_nothing_is_found_yet() {
    let router = ignorant_router(&archive());
    let (status, page) = text(&router, "/").await;
    assert_eq!(status, StatusCode::OK);
    let said = "Not ready: the archive&#39;s feed was not heard yet. No path is found here until then.";
    assert!(page.contains(said), "{page}");
    let (_, sentence) = text(&router, &format!("/why/{}", hash_part(1))).await;
    assert!(
        sentence.starts_with("whether this store path is archived cannot be settled now: "),
        "{sentence}"
    );
    assert!(sentence.ends_with("; try again later"), "{sentence}");
}

#[tokio::test]
async fn what_a_client_says_of_itself_does_not_reach_the_page_unless_it_is_a_host() {
    let router = governed(&archive());
    for host in ["\"><script>", "a b", "x/y", "{health}"] {
        let page = body(ask(&router, "GET", "/", &[("host", host)]).await).await;
        let page = String::from_utf8(page.to_vec()).unwrap();
        assert!(!page.contains(host), "{host}");
        assert!(page.contains("--from https://CACHE /nix"), "a stand-in is shown");
    }
    let headers = [("host", "cache.example.org"), ("x-forwarded-proto", "https")];
    let page = body(ask(&router, "GET", "/", &headers).await).await;
    assert!(String::from_utf8_lossy(&page).contains("--from https://cache.example.org /nix"));
}
