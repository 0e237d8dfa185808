//! A source of more paths than one plan holds is published as one of few is.

use std::sync::{Arc, Mutex};

use firn_base::ObjectKey;
use firn_client_logic::{PlanWindow, PublishOrder, PublishSummary, Selection};
use firn_nix_format::Compression;

use super::archive::TestArchive;
use super::cache::{Cache, noise, store_path};
use super::pipeline::{add_blobs, assert_restores, key, publish_telling, publish_with};
use crate::events::{PublishEvent, PublishEvents};
use crate::publish_options::{PublishOptions, PublishStop};

// Two paths whose turn it is, and two that they need.
const WINDOW: PlanWindow = PlanWindow { paths: 4, text_bytes: 1 << 20 };

const VERSIONS: u64 = 6;

fn windowed(cache: &Cache) -> PublishOptions {
    PublishOptions { window: WINDOW, ..PublishOptions::new(cache.source()) }
}

/// Versions of two programs, behind a library that comes last by name.
fn history() -> Cache {
    let mut cache = Cache::new();
    for version in 0..VERSIONS {
        let [app, web, library] = ["app", "web", "zlib"].map(|package| format!("{package}-1.{version}"));
        cache.add_path(&library, &noise(20_000, version), Compression::Xz, &[]);
        cache.add_path(&app, &noise(10_000, 100 + version), Compression::None, &[&library, &app]);
        cache.add_path(&web, &noise(15_000, 200 + version), Compression::Zstd, &[&app, &library]);
    }
    cache
}

/// The same with everything that may be wrong with a path or lie beside one.
fn troubled() -> Cache {
    let mut cache = history();
    cache.add_path("lonely-1", b"one", Compression::None, &["elsewhere-1"]);
    let unsigned = cache.entry("unsigned-1", b"nobody", Compression::None, &[]);
    cache.write(&unsigned);
    // What its users need lies in a window of theirs, long before its turn.
    let mut broken = cache.entry("xbroken-1", b"broken", Compression::None, &[]);
    broken.file = b"no such NAR".to_vec();
    cache.add(broken);
    cache.add_path("above-1", b"above", Compression::None, &["xbroken-1"]);
    cache.add_path("top-1", b"top", Compression::None, &["above-1", "zlib-1.0"]);
    let deriver = store_path("thing-1.drv");
    for name in ["thing-1", "thing-1-doc"] {
        let mut entry = cache.entry(name, name.as_bytes(), Compression::None, &[]);
        entry.info.deriver = Some(deriver.clone());
        cache.add(entry);
    }
    std::fs::write(cache.file(&format!("log/{}", deriver.base_name())), "building\n").unwrap();
    add_blobs(&cache);
    cache
}

/// What was planned, what was packed in which order, and how much came together.
#[derive(Default)]
struct Told {
    planned: Vec<PublishEvent>,
    packed: Vec<String>,
    /// Objects of each bundle; each window of these tests makes one.
    committed: Vec<u64>,
}

async fn publish(
    archive: &Arc<TestArchive>,
    cache: &Cache,
    options: PublishOptions,
) -> (PublishSummary, Told) {
    let told = Arc::new(Mutex::new(Told::default()));
    let listener = Arc::clone(&told);
    let events = PublishEvents::new(move |event| match event {
        PublishEvent::Planned { .. } => listener.lock().unwrap().planned.push(event.clone()),
        PublishEvent::Packed { name, .. } => listener.lock().unwrap().packed.push(name.clone()),
        PublishEvent::Committed { objects, .. } => listener.lock().unwrap().committed.push(*objects),
        _ => {}
    });
    let summary = publish_telling(archive, cache, options, events).await.unwrap();
    (summary, std::mem::take(&mut told.lock().unwrap()))
}

/// What has to be the same however many windows there are.
fn account(summary: &PublishSummary) -> PublishSummary {
    PublishSummary {
        payload: Default::default(),
        reused: Default::default(),
        sent: Default::default(),
        bundles: 0,
        ..summary.clone()
    }
}

fn sorted(archive: &TestArchive) -> Vec<ObjectKey> {
    let mut keys = archive.keys();
    keys.sort();
    keys
}

