//! Bad input and bad circumstances, with the real programs: one sentence, the right exit code, nothing lost.

use std::io::Write;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::support::cache::{Cache, Entry, hostile_nar, nar_of, noise, store_path, xz};
use crate::support::fetch::{assert_served, get, path_infos};
use crate::support::local::Local;
use crate::support::{Running, command, run, sentence, udp_ports};
use firn_nix_format::{PublisherSecretKey, Sha256};

const SOUND: [&str; 4] = ["libc-2.40", "hello-1.0", "data-1", "doc-1"];

/// Writes bad paths into `cache`. Gives their names, and words of the reason for which each is refused.
fn spoil(cache: &Cache) -> Vec<(&'static str, &'static str)> {
    let bad = |name: &str| cache.entry(name, &noise(20_000, 99));
    let mut expected = Vec::new();
    let mut expect = |name: &'static str, reason: &'static str| {
        expected.push((name, reason));
        bad(name)
    };

    let entry = expect("unsigned-1", "it carries no signature");
    cache.write(&entry, |narinfo| narinfo);

    let mut entry = expect("forged-1", "its signature by test-1 does not hold");
    let liar = PublisherSecretKey::from_seed("test-1", &[9; 32]).unwrap();
    entry.info.signatures.push(liar.sign(&entry.info));
    cache.write(&entry, |narinfo| narinfo);

    let mut entry = expect("stranger-1", "whom the archive does not accept");
    let stranger = PublisherSecretKey::from_seed("stranger-1", &[9; 32]).unwrap();
    entry.info.signatures.push(stranger.sign(&entry.info));
    cache.write(&entry, |narinfo| narinfo);

    let mut entry = expect("wrong-hash-1", "the NAR has the hash");
    entry.info.nar_hash = Sha256::of(b"something else");
    cache.add(entry);

    let mut entry = expect("truncated-1", "");
    entry.file.as_mut().unwrap().truncate(10_000);
    cache.add(entry);

    let mut entry = expect("over-long-1", "longer than its NarSize");
    entry.file = Some(xz(&[nar_of(&noise(20_000, 99)), vec![0; 100]].concat()));
    cache.add(entry);

    // 100 MB of zeros from 15 kB: it begins like a NAR, so that only its length gives it away.
    let mut entry = expect("bomb-1", "a file of 100000000 bytes; at most");
    let head = nar_of(&vec![0; 100_000_000]);
    entry.info.nar_size = 4096;
    entry.file = Some(xz(&head));
    cache.add(entry);

    let mut entry = expect("malformed-1", "NAR");
    replace_nar(&mut entry, noise(20_000, 98));
    cache.add(entry);

    let mut entry = expect("hostile-1", "`..`");
    replace_nar(&mut entry, hostile_nar());
    cache.add(entry);

    let entry = expect("traversal-1", "leads out of the cache");
    let url = entry.info.url.clone();
    cache.add_changed(entry, |narinfo| narinfo.replace(&url, "../../etc/passwd"));

    let entry = expect("rot13-1", "`rot13` is unknown");
    cache.add_changed(entry, |narinfo| narinfo.replace("Compression: xz", "Compression: rot13"));

    let mut entry = expect("missing-1", "is missing");
    entry.file = None;
    cache.add(entry);
    expected
}

fn replace_nar(entry: &mut Entry, nar: Vec<u8>) {
    entry.info.nar_hash = Sha256::of(&nar);
    entry.info.nar_size = u64::try_from(nar.len()).unwrap();
    entry.file = Some(xz(&nar));
}

