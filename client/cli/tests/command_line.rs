//! Exit codes, sentences and streams of the whole program.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use firn_base::{NodeId, Timestamp};
use firn_wire::{CoordinatorEntry, Descriptor, Identity, Roster, Signed};

fn firn(words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_firn"));
    for name in ["FIRN_CONFIG", "FIRN_ARCHIVE", "FIRN_UPLOADER_KEY", "XDG_STATE_HOME", "HOME"] {
        command.env_remove(name);
    }
    command.args(words).output().unwrap()
}

fn sentence(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(text.lines().count(), 1, "one sentence: {text}");
    text
}

/// The descriptor of an archive whose only coordinator listens nowhere.
fn descriptor(place: &Path) -> String {
    let key = Identity::from_seed(&[1; 32]);
    let coordinators = vec![CoordinatorEntry {
        id: NodeId::from_bytes([2; 32]),
        raft_id: 1,
        address: "127.0.0.1:1".to_owned(),
    }];
    let archive = key.public().into();
    let roster =
        Roster { archive, generation: 1, issued: Timestamp::from_millis(1), coordinators, retired: vec![] };
    let path = place.join("archive.firn");
    let descriptor = Descriptor { archive, roster: Signed::seal(&key, archive, &roster) };
    std::fs::write(&path, descriptor.to_string()).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn wrong_usage_ends_with_code_2() {
    for words in [&["frobnicate"][..], &["status"], &["verify", "--all"], &["get"]] {
        let output = firn(words);
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert!(output.stdout.is_empty());
    }
    assert!(sentence(&firn(&["status"])).starts_with("error: which archive?"));
    let key = sentence(&firn(&["publish", "/tmp", "--archive", "x"]));
    assert!(key.starts_with("error: who publishes?"), "{key}");
    let url = sentence(&firn(&["publish", "https://cache.example.org", "--archive", "x"]));
    assert!(url.contains("--paths"), "{url}");
    let url = sentence(&firn(&["compare", "https://cache.example.org", "--archive", "x"]));
    assert!(url.contains("--paths"), "{url}");
    for (words, word) in
        [(&["export", "--to", "x"][..], "--publisher"), (&["export", "--all", "--to", "s3://x"], "--to")]
    {
        let output = firn(words);
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert!(sentence(&output).contains(word), "{words:?}");
    }
}

#[test]
fn help_and_version_end_well() {
    assert!(firn(&["--version"]).status.success());
    let help = firn(&["publish", "--help"]);
    assert!(help.status.success());
    let text = String::from_utf8(help.stdout).unwrap();
    assert!(text.contains("--uploader-key <FILE>"), "{text}");
}

#[test]
fn a_missing_or_malformed_descriptor_ends_in_a_sentence() {
    let place = tempfile::tempdir().unwrap();
    let missing = place.path().join("none");
    let output = firn(&["status", "--archive", missing.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(sentence(&output).starts_with("error: cannot read the archive descriptor"));
    assert!(sentence(&output).contains("/archive of its HTTP port"), "where to have it from");
    let whole = std::fs::read_to_string(descriptor(place.path())).unwrap();
    let torn = &whole[..whole.len() / 2];
    let wrong = place.path().join("wrong");
    for (text, what) in [("hello", "not an archive descriptor"), (torn, "fetch it again")] {
        std::fs::write(&wrong, text).unwrap();
        for words in [&["status"][..], &["gateway", "--listen", "127.0.0.1:0"]] {
            let output = firn(&[words, &["--archive", wrong.to_str().unwrap()]].concat());
            assert_eq!(output.status.code(), Some(1));
            let sentence = sentence(&output);
            assert!(sentence.contains(what) && sentence.contains(wrong.to_str().unwrap()), "{sentence}");
        }
    }
}

#[test]
fn a_directory_that_is_no_cache_is_not_compared_as_if_nothing_were_missing() {
    let place = tempfile::tempdir().unwrap();
    let archive = descriptor(place.path());
    let output = firn(&["compare", place.path().to_str().unwrap(), "--archive", &archive]);
    assert_eq!(output.status.code(), Some(1));
    let sentence = sentence(&output);
    assert!(sentence.starts_with("error: there is no narinfo in "), "{sentence}");
}

#[test]
fn a_state_that_is_not_reached_in_time_ends_in_a_sentence() {
    let place = tempfile::tempdir().unwrap();
    let config = place.path().join("firn.toml");
    // As firn-local writes it.
    let keys = "uploader-key = \"u\"";
    std::fs::write(&config, format!("archive = {:?}\n{keys}\n", descriptor(place.path()))).unwrap();
    let config = config.to_str().unwrap();
    let output = firn(&["status", "--until", "full", "--timeout", "1s", "--config", config]);
    assert_eq!(output.status.code(), Some(1));
    assert!(sentence(&output).starts_with("error: not reached within 1 s"), "{}", sentence(&output));
}

#[test]
fn a_port_in_use_ends_in_a_sentence() {
    let place = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let listen = address.to_string();
    let output = firn(&["gateway", "--archive", &descriptor(place.path()), "--listen", &listen]);
    assert_eq!(output.status.code(), Some(1));
    let error = sentence(&output);
    assert!(error.contains(&address.port().to_string()) && error.contains("in use"), "{error}");
    // Set aside for examples: nobody has it.
    let output = firn(&["gateway", "--archive", &descriptor(place.path()), "--listen", "192.0.2.1:8080"]);
    assert_eq!(output.status.code(), Some(1));
    let error = sentence(&output);
    assert!(error.contains("this machine has no address 192.0.2.1"), "{error}");
}

#[test]
fn a_key_is_made_once_and_shown_again() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("keys/uploader.key");
    let file = file.to_str().unwrap();
    let made = firn(&["key", "generate", file]);
    assert!(made.status.success());
    let id = String::from_utf8(made.stdout).unwrap();
    assert_eq!(id.trim().len(), 64);
    assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(String::from_utf8(firn(&["key", "show", file]).stdout).unwrap(), id);
    let json = String::from_utf8(firn(&["key", "show", file, "--json"]).stdout).unwrap();
    assert_eq!(json, format!("{{\n  \"public_id\": \"{}\"\n}}\n", id.trim()));
    let again = firn(&["key", "generate", file]);
    assert_eq!(again.status.code(), Some(1));
    assert!(sentence(&again).contains("exists already"));
}
