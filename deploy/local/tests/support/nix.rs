//! The real Nix client, where there is one. With `FIRN_TEST_NIX=required` there has to be one.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Ended, finish};

/// Whether `nix` can be run here; where it cannot, that is said, and is a failure if it must be there.
#[track_caller]
pub fn is_there() -> bool {
    let is_there = Command::new("nix").arg("--version").output().is_ok_and(|output| output.status.success());
    if !is_there {
        assert_ne!(
            std::env::var("FIRN_TEST_NIX").as_deref(),
            Ok("required"),
            "`nix` cannot be run here: install Nix (Debian: nix-bin), or unset FIRN_TEST_NIX"
        );
        // Not by a macro: of a test that does not fail nobody would see it.
        let place = std::panic::Location::caller();
        let said = writeln!(
            io::stderr(),
            "NOT TESTED: what {place} wants of the real Nix: `nix` cannot be run here"
        );
        said.expect("messages can be written");
    }
    is_there
}

/// `nix copy` of `paths` from the cache at `url` into the empty store below `root`, signatures required.
#[track_caller]
pub fn copy(url: &str, key: &str, paths: &[String], root: &Path) {
    let home = root.join("home");
    std::fs::create_dir_all(&home).expect("there is room for temporary files");
    let config = format!(
        "experimental-features = nix-command\nsubstituters =\nrequire-sigs = true\ntrusted-public-keys = {}\n",
        key.trim()
    );
    let mut nix = Command::new("nix");
    nix.args(["copy", "--from", url, "--to"])
        .arg(format!("local?root={}", root.join("store").display()))
        .args(paths)
        .env("HOME", &home)
        .env("XDG_CACHE_HOME", home.join("cache"))
        .env("NIX_REMOTE", "")
        .env("NIX_CONFIG", config);
    finish(&mut nix).success();
    for path in paths {
        let copied = root.join("store").join(path.trim_start_matches('/'));
        assert!(copied.symlink_metadata().is_ok(), "{} is missing", copied.display());
    }
    // A store is read-only: without this its directory could not be removed.
    Command::new("chmod").args(["-R", "u+w"]).arg(root).status().expect("there is `chmod`");
}

/// Builds a trivial derivation called `name` in the empty store below `root`, with the cache at `url` as the only
/// substituter, if there is one.
#[track_caller]
pub fn build(name: &str, url: Option<&str>, root: &Path) {
    let home = root.join("home");
    std::fs::create_dir_all(&home).expect("there is room for temporary files");
    let expression = format!(
        "derivation {{ name = \"{name}\"; system = builtins.currentSystem; builder = \"/bin/sh\"; \
         args = [ \"-c\" \"echo private > $out\" ]; }}"
    );
    // Never name /etc here: Nix makes mount points of its own for hosts and resolv.conf and so empties the host's.
    let config = format!(
        "substituters = {}\nsandbox = true\nsandbox-paths = /bin /usr /lib /lib64\nbuild-users-group =\n",
        url.unwrap_or_default()
    );
    let mut nix = Command::new("nix-build");
    nix.args(["--no-out-link", "--expr", &expression])
        .env("HOME", &home)
        .env("XDG_CACHE_HOME", home.join("cache"))
        .env("NIX_REMOTE", format!("local?root={}", root.join("store").display()))
        .env("NIX_CONFIG", config)
        .env_remove("NIX_PATH");
    let built = finish(&mut nix).success();
    assert!(built.trim().ends_with(name), "{built}");
    Command::new("chmod").args(["-R", "u+w"]).arg(root).status().expect("there is `chmod`");
}

/// `nix store verify` of `paths` in the binary cache at `url`: contents and signatures.
#[track_caller]
pub fn verify(url: &str, key: &str, paths: &[String], home: &Path) {
    std::fs::create_dir_all(home).expect("there is room for temporary files");
    let config = format!("experimental-features = nix-command\ntrusted-public-keys = {}\n", key.trim());
    let mut nix = Command::new("nix");
    nix.args(["store", "verify", "--store", url, "--sigs-needed", "1"])
        .args(paths)
        .env("HOME", home)
        .env("XDG_CACHE_HOME", home.join("cache"))
        .env("NIX_REMOTE", "")
        .env("NIX_CONFIG", config);
    finish(&mut nix).success();
}

/// Nix with a store, a home and settings of its own, whose only substituter is the cache at `url`.
pub struct Client<'a> {
    pub url: &'a str,
    /// The key that the cache's paths must be signed with.
    pub key: &'a str,
    /// Where its store and home are made.
    pub root: &'a Path,
    /// More lines of its configuration.
    pub settings: &'a str,
    /// The file with whoever's certificates it believes, if not those of its machine.
    pub authorities: Option<&'a Path>,
}

impl Client<'_> {
    /// Runs one of Nix's programs to its end.
    #[track_caller]
    pub fn run(&self, program: &str, arguments: &[&str]) -> Ended {
        let home = self.root.join("home");
        std::fs::create_dir_all(&home).expect("there is room for temporary files");
        // What a gateway answers is asked of it each time. (`build` says what never to put into sandbox-paths.)
        let config = format!(
            "experimental-features = nix-command ca-derivations\nsubstituters = {}\ntrusted-public-keys = {}\n\
             require-sigs = true\nnarinfo-cache-positive-ttl = 0\nnarinfo-cache-negative-ttl = 0\n\
             sandbox = true\nsandbox-paths = /bin /usr /lib /lib64\nbuild-users-group =\n{}\n",
            self.url,
            self.key.trim(),
            self.settings
        );
        let mut nix = Command::new(program);
        nix.args(arguments)
            .env("HOME", &home)
            .env("XDG_CACHE_HOME", home.join("cache"))
            .env("NIX_REMOTE", self.store())
            .env("NIX_CONFIG", config)
            .env_remove("NIX_PATH");
        if let Some(authorities) = self.authorities {
            nix.env("NIX_SSL_CERT_FILE", authorities);
        }
        finish(&mut nix)
    }

    /// Its own store.
    pub fn store(&self) -> String {
        format!("local?root={}", self.root.join("store").display())
    }

    /// Where a path lies once it is in the store.
    pub fn place(&self, path: &str) -> PathBuf {
        self.root.join("store").join(path.trim_start_matches('/'))
    }
}

impl Drop for Client<'_> {
    fn drop(&mut self) {
        // A store is read-only: without this its directory could not be removed.
        drop(Command::new("chmod").args(["-R", "u+w"]).arg(self.root).status());
    }
}