#[test]
fn what_is_wrong_in_a_cache_is_refused_and_the_rest_is_published() {
    let place = tempfile::tempdir().unwrap();
    let cache = Cache::new(place.path().join("cache"));
    for (name, seed) in SOUND.iter().zip(0..) {
        cache.add(cache.entry(name, &noise(100_000, seed)));
    }
    let sound = path_infos(cache.path());
    let expected = spoil(&cache);
    let key = cache.publisher();
    let local = Local::up(&["--coordinators", "1", "--storage-nodes", "4", "--publisher", &key]);
    let published = local.firn(&["publish", cache.path().to_str().unwrap(), "--json"]);
    assert_eq!(published.code, Some(1), "{}", published.stderr);
    assert!(!published.stderr.contains("panicked"), "{}", published.stderr);
    let summary: serde_json::Value = serde_json::from_str(&published.stdout).unwrap();
    assert_eq!(summary["paths_published"], SOUND.len());
    let refused = summary["refused"].as_array().unwrap();
    for (name, reason) in &expected {
        let path = store_path(name);
        let entry = refused.iter().find(|entry| {
            let text = entry["name"].as_str().unwrap_or_default();
            text.contains(path.hash_part())
        });
        let entry = entry.unwrap_or_else(|| panic!("{name} is not listed: {refused:?}"));
        let given = entry["reason"].as_str().unwrap();
        assert!(given.contains(reason) && !given.contains('\n'), "{name}: {given}");
    }
    assert_eq!(refused.len(), expected.len(), "{refused:?}");
    assert_served(&local.url, &sound, &key);
    for (name, _) in &expected {
        let narinfo = format!("{}/{}.narinfo", local.url, store_path(name).hash_part());
        assert_eq!(get(&narinfo).status, 404, "{name}");
    }
    // For people the same, as sentences.
    let again = local.firn(&["publish", cache.path().to_str().unwrap()]);
    assert_eq!(again.code, Some(1));
    let told = again.stdout.lines().filter(|line| line.starts_with("refused: ")).count();
    assert_eq!(told, expected.len(), "{}", again.stdout);
}

#[test]
fn nodes_without_room_take_nothing_and_say_so() {
    let place = tempfile::tempdir().unwrap();
    let cache = Cache::new(place.path().join("cache"));
    cache.add(cache.entry("large-1", &noise(8_000_000, 1)));
    let key = cache.publisher();
    let options = ["--coordinators", "1", "--storage-nodes", "2", "--quota", "2MB", "--publisher", &key];
    let local = Local::up(&options);
    let published = local.firn(&["publish", cache.path().to_str().unwrap()]);
    let sentence = published.failure(1);
    assert!(
        sentence.contains("full") || sentence.contains("room") || sentence.contains("space"),
        "{sentence}"
    );
    let narinfo = format!("{}/{}.narinfo", local.url, store_path("large-1").hash_part());
    assert_eq!(get(&narinfo).status, 404);
}

/// Runs a storage node that is to fail, and gives its sentence.
fn node_failure(home: &Path, data: &Path, archive: &Path, listen: &str) -> String {
    let (data, archive) = (data.to_str().unwrap(), archive.to_str().unwrap());
    let arguments = ["--data-dir", data, "--archive", archive, "--listen", listen];
    run(home, "firn-storage-node", arguments).failure(1)
}

