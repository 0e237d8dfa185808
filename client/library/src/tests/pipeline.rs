//! What is published comes back, and comes back the same.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;

use firn_base::{KeyKind, ObjectKey};
use firn_bundle::Encoding;
use firn_client_logic::{PublishOrder, PublishSummary, Selection};
use firn_nix_format::{BuildId, Compression, DebugInfoLink, PublisherSecretKey, Sha256};
use firn_transport::{Blocking, Environment};

use super::archive::{TestArchive, encoding_of};
use super::cache::{Cache, noise, store_path};
use crate::events::{PublishEvent, PublishEvents};
use crate::publish::publish_into;
use crate::publish_options::{PublishOptions, PublishStopped};
use crate::source::Source;

pub(super) fn key(name: &str) -> ObjectKey {
    ObjectKey::store_path(*store_path(name).hash())
}

pub(super) async fn publish_with(
    archive: &Arc<TestArchive>,
    cache: &Cache,
    options: PublishOptions,
) -> Result<PublishSummary, PublishStopped> {
    publish_telling(archive, cache, options, PublishEvents::none()).await
}

/// The same, and what happens on the way is told.
pub(super) async fn publish_telling(
    archive: &Arc<TestArchive>,
    cache: &Cache,
    options: PublishOptions,
    events: PublishEvents,
) -> Result<PublishSummary, PublishStopped> {
    let (publishers, environment) = (vec![cache.publisher()], Environment::real());
    publish_into(archive.clone(), Some(archive.objects()), publishers, &environment, options, events).await
}

/// Publishes until something is packed: then it is asked to stop.
pub(super) async fn publish_until_packed(
    archive: &Arc<TestArchive>,
    cache: &Cache,
    options: PublishOptions,
) -> PublishSummary {
    let stop = options.stop.clone();
    let events = PublishEvents::new(move |event| {
        if matches!(event, PublishEvent::Packed { .. }) {
            stop.ask();
        }
    });
    publish_telling(archive, cache, options, events).await.unwrap()
}

pub(super) async fn publish(archive: &Arc<TestArchive>, cache: &Cache) -> PublishSummary {
    publish_with(archive, cache, PublishOptions::new(cache.source())).await.unwrap()
}

/// Compares every sound NAR of the cache with what the archive's shards give.
pub(super) fn assert_restores(archive: &TestArchive, cache: &Cache) {
    for (base_name, nar) in &cache.nars {
        let path = firn_nix_format::StorePath::from_base_name(base_name).unwrap();
        assert!(
            archive.restore(ObjectKey::store_path(*path.hash())) == *nar,
            "{base_name} comes back as another"
        );
    }
}

#[tokio::test]
async fn every_nar_of_a_cache_comes_back_from_parity() {
    for (k, n) in [(1, 1), (1, 3), (2, 5), (4, 12), (8, 24), (16, 40)] {
        let (cache, archive) = (Cache::sound(), TestArchive::new(k, n));
        let summary = publish(&archive, &cache).await;
        assert_eq!((summary.paths_published, summary.exit_code()), (6, 0), "{summary}");
        assert_eq!(summary.content.0, cache.nars.values().map(|nar| nar.len() as u64).sum::<u64>());
        assert_eq!(summary.bundles, 1);
        assert_restores(&archive, &cache);
    }
}

#[tokio::test]
async fn a_second_publish_skips_everything() {
    let (cache, archive) = (Cache::sound(), TestArchive::new(4, 8));
    publish(&archive, &cache).await;
    let again = publish(&archive, &cache).await;
    assert_eq!((again.paths_published, again.paths_skipped, again.bundles), (0, 6, 0));
    assert_eq!(archive.commits(), [1]);
}

#[tokio::test]
async fn records_keep_what_was_published() {
    let (cache, archive) = (Cache::sound(), TestArchive::new(2, 3));
    publish(&archive, &cache).await;
    let record = archive.record(key("hello-1.1"));
    let text = cache.source().narinfo(store_path("hello-1.1").hash_part()).unwrap().unwrap();
    assert_eq!(record.path_info().unwrap().to_string().as_bytes(), text);
}

