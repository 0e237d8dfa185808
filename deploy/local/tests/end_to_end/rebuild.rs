//! Every coordinator's disk is lost: nodes, the archive key and an old descriptor bring the archive back, a liar's forged
//! ledger and certificates notwithstanding; the same from an old backup; with nodes that come late; and with a new coordinator
//! that is down while nodes are away, one of them since before a purge.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::support::cache::{Cache, noise, store_path};
use crate::support::fetch::{assert_served, get, path_infos};
use crate::support::fleet::{Fleet, NODES, text};
use crate::support::{
    Ended, Running, command, demo_cache, demo_key, finish, run, tcp_port, udp_ports, wait_for,
};
use firn_nix_format::PathInfo;
use firn_transport::{VerifiedLedger, load_identity};
use firn_wire::{Certificate, Identity, LedgerAct, LedgerHead, Signed, decode, encode};
use serde_json::Value;

/// The coordinators of after: one that began, and one that was started with --peer alone.
struct Begun {
    fleet: Fleet,
    first: PathBuf,
    url: String,
    programs: Vec<Running>,
    members: Vec<String>,
    http: String,
}

fn administer(home: &Path, directory: &Path, arguments: &[&str]) -> Ended {
    finish(command("firn-coordinator", home).args(arguments).arg("--data-dir").arg(directory))
}

fn digests(home: &Path, directory: &Path) -> (Value, Value) {
    let printed = administer(home, directory, &["digest", "--json"]).success();
    let mut digests: Value = serde_json::from_str(&printed).unwrap();
    (digests["content"].take(), digests["governance"].take())
}

/// Waits until each of these nodes has certificates of all codings of which it holds shards, and the whole ledger.
fn until_nodes_know(fleet: &Fleet, nodes: impl IntoIterator<Item = usize>) {
    let log = fleet.administer(0, &["log", "--json"]).success();
    let entries = log.lines().count();
    for number in nodes {
        let directory = fleet.node(number);
        wait_for("a node keeps ledger and certificates", || {
            let bytes = std::fs::read(directory.join("ledger")).ok()?;
            let ledger = VerifiedLedger::from_own_bytes(&bytes)?;
            let kept = certificates(&directory).into_iter().map(|(_, certificates)| certificates.len());
            let codings: std::collections::BTreeSet<String> = std::fs::read_dir(directory.join("shards"))
                .ok()?
                .flatten()
                .filter(|entry| entry.file_name().len() == 2)
                .flat_map(|entry| std::fs::read_dir(entry.path()).into_iter().flatten().flatten())
                .filter_map(|file| Some(file.file_name().to_str()?.split('.').next()?.to_owned()))
                .collect();
            // Those of erased bundles stay until others come.
            (ledger.entries.len() == entries && kept.sum::<usize>() >= codings.len()).then_some(())
        });
    }
}

type Kept = Vec<Vec<Signed<Certificate>>>;

/// The files of certificates in a node's directory.
fn certificates(node: &Path) -> Vec<(PathBuf, Kept)> {
    let files = std::fs::read_dir(node.join("certificates")).into_iter().flatten().flatten();
    let files = files.filter(|file| file.file_name().len() == 2);
    files.filter_map(|file| Some((file.path(), decode(&std::fs::read(file.path()).ok()?).ok()?))).collect()
}

/// Makes a stopped node's ledger one that gives a thief a right, its heads signed by one coordinator whose key leaked.
fn forge_ledger(node: &Path, leaked: &Identity) {
    let mut ledger = VerifiedLedger::from_own_bytes(&std::fs::read(node.join("ledger")).unwrap()).unwrap();
    let thief = Identity::from_seed(&[66; 32]);
    let last = ledger.entries.last().unwrap().clone();
    let forged = firn_wire::LedgerEntry {
        position: last.position + 1,
        previous: last.digest(),
        act: LedgerAct::AddUploader { key: thief.public(), name: "thief".into() },
        ..last
    };
    let head = LedgerHead { entries: forged.position + 1, digest: forged.digest() };
    ledger.entries.push(forged);
    let archive = archive_of(node);
    ledger.heads = vec![Signed::seal(leaked, archive, &head), Signed::seal(&thief, archive, &head)];
    std::fs::write(node.join("ledger"), ledger.to_bytes()).unwrap();
}

