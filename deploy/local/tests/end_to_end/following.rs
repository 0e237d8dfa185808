//! `firn publish --watch` follows a source behind a URL: what comes to it becomes visible, the lag says so, and SIGTERM in the
//! middle of a download leaves nothing half done. `--dry-run` says beforehand what it would come to.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};

use crate::support::cache::{Cache, noise, store_path};
use crate::support::fetch::{assert_served, get, path_infos, try_get};
use crate::support::local::Local;
use crate::support::{Running, command, signal_process, tcp_port, wait_for};

/// A server of files that stops in the middle of one of them until it is told to go on.
struct Gate {
    url: String,
    held: Mutex<Held>,
    changed: Condvar,
}

#[derive(Default)]
struct Held {
    /// What comes by halves.
    file: Option<String>,
    /// Its first half was sent.
    is_waiting: bool,
}

impl Gate {
    fn serve(root: PathBuf) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let gate = Arc::new(Self { url, held: Mutex::default(), changed: Condvar::new() });
        let serving = Arc::clone(&gate);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (gate, root) = (Arc::clone(&serving), root.clone());
                // Whoever goes away needs no answer.
                std::thread::spawn(move || drop(gate.answer(stream, &root)));
            }
        });
        gate
    }

    fn answer(&self, mut stream: TcpStream, root: &Path) -> std::io::Result<()> {
        let mut request = Vec::new();
        let mut piece = [0; 1024];
        while !request.ends_with(b"\r\n\r\n") {
            match stream.read(&mut piece)? {
                0 => return Ok(()),
                count => request.extend_from_slice(&piece[..count]),
            }
        }
        let request = String::from_utf8_lossy(&request).into_owned();
        let name = request.split(' ').nth(1).unwrap_or("/").trim_start_matches('/');
        let (status, body) = match std::fs::read(root.join(name)) {
            Ok(body) => ("200 OK", body),
            Err(_) => ("404 Not Found", Vec::new()),
        };
        let length = body.len();
        write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")?;
        if request.starts_with("HEAD") {
            return Ok(());
        }
        let (first, second) = body.split_at(length / 2);
        stream.write_all(first)?;
        stream.flush()?;
        let mut held = self.held.lock().unwrap();
        if held.file.as_deref() == Some(name) {
            held.is_waiting = true;
            self.changed.notify_all();
            while held.file.is_some() {
                held = self.changed.wait(held).unwrap();
            }
        }
        drop(held);
        stream.write_all(second)
    }

    fn hold(&self, file: &str) {
        self.held.lock().unwrap().file = Some(file.to_owned());
    }

    fn is_waiting(&self) -> bool {
        self.held.lock().unwrap().is_waiting
    }

    fn go_on(&self) {
        self.held.lock().unwrap().file = None;
        self.changed.notify_all();
    }
}

/// A figure of the metrics at `url`, once they are there.
fn figure(url: &str, name: &str) -> Option<u64> {
    let page = String::from_utf8(try_get(url).ok()?.body).unwrap();
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Some(line.unwrap_or_else(|| panic!("{name} is missing in {page}")).parse().unwrap())
}

fn is_visible(local: &Local, name: &str) -> bool {
    let hash = store_path(name).hash_part().to_owned();
    get(&format!("{}/{hash}.narinfo", local.url)).status == 200
}

