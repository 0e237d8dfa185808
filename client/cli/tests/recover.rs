//! `firn recover` on shard files made by hand.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod shard_files;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use firn_bundle::FrameCompression;
use firn_nix_format::{PathInfo, Sha256};
use serde_json::Value;
use shard_files::{
    chunked, file_nar, file_nar_of, info, log, noise, pack, pack_as, pack_spanning, verbatim, write,
};

struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn shards(&self) -> PathBuf {
        self.directory.path().join("shards")
    }

    fn output(&self) -> PathBuf {
        self.directory.path().join("cache")
    }

    fn recover(&self, more: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_firn"));
        command.arg("recover").arg(self.shards()).arg("--output").arg(self.output()).args(more);
        command.env_remove("FIRN_CONFIG").output().unwrap()
    }

    /// Recovers, and gives the summary and whether all went well.
    fn summary(&self) -> (Value, bool) {
        let output = self.recover(&["--json"]);
        let summary = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("no JSON: {}", String::from_utf8_lossy(&output.stderr)));
        (summary, output.status.success())
    }

    fn narinfo(&self, seed: u8) -> PathInfo {
        let info = info(seed, b"");
        let path = self.output().join(format!("{}.narinfo", info.store_path.hash_part()));
        PathInfo::parse(&fs::read(path).unwrap()).unwrap()
    }
}