/// Makes a stopped node's certificates ones that say something else, signed by one coordinator and a stranger.
fn forge_certificates(node: &Path, leaked: &Identity) {
    let (archive, thief) = (archive_of(node), Identity::from_seed(&[66; 32]));
    for (file, kept) in certificates(node) {
        let forged = kept.iter().map(|certificate| {
            let honest = certificate[0].peek().unwrap();
            let forged = Certificate { ledger_entries: 0, uploader: thief.public(), ..honest };
            vec![Signed::seal(leaked, archive, &forged), Signed::seal(&thief, archive, &forged)]
        });
        std::fs::write(file, encode(&forged.collect::<Kept>())).unwrap();
    }
}

fn archive_of(node: &Path) -> firn_base::ArchiveId {
    let text = std::fs::read_to_string(node.join("archive")).unwrap();
    text.parse::<firn_wire::Descriptor>().unwrap().archive
}

fn withdraw(fleet: &Fleet, info: &PathInfo) {
    let path = info.store_path.to_string();
    fleet.administer(1, &["path", "withdraw", &path, "--reason", "asked by its author"]).success();
}

/// Publishes a path in a bundle of its own, and purges it.
fn purge(fleet: &Fleet) -> PathInfo {
    let cache = Cache::new(fleet.home().join("purged-cache"));
    cache.add(cache.entry("purged", &noise(200_000, 5)));
    fleet.administer(0, &["publisher", "add", &cache.publisher()]).success();
    let key = fleet.uploader_key();
    fleet.firn(&["publish", text(cache.path()), "--uploader-key", text(&key)]).success();
    let info = path_infos(cache.path()).into_values().next().unwrap();
    withdraw(fleet, &info);
    let path = info.store_path.to_string();
    wait_for("coordinators have told each other that they all can", || {
        let asked = fleet.administer(0, &["path", "purge", &path, "--reason", "a court said so"]);
        (asked.code == Some(0)).then_some(())
    });
    wait_for("nothing of it is left", || {
        let told = fleet.administer(0, &["path", "purges"]);
        told.stdout.contains("nothing of it is left").then_some(())
    });
    info
}

/// How many shards each node holds.
fn shards(fleet: &Fleet) -> Vec<u64> {
    let status = |number| {
        let node = fleet.node(number);
        run(fleet.home(), "firn-storage-node", ["status", "--json", "--data-dir", text(&node)]).success()
    };
    let parsed = (0..NODES).map(|number| serde_json::from_str::<Value>(&status(number)).unwrap());
    parsed.map(|status| status["shards"].as_u64().unwrap()).collect()
}

/// The nodes, those first that hold parity of the archive's one bundle. (Its manifest lies in the last data shards.)
fn parity_first(fleet: &Fleet) -> Vec<usize> {
    let index = |number: usize| -> u8 {
        let fans = std::fs::read_dir(fleet.node(number).join("shards")).unwrap().flatten();
        let fans = fans.filter(|fan| fan.file_name().len() == 2);
        let files = fans.flat_map(|fan| std::fs::read_dir(fan.path()).unwrap().flatten());
        let [name] = &files.map(|file| file.file_name()).collect::<Vec<_>>()[..] else {
            panic!("each node holds one shard")
        };
        name.to_str().unwrap().split('.').nth(1).unwrap().parse().unwrap()
    };
    let mut numbers: Vec<usize> = (0..NODES).collect();
    numbers.sort_by_key(|number| std::cmp::Reverse(index(*number)));
    numbers
}

