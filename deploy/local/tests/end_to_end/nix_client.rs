//! The real Nix client against a gateway: every command that reads a cache, of both bases, in both compressions; and what
//! Nix itself writes of content-addressed derivations and debug information.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::support::cache::{Cache, noise};
use crate::support::fetch::{get, path_infos};
use crate::support::local::Local;
use crate::support::nix::{self, Client};
use crate::support::{Running, command, demo_cache, demo_key, tcp_port, wait_for};
use firn_nix_format::PathInfo;

/// A gateway of its own for the archive, with these flags, and its URL.
fn gateway(local: &Local, flags: &[&str]) -> (Running, String) {
    let address = format!("127.0.0.1:{}", tcp_port());
    let mut gateway = command("firn", local.home());
    gateway.arg("--config").arg(local.dir().join("firn.toml"));
    gateway.args(["gateway", "--listen", &address]).args(flags);
    let mut running =
        Running::start(&mut gateway, &local.home().join(format!("gateway{}.log", flags.concat())));
    let url = format!("http://{address}");
    wait_for("the gateway is ready", || {
        running.assert_alive();
        running.messages().contains("gateway listens").then(|| get(&format!("{url}/readyz")))
    });
    (running, url)
}

/// Everything that Nix reads from the cache at `url`; its narinfos say `compression`.
#[track_caller]
fn assert_nix_reads(url: &str, compression: &str, published: &BTreeMap<String, PathInfo>, key: &str) {
    let place = tempfile::tempdir().unwrap();
    let client = Client { url, key, root: place.path(), settings: "", authorities: None };
    let paths: Vec<String> = published.values().map(|info| info.store_path.to_string()).collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    let named = |name: &str| {
        published.values().find(|info| info.store_path.name() == name).expect("the demo's cache has it")
    };

    let said = client.run("nix", &[&["path-info", "--json", "--store", url], &paths[..]].concat()).success();
    let infos: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(infos.as_array().unwrap().len(), paths.len());
    for info in infos.as_array().unwrap() {
        let served = info["url"].as_str().unwrap();
        assert_eq!(served.ends_with(".nar.zst"), compression == "zstd", "{info}");
        assert_eq!(info["signatures"].as_array().unwrap().len(), 1, "{info}");
    }
    client.run("nix", &[&["store", "verify", "--store", url], &paths[..]].concat()).success();

    // The new way into one store, the old one into another.
    let copied = place.path().join("copied");
    let store = format!("local?root={}", copied.display());
    client.run("nix", &[&["copy", "--from", url, "--to", &store], &paths[..]].concat()).success();
    client.run("nix-store", &[&["-r"], &paths[..]].concat()).success();
    for info in published.values() {
        let path = info.store_path.to_string();
        assert!(copied.join(&path[1..]).symlink_metadata().is_ok(), "{path} was not copied");
        assert!(client.place(&path).symlink_metadata().is_ok(), "{path} was not realised");
    }
    for store in [store, client.store()] {
        client.run("nix", &[&["store", "verify", "--store", &store], &paths[..]].concat()).success();
    }

    let many = named("many-files-1").store_path.to_string();
    let listed = client.run("nix", &["store", "ls", "--recursive", "--store", url, &many]).success();
    let names = listed.lines().map(|line| line.trim_start_matches("./"));
    let file = names.filter(|name| !name.is_empty()).find(|name| client.place(&many).join(name).is_file());
    let file = file.unwrap_or_else(|| panic!("no file in\n{listed}"));
    let shown = client.run("nix", &["store", "cat", "--store", url, &format!("{many}/{file}")]).success();
    assert_eq!(shown.as_bytes(), std::fs::read(client.place(&many).join(file)).unwrap());

    // The derivation itself is nowhere: Nix finds its name by the output.
    let script = named("script-1");
    let deriver = script.deriver.clone().unwrap();
    let log = client.run("nix", &["log", &script.store_path.to_string()]).success();
    let kept = std::fs::read(demo_cache().join("cache/log").join(deriver.base_name())).unwrap();
    assert_eq!(log.as_bytes(), kept);

    let absent = format!("/nix/store/{}-absent-1", "0".repeat(32));
    let refused = client.run("nix", &["path-info", "--store", url, &absent]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("is not valid"), "{}", refused.stderr);
    for info in published.values() {
        let narinfo = get(&format!("{url}/{}.narinfo", info.store_path.hash_part()));
        assert_eq!(PathInfo::parse(&narinfo.body).unwrap().compression.name(), compression);
    }
}