#[tokio::test]
async fn verbatim_keeps_the_file_as_it_was() {
    let (cache, archive) = (Cache::sound(), TestArchive::new(4, 6));
    let options = PublishOptions { encoding: Encoding::Verbatim, ..PublishOptions::new(cache.source()) };
    let summary = publish_with(&archive, &cache, options).await.unwrap();
    assert_eq!((summary.paths_published, summary.exit_code()), (6, 0), "{summary}");
    for name in ["libc-2.40", "hello-1.0", "hello-1.1", "data-1"] {
        let url = archive.record(key(name)).path_info().unwrap().url.clone();
        assert!(archive.restore(key(name)) == std::fs::read(cache.file(&url)).unwrap(), "{name}");
        assert_eq!(encoding_of(&archive, key(name)), Encoding::Verbatim);
    }
}

#[tokio::test]
async fn one_thread_that_runs_everything_inline_publishes_the_same() {
    let (cache, archive) = (Cache::sound(), TestArchive::new(4, 6));
    let real = Environment::real();
    let inline = Environment::new(
        Arc::clone(real.clock()),
        Arc::clone(real.sockets()),
        Arc::new(no_chance::Fixed),
        Blocking::Inline,
    );
    let options = PublishOptions { jobs: 1, ..PublishOptions::new(cache.source()) };
    let publishers = vec![cache.publisher()];
    let summary = publish_into(
        archive.clone(),
        Some(archive.objects()),
        publishers,
        &inline,
        options,
        PublishEvents::none(),
    )
    .await
    .unwrap();
    assert_eq!((summary.paths_published, summary.exit_code()), (6, 0));
    assert_restores(&archive, &cache);
}

mod no_chance {
    //! Chance that is none, as a simulation has it.

    #[derive(Debug)]
    pub(super) struct Fixed;

    impl firn_transport::Entropy for Fixed {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(4);
        }
    }
}

#[tokio::test]
async fn only_the_paths_that_are_named_are_published_and_others_are_waited_for() {
    let (cache, archive) = (Cache::sound(), TestArchive::new(4, 6));
    let paths = Some(vec![store_path("hello-1.0").to_string()].into());
    let options = PublishOptions { paths, ..PublishOptions::new(cache.source()) };
    let summary = publish_with(&archive, &cache, options).await.unwrap();
    assert_eq!(archive.keys(), [key("hello-1.0")]);
    assert_eq!(summary.waiting.len(), 1);
    assert_eq!(summary.waiting[0].waiting_for, [store_path("libc-2.40").base_name()]);
    assert_eq!((summary.exit_code(), summary.externals.len()), (1, 0), "the source has the reference");
    assert_eq!(publish(&archive, &cache).await.exit_code(), 0);
}

#[tokio::test]
async fn shares_divide_a_cache_and_together_are_all_of_it() {
    let (cache, archive) = (Cache::sound(), TestArchive::new(4, 6));
    let all: Vec<String> = cache.nars.keys().cloned().collect();
    let (mut published, mut last) = (0, PublishSummary::default());
    for share in ["1/3", "2/3", "3/3"] {
        let selection = Selection { share: Some(share.parse().unwrap()), ..Selection::default() };
        // Named or listed, the division is the same.
        let named = Some(all.clone()).filter(|_| share == "2/3").map(Into::into);
        let options = PublishOptions { selection, paths: named, ..PublishOptions::new(cache.source()) };
        last = publish_with(&archive, &cache, options).await.unwrap();
        assert_eq!((last.paths_skipped, last.externals.len(), last.refused.len()), (0, 0, 0), "{last}");
        published += last.paths_published;
    }
    assert_eq!((published, last.exit_code()), (6, 0), "{last}");
    assert_restores(&archive, &cache);
}

#[tokio::test]
async fn what_is_excluded_is_not_published_and_no_lack_of_the_source() {
    let (cache, archive) = (Cache::sound(), TestArchive::new(4, 6));
    let selection = Selection { exclude: vec!["libc-*".to_owned(), "doc-?".to_owned()], share: None };
    let options = PublishOptions { selection, ..PublishOptions::new(cache.source()) };
    let summary = publish_with(&archive, &cache, options).await.unwrap();
    assert_eq!((summary.paths_published, summary.externals.len()), (4, 0), "{summary}");
    assert_eq!(summary.waiting.len(), 2, "both programs wait for their library");
}

