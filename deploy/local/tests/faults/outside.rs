//! Those outside the coordinators, on a host of their own: storage nodes, publishers of bundles, and the observer of feeds.
//!
//! Always holds: a publisher that ends with success was told that its path is archived; every path is published once.
//! Leaves to others: what is judged (`history`).

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use firn_base::ObjectKey;

use crate::OUTSIDE;
use crate::history::{Answer, History, Shown, Write};
use crate::members::Founded;
use crate::network::{Host, address};
use crate::observer;
use crate::support::cache::{Cache, noise, store_path};
use crate::support::{Running, finish, program, quietly, run, wait_for};

const NODES: usize = 3;
const PUBLISHERS: usize = 2;
const NODE_PORT: usize = 7000;

/// Once nothing is wrong any more a publisher is through long before.
const LAST_WITHIN: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// They at work.
pub(crate) struct Outside {
    host: Host,
    home: PathBuf,
    descriptor: PathBuf,
    place: PathBuf,
    nodes: Vec<Running>,
    observer: Running,
    shared: Arc<Shared>,
    publishers: Vec<JoinHandle<()>>,
}

struct Shared {
    stop: AtomicBool,
    began: Instant,
    writes: Mutex<Vec<Write>>,
}

/// What they were told.
pub(crate) struct Bundles {
    /// Publishes, and reads of feeds.
    pub(crate) history: History,
    /// The feed of each coordinator in the end.
    pub(crate) feeds: Vec<Vec<[u8; 32]>>,
    /// What each said of presence.
    pub(crate) shown: Vec<Shown>,
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are plain")
}

fn uploader_key(home: &Path) -> PathBuf {
    home.join("uploader.key")
}

/// Lets storage nodes, an uploader and a publisher into an archive whose coordinators run, and gives the nodes' directories.
pub(crate) fn admit(founded: &Founded<'_>, host: &Host) -> Vec<PathBuf> {
    let home = founded.home();
    founded.administer(&["publisher", "add", &Cache::new(home.join("publisher")).publisher()]);
    let uploader = run(home, "firn", ["key", "generate", text(&uploader_key(home))]).success();
    founded.administer(&["uploader", "add", uploader.trim(), "--name", "test"]);
    let directories: Vec<PathBuf> = (0..NODES).map(|node| home.join(format!("n{node}"))).collect();
    let mut nodes = Vec::new();
    for (node, directory) in directories.iter().enumerate() {
        let token = founded.administer(&["token", "create", "--operator", "test"]);
        std::fs::write(home.join(format!("token-{node}")), token).unwrap();
        let log = home.join(format!("n{node}.log"));
        nodes.push(start_node(host, home, &founded.descriptor(), node, directory, &log));
    }
    let mut status = host.command(&program("firn"), home);
    status.arg("--archive").arg(founded.descriptor()).args(["status", "--until-nodes", &NODES.to_string()]);
    finish(status.args(["--timeout", "120s"])).success();
    for node in nodes {
        assert_eq!(node.terminate(), Some(0));
    }
    directories
}

fn start_node(
    host: &Host,
    home: &Path,
    descriptor: &Path,
    node: usize,
    directory: &Path,
    log: &Path,
) -> Running {
    let mut command = host.command(&program("firn-storage-node"), home);
    command.arg("--data-dir").arg(directory).arg("--archive").arg(descriptor);
    command.args(["--listen", &format!("{}:{}", address(OUTSIDE), NODE_PORT + node), "--quota", "100MB"]);
    command.args(["--failure-domain", &format!("shelf-{node}")]);
    command.arg("--token-file").arg(home.join(format!("token-{node}")));
    Running::start(&mut command, log)
}

