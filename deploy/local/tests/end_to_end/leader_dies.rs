//! The leader is killed again and again, on real disks, while readers and writers never pause: no read fails or waits long,
//! and writes are taken again.
//!
//! `FIRN_TEST_LEADER_KILLS` says how often (default 3); with `--nocapture` each kill's figures are printed.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support::cache::{Cache, noise, store_path};
use crate::support::fetch::{path_infos, try_get};
use crate::support::fleet::{COORDINATORS, Fleet, text};
use crate::support::reading::EndsWhenDropped;
use crate::support::{Running, wait_for};
use firn_base::{ObjectKey, PublicKey};
use firn_coordinator::{ask_control, ask_ledger};
use firn_nix_format::{PathInfo, Sha256};
use firn_transport::{ConnectionPool, CoordinatorClient, Endpoint, EndpointOptions, Environment};
use firn_wire::{AdminReply, AdminRequest, Descriptor, Identity, LedgerAct};
use serde_json::Value;
use tokio::time::timeout;

/// Each is read once from each gateway, and there is one for each kill: as many as are read in 20 seconds.
const PATHS: u64 = 2_000;
const PAUSE: Duration = Duration::from_millis(10);

/// Who reads narinfos alone, and who reads NARs behind them: one takes longer, for nothing of it is remembered.
const NARINFO_READERS: usize = 1;
const NAR_READERS: usize = 4;

/// A reader turns from a coordinator that is silent after 0.7 s; what it was to wait for the answer is 5 s. Between the two
/// lies what a machine that is busy with other tests may take.
const READ_MAX: Duration = Duration::from_secs(4);
/// An election takes two seconds on a machine of its own; without one nobody ever writes again.
const WRITES_BACK_MAX: Duration = Duration::from_secs(15);

/// Readers and writers go on for so long before and after.
const CALM: Duration = Duration::from_secs(1);

/// Writers: one for each coordinator's socket to begin with, so that one of them finds the new leader soon.
const WRITE_PAUSE: Duration = Duration::from_millis(100);
/// Longer than an act takes that is forwarded and synced by a slow disk, beside other tests: given up before, none is ever
/// acknowledged.
const WRITE_PATIENCE: Duration = Duration::from_secs(5);

/// What readers of one kind were told.
#[derive(Default)]
struct Reads {
    took: Mutex<Vec<(Instant, Duration)>>,
    failed: Mutex<Vec<String>>,
}

impl Reads {
    /// One read: its error is why it failed.
    fn note(&self, began: Instant, read: Result<(), String>) {
        let took = began.elapsed();
        self.took.lock().unwrap().push((began, took));
        if let Err(why) = read {
            self.failed.lock().unwrap().push(format!("after {:.1} s: {why}", took.as_secs_f64()));
        }
    }

    /// How many began since then, and how long the longest of them took.
    fn since(&self, then: Instant) -> (usize, Duration) {
        let all = self.took.lock().unwrap();
        let since = all.iter().filter(|(began, _)| *began >= then).map(|(_, took)| *took);
        (since.clone().count(), since.max().unwrap_or_default())
    }
}

/// The gateway that is read from, and how many paths it was asked for: it has read none of those behind.
struct Gateway {
    url: String,
    next: usize,
}

/// An act that was acknowledged.
struct Write {
    key: PublicKey,
    asked: Instant,
    answered: Instant,
}

struct World {
    stop: AtomicBool,
    gateway: Mutex<Gateway>,
    paths: Vec<(String, PathInfo)>,
    absent: AtomicU64,
    narinfos: Reads,
    nars: Reads,
    misses: Reads,
    presence: Reads,
    written: Mutex<Vec<Write>>,
    tried: AtomicUsize,
}

fn fetch(url: &str, status: u16) -> Result<Vec<u8>, String> {
    let answer = try_get(url).map_err(|error| format!("{url}: {error}"))?;
    let said = || format!("{url}: {} {}", answer.status, String::from_utf8_lossy(&answer.body));
    if answer.status == status { Ok(answer.body) } else { Err(said()) }
}

fn check(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}

