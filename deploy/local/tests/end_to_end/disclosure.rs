//! What a gateway tells of paths that are not archived: every byte that leaves it is looked at.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Instant;

use crate::support::cache::{Cache, noise, store_path};
use crate::support::fetch::{get, path_infos, try_get};
use crate::support::local::Local;
use crate::support::pipeline::{Head, heads};
use crate::support::{Running, command, tcp_port, wait_for};
use firn_base::{KeyPrefix, ObjectKey};
use firn_nix_format::{PublisherSecretKey, nixbase32};
use firn_wire::{CoordinatorRequest, decode};

const PATHS: u64 = 200;
/// 200 events are 12 units of 16, hence filters of 128 and 64 events, and 8 events behind them.
const FILTER_UNIT: &str = "16";
const COVERED: u64 = 192;
/// Whoever answers first, and all three together, four times over where they are behind. On a machine that does nothing
/// else two questions settle a stranger.
const QUESTIONS_MAX: u64 = 4 * (3 + 3);

/// What a gateway asks of its own accord, of each kind in a second: its shortest pause is a fifth of one, and there are three
/// coordinators.
const OWN_QUESTIONS_A_SECOND_MAX: u64 = 5 * 3;

type Hash = [u8; 20];

/// An archive of `PATHS` paths with filters over most of them.
fn archive() -> Local {
    let place = tempfile::tempdir().unwrap();
    let cache = Cache::new(place.path().join("cache"));
    for number in 0..PATHS {
        cache.add(cache.entry(&format!("archived-{number}"), &noise(100, number)));
    }
    let publisher = cache.publisher();
    let options = ["--coordinators", "3", "--storage-nodes", "4", "--publisher", &publisher];
    let local = Local::up(&[&options[..], &["--filter-unit", FILTER_UNIT]].concat());
    local.firn(&["publish", cache.path().to_str().unwrap()]).success();
    local
}

/// A gateway of its own, and its address.
fn gateway(local: &Local, name: &str, address: &str, options: &[&str]) -> Running {
    let mut program = command("firn", local.home());
    program.arg("gateway").arg("--archive").arg(local.dir().join("archive.firn"));
    program.args(["--listen", address]).args(options);
    program.env("FIRN_LOG", "firn_gateway=info,firn_transport::sent=trace");
    let gateway = Running::start(&mut program, &local.home().join(name));
    wait_for("the gateway listens", || try_get(&format!("http://{address}/healthz")).ok());
    gateway
}

fn address() -> String {
    format!("127.0.0.1:{}", tcp_port())
}

fn metric(address: &str, name: &str) -> u64 {
    let text = String::from_utf8(get(&format!("http://{address}/metrics")).body).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("firn_gateway_{name} ")));
    line.unwrap_or_else(|| panic!("{name} is missing in\n{text}")).parse().unwrap()
}

fn wait_for_filters(address: &str) {
    wait_for("the filters are here", || (metric(address, "filter_position") >= COVERED).then_some(()));
    wait_for("the feed was heard", || (metric(address, "feed_position") >= PATHS).then_some(()));
}

fn absent(count: u64) -> Vec<Hash> {
    (0..count).map(|number| noise(20, 1 << 40 | number).try_into().unwrap()).collect()
}

fn narinfo(hash: &Hash) -> String {
    format!("/{}.narinfo", nixbase32::encode(hash))
}

fn ask(address: &str, hashes: &[Hash]) -> Vec<Head> {
    heads(address, hashes.iter().map(narinfo))
}

/// Asks until coordinators have settled every question, and says how often one had to be asked again: whoever gets no
/// turn for three seconds on a busy machine is taken for one that is away.
fn settled(address: &str, hashes: &[Hash]) -> (Vec<Head>, u64) {
    let (mut answers, mut again) = (ask(address, hashes), 0);
    wait_for("coordinators have settled every question", || {
        let is_open = |at: &usize| answers[*at].header("firn-unreadable").is_some();
        let open: Vec<usize> = (0..answers.len()).filter(is_open).collect();
        let hashes: Vec<Hash> = open.iter().map(|at| hashes[*at]).collect();
        again += open.len() as u64;
        for (at, answer) in open.iter().zip(ask(address, &hashes)) {
            answers[*at] = answer;
        }
        open.is_empty().then_some(())
    });
    (answers, again)
}

/// Messages that left the gateway after the first `skip`.
fn sent(gateway: &Running, skip: usize) -> Vec<Vec<u8>> {
    sent_in(&gateway.messages()).split_off(skip)
}