/// A path that nothing else refers to, so that it may go.
fn leaf(published: &BTreeMap<String, PathInfo>) -> &PathInfo {
    let is_referred_to = |info: &PathInfo| {
        let others = published.values().filter(|other| other.store_path != info.store_path);
        others.flat_map(|other| &other.references).any(|path| *path == info.store_path)
    };
    published.values().find(|info| !is_referred_to(info)).unwrap()
}

impl Begun {
    /// Kills everything, takes every coordinator's disk away, and begins again with two coordinators.
    fn of(fleet: Fleet, options: &[&str], tamper: impl FnOnce(&Fleet)) -> Self {
        Self::with_members(fleet, options, 2, tamper)
    }

    /// The same with so many coordinators, of which the first two are started.
    fn with_members(mut fleet: Fleet, options: &[&str], members: usize, tamper: impl FnOnce(&Fleet)) -> Self {
        let kept = fleet.home().join("kept");
        std::fs::create_dir(&kept).unwrap();
        std::fs::copy(fleet.coordinator(0).join("archive.key"), kept.join("archive.key")).unwrap();
        for program in fleet.nodes.iter_mut().chain(&mut fleet.coordinators) {
            program.take().into_iter().for_each(Running::kill);
        }
        tamper(&fleet);
        std::fs::copy(fleet.node(0).join("archive"), kept.join("archive")).unwrap();
        for number in 0..fleet.ids.len() {
            std::fs::remove_dir_all(fleet.coordinator(number)).unwrap();
        }
        let (ports, http) = (udp_ports(members), tcp_port());
        let directories: Vec<PathBuf> =
            (1..=members).map(|number| fleet.home().join(format!("new-{number}"))).collect();
        let members: Vec<String> = directories
            .iter()
            .zip(&ports)
            .map(|(directory, port)| {
                let id =
                    run(fleet.home(), "firn-coordinator", ["id", "--data-dir", text(directory)]).success();
                format!("{}@127.0.0.1:{port}", id.trim())
            })
            .collect();
        let (key, before) = (kept.join("archive.key"), kept.join("archive"));
        let http = format!("127.0.0.1:{http}");
        let mut begin =
            vec!["--http", &http, "rebuild", "--archive-key", text(&key), "--archive", text(&before)];
        begin.extend(options);
        let url = format!("http://{http}/archive");
        let first = directories[0].clone();
        let mut begun = Self { fleet, first, url, programs: vec![], members, http: http.clone() };
        begun.programs = vec![begun.start_coordinator(0, &begin), begun.start_coordinator(1, &[])];
        wait_for("the new descriptor is there", || {
            crate::support::fetch::try_get(&begun.url).ok().filter(|answer| answer.status == 200)
        });
        begun
    }

    fn start_coordinator(&self, number: usize, more: &[&str]) -> Running {
        let home = self.fleet.home();
        let listen = self.members[number].split_once('@').unwrap().1;
        let mut program = command("firn-coordinator", home);
        program.arg("--data-dir").arg(home.join(format!("new-{}", number + 1)));
        for (_, peer) in self.members.iter().enumerate().filter(|(other, _)| *other != number) {
            program.args(["--peer", peer]);
        }
        program.args(["--listen", listen]).args(more);
        Running::start(&mut program, &home.join(format!("new-{number}.log")))
    }

    fn start_node(&self, number: usize) -> Running {
        let mut program = command("firn-storage-node", self.fleet.home());
        program.arg("--data-dir").arg(self.fleet.node(number)).args([
            "--archive",
            &self.url,
            "--quota",
            "1GB",
        ]);
        program.args(["--listen", &self.fleet.address(crate::support::fleet::COORDINATORS + number)]);
        program.args(["--failure-domain", &format!("shelf-{number}")]);
        Running::start(&mut program, &self.fleet.home().join(format!("node-{number}.log")))
    }

    fn progress(&self) -> Value {
        let printed = administer(self.fleet.home(), &self.first, &["rebuild", "status", "--json"]);
        serde_json::from_str(&printed.stdout).unwrap_or_default()
    }

    /// Starts all nodes, and lets the rebuild end once they have shown everything.
    fn rebuild(&mut self) -> Value {
        self.fleet.nodes = (0..NODES).map(|number| Some(self.start_node(number))).collect();
        self.until_shown(NODES);
        self.finish()
    }