#[tokio::test]
async fn many_windows_publish_tell_and_refuse_what_one_does() {
    let cache = troubled();
    let (one, many) = (TestArchive::new(4, 6), TestArchive::new(4, 6));
    let (expected, expected_told) = publish(&one, &cache, PublishOptions::new(cache.source())).await;
    let (summary, told) = publish(&many, &cache, windowed(&cache)).await;
    assert!(summary.bundles > expected.bundles, "{summary}");
    assert_eq!(account(&summary), account(&expected));
    assert_eq!(told.planned, expected_told.planned, "progress is towards all of it, told once");
    assert_eq!(
        (summary.refused.len(), summary.waiting.len(), summary.externals.len()),
        (2, 2, 1),
        "{summary}"
    );
    assert_eq!((summary.logs_published, summary.debuginfo_published), (1, 1), "{summary}");
    assert_eq!(sorted(&many), sorted(&one));
    assert_restores(&many, &cache);
    assert!(summary.waiting.iter().any(|path| path.name == store_path("top-1").base_name()), "{summary}");

    // Again: what is archived is skipped, what waits waits, what was refused is.
    let (again, _) = publish(&many, &cache, windowed(&cache)).await;
    let (expected, _) = publish(&one, &cache, PublishOptions::new(cache.source())).await;
    assert_eq!(account(&again), account(&expected));
    assert_eq!((again.paths_published, again.paths_skipped), (0, summary.paths_published), "{again}");
}

#[tokio::test]
async fn what_a_path_needs_comes_before_it_from_wherever_its_turn_would_be() {
    let (cache, archive) = (history(), TestArchive::new(4, 6));
    let (summary, told) = publish(&archive, &cache, windowed(&cache)).await;
    assert_eq!((summary.paths_published, summary.paths_skipped), (3 * VERSIONS, 0), "{summary}");
    assert_eq!(summary.exit_code(), 0, "{summary}");
    let place = |name: String| {
        let base_name = store_path(&name).base_name().to_owned();
        told.packed.iter().position(|packed| *packed == base_name).unwrap()
    };
    for version in 0..VERSIONS {
        let [library, app, web] =
            ["zlib", "app", "web"].map(|package| place(format!("{package}-1.{version}")));
        assert!(library < app && app < web, "{:?}", told.packed);
    }
    // Two versions side by side, and their library with them.
    assert_eq!(place("app-1.1".to_owned()).max(place("zlib-1.1".to_owned())), 3, "{:?}", told.packed);
    assert_restores(&archive, &cache);
}

#[tokio::test]
async fn what_needs_more_than_a_window_holds_is_freed_by_a_later_one() {
    let needed: Vec<String> = (0..5).map(|number| format!("zneed-1.{number}")).collect();
    // Beside each other, and each below the one before; and of whose narinfos there is room for few.
    for (in_a_row, text_bytes) in [(false, 1 << 20), (true, 1 << 20), (false, 1_500)] {
        let (mut cache, archive) = (Cache::new(), TestArchive::new(4, 6));
        for (number, name) in needed.iter().enumerate() {
            let below: Vec<&str> =
                needed.get(number + 1).filter(|_| in_a_row).map(String::as_str).into_iter().collect();
            cache.add_path(name, name.as_bytes(), Compression::None, &below);
        }
        let above: Vec<&str> = needed.iter().take(if in_a_row { 1 } else { 5 }).map(String::as_str).collect();
        for name in ["app-1", "app-2"] {
            cache.add_path(name, name.as_bytes(), Compression::None, &above);
        }
        let window = PlanWindow { text_bytes, ..WINDOW };
        let options = PublishOptions { window, ..PublishOptions::new(cache.source()) };
        let (summary, told) = publish(&archive, &cache, options).await;
        assert_eq!((summary.paths_published, summary.exit_code()), (7, 0), "{summary}");
        assert!(summary.waiting.is_empty(), "{summary}");
        assert_eq!((told.packed.len(), told.committed.iter().sum::<u64>()), (7, 7), "each once");
        assert!(told.committed.iter().all(|objects| *objects <= WINDOW.paths), "{:?}", told.committed);
        assert_restores(&archive, &cache);
    }
}

#[tokio::test]
async fn a_class_comes_first_with_all_that_it_needs_whatever_the_windows() {
    let (cache, archive) = (history(), TestArchive::new(4, 6));
    let order = PublishOrder { classes: vec!["recent".parse().unwrap()], ..PublishOrder::default() };
    let options = PublishOptions { order, ..windowed(&cache) };
    let (_, told) = publish(&archive, &cache, options).await;
    let newest = ["zlib-1.5", "app-1.5", "web-1.5"].map(|name| store_path(name).base_name().to_owned());
    assert_eq!(told.packed[..3], newest, "{:?}", told.packed);
    assert_eq!(told.packed.len() as u64, 3 * VERSIONS, "each is packed once: {:?}", told.packed);
}

