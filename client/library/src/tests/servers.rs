//! Publishing from servers: how often they are asked, and for how much at once. Where they fail, what is
//! lost is time, and never a reference.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use firn_base::ByteCount;
use firn_client_logic::PlanWindow;
use firn_nix_format::Compression;

use super::archive::TestArchive;
use super::cache::{Cache, noise, store_path};
use super::pipeline::{assert_restores, publish_telling, publish_with};
use crate::events::{PublishEvent, PublishEvents};
use crate::publish_options::PublishOptions;
use crate::source::Source;

/// What a server does with a request for this file.
enum Deed {
    Serve,
    Refuse,
    /// It takes the connection and goes.
    Vanish,
}

/// A server of files that does as `deed` says.
fn serve(root: PathBuf, deed: impl Fn(&str) -> Deed + Send + Sync + 'static) -> Source {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let deed = Arc::new(deed);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, root, deed) = (stream.unwrap(), root.clone(), Arc::clone(&deed));
            std::thread::spawn(move || {
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let Some(Ok(request)) = lines.next() else { return };
                while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
                let name = request.split(' ').nth(1).unwrap().trim_start_matches('/');
                let (status, body) = match (deed(name), std::fs::read(root.join(name))) {
                    (Deed::Vanish, _) => return,
                    (Deed::Refuse, _) => ("403 Forbidden", Vec::new()),
                    (Deed::Serve, Ok(body)) => ("200 OK", body),
                    (Deed::Serve, Err(_)) => ("404 Not Found", Vec::new()),
                };
                let length = body.len();
                let head =
                    format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
                let body = if request.starts_with("HEAD") { Vec::new() } else { body };
                let _ = stream.write_all(&[head.into_bytes(), body].concat());
            });
        }
    });
    Source::impatient(&format!("http://{address}"))
}

fn options(source: &Source, names: &[&str]) -> PublishOptions {
    let paths: Vec<String> = names.iter().map(|name| store_path(name).to_string()).collect();
    // One after the other.
    PublishOptions { paths: Some(paths.into()), jobs: 1, ..PublishOptions::new(source.clone()) }
}

#[tokio::test]
async fn a_source_that_goes_away_ends_the_publish_and_running_again_goes_on() {
    const ALL: [&str; 6] = ["libc-2.40", "hello-1.0", "hello-1.1", "data-1", "doc-1", "empty-1"];
    let (cache, archive) = (Cache::sound(), TestArchive::new(4, 6));
    let nars = AtomicUsize::new(0);
    // After the third NAR it answers nothing.
    let source = serve(cache.path().to_owned(), move |name| {
        let count = nars.fetch_add(usize::from(name.starts_with("nar/")), Ordering::SeqCst);
        if count < 3 { Deed::Serve } else { Deed::Vanish }
    });
    let stopped = publish_with(&archive, &cache, options(&source, &ALL)).await.unwrap_err();
    assert!(stopped.to_string().contains("running the same again goes on"), "{stopped}");
    assert_eq!(stopped.summary.paths_published, 3, "what was read is committed");
    let stopped = publish_with(&archive, &cache, options(&source, &ALL)).await.unwrap_err();
    assert_eq!(stopped.summary.paths_read, 0, "it is still away, and that shows at once");
    let source = serve(cache.path().to_owned(), |_| Deed::Serve);
    let summary = publish_with(&archive, &cache, options(&source, &ALL)).await.unwrap();
    assert_eq!((summary.paths_skipped, summary.paths_published, summary.exit_code()), (3, 3, 0), "{summary}");
    assert_restores(&archive, &cache);
}

#[tokio::test]
async fn a_reference_that_a_rate_limiter_keeps_from_us_is_not_external() {
    let (cache, archive) = (Cache::sound(), TestArchive::new(4, 6));
    let libc = store_path("libc-2.40").hash_part().to_owned();
    let limited =
        serve(
            cache.path().to_owned(),
            move |name| {
                if name.starts_with(&libc) { Deed::Refuse } else { Deed::Serve }
            },
        );
    let stopped = publish_with(&archive, &cache, options(&limited, &["hello-1.0"])).await.unwrap_err();
    let sentence = stopped.to_string();
    assert!(sentence.contains("all references") && sentence.contains("403"), "{sentence}");
    assert!(stopped.summary.externals.is_empty() && stopped.summary.paths_published == 0);
    // A bucket that may not be listed says the same of what it lacks indeed.
    std::fs::write(cache.path().join("nix-cache-info"), "StoreDir: /nix/store\n").unwrap();
    let (root, libc) = (cache.path().to_owned(), store_path("libc-2.40").hash_part().to_owned());
    let bucket = serve(root.clone(), move |name| {
        if root.join(name).exists() && !name.starts_with(&libc) { Deed::Serve } else { Deed::Refuse }
    });
    let summary = publish_with(&archive, &cache, options(&bucket, &["hello-1.0"])).await.unwrap();
    let libc = store_path("libc-2.40").base_name().to_owned();
    assert_eq!((summary.paths_published, summary.externals), (1, vec![libc]));
}