    fn until_shown(&self, nodes: usize) {
        wait_for("nodes have shown what they have", || {
            let shown = self.progress();
            (shown["stage"] == "listening" && shown["nodes_shown"] == nodes).then_some(())
        });
    }

    /// Lets the rebuild end with what was shown.
    fn finish(&self) -> Value {
        administer(self.fleet.home(), &self.first, &["rebuild", "finish"]).success();
        wait_for("the archive is in service", || (self.progress()["stage"] == "ended").then_some(()));
        self.progress()
    }

    fn firn(&self, arguments: &[&str]) -> Ended {
        let mut program = command("firn", self.fleet.home());
        finish(program.args(["--archive", &self.url]).args(arguments))
    }

    fn start_gateway(&self) -> (Running, String) {
        let address = format!("127.0.0.1:{}", tcp_port());
        let mut program = command("firn", self.fleet.home());
        program.args(["gateway", "--archive", &self.url, "--listen", &address]);
        let gateway = Running::start(&mut program, &self.fleet.home().join("gateway-after.log"));
        let url = format!("http://{address}");
        wait_for("the gateway is ready", || {
            crate::support::fetch::try_get(&format!("{url}/readyz"))
                .ok()
                .filter(|answer| answer.status == 200)
        });
        (gateway, url)
    }

    /// Publishes something new, and reads all of it by a gateway, but for what was withdrawn.
    fn goes_on(&self, published: &BTreeMap<String, PathInfo>, withdrawn: &[&PathInfo]) {
        self.firn(&["status", "--until", "full", "--timeout", "180s"]).success();
        let cache = Cache::new(self.fleet.home().join("new-cache"));
        cache.add(cache.entry("after", &noise(300_000, 9)));
        administer(self.fleet.home(), &self.first, &["publisher", "add", &cache.publisher()]).success();
        let key = self.fleet.uploader_key();
        self.firn(&["publish", text(cache.path()), "--uploader-key", text(&key)]).success();
        let (_gateway, url) = self.start_gateway();
        let gone = |hash: &String| withdrawn.iter().any(|info| info.store_path.hash_part() == hash);
        let left = published.clone().into_iter().filter(|(hash, _)| !gone(hash)).collect();
        assert_served(&url, &left, &demo_key());
        assert_served(&url, &path_infos(cache.path()), &cache.publisher());
        for info in withdrawn {
            assert_eq!(get(&format!("{url}/{}.narinfo", info.store_path.hash_part())).status, 404);
        }
        self.firn(&["verify", "--all"]).success();
    }
}

#[test]
fn an_archive_comes_back_from_its_nodes_after_every_coordinator_was_lost() {
    let fleet = Fleet::new();
    fleet.publish();
    let published = path_infos(&demo_cache().join("cache"));
    let gone = leaf(&published);
    withdraw(&fleet, gone);
    let purged = purge(&fleet);
    until_nodes_know(&fleet, 0..NODES);
    let before = digests(fleet.home(), &fleet.coordinator(0));
    let held = shards(&fleet);
    let leaked = load_identity(&fleet.coordinator(2).join("identity.key")).unwrap();
    let mut begun = Begun::of(fleet, &[], |fleet| {
        forge_ledger(&fleet.node(1), &leaked);
        forge_certificates(&fleet.node(2), &leaked);
    });
    let progress = begun.rebuild();
    assert_eq!(progress["unrestored"], Value::Array(vec![]), "{progress}");
    let refused = progress["refused"].to_string();
    assert!(refused.contains("signed its ledger"), "{refused}");
    assert!(refused.contains("certificate that no majority"), "{refused}");
    assert_eq!(digests(begun.fleet.home(), &begun.first), before);
    let second = begun.fleet.home().join("new-2");
    wait_for("the other coordinator has it too", || {
        (digests(begun.fleet.home(), &second) == before).then_some(())
    });
    assert_eq!(shards(&begun.fleet), held, "no node has deleted anything");
    let uploaders = administer(begun.fleet.home(), &begun.first, &["uploader", "list"]).success();
    assert!(uploaders.contains("test") && !uploaders.contains("thief"), "{uploaders}");
    begun.goes_on(&published, &[gone, &purged]);
    begun.programs.iter_mut().for_each(Running::assert_alive);
}