#[test]
fn what_comes_to_a_followed_source_becomes_visible_and_sigterm_leaves_nothing_half_done() {
    let place = tempfile::tempdir().unwrap();
    let cache = Cache::new(place.path().join("cache"));
    let key = cache.publisher();
    let local = Local::up(&["--coordinators", "1", "--storage-nodes", "6", "--publisher", &key]);
    let source = Gate::serve(cache.path().to_owned());
    let list = place.path().join("paths");
    let write_list = |names: &[&str]| {
        let lines: String = names.iter().map(|name| format!("{}\n", store_path(name))).collect();
        std::fs::write(place.path().join("new"), lines).unwrap();
        std::fs::rename(place.path().join("new"), &list).unwrap();
    };
    cache.add(cache.entry("first-1", &noise(300_000, 1)));
    // The second one is not there yet.
    write_list(&["first-1", "second-1"]);

    let address = format!("127.0.0.1:{}", tcp_port());
    let metrics = format!("http://{address}/metrics");
    let mut program = command("firn", local.home());
    program.arg("--config").arg(local.dir().join("firn.toml"));
    program.args(["publish", &source.url, "--watch", "1s", "--http", &address]);
    program.arg("--paths").arg(&list);
    let mut following = Running::start(&mut program, &place.path().join("log"));

    wait_for("the first path is visible", || is_visible(&local, "first-1").then_some(()));
    assert!(!is_visible(&local, "second-1"));
    let behind = wait_for("what is missing lets the lag grow", || {
        figure(&metrics, "firn_publish_lag_seconds").filter(|lag| *lag >= 3)
    });
    assert_eq!(figure(&metrics, "firn_publish_rounds_total{outcome=\"complete\"}"), Some(0));
    assert_eq!(figure(&metrics, "firn_publish_refused"), Some(1));

    cache.add(cache.entry("second-1", &noise(200_000, 2)));
    wait_for("the second path is visible", || is_visible(&local, "second-1").then_some(()));
    wait_for("the lag falls", || figure(&metrics, "firn_publish_lag_seconds").filter(|lag| *lag < behind));
    assert_eq!(figure(&metrics, "firn_publish_paths_total"), Some(2));
    assert_eq!(figure(&metrics, "firn_publish_refused"), Some(0));

    // The third one is on its way when the signal comes.
    let third = cache.entry("third-1", &noise(400_000, 3));
    source.hold(&third.info.url);
    cache.add(third);
    write_list(&["first-1", "second-1", "third-1"]);
    wait_for("the third path is being read", || source.is_waiting().then_some(()));
    signal_process(following.id(), "-TERM");
    following.says("stopping when the bundles under way are committed");
    assert_eq!(following.ended(), None, "what was begun is not left");
    source.go_on();
    let status = wait_for("it ends", || following.ended());
    assert_eq!(status.code(), Some(0), "{}", following.messages());
    wait_for("what was begun is visible", || is_visible(&local, "third-1").then_some(()));
    assert_served(&local.url, &path_infos(cache.path()), &key);
    let status = local.json(&["status"]);
    assert_eq!(status["visible_keys"], 3, "{status}");
    assert_eq!(status["held_keys"], 0, "{status}");
    local.firn(&["verify", "--all"]).success();
    let again = local.json(&["publish", cache.path().to_str().unwrap()]);
    assert_eq!(again["paths_published"], 0, "{again}");
    assert_eq!(again["paths_skipped"], 3, "{again}");
}

#[test]
fn a_dry_run_into_an_empty_archive_estimates_by_what_was_measured_elsewhere_and_says_so() {
    let place = tempfile::tempdir().unwrap();
    let cache = Cache::new(place.path().join("cache"));
    let key = cache.publisher();
    let local = Local::up(&["--coordinators", "1", "--storage-nodes", "6", "--publisher", &key]);
    let mut file_bytes = 0;
    for number in 0..3 {
        let mut entry = cache.entry(&format!("path-{number}"), &noise(500_000, number));
        file_bytes += entry.file.as_ref().unwrap().len() as u64;
        entry.info.file_size = Some(entry.file.as_ref().unwrap().len() as u64);
        cache.add(entry);
    }
    let source = cache.path().to_str().unwrap();
    let dry = local.json(&["publish", source, "--dry-run"]);
    assert_eq!(dry["paths_published"], 3, "{dry}");
    assert_eq!(dry["source"], file_bytes, "{dry}");
    assert_eq!(dry["estimated_by"], "measurements", "{dry}");
    // Six nodes: 4/6.
    let estimate = dry["estimated_upload"].as_u64().unwrap();
    assert!(estimate > 0 && estimate <= file_bytes * 124 / 100 * 6 / 4 + 3, "{dry}");
    let said = local.firn(&["publish", source, "--dry-run"]).success();
    assert!(said.contains("4/6") && said.contains("assum"), "{said}");
    assert_eq!(local.json(&["status"])["bundles"], 0, "nothing was sent");

    local.firn(&["publish", source]).success();
    cache.add(cache.entry("path-3", &noise(500_000, 3)));
    let dry = local.json(&["publish", source, "--dry-run"]);
    assert_eq!(dry["estimated_by"], "archive", "{dry}");
    assert_eq!(dry["paths_published"], 1, "{dry}");
    assert!(dry["estimated_upload"].as_u64().unwrap() > 0, "{dry}");
}