/// A key that was never archived.
fn absent_key(number: u64) -> firn_nix_format::StorePath {
    store_path(&format!("absent-{number}"))
}

impl World {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Acquire)
    }

    /// Narinfos, each for the first time.
    fn read_narinfos(&self) {
        while self.goes_on() {
            drop(self.read_narinfo());
            sleep(PAUSE);
        }
    }

    /// Narinfos and their NARs, each for the first time.
    fn read_nars(&self) {
        while self.goes_on() {
            if let Some((nar, published)) = self.read_narinfo() {
                let began = Instant::now();
                let whole = |body: Vec<u8>| {
                    check(Sha256::of(&body) == published.nar_hash, || format!("{nar} has other bytes"))
                };
                self.nars.note(began, fetch(&nar, 200).and_then(whole));
            }
            sleep(PAUSE);
        }
    }

    /// One narinfo, and the URL of its NAR.
    fn read_narinfo(&self) -> Option<(String, &PathInfo)> {
        let (url, next) = {
            let mut gateway = self.gateway.lock().unwrap();
            gateway.next += 1;
            (gateway.url.clone(), gateway.next - 1)
        };
        let (hash_part, published) = &self.paths[next % self.paths.len()];
        let began = Instant::now();
        let narinfo = fetch(&format!("{url}/{hash_part}.narinfo"), 200).and_then(|body| {
            let served = PathInfo::parse(&body).map_err(|error| format!("{hash_part}: {error}"))?;
            check(served.fingerprint() == published.fingerprint(), || format!("{hash_part} is another"))?;
            Ok(format!("{url}/{}", served.url))
        });
        let nar = narinfo.as_ref().ok().cloned();
        self.narinfos.note(began, narinfo.map(drop));
        nar.map(|nar| (nar, published))
    }

    /// Paths that are not archived, each for the first time: no filter is kept, so coordinators are asked.
    fn read_misses(&self) {
        while self.goes_on() {
            let path = absent_key(self.absent.fetch_add(1, Ordering::Relaxed));
            let url = self.gateway.lock().unwrap().url.clone();
            let began = Instant::now();
            let read = fetch(&format!("{url}/{}.narinfo", path.hash_part()), 404);
            self.misses.note(began, read.map(drop));
            sleep(PAUSE);
        }
    }

    /// Presence of a path and absence of another, as publishers ask.
    async fn ask_presence(&self, client: &CoordinatorClient) {
        for number in 0_u64.. {
            if !self.goes_on() {
                return;
            }
            let (_, published) = &self.paths[usize::try_from(number % PATHS).unwrap()];
            let keys = [*published.store_path.hash(), *absent_key(number).hash()].map(ObjectKey::store_path);
            let began = Instant::now();
            let read = client.presence(&keys).await.map_err(|error| error.to_string());
            let right = |told: Vec<bool>| check(told == [true, false], || format!("presence is {told:?}"));
            self.presence.note(began, read.and_then(right));
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Adds uploaders by a coordinator's socket, by the next one's when it does not answer.
    async fn write(&self, directories: &[PathBuf], writer: usize) {
        let mut target = writer;
        while self.goes_on() {
            let number = self.tried.fetch_add(1, Ordering::Relaxed);
            let mut key = [0xfa; 32];
            key[..8].copy_from_slice(&u64::try_from(number).unwrap().to_be_bytes());
            let key = PublicKey::from_bytes(key);
            let act = LedgerAct::AddUploader { key, name: "load".to_owned() };
            let asked = Instant::now();
            let directory = &directories[target % directories.len()];
            let answer = timeout(WRITE_PATIENCE, ask_control(directory, &AdminRequest::Govern(act))).await;
            match answer {
                Ok(Ok(AdminReply::Done)) => {
                    let answered = Instant::now();
                    self.written.lock().unwrap().push(Write { key, asked, answered });
                }
                _ => target += 1,
            }
            tokio::time::sleep(WRITE_PAUSE).await;
        }
    }

    /// How long after `then` the first act was done that was asked for since.
    fn writes_back(&self, then: Instant) -> Option<Duration> {
        let written = self.written.lock().unwrap();
        let since = written.iter().filter(|write| write.asked > then);
        since.map(|write| write.answered - then).min()
    }

    fn kinds(&self) -> [(&'static str, &Reads); 4] {
        [
            ("narinfo", &self.narinfos),
            ("NAR", &self.nars),
            ("miss", &self.misses),
            ("presence", &self.presence),
        ]
    }
}

/// A gateway that keeps nothing but what its narinfos say, and asks coordinators for each key.
fn start_gateway(fleet: &Fleet, number: usize) -> (Running, Gateway) {
    // An archived path that it cannot tell of would be a miss else.
    let flags = ["--filter", "none", "--memory-cache", "0", "--when-unreadable", "retry"];
    let (running, url) = fleet.start_gateway_with(&format!("gateway-{number}"), &flags);
    (running, Gateway { url, next: 0 })
}

/// Publishes paths that no other test has.
fn publish(fleet: &Fleet) -> BTreeMap<String, PathInfo> {
    let cache = Cache::new(fleet.home().join("source"));
    for number in 0..PATHS {
        cache.add(cache.entry(&format!("path-{number}"), &noise(2_000, number)));
    }
    fleet.administer(0, &["publisher", "add", &cache.publisher()]).success();
    let key = fleet.uploader_key();
    fleet.firn(&["publish", text(cache.path()), "--uploader-key", text(&key)]).success();
    path_infos(cache.path())
}

fn member_list(fleet: &Fleet, by: usize) -> Option<Vec<Value>> {
    let listed = fleet.administer(by, &["member", "list", "--json"]);
    let lines = listed.stdout.lines().map(|line| serde_json::from_str(line).ok());
    lines.collect::<Option<Vec<Value>>>().filter(|_| listed.code == Some(0))
}

/// Who leads and since which term, once every coordinator is there and none lags: one that comes back takes itself for the
/// leader of its last term until it hears of the next one.
fn settled(fleet: &Fleet, behind: u64) -> (usize, u64) {
    wait_for("all coordinators are there", || {
        let members = member_list(fleet, 0)?;
        let there = |member: &&Value| {
            member["online"] == true && member["lag"].as_u64().is_some_and(|entries| entries < 100)
        };
        let leader = members.iter().find(|member| member["role"] == "leader")?;
        let number = fleet.ids.iter().position(|id| leader["id"] == id.as_str())?;
        let term = leader["term"].as_u64()?;
        (term > behind && members.iter().filter(there).count() == COORDINATORS).then_some((number, term))
    })
}

/// Gives the gateways that may still be read from.
fn kill_leaders(fleet: &mut Fleet, world: &World, kills: usize) -> Vec<Running> {
    let mut gateways = Vec::new();
    for kill in 1..=kills {
        // Readers go over to one that has read nothing; those who still ask the one before get their answers.
        let (running, gateway) = start_gateway(fleet, kill);
        gateways.push(running);
        *world.gateway.lock().unwrap() = gateway;
        if gateways.len() > 2 {
            assert_eq!(gateways.remove(0).terminate(), Some(0));
        }
        let (leader, term) = settled(fleet, 0);
        let begun = Instant::now();
        sleep(CALM);
        let killed = Instant::now();
        fleet.coordinators[leader].take().unwrap().kill();
        let back = wait_for("writes are taken again", || world.writes_back(killed));
        sleep(CALM);
        fleet.coordinators[leader] = Some(fleet.start_coordinator(leader, false));
        let after = settled(fleet, term);
        let figures = world.kinds().map(|(kind, reads)| {
            let (count, longest) = reads.since(begun);
            format!("{count} of {kind} (longest {:.2} s)", longest.as_secs_f64())
        });
        println!(
            "kill {kill}: coordinator {leader} in term {term}, then {} in term {}: writes again after {:.2} s; {}",
            after.0,
            after.1,
            back.as_secs_f64(),
            figures.join(", ")
        );
        assert!(back < WRITES_BACK_MAX, "writes came back after {back:?}");
    }
    gateways
}

/// Every act that was acknowledged is in every coordinator's ledger.
fn assert_nothing_lost(fleet: &Fleet, written: &[Write]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for number in 0..COORDINATORS {
        wait_for("a coordinator has all that was acknowledged", || {
            let ledger = runtime.block_on(ask_ledger(&fleet.coordinator(number))).ok()?;
            let added = |act: &LedgerAct| match act {
                LedgerAct::AddUploader { key, .. } => Some(*key.as_bytes()),
                _ => None,
            };
            let there: std::collections::BTreeSet<_> =
                ledger.iter().filter_map(|entry| added(&entry.act)).collect();
            written.iter().all(|write| there.contains(write.key.as_bytes())).then_some(())
        });
    }
}

#[test]
fn no_read_fails_or_waits_long_while_leaders_die_and_writes_come_back() {
    let kills = std::env::var("FIRN_TEST_LEADER_KILLS").map_or(3, |kills| kills.parse().unwrap());
    let mut fleet = Fleet::new();
    let paths = publish(&fleet);
    let (_first, gateway) = start_gateway(&fleet, 0);
    let world = World {
        stop: AtomicBool::new(false),
        gateway: Mutex::new(gateway),
        paths: paths.into_iter().collect(),
        absent: AtomicU64::new(0),
        narinfos: Reads::default(),
        nars: Reads::default(),
        misses: Reads::default(),
        presence: Reads::default(),
        written: Mutex::default(),
        tried: AtomicUsize::new(0),
    };
    let descriptor = std::fs::read_to_string(fleet.coordinator(0).join("archive.firn")).unwrap();
    let roster = descriptor.parse::<Descriptor>().unwrap().verify().unwrap();
    let directories: Vec<PathBuf> = (0..COORDINATORS).map(|number| fleet.coordinator(number)).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let world = Arc::new(world);
    let mut tasks = Vec::new();
    for writer in 0..COORDINATORS {
        let (world, directories) = (Arc::clone(&world), directories.clone());
        tasks.push(runtime.spawn(async move { world.write(&directories, writer).await }));
    }
    let asking = Arc::clone(&world);
    tasks.push(runtime.spawn(async move {
        let identity = Identity::from_seed(&[77; 32]);
        let (anywhere, options) = ((Ipv4Addr::LOCALHOST, 0).into(), EndpointOptions::default());
        let endpoint = Endpoint::bind(&Environment::real(), &identity, anywhere, options).await.unwrap();
        asking.ask_presence(&CoordinatorClient::new(ConnectionPool::new(endpoint), roster)).await;
    }));
    std::thread::scope(|scope| {
        let narinfos = std::iter::repeat_n(World::read_narinfos as fn(&World), NARINFO_READERS);
        let nars = std::iter::repeat_n(World::read_nars as fn(&World), NAR_READERS);
        let readers: Vec<_> = narinfos
            .chain(nars)
            .chain([World::read_misses as fn(&World)])
            .map(|read| {
                let world = &world;
                scope.spawn(move || read(world))
            })
            .collect();
        // Else readers would go on for ever behind a test that has failed.
        let stop = EndsWhenDropped(&world.stop);
        let gateways = kill_leaders(&mut fleet, &world, kills);
        drop(stop);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
        drop(gateways);
    });
    for task in tasks {
        runtime.block_on(task).unwrap();
    }
    let written = std::mem::take(&mut *world.written.lock().unwrap());
    println!("{kills} kills, {} acts acknowledged", written.len());
    assert_nothing_lost(&fleet, &written);
    for (kind, reads) in world.kinds() {
        let took = reads.took.lock().unwrap();
        let longest = took.iter().map(|(_, took)| *took).max().unwrap_or_default();
        println!("{kind}: {} reads, the longest {:.2} s", took.len(), longest.as_secs_f64());
        assert_eq!(*reads.failed.lock().unwrap(), [""; 0], "{kind}");
        assert!(took.len() > 10 * kills, "{} reads of {kind} say little", took.len());
        assert!(longest < READ_MAX, "a {kind} took {longest:?}");
    }
    for program in fleet.nodes.iter_mut().chain(&mut fleet.coordinators) {
        program.as_mut().unwrap().assert_alive();
    }
}