/// Messages that left a program, by its log.
fn sent_in(log: &str) -> Vec<Vec<u8>> {
    let words = log.lines().filter_map(|line| line.split_once("sent=").map(|(_, rest)| rest));
    let bytes = words.map(|rest| {
        let digits = rest.split(' ').next().unwrap();
        (0..digits.len() / 2).map(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap()).collect()
    });
    bytes.collect()
}

/// How many questions of each kind there are, once it is sure that none names what was asked for.
#[track_caller]
fn kinds(messages: &[Vec<u8>], asked: &[Hash]) -> BTreeMap<&'static str, usize> {
    let hashes: HashSet<&[u8]> = asked.iter().map(|hash| &hash[..]).collect();
    let texts: HashSet<String> = asked.iter().map(|hash| nixbase32::encode(hash)).collect();
    let mut prefixes: BTreeSet<[u8; 4]> = BTreeSet::new();
    for hash in asked {
        for bits in KeyPrefix::BITS_MIN..=KeyPrefix::BITS_MAX {
            prefixes.insert(KeyPrefix::of(&ObjectKey::store_path(*hash), bits).unwrap().first());
        }
    }
    let mut kinds = BTreeMap::new();
    for message in messages {
        assert!(message.windows(20).all(|part| !hashes.contains(part)), "{message:02x?} names a hash");
        let is_text = |part: &[u8]| std::str::from_utf8(part).is_ok_and(|part| texts.contains(part));
        assert!(message.windows(32).all(|part| !is_text(part)), "{message:02x?} names a hash");
        let kind = match decode(message) {
            Ok(CoordinatorRequest::IndexRange(request)) => {
                assert!(prefixes.contains(&request.prefix.first()), "nobody asked for {:?}", request.prefix);
                "index range"
            }
            Ok(CoordinatorRequest::News { .. }) => "feed",
            Ok(CoordinatorRequest::GetMembers) => "whether a coordinator is still there",
            Ok(CoordinatorRequest::ListFilters) => "list of filters",
            Ok(CoordinatorRequest::GetDescriptor | CoordinatorRequest::GetLedger { .. }) => "governance",
            other => panic!("nothing else is told: {other:?} {message:02x?}"),
        };
        *kinds.entry(kind).or_default() += 1;
    }
    kinds
}

/// Nothing but ranges was asked because somebody asked for a path: the rest comes as often as time goes by, of which a busy
/// machine takes more.
#[track_caller]
fn assert_rest_is_its_own(kinds: &BTreeMap<&'static str, usize>, since: Instant) {
    let most = OWN_QUESTIONS_A_SECOND_MAX * (since.elapsed().as_secs() + 2);
    for (kind, count) in kinds.iter().filter(|(kind, _)| **kind != "index range") {
        assert!(u64::try_from(*count).unwrap() <= most, "{kind}: {count} of at most {most}");
    }
}

#[test]
fn no_hash_of_an_absent_path_leaves_the_gateway() {
    let local = archive();
    let address = address();
    let running = gateway(&local, "full.log", &address, &[]);
    wait_for_filters(&address);
    // What was fetched at the start names filters; from now on nothing but questions of the feed is expected.
    let (before, since) = (sent(&running, 0).len(), Instant::now());
    assert!(before > 0, "what leaves is written down");

    let asked = absent(100_000);
    let (answers, again) = settled(&address, &asked);
    assert_eq!(answers.len(), asked.len());
    for answer in &answers {
        assert_eq!((answer.status, answer.header("firn-unreadable")), (404, None), "{answer:?}");
        assert_eq!(answer.header("firn-feed-position"), Some(PATHS.to_string().as_str()));
    }
    let strangers = metric(&address, "strangers_total");
    // Each of two filters holds one of 256 strangers.
    assert!((400..1300).contains(&strangers), "{strangers} of 100,000");
    let kinds = kinds(&sent(&running, before), &asked);
    let ranges = u64::try_from(kinds["index range"]).unwrap();
    let most = QUESTIONS_MAX * (strangers + again);
    assert!((2..=most).contains(&ranges), "{kinds:?} for {strangers} strangers, {again} asked again");
    assert_rest_is_its_own(&kinds, since);

    // Who comes again asks nobody.
    let (before, since) = (sent(&running, 0).len(), Instant::now());
    assert!(ask(&address, &asked).iter().all(|answer| answer.status == 404));
    let again = self::kinds(&sent(&running, before), &asked);
    assert!(!again.contains_key("index range"), "{again:?}");
    assert_rest_is_its_own(&again, since);
}