#[tokio::test]
async fn versions_of_a_package_lie_side_by_side_wherever_their_hashes_sort() {
    let (mut cache, archive) = (Cache::new(), TestArchive::new(4, 6));
    let versions = |package| ["1.0", "2.0"].map(|version| format!("package{package}-{version}"));
    let names: Vec<String> = (0..6).flat_map(versions).collect();
    for name in names.iter().rev() {
        cache.add_path(name, name.as_bytes(), Compression::None, &[]);
    }
    publish(&archive, &cache).await;
    let by_name: Vec<ObjectKey> = names.iter().map(|name| key(name)).collect();
    let mut by_hash = by_name.clone();
    by_hash.sort();
    assert_ne!(by_hash, by_name, "or it would show nothing");
    assert_eq!(archive.keys_of(archive.bundles()[0]), by_name);
}

#[tokio::test]
async fn what_comes_first_is_packed_first() {
    let (cache, archive) = (Cache::sound(), TestArchive::new(1, 1));
    let order =
        PublishOrder { classes: vec!["releases".parse().unwrap()], releases: [key("hello-1.1")].into() };
    let packed = Arc::new(std::sync::Mutex::new(Vec::new()));
    let told = Arc::clone(&packed);
    let events = PublishEvents::new(move |event| {
        if let PublishEvent::Packed { name, .. } = event {
            told.lock().unwrap().push(name.clone());
        }
    });
    let options = PublishOptions { order, ..PublishOptions::new(cache.source()) };
    publish_telling(&archive, &cache, options, events).await.unwrap();
    let packed = packed.lock().unwrap();
    let first = ["libc-2.40", "hello-1.1"].map(|name| store_path(name).base_name().to_owned());
    assert_eq!((packed.len(), &packed[..2]), (6, &first[..]));
}

#[tokio::test]
async fn a_reference_that_the_source_lacks_is_external_unless_the_archive_has_it() {
    let archive = TestArchive::new(4, 6);
    let mut cache = Cache::new();
    cache.add_path("lonely-1", b"one", Compression::None, &["elsewhere-1", "lonely-1"]);
    let summary = publish(&archive, &cache).await;
    assert_eq!(summary.externals, [store_path("elsewhere-1").base_name()]);
    assert_eq!((archive.externals(), summary.exit_code()), (vec![key("elsewhere-1")], 0));

    let mut other = Cache::new();
    other.add_path("second-1", b"two", Compression::None, &["lonely-1"]);
    assert_eq!(publish(&archive, &other).await.externals, Vec::<String>::new());
}

#[tokio::test]
async fn build_logs_are_archived_once_as_they_are() {
    let (mut cache, archive) = (Cache::new(), TestArchive::new(4, 6));
    let deriver = store_path("thing-1.drv");
    for name in ["thing-1", "thing-1-doc"] {
        let mut entry = cache.entry(name, name.as_bytes(), Compression::None, &[]);
        entry.info.deriver = Some(deriver.clone());
        cache.add(entry);
    }
    publish(&archive, &cache).await;
    assert_eq!(archive.keys().len(), 2);

    // The log comes later, and is published although its paths are archived already.
    std::fs::write(cache.file(&format!("log/{}", deriver.base_name())), "building\n").unwrap();
    let summary = publish(&archive, &cache).await;
    assert_eq!((summary.logs_published, summary.paths_skipped, summary.exit_code()), (1, 2, 0));
    let log = ObjectKey::build_log(*deriver.hash());
    assert_eq!(archive.restore(log), b"building\n");
    let record = archive.record(log);
    let blob = record.as_blob().unwrap();
    assert_eq!((blob.bytes, blob.sha256), (9, Sha256::of(b"building\n")));
    assert_eq!(publish(&archive, &cache).await.logs_published, 0);
}

/// A realisation, a build trace and a debuginfo link of `thing-1`, which has a NAR in `cache`.
pub(super) fn add_blobs(cache: &Cache) -> [(ObjectKey, String, String); 3] {
    let out = store_path("thing-1");
    let id = format!("sha256:{}!out", "0a".repeat(32));
    let realisation = format!("realisations/{id}.doi");
    let trace = format!("build-trace-v2/{}/out.doi", store_path("thing-1.drv").base_name());
    let build_id = BuildId([0xab; 20]);
    let archive = format!("../nar/{}.nar", out.hash_part());
    let link = DebugInfoLink { archive, member: "file".to_owned(), store_path: None };
    let kept = DebugInfoLink { store_path: Some(out.clone()), ..link.clone() };
    let outside = "{\"outPath\":\"".to_owned() + out.base_name() + "\"}";
    let files = [
        (realisation.clone(), format!("{{\"id\":\"{id}\",\"outPath\":\"{}\"}}", out.base_name())),
        (trace.clone(), outside),
        (build_id.urls()[0].clone(), link.to_json()),
    ];
    for (url, contents) in &files {
        let file = cache.file(url);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, contents).unwrap();
    }
    let [(_, realised), (_, traced), (link_url, _)] = files;
    [
        (ObjectKey::named(KeyKind::Realisation, &realisation), realisation, realised),
        (ObjectKey::named(KeyKind::Realisation, &trace), trace, traced),
        (ObjectKey::new(KeyKind::DebugInfo, build_id.0), link_url, kept.to_json()),
    ]
}

