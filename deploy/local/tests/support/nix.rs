//! The real Nix client, where there is one.

use std::path::Path;
use std::process::Command;

use super::finish;

/// Whether `nix` can be run here.
pub fn is_there() -> bool {
    Command::new("nix").arg("--version").output().is_ok_and(|output| output.status.success())
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