#[test]
fn programs_that_cannot_run_say_why_in_one_sentence() {
    let local = Local::up(&["--coordinators", "1", "--storage-nodes", "2"]);
    let other = Local::up(&["--coordinators", "1", "--storage-nodes", "1"]);
    let home = local.home();
    let archive = local.dir().join("archive.firn");
    let any = "127.0.0.1:0";

    // A data directory is one process's.
    let taken = node_failure(home, &local.role("storage-node-1"), &archive, any);
    assert!(taken.contains("is in use by another process (process "), "{taken}");
    let taken = coordinator_failure(home, &local.role("coordinator-1"), any);
    assert!(taken.contains("is in use by another process (process "), "{taken}");

    // Another role's directory, and one that holds something else.
    local.control("stop", "storage-node-1").success();
    let wrong = coordinator_failure(home, &local.role("storage-node-1"), any);
    assert!(wrong.contains("belongs to a storage-node, not to a coordinator"), "{wrong}");
    std::fs::create_dir(home.join("papers")).unwrap();
    std::fs::write(home.join("papers/thesis.tex"), "x").unwrap();
    let wrong = node_failure(home, &home.join("papers"), &archive, any);
    assert!(wrong.contains("thesis.tex lies in it"), "{wrong}");
    let dir = home.join("papers");
    let wrong = run(home, "firn-local", ["up".as_ref(), "--dir".as_ref(), dir.as_os_str()]).failure(1);
    assert!(wrong.contains("thesis.tex lies in it"), "{wrong}");

    // Another archive.
    let node = local.role("storage-node-1");
    let wrong = node_failure(home, &node, &other.dir().join("archive.firn"), any);
    assert!(wrong.contains("this node belongs to archive"), "{wrong}");
    let cache = crate::support::demo_cache().join("cache");
    let [elsewhere, key] = [other.dir().join("archive.firn"), local.dir().join("uploader.key")];
    let publish = [
        "publish".as_ref(),
        cache.as_os_str(),
        "--archive".as_ref(),
        elsewhere.as_os_str(),
        "--uploader-key".as_ref(),
        key.as_os_str(),
    ];
    let refused = run(home, "firn", publish);
    assert_eq!(refused.code, Some(1), "{}{}", refused.stdout, refused.stderr);
    let no_archive = run(home, "firn", ["status", "--archive", "/nowhere.firn"]).failure(1);
    assert!(no_archive.contains("/nowhere.firn"), "{no_archive}");

    // A marker of another node, a disk that is not mounted, a newer format.
    let marker = node.join("shards/marker");
    let own = std::fs::read(&marker).unwrap();
    std::fs::copy(local.role("storage-node-2").join("shards/marker"), &marker).unwrap();
    let foreign = node_failure(home, &node, &archive, any);
    assert!(foreign.contains("is that of another node"), "{foreign}");
    std::fs::write(&marker, own).unwrap();
    std::fs::rename(node.join("shards"), home.join("unmounted")).unwrap();
    let unmounted = node_failure(home, &node, &archive, any);
    assert!(unmounted.contains("is the disk mounted?"), "{unmounted}");
    let unmounted = local.control("start", "storage-node-1").failure(1);
    assert!(unmounted.contains("is the disk mounted?"), "{unmounted}");
    assert!(!node.join("shards").exists());
    std::fs::rename(home.join("unmounted"), node.join("shards")).unwrap();
    std::fs::write(node.join("format"), "firn-storage-node 7\n").unwrap();
    let newer = node_failure(home, &node, &archive, any);
    assert!(newer.contains("has format 7") && newer.contains("update the program"), "{newer}");
    std::fs::write(node.join("format"), "firn-storage-node 1\n").unwrap();
    assert_eq!(local.control("start", "storage-node-1").success(), "storage-node-1 runs\n");

    // Ports in use: UDP of a node and of a coordinator, TCP of a gateway.
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let listen = socket.local_addr().unwrap().to_string();
    let port = format!("UDP port {} of 127.0.0.1 is in use already", socket.local_addr().unwrap().port());
    let in_use = node_failure(home, &home.join("new-node"), &archive, &listen);
    assert!(in_use.contains(&port), "{in_use}");
    let in_use = coordinator_failure(home, &home.join("new-coordinator"), &listen);
    assert!(in_use.contains(&port), "{in_use}");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = listener.local_addr().unwrap().to_string();
    let in_use = local.firn(&["gateway", "--listen", &listen]).failure(1);
    assert!(in_use.contains("TCP port") && in_use.contains("is in use already"), "{in_use}");
}

fn coordinator_failure(home: &Path, data: &Path, listen: &str) -> String {
    let arguments = ["--bootstrap", "--listen", listen, "--data-dir", data.to_str().unwrap()];
    run(home, "firn-coordinator", arguments).failure(1)
}