#[tokio::test]
async fn what_is_archived_waits_for_a_reference_of_which_the_source_does_not_say_whether_it_is_there() {
    let (cache, archive) = (Cache::sound(), TestArchive::new(4, 6));
    let open = serve(cache.path().to_owned(), |_| Deed::Serve);
    let first = publish_with(&archive, &cache, options(&open, &["hello-1.0"])).await.unwrap();
    assert_eq!((first.paths_published, first.waiting.len()), (1, 1), "{first}");
    let libc = store_path("libc-2.40");
    let hash_part = libc.hash_part().to_owned();
    let limited =
        serve(
            cache.path().to_owned(),
            move |name| {
                if name.starts_with(&hash_part) { Deed::Refuse } else { Deed::Serve }
            },
        );
    let second = publish_with(&archive, &cache, options(&limited, &["hello-1.0"])).await.unwrap();
    let waiting: Vec<Vec<String>> = second.waiting.into_iter().map(|path| path.waiting_for).collect();
    assert_eq!(waiting, [[libc.base_name().to_owned()]]);
}

#[tokio::test]
async fn a_server_is_asked_twice_for_each_narinfo_however_many_windows_there_are() {
    let (mut cache, archive) = (Cache::new(), TestArchive::new(4, 6));
    let names: Vec<String> = ["app", "zlib"]
        .iter()
        .flat_map(|package| (0..4).map(move |version| format!("{package}-1.{version}")))
        .collect();
    for (number, name) in names.iter().enumerate() {
        let needed: Vec<&str> = names.get(number + 4).map(String::as_str).into_iter().collect();
        cache.add_path(name, name.as_bytes(), Compression::None, &needed);
    }
    let asked: Arc<Mutex<BTreeMap<String, u32>>> = Arc::default();
    let counter = Arc::clone(&asked);
    let source = serve(cache.path().to_owned(), move |name| {
        *counter.lock().unwrap().entry(name.to_owned()).or_default() += 1;
        Deed::Serve
    });
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let window = PlanWindow { paths: 4, text_bytes: 1 << 20 };
    let options = PublishOptions { window, ..options(&source, &names) };
    let summary = publish_with(&archive, &cache, options).await.unwrap();
    assert_eq!((summary.paths_published, summary.exit_code()), (8, 0), "{summary}");
    let asked = asked.lock().unwrap();
    for name in names {
        // Libraries come along with what needs them, and their own turn finds them archived.
        let narinfo = format!("{}.narinfo", store_path(name).hash_part());
        assert_eq!(asked.get(&narinfo), Some(&2), "{name}");
    }
}

/// The NARs that a server was asked for.
#[derive(Default)]
struct Nars {
    asked: BTreeSet<String>,
    packed: usize,
    /// How many were asked for and not packed yet, at most.
    most: usize,
}

/// Publishes six NARs with three jobs, from a server that gives none before `together` of them were asked
/// for. Gives how many at most were on their way into a bundle.
async fn most_nars_under_way(together: usize, memory: ByteCount) -> usize {
    const NAMES: [&str; 6] = ["app-1", "app-2", "app-3", "app-4", "app-5", "app-6"];
    let (mut cache, archive) = (Cache::new(), TestArchive::new(4, 6));
    for (name, seed) in NAMES.into_iter().zip(1..) {
        cache.add_path(name, &noise(1 << 20, seed), Compression::None, &[]);
    }
    let nars: Arc<(Mutex<Nars>, Condvar)> = Arc::default();
    let at_server = Arc::clone(&nars);
    let source = serve(cache.path().to_owned(), move |name| {
        if !name.starts_with("nar/") {
            return Deed::Serve;
        }
        let (nars, changed) = &*at_server;
        let mut nars = nars.lock().unwrap();
        nars.asked.insert(name.to_owned());
        nars.most = nars.most.max(nars.asked.len() - nars.packed);
        changed.notify_all();
        // Half of what the client waits for an answer; what is refused then fails the test.
        let patience = Duration::from_secs(30);
        let are_few = |nars: &mut Nars| nars.asked.len() < together;
        let waited = changed.wait_timeout_while(nars, patience, are_few).unwrap().1;
        if waited.timed_out() { Deed::Refuse } else { Deed::Serve }
    });
    let at_packer = Arc::clone(&nars);
    let events = PublishEvents::new(move |event| {
        if matches!(event, PublishEvent::Packed { .. }) {
            at_packer.0.lock().unwrap().packed += 1;
        }
    });
    let options = PublishOptions { jobs: 3, memory, ..options(&source, &NAMES) };
    let summary = publish_telling(&archive, &cache, options, events).await.unwrap();
    assert_eq!((summary.paths_published, summary.exit_code()), (6, 0), "{summary}");
    nars.0.lock().unwrap().most
}

#[tokio::test]
async fn as_many_nars_are_asked_for_at_once_as_there_are_jobs() {
    assert_eq!(most_nars_under_way(3, ByteCount(64 << 20)).await, 3);
}

#[tokio::test]
async fn a_nar_that_has_no_room_in_memory_is_not_asked_for_before_the_last_one_was_packed() {
    // Less than any NAR takes: one is read all the same.
    assert_eq!(most_nars_under_way(1, ByteCount(1)).await, 1);
}