#[tokio::test]
async fn a_dry_run_of_many_windows_says_what_one_of_one_says() {
    let (cache, archive) = (troubled(), TestArchive::new(4, 6));
    let dry = |options| PublishOptions { dry_run: true, ..options };
    let (expected, expected_told) = publish(&archive, &cache, dry(PublishOptions::new(cache.source()))).await;
    let (summary, told) = publish(&archive, &cache, dry(windowed(&cache))).await;
    assert_eq!(summary, expected);
    assert_eq!(told.planned, expected_told.planned);
    assert_eq!((summary.externals.len(), archive.keys().len()), (1, 0), "{summary}");
}

#[tokio::test]
async fn shares_and_patterns_hold_in_windows() {
    let (cache, archive) = (history(), TestArchive::new(4, 6));
    let mut published = 0;
    for share in ["1/3", "2/3", "3/3"] {
        let selection = Selection { share: Some(share.parse().unwrap()), exclude: vec!["*-1.0".to_owned()] };
        let options = PublishOptions { selection, ..windowed(&cache) };
        let summary = publish_with(&archive, &cache, options).await.unwrap();
        assert_eq!((summary.paths_skipped, summary.externals.len()), (0, 0), "{summary}");
        published += summary.paths_published;
    }
    assert_eq!(published, 3 * (VERSIONS - 1));
    assert!(!archive.keys().contains(&key("zlib-1.0")));
}

#[tokio::test]
async fn named_paths_bring_no_others_along() {
    let (cache, archive) = (history(), TestArchive::new(4, 6));
    let names: Vec<String> = (0..VERSIONS).map(|version| format!("app-1.{version}")).collect();
    let paths: Vec<String> = names.iter().map(|name| store_path(name).to_string()).collect();
    let options = PublishOptions { paths: Some(paths.into()), ..windowed(&cache) };
    let (summary, _) = publish(&archive, &cache, options).await;
    let mut keys: Vec<ObjectKey> = names.iter().map(|name| key(name)).collect();
    keys.sort();
    assert_eq!(sorted(&archive), keys, "a library is needed, and nobody named it");
    assert_eq!((summary.waiting.len() as u64, summary.externals.len()), (VERSIONS, 0), "{summary}");
}

#[tokio::test]
async fn a_path_that_waits_and_whose_narinfo_is_gone_at_the_end_is_told_of() {
    let (mut cache, archive) = (Cache::new(), TestArchive::new(4, 6));
    let names: Vec<String> = (0..VERSIONS).map(|version| format!("app-1.{version}")).collect();
    for name in &names {
        cache.add_path(name, name.as_bytes(), Compression::None, &["broken-1"]);
    }
    // What all of them wait for is no lack of the source, and never archived.
    let broken = cache.entry("broken-1", b"broken", Compression::None, &[]);
    cache.write(&broken);
    let gone = cache.file(&format!("{}.narinfo", store_path("app-1.0").hash_part()));
    let packed = Mutex::new(0);
    let events = PublishEvents::new(move |event| match event {
        PublishEvent::Packed { .. } => *packed.lock().unwrap() += 1,
        // Nothing but what waits is read after that.
        PublishEvent::Committed { .. } if *packed.lock().unwrap() == VERSIONS => {
            std::fs::remove_file(&gone).unwrap();
        }
        _ => {}
    });
    let summary = publish_telling(&archive, &cache, windowed(&cache), events).await.unwrap();
    assert_eq!((summary.paths_published, summary.exit_code()), (VERSIONS, 1), "{summary}");
    assert_eq!(summary.waiting.len() as u64, VERSIONS - 1, "{summary}");
    let name = format!("{}.narinfo", store_path("app-1.0").hash_part());
    let told = summary.refused.iter().find(|path| path.name == name);
    assert!(told.is_some_and(|path| path.reason.contains("is archived")), "{summary}");
}