#[test]
fn nix_reads_everything_from_both_bases_in_both_compressions() {
    if !nix::is_there() {
        return;
    }
    let key = demo_key();
    let local = Local::up(&["--coordinators", "1", "--storage-nodes", "3", "--publisher", key.trim()]);
    let cache = demo_cache().join("cache");
    let published = path_infos(&cache);
    local.firn(&["publish", cache.to_str().unwrap()]).success();

    let (zstd, url) = gateway(&local, &["--nar-compression=zstd"]);
    assert_nix_reads(&url, "zstd", &published, &key);
    assert_nix_reads(&format!("{url}/plain"), "none", &published, &key);
    assert_eq!(zstd.terminate(), Some(0));
    // On loopback nothing is compressed unless it is asked for.
    assert_nix_reads(&local.url, "none", &published, &key);
    assert_nix_reads(&format!("{}/plain", local.url), "none", &published, &key);
}

#[test]
fn nix_reads_over_tls_from_whoever_it_believes_and_from_nobody_else() {
    if !nix::is_there() {
        return;
    }
    let key = demo_key();
    let local = Local::up(&["--coordinators", "1", "--storage-nodes", "3", "--publisher", key.trim()]);
    let cache = demo_cache().join("cache");
    local.firn(&["publish", cache.to_str().unwrap()]).success();
    let published = path_infos(&cache);
    let paths: Vec<String> = published.values().map(|info| info.store_path.to_string()).collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();

    let [certificate, secret] = ["certificate.pem", "key.pem"].map(|name| local.home().join(name));
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&secret, made.signing_key.serialize_pem()).unwrap();
    let port = tcp_port();
    let mut program = command("firn", local.home());
    program.arg("--config").arg(local.dir().join("firn.toml"));
    program.args(["gateway", "--listen", &format!("127.0.0.1:{port}"), "--nar-compression=zstd"]);
    program.arg("--tls-certificate").arg(&certificate).arg("--tls-key").arg(&secret);
    let mut running = Running::start(&mut program, &local.home().join("gateway-tls.log"));
    wait_for("the gateway listens", || {
        running.assert_alive();
        running.messages().contains("gateway listens on https://").then_some(())
    });

    let url = format!("https://localhost:{port}");
    let place = tempfile::tempdir().unwrap();
    let client = |name, authorities| {
        let root = place.path().join(name);
        let settings = "download-attempts = 1";
        let client = Client { url: &url, key: &key, root: &root, settings, authorities };
        let realised = client.run("nix-store", &[&["-r"], &paths[..]].concat());
        let verified =
            client.run("nix", &[&["store", "verify", "--store", &client.store()], &paths[..]].concat());
        (realised.code, verified.code)
    };
    assert_eq!(client("believes", Some(certificate.as_path())), (Some(0), Some(0)));
    let (realised, _) = client("does-not", None);
    assert_ne!(realised, Some(0), "nobody vouches for this certificate");
    assert_eq!(running.terminate(), Some(0));
}

/// Takes one of those that are left, if any is.
fn take_one(left: &AtomicUsize) -> bool {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
}

/// A line to the server at `address` that breaks as often as `breaks` says, each time amid a large answer. Gives where it
/// begins, and what goes over it, head by head.
fn bad_line(address: String, breaks: usize) -> (String, Arc<Mutex<Vec<String>>>) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    let (url, heads) = (format!("http://{}", port.local_addr().unwrap()), Arc::new(Mutex::new(Vec::new())));
    let (asked, left) = (Arc::clone(&heads), Arc::new(AtomicUsize::new(breaks)));
    std::thread::spawn(move || {
        while let Ok((client, _)) = port.accept() {
            let server = TcpStream::connect(&address).unwrap();
            let (mut from_client, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            let asked = Arc::clone(&asked);
            std::thread::spawn(move || {
                let mut piece = [0; 16 << 10];
                while let Ok(bytes @ 1..) = from_client.read(&mut piece) {
                    asked.lock().unwrap().push(String::from_utf8_lossy(&piece[..bytes]).into_owned());
                    if to_server.write_all(&piece[..bytes]).is_err() {
                        break;
                    }
                }
                drop(to_server.shutdown(std::net::Shutdown::Both));
            });
            let (left, mut from_server, mut to_client) = (Arc::clone(&left), server, client);
            std::thread::spawn(move || {
                let (mut piece, mut went) = ([0; 16 << 10], 0);
                while let Ok(bytes @ 1..) = from_server.read(&mut piece) {
                    went += bytes;
                    if went > 3_000_000 && take_one(&left) {
                        break;
                    }
                    if to_client.write_all(&piece[..bytes]).is_err() {
                        break;
                    }
                }
                drop(to_client.shutdown(std::net::Shutdown::Both));
            });
        }
    });
    (url, heads)
}