#[test]
fn an_old_backup_goes_on_with_what_nodes_have_since_and_deletes_nothing() {
    let fleet = Fleet::new();
    let early = Cache::new(fleet.home().join("early"));
    early.add(early.entry("early", &noise(200_000, 1)));
    fleet.administer(0, &["publisher", "add", &early.publisher()]).success();
    let key = fleet.uploader_key();
    fleet.firn(&["publish", text(early.path()), "--uploader-key", text(&key)]).success();
    let backup = fleet.home().join("backup");
    let written = fleet.administer(0, &["snapshot", "--to", text(&backup)]).success();
    assert!(written.starts_with("written: "), "{written}");
    let twice = fleet.administer(0, &["snapshot", "--to", text(&backup)]).failure(1);
    assert!(twice.contains("is there already"), "{twice}");
    fleet.publish();
    let published = path_infos(&demo_cache().join("cache"));
    let gone = leaf(&published);
    withdraw(&fleet, gone);
    until_nodes_know(&fleet, 0..NODES);
    let before = digests(fleet.home(), &fleet.coordinator(0));
    let held = shards(&fleet);
    let mut begun = Begun::of(fleet, &["--snapshot", text(&backup)], |_| {});
    let progress = begun.rebuild();
    assert_eq!(shards(&begun.fleet), held, "no node has deleted anything");
    assert_eq!(
        (&progress["unrestored"], &progress["refused"]),
        (&Value::Array(vec![]), &Value::Array(vec![]))
    );
    assert_eq!(digests(begun.fleet.home(), &begun.first), before);
    begun.goes_on(&published, &[gone]);
}

#[test]
fn nodes_that_come_late_count_again_and_what_only_they_had_comes_back_when_the_rebuild_is_reopened() {
    let fleet = Fleet::new();
    fleet.publish();
    let published = path_infos(&demo_cache().join("cache"));
    let gone = leaf(&published);
    withdraw(&fleet, gone);
    until_nodes_know(&fleet, 0..NODES);
    let before = digests(fleet.home(), &fleet.coordinator(0));
    let (held, order) = (shards(&fleet), parity_first(&fleet));
    let mut begun = Begun::of(fleet, &[], |_| {});
    // Of 4/6 two nodes with parity show too little to read a manifest.
    begun.fleet.nodes = order[..2].iter().map(|number| Some(begun.start_node(*number))).collect();
    begun.until_shown(2);
    let poor = begun.finish();
    assert!(poor["bundles_unrestored"].as_u64() > Some(0) && poor["bundles_restored"] == 0, "{poor}");

    for number in &order[2..4] {
        begun.fleet.nodes.push(Some(begun.start_node(*number)));
    }
    administer(begun.fleet.home(), &begun.first, &["rebuild", "reopen"]).success();
    begun.until_shown(4);
    let again = administer(begun.fleet.home(), &begun.first, &["rebuild", "reopen"]).failure(1);
    assert!(again.contains("is being rebuilt"), "{again}");
    // One that is killed meanwhile begins to listen anew, and answers nobody before it has heard the nodes.
    begun.programs.drain(..).for_each(Running::kill);
    let http = begun.http.clone();
    begun.programs = vec![begun.start_coordinator(0, &["--http", &http]), begun.start_coordinator(1, &[])];
    begun.until_shown(4);
    let refused = begun.firn(&["path-info", &gone.store_path.to_string()]).failure(1);
    assert!(refused.contains("rebuilt"), "{refused}");
    let says = |what: &str, status: u16, words: &str| {
        wait_for(what, || {
            let answer = crate::support::fetch::try_get(&format!("http://{http}/readyz")).ok()?;
            (answer.status == status && String::from_utf8_lossy(&answer.body).contains(words)).then_some(())
        });
    };
    says("it is not ready, and says why", 503, "being rebuilt");
    let whole = begun.finish();
    says("it is ready", 200, "ready");
    assert_eq!(whole["bundles_unrestored"], 0, "{whole}");
    // Either of the two may lead.
    wait_for("the first coordinator has all of it", || {
        (digests(begun.fleet.home(), &begun.first) == before).then_some(())
    });

    // The last two were away all the while.
    for number in &order[4..] {
        begun.fleet.nodes.push(Some(begun.start_node(*number)));
    }
    begun.firn(&["status", "--until", "full", "--timeout", "180s"]).success();
    assert_eq!(shards(&begun.fleet), held, "no node has deleted anything, and nothing had to be made anew");
    begun.goes_on(&published, &[gone]);
}