impl Outside {
    /// Starts them on copies of what was founded.
    pub(crate) fn start(founded: &Founded<'_>, host: Host, place: &Path, seed: u64) -> Self {
        let place = place.join(format!("outside-{seed}"));
        std::fs::create_dir(&place).unwrap();
        let (home, descriptor) = (founded.home().to_owned(), founded.descriptor());
        let mut nodes = Vec::new();
        for (node, from) in founded.nodes().iter().enumerate() {
            let (to, log) = (place.join(format!("n{node}")), place.join(format!("n{node}.log")));
            assert!(quietly("cp", &["--recursive".as_ref(), from, &to]));
            nodes.push(start_node(&host, &home, &descriptor, node, &to, &log));
        }
        let mut command = observer::command(&host, &home, &descriptor, &notes(&place));
        let observer = Running::start(&mut command, &place.join("observer.log"));
        let (stop, writes) = (AtomicBool::new(false), Mutex::default());
        let shared = Arc::new(Shared { stop, began: Instant::now(), writes });
        let publishers = (0..PUBLISHERS).map(|publisher| {
            let (shared, host, home) = (Arc::clone(&shared), host.clone(), home.clone());
            let (descriptor, place) = (descriptor.clone(), place.clone());
            std::thread::spawn(move || {
                for number in 0.. {
                    if shared.stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let name = format!("{publisher}-{number}");
                    shared.publish(&host, &home, &descriptor, &place, &name);
                }
            })
        });
        let publishers = publishers.collect();
        Self { host, home, descriptor, place, nodes, observer, shared, publishers }
    }

    /// Paths so far whose publishers were told that they are archived.
    pub(crate) fn published(&self) -> usize {
        let writes = self.shared.writes.lock().unwrap();
        writes.iter().filter(|write| write.answer == Answer::Acknowledged).count()
    }

    /// Lets them end once every coordinator of `coordinators` has shown the same feed, and gives what they were told.
    pub(crate) fn end(mut self, coordinators: usize) -> Bundles {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.publishers.drain(..).for_each(|publisher| publisher.join().unwrap());
        // Everything that is archived can be read.
        let mut verify = self.host.command(&program("firn"), &self.home);
        finish(verify.arg("--archive").arg(&self.descriptor).args(["verify", "--all"])).success();
        let before = observer::read(&notes(&self.place)).0.len();
        let feeds = wait_for("all coordinators show the same feed", || {
            self.observer.assert_alive();
            let reads = observer::read(&notes(&self.place)).0;
            let mut feeds = vec![Vec::new(); coordinators];
            for read in &reads {
                let feed: &mut Vec<[u8; 32]> = &mut feeds[read.replica];
                feed.truncate(read.from);
                feed.extend(&read.entries);
            }
            let has_said = |replica| reads[before..].iter().any(|read| read.replica == replica);
            let all = (0..coordinators).all(has_said);
            (all && feeds.iter().all(|feed| feed.len() == feeds[0].len())).then_some(feeds)
        });
        self.observer.kill();
        let (reads, shown) = observer::read(&notes(&self.place));
        for mut node in self.nodes {
            node.assert_alive();
            assert_eq!(node.terminate(), Some(0));
        }
        let writes = std::mem::take(&mut *self.shared.writes.lock().unwrap());
        std::fs::remove_dir_all(&self.place).unwrap();
        Bundles { history: History { writes, reads, ..History::default() }, feeds, shown }
    }
}

fn notes(place: &Path) -> PathBuf {
    place.join("notes")
}

impl Shared {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap()
    }

    /// Has a path published that nobody has published before, and notes what its publisher was told.
    fn publish(&self, host: &Host, home: &Path, descriptor: &Path, place: &Path, name: &str) {
        let cache = Cache::new(place.join(name));
        cache.add(cache.entry(
            name,
            &noise(20_000, u64::from_le_bytes(*store_path(name).hash().first_chunk().unwrap())),
        ));
        let mut command = host.command(&program("firn"), home);
        command.arg("--archive").arg(descriptor).arg("publish").arg(cache.path());
        command.arg("--uploader-key").arg(uploader_key(home)).stdout(Stdio::null());
        let asked = self.now();
        let mut running = Running::start(&mut command, &place.join("publish.log"));
        let mut stopped: Option<Instant> = None;
        let answer = loop {
            if let Some(status) = running.ended() {
                break if status.success() { Answer::Acknowledged } else { Answer::Unknown };
            }
            if self.stop.load(Ordering::Relaxed)
                && stopped.get_or_insert_with(Instant::now).elapsed() > LAST_WITHIN
            {
                break Answer::Unknown;
            }
            std::thread::sleep(LOOK_EVERY);
        };
        let key = observer::history_key(&ObjectKey::store_path(*store_path(name).hash()));
        self.writes.lock().unwrap().push(Write { key, asked, answered: self.now(), answer });
    }
}
