//! The ways to use a cache that its page shows, done by the real Nix to the letter: whoever copies them gets what is promised.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::fetch::get;
use crate::support::local::Local;
use crate::support::nix::{self, Client};
use crate::support::{Ended, finish, wait_for};

/// Somebody wants this, and nobody may build it.
const WANTED: &str = r#"derivation { name = "wanted"; system = builtins.currentSystem; builder = "/bin/sh";
  args = [ "-c" "echo wanted > $out" ]; }"#;

/// A cache with the above alone, signed by the key whose public half it gives, and where the path lies in stores.
fn written_by_nix(place: &Path) -> (PathBuf, String, String) {
    let [secret, public, cache] = ["secret", "public", "cache"].map(|name| place.join(name));
    let builder = Client { url: "", key: "", root: &place.join("builder"), settings: "", authorities: None };
    let made =
        ["--generate-binary-cache-key", "nix-test-1", secret.to_str().unwrap(), public.to_str().unwrap()];
    builder.run("nix-store", &made).success();
    let built = builder.run("nix", &["build", "--impure", "--no-link", "--json", "--expr", WANTED]).success();
    let built: serde_json::Value = serde_json::from_str(&built).unwrap();
    let path = built[0]["outputs"]["out"].as_str().unwrap().to_owned();
    let to = format!("file://{}?secret-key={}", cache.display(), secret.display());
    builder.run("nix", &["copy", "--to", &to, &path]).success();
    (cache, std::fs::read_to_string(public).unwrap(), path)
}

/// What the page at `url` shows to be copied, in its order.
fn shown_on_page(url: &str) -> Vec<String> {
    let page = get(url);
    assert_eq!(page.status, 200);
    let page = String::from_utf8(page.body).unwrap();
    let blocks = page.split("<pre><code>").skip(1).map(|block| block.split_once("</code></pre>").unwrap().0);
    let blocks: Vec<String> = blocks.map(str::to_owned).collect();
    assert!(!blocks.iter().any(|block| block.contains(['<', '&'])), "it reads as it is written: {blocks:?}");
    blocks
}

/// A machine with Nix that trusts `key` and has no cache but those which its `/etc/nix/nix.conf` goes on to name.
struct Machine {
    root: PathBuf,
}

impl Machine {
    fn new(root: &Path, key: &str, more_settings: &str) -> Self {
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::create_dir_all(root.join("home")).unwrap();
        let settings = format!(
            "substituters =\ntrusted-public-keys = {}\nrequire-sigs = true\nmax-jobs = 0\nsandbox = false\n\
             build-users-group =\nnarinfo-cache-negative-ttl = 0\n{more_settings}\n",
            key.trim()
        );
        std::fs::write(root.join("etc/nix.conf"), settings).unwrap();
        Self { root: root.to_owned() }
    }

    fn store(&self) -> String {
        format!("local?root={}", self.root.join("store").display())
    }

    fn has(&self, path: &str) -> bool {
        self.root.join("store").join(&path[1..]).symlink_metadata().is_ok()
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(&self.root)
            .env("HOME", self.root.join("home"))
            .env("XDG_CACHE_HOME", self.root.join("home/cache"))
            .env("NIX_CONF_DIR", self.root.join("etc"))
            .env("NIX_STATE_DIR", self.root.join("state"))
            .env("NIX_DAEMON_SOCKET_PATH", self.root.join("socket"))
            .env("NIX_REMOTE", self.store())
            .env_remove("NIX_CONFIG")
            .env_remove("NIX_USER_CONF_FILES")
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("XDG_CONFIG_DIRS")
            .env_remove("NIX_PATH");
        command
    }

    /// What somebody types.
    fn shell(&self, line: &str) -> Ended {
        finish(self.command("sh").args(["-c", line]))
    }

    /// What somebody types who is nobody of note on a machine where a daemon keeps the store.
    fn shell_of_untrusted_user(&self, line: &str) -> Ended {
        finish(self.command("sh").args(["-c", line]).env("NIX_REMOTE", "daemon"))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // A store is read-only: without this its directory could not be removed.
        drop(Command::new("chmod").args(["-R", "u+w"]).arg(&self.root).status());
    }
}

/// The daemon of a machine, until it is dropped.
struct Daemon(std::process::Child);

impl Daemon {
    fn start(machine: &Machine) -> Self {
        let log = std::fs::File::create(machine.root.join("daemon.log")).unwrap();
        let mut command = machine.command("nix-daemon");
        let daemon = Self(command.stderr(log).spawn().unwrap());
        wait_for("the daemon listens", || UnixStream::connect(machine.root.join("socket")).ok());
        daemon
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn what_the_page_shows_works_when_it_is_copied() {
    if !nix::is_there() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let (cache, key, path) = written_by_nix(place.path());
    let local = Local::up(&["--coordinators", "1", "--storage-nodes", "3", "--publisher", key.trim()]);
    local.firn(&["publish", cache.to_str().unwrap()]).success();
    let shown = shown_on_page(&local.url);
    let [once, for_all, allowed, by_user, in_jobs] = &shown[..] else { panic!("{shown:?}") };
    let machine =
        |name: &str, more_settings: &str| Machine::new(&place.path().join(name), &key, more_settings);
    let realise = format!("nix-store -r {path}");

    let bare = machine("bare", "");
    assert_ne!(bare.shell(&realise).code, Some(0), "it comes from nowhere else");
    assert!(once.ends_with(" /nix/store/…"), "{once}");
    let once = once.replace("/nix/store/…", &path);
    bare.shell(&once).success();
    assert!(bare.has(&path));

    let configured = machine("configured", for_all);
    configured.shell(&realise).success();
    assert!(configured.has(&path));

    let in_a_job = machine("in-a-job", "");
    in_a_job.shell(&format!("{in_jobs}\n{realise}")).success();
    assert!(in_a_job.has(&path));

    // Whoever is not trusted gets what the machine allows, and nothing where it does not.
    assert!(by_user.starts_with("nix-build ") && by_user.ends_with(" …"), "{by_user}");
    let expression = place.path().join("wanted.nix");
    std::fs::write(&expression, WANTED).unwrap();
    let by_user = by_user.replace('…', &format!("--no-out-link {}", expression.display()));
    for (name, setting, succeeds) in [("shared", allowed.as_str(), true), ("closed", "", false)] {
        let machine = machine(name, &format!("trusted-users =\n{setting}"));
        let _daemon = Daemon::start(&machine);
        let ended = machine.shell_of_untrusted_user(&by_user);
        assert_eq!((ended.code == Some(0), machine.has(&path)), (succeeds, succeeds), "{name}: {ended:?}");
        let is_ignored = ended.stderr.contains("ignoring untrusted substituter");
        assert_eq!(is_ignored, !succeeds, "{name}: {ended:?}");
        // What is copied once needs nobody's leave.
        machine.shell_of_untrusted_user(&once).success();
        assert!(machine.has(&path), "{name}");
    }
}