#[tokio::test]
async fn realisations_and_debuginfo_links_of_a_directory_are_archived_once() {
    let (mut cache, archive) = (Cache::new(), TestArchive::new(4, 6));
    cache.add_path("thing-1", b"thing", Compression::None, &[]);
    let blobs = add_blobs(&cache);
    // What is no such file is passed over.
    std::fs::write(cache.file("debuginfo/README"), "x").unwrap();
    let summary = publish(&archive, &cache).await;
    assert_eq!((summary.realisations_published, summary.debuginfo_published), (2, 1), "{summary}");
    assert_eq!(summary.exit_code(), 0, "{summary}");
    assert!(summary.to_string().contains("besides 2 realisations and 1 debuginfo links"), "{summary}");
    for (key, url, contents) in &blobs {
        assert_eq!(archive.restore(*key), contents.as_bytes(), "{url}");
        assert_eq!(&archive.record(*key).as_blob().unwrap().url, url);
    }
    let again = publish(&archive, &cache).await;
    assert_eq!((again.realisations_published, again.debuginfo_published, again.bundles), (0, 0, 0));
}

#[tokio::test]
async fn what_is_no_realisation_and_a_link_to_no_known_path_are_noted_and_the_rest_is_published() {
    let (mut cache, archive) = (Cache::new(), TestArchive::new(4, 6));
    cache.add_path("thing-1", b"thing", Compression::None, &[]);
    let [(_, realisation, _), (_, trace, _), (_, link, _)] = add_blobs(&cache);
    std::fs::write(cache.file(&realisation), "{\"id\":\"another\",\"outPath\":\"x\"}").unwrap();
    std::fs::write(cache.file(&trace), vec![b' '; (1 << 20) + 1]).unwrap();
    std::fs::write(cache.file(&link), r#"{"archive":"../nar/gone.nar.xz","member":"x"}"#).unwrap();
    let summary = publish(&archive, &cache).await;
    assert_eq!((summary.paths_published, archive.keys().len()), (1, 1), "{summary}");
    assert_eq!(summary.notes.len(), 3, "{summary}");
    assert!(summary.to_string().contains("no narinfo that was read names its archive"), "{summary}");
}

#[tokio::test]
async fn realisations_that_are_named_are_fetched_and_missing_ones_are_refused() {
    let (mut cache, archive) = (Cache::new(), TestArchive::new(4, 6));
    cache.add_path("thing-1", b"thing", Compression::None, &[]);
    let [(key, realisation, _), _, _] = add_blobs(&cache);
    let id = realisation.strip_prefix("realisations/").unwrap().strip_suffix(".doi").unwrap().to_owned();
    let absent = id.replace("out", "dev");
    let paths = Some(vec![store_path("thing-1").to_string(), id, absent.clone()].into());
    let options = PublishOptions { paths, ..PublishOptions::new(cache.source()) };
    let summary = publish_with(&archive, &cache, options).await.unwrap();
    assert_eq!((summary.realisations_published, archive.keys().len()), (1, 2), "{summary}");
    assert!(archive.keys().contains(&key));
    assert_eq!(summary.refused.len(), 1);
    assert!(summary.refused[0].name.contains(&absent), "{summary}");
}

#[tokio::test]
async fn a_dry_run_tells_and_does_nothing() {
    let (cache, archive) = (Cache::sound(), TestArchive::new(4, 6));
    let options = PublishOptions { dry_run: true, ..PublishOptions::new(cache.source()) };
    let summary = publish_with(&archive, &cache, options).await.unwrap();
    assert_eq!((summary.paths_published, summary.dry_run), (6, true));
    assert!(summary.to_string().starts_with("would publish 6 paths"), "{summary}");
    assert!(archive.keys().is_empty());
}

#[tokio::test]
async fn trusted_keys_narrow_the_publishers() {
    let (cache, archive) = (Cache::sound(), TestArchive::new(4, 6));
    let other = PublisherSecretKey::from_seed("other-1", &[8; 32]).unwrap().public_key();
    let options = PublishOptions { trusted_keys: Some(vec![other]), ..PublishOptions::new(cache.source()) };
    let stopped = publish_with(&archive, &cache, options).await.unwrap_err();
    assert!(stopped.to_string().contains("test-1"), "{stopped}");
    let options =
        PublishOptions { trusted_keys: Some(vec![cache.publisher()]), ..PublishOptions::new(cache.source()) };
    assert_eq!(publish_with(&archive, &cache, options).await.unwrap().paths_published, 6);
}

#[tokio::test]
async fn equal_chunks_are_stored_once() {
    let (mut cache, archive) = (Cache::new(), TestArchive::new(4, 6));
    let contents = noise(1_000_000, 9);
    cache.add_path("first-1", &contents, Compression::None, &[]);
    cache.add_path("second-1", &contents, Compression::Xz, &[]);
    let summary = publish(&archive, &cache).await;
    assert!(summary.payload.0 < 1_200_000, "{}", summary.payload);
    assert_restores(&archive, &cache);
}

#[tokio::test]
async fn a_small_bundle_size_gives_many_bundles_and_the_same_paths() {
    let (mut cache, archive) = (Cache::new(), TestArchive::new(4, 6));
    for number in 0..12 {
        let name = format!("part-{number}");
        cache.add_path(&name, &noise(700_000, number), Compression::None, &["part-0"]);
    }
    let options = PublishOptions { bundle_bytes: 4 << 20, ..PublishOptions::new(cache.source()) };
    let summary = publish_with(&archive, &cache, options).await.unwrap();
    assert_eq!((summary.paths_published, summary.exit_code()), (12, 0), "{summary}");
    assert!(summary.bundles >= 3, "{summary}");
    assert_restores(&archive, &cache);
}

/// A server of files, for as many requests as the process lives.
fn serve(root: PathBuf) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let root = root.clone();
            std::thread::spawn(move || {
                let mut stream = stream.unwrap();
                let mut request = [0; 4096];
                let count = stream.read(&mut request).unwrap();
                let request = String::from_utf8_lossy(&request[..count]).into_owned();
                let path = request.split(' ').nth(1).unwrap_or("/").trim_start_matches('/');
                let (status, body) = match std::fs::read(root.join(path)) {
                    Ok(body) => ("200 OK", body),
                    Err(_) => ("404 Not Found", Vec::new()),
                };
                let head = format!(
                    "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    body.len()
                );
                stream.write_all(head.as_bytes()).unwrap();
                if !request.starts_with("HEAD") {
                    let _ = stream.write_all(&body);
                }
            });
        }
    });
    format!("http://{address}")
}

