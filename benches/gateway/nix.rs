//! The real Nix client.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use firn_benches::process::{Failure, output};

/// How long `nix copy` takes to copy the closures of `paths` from the cache at `from` into an empty store below
/// `directory`, which is removed afterwards.
pub(crate) fn copy(
    from: SocketAddr,
    key: &str,
    paths: &[String],
    directory: &Path,
) -> Result<Duration, Failure> {
    let (home, store) = (directory.join("home"), directory.join("store"));
    fs::create_dir_all(&home)?;
    let settings = format!(
        "experimental-features = nix-command\nsubstituters =\nrequire-sigs = true\ntrusted-public-keys = {key}\n"
    );
    let mut nix = Command::new("nix");
    nix.args(["copy", "--from", &format!("http://{from}"), "--to"])
        .arg(format!("local?root={}", store.display()))
        .args(paths)
        .env("HOME", &home)
        .env("XDG_CACHE_HOME", home.join("cache"))
        .env("NIX_REMOTE", "")
        .env("NIX_CONFIG", settings);
    let began = Instant::now();
    output(&mut nix)?;
    let took = began.elapsed();
    // A store is read-only: without this its directory could not be removed.
    output(Command::new("chmod").args(["-R", "u+w"]).arg(directory))?;
    fs::remove_dir_all(directory)?;
    Ok(took)
}