fn flip(path: &Path, place: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[place] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn any_k_shard_files_restore_a_binary_cache() {
    let place = Place::new();
    let (one, two) = (file_nar(300_000, 1), file_nar(50_000, 2));
    let (sealed, payload) = pack(&[chunked(1, &one), verbatim(2, &two), log(3, b"built\n")]);
    write(&place.shards(), &sealed.content, &payload, 4, &[1, 5, 8, 11]);
    fs::write(place.shards().join("notes.txt"), "no shard").unwrap();
    let (summary, success) = place.summary();
    assert!(success, "{summary}");
    assert_eq!((&summary["bundles"], &summary["bundles_restored"]), (&1.into(), &1.into()));
    assert_eq!((&summary["paths"], &summary["others"]), (&2.into(), &1.into()));

    let restored = place.narinfo(1);
    assert_eq!(restored.url, format!("nar/{}.nar", Sha256::of(&one).to_base32()));
    assert_eq!((restored.compression.name(), restored.file_hash), ("none", Some(Sha256::of(&one))));
    assert_eq!(restored.fingerprint(), info(1, &one).fingerprint());
    assert_eq!(restored.signatures, info(1, &one).signatures);
    assert!(fs::read(place.output().join(restored.url)).unwrap() == one);
    let restored = place.narinfo(2);
    assert_eq!(
        (restored.url.as_str(), restored.file_hash),
        ("nar/2-as-published.nar", Some(Sha256::of(&two)))
    );
    assert!(fs::read(place.output().join(restored.url)).unwrap() == two);
    assert_eq!(fs::read(place.output().join("log/3-package.drv")).unwrap(), b"built\n");
    let cache_info = fs::read_to_string(place.output().join("nix-cache-info")).unwrap();
    assert!(cache_info.starts_with("StoreDir: /nix/store\n"), "{cache_info}");

    // Once more into the same directory: nothing is lost or doubled.
    let (again, success) = place.summary();
    assert!(success && again == summary, "{again}");
    assert_eq!(fs::read_dir(place.output().join("nar")).unwrap().count(), 2);
}

#[test]
fn a_bundle_in_lzma_comes_back() {
    let place = Place::new();
    let nar = file_nar_of(&b"the same line, over and over\n".repeat(20_000));
    let (sealed, payload) = pack_as(FrameCompression::LZMA, &[chunked(1, &nar), log(3, b"built\n")]);
    assert!(payload.len() < nar.len() / 10, "{} bytes", payload.len());
    write(&place.shards(), &sealed.content, &payload, 2, &[2, 5]);
    let (summary, success) = place.summary();
    assert!(success, "{summary}");
    assert!(fs::read(place.output().join(place.narinfo(1).url)).unwrap() == nar);
}

#[test]
fn an_object_larger_than_a_bundle_comes_back_from_its_parts() {
    let place = Place::new();
    let nar = file_nar(1_000_000, 5);
    let bundles = pack_spanning(chunked(5, &nar).0, &nar);
    assert!(bundles.len() > 3);
    for (sealed, payload) in &bundles {
        write(&place.shards(), &sealed.content, payload, 2, &[1, 4]);
    }
    let (summary, success) = place.summary();
    assert!(success, "{summary}");
    assert_eq!(summary["bundles_restored"], bundles.len());
    assert!(fs::read(place.output().join(place.narinfo(5).url)).unwrap() == nar);
}

#[test]
fn a_missing_part_is_named_and_costs_only_its_object() {
    let place = Place::new();
    let (large, small) = (file_nar(1_000_000, 5), file_nar(1_000, 6));
    let bundles = pack_spanning(chunked(5, &large).0, &large);
    for (sealed, payload) in &bundles[1..] {
        write(&place.shards(), &sealed.content, payload, 2, &[0, 1]);
    }
    let (sealed, payload) = pack(&[chunked(6, &small)]);
    write(&place.shards(), &sealed.content, &payload, 1, &[2]);
    let (summary, success) = place.summary();
    assert!(!success);
    assert_eq!((&summary["paths"], &summary["bundles_restored"]), (&1.into(), &1.into()));
    let failed = &summary["failed_objects"][0];
    assert_eq!(failed["name"], info(5, b"").store_path.to_string());
    assert!(failed["reason"].as_str().unwrap().contains("nothing is known of bundle"), "{failed}");
    assert!(fs::read(place.output().join(place.narinfo(6).url)).unwrap() == small);
}

#[test]
fn too_few_shards_are_counted_and_damaged_files_named() {
    let place = Place::new();
    let (one, two) = (file_nar(300_000, 1), file_nar(300_000, 2));
    let (lost, lost_payload) = pack(&[chunked(1, &one)]);
    write(&place.shards().join("a"), &lost.content, &lost_payload, 4, &[5, 6, 9]);
    let (whole, whole_payload) = pack(&[chunked(2, &two)]);
    let files = write(&place.shards().join("b"), &whole.content, &whole_payload, 4, &[0, 1, 2, 3, 7]);
    flip(&files[1], 4096 + 100);
    let output = place.recover(&[]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text.starts_with("restored 1 paths and 0 logs"), "{text}");
    let id = lost.content.bundle_id().short();
    assert!(text.contains(&format!("incomplete: bundle {id} has 3 of the 4 shards it needs")), "{text}");
    assert!(
        text.contains(&format!("damaged: {}: its shard does not have the root", files[1].display())),
        "{text}"
    );
    assert!(fs::read(place.output().join(place.narinfo(2).url)).unwrap() == two);
}

#[test]
fn what_is_not_what_its_path_info_promises_gets_no_name() {
    let place = Place::new();
    let (nar, forged) = (file_nar(1_000, 1), file_nar(1_000, 9));
    let (sealed, payload) = pack(&[(chunked(1, &nar).0, forged), chunked(2, &nar)]);
    write(&place.shards(), &sealed.content, &payload, 1, &[0]);
    let (summary, success) = place.summary();
    assert!(!success);
    assert!(summary["failed_objects"][0]["reason"].as_str().unwrap().contains("its hash is"), "{summary}");
    let names: Vec<_> =
        fs::read_dir(place.output().join("nar")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, [format!("{}.nar", Sha256::of(&nar).to_base32()).as_str()]);
    assert_eq!(place.narinfo(2).nar_hash, Sha256::of(&nar));
}

#[test]
fn a_directory_without_shards_ends_in_a_sentence() {
    let place = Place::new();
    fs::create_dir_all(place.shards()).unwrap();
    fs::write(place.shards().join("x"), noise(5_000, 1)).unwrap();
    let output = place.recover(&[]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), error.lines().count()), (Some(1), 1));
    assert!(error.starts_with("error: no shard file was found"), "{error}");
    assert!(!place.output().exists(), "nothing was begun");
}