#[tokio::test]
async fn a_cache_behind_a_url_is_published_path_by_path() {
    let (cache, archive) = (Cache::sound(), TestArchive::new(4, 6));
    let source = Source::open(&serve(cache.path().to_owned())).unwrap();
    let all = ["libc-2.40", "hello-1.0", "hello-1.1", "data-1", "doc-1", "empty-1"];
    let listing = PublishOptions::new(source.clone());
    let stopped = publish_with(&archive, &cache, listing).await.unwrap_err();
    assert!(stopped.to_string().contains("--paths"), "{stopped}");
    let paths: Vec<String> = all.iter().map(|name| store_path(name).to_string()).collect();
    let options = PublishOptions { paths: Some(paths.into()), ..PublishOptions::new(source) };
    let summary = publish_with(&archive, &cache, options).await.unwrap();
    assert_eq!((summary.paths_published, summary.exit_code()), (6, 0), "{summary}");
    assert_restores(&archive, &cache);
}

#[tokio::test]
async fn a_directory_without_narinfos_is_no_cache() {
    let (cache, archive) = (Cache::new(), TestArchive::new(4, 6));
    let stopped = publish_with(&archive, &cache, PublishOptions::new(cache.source())).await.unwrap_err();
    assert!(stopped.to_string().contains("is it a binary cache?"), "{stopped}");
}
