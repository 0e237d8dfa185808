//! A NAR of 1 GiB that nothing compresses: it spans bundles, and neither publisher nor gateway ever holds it.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::time::Duration;

use crate::support::cache::{Cache, Entry, info_of, store_path};
use crate::support::local::Local;
use crate::support::{Running, command, tcp_port, wait_for};
use firn_nix_format::{PathInfo, Sha256, VerifyingReader, nar};
use sha2::Digest;

const CONTENT_BYTES: u64 = 1 << 30;

/// Half of the NAR: whoever stays below did not hold it.
const MEMORY_BYTES_MAX: u64 = CONTENT_BYTES / 2;

/// Hashes what it passes on.
struct Hashing<W> {
    inner: W,
    hash: sha2::Sha256,
    bytes: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.hash.update(&buffer[..written]);
        self.bytes += u64::try_from(written).unwrap();
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Writes the NAR of one file of noise into the cache and signs its path.
fn add_large(cache: &Cache) -> PathInfo {
    let store_path = store_path("noise-1");
    let url = format!("nar/{}.nar", store_path.hash_part());
    let file = BufWriter::new(File::create(cache.path().join(&url)).unwrap());
    let mut out = Hashing { inner: file, hash: sha2::Sha256::new(), bytes: 0 };
    let mut noise = blake3::Hasher::new().finalize_xof().take(CONTENT_BYTES);
    nar::encode_file(&mut out, &mut noise, CONTENT_BYTES, false).unwrap();
    out.flush().unwrap();
    let nar_hash = Sha256::from_bytes(out.hash.finalize().into());
    let info = info_of(store_path, nar_hash, out.bytes);
    cache.add(Entry { info: info.clone(), file: None });
    info
}

/// The most memory that a process held so far; none once it has ended.
fn peak_bytes(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[test]
fn a_nar_of_one_gibibyte_is_published_and_served_in_bounded_memory() {
    let place = tempfile::tempdir().unwrap();
    let cache = Cache::new(place.path().join("cache"));
    let info = add_large(&cache);
    let publisher = cache.publisher();
    let local = Local::up(&["--coordinators", "1", "--storage-nodes", "6", "--publisher", &publisher]);
    let config = local.dir().join("firn.toml");

    let mut publish = command("firn", local.home());
    publish.arg("--config").arg(&config).arg("publish").arg(cache.path());
    let mut publish = Running::start(&mut publish, &local.home().join("publish.log"));
    let mut peak = 0;
    let status = loop {
        peak = peak.max(peak_bytes(publish.id()).unwrap_or(0));
        match publish.ended() {
            Some(status) => break status,
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    assert!(status.success(), "{}", publish.messages());
    assert!(peak > 0 && peak < MEMORY_BYTES_MAX, "the publisher held {peak} bytes");
    // What was published is not needed any more.
    fs::remove_file(cache.path().join(&info.url)).unwrap();

    let bundles = local.firn(&["bundle", "list", "--json"]).success();
    let bundles: serde_json::Value = serde_json::from_str(&bundles).unwrap();
    assert!(bundles.as_array().unwrap().len() > 4, "it spans bundles: {bundles}");

    let listen = format!("127.0.0.1:{}", tcp_port());
    let mut gateway = command("firn", local.home());
    gateway.arg("--config").arg(&config).args(["gateway", "--memory-cache", "64MB", "--listen", &listen]);
    let mut gateway = Running::start(&mut gateway, &local.home().join("gateway.log"));
    let url =
        format!("http://{listen}/nar/{}-{}.nar", info.store_path.hash_part(), info.nar_hash.to_base32());
    let agent: ureq::Agent =
        ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(300))).build().into();
    let response = wait_for("the gateway serves", || {
        gateway.assert_alive();
        agent.get(&url).call().ok()
    });
    let mut nar = VerifyingReader::new(response.into_body().into_reader(), info.nar_hash, info.nar_size);
    io::copy(&mut nar, &mut io::sink()).unwrap();
    nar.finish().unwrap();
    let peak = peak_bytes(gateway.id()).unwrap();
    assert!(peak < MEMORY_BYTES_MAX, "the gateway held {peak} bytes");
}