#[test]
fn nix_goes_on_with_a_broken_download_where_it_was_compressed_or_not() {
    if !nix::is_there() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let cache = Cache::new(place.path().join("cache"));
    cache.add(cache.entry("large-1", &noise(20_000_000, 1)));
    let key = cache.publisher();
    let local = Local::up(&["--coordinators", "1", "--storage-nodes", "3", "--publisher", &key]);
    local.firn(&["publish", cache.path().to_str().unwrap()]).success();
    let (_gateway, url) = gateway(&local, &["--nar-compression=zstd"]);
    for (base, name) in [("", ".nar.zst"), ("/plain", ".nar")] {
        let (line, heads) = bad_line(url["http://".len()..].to_owned(), 3);
        let root = place.path().join(name);
        let client =
            Client { url: &format!("{line}{base}"), key: &key, root: &root, settings: "", authorities: None };
        let path = crate::support::cache::store_path("large-1").to_string();
        client.run("nix-store", &["-r", &path]).success();
        client.run("nix", &["store", "verify", "--store", &client.store(), &path]).success();
        let heads = heads.lock().unwrap().join("\n").to_lowercase();
        let asked = heads.matches(&format!("{name} http/1.1")).count();
        assert_eq!((asked, heads.matches("\nrange: bytes=").count()), (4, 3), "{heads}");
    }
}

/// Realised by what it contains.
const BY_CONTENT: &str = r#"derivation { name = "by-content"; system = builtins.currentSystem; builder = "/bin/sh";
  args = [ "-c" "echo realised > $out" ];
  __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; }"#;

const BUILD_ID: &str = "ab00112233445566778899aabbccddeeff001122";