#[test]
fn a_node_with_an_expired_token_is_told_and_not_admitted() {
    let local = Local::up(&["--coordinators", "1", "--storage-nodes", "1"]);
    let home = local.home();
    let data = local.role("coordinator-1");
    let create = ["token", "create", "--valid", "0s", "--data-dir", data.to_str().unwrap()];
    let token = run(home, "firn-coordinator", create).success();
    std::fs::write(home.join("token"), token).unwrap();
    let mut node = command("firn-storage-node", home);
    node.arg("--data-dir").arg(home.join("node")).arg("--archive").arg(local.dir().join("archive.firn"));
    node.arg("--token-file").arg(home.join("token")).args(["--listen", "127.0.0.1:0", "--quota", "1GB"]);
    let mut node = Running::start(&mut node, &home.join("node.log"));
    let told = node.says("does not admit this node");
    assert!(told.contains("expired at") && told.contains("for another"), "{told}");
    node.assert_alive();
    assert_eq!(node.terminate(), Some(0));
    let garbage = home.join("garbage");
    std::fs::write(&garbage, "this is no token").unwrap();
    let [data, archive] = [home.join("node"), local.dir().join("archive.firn")];
    let arguments = ["--data-dir".as_ref(), data.as_os_str(), "--archive".as_ref(), archive.as_os_str()];
    let wrong = run(
        home,
        "firn-storage-node",
        arguments.into_iter().chain(["--token-file".as_ref(), garbage.as_os_str()]),
    );
    assert_ne!(wrong.code, Some(0));
    assert!(sentence(&wrong.stderr).contains("holds no join token"), "{}", wrong.stderr);
}

#[test]
fn garbage_on_the_ports_harms_nobody() {
    let cache_place = tempfile::tempdir().unwrap();
    let cache = Cache::new(cache_place.path().join("cache"));
    cache.add(cache.entry("small-1", &noise(50_000, 5)));
    let key = cache.publisher();
    let mut local = Local::up(&["--coordinators", "1", "--storage-nodes", "4", "--publisher", &key]);
    let settings: serde_json::Value =
        serde_json::from_slice(&std::fs::read(local.dir().join("local.json")).unwrap()).unwrap();
    let ports = ["coordinators", "storage_nodes"].map(|kind| settings[kind].as_object().unwrap().clone());
    let ports: Vec<u64> = ports.iter().flatten().map(|(_, port)| port.as_u64().unwrap()).collect();
    assert_eq!(ports.len(), 5);
    let socket = UdpSocket::bind(("127.0.0.1", udp_ports(1)[0])).unwrap();
    for port in &ports {
        for seed in 0..300 {
            let mut packet = noise(1200, seed * 31 + port);
            // A third look like a first packet of QUIC version 1, a third like a later one.
            match seed % 3 {
                0 => packet[..6].copy_from_slice(&[0xc3, 0, 0, 0, 1, 8]),
                1 => packet[0] = 0x43,
                _ => packet.truncate(usize::try_from(seed).unwrap()),
            }
            socket.send_to(&packet, ("127.0.0.1", u16::try_from(*port).unwrap())).unwrap();
        }
    }
    // Connections to the gateway that do not speak HTTP.
    let address = local.url.trim_start_matches("http://");
    let mut noisy: Vec<_> = (0..20).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
    for (stream, seed) in noisy.iter_mut().zip(0..) {
        drop(stream.write_all(&noise(5000, seed)));
    }
    // Whoever holds the control socket open, or writes nonsense to it, keeps nobody from it for long.
    let control = local.dir().join("control.sock");
    let _idle = UnixStream::connect(&control).unwrap();
    UnixStream::connect(&control).unwrap().write_all(&noise(100_000, 1)).unwrap_or_default();
    assert_eq!(local.control("stop", "storage-node-1").success(), "storage-node-1 was killed\n");
    local.control("start", "storage-node-1").success();
    local.firn(&["publish", cache.path().to_str().unwrap()]).success();
    assert_served(&local.url, &path_infos(cache.path()), &key);
    local.process.as_mut().unwrap().assert_alive();
    assert_eq!(local.terminate(), Some(0));
}