#[test]
fn what_a_gateway_answers_without_a_network_is_what_it_holds() {
    let mut local = archive();
    let [full, none, patient] = [address(), address(), address()];
    let cache = local.home().join("cache-of-the-gateway");
    let keep = ["--cache-dir", cache.to_str().unwrap()];
    let running = gateway(&local, "full.log", &full, &keep);
    wait_for_filters(&full);
    let asked = absent(3_000);
    let visible: Hash = *store_path("archived-3").hash();

    // Without filters every question is settled by coordinators, and none names the path.
    let without = gateway(&local, "none.log", &none, &["--filter", "none"]);
    wait_for("it has heard of the feed", || {
        (get(&format!("http://{none}/readyz")).status == 200).then_some(())
    });
    let (before, since) = (sent(&without, 0).len(), Instant::now());
    let (answers, again) = settled(&none, &asked[..100]);
    assert!(answers.iter().all(|answer| answer.status == 404), "{answers:?}");
    assert_eq!((metric(&none, "filters"), metric(&none, "strangers_total")), (0, 100));
    let kinds = kinds(&sent(&without, before), &asked);
    let ranges = u64::try_from(kinds["index range"]).unwrap();
    assert!((100..=QUESTIONS_MAX * (100 + again)).contains(&ranges), "{kinds:?}, {again} asked again");
    assert_rest_is_its_own(&kinds, since);
    assert_eq!(settled(&none, &[visible]).0[0].status, 200);

    // A mirror gives what coordinators would: filters are fetched from no coordinator.
    let mirrored = self::address();
    let url = format!("http://{full}/firn/filters");
    let from_mirror = gateway(&local, "mirrored.log", &mirrored, &["--filter", &url]);
    wait_for_filters(&mirrored);
    let is_piece = |message: &Vec<u8>| matches!(decode(message), Ok(CoordinatorRequest::FilterPiece { .. }));
    assert!(!sent(&from_mirror, 0).iter().any(is_piece));
    assert!(sent(&running, 0).iter().any(is_piece), "who has no mirror asks coordinators");
    assert!(ask(&mirrored, &asked[..100]).iter().all(|answer| answer.status == 404));
    assert_eq!(settled(&mirrored, &[visible]).0[0].status, 200);
    assert_eq!(from_mirror.terminate(), Some(0));

    let retry = ["--filter", "none", "--when-unreadable", "retry"];
    let waiting = gateway(&local, "retry.log", &patient, &retry);
    assert_eq!(running.terminate(), Some(0));
    assert_eq!(local.terminate(), Some(0));

    // Nobody is there any more. What was asked before is still known.
    assert!(ask(&none, &asked[..10]).iter().all(|answer| answer.header("firn-unreadable").is_none()));
    let unknown = &ask(&none, &asked[200..201])[0];
    assert_eq!((unknown.status, unknown.header("firn-unreadable")), (404, Some("1")));
    assert_eq!(unknown.header("cache-control"), Some("no-store"));
    let unknown = &ask(&patient, &asked[200..201])[0];
    assert_eq!((unknown.status, unknown.header("retry-after")), (503, Some("10")));

    // A gateway that is started again answers from its disk.
    let again = gateway(&local, "again.log", &full, &[&keep[..], &["--when-unreadable", "retry"]].concat());
    let answers = ask(&full, &asked);
    let absent = answers.iter().filter(|answer| answer.status == 404);
    assert!(absent.clone().all(|answer| answer.header("firn-feed-position") == Some("200")));
    let unsettled = answers.iter().filter(|answer| answer.status == 503).count();
    assert_eq!(absent.count() + unsettled, asked.len());
    // 23 strangers are expected in filters, whom nobody is there to settle.
    assert!(unsettled < 70, "{unsettled} of {}", asked.len());
    assert_eq!(ask(&full, &[visible])[0].status, 503, "it is archived");
    drop((again, without, waiting));
}