/// Debug information of one program, where nixpkgs puts it.
const DEBUG: &str = r#"derivation { name = "thing-debug"; system = builtins.currentSystem; builder = "/bin/sh";
  args = [ "-c" "d=$out/lib/debug/.build-id/ab; /bin/mkdir -p $d
    echo symbols > $d/00112233445566778899aabbccddeeff001122.debug" ]; }"#;

/// A cache that Nix writes, with both of the above, signed by the key whose public half it gives.
fn written_by_nix(place: &Path) -> (std::path::PathBuf, String) {
    let [secret, public, cache] = ["secret", "public", "cache"].map(|name| place.join(name));
    let settings = format!("secret-key-files = {}", secret.display());
    let builder =
        Client { url: "", key: "", root: &place.join("builder"), settings: &settings, authorities: None };
    let made =
        ["--generate-binary-cache-key", "nix-test-1", secret.to_str().unwrap(), public.to_str().unwrap()];
    builder.run("nix-store", &made).success();
    let to = format!("file://{}?secret-key={}&index-debug-info=true", cache.display(), secret.display());
    for expression in [BY_CONTENT, DEBUG] {
        builder.run("nix", &["build", "--impure", "--no-link", "--expr", expression]).success();
        builder.run("nix", &["copy", "--impure", "--to", &to, "--expr", expression]).success();
    }
    (cache, std::fs::read_to_string(public).unwrap())
}

#[test]
fn content_addressed_outputs_and_debug_information_are_found_by_those_who_look_for_them() {
    if !nix::is_there() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let (cache, key) = written_by_nix(place.path());
    let local = Local::up(&["--coordinators", "1", "--storage-nodes", "3", "--publisher", key.trim()]);
    let summary = local.json(&["publish", cache.to_str().unwrap()]);
    // With the feature on, Nix writes one for what is named by its inputs, too.
    let realisations = std::fs::read_dir(cache.join("realisations")).unwrap().count();
    assert!(realisations >= 1);
    assert_eq!(
        (&summary["paths_published"], &summary["realisations_published"]),
        (&2.into(), &realisations.into())
    );
    assert_eq!(summary["debuginfo_published"], 1, "{summary}");

    // Nothing may be built here: that the output is known at all comes from the realisation.
    let root = place.path().join("client");
    let client =
        Client { url: &local.url, key: &key, root: &root, settings: "max-jobs = 0", authorities: None };
    let built = ["build", "--impure", "--no-link", "--json", "--expr", BY_CONTENT];
    let said: serde_json::Value = serde_json::from_str(&client.run("nix", &built).success()).unwrap();
    let out = said[0]["outputs"]["out"].as_str().unwrap();
    assert_eq!(std::fs::read_to_string(client.place(out)).unwrap(), "realised\n");

    // What a debugger's file system asks for: a link, then the archive that it names.
    for url in [format!("debuginfo/{BUILD_ID}"), format!("debuginfo/{BUILD_ID}.debug")] {
        let link = get(&format!("{}/{url}", local.url));
        let link: serde_json::Value = serde_json::from_slice(&link.body).unwrap();
        let member = format!("lib/debug/.build-id/ab/{}.debug", &BUILD_ID[2..]);
        assert_eq!(link["member"], member.as_str());
        let archive = link["archive"].as_str().unwrap().strip_prefix("../").unwrap().to_owned();
        let nar = get(&format!("{}/{archive}", local.url));
        assert_eq!(nar.status, 200, "{archive}");
        assert!(nar.body.windows(8).any(|window| window == b"symbols\n"));
    }
}

/// A derivation whose output is what this shell command prints.
fn printed(name: &str, command: &str) -> String {
    format!(
        "derivation {{ name = \"{name}\"; system = builtins.currentSystem; builder = \"/bin/sh\"; \
         args = [ \"-c\" \"{command} > $out\" ]; }}"
    )
}

#[test]
fn the_very_files_that_nix_published_are_made_again_where_their_recipes_are_kept() {
    if !nix::is_there() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let [secret, public, cache] = ["secret", "public", "cache"].map(|name| place.path().join(name));
    let (root, no_cache) = (place.path().join("builder"), "");
    let builder = Client { url: no_cache, key: no_cache, root: &root, settings: no_cache, authorities: None };
    let made =
        ["--generate-binary-cache-key", "nix-test-1", secret.to_str().unwrap(), public.to_str().unwrap()];
    builder.run("nix-store", &made).success();
    // The first is of more than the 8 MiB of a window of xz, and is read on several threads.
    for (compression, name, command) in [
        ("xz", "large-xz", "/usr/bin/seq 1300000"),
        ("xz", "small-xz", "/usr/bin/seq 2000"),
        ("bzip2", "large-bzip2", "/usr/bin/seq 2 1300000"),
        ("zstd", "small-zstd", "/usr/bin/seq 3000"),
        ("none", "small-bare", "/usr/bin/seq 4000"),
    ] {
        let expression = printed(name, command);
        let to =
            format!("file://{}?secret-key={}&compression={compression}", cache.display(), secret.display());
        builder.run("nix", &["build", "--impure", "--no-link", "--expr", &expression]).success();
        builder.run("nix", &["copy", "--impure", "--to", &to, "--expr", &expression]).success();
    }
    let key = std::fs::read_to_string(public).unwrap();
    let local = Local::up(&["--coordinators", "1", "--storage-nodes", "3", "--publisher", key.trim()]);
    let summary = local.json(&["publish", "--keep-recipes", cache.to_str().unwrap()]);
    assert_eq!(summary["paths_published"], 5, "{summary}");
    assert_eq!((&summary["recipes_tried"], &summary["recipes_kept"]), (&3.into(), &3.into()), "{summary}");
    let stats = local.json(&["stats", "--by", "total"]);
    assert_eq!(stats["total"]["recipes"], 3, "{stats}");

    let output = local.home().join("published");
    let words = ["export", "--all", "--as-published", "--json", "--to", output.to_str().unwrap()];
    let published = path_infos(&cache);
    let assert_exported = |kept: u64| {
        let ended = local.firn(&words);
        let said: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
        assert_eq!((ended.code, &said["kept"]), (Some(1), &kept.into()), "{said}");
        assert_eq!(
            (&said["missing_total"], &said["missing"][0]["state"]),
            (&1.into(), &"not-as-published".into())
        );
        assert!(ended.stderr.contains("and not the file that was published"), "{}", ended.stderr);
        for (hash, info) in &published {
            let read = |cache: &Path, name: &str| std::fs::read(cache.join(name)).ok();
            let is_there = info.compression.name() != "zstd";
            for name in [&info.url, &format!("{hash}.narinfo")] {
                let expected = read(&cache, name).filter(|_| is_there);
                assert!(read(&output, name) == expected, "{name} of {}", info.store_path);
            }
        }
    };
    assert_exported(0);
    assert_exported(4);
    let sound: Vec<&PathInfo> = published.values().filter(|info| info.compression.name() != "zstd").collect();
    let paths: Vec<String> = sound.iter().map(|info| info.store_path.to_string()).collect();
    nix::verify(&format!("file://{}", output.display()), &key, &paths, &local.home().join("verify-home"));

    // What lies there as another file makes room.
    let large = sound.iter().find(|info| info.store_path.name() == "large-xz").unwrap();
    std::fs::remove_dir_all(&output).unwrap();
    let path = large.store_path.to_string();
    let to = output.to_str().unwrap();
    local.firn(&["get", &path, "--output", to]).success();
    assert_eq!(path_infos(&output).values().next().unwrap().compression.name(), "none");
    let got = local.json(&["get", &path, "--as-published", "--output", to]);
    assert_eq!((&got["paths"], &got["replaced"]), (&1.into(), &0.into()), "{got}");
    let file = std::fs::read(cache.join(&large.url)).unwrap();
    assert!(std::fs::read(output.join(&large.url)).unwrap() == file);
    let again = local.json(&["get", &path, "--as-published", "--output", to]);
    assert_eq!((&again["kept"], &again["paths"]), (&1.into(), &0.into()), "{again}");
}