#[tokio::test]
async fn a_narinfo_that_has_grown_since_it_was_counted_is_refused_and_published_by_the_next_run() {
    let (cache, archive) = (history(), TestArchive::new(4, 6));
    let file = cache.file(&format!("{}.narinfo", store_path("zlib-1.3").hash_part()));
    let grown = format!("{}System: x86_64-linux\n", std::fs::read_to_string(&file).unwrap());
    let events = PublishEvents::new(move |event| {
        // Between the first reading and the second.
        if matches!(event, PublishEvent::Planned { .. }) {
            std::fs::write(&file, &grown).unwrap();
        }
    });
    let first = publish_telling(&archive, &cache, windowed(&cache), events).await.unwrap();
    assert_eq!((first.paths_published, first.exit_code()), (3 * VERSIONS - 1, 1), "{first}");
    let told: Vec<_> =
        first.refused.iter().map(|path| (path.name.clone(), path.reason.contains("has grown"))).collect();
    assert_eq!(told, [(store_path("zlib-1.3").to_string(), true)]);
    let (second, _) = publish(&archive, &cache, windowed(&cache)).await;
    assert_eq!((second.paths_published, second.exit_code()), (1, 0), "{second}");
    assert_restores(&archive, &cache);
}

#[tokio::test]
async fn what_fails_before_its_turn_is_tried_once_more_then_and_counts_as_it_came_out() {
    for is_mended in [false, true] {
        let (mut cache, archive) = (Cache::new(), TestArchive::new(4, 6));
        let mut late = cache.entry("zlate-1", b"late", Compression::None, &[]);
        let file = cache.file(&late.info.url);
        let sound = std::mem::replace(&mut late.file, b"no such NAR".to_vec());
        cache.add(late);
        for version in 0..VERSIONS {
            cache.add_path(
                &format!("app-1.{version}"),
                &noise(10_000, version),
                Compression::None,
                &["zlate-1"],
            );
        }
        let name = store_path("zlate-1").base_name().to_owned();
        let told = Arc::new(Mutex::new(0_u64));
        let listener = Arc::clone(&told);
        let events = PublishEvents::new(move |event| {
            if matches!(event, PublishEvent::Refused { name: refused, .. } if *refused == name) {
                *listener.lock().unwrap() += 1;
                if is_mended {
                    std::fs::write(&file, &sound).unwrap();
                }
            }
        });
        let summary = publish_telling(&archive, &cache, windowed(&cache), events).await.unwrap();
        // With the first path that needs it, and when its turn comes.
        let (tried, published, waiting) =
            if is_mended { (1, VERSIONS + 1, 0) } else { (2, VERSIONS, VERSIONS) };
        assert_eq!(*told.lock().unwrap(), tried, "{summary}");
        assert_eq!(
            (summary.paths_published, summary.waiting.len() as u64),
            (published, waiting),
            "{summary}"
        );
        assert_eq!((summary.refused.is_empty(), summary.is_complete()), (is_mended, is_mended), "{summary}");
        assert_restores(&archive, &cache);
    }
}

#[tokio::test]
async fn a_publish_that_is_stopped_between_windows_goes_on_where_it_was() {
    let (cache, archive) = (history(), TestArchive::new(4, 6));
    let stop = PublishStop::default();
    let asked = stop.clone();
    let events = PublishEvents::new(move |event| {
        if matches!(event, PublishEvent::Committed { .. }) {
            asked.ask();
        }
    });
    let options = PublishOptions { stop, ..windowed(&cache) };
    let first = publish_telling(&archive, &cache, options, events).await.unwrap();
    assert_eq!((first.paths_published, first.bundles), (4, 1), "one window: {first}");
    let (second, _) = publish(&archive, &cache, windowed(&cache)).await;
    assert_eq!((second.paths_skipped, second.paths_published), (4, 3 * VERSIONS - 4), "{second}");
    assert_restores(&archive, &cache);
}

#[tokio::test]
async fn many_files_besides_few_paths_come_in_windows_too_and_links_find_their_paths() {
    let (mut cache, archive) = (Cache::new(), TestArchive::new(4, 6));
    cache.add_path("thing-1", b"thing", Compression::None, &[]);
    let blobs = add_blobs(&cache);
    let window = PlanWindow { paths: 2, ..WINDOW };
    let options = PublishOptions { window, ..PublishOptions::new(cache.source()) };
    let (summary, _) = publish(&archive, &cache, options).await;
    assert_eq!((summary.realisations_published, summary.debuginfo_published), (2, 1), "{summary}");
    assert_eq!((summary.paths_published, summary.exit_code(), summary.bundles), (1, 0, 3), "{summary}");
    for (key, url, contents) in &blobs {
        assert_eq!(archive.restore(*key), contents.as_bytes(), "{url}");
    }
}