/// What the first build of a package has alone.
fn own_bytes(generation: u64) -> Vec<u8> {
    noise(100_000, 200 + generation)
}

/// Builds of two packages, of which each shares most with the one before: what a generation is packed into uses chunks of what
/// the one before it was packed into.
fn builds(fleet: &Fleet, generation: u64) -> Cache {
    let cache = Cache::new(fleet.home().join(format!("builds-{generation}")));
    cache.add(cache.entry(&format!("news-{generation}"), &noise(50_000, generation)));
    for (package, first) in [("early", 1), ("late", 2)] {
        if (first..first + 2).contains(&generation) {
            let shared = noise(400_000, 100 + first);
            let contents = [shared, own_bytes(generation)].concat();
            cache.add(cache.entry(&format!("{package}-1.{generation}"), &contents));
        }
    }
    cache
}

/// Has a path withdrawn, or purged.
fn path(fleet: &Fleet, verb: &str, name: &str) -> Ended {
    fleet.administer(0, &["path", verb, &store_path(name).to_string(), "--reason", "a court said so"])
}

/// Packs anew what holds a path beside others, and what uses chunks of that, and waits until one holder alone has not erased it.
fn purge_but_for_one_holder(fleet: &Fleet, name: &str) {
    let operator = fleet.home().join("operator.key");
    let by = run(fleet.home(), "firn", ["key", "generate", text(&operator)]).success();
    fleet.administer(0, &["operator", "add", by.trim(), "--name", "ada", "--role", "content"]).success();
    path(fleet, "withdraw", name).success();
    path(fleet, "purge", name).success();
    let repacked = fleet.firn(&["repack", "--operator-key", text(&operator), "--json"]).success();
    let repacked: Value = serde_json::from_str(&repacked).unwrap();
    assert_eq!(repacked.as_array().unwrap().len(), 2, "what holds it, and what uses that: {repacked}");
    wait_for("all but one holder have erased it", || {
        let told = fleet.administer(0, &["path", "purges", "--json"]);
        let told: Value = serde_json::from_str(told.stdout.lines().next()?).ok()?;
        let waiting = told["waiting"].as_array()?;
        (told["holders"] == NODES && waiting.len() == 1 && waiting[0]["online"] == false).then_some(())
    });
}

/// How many shard files of a node have `bytes` in them.
fn files_with(node: &Path, bytes: &[u8]) -> usize {
    let fans = std::fs::read_dir(node.join("shards")).into_iter().flatten().flatten();
    let files = fans.flat_map(|fan| std::fs::read_dir(fan.path()).into_iter().flatten().flatten());
    let holds = |file: &PathBuf| {
        std::fs::read(file).is_ok_and(|content| content.windows(bytes.len()).any(|window| window == bytes))
    };
    files.map(|file| file.path()).filter(holds).count()
}

