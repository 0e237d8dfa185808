//! The node as a service: the systemd unit, its example settings, and the NixOS module, by the programs that read them.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_firn-storage-node");

fn deployed(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(path)
}

/// Runs a tool; none if this machine lacks it.
fn run(tool: &str, arguments: &[&str]) -> Option<Output> {
    match Command::new(tool).args(arguments).output() {
        Ok(output) => Some(output),
        Err(error) => {
            println!("skipped: {tool} cannot be run: {error}");
            None
        }
    }
}

fn check(settings: &str) -> Output {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("settings.toml");
    std::fs::write(&file, settings).unwrap();
    run(PROGRAM, &["check", "--data-dir", "/srv/firn", "--config", file.to_str().unwrap()]).unwrap()
}

/// The system that the module makes of what a user sets, as JSON.
fn evaluate(settings: &str) -> Option<Value> {
    let stub = deployed("nixos/test/stub.nix");
    let expression = format!("(import {}).node {{ {settings} }}", stub.canonicalize().unwrap().display());
    let options = ["--eval", "--strict", "--json", "--store", "dummy://", "--expr", &expression];
    let output = run("nix-instantiate", &options)?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

#[test]
fn the_systemd_unit_exposes_little_of_the_system() {
    let unit = deployed("systemd/firn-storage-node.service");
    // In tenths: 2.0 of 10 is what a service that needs no rights is below.
    let judged = run(
        "systemd-analyze",
        &["security", "--offline=true", "--threshold=20", "--no-pager", unit.to_str().unwrap()],
    );
    let Some(judged) = judged else { return };
    let text = String::from_utf8_lossy(&judged.stdout);
    assert!(judged.status.success() && text.contains("Overall exposure level"), "{text}");
    let verified = run("systemd-analyze", &["verify", unit.to_str().unwrap()]).unwrap();
    let told = String::from_utf8_lossy(&verified.stderr).into_owned();
    // The program is not installed where the tests run.
    let wrong = told.lines().find(|line| !line.contains("/usr/bin/firn-storage-node is not executable"));
    assert_eq!(wrong, None, "{told}");
}

#[test]
fn the_example_settings_are_good_and_a_wrong_key_or_value_is_refused() {
    let example = std::fs::read_to_string(deployed("systemd/storage-node.toml")).unwrap();
    let output = check(&example);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for (wrong, told) in [
        ("qouta = \"5GB\"", "`qouta`"),
        ("max-upload = \"fast\"", "--max-upload"),
        ("active-hours = \"22\"", "--active-hours"),
    ] {
        let output = check(wrong);
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).contains(told));
    }
}

#[test]
fn the_nixos_module_makes_the_service_and_checks_its_settings_when_it_is_built() {
    let Some(system) = evaluate("enable = true; settings.archive = \"https://cache.example.org/a\";") else {
        return;
    };
    let service = &system["config"]["systemd"]["services"]["firn-storage-node"];
    assert_eq!(service["environment"], serde_json::json!({ "FIRN_DATA_DIR": "/var/lib/firn-storage-node" }));
    assert_eq!(service["serviceConfig"]["StateDirectory"], "firn-storage-node");
    assert_eq!(service["unitConfig"]["RequiresMountsFor"][0], "/var/lib/firn-storage-node");
    let start = service["serviceConfig"]["ExecStart"].as_str().unwrap();
    assert!(
        start.contains("firn-storage-node check --data-dir '/var/lib/firn-storage-node' --config"),
        "{start}"
    );
    assert_eq!(system["config"]["networking"]["firewall"]["allowedUDPPorts"], serde_json::json!({}));
    let output = check(system["settings"].as_str().unwrap());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_nixos_module_hands_on_what_is_set() {
    let set = r#"
        enable = true; openFirewall = true; tokenFile = "/run/secrets/token"; dataDir = "/mnt/disk/firn";
        settings = { archive = "a.firn"; listen = "0.0.0.0:5000"; quota = "500GB"; max-upload = "20Mbit/s";
            max-download = "40Mbit/s"; monthly-traffic = "2TB"; active-hours = "22:00-07:00"; };
    "#;
    let Some(system) = evaluate(set) else { return };
    let (config, settings) = (&system["config"], system["settings"].as_str().unwrap());
    let service = &config["systemd"]["services"]["firn-storage-node"];
    assert_eq!(service["serviceConfig"]["LoadCredential"], "token:/run/secrets/token");
    assert_eq!(service["environment"]["FIRN_TOKEN_FILE"], "%d/token");
    assert_eq!(service["serviceConfig"]["ReadWritePaths"][0], "/mnt/disk/firn");
    assert_eq!(config["networking"]["firewall"]["allowedUDPPorts"][0], 5000);
    assert!(
        settings.contains("quota = \"500GB\"") && settings.contains("active-hours = \"22:00-07:00\""),
        "{settings}"
    );
    assert!(check(settings).status.success());
    assert_eq!(evaluate("enable = false;").unwrap()["config"], serde_json::json!({}));
}

#[test]
fn unit_and_module_say_the_same_of_the_service() {
    let Some(system) = evaluate("enable = true; settings.archive = \"a.firn\";") else { return };
    let unit = std::fs::read_to_string(deployed("systemd/firn-storage-node.service")).unwrap();
    let module = &system["config"]["systemd"]["services"]["firn-storage-node"]["serviceConfig"];
    let texts = |value: &Value| match value {
        Value::Bool(truth) => vec![if *truth { "yes" } else { "no" }.to_owned()],
        Value::String(text) => vec![text.clone()],
        Value::Array(values) if values.iter().any(|value| value.as_str().unwrap().starts_with('~')) => {
            values.iter().map(|value| value.as_str().unwrap().to_owned()).collect()
        }
        Value::Array(values) => {
            vec![values.iter().map(|value| value.as_str().unwrap()).collect::<Vec<_>>().join(" ")]
        }
        value => vec![value.to_string()],
    };
    let in_module: Vec<String> = module
        .as_object()
        .unwrap()
        .iter()
        .filter(|(key, _)| *key != "ExecStart")
        .flat_map(|(key, value)| texts(value).into_iter().map(move |text| format!("{key}={text}")))
        .collect();
    let section = unit.split("\n[Service]\n").nth(1).unwrap().split("[Install]").next().unwrap();
    let mut in_unit: Vec<&str> = section
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .filter(|line| !line.starts_with("ExecStart=") && !line.starts_with("Environment="))
        .collect();
    let mut in_module: Vec<&str> = in_module.iter().map(String::as_str).collect();
    in_unit.sort_unstable();
    in_module.sort_unstable();
    assert_eq!(in_unit, in_module);
}