#[test]
fn a_comparison_names_no_path_that_is_not_archived() {
    let local = archive();
    // Half of a second cache is archived: some of it with another content, or with a signature more.
    let place = tempfile::tempdir().unwrap();
    let cache = Cache::new(place.path().join("cache"));
    for number in 0..20 {
        cache.add(cache.entry(&format!("archived-{number}"), &noise(100, number)));
        cache.add(cache.entry(&format!("private-{number}"), &noise(1_000, number)));
    }
    cache.add(cache.entry("archived-20", &noise(500, 1)));
    let mut twice = cache.entry("archived-21", &noise(100, 21));
    let other = PublisherSecretKey::from_seed("other-1", &[9; 32]).unwrap();
    twice.info.signatures.push(other.sign(&twice.info));
    cache.add(twice);
    let compare = |options: &[&str]| {
        let mut program = command("firn", local.home());
        program.arg("--config").arg(local.dir().join("firn.toml")).arg("compare").arg(cache.path());
        program.args(options).env("FIRN_LOG", "firn_transport::sent=trace");
        crate::support::finish(&mut program)
    };

    let compared = compare(&["--json", "--list", "different"]);
    assert_eq!(compared.code, Some(1), "{}", compared.stderr);
    let said: serde_json::Value = serde_json::from_str(&compared.stdout).unwrap();
    assert_eq!((&said["archived"]["paths"], &said["missing"]["paths"]), (&20.into(), &20.into()), "{said}");
    let bytes = |names: &[String]| -> u64 {
        let infos = path_infos(cache.path());
        names.iter().map(|name| infos[store_path(name).hash_part()].nar_size).sum()
    };
    let private: Vec<String> = (0..20).map(|number| format!("private-{number}")).collect();
    assert_eq!(said["missing"]["nar_bytes"], bytes(&private));
    let listed: Vec<_> = said["list"].as_array().unwrap().iter().map(|one| &one["difference"]).collect();
    assert_eq!(said["different"]["paths"], 2);
    assert_eq!((&said["different_contents"], &said["different_signatures"]), (&1.into(), &1.into()));
    assert!(listed.contains(&&"contents".into()) && listed.contains(&&"signatures".into()), "{said}");

    let hashes: Vec<Hash> = private.iter().map(|name| *store_path(name).hash()).collect();
    let prefixed: Vec<Hash> = path_infos(cache.path()).values().map(|info| *info.store_path.hash()).collect();
    let messages = sent_in(&compared.stderr);
    for message in &messages {
        let named = hashes.iter().find(|hash| message.windows(20).any(|part| part == &hash[..]));
        assert_eq!(named, None, "{message:02x?} names a hash");
    }
    let ranges = messages.iter().filter_map(|message| match decode(message) {
        Ok(CoordinatorRequest::IndexRange(request)) => Some(request.prefix),
        _ => None,
    });
    let ranges: Vec<KeyPrefix> = ranges.collect();
    assert!(ranges.len() >= prefixed.len() / 2, "{} ranges settle {} paths", ranges.len(), prefixed.len());
    let lookups =
        messages.iter().filter(|message| matches!(decode(message), Ok(CoordinatorRequest::Lookup(_))));
    assert_eq!(lookups.count(), 0, "nothing is looked up by its name");

    // The list is what `firn publish --paths -` reads; what is archived is complete.
    let missing = compare(&["--list", "missing"]);
    let names: BTreeSet<&str> = missing.stdout.lines().collect();
    assert_eq!(names.len(), 20);
    assert!(names.contains(store_path("private-7").to_string().as_str()));
    let list = place.path().join("list");
    std::fs::write(&list, format!("{}\n", store_path("archived-3"))).unwrap();
    assert_eq!(compare(&["--paths", list.to_str().unwrap()]).code, Some(0));

    // The same cache behind a URL.
    let url = local.url.clone();
    let words = ["compare", &url, "--paths", list.to_str().unwrap()];
    assert!(local.firn(&words).success().contains("archived"));
    assert!(local.firn(&["compare", &url]).failure(2).contains("--paths"));
}

#[test]
fn who_gets_or_checks_paths_names_none_that_is_not_archived() {
    let local = archive();
    let private: Vec<String> =
        (0..5).map(|number| store_path(&format!("private-{number}")).to_string()).collect();
    let hashes: Vec<Hash> = (0..5).map(|number| *store_path(&format!("private-{number}")).hash()).collect();
    let archived = store_path("archived-3").to_string();
    let place = tempfile::tempdir().unwrap();
    let output = place.path().join("cache");
    let ways: [&[&str]; 4] = [
        &["get", "--closure", "--output", output.to_str().unwrap()],
        &["export", "--to", output.to_str().unwrap()],
        &["path-info"],
        &["verify"],
    ];
    for way in ways {
        let mut program = command("firn", local.home());
        program.arg("--config").arg(local.dir().join("firn.toml")).args(way).arg(&archived).args(&private);
        let ended = crate::support::finish(program.env("FIRN_LOG", "firn_transport::sent=trace"));
        assert_eq!(ended.code, Some(1), "{}", ended.stderr);
        let messages = sent_in(&ended.stderr);
        let mut ranges = 0;
        for message in &messages {
            let named = hashes.iter().find(|hash| message.windows(20).any(|part| part == &hash[..]));
            assert_eq!(named, None, "{way:?}: {message:02x?} names a hash");
            ranges += usize::from(matches!(decode(message), Ok(CoordinatorRequest::IndexRange(_))));
        }
        assert!(ranges > hashes.len(), "{way:?} settles {} paths by {ranges} ranges", hashes.len() + 1);
    }
    assert!(output.join(format!("{}.narinfo", store_path("archived-3").hash_part())).exists());
}