#[test]
fn what_lacks_a_bundle_waits_for_a_coordinator_that_is_down_while_nodes_are_away_and_they_erase_what_was_purged()
 {
    let mut fleet = Fleet::new();
    let caches = [1, 2, 3].map(|generation| builds(&fleet, generation));
    let publisher = caches[0].publisher();
    fleet.administer(0, &["publisher", "add", &publisher]).success();
    // Before, nobody remembers what is like what.
    wait_for("coordinators have told each other that they all can", || {
        path(&fleet, "purge", "news-1").stderr.contains("the path is not withdrawn").then_some(())
    });
    let (uploader, mut published) = (fleet.uploader_key(), BTreeMap::new());
    for cache in &caches {
        let words =
            ["publish", "--reuse-small-bundles", text(cache.path()), "--uploader-key", text(&uploader)];
        fleet.firn(&words).success();
        published.extend(path_infos(cache.path()));
    }
    // It does not compress, so a data shard holds it as it is. Whose that is goes before it is purged.
    let secret = &own_bytes(1)[50_000..50_064];
    let holders: Vec<usize> =
        (0..NODES).filter(|number| files_with(&fleet.node(*number), secret) > 0).collect();
    let [holder] = holders[..] else { panic!("one data shard holds it: {holders:?}") };
    fleet.nodes[holder].take().unwrap().kill();
    purge_but_for_one_holder(&fleet, "early-1.1");
    let there: Vec<usize> = (0..NODES).filter(|number| *number != holder).collect();
    until_nodes_know(&fleet, there.iter().copied());
    let before = digests(fleet.home(), &fleet.coordinator(0));

    // Another one is away from here on, and of three new coordinators one: of each bundle there are just enough shards.
    let mut begun = Begun::with_members(fleet, &[], 3, |_| {});
    let (away, shown) = there.split_first().unwrap();
    begun.fleet.nodes = shown.iter().map(|number| Some(begun.start_node(*number))).collect();
    begun.until_shown(shown.len());
    administer(begun.fleet.home(), &begun.first, &["rebuild", "finish"]).success();
    let third = &begun.members[2][..8];
    let waits = format!("start {third}");
    let waiting = wait_for("what lacks a bundle waits, and it is said for whom", || {
        let told = begun.progress();
        let reasons = told["unrestored"].to_string();
        let is_said = reasons.contains("lacks a bundle") && reasons.contains(&waits);
        (told["stage"] == "restoring" && is_said).then_some(told)
    });
    assert!(waiting["bundles_unrestored"].as_u64() > Some(0), "{waiting}");
    let left: BTreeMap<_, _> =
        published.into_iter().filter(|(hash, _)| hash != store_path("early-1.1").hash_part()).collect();
    let kept = left.values().next().unwrap().store_path.to_string();
    let refused = begun.firn(&["path-info", &kept]).failure(1);
    assert!(refused.contains("rebuilt"), "nothing is answered without it: {refused}");

    begun.programs.push(begun.start_coordinator(2, &[]));
    wait_for("the archive is in service", || (begun.progress()["stage"] == "ended").then_some(()));
    let whole = begun.progress();
    assert_eq!(whole["unrestored"], Value::Array(vec![]), "{whole}");
    // Whichever of the three led.
    for number in 1..=3 {
        let directory = begun.fleet.home().join(format!("new-{number}"));
        wait_for("each coordinator has all of it", || {
            (digests(begun.fleet.home(), &directory) == before).then_some(())
        });
    }
    // As they come back: the one reads in the ledger of the new coordinators what the old ones had erased.
    assert_eq!(files_with(&begun.fleet.node(holder), secret), 1);
    for number in [*away, holder] {
        begun.fleet.nodes.push(Some(begun.start_node(number)));
    }
    wait_for("what was purged has gone from the last disk", || {
        (files_with(&begun.fleet.node(holder), secret) == 0).then_some(())
    });
    let (_gateway, url) = begun.start_gateway();
    assert_served(&url, &left, &publisher);
    let gone = store_path("early-1.1");
    assert_eq!(get(&format!("{url}/{}.narinfo", gone.hash_part())).status, 404);
    begun.firn(&["verify", "--all"]).success();
    begun.programs.iter_mut().for_each(Running::assert_alive);
}
